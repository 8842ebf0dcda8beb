"""A fit's whole state at one point: what makes stopping and going on the same as never having stopped.

There are three kinds of points, and each is one at which every watcher has seen what came before: the end of a step
(between two updates, never inside a window of accumulated batches), the end of an epoch's training, and the end of
an epoch.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, TypedDict, get_type_hints

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from etude import random
from etude.data.loaders import generators_of
from etude.errors import ConfigError, LoadError
from etude.metrics import MeterState
from etude.training import settings
from etude.training.callback import Callback, describe
from etude.training.callbacks.scheduler import Scheduler
from etude.training.history import Progress, Row
from etude.training.optimizer import load_state
from etude.training.precision import PRECISIONS, Precision, make_precision
from etude.training.trees import check_type

if TYPE_CHECKING:
    from etude.training.learner import Learner
    from etude.training.loop import Loop


class OptimizerState(TypedDict):
    """A state dict of torch's."""

    state: dict[Any, Any]
    param_groups: list[dict[str, Any]]


@dataclass(frozen=True)
class Snapshot:
    """Everything that decides how a fit goes on, copied to the CPU."""

    model: dict[str, Any]
    """State dict, and the buffers that are not part of it."""
    trainable: list[str]
    """Names of the parameters that are not frozen."""
    loss: dict[str, Any]
    """The same of the loss; empty for a function."""
    optimizer: OptimizerState
    precision: dict[str, Any]
    """The loss scale and what it counts; weights and gradients are float32 between two steps."""
    average: dict[str, Any]
    """The averaged weights, and how often they were updated; empty without an average."""
    callbacks: list[tuple[str, dict[str, Any]]]
    """Name (see `name_of`) and state of each callback, in order."""
    settings: dict[str, Any]
    """What must not change unless it is asked for; see `settings_of`."""
    seed: int
    progress: dict[str, int]
    rows: list[Row]
    """Of this fit."""
    notes: list[str]
    earlier_rows: list[Row]
    """Of the learner's fits before this one."""
    earlier_notes: list[str]
    seconds: float
    """Spent on the epoch under way."""
    meter: MeterState | None
    """What the epoch under way has added up; None between epochs."""
    train_results: dict[str, float] | None
    """The training half of the epoch's row, once that half is over."""
    random: random.GlobalState
    """The global generators, which dropout draws from."""
    generators: list[Tensor]
    """Those of the user's own loaders."""

    @classmethod
    def of(cls, state: dict[str, Any]) -> Snapshot:
        """A snapshot from what was read.

        Raises:
            LoadError: naming a part that is missing, of another type, or not known.
        """
        hints = get_type_hints(cls)
        for name, hint in hints.items():
            check_type(state.get(name), hint, name)
        if unknown := sorted(state.keys() - hints.keys()):
            raise LoadError(f"the state holds {unknown}, which this version of etude does not know")
        if missing := {field.name for field in fields(Progress)} - state["progress"].keys():
            raise LoadError(f"the state's progress lacks {sorted(missing)}")
        return cls(**state)

    @property
    def seconds_trained(self) -> float:
        """Spent on the epochs of this fit, the one under way included."""
        return sum(row["seconds"] for row in self.rows) + self.seconds


@dataclass(frozen=True)
class Bystanders:
    """What a validation pass may change although it trains nothing: callbacks that watch it, and random generators."""

    callbacks: list[tuple[str, dict[str, Any]]]
    random: random.GlobalState
    generators: list[Tensor]


def take(learner: Learner) -> Snapshot:
    """The state of a running fit at one of its points of rest.

    To be called from `learner.running().at_rest`; elsewhere some callbacks' state would be older than the model's.
    """
    loop = learner.running()
    around = bystanders(learner)
    # in a validation pass the model holds the average
    with nullcontext() if learner.average is None else learner.average.hidden():
        return _take(learner, loop, around)


def _take(learner: Learner, loop: Loop, around: Bystanders) -> Snapshot:
    return Snapshot(
        model=_copied(_state_of(learner.model)),
        trainable=[name for name, parameter in learner.model.named_parameters() if parameter.requires_grad],
        loss=_copied(_state_of(learner.loss_fn)),
        optimizer=_copied(loop.optimizer.state_dict()),
        precision=loop.precision.state_dict(),
        average={} if learner.average is None else _copied(learner.average.state_dict()),
        callbacks=around.callbacks,
        settings=settings.settings_of(learner, loop),
        seed=learner.seed,
        progress=asdict(learner.progress),
        rows=copy.deepcopy(loop.history.rows),
        notes=list(loop.history.notes),
        earlier_rows=copy.deepcopy(learner.history.rows),
        earlier_notes=list(learner.history.notes),
        seconds=loop.seconds_of_epoch(),
        meter=None if loop.meter is None else _copied(loop.meter.state_dict()),
        train_results=None if loop.train_results is None else dict(loop.train_results),
        random=around.random,
        generators=around.generators,
    )


