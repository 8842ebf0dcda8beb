"""Whether probabilities can be believed, and one number, the temperature, that makes them more so.

Of all answers that were given with 80 % probability, 80 % should be right. A yes-or-no answer counts as one of two
classes, so the same code serves pictures of one class and of several labels.

Source: Guo et al. 2017, "On calibration of modern neural networks".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, final

import torch
from torch import Tensor

from etude import random
from etude.errors import DataError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_COLDEST, _HOTTEST = 0.01, 100.0
"""Where the search for a temperature ends."""
_SMALLEST = 1e-38
"""A probability that is 0 in float32 may have been this large."""
_BLOCK = 1 << 22
"""Numbers that are widened to float64 at a time."""
_NEWTON_STEPS = 100
_NORMAL = 1.959964
"""95 % of a normal distribution lie within so many standard deviations."""


class Bin(NamedTuple):
    """The answers whose confidence is above `low` and at most `high`."""

    low: float
    high: float
    num: int
    """How many."""
    confidence: float
    """Mean probability of the answers; NaN where there is none."""
    accuracy: float
    """Share of them that are right; NaN where there is none."""


@final
@dataclass(frozen=True)
class Reliability:
    """How far probabilities and shares of right answers agree."""

    bins: tuple[Bin, ...]
    ece: float
    """Expected calibration error: the mean over all answers of |accuracy - confidence| of their bin."""
    nll: float
    """Mean negative log likelihood of the true answers, in nats."""

    @property
    def confidence(self) -> float:
        """Mean probability of the answers."""
        return self._mean([bin.confidence for bin in self.bins])

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self._mean([bin.accuracy for bin in self.bins])

    @property
    def by_chance(self) -> float:
        """The calibration error that so few samples show on average when every probability is just right."""
        spread = [math.sqrt(2 / math.pi * bin.confidence * (1 - bin.confidence) / max(bin.num, 1)) for bin in self.bins]
        return self._mean(spread)

    def _mean(self, values: list[float]) -> float:
        total = sum(bin.num for bin in self.bins)
        return sum(bin.num * value for bin, value in zip(self.bins, values, strict=True) if bin.num) / total


@final
@dataclass(frozen=True)
class Calibration:
    """What one temperature does for probabilities."""

    before: Reliability
    after: Reliability | None
    """Each half of the samples under the temperature of the other half, so that nothing is measured on what it was
    fitted to; None for a single sample."""
    temperature: float
    """Of all samples, for use on new ones; above 1 it takes confidence back."""
    of_halves: tuple[float, ...]
    """What `after` was measured with; how far they differ says how well the temperature is known."""

    @property
    def found(self) -> bool:
        """Whether there is a best temperature; where all answers are right, colder is always better."""
        return _COLDEST < self.temperature < _HOTTEST


def calibrate(
    probabilities: Float[Tensor, "sample class"], targets: Int[Tensor, "sample"], *, num_bins: int = 15
) -> Calibration:
    """Measure calibration, fit a temperature, and measure what it does to samples that it was not fitted to.

    Args:
        probabilities: of each class; rows sum to 1.
        targets: true classes.
        num_bins: of equal width over the confidences from 0 to 1.

    Raises:
        DataError: these are no probabilities, or no samples.
    """
    _refuse(probabilities, targets)
    before = reliability(probabilities, targets, num_bins=num_bins)
    temperature, num = fit_temperature(probabilities, targets), len(targets)
    if num < 2:
        return Calibration(before, None, temperature, ())
    first = torch.zeros(num, dtype=torch.bool)
    # drawn, since validation data often comes class by class
    first[torch.randperm(num, generator=random.generator(0, "calibration"))[: num // 2]] = True
    halves = tuple(fit_temperature(probabilities[part], targets[part]) for part in (first, ~first))
    temperatures = torch.where(first, halves[1], halves[0])
    return Calibration(before, _measure(probabilities, targets, temperatures, num_bins), temperature, halves)


def reliability(
    probabilities: Float[Tensor, "sample class"], targets: Int[Tensor, "sample"], *, num_bins: int = 15
) -> Reliability:
    """Reliability bins, the expected calibration error and the negative log likelihood.

    Args:
        probabilities: of each class; rows sum to 1.
        targets: true classes.
        num_bins: of equal width over the confidences from 0 to 1; 15 as in the paper.
    """
    _refuse(probabilities, targets)
    return _measure(probabilities, targets, torch.ones(len(targets)), num_bins)


def fit_temperature(probabilities: Float[Tensor, "sample class"], targets: Int[Tensor, "sample"]) -> float:
    """The temperature of the least negative log likelihood, from 0.01 to 100.

    The scores before the softmax equal the log probabilities up to a number per sample, which the softmax takes out
    again; so probabilities are enough. In 1/temperature the likelihood is convex: its one minimum is where the
    derivative is 0, found by Newton's steps between bounds that close in, in float64.

    >>> sure, right = torch.tensor([[0.9, 0.1]]).repeat(10, 1), torch.tensor([0] * 6 + [1] * 4)
    >>> round(fit_temperature(sure, right), 4)  # log(0.9 / 0.1) / log(0.6 / 0.4), for 60 % are right
    5.419
    """
    _refuse(probabilities, targets)

    def slope(beta: float) -> tuple[float, float]:
        return _slope(probabilities, targets, beta)

    return 1 / _root(slope, 1 / _HOTTEST, 1 / _COLDEST)


def scale(probabilities: Float[Tensor, "sample class"], temperature: float) -> Float[Tensor, "sample class"]:
    """Probabilities under a temperature: as if the scores before the softmax had been divided by it.

    >>> scale(torch.tensor([[0.9, 0.1]]), 2.0)
    tensor([[0.7500, 0.2500]])
    """
    return (log_probabilities(probabilities) / temperature).softmax(1).to(probabilities.dtype)


def log_probabilities(probabilities: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Logarithms in float64, never below log(1e-38) = -87.5, so that a probability of 0 costs much and not all.

    >>> log_probabilities(torch.tensor([1.0, 0.0]))
    tensor([  0.0000, -87.4982], dtype=torch.float64)
    """
    return probabilities.double().clamp(min=_SMALLEST).log()


