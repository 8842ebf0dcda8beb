"""Weights in half precision, and the float32 master weights that they are rounded from.

Three things go wrong when everything is computed in 16 bits. An update smaller than about a thousandth of its weight
is rounded away: so the weights that the optimizer changes, the *masters*, are float32, and the model computes with
copies of them. Sums over many values lose digits or overflow: so norms stay in float32, and so does the loss. Small
gradients of float16 become zero: that is the loss scale's part (scaler.py).

At rest a parameter *is* its master: for the optimizer, callbacks, checkpoints and everyone else nothing has changed.
Only while the model is called, and during a backward pass, does it show its half copy. The change is one of pointers
(`parameter.data`), so a master cannot be forgotten. The copies are rounded anew for every forward pass, so whatever
somebody writes to a weight is computed with.

Source: Micikevicius et al. 2017, "Mixed precision training"; SPEC E2-E7.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map_only

from etude.layers import NORMS

_ALIGN: Final = 64
"""Numbers from one tensor's start in a flat one to the next is a multiple of this: vector units like 128 bytes."""


@final
class HalfWeights:
    """The half copies of a model's weights; the parameters themselves are the masters.

    Args:
        model: its float32 parameters outside of norms get copies; other parameters, and buffers, are used as they are.
        dtype: `torch.float16` or `torch.bfloat16`.
        flat: keep the masters behind one another in one tensor and the copies in another, so that rounding is a single
            operation. Weights that share memory stay where they are.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, *, flat: bool = False) -> None:
        self.model, self._dtype = model, dtype
        self._weights = half_weights(model)
        self._masters = self._own = [weight.data for weight in self._weights]
        self._flat: tuple[Tensor, Tensor] | None = None
        self._shown = False
        self._places: list[int] = []
        """Where in memory the flat masters are."""
        if flat and len({weight.untyped_storage().data_ptr() for weight in self._own}) == len(self._own):
            masters, self._masters = flattened(self._own, torch.float32)
            halves, self._halves = flattened(self._own, dtype)
            self._flat, self._places = (masters, halves), [master.data_ptr() for master in self._masters]
            for weight, master in zip(self._weights, self._masters, strict=True):
                weight.data = master
        else:
            self._halves = [torch.empty_like(master, dtype=dtype) for master in self._own]

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Around a forward pass: the parameters are half copies, rounded from what they were before."""
        self._round()
        with self.shown():
            yield

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Around a backward pass: the parameters are the copies of the last forward pass. Gradients become float32."""
        self._masters = [weight.data for weight in self._weights]
        try:
            self._shown = True
            for weight, half in zip(self._weights, self._halves, strict=True):
                weight.data = half
            yield
        finally:
            self._hide()

    def _hide(self) -> None:
        if self._shown:
            for weight, master in zip(self._weights, self._masters, strict=True):
                weight.data = master
            self._shown = False
            self._widen_grads()

    def forget(self) -> None:
        """Round the masters to what the half copies can hold: training without master weights."""
        self._round()
        if self._weights:
            torch._foreach_copy_([weight.data for weight in self._weights], self._halves)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Norms other than BatchNorm compute in float32 inside; at the end weights are back in their own memory."""
        with ExitStack() as stack:
            for module in self.model.modules():
                # BatchNorm's kernels take half inputs with float32 weights
                if isinstance(module, NORMS) and not isinstance(module, _BatchNorm):
                    stack.callback(module.register_forward_pre_hook(_to_float).remove)
                    stack.callback(module.register_forward_hook(self._to_half).remove)
            stack.callback(self._close)
            yield

    def _close(self) -> None:
        # an interrupt can have come while they were being hidden
        self._hide()
        if self._flat is None:
            return
        for weight, own, place in zip(self._weights, self._own, self._places, strict=True):
            if weight.data_ptr() == place:
                weight.data = own.copy_(weight.data)

    def _round(self) -> None:
        masters = [weight.data for weight in self._weights]
        if not masters:
            return
        # not so where somebody has put other weights in the model's place, such as their average
        if self._flat is not None and [master.data_ptr() for master in masters] == self._places:
            self._flat[1].copy_(self._flat[0])
        else:
            torch._foreach_copy_(self._halves, masters)

    def _widen_grads(self) -> None:
        """Make what a backward pass has left float32; a window's later batches have been added to such a gradient."""
        grads = [(weight, weight.grad) for weight in self._weights if weight.grad is not None]
        dense = [(weight, grad) for weight, grad in grads if grad.dtype == self._dtype and not grad.is_sparse]
        # laid out as the parameter: torch's fused CPU optimizers go wrong otherwise
        wide = [torch.empty_like(weight) for weight, _ in dense]
        if dense:
            torch._foreach_copy_(wide, [grad for _, grad in dense])
        for (weight, _), grad in zip(dense, wide, strict=True):
            weight.grad = grad
        for weight, grad in grads:
            if grad.is_sparse:
                # coalesced, or whoever changes its values in place would change a copy
                weight.grad = grad.float().coalesce()

    def _to_half(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        # at rest somebody may call the model with its float32 weights
        return cast(output, self._dtype) if self._shown else output


def half_weights(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are computed with in half precision: float32, and not a norm's. Each once.

    >>> model = nn.Sequential(nn.Linear(10, 30), nn.BatchNorm1d(30), nn.Linear(30, 2))
    >>> [tuple(weight.shape) for weight in half_weights(model)]
    [(30, 10), (30,), (2, 30), (2,)]

    Source: SPEC E3.
    """
    found: dict[nn.Parameter, None] = {}
    for module in model.modules():
        if not isinstance(module, NORMS):
            found |= dict.fromkeys(module.parameters(recurse=False))
    return [weight for weight in found if weight.dtype == torch.float32]


def flattened(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """Copies of some tensors behind one another in one: the whole, and each tensor as a view with its own strides.

    >>> whole, views = flattened([torch.ones(30, 10), torch.ones(30)], torch.float16)
    >>> whole.shape, [tuple(view.shape) for view in views]
    (torch.Size([384]), [(30, 10), (30,)])
    """
    starts, end = [], 0
    for tensor in tensors:
        starts.append(end)
        end += -(-tensor.numel() // _ALIGN) * _ALIGN
    device = tensors[0].device if tensors else None
    whole = torch.zeros(end, dtype=dtype, device=device)
    # a tensor with gaps, or that overlaps itself, gets the strides that a copy of it has
    strides = [torch.empty_like(tensor, device="meta").stride() for tensor in tensors]
    parts = zip(tensors, strides, starts, strict=True)
    views = [whole.as_strided(tensor.shape, stride, start) for tensor, stride, start in parts]
    if tensors:
        torch._foreach_copy_(views, list(tensors))
    return whole, views


def cast(values: Any, dtype: torch.dtype) -> Any:
    """Every floating-point tensor of a tree in another type; float64, integers and everything else as they are."""
    if isinstance(values, Tensor):
        return values.to(dtype) if values.is_floating_point() and values.dtype != torch.float64 else values
    return tree_map_only(Tensor, lambda tensor: cast(tensor, dtype), values)


def _to_float(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    widened: tuple[Any, ...] = cast(inputs, torch.float32)
    return widened
