"""Test pictures: a few small ones that the model was not trained on, as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from etude.data.loaders import ArrayLoader, Loader
from etude.errors import DataError
from etude.vision.decode import PictureCodec
from etude.vision.pictures import PictureLoader
from etude.vision.preprocess import ImageReader

_SIDES = 2
"""A test picture's shorter side is at most this many times what the model sees, a quarter more with luck."""


def some_pictures(valid: Loader | None, count: int) -> list[Image.Image]:
    """Some of a loader's pictures, spread over them, as they are stored; none where it has no pictures."""
    if not count or not isinstance(valid, PictureLoader | ArrayLoader):
        return []
    rows = torch.arange(0, valid.num_samples, max(valid.num_samples // count, 1))[:count]
    if isinstance(valid, PictureLoader):
        values, starts, shapes = valid.store.gather(valid.rows.cpu()[rows].to(valid.store.shapes.device))
        found = [
            values[start : start + height * width * channels].view(height, width, channels)
            for start, (height, width, channels) in zip(starts.tolist(), shapes.tolist(), strict=True)
        ]
    elif valid.inputs.dtype == torch.uint8 and valid.inputs.ndim == 4:
        found = [valid.inputs[row].permute(1, 2, 0) for row in rows.tolist()]
    else:
        return []
    return [_picture(pixels.cpu().numpy()) for pixels in found]


def write_pictures(items: Sequence[Any], read: ImageReader, folder: Path) -> list[Path]:
    """Write pictures (files, PIL pictures) as PNG files of a small size; those that cannot be read are left out."""
    codec = PictureCodec(min(read.codec.stored or _SIDES * read.size, _SIDES * read.size), read.codec.channels)
    paths: list[Path] = []
    for item in items:
        try:
            with codec.quietly():
                pixels = codec.read(item if isinstance(item, Image.Image) else Path(item))
        except DataError:
            continue
        paths.append(folder / f"test_picture_{len(paths)}.png")
        _picture(pixels).save(paths[-1])
    return paths


def _picture(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
