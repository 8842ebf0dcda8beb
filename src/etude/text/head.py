"""The last layer of a language model together with its loss, so that the scores of all words are never kept.

With 30,000 words the scores of a batch are the largest tensor of a training step by far. Its gradient is known as soon
as the scores are: softmax minus one-hot. So the fused form computes loss and gradients from a chunk of tokens at once,
in one buffer, and all that is left of it is as large as the weights and the hidden vectors. What is as large as the
scores also costs time to get from the system and to pass over, so it is done as seldom as can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

from etude.errors import ConfigError
from etude.text.gemm import add_product, linear, product

if TYPE_CHECKING:
    from jaxtyping import Float, Int

HeadPrecision: TypeAlias = Literal["fp32", "bf16"]
Tails: TypeAlias = tuple[tuple[Tensor, Tensor], ...]
"""Of an adaptive softmax: for each cluster of rare words, the two weights that make its scores."""

_MOST_SCORES: Final = 2**24
"""In one chunk of tokens: 64 MiB in float32, 280 tokens of 60,000 words."""


@final
class TiedDecoder(nn.Module):
    """A score for each word: the product of the output with the word's own vector, and a bias.

    The vectors are those of the embedding; they stay there, and a state dict holds them once.

    Args:
        vocab_size: words.

    Source: Press and Wolf 2017, "Using the output embedding to improve language models"; SPEC R10.
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def parts(self, vectors: Float[Tensor, "word embed"]) -> tuple[Tensor, Tensor, Tails]:
        """Weight, bias and tails of the scores."""
        return vectors, self.bias, ()


@final
class AdaptiveDecoder(nn.Module):
    """Scores in two steps: those of frequent words at once, those of rare ones in clusters that are seldom looked at.

    Words must be numbered by falling frequency, as a `Vocab` of tokens is. Its weights are its own, not tied. About
    four times fewer operations at 60,000 words, at some cost in perplexity.

    Args:
        vocab_size: words.
        embed_dim: width of the encoder's output.
        cutoffs: the first word of each cluster.

    Source: Grave et al. 2017, "Efficient softmax approximation for GPUs".
    """

    def __init__(self, vocab_size: int, embed_dim: int, cutoffs: tuple[int, ...]) -> None:
        super().__init__()
        if not cutoffs or list(cutoffs) != sorted(set(cutoffs)) or cutoffs[0] < 1 or cutoffs[-1] >= vocab_size:
            raise ConfigError(f"cutoffs must be growing word numbers below {vocab_size}, got {list(cutoffs)}")
        if embed_dim < 4 ** len(cutoffs):
            raise ConfigError(
                f"{len(cutoffs)} clusters, each a quarter as wide, need {4 ** len(cutoffs)} features, not {embed_dim}"
            )
        self.cutoffs = tuple(cutoffs)
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(embed_dim, vocab_size, list(cutoffs), head_bias=True)

    def parts(self, vectors: Float[Tensor, "word embed"]) -> tuple[Tensor, Tensor, Tails]:
        """Weight, bias and tails of the scores."""
        tails = tuple((tail[0].weight, tail[1].weight) for tail in self.softmax.tail)  # type: ignore[index]
        return self.softmax.head.weight, self.softmax.head.bias, tails


Decoder: TypeAlias = TiedDecoder | AdaptiveDecoder


def linear_cross_entropy(
    hidden: Float[Tensor, "token embed"],
    weight: Float[Tensor, "word embed"],
    bias: Float[Tensor, "word"],
    targets: Int[Tensor, "token"],
    precision: HeadPrecision = "fp32",
) -> Float[Tensor, ""]:
    """`F.cross_entropy(F.linear(hidden, weight, bias), targets)`, one chunk of tokens at a time.

    Args:
        hidden: what the scores are computed from.
        weight: one row per word.
        bias: one number per word.
        targets: the right words.
        precision: "bf16" multiplies the large matrices in bfloat16 in training; softmax, loss and sums are float32.
    """
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (hidden, weight, bias)):
        loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, bias, targets, precision)  # type: ignore[no-untyped-call]
        return loss
    total = hidden.new_zeros(())
    for chunk in _chunks(len(hidden), len(weight)):
        scores = F.linear(hidden[chunk], weight, bias)
        total += F.cross_entropy(scores, targets[chunk], reduction="sum")
    return total / len(hidden)


