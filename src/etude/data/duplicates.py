"""The same file on both sides of a split."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from etude.data.store import FileMark


class Duplicate(NamedTuple):
    """One file of the validation set that is a training file too, byte for byte."""

    valid: str
    train: str


def shared_files(
    train: Iterable[str], valid: Iterable[str], marks: Mapping[str, FileMark], root: Path
) -> list[Duplicate]:
    """Validation files that training sees as well, under this or another name.

    Files of one size with equal ends are read whole before they are called equal.

    Args:
        train: names relative to the root.
        valid: likewise.
        marks: what tells each file's version, by name.
        root: what names are relative to.
    """
    by_mark: dict[tuple[int, str], list[str]] = defaultdict(list)
    for name in train:
        by_mark[marks[name].size, marks[name].ends].append(name)
    found = []
    for name in valid:
        for other in by_mark.get((marks[name].size, marks[name].ends), ()):
            if _digest(root / name) == _digest(root / other):
                found.append(Duplicate(name, other))
                break
    return found


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
