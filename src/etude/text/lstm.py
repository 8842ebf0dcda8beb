"""One LSTM layer on torch's fused kernel, with dropout on its hidden-to-hidden weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from etude.text.dropout import check_probability, dropout_mask

if TYPE_CHECKING:
    from jaxtyping import Float

LayerState: TypeAlias = tuple[Tensor, Tensor]
"""What a layer carries from chunk to chunk: hidden state h and cell c, each (1, batch, hidden)."""


@final
class WeightDropLSTM(nn.Module):
    """An LSTM layer whose hidden-to-hidden weights are dropped in training, one mask for a whole chunk of text.

    The layer is a pure function of inputs and state. Its weights are plain parameters; what is dropped is a product of
    one of them, made anew in every forward pass, so gradients reach the weight itself, the state dict holds it once,
    and a copy or a freeze after a training step is nothing special. Without dropout it is `nn.LSTM` to the last bit.

    Args:
        input_dim: features of the input.
        hidden_dim: features of the output.
        weight_dropout: the probability that a hidden-to-hidden weight is zero in a forward pass.

    Source: Wan et al. 2013, "Regularization of neural networks using DropConnect"; Merity et al. 2017, section 2;
    SPEC R1, R7.
    """

    def __init__(self, input_dim: int, hidden_dim: int, *, weight_dropout: float = 0.5) -> None:
        super().__init__()
        self.hidden_dim, self.weight_dropout = hidden_dim, check_probability(weight_dropout, "weight")
        # rows in torch's order of gates: input, forget, cell, output
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_dim, input_dim))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_dim, hidden_dim))
        self.bias_ih = nn.Parameter(torch.empty(4 * hidden_dim))
        self.bias_hh = nn.Parameter(torch.empty(4 * hidden_dim))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden_dim), 1 / math.sqrt(hidden_dim))

    @override
    def forward(
        self, inputs: Float[Tensor, "batch time feature"], state: LayerState
    ) -> tuple[Float[Tensor, "batch time hidden"], LayerState]:
        weight_hh: Tensor = self.weight_hh
        if self.training and self.weight_dropout:
            weight_hh = weight_hh * dropout_mask(weight_hh, weight_hh.shape, self.weight_dropout)
        dtype = _computing_type(inputs)
        weights = [weight.to(dtype) for weight in (self.weight_ih, weight_hh, self.bias_ih, self.bias_hh)]
        if inputs.is_cuda:
            weights = _in_one_piece(weights)
        before = (state[0].to(inputs.device, dtype), state[1].to(inputs.device, dtype))
        with torch.autocast(inputs.device.type, enabled=False):
            outputs, hidden, cell = torch.lstm(
                inputs.to(dtype), before, weights, True, 1, 0.0, self.training, False, batch_first=True
            )
        return outputs.to(inputs.dtype), (hidden, cell)

    @override
    def extra_repr(self) -> str:
        return f"{self.weight_ih.shape[1]}, {self.hidden_dim}, weight_dropout={self.weight_dropout}"


def _computing_type(inputs: Tensor) -> torch.dtype:
    """Float32 on a CPU whatever the inputs are: the backward pass of its 16-bit LSTM takes twenty times as long.

    Elsewhere what autocast says, which is not left to torch: its own rule for recurrent layers is float16.
    """
    kind = inputs.device.type
    if kind == "cpu":
        return torch.promote_types(inputs.dtype, torch.float32)
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype


def _in_one_piece(weights: list[Tensor]) -> list[Tensor]:
    """The weights behind one another in memory, as cuDNN wants them: else it warns, and does the same by itself."""
    flat = torch.cat([weight.reshape(-1) for weight in weights])
    parts = flat.split([weight.numel() for weight in weights])
    return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]
