"""XResNet: ResNet with the stem, downsampling and initialization of "Bag of Tricks".

Reading order of the children, which is also the order of the state dict: 0-2 stem, 3 max pool, 4-7 stages,
8 average pool, 9 flatten, 10 linear.

Source: He et al. 2018, "Bag of tricks for image classification with convolutional neural networks"; SPEC X1-X8.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, final

from torch import Tensor, nn
from typing_extensions import override

from etude.layers import AdaptiveConcatPool2d, BlurPool2d, Stack, activation_layer, conv_layer, init_cnn
from etude.types import Json

if TYPE_CHECKING:
    from jaxtyping import Float


class ResBlock(nn.Module):
    """activation(branch(x) + shortcut(x)); the branch starts at zero, so a new block only passes its input on.

    Args:
        expansion: 1 for two 3x3 convolutions, 4 for a bottleneck 1x1, 3x3, 1x1.
        in_width: width of the input; it has `in_width * expansion` channels.
        width: width inside; the output has `width * expansion` channels.
        stride: 2 halves the map: in the 3x3 convolution (the 1x1 would throw away three quarters of its input), and
            by an average pool before the 1x1 of the shortcut (for the same reason).
        activation: name of the activation.
        blur: low-pass filter before the strided convolution.
    """

    def __init__(
        self,
        expansion: int,
        in_width: int,
        width: int,
        *,
        stride: int = 1,
        activation: str = "relu",
        blur: bool = False,
    ) -> None:
        super().__init__()
        in_channels, channels = in_width * expansion, width * expansion
        if expansion == 1:
            layers = [conv_layer(in_channels, width, 3, stride=stride, activation=activation, blur=blur)]
            layers += [conv_layer(width, channels, 3, activation=None, zero_init=True)]
        else:
            layers = [conv_layer(in_channels, width, 1, activation=activation)]
            layers += [conv_layer(width, width, 3, stride=stride, activation=activation, blur=blur)]
            layers += [conv_layer(width, channels, 1, activation=None, zero_init=True)]
        self.convs = nn.Sequential(*layers)
        # ceil_mode: an odd map (7) must come out as large (4) as from the padded 3x3 convolution
        self.pool = nn.Identity() if stride == 1 else nn.AvgPool2d(stride, ceil_mode=True)
        self.idconv = (
            nn.Identity() if in_channels == channels else conv_layer(in_channels, channels, 1, activation=None)
        )
        self.activation = activation_layer(activation)

    @override
    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel2 height2 width2"]:
        out: Tensor = self.activation(self.convs(x) + self.idconv(self.pool(x)))
        return out


@final
class XResNet(Stack):
    """Scores for each class from pictures (batch, channel, height, width).

    Args:
        expansion: 1 for plain blocks, 4 for bottlenecks.
        num_blocks: blocks in each of the four stages.
        num_classes: width of the output.
        channels: channels of the pictures.
        stem_stride: 2 halves the picture in the first convolution; 1 keeps it (better below 48 pixels, four times the
            work).
        blur_pool: low-pass filter wherever the map is halved: about +1 point on Imagenette at 128 pixels for a
            quarter more time (leaderboard of fastai/imagenette, MaxBlurPool entry).
        activation: "relu", "mish", "silu", ...
        concat_pool: a head on max and average pool together, as new heads for transfer have.
        name: what `config` records, so that a saved model can be built again.
    """

    def __init__(
        self,
        expansion: int,
        num_blocks: Sequence[int],
        num_classes: int = 1000,
        *,
        channels: int = 3,
        stem_stride: int = 2,
        blur_pool: bool = False,
        activation: str = "relu",
        concat_pool: bool = False,
        name: str = "",
    ) -> None:
        # (channels + 1) * 8 keeps 3 channels at 32 and every width a multiple of 8, which tensor cores like
        stem = [channels, (channels + 1) * 8, 64, 64]
        widths = [64 // expansion, 64, 128, 256, 512]
        stage = partial(_stage, expansion, activation=activation, blur=blur_pool)
        super().__init__(
            conv_layer(stem[0], stem[1], stride=stem_stride, activation=activation, blur=blur_pool),
            conv_layer(stem[1], stem[2], activation=activation),
            conv_layer(stem[2], stem[3], activation=activation),
            _max_pool(stem[3], blur=blur_pool),
            *(stage(widths[i], widths[i + 1], count, stride=1 if i == 0 else 2) for i, count in enumerate(num_blocks)),
            AdaptiveConcatPool2d() if concat_pool else nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[-1] * expansion * (2 if concat_pool else 1), num_classes),
        )
        self._config: dict[str, Json] = {
            "arch": name,
            "num_classes": num_classes,
            "channels": channels,
            "stem_stride": stem_stride,
            "blur_pool": blur_pool,
            "activation": activation,
            "concat_pool": concat_pool,
        }
        init_cnn(self)

    def config(self) -> dict[str, Json]:
        """The arguments that build this architecture again."""
        return dict(self._config)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Body and head: everything before the pool, and the linear layer."""
        return [list(self[:8].parameters()), list(self[8:].parameters())]


def _stage(
    expansion: int, in_width: int, width: int, num_blocks: int, *, stride: int, activation: str, blur: bool
) -> nn.Sequential:
    def block(i: int) -> ResBlock:
        first = i == 0
        return ResBlock(
            expansion,
            in_width if first else width,
            width,
            stride=stride if first else 1,
            activation=activation,
            blur=blur,
        )

    return nn.Sequential(*(block(i) for i in range(num_blocks)))


def _max_pool(channels: int, *, blur: bool) -> nn.Module:
    if blur:
        return nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), BlurPool2d(channels))
    return nn.MaxPool2d(3, stride=2, padding=1)


xresnet18 = partial(XResNet, 1, (2, 2, 2, 2), name="xresnet18")
xresnet34 = partial(XResNet, 1, (3, 4, 6, 3), name="xresnet34")
xresnet50 = partial(XResNet, 4, (3, 4, 6, 3), name="xresnet50")
xresnet101 = partial(XResNet, 4, (3, 4, 23, 3), name="xresnet101")
xresnet152 = partial(XResNet, 4, (3, 8, 36, 3), name="xresnet152")