def two_classes(probabilities: Float[Tensor, "..."]) -> Float[Tensor, "answer 2"]:
    """Probabilities of yes as those of no and yes."""
    yes = probabilities.double().flatten()
    return torch.stack([1 - yes, yes], dim=1)


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share, which holds for small numbers and shares near 0 and 1 as well.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    >>> [round(end, 3) for end in wilson_interval(90, 100)]
    [0.826, 0.945]
    """
    share, square = hits / total, _NORMAL**2
    center = (share + square / (2 * total)) / (1 + square / total)
    half = _NORMAL / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    return max(center - half, 0.0), min(center + half, 1.0)


def _refuse(probabilities: Tensor, targets: Tensor) -> None:
    if not len(targets):
        raise DataError("there are no samples to calibrate on")
    total = probabilities.sum(1)
    if not ((total - 1).abs() < 1e-2).all() or probabilities.min() < 0:
        raise DataError(
            "expected probabilities whose rows sum to 1, got rows that sum to "
            f"{float(total.min()):.4g} to {float(total.max()):.4g}; for scores take scores.softmax(1)"
        )


def _slope(probabilities: Tensor, targets: Tensor, beta: float) -> tuple[float, float]:
    """First and second derivative of the negative log likelihood by beta = 1 / temperature: means and variances."""
    first = second = 0.0
    rows = max(_BLOCK // probabilities.shape[1], 1)
    for part, true in zip(probabilities.split(rows), targets.split(rows), strict=True):
        scores = log_probabilities(part)
        weights = (scores * beta).softmax(1)
        mean = (weights * scores).sum(1)
        first += float((mean - scores.gather(1, true.unsqueeze(1)).squeeze(1)).sum())
        second += float((weights * (scores - mean.unsqueeze(1)) ** 2).sum())
    return first, second


def _root(slope: Callable[[float], tuple[float, float]], low: float, high: float) -> float:
    """Where an increasing function is 0, or the bound on whose other side that would be."""
    if slope(low)[0] >= 0:
        return low
    if slope(high)[0] <= 0:
        return high
    beta = 1.0
    for _ in range(_NEWTON_STEPS):
        value, rise = slope(beta)
        if value == 0:
            return beta
        low, high = (beta, high) if value < 0 else (low, beta)
        step = beta - value / rise if rise > 0 else math.nan
        # a step out of the bounds is none; the middle of two magnitudes is their geometric mean
        new = step if low < step < high else math.sqrt(low * high)
        if abs(new - beta) <= 1e-12 * beta:
            return new
        beta = new
    return beta


def _measure(probabilities: Tensor, targets: Tensor, temperatures: Tensor, num_bins: int) -> Reliability:
    """Of probabilities under a temperature for each sample."""
    confidences, rights, loss = [], [], 0.0
    rows = max(_BLOCK // probabilities.shape[1], 1)
    parts = (probabilities.split(rows), targets.split(rows), temperatures.split(rows))
    for part, true, temperature in zip(*parts, strict=True):
        logs = (log_probabilities(part) / temperature.double().unsqueeze(1)).log_softmax(1)
        loss -= float(logs.gather(1, true.unsqueeze(1)).sum())
        confidences.append(logs.max(1).values.exp())
        # of the probabilities themselves, so that no temperature changes an answer
        rights.append(part.argmax(1) == true)
    bins = _bins(torch.cat(confidences), torch.cat(rights), num_bins)
    ece = sum(bin.num * abs(bin.accuracy - bin.confidence) for bin in bins if bin.num) / len(targets)
    return Reliability(bins, ece, loss / len(targets))


def _bins(confidence: Float[Tensor, "sample"], right: Bool[Tensor, "sample"], num_bins: int) -> tuple[Bin, ...]:
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64)
    # from above the lower edge to the upper one
    place = torch.bucketize(confidence, edges[1:-1])
    counts = torch.bincount(place, minlength=num_bins)
    sums = torch.bincount(place, weights=confidence, minlength=num_bins)
    hits = torch.bincount(place, weights=right.double(), minlength=num_bins)
    # 0 / 0 is NaN: there is nothing to say of an empty bin
    rows = zip(counts.tolist(), (sums / counts).tolist(), (hits / counts).tolist(), strict=True)
    return tuple(Bin(float(edges[i]), float(edges[i + 1]), *row) for i, row in enumerate(rows))
