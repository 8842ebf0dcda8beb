"""Epochs of one fit whose steps do not cost the same, as those of pictures that grow: timed one by one for a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from etude.errors import ConfigError
from etude.training.forecast import Forecast

if TYPE_CHECKING:
    from etude.data.loaders import DataLoaders
    from etude.training.callback import Callback


@dataclass(frozen=True)
class Phase:
    """Some epochs whose steps are alike."""

    first: int
    """Epoch of the fit, counted from 1."""
    last: int
    what: str
    """How they differ from the others, as "32 px"."""
    opened: Callable[[], AbstractContextManager[Any]]
    """While it is open, the training data are as in these epochs."""


@runtime_checkable
class Phased(Protocol):
    """A callback that makes some epochs of a fit cheaper than others."""

    def phases(self, data: DataLoaders, num_epochs: int) -> list[Phase]:
        """All epochs of the fit, in order."""
        ...


@dataclass(frozen=True)
class PhasePlan:
    """What a plan says of a phase."""

    first: int
    """Epoch of the fit, counted from 1."""
    last: int
    what: str
    step: float
    """Seconds of one training step."""
    epoch: float
    """Seconds of one epoch, validation included."""

    @property
    def epochs(self) -> str:
        """Which ones, in words."""
        return f"epoch {self.first}" if self.first == self.last else f"epochs {self.first}-{self.last}"


def phases_of(callbacks: Sequence[Callback], data: DataLoaders, num_epochs: int) -> list[Phase]:
    """The phases of a fit; none where all epochs cost the same.

    Raises:
        ConfigError: two callbacks have some, or the one that has cannot work on these data.
    """
    phased = [callback for callback in callbacks if isinstance(callback, Phased)]
    if len(phased) > 1:
        names = " and ".join(type(callback).__name__ for callback in phased)
        raise ConfigError(f"{names} both decide what the data of an epoch are; leave one out")
    return phased[0].phases(data, num_epochs) if phased else []


def time_phases(
    phases: Sequence[Phase], whole: Forecast, measure: Callable[[], Forecast]
) -> tuple[list[PhasePlan], Forecast]:
    """Each phase's seconds, and a forecast whose total is their sum.

    Args:
        phases: in order, or none; the last one's data are the ordinary ones.
        whole: a forecast on the ordinary data. Its other figures stay, as the dearest that a step can be.
        measure: times the steps of the data as they are.
    """
    if not phases:
        return [], whole
    found = {phases[-1].what: whole}
    for phase in phases:
        if phase.what not in found:
            with phase.opened():
                found[phase.what] = measure()
    plans = [
        PhasePlan(phase.first, phase.last, phase.what, found[phase.what].step, found[phase.what].epoch)
        for phase in phases
    ]
    total = whole.start + sum((plan.last - plan.first + 1) * plan.epoch for plan in plans)
    steps = sum(forecast.timed_steps for forecast in found.values())
    batches = sum(forecast.timed_valid_batches for forecast in found.values())
    return plans, replace(whole, total=total, timed_steps=steps, timed_valid_batches=batches)
