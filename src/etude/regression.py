"""Numbers as targets: what is known of them, a head that gives them in the user's units, and their loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from etude.errors import ConfigError, DataError

if TYPE_CHECKING:
    from jaxtyping import Float

    from etude.types import Json

NumberLossName: TypeAlias = Literal["mse", "l1", "huber"]


@dataclass(frozen=True)
class Numbers:
    """The numbers that a model predicts of a sample.

    Args:
        names: one for each.
        mean: of the training targets.
        std: their standard deviation, above 0.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.names or not len(self.names) == len(self.mean) == len(self.std):
            raise ConfigError(
                f"numbers need a name, a mean and a deviation each, got {self.names}, {self.mean}, {self.std}"
            )
        values = torch.tensor([*self.mean, *self.std])
        if not values.isfinite().all() or min(self.std) <= 0:
            raise ConfigError(f"mean and deviation must be finite and the deviation above 0: {self.mean}, {self.std}")

    @classmethod
    def of(cls, targets: Float[Tensor, "samples number"]) -> Numbers:
        """Those of some training targets; one that never changes keeps its units.

        Raises:
            DataError: all targets are the same, so there is nothing to learn.
        """
        wide = targets.double()
        std = wide.std(0, correction=0)
        if not (wide != wide[0]).any():
            raise DataError(f"all {len(targets)} training targets are {wide[0].tolist()}: there is nothing to learn")
        num = targets.shape[1]
        names = ("value",) if num == 1 else tuple(f"value {i + 1}" for i in range(num))
        return cls(names, tuple(wide.mean(0).tolist()), tuple(std.where(std > 0, 1.0).tolist()))

    def config(self) -> dict[str, Json]:
        """The constructor's arguments."""
        return {"names": list(self.names), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Numbers:
        """What `config` gave; raises `ConfigError` for something else."""
        kinds = {"names": (str,), "mean": (int, float), "std": (int, float)}
        if not isinstance(config, dict) or set(config) != set(kinds):
            raise ConfigError(f"numbers are told by {list(kinds)}, got {str(config)[:60]}")
        for name, kind in kinds.items():
            if type(config[name]) is not list or not all(type(one) in kind for one in config[name]):
                raise ConfigError(
                    f"{name} of numbers must be a list of {kind[-1].__name__}, got {str(config[name])[:60]}"
                )
        return cls(tuple(config["names"]), tuple(map(float, config["mean"])), tuple(map(float, config["std"])))


class NumberHead(nn.Linear):
    """A linear layer whose output is put into the units of the targets: `std * (weight @ x + bias) + mean`.

    So the weights learn numbers of mean 0 and deviation 1 whatever the units, and what comes out needs no more work:
    in training, prediction and export. The units stay float32 when the layer computes in fewer bits. They are no
    weights: a saved model keeps them in its description, as `Numbers`.

    Args:
        in_features: numbers in.
        out_features: numbers out.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("mean", torch.zeros(out_features), persistent=False)
        self.register_buffer("std", torch.ones(out_features), persistent=False)

    @override
    def forward(self, input: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch number"]:
        return torch.addcmul(self.mean, super().forward(input), self.std)

    def folded(self) -> nn.Linear:
        """A plain linear layer that computes the same, for use without this library."""
        plain = nn.Linear(self.in_features, self.out_features, device=self.weight.device, dtype=self.weight.dtype)
        with torch.no_grad():
            plain.weight.copy_(self.std.unsqueeze(1) * self.weight)
            plain.bias.copy_(self.std * self.bias + self.mean)
        return plain


def give_numbers(model: nn.Module, numbers: Numbers) -> nn.Module:
    """The model with its last linear layer replaced by a `NumberHead` of the same weights.

    Raises:
        ConfigError: that layer has another width.
    """
    heads = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not heads or heads[-1][1].out_features != len(numbers.names):
        raise ConfigError(f"{type(model).__name__} does not end in a linear layer of {len(numbers.names)} numbers")
    name, linear = heads[-1]
    head = NumberHead(linear.in_features, linear.out_features).to(linear.weight)
    with torch.no_grad():
        head.weight.copy_(linear.weight)
        head.bias.copy_(linear.bias)
        head.mean.copy_(torch.tensor(numbers.mean))
        head.std.copy_(torch.tensor(numbers.std))
    place, _, last = name.rpartition(".")
    model.get_submodule(place).register_module(last, head)
    return model


class NumberLoss(nn.Module):
    """How far predicted numbers are from the targets, both in the user's units, as a loss without units.

    Errors are divided by `scale` first, so that the loss does not depend on the units and several numbers count alike.

    Args:
        kind: "mse", the mean squared error; "l1", the mean absolute error, which a few wild targets move less; "huber",
            squared up to one `scale` and absolute beyond it.
        scale: the standard deviation of each number's targets.
        reduction: "mean", "sum" or "none".

    Source: Huber 1964, "Robust estimation of a location parameter".
    """

    scale: Tensor

    def __init__(self, kind: NumberLossName = "mse", scale: Sequence[float] = (1.0,), reduction: str = "mean") -> None:
        super().__init__()
        if kind not in get_args(NumberLossName):
            raise ConfigError(f"the loss of numbers must be one of {get_args(NumberLossName)}, got {kind!r}")
        if not scale or not min(scale) > 0:
            raise ConfigError(f"scale must be above 0 for each number, got {list(scale)}")
        if reduction not in ("mean", "sum", "none"):
            raise ConfigError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
        self.kind, self.reduction = kind, reduction
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32), persistent=False)

    @override
    def forward(self, preds: Float[Tensor, "batch number"], targets: Float[Tensor, "batch number"]) -> Tensor:
        # the difference first: both may be large, and what is wanted is small
        errors = (preds - targets) / self.scale
        nothing = torch.zeros_like(errors)
        if self.kind == "l1":
            return F.l1_loss(errors, nothing, reduction=self.reduction)
        if self.kind == "huber":
            return F.huber_loss(errors, nothing, reduction=self.reduction)
        return F.mse_loss(errors, nothing, reduction=self.reduction)

    @override
    def extra_repr(self) -> str:
        return f"{self.kind!r}, scale={[float(f'{number:.4g}') for number in self.scale.tolist()]}"
