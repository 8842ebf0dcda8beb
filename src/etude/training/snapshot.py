"""A fit's whole state at one point: what makes stopping and going on the same as never having stopped.

There are three kinds of points, and each is one at which every watcher has seen what came before: the end of a step
(between two updates, never inside a window of accumulated batches), the end of an epoch's training, and the end of
an epoch.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from etude import random
from etude.data.loaders import SeekableLoader, generators_of
from etude.errors import ConfigError
from etude.training.callback import Callback, describe
from etude.training.callbacks.scheduler import Scheduler
from etude.training.history import Row
from etude.training.optimizer import load_state
from etude.training.precision import Precision

if TYPE_CHECKING:
    from etude.training.learner import Learner
    from etude.training.loop import Loop

CHANGES: Final = ("num_epochs", "lr", "callbacks", "precision", "data")
"""What a resume may be told to change; all else that differs is refused."""


@dataclass(frozen=True)
class Snapshot:
    """Everything that decides how a fit goes on, copied to the CPU."""

    model: dict[str, Any]
    """State dict, and the buffers that are not part of it."""
    trainable: list[str]
    """Names of the parameters that are not frozen."""
    loss: dict[str, Any]
    """State dict of the loss; empty for a function."""
    optimizer: dict[str, Any]
    optimizer_class: str
    callbacks: list[tuple[str, dict[str, Any]]]
    """Name (see `name_of`) and state of each callback, in order."""
    precision: str
    seed: int
    accumulate: int
    progress: dict[str, int]
    rows: list[Row]
    """Of this fit."""
    notes: list[str]
    earlier_rows: list[Row]
    """Of the learner's fits before this one."""
    earlier_notes: list[str]
    seconds: float
    """Spent on the epoch under way."""
    meter: dict[str, Any] | None
    """What the epoch under way has added up; None between epochs."""
    train_results: dict[str, float] | None
    """The training half of the epoch's row, once that half is over."""
    random: dict[str, Any]
    """The global generators, which dropout draws from."""
    generators: list[Tensor]
    """Those of the user's own loaders."""
    data: dict[str, Any]
    """What tells the training data from any other."""

    @property
    def seconds_trained(self) -> float:
        """Spent on the epochs of this fit, the one under way included."""
        return sum(row["seconds"] for row in self.rows) + self.seconds


@dataclass(frozen=True)
class Bystanders:
    """What a validation pass may change although it trains nothing: callbacks that watch it, and random generators."""

    callbacks: list[tuple[str, dict[str, Any]]]
    random: dict[str, Any]
    generators: list[Tensor]


def take(learner: Learner) -> Snapshot:
    """The state of a running fit at one of its points of rest.

    To be called from `learner.running().at_rest`; elsewhere some callbacks' state would be older than the model's.
    """
    loop = learner.running()
    around = bystanders(learner)
    loss = learner.loss_fn.state_dict() if isinstance(learner.loss_fn, nn.Module) else {}
    assert learner.precision is not None
    return Snapshot(
        model=_copied(_model_state(learner.model)),
        trainable=[name for name, parameter in learner.model.named_parameters() if parameter.requires_grad],
        loss=_copied(loss),
        optimizer=_copied(loop.optimizer.state_dict()),
        optimizer_class=type(loop.optimizer).__name__,
        callbacks=around.callbacks,
        precision=learner.precision.name,
        seed=learner.seed,
        accumulate=learner.accumulate,
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
        data=data_of(learner),
    )


def bystanders(learner: Learner) -> Bystanders:
    """The state of what a validation pass may change."""
    return Bystanders(
        [(name_of(callback), _copied(callback.state_dict())) for callback in learner.running().events.callbacks],
        random.global_state(),
        [generator.get_state() for generator in _generators(learner)],
    )


def data_of(learner: Learner) -> dict[str, Any]:
    """What tells the training data of a learner from any other: how it is dealt into batches, and where it is from."""
    train = learner.data.train
    dealt: dict[str, Any] = {"batches": 0 if train is None else len(train)}
    if isinstance(train, SeekableLoader):
        dealt |= asdict(train.sampling)
    return {**dealt, **learner.data.identity}


