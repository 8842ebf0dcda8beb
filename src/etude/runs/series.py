"""The history of a run, step by step and epoch by epoch, as `history.jsonl` tells it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from etude.runs.files import finite, mapping, parse, whole
from etude.runs.read import HISTORY


class Step(NamedTuple):
    """One batch: several may belong to one step."""

    step: int
    loss: float
    """NaN where it was not finite."""
    lr: float
    momentum: float


@dataclass(frozen=True)
class Series:
    """What a history holds.

    Args:
        steps: one for each batch.
        epochs: one row for each epoch.
        unreadable: lines that are no JSON or lack what they should hold; a last line may be half written.
    """

    steps: list[Step]
    epochs: list[dict[str, Any]]
    unreadable: int = 0

    def column(self, name: str) -> list[float]:
        """One column of the epoch table; NaN where a row lacks it."""
        return [_number(row.get(name)) for row in self.epochs]

    @property
    def columns(self) -> list[str]:
        """The names of the epoch table's columns of numbers, in order of appearance."""
        names = dict.fromkeys(name for row in self.epochs for name in row)
        return [name for name in names if name != "kind"]


def read_series(folder: Path) -> Series:
    """The history of a run's folder; empty where there is none.

    Where a run was resumed from an earlier step, the lines from that step on count as they were written last.
    """
    series = Series([], [])
    unreadable = 0
    try:
        lines = (folder / HISTORY).read_bytes().split(b"\n")
    except OSError:
        return series
    for line in filter(None, lines):
        try:
            row = mapping(parse(line))
        except ValueError:
            row = {}
        unreadable += not _add(series, row)
    return Series(series.steps, series.epochs, unreadable)


def _add(series: Series, row: dict[str, Any]) -> bool:
    """Append one line; False if it is neither a step nor an epoch."""
    steps, epochs = series.steps, series.epochs
    if row.get("kind") == "step" and (step := whole(row.get("step"))) is not None:
        if steps and step < steps[-1].step:
            while steps and steps[-1].step >= step:
                steps.pop()
        steps.append(Step(step, _number(row.get("loss")), _number(row.get("lr")), _number(row.get("momentum"))))
        return True
    if row.get("kind") == "epoch" and (epoch := whole(row.get("epoch"))) is not None:
        while epochs and epochs[-1]["epoch"] >= epoch:
            epochs.pop()
        epochs.append({**row, "epoch": epoch})
        return True
    return False


def _number(value: Any) -> float:
    found = finite(value)
    return math.nan if found is None else found


class Divergence(NamedTuple):
    """Where the losses of two runs part."""

    steps: int
    """Steps that both have."""
    step: int | None
    """The first that differs; None where none does."""
    losses: tuple[float, float] | None = None

    def words(self) -> str:
        """In a sentence."""
        if not self.steps:
            return "no step is recorded in both"
        if self.step is None or self.losses is None:
            return f"the losses of all {self.steps} steps that both have are equal to the last digit"
        first, second = self.losses
        digits = next(d for d in range(4, 18) if d == 17 or f"{first:.{d}g}" != f"{second:.{d}g}")
        return f"the losses first differ at step {self.step}: {first:.{digits}g} against {second:.{digits}g}"


def first_difference(one: Series, other: Series) -> Divergence:
    """The first step whose losses differ in any digit."""
    for a, b in zip(one.steps, other.steps, strict=False):
        if a.step != b.step or not _same(a.loss, b.loss):
            return Divergence(_common(one, other), a.step, (a.loss, b.loss))
    return Divergence(_common(one, other), None)


def _common(one: Series, other: Series) -> int:
    return len({step.step for step in one.steps} & {step.step for step in other.steps})


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))
