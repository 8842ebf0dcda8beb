"""Which samples make which batch: a pure function of (seed, epoch, rank, world size)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from etude import random
from etude.errors import ConfigError, DataError

if TYPE_CHECKING:
    from jaxtyping import Int


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
    """

    num_samples: int
    batch_size: int = 64
    shuffle: bool = False
    drop_last: bool = False
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise DataError("there are no samples; expected at least one")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.batch_size}")
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank must be in [0, {self.world_size}) with world_size={self.world_size}: {self.rank}")

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
        if self.shuffle:
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


def on_device(parts: list[Tensor], device: torch.device) -> Sequence[Tensor]:
    """The rows of all batches on a device, in one copy: one for each batch would make the host wait in every step."""
    return torch.cat(parts).to(device).split([len(part) for part in parts]) if parts else parts
