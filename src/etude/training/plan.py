"""What a fit will do, told before it is done: nothing is trained but a few timed steps of a copy.

Every fact is read where a fit reads it: rates from the fit's own scheduler, the norms from a model in a training step,
the order of callbacks from a fit's own list.
"""

from __future__ import annotations

import copy as copying
import html
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from torch.optim import Optimizer
from typing_extensions import override

from etude.errors import ConfigError
from etude.layers import NORMS
from etude.optim import LAYER_GROUP
from etude.schedules import Cycle, Rate, Schedules, one_cycle
from etude.training.callback import Callback, describe, instances
from etude.training.callbacks.debug import Debug
from etude.training.callbacks.progress import ShowProgress
from etude.training.callbacks.scheduler import Scheduler
from etude.training.checks import check_fit
from etude.training.forecast import Forecast, Measured, measure
from etude.training.memory import Memory
from etude.training.phases import PhasePlan, phases_of, time_phases
from etude.training.plan_data import DataPlan, data_plan, name_of
from etude.training.transfer import HoldNorms
from etude.training.trial import transforms_something, trial
from etude.types import Json

if TYPE_CHECKING:
    from etude.training.callbacks.scheduler import Momentum
    from etude.training.learner import Learner

_MOST_POINTS = 5000
"""Steps of which the rates are kept; of a longer fit as many, at even distances."""
_JSON_POINTS = 200


@dataclass(frozen=True)
class GroupPlan:
    """One of the optimizer's parameter groups."""

    layer_group: int
    tensors: int
    parameters: int
    frozen: int
    """Of the parameters: they get no update and no decay."""
    lr: tuple[float, float, float]
    """At the first step, the highest, and at the last step."""
    weight_decay: tuple[float, float]
    """At the first step and at the last."""

    @property
    def trainable(self) -> int:
        """Of the parameters."""
        return self.parameters - self.frozen


@dataclass(frozen=True)
class NormPlan:
    """What one norm does in a training step."""

    name: str
    kind: str
    statistics: str
    """"move", "stand still", or "none" for a norm that keeps no running statistics."""
    affine: str
    """Scale and shift: "train", "frozen", or "none"."""


@dataclass(frozen=True)
class CallbackPlan:
    """What one callback takes part in, by the methods that its class overrides."""

    name: str
    settings: str
    """Name and settings, as a checkpoint knows the callback."""
    transforms: list[str]
    """Of "batch" and "gradients"."""
    sets: list[str]
    """Hyper-parameters that it writes before every step."""
    watches: list[str]
    """The other methods."""


@dataclass(frozen=True)
class Rates:
    """Learning rate of each layer group, and momentum, over the steps."""

    steps: list[int]
    """Counted from 0."""
    lr: list[list[float]]
    """One list for each layer group."""
    momentum: list[float]
    """Of the last layer group; SGD's momentum or Adam's first beta."""

    def thin(self, most: int) -> Rates:
        """At most so many points, the first and the last among them."""
        if len(self.steps) <= most:
            return self
        rows = [round(i * (len(self.steps) - 1) / (most - 1)) for i in range(most)]
        return Rates(
            [self.steps[i] for i in rows], [[lr[i] for i in rows] for lr in self.lr], [self.momentum[i] for i in rows]
        )


