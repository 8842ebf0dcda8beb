"""Write scheduled hyper-parameters before every step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

from torch.optim import Optimizer
from typing_extensions import override

from etude.errors import ConfigError
from etude.optim import LAYER_GROUP, has_hyper, set_hyper
from etude.schedules import Cycle, Rate, Schedule, Schedules, check_rates, one_cycle
from etude.training.callback import Callback
from etude.types import Json

if TYPE_CHECKING:
    from etude.training.learner import Learner

Momentum: TypeAlias = float | tuple[float, float] | Literal["auto"] | None
"""What a schedule takes; "auto" is its default where the optimizer has momentum, and none elsewhere."""

_POINTS: Final = 1000


def schedules_of(optimizer: Optimizer, lr: Rate | None, schedule: Cycle | Schedules, momentum: Momentum) -> Schedules:
    """The schedules of a fit, from what `Learner.fit` is given; empty for a fit that keeps the optimizer's own values.

    Raises:
        ConfigError: a setting would have no effect, or the rate is no rate.
    """
    if isinstance(schedule, Mapping):
        if lr is not None:
            raise ConfigError("lr has no effect beside a dict of schedules; put it into the dict")
        return schedule
    if lr is None:
        if momentum != "auto" or schedule is not one_cycle:
            raise ConfigError("a schedule or momentum without lr has no effect; pass lr=")
        return {}
    check_rates(lr)
    if momentum == "auto":
        return schedule(lr) if has_hyper(optimizer, "momentum") else schedule(lr, None)
    return schedule(lr, momentum)


@final
class Scheduler(Callback):
    """Set hyper-parameters from schedules of the position in the fit.

    `fit(lr=..., schedule=...)` makes one. The first step is at position 0; the position follows attempted steps.

    Args:
        schedules: hyper-parameter name to its schedule, or to one schedule per layer group. `momentum` means SGD's
            momentum or Adam's first beta.

    Source: SPEC A12.
    """

    def __init__(self, schedules: Schedules) -> None:
        self._schedules: dict[str, list[Schedule]] = {
            name: list(given) if isinstance(given, Sequence) else [given] for name, given in schedules.items()
        }

    @override
    def before_fit(self, learner: Learner) -> None:
        """Refuse what could not take effect.

        Raises:
            ConfigError: the optimizer does not read a name, or a list's length is not the number of layer groups.
        """
        assert learner.optimizer is not None
        count = 1 + max(group.get(LAYER_GROUP, 0) for group in learner.optimizer.param_groups)
        for name, given in self._schedules.items():
            if not has_hyper(learner.optimizer, name):
                raise ConfigError(f"{type(learner.optimizer).__name__} has no {name!r} to schedule")
            if len(given) not in (1, count):
                raise ConfigError(
                    f"{len(given)} schedules of {name} for {count} layer groups; give one, or one for each group"
                )

    @override
    def before_step(self, learner: Learner) -> None:
        """Set this step's values."""
        assert learner.optimizer is not None
        position = learner.progress.fraction
        for name, schedules in self._schedules.items():
            set_hyper(learner.optimizer, name, [schedule(position) for schedule in schedules])

    @override
    def config(self) -> dict[str, Json]:
        """Each schedule's values at the start, at three points on the way and at the end, and a hash of a thousand."""
        return {name: list(told) for name, told in self._told.items()}

    @cached_property
    def _told(self) -> dict[str, list[str]]:
        return {name: [_told(schedule) for schedule in schedules] for name, schedules in self._schedules.items()}


def _told(schedule: Schedule) -> str:
    values = [f"{schedule(i / _POINTS):.9g}" for i in range(_POINTS + 1)]
    digest = hashlib.blake2b(" ".join(values).encode(), digest_size=4).hexdigest()
    return " ".join([*(f"{float(value):.4g}" for value in values[:: _POINTS // 4]), f"({digest})"])
