"""From a folder of pictures to batches.

Every picture is decoded once, reduced to a little more than the asked size with an antialiasing filter, and kept as
uint8. Training cuts a random window of the asked size; validation and prediction the middle one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from typing_extensions import override

from etude import random
from etude.data.files import find_images, label_table
from etude.data.loaders import ArrayLoader, DataLoaders
from etude.data.vocab import Vocab
from etude.errors import ConfigError, DataError
from etude.types import Json
from etude.vision.augment import flip_and_shift

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped, UInt8

_MARGIN = 1.15
"""Stored pictures are this much larger than the window that the model sees."""
_FEW_STEPS = 5
_VALID_NAMES = ("valid", "val", "validation", "test")


@final
class ImagePreprocess(nn.Module):
    """From stored pixels to what the model sees: middle window, scale to [0, 1], normalise, memory format.

    Args:
        size: side of the window; pictures that are this size already pass through.
        mean: per channel, of pixels in [0, 1].
        std: per channel.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.size, self.mean, self.std = size, tuple(mean), tuple(std)
        deviation = torch.tensor(self.std).view(1, -1, 1, 1)
        self.register_buffer("scale", 1 / (255 * deviation), persistent=False)
        self.register_buffer("shift", -torch.tensor(self.mean).view(1, -1, 1, 1) / deviation, persistent=False)

    @override
    def forward(
        self, pixels: Shaped[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height2 width2"]:
        if pixels.ndim != 4 or pixels.shape[1] != len(self.mean):
            raise DataError(f"expected pictures (batch, {len(self.mean)}, height, width), got {tuple(pixels.shape)}")
        height, width = pixels.shape[-2:]
        if min(height, width) < self.size:
            raise DataError(f"pictures of {height}x{width} pixels are smaller than the {self.size} that the model sees")
        top, left = (height - self.size) // 2, (width - self.size) // 2
        window = pixels[..., top : top + self.size, left : left + self.size]
        x = window.to(self.scale.dtype) if not window.is_floating_point() else window
        return torch.addcmul(self.shift, x, self.scale).contiguous(memory_format=torch.channels_last)

    def config(self) -> dict[str, Json]:
        """The constructor's arguments."""
        return {"size": self.size, "mean": list(self.mean), "std": list(self.std)}


class Sample(NamedTuple):
    """One picture file and its label."""

    path: Path
    label: str


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    train: str | os.PathLike[str] | None = None,
    valid: float | str | os.PathLike[str] | None = None,
    size: int = 128,
    batch_size: int = 64,
    seed: int = 42,
) -> DataLoaders:
    """Pictures from folders.

    Understands, and says which it took: `train/CLASS/*` beside `valid/CLASS/*` (or val, test); flat `CLASS/*`; and
    `labels.csv` with columns `name,label[,is_valid]`.

    Args:
        path: the folder; or leave it out and name `train=` and `valid=` folders of classes.
        train: folder of training classes.
        valid: the share of pictures held out, drawn by a hash of (seed, name); or the folder of validation classes.
        size: side of the square that the model sees, in pixels.
        batch_size: pictures per step.
        seed: decides the held-out share, the order and the augmentation.

    Raises:
        DataError: naming the folder, file or label that cannot be used.
    """
    if size < 1:
        raise ConfigError(f"size must be at least 1 pixel, got {size}")
    train_samples, valid_samples, layout = _samples(path, train, valid, seed)
    vocab = Vocab.of(sample.label for sample in train_samples)
    if len(vocab) < 2:
        raise DataError(f"{path or train} gave {list(vocab)} as classes ({layout}); expected a folder of class folders")
    stored = round(size * _MARGIN)
    description = (
        f"{len(train_samples)} train and {len(valid_samples)} valid pictures of {len(vocab)} classes ({layout})"
    )
    print(f"{description}; decoding once to {stored} pixels", flush=True)
    if len(train_samples) < _FEW_STEPS * batch_size:
        steps = max(len(train_samples) // batch_size, 1)
        print(f"an epoch is {steps} steps of {batch_size} pictures; a smaller batch_size makes more of few pictures")
    parts = [
        (_decode(part, stored), torch.tensor([vocab.number(label, source=str(file)) for file, label in part]))
        if part
        else None
        for part in (train_samples, valid_samples)
    ]
    return from_arrays(
        parts[0],
        parts[1],
        vocab=vocab,
        size=size,
        batch_size=batch_size,
        seed=seed,
        augment=flip_and_shift(flip=0.5, size=size),
        description=description,
    )


def from_arrays(
    train: tuple[Tensor, Tensor] | None,
    valid: tuple[Tensor, Tensor] | None,
    *,
    vocab: Vocab | Sequence[str],
    size: int | None = None,
    batch_size: int = 64,
    seed: int = 42,
    augment: Any = None,
    description: str = "",
) -> DataLoaders:
    """Pictures that are in memory already: uint8 (samples, channel, height, width) and class numbers.

    Mean and deviation are measured on the training pictures.
    """
    if train is None:
        raise DataError("there are no training pictures")
    pixels = train[0]
    if pixels.dtype != torch.uint8 or pixels.ndim != 4:
        raise DataError(
            f"expected uint8 pictures (samples, channel, height, width), got {pixels.dtype} {tuple(pixels.shape)}"
        )
    if size is None and pixels.shape[-1] != pixels.shape[-2]:
        raise ConfigError(f"pictures of {tuple(pixels.shape[-2:])} pixels are not square; say which window with size=")
    names = vocab if isinstance(vocab, Vocab) else Vocab(vocab)
    for _, targets in (train, *([valid] if valid is not None else [])):
        if len(targets) and (int(targets.max()) >= len(names) or int(targets.min()) < 0):
            raise DataError(f"targets hold class {int(targets.max())} but the vocabulary has {len(names)} names")
    mean, std = _statistics(pixels)
    side = size or pixels.shape[-1]
    preprocess = ImagePreprocess(side, mean, std)
    return DataLoaders(
        ArrayLoader(*train, batch_size=batch_size, shuffle=True, drop_last=True, seed=seed),
        None if valid is None else ArrayLoader(*valid, batch_size=2 * batch_size),
        vocab=names,
        preprocess=preprocess,
        augment=augment,
        read=ImageReader(pixels.shape[-1], pixels.shape[1]),
        channels=pixels.shape[1],
        seed=seed,
        description=description or f"{len(pixels)} pictures",
    )


@final
class ImageReader:
    """From a path, a PIL picture or an array to stored pixels (channel, side, side), uint8."""

    def __init__(self, side: int, channels: int) -> None:
        self.side, self.channels = side, channels

    def config(self) -> dict[str, Json]:
        """The constructor's arguments."""
        return {"side": self.side, "channels": self.channels}

    def __call__(self, item: Any) -> UInt8[Tensor, "channel side side"]:
        """Read one picture; raises `DataError` naming the file."""
        if isinstance(item, Tensor):
            if item.dtype != torch.uint8:
                raise DataError(f"expected uint8 pixels, got a tensor of {item.dtype}")
            return item
        if isinstance(item, np.ndarray):
            item = Image.fromarray(item)
        if isinstance(item, Image.Image):
            return _to_pixels(item, self.side, self.channels)
        return read_image(Path(item), self.side, self.channels)


def read_image(path: Path, side: int, channels: int = 3) -> UInt8[Tensor, "channel side side"]:
    """One picture file, upright, reduced so that its shorter side is `side`, and cut to the middle square."""
    try:
        with Image.open(path) as picture:
            picture.draft("RGB" if channels == 3 else "L", (side, side))
            return _to_pixels(picture, side, channels)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be read as a picture: {error}. Repair it or take it out of the folder."
        ) from error


def _to_pixels(picture: Image.Image, side: int, channels: int) -> UInt8[Tensor, "channel side side"]:
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        # Pillow's own conversion cuts 16 bits off at 255 instead of scaling them
        picture = Image.fromarray((np.asarray(picture).astype(np.float32) / 257).round().astype(np.uint8))
    picture = picture.convert("RGB" if channels == 3 else "L")
    picture = ImageOps.fit(picture, (side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture)).view(side, side, channels).permute(2, 0, 1).contiguous()


def _decode(samples: Sequence[Sample], side: int) -> UInt8[Tensor, "samples 3 side side"]:
    pixels = torch.empty(len(samples), 3, side, side, dtype=torch.uint8)

    def decode(i: int) -> None:
        pixels[i] = read_image(samples[i].path, side)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(decode, range(len(samples))))
    return pixels


