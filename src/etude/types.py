"""The values that flow through a training step, and the axis legend of the whole library.

Axis names in shape annotations mean the same thing everywhere:

    batch     samples of one batch                 class     classes of a classifier
    channel   channels of a picture or feature map height, width   pixels, rows first
    time      places of a text, or a part of one   token     places of all texts of a batch, behind one another
    word      words of a vocabulary                embed, hidden   features of a word's vector, of a layer's output
    ...       any further axes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped

Json: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None
Inputs: TypeAlias = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


@runtime_checkable
class HasConfig(Protocol):
    """A model, a preprocess or a step that can say how it was built."""

    def config(self) -> dict[str, Json]:
        """The arguments that build it again."""
        ...


class MixedTargets(NamedTuple):
    """Two labels for each sample and the share of the first: what MixUp and CutMix return.

    Each of the two may be mixed itself, as MixUp after CutMix leaves them. No one-hot matrix is built, so the number
    of classes does not matter.

    Source: SPEC M3, M8.
    """

    first: Shaped[Tensor, "batch ..."] | MixedTargets
    second: Shaped[Tensor, "batch ..."] | MixedTargets
    weight: Float[Tensor, "batch"]
    """The share of `first`, in [0, 1]."""

    @property
    def dominant(self) -> Shaped[Tensor, "batch ..."]:
        """The label with the largest share of each sample, shares of equal labels summed (the first one in a tie)."""
        if isinstance(self.first, Tensor) and isinstance(self.second, Tensor):
            return self.first.where(per_sample_view(self.weight, self.first) >= 0.5, self.second)
        labels, shares = torch.stack(self.labels()), torch.stack(self.shares())
        num, size = shares.shape
        flat = labels.view(num, size, labels[0, 0].numel())
        # (label, other, batch): the share of every label that is the same
        total = (shares * (flat.unsqueeze(1) == flat).all(3)).sum(1)
        return labels[total.argmax(0), torch.arange(size, device=labels.device)]

    def labels(self) -> list[Shaped[Tensor, "batch ..."]]:
        """Every label that was mixed, from left to right."""
        return [*_labels(self.first), *_labels(self.second)]

    def shares(self) -> list[Float[Tensor, "batch"]]:
        """The share of each of `labels()`; the shares of a sample sum to 1."""
        return [*_shares(self.first, self.weight), *_shares(self.second, 1 - self.weight)]


def select(targets: Tensor | MixedTargets, samples: Int[Tensor, "picked"]) -> Tensor | MixedTargets:
    """The targets of some samples, by their positions in the batch."""
    if isinstance(targets, Tensor):
        return targets.index_select(0, samples)
    first, second = select(targets.first, samples), select(targets.second, samples)
    return MixedTargets(first, second, targets.weight.index_select(0, samples))


def count_targets(targets: Any, size: int) -> int:
    """What a batch of `size` samples counts in a mean over a data set: where each sample has many targets, such as a
    word at every place of a text, it counts all of them, so that a shorter last chunk does not count as a whole one."""
    if isinstance(targets, Tensor) and targets.ndim > 1 and not targets.is_floating_point():
        return targets.numel()
    return size


def _labels(targets: Tensor | MixedTargets) -> list[Tensor]:
    return [targets] if isinstance(targets, Tensor) else targets.labels()


def _shares(targets: Tensor | MixedTargets, share: Float[Tensor, "batch"]) -> list[Tensor]:
    return [share] if isinstance(targets, Tensor) else [share * part for part in targets.shares()]


class Batch(NamedTuple):
    """What a loader yields and a model sees.

    A tuple of inputs is passed as `model(*inputs)`, a dict as `model(**inputs)`.
    """

    inputs: Inputs
    targets: Any
    """A tensor, a tuple or dict of tensors, or `MixedTargets`."""
    weight: Float[Tensor, "batch"] | None = None
    """How much each sample counts in the loss; None means 1 for all."""
    indices: Int[Tensor, "batch"] | None = None
    """Each sample's position in its data set; augmentation is keyed by it. Where samples are drawn with replacement,
    the positions of one that an epoch draws again count on by the number of samples."""

    @property
    def size(self) -> int:
        """The number of samples."""
        first = self.inputs
        while not isinstance(first, Tensor):
            first = next(iter(first.values())) if isinstance(first, dict) else first[0]
        return first.shape[0]

    @property
    def num_targets(self) -> int:
        """What the batch counts in a mean: its samples, or their tokens."""
        return count_targets(self.targets, self.size)

    def first(self, num: int) -> Batch:
        """The first `num` samples."""
        batch: Batch = tree_map_only(Tensor, lambda tensor: tensor[:num], self)
        return batch


class StepOutput(NamedTuple):
    """What one training step or one evaluated batch gave. Everything is detached and safe to keep."""

    loss: Tensor
    """The scalar loss as the loss function reduced it: not scaled, not divided by `accumulate`."""
    preds: Any
    """What the model returned, in float32 or wider; None when the batch was skipped before the model ran."""
    batch: Batch
    """The batch that the model saw, after every transform."""
    updated: bool | Tensor = False
    """Whether the weights were updated at the end of this batch."""


def per_sample_view(numbers: Shaped[Tensor, "batch"], like: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "batch ..."]:
    """One number per sample, shaped to multiply a tensor of any rank: (batch,) becomes (batch, 1, ..., 1)."""
    return numbers.view(-1, *[1] * (like.ndim - 1))
