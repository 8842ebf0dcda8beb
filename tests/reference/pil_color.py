"""Colors changed by PIL, and hue by the standard library in float64."""

from __future__ import annotations

import colorsys

import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from reference.pil_affine import from_image, to_image

ENHANCE = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}


def enhance(name: str, picture: Tensor, factor: float) -> Tensor:
    """One of PIL's enhancements of a uint8 picture (channel, height, width); the result has whole numbers."""
    return from_image(ENHANCE[name](to_image(picture)).enhance(factor))


def pil_hue(picture: Tensor, turn: float) -> Tensor:
    """The hue turned in PIL's HSV, whose hue has 256 steps and whose saturation is a whole number too."""
    hue, saturation, value = to_image(picture).convert("HSV").split()
    steps = round(turn * 256)
    turned = Image.merge("HSV", (hue.point([(i + steps) % 256 for i in range(256)]), saturation, value))
    return from_image(turned.convert("RGB"))


def hue(picture: Tensor, turn: float) -> Tensor:
    """The hue turned pixel by pixel in float64."""
    result = []
    for red, green, blue in (picture.double() / 255).flatten(1).T.tolist():
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        result.append(colorsys.hsv_to_rgb((h + turn) % 1, s, v))
    return 255 * torch.tensor(result, dtype=torch.float64).T.reshape(picture.shape)
