"""The values that flow through a training step, and the axis legend of the whole library.

Axis names in shape annotations mean the same thing everywhere:

    batch     samples of one batch                 class     classes of a classifier
    channel   channels of a picture or feature map height, width   pixels, rows first
    ...       any further axes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from torch import Tensor
from torch.utils._pytree import tree_map_only

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped

Json: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None
Inputs: TypeAlias = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


class MixedTargets(NamedTuple):
    """Two labels for each sample and the share of the first: what MixUp and CutMix return.

    No one-hot matrix is built, so the number of classes does not matter.

    Source: SPEC M3, M8.
    """

    first: Shaped[Tensor, "batch ..."]
    second: Shaped[Tensor, "batch ..."]
    weight: Float[Tensor, "batch"]
    """The share of `first`, in [0, 1]."""

    @property
    def dominant(self) -> Shaped[Tensor, "batch ..."]:
        """The label with the larger share of each sample (the first one in a tie)."""
        return self.first.where(per_sample_view(self.weight, self.first) >= 0.5, self.second)


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
    """Each sample's position in its data set; augmentation is keyed by it."""

    @property
    def size(self) -> int:
        """The number of samples."""
        first = self.inputs
        while not isinstance(first, Tensor):
            first = next(iter(first.values())) if isinstance(first, dict) else first[0]
        return first.shape[0]

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
