"""From samples to batches on the device, and the bundle of loaders that a learner trains on.

Anything that yields batches is a loader: our own `ArrayLoader`, a `torch.utils.data.DataLoader`, a list of
(inputs, targets) pairs. `as_dataloaders` turns what the user has into a `DataLoaders`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Dataset

from etude import random
from etude.data.vocab import Vocab
from etude.errors import ConfigError, DataError
from etude.types import Batch

if TYPE_CHECKING:
    from jaxtyping import Int, Shaped

Augment: TypeAlias = Callable[[Batch, int, int], Batch]
"""(batch, seed, epoch) -> batch: random, but a pure function of its arguments and the batch's `indices`."""


@runtime_checkable
class Loader(Protocol):
    """What a learner asks of a loader."""

    def __len__(self) -> int:
        """The number of batches of one epoch."""
        ...

    def batches(self, epoch: int, device: torch.device) -> Iterator[Batch]:
        """The batches of one epoch, on the device."""
        ...


class ArrayLoader:
    """Batches of samples that lie in memory as two tensors, in an order that is a function of (seed, epoch).

    Args:
        inputs: all samples, (samples, ...); uint8 pictures stay uint8 until the model's `preprocess`.
        targets: one row per sample.
        batch_size: samples per batch; the last batch of an epoch may be smaller.
        shuffle: a new order every epoch; off for validation.
        drop_last: leave out the last, smaller batch of an epoch, unless it is the only one.
        seed: which orders.
    """

    def __init__(
        self,
        inputs: Shaped[Tensor, "samples ..."],
        targets: Shaped[Tensor, "samples ..."],
        *,
        batch_size: int = 64,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        if len(inputs) != len(targets):
            raise DataError(f"{len(inputs)} inputs but {len(targets)} targets; expected one target per input")
        if len(inputs) == 0:
            raise DataError("there are no samples; expected at least one")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        self.inputs, self.targets = inputs, targets
        self.batch_size, self.shuffle, self.drop_last, self.seed = batch_size, shuffle, drop_last, seed

    @property
    def num_samples(self) -> int:
        """The number of samples of one epoch."""
        return len(self.inputs)

    def __len__(self) -> int:
        whole, rest = divmod(self.num_samples, self.batch_size)
        return whole if self.drop_last and whole else whole + bool(rest)

    def batches(self, epoch: int, device: torch.device) -> Iterator[Batch]:
        """The batches of one epoch; the samples move to the device once and stay there."""
        if self.inputs.device != device:
            self.inputs, self.targets = self.inputs.to(device), self.targets.to(device)
        index = random.order(self.seed, epoch, self.num_samples) if self.shuffle else torch.arange(self.num_samples)
        for rows in index.to(device).split(self.batch_size)[: len(self)]:
            yield self.take(rows)

    def take(self, rows: Int[Tensor, "batch"]) -> Batch:
        """The samples at the given positions."""
        return Batch(self.inputs.index_select(0, rows), self.targets.index_select(0, rows), indices=rows)


class PlainLoader:
    """A user's own iterable of batches: pairs (inputs, targets), or `Batch` itself.

    Raises:
        DataError: something else came out of it.
    """

    def __init__(self, iterable: Any) -> None:
        if isinstance(iterable, Dataset):
            raise ConfigError(
                "got a Dataset; wrap it: torch.utils.data.DataLoader(dataset, batch_size=64, shuffle=True)"
            )
        try:
            len(iterable)
        except TypeError as error:
            raise ConfigError(
                f"{type(iterable).__name__} has no len(), so a schedule cannot know where it ends. "
                "Give the loader a __len__ that returns its number of batches."
            ) from error
        self.iterable = iterable

    def __len__(self) -> int:
        length: int = len(self.iterable)
        return length

    def batches(self, epoch: int, device: torch.device) -> Iterator[Batch]:
        """The iterable's batches in its own order, moved to the device."""
        if isinstance(self.iterable, DataLoader):
            sampler = self.iterable.sampler
            if isinstance(sampler, torch.utils.data.distributed.DistributedSampler):
                sampler.set_epoch(epoch)
        for i, item in enumerate(self.iterable):
            batch = item if isinstance(item, Batch) else as_batch(item, i)
            yield batch if _is_plain(batch, device) else to_device(batch, device)


def _is_plain(batch: Batch, device: torch.device) -> bool:
    """Whether a batch is two tensors that are on the device already: the common case, in which nothing is to do."""
    inputs, targets, weight, indices = batch
    if weight is not None or indices is not None or not isinstance(inputs, Tensor) or not isinstance(targets, Tensor):
        return False
    return inputs.device == device and targets.device == device


@dataclass
class DataLoaders:
    """Training and validation batches, and what model and learner need to know of the data.

    Args:
        train: the training batches; None when there is nothing to train on, as after `etude.load`.
        valid: the validation batches, or None.
        vocab: the classes.
        preprocess: from raw inputs to what the model takes, the same in training, validation, prediction and
            export; saved with the model. None for inputs that are ready.
        augment: random changes of a training batch, keyed by (seed, epoch, index).
        read: from one item as a user names it (a path, a picture) to one raw input, for `predict`.
        channels: channels of the pictures.
        seed: decides orders and augmentation.
        description: a line that says what this data is.
    """

    train: Loader | None
    valid: Loader | None = None
    vocab: Vocab | None = None
    preprocess: nn.Module | None = None
    augment: Augment | None = None
    read: Callable[[Any], Tensor] | None = None
    channels: int = 3
    seed: int | None = None
    description: str = ""

    @property
    def num_classes(self) -> int:
        """The number of classes; raises `DataError` when the data has none."""
        if self.vocab is None:
            raise DataError("this data has no vocabulary, so the number of classes is not known")
        return len(self.vocab)


def as_dataloaders(data: DataLoaders | Loader | tuple[Any, Any] | Iterable[Any]) -> DataLoaders:
    """A `DataLoaders` from what the user has: one already, or (train, valid), or training batches alone."""
    if isinstance(data, DataLoaders):
        return data
    if isinstance(data, tuple):
        if len(data) != 2:
            raise ConfigError(f"data must be (train, valid), got a tuple of {len(data)}")
        train, valid = data
        return DataLoaders(as_loader(train), None if valid is None else as_loader(valid))
    return DataLoaders(as_loader(data))


def as_loader(source: Any) -> Loader:
    """A loader from a loader, or from any sized iterable of batches."""
    return source if isinstance(source, Loader) else PlainLoader(source)


def as_batch(item: Any, number: int) -> Batch:
    """A `Batch` from the pair that a loader yields.

    Raises:
        DataError: naming what came instead, and in which batch.
    """
    if isinstance(item, tuple | list) and len(item) == 2:
        item = [torch.as_tensor(part) if isinstance(part, np.ndarray) else part for part in item]
        return Batch(item[0] if not isinstance(item[0], list) else tuple(item[0]), item[1])
    kind = f"a {type(item).__name__}" + (f" of {len(item)}" if isinstance(item, tuple | list) else "")
    raise DataError(f"batch {number} is {kind}; expected (inputs, targets) or etude.Batch(inputs, targets, weight=...)")


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with every tensor on the device."""
    return Batch(*(move(field, device) for field in batch))


def move(value: Any, device: torch.device) -> Any:
    """Tensors inside tuples, lists and dicts moved to the device; anything else as it is."""
    # only a copy to a GPU is safe to use before it has arrived: the GPU's own queue keeps the order
    to_gpu = device.type == "cuda"
    return tree_map_only(Tensor, lambda tensor: tensor.to(device, non_blocking=to_gpu), value)
