"""End a fit that no longer improves, and keep the best weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from typing_extensions import override

from etude.errors import ConfigError, StopFit
from etude.training.callback import Callback
from etude.training.history import History
from etude.types import Json

if TYPE_CHECKING:
    from etude.training.learner import Learner


def is_better(value: float, best: float | None, *, maximize: bool, min_delta: float = 0.0) -> bool:
    """Whether a value beats the best one by more than `min_delta`; NaN never does."""
    if value != value:
        return False
    return best is None or (value > best + min_delta if maximize else value < best - min_delta)


def direction(monitor: str, maximize: bool | None) -> bool:
    """Losses, errors and perplexities are to be small, anything else large, unless said otherwise."""
    if maximize is not None:
        return maximize
    return not any(word in monitor for word in ("loss", "entropy", "error", "perplexity"))


def _value(monitor: str, results: dict[str, float]) -> float:
    if monitor not in results:
        raise ConfigError(f"there is no {monitor!r} to watch; this fit has {sorted(results)}")
    return results[monitor]


@final
class EarlyStopping(Callback):
    """Stop when a result has not improved for some epochs.

    Args:
        monitor: a column of the epoch table.
        patience: epochs without improvement before the fit ends.
        min_delta: the least change that counts as improvement.
        maximize: whether larger is better; None judges by the name.
    """

    def __init__(
        self, monitor: str = "valid_loss", *, patience: int = 3, min_delta: float = 0.0, maximize: bool | None = None
    ) -> None:
        if patience < 1:
            raise ConfigError(f"patience must be at least 1 epoch, got {patience}")
        self.monitor, self.patience, self.min_delta = monitor, patience, min_delta
        self.maximize = direction(monitor, maximize)
        self.best: float | None = None
        self.epochs_since = 0

    @override
    def before_fit(self, learner: Learner) -> None:
        """Start counting anew."""
        self.best, self.epochs_since = None, 0

    @override
    def after_epoch(self, learner: Learner, results: dict[str, float]) -> None:
        """Compare with the best, and raise `StopFit` when patience is over."""
        value = _value(self.monitor, results)
        if value != value:
            raise StopFit(f"{self.monitor} is not a number; look for bad samples in that data")
        if is_better(value, self.best, maximize=self.maximize, min_delta=self.min_delta):
            self.best, self.epochs_since = value, 0
            return
        self.epochs_since += 1
        if self.epochs_since >= self.patience:
            raise StopFit(f"{self.monitor} has not improved on {self.best} for {self.patience} epochs")

    @override
    def state_dict(self) -> dict[str, Any]:
        """The best value and how long ago it was."""
        return {"best": self.best, "epochs_since": self.epochs_since}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self.best, self.epochs_since = state["best"], state["epochs_since"]

    @override
    def config(self) -> dict[str, Json]:
        """The constructor's arguments."""
        return {
            "monitor": self.monitor,
            "patience": self.patience,
            "min_delta": self.min_delta,
            "maximize": self.maximize,
        }


@final
class SaveBest(Callback):
    """Keep the weights of the best epoch in memory and put them back at the end of the fit.

    Args:
        monitor: a column of the epoch table.
        maximize: whether larger is better; None judges by the name.
    """

    def __init__(self, monitor: str = "valid_loss", *, maximize: bool | None = None) -> None:
        self.monitor, self.maximize = monitor, direction(monitor, maximize)
        self.best: float | None = None
        self.epoch = 0
        """The epoch, counted from 1, that `weights` are of; 0 before the first."""
        self.weights: dict[str, Tensor] = {}

    @override
    def before_fit(self, learner: Learner) -> None:
        """Forget an earlier fit's best."""
        self.best, self.epoch, self.weights = None, 0, {}

    @override
    def after_epoch(self, learner: Learner, results: dict[str, float]) -> None:
        """Copy the weights if this epoch is the best so far."""
        value = _value(self.monitor, results)
        if is_better(value, self.best, maximize=self.maximize):
            self.best, self.epoch = value, int(results["epoch"])
            with learner.averaged():
                state = learner.model.state_dict()
                self.weights = {name: tensor.detach().clone() for name, tensor in state.items()}

    @override
    def after_fit(self, learner: Learner, history: History) -> None:
        """Put the best weights back, also after an early stop."""
        if self.weights:
            with torch.no_grad():
                for name, tensor in learner.model.state_dict().items():
                    tensor.copy_(self.weights[name])
            if learner.average is not None:
                learner.average.forget()

    @override
    def state_dict(self) -> dict[str, Any]:
        """The best value, its epoch and weights."""
        return {"best": self.best, "epoch": self.epoch, "weights": dict(self.weights)}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.best, self.epoch, self.weights = state["best"], state["epoch"], dict(state["weights"])

    @override
    def config(self) -> dict[str, Json]:
        """The constructor's arguments."""
        return {"monitor": self.monitor, "maximize": self.maximize}
