"""Metrics of a whole set that are no means over its samples, such as F1, made of sums over batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped


@runtime_checkable
class SetMetric(Protocol):
    """A metric that is no mean over samples, made of sums that are: exact however a set is cut into batches."""

    name: str
    """What its column is called."""

    def sums(self, preds: Any, targets: Any) -> Tensor:
        """What some samples add: of a fixed shape, on their device, without waiting for it."""
        ...

    def value(self, sums: Tensor) -> float:
        """The metric of all samples, from the sums over them; called once, on the CPU."""
        ...


def wide(values: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
    """In float64 where the device has it."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


@runtime_checkable
class MergedMetric(SetMetric, Protocol):
    """A `SetMetric` whose sums are not plainly added, since that would lose digits."""

    def merge(self, sums: Tensor, more: Tensor) -> Tensor:
        """The sums of two sets of samples as one, on their device, without waiting for it."""
        ...


@final
class BalancedAccuracy:
    """The mean over classes of the share of a class's samples that are recognized: a rare class counts as much.

    Classes without a sample are left out.
    """

    name = "balanced_accuracy"

    def sums(self, preds: Float[Tensor, "batch class"], targets: Int[Tensor, "batch"]) -> Float[Tensor, "2 class"]:
        """Right answers, and samples, of each class."""
        right = wide(preds.argmax(1) == targets)
        counts = torch.zeros(2, preds.shape[1], dtype=right.dtype, device=right.device)
        return counts.index_add_(1, targets, torch.stack([right, torch.ones_like(right)]))

    def value(self, sums: Float[Tensor, "2 class"]) -> float:
        """The mean over the classes that have samples."""
        right, samples = sums[:, sums[1] > 0]
        return float((right / samples).mean())


@final
class MacroF1:
    """The mean over classes of F1, the harmonic mean of precision and recall; of several labels too.

    One label each (class numbers) or several (0 and 1 for each class; a score above 0 says yes). A class that is
    neither there nor said is left out.
    """

    name = "macro_f1"

    def sums(self, preds: Float[Tensor, "batch class"], targets: Shaped[Tensor, "batch ..."]) -> Tensor:
        """Hits, and what was said or there of each class: (2, classes)."""
        if targets.ndim == 2:
            said, there = wide(preds > 0), wide(targets > 0.5)
            return torch.stack([(said * there).sum(0), (said + there).sum(0)])
        guesses = preds.argmax(1)
        right = wide(guesses == targets)
        counts = torch.zeros(2, preds.shape[1], dtype=right.dtype, device=right.device)
        ones = torch.ones_like(right)
        counts[0].index_add_(0, targets, right)
        counts[1].index_add_(0, targets, ones).index_add_(0, guesses, ones)
        return counts

    def value(self, sums: Float[Tensor, "2 class"]) -> float:
        """The mean over the classes that are there or were said; NaN where none is."""
        hits, both = sums[:, sums[1] > 0]
        return float((2 * hits / both).mean())


@final
class RMSE:
    """The root of the mean squared error, in the units of the targets; over several numbers the mean of theirs."""

    name = "rmse"

    def sums(self, preds: Float[Tensor, "batch number"], targets: Float[Tensor, "batch number"]) -> Tensor:
        """Squared errors and samples, (2, numbers)."""
        squares = (wide(preds) - wide(targets)).square()
        return torch.stack([squares.sum(0), torch.ones_like(squares).sum(0)])

    def value(self, sums: Float[Tensor, "2 number"]) -> float:
        """The mean over the numbers of their roots."""
        return float((sums[0] / sums[1]).sqrt().mean())


@final
class R2:
    """The share of the targets' variance that is explained: 1 for perfect, 0 for as good as saying their mean always.

    Over several numbers the mean of theirs. NaN where a number is the same in all samples. Deviations are from the mean
    and merged, so that numbers far from 0 with little between them, such as seconds since 1970, keep their digits.

    Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
    """

    name = "r2"

    def sums(self, preds: Float[Tensor, "batch number"], targets: Float[Tensor, "batch number"]) -> Tensor:
        """Squared errors, the mean of the targets, squared deviations from it, and samples: (4, numbers)."""
        there = wide(targets)
        errors = (wide(preds) - there).square().sum(0)
        count = torch.ones_like(there).sum(0)
        # from the first one, so that equal targets leave exactly nothing
        start = there[:1].sum(0)
        beyond = there - start
        mean = beyond.sum(0) / count.clamp(min=1)
        return torch.stack([errors, start + mean, (beyond - mean).square().sum(0), count])

    def merge(self, sums: Float[Tensor, "4 number"], more: Float[Tensor, "4 number"]) -> Float[Tensor, "4 number"]:
        """The same of both: means and deviations are put together by how many samples each has."""
        count = sums[3] + more[3]
        share, apart = more[3] / count.clamp(min=1), more[1] - sums[1]
        spread = sums[2] + more[2] + apart.square() * sums[3] * share
        return torch.stack([sums[0] + more[0], sums[1] + apart * share, spread, count])

    def value(self, sums: Float[Tensor, "4 number"]) -> float:
        """The mean over the numbers of their shares."""
        errors, _, spread, _ = sums
        return float((1 - errors / spread.where(spread > 0, torch.nan)).mean())


def average_precisions(
    scores: Float[Tensor, "samples class"], targets: Float[Tensor, "samples class"]
) -> Float[Tensor, "class"]:
    """For each class the area under precision over recall, as samples are taken from the highest score down.

    Of a whole set at once, since it needs the order of all scores: no metric of a `Learner`, whose batches it would
    average; `etude evaluate` shows it. Samples of equal scores are taken together, as scikit-learn does. NaN for a
    class that no sample has.
    """
    found = []
    for score, there in zip(scores.T, (targets > 0.5).T, strict=True):
        order = score.argsort(descending=True, stable=True)
        hits = there[order].double().cumsum(0)
        last = torch.cat([score[order].diff() != 0, torch.ones(1, dtype=torch.bool, device=score.device)])
        hits, taken = hits[last], torch.arange(1, len(score) + 1, device=score.device)[last]
        gained = hits.diff(prepend=hits.new_zeros(1))
        found.append((gained * hits / taken).sum() / hits[-1])
    return torch.stack(found)
