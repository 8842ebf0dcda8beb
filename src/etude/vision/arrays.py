"""Batches of pictures that are in memory already."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from etude.data.loaders import ArrayLoader, Augment, DataLoaders
from etude.data.vocab import Vocab
from etude.errors import ConfigError, DataError
from etude.vision.preprocess import ImagePreprocess, ImageReader, statistics

_SAMPLED = 1000
"""Pictures that mean and deviation are measured on."""


def from_arrays(
    train: tuple[Tensor, Tensor] | None,
    valid: tuple[Tensor, Tensor] | None,
    *,
    vocab: Vocab | Sequence[str],
    size: int | None = None,
    batch_size: int = 64,
    seed: int = 42,
    augment: Augment | None = None,
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
    mean, std = statistics(pixels[:: -(-len(pixels) // _SAMPLED)])
    return DataLoaders(
        ArrayLoader(*train, batch_size=batch_size, shuffle=True, drop_last=True, seed=seed),
        None if valid is None else ArrayLoader(*valid, batch_size=2 * batch_size),
        vocab=names,
        preprocess=ImagePreprocess(size or pixels.shape[-1], mean, std),
        augment=augment,
        read=ImageReader(pixels.shape[-1], pixels.shape[1]),
        channels=pixels.shape[1],
        seed=seed,
        description=description or f"{len(pixels)} pictures",
        identity={"classes": list(names), "train": len(pixels), "pixels_and_targets": _digest(train, valid)},
    )


def _digest(*parts: tuple[Tensor, Tensor] | None) -> str:
    """What tells these pictures, their targets and their split from any other."""
    digest = hashlib.sha256()
    for tensor in (tensor for part in parts if part is not None for tensor in part):
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:32]
