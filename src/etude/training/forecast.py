"""How long a fit will take: some of its real steps, timed in the real loop on a copy of the learner.

The copy is fitted for a few short epochs, each of some of the loader's batches, a validation pass over some others,
and all that comes at an epoch's end. From the seconds between two requests for a batch come those of a step; the rest
of the epoch is added step by step. A first round warms up, and one at the end counts memory.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from typing import TYPE_CHECKING, final

import torch
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from etude.data.loaders import Loader
from etude.errors import ConfigError, StopFit
from etude.training.callback import Callback
from etude.training.device import wait
from etude.training.memory import Memory, StepMemory
from etude.types import Batch, StepOutput

if TYPE_CHECKING:
    from etude.training.learner import Learner

_WARM_UP, _WARM_UP_VALID = 3, 2
"""Steps, and batches of validation, that are run before anything is timed."""
_LEAST, _LEAST_VALID = 4, 3
"""Timed in every round, however long they take."""
_SECONDS, _SECONDS_VALID = 1.2, 0.6
"""What a round may take with more steps than that."""
_ROUNDS, _MOST_ROUNDS, _SECONDS_IN_ALL = 3, 8, 6.0


@dataclass(frozen=True)
class Forecast:
    """Seconds, timed on this machine just now."""

    step: float
    """One training step: its batches from the loader, the model, the update."""
    waiting: float
    """Of these, waiting for the loader."""
    valid_batch: float | None
    """One batch of a validation pass."""
    epoch: float
    """Training, validation, and what comes at an epoch's begin and end."""
    start: float
    """Before the first epoch: optimizer, choice of precision, what callbacks do there."""
    total: float
    timed_steps: int
    """How many steps stand behind these figures."""
    timed_valid_batches: int


@dataclass
class _Pass:
    """One pass over some batches."""

    asked: list[float] = field(default_factory=list)
    """When each batch was asked for, and when one more was."""
    waited: list[float] = field(default_factory=list)
    closing: float = 0.0
    """Seconds that stopping the loader early took, which a whole epoch does not have."""

    def seconds(self, every: int = 1) -> float:
        """Per step of so many batches; the first, which starts the loader, only counts when there is no other."""
        marks = self.asked[::every]
        return (marks[-1] - marks[1]) / (len(marks) - 2) if len(marks) > 2 else marks[-1] - marks[0]

    def waiting(self, every: int = 1) -> float:
        """Of these, waiting for the loader."""
        later = self.waited[every:] or self.waited
        return statistics.fmean(later) * every


class _Timed:
    """The first batches of a loader's epoch, and when each was asked for."""

    def __init__(self, loader: Loader, every: int = 1) -> None:
        self.loader, self.every = loader, every
        self.most = 1
        self.passes: list[_Pass] = []
        self.first: Batch | None = None

    def __len__(self) -> int:
        """Of the whole epoch, for schedules go by it."""
        return len(self.loader)

    def batches(self, epoch: int, device: torch.device) -> Iterator[Batch]:
        """Some batches of an epoch."""
        seen = _Pass()
        self.passes.append(seen)
        source = self.loader.batches(epoch, device)
        try:
            for i in range(self.most + 1):
                if i in (self.every, self.most):
                    # a device that runs ahead has not done yet what it was given
                    wait(device)
                seen.asked.append(time.perf_counter())
                batch = next(source, None) if i < self.most else None
                if batch is None:
                    break
                seen.waited.append(time.perf_counter() - seen.asked[-1])
                self.first = self.first or batch
                yield batch
        finally:
            began = time.perf_counter()
            if isinstance(source, Generator):
                source.close()
            if len(seen.waited) < len(self):
                seen.closing = time.perf_counter() - began


@dataclass(frozen=True)
class Measured:
    """What a fit of a copy has shown."""

    forecast: Forecast
    memory: Memory
    callbacks: tuple[Callback, ...]
    """Those of the copy's fit, in order."""
    training: dict[str, bool]
    """Module name to whether it was in training mode in a step."""
    train_batch: Batch
    valid_batch: Batch | None


