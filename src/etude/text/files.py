"""Folders of texts, each in a file of its own: find them always in the same order, and guess how they are laid out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, final

from etude.data.build import BadFile
from etude.data.files import files_below, relative_name
from etude.data.items import VALID_NAMES, Label, parent_label, regex_label, top_label
from etude.errors import DataError
from etude.text.corpus import Corpus
from etude.text.reading import Plain, read_text

SUFFIX: Final = ".txt"
_UNLABELED: Final = ("unsup", "unsupervised", "unlabeled", "unlabelled")
"""What folders of texts without a label are called; they are no class."""


def find_texts(folder: Path) -> list[Path]:
    """Every text file below a folder, sorted by its path; hidden files and folders are passed over.

    Raises:
        DataError: the folder is missing, or holds no texts; the message says what it holds.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected a folder of texts")
    found = list(text_files(folder))
    if not found:
        raise DataError(f"{folder} holds no texts; looked for {SUFFIX}{_others(folder)}")
    return sorted(found, key=lambda path: relative_name(path, folder))


def text_files(folder: Path) -> Iterator[Path]:
    """What `find_texts` finds, in no order, and perhaps nothing."""
    return (path for path in files_below(folder) if path.suffix.lower() == SUFFIX)


def _others(folder: Path) -> str:
    """What else a folder holds, in words."""
    suffixes = Counter(path.suffix.lower() for path in files_below(folder))
    other = ", ".join(f"{num} {suffix or 'without suffix'}" for suffix, num in suffixes.most_common(5))
    return f" and found other files ({other})" if other else ""


def of_folder(base: Path, label: str | Label | None) -> Corpus:
    """The texts below a folder: all of them, or with labels those that have one.

    `train/CLASS` beside `valid/CLASS` (or val, validation, test) are the sides of a split. With labels, texts of other
    folders, and of folders called unsup or unlabeled, are left out; without, they train. So no text trains a language
    model that is held out of the classifier on it. Files beside class folders are left out: lists and notes.

    Args:
        base: the folder.
        label: "parent" (the folder that a text lies in), "top" (the first one), a regular expression for its name, or
            a function of (file, folder); None takes all texts, whatever folder they lie in.

    Raises:
        DataError: there is no text, or none with a label.
    """
    layout = _Layout(base, find_texts(base), label)
    left_out: Counter[str] = Counter(map(layout.why_not, layout.parts))
    files = [path for path, parts in zip(layout.files, layout.parts, strict=True) if not layout.why_not(parts)]
    counted = ((f"{num} texts {why} are" if num > 1 else f"1 text {why} is", why) for why, num in left_out.items())
    notes = tuple(f"{told} left out" for told, why in counted if why)
    if not files:
        raise DataError(f"{base} holds no texts in class folders: {'; '.join(notes)}. Put each into a folder named so.")
    names = tuple(relative_name(path, base) for path in files)

    def stream(wanted: Sequence[int]) -> Iterator[Plain | BadFile]:
        for i in wanted:
            try:
                yield read_text(files[i])
            except BadFile as bad:
                yield bad

    return Corpus(
        base,
        names,
        stream,
        layout.description,
        tuple(files),
        labels=None if label is None else tuple(_labels(files, base, label, layout.splits)),
        sides=layout.sides(names),
        notes=notes,
    )


@final
class _Layout:
    """How a folder of texts is laid out."""

    def __init__(self, base: Path, files: Sequence[Path], label: str | Label | None) -> None:
        self.files, self.label = files, label
        self.parts = [relative_name(path, base).split("/") for path in files]
        tops = {parts[0].lower(): parts[0] for parts in self.parts if len(parts) > 1}
        self.splits = [tops[name] for name in ("train", *VALID_NAMES) if name in tops]
        self.train, self.held = tops.get("train"), next((tops[name] for name in VALID_NAMES if name in tops), None)
        in_train = any(len(parts) > 2 and parts[0] == self.train for parts in self.parts)
        self._by_folder = label in ("parent", "top") or (label is None and in_train)

    @property
    def description(self) -> str:
        """The layout in words."""
        kind = "CLASS folders" if self.label in ("parent", "top") else "text files"
        if self.train is None:
            return kind
        if self.label is None:
            return f"{kind}, {self.held} held out" if self.held else kind
        return f"{kind} in {self.train}{f' and {self.held}' if self.held else ''}"

    def why_not(self, parts: Sequence[str]) -> str:
        """Why a file is left out, in words; empty for most."""
        if self._by_folder and len(parts) == 1 + (parts[0] in self.splits):
            return "beside the class folders"
        if self.label in ("parent", "top") and (folder := parts[-2]).lower() in _UNLABELED:
            return f"in {folder}, which have no label,"
        if self.label is not None and self.train is not None and parts[0] not in (self.train, self.held):
            return f"outside {self.train}{f' and {self.held}' if self.held else ''}"
        return ""

    def sides(self, names: Sequence[str]) -> tuple[bool | None, ...] | None:
        """True for validation, where the folders tell; None for a second folder that is held out, as test is."""
        if self.train is None or self.held is None:
            return None
        of_top = dict.fromkeys(self.splits, None) | {self.train: False, self.held: True}
        return tuple(of_top.get(name.split("/")[0], False) for name in names)


def _labels(files: Sequence[Path], base: Path, label: str | Label, splits: Sequence[str]) -> Iterator[str]:
    if isinstance(label, str):
        known = {"parent": parent_label(), "top": top_label(splits)}
        label = known[label] if label in known else regex_label(label)
    for path in files:
        found = label(path, base)
        if not isinstance(found, str) or not found.strip():
            raise DataError(f"the label of {path} is {found!r}; expected the name of one class")
        yield found