@dataclass(frozen=True)
class Plan:
    """What a fit will do. Print it; `as_json()` has all of it, `draw(path)` a picture of the rates."""

    num_epochs: int
    steps_per_epoch: int
    accumulate: int
    data: DataPlan
    model: str
    groups: list[GroupPlan]
    norms: list[NormPlan]
    callbacks: list[CallbackPlan]
    loss: str
    metrics: list[str]
    optimizer: str
    precision: str
    precision_reason: str
    average: str
    """Of the weights, which evaluation uses; empty if there is none."""
    device: str
    rates: Rates = field(repr=False)
    forecast: Forecast
    memory: Memory
    phases: list[PhasePlan] = field(default_factory=list)
    """Where epochs differ in cost: `forecast.total` is their sum, its other figures are of the last, the dearest."""

    @property
    def num_steps(self) -> int:
        """Of the whole fit."""
        return self.num_epochs * self.steps_per_epoch

    @override
    def __repr__(self) -> str:
        from etude.training.plan_text import sections

        return "\n".join(line for title, lines in sections(self) for line in _under(title, lines))

    def _repr_html_(self) -> str:
        """The same in a notebook."""
        from etude.training.plan_text import sections

        return "".join(
            f"<b>{html.escape(title)}</b><pre>{html.escape(chr(10).join(lines))}</pre>"
            for title, lines in sections(self)
        )

    def as_json(self) -> dict[str, Json]:
        """Everything as JSON; the rates at 200 steps at most."""
        thin = replace(self, rates=self.rates.thin(_JSON_POINTS))
        return {**asdict(thin), "num_steps": self.num_steps}

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draw the learning rate of each layer group, and the momentum, over the steps: a PNG."""
        from etude.training.plan_text import draw_rates

        draw_rates(self, Path(path))


def make_plan(
    learner: Learner,
    num_epochs: int,
    lr: Rate | None = None,
    *,
    schedule: Cycle | Schedules = one_cycle,
    momentum: Momentum = "auto",
    callbacks: Sequence[Callback] = (),
    timed: Sequence[Callback] = (),
) -> Plan:
    """What `learner.fit` with these arguments will do.

    Args:
        learner: is left as it is; a copy is fitted for a few steps.
        num_epochs: as in `fit`.
        lr: as in `fit`.
        schedule: as in `fit`.
        momentum: as in `fit`.
        callbacks: as in `fit`.
        timed: those of `callbacks` that only watch and are to work on the copy too, so that their time is counted. Of
            all others only those that transform something do: a watcher might write files.

    Raises:
        ConfigError: there is no training data, or `fit` would refuse the same arguments.
        NonFiniteError: a loss or gradient of the timed steps is infinite or NaN.
    """
    if learner.data.train is None:
        raise ConfigError("this learner has no training data, so there is no fit to plan; make one with data to train")
    check_fit(learner.model, learner.data.train, num_epochs)
    given = (*learner.callbacks, *instances(callbacks))
    phases = phases_of(given, learner.data, num_epochs)
    with trial(learner, callbacks=()) as copy:
        copy.callbacks = _copied([one for one in given if one in timed or _may_run(one)], learner, copy)

        def fit(epochs: int, watch: Callback) -> object:
            return copy.fit(epochs, lr, schedule=schedule, momentum=momentum, callbacks=[watch])

        def measure_again() -> Forecast:
            copy.data, copy.step = learner.data, learner.step
            return measure(copy, num_epochs, fit).forecast

        plan = _plan(learner, copy, given, num_epochs, measure(copy, num_epochs, fit))
        plans, forecast = time_phases(phases, plan.forecast, measure_again)
        return replace(plan, phases=plans, forecast=forecast)


def _plan(learner: Learner, copy: Learner, given: Sequence[Callback], num_epochs: int, measured: Measured) -> Plan:
    """What the copy's fit has shown, put together."""
    assert learner.data.train is not None
    assert copy.optimizer is not None
    assert copy.precision is not None
    steps_per_epoch = -(-len(learner.data.train) // learner.accumulate)
    schedulers = [callback for callback in measured.callbacks[:1] if isinstance(callback, Scheduler)]
    shown = [ShowProgress()] if learner.show_progress else []
    decay, rates = _rates(copy, schedulers, num_epochs, steps_per_epoch)
    return Plan(
        num_epochs=num_epochs,
        steps_per_epoch=steps_per_epoch,
        accumulate=learner.accumulate,
        data=data_plan(learner.data, measured.train_batch, measured.valid_batch),
        model=type(learner.model).__name__,
        groups=_groups(copy.optimizer, decay, rates),
        norms=_norms(copy.model, measured.training),
        callbacks=[_callback(one) for one in (*schedulers, *given, *shown)],
        loss=name_of(learner.loss_fn),
        metrics=list(learner.metrics),
        optimizer=type(copy.optimizer).__name__,
        precision=copy.precision.name,
        precision_reason=copy.precision.reason,
        average="" if learner.average is None else str(learner.average),
        device=str(learner.device),
        rates=rates,
        forecast=measured.forecast,
        memory=measured.memory,
    )


def _under(title: str, lines: list[str]) -> Iterator[str]:
    """The title in front of the first line, the others below it."""
    for i, line in enumerate(lines):
        yield f"{'' if i else title:<12}{line}".rstrip()


def _may_run(callback: Callback) -> bool:
    """Whether a callback belongs on the copy: it decides what a step does, and does nothing else."""
    return (transforms_something(callback) and not isinstance(callback, Debug)) or isinstance(callback, HoldNorms)


def _copied(callbacks: list[Callback], learner: Learner, copy: Learner) -> tuple[Callback, ...]:
    """Copies that know the copy's parts where they knew the learner's."""
    parts = zip(_parts(learner), _parts(copy), strict=True)
    try:
        return tuple(copying.deepcopy(callbacks, {id(own): other for own, other in parts}))
    except Exception as error:
        names = [type(callback).__name__ for callback in callbacks]
        raise ConfigError(f"the callbacks {names} cannot be copied to time steps with them: {error}") from error


def _parts(learner: Learner) -> Iterator[object]:
    yield learner
    yield learner.data
    for module in (learner.model, *([learner.loss_fn] if isinstance(learner.loss_fn, nn.Module) else [])):
        yield from chain(module.modules(), module.parameters(), module.buffers())


def _rates(
    copy: Learner, schedulers: list[Scheduler], num_epochs: int, steps_per_epoch: int
) -> tuple[list[tuple[float, float]], Rates]:
    """Each parameter group's weight decay at first and last, and the rates, from the scheduler's own work."""
    optimizer, progress = copy.optimizer, copy.progress
    assert optimizer is not None
    progress.num_epochs, progress.steps_per_epoch = num_epochs, steps_per_epoch
    last = num_epochs * steps_per_epoch - 1
    count = min(last + 1, _MOST_POINTS)
    steps = [round(i * last / max(count - 1, 1)) for i in range(count)]
    numbers = [group.get(LAYER_GROUP, 0) for group in optimizer.param_groups]
    by_group = [numbers.index(i) for i in sorted(set(numbers))]
    rates = Rates(steps, [[] for _ in by_group], [])
    decay: list[list[float]] = []
    for progress.fit_step in steps:
        for scheduler in schedulers:
            scheduler.before_step(copy)
        groups = optimizer.param_groups
        for values, i in zip(rates.lr, by_group, strict=True):
            values.append(float(groups[i]["lr"]))
        rates.momentum.append(float(groups[-1]["betas"][0] if "betas" in groups[-1] else groups[-1].get("momentum", 0)))
        decay = [*decay[:1], [float(group.get("weight_decay", 0.0)) for group in groups]]
    return list(zip(decay[0], decay[-1], strict=True)), rates


def _groups(optimizer: Optimizer, decay: list[tuple[float, float]], rates: Rates) -> list[GroupPlan]:
    numbers = sorted({group.get(LAYER_GROUP, 0) for group in optimizer.param_groups})
    rows = []
    for group, one in zip(optimizer.param_groups, decay, strict=True):
        lr = rates.lr[numbers.index(group.get(LAYER_GROUP, 0))]
        tensors = group["params"]
        rows.append(
            GroupPlan(
                layer_group=group.get(LAYER_GROUP, 0),
                tensors=len(tensors),
                parameters=sum(tensor.numel() for tensor in tensors),
                frozen=sum(tensor.numel() for tensor in tensors if not tensor.requires_grad),
                lr=(lr[0], max(lr), lr[-1]),
                weight_decay=one,
            )
        )
    return rows


def _norms(model: nn.Module, training: dict[str, bool]) -> list[NormPlan]:
    rows = []
    for name, module in model.named_modules():
        if not isinstance(module, NORMS):
            continue
        keeps = getattr(module, "running_mean", None) is not None
        trained = [parameter.requires_grad for parameter in module.parameters()]
        statistics = ("move" if training[name] else "stand still") if keeps else "none"
        affine = "none" if not trained else "train" if all(trained) else "frozen" if not any(trained) else "partly"
        rows.append(NormPlan(name, type(module).__name__, statistics, affine))
    return rows


def _callback(callback: Callback) -> CallbackPlan:
    kind = type(callback)
    own = [name for name in vars(Callback) if name.startswith(("before_", "after_", "transform_", "during_"))]
    own = [name for name in own if name in vars(kind)]
    sets = list(callback.config()) if isinstance(callback, Scheduler) else []
    words = {"transform_batch": "batch", "transform_grads": "gradients"}
    return CallbackPlan(
        kind.__name__,
        describe(callback),
        [words[name] for name in own if name in words],
        sets,
        [name for name in own if name not in words],
    )
