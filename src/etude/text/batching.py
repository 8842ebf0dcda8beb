"""From stored token ids to batches: one long stream for a language model, texts of like length for a classifier.

What is in which batch is a function of (seed, epoch): a resume in the middle of an epoch is an index, not a replay.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from etude.data.prefetch import prefetched
from etude.data.sampling import on_device
from etude.data.store import RaggedStore
from etude.data.vocab import Vocab
from etude.errors import ConfigError, DataError
from etude.text.dealing import Buckets, Stream
from etude.types import Batch, Inputs

if TYPE_CHECKING:
    from jaxtyping import Int, Shaped

_ROWS, _WINDOW = 64, 70
"""Of the stream that a language model is measured on."""
_CHUNK = 1 << 20
"""Tokens of a stream that are gathered at a time: their positions take eight bytes each."""


class StreamLoader:
    """Batches of a language model: `tokens`, and as targets the token after each of them.

    The stream of an epoch is put together once; its batches are windows of it. `starts` says which rows begin anew: all
    of them in the first batch of an epoch, none after it, for a row goes on where it stopped.

    >>> words = "xxbos in this notebook , we will go over the example of text".split()
    >>> store = RaggedStore(torch.arange(13), torch.tensor([0]), torch.tensor([[13]]), ("notebook.txt",))
    >>> loader = StreamLoader(store, torch.tensor([0]), batch_size=2, bptt=3)
    >>> for batch in loader.batches(0, torch.device("cpu")):
    ...     for tokens, targets in zip(batch.inputs["tokens"].tolist(), batch.targets.tolist()):
    ...         print(*(words[i] for i in tokens), "->", *(words[i] for i in targets))
    xxbos in this -> in this notebook
    will go over -> go over the
    notebook , we -> , we will
    the example of -> example of text

    Args:
        store: the token ids of each text.
        rows: which texts of the store.
        batch_size: rows of the stream; see `Stream`.
        bptt: tokens of a window.
        shuffle: a new order of the texts every epoch.
        variable: windows of varying length; see `Stream`.
        backward: each text is read from its last token to its first: xxeos comes first, xxbos last.
        seed: decides orders and windows.
        rank: which part of the rows this process takes.
        world_size: the number of processes.
        vocab: the tokens.

    Source: SPEC B1-B4.
    """

    def __init__(
        self,
        store: RaggedStore,
        rows: Int[Tensor, "texts"],
        *,
        batch_size: int = 64,
        bptt: int = 70,
        shuffle: bool = False,
        variable: bool = False,
        backward: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        vocab: Vocab | None = None,
    ) -> None:
        self.store, self.rows, self.backward, self.vocab, self._kept = store, rows, backward, vocab, store
        self.sampling = Stream(
            num_texts=len(rows),
            num_tokens=int(store.shapes[rows].sum()),
            batch_size=batch_size,
            bptt=bptt,
            shuffle=shuffle,
            variable=variable,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )

    def __len__(self) -> int:
        return len(self.sampling)

    @property
    def num_targets(self) -> int:
        """The tokens that are predicted in one epoch, over all ranks: all but the first and a few at the end."""
        return self.sampling.num_rows * self.sampling.columns

    def batches(self, epoch: int, device: torch.device) -> Iterator[Batch]:
        """The batches of one epoch, on the device."""
        return self.batches_from(epoch, 0, device)

    def batches_from(self, epoch: int, start: int, device: torch.device) -> Iterator[Batch]:
        """The batches of one epoch but the first `start`."""
        cut = self.sampling
        shape, steps = (cut.batch_size, cut.columns), (cut.stride, 1)
        first, num = cut.rank * cut.batch_size * cut.stride, (cut.batch_size - 1) * cut.stride + cut.columns + 1
        tokens = self._tokens(epoch, range(first, first + num), device)
        inputs, targets = tokens.as_strided(shape, steps), tokens[1:].as_strided(shape, steps)
        begins = torch.ones(cut.batch_size, dtype=torch.bool, device=device)
        goes_on = torch.zeros_like(begins)
        for i, (left, right) in enumerate(islice(pairwise(cut.edges(epoch)), start, None), start):
            window: Inputs = {"tokens": inputs[:, left:right].long(), "starts": goes_on if i else begins}
            yield Batch(window, targets[:, left:right].long())

    def _tokens(self, epoch: int, span: range, device: torch.device) -> Int[Tensor, "time"]:
        """Some tokens of an epoch's stream, put together on the device where the store has room there."""
        place = device if self._kept.fits(device) else torch.device("cpu")
        if self.store.device != place:
            self.store = self._kept.on(place)
        rows = self.rows[self.sampling.order(epoch)].to(place)
        return _joined(self.store, rows, span, backward=self.backward).to(device)


