"""Random erasing: one rectangle of some pictures is replaced by a number or by noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from etude import random
from etude.boxes import inside
from etude.data.loaders import Augment
from etude.errors import ConfigError
from etude.types import Batch

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped

# columns of the draws of one sample
_CHOSEN, _AREA, _RATIO, _TOP, _LEFT, _NOISE, _NUM_DRAWS = 0, 1, 2, 3, 4, 5, 6


def random_erasing(
    *,
    p: float = 0.5,
    area: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
    fill: float | Literal["noise"] = "noise",
) -> Augment:
    """Replace one rectangle in a share of the pictures.

    The area is drawn uniformly, then the shape from those that fit into the picture with this area, uniformly in the
    logarithm so that tall and wide rectangles are equally likely. So nothing is drawn twice, no rectangle is cut or
    shrunk, and the areas have exactly the distribution asked for. The paper draws area and shape again until they
    fit, which makes large areas rarer than asked.

    Args:
        p: the share of pictures changed. The default is the paper's.
        area: the smallest and largest area of a rectangle, as shares of the picture's, in (0, 1]; the paper ends at
            0.4, most code since at a third. Sides are whole pixels, so an area is exact up to half a row or column of
            the rectangle.
        ratio: the smallest and largest height / width.
        fill: "noise" gives every erased value its own draw from 0..255, the best choice in the paper. A number in
            0..255 fills with that; it is rounded where pixels are uint8.

    Returns:
        (batch, seed, epoch) -> batch, with pixels of the type that came in.

    Raises:
        ConfigError: a setting is out of range. When called: no shape in `ratio` holds the largest area in pictures of
            this size, or the batch is not keyed pixels.

    Source: Zhong et al. 2017, "Random erasing data augmentation", algorithm 1. SPEC A15 is why no draw is reused.
    """
    if not 0 <= p <= 1:
        raise ConfigError(f"p is a share of the pictures in [0, 1], got {p}")
    if not 0 < area[0] <= area[1] <= 1:
        raise ConfigError(f"area is (smallest, largest) in (0, 1], got {area}")
    if not 0 < ratio[0] <= ratio[1] < math.inf:
        raise ConfigError(f"ratio is (smallest, largest) height / width above 0, got {ratio}")
    if fill != "noise" and not (not isinstance(fill, str) and 0 <= fill <= 255):
        raise ConfigError(f"fill is 'noise' or a number in [0, 255], got {fill!r}")

    def augment(batch: Batch, seed: int, epoch: int) -> Batch:
        pixels, indices = keyed_pixels(batch)
        if p == 0:
            return batch
        draws = random.uniform(seed, "random_erasing", epoch, indices, _NUM_DRAWS)
        height, width = pixels.shape[-2:]
        mask = inside(*rectangles(draws, height, width, area, ratio), height, width)
        erased = (mask & (draws[:, _CHOSEN] < p).view(-1, 1, 1)).unsqueeze(1).to(pixels.dtype)
        value: Tensor | float
        if isinstance(fill, str):
            value = _noise(pixels, draws[:, _NOISE], seed, epoch)
        else:
            value = fill if pixels.is_floating_point() else round(fill)
        # exact for the factors 0 and 1, and on a CPU far faster than masked_fill and where with a mask to expand
        return batch._replace(inputs=pixels * (1 - erased) + value * erased)

    return augment


def rectangles(
    draws: Float[Tensor, "batch draws"],
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"], Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """One rectangle for each row of draws in [0, 1): its first row and column, height and width, as whole numbers.

    Raises:
        ConfigError: no shape in `ratio` holds the largest area.
    """
    # a height of sqrt(size * shape) is within the picture for shape <= height^2 / size, a width for the other bound;
    # the largest area leaves the fewest shapes
    if ratio[1] < area[1] * height / width or ratio[0] * area[1] > height / width:
        raise ConfigError(
            f"a rectangle of {area[1]:g} of a {height}x{width} picture with height / width in {ratio} does not fit. "
            "Make area[1] smaller or the range of ratio wider."
        )
    size = (area[0] + draws[:, _AREA] * (area[1] - area[0])) * (height * width)
    lowest = (size / width**2).clamp(min=ratio[0]).log()
    highest = (height**2 / size).clamp(max=ratio[1]).log()
    shape = lowest.lerp(highest, draws[:, _RATIO]).exp()
    tall = (size * shape).sqrt().round().clamp(1, height)
    # each side makes up for the rounding of the other
    wide = (size / tall).round().clamp(1, width)
    tall = (size / wide).round().clamp(1, height)
    top = (draws[:, _TOP] * (height - tall + 1)).floor()
    left = (draws[:, _LEFT] * (width - wide + 1)).floor()
    return top, left, tall, wide


def _noise(
    pixels: Shaped[Tensor, "batch channel height width"], draw: Float[Tensor, "batch"], seed: int, epoch: int
) -> Shaped[Tensor, "batch channel height width"]:
    """A whole number in 0..255 for every value, in the type and layout of the pixels.

    One table of the epoch times an odd number of the sample, the top 8 bits of the product: a multiplicative hash,
    some 20 times cheaper on a CPU than a draw for each value of each sample.
    """
    numbers = pixels.shape[1:].numel()
    epoch_row = torch.zeros(1, dtype=torch.long, device=pixels.device)
    table = (random.uniform(seed, "random_erasing noise", epoch, epoch_row, numbers) * (1 << 24)).int()
    table = table.view(1, *pixels.shape[1:])
    factor = (draw * (1 << 24)).int() * 2 + 1
    # int32 products wrap around alike on every device; the mask clears the sign
    return (table * factor.view(-1, 1, 1, 1) >> 24 & 255).to(pixels.dtype)


def keyed_pixels(
    batch: Batch,
) -> tuple[Shaped[Tensor, "batch channel height width"], Int[Tensor, "batch"]]:
    """The pixels of a batch and the index of each sample.

    Raises:
        ConfigError: they are not pixels as augmentations take them, or the indices are missing.
    """
    pixels = batch.inputs
    if batch.indices is None or not isinstance(pixels, Tensor):
        raise ConfigError("this augmentation is keyed by each sample's index; the loader must give batch.indices")
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or pixels.dtype not in (torch.uint8, torch.float32):
        raise ConfigError(
            f"this augmentation takes pixels (batch, 1 or 3 channels, height, width) in 0..255, uint8 or float32; "
            f"got {tuple(pixels.shape)} in {pixels.dtype}. Augment before the pixels are normalized."
        )
    return pixels, batch.indices


def is_channels_last(pixels: Shaped[Tensor, "batch channel height width"]) -> bool:
    """Whether the channels of a pixel lie side by side in memory, so that a result should be laid out alike."""
    return pixels.is_contiguous(memory_format=torch.channels_last)
