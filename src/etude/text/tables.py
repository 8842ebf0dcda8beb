"""Texts in the rows of a table: csv, tsv, or JSON with an object in each line."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from etude.data.build import BadFile
from etude.data.files import SIDES
from etude.errors import DataError
from etude.text.reading import open_text

SUFFIXES: Final = (".csv", ".tsv", ".jsonl", ".ndjson")
_JSON: Final = (".jsonl", ".ndjson")
_TEXT: Final = ("text", "texts", "review", "sentence", "content", "document")
_IS_VALID: Final = ("is_valid", "valid", "split")
"""The headers that are understood where none is told, the preferred first."""
_DELIMITERS: Final = (",", ";", "\t")
_LONGEST: Final = min(sys.maxsize, 2**31 - 1)
"""Characters of a field: the csv module refuses more than 131,072 unless it is told, and texts are long."""
_FEW: Final = 10


class Row(NamedTuple):
    """A text of a table."""

    text: str
    label: str
    """Empty where no column of labels was asked for."""
    is_valid: bool | None
    """True for validation, False for training, None to leave it out."""


class Columns(NamedTuple):
    """The columns of a table that are read."""

    text: str
    label: str | None
    is_valid: str | None


def is_table(path: Path) -> bool:
    """Whether a file's name says that it is a table."""
    return path.suffix.lower() in SUFFIXES


def columns_of(path: Path, *, text: str | None = None, label: str | None = None) -> Columns:
    """The columns that hold texts, labels and sides.

    Args:
        path: the table.
        text: the column of the texts; None takes the first of text, texts, review, sentence, content, document.
        label: the column of the labels; None reads none.

    Raises:
        DataError: a column is not there; the message names those that are.
    """
    names = _names(path)
    lower = {name.lower(): name for name in reversed(names)}

    def there(asked: str | None, known: Sequence[str]) -> str | None:
        if asked in names:
            return asked
        return next((lower[name.lower()] for name in ([asked] if asked else known) if name.lower() in lower), None)

    columns = Columns(there(text, _TEXT) or "", there(label, ()), None)
    has = f"it has {names[:_FEW]}{' and more' if len(names) > _FEW else ''}"
    if not columns.text:
        wanted = f"the column {text!r}" if text else f"a column of texts (one of {', '.join(_TEXT)})"
        raise DataError(f"{path} lacks {wanted}; {has}. Name the one that holds the texts: text_column=")
    if label is not None and columns.label is None:
        raise DataError(f"{path} lacks the column {label!r}; {has}. Name the one that holds the labels: labels=")
    # a column that was asked for says what it was asked for, whatever it is called
    others = [name for name in _IS_VALID if lower.get(name) not in (columns.text, columns.label)]
    columns = columns._replace(is_valid=there(None, others))
    if repeated := next((name for name in columns if name and names.count(name) > 1), None):
        raise DataError(f"{path} has {names.count(repeated)} columns called {repeated!r}; call all but one otherwise")
    return columns


def rows_of(path: Path, columns: Columns) -> Iterator[Row]:
    """The rows of a table, one at a time.

    Raises:
        DataError: naming the line that cannot be used.
    """
    for where, row in _json_rows(path) if path.suffix.lower() in _JSON else _csv_rows(path):
        text = row.get(columns.text)
        if not isinstance(text, str):
            raise DataError(f"{where}: {columns.text!r} is {_short(text)}; expected a text")
        label = "" if columns.label is None else label_of(row.get(columns.label))
        if columns.label is not None and not label:
            raise DataError(f"{where}: there is no label in {columns.label!r}; add one, or leave the text out")
        side = "" if columns.is_valid is None else label_of(row.get(columns.is_valid)).lower()
        if side not in SIDES:
            known = ", ".join(known for known in SIDES if known)
            raise DataError(
                f"{where}: {side!r} in {columns.is_valid!r} does not say whether the text is for validation; expected "
                f"one of {known}"
            )
        yield Row(text, label, SIDES[side])


def label_of(value: Any) -> str:
    """A value as the name of a class: 1 and "1" are the same one."""
    return "" if value is None or isinstance(value, dict | list) else str(value).strip()


def _short(value: Any) -> str:
    return "missing" if value is None else f"{value!r:.40}, a {type(value).__name__}"


def _names(path: Path) -> list[str]:
    """The names of a table's columns."""
    if path.suffix.lower() in _JSON:
        # a name that few rows have, such as is_valid, may come late
        return list(dict.fromkeys(name for _, row in _json_rows(path) for name in row))
    return _header(path)[1]


# -- csv --------------------------------------------------------------------------------------------------------------


@contextmanager
def _lines(path: Path) -> Iterator[Iterator[str]]:
    """The lines of a table, without NULs, which the csv module of Python 3.10 refused and no text needs."""
    try:
        with open_text(path) as file:
            yield (line.replace("\0", "") for line in file)
    except BadFile as bad:
        raise DataError(f"{path} {bad}") from bad


def _header(path: Path) -> tuple[str, list[str]]:
    """What stands between the columns, and their names: the cut into most of them."""
    with _lines(path) as lines:
        first = next((line for line in lines if line.strip("\r\n")), "")
    cuts = [(sign, next(csv.reader([first], delimiter=sign), [])) for sign in _DELIMITERS]
    sign, names = max(cuts, key=lambda cut: len(cut[1]))
    return sign, [name.strip() for name in names]


@contextmanager
def _any_length() -> Iterator[None]:
    """Fields of any length: the limit is one for the whole process, so it is put back."""
    before = csv.field_size_limit(_LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each row, with its place in words."""
    delimiter, names = _header(path)
    with _lines(path) as lines, _any_length():
        table = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            filled = (fields for fields in table if fields)
            next(filled, None)
            for fields in filled:
                where = f"{path}, line {table.line_num}"
                if len(fields) != len(names):
                    raise DataError(
                        f"{where}: {len(fields)} columns, but the first line has {len(names)} ({names[:_FEW]}). Put a "
                        f"text that holds {delimiter!r} in double quotes."
                    )
                yield where, dict(zip(names, fields, strict=True))
        except csv.Error as error:
            raise DataError(f"{path}, line {table.line_num}: {error}. Is a double quote missing?") from error


# -- JSON -------------------------------------------------------------------------------------------------------------


def _json_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each line's object, with its place in words."""
    with _lines(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: {error}; expected a JSON object, such as {{'text': ...}}") from error
            if not isinstance(found, dict):
                raise DataError(f"{where}: a {type(found).__name__}; expected a JSON object, such as {{'text': ...}}")
            yield where, found
