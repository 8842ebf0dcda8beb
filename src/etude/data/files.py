"""Find files, always in the same order, and read label tables."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from etude.errors import ConfigError, DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".avif"})
UNREAD_SUFFIXES = frozenset(
    {".heic", ".heif", ".jfif", ".jp2", ".jxl", ".svg", ".psd", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw"}
)
"""Pictures that are not read; whoever has some wants to hear that they were passed over."""
LEFTOVERS = frozenset({"__MACOSX"})
"""Folders that archivers leave behind; they hold no pictures and are no classes."""

_COLUMNS = {
    "name": ("name", "filename", "file_name", "image", "path", "id"),
    "label": ("label", "labels", "class", "category", "target"),
    "is_valid": ("is_valid", "valid", "split"),
}
"""The headers that are understood for each column, the preferred first."""
_SEVERAL = ("labels",)
"""The headers that say that a sample may have several labels, or none."""
SIDES: dict[str, bool | None] = {
    **dict.fromkeys(("", "0", "false", "no", "train", "training"), False),
    **dict.fromkeys(("1", "true", "yes", "valid", "val", "validation"), True),
    "test": None,
}
"""What a table may say of a sample's side: True for validation, None for a test sample."""
_DELIMITERS = (",", ";", "\t")


class LabelRow(NamedTuple):
    """A line of a label table."""

    name: str
    label: str
    is_valid: bool | None
    """True for validation, False for training, None to leave the sample out: a test set beside a validation set."""


def find_images(folder: Path, *, include: Sequence[str] | None = None) -> list[Path]:
    """Every picture below a folder, sorted by its path; hidden files and folders are passed over.

    The operating system gives files in an order of its own; sorted, a seed means the same split on every machine.
    Links to folders are followed, but each folder is looked into once: they may lead round in a circle.

    Args:
        folder: where to look.
        include: names of folders directly in `folder`; only these are looked into. Deeper folders and pictures
            directly in `folder` are taken as always.

    Raises:
        DataError: the folder or one of `include` is missing, or there is no picture.

    Source: SPEC A14.
    """
    if isinstance(include, str):
        raise ConfigError(f"include={include!r} is one name; give a list of folder names, such as [{include!r}]")
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected a folder of pictures")
    if missing := [name for name in include or () if not (folder / name).is_dir()]:
        raise DataError(f"{folder} has no folders {missing}; include= names folders directly in it")
    if not (found := list(image_files(folder, include))):
        other = ", ".join(f"{num} {suffix or 'without suffix'}" for suffix, num in other_files(folder).most_common(5))
        raise DataError(
            f"{folder} holds no pictures; looked for {', '.join(sorted(IMAGE_SUFFIXES))}"
            + (f" and found other files ({other})" if other else "")
        )
    return sorted(found, key=lambda path: relative_name(path, folder))


def image_files(folder: Path, include: Sequence[str] | None = None) -> Iterator[Path]:
    """What `find_images` finds, in no order, and perhaps nothing."""
    return (path for path in files_below(folder, include) if path.suffix.lower() in IMAGE_SUFFIXES)


def other_files(folder: Path) -> Counter[str]:
    """How many files of each suffix `find_images` passes over, hidden ones aside; suffixes are in lower case."""
    suffixes = (path.suffix.lower() for path in files_below(folder))
    return Counter(suffix for suffix in suffixes if suffix not in IMAGE_SUFFIXES)


def files_below(folder: Path, include: Sequence[str] | None = None) -> Iterator[Path]:
    """Every file below a folder that is not hidden."""
    seen = set()
    for place, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        stat = Path(place).stat()
        if (stat.st_dev, stat.st_ino) in seen:
            # a link that leads round in a circle, or to a folder that was looked into already
            folders[:] = []
            continue
        seen.add((stat.st_dev, stat.st_ino))
        is_top = Path(place) == folder
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not (is_top and include is not None and name not in include)
        )
        yield from (Path(place, name) for name in files if not name.startswith("."))


def _refuse(error: OSError) -> NoReturn:
    """A folder that cannot be looked into would otherwise be passed over in silence."""
    raise DataError(f"{error.filename} cannot be looked into ({error.strerror}); allow it, or move it away") from error


def relative_name(path: Path, root: Path) -> str:
    """A file's path below the root, with slashes: the same on every machine.

    Raises:
        DataError: the file does not lie below the root.
    """
    # as text: pathlib's relative_to takes ten times as long, which counts for a million files
    name, base = str(path), str(root)
    if base != ".":
        base = base if base.endswith(os.sep) else base + os.sep
        if not name.startswith(base):
            raise DataError(f"{path} does not lie in {root}; move it there, or give a folder that holds all files")
        name = name[len(base) :]
    return name.replace(os.sep, "/")


# -- label tables -----------------------------------------------------------------------------------------------------


