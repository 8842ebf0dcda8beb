"""Random rotation, zoom, shear, shift and perspective with one interpolation per picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from etude import random
from etude.data.loaders import Augment
from etude.errors import ConfigError
from etude.types import Batch, per_sample_view
from etude.vision.erase import is_channels_last, keyed_pixels

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

Padding: TypeAlias = Literal["zeros", "border", "reflection"]
PADDINGS: tuple[Padding, ...] = ("zeros", "border", "reflection")

_NUM_DRAWS = 14


def affine(
    *,
    rotate: float = 0.0,
    zoom: tuple[float, float] = (1.0, 1.0),
    shear: float = 0.0,
    warp: float = 0.0,
    shift: float = 0.0,
    p: float = 1.0,
    padding: Padding = "zeros",
) -> Augment:
    """Move the pixels of each picture by its own draws: one matrix, one grid, one bilinear interpolation.

    A picture is sheared, zoomed, rotated about its middle, shifted, then seen in perspective. All draws are uniform
    and independent. Lengths are in pixels, so a picture that is not square is rotated without being sheared.

    Args:
        rotate: the largest angle either way, degrees in [0, 180].
        zoom: the smallest and largest magnification, at least 0.5; below that reduce the stored pictures. Where a
            picture is reduced it is blurred first, see `warp_pixels`.
        shear: the largest angle by which columns lean either way, degrees in [0, 60].
        warp: how far each corner moves along each side, as a share of the side, in [0, 0.25): from 0.25 on, corners
            may fold the picture.
        shift: how far a picture moves along each side, as a share of the side, in [0, 1].
        p: the share of pictures changed; the others keep their exact values.
        padding: what is outside: "zeros" is black, "border" repeats the outermost pixel, "reflection" mirrors.

    Returns:
        (batch, seed, epoch) -> batch, with float32 pixels in 0..255.

    Raises:
        ConfigError: a setting is out of range. When called: the batch is not keyed pixels.

    Source: SPEC M12; Jaderberg et al. 2015, "Spatial transformer networks", equations 1 and 5.
    """
    _check(rotate=rotate, zoom=zoom, shear=shear, warp=warp, shift=shift, p=p, padding=padding)
    still = p == 0 or (rotate == shear == warp == shift == 0 and zoom[0] == zoom[1] == 1)

    def augment(batch: Batch, seed: int, epoch: int) -> Batch:
        pixels, indices = keyed_pixels(batch)
        if still:
            return batch
        draws = random.uniform(seed, "affine", epoch, indices, _NUM_DRAWS)
        both_ways = draws[:, 2:] * 2 - 1
        moves = matrices(
            pixels.shape[-2],
            pixels.shape[-1],
            zoom=zoom[0] + draws[:, 1] * (zoom[1] - zoom[0]),
            angle=both_ways[:, 0] * rotate,
            shear=both_ways[:, 1] * shear,
            shift=both_ways[:, 2:4] * shift,
            corners=both_ways[:, 4:12].view(-1, 4, 2) * warp,
        )
        moved = warp_pixels(pixels, moves, padding, antialias=zoom[0] < 1 or warp > 0)
        if p < 1:
            # cheaper than where on a CPU, and exact for the weights 0 and 1
            moved = pixels.float().lerp(moved, per_sample_view((draws[:, 0] < p).float(), moved))
        return batch._replace(inputs=moved)

    return augment


def _check(
    *, rotate: float, zoom: tuple[float, float], shear: float, warp: float, shift: float, p: float, padding: str
) -> None:
    """Raise `ConfigError` for a setting out of range."""
    for name, value, most in (("rotate", rotate, 180), ("shear", shear, 60), ("shift", shift, 1), ("p", p, 1)):
        if not 0 <= value <= most:
            raise ConfigError(f"{name} is in [0, {most}], got {value}")
    if not 0 <= warp < 0.25:
        raise ConfigError(f"warp is a share of the side in [0, 0.25), got {warp}")
    if not 0.5 <= zoom[0] <= zoom[1] < math.inf:
        raise ConfigError(f"zoom is (smallest, largest), at least 0.5; got {zoom}. Reduce the stored pictures instead.")
    if padding not in PADDINGS:
        raise ConfigError(f"padding is one of {', '.join(PADDINGS)}; got {padding!r}")


def matrices(
    height: int,
    width: int,
    *,
    zoom: Float[Tensor, "batch"],
    angle: Float[Tensor, "batch"],
    shear: Float[Tensor, "batch"],
    shift: Float[Tensor, "batch 2"],
    corners: Float[Tensor, "batch 4 2"],
) -> Float[Tensor, "batch 3 3"]:
    """For each picture, the matrix from where a pixel goes to where it comes from.

    Points are (x, y, 1) in pixels from the picture's middle, x to the right and y down; after the product, x and y are
    divided by the third number. The arguments are not changed.

    Args:
        height: the pictures' height in pixels.
        width: the pictures' width in pixels.
        zoom: magnification, above 0.
        angle: degrees counterclockwise.
        shear: degrees by which the columns lean.
        shift: how far to the right and down, as shares of the sides.
        corners: from where, seen from the corner itself, the top left, top right, bottom right and bottom left corners
            come, (x, y) as shares of the sides.
    """
    zero, one = torch.zeros_like(zoom), torch.ones_like(zoom)
    cosine, sine = angle.deg2rad().cos(), angle.deg2rad().sin()
    sheared = _rows(one, -shear.deg2rad().tan(), zero, zero, one, zero, zero, zero, one)
    zoomed = _rows(1 / zoom, zero, zero, zero, 1 / zoom, zero, zero, zero, one)
    rotated = _rows(cosine, -sine, zero, sine, cosine, zero, zero, zero, one)
    shifted = _rows(one, zero, -shift[:, 0] * width, zero, one, -shift[:, 1] * height, zero, zero, one)
    product = _multiply(_multiply(sheared, zoomed), _multiply(rotated, shifted))
    return _multiply(product, _perspective(corners, height, width))


def warp_pixels(
    pixels: Shaped[Tensor, "batch channel height width"],
    matrices: Float[Tensor, "batch 3 3"],
    padding: Padding = "zeros",
    *,
    antialias: bool = True,
) -> Float[Tensor, "batch channel height width"]:
    """Every pixel from the place that its picture's matrix names, between pixels bilinearly.

    With `antialias`, a picture that is reduced is mixed with its binomial blur, (1, 2, 1) / 4 in each direction. The
    weight is 0 from zoom 1 on and 1 at zoom 0.5, and gives the blur the variance that the triangle filter of a proper
    reduction has beyond the interpolation's own, (1 / zoom^2 - 1) / 6. At zoom 0.5 the result is that of
    `PIL.Image.resize` with its antialiased bilinear filter, within 1 of 255. Between, the root mean square difference
    from it is up to 2 of 255 on smooth pictures and 12 on white noise, where no filter at all gives 4 and 31. The zoom
    is that of areas in the middle of the picture, so what a shear or a far corner reduces in one direction only is not
    covered.

    Args:
        pixels: uint8 or float32.
        matrices: as `matrices` makes them.
        padding: what is outside, as for `affine`.
        antialias: False saves the blur where nothing is reduced.

    Source: Jaderberg et al. 2015, equation 5; Heckbert 1989, "Fundamentals of texture mapping and image warping".
    """
    values = pixels.float()
    if antialias:
        values = values.lerp(_blur(values), per_sample_view(_blur_weight(matrices), values))
    grid = _grid(matrices, pixels.shape[-2], pixels.shape[-1])
    moved = F.grid_sample(values, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    layout = torch.channels_last if is_channels_last(pixels) else torch.contiguous_format
    return moved.contiguous(memory_format=layout)


def _grid(matrices: Float[Tensor, "batch 3 3"], height: int, width: int) -> Float[Tensor, "batch height width 2"]:
    """Where each pixel comes from, as grid_sample counts: -1 and 1 are the outer edges of the picture."""
    x = torch.arange(width, device=matrices.device) - (width - 1) / 2
    y = torch.arange(height, device=matrices.device) - (height - 1) / 2
    # sums of rows and columns: many times faster than F.affine_grid, and in float32 where products of matrices may
    # run in TF32
    along_x = matrices[:, :, 0, None] * x + matrices[:, :, 2, None]
    points = along_x.unsqueeze(2) + (matrices[:, :, 1, None] * y).unsqueeze(3)
    across, down, depth = points.unbind(1)
    places = [(across / depth).mul_(2 / width), (down / depth).mul_(2 / height)]
    return torch.stack(places, dim=1).permute(0, 2, 3, 1)


def _perspective(corners: Float[Tensor, "batch 4 2"], height: int, width: int) -> Float[Tensor, "batch 3 3"]:
    """The projection that takes each corner of the picture to a place beside it.

    Source: Heckbert 1989, "Fundamentals of texture mapping and image warping", square to quadrilateral.
    """
    x0, y0 = corners[:, 0].unbind(1)
    x1, y1 = (corners[:, 1, 0] + 1), corners[:, 1, 1]
    x2, y2 = (corners[:, 2] + 1).unbind(1)
    x3, y3 = corners[:, 3, 0], (corners[:, 3, 1] + 1)
    # how far the quadrilateral is from a parallelogram; 0 makes the projection affine
    skew_x, skew_y = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    size = (x1 - x2) * (y3 - y2) - (x3 - x2) * (y1 - y2)
    far_x = (skew_x * (y3 - y2) - (x3 - x2) * skew_y) / size
    far_y = ((x1 - x2) * skew_y - skew_x * (y1 - y2)) / size
    across = (x1 - x0 + far_x * x1, x3 - x0 + far_y * x3, x0)
    down = (y1 - y0 + far_x * y1, y3 - y0 + far_y * y3, y0)
    zero, one = torch.zeros_like(x0), torch.ones_like(x0)
    projection = _rows(*across, *down, far_x, far_y, one)
    # from pixels around the middle to shares of the sides, and back
    to_shares = _rows(one / width, zero, one / 2, zero, one / height, one / 2, zero, zero, one)
    to_pixels = _rows(one * width, zero, -one * width / 2, zero, one * height, -one * height / 2, zero, zero, one)
    return _multiply(_multiply(to_pixels, projection), to_shares)


def _blur(values: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel height width"]:
    """Mixed with the neighbors as (1, 2, 1) / 4 in each direction; beyond the edge is the outermost pixel."""
    # four sums of neighbors: a depthwise convolution is ten times slower on a CPU
    sums = F.pad(values, (1, 1, 1, 1), mode="replicate")
    sums = sums[:, :, 1:] + sums[:, :, :-1]
    sums = sums[:, :, 1:] + sums[:, :, :-1]
    sums = sums[..., 1:] + sums[..., :-1]
    return (sums[..., 1:] + sums[..., :-1]).div_(16)


def _blur_weight(matrices: Float[Tensor, "batch 3 3"]) -> Float[Tensor, "batch"]:
    """The share of the blur in each picture: (1 / zoom^2 - 1) / 3, in [0, 1]."""
    first, second, third = matrices.unbind(1)
    # the area that one pixel of the result covers, in the middle of the picture
    area = (first * torch.cross(second, third, dim=1)).sum(1) / third[:, 2].pow(3)
    return ((area - 1) / 3).clamp(0, 1)


def _rows(*numbers: Float[Tensor, "batch"]) -> Float[Tensor, "batch 3 3"]:
    """One matrix per picture from its nine numbers, row by row."""
    return torch.stack(numbers, dim=1).view(-1, 3, 3)


def _multiply(left: Float[Tensor, "batch 3 3"], right: Float[Tensor, "batch 3 3"]) -> Float[Tensor, "batch 3 3"]:
    """The matrix products in float32, where matmul may round to TF32 and move pixels."""
    return (left.unsqueeze(3) * right.unsqueeze(1)).sum(2)
