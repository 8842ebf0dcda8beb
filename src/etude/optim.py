"""Optimizers: factories over parameter groups, weight decay where it belongs, and LAMB.

A *factory* takes the model's layer groups (dicts of `params` and the group's number) and returns a torch optimizer.
`torch.optim.AdamW` itself is one; the factories here add fused kernels and leave norms and biases undecayed:

>>> optimizer = adamw(weight_decay=0.01)([{"params": [*torch.nn.Linear(3, 2).parameters()], "layer_group": 0}])
>>> [(len(group["params"]), group["weight_decay"], group["layer_group"]) for group in optimizer.param_groups]
[(1, 0.01, 0), (1, 0.0, 0)]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypedDict

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from etude.errors import ConfigError

OptimizerFactory: TypeAlias = Callable[..., Optimizer]

LAYER_GROUP = "layer_group"
"""The key under which each optimizer group carries the number of the layer group it came from."""


class LayerGroup(TypedDict):
    """What a factory is called with, one per layer group."""

    params: list[nn.Parameter]
    layer_group: int


def adamw(
    *, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-6, weight_decay: float = 1e-2
) -> OptimizerFactory:
    """Adam with decoupled weight decay, fused. The defaults are the lesson's Imagenette setting.

    Args:
        lr: overwritten by `fit(lr=...)`.
        betas: decay of the gradient's mean and of its square, per step.
        eps: added to the root of the second moment.
        weight_decay: per unit of learning rate; not applied to norms and biases.

    Source: Loshchilov and Hutter 2017, "Decoupled weight decay regularization"; SPEC A13.
    """
    return lambda groups: torch.optim.AdamW(
        decayed(groups), lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True
    )


def sgd(
    *, lr: float = 0.1, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0
) -> OptimizerFactory:
    """Stochastic gradient descent, fused; `weight_decay` is not applied to norms and biases."""

    def make(groups: Iterable[LayerGroup]) -> Optimizer:
        optimizer = torch.optim.SGD(
            decayed(groups), lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, fused=True
        )
        if momentum:
            # torch's fused kernel cannot mix tensors with and without momentum, as unfreezing does, and leaves the
            # momentum undefined when its first step is skipped; starting from zero is the same and does both
            for group in optimizer.param_groups:
                for tensor in group["params"]:
                    optimizer.state[tensor]["momentum_buffer"] = torch.zeros_like(tensor)
        return optimizer

    return make


def lamb(
    *, lr: float = 3e-3, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-6, weight_decay: float = 1e-2
) -> OptimizerFactory:
    """`Lamb` with undecayed norms and biases."""
    return lambda groups: Lamb(decayed(groups), lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)


def decayed(groups: Iterable[LayerGroup]) -> list[dict[str, Any]]:
    """Split every group in two: tensors of two and more axes, and norms and biases, which get no weight decay.

    Decaying a norm's scale or a bias does not make the function simpler, it only moves it.
    """
    split: list[dict[str, Any]] = []
    for group in groups:
        rest = {name: value for name, value in group.items() if name != "params"}
        matrices = [parameter for parameter in group["params"] if parameter.ndim > 1]
        vectors = [parameter for parameter in group["params"] if parameter.ndim <= 1]
        if matrices:
            split.append({**rest, "params": matrices})
        if vectors:
            split.append({**rest, "params": vectors, "weight_decay": 0.0})
    return split


def check_groups(optimizer: Optimizer) -> None:
    """Refuse hyper-parameters that the optimizer does not read.

    torch stores any key of a parameter group without a word: the notes trained with `mom_sqr`, which nothing reads.

    Raises:
        ConfigError: naming the key and the known ones. Source: SPEC A13.
    """
    # torch's own learning-rate schedulers leave initial_lr behind
    known = {*optimizer.defaults, "params", "name", "param_names", "initial_lr", LAYER_GROUP}
    for group in optimizer.param_groups:
        if unknown := sorted(set(group) - known):
            raise ConfigError(
                f"{type(optimizer).__name__} does not read {unknown}; it knows {sorted(optimizer.defaults)}"
            )


def set_hyper(optimizer: Optimizer, name: str, values: Sequence[float]) -> None:
    """Write one value per layer group into every optimizer group that came from it.

    `momentum` means SGD's momentum or Adam's first beta.
    """
    for group in optimizer.param_groups:
        value = values[group.get(LAYER_GROUP, 0)] if len(values) > 1 else values[0]
        if name == "momentum" and "betas" in group:
            group["betas"] = (value, *group["betas"][1:])
        elif name == "lr" and isinstance(group["lr"], Tensor):
            group["lr"].fill_(value)
        else:
            group[name] = value


def has_hyper(optimizer: Optimizer, name: str) -> bool:
    """Whether the optimizer reads `name`; for `momentum` whether it has momentum or betas at all."""
    if name == "momentum":
        return all("betas" in group or group.get("momentum") for group in optimizer.param_groups)
    return all(name in group for group in optimizer.param_groups)


_LAMB_SETTINGS = ("lr", "betas", "eps", "weight_decay", "max_ratio")


class Lamb(Optimizer):
    """Adam's step, rescaled for each tensor to a length proportional to the tensor's own.

    Args:
        params: tensors, or dicts of `params` and settings.
        lr: the length of a step relative to each tensor.
        betas: decay of the gradient's mean and of its square, per step.
        eps: added to the root of the second moment.
        weight_decay: decoupled, inside the trust ratio; a tensor without decay is not rescaled.
        max_ratio: upper bound of |tensor| / |step|.

    Source: You et al. 2019, "Large batch optimization for deep learning", algorithm 2.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        max_ratio: float = 10.0,
    ) -> None:
        if not 0 <= betas[0] < 1 or not 0 <= betas[1] < 1:
            raise ConfigError(f"betas must be in [0, 1), got {betas}")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "max_ratio": max_ratio}
        super().__init__(params, defaults)

    @override
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every tensor that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            tensors = [tensor for tensor in group["params"] if tensor.grad is not None]
            if tensors:
                self._step_group(tensors, **{name: group[name] for name in _LAMB_SETTINGS})
        return loss

    def _step_group(
        self,
        tensors: list[Tensor],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        max_ratio: float,
    ) -> None:
        grads = [tensor.grad for tensor in tensors if tensor.grad is not None]
        for tensor in tensors:
            if not self.state[tensor]:
                self.state[tensor] = {
                    "step": 0,
                    "exp_avg": torch.zeros_like(tensor, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(tensor, memory_format=torch.preserve_format),
                }
            self.state[tensor]["step"] += 1
        means = [self.state[tensor]["exp_avg"] for tensor in tensors]
        squares = [self.state[tensor]["exp_avg_sq"] for tensor in tensors]
        torch._foreach_lerp_(means, grads, 1 - betas[0])
        torch._foreach_mul_(squares, betas[1])
        torch._foreach_addcmul_(squares, grads, grads, 1 - betas[1])
        steps = [self.state[tensor]["step"] for tensor in tensors]
        updates = torch._foreach_div(means, [1 - betas[0] ** step for step in steps])
        roots = torch._foreach_div(squares, [1 - betas[1] ** step for step in steps])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, eps)
        torch._foreach_div_(updates, roots)
        if weight_decay:
            torch._foreach_add_(updates, tensors, alpha=weight_decay)
            torch._foreach_mul_(updates, _trust_ratios(tensors, updates, max_ratio))
        torch._foreach_add_(tensors, updates, alpha=-lr)


def _trust_ratios(tensors: list[Tensor], updates: Sequence[Tensor], max_ratio: float) -> list[Tensor]:
    """|tensor| / |update|, at most `max_ratio`; 1 where either is zero. No value is read by the host."""
    sizes, lengths = torch._foreach_norm(tensors), torch._foreach_norm(list(updates))
    return [
        torch.where((size > 0) & (length > 0), (size / length).clamp(max=max_ratio), 1.0)
        for size, length in zip(sizes, lengths, strict=True)
    ]
