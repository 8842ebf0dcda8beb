"""Moving pixels as PIL does it, and as a float64 loop over pixels."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def forward_matrix(height, width, *, zoom, angle, shear, shift) -> Tensor:
    """Shear, zoom, rotate, shift, in float64, from where a pixel is to where it goes: the textbook's matrices.

    Points are (x, y, 1) in pixels from the middle, y down; angles in degrees, counterclockwise as one sees it.
    """
    turn, lean = math.radians(angle), math.radians(shear)
    sheared = torch.tensor([[1, math.tan(lean), 0], [0, 1, 0], [0, 0, 1]]).double()
    zoomed = torch.diag(torch.tensor([zoom, zoom, 1.0], dtype=torch.float64))
    rotated = torch.tensor(
        [[math.cos(turn), math.sin(turn), 0], [-math.sin(turn), math.cos(turn), 0], [0, 0, 1]]
    ).double()
    shifted = torch.tensor([[1, 0, shift[0] * width], [0, 1, shift[1] * height], [0, 0, 1]]).double()
    return shifted @ rotated @ zoomed @ sheared


def to_image(picture: Tensor) -> Image.Image:
    """A PIL image from uint8 (channel, height, width)."""
    return Image.fromarray(picture.permute(1, 2, 0).squeeze(2).numpy())


def from_image(image: Image.Image) -> Tensor:
    """And back, in float32."""
    array = torch.from_numpy(np.array(image)).float()
    return array.unsqueeze(0) if array.ndim == 2 else array.permute(2, 0, 1)


def transform(picture: Tensor, matrix: Tensor) -> Tensor:
    """PIL's Image.transform with a matrix from result to source, in pixels from the middle."""
    height, width = picture.shape[-2:]
    # PIL counts from the upper left corner
    to_corner = torch.tensor([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]]).double()
    shifted = to_corner @ matrix.double() @ to_corner.inverse()
    numbers = (shifted / shifted[2, 2]).flatten()[:8].tolist()
    image = to_image(picture)
    return from_image(image.transform(image.size, Image.Transform.PERSPECTIVE, numbers, Image.Resampling.BILINEAR))


def sources(matrix: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where each pixel of the result comes from: x and y counted from the upper left corner, float64."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    points = torch.stack([x.double() - width / 2, y.double() - height / 2, torch.ones(height, width).double()])
    across, down, depth = torch.einsum("ij,jhw->ihw", matrix.double(), points)
    return across / depth + width / 2, down / depth + height / 2


def bilinear(picture: Tensor, matrix: Tensor, padding: str) -> Tensor:
    """One picture moved in float64, pixel by pixel, with what lies outside spelt out."""
    channels, height, width = picture.shape
    result = torch.zeros(channels, height, width, dtype=torch.float64)
    all_x, all_y = sources(matrix, height, width)
    for row in range(height):
        for column in range(width):
            # pixels lie at whole numbers from here on
            x = _inside(float(all_x[row, column]) - 0.5, width, padding)
            y = _inside(float(all_y[row, column]) - 0.5, height, padding)
            left, top = math.floor(x), math.floor(y)
            for j, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
                for i, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
                    if 0 <= i < width and 0 <= j < height:
                        result[:, row, column] += weight_y * weight_x * picture[:, j, i].double()
    return result


def _inside(place: float, length: int, padding: str) -> float:
    """A place brought into the picture: not at all, to the outermost pixel, or mirrored at the picture's edges."""
    if padding == "reflection":
        place = (place + 0.5) % (2 * length) - 0.5
        if place > length - 0.5:
            place = 2 * length - 1 - place
    if padding != "zeros":
        place = min(max(place, 0.0), length - 1.0)
    return place
