"""Random changes to pictures, for each sample by its own draw: a pure function of (seed, epoch, index)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from etude import random
from etude.data.loaders import Augment
from etude.errors import ConfigError
from etude.types import Batch

if TYPE_CHECKING:
    from jaxtyping import Shaped


def flip_and_shift(*, flip: float = 0.5, shift: int = 0, size: int | None = None) -> Augment:
    """Mirror some pictures and move each by a few pixels.

    Args:
        flip: the share of pictures mirrored left to right; 0 for digits and text.
        shift: the most pixels a picture moves in each direction. What comes in from outside is black, unless `size`
            is given.
        size: cut a window of this side at a random place instead of shifting (the pictures must be larger).

    Returns:
        (batch, seed, epoch) -> batch, the same for any device and any grouping into batches.
    """
    if not 0 <= flip <= 1:
        raise ConfigError(f"flip is a share in [0, 1], got {flip}")
    if shift < 0 or (shift and size):
        raise ConfigError("give shift (pixels, at least 0) or size, not both")

    def augment(batch: Batch, seed: int, epoch: int) -> Batch:
        if batch.indices is None or not isinstance(batch.inputs, Tensor):
            raise ConfigError("this augmentation is keyed by each sample's index; the loader must give batch.indices")
        pixels = torch.nn.functional.pad(batch.inputs, (shift,) * 4) if shift else batch.inputs
        draws = random.uniform(seed, "augment", epoch, batch.indices, 3)
        height, width = (size, size) if size else batch.inputs.shape[-2:]
        if height > pixels.shape[-2] or width > pixels.shape[-1]:
            raise ConfigError(f"a window of {size} pixels is larger than the pictures, {tuple(pixels.shape[-2:])}")
        top = (draws[:, 0] * (pixels.shape[-2] - height + 1)).long()
        left = (draws[:, 1] * (pixels.shape[-1] - width + 1)).long()
        return batch._replace(inputs=crop(pixels, top, left, height, width, draws[:, 2] < flip))

    return augment


def compose(*augments: Augment) -> Augment:
    """Several augmentations as one, in the order given.

    Each draws for its own purpose, so leaving one out does not change what the others draw. For the same reason two of
    the same kind draw the same numbers; give one of them another seed: `lambda batch, seed, epoch: augment(batch, seed
    + 1, epoch)`.

    Args:
        augments: what to apply, the first one first. Those that keep uint8 pixels (`flip_and_shift`, `random_erasing`)
            are cheapest in front.

    Raises:
        ConfigError: nothing is given.
    """
    if not augments:
        raise ConfigError("compose needs at least one augmentation, got none")

    def augment(batch: Batch, seed: int, epoch: int) -> Batch:
        for apply in augments:
            batch = apply(batch, seed, epoch)
        return batch

    return augment


def crop(
    pixels: Shaped[Tensor, "batch channel height width"],
    top: Tensor,
    left: Tensor,
    height: int,
    width: int,
    mirror: Tensor,
) -> Shaped[Tensor, "batch channel height2 width2"]:
    """A window of each picture at its own place, mirrored where asked: one gather, any type, any device."""
    rows = top.view(-1, 1) + torch.arange(height, device=pixels.device)
    columns = torch.arange(width, device=pixels.device).expand(len(pixels), width)
    columns = left.view(-1, 1) + torch.where(mirror.view(-1, 1), width - 1 - columns, columns)
    flat = rows.unsqueeze(2) * pixels.shape[-1] + columns.unsqueeze(1)
    index = flat.view(len(pixels), 1, -1).expand(-1, pixels.shape[1], -1)
    return pixels.flatten(2).gather(2, index).view(*pixels.shape[:2], height, width)
