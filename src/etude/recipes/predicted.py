"""Where predictions go as they come: a table for people, csv, or one JSON object a line; printed, or into a file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from etude.training.predictions import Predictions

Format = Literal["table", "csv", "json"]
Row = dict[str, Any]
"""A file and what is predicted of it, or its `error`."""
_BY_SUFFIX: Final[dict[str, Format]] = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json"}
_SHOWN: Final = 3
"""Numbers of a plain output in a table."""


def format_of(form: Format | None, out: str | None, *, as_json: bool, quiet: bool) -> Format:
    """The format that is meant: the one that is named, else that of the file's name, else a table.

    Raises:
        ConfigError: rows would go where something else was promised, or the file cannot be written.
    """
    from etude.errors import ConfigError
    from etude.output import file_to_write

    if form is None:
        form = "table" if out is None else _BY_SUFFIX.get(Path(out).suffix.lower(), "table")
    if out is not None:
        file_to_write(out, "--out")
    if form != "table" and out is None and as_json:
        raise ConfigError(
            f"--format {form} prints a row for each picture, and --json one object for all of them; take one of the "
            "two, or write the rows to a file: --out FILE"
        )
    if out is None and quiet and not as_json:
        instead = " or take --json" if form == "table" else ""
        raise ConfigError(
            f"--quiet prints nothing, so the rows of --format {form} would go nowhere; name --out FILE{instead}"
        )
    return form


@contextmanager
def opened(out: str | None, *, shown: bool) -> Iterator[Callable[[Sequence[str]], None]]:
    """What takes lines: the terminal, or a file that is FILE.part until all of it is there.

    Args:
        out: the file; None prints.
        shown: whether lines are printed where there is no file.
    """
    if out is None:
        yield _printed if shown else lambda lines: None
        return
    from etude.output import file_to_write

    place = file_to_write(out, "--out")
    part = place.with_name(place.name + ".part")
    count = 0
    with part.open("w", encoding="utf-8", newline="", errors="surrogateescape") as file:

        def write(lines: Sequence[str]) -> None:
            nonlocal count
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            count += len(lines)

        try:
            yield write
        except BaseException:
            print(f"stopped: {count} lines are in {part}", file=sys.stderr, flush=True)
            raise
        os.fsync(file.fileno())
    part.replace(place)


def _printed(lines: Sequence[str]) -> None:
    for line in lines:
        # the name of a file may hold bytes that are no text
        print(line.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), flush=True)


def lines_in(form: Format, kind: Predictions, top: int | None) -> Callable[[Sequence[Row]], list[str]]:
    """From rows, batch by batch, to lines.

    Args:
        form: table, csv or json.
        kind: predictions of the model, which tell their kind.
        top: classes that are asked for.
    """
    if form == "json":
        return lambda rows: [json.dumps(row) for row in rows]
    return Csv(kind, top or 1).of if form == "csv" else Table().of


class Csv:
    """Rows as comma-separated values; the head comes with the first."""

    def __init__(self, kind: Predictions, top: int) -> None:
        from etude.training.predictions import csv_head

        self._head, self._begun = csv_head(kind, top), False

    def of(self, rows: Sequence[Row]) -> list[str]:
        """A batch of rows."""
        from etude.training.predictions import csv_cells, csv_line

        lines = [] if self._begun else [csv_line(self._head)]
        self._begun = True
        return lines + [csv_line(csv_cells(row, self._head)) for row in rows]


class Table:
    """Rows as lines of aligned columns, which widen as longer names come; what cannot be read is told elsewhere."""

    def __init__(self) -> None:
        self._widths: list[int] = []

    def of(self, rows: Sequence[Row]) -> list[str]:
        """A batch of rows."""
        from etude.output import plain

        table = [list(map(plain, [row["file"], *_cells(row)])) for row in rows if "error" not in row]
        widths = [max(map(len, column)) for column in zip_longest(*table, fillvalue="")]
        self._widths = [max(pair) for pair in zip_longest(widths, self._widths, fillvalue=0)]
        return ["  ".join(map(str.ljust, cells, self._widths)).rstrip() for cells in table]


def _cells(row: Row) -> list[str]:
    if "numbers" in row:
        alone = len(row["numbers"]) == 1
        return [f"{value:.6g}" if alone else f"{name} {value:.6g}" for name, value in row["numbers"].items()]
    if "output" in row:
        values = _flat(row["output"])
        return [" ".join(f"{value:.4g}" for value in values[:_SHOWN]) + (" ..." if len(values) > _SHOWN else "")]
    if row.get("labels") == []:
        return ["no label"]
    return [f"{one['probability']:6.1%} {one['label']}" for one in row.get("labels") or row["top"]]


def _flat(values: Any) -> list[float]:
    """The numbers of nested lists in a row."""
    return [one for part in values for one in _flat(part)] if isinstance(values, list) else [values]


@contextmanager
def counting(total: int | None, *, enabled: bool) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal; call it with how many pictures are done."""
    if not enabled or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)
