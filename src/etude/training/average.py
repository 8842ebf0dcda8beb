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
        every: updates between two of the average, with the decay of as many, once the first `every` are over. A copy of
            the weights has to be read and written. What is left over is averaged before the average is used.

    Raises:
        ConfigError: naming the setting and its range.

    Source: Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging"; Tarvainen and Valpola
    2017, "Mean teachers are better role models"; the beginning is TensorFlow's.
    """

    def __init__(self, decay: float = 0.999, *, every: int = 10) -> None:
        if not 0 < decay < 1 or not isinstance(every, int) or every < 1:
            raise ConfigError(
                f"decay must be between 0 and 1, and every a whole number of at least 1, got {decay} and {every}"
            )
        self.decay, self.every = decay, every
        self._updates = self._due = 0
        """Of the weights, and those of them that the average has not seen."""
        self._model: nn.Module = nn.Identity()
        self._live: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] = {}
        self._trained: list[Tensor] | None = None
        """Where the trained weights are while the average is shown."""
        self._versions: list[int] | None = None
        """How often each weight had been written to at the end of the last fit; None within one."""

    def of(self, model: nn.Module) -> EMA:
        """An average of its own for a learner, which begins at the model's weights as they are."""
        own = copy.copy(self)
        own._model, own._live, own._average = model, {}, {}
        own.forget()
        own._versions = own._now()
        return own

    @contextmanager
    def fitting(self, model: nn.Module) -> Iterator[None]:
        """Inside, the model is trained, and the average follows; between two fits it follows what others write."""
        if self._trained is not None:
            raise ConfigError("the model holds the average of its weights now; fit outside of learner.averaged()")
        self._model = model
        self._keep_up()
        self._versions = None
        try:
            yield
        finally:
            self._find_tensors()
            self._versions = self._now()

    def update(self, updated: bool | Tensor) -> None:
        """After an attempted update.

        Args:
            updated: whether the weights changed; a tensor where only the device knows.
        """
        self._updates += 1
        self._due += 1
        if self._due == self.every or self._updates <= self.every:
            self._fold(updated)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the model's tensors hold the average; a change of pointers, and back."""
        if self._trained is None:
            self._keep_up()
            self._find_tensors()
            if self._due:
                self._fold(updated=True)
        with self._holding(list(self._average.values())):
            yield

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Inside, the model's tensors hold the weights that are trained, also within `shown`."""
        with self._holding(self._trained):
            yield

    def forget(self) -> None:
        """Begin anew at the model's weights: somebody has set them."""
        self._average.clear()
        self._updates = self._due = 0
        self._find_tensors()
        self._versions = self._versions and self._now()

    def config(self) -> dict[str, Json]:
        """The constructor's arguments."""
        return {"decay": self.decay, "every": self.every}

    @override
    def __repr__(self) -> str:
        return f"EMA(decay={self.decay}, every={self.every})"

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights under the model's names, and how many updates they have seen and not seen."""
        averaged = {name: value.detach().clone() for name, value in _tensors(self._model).items()}
        averaged |= {name: value.clone() for name, value in self._average.items()}
        return {"updates": self._updates, "due": self._due, "weights": averaged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._find_tensors()
        self._updates, self._due = state["updates"], state["due"]
        for name, average in self._average.items():
            average.copy_(state["weights"][name])

    def _fold(self, updated: bool | Tensor) -> None:
        """Move the average by the updates that it has not seen."""
        self._find_tensors()
        decay = min(self.decay, (1 + self._updates) / (10 + self._updates)) ** self._due
        self._due = 0
        if updated is False:
            return
        averages, live = list(self._average.values()), [tensor.detach() for tensor in self._live.values()]
        if isinstance(updated, bool):
            torch._foreach_lerp_(averages, live, 1 - decay)
            return
        step = torch._foreach_sub(live, averages)
        torch._foreach_mul_(step, (1 - decay) * updated.float())
        torch._foreach_add_(averages, step)

    def _find_tensors(self) -> None:
        """Look the model's tensors up by name: some models make a buffer anew, and a head may have been replaced."""
        before, old = self._live, self._average
        self._live = _averaged(self._model)

        def same(name: str, tensor: Tensor) -> bool:
            made_anew = isinstance(tensor, nn.Parameter) and tensor is not before.get(name)
            return name in old and old[name].shape == tensor.shape and not made_anew

        self._average = {
            name: old[name] if same(name, tensor) else tensor.detach().clone() for name, tensor in self._live.items()
        }

    def _keep_up(self) -> None:
        """Between two fits: begin anew if somebody else has set the weights, by loading others for example."""
        if self._versions is not None and self._now() != self._versions:
            self.forget()

    def _now(self) -> list[int]:
        return [parameter._version for parameter in self._model.parameters()]

    @contextmanager
    def _holding(self, values: list[Tensor] | None) -> Iterator[None]:
        live = list(self._live.values())
        before = [tensor.data for tensor in live]
        outermost = self._trained is None
        self._trained = before if outermost else self._trained
        try:
            _put(live, before if values is None else values)
            yield
        finally:
            _put(live, before)
            if outermost:
                self._trained = None


def _put(tensors: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.data = value


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    """The tensors with numbers that can be averaged, each once, under its first name."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in _tensors(model).items():
        if tensor.is_floating_point():
            found.setdefault(id(tensor), (name, tensor))
    return dict(found.values())


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers themselves, under their names in the state dict."""
    state = model.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}
