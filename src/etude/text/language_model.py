"""A language model: an encoder that reads, a decoder that says the next word, and the loss that trains both.

The state of the last batch is where the next one begins. A batch says itself which of its rows begin anew, so there is
no callback that has to reset anything. What training carries along is a buffer, so a checkpoint holds it; validation
carries its own and leaves that of training alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from etude.errors import ConfigError
from etude.metrics import ValidOnly
from etude.text.awd_lstm import AWDLSTM, State
from etude.text.head import (
    AdaptiveDecoder,
    Decoder,
    HeadPrecision,
    Tails,
    TiedDecoder,
    adaptive_cross_entropy,
    adaptive_log_probs,
    linear_cross_entropy,
)
from etude.types import Json

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class LMOutput(NamedTuple):
    """What a language model returns: all that scores and loss are computed from, but no scores.

    The scores of all words are some hundred times larger, and the loss is computed without ever keeping them.
    """

    dropped: Float[Tensor, "batch time embed"]
    """The last layer's output after dropout: what the decoder sees."""
    raw: Float[Tensor, "batch time embed"]
    """The same before dropout."""
    weight: Float[Tensor, "word embed"]
    bias: Float[Tensor, "word"]
    tails: Tails = ()
    """Of an adaptive softmax."""

    def logits(self) -> Float[Tensor, "batch time word"]:
        """The scores of all words at every place; log-probabilities where the softmax is adaptive."""
        return scores(self.dropped, self)


def scores(hidden: Float[Tensor, "*place embed"], output: LMOutput) -> Float[Tensor, "*place word"]:
    """The scores of all words for some hidden vectors of an output."""
    if not output.tails:
        return nn.functional.linear(hidden, output.weight, output.bias)
    flat = adaptive_log_probs(hidden.flatten(0, -2), output.weight, output.bias, output.tails)
    return flat.view(*hidden.shape[:-1], flat.shape[1])