def label_table(path: Path, *, empty: bool = False, check: Callable[[str], object] | None = None) -> list[LabelRow]:
    """The rows of a table with the columns name, label and perhaps is_valid, sorted by name.

    Commas, semicolons or tabs stand between the columns, whose headers may be in any case and may also be filename,
    image, path or id (for name); class, category, target or labels (for label); valid or split (for is_valid, with
    train, valid, val or test). Test samples are left out, or validate where no others do. Several labels of one sample
    stay joined as they are. A line that comes twice counts once.

    Args:
        path: the table.
        empty: take lines without a label too: samples of several labels may have none.
        check: looks at each label, and raises `ValueError` for one that cannot be used.

    Raises:
        DataError: a column is missing, or a line cannot be used, with its number.
    """
    text = _text(path)
    delimiter, columns = _header(path, text)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    seen: dict[str, tuple[LabelRow, int]] = {}
    try:
        width = len(next(table))
        for fields in table:
            if not fields:
                continue
            where = f"{path}, line {table.line_num}"
            if len(fields) > width:
                raise DataError(
                    f"{where}: {len(fields)} columns, but the first line has {width}. "
                    f"Put a text that holds {delimiter!r} in double quotes."
                )
            row = _row(fields, columns, where, empty=empty)
            if check is not None:
                _checked(check, row, where)
            known, line = seen.setdefault(row.name, (row, table.line_num))
            if known != row:
                raise DataError(
                    f"{where}: {row.name!r} is {_told(row)} here but {_told(known)} in line {line}. Keep one of the "
                    "lines; several labels of one sample go into one line, joined by ';'."
                )
    except csv.Error as error:
        raise DataError(f"{path}, line {table.line_num}: {error}. Is a double quote missing?") from error
    rows = [row for row, _ in seen.values()]
    if not any(row.is_valid for row in rows):
        rows = [row._replace(is_valid=row.is_valid is None) for row in rows]
    return sorted(rows)


def unnamed(table: Path, rows: Sequence[LabelRow], base: Path) -> tuple[str, ...]:
    """A note on pictures in a folder that a table does not name; the rows' names are paths below the folder."""
    named = {row.name for row in rows}
    num = sum(relative_name(path, base) not in named for path in image_files(base))
    if not num:
        return ()
    pictures, verb = ("picture", "is") if num == 1 else ("pictures", "are")
    return (f"{num} {pictures} in the folder {verb} not in {table.name}, so {verb} not used",)


def says_several(path: Path) -> bool:
    """Whether the header of a table's label column is a plural: a sample may have several labels, or none."""
    text = _text(path)
    delimiter, columns = _header(path, text)
    header = next(csv.reader(text.splitlines()[:1], delimiter=delimiter))[columns["label"]]
    return header.strip().lower() in _SEVERAL


def has_label_columns(path: Path) -> bool:
    """Whether a file looks like a label table: its first line has a name and a label column."""
    try:
        _header(path, _text(path))
    except (DataError, OSError):
        return False
    return True


def _text(path: Path) -> str:
    """A file's text; spreadsheets put a byte order mark in front."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte {error.start} (0x{data[error.start]:02x}) is not UTF-8; save the table as UTF-8"
        ) from error


def _header(path: Path, text: str) -> tuple[str, dict[str, int]]:
    """What stands between the columns, and the position of each column that was found."""
    first = text.splitlines()[:1]
    tried = []
    for delimiter in _DELIMITERS:
        names = next(csv.reader(first, delimiter=delimiter), [])
        headers = [name.strip().lower() for name in names]
        columns = {
            column: next((headers.index(known) for known in accepted if known in headers), -1)
            for column, accepted in _COLUMNS.items()
        }
        missing = [column for column in ("name", "label") if columns[column] < 0]
        if not missing:
            return delimiter, columns
        tried.append((names, missing))
    names, missing = max(tried, key=lambda one: len(one[0]))
    accepted = "; ".join(f"{column} may also be {', '.join(_COLUMNS[column][1:])}" for column in missing)
    raise DataError(f"{path} lacks the column {missing}; it has {names} ({accepted})")


def _checked(check: Callable[[str], object], row: LabelRow, where: str) -> None:
    try:
        check(row.label)
    except ValueError as error:
        raise DataError(f"{where}: the label of {row.name!r}: {error}") from error


def _row(fields: Sequence[str], columns: dict[str, int], where: str, *, empty: bool) -> LabelRow:
    """One line of the table; short lines are padded with nothing."""
    name, label, side = (
        fields[position] if 0 <= position < len(fields) else "" for position in (columns[column] for column in _COLUMNS)
    )
    if not name.strip() or not (label.strip() or empty):
        raise DataError(f"{where}: name or label is empty" + ("" if not name.strip() else _NO_LABEL))
    if side.strip().lower() not in SIDES:
        known = ", ".join(known for known in SIDES if known)
        raise DataError(f"{where}: {side!r} does not say whether {name!r} is for validation; expected one of {known}")
    return LabelRow(name.strip(), label.strip(), SIDES[side.strip().lower()])


_NO_LABEL = (
    "; where samples may have several labels, some may have none: call the column 'labels' and join several by ';', "
    "or say several=True (--several)"
)


def _told(row: LabelRow) -> str:
    side = "the test" if row.is_valid is None else "validation" if row.is_valid else "training"
    return f"{row.label!r} for {side}"