def check(snapshot: Snapshot, learner: Learner, loop: Loop, change: Collection[str]) -> None:
    """Refuse a fit that is not the one of the snapshot; nothing is touched yet.

    Raises:
        ConfigError: the fit is another one: other callbacks, another number of epochs or steps, other data.
    """
    if unknown := sorted(set(change) - set(CHANGES)):
        raise ConfigError(f"{unknown} cannot be changed by a resume; it may change {', '.join(CHANGES)}")
    if (now := type(loop.optimizer).__name__) != snapshot.optimizer_class:
        raise ConfigError(f"the snapshot holds the state of {snapshot.optimizer_class}, which {now} cannot take over")
    _check_callbacks(snapshot, loop, change)
    _check_data(snapshot.data, data_of(learner), change)
    num_epochs = learner.progress.num_epochs
    for name, value in (("num_epochs", num_epochs), ("phase", learner.progress.phase)):
        if name not in change and value != snapshot.progress[name]:
            raise ConfigError(
                f"the snapshot is of a fit with {name}={snapshot.progress[name]}, this one has {name}={value}, so the "
                f"rest of it would be another one; to want that, resume with change=[{name!r}]"
            )
    if learner.accumulate != snapshot.accumulate:
        raise ConfigError(f"the snapshot is of a fit with accumulate={snapshot.accumulate}, not {learner.accumulate}")
    assert learner.precision is not None
    if learner.precision.name != snapshot.precision and "precision" not in change:
        raise ConfigError(
            f"the snapshot was trained in {snapshot.precision}, this learner computes in {learner.precision.name}; "
            "to want that, resume with change=['precision']"
        )


def place(snapshot: Snapshot, learner: Learner) -> None:
    """Put where in training a snapshot was taken, and the seed that all keyed randomness hangs on."""
    for field in fields(learner.progress):
        if field.name not in ("num_epochs", "steps_per_epoch"):
            setattr(learner.progress, field.name, snapshot.progress[field.name])
    learner.seed = snapshot.seed


def restore(snapshot: Snapshot, learner: Learner, loop: Loop) -> None:
    """Put everything else of a snapshot back; the random generators last."""
    _load_model(learner.model, _copied(snapshot.model))
    trainable = set(snapshot.trainable)
    for name, parameter in learner.model.named_parameters():
        parameter.requires_grad_(name in trainable)
    if isinstance(learner.loss_fn, nn.Module):
        learner.loss_fn.load_state_dict(snapshot.loss)
    load_state(loop.optimizer, snapshot.optimizer)
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
    return Precision(snapshot.precision, learner.device, "as in the fit that is resumed")


def _check_callbacks(snapshot: Snapshot, loop: Loop, change: Collection[str]) -> None:
    """Refuse other callbacks, or other settings of them, where they decide what is trained; the schedule is one too."""
    now, then = [name_of(callback) for callback in loop.events.callbacks], [name for name, _ in snapshot.callbacks]
    if "callbacks" in change:
        return
    schedule = f"{Scheduler.__name__}("
    others = [[name for name in names if "(" in name and not name.startswith(schedule)] for names in (then, now)]
    if others[0] != others[1]:
        raise ConfigError(
            f"the snapshot was taken with the callbacks\n  {others[0]}\nand cannot go on with\n  {others[1]}\n"
            "Callbacks that are new or have other settings begin afresh with change=['callbacks']"
        )
    schedules = [[name for name in names if name.startswith(schedule)] for names in (then, now)]
    if schedules[0] != schedules[1] and not {"lr", "num_epochs"} & set(change):
        raise ConfigError(
            "the snapshot was taken with another schedule of learning rate or momentum; to want the new one, resume "
            "with change=['lr']"
        )


def name_of(callback: Callback) -> str:
    """What a callback's state is kept under: its settings too where they decide what is trained, else its class."""
    return describe(callback) if callback.decides_training else type(callback).__name__


def _check_data(then: dict[str, Any], now: dict[str, Any], change: Collection[str]) -> None:
    different = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    if different and "data" not in change:
        told = "; ".join(
            f"{name}: {_short(then.get(name))} then, {_short(now.get(name))} now" for name in different[:4]
        )
        raise ConfigError(
            f"the snapshot was trained on other data ({told}); the rest of the fit would not be the same. To want "
            "that, resume with change=['data']"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


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


def _model_state(model: nn.Module) -> dict[str, Any]:
    return {**dict(model.named_buffers()), **model.state_dict()}


def _load_model(model: nn.Module, state: dict[str, Any]) -> None:
    """Copy weights and buffers into a model, which keeps its tensors and their memory format.

    Raises:
        ConfigError: the model has other weights.
    """
    own = model.state_dict()
    extra = {name: buffer for name, buffer in model.named_buffers() if name not in own}
    try:
        model.load_state_dict({name: value for name, value in state.items() if name not in extra})
        with torch.no_grad():
            for name, buffer in extra.items():
                buffer.copy_(state[name])
    except (RuntimeError, KeyError) as error:
        raise ConfigError(f"the snapshot does not fit this {type(model).__name__}: {error}") from error


def _copied(state: Any) -> Any:
    """A copy on the CPU that keeps each tensor's memory format; what else a state holds cannot change."""
    return tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), state)
