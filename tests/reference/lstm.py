"""The LSTM as the lesson writes it down, and an AWD-LSTM made of it that takes its dropout masks as arguments.

Slow and plain: what the fused layers are compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LSTMCell(nn.Module):
    """One time step.

        input, forget, output = sigmoid(...)    new = tanh(...)
        cell = forget * cell + input * new      hidden = output * tanh(cell)

    Each (...) is a linear function of the input plus one of the hidden state. Rows are in torch's order: input, forget,
    new, output.
    """

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.input_hidden = nn.Linear(input_dim, 4 * hidden_dim)
        self.hidden_hidden = nn.Linear(hidden_dim, 4 * hidden_dim)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, cell = state
        gates = (self.input_hidden(x) + self.hidden_hidden(hidden)).chunk(4, 1)
        come_in, forget, output = (gates[i].sigmoid() for i in (0, 1, 3))
        cell = forget * cell + come_in * gates[2].tanh()
        hidden = output * cell.tanh()
        return hidden, (hidden, cell)


class LSTMLayer(nn.Module):
    """A cell, called for one time step after the other."""

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.cell = LSTMCell(input_dim, hidden_dim)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        outputs = []
        for step in x.unbind(1):
            output, state = self.cell(step, state)
            outputs.append(output)
        return torch.stack(outputs, 1), state

    def load(self, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> LSTMLayer:
        """Take the weights of another one."""
        own = (self.cell.input_hidden, self.cell.hidden_hidden)
        for linear, weight, bias in zip(own, (weight_ih, weight_hh), (bias_ih, bias_hh), strict=True):
            linear.weight.data, linear.bias.data = weight.detach().clone(), bias.detach().clone()
        return self


class Masks(NamedTuple):
    """Every dropout mask of one forward pass, scale included."""

    embed: Tensor
    """One number per word."""
    input: Tensor
    weights: Sequence[Tensor]
    hidden: Sequence[Tensor]
    output: Tensor


def awd_lstm_loss(
    weights: dict[str, Tensor],
    masks: Masks,
    tokens: Tensor,
    targets: Tensor,
    state: Sequence[tuple[Tensor, Tensor]],
    ar: float,
    tar: float,
) -> Tensor:
    """The training loss of a tied language model, one time step at a time.

    Args:
        weights: of a `LanguageModel`, under their names in its state dict.
        masks: of this forward pass.
        tokens: (batch, time).
        targets: (batch, time).
        state: (hidden, cell) of each layer, (batch, hidden).
        ar: weight of the activation regularization.
        tar: weight of the temporal one.
    """
    vectors = weights["encoder.embedding.weight"]
    x = vectors[tokens] * masks.embed[tokens].unsqueeze(2) * masks.input
    for i, before in enumerate(state):
        own = [weights[f"encoder.rnns.{i}.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        (hidden, cell), outputs = before, []
        for step in x.unbind(1):
            gates = step @ own[0].T + own[2] + hidden @ (own[1] * masks.weights[i]).T + own[3]
            come_in, forget, new, output = gates.chunk(4, 1)
            cell = forget.sigmoid() * cell + come_in.sigmoid() * new.tanh()
            hidden = output.sigmoid() * cell.tanh()
            outputs.append(hidden)
        x = torch.stack(outputs, 1)
        if i < len(state) - 1:
            x = x * masks.hidden[i]
    dropped = x * masks.output
    scores = dropped @ vectors.T + weights["decoder.bias"]
    loss = F.cross_entropy(scores.flatten(0, 1), targets.flatten())
    return loss + ar * dropped.pow(2).mean() + tar * (x[:, 1:] - x[:, :-1]).pow(2).mean()
