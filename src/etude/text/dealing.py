"""Which tokens and which texts make which batch: pure functions of (seed, epoch, rank, world size)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from etude import random
from etude.data.sampling import check_dealt
from etude.errors import ConfigError, DataError
from etude.types import Json

if TYPE_CHECKING:
    from jaxtyping import Int

_POOL = 100
"""Batches whose texts are sorted together. Of batches of 64 IMDB reviews 5 % is padding then (with the 50 of the notes
9 %), and each epoch still has other batches."""
_SPREAD, _SHORTEST, _HALF_SHARE = 5.0, 5, 0.05
"""Of variable windows: the deviation and the least number of tokens, and how often half the window is taken."""


def refuse_fractions(**settings: int | None) -> None:
    """Refuse what counts something and is no whole number of at least 1; None is left to others.

    Raises:
        ConfigError: naming the setting.
    """
    for name, value in settings.items():
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(f"{name} must be a whole number, at least 1; got {value!r:.40}")


@final
@dataclass(frozen=True, kw_only=True)
class Stream:
    """How a stream of tokens is cut: into rows that are read side by side, a window of columns at a time.

    A row goes on in the next batch where it stopped in this one. With several ranks the rows are those of one rank with
    a batch `world_size` times as large, each rank taking its part of them.

    >>> stream = Stream(num_texts=1, num_tokens=90, batch_size=6, bptt=5)
    >>> stream.stride, stream.edges(0), len(stream)
    (15, [0, 5, 10, 14], 3)

    Here the last row ends with the stream, no token after it to be predicted, so 14 of the 15 columns are read from;
    were there one more token, it would be all of them. See `StreamLoader` for the tokens themselves.

    Args:
        num_texts: of the stream.
        num_tokens: of all texts. Those at the end that fill no column are left out, fewer than there are rows.
        batch_size: rows for each rank.
        bptt: columns of a window, the tokens that a gradient goes back through; the last window may be shorter.
        shuffle: a new order of the texts every epoch.
        variable: windows of varying length: about `bptt`, or with 1 in 20 half of it, at least 5. An epoch always has
            as many, so that a schedule knows its end; they are stretched or shrunk a little to fill the rows.
        seed: decides orders and windows.
        rank: which part of the rows this process takes.
        world_size: the number of processes.

    Raises:
        DataError: there are too few tokens for the rows.

    Source: SPEC B1, B2; variable windows: Merity et al. 2017, "Regularizing and optimizing LSTM language models", 5.
    """

    num_texts: int
    num_tokens: int
    batch_size: int = 64
    bptt: int = 70
    shuffle: bool = False
    variable: bool = False
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        check_dealt(self.batch_size, self.rank, self.world_size)
        if self.bptt < 1:
            raise ConfigError(f"bptt must be at least 1 token, got {self.bptt}")
        if self.variable and self.bptt < 2 * _SHORTEST:
            raise ConfigError(f"windows vary by about 5 tokens, so bptt must be at least 10 for them, got {self.bptt}")
        if self.columns < 1:
            raise DataError(
                f"{self.num_tokens} tokens in {self.num_texts} texts are too few for {self.num_rows} rows of a stream: "
                f"expected more than {self.num_rows}. Give more text, or take a smaller batch_size."
            )

    def config(self) -> dict[str, Json]:
        """Its settings."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @property
    def num_rows(self) -> int:
        """The rows of all ranks."""
        return self.batch_size * self.world_size

    @property
    def stride(self) -> int:
        """The tokens of a row."""
        return self.num_tokens // self.num_rows

    @property
    def columns(self) -> int:
        """The tokens of a row that are read from: each has one after it in the stream, whichever row that is in."""
        return (self.num_tokens - 1) // self.num_rows

    def __len__(self) -> int:
        """The windows of an epoch."""
        if self.variable:
            return max(round(self.columns / ((1 - _HALF_SHARE / 2) * self.bptt)), 1)
        return -(-self.columns // self.bptt)

    def edges(self, epoch: int) -> list[int]:
        """The columns between which the windows of an epoch lie, from 0 to `columns`."""
        if not self.variable:
            return [*range(0, self.columns, self.bptt), self.columns]
        draws = random.generator(self.seed, "windows", epoch)
        half = torch.rand(len(self), generator=draws) < _HALF_SHARE
        means = torch.where(half, self.bptt / 2, float(self.bptt))
        widths = (means + _SPREAD * torch.randn(len(self), generator=draws)).clamp(min=_SHORTEST).double()
        ends = (widths.cumsum(0) / widths.sum() * self.columns).round().long()
        return [0, *ends.tolist()]

    def order(self, epoch: int) -> Int[Tensor, "texts"]:
        """The order in which the texts follow each other in an epoch."""
        return random.order(self.seed, epoch, self.num_texts) if self.shuffle else torch.arange(self.num_texts)


@final
@dataclass(frozen=True, kw_only=True)
class Buckets:
    """How texts are dealt into batches of like length, so that little of a batch is padding.

    Shuffled: the texts in a new order every epoch, sorted by length within each pool of 100 batches, and cut into
    batches, which come in a new order too, a short one last. A single text left over joins the batch before it, since
    one sample cannot be normalized. Not shuffled: the longest texts first.

    With several ranks a step's texts are those of one rank with a batch `world_size` times as large, dealt out one by
    one, so that each rank has as much to do.

    Args:
        lengths: of each text, in tokens.
        batch_size: texts per batch and rank.
        shuffle: a new order every epoch, and as many texts for every rank; else each text is seen by one rank.
        seed: which orders.
        rank: which part of each step this process takes.
        world_size: the number of processes.

    Source: SPEC B6, B7.
    """

    lengths: Int[Tensor, "texts"] = field(repr=False, compare=False)
    batch_size: int = 64
    shuffle: bool = False
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        check_dealt(self.batch_size, self.rank, self.world_size)
        if not len(self.lengths):
            raise DataError("there are no texts; expected at least one")

    def config(self) -> dict[str, Json]:
        """Its settings, with the number of texts for their lengths."""
        plain = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "lengths"}
        return {"num_samples": len(self.lengths), **plain}

    @property
    def _step(self) -> int:
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Batches of this rank in one epoch: as many for every rank with `shuffle`, else up to one less for some."""
        whole, rest = divmod(len(self.lengths), self._step)
        if not self.shuffle:
            return whole + (rest > self.rank)
        return whole + (rest >= 2 * self.world_size) if whole else 1

    def batches(self, epoch: int) -> list[Int[Tensor, "batch"]]:
        """The texts of each batch of this rank in one epoch, on the CPU."""
        steps = self._shuffled(epoch) if self.shuffle else self._sorted(torch.arange(len(self.lengths)))
        if self.world_size == 1:
            return steps
        return [part for step in steps if len(part := self._part(step))]

    def _sorted(self, texts: Tensor) -> list[Tensor]:
        """Some texts cut into steps, the longest first."""
        return list(texts[self.lengths[texts].argsort(descending=True, stable=True)].split(self._step))

    def _shuffled(self, epoch: int) -> list[Tensor]:
        num = len(self.lengths)
        pools = random.order(self.seed, epoch, num).split(_POOL * self._step)
        steps = [step for pool in pools for step in self._sorted(pool)]
        if len(steps) > len(self):
            steps[-2:] = [torch.cat(steps[-2:])]
        whole = num // self._step
        mixed = torch.randperm(whole, generator=random.generator(self.seed, "buckets", epoch)).tolist()
        return [*(steps[i] for i in mixed), *steps[whole:]]

    def _part(self, step: Tensor) -> Tensor:
        """This rank's share of a step; while training each rank gets as many, as a step of all ranks together needs."""
        if self.shuffle:
            # of a step that cannot be shared out evenly the first texts are seen twice, so that no rank waits
            each = -(-len(step) // self.world_size)
            step = step.repeat(self.world_size)[: each * self.world_size]
        return step[self.rank :: self.world_size]
