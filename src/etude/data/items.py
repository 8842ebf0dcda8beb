"""What a sample is, which samples are for validation, and what a sample's label is.

A split is a function of all files and the root folder; it says of each file whether it is for validation (True), for
training (False) or left out (None). A label is a function of one file and the root folder. The factories here make
the usual ones; any function of the same form does.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from etude import random
from etude.data.files import LabelRow, relative_name
from etude.errors import ConfigError, DataError, EtudeError

VALID_NAMES = ("valid", "val", "validation", "test")
"""What folders of validation samples are called, the preferred first."""

Split: TypeAlias = Callable[[Sequence[Path], Path], list[bool | None]]
Label: TypeAlias = Callable[[Path, Path], str | tuple[str, ...]]


class Sample(NamedTuple):
    """One file and its label, or its several labels."""

    path: Path
    label: str | tuple[str, ...]


# -- splits -----------------------------------------------------------------------------------------------------------


def grandparent_split(train: str = "train", valid: str | Sequence[str] = VALID_NAMES) -> Split:
    """By the first folder below the root, as in `train/CLASS/1.jpg` beside `valid/CLASS/2.jpg`.

    Files of any other folder are left out.

    Args:
        train: the folder of training files.
        valid: the folder of validation files; of several names, the first that has files: a test set beside a
            validation set stays untouched.

    Source: SPEC A14.
    """
    names = (valid,) if isinstance(valid, str) else tuple(valid)

    def split(files: Sequence[Path], root: Path) -> list[bool | None]:
        parts = [relative_name(path, root).split("/") for path in files]
        tops = [part[0] if len(part) > 1 else "" for part in parts]
        held = next((name for name in names if name in tops), None)
        return [True if top and top == held else False if top == train else None for top in tops]

    return split


def random_split(share: float, seed: int = 42) -> Split:
    """A share for validation, drawn by a hash of (seed, name): adding a file moves no other one.

    Args:
        share: of the files, between 0 and 1; the number that is drawn differs from it by chance.
        seed: another seed draws other files.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the share of validation files must lie between 0 and 1, such as 0.2; got {share}")

    def split(files: Sequence[Path], root: Path) -> list[bool | None]:
        names = (relative_name(path, root) for path in files)
        return [random.key(seed, f"valid:{name}") / (1 << 63) < share for name in names]

    return split


def keep_every_class(split: Split, label: Label) -> Split:
    """A split that leaves each class a sample to learn from: of a class that would be held out whole, the first stays.

    Small classes are lost to a random split now and then, and what training never saw cannot be validated.
    """

    def kept(files: Sequence[Path], root: Path) -> list[bool | None]:
        sides = split(files, root)
        members = defaultdict(list)
        for i, path in enumerate(files):
            if sides[i] is not None:
                members[label(path, root)].append(i)
        for of_class in members.values():
            if len(of_class) > 1 and all(sides[i] for i in of_class):
                sides[of_class[0]] = False
        return sides

    return kept


def function_split(function: Callable[[Path], bool | None]) -> Split:
    """By a function of the path: True for validation, False for training, None to leave the file out."""

    def split(files: Sequence[Path], root: Path) -> list[bool | None]:
        sides: list[bool | None] = []
        for path in files:
            try:
                side = function(path)
            except EtudeError:
                raise
            except Exception as error:
                raise DataError(
                    f"the split function failed at {path}: {type(error).__name__}: {error}. "
                    "Mend it, or return None for files to leave out."
                ) from error
            if side is not None and not isinstance(side, bool):
                raise DataError(
                    f"the split function gave {side!r} for {path}; return True for validation, False for training or "
                    "None to leave the file out"
                )
            sides.append(side)
        return sides

    return split


def table_split(table: Sequence[LabelRow]) -> Split:
    """By the column is_valid of a label table; its test samples, and files that are not in it, are left out."""
    sides = {row.name: row.is_valid for row in table}

    def split(files: Sequence[Path], root: Path) -> list[bool | None]:
        return [sides.get(relative_name(path, root)) for path in files]

    return split


def fold_split(fold: int, num_folds: int, seed: int = 42, *, label: Label | None = None) -> Split:
    """One of several folds for cross-validation: each file is for validation in exactly one of them.

    Worth its cost only where one validation set would be too small to tell models apart; with a thousand validation
    samples, look at the spread over seeds first. Files are dealt out in hash order within each class, so every class
    is spread evenly.

    Args:
        fold: which fold is for validation, from 0.
        num_folds: at least 2; the number of models to train.
        seed: another seed deals other folds.
        label: tells the class of a file; the name of its folder unless said otherwise.

    Source: SPEC Q1.
    """
    if num_folds < 2:
        raise ConfigError(f"num_folds must be at least 2, got {num_folds}")
    if not 0 <= fold < num_folds:
        raise ConfigError(f"fold must be from 0 to {num_folds - 1} with num_folds={num_folds}, got {fold}")
    class_of = label or parent_label()

    def split(files: Sequence[Path], root: Path) -> list[bool | None]:
        if len(files) < num_folds:
            raise DataError(f"{len(files)} files cannot be dealt to {num_folds} folds; take fewer folds")
        classes = defaultdict(list)
        for path in files:
            name = relative_name(path, root)
            found = class_of(path, root)
            classes[(found,) if isinstance(found, str) else found].append((random.key(seed, f"fold:{name}"), name))
        # the next class goes on where the last one stopped: else the first folds would get all the odd files
        dealt = [name for _, members in sorted(classes.items()) for _, name in sorted(members)]
        held = set(dealt[fold::num_folds])
        return [relative_name(path, root) in held for path in files]

    return split


