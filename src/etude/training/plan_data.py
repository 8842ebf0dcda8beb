"""What a fit will be trained and validated on, as far as it can be known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.utils.data import DataLoader

from etude.data.loaders import DataLoaders, Loader, PlainLoader
from etude.types import Batch


@runtime_checkable
class _Counted(Protocol):
    """A loader that knows its samples."""

    @property
    def num_samples(self) -> int:
        """Of one epoch."""
        ...


@dataclass(frozen=True)
class PartPlan:
    """The training or the validation half of the data."""

    samples: int | None
    """Of one epoch, those of a last batch that is left out among them; None where the loader cannot say."""
    batches: int
    batch_size: int
    """Of the first batch."""
    inputs: str
    """One sample's shape and number format, as the loader gives it."""


@dataclass(frozen=True)
class DataPlan:
    """What is trained and validated on."""

    description: str
    train: PartPlan
    valid: PartPlan | None
    classes: list[str] | None
    several_labels: bool
    """Whether a sample may have several classes at once."""
    numbers: dict[str, list[float]] | None
    """Where targets are numbers: mean and deviation of each by its name."""
    augment: str
    """Random changes of training batches; empty without."""
    windows: str
    """Which part of each picture training sees; empty where there is no such thing."""


def data_plan(data: DataLoaders, train: Batch, valid: Batch | None) -> DataPlan:
    """The plan of the data.

    Args:
        data: whose `train` is there.
        train: its first batch, as the loader gave it.
        valid: the first batch of the validation data.
    """
    assert data.train is not None
    return DataPlan(
        description=data.description,
        train=_part(data.train, train),
        valid=None if data.valid is None or valid is None else _part(data.valid, valid),
        # a vocabulary that was made of texts holds tokens; the description counts them
        classes=None if data.vocab is None or data.vocab.made_by is not None else list(data.vocab),
        several_labels=data.several_labels,
        numbers=None
        if data.numbers is None
        else {
            name: [mean, std]
            for name, mean, std in zip(data.numbers.names, data.numbers.mean, data.numbers.std, strict=True)
        },
        augment="" if data.augment is None else name_of(data.augment),
        windows=str(data.identity.get("windows", "")),
    )


def name_of(function: Any) -> str:
    """A loss or an augmentation in words."""
    if isinstance(function, partial):
        settings = ", ".join(f"{name}={value!r}" for name, value in function.keywords.items())
        return f"{name_of(function.func)}({settings})"
    if isinstance(function, nn.Module):
        return " ".join(repr(function).split())
    # a function made by another one is known by that one's name
    return str(getattr(function, "__qualname__", type(function).__name__)).split(".<locals>")[0]


def _part(loader: Loader, batch: Batch) -> PartPlan:
    samples: int | None = None
    if isinstance(loader, _Counted):
        samples = loader.num_samples
    elif isinstance(loader, PlainLoader) and isinstance(loader.iterable, DataLoader):
        try:
            samples = len(loader.iterable.sampler)  # type: ignore[arg-type]  # most have a length
        except TypeError:
            # a sampler need not know
            samples = None
    return PartPlan(samples, len(loader), batch.size, _shapes(batch.inputs))


def _shapes(inputs: Any) -> str:
    if isinstance(inputs, Tensor):
        return f"{'x'.join(map(str, inputs.shape[1:])) or 'one number'} {str(inputs.dtype).removeprefix('torch.')}"
    if isinstance(inputs, dict):
        return ", ".join(f"{name} {_shapes(part)}" for name, part in inputs.items())
    return ", ".join(map(_shapes, inputs))
