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
    """Mean and spread of several runs, written into the folder that holds them.

    Of their accuracies, or where they learn numbers, of their errors: "valid_rmse", "valid_rmse_sd", "valid_rmses".
    """
    from etude.training.saving import write_json

    is_error = any("valid_rmse" in result for result in results)
    metric, plural = ("valid_rmse", "valid_rmses") if is_error else ("valid_accuracy", "valid_accuracies")
    values = [number(result.get(metric)) for result in results]
    summary: dict[str, Json] = {
        "run": str(folder),
        "runs": [result["run"] for result in results],
        metric: _json(mean(values)),
        f"{metric}_sd": _json(deviation(values)),
        plural: [_json(value) for value in values],
        "train_seconds": [result["train_seconds"] for result in results],
    }
    write_json(folder / "result.json", summary)
    each = ", ".join(f"{value:.4g}" if is_error else f"{value:.2%}" for value in values)
    told = f"RMSE {mean(values):.4g} ± {deviation(values):.2g}" if is_error else f"accuracy {spread(values)}"
    say(f"\n{name}, {len(results)} runs: {told} ({each})")
    return summary


def _json(value: float) -> Json:
    return value if math.isfinite(value) else None
