"""Find, split, label: from a folder to samples, where every stage explains itself when it fails."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, final

from etude.data.files import LEFTOVERS, UNREAD_SUFFIXES, find_images, other_files, relative_name
from etude.data.items import Label, Sample, Split
from etude.data.numeric import NumberColumn, hint_of_numbers
from etude.data.vocab import Vocab
from etude.errors import DataError, EtudeError

_STRONG_IMBALANCE = 20


class Samples(NamedTuple):
    """What a `DataBlock` made of a folder."""

    train: list[Sample]
    valid: list[Sample]
    left_out: int = 0
    """How many files were found but belong to neither side."""
    notes: tuple[str, ...] = ()
    """What is odd about the data, in words; nothing here stops a training."""


@final
@dataclass(frozen=True)
class DataBlock:
    """How to make samples of a folder: which files, which side, which label.

    Each of the three is a function, made by the factories of `etude.data.items` or your own. Whatever order the files
    were found in, they are sorted before they are split.

    Args:
        find: the files below the root.
        split: for each file True (validation), False (training) or None (left out).
        label: the label, or a tuple of several labels, of one file.
        description: the layout in words.
        within: the folders that `find` looks into, if not the whole root; other files there are told of.
        numbers: labels are numbers to be predicted, not names of classes: texts such as "1.5" or "1.5;2", numbers, or
            tuples of them; as many for each sample.
        notes: what is odd about the layout, in words.

    Source: SPEC A14.
    """

    find: Callable[[Path], Sequence[Path]]
    split: Split
    label: Label
    description: str = ""
    within: tuple[Path, ...] = ()
    numbers: bool = False
    notes: tuple[str, ...] = ()

    def samples(self, root: Path) -> Samples:
        """The samples of a folder, checked.

        Raises:
            DataError: naming the stage, the file and what to do. An exception out of your own function is its cause;
                an `EtudeError` that it raises is passed on as it is.
        """
        if not root.is_dir():
            raise DataError(f"{root} is not a folder; expected a folder of samples")
        files = self._found(root)
        sides = self._sides(files, root)
        label = self._labels(root)
        train, valid = (
            [Sample(path, label(path)) for path, side in zip(files, sides, strict=True) if side is which]
            for which in (False, True)
        )
        where = f"{root}{f' ({self.description})' if self.description else ''}"
        left_out = sides.count(None)
        if not train:
            raise DataError(f"{where} gave no training samples: {_counted(valid, left_out)}. Mend split=.")
        if not self.numbers:
            _check_classes(train, where)
        if not valid:
            raise DataError(
                f"{where} gave no validation samples: {_counted(train, left_out)}. Hold out a larger share, take "
                "another seed, or mend split=."
            )
        found = Samples(train, valid, left_out)
        hint, odd = ([], []) if self.numbers else _odd(found, root, files, where)
        passed_over = _passed_over(self.within or (root,), left_out)
        return found._replace(notes=(*hint, *self.notes, *passed_over, *odd))

    def labeled(self, root: Path) -> list[Sample]:
        """Every file with its label, whatever side it is on: to measure a trained model on all of them.

        Raises:
            DataError: naming the stage, the file and what to do.
        """
        label = self._labels(root)
        samples = [Sample(path, label(path)) for path in self._found(root)]
        _check_forms(samples)
        return samples

    def _found(self, root: Path) -> list[Path]:
        try:
            found: Any = self.find(root)
        except Exception as error:
            _explain("find", str(root), "Return a list of paths.", error)
        if not isinstance(found, Sequence) or isinstance(found, str):
            raise DataError(f"the find stage gave a {type(found).__name__} for {root}; return a list of paths")
        if odd := [item for item in found if not isinstance(item, Path)]:
            raise DataError(f"the find stage gave {odd[0]!r}, a {type(odd[0]).__name__}; return pathlib.Path objects")
        if not found:
            raise DataError(f"the find stage found nothing in {root}; look at the folder, or mend find=")
        files = sorted(found, key=lambda path: relative_name(path, root))
        if twice := [path for path, num in Counter(files).items() if num > 1]:
            raise DataError(f"the find stage gave {twice[0]} more than once; return each file once")
        return files

    def _sides(self, files: Sequence[Path], root: Path) -> list[bool | None]:
        fix = "Return True (validation), False (training) or None (left out) for each file."
        try:
            sides: Any = self.split(files, root)
        except Exception as error:
            _explain("split", f"{len(files)} files from {files[0]} on", fix, error)
        if not isinstance(sides, list) or len(sides) != len(files):
            gave = f"{len(sides)} values" if isinstance(sides, list) else f"a {type(sides).__name__}"
            raise DataError(f"the split stage gave {gave} for {len(files)} files. {fix}")
        for path, side in zip(files, sides, strict=True):
            if side is not None and not isinstance(side, bool):
                raise DataError(f"the split stage gave {side!r}, a {type(side).__name__}, for {path}. {fix}")
        return sides

    def _labels(self, root: Path) -> Callable[[Path], str | tuple[str, ...]]:
        """The label stage: the label of a file, checked."""
        check = NumberColumn() if self.numbers else None
        return lambda path: self._label_of(path, root, check)

    def _label_of(self, path: Path, root: Path, check: NumberColumn | None) -> str | tuple[str, ...]:
        fix = "Return a text, or a tuple of texts, or leave the file out of the split."
        try:
            label: Any = self.label(path, root)
        except Exception as error:
            _explain("label", str(path), fix, error)
        if check is not None:
            try:
                return check(label)
            except ValueError as error:
                raise DataError(f"the label of {path}: {error}. Mend it, or leave the file out.") from error
        texts = label if isinstance(label, tuple) else (label,)
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise DataError(f"the label stage gave {label!r}, a {type(label).__name__}, for {path}. {fix}")
        return label  # type: ignore[no-any-return]  # just checked


def _odd(found: Samples, root: Path, files: Sequence[Path], where: str) -> tuple[list[str], list[str]]:
    """What is odd about samples with classes, in words, and before it whether they look like numbers.

    Raises:
        DataError: they cannot be trained.
    """
    both = [*found.train, *found.valid]
    hint = hint_of_numbers(sample.label for sample in both)
    empty = empty_classes(root, files) if _folder_tells_label(both) else []
    try:
        odd = check_samples(found, empty=empty, where=where)
    except DataError as error:
        raise DataError(f"{hint}. Taken as classes: {error}") if hint else error from error
    return [hint] if hint else [], odd


def _explain(stage: str, sample: str, fix: str, error: Exception) -> NoReturn:
    """Raise what a stage ran into, with the stage, the sample and what to do."""
    if isinstance(error, EtudeError):
        raise error
    raise DataError(f"the {stage} stage failed at {sample}: {type(error).__name__}: {error}. {fix}") from error


def _counted(samples: Sequence[Sample], left_out: int) -> str:
    """Where the files went, when one side got none."""
    return f"all {len(samples)} went to the other side and {left_out} were left out"


# -- checks -----------------------------------------------------------------------------------------------------------


def check_samples(samples: Samples, *, empty: Sequence[str] = (), where: str = "the training data") -> list[str]:
    """What is odd about samples, in words.

    Args:
        samples: of both sides.
        empty: class folders without a sample, as `empty_classes` finds them.
        where: what the samples came from, for messages.

    Raises:
        DataError: there is one class only, or validation has a class that training lacks.
    """
    _check_forms([*samples.train, *samples.valid])
    _check_classes(samples.train, where)
    train, valid = (_counts(side) for side in (samples.train, samples.valid))
    vocab = Vocab.of(train)
    for path, label in samples.valid:
        for name in _labels(label):
            vocab.number(name, source=str(path))
    notes = []
    if empty:
        notes.append(f"the class folders {_few(empty)} hold no samples (links to folders are not followed)")
    if single := [name for name in vocab if train[name] == 1]:
        notes.append(f"the classes {_few(single)} have one training sample; little can be learned from one")
    (most, largest), (least, smallest) = train.most_common()[0], train.most_common()[-1]
    if largest > _STRONG_IMBALANCE * smallest:
        notes.append(
            f"the classes are far from balanced: {largest} training samples of {most!r} but {smallest} of {least!r}; "
            "look at each class's accuracy, not only at the mean"
        )
    if samples.valid and (missing := [name for name in vocab if not valid[name]]):
        notes.append(f"the classes {_few(missing)} have no validation samples, so nothing is measured on them")
    notes += [f"the labels {_few(group)} differ only by case or blanks; are they one class?" for group in _alike(vocab)]
    return notes


def empty_classes(root: Path, files: Iterable[Path] | None = None) -> list[str]:
    """The folders without samples beside folders that hold some, by their paths below the root, sorted.

    Args:
        root: the folder of classes, or of several folders of classes.
        files: the samples; every picture below the root unless given.
    """
    holding = {path.parent for path in (find_images(root) if files is None else files)}
    above = {folder for held in holding for folder in (held, *held.parents) if folder.is_relative_to(root)}
    return sorted(
        folder.relative_to(root).as_posix()
        for parent in {held.parent for held in holding if held != root}
        for folder in parent.iterdir()
        if folder.is_dir() and folder not in above and not _is_passed_over(folder)
    )


def _is_passed_over(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name in LEFTOVERS


def _labels(label: str | tuple[str, ...]) -> tuple[str, ...]:
    return label if isinstance(label, tuple) else (label,)


def _counts(samples: Iterable[Sample]) -> Counter[str]:
    """How many samples each class has."""
    return Counter(name for sample in samples for name in _labels(sample.label))


def _check_classes(train: Sequence[Sample], where: str) -> None:
    """Refuse samples of one class."""
    classes = sorted(_counts(train))
    # with tuples, one class is still a question: has it or has it not
    if len(classes) < 2 and not (classes and isinstance(train[0].label, tuple)):
        raise DataError(
            f"{where} gave {classes} as classes; expected two or more, such as a folder of class folders. "
            "Most likely the folder above was meant."
        )


def _check_forms(samples: Iterable[Sample]) -> None:
    """Refuse samples of which some have a label and some a tuple of labels."""
    first: dict[bool, Sample] = {}
    for sample in samples:
        first.setdefault(isinstance(sample.label, tuple), sample)
    if len(first) > 1:
        raise DataError(
            f"{first[True].path} has a tuple of labels, {first[True].label}, but {first[False].path} has one label, "
            f"{first[False].label!r}; give a tuple for each sample or for none"
        )


def _folder_tells_label(samples: Iterable[Sample]) -> bool:
    """Whether each folder holds samples of one class."""
    labels = defaultdict(set)
    for path, label in samples:
        labels[path.parent].add(label)
    return len(labels) > 1 and all(len(found) == 1 for found in labels.values())


def _passed_over(folders: Sequence[Path], left_out: int) -> list[str]:
    """Notes on files that are on neither side."""
    notes = [f"{left_out} files are left out of training and validation"] if left_out else []
    others = sum(map(other_files, folders), Counter[str]())
    unread = {suffix: num for suffix, num in sorted(others.items()) if suffix in UNREAD_SUFFIXES}
    if unread:
        told = ", ".join(f"{num} {suffix}" for suffix, num in unread.items())
        notes.append(f"pictures of kinds that are not read were passed over ({told}); convert them to .jpg or .png")
    return notes


def _alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that are equal but for case and blanks."""
    groups = defaultdict(list)
    for name in names:
        groups["".join(name.split()).casefold()].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _few(names: Sequence[str]) -> str:
    """The first few names."""
    return f"{list(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
