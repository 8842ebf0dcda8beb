"""From samples to batches on the device, and the bundle of loaders that a learner trains on.

Anything that yields batches is a loader: our own `ArrayLoader`, a `torch.utils.data.DataLoader`, a list of
(inputs, targets) pairs; a map-style `Dataset` gets one. `as_dataloaders` turns what the user has into a `DataLoaders`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from etude.data.convert import as_batch, to_device
from etude.data.dataset import DatasetLoader, ctrl_c_kept_from_workers
from etude.data.sampling import Sampling, on_device
from etude.data.store import Incident
from etude.data.vocab import Vocab
from etude.errors import ConfigError, DataError
from etude.regression import Numbers
from etude.types import Batch, HasConfig, Inputs, Json

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


@runtime_checkable
class SeekableLoader(Protocol):
    """A loader that can begin in the middle of an epoch, which is what a resume there needs."""

    @property
    def sampling(self) -> HasConfig:
        """How its samples are dealt into batches."""
        ...

    def batches_from(self, epoch: int, start: int, device: torch.device) -> Iterator[Batch]:
        """The batches of one epoch but the first `start`."""
        ...


@runtime_checkable
class HasVocab(Protocol):
    """A loader that knows what its class numbers mean."""

    vocab: Vocab | None


def check_vocab(loader: Loader, vocab: Vocab | None) -> None:
    """Refuse a loader whose class numbers mean other classes than the model's; raises `ConfigError`."""
    theirs = loader.vocab if isinstance(loader, HasVocab) else None
    if vocab is not None and theirs is not None and theirs != vocab:
        raise ConfigError(
            f"these samples are numbered by the classes {list(theirs)[:5]}, the model by {list(vocab)[:5]}; number "
            "them as the model does: vision.labeled(path, learner.data.read, learner.data.vocab), or text.labeled"
        )


class ArrayLoader:
    """Batches of samples that lie in memory as two tensors, in an order that is a function of (seed, epoch).

    Args:
        inputs: all samples, (samples, ...); uint8 pictures stay uint8 until the model's `preprocess`.
        targets: one row per sample.
        batch_size: samples per batch; the last batch of an epoch may be smaller.
        shuffle: a new order every epoch; off for validation.
        drop_last: leave out the last, smaller batch of an epoch, unless it is the only one.
        seed: which orders.
        rank: which part of each step this process takes.
        world_size: the number of processes.
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
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if len(inputs) != len(targets):
            raise DataError(f"{len(inputs)} inputs but {len(targets)} targets; expected one target per input")
        self.inputs, self.targets = inputs, targets
        self.sampling = Sampling(
            num_samples=len(inputs),
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )

    @property
    def num_samples(self) -> int:
        """The number of samples of one epoch, over all ranks."""
        return self.sampling.num_samples

    def __len__(self) -> int:
        return len(self.sampling)

    def batches(self, epoch: int, device: torch.device) -> Iterator[Batch]:
        """The batches of one epoch; the samples move to the device once and stay there."""
        return self.batches_from(epoch, 0, device)

    def batches_from(self, epoch: int, start: int, device: torch.device) -> Iterator[Batch]:
        """The batches of one epoch but the first `start`."""
        if self.inputs.device != device:
            self.inputs, self.targets = self.inputs.to(device), self.targets.to(device)
        for rows in on_device(self.sampling.batches(epoch)[start:], device):
            yield self.take(rows)

    def take(self, rows: Int[Tensor, "batch"] | Sequence[int], epoch: int = 0) -> Batch:
        """The samples at the given positions, the same in every epoch."""
        rows = torch.as_tensor(rows, device=self.inputs.device)
        return Batch(self.inputs.index_select(0, rows), self.targets.index_select(0, rows), indices=rows)


class PlainLoader:
    """A user's own iterable of batches: pairs (inputs, targets), or `Batch` itself.

    Raises:
        DataError: something else came out of it.
    """

    def __init__(self, iterable: Any) -> None:
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
        items: Iterable[Any] = self.iterable
        if isinstance(items, DataLoader):
            if isinstance(items.sampler, torch.utils.data.distributed.DistributedSampler):
                items.sampler.set_epoch(epoch)
            with ctrl_c_kept_from_workers(items):
                items = iter(items)
        for i, item in enumerate(items):
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
        collate: from what `read` gave of several items to the inputs of one batch; None stacks tensors of one shape.
        channels: channels of the pictures.
        seed: decides orders and augmentation.
        description: a line that says what this data is.
        incidents: files that were not taken as they were, for the run's record.
        identity: what tells this data from any other, for the run's record.
        several_labels: whether a sample may have several classes at once; targets are then 0 and 1 for each class.
        numbers: what is known of targets that are numbers (samples, numbers) instead of classes.
    """

    train: Loader | None
    valid: Loader | None = None
    vocab: Vocab | None = None
    preprocess: nn.Module | None = None
    augment: Augment | None = None
    read: Callable[[Any], Tensor] | None = None
    collate: Callable[[Sequence[Tensor]], Inputs] | None = None
    channels: int = 3
    seed: int | None = None
    description: str = ""
    incidents: Sequence[Incident] = ()
    identity: dict[str, Json] = field(default_factory=dict)
    several_labels: bool = False
    numbers: Numbers | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes; raises `DataError` when the data has none."""
        if self.vocab is None:
            raise DataError("this data has no vocabulary, so the number of classes is not known")
        return len(self.vocab)

    @property
    def num_outputs(self) -> int:
        """The width of a model's output: numbers, else classes; raises `DataError` where neither is known."""
        return len(self.numbers.names) if self.numbers is not None else self.num_classes


def as_dataloaders(data: DataLoaders | Loader | tuple[Any, Any] | Iterable[Any]) -> DataLoaders:
    """A `DataLoaders` from what the user has: one already, or (train, valid), or training batches alone."""
    if isinstance(data, DataLoaders):
        return data
    if isinstance(data, tuple):
        if len(data) != 2:
            raise ConfigError(f"data must be (train, valid), got a tuple of {len(data)}")
        train, valid = data
        return DataLoaders(as_loader(train, training=True), None if valid is None else as_loader(valid))
    return DataLoaders(as_loader(data, training=True))


def as_loader(source: Any, *, training: bool = False) -> Loader:
    """A loader from a loader, from a map-style `Dataset`, or from any sized iterable of batches.

    A data set is read in batches of 64, shuffled for training by torch's initial seed; make a `DatasetLoader` of it to
    say otherwise.
    """
    if isinstance(source, Loader):
        return source
    if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
        return DatasetLoader(source, shuffle=training, drop_last=training, seed=torch.initial_seed())
    return PlainLoader(source)


def generators_of(loader: Loader | None) -> list[torch.Generator]:
    """The generators that a user's `DataLoader` and its samplers draw orders from, beside torch's global one."""
    source = loader.iterable if isinstance(loader, PlainLoader) else None
    if not isinstance(source, DataLoader):
        return []
    samplers = (source.sampler, source.batch_sampler, getattr(source.batch_sampler, "sampler", None))
    found = [getattr(part, "generator", None) for part in (source, *samplers)]
    return list(dict.fromkeys(generator for generator in found if isinstance(generator, torch.Generator)))


def keeps_workers(loader: Loader) -> bool:
    """Whether a user's `DataLoader` keeps its workers from epoch to epoch, with generators that nothing can read."""
    source = loader.iterable if isinstance(loader, PlainLoader) else None
    return isinstance(source, DataLoader) and source.num_workers > 0 and source.persistent_workers
