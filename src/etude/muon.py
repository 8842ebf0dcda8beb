"""Muon: steps whose matrices are orthogonal, for hidden layers, convolutions too; AdamW for everything else.

>>> model = torch.nn.Sequential(*[torch.nn.Linear(3, 3) for _ in range(3)])
>>> optimizer = muon()([{"params": [*model.parameters()], "layer_group": 0}])
>>> [(len(group["params"]), group["orthogonal"], group["weight_decay"]) for group in optimizer.param_groups]
[(1, True, 0.01), (2, False, 0.01), (3, False, 0.0)]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw as adamw_step
from typing_extensions import override

from etude.errors import ConfigError
from etude.optim import LayerGroup, OptimizerFactory, decayed

if TYPE_CHECKING:
    from jaxtyping import Float

_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
"""Of the polynomial: steepest at zero, so that small singular values grow fastest; it ends near 1, not at it."""
_TINY: Final = 1e-7
_OF_ADAMW: Final = ("betas", "eps", "fused")
_OF_MATRICES: Final = ("momentum", "nesterov", "num_iterations")


def muon(
    *,
    lr: float = 1e-3,
    momentum: float = 0.95,
    nesterov: bool = True,
    num_iterations: int = 5,
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-6,
    weight_decay: float = 1e-2,
) -> OptimizerFactory:
    """`Muon` for the matrices and filters of hidden layers, AdamW for the rest.

    The rest are norms and biases, and the first and the last tensor of two and more axes in the order of the layer
    groups: the input layer's columns are pixels or tokens and the head's rows are classes, each with a scale of its
    own, which an orthogonal step would make alike (Jordan's advice; his airbench trains filters with Muon, and head,
    norms and biases without).

    Args:
        lr: overwritten by `fit(lr=...)`; one rate serves both parts, see `Muon`.
        momentum: of the matrices. A schedule of momentum writes this and AdamW's first beta.
        nesterov: look one step ahead.
        num_iterations: of Newton and Schulz; 5 is Jordan's, airbench takes 3.
        betas: AdamW's decay of the gradient's mean and of its square, per step; as in `etude.optim.adamw`.
        eps: AdamW's, added to the root of the second moment.
        weight_decay: per unit of learning rate; not applied to norms and biases.

    Raises:
        ConfigError: at the first fit, where the model has no hidden matrix.
    """

    def make(groups: Iterable[LayerGroup]) -> Optimizer:
        return Muon(
            divided(groups),
            lr=lr,
            momentum=momentum,
            nesterov=nesterov,
            num_iterations=num_iterations,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
        )

    return make


def divided(groups: Iterable[LayerGroup]) -> list[dict[str, Any]]:
    """Up to three groups for each layer group: hidden matrices, other matrices, norms and biases (not decayed).

    Raises:
        ConfigError: there is no hidden matrix.
    """
    given = list(groups)
    matrices = [parameter for group in given for parameter in group["params"] if parameter.ndim > 1]
    hidden = set(matrices[1:-1])
    if not hidden:
        raise ConfigError(
            f"Muon trains the layers between the first and the last, and of {len(matrices)} matrices none is between; "
            "use etude.optim.adamw()"
        )
    found: list[dict[str, Any]] = []
    for group in given:
        inner = [parameter for parameter in group["params"] if parameter in hidden]
        if inner:
            found.append({**group, "params": inner, "orthogonal": True})
        others = [parameter for parameter in group["params"] if parameter not in hidden]
        found += decayed([{"params": others, "layer_group": group["layer_group"]}])
    return found


@final
class Muon(Optimizer):
    """Momentum whose every step is made orthogonal, all of its singular values about 1; AdamW in the other groups.

    A filter (out, in, height, width) is the matrix (out, in * height * width) that it multiplies a window with. A step
    is scaled to 0.2 * sqrt(max(rows, columns)), which gives its entries the root mean square of AdamW's steps, so that
    both parts take one learning rate and weight decay: a learner has one rate per layer group. Matrices of one shape
    are made orthogonal together, on a CPU in float32, elsewhere in bfloat16.

    Args:
        params: dicts of `params` and settings; `orthogonal` says which kind of group it is.
        lr: AdamW's rates serve.
        momentum: of the matrices.
        nesterov: look one step ahead.
        num_iterations: of Newton and Schulz.
        betas: AdamW's.
        eps: AdamW's.
        weight_decay: decoupled, per unit of learning rate.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al. 2025, "Muon is
    scalable for LLM training", section 2.2, for the scale.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        nesterov: bool = True,
        num_iterations: int = 5,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        if not 0 <= momentum < 1 or not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"momentum and betas must be in [0, 1), got {momentum} and {betas}")
        if num_iterations < 1:
            raise ConfigError(f"num_iterations must be at least 1, got {num_iterations}")
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "orthogonal": False,
            "momentum": momentum,
            "nesterov": nesterov,
            "num_iterations": num_iterations,
            "betas": betas,
            "eps": eps,
            "fused": True,
        }
        super().__init__(params, defaults)
        # as torch's fused optimizers: where `found_inf` is up, a step changes nothing, and nobody has to wait for it
        self._step_supports_amp_scaling = True

    @override
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; it keeps only the settings that its kind reads."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for name in _OF_ADAMW if group["orthogonal"] else _OF_MATRICES:
            group.pop(name, None)
        if group["orthogonal"] and (flat := [tuple(p.shape) for p in group["params"] if p.ndim < 2]):
            raise ConfigError(f"a tensor of shape {flat[0]} is no matrix, so it cannot be made orthogonal")

    @override
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every tensor that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        bad = vars(self).get("found_inf")
        scale = vars(self).get("grad_scale")
        for group in self.param_groups:
            tensors = [tensor for tensor in group["params"] if tensor.grad is not None]
            if tensors and group["orthogonal"]:
                self._step_matrices(group, tensors, scale, bad)
            elif tensors:
                self._step_others(group, tensors, scale, bad)
        return loss

    def _step_matrices(
        self, group: dict[str, Any], tensors: list[Tensor], scale: Tensor | None, bad: Tensor | None
    ) -> None:
        for tensor in tensors:
            if "momentum_buffer" not in self.state[tensor]:
                self.state[tensor] = {"momentum_buffer": torch.zeros_like(tensor)}
        means = [self.state[tensor]["momentum_buffer"] for tensor in tensors]
        grads, lr = [tensor.grad for tensor in tensors if tensor.grad is not None], group["lr"]
        if scale is not None:
            grads = list(torch._foreach_div(grads, scale))
        if bad is not None:
            # a step of length zero from the momentum itself leaves both as they are
            grads = [mean.where(bad > 0, grad) for mean, grad in zip(means, grads, strict=True)]
            lr = lr * (1 - bad)
        torch._foreach_lerp_(means, grads, 1 - group["momentum"])
        directions = list(torch._foreach_lerp(grads, means, group["momentum"])) if group["nesterov"] else means
        steps = orthogonalized(directions, group["num_iterations"])
        torch._foreach_mul_(tensors, 1 - lr * group["weight_decay"])
        torch._foreach_mul_(steps, lr)
        torch._foreach_sub_(tensors, steps)

    def _step_others(
        self, group: dict[str, Any], tensors: list[Tensor], scale: Tensor | None, bad: Tensor | None
    ) -> None:
        for tensor in tensors:
            if "exp_avg" not in self.state[tensor]:
                self.state[tensor] = {
                    "step": torch.zeros((), device=tensor.device),
                    "exp_avg": torch.zeros_like(tensor),
                    "exp_avg_sq": torch.zeros_like(tensor),
                }
        adamw_step(
            tensors,
            [tensor.grad for tensor in tensors if tensor.grad is not None],
            [self.state[tensor]["exp_avg"] for tensor in tensors],
            [self.state[tensor]["exp_avg_sq"] for tensor in tensors],
            [],
            [self.state[tensor]["step"] for tensor in tensors],
            fused=True,
            grad_scale=scale,
            found_inf=bad,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonalized(tensors: list[Tensor], num_iterations: int) -> list[Tensor]:
    """Each tensor's matrix made orthogonal, and scaled as long as AdamW's step; laid out as the tensor."""
    by_shape: dict[tuple[torch.Size, torch.device], list[int]] = {}
    for i, tensor in enumerate(tensors):
        by_shape.setdefault((tensor.flatten(1).shape, tensor.device), []).append(i)
    found = list(tensors)
    for (shape, _), rows in by_shape.items():
        # a filter in channels-last order is read in the same order as any other
        stack = torch.stack([tensors[i].flatten(1) for i in rows])
        made = newton_schulz(stack, num_iterations) * (0.2 * max(shape) ** 0.5)
        for i, matrix in zip(rows, made.unbind(), strict=True):
            found[i] = torch.empty_like(tensors[i]).copy_(matrix.view(tensors[i].shape))
    return found


def newton_schulz(
    matrices: Float[Tensor, "matrix row column"], num_iterations: int
) -> Float[Tensor, "matrix row column"]:
    """U V^T of each matrix U S V^T, about: singular values end in 0.7 to 1.2, and zeros stay zero.

        X <- a X + b X X^T X + c X X^T X X^T X        from X = G / |G|

    Source: Jordan et al. 2024; a, b and c are theirs.
    """
    a, b, c = _COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_TINY)
    x = x if x.device.type == "cpu" else x.bfloat16()
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.to(matrices.dtype)
    return x.mT if is_tall else x
