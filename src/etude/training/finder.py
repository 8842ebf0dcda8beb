"""Find a learning rate by trying all: a short training of a copy in which the rate grows with every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn, final

from torch import Tensor
from typing_extensions import override

from etude import losses
from etude.errors import ConfigError, NonFiniteError, StopFit
from etude.optim import set_hyper
from etude.schedules import exponential
from etude.training.callback import Callback
from etude.training.display import progress_bar
from etude.training.lr_curve import FEWEST, LRCurve, smooth, suggest
from etude.training.trial import trial
from etude.types import Batch, StepOutput

if TYPE_CHECKING:
    from etude.training.learner import Learner

_KEEP: Final = 0.9
"""Of the mean that the test is stopped by: each loss weighs so much less than the next one."""


def find_lr(
    learner: Learner, *, low: float = 1e-6, high: float = 10.0, num_steps: int = 100, stop_at: float = 4.0
) -> LRCurve:
    """Train a copy of the learner while the learning rate grows, and see where its loss falls and where it breaks.

    The learner, its optimizer, the random generators, the place in the data and the disk are all as they were
    afterwards, and its next fit is the same to the last bit. The copy takes the transforms along (MixUp, clipping), not
    the watchers; it is not validated. Only what a loader of your own keeps outside of torch's generators moves on.

    Args:
        learner: new, or trained already: the rate that suits a trained model is another one.
        low: the first learning rate, of all layer groups.
        high: the last one.
        num_steps: updates between the two, as many epochs of the data as it takes.
        stop_at: the test ends when the running mean of the loss has risen above its best by (stop_at - 1) times that
            best, or times how far the loss had come down if that is more: at 4 times the best, for most losses.

    Returns:
        The curve and its `suggestion`, which is None when the curve does not say.

    Raises:
        ConfigError: there is nothing to train on, the model cannot be copied, or the rates make no range.

    Source: Smith 2015, "Cyclical learning rates for training neural networks", section 3.3; SPEC A11.
    """
    check_rates(low, high, num_steps)
    if not 1 < stop_at < math.inf:
        raise ConfigError(f"stop_at must be above 1, got {stop_at}; 4 is usual")
    if learner.data.train is None or len(learner.data.train) == 0:
        raise ConfigError("this learner has no training data, and the finder trains; make one with data")
    climb = _Climb(low, high, num_steps, stop_at)
    steps_per_epoch = -(-len(learner.data.train) // learner.accumulate)
    with trial(learner) as copy, progress_bar(enabled=learner.show_progress) as climb.show:
        copy.data = replace(copy.data, valid=None)
        try:
            history = copy.fit(-(-num_steps // steps_per_epoch), callbacks=[climb])
            climb.stopped = climb.stopped or history.stopped or f"the data ended after {len(climb.losses)} steps"
        except NonFiniteError as error:
            # its first sentence says which step, and where in the model
            climb.stopped = f"stopped at {climb.lr:.1e}: {str(error).split('. ')[0]}"
            climb.rose = True
    return climb.curve()


def check_rates(low: float, high: float, num_steps: int) -> None:
    """Refuse what makes no range of learning rates; raises `ConfigError`."""
    if not 0 < low < high < math.inf:
        raise ConfigError(f"the learning rate must grow from above 0: low={low:g} to high={high:g}; try 1e-6 to 10")
    if not isinstance(num_steps, int) or num_steps < FEWEST:
        raise ConfigError(f"num_steps={num_steps!r} must be a whole number of at least {FEWEST}; 100 is usual")


@final
class _Climb(Callback):
    """Raises the learning rate with each step, keeps the losses, and ends the fit."""

    def __init__(self, low: float, high: float, num_steps: int, stop_at: float) -> None:
        self.low, self.high, self.num_steps, self.stop_at = low, high, num_steps, stop_at
        self.show: Callable[[str, int, int], None] = lambda what, done, total: None
        self.lr, self.step = low, 0
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self.stopped, self.rose = "", False
        self._window: list[tuple[Tensor, int]] = []
        self._at = 0
        self._sum = self._weight = 0.0
        self._first = self._best = math.nan

    @override
    def before_step(self, learner: Learner) -> None:
        """Set this step's rate, in every layer group."""
        assert learner.optimizer is not None
        self.lr = exponential(self.low, self.high)(self.step / (self.num_steps - 1))
        set_hyper(learner.optimizer, "lr", [self.lr])
        self._window, self._at = [], learner.progress.step

    @override
    def after_step(self, learner: Learner, batch: Batch, output: StepOutput) -> None:
        """At the end of a window keep its mean loss, which waits for the device: a hundred steps can afford that."""
        if output.preds is not None or not output.loss.isnan():  # a batch skipped before the model ran has no loss
            self._window.append((output.loss, batch.num_targets))
        if learner.progress.step == self._at:
            return
        self.step += 1
        self.show("learning rates", self.step, self.num_steps)
        if self._window:
            self._keep(_mean(self._window, is_sum=losses.reduction_of(learner.loss_fn) == "sum"))
        if isinstance(output.updated, Tensor) and not output.updated:
            # the loop hears of it later, and names the place as it ends
            self._end("a gradient is not finite", rose=True)
        if self.step == self.num_steps:
            self._end("", rose=False)

    def curve(self) -> LRCurve:
        """What was found."""
        smoothed, note = smooth(self.losses), ""
        try:
            suggestions = suggest(self.lrs, self.losses, smoothed, rose=self.rose)
        except ConfigError as error:
            suggestions, note = {}, str(error)
        return LRCurve(
            tuple(self.lrs),
            tuple(self.losses),
            tuple(smoothed),
            stopped=self.stopped,
            suggestions=suggestions,
            note=note,
        )

    def _keep(self, loss: float) -> None:
        """Add a step's loss to the curve, and end the test where the loss has left its range."""
        if not math.isfinite(loss):
            self._end(f"the loss is {loss}", rose=True)
        self.lrs.append(self.lr)
        self.losses.append(loss)
        self._sum, self._weight = _KEEP * self._sum + loss, _KEEP * self._weight + 1
        mean = self._sum / self._weight
        if len(self.losses) == 1:
            self._first = self._best = mean
        self._best = min(self._best, mean)
        if mean - self._best > (self.stop_at - 1) * max(abs(self._best), self._first - self._best):
            self._end(f"the running mean of the loss rose to {mean:.3g}, from {self._best:.3g} at best", rose=True)

    def _end(self, reason: str, *, rose: bool) -> NoReturn:
        self.rose = rose
        self.stopped = f"stopped at {self.lr:.1e}: {reason}" if reason else f"tried all {self.num_steps} rates"
        raise StopFit(self.stopped)


def _mean(window: list[tuple[Tensor, int]], *, is_sum: bool) -> float:
    """The mean loss of a window's batches, each counted by its samples; a sum stays the sum of a mean batch."""
    sizes = [1 if is_sum else size for _, size in window]
    return sum(float(loss) * size for (loss, _), size in zip(window, sizes, strict=True)) / sum(sizes)
