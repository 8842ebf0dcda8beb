"""From an item to stored pixels, and from stored pixels to what the model sees: saved with the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from typing_extensions import override

from etude.data.buffers import Recycler
from etude.data.build import BadFile
from etude.errors import ConfigError, DataError
from etude.output import plain
from etude.types import Json
from etude.vision.decode import PictureCodec, from_16_bits
from etude.vision.faults import missing
from etude.vision.resample import resample
from etude.vision.windows import MiddleCrop

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped, UInt8


_LARGEST = 1 << 14
"""Pixels of a side."""
_MOST_CHANNELS = 1 << 10
_SCALE_ARRAY = "scale them first: (255 * pixels).round().astype(np.uint8) for pixels in [0, 1]"
_SCALE_TENSOR = "scale them first: (255 * pixels).round().to(torch.uint8) for pixels in [0, 1]"


@final
class ImagePreprocess(nn.Module):
    """From stored pixels to what the model sees: middle window, scale to [0, 1], normalize, channels last.

    Args:
        size: side of the window; pictures that are this size already pass through.
        mean: per channel, of pixels in [0, 1].
        std: per channel.

    Raises:
        ConfigError: no picture has such a size, mean or deviation.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        _check_size(size)
        numbers = all(isinstance(number, int | float) and math.isfinite(number) for number in (*mean, *std))
        if not numbers or not 1 <= len(mean) == len(std) <= _MOST_CHANNELS or not min(std) > 0:
            raise ConfigError(
                f"mean and std have a finite number for each channel, std above 0; got {mean!s:.60}, {std!s:.60}"
            )
        self.size, self.mean, self.std = size, tuple(mean), tuple(std)
        deviation = torch.tensor(self.std, dtype=torch.float64)
        # one row of pixels: operands of three numbers would leave a vector unit idle (119 us a picture instead of 9)
        scale, shift = 1 / (255 * deviation), -torch.tensor(self.mean, dtype=torch.float64) / deviation
        self.register_buffer("scale", scale.float().repeat(size), persistent=False)
        self.register_buffer("shift", shift.float().repeat(size), persistent=False)
        self._memory = Recycler()
        self._smaller: frozenset[int] = frozenset()

    @contextmanager
    def taking(self, smaller: Sequence[int]) -> Iterator[None]:
        """Take pictures of these smaller sides as well, whole, in the `with` block; else they are refused.

        For training that begins with small pictures; prediction should go on to refuse them.
        """
        before, self._smaller = self._smaller, self._smaller | frozenset(smaller)
        try:
            yield
        finally:
            self._smaller = before

    @override
    def forward(
        self, pixels: Shaped[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height2 width2"]:
        if pixels.ndim != 4 or pixels.shape[1] != len(self.mean):
            raise DataError(f"expected pictures (batch, {len(self.mean)}, height, width), got {tuple(pixels.shape)}")
        height, width = pixels.shape[-2:]
        side = height if height == width and height in self._smaller else self.size
        if min(height, width) < side:
            raise DataError(f"pictures of {height}x{width} pixels are smaller than the {self.size} that the model sees")
        top, left = (height - side) // 2, (width - side) // 2
        window = pixels[..., top : top + side, left : left + side]
        numbers = side * len(self.mean)
        rows = window.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).reshape(-1, numbers)
        return self._normalized(rows).view(-1, side, side, len(self.mean)).permute(0, 3, 1, 2)

    def _normalized(self, rows: Shaped[Tensor, "row number"]) -> Float[Tensor, "row number"]:
        # a smaller picture's row begins like a larger one's
        scale, shift = self.scale[: rows.shape[1]], self.shift[: rows.shape[1]]
        if rows.is_floating_point() or rows.device.type != "cpu":
            return torch.addcmul(shift, rows.to(scale.dtype), scale)
        x = self._memory.empty(rows.shape, scale.dtype)
        x.copy_(rows)
        return torch.addcmul(shift, x, scale, out=x)

    def config(self) -> dict[str, Json]:
        """The constructor's arguments."""
        return {"size": self.size, "mean": list(self.mean), "std": list(self.std)}


@final
class ImageReader:
    """From a path, a PIL picture or an array to the pixels that validation would see (channel, size, size), uint8.

    Args:
        size: side of the square that the model sees.
        channels: 3 for color, 1 for gray.
        stored: the size to which larger pictures are reduced first, as in the store that the model was trained from.
        share: of the shorter side that is kept; see `MiddleCrop`.
        squash: whether the picture is squashed to a square instead of cut.
    """

    def __init__(
        self, size: int, channels: int = 3, *, stored: int | None = None, share: float = 1.0, squash: bool = False
    ) -> None:
        _check_size(size)
        _check_size(stored if stored is not None else size)
        self.size, self.codec, self.crop = size, PictureCodec(stored, channels), MiddleCrop(share, squash)

    def config(self) -> dict[str, Json]:
        """The constructor's arguments."""
        return {
            "size": self.size,
            "channels": self.codec.channels,
            "stored": self.codec.stored,
            "share": self.crop.share,
            "squash": self.crop.squash,
        }

    def __call__(self, item: Any) -> UInt8[Tensor, "channel size size"]:
        """Read one picture; raises `DataError` naming the file.

        A tensor (channel, height, width) is seen as an array of the same pixels is. One that has the size already
        passes through.
        """
        with self.threaded() as read:
            return read(item)

    @contextmanager
    def threaded(self) -> Iterator[Callable[[Any], Tensor]]:
        """Inside, a function that reads as the reader itself does, from any thread."""
        with self.codec.quietly():
            yield self._read

    def _read(self, item: Any) -> UInt8[Tensor, "channel size size"]:
        if isinstance(item, Tensor):
            if item.dtype == torch.uint8 and item.shape == (self.codec.channels, self.size, self.size):
                return item.cpu()
            item = _array(item, self.codec.channels)
        if isinstance(item, np.ndarray):
            item = _picture(item)
        try:
            pixels = torch.from_numpy(self.codec.read(item if isinstance(item, Image.Image) else Path(item)))
        except BadFile as bad:
            named = getattr(item, "filename", "") or "the picture" if isinstance(item, Image.Image) else item
            raise DataError(missing(item) or f"{plain(named)} {bad}. Repair it or take it out.") from bad
        shape = torch.tensor([pixels.shape])
        windows = self.crop(0, 0, torch.zeros(1, dtype=torch.long), shape[:, 0], shape[:, 1])
        height, width, channels = pixels.shape
        return resample(
            pixels.view(-1),
            torch.zeros(1, dtype=torch.long),
            shape,
            windows,
            self.size,
            most=(height, width, channels),
            memory=Recycler(0),
        )[0]


def _check_size(size: int) -> None:
    """Refuse a size that a slip of the hand or a stranger's file may name; raises `ConfigError`."""
    if type(size) is not int or not 1 <= size <= _LARGEST:
        raise ConfigError(f"size must be a whole number of pixels from 1 to {_LARGEST}, got {size!s:.60}")


def _array(pixels: Tensor, channels: int) -> np.ndarray[Any, np.dtype[Any]]:
    """A tensor (channel, height, width) as an array has it: channels last."""
    if pixels.ndim != 3 or pixels.shape[0] != channels:
        raise DataError(
            f"expected a picture (channel, height, width) with channels={channels}, got a tensor {tuple(pixels.shape)}"
        )
    if pixels.dtype != torch.uint8:
        raise DataError(f"expected uint8 pixels, 0 to 255, got a tensor of {pixels.dtype}; {_SCALE_TENSOR}")
    return pixels.permute(1, 2, 0).cpu().numpy()


def _picture(pixels: np.ndarray[Any, np.dtype[Any]]) -> Image.Image:
    """An array (height, width) or (height, width, channel) as a picture."""
    shape, dtype = pixels.shape, pixels.dtype
    if np.issubdtype(dtype, np.uint16):
        pixels = from_16_bits(pixels)
    elif dtype != np.uint8:
        raise DataError(f"expected uint8 pixels, 0 to 255, or uint16, got an array of {dtype} {shape}; {_SCALE_ARRAY}")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    try:
        return Image.fromarray(np.ascontiguousarray(pixels))
    # an empty array is a ValueError
    except (TypeError, ValueError) as error:
        raise DataError(
            f"expected pixels (height, width) or (height, width, 3), got an array of {dtype} {shape}"
        ) from error


def statistics(pixels: UInt8[Tensor, "samples channel height width"]) -> tuple[list[float], list[float]]:
    """Mean and deviation per channel, of pixels in [0, 1]: exact, from how often each value comes."""
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in pixels.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        center = float(share @ values)
        mean.append(round(center, 4))
        std.append(round(max(float(share @ (values - center) ** 2) ** 0.5, 1e-3), 4))
    return mean, std
