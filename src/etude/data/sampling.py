"""Which samples make which batch: a pure function of (seed, epoch, rank, world size)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from etude import random
from etude.errors import ConfigError, DataError
from etude.types import Json

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a data set is dealt into batches.

    With several ranks a step's samples are those that one rank with a batch `world_size` times as large would see, cut
    into equal parts: training does not depend on how many machines share it. Without `shuffle` (validation) each
    sample is seen by exactly one rank, and ranks may have unequal shares.

    Args:
        num_samples: of the whole data set.
        batch_size: samples per batch and rank.
        shuffle: a new order every epoch.
        drop_last: leave out the last, smaller step of an epoch, unless it is the only one.
        seed: which orders.
        rank: which part this process takes.
        world_size: the number of processes.
        weights: with `shuffle`, samples are drawn with replacement, each as often as its weight says; an epoch keeps
            its length. The second time that an epoch draws sample i it is row `num_samples + i`, the third time row
            `2 * num_samples + i`, ...: what is keyed by rows, as augmentation is, makes another picture of it.
            See `balanced`.
    """

    num_samples: int
    batch_size: int = 64
    shuffle: bool = False
    drop_last: bool = False
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    weights: Float[Tensor, "samples"] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise DataError("there are no samples; expected at least one")
        check_dealt(self.batch_size, self.rank, self.world_size)
        if self.weights is not None and not self.shuffle:
            raise ConfigError("weights decide what is drawn, and without shuffle nothing is: leave them out")
        if self.weights is not None and len(self.weights) != self.num_samples:
            raise ConfigError(f"{len(self.weights)} weights for {self.num_samples} samples; expected one for each")

    def config(self) -> dict[str, Json]:
        """Its settings, with a digest for the weights."""
        plain = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "weights"}
        if self.weights is None:
            return plain
        return {**plain, "weights": hashlib.blake2b(self.weights.numpy().tobytes(), digest_size=16).hexdigest()}

    @property
    def _step(self) -> int:
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Batches of this rank in one epoch: as many for every rank with `shuffle`, else up to one less for some."""
        whole, rest = divmod(self.num_samples, self._step)
        if self.drop_last and whole:
            return whole
        return whole + (rest > 0 if self.shuffle else rest > self.rank)

    def batches(self, epoch: int) -> list[Int[Tensor, "batch"]]:
        """The rows of each batch of this rank in one epoch, on the CPU."""
        if self.weights is not None:
            rows = _drawn(self.weights, random.generator(self.seed, "draws", epoch))
        elif self.shuffle:
            rows = random.order(self.seed, epoch, self.num_samples)
        else:
            rows = torch.arange(self.num_samples)
        steps = rows.split(self._step)
        if self.drop_last and self.num_samples >= self._step:
            steps = steps[: self.num_samples // self._step]
        if self.world_size == 1:
            return list(steps)
        return [part for step in steps if len(part := self._part(step))]

    def _part(self, step: Tensor) -> Tensor:
        """This rank's share of a step; while training each rank gets as many, as a step of all ranks together needs."""
        if not self.shuffle:
            return step[self.rank :: self.world_size]
        each = -(-len(step) // self.world_size)
        if each * self.world_size > len(step):
            # the last step may be short: its first samples are seen twice, so that no rank waits for another
            step = step.repeat(self.world_size)[: each * self.world_size]
        return step[self.rank * each : (self.rank + 1) * each]


def check_dealt(batch_size: int, rank: int, world_size: int) -> None:
    """Refuse batches of nothing, and a rank that is not there; raises `ConfigError`."""
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank must be in [0, {world_size}) with world_size={world_size}: {rank}")


def _drawn(weights: Float[Tensor, "samples"], generator: torch.Generator) -> Int[Tensor, "samples"]:
    """As many rows as there are samples, drawn with replacement; those of a sample that comes again count on."""
    ends = weights.double().cumsum(0)
    uniform = torch.rand(len(weights), generator=generator, dtype=torch.float64)
    # the end of the last sample that can be drawn: rounding must not lead beyond it
    last = int(weights.nonzero().max())
    found = torch.searchsorted(ends, uniform * ends[-1], right=True).clamp(max=last)
    values, order = found.sort(stable=True)
    places = torch.arange(len(found))
    first = torch.searchsorted(values, values)
    times = torch.empty_like(found)
    times[order] = places - first
    return found + times * len(weights)


def balanced(targets: Shaped[Tensor, "samples ..."]) -> Float[Tensor, "samples"]:
    """The weight of each sample with which every class is drawn equally often in the long run.

    Args:
        targets: class numbers; or 0 and 1 for each class of samples with several labels. A draw is then that of a class
            first and of a sample that has it, where samples without a label are one more class.

    Returns:
        Weights whose mean is 1.
    """
    if targets.ndim == 1:
        weights = 1 / torch.bincount(targets).double()[targets]
    else:
        there = torch.cat([targets, (targets.sum(1, keepdim=True) == 0)], 1).double()
        # a class that no sample has draws none
        weights = (there / there.sum(0).clamp(min=1)).sum(1)
    return weights / weights.mean()


def on_device(parts: list[Tensor], device: torch.device) -> Sequence[Tensor]:
    """The rows of all batches on a device, in one copy: one for each batch would make the host wait in every step."""
    return torch.cat(parts).to(device).split([len(part) for part in parts]) if parts else parts
