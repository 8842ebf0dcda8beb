"""A text classifier as one module that can be traced, whatever the number and length of the texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# the only loop that a graph can hold whose number of steps is not known before; torch has no public name for it yet
from torch._higher_order_ops.scan import scan
from typing_extensions import override

from etude.exports.plain import Plain, probabilities
from etude.text.classifier import TextClassifier
from etude.text.lstm import WeightDropLSTM

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@final
class WholeText(nn.Module):
    """The model and what makes probabilities of its scores, in evaluation.

    The model reads chunks and hands on its state; in evaluation that is one long pass, as it is here. What stands
    behind a text's end is read as well, and changes nothing before it.

    Args:
        given: what is exported.
    """

    def __init__(self, given: Plain) -> None:
        super().__init__()
        model = given.learner.model
        assert isinstance(model, TextClassifier)
        self.embedding, self.rnns, self.head = model.encoder.embedding, model.encoder.rnns, model.head
        self.outputs = given.outputs

    @override
    def forward(self, tokens: Int[Tensor, "batch time"], lengths: Int[Tensor, "batch"]) -> Float[Tensor, "batch class"]:
        x = F.embedding(tokens, self.embedding.weight)
        for rnn in self.rnns:
            assert isinstance(rnn, WeightDropLSTM)
            x = _run(rnn, x)
        real = (torch.arange(tokens.shape[1], device=tokens.device) < lengths.unsqueeze(1)).unsqueeze(2)
        last = x.gather(1, (lengths - 1).view(-1, 1, 1).expand(-1, 1, x.shape[2])).squeeze(1)
        largest = x.masked_fill(~real, -torch.inf).amax(1)
        mean = (x * real).sum(1) / lengths.unsqueeze(1)
        return probabilities(self.head(torch.cat([last, largest, mean], 1)).float(), self.outputs)


def _run(rnn: WeightDropLSTM, inputs: Tensor) -> Tensor:
    """An LSTM layer from a state of zeros, as a loop over time."""
    gates = F.linear(inputs, rnn.weight_ih, rnn.bias_ih + rnn.bias_hh).transpose(0, 1)

    def step(state: tuple[Tensor, Tensor], gates: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        hidden, cell = state
        enter, forget, new, leave = (gates + F.linear(hidden, rnn.weight_hh)).chunk(4, 1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        hidden = leave.sigmoid() * cell.tanh()
        # the state and what is kept of it may not be one tensor
        return (hidden, cell), hidden.clone()

    # len() would make the size of the batch a number of the graph
    zeros = inputs.new_zeros(inputs.shape[0], rnn.hidden_dim)
    _, outputs = scan(step, (zeros, zeros.clone()), gates, dim=0)
    found: Tensor = outputs.transpose(0, 1)
    return found
