"""Windows of stored pictures, reduced or enlarged to one size with an antialiasing filter.

Two kernels do the same: on a CPU each window goes through torch's own uint8 resampling, straight from the store into
the batch; on a GPU the whole batch is two matrix products. Both are within 2 of 255 of Pillow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from etude.data.buffers import Recycler
from etude.vision.windows import Windows

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

_BYTES = 1 << 30
"""Memory that the matrix products may take; it decides how many pictures go through them at a time."""
_BYTES_PER_VALUE = 20
"""Of a padded picture: an index, a number, and what is between the two products."""


def resample(
    values: UInt8[Tensor, "total"],
    starts: Int[Tensor, "batch"],
    shapes: Int[Tensor, "batch 3"],
    windows: Windows,
    size: int,
    *,
    most: tuple[int, int, int],
    memory: Recycler,
) -> UInt8[Tensor, "batch channel size size"]:
    """The windows of some stored pictures as a batch, channels last.

    Args:
        values: all stored pixels, flat: (height, width, channel) for each picture.
        starts: where each picture of the batch begins in `values`.
        shapes: its height, width and channels.
        windows: which part of each is seen.
        size: side of the square that comes out.
        most: the largest height and width in the store and its channels; known beforehand, so that no GPU has to be
            asked.
        memory: where a CPU batch is put.
    """
    if values.device.type == "cpu":
        return _one_by_one(values, starts, shapes, windows, size, most[2], memory)
    return _in_parts(values, starts, shapes, windows, size, most)


def _in_parts(
    values: Tensor, starts: Tensor, shapes: Tensor, windows: Windows, size: int, most: tuple[int, int, int]
) -> Tensor:
    """The products of as many pictures at a time as their memory allows."""
    height, width, channels = most
    chunk = max(_BYTES // (height * width * channels * _BYTES_PER_VALUE), 1)
    parts = zip(starts.split(chunk), shapes.split(chunk), *(field.split(chunk) for field in windows), strict=True)
    return torch.cat([_by_products(values, start, shape, Windows(*part), size, most) for start, shape, *part in parts])


def _one_by_one(
    values: Tensor, starts: Tensor, shapes: Tensor, windows: Windows, size: int, channels: int, memory: Recycler
) -> Tensor:
    batch = memory.empty((len(starts), size, size, channels), torch.uint8)
    top, left, height, width, mirror = (field.tolist() for field in windows)
    # as (1, channel, height, width) in channels-last order: the form for which the kernel has vector code
    targets = batch.permute(0, 3, 1, 2).unsqueeze(1).unbind(0)
    for i, (start, row) in enumerate(zip(starts.tolist(), (shapes[:, 1] * channels).tolist(), strict=True)):
        window = values.as_strided(
            (1, channels, height[i], width[i]),
            (height[i] * row, 1, row, channels),
            values.storage_offset() + start + top[i] * row + left[i] * channels,
        )
        # the operator behind F.interpolate(antialias=True), writing where the picture belongs
        torch.ops.aten._upsample_bilinear2d_aa.out(window, [size, size], False, None, None, out=targets[i])
        if mirror[i]:
            batch[i].copy_(batch[i].flip(1))
    return batch.permute(0, 3, 1, 2)


def _by_products(
    values: Tensor, starts: Tensor, shapes: Tensor, windows: Windows, size: int, most: tuple[int, int, int]
) -> Tensor:
    """Rows of weights times picture times columns of weights, for all pictures at once."""
    device = values.device
    height, width, channels = shapes[:, 0], shapes[:, 1], most[2]
    y = torch.arange(most[0], device=device).expand(len(starts), -1)
    x = torch.arange(most[1], device=device).expand(len(starts), -1)
    # what lies beyond a picture is read from its last pixel, and gets no weight
    y_in, x_in = torch.minimum(y, height.unsqueeze(1) - 1), torch.minimum(x, width.unsqueeze(1) - 1)
    place = (starts.unsqueeze(1) + y_in * (width * channels).unsqueeze(1)).unsqueeze(2) + (x_in * channels).unsqueeze(1)
    place = place.unsqueeze(1) + torch.arange(channels, device=device).view(1, -1, 1, 1)
    pixels = values[place].float()
    rows = _weights(windows.top, windows.height, y, size)
    columns = _weights(windows.left, windows.width, x, size)
    columns = torch.where(windows.mirror.view(-1, 1, 1), columns.flip(1), columns)
    # halves are rounded up, as Pillow and the CPU kernel do; they are common where the sizes have a simple ratio
    across = (pixels @ columns.unsqueeze(1).transpose(2, 3)).add_(0.5).floor_()
    out = (rows.unsqueeze(1) @ across).add_(0.5)
    return out.clamp_(0, 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)


def _weights(
    first: Int[Tensor, "batch"], length: Int[Tensor, "batch"], places: Int[Tensor, "batch side"], size: int
) -> Float[Tensor, "batch size side"]:
    """How much each stored row counts in each row that comes out: a triangle as wide as the reduction."""
    scale = length.float() / size
    center = (torch.arange(size, device=first.device) + 0.5) * scale.unsqueeze(1)
    within = (places - first.unsqueeze(1)).float()
    reach = scale.clamp(min=1.0).view(-1, 1, 1)
    weight = (1 - ((within.unsqueeze(1) + 0.5 - center.unsqueeze(2)) / reach).abs()).clamp(min=0)
    weight = weight * ((within >= 0) & (within < length.unsqueeze(1))).unsqueeze(1)
    return F.normalize(weight, p=1.0, dim=2)
