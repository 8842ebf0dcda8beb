"""Random brightness, contrast, saturation and hue, as PIL defines them, in floating point and on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from etude import random
from etude.data.loaders import Augment
from etude.errors import ConfigError
from etude.types import Batch
from etude.vision.erase import is_channels_last, keyed_pixels

if TYPE_CHECKING:
    from jaxtyping import Float

# Pictures are taken apart into planes, one tensor (batch, height, width) per channel: what mixes channels, as gray
# does, then runs over contiguous memory for either memory format.


def color_jitter(
    *, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
) -> Augment:
    """Change the colors of each picture by its own draws.

    The order is brightness, contrast, saturation, hue. Each of the first three is a factor drawn uniformly from
    [max(0, 1 - x), 1 + x]: 0 is black, the mean gray of the picture, or each pixel's gray; 1 leaves it as it is. Values
    are clipped to 0..255 after each. On whole pixels one step is within 1 of 255 of `PIL.ImageEnhance`, which rounds
    after each step; this does not.

    Args:
        brightness: how far the factor of brightness is from 1, at least 0.
        contrast: the same for contrast.
        saturation: the same for saturation; pictures need three channels.
        hue: the most that the hue turns either way, as a share of the circle, in [0, 0.5]; pictures need three
            channels. Exact up to float32, while PIL's hue has 256 steps.

    Returns:
        (batch, seed, epoch) -> batch, with float32 pixels in 0..255.

    Raises:
        ConfigError: a setting is out of range. When called: saturation or hue is asked of pictures with one channel,
            or the batch is not keyed pixels.

    Source: PIL.ImageEnhance; Howard 2013, "Some improvements on deep convolutional neural network based image
    classification".
    """
    for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        if not 0 <= value < float("inf"):
            raise ConfigError(f"{name} is how far its factor is from 1, at least 0; got {value}")
    if not 0 <= hue <= 0.5:
        raise ConfigError(f"hue is a share of the color circle in [0, 0.5], got {hue}")

    def augment(batch: Batch, seed: int, epoch: int) -> Batch:
        pixels, indices = keyed_pixels(batch)
        if pixels.shape[1] == 1 and (saturation or hue):
            raise ConfigError(
                f"saturation={saturation} and hue={hue} cannot change pictures with one channel; leave them at 0"
            )
        if not (brightness or contrast or saturation or hue):
            return batch
        draws = random.uniform(seed, "color_jitter", epoch, indices, 4)
        planes = [plane.float() for plane in pixels.unbind(1)]
        if brightness:
            planes = brighten(planes, _factor(draws[:, 0], brightness))
        if contrast:
            planes = stretch_contrast(planes, _factor(draws[:, 1], contrast))
        if saturation:
            planes = saturate(planes, _factor(draws[:, 2], saturation))
        if hue:
            planes = turn_hue(planes, (draws[:, 3] * 2 - 1) * hue)
        changed = torch.stack(planes, dim=1)
        layout = torch.channels_last if is_channels_last(pixels) else torch.contiguous_format
        return batch._replace(inputs=changed.contiguous(memory_format=layout))

    return augment


def brighten(planes: list[Tensor], factor: Float[Tensor, "batch"]) -> list[Tensor]:
    """Every value times the factor, clipped to 0..255."""
    return [(plane * _per_picture(factor)).clamp_(0, 255) for plane in planes]


def stretch_contrast(planes: list[Tensor], factor: Float[Tensor, "batch"]) -> list[Tensor]:
    """The distance of every value from the picture's mean gray, rounded as PIL does, times the factor."""
    # the mean of whole numbers, as a whole number
    pivot = ((gray(planes) + 0.5).floor_().mean((1, 2)) + 0.5).floor_()
    offset = _per_picture(pivot * (1 - factor))
    return [(plane * _per_picture(factor)).add_(offset).clamp_(0, 255) for plane in planes]


def saturate(planes: list[Tensor], factor: Float[Tensor, "batch"]) -> list[Tensor]:
    """The distance of every value from its pixel's gray, times the factor."""
    middle = gray(planes)
    return [middle.lerp(plane, _per_picture(factor)).clamp_(0, 255) for plane in planes]


def turn_hue(planes: list[Tensor], turn: Float[Tensor, "batch"]) -> list[Tensor]:
    """Turn the hue by a share of the circle; the largest and smallest value of a pixel stay as they are.

    A channel falls from the largest value to the smallest and rises again as the hue goes around: it is
    `value - chroma * clip(2 - 6 * distance, 0, 1)` with the distance of the hue, in turns, from the channel's
    complementary color. That is HSV to RGB without its six cases.

    Source: Smith 1978, "Color gamut transform pairs".
    """
    red, green, blue = planes
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # a gray pixel has no hue: 0 by any divisor, and its chroma of 0 cancels it below
    divisor = chroma.clamp(min=1e-12).mul_(6)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 1 / 3, (red - green) / divisor + 2 / 3),
    ).add_(_per_picture(turn))
    changed = []
    for complement in (1 / 2, 5 / 6, 1 / 6):
        distance = hue - complement
        distance.sub_(distance.round()).abs_()
        fall = distance.mul_(-6).add_(2).clamp_(0, 1)
        changed.append(value - fall.mul_(chroma))
    return changed


def gray(planes: list[Tensor]) -> Float[Tensor, "batch height width"]:
    """The luma of ITU-R 601, with the weights of PIL's `convert("L")`; one plane is its own gray."""
    if len(planes) == 1:
        return planes[0]
    red, green, blue = planes
    return (red * 0.299).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def _factor(draw: Float[Tensor, "batch"], most: float) -> Float[Tensor, "batch"]:
    """From draws in [0, 1) to factors in [max(0, 1 - most), 1 + most)."""
    lowest = max(0.0, 1 - most)
    return lowest + draw * (1 + most - lowest)


def _per_picture(numbers: Float[Tensor, "batch"]) -> Float[Tensor, "batch 1 1"]:
    return numbers.view(-1, 1, 1)