def bystanders(learner: Learner) -> Bystanders:
    """The state of what a validation pass may change."""
    return Bystanders(
        [(name_of(callback), _copied(callback.state_dict())) for callback in learner.running().events.callbacks],
        random.global_state(),
        [generator.get_state() for generator in _generators(learner)],
    )


def check(snapshot: Snapshot, learner: Learner, loop: Loop, num_epochs: int, change: Collection[str]) -> None:
    """Refuse a fit that is not the one of the snapshot; nothing is touched yet.

    Raises:
        ConfigError: the fit is another one: other callbacks, another number of epochs, other data, another model.
    """
    then = {"num_epochs": snapshot.progress["num_epochs"], **snapshot.settings}
    now = {"num_epochs": num_epochs, **settings.settings_of(learner, loop)}
    settings.check(then, now, change)
    if snapshot.meter is not None and then["metrics"] != now["metrics"]:
        raise ConfigError("the snapshot was taken within an epoch, and metrics can only change between two")
    settings.check_shapes(type(learner.model).__name__, snapshot.model, _state_of(learner.model))
    if "loss" not in change:
        settings.check_shapes("loss", snapshot.loss, _state_of(learner.loss_fn))


def place(snapshot: Snapshot, learner: Learner) -> None:
    """Put where in training a snapshot was taken, and the seed that all keyed randomness hangs on."""
    for field in fields(learner.progress):
        if field.name not in ("num_epochs", "steps_per_epoch"):
            setattr(learner.progress, field.name, snapshot.progress[field.name])
    learner.seed = snapshot.seed


def restore(snapshot: Snapshot, learner: Learner, loop: Loop, change: Collection[str]) -> None:
    """Put everything else of a snapshot back but what is to be changed; the random generators last."""
    _load_state(learner.model, snapshot.model)
    trainable = set(snapshot.trainable)
    for name, parameter in learner.model.named_parameters():
        parameter.requires_grad_(name in trainable)
    if isinstance(learner.loss_fn, nn.Module) and "loss" not in change:
        _load_state(learner.loss_fn, snapshot.loss)
    load_state(loop.optimizer, snapshot.optimizer, settings="lr" not in change)
    if "precision" not in change:
        loop.precision.load_state_dict(snapshot.precision)
    if learner.average is not None:
        learner.average.load_state_dict(snapshot.average)
    states = dict(_numbered([name for name, _ in snapshot.callbacks], [state for _, state in snapshot.callbacks]))
    for key, callback in _numbered(map(name_of, loop.events.callbacks), loop.events.callbacks):
        if key in states:
            callback.load_state_dict(_copied(states[key]))
    loop.history.rows[:] = copy.deepcopy(snapshot.rows)
    loop.history.notes[:] = snapshot.notes
    learner.history.rows[:] = copy.deepcopy(snapshot.earlier_rows)
    learner.history.notes[:] = snapshot.earlier_notes
    loop.go_on_from(snapshot)
    for generator, state in zip(_generators(learner), snapshot.generators, strict=False):
        generator.set_state(state)
    random.set_global_state(snapshot.random)


def precision_of(snapshot: Snapshot, learner: Learner) -> Precision:
    """What a learner that would measure its precision takes when it resumes."""
    name = snapshot.settings["precision"]
    if name not in PRECISIONS:
        raise ConfigError(f'the fit to be resumed has precision={name}; pass the same, "auto" cannot tell')
    return make_precision(name, learner.device, "as in the fit that is resumed")


def name_of(callback: Callback) -> str:
    """What a callback's state is kept under: its class, and its settings where they decide what is trained."""
    if isinstance(callback, Scheduler) or not callback.decides_training:
        return type(callback).__name__
    return describe(callback)


def _numbered(names: Any, values: Any) -> list[tuple[tuple[str, int], Any]]:
    """Each value under its name and how many of that name came before it."""
    seen: dict[str, int] = {}
    found = []
    for name, value in zip(names, values, strict=True):
        seen[name] = seen.get(name, -1) + 1
        found.append(((name, seen[name]), value))
    return found


def _generators(learner: Learner) -> list[torch.Generator]:
    return generators_of(learner.data.train) + generators_of(learner.data.valid)


def _state_of(part: Any) -> dict[str, Any]:
    """State dict of a module, and the buffers that are not part of it; a function has none."""
    return {**dict(part.named_buffers()), **part.state_dict()} if isinstance(part, nn.Module) else {}


def _load_state(module: nn.Module, state: dict[str, Any]) -> None:
    """Copy weights and buffers into a module, which keeps its tensors and their memory format."""
    own = module.state_dict()
    extra = {name: buffer for name, buffer in module.named_buffers() if name not in own}
    module.load_state_dict({name: _copied(value) for name, value in state.items() if name not in extra})
    with torch.no_grad():
        for name, buffer in extra.items():
            buffer.copy_(state[name])


def _copied(state: Any) -> Any:
    """A copy on the CPU that keeps each tensor's memory format; what else a state holds cannot change."""
    return tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), state)
