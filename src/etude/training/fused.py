"""One step of an optimizer, with torch's fused CPU kernels kept right and at full speed.

Those kernels have two weak points in torch 2.13. Where a gradient or a state tensor lies in memory in another order
than its parameter they give wrong results, without a word: so what differs is laid out anew first. Where all lie in
the same order, but channels last, they copy all of it to and fro, which takes three times as long: so for the length
of the step each tensor is seen as what it is in memory, a plain one with its axes in another order. That changes no
number, for these optimizers work element by element.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@final
class FusedStep:
    """Steps an optimizer.

    Args:
        optimizer: any; nothing is done for one that is not torch's fused one on a CPU. Its state may be empty, or have
            been loaded in any memory format.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        groups = [group for group in optimizer.param_groups if group.get("fused")]
        weights = [weight for group in groups for weight in group["params"]]
        weights = [weight for weight in weights if weight.ndim > 1 and weight.device.type == "cpu"]
        for weight in weights:
            lay_out_state(weight, optimizer.state.get(weight, {}))
        self._weights = weights
        orders = [(weight, order_in_memory(weight)) for weight in weights if not weight.is_contiguous()]
        self._permuted = [(weight, order) for weight, order in orders if weight.permute(order).is_contiguous()]

    def __call__(self) -> None:
        """The optimizer's step."""
        for weight in self._weights:
            if weight.grad is not None and weight.grad.stride() != weight.stride():
                weight.grad = torch.empty_like(weight, dtype=weight.grad.dtype).copy_(weight.grad)
        if not self._permuted:
            self._optimizer.step()
            return
        with self._plain():
            self._optimizer.step()

    @contextmanager
    def _plain(self) -> Iterator[None]:
        seen = [(weight, order) for weight, order in self._permuted if weight.grad is not None]
        for weight, order in seen:
            for tensor in self._tensors_of(weight):
                tensor.data = tensor.data.permute(order)
        try:
            yield
        finally:
            for weight, order in seen:
                back = [order.index(axis) for axis in range(len(order))]
                for tensor in self._tensors_of(weight):
                    tensor.data = tensor.data.permute(back)

    def _tensors_of(self, weight: nn.Parameter) -> list[Tensor]:
        """The weight, its gradient, and its state as far as it has the weight's shape."""
        assert weight.grad is not None
        shape = weight.shape
        state = self._optimizer.state.get(weight, {}).values()
        same = [value for value in state if isinstance(value, Tensor) and value.shape == shape]
        return [*same, weight.grad, weight]


def order_in_memory(tensor: Tensor) -> tuple[int, ...]:
    """The axes from the one with the widest stride to the one whose neighbors lie side by side.

    >>> order_in_memory(torch.zeros(8, 3, 5, 5).to(memory_format=torch.channels_last))
    (0, 2, 3, 1)
    """
    strides = tensor.stride()
    return tuple(sorted(range(tensor.ndim), key=lambda axis: (-strides[axis], axis)))


def lay_out_state(weight: nn.Parameter, state: dict[str, Any]) -> None:
    """Give every tensor of an optimizer's state that has the weight's shape its strides, too."""
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
            state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
