"""Batches of windows from the store of decoded pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from etude.data.buffers import Recycler
from etude.data.prefetch import prefetched
from etude.data.sampling import Sampling, on_device
from etude.data.store import RaggedStore
from etude.data.unstored import Unstored
from etude.data.vocab import Vocab
from etude.errors import ConfigError, DataError
from etude.types import Batch
from etude.vision.resample import resample
from etude.vision.windows import Windows

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped, UInt8


@runtime_checkable
class DrawWindows(Protocol):
    """Which part of each picture is seen: a pure function of (seed, epoch, index)."""

    def __call__(self, seed: int, epoch: int, indices: Tensor, height: Tensor, width: Tensor) -> Windows:
        """A window of each picture."""
        ...


class PictureLoader:
    """Batches of pictures, uint8 and channels last, cut from a store.

    On a GPU the whole store lies on the device if it fits; else batches are cut on the CPU, ahead of time.

    Args:
        store: the decoded pictures, (height, width, channel) each; or their files, decoded anew for every batch.
        rows: which pictures of the store, in the order of this data set.
        targets: one row for each of them.
        size: side of the square that the model sees.
        windows: `RandomResizedCrop` or `MiddleCrop`.
        batch_size: pictures per batch.
        shuffle: a new order every epoch.
        drop_last: leave out the last, smaller batch.
        seed: decides orders and windows.
        rank: which part of each step this process takes.
        world_size: the number of processes.
        vocab: what the class numbers of the targets mean.
        weights: draw pictures with replacement, each as often as its weight says; see `Sampling`.
    """

    def __init__(
        self,
        store: RaggedStore | Unstored,
        rows: Int[Tensor, "samples"],
        targets: Shaped[Tensor, "samples ..."],
        *,
        size: int,
        windows: DrawWindows,
        batch_size: int = 64,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        vocab: Vocab | None = None,
        weights: Float[Tensor, "samples"] | None = None,
    ) -> None:
        if len(rows) != len(targets):
            raise DataError(f"{len(rows)} pictures but {len(targets)} targets; expected one target per picture")
        if size < 1:
            raise ConfigError(f"size must be at least 1 pixel, got {size}")
        self.sampling = Sampling(
            num_samples=len(rows),
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
            rank=rank,
            world_size=world_size,
            weights=weights,
        )
        self.store, self.rows, self.targets = store, rows, targets
        self.vocab, self._kept = vocab, store
        self.size, self.windows, self.seed = size, windows, seed
        self.side = size
        """Of the pictures of coming epochs: `size`, but for a training that begins with smaller ones."""
        height, width, channels = store.shapes.amax(0).tolist()
        self._most = (height, width, channels)
        self._memory = Recycler()

    @property
    def names(self) -> list[str]:
        """Each picture's file, relative to the root of the data."""
        return [self.store.names[row] for row in self.rows.tolist()]

    @property
    def num_samples(self) -> int:
        """The number of pictures of one epoch, over all ranks."""
        return self.sampling.num_samples

    def __len__(self) -> int:
        return len(self.sampling)

    def batches(self, epoch: int, device: torch.device) -> Iterator[Batch]:
        """The batches of one epoch, on the device."""
        return self.batches_from(epoch, 0, device)

    def batches_from(self, epoch: int, start: int, device: torch.device) -> Iterator[Batch]:
        """The batches of one epoch but the first `start`; their pictures are not cut."""
        parts, side = self.sampling.batches(epoch)[start:], self.side
        if self._kept.fits(device):
            self._move(device)
            return (self.take(part, epoch, side) for part in on_device(parts, device))
        self._move(torch.device("cpu"))
        return prefetched((self.take(part, epoch, side) for part in parts), device)

    def take(self, rows: Int[Tensor, "batch"] | Sequence[int], epoch: int = 0, side: int | None = None) -> Batch:
        """The pictures at the given positions of this data set, as they are seen in an epoch; see `pixels`."""
        rows = torch.as_tensor(rows, device=self.rows.device)
        targets = self.targets.index_select(0, rows % len(self.targets))
        return Batch(self.pixels(rows, epoch, side), targets, indices=rows)

    def pixels(
        self, rows: Int[Tensor, "batch"], epoch: int = 0, side: int | None = None
    ) -> UInt8[Tensor, "batch channel side side"]:
        """The windows of the pictures at the given positions, as they are seen in an epoch.

        Args:
            rows: which pictures; one that is drawn again in an epoch has other windows, see `Sampling.weights`.
            epoch: decides the windows, with the seed and the picture.
            side: what the windows are reduced to; None takes `size`. The windows are the same.
        """
        values, starts, shapes = self.store.gather(self.rows.index_select(0, rows % len(self.rows)))
        windows = self.windows(self.seed, epoch, rows, shapes[:, 0], shapes[:, 1])
        return resample(values, starts, shapes, windows, side or self.size, most=self._most, memory=self._memory)

    def _move(self, device: torch.device) -> None:
        """Bring store and targets to the device; loaders of one store share its place there."""
        if self.store.device != device:
            self.store = self._kept.on(device)
            self.rows, self.targets = self.rows.to(device), self.targets.to(device)
