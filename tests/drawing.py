"""Small pictures for tests, ways to spoil them, and the two decoders."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image

from etude import vision
from etude.data.build import BadFile
from etude.vision import decode
from etude.vision.decode import PictureCodec


def blocks(height=16, width=24, seed=0):
    """Squares of 8 pixels, all of different colors: what a JPEG keeps nearly as it is."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3))
    return np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)


COLOR, OTHER = blocks(), blocks(seed=1)
GRAY = COLOR[..., 0]
DEEP = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
PALETTE = Image.fromarray(COLOR).quantize(6)
NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


@pytest.fixture(params=["with simplejpeg", "without simplejpeg"])
def either(request, monkeypatch):
    """With each of the two decoders of JPEGs."""
    if request.param == "with simplejpeg":
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(decode, "_simplejpeg", lambda: None)


def save(path, pixels, mode=None, *, second=None, **options):
    """The path, with a picture in it, or with two."""
    if second is not None:
        options |= {"save_all": True, "append_images": [Image.fromarray(second)]}
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture = picture.convert(mode) if mode else picture
    picture.save(path, **options)
    return path


def as_bytes(kind, pixels=COLOR, **options):
    """A picture file's bytes."""
    file = io.BytesIO()
    save(file, pixels, format=kind, **options)
    return file.getvalue()


def flipped(data, rng):
    """With a few bytes changed, half of them in the header."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 2, 8])):
        data[rng.randrange(len(data) if rng.random() < 0.5 else min(200, len(data)))] = rng.randrange(256)
    return bytes(data)


def with_both(path, monkeypatch, stored=None):
    """What the two decoders make of a file: scan and pixels, or the reason."""
    results = []
    for module in (decode._simplejpeg(), None):
        monkeypatch.setattr(decode, "_simplejpeg", lambda module=module: module)
        codec = PictureCodec(stored)
        try:
            results.append((*codec.scan(path), codec.read(path).tobytes()))
        except BadFile as bad:
            results.append(str(bad))
    return results


# -- folders of pictures ----------------------------------------------------------------------------------------------

_COLORS = {"cat": (200, 40, 40), "dog": (40, 40, 200)}


def plain(path, color=(200, 40, 40), size=(12, 10)):
    """A picture file of one color."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def classes(folder, num=4, kinds=_COLORS):
    """Class folders; the pictures of a class differ a little."""
    for label in kinds:
        for i in range(num):
            red, green, blue = _COLORS.get(label, (90, 90, 90))
            plain(folder / label / f"{i}.png", (red + i, green, blue))
    return folder


def noise(path, width, height, **options):
    """A picture file of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def labels_of(loader):
    """The number of pictures of each class."""
    return torch.bincount(loader.targets).tolist()


def load_small(*args, **options):
    """Pictures of 8 pixels in batches of 2, in silence."""
    return vision.load(*args, **{"size": 8, "batch_size": 2, "progress": False, **options})


def every_picture(loader, epoch=0):
    """All pictures of a loader as one batch."""
    return loader.take(torch.arange(loader.num_samples), epoch)


def write_table(folder, rows, *columns):
    """A label table."""
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
