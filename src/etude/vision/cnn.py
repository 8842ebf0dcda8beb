"""The lessons' plain convolutional network: a stack of strided convolutions, a global pool, a linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from torch import nn

from etude.errors import ConfigError
from etude.layers import AdaptiveConcatPool2d, Stack, conv_layer, init_cnn
from etude.types import Json

LESSON_WIDTHS: Final = (32, 64, 128, 256, 512)
"""Of the lesson's own network."""


@final
class LessonCNN(Stack):
    """Scores for each class from pictures (batch, channel, height, width), halving the map at every width.

    Args:
        num_classes: width of the output.
        channels: channels of the pictures.
        widths: channels after each convolution; the first one has a 5x5 kernel, the others 3x3.
        stem_stride: stride of the first convolution; 1 for very small pictures.
        activation: name of the activation.
        concat_pool: a head on max and average pool together, as new heads for transfer have.

    Source: SPEC X19.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        channels: int = 3,
        widths: Sequence[int] = LESSON_WIDTHS,
        stem_stride: int = 2,
        activation: str = "relu",
        concat_pool: bool = False,
    ) -> None:
        if not widths:
            raise ConfigError("LessonCNN needs at least one width, got none")
        inputs = [channels, *widths[:-1]]
        super().__init__(
            *(
                conv_layer(
                    inputs[i],
                    width,
                    5 if i == 0 else 3,
                    stride=stem_stride if i == 0 else 2,
                    activation=activation,
                )
                for i, width in enumerate(widths)
            ),
            AdaptiveConcatPool2d() if concat_pool else nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[-1] * (2 if concat_pool else 1), num_classes),
        )
        self._config: dict[str, Json] = {
            "arch": "lesson_cnn",
            "num_classes": num_classes,
            "channels": channels,
            "widths": list(widths),
            "stem_stride": stem_stride,
            "activation": activation,
            "concat_pool": concat_pool,
        }
        init_cnn(self)

    def config(self) -> dict[str, Json]:
        """The arguments that build this architecture again."""
        return dict(self._config)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Body and head: the convolutions, and the linear layer."""
        *body, head = list(self)
        return [[parameter for layer in body for parameter in layer.parameters()], list(head.parameters())]
