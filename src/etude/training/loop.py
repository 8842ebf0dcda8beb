"""The loop around the step: epochs, windows of accumulated batches, validation, and an orderly end.

A `Loop` lives for one fit and owns what belongs to that fit alone: its callbacks, its finite guard, its history, and
where in a window of accumulated batches the step is. The learner's verbs `backward` and `update` work on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from etude import losses
from etude.data.loaders import Loader
from etude.errors import ConfigError, NonFiniteError, SkipStep, StopEpoch, StopFit
from etude.metrics import EpochMeter
from etude.training import snapshot
from etude.training.callback import Callback, Events
from etude.training.finite import BadStep, FiniteGuard, first_bad_place
from etude.training.history import History, Row
from etude.types import Batch, StepOutput

if TYPE_CHECKING:
    from etude.training.learner import Learner


class Loop:
    """One fit of a learner.

    Args:
        learner: what is trained.
        optimizer: its optimizer.
        train: the training batches.
        callbacks: every callback of this fit, in the order in which they work.
    """

    def __init__(self, learner: Learner, optimizer: Optimizer, train: Loader, callbacks: Sequence[Callback]) -> None:
        self.learner, self.optimizer, self.train = learner, optimizer, train
        self.events = Events(callbacks)
        self.history = History()
        self.guard = FiniteGuard(learner.model, optimizer, learner.device)
        self.loss_is_sum = losses.reduction_of(learner.loss_fn) == "sum"
        self._tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        self._share: float | Tensor | None = None
        self._window_ends = True
        self._skip = ""
        self._updated: bool | Tensor | None = None
        self._losses: list[Tensor] = []
        self.at_epoch_end: list[Callable[[], None]] = []
        """Called after every watcher has seen an epoch: where a snapshot of all of them can be taken."""

    def run(self, num_epochs: int, resume: snapshot.Snapshot | None = None) -> History:
        """Train to the end, or until a callback stops the fit or something fails."""
        learner, progress = self.learner, self.learner.progress
        progress.num_epochs, progress.steps_per_epoch = num_epochs, -(-len(self.train) // learner.accumulate)
        progress.fit_epoch = progress.fit_step = 0
        with self._open():
            self.events.notify("before_fit", learner)
            if resume is not None:
                snapshot.restore(resume, learner, self)
            while progress.fit_epoch < num_epochs:
                self._epoch()
        return self.history

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Open the callbacks, close every one however the fit ends, and write down why it ended."""
        learner, history = self.learner, self.history
        with ExitStack() as stack:
            stack.callback(learner.model.zero_grad, set_to_none=True)
            for callback in self.events.callbacks:
                stack.enter_context(callback.during_fit(learner))
            for callback in reversed(self.events.callbacks):
                stack.callback(callback.after_fit, learner, history)
            try:
                yield
            except StopFit as stop:
                history.stopped = str(stop) or "a callback stopped the fit"
                # a device that runs ahead may have met a bad value that the host has not heard of
                self._raise_if_bad(self.guard.last_word())
            except BaseException as error:
                history.stopped = f"{type(error).__name__}: {error}".removesuffix(": ")
                if self.guard.last_word() is not None:
                    self.guard.restore_buffers()
                raise

    def _epoch(self) -> None:
        learner, progress = self.learner, self.learner.progress
        started = time.perf_counter()
        self.events.notify("before_epoch", learner)
        row: Row = {"epoch": progress.epoch + 1}
        row |= {f"train_{name}": value for name, value in self._train_epoch().items()}
        if learner.data.valid is not None:
            row |= {f"valid_{name}": value for name, value in learner.evaluate().items()}
        row["seconds"] = time.perf_counter() - started
        self.history.rows.append(row)
        progress.fit_epoch += 1
        try:
            self.events.notify("after_epoch", learner, row)
        finally:
            progress.epoch += 1
        for function in self.at_epoch_end:
            function()

    def _train_epoch(self) -> dict[str, float]:
        learner = self.learner
        meter = EpochMeter(learner.metrics, loss_is_sum=self.loss_is_sum)
        set_mode(learner, training=True)
        batches = self.train.batches(learner.progress.epoch, learner.device)
        try:
            while window := list(islice(batches, learner.accumulate)):
                self._train_window(window, meter)
        except StopEpoch as stop:
            self.history.notes.append(f"epoch {learner.progress.epoch + 1} cut short: {stop}")
            # half a window's gradients must not reach the next epoch
            self.optimizer.zero_grad(set_to_none=True)
        self._raise_if_bad(self.guard.last_word())
        return meter.compute()

    def _train_window(self, window: list[Batch], meter: EpochMeter) -> None:
        """One update over the batches of a window."""
        learner, progress = self.learner, self.learner.progress
        self.events.notify("before_step", learner)
        self.guard.before_step()
        self._skip, self._losses, self._updated = "", [], None
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
            progress.batch += 1
            if self._window_ends:
                self._check(output)
                progress.step += 1
                progress.fit_step += 1
            meter.add(output)
            self.events.notify("after_step", learner, output.batch, output)

    def _check(self, output: StepOutput) -> None:
        """Refuse a step that did not ask for its update, and end the fit at a value that is not finite."""
        if self._updated is None:
            raise ConfigError("the step function did not call learner.update(), so nothing would be trained")
        if self._updated is not True and not self._skip:
            self._raise_if_bad(self.guard.find_bad(self.learner.progress.fit_step, output.batch))

    def _skipped(self, raw: Batch, skip: SkipStep) -> StepOutput:
        """What a batch gives that a callback refused before the model ran."""
        self._skip = str(skip) or "no reason given"
        self.update()
        nothing = torch.full((), torch.nan, device=self.learner.device)
        return StepOutput(nothing, None, raw, updated=False)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one batch's share of the window."""
        self._losses.append(loss.detach())
        (loss if self._share is None else loss * self._share).backward()

    def update(self) -> bool | Tensor:
        """At the end of a window: transform the gradients, step if all is finite, clear them."""
        if not self._window_ends:
            return False
        if self._updated is not None:
            raise ConfigError("the step function called learner.update() twice; add the losses up and call it once")
        try:
            for change in () if self._skip else self.events.transform_grads:
                change(self.learner.model, self.learner)
        except SkipStep as skip:
            self._skip = str(skip) or "no reason given"
        updated: bool | Tensor = False
        if self._skip:
            self.history.notes.append(f"step {self.learner.progress.step + 1} skipped: {self._skip}")
        else:
            if not self._losses:
                raise ConfigError("the step function did not call learner.backward(loss), so nothing would be trained")
            grads = [tensor.grad for tensor in self._tensors if tensor.grad is not None]
            updated = self.guard.step(self._losses, grads)
        self.optimizer.zero_grad(set_to_none=True)
        self._updated = updated
        return updated

    def _raise_if_bad(self, bad: BadStep | None) -> None:
        """End the fit at the first value that is not finite, saying where it came from."""
        if bad is None:
            return
        learner = self.learner
        self.guard.restore_buffers()
        try:
            place = first_bad_place(learner.model, bad.batch, lambda batch: learner.forward(batch)[0])
        except Exception as error:
            place = f"a place that could not be found ({type(error).__name__}: {error})"
        finally:
            self.guard.restore_buffers()
        step = learner.progress.step - learner.progress.fit_step + bad.step + 1
        weights = f"The weights are those of step {step - 1}."
        if not all(bool(tensor.isfinite().all()) for tensor in self._tensors):
            weights = f"The update of step {step - 1} had overflowed: the weights are lost, go back to saved ones."
        raise NonFiniteError(
            f"step {step} (epoch {learner.progress.epoch + 1}) met a value that is not finite, first in {place}. "
            f"{weights} A lower learning rate, gradient clipping or cleaner inputs are the usual cures."
        )


def _amount(batch: Batch) -> float | Tensor:
    """What a batch counts in a window: its samples, or the sum of their weights."""
    return batch.size if batch.weight is None else batch.weight.sum()


def set_mode(learner: Learner, *, training: bool) -> None:
    """Put the model, and a loss that has one, in training or evaluation mode."""
    learner.model.train(training)
    if isinstance(learner.loss_fn, nn.Module):
        learner.loss_fn.train(training)
