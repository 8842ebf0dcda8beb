"""Stop at one place of the step and look around."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

from torch import nn
from typing_extensions import override

from etude.errors import ConfigError
from etude.training.callback import Callback
from etude.training.history import History
from etude.types import Batch, Json, StepOutput

if TYPE_CHECKING:
    from etude.training.learner import Learner

Place: TypeAlias = Literal[
    "before_fit",
    "before_epoch",
    "before_step",
    "transform_batch",
    "transform_grads",
    "after_step",
    "after_eval_batch",
    "after_epoch",
    "after_fit",
]


@final
class Debug(Callback):
    """At one event call a function, or open the debugger.

    Put it last in the list to see what every other callback has made of the step. The function may raise `StopFit`.

    Args:
        at: the event.
        call: called as `call(learner, *values of the event)`; None opens the debugger.
        times: how often; None for every time.

    Example: `fit(1, callbacks=[Debug(at="transform_grads", call=print_details, times=1)])`

    Source: SPEC T11.
    """

    def __init__(self, at: Place, call: Callable[..., None] | None = None, *, times: int | None = None) -> None:
        if at not in Place.__args__:  # type: ignore[attr-defined]  # the names of the Literal
            raise ConfigError(f"unknown event {at!r}, choose from {Place.__args__}")  # type: ignore[attr-defined]
        self.at, self.call, self.times = at, call, times
        self.seen = 0

    def _look(self, at: Place, learner: Learner, *values: Any) -> None:
        if at != self.at or (self.times is not None and self.seen >= self.times):
            return
        self.seen += 1
        if self.call is not None:
            self.call(learner, *values)
        else:
            breakpoint()  # noqa: T100  # what this callback is for

    @override
    def transform_batch(self, batch: Batch, learner: Learner) -> Batch:
        """Look at the batch; it goes on unchanged."""
        self._look("transform_batch", learner, batch)
        return batch

    @override
    def transform_grads(self, model: nn.Module, learner: Learner) -> None:
        """Look at the gradients."""
        self._look("transform_grads", learner, model)

    @override
    def before_fit(self, learner: Learner) -> None:
        self._look("before_fit", learner)

    @override
    def before_epoch(self, learner: Learner) -> None:
        self._look("before_epoch", learner)

    @override
    def before_step(self, learner: Learner) -> None:
        self._look("before_step", learner)

    @override
    def after_step(self, learner: Learner, batch: Batch, output: StepOutput) -> None:
        self._look("after_step", learner, batch, output)

    @override
    def after_eval_batch(self, learner: Learner, batch: Batch, output: StepOutput) -> None:
        self._look("after_eval_batch", learner, batch, output)

    @override
    def after_epoch(self, learner: Learner, results: dict[str, float]) -> None:
        self._look("after_epoch", learner, results)

    @override
    def after_fit(self, learner: Learner, history: History) -> None:
        self._look("after_fit", learner, history)

    @override
    def state_dict(self) -> dict[str, Any]:
        """How often it has looked."""
        return {"seen": self.seen}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self.seen = state["seen"]

    @override
    def config(self) -> dict[str, Json]:
        """Where it looks, and how often."""
        return {"at": self.at, "times": self.times}
