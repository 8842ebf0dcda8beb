"""The dropouts of an AWD-LSTM: cheap masks, one mask for all time steps, and whole words.

Drawing a mask with `F.dropout` costs more than the multiplication that it is for. Here a single draw of 64 random bits
makes four decisions, and a mask is never larger than it has to be: one row for all time steps, one number per word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Final, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from etude.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_LEVELS: Final = 2**16
"""Of one decision: 16 of the 64 bits of a draw."""


@dataclass(frozen=True)
class Dropouts:
    """The probabilities of an AWD-LSTM's five dropouts.

    Args:
        output: of the last layer's output, before the decoder.
        hidden: of the output of every other layer.
        input: of the word vectors.
        embed: of whole words: all occurrences of a word in a batch vanish together.
        weight: of the single hidden-to-hidden weights.

    The defaults are the lesson's for a language model trained from nothing; `scaled` makes all weaker or stronger at
    once, as transfer wants it.

    Raises:
        ConfigError: a probability is not in [0, 1).

    Source: Merity et al. 2017, "Regularizing and optimizing LSTM language models", section 4; SPEC R5-R11.
    """

    output: float = 0.4
    hidden: float = 0.2
    input: float = 0.6
    embed: float = 0.1
    weight: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            check_probability(getattr(self, field.name), field.name)

    def scaled(self, factor: float) -> Dropouts:
        """All five times `factor`.

        >>> Dropouts(0.4, 0.2, 0.6, 0.1, 0.5).scaled(0.5)
        Dropouts(output=0.2, hidden=0.1, input=0.3, embed=0.05, weight=0.25)
        """
        return replace(self, **{field.name: getattr(self, field.name) * factor for field in fields(self)})


def check_probability(p: float, name: str) -> float:
    """A dropout probability as it is; raises `ConfigError` if it is not in [0, 1)."""
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p < 1:
        raise ConfigError(f"the {name} dropout must be a probability in [0, 1), got {p!r}; 0 switches it off")
    return float(p)


def dropout_mask(like: Tensor, shape: Sequence[int], p: float) -> Float[Tensor, "..."]:
    """A mask to multiply with: 0 with probability `p`, else 1 / (1 - p).

    Args:
        like: gives type and device.
        shape: of the mask.
        p: exact to 1 / 65,536.

    Source: SPEC R5.
    """
    num = math.prod(shape)
    bits = torch.empty(-(-num // 4), dtype=torch.int64, device=like.device).random_(-(2**63), None)
    mask = torch.empty(num, dtype=like.dtype, device=like.device)
    torch.ge(bits.view(torch.int16)[:num], round(p * _LEVELS) - _LEVELS // 2, out=mask)
    return mask.mul_(1 / (1 - p)).view(*shape)


@final
class VariationalDropout(nn.Module):
    """Dropout with one mask for all time steps of a sequence: a feature is there throughout, or not at all.

    Args:
        p: the probability that a feature of a row is zero.

    Source: Gal and Ghahramani 2016, "A theoretically grounded application of dropout in recurrent neural networks";
    SPEC R6.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_probability(p, "variational")

    @override
    def forward(self, x: Float[Tensor, "batch time feature"]) -> Float[Tensor, "batch time feature"]:
        if not self.training or not self.p:
            return x
        return x * dropout_mask(x, (x.shape[0], 1, x.shape[2]), self.p)

    @override
    def extra_repr(self) -> str:
        return f"p={self.p}"


@final
class WordEmbedding(nn.Module):
    """Word vectors, of which whole words are dropped: every occurrence of a word in the batch vanishes with it.

    The mask has one number per word of the vocabulary and is gathered for the words of the batch, so the vectors of all
    other words are neither read nor written.

    Args:
        vocab_size: words.
        embed_dim: numbers in a word's vector.
        pad: the number of the padding token, whose vector begins at zero and gets no gradient from here.
        dropout: the probability that a word is dropped.

    Source: Gal and Ghahramani 2016; Merity et al. 2017, section 4.3; SPEC R8, R9.
    """

    def __init__(self, vocab_size: int, embed_dim: int, *, pad: int, dropout: float = 0.1) -> None:
        super().__init__()
        if not 0 <= pad < vocab_size:
            raise ConfigError(f"pad={pad} is not the number of a word; expected 0 to {vocab_size - 1}")
        self.pad, self.dropout = pad, check_probability(dropout, "embedding")
        self.weight = nn.Parameter(torch.empty(vocab_size, embed_dim).uniform_(-0.1, 0.1))
        with torch.no_grad():
            self.weight[pad] = 0

    @override
    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time embed"]:
        vectors = F.embedding(tokens, self.weight, self.pad)
        if not self.training or not self.dropout:
            return vectors
        mask = dropout_mask(vectors, (len(self.weight),), self.dropout)
        return vectors * mask[tokens].unsqueeze(-1)

    @override
    def extra_repr(self) -> str:
        vocab_size, embed_dim = self.weight.shape
        return f"{vocab_size}, {embed_dim}, pad={self.pad}, dropout={self.dropout}"
