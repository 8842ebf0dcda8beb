"""Classify whole texts: an encoder reads each one piece by piece, and a small head sees what it made of it.

A text may have thousands of tokens, so it is read in chunks that hand on the encoder's state. What the head is given
is small however long the text is: the output at the last token, and the maximum and the mean of the outputs at all of
them. Only the last chunks of each text keep what a gradient needs, so memory does not grow with its length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from etude.errors import ConfigError
from etude.text.awd_lstm import AWDLSTM, State
from etude.text.dropout import check_probability
from etude.types import Json

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_MOST_TOKENS: Final = 1 << 24


@final
class HeadNorm(nn.BatchNorm1d):
    """A BatchNorm whose statistics are those of the training from its first batches on.

    Torch begins with a mean of 0 and a variance of 1, of which a third is left after ten batches. What an encoder gives
    has a variance of a thousandth, or of a millionth if nothing was learned before, so a head that had trained for a
    few steps answered as if by chance in evaluation. Here the n-th batch has a share of 3 / (n + 2), until that is
    `momentum`: the first one replaces what was there, and the later a batch, the more it counts, for the features move
    while the weights do. In training, and after many batches, it is torch's.

    What remains: statistics follow features that move, so they lag while the learning rate is high; one cycle ends
    with a low one. A model without a pretrained encoder that has trained for some ten steps can still answer by chance.
    """

    @override
    def forward(self, input: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
        if not self.training:
            return super().forward(input)
        mean, variance, count = self.running_mean, self.running_var, self.num_batches_tracked
        assert mean is not None
        assert variance is not None
        assert count is not None
        assert self.momentum is not None
        with torch.no_grad():
            count += 1
            share = (3 / (count + 2)).clamp(min=self.momentum).to(mean.dtype)
            of_batch = torch.var_mean(input.to(mean.dtype), 0)
            variance.lerp_(of_batch[0], share)
            mean.lerp_(of_batch[1], share)
        return F.batch_norm(input, None, None, self.weight, self.bias, training=True, eps=self.eps)


@final
class TextClassifier(nn.Module):
    """An encoder, and a head that sees the last, the largest and the mean output over the tokens of each text.

    In training, the last `max_backprop` tokens of *every* text train the encoder, those of a short text in a batch of
    long ones too; what lies before them is read without gradients, and still counts in maximum and mean. No gradient
    passes from one chunk to the one before it.

    Args:
        encoder: reads the tokens.
        num_classes: classes.
        hidden: width of the layer between encoder and classes.
        output_p: dropout in front of that layer.
        hidden_p: dropout in front of the classes.
        bptt: the longest chunk, in tokens.
        max_backprop: how many tokens at the end of each text train the encoder; in whole chunks, one at least.

    Source: Howard and Ruder 2018, "Universal language model fine-tuning for text classification", section 3.3; SPEC
    R20-R25.
    """

    def __init__(
        self,
        encoder: AWDLSTM,
        num_classes: int,
        *,
        hidden: int = 50,
        output_p: float = 0.4,
        hidden_p: float = 0.1,
        bptt: int = 70,
        max_backprop: int = 1400,
    ) -> None:
        super().__init__()
        if not (0 < bptt <= _MOST_TOKENS and 0 < max_backprop <= _MOST_TOKENS):
            raise ConfigError(
                f"bptt and max_backprop count tokens, 1 to {_MOST_TOKENS:,}, got {bptt} and {max_backprop}"
            )
        self.encoder, self.bptt, self.max_backprop = encoder, bptt, max_backprop
        self.head = nn.Sequential(
            *_norm_drop_linear(3 * encoder.embed_dim, hidden, output_p),
            nn.ReLU(),
            *_norm_drop_linear(hidden, num_classes, hidden_p),
        )
        self._config: dict[str, Json] = {
            "num_classes": num_classes,
            "hidden": hidden,
            "output_p": output_p,
            "hidden_p": hidden_p,
            "bptt": bptt,
            "max_backprop": max_backprop,
        }

    @override
    def forward(self, tokens: Int[Tensor, "batch time"], lengths: Int[Tensor, "batch"]) -> Float[Tensor, "batch class"]:
        """The scores of the classes.

        Args:
            tokens: texts, padded at their ends.
            lengths: tokens of each text; an empty one counts as one token of padding. In any order.
        """
        if self.training and len(tokens) == 1:
            raise ConfigError(
                "a batch of one text has no spread for the head's BatchNorm to train with; choose another batch size"
            )
        lengths = lengths.clamp(min=1)
        num = -(-tokens.shape[1] // self.bptt)
        width = -(-tokens.shape[1] // num)
        tokens, real = end_together(tokens, lengths, width, self.encoder.pad)
        scores: Tensor = self.head(self._read(tokens, real, lengths, width))
        return scores

    def _read(
        self,
        tokens: Int[Tensor, "batch time"],
        real: Bool[Tensor, "batch time"],
        lengths: Int[Tensor, "batch"],
        width: int,
    ) -> Float[Tensor, "batch features"]:
        """What the head is given of texts that end in the same chunk."""
        state: State | None = None
        pooled: Pooled | None = None
        first_trained = tokens.shape[1] - width * max(1, self.max_backprop // width)
        for start in range(0, tokens.shape[1], width):
            here = slice(start, start + width)
            with torch.set_grad_enabled(torch.is_grad_enabled() and start >= first_trained):
                output, _, state = self.encoder.encode(tokens[:, here], state)
                pooled = pool(output, real[:, here], pooled)
            # a text that begins in a later chunk begins from nothing, whatever padding has left behind
            begun = real[:, start].view(1, -1, 1)
            state = tuple((h.detach() * begun, c.detach() * begun) for h, c in state)
        assert pooled is not None
        at_end = (lengths - 1) % width
        last = output[torch.arange(len(output), device=output.device), at_end]
        return torch.cat([last, pooled.largest, pooled.total / lengths.unsqueeze(1)], 1)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The embedding, each layer of the encoder, and the head.

        Source: SPEC R25.
        """
        return [*self.encoder.layer_groups(), list(self.head.parameters())]

    def config(self) -> dict[str, Json]:
        """The arguments that build it again, the encoder's among them."""
        return {"arch": "text_classifier", "encoder": self.encoder.config(), **self._config}