@final
class _Watch(Callback):
    """Leads the copy through its rounds."""

    def __init__(self, learner: Learner, train: _Timed, valid: _Timed | None) -> None:
        self.train, self.valid, self.every = train, valid, learner.accumulate
        self.starts: list[float] = []
        self.rounds = _ROUNDS
        self.callbacks: tuple[Callback, ...] = ()
        self.training: dict[str, bool] = {}
        self.memory: StepMemory | None = None

    @override
    def before_fit(self, learner: Learner) -> None:
        """Remember who takes part."""
        self.callbacks = learner.running().events.callbacks

    @override
    def before_epoch(self, learner: Learner) -> None:
        """Say how many batches this round has, or that there is none any more."""
        wait(learner.device)
        self.starts.append(time.perf_counter())
        number = len(self.starts) - 1
        if number == 0:
            self._limit(_WARM_UP * self.every, _WARM_UP_VALID)
        elif number == 1:
            self._limit(*self._sizes())
        elif number == self.rounds + 1:
            self._limit(self.every, 1)
            self._count_memory(learner)
        elif number > self.rounds + 1:
            raise StopFit("all is timed")

    @override
    def after_step(self, learner: Learner, batch: Batch, output: StepOutput) -> None:
        """See which modules train."""
        if not self.training:
            self.training = {name: module.training for name, module in learner.model.named_modules()}

    def _limit(self, train: int, valid: int) -> None:
        self.train.most = min(train, len(self.train))
        if self.valid is not None:
            self.valid.most = min(valid, len(self.valid))

    def _sizes(self) -> tuple[int, int]:
        """How many batches a round has, from how long those of the warm-up took; settles the rounds."""
        step = max(_shortest_gap(self.train.passes[0], self.every), 1e-6)
        num = min(max(_LEAST, int(_SECONDS / step)) * self.every, len(self.train))
        seconds, num_valid = num / self.every * step, 0
        if self.valid is not None:
            one = max(_shortest_gap(self.valid.passes[0], 1), 1e-6)
            num_valid = min(max(_LEAST_VALID, int(_SECONDS_VALID / one)), len(self.valid))
            seconds += num_valid * one
        self.rounds = min(max(_ROUNDS, int(_SECONDS_IN_ALL / seconds)), _MOST_ROUNDS)
        return num, num_valid

    def _count_memory(self, learner: Learner) -> None:
        assert learner.optimizer is not None
        state = [
            value for value in tree_leaves(list(learner.optimizer.state.values())) if isinstance(value, torch.Tensor)
        ]
        known = chain(learner.model.parameters(), learner.model.buffers(), state)
        self.memory = StepMemory(learner.step, known, counted=not learner.compile)
        learner.step = self.memory


@final
class _Begin(Callback):
    """Stops a fit where its first epoch would begin."""

    def __init__(self) -> None:
        self.at = 0.0

    @override
    def before_epoch(self, learner: Learner) -> None:
        """Look at the clock."""
        wait(learner.device)
        self.at = time.perf_counter()
        raise StopFit("only its beginning is timed")


def measure(copy: Learner, num_epochs: int, fit: Callable[[int, Callback], object]) -> Measured:
    """Run the rounds.

    Args:
        copy: a learner that nobody needs afterwards.
        num_epochs: of the fit to be forecast.
        fit: (number of epochs, a further callback) -> fits the copy; it ends early.

    Raises:
        ConfigError: a callback ended the fit before anything was timed.
    """
    assert copy.data.train is not None
    train = _Timed(copy.data.train, copy.accumulate)
    valid = None if copy.data.valid is None else _Timed(copy.data.valid)
    copy.data = replace(copy.data, train=train, valid=valid)
    watch, chosen = _Watch(copy, train, valid), copy.precision
    # enough epochs for every round; more of them only make the schedule slower
    fit(max(num_epochs, _MOST_ROUNDS + 3), watch)
    if watch.memory is None or train.first is None:
        raise ConfigError(
            f"a few steps on a copy were to be timed, but the fit ended before: {copy.history.stopped or 'no reason'}"
        )
    memory, measured = watch.memory.result(copy), copy.precision
    # once more: the first fit of a process also loads parts of torch
    begin, copy.precision = _Begin(), chosen
    began = time.perf_counter()
    fit(1, begin)
    start, copy.precision = begin.at - began, measured
    return Measured(
        _forecast(watch, num_epochs, start),
        memory,
        tuple(callback for callback in watch.callbacks if callback is not watch),
        watch.training,
        train.first,
        None if valid is None else valid.first,
    )


def _forecast(watch: _Watch, num_epochs: int, start: float) -> Forecast:
    train, valid, every = watch.train, watch.valid, watch.every
    rounds = range(1, watch.rounds + 1)
    steps = [train.passes[i].seconds(every) for i in rounds]
    valids = [] if valid is None else [valid.passes[i].seconds() for i in rounds]
    epochs = []
    for i, step in zip(rounds, steps, strict=True):
        done = train.passes[i]
        missing = -(-len(train) // every) - -(-len(done.waited) // every)
        seconds = watch.starts[i + 1] - watch.starts[i] - done.closing + missing * step
        if valid is not None:
            seen = valid.passes[i]
            seconds += (len(valid) - len(seen.waited)) * valids[i - 1] - seen.closing
        epochs.append(seconds)
    epoch = statistics.median(epochs)
    return Forecast(
        step=statistics.median(steps),
        waiting=statistics.median(train.passes[i].waiting(every) for i in rounds),
        valid_batch=statistics.median(valids) if valids else None,
        epoch=epoch,
        start=start,
        total=start + num_epochs * epoch,
        timed_steps=sum(-(-len(train.passes[i].waited) // every) for i in rounds),
        timed_valid_batches=0 if valid is None else sum(len(valid.passes[i].waited) for i in rounds),
    )


def _shortest_gap(seen: _Pass, every: int) -> float:
    """The fastest step of a pass: the first ones of a process are slow, and so is any that others get in the way of."""
    marks = seen.asked[::every]
    gaps = [later - earlier for earlier, later in pairwise(marks)]
    return min(gaps, default=seen.asked[-1] - seen.asked[0])
