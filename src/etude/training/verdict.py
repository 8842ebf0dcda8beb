"""An interpretation in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from etude.set_metrics import R2
from etude.training.calibration import Calibration

if TYPE_CHECKING:
    from etude.training.interpret import ClassScore, Interpretation

_FEW = 3
_LEAST = 5e-4
"""A share that would be shown as 0.0 % is none below 0."""
_MOST_NUMBERS = 12
"""Of more numbers than these only the worst are told."""
_WELL = 0.02
"""An expected calibration error below this is small."""
_CHANCE = 1.5
"""So is one of at most so many times what chance alone makes."""


def verdict(interpretation: Interpretation) -> Iterator[str]:
    """The verdict, the most important sentence first."""
    if interpretation.kind == "numbers":
        yield from _of_numbers(interpretation)
        return
    yield _how_right(interpretation)
    yield from _classes(interpretation)
    if interpretation.kind == "classes":
        yield from _pairs(interpretation)
    yield _calibrated(interpretation.calibration)


def _how_right(interpretation: Interpretation) -> str:
    right, total = int(interpretation.right.sum()), len(interpretation)
    low, high = (100 * end for end in interpretation.interval)
    interval = f"{100 * right / total:.2f} % (95 % interval {low:.1f} to {high:.1f} %)"
    if interpretation.kind == "classes":
        return f"{right} of {total} right: {interval}."
    return (
        f"{100 * interpretation.accuracy:.2f} % of {interpretation.targets.numel()} yes-or-no answers are right; "
        f"all answers are for {right} of {total} samples: {interval}."
    )


def _classes(interpretation: Interpretation) -> Iterator[str]:
    seen = [score for score in interpretation.per_class if score.support]
    worst = sorted((score for score in seen if score.recall < 1), key=lambda score: score.recall)
    if worst and len(seen) > 1:
        named = ", ".join(map(_found, worst[: _FEW if len(seen) > 2 * _FEW else 1]))
        yield f"Least often found: {named}."
    unseen = [score.name for score in interpretation.per_class if not score.support]
    if unseen:
        more = ", ..." if len(unseen) > _FEW else ""
        yield f"{len(unseen)} classes have no sample here, so nothing is known of them: {', '.join(unseen[:3])}{more}."


def _found(score: ClassScore) -> str:
    return f"{score.name} ({round(score.recall * score.support)} of {score.support})"


def _pairs(interpretation: Interpretation) -> Iterator[str]:
    for pair in interpretation.most_confused(1):
        support = next(score.support for score in interpretation.per_class if score.name == pair.true)
        yield f"Most often confused: {pair.true} is taken for {pair.predicted} in {pair.num} of {support} samples."


def _calibrated(calibration: Calibration) -> str:
    before, after = calibration.before, calibration.after
    says = f"It is {100 * before.confidence:.1f} % sure on average and right in {100 * before.accuracy:.1f} %"
    error = f"expected calibration error {100 * before.ece:.1f} %, of which chance makes {100 * before.by_chance:.1f} %"
    if before.ece < max(_WELL, _CHANCE * before.by_chance):
        return f"{says}: nothing speaks against its probabilities ({error})."
    gap = before.confidence - before.accuracy
    kind = "too sure of itself" if gap > _WELL / 2 else "less sure than it could be" if gap < -_WELL / 2 else "uneven"
    cure = ""
    if after is not None and calibration.found:
        cure = (
            f" A temperature of {calibration.temperature:.2f} makes that {100 * after.ece:.1f} %, measured on halves "
            "that it was not fitted to."
        )
    return f"{says}: it is {kind} ({error}).{cure}"


def _of_numbers(interpretation: Interpretation) -> Iterator[str]:
    """Each number in its own unit; what is said of all of them has none."""
    output, targets = interpretation.output.flatten(1), interpretation.targets.flatten(1)
    num = targets.shape[1]
    if num == 1:
        off, *others = _of_number(output, targets)
        yield f"{len(interpretation)} samples: {off}"
        yield from others
        return
    shares = torch.tensor([_r2(output[:, i : i + 1], targets[:, i : i + 1]) for i in range(num)])
    share = _r2(output, targets)
    scale = "1 is perfect, below 0 worse than always saying the mean"
    mean = "" if math.isnan(share) else f": the mean of their R² is {share:.3g} ({scale})"
    yield f"{len(interpretation)} samples of {num} numbers{mean}."
    # a number without an R2 comes last
    told = range(num) if num <= _MOST_NUMBERS else shares.argsort()[:_FEW].tolist()
    for i in told:
        yield f"{interpretation.number_names[i]}: {' '.join(_of_number(output[:, i : i + 1], targets[:, i : i + 1]))}"
    if len(told) < num:
        yield f"These are the {len(told)} of the least R²."


def _of_number(output: Tensor, targets: Tensor) -> Iterator[str]:
    """Of one number: how far off, how much better than saying the mean, and to which side."""
    errors = output - targets
    mean, size, root = float(errors.mean()), float(errors.abs().mean()), math.sqrt(float((errors**2).mean()))
    yield f"off by {size:.4g} on average (mean absolute error), {root:.4g} root mean square."
    share = _r2(output, targets)
    if not math.isnan(share):
        explained = _explained(share)
        yield f"{explained[0].upper()}{explained[1:]}."
    half = 1.959964 * float(errors.std()) / math.sqrt(errors.numel()) if errors.numel() > 1 else math.inf
    side = "too high" if mean > 0 else "too low"
    known = f"{side} by {abs(mean):.3g} ± {half:.2g}" if abs(mean) > half else f"not to be told from 0 (± {half:.2g})"
    yield f"On average predictions are {known}."


def _r2(output: Tensor, targets: Tensor) -> float:
    metric = R2()
    return metric.value(metric.sums(output, targets))


def _explained(share: float) -> str:
    if share <= -_LEAST:
        return f"worse than always saying the mean (R² {share:.3g})"
    return f"{100 * max(share, 0):.1f} % of the targets' variance is explained (R²)"