# -- labels -----------------------------------------------------------------------------------------------------------


def parent_label() -> Label:
    """The name of the folder that a file lies in."""

    def label(path: Path, root: Path) -> str:
        if path.parent == root:
            raise DataError(
                f"{path} lies outside any class folder; move it into a folder named after its class, or leave it out"
            )
        return path.parent.name

    return label


def top_label(splits: Sequence[str] = ("train", *VALID_NAMES)) -> Label:
    """The first folder below the root, or below one of the split folders directly in the root.

    Args:
        splits: names of folders that are no classes but hold them.
    """

    def label(path: Path, root: Path) -> str:
        folders = relative_name(path, root).split("/")[:-1]
        if len(folders) > 1 and folders[0] in splits:
            return folders[1]
        if not folders or folders[0] in splits:
            raise DataError(
                f"{path} lies outside any class folder; move it into a folder named after its class, or leave it out"
            )
        return folders[0]

    return label


def regex_label(pattern: str) -> Label:
    r"""What the one group of a pattern matches in the file name, such as `r"^(.*)_\d+\.jpg$"`.

    Write a dot of the name as `\.`: a bare one stands for any character, so `_\d+.jpg` takes `cat_1jpg.jpg` too.
    Put `(?i)` in front where suffixes come in upper case as well.

    >>> regex_label(r"^(.*)_\d+\.jpg$")(Path("images/great_pyrenees_12.jpg"), Path("images"))
    'great_pyrenees'

    Source: SPEC T2.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"the label pattern {pattern!r} is no regular expression: {error}") from error
    if compiled.groups != 1:
        raise ConfigError(
            f"the label pattern {pattern!r} has {compiled.groups} groups; put the label, and nothing else, in "
            "parentheses (others can be written as (?:...))"
        )

    def label(path: Path, root: Path) -> str:
        found = compiled.search(path.name)
        if found is None or not found.group(1):
            raise DataError(
                f"the name of {path} gives no label with the pattern {pattern!r}. Mend the pattern, rename the file, "
                "or leave it out of the split."
            )
        return found.group(1)

    return label


def function_label(function: Callable[[Path], str | tuple[str, ...]]) -> Label:
    """By a function of the path: one label, or a tuple of several."""

    def label(path: Path, root: Path) -> str | tuple[str, ...]:
        return function(path)

    return label


def table_label(table: Sequence[LabelRow], several: str | None = None) -> Label:
    """By the column label of a label table.

    Args:
        table: the rows, whose names are paths below the root.
        several: what stands between several labels of one sample, such as ";"; every sample then has a tuple of
            labels, those of one label too. None takes the text as one label.
    """
    labels = {row.name: row.label for row in table}

    def label(path: Path, root: Path) -> str | tuple[str, ...]:
        name = relative_name(path, root)
        if name not in labels:
            raise DataError(f"the label table has no line for {name}; add one, or leave the file out")
        if several is None:
            return labels[name]
        return tuple(part.strip() for part in labels[name].split(several) if part.strip())

    return label


def noisy_labels(
    samples: Sequence[Sample], share: float, names: Sequence[str], *, root: Path, seed: int = 42
) -> tuple[list[Sample], list[int]]:
    """Give a share of the samples a wrong label, to see what a technique makes of wrong labels.

    Exactly `round(share * len(samples))` samples are chosen by a hash of (seed, name), whatever their order; the wrong
    label of each is drawn uniformly from the other classes.

    Args:
        samples: the training samples; validation keeps its labels.
        share: from 0 to 1.
        names: all classes.
        root: names are taken relative to it, so that they are the same on every machine.
        seed: another seed chooses other samples.

    Returns:
        The samples in their order, and the positions of those with a wrong label.

    Source: SPEC L2.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"the share of wrong labels must be from 0 to 1, got {share}")
    classes = sorted(set(names))
    if len(classes) < 2:
        raise ConfigError(f"wrong labels need at least two classes, got {classes}")
    known, keyed = set(classes), []
    for i, (path, label) in enumerate(samples):
        if isinstance(label, tuple):
            raise ConfigError(f"wrong labels can be drawn where each sample has one label, but {path} has {label}")
        if label not in known:
            raise DataError(f"the label {label!r} of {path} is not among the {len(classes)} classes ({classes[:10]})")
        name = relative_name(path, root)
        keyed.append((random.key(seed, f"noise:{name}"), name, i))
    flipped = {i: name for _, name, i in sorted(keyed)[: round(share * len(samples))]}
    noisy = list(samples)
    for i, name in flipped.items():
        others = [other for other in classes if other != samples[i].label]
        noisy[i] = Sample(samples[i].path, others[random.key(seed, f"wrong label:{name}") % len(others)])
    return noisy, sorted(flipped)
