"""What chance does: mean and spread, and whether a difference between paired runs is more than that."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etude.types import Json

_MOST_FLIPPED = 36
"""Pairs of which all sign flips are counted: two halves of 2^18."""
_TIE = 1e-9
"""Sums closer than this are the same: they differ in rounding only."""


def number(value: Json) -> float:
    """A result that was written as JSON, where NaN is null."""
    return float(value) if isinstance(value, int | float) else math.nan


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


def half_interval(differences: Sequence[float], level: float = 0.95) -> float:
    """Half the width of the confidence interval of a mean, by Student's t; NaN for a single value.

    Args:
        differences: the values.
        level: how often such an interval holds the true mean, in (0, 1).

    >>> round(half_interval([0.01, 0.02, 0.03]), 4)
    0.0248
    """
    if len(differences) < 2:
        return math.nan
    return t_quantile(len(differences) - 1, level) * deviation(differences) / math.sqrt(len(differences))


@cache
def t_quantile(freedom: int, level: float = 0.95) -> float:
    """Where Student's t with `freedom` degrees of freedom lies in absolute value with probability `level`.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4, solved by bisection.

    >>> [round(t_quantile(freedom), 3) for freedom in (1, 2, 10, 1000)]
    [12.706, 4.303, 2.228, 1.962]
    """
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / sqrt(freedom)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_share(middle, freedom) < level else (low, middle)
    return math.tan((low + high) / 2) * math.sqrt(freedom)


def _t_share(angle: float, freedom: int) -> float:
    """The probability that Student's t is, in absolute value, below tan(angle) * sqrt(freedom)."""
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for i in range(odd, freedom - 1, 2):
        total += term
        term *= (i + 1) / (i + 2) * math.cos(angle) ** 2
    return (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total


def sign_flip_p(differences: Sequence[float]) -> float:
    """The share of all 2^n ways to swap the two sides of each pair whose mean is at least as far from 0.

    Exact, two-sided, and free of any assumption but that without a difference each pair could as well be the other way
    around. NaN for no pair and for more than 36.

    Source: Fisher, The Design of Experiments (1935), section 21.

    >>> sign_flip_p([1.0, 2.0, 3.0]), sign_flip_p([1.0, 2.0, -3.0])
    (0.25, 1.0)
    """
    if not 0 < len(differences) <= _MOST_FLIPPED:
        return math.nan
    scale = max(map(abs, differences)) or 1.0
    scaled = [value / scale for value in differences]
    reached = abs(sum(scaled)) - _TIE
    half = len(scaled) // 2
    left, right = _signed_sums(scaled[:half]), sorted(_signed_sums(scaled[half:]))
    far = 0
    for value in left:
        far += len(right) - bisect_left(right, reached - value) + bisect_right(right, -reached - value)
    return min(math.ldexp(far, -len(scaled)), 1.0)


def _signed_sums(values: Sequence[float]) -> list[float]:
    sums = [0.0]
    for value in values:
        sums = [total + signed for total in sums for signed in (value, -value)]
    return sums


def t_p(differences: Sequence[float]) -> float:
    """The two-sided p-value of Student's paired t test, which takes differences to be normally distributed.

    NaN for a single value; 0 where all differ by the same amount.

    >>> round(t_p([0.01, 0.02, 0.03]), 4)
    0.0742
    """
    if len(differences) < 2:
        return math.nan
    error = deviation(differences) / math.sqrt(len(differences))
    if error == 0:
        return 0.0 if mean(differences) else 1.0
    freedom = len(differences) - 1
    return 1 - _t_share(math.atan(abs(mean(differences)) / error / math.sqrt(freedom)), freedom)


@dataclass(frozen=True)
class Paired:
    """Differences between pairs of runs that share a seed.

    Args:
        differences: second minus first, pair by pair.
        level: of the interval, in (0, 1).
    """

    differences: tuple[float, ...]
    level: float = 0.95

    @property
    def mean(self) -> float:
        """The mean difference."""
        return mean(self.differences)

    @property
    def half(self) -> float:
        """Half the width of its confidence interval; NaN for one pair."""
        return half_interval(self.differences, self.level)

    @property
    def p(self) -> float:
        """The exact sign-flip p-value."""
        return sign_flip_p(self.differences)

    @property
    def t_p(self) -> float:
        """The p-value of the paired t test."""
        return t_p(self.differences)

    @property
    def smallest_p(self) -> float:
        """What the sign flips of so many pairs give at the least."""
        return math.ldexp(1.0, 1 - len(self.differences))

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval leaves 0 out."""
        return abs(self.mean) > self.half  # false for NaN

    @property
    def evidence(self) -> str:
        """`none`, `weak` (only if differences are normally distributed), or `clear` (by the sign flips as well)."""
        if not self.excludes_zero:
            return "none"
        # so many pairs that their flips are not counted need no help of the sign flips
        return "weak" if self.p > 1 - self.level + _TIE else "clear"

    def pairs_needed(self, most: int = 1000) -> int | None:
        """About how many pairs would show this mean, were it and the spread to stay; None beyond `most`."""
        spread = deviation(self.differences)
        for count in range(len(self.differences) + 1, most + 1):
            reach = t_quantile(count - 1, self.level) * spread / math.sqrt(count)
            if abs(self.mean) > reach and 2.0 ** (1 - count) <= 1 - self.level + _TIE:
                return count
        return None
