"""Schedules: pure functions from a position in [0, 1] to a value, and the cycles built from them.

A *schedule* maps the position in the current fit to one value. A *cycle* such as `one_cycle` maps the
learning rate and momentum that the user named to the schedules of a whole fit; `Learner.fit` takes one.

Source: SPEC A12, X12, X13; Smith 2018, "A disciplined approach to neural network hyper-parameters".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from etude.errors import ConfigError

Schedule: TypeAlias = Callable[[float], float]
Schedules: TypeAlias = Mapping[str, Schedule | Sequence[Schedule]]
"""Hyper-parameter name to its schedule; a list holds one schedule per layer group."""
Rate: TypeAlias = float | Sequence[float]


@runtime_checkable
class Cycle(Protocol):
    """From the peak learning rate (one, or one per layer group) and the momentum to a fit's schedules."""

    def __call__(self, lr: Rate, momentum: float | tuple[float, float] | None = ...) -> Schedules:
        """The schedules of one fit; `momentum` None leaves the optimizer's own momentum alone."""
        ...


def constant(value: float) -> Schedule:
    """The same value at every position."""
    return lambda position: value


def linear(start: float, end: float) -> Schedule:
    """A straight line from `start` to `end`."""
    return lambda position: start + _clamp(position) * (end - start)


def cosine(start: float, end: float) -> Schedule:
    """Half a cosine from `start` to `end`, flat at both ends.

    >>> [round(cosine(1.0, 0.0)(x), 3) for x in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.854, 0.5, 0.0]
    """
    return lambda position: start + (1 + math.cos(math.pi * (1 - _clamp(position)))) * (end - start) / 2


def exponential(start: float, end: float) -> Schedule:
    """A geometric path from `start` to `end`; both must be positive."""
    if start <= 0 or end <= 0:
        raise ConfigError(
            f"an exponential schedule needs positive ends, got {start} and {end}; use `linear` or `cosine`"
        )
    return lambda position: float(start * (end / start) ** _clamp(position))


def phases(*fractions: float) -> list[float]:
    """The given fractions and what is left of 1.

    >>> phases(0.3), phases(0.3, 0.2)
    ([0.3, 0.7], [0.3, 0.2, 0.5])
    """
    rest = 1 - math.fsum(fractions)
    if any(fraction < 0 for fraction in fractions) or rest < -1e-9:
        raise ConfigError(f"phases must be positive and sum to at most 1, got {list(fractions)}")
    return [*fractions, round(max(rest, 0.0), 12)]


def combine(fractions: Sequence[float], schedules: Sequence[Schedule]) -> Schedule:
    """One schedule after the other, each over its fraction of the way.

    Raises:
        ConfigError: the two lists differ in length, or the fractions do not sum to 1 (within 1e-6).
    """
    if len(fractions) != len(schedules):
        raise ConfigError(f"{len(fractions)} fractions for {len(schedules)} schedules; give one fraction each")
    if min(fractions) < 0 or not math.isclose(math.fsum(fractions), 1, abs_tol=1e-6):
        raise ConfigError(
            f"fractions must be positive and sum to 1, got {list(fractions)}; `phases` fills the last one"
        )
    ends = [math.fsum(fractions[: i + 1]) for i in range(len(fractions))]

    def combined(position: float) -> float:
        position = _clamp(position)
        i = next((i for i, end in enumerate(ends) if position < end), len(ends) - 1)
        start = ends[i] - fractions[i]
        return schedules[i]((position - start) / fractions[i] if fractions[i] else 1.0)

    return combined


def one_cycle(
    lr: Rate,
    momentum: float | tuple[float, float] | None = (0.95, 0.85),
    *,
    pct_start: float = 0.3,
    div_start: float = 10.0,
    div_end: float = 1e5,
) -> Schedules:
    """Learning rate up to `lr` and down to almost nothing, momentum the other way, both on half cosines.

    Args:
        lr: the peak, or one peak per layer group.
        momentum: (at both ends, at the peak), or one constant value, or None to leave it alone.
        pct_start: the share of the fit spent going up, in [0, 1].
        div_start: the first learning rate is `lr / div_start`.
        div_end: the last one is `lr / div_end`.
    """
    parts = phases(pct_start)

    def rate(peak: float) -> Schedule:
        return combine(parts, [cosine(peak / div_start, peak), cosine(peak, peak / div_end)])

    if isinstance(momentum, Sequence):
        ends, middle = momentum
        return _schedules(rate, lr, combine(parts, [cosine(ends, middle), cosine(middle, ends)]))
    return _schedules(rate, lr, None if momentum is None else constant(momentum))


def flat_cosine(lr: Rate, momentum: float | tuple[float, float] | None = None, *, pct_start: float = 0.72) -> Schedules:
    """Flat at `lr` for `pct_start` of the fit, then half a cosine down to zero."""
    parts = phases(pct_start)
    return _schedules(
        lambda peak: combine(parts, [constant(peak), cosine(peak, 0.0)]),
        lr,
        _constant_momentum(momentum, "flat_cosine"),
    )


def flat(lr: Rate, momentum: float | tuple[float, float] | None = None) -> Schedules:
    """No schedule: the same learning rate in every step."""
    return _schedules(constant, lr, _constant_momentum(momentum, "flat"))


def check_rates(lr: Rate) -> None:
    """Refuse learning rates that are not finite numbers of at least 0."""
    for rate in lr if isinstance(lr, Sequence) and not isinstance(lr, str) else [lr]:
        if isinstance(rate, str) or not 0 <= rate < math.inf:
            raise ConfigError(f"a learning rate must be a finite number of at least 0, got {rate!r}")


def _schedules(rate: Callable[[float], Schedule], lr: Rate, momentum: Schedule | None) -> Schedules:
    rates: Schedule | list[Schedule] = [rate(peak) for peak in lr] if isinstance(lr, Sequence) else rate(lr)
    return {"lr": rates} if momentum is None else {"lr": rates, "momentum": momentum}


def _constant_momentum(momentum: float | tuple[float, float] | None, name: str) -> Schedule | None:
    if isinstance(momentum, tuple):
        raise ConfigError(
            f"{name} keeps momentum constant but got the pair {momentum}; pass one value, or use one_cycle"
        )
    return None if momentum is None else constant(momentum)


def _clamp(position: float) -> float:
    return min(max(position, 0.0), 1.0)
