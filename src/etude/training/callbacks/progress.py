"""Show where a fit is and how it goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, final

from typing_extensions import override

from etude.training.callback import Callback
from etude.training.display import Display, open_display
from etude.types import Batch, StepOutput

if TYPE_CHECKING:
    from etude.training.learner import Learner

_SECONDS_BETWEEN = 0.25


@final
class ShowProgress(Callback):
    """A bar for the epoch under way and a table row for each finished one.

    In a terminal the bar redraws at most four times a second, in a notebook one output is updated in place, and
    without a terminal there is one plain line per epoch. Of the training columns the table shows the loss and the
    first metric; `learner.history` has them all. The loss is shown in the bar only on a CPU, where reading
    it costs nothing.
    """

    decides_training = False

    def __init__(self) -> None:
        self._display: Display | None = None
        self._next = 0.0
        self._part, self._done = "", 0

    @override
    def during_fit(self, learner: Learner) -> AbstractContextManager[Any]:
        """The display, closed however the fit ends."""
        return self._opened()

    @contextmanager
    def _opened(self) -> Iterator[None]:
        try:
            with open_display() as self._display:
                yield
        finally:
            self._display = None

    @override
    def before_epoch(self, learner: Learner) -> None:
        """A new bar, at once."""
        self._part, self._next = "", 0.0

    @override
    def after_step(self, learner: Learner, batch: Batch, output: StepOutput) -> None:
        """Redraw if it is time."""
        self._count(learner, "train", output)

    @override
    def after_eval_batch(self, learner: Learner, batch: Batch, output: StepOutput) -> None:
        """Redraw if it is time."""
        self._count(learner, "valid", output)

    @override
    def after_epoch(self, learner: Learner, results: dict[str, float]) -> None:
        """One more row."""
        if self._display is not None:
            shown = {"train_loss", *(f"train_{name}" for name in list(learner.metrics)[:1])}
            self._display.row({k: v for k, v in results.items() if k in shown or not k.startswith("train_")})

    def _count(self, learner: Learner, part: str, output: StepOutput) -> None:
        if part != self._part:
            self._part, self._done = part, 0
        self._done += 1
        now = time.perf_counter()
        if now < self._next or self._display is None:
            return
        self._next = now + _SECONDS_BETWEEN
        loader, progress = learner.data.train if part == "train" else learner.data.valid, learner.progress
        total = self._done if loader is None else max(len(loader), self._done)
        loss = f"loss {float(output.loss):.3f}" if learner.device.type == "cpu" else ""
        self._display.bar(f"epoch {progress.fit_epoch + 1}/{progress.num_epochs} {part}", self._done, total, loss)
