"""What a loader yields, as a `Batch` on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from etude.errors import DataError
from etude.types import Batch


def as_batch(item: Any, number: int) -> Batch:
    """A `Batch` from the pair that a loader yields.

    Raises:
        DataError: naming what came instead, and in which batch.
    """
    if isinstance(item, tuple | list) and len(item) == 2:
        item = [torch.as_tensor(part) if isinstance(part, np.ndarray) else part for part in item]
        return Batch(item[0] if not isinstance(item[0], list) else tuple(item[0]), item[1])
    kind = f"a {type(item).__name__}" + (f" of {len(item)}" if isinstance(item, tuple | list) else "")
    raise DataError(f"batch {number} is {kind}; expected (inputs, targets) or etude.Batch(inputs, targets, weight=...)")


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with every tensor on the device."""
    return Batch(*(move(field, device) for field in batch))


def move(value: Any, device: torch.device) -> Any:
    """Tensors inside tuples, lists and dicts moved to the device; anything else as it is."""
    # only a copy to a GPU is safe to use before it has arrived: the GPU's own queue keeps the order
    to_gpu = device.type == "cuda"
    return tree_map_only(Tensor, lambda tensor: tensor.to(device, non_blocking=to_gpu), value)