@final
class LanguageModel(nn.Module):
    """Predicts the next token at every place of a stream of text.

    The carried state differs from one process to the next, so `DistributedDataParallel` must leave buffers alone:
    `broadcast_buffers=False`.

    Args:
        encoder: reads the tokens.
        decoder: from its output to words; None ties it to the encoder's word vectors.

    Source: SPEC R9-R11.
    """

    def __init__(self, encoder: AWDLSTM, decoder: Decoder | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder: Decoder = TiedDecoder(encoder.vocab_size) if decoder is None else decoder
        self._valid_state: State | None = None
        self.carry(1)

    def carry(self, batch_size: int) -> None:
        """Begin the carried state of training anew, for batches of so many rows."""
        for i, (hidden, cell) in enumerate(self.encoder.zero_state(batch_size)):
            self.register_buffer(f"state_{i}_h", hidden, persistent=False)
            self.register_buffer(f"state_{i}_c", cell, persistent=False)

    @override
    def forward(self, tokens: Int[Tensor, "batch time"], starts: Bool[Tensor, "batch"]) -> LMOutput:
        """Read the next chunk of each row.

        Args:
            tokens: the chunk.
            starts: the rows that begin a new stream here, instead of going on from the last batch.
        """
        raw, dropped, state = self.encoder.encode(tokens, self._state_before(starts))
        self._keep(state)
        return LMOutput(dropped, raw, *self.decoder.parts(self.encoder.embedding.weight))

    def step(
        self, tokens: Int[Tensor, "batch time"], state: State | None = None
    ) -> tuple[Float[Tensor, "batch word"], State]:
        """The scores of the token after the last one, and the state there: to generate text.

        Nothing is kept in the model: the state goes in and comes out.
        """
        raw, dropped, state = self.encoder.encode(tokens, state)
        output = LMOutput(dropped, raw, *self.decoder.parts(self.encoder.embedding.weight))
        return scores(dropped[:, -1], output), state

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Each LSTM layer, then the word vectors with the decoder that shares them.

        Source: SPEC T-C2.
        """
        embedding, *rnns = self.encoder.layer_groups()
        return [*rnns, [*embedding, *self.decoder.parameters()]]

    def config(self) -> dict[str, Json]:
        """What builds it again."""
        cutoffs = list(self.decoder.cutoffs) if isinstance(self.decoder, AdaptiveDecoder) else None
        return {"arch": "language_model", "encoder": self.encoder.config(), "cutoffs": cutoffs}

    def _state_before(self, starts: Bool[Tensor, "batch"]) -> State:
        """The state that each row goes on from: zero where it begins anew."""
        state = self._carried() if self.training else self._valid_state
        if state is None or state[0][0].shape[1] != len(starts):
            if self.training:
                self.carry(len(starts))
            return self.encoder.zero_state(len(starts))
        rows = starts.view(1, -1, 1)
        return tuple((hidden.masked_fill(rows, 0), cell.masked_fill(rows, 0)) for hidden, cell in state)

    @torch.no_grad()
    def _keep(self, state: State) -> None:
        """Carry the state to the next batch; no gradient goes back over it."""
        if not self.training:
            self._valid_state = tuple((hidden.detach(), cell.detach()) for hidden, cell in state)
            return
        for own, new in zip(self._carried(), state, strict=True):
            own[0].copy_(new[0])
            own[1].copy_(new[1])

    def _carried(self) -> State:
        layers = range(len(self.encoder.rnns))
        return tuple((self.get_buffer(f"state_{i}_h"), self.get_buffer(f"state_{i}_c")) for i in layers)


@final
class LanguageModelLoss(nn.Module):
    """Cross entropy per token; in training, activation regularization is added.

        loss = cross entropy + ar * mean(dropped^2) + tar * mean((raw[t+1] - raw[t])^2)

    AR keeps outputs small, TAR keeps them from changing fast. Both are part of the training objective only: a loss in
    evaluation is the plain cross entropy, whose exponential is the perplexity.

    Args:
        ar: weight of the first; of the output after dropout, as the paper has it.
        tar: weight of the second; of the output before dropout, along time.
        head: "bf16" computes the scores and their gradients in bfloat16 in training.

    Source: Merity et al. 2017, "Revisiting activation regularization for language RNNs"; SPEC R13, R14.
    """

    def __init__(self, ar: float = 2.0, tar: float = 1.0, *, head: HeadPrecision = "fp32") -> None:
        super().__init__()
        if ar < 0 or tar < 0:
            raise ConfigError(f"ar and tar weigh penalties: at least 0, which leaves one out, got {ar} and {tar}")
        if head not in ("fp32", "bf16"):
            raise ConfigError(f"head must be 'fp32' or 'bf16', got {head!r}")
        self.ar, self.tar, self.head = ar, tar, head

    @override
    def forward(self, preds: LMOutput, targets: Int[Tensor, "batch time"]) -> Float[Tensor, ""]:
        hidden, words = preds.dropped.flatten(0, 1), targets.flatten()
        if preds.tails:
            loss = adaptive_cross_entropy(hidden, preds.weight, preds.bias, preds.tails, words)
        else:
            loss = linear_cross_entropy(hidden, preds.weight, preds.bias, words, self.head)
        if self.training and self.ar:
            loss = loss + self.ar * preds.dropped.square().mean()
        if self.training and self.tar and targets.shape[1] > 1:
            loss = loss + self.tar * preds.raw.diff(dim=1).square().mean()
        return loss

    @override
    def extra_repr(self) -> str:
        return f"ar={self.ar}, tar={self.tar}, head={self.head!r}"


def next_token_accuracy(preds: LMOutput, targets: Int[Tensor, "batch time"]) -> Float[Tensor, ""]:
    """The share of tokens that the model gave the highest score to."""
    hits = [
        (scores(row, preds).argmax(-1) == target).double().mean()
        for row, target in zip(preds.dropped, targets, strict=True)
    ]
    return torch.stack(hits).mean()


accuracy = ValidOnly("accuracy", next_token_accuracy)
"""Of the next token, in validation: the scores are computed once more for it."""