def stream_to_measure(
    store: RaggedStore,
    rows: Int[Tensor, "texts"],
    *,
    backward: bool,
    rank: int = 0,
    world_size: int = 1,
    vocab: Vocab | None = None,
) -> StreamLoader:
    """The stream of texts that a language model is measured on.

    It is cut alike whatever batches and windows the training had: a row begins with no memory of what came before, so
    that with more and shorter rows the same model has a higher perplexity. Of few tokens there are fewer rows, each of
    one window at least.

    Args:
        store: the token ids of each text.
        rows: which texts of the store.
        backward: as in the training.
        rank: which part of the rows this process takes.
        world_size: the number of processes.
        vocab: the tokens.
    """
    num = max(min(int(store.shapes[rows].sum()) // _WINDOW, _ROWS) // world_size, 1)
    return StreamLoader(
        store,
        rows,
        batch_size=num,
        bptt=_WINDOW,
        backward=backward,
        rank=rank,
        world_size=world_size,
        vocab=vocab,
    )


def _joined(store: RaggedStore, rows: Int[Tensor, "texts"], span: range, *, backward: bool) -> Int[Tensor, "time"]:
    """The tokens at a span of positions in the stream of some texts, one after the other."""
    values, starts, shapes = store.gather(rows)
    lengths = shapes[:, 0]
    ends = lengths.cumsum(0)
    begins, host_ends = ends - lengths, ends.cpu()
    # where a text's tokens lie in the store is its base plus their positions in the stream, or minus them
    base = starts + ends - 1 if backward else starts - begins
    tokens = torch.empty(len(span), dtype=values.dtype, device=values.device)
    for left in span[::_CHUNK]:
        right = min(left + _CHUNK, span.stop)
        first, last = torch.searchsorted(host_ends, torch.tensor([left, right - 1]), right=True).tolist()
        texts = slice(first, last + 1)
        counts = ends[texts].clamp(max=right) - begins[texts].clamp(min=left)
        bases = base[texts].repeat_interleave(counts, output_size=right - left)
        positions = torch.arange(left, right, device=values.device)
        places = bases - positions if backward else bases + positions
        tokens[left - span.start : right - span.start] = values.index_select(0, places)
    return tokens


class BucketLoader:
    """Batches of a classifier: `tokens` padded at the end to the longest text of the batch, and `lengths`.

    Validation comes longest first; `indices` says where in the data set each text stands.

    Args:
        store: the token ids of each text.
        rows: which texts of the store, in the order of this data set.
        targets: one row for each of them.
        pad: the id of xxpad.
        batch_size: texts per batch.
        shuffle: a new order every epoch; see `Buckets`.
        max_length: longer texts are cut after so many tokens; None keeps all.
        backward: each text is read from its last token to its first.
        seed: decides orders.
        rank: which part of each step this process takes.
        world_size: the number of processes.
        vocab: what the class numbers of the targets mean.

    Source: SPEC B5-B9.
    """

    def __init__(
        self,
        store: RaggedStore,
        rows: Int[Tensor, "texts"],
        targets: Shaped[Tensor, "texts ..."],
        *,
        pad: int,
        batch_size: int = 64,
        shuffle: bool = False,
        max_length: int | None = None,
        backward: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        vocab: Vocab | None = None,
    ) -> None:
        if len(rows) != len(targets):
            raise DataError(f"{len(rows)} texts but {len(targets)} targets; expected one target per text")
        if max_length is not None and max_length < 1:
            raise ConfigError(f"max_length must be at least 1 token, or None for whole texts; got {max_length}")
        self.store, self.rows, self.targets, self.vocab, self._kept = store, rows, targets, vocab, store
        self.pad, self.backward, self._most = pad, backward, max_length or sys.maxsize
        self.sampling = Buckets(
            lengths=store.shapes[rows, 0].clamp(max=self._most),
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )

    @property
    def names(self) -> list[str]:
        """Each text's file, or its place in one."""
        return [self.store.names[row] for row in self.rows.tolist()]

    @property
    def num_samples(self) -> int:
        """The number of texts of one epoch, over all ranks."""
        return len(self.sampling.lengths)

    def __len__(self) -> int:
        return len(self.sampling)

    def batches(self, epoch: int, device: torch.device) -> Iterator[Batch]:
        """The batches of one epoch, on the device."""
        return self.batches_from(epoch, 0, device)

    def batches_from(self, epoch: int, start: int, device: torch.device) -> Iterator[Batch]:
        """The batches of one epoch but the first `start`."""
        parts = self.sampling.batches(epoch)[start:]
        # known on the host, so that a GPU is not waited for
        widths = [int(self.sampling.lengths[part].max()) for part in parts]
        if self._kept.fits(device):
            self._move(device)
            return (self._padded(part, width) for part, width in zip(on_device(parts, device), widths, strict=True))
        self._move(torch.device("cpu"))
        return prefetched((self._padded(part, width) for part, width in zip(parts, widths, strict=True)), device)

    def take(self, rows: Int[Tensor, "batch"] | Sequence[int], epoch: int = 0) -> Batch:
        """The texts at the given positions of this data set, the same in every epoch."""
        rows = torch.as_tensor(rows)
        return self._padded(rows.to(self.rows.device), int(self.sampling.lengths[rows.cpu()].max()))

    def _padded(self, rows: Int[Tensor, "batch"], width: int) -> Batch:
        values, starts, shapes = self.store.gather(self.rows.index_select(0, rows))
        lengths = shapes[:, 0].clamp(max=self._most)
        columns = torch.arange(width, device=rows.device)
        inside = columns < lengths.unsqueeze(1)
        steps = lengths.unsqueeze(1) - 1 - columns if self.backward else columns
        tokens = values[(starts.unsqueeze(1) + steps).where(inside, 0)].long()
        inputs: Inputs = {"tokens": tokens.where(inside, self.pad), "lengths": lengths}
        return Batch(inputs, self.targets.index_select(0, rows), indices=rows)

    def _move(self, device: torch.device) -> None:
        """Bring store and targets to the device; loaders of one store share its place there."""
        if self.store.device != device:
            self.store = self._kept.on(device)
            self.rows, self.targets = self.rows.to(device), self.targets.to(device)


def pad_texts(texts: Sequence[Tensor], pad: int) -> dict[str, Tensor]:
    """Texts of different lengths as one batch, padded at the end, with their lengths.

    >>> pad_texts([torch.tensor([5, 6, 7]), torch.tensor([8])], pad=1)["tokens"].tolist()
    [[5, 6, 7], [8, 1, 1]]

    Source: SPEC B8.
    """
    lengths = torch.tensor([len(text) for text in texts])
    return {"tokens": pad_sequence(list(texts), batch_first=True, padding_value=pad), "lengths": lengths}
