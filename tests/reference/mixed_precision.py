"""Mixed precision as a reader of the paper would write it by hand: what `MixedPrecision` must equal bit for bit.

Two models: one in 16 bits that computes, and a list of float32 tensors, the masters, that the optimizer changes.
Micikevicius et al. 2017, "Mixed precision training"; SPEC E3-E10.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Trained(NamedTuple):
    masters: list[Tensor]
    losses: list[float]
    scales: list[float]
    """After each batch."""


class InFloat(nn.Module):
    """A norm that computes in float32 among layers in 16 bits."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x.float()).to(x.dtype)


def half_copy(model: nn.Sequential, dtype: torch.dtype) -> nn.Sequential:
    """Everything in 16 bits, then the norms back to float32."""
    half = copy.deepcopy(model).to(dtype)
    for i, layer in enumerate(half):
        if isinstance(layer, _BATCH_NORMS):
            layer.float()
        elif isinstance(layer, nn.LayerNorm | nn.GroupNorm):
            half[i] = InFloat(layer.float())
    return half


def train(
    model: nn.Sequential,
    batches,
    loss_fn,
    make_optimizer,
    dtype: torch.dtype,
    *,
    scale: float = 512.0,
    dynamic: bool = False,
    scale_wait: int = 500,
    max_norm: float | None = None,
    num_epochs: int = 1,
) -> Trained:
    """`make_optimizer(tensors)` gives a torch optimizer; the model itself is left alone."""
    half = half_copy(model, dtype).train()
    weights = list(half.parameters())
    masters = [weight.detach().clone() for weight in model.parameters()]
    optimizer = make_optimizer(masters)
    losses, scales, good_steps = [], [], 0
    for _ in range(num_epochs):
        for inputs, targets in batches:
            loss = loss_fn(half(inputs.to(dtype)).float(), targets)
            losses.append(loss.item())
            half.zero_grad()
            (loss * scale).backward()
            for weight, master in zip(weights, masters, strict=True):
                master.grad = torch.empty_like(master).copy_(weight.grad) / scale
            if dynamic and not all(master.grad.isfinite().all() for master in masters):
                scale, good_steps = scale / 2, 0
                scales.append(scale)
                continue
            if max_norm is not None:
                nn.utils.clip_grad_norm_(masters, max_norm)
            optimizer.step()
            for weight, master in zip(weights, masters, strict=True):
                weight.data.copy_(master)
            good_steps += 1
            if dynamic and good_steps == scale_wait:
                scale, good_steps = scale * 2, 0
            scales.append(scale)
    return Trained(masters, losses, scales)
