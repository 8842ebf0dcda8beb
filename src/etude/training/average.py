"""The average of the weights over the steps: often better than the last weights, and free of their last jumps."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from etude.errors import ConfigError
from etude.types import Json


@final
class EMA:
    """The exponential moving average of a model's weights.

        average = d * average + (1 - d) * weights        d = min(decay, (1 + t) / (10 + t)) after t updates

    Validation, prediction, saved models and the best epoch use the average; training goes on with the weights
    themselves, and a checkpoint holds both. Running statistics of norms are averaged as the weights are: those of the
    last weights do not belong to the average. A step that is skipped does not change it.

    Args:
        decay: per update. 0.999 remembers about the last 1,000 updates; take less for short trainings. The beginning
            has a smaller one, or the first weights would be remembered too long.
        every: updates between two of the average, with the decay of as many. A copy of the weights has to be read and
            written; at 10 that costs less than 1 % of a step.

    Raises:
        ConfigError: naming the setting and its range.

    Source: Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging"; Tarvainen and Valpola
    2017, "Mean teachers are better role models"; the beginning is TensorFlow's.
    """

    def __init__(self, decay: float = 0.999, *, every: int = 10) -> None:
        if not 0 < decay < 1 or every < 1:
            raise ConfigError(f"decay must be between 0 and 1, and every at least 1, got {decay} and {every}")
        self.decay, self.every = decay, every
        self._updates = 0
        self._live: list[Tensor] = []
        self._average: list[Tensor] = []
        self._trained: list[Tensor] = []
        """Where the trained weights are while the average is shown."""

    def of(self, model: nn.Module) -> EMA:
        """An average of its own for a learner, which begins at the model's weights as they are."""
        own = copy.copy(self)
        own._live = []
        own.watch(model)
        return own

    def watch(self, model: nn.Module) -> None:
        """Follow the model's tensors, and begin anew at their values if they are others than before."""
        live = _averaged(model)
        if len(live) != len(self._live) or any(now is not then for now, then in zip(live, self._live, strict=True)):
            self._live, self._average, self._updates = live, [tensor.detach().clone() for tensor in live], 0

    def update(self, updated: bool | Tensor) -> None:
        """After an attempted update.

        Args:
            updated: whether the weights changed; a tensor where only the device knows.
        """
        self._updates += 1
        if self._updates % self.every or updated is False:
            return
        decay = min(self.decay, (1 + self._updates) / (10 + self._updates)) ** self.every
        live = [tensor.detach() for tensor in self._live]
        if isinstance(updated, bool):
            torch._foreach_lerp_(self._average, live, 1 - decay)
            return
        step = torch._foreach_sub(live, self._average)
        torch._foreach_mul_(step, (1 - decay) * updated.float())
        torch._foreach_add_(self._average, step)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the model's tensors hold the average; a change of pointers, and back."""
        with self._holding(self._average):
            yield

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Inside, the model's tensors hold the weights that are trained, also within `shown`."""
        with self._holding(self._trained):
            yield

    @contextmanager
    def _holding(self, values: list[Tensor]) -> Iterator[None]:
        before = [tensor.data for tensor in self._live]
        self._trained = self._trained or before
        outermost = self._trained is before
        try:
            self._put(values or before)
            yield
        finally:
            self._put(before)
            if outermost:
                self._trained = []

    def _put(self, values: list[Tensor]) -> None:
        for tensor, value in zip(self._live, values, strict=True):
            tensor.data = value

    def forget(self) -> None:
        """Begin anew at the model's weights: somebody has set them."""
        torch._foreach_copy_(self._average, [tensor.detach() for tensor in self._live])

    def config(self) -> dict[str, Json]:
        """The constructor's arguments."""
        return {"decay": self.decay, "every": self.every}

    @override
    def __repr__(self) -> str:
        return f"EMA(decay={self.decay}, every={self.every})"

    def state_dict(self, model: nn.Module) -> dict[str, Any]:
        """The averaged weights under the model's names, and the number of updates."""
        with self.shown():
            weights = {name: value.detach().clone() for name, value in _tensors(model).items()}
        return {"updates": self._updates, "weights": weights}

    def load_state_dict(self, model: nn.Module, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._updates = state["updates"]
        places = {id(tensor): average for tensor, average in zip(self._live, self._average, strict=True)}
        for name, tensor in _tensors(model).items():
            if id(tensor) in places:
                places[id(tensor)].copy_(state["weights"][name])


def _averaged(model: nn.Module) -> list[Tensor]:
    """The tensors with numbers that can be averaged, each once."""
    return list({id(tensor): tensor for tensor in _tensors(model).values() if tensor.is_floating_point()}.values())


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers themselves, under their names in the state dict."""
    state = model.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}
