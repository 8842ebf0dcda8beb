"""What a callback may do: transform a value on its way through the step, or watch.

    raw batch -> [transform_batch]* -> preprocess -> model -> loss -> backward -> [transform_grads]* -> optimizer
    before_fit, before_epoch, before_step ... after_step, after_eval_batch, after_epoch, after_fit   (watch)

A transform gets a value and returns it; a watcher returns nothing, so it cannot change the step. Only methods that
a class overrides are ever called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn
from typing_extensions import override

from etude.errors import ConfigError, StopEpoch, StopFit
from etude.types import Batch, Json, StepOutput

if TYPE_CHECKING:
    from etude.training.history import History
    from etude.training.learner import Learner


_IN_TRAINING = ("before_step", "after_step")


class Callback:
    """The base of every callback; each class directly below it is final.

    Methods are called in the order of the learner's list. To combine two callbacks, wrap them in a third.
    """

    decides_training: ClassVar[bool] = True
    """Whether a fit without it, or with other settings of it, could end with other weights.

    A resume is strict about these, and takes the others as they come: a progress bar, the record of a run.
    """

    # -- transform: training only, the value comes in and goes out ------------------------------------------------

    def transform_batch(self, batch: Batch, learner: Learner) -> Batch:
        """Return the batch to train on. May raise `SkipStep`."""
        return batch

    def transform_grads(self, model: nn.Module, learner: Learner) -> None:
        """Change gradients in place, once per update, after unscaling. May raise `SkipStep`."""

    # -- watch: nothing is returned; may raise `StopFit`, and before_step and after_step `StopEpoch` ---------------

    def before_fit(self, learner: Learner) -> None:
        """The optimizer exists; nothing has been trained yet."""

    def before_epoch(self, learner: Learner) -> None:
        """`learner.progress` points at the epoch's first step."""

    def before_step(self, learner: Learner) -> None:
        """Once per update, before its first batch: the place to set hyper-parameters."""

    def after_step(self, learner: Learner, batch: Batch, output: StepOutput) -> None:
        """Once per batch, with the batch that the model saw."""

    def after_eval_batch(self, learner: Learner, batch: Batch, output: StepOutput) -> None:
        """Once per batch of a validation pass."""

    def after_epoch(self, learner: Learner, results: dict[str, float]) -> None:
        """Training and validation of the epoch are over; `results` is its row of the history."""

    def after_fit(self, learner: Learner, history: History) -> None:
        """The fit is over: finished, stopped or failed (`history.stopped` says why)."""

    # -- keep -----------------------------------------------------------------------------------------------------

    def during_fit(self, learner: Learner) -> AbstractContextManager[Any]:
        """What must be open for the length of a fit, such as a forward hook; closed however the fit ends."""
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs: numbers, strings, tensors, and lists and dicts of them."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""

    def config(self) -> dict[str, Json]:
        """The settings that a run's record must hold."""
        return {}

    @override
    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse what would be silently ignored: a misspelt event, or a callback built on another one."""
        super().__init_subclass__(**kwargs)
        if cls.__mro__[1] is not Callback:
            raise TypeError(
                f"{cls.__name__} must derive from Callback alone: {cls.__mro__[1].__name__} is final; wrap it"
            )
        known = {name for name in vars(Callback) if not name.startswith("_")}
        for name in vars(cls):
            if name.startswith(("before_", "after_", "transform_", "during_")) and name not in known:
                close = get_close_matches(name, known, 1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise TypeError(f"{cls.__name__}.{name} is not an event of Callback{hint}")


def instances(callbacks: Sequence[Callback]) -> tuple[Callback, ...]:
    """The callbacks as a tuple; raises `ConfigError` for what is none, such as a class that was not called."""
    given = tuple(callbacks) if isinstance(callbacks, Sequence) else (callbacks,)
    for callback in given:
        if not isinstance(callback, Callback):
            hint = f"; make one: {callback.__name__}(...)" if isinstance(callback, type) else ""
            raise ConfigError(f"expected a list of callbacks, found {callback!r}{hint}")
    return given


def describe(callback: Callback) -> str:
    """The callback's class and settings on one line, as in `MixUp(alpha=0.4, at='input')`."""
    settings = ", ".join(f"{name}={value!r}" for name, value in callback.config().items())
    return f"{type(callback).__name__}({settings})"


class Events:
    """The methods that a list of callbacks really overrides, by event; the base's empty ones are never called."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = tuple(callbacks)
        self._methods = {
            event: tuple(getattr(callback, event) for callback in callbacks if event in vars(type(callback)))
            for event in vars(Callback)
            if event.startswith(("before_", "after_", "transform_"))
        }
        self.transform_batch: tuple[Callable[[Batch, Learner], Batch], ...] = self._methods["transform_batch"]
        self.transform_grads: tuple[Callable[[nn.Module, Learner], None], ...] = self._methods["transform_grads"]

    def notify(self, event: str, *args: object) -> None:
        """Call every watcher of an event; a signal of one does not keep it from the others. StopFit goes first."""
        raised: StopFit | StopEpoch | None = None
        for watch in self._methods[event]:
            try:
                watch(*args)
            except StopFit as signal:
                raised = raised if isinstance(raised, StopFit) else signal
            except StopEpoch as signal:
                raised = raised or signal
        if isinstance(raised, StopEpoch) and event not in _IN_TRAINING:
            raise ConfigError(f"StopEpoch can be raised in {' and '.join(_IN_TRAINING)}, not in {event}") from raised
        if raised is not None:
            raise raised
