"""A copy of a learner to try things on: the learner itself is never touched, so nothing has to be put back."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from etude import random
from etude.data.loaders import generators_of
from etude.errors import ConfigError
from etude.training.callback import Callback
from etude.training.optimizer import layer_groups, load_state, make_optimizer

if TYPE_CHECKING:
    from etude.training.learner import Learner


@contextmanager
def trial(learner: Learner, *, callbacks: Sequence[Callback] | None = None) -> Iterator[Learner]:
    """A learner with copies of the model, the loss, the optimizer and its state, on the same data.

    Inside the `with` block the copy may be trained; at its end the global random generators, and those of the data, are
    put back to where they were.

    Args:
        learner: what to copy.
        callbacks: of the copy, already its own; None takes copies of those that transform a batch or gradients, for
            those that watch might write files.

    Raises:
        ConfigError: the model cannot be copied.
    """
    parts = (learner.model, learner.loss_fn, learner.optimizer if learner.factory is None else None)
    transforms = [callback for callback in learner.callbacks if transforms_something(callback)]
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
        precision=learner.precision.name if learner.precision else "auto",
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
        load_state(made.optimizer, learner.optimizer.state_dict())
    state, generators = random.global_state(), generators_of(learner.data.train) + generators_of(learner.data.valid)
    states = [generator.get_state() for generator in generators]
    try:
        yield made
    finally:
        random.set_global_state(state)
        for generator, kept in zip(generators, states, strict=True):
            generator.set_state(kept)


def transforms_something(callback: Callback) -> bool:
    """Whether a callback changes batches or gradients, and so decides what is trained."""
    return bool({"transform_batch", "transform_grads"} & set(vars(type(callback))))
