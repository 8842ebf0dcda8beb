"""What a model says of items: labels with their probabilities, or numbers."""

from __future__ import annotations

import csv
import html
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, overload

import torch
from torch import Tensor
from typing_extensions import override

from etude.data.vocab import Vocab
from etude.errors import ConfigError
from etude.output import file_to_write
from etude.training.durable import write_text
from etude.types import Json

THRESHOLD: Final = 0.5
"""The probability from which one of several labels is said to be there."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of one item."""

    label: str
    """The most likely class; empty when the data has no classes."""
    probability: float
    """Of that class, in [0, 1]; NaN when the loss defines no probabilities."""
    output: Tensor
    """Every class's probability, or the model's plain output."""
    labels: tuple[str, ...] | None = None
    """Where an item may have several labels: those more likely there than not, the likeliest first."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Where numbers are predicted: each by its name, in the units of the targets."""

    @override
    def __repr__(self) -> str:
        if self.numbers:
            return f"Prediction({', '.join(f'{name}={value:.6g}' for name, value in self.numbers.items())})"
        if self.labels is not None:
            return f"Prediction(labels={self.labels})"
        return (
            f"Prediction(label={self.label!r}, probability={self.probability:.4f})"
            if self.label
            else f"Prediction({self.output})"
        )

    def _repr_html_(self) -> str:
        """Label and probability in a notebook."""
        if self.numbers or self.labels is not None:
            return f"<b>{html.escape(self._said())}</b>"
        return f"<b>{html.escape(self.label)}</b> {self.probability:.1%}" if self.label else f"<pre>{self.output}</pre>"

    def _said(self) -> str:
        if self.numbers:
            return ", ".join(f"{name} {value:.6g}" for name, value in self.numbers.items())
        return self.label if self.labels is None else ", ".join(self.labels) or "no label"


@dataclass(frozen=True)
class Predictions(Sequence[Prediction]):
    """What the model says of many items, in the order in which they came."""

    output: Tensor
    """Probabilities (items, classes), or the model's plain output."""
    targets: Tensor | None
    """The true classes, labels or numbers, where they are known."""
    vocab: Vocab | None
    probable: bool
    """Whether `output` holds probabilities."""
    several: bool = False
    """Whether an item may have several labels, or none."""
    numbers: tuple[str, ...] = ()
    """What the outputs are called where numbers are predicted."""
    names: tuple[str, ...] | None = None
    """The items' files, where they came from files."""

    @overload
    def __getitem__(self, i: int) -> Prediction: ...
    @overload
    def __getitem__(self, i: slice) -> Predictions: ...
    @override
    def __getitem__(self, i: int | slice) -> Prediction | Predictions:
        if isinstance(i, slice):
            # a tensor knows no backward steps
            rows = torch.arange(len(self))[list(range(len(self))[i])]
            return replace(
                self,
                output=self.output[rows],
                targets=None if self.targets is None else self.targets[rows.to(self.targets.device)],
                names=None if self.names is None else self.names[i],
            )
        row = self.output[i]
        if self.numbers:
            return Prediction("", float("nan"), row, numbers=dict(zip(self.numbers, _plain(row), strict=True)))
        if not self.probable or row.ndim != 1:
            return Prediction("", float("nan"), row)
        best = self._ranked(row, len(row))
        labels = tuple(name for name, value in best if value > THRESHOLD) if self.several else None
        return Prediction(*best[0], row, labels)

    def _ranked(self, row: Tensor, top: int) -> list[tuple[str, float]]:
        """The `top` likeliest classes of an item with their probabilities."""
        if len(row) == 1 and not self.several:
            # one output is the probability of the second of two classes
            row = torch.cat([1 - row, row])
        values, numbers = row.topk(min(top, len(row)))
        names = [self.vocab[number] if self.vocab else str(number) for number in numbers.tolist()]
        return list(zip(names, values.tolist(), strict=True))

    def to_rows(self, top: int | None = None, threshold: float = THRESHOLD) -> list[dict[str, Json]]:
        """Each item as it is written to JSON, with its file first where it is known.

        One label each: `label` and `probability` of the likeliest class, and `top`, a list of the `top` likeliest.
        Several labels: `labels`, those of at least `threshold`, or with `top` the likeliest ones. Numbers: `numbers` by
        their names. Any other output: `output`, its numbers.

        Args:
            top: how many classes; None is the likeliest one, or those above the threshold.
            threshold: the probability from which one of several labels is taken.
        """
        rows = [self._row(row, top, threshold) for row in self.output]
        if self.names is None:
            return rows
        return [{"file": name, **row} for name, row in zip(self.names, rows, strict=True)]

    def _row(self, row: Tensor, top: int | None, threshold: float) -> dict[str, Json]:
        if self.numbers:
            return {"numbers": dict(zip(self.numbers, _plain(row), strict=True))}
        if not self.probable or row.ndim != 1:
            return {"output": row.tolist()}
        best = self._ranked(row, len(row) if self.several and top is None else top or 1)
        told: list[Json] = [
            {"label": name, "probability": round(value, 6)}
            for name, value in best
            if not self.several or top is not None or value >= threshold
        ]
        if self.several:
            return {"labels": told}
        return {"label": best[0][0], "probability": round(best[0][1], 6), "top": told}

    def to_csv(self, path: str | os.PathLike[str], top: int | None = None, threshold: float = THRESHOLD) -> None:
        """Write a table with a line for each item; the file appears whole or not at all. See `to_rows`.

        Raises:
            ConfigError: `path` is a device, a pipe or a folder, or its folder does not exist.
        """
        place = file_to_write(path, "to_csv's path")
        head = csv_head(self, top or 1)
        lines = [csv_line(head), *(csv_line(csv_cells(row, head)) for row in self.to_rows(top, threshold))]
        temporary = place.with_name(place.name + ".part")
        write_text("".join(f"{line}\n" for line in lines), temporary)
        temporary.replace(place)

    @property
    def num_right(self) -> int:
        """How many have their true class as the most likely one; raises `ConfigError` where classes are not known."""
        if self.targets is None or self.targets.ndim != 1 or self.output.ndim != 2:
            raise ConfigError("there are no true classes to compare with")
        return int((self.output.argmax(1) == self.targets).sum())

    @override
    def __len__(self) -> int:
        return len(self.output)

    @override
    def __repr__(self) -> str:
        shown = ", ".join(map(repr, list(self)[:3]))
        return f"Predictions({len(self)} items: {shown}{', ...' if len(self) > 3 else ''})"

    def _repr_html_(self) -> str:
        """The first twenty as a table in a notebook."""
        plain = not self.numbers and not self.several
        rows = "".join(
            f"<tr><td>{html.escape(self.names[i]) if self.names else i}</td><td>{html.escape(p._said())}</td>"
            + (f"<td>{p.probability:.1%}</td></tr>" if plain else "</tr>")
            for i, p in zip(range(20), self, strict=False)
        )
        what = "<th>label</th><th>probability</th>" if plain else "<th>prediction</th>"
        return f"<table><thead><tr><th>item</th>{what}</tr></thead><tbody>{rows}</tbody></table>"


