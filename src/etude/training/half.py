"""Weights in half precision, and the float32 master weights that they are rounded from.

Three things go wrong when everything is computed in 16 bits. An update smaller than about a thousandth of its weight
is rounded away: so the weights that the optimizer changes, the *masters*, are float32, and the model computes with
copies of them. Sums over many values lose digits or overflow: so norms stay in float32, and so does the loss. Small
gradients of float16 become zero: that is the loss scale's part (scaler.py).

At rest a parameter *is* its master: for the optimizer, callbacks, checkpoints and everyone else nothing has changed.
Only while the model computes does it show its half copy. The change is one of pointers (`parameter.data`), so a master
cannot be forgotten, and what somebody writes to a weight between two steps is not lost.

Source: Micikevicius et al. 2017, "Mixed precision training"; SPEC E2-E7.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map_only

from etude.layers import NORMS

_ALIGN: Final = 64
"""Numbers from one tensor's start in a flat one to the next is a multiple of this: vector units like 128 bytes."""

_version = attrgetter("_version")


@final
class HalfWeights:
    """The half copies of a model's weights; the parameters themselves are the masters.

    Args:
        model: its float32 parameters and buffers outside of norms get copies; others are used as they are.
        dtype: `torch.float16` or `torch.bfloat16`.
        flat: keep masters, copies and gradients each in one tensor behind one another, so that rounding the masters is
            a single operation. A gradient is then valid until the next backward pass only.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, *, flat: bool) -> None:
        self._model, self._dtype = model, dtype
        self._weights = half_weights(model)
        self._buffers = [_Buffer(module, name, dtype) for module, name in _half_buffers(model)]
        self._masters = [weight.data for weight in self._weights]
        self._flat: tuple[Tensor, Tensor] | None = None
        self._places: list[int] = []
        """Where in memory the flat masters are."""
        self._grads: list[Tensor] = []
        if flat:
            masters, self._masters = flattened(self._masters, torch.float32)
            halves, self._halves = flattened(self._masters, dtype)
            self._grads = flattened(self._masters, torch.float32)[1]
            self._flat, self._places = (masters, halves), [master.data_ptr() for master in self._masters]
            for weight, master in zip(self._weights, self._masters, strict=True):
                weight.data = master
        else:
            self._halves = [master.to(dtype) for master in self._masters]
        self._versions: list[int] = []
        self._shown = False

    def show(self) -> None:
        """Let the parameters be the half copies, rounded anew if a master has changed."""
        if self._shown:
            return
        self._masters = [weight.data for weight in self._weights]
        versions = list(map(_version, self._weights))
        if versions != self._versions:
            self._round()
            self._versions = versions
        # from here on there is something to hide, also when an interrupt comes in between
        self._shown = True
        for weight, half in zip(self._weights, self._halves, strict=True):
            weight.data = half
        for buffer in self._buffers:
            buffer.show()

    def hide(self) -> None:
        """Let the parameters be the masters again; gradients that a backward pass left become float32."""
        if not self._shown:
            return
        for weight, master in zip(self._weights, self._masters, strict=True):
            weight.data = master
        for buffer in self._buffers:
            buffer.hide()
        self._shown = False
        self._widen_grads()

    def changed(self) -> None:
        """The masters are others now; torch counts the writes to a tensor, but not those of its fused optimizers."""
        self._versions = []

    def forget(self) -> None:
        """Round the masters to what the half copies can hold: training without master weights."""
        self._round()
        torch._foreach_copy_([weight.data for weight in self._weights], self._halves)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Norms other than BatchNorm compute in float32 inside; at the end the parameters are plain tensors again."""
        with ExitStack() as stack:
            for module in self._model.modules():
                # BatchNorm's kernels take half inputs with float32 weights
                if isinstance(module, NORMS) and not isinstance(module, _BatchNorm):
                    stack.callback(module.register_forward_pre_hook(_to_float).remove)
                    stack.callback(module.register_forward_hook(self._to_half).remove)
            stack.callback(self._close)
            yield

    def _close(self) -> None:
        self.hide()
        if self._flat is not None:
            for weight in self._weights:
                weight.data = weight.data.clone()
                if weight.grad is not None:
                    weight.grad = weight.grad.clone()

    def _round(self) -> None:
        masters = [weight.data for weight in self._weights]
        # not so where somebody has put other weights in the model's place, such as their average
        if self._flat is not None and [master.data_ptr() for master in masters] == self._places:
            self._flat[1].copy_(self._flat[0])
        else:
            torch._foreach_copy_(self._halves, masters)

    def _widen_grads(self) -> None:
        """Make what a backward pass has left float32; a window's later batches have been added to such a gradient."""
        grads = [(i, weight, weight.grad) for i, weight in enumerate(self._weights) if weight.grad is not None]
        fresh = [(i, weight, grad) for i, weight, grad in grads if grad.dtype == self._dtype and not grad.is_sparse]
        if self._flat is not None:
            wide = [self._grads[i] for i, _, _ in fresh]
        else:
            # laid out as the parameter: torch's fused CPU optimizers go wrong otherwise
            wide = [torch.empty_like(weight) for _, weight, _ in fresh]
        if fresh:
            torch._foreach_copy_(wide, [grad for _, _, grad in fresh])
        for (_, weight, _), grad in zip(fresh, wide, strict=True):
            weight.grad = grad
        for _, weight, grad in grads:
            if grad.is_sparse:
                # coalesced, or whoever changes its values in place would change a copy
                weight.grad = grad.float().coalesce()

    def _to_half(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        return cast(output, self._dtype) if self._shown else output


@final
class _Buffer:
    """A buffer outside of norms: a filter or a table that meets half values."""

    def __init__(self, module: nn.Module, name: str, dtype: torch.dtype) -> None:
        self._module, self._name, self._dtype = module, name, dtype
        self._known: Tensor | None = None
        self._full = self._half = torch.empty(0)
        self._version = -1

    def show(self) -> None:
        buffer = self._module._buffers[self._name]
        assert buffer is not None
        # its average has other memory, but the same count of writes
        same = buffer is self._known and buffer.data_ptr() == self._full.data_ptr()
        if not same or buffer._version != self._version:
            self._known, self._version = buffer, buffer._version
            self._half = buffer.data.to(self._dtype)
        self._full = buffer.data
        buffer.data = self._half

    def hide(self) -> None:
        buffer = self._module._buffers[self._name]
        if buffer is None or buffer.dtype != self._dtype:
            # hidden already, through another module that shares it
            return
        if buffer is self._known and buffer._version == self._version:
            buffer.data = self._full
        else:
            # the model wrote to it, or put another one in its place
            buffer.data = buffer.data.float()
            self._version = -1


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


def _half_buffers(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for module in model.modules():
        if not isinstance(module, NORMS):
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.dtype == torch.float32:
                    yield module, name


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
