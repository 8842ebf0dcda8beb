"""A copy of a learner to try things on: the learner itself is never touched, so nothing has to be put back."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from etude import random
from etude.data.loaders import PlainLoader, generators_of
from etude.errors import ConfigError
from etude.training.callback import Callback
from etude.training.optimizer import layer_groups, load_state, make_optimizer
from etude.training.transfer import HoldNorms

if TYPE_CHECKING:
    from etude.training.learner import Learner


@contextmanager
def trial(learner: Learner, *, callbacks: Sequence[Callback] | None = None) -> Iterator[Learner]:
    """A learner with copies of the model, the loss, the optimizer and its state, on the same data.

    Inside the `with` block the copy may be trained; at its end the global random generators, and those of the data, are
    put back to where they were.

    Args:
        learner: what to copy.
        callbacks: of the copy, already its own; None takes copies of those that transform a batch or gradients or hold
            norms still, for those that watch might write files.

    Raises:
        ConfigError: the model cannot be copied.
    """
    parts = (learner.model, learner.loss_fn, learner.optimizer if learner.factory is None else None)
    transforms = [one for one in learner.callbacks if transforms_something(one) or isinstance(one, HoldNorms)]
    try:
        (model, loss_fn, optimizer), own = copy.deepcopy((parts, transforms if callbacks is None else []))
    except Exception as error:
        raise ConfigError(f"{type(learner.model).__name__} cannot be copied to try things on: {error}") from error
    how = learner.factory or optimizer
    assert how is not None
    made = type(learner)(
        model,
        learner.data,
        loss_fn,
        how,
        groups=learner.groups,
        metrics=learner.metrics,
        callbacks=own if callbacks is None else callbacks,
        precision=learner.precision or "auto",
        average=learner.average,
        step=learner.step,
        accumulate=learner.accumulate,
        device=learner.device,
        compile=learner.compile,
        seed=learner.seed,
        progress=False,
    )
    made.progress = replace(learner.progress)
    if learner.factory is not None and learner.optimizer is not None:
        made.optimizer, _ = make_optimizer(learner.factory, layer_groups(model, learner.groups), None)
        # after a change of head or groups: what the next fit would make of the old state
        next_one, _ = make_optimizer(learner.factory, layer_groups(learner.model, learner.groups), learner.optimizer)
        load_state(made.optimizer, next_one.state_dict())
    with _randomness_kept(learner):
        yield made


@contextmanager
def _randomness_kept(learner: Learner) -> Iterator[None]:
    """Put the random generators back at the end: the global ones, and those of the data."""
    state, generators = random.global_state(), generators_of(learner.data.train) + generators_of(learner.data.valid)
    states, workers = [generator.get_state() for generator in generators], _kept_workers(learner)
    try:
        yield
    finally:
        random.set_global_state(state)
        for generator, kept in zip(generators, states, strict=True):
            generator.set_state(kept)
        for source, iterator in workers:
            if source._iterator is not iterator:
                made_here: Any = source._iterator
                made_here._shutdown_workers()
                source._iterator = iterator


def _kept_workers(learner: Learner) -> list[tuple[DataLoader[Any], Any]]:
    """Torch's loaders with the workers that they keep: one that has none yet draws a seed for them when it begins."""
    sources = [
        loader.iterable for loader in (learner.data.train, learner.data.valid) if isinstance(loader, PlainLoader)
    ]
    return [(source, source._iterator) for source in sources if isinstance(source, DataLoader)]


def transforms_something(callback: Callback) -> bool:
    """Whether a callback changes batches or gradients, and so decides what is trained."""
    return bool({"transform_batch", "transform_grads"} & set(vars(type(callback))))