def csv_head(predictions: Predictions, top: int) -> list[str]:
    """The columns of a table of predictions; the file comes first, and last why one cannot be read."""
    if predictions.numbers:
        columns = list(predictions.numbers)
    elif predictions.several:
        columns = ["labels", "probabilities"]
    elif predictions.probable:
        more = [f"{name}_{i}" for i in range(2, top + 1) for name in ("label", "probability")]
        columns = ["label", "probability", *more]
    else:
        columns = ["output"]
    return ["file", *columns, "error"]


def csv_cells(row: Mapping[str, Any], head: Sequence[str]) -> list[str]:
    """A row of `to_rows`, or one of a file and its error, as the cells under a head of `csv_head`."""
    cells = {"file": row.get("file", ""), "error": row.get("error", "")} | dict(row.get("numbers", {}))
    if "labels" in row:
        cells["labels"] = ";".join(one["label"] for one in row["labels"])
        cells["probabilities"] = ";".join(str(one["probability"]) for one in row["labels"])
    for i, one in enumerate(row.get("top", ()), 1):
        end = "" if i == 1 else f"_{i}"
        cells |= {f"label{end}": one["label"], f"probability{end}": one["probability"]}
    if "output" in row:
        cells["output"] = " ".join(map(str, row["output"]))
    return [str(cells.get(name, "")) for name in head]


def csv_line(cells: Sequence[str]) -> str:
    """Cells as a line of csv without its end; a line break within a cell stays there, in double quotes."""
    text, end = io.StringIO(), "\r\n"
    # what ends a line is what the module knows to quote
    csv.writer(text, lineterminator=end).writerow(cells)
    return text.getvalue().removesuffix(end)


def _plain(row: Tensor) -> list[float]:
    """Numbers without the digits that float32 does not have."""
    return [float(f"{value:.7g}") for value in row.flatten().tolist()]
