"""Several views of each picture, for a prediction that is their mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from etude.errors import ConfigError


@dataclass(frozen=True)
class Views:
    """Each picture as it is, mirrored, and moved a little: test-time augmentation.

    The views are the same for every picture and every call. They are made of the pixels that plain prediction sees,
    a batch at a time; a prediction takes as many times as long as there are views, and no more memory.

    Args:
        flip: the mirror image too. Only where training mirrored pictures: a digit's mirror image is another thing.
        shift: pixels by which four more views are moved, to each corner; 0 for none. What comes in from outside is
            the picture's own reflection, as black would be new to the model. A sixteenth of the side is usual.

    Raises:
        ConfigError: there would be one view only, or shift is negative.

    **Source**: Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural networks", section 4.1:
    the middle, four corners, and all of them mirrored.
    """

    flip: bool = True
    shift: int = 0

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise ConfigError(f"shift must be at least 0 pixels, got {self.shift}")
        if not self.flip and not self.shift:
            raise ConfigError("there is one view only; ask for flip, for a shift, or for no views at all")

    def __len__(self) -> int:
        """How many there are of each picture."""
        return (1 + self.flip) * (5 if self.shift else 1)

    def __call__(self, inputs: Tensor) -> Iterator[Tensor]:
        """The views of a batch of pictures (batch, channel, height, width), one after another, the plain one first.

        Raises:
            ConfigError: what is predicted is no batch of pictures, or they are too small to be moved so far.
        """
        if inputs.ndim != 4 or self.shift >= min(inputs.shape[-2:]):
            raise ConfigError(
                f"views moved by {self.shift} pixels are made of batches of larger pictures (batch, channel, height, "
                f"width), got {tuple(inputs.shape)}"
            )
        for moved in self._moved(inputs):
            yield moved
            if self.flip:
                yield moved.flip(-1)

    def _moved(self, inputs: Tensor) -> Iterator[Tensor]:
        yield inputs
        if not self.shift:
            return
        height, width = inputs.shape[-2:]
        rows, columns = (_reflected(side, self.shift, inputs.device) for side in (height, width))
        for top in (0, 2 * self.shift):
            for left in (0, 2 * self.shift):
                window = inputs.index_select(2, rows[top : top + height])
                yield window.index_select(3, columns[left : left + width])


def _reflected(side: int, by: int, device: torch.device) -> Tensor:
    """The places of a row of pixels that is continued by its reflection on both sides; whole numbers of any type."""
    places = torch.arange(-by, side + by, device=device).abs()
    return (side - 1) - ((side - 1) - places).abs()
