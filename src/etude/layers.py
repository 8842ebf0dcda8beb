"""Building blocks shared by the convolutional networks, and their initialization."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from typing_extensions import override

from etude.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Layers that compute in float32 even in mixed precision, and that freezing has a policy for."""

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.1, inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
    "mish": lambda: nn.Mish(inplace=True),
    "gelu": nn.GELU,
}


def activation_layer(name: str) -> nn.Module:
    """A new activation by name; raises `ConfigError` with the known names."""
    if name not in ACTIVATIONS:
        raise ConfigError(f"unknown activation {name!r}; choose from {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


class Stack(nn.Sequential):
    """Layers in a row, whose slices are plain `nn.Sequential`s: `model[:8]` is the body of an XResNet."""

    @override
    def __getitem__(self, index: int | slice) -> nn.Module:
        layers = list(self)
        return nn.Sequential(*layers[index]) if isinstance(index, slice) else layers[index]


def conv_layer(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    *,
    stride: int = 1,
    activation: str | None = "relu",
    zero_init: bool = False,
    blur: bool = False,
) -> nn.Sequential:
    """Convolution, BatchNorm, activation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd; the padding keeps the size.
        stride: 2 halves height and width, rounding up.
        activation: a name of `ACTIVATIONS`, or None for a linear output.
        zero_init: start with a BatchNorm scale of 0, so that a residual branch begins as nothing.
        blur: low-pass filter the input of a strided convolution.

    Source: SPEC X1, X2.
    """
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)
    norm = nn.BatchNorm2d(out_channels)
    nn.init.constant_(norm.weight, 0.0 if zero_init else 1.0)
    layers: list[nn.Module] = [BlurPool2d(in_channels, stride=1)] if blur and stride > 1 else []
    layers += [convolution, norm]
    if activation is not None:
        layers.append(activation_layer(activation))
    return nn.Sequential(*layers)


class BlurPool2d(nn.Module):
    """A fixed 3x3 binomial low-pass filter, then every `stride`-th pixel: downsampling that does not alias.

    Source: Zhang 2019, "Making convolutional networks shift-invariant again".
    """

    kernel: Tensor

    def __init__(self, channels: int, stride: int = 2) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(row, row).expand(channels, 1, 3, 3).clone(), persistent=False)

    @override
    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel height2 width2"]:
        # one pixel of a 1x1 map has nothing to reflect
        padding = "reflect" if min(x.shape[-2:]) > 1 else "replicate"
        kernel = self.kernel.to(x.dtype)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), padding), kernel, stride=self.stride, groups=self.channels)

    @override
    def extra_repr(self) -> str:
        return f"{self.channels}, stride={self.stride}"


class AdaptiveConcatPool2d(nn.Module):
    """Global max pool and global average pool side by side: twice the channels.

    Source: SPEC T4.
    """

    @override
    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel2 1 1"]:
        return torch.cat([F.adaptive_max_pool2d(x, 1), F.adaptive_avg_pool2d(x, 1)], dim=1)


def init_cnn(model: nn.Module) -> None:
    """Kaiming-normal weights for every convolution and linear layer, zero biases everywhere, at every depth.

    BatchNorm scales are left alone: the zero of a residual branch's last norm must survive.

    Source: He et al. 2015, "Delving deep into rectifiers"; SPEC X3.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        bias = module._parameters.get("bias")
        if bias is not None:
            nn.init.zeros_(bias)