class Pooled(NamedTuple):
    """What has been seen of each text so far."""

    largest: Float[Tensor, "batch embed"]
    total: Float[Tensor, "batch embed"]


def pool(output: Float[Tensor, "batch time embed"], real: Bool[Tensor, "batch time"], before: Pooled | None) -> Pooled:
    """The largest and the summed outputs over the real tokens of a chunk and of all chunks before it.

    Neither keeps a copy of the chunk for its gradient: a maximum by its places, and a sum as a product with the mask.
    The sum is float32 also where autocast would make it bfloat16: a mean over a text is small beside the rounding of
    its sum.

    Source: SPEC R22.
    """
    largest = output.masked_fill(~real.unsqueeze(2), -torch.inf).max(1).values
    with torch.autocast(output.device.type, enabled=False):
        wide = output.to(torch.promote_types(output.dtype, torch.float32))
        total = (real.unsqueeze(1).to(wide.dtype) @ wide).squeeze(1)
    if before is None:
        return Pooled(largest, total)
    return Pooled(torch.maximum(before.largest, largest), before.total + total)


def end_together(
    tokens: Int[Tensor, "batch time"], lengths: Int[Tensor, "batch"], width: int, pad: int
) -> tuple[Int[Tensor, "batch columns"], Bool[Tensor, "batch columns"]]:
    """Move each text right by whole chunks, so that all of them end in the last one.

    Nothing waits for the device: how far each one moves is known there only.

    Args:
        tokens: texts, padded at their ends.
        lengths: tokens of each.
        width: of a chunk.
        pad: the token to put in front of them, and behind.

    Returns:
        The texts in columns whose number is a multiple of `width`, and which of the places hold a text.

    >>> tokens, real = end_together(torch.tensor([[5, 6, 7], [8, 1, 1]]), torch.tensor([3, 1]), width=2, pad=1)
    >>> tokens.tolist()
    [[5, 6, 7, 1], [1, 1, 8, 1]]
    """
    num = -(-tokens.shape[1] // width)
    shift = (num - torch.div(lengths + width - 1, width, rounding_mode="floor")) * width
    place = torch.arange(num * width, device=tokens.device) - shift.unsqueeze(1)
    real = (place >= 0) & (place < lengths.unsqueeze(1))
    return tokens.gather(1, place.clamp(0, tokens.shape[1] - 1)).where(real, pad), real


def _norm_drop_linear(num_in: int, num_out: int, p: float) -> list[nn.Module]:
    """Source: SPEC R24."""
    return [HeadNorm(num_in), nn.Dropout(check_probability(p, "head's")), nn.Linear(num_in, num_out)]
