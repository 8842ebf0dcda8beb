"""The loop around the step: epochs, windows of accumulated batches, validation, and an orderly end.

A `Loop` lives for one fit and owns what belongs to that fit alone: its callbacks, its finite guard, its history, and
where in a window of accumulated batches the step is. The learner's verbs `backward` and `update` work on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from etude import losses
from etude.data.loaders import Loader, SeekableLoader, keeps_workers
from etude.errors import ConfigError, NonFiniteError, SkipStep, StopEpoch, StopFit
from etude.metrics import EpochMeter
from etude.training import snapshot
from etude.training.callback import Callback, Events
from etude.training.finite import BadStep, FiniteGuard
from etude.training.history import History, Row
from etude.training.precision import Precision
from etude.training.writes import dense_values
from etude.types import Batch, StepOutput

if TYPE_CHECKING:
    from etude.training.learner import Learner

_KEPT_WORKERS: Final = (
    "a ready-made loader with persistent_workers: a resumed fit draws other random numbers than this one"
)

Rest: TypeAlias = Literal["step", "trained", "epoch"]
"""After what a fit is at rest: a step, an epoch's training (validation follows), or a whole epoch."""


class Loop:
    """One fit of a learner.

    Args:
        learner: what is trained.
        optimizer: its optimizer.
        precision: how its model computes.
        train: the training batches.
        callbacks: every callback of this fit, in the order in which they work.
    """

    def __init__(
        self,
        learner: Learner,
        optimizer: Optimizer,
        precision: Precision,
        train: Loader,
        callbacks: Sequence[Callback],
    ) -> None:
        self.learner, self.optimizer, self.train = learner, optimizer, train
        self.precision = precision
        self.events = Events(callbacks)
        self.history = History()
        self.guard = FiniteGuard(learner.model, optimizer, learner.device)
        self.loss_is_sum = losses.reduction_of(learner.loss_fn) == "sum"
        self._share: float | Tensor | None = None
        self._window_ends = True
        self._skip = ""
        self._updated: bool | Tensor | None = None
        self._losses: list[Tensor] = []
        self._seen: list[Batch] = []
        self.meter: EpochMeter | None = None
        """What the epoch under way has added up; None between epochs."""
        self.train_results: dict[str, float] | None = None
        """The training half of the epoch's row, once that half is over."""
        self.at_rest: list[Callable[[Rest], None]] = []
        """Called where a snapshot can be taken: every watcher has seen what came before, and nothing is half done."""
        self._epoch_started = 0.0

    def run(self, num_epochs: int, resume: snapshot.Snapshot | None = None, change: Collection[str] = ()) -> History:
        """Train to the end, or until a callback stops the fit or something fails."""
        learner, progress = self.learner, self.learner.progress
        if resume is not None:
            snapshot.check(resume, learner, self, num_epochs, change)
        elif change:
            raise ConfigError(f"change={list(change)} has no effect without the fit that is resumed; pass resume= too")
        progress.num_epochs, progress.steps_per_epoch = num_epochs, -(-len(self.train) // learner.accumulate)
        progress.fit_epoch = progress.fit_step = progress.epoch_batch = 0
        with self._open():
            self.events.notify("before_fit", learner)
            if self.at_rest and learner.show_progress and keeps_workers(self.train):
                print(_KEPT_WORKERS, flush=True)
            if resume is not None:
                snapshot.place(resume, learner)
                if resume.meter is not None:
                    # what it does to the model is not part of any state; what it counts is put back right after it
                    self.events.notify("before_epoch", learner)
                snapshot.restore(resume, learner, self, change)
            while progress.fit_epoch < num_epochs:
                self._epoch()
        return self.history

    def go_on_from(self, resume: snapshot.Snapshot) -> None:
        """Take up the epoch in which a snapshot was taken."""
        self.train_results = resume.train_results
        self._epoch_started = time.perf_counter() - resume.seconds
        if resume.meter is not None:
            self.meter = self._new_meter()
            self.meter.load_state_dict(resume.meter, self.learner.device)

    def seconds_of_epoch(self) -> float:
        """How long the epoch under way has taken so far."""
        return time.perf_counter() - self._epoch_started if self.meter is not None else 0.0

    def check_finite(self) -> None:
        """Wait for the device, and raise `NonFiniteError` if it met a value, or made a weight, that is not finite."""
        self._raise_if_bad(self.guard.last_word())
        if place := self.guard.bad_weight():
            progress = self.learner.progress
            raise NonFiniteError(
                f"after step {progress.step} (epoch {progress.epoch + 1}) there is a value that is not finite in "
                f"{place}. A lower learning rate or gradient clipping are the usual cures of an update that overflows."
            )

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Open the callbacks, close every one however the fit ends, and write down why it ended."""
        learner, history = self.learner, self.history
        with ExitStack() as stack:
            stack.callback(learner.model.zero_grad, set_to_none=True)
            stack.enter_context(self.precision.open(learner.model))
            if learner.average is not None:
                stack.enter_context(learner.average.fitting(learner.model))
            for callback in self.events.callbacks:
                stack.enter_context(callback.during_fit(learner))
            for callback in reversed(self.events.callbacks):
                stack.callback(callback.after_fit, learner, history)
            try:
                yield
            except StopFit as stop:
                history.stopped = str(stop) or "a callback stopped the fit"
                # a device that runs ahead may have met a bad value that the host has not heard of
                self.check_finite()
            except BaseException as error:
                history.stopped = f"{type(error).__name__}: {error}".removesuffix(": ")
                if self.guard.last_word() is not None:
                    self.guard.restore_buffers()
                raise

    def _epoch(self) -> None:
        """One epoch, or what is left of one that was resumed in its middle."""
        learner, progress = self.learner, self.learner.progress
        if self.meter is None:
            self._epoch_started = time.perf_counter()
            self.meter = self._new_meter()
            self.events.notify("before_epoch", learner)
        row: Row = {"epoch": progress.epoch + 1}
        if self.train_results is None:
            self.train_results = self._train_epoch(self.meter)
        self._rest("trained")
        row |= {f"train_{name}": value for name, value in self.train_results.items()}
        if learner.data.valid is not None:
            row |= {f"valid_{name}": value for name, value in learner.evaluate().items()}
        row |= self.precision.report()
        row["seconds"] = self.seconds_of_epoch()
        self.history.rows.append(row)
        self.meter = self.train_results = None
        progress.fit_epoch += 1
        progress.epoch_batch = 0
        try:
            self.events.notify("after_epoch", learner, row)
        finally:
            progress.epoch += 1
        self._rest("epoch")

    def _train_epoch(self, meter: EpochMeter) -> dict[str, float]:
        learner, done = self.learner, self.learner.progress.epoch_batch
        set_mode(learner, training=True)
        batches = self._batches_from(done)
        try:
            while window := list(islice(batches, learner.accumulate)):
                self._train_window(window, meter)
                self._rest("step")
        except StopEpoch as stop:
            self.history.notes.append(f"epoch {learner.progress.epoch + 1} cut short: {stop}")
            # half a window's gradients must not reach the next epoch
            self.optimizer.zero_grad(set_to_none=True)
        self.check_finite()
        return meter.compute()

    def _batches_from(self, start: int) -> Iterator[Batch]:
        """The batches of this epoch that were not trained on yet."""
        epoch, device = self.learner.progress.epoch, self.learner.device
        if not start:
            return self.train.batches(epoch, device)
        if not isinstance(self.train, SeekableLoader):
            raise ConfigError(
                "a ready-made DataLoader cannot begin in the middle of an epoch; resume from an epoch's end, or pass "
                "the data set itself instead of the loader"
            )
        return self.train.batches_from(epoch, start, device)

    def _new_meter(self) -> EpochMeter:
        return EpochMeter(self.learner.metrics, loss_is_sum=self.loss_is_sum, training=True)

    def _rest(self, after: Rest) -> None:
        for function in self.at_rest:
            function(after)

    def _train_window(self, window: list[Batch], meter: EpochMeter) -> None:
        """One update over the batches of a window."""
        learner, progress = self.learner, self.learner.progress
        self.events.notify("before_step", learner)
        self.guard.before_step()
        self._skip, self._losses, self._seen, self._updated = "", [], [], None
        amounts = [_amount(batch) for batch in window] if len(window) > 1 and not self.loss_is_sum else []
        for i, raw in enumerate(window, 1):
            self._window_ends = i == len(window)
            # a batch's mean counts by its size: the sum over the window is then the mean over all its samples
            self._share = amounts[i - 1] / sum(amounts) if amounts else None
            try:
                output = learner.step(learner, raw)
            except SkipStep as skip:
                output = self._skipped(raw, skip)
            if not isinstance(output, StepOutput):
                raise ConfigError(f"the step function returned {type(output).__name__}; it must return a StepOutput")
            self._seen.append(output.batch)
            progress.batch += 1
            progress.epoch_batch += 1
            if self._window_ends:
                self._check()
                progress.step += 1
                progress.fit_step += 1
            meter.add(output)
            self.events.notify("after_step", learner, output.batch, output)

    def _check(self) -> None:
        """Refuse a step that did not ask for its update, and end the fit at a value that is not finite."""
        if self._updated is None:
            raise ConfigError("the step function did not call learner.update(), so nothing would be trained")
        if self._updated is not True and not self._skip:
            self._raise_if_bad(self.guard.find_bad(self.learner.progress.fit_step, self._seen))

    def _skipped(self, raw: Batch, skip: SkipStep) -> StepOutput:
        """What a batch gives that a callback refused before the model ran."""
        self._skip = str(skip) or "no reason given"
        self.update()
        nothing = torch.full((), torch.nan, device=self.learner.device)
        return StepOutput(nothing, None, raw, updated=False)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one batch's share of the window."""
        self._losses.append(loss.detach())
        self.precision.backward(loss if self._share is None else loss * self._share)

    def update(self) -> bool | Tensor:
        """At the end of a window: transform the gradients, step if all is finite, clear them."""
        if not self._window_ends:
            return False
        if self._updated is not None:
            raise ConfigError("the step function called learner.update() twice; add the losses up and call it once")
        overflow = None if self._skip else self._unscale()
        try:
            for change in () if self._skip else self.events.transform_grads:
                change(self.learner.model, self.learner)
        except SkipStep as skip:
            self._skip = str(skip) or "no reason given"
        updated: bool | Tensor = False
        if self._skip:
            if overflow is not None:
                # the scale follows the gradients whatever a callback makes of them
                self.precision.after_update(overflow)
            self.history.notes.append(f"step {self.learner.progress.step + 1} skipped: {self._skip}")
        else:
            if not self._losses:
                raise ConfigError("the step function did not call learner.backward(loss), so nothing would be trained")
            updated = self.guard.step(self._losses, self._grads(), overflow)
            self.precision.after_update(overflow)
            if self.learner.average is not None:
                self.learner.average.update(updated)
        self.optimizer.zero_grad(set_to_none=True)
        self._updated = updated
        return updated

    def _grads(self) -> list[Tensor]:
        """What the optimizer will use."""
        groups = self.optimizer.param_groups
        return [tensor.grad for group in groups for tensor in group["params"] if tensor.grad is not None]

    def _unscale(self) -> Tensor | None:
        """Before anything looks at the gradients: they are unscaled first, then clipped."""
        return self.precision.unscale(list(map(dense_values, self._grads())))

    def _raise_if_bad(self, bad: BadStep | None) -> None:
        """End the fit at the first value that is not finite, saying where it came from."""
        if bad is None:
            return
        learner = self.learner
        step = learner.progress.step - learner.progress.fit_step + bad.step + 1
        where = self.guard.explain(bad, step - 1, lambda batch: learner.forward(batch)[0], self.precision.grad)
        raise NonFiniteError(
            f"step {step} (epoch {learner.progress.epoch + 1}) met a value that is not finite, first in {where}"
            f"{self.precision.hint()}"
        )


def _amount(batch: Batch) -> float | Tensor:
    """What a batch counts in a window: its samples or tokens, or the sum of their weights."""
    return batch.num_targets if batch.weight is None else batch.weight.sum()


def set_mode(learner: Learner, *, training: bool) -> None:
    """Put the model, and a loss that has one, in training or evaluation mode."""
    learner.model.train(training)
    if isinstance(learner.loss_fn, nn.Module):
        learner.loss_fn.train(training)