def _statistics(pixels: UInt8[Tensor, "samples channel height width"]) -> tuple[list[float], list[float]]:
    """Mean and deviation per channel, of pixels in [0, 1], over at most 1,000 pictures spread over the set."""
    some = pixels[:: -(-len(pixels) // 1000)].double() / 255
    std, mean = torch.std_mean(some, dim=(0, 2, 3), correction=0)
    return [round(value, 4) for value in mean.tolist()], [round(max(value, 1e-3), 4) for value in std.tolist()]


def _samples(path: Any, train: Any, valid: Any, seed: int) -> tuple[list[Sample], list[Sample], str]:
    """Training and validation samples, and the layout they came from in words."""
    if train is not None:
        if path is not None or valid is None or isinstance(valid, float):
            raise ConfigError("give a folder, or train= and valid= folders")
        return _classes(Path(train)), _classes(Path(valid)), "two folders of classes"
    if path is None:
        raise ConfigError("give a folder of pictures, or train= and valid= folders")
    if valid is not None and not isinstance(valid, float):
        raise ConfigError(f"beside a folder, valid= is the share to hold out, got {valid!r}; name both: train=, valid=")
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; expected a folder of pictures")
    if (root / "labels.csv").is_file():
        rows = label_table(root / "labels.csv")
        samples = [(Sample(root / row.name, row.label), row.is_valid) for row in rows]
        if valid is None and any(is_valid for _, is_valid in samples):
            return [s for s, v in samples if not v], [s for s, v in samples if v], "labels.csv with is_valid"
        return *_hold_out([s for s, _ in samples], root, valid, seed), "labels.csv"
    named = next((root / name for name in _VALID_NAMES if (root / name).is_dir()), None)
    if (root / "train").is_dir() and named is not None and not isinstance(valid, float):
        return _classes(root / "train"), _classes(named), f"train/CLASS and {named.name}/CLASS"
    base = root / "train" if (root / "train").is_dir() else root
    return *_hold_out(_classes(base), root, valid, seed), "CLASS folders"


def _classes(folder: Path) -> list[Sample]:
    """Every picture below a folder, labelled by the name of the folder it lies in."""
    samples = [Sample(path, path.parent.name) for path in find_images(folder)]
    if loose := [sample.path.name for sample in samples if sample.path.parent == folder]:
        raise DataError(
            f"{folder} holds pictures outside any class folder ({loose[:3]}); move each into a folder named after its "
            "class, or add a labels.csv with the columns name,label"
        )
    return samples


def _hold_out(samples: Iterable[Sample], root: Path, valid: Any, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Hold out a share by a hash of each name, so that adding a picture moves no other one."""
    if not isinstance(valid, float) or not 0 < valid < 1:
        raise ConfigError(
            f"{root} has no validation pictures of its own; say which share to hold out, such as valid=0.2 "
            f"(got {valid!r})"
        )
    kept: tuple[list[Sample], list[Sample]] = ([], [])
    for sample in samples:
        name = sample.path.relative_to(root).as_posix()
        kept[random.key(seed, f"valid:{name}") / (1 << 63) < valid].append(sample)
    return kept
