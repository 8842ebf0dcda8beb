"""The same training with several seeds: what differs between them is what chance does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from etude.types import Json


def summarize(
    name: str, folder: Path, results: Sequence[dict[str, Json]], say: Callable[[str], object]
) -> dict[str, Json]:
    """Mean and spread of several runs, written into the folder that holds them."""
    from etude.training.saving import write_json

    accuracies = [number(result.get("valid_accuracy")) for result in results]
    summary: dict[str, Json] = {
        "run": str(folder),
        "runs": [result["run"] for result in results],
        "valid_accuracy": _json(mean(accuracies)),
        "valid_accuracy_sd": _json(deviation(accuracies)),
        "valid_accuracies": [_json(accuracy) for accuracy in accuracies],
        "train_seconds": [result["train_seconds"] for result in results],
    }
    write_json(folder / "result.json", summary)
    each = ", ".join(f"{accuracy:.2%}" for accuracy in accuracies)
    say(f"\n{name}, {len(results)} runs: accuracy {spread(accuracies)} ({each})")
    return summary


def number(value: Json) -> float:
    """A result that was written as JSON, where NaN is null."""
    return float(value) if isinstance(value, int | float) else math.nan


def _json(value: float) -> Json:
    return value if math.isfinite(value) else None


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample; NaN for a single value."""
    if len(values) < 2:
        return math.nan
    center = mean(values)
    return math.sqrt(sum((value - center) ** 2 for value in values) / (len(values) - 1))


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation of shares, in percent.

    >>> spread([0.80, 0.82, 0.84]), spread([0.8])
    ('82.00 % ± 2.00', '80.00 %')
    """
    tail = f" ± {100 * deviation(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f} %{tail}"
