"""The same training with several seeds: what differs between them is what chance does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from etude.runs.statistics import deviation, mean, spread
from etude.runs.statistics import number as number

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


def _json(value: float) -> Json:
    return value if math.isfinite(value) else None
