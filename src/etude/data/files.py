"""Find files, always in the same order, and read label tables."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import NamedTuple

from etude.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


class LabelRow(NamedTuple):
    """A line of a label table."""

    name: str
    label: str
    is_valid: bool


def find_images(folder: Path) -> list[Path]:
    """Every picture below a folder, sorted by its path; hidden files and folders are passed over.

    The operating system gives files in an order of its own; sorted, a seed means the same split on every machine.

    Raises:
        DataError: the folder is missing or holds no picture.

    Source: SPEC A14.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected a folder of pictures")
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(root, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    if not found:
        raise DataError(f"{folder} holds no pictures; looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def label_table(path: Path) -> list[LabelRow]:
    """The rows of a csv with the columns name, label and perhaps is_valid, sorted by name.

    Raises:
        DataError: a column is missing or a row is incomplete, with its line number.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        if missing := [column for column in ("name", "label") if column not in (table.fieldnames or ())]:
            raise DataError(f"{path} lacks the column {missing}; it has {table.fieldnames}")
        rows = []
        for line in table:
            if not line["name"] or not line["label"]:
                raise DataError(f"{path}, line {table.line_num}: name or label is empty")
            rows.append(
                LabelRow(line["name"], line["label"], (line.get("is_valid") or "").lower() in ("1", "true", "yes"))
            )
    return sorted(rows)