def _chunks(num_tokens: int, num_words: int) -> Iterator[slice]:
    """Parts of the tokens, each with no more scores than `_MOST_SCORES`, as equal as can be."""
    num = max(1, -(-num_tokens * num_words // _MOST_SCORES))
    size = max(1, -(-num_tokens // num))
    return (slice(start, start + size) for start in range(0, num_tokens, size))


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and gradients of the fused form, formed together in the forward pass.

    A row of scores becomes exp(score - largest) and stays so: the division by the row's sum, which would make it a
    softmax, and the one by the number of tokens are left to the small factors of each product.
    """

    @staticmethod
    @override
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, precision: HeadPrecision
    ) -> Tensor:
        for_hidden, for_weight, for_bias, *_ = ctx.needs_input_grad
        dtype = torch.bfloat16 if precision == "bf16" else hidden.dtype
        low_hidden, low_weight, low_bias = hidden.to(dtype), weight.to(dtype), bias.to(dtype)
        loss, grad_hidden, grad_bias = hidden.new_zeros(()), torch.empty_like(hidden), torch.zeros_like(bias)
        grad_weight: Tensor | None = None
        chunks = list(_chunks(len(hidden), len(weight)))
        buffer = hidden.new_empty(chunks[0].stop, len(weight))
        for chunk in chunks:
            here = hidden[chunk]
            scores = linear(low_hidden[chunk], low_weight, low_bias, buffer[: len(here)]).to(hidden.dtype)
            losses, sums = _to_gradient(scores, targets[chunk].unsqueeze(1))
            loss += losses.sum()
            share, scores = 1 / (sums * len(hidden)), scores.to(dtype)
            if for_hidden:
                grad_hidden[chunk] = product(scores, low_weight) * share
            if for_weight:
                grad_weight = add_product(grad_weight, scores.t(), (here * share).to(dtype)).to(weight.dtype)
            if for_bias:
                grad_bias += product(share.t().to(dtype), scores).squeeze(0)
        ctx.grads = (grad_hidden if for_hidden else None, grad_weight, grad_bias if for_bias else None)
        return loss / len(hidden)

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("the gradients of this loss were handed out already; compute it again")
        # handed out and forgotten: who gets them may add to them in place
        grads, ctx.grads = ctx.grads, None
        if grad.device.type != "cpu" or grad != 1:
            grads = [None if part is None else part.mul_(grad) for part in grads]
        return *grads, None, None


def _to_gradient(
    scores: Float[Tensor, "token word"], targets: Int[Tensor, "token 1"]
) -> tuple[Float[Tensor, "token 1"], Float[Tensor, "token 1"]]:
    """Make of scores, in place, their gradient times the sum of a row's exponentials; return losses and these sums."""
    largest, right = scores.amax(1, keepdim=True), scores.gather(1, targets)
    sums = scores.sub_(largest).exp_().sum(1, keepdim=True)
    scores.scatter_add_(1, targets, -sums)
    return sums.log() + largest - right, sums


def adaptive_log_probs(
    hidden: Float[Tensor, "token embed"],
    weight: Float[Tensor, "first embed"],
    bias: Float[Tensor, "first"],
    tails: Tails,
) -> Float[Tensor, "token word"]:
    """The log-probabilities of all words under an adaptive softmax."""
    frequent = len(weight) - len(tails)
    log_probs = F.linear(hidden, weight, bias).log_softmax(-1)
    parts = [log_probs[:, :frequent]]
    for i, tail in enumerate(tails):
        parts.append(_tail_log_probs(hidden, tail) + log_probs[:, frequent + i, None])
    return torch.cat(parts, 1)


def adaptive_cross_entropy(
    hidden: Float[Tensor, "token embed"],
    weight: Float[Tensor, "first embed"],
    bias: Float[Tensor, "first"],
    tails: Tails,
    targets: Int[Tensor, "token"],
) -> Float[Tensor, ""]:
    """The cross entropy of an adaptive softmax; rare words are scored only for the tokens that are one of them.

    Which these are has to be known on the host, which waits for a GPU here.
    """
    frequent = len(weight) - len(tails)
    first = targets.clone()
    total = hidden.new_zeros(())
    begin = frequent
    for i, tail in enumerate(tails):
        end = begin + len(tail[1])
        rows = ((targets >= begin) & (targets < end)).nonzero().squeeze(1)
        first[rows] = frequent + i
        own = _tail_log_probs(hidden[rows], tail)
        total = total - own.gather(1, (targets[rows] - begin).unsqueeze(1)).sum()
        begin = end
    return (total + F.cross_entropy(F.linear(hidden, weight, bias), first, reduction="sum")) / len(hidden)


def _tail_log_probs(hidden: Tensor, tail: tuple[Tensor, Tensor]) -> Tensor:
    narrow, wide = tail
    return F.linear(F.linear(hidden, narrow), wide).log_softmax(-1)
