"""Gradient clipping."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch import nn
from typing_extensions import override

from etude.errors import ConfigError
from etude.training.callback import Callback
from etude.types import Json

if TYPE_CHECKING:
    from etude.training.learner import Learner


@final
class ClipGradNorm(Callback):
    """Scale all gradients down when their joint length is above `max_norm`.

    Works on true gradients, after any unscaling and over the whole accumulated step.

    Args:
        max_norm: the longest step in units of the gradient's L2 norm; 0.1 is what AWD-LSTM training uses.

    Source: Pascanu, Mikolov and Bengio 2012, "On the difficulty of training recurrent neural networks"; SPEC R12.
    """

    def __init__(self, max_norm: float) -> None:
        if max_norm <= 0:
            raise ConfigError(f"max_norm must be positive, got {max_norm}")
        self.max_norm = max_norm

    @override
    def transform_grads(self, model: nn.Module, learner: Learner) -> None:
        """Clip in place, without waiting for the device."""
        nn.utils.clip_grad_norm_(model.parameters(), self.max_norm)

    @override
    def config(self) -> dict[str, Json]:
        """`max_norm`."""
        return {"max_norm": self.max_norm}
