"""The same training with several seeds: what differs between them is what chance does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from etude.runs.statistics import deviation, mean, spread
from etude.runs.statistics import number as number

if TYPE_CHECKING:
    from pathlib import Path

    from etude.types import Json

_ACCURACY: Final = ("valid_accuracy", "valid_accuracies", "accuracy")
_METRICS: Final = {
    "valid_rmse": ("valid_rmses", "RMSE"),
    "valid_perplexity": ("valid_perplexities", "perplexity"),
}
"""What counts where it is there, its plural, and what it is called; else the accuracy does."""


def summarize(
    name: str, folder: Path, results: Sequence[dict[str, Json]], say: Callable[[str], object]
) -> dict[str, Json]:
    """Mean and spread of several runs, written into the folder that holds them.

    Of their accuracies; where they learn numbers, of their errors: "valid_rmse", "valid_rmse_sd", "valid_rmses"; of
    language models, of their perplexities.
    """
    from etude.training.saving import write_json

    known = [(metric, *words) for metric, words in _METRICS.items() if any(metric in result for result in results)]
    metric, plural, noun = known[0] if known else _ACCURACY
    is_share = metric == _ACCURACY[0]
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
    each = ", ".join(f"{value:.2%}" if is_share else f"{value:.4g}" for value in values)
    told = f"{noun} {spread(values) if is_share else f'{mean(values):.4g} ± {deviation(values):.2g}'}"
    say(f"\n{name}, {len(results)} runs: {told} ({each})")
    return summary


def _json(value: float) -> Json:
    return value if math.isfinite(value) else None
