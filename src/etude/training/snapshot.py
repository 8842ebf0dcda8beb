"""A fit's whole state in memory: what makes stopping and going on the same as never having stopped."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from etude.errors import ConfigError
from etude.training.callback import describe
from etude.training.history import Row

if TYPE_CHECKING:
    from etude.training.learner import Learner
    from etude.training.loop import Loop

_COUNTERS: Final = ("num_epochs", "steps_per_epoch")


@dataclass(frozen=True)
class Snapshot:
    """Everything that decides how a fit goes on, copied at the end of an epoch."""

    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    callbacks: list[tuple[str, dict[str, Any]]]
    """Description and state of each callback, in order."""
    progress: dict[str, int]
    rows: list[Row]
    random: list[Tensor]
    """torch's global generators, which dropout draws from: the CPU's and each GPU's."""


def take(learner: Learner) -> Snapshot:
    """The state of a running fit, once every watcher has seen an epoch.

    To be called from `learner.running().at_epoch_end`; earlier, some callbacks' state would be an epoch old.
    """
    loop = learner.running()
    return Snapshot(
        _copied(learner.model.state_dict()),
        _copied(loop.optimizer.state_dict()),
        [(describe(callback), _copied(callback.state_dict())) for callback in loop.events.callbacks],
        asdict(learner.progress),
        copy.deepcopy(loop.history.rows),
        [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])],
    )


def restore(snapshot: Snapshot, learner: Learner, loop: Loop) -> None:
    """Put a snapshot's state back into a fit that has just begun.

    Raises:
        ConfigError: the fit is another one: other callbacks, another number of epochs or steps.
    """
    now, then = [describe(callback) for callback in loop.events.callbacks], [name for name, _ in snapshot.callbacks]
    if now != then:
        raise ConfigError(f"the snapshot was taken with the callbacks\n  {then}\nand cannot go on with\n  {now}")
    for name in _COUNTERS:
        if getattr(learner.progress, name) != snapshot.progress[name]:
            raise ConfigError(
                f"the snapshot is of a fit with {name}={snapshot.progress[name]}, this one has "
                f"{getattr(learner.progress, name)}; the schedule would differ"
            )
    learner.model.load_state_dict(snapshot.model)
    loop.optimizer.load_state_dict(_copied(snapshot.optimizer))
    for callback, (_, state) in zip(loop.events.callbacks, snapshot.callbacks, strict=True):
        callback.load_state_dict(_copied(state))
    for field in fields(learner.progress):
        setattr(learner.progress, field.name, snapshot.progress[field.name])
    loop.history.rows[:] = copy.deepcopy(snapshot.rows)
    torch.set_rng_state(snapshot.random[0])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(snapshot.random[1:])


def _copied(state: Any) -> Any:
    """A copy that keeps each tensor's memory format: fused CPU kernels go silently wrong when it is lost."""
    return copy.deepcopy(tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), state))
