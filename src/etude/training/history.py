"""Where a fit is, and what came out of it."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass, field

from typing_extensions import override

Row = dict[str, float]


@dataclass(slots=True)
class Progress:
    """Where training is. `epoch`, `step` and `batch` count over the learner's life, the others over this fit."""

    epoch: int = 0
    step: int = 0
    """Updates attempted, skipped ones included."""
    batch: int = 0
    num_epochs: int = 0
    steps_per_epoch: int = 0
    fit_epoch: int = 0
    fit_step: int = 0
    epoch_batch: int = 0
    """Batches of this epoch that were trained on."""
    phase: int = 0
    """Which fit of a training in several phases, such as `fine_tune`, counted from 0."""

    @property
    def fraction(self) -> float:
        """How much of this fit is done, from 0 before the first step to 1 after the last."""
        total = self.num_epochs * self.steps_per_epoch
        return min(self.fit_step / total, 1.0) if total else 1.0


@dataclass
class History:
    """One row of results per epoch, and why the fit ended.

    Iterating gives the rows; `history["valid_accuracy"]` one column.
    """

    rows: list[Row] = field(default_factory=list)
    stopped: str = ""
    """Empty when the fit ran to its end; else the reason of the callback or error that ended it."""
    notes: list[str] = field(default_factory=list)
    """What happened on the way: skipped steps, epochs cut short."""

    def __getitem__(self, column: str) -> list[float]:
        """One column; a row that lacks it is left out."""
        return [row[column] for row in self.rows if column in row]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def extend(self, other: History) -> None:
        """Append another fit's rows and notes, and take over how it ended."""
        self.rows += other.rows
        self.notes += other.notes
        self.stopped = other.stopped

    @property
    def columns(self) -> list[str]:
        """Every column's name, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    @override
    def __repr__(self) -> str:
        if not self.rows:
            return f"History(no epoch finished{', ' + self.stopped if self.stopped else ''})"
        cells = [[format_cell(name, row.get(name)) for name in self.columns] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(self.columns, *cells, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in [self.columns, *cells]
        ]
        return "\n".join([*lines, *([f"stopped: {self.stopped}"] if self.stopped else [])])

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{format_cell(name, row.get(name))}</td>" for name in self.columns) + "</tr>"
            for row in self.rows
        )
        foot = f"<p>stopped: {html.escape(self.stopped)}</p>" if self.stopped else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{foot}"


def format_cell(name: str, value: float | None) -> str:
    """A number as the epoch table shows it.

    >>> format_cell("epoch", 3.0), format_cell("valid_accuracy", 0.98765), format_cell("seconds", 75.2)
    ('3', '0.9877', '1:15')
    """
    if value is None:
        return ""
    if name in ("epoch", "loss_scale", "overflows"):
        return f"{value:.10g}"
    if name == "seconds":
        return f"{value:.1f}s" if value < 60 else f"{int(value) // 60}:{int(value) % 60:02d}"
    # an error of numbers may be in units of thousands
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.6g}"
