"""Batches of texts: the stream of a language model, and texts of like length for a classifier."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from etude import Learner
from etude.data.loaders import DataLoaders, SeekableLoader
from etude.data.store import RaggedStore
from etude.errors import ConfigError, DataError
from etude.text import batching
from etude.text.batching import BucketLoader, StreamLoader, pad_texts
from etude.text.dealing import Buckets, Stream

CPU = torch.device("cpu")


def store_of(lengths, seed=0):
    """Texts of random token ids in memory, no id twice."""
    lengths = torch.tensor(lengths)
    values = torch.randperm(int(lengths.sum()), generator=torch.Generator().manual_seed(seed)).int()
    names = tuple(f"{i}.txt" for i in range(len(lengths)))
    return RaggedStore(values, lengths.cumsum(0) - lengths, lengths.unsqueeze(1), names)


def stream_of(lengths, rows=None, **settings):
    store = store_of(lengths)
    return store, StreamLoader(store, torch.arange(len(lengths)) if rows is None else rows, **settings)


def joined(store, texts, *, backward=False):
    """The plain form of a stream."""
    return torch.cat([store[i].flip(0) if backward else store[i] for i in texts]).long()


def read(loader, epoch=0, start=0):
    return list(loader.batches_from(epoch, start, CPU))


# -- the stream -------------------------------------------------------------------------------------------------------


def test_the_worked_example_of_the_notes():
    """90 tokens, 6 rows of 15, 5 columns at a time. Source: SPEC B1."""
    _, loader = stream_of([90], batch_size=6, bptt=5)
    stream = joined(loader.store, [0])
    first, second, third = read(loader)

    assert first.inputs["tokens"][0].tolist() == stream[:5].tolist()
    assert second.inputs["tokens"][0].tolist() == stream[5:10].tolist()
    assert first.inputs["tokens"][1].tolist() == stream[15:20].tolist()
    assert third.targets[5].tolist() == stream[86:90].tolist()


@pytest.mark.parametrize("settings", [{"shuffle": True}, {}, {"shuffle": True, "variable": True}, {"backward": True}])
def test_a_row_goes_on_where_it_stopped(settings):
    """In training and in validation: every row of a batch begins with the token it last predicted (SPEC 11, 19)."""
    _, loader = stream_of([30, 1, 200, 77, 5, 301, 2], batch_size=4, bptt=13, **settings)
    for epoch in range(3):
        batches = read(loader, epoch)
        for batch, after in pairwise(batches):
            assert torch.equal(after.inputs["tokens"][:, 0], batch.targets[:, -1])
        for batch in batches:
            assert torch.equal(batch.inputs["tokens"][:, 1:], batch.targets[:, :-1])


@pytest.mark.parametrize("num_tokens", [7, 8, 9, 95, 96, 97])
def test_next_to_nothing_is_left_out(num_tokens):
    _, loader = stream_of([num_tokens - 2, 2], batch_size=3, bptt=4)
    predicted = sum(batch.targets.numel() for batch in read(loader))

    # the first token is never predicted
    assert num_tokens - 1 - predicted < 3
    assert len(loader) == len(read(loader))


def test_every_epoch_has_an_order_of_its_own_and_the_same_one_again():
    lengths = [20] * 12
    store, loader = stream_of(lengths, batch_size=2, bptt=7, shuffle=True, seed=5)
    first, again, other = (torch.cat([b.inputs["tokens"] for b in read(loader, epoch)], 1) for epoch in (3, 3, 4))
    expected = joined(store, loader.sampling.order(3).tolist())

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first[0], expected[: first.shape[1]])
    assert torch.equal(first[1], expected[120 : 120 + first.shape[1]])


def test_only_some_texts_of_the_store():
    store, loader = stream_of([10, 20, 30, 40], torch.tensor([3, 1]), batch_size=2, bptt=100)
    (batch,) = read(loader)

    assert batch.inputs["tokens"].flatten().tolist() == [
        *joined(store, [3]).tolist()[:29],
        *joined(store, [3, 1])[30:59],
    ]


def test_backward_reads_each_text_from_its_end():
    store, loader = stream_of([10, 20, 31], batch_size=1, bptt=100, backward=True)
    (batch,) = read(loader)

    assert torch.equal(batch.inputs["tokens"][0], joined(store, [0, 1, 2], backward=True)[:-1])


@pytest.mark.parametrize("backward", [False, True])
def test_a_long_stream_is_put_together_in_pieces(monkeypatch, backward):
    monkeypatch.setattr(batching, "_CHUNK", 16)
    store, loader = stream_of([40, 1, 3, 16, 50, 7], batch_size=2, bptt=1000, backward=backward)
    (batch,) = read(loader)
    whole = joined(store, range(6), backward=backward)

    assert torch.equal(batch.inputs["tokens"], torch.stack([whole[:58], whole[58:116]]))


def test_rows_begin_anew_only_in_the_first_batch():
    _, loader = stream_of([100], batch_size=3, bptt=8)

    assert [batch.inputs["starts"].tolist() for batch in read(loader)] == [[True] * 3] + [[False] * 3] * 4
    assert not any(batch.inputs["starts"].any() for batch in read(loader, start=2))


def test_an_epoch_can_begin_in_the_middle():
    _, loader = stream_of([50, 80, 20], batch_size=3, bptt=6, shuffle=True, variable=False)
    whole, rest = read(loader, 2), read(loader, 2, start=3)

    assert isinstance(loader, SeekableLoader)
    assert len(rest) == len(whole) - 3
    for batch, same in zip(whole[3:], rest, strict=True):
        assert torch.equal(batch.inputs["tokens"], same.inputs["tokens"])
        assert torch.equal(batch.targets, same.targets)


def test_ranks_share_the_rows_of_a_larger_batch():
    lengths = [50, 80, 23]
    _, one = stream_of(lengths, batch_size=6, bptt=6, shuffle=True)
    parts = [stream_of(lengths, batch_size=2, bptt=6, shuffle=True, rank=r, world_size=3)[1] for r in range(3)]
    for whole, *shares in zip(read(one), *map(read, parts), strict=True):
        assert torch.equal(whole.inputs["tokens"], torch.cat([share.inputs["tokens"] for share in shares]))
        assert torch.equal(whole.targets, torch.cat([share.targets for share in shares]))


def test_variable_windows():
    """About bptt wide, sometimes half of it, at least 5, of another width each epoch, and always as many."""
    stream = Stream(num_texts=1, num_tokens=700_001, batch_size=2, bptt=70, variable=True, seed=1)
    widths = [torch.tensor(stream.edges(epoch)).diff() for epoch in range(3)]

    for width in widths:
        assert len(width) == len(stream)
        assert int(width.sum()) == stream.columns
        assert int(width.min()) >= 4
        assert 68 < float(width.double().mean()) < 70
        assert 0.03 < float((width < 50).double().mean()) < 0.07
        assert 3 < float(width[width > 50].double().std()) < 7
    assert widths[0].tolist() != widths[1].tolist()
    assert stream.edges(0) == stream.edges(0)


@pytest.mark.parametrize("columns", range(1, 60))
def test_variable_windows_of_few_columns_are_never_empty(columns):
    stream = Stream(num_texts=1, num_tokens=columns + 1, batch_size=1, bptt=10, variable=True)
    for epoch in range(20):
        edges = stream.edges(epoch)

        assert edges[-1] == columns
        assert all(left < right for left, right in pairwise(edges))


def test_what_a_stream_refuses():
    with pytest.raises(DataError, match="3 tokens in 1 texts are too few for 3 rows"):
        stream_of([3], batch_size=3)
    with pytest.raises(ConfigError, match="bptt must be at least 1"):
        stream_of([30], batch_size=1, bptt=0)
    with pytest.raises(ConfigError, match="at least 10"):
        stream_of([30], batch_size=1, bptt=9, variable=True)
    with pytest.raises(ConfigError, match="batch_size"):
        stream_of([30], batch_size=0)
    with pytest.raises(ConfigError, match="rank"):
        stream_of([30], batch_size=1, rank=1)


# -- texts of like length ---------------------------------------------------------------------------------------------


def buckets_of(lengths, **settings):
    store = store_of(lengths)
    rows = torch.arange(len(lengths))
    return store, BucketLoader(store, rows, rows % 2, pad=7, **settings)


def uneven(num, seed=0):
    """Lengths that are spread as those of reviews are: a long tail."""
    return (torch.randn(num, generator=torch.Generator().manual_seed(seed)).mul(0.7).exp() * 250).long().add(3).tolist()


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13])
@pytest.mark.parametrize("shuffle", [True, False])
def test_any_number_of_batches(num, shuffle):
    """One batch and two are batches too, and no text is lost (SPEC 11, 20)."""
    _, loader = buckets_of(uneven(num), batch_size=4, shuffle=shuffle)
    batches = read(loader)

    assert len(batches) == len(loader)
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(num))
    if shuffle and num > 1:
        # a batch of one sample cannot be normalized
        assert all(batch.size > 1 for batch in batches)


def test_the_short_batch_comes_last_and_the_others_in_a_new_order():
    _, loader = buckets_of(uneven(43), batch_size=4, shuffle=True)
    epochs = [read(loader, epoch) for epoch in range(5)]
    longest = {[int(b.inputs["lengths"].max()) for b in epoch].index(max(uneven(43))) for epoch in epochs}

    assert all([batch.size for batch in epoch] == [4] * 10 + [3] for epoch in epochs)
    assert len(longest) > 1
    assert [b.indices.tolist() for b in epochs[0]] != [b.indices.tolist() for b in epochs[1]]
    assert [b.indices.tolist() for b in epochs[0]] == [b.indices.tolist() for b in read(loader, 0)]


def test_texts_are_padded_at_the_end():
    store, loader = buckets_of([5, 9, 2, 7], batch_size=2)
    first, second = read(loader)

    assert first.indices.tolist() == [1, 3]
    assert first.inputs["lengths"].tolist() == [9, 7]
    assert first.inputs["tokens"][1].tolist() == [*store[3].tolist(), 7, 7]
    assert first.targets.tolist() == [1, 1]
    assert second.inputs["tokens"][0].tolist() == store[0].tolist()


def test_backward_and_cut_texts():
    store, loader = buckets_of([5, 9, 2], batch_size=3, backward=True, max_length=6)
    (batch,) = read(loader)

    assert batch.indices.tolist() == [1, 0, 2]
    assert batch.inputs["lengths"].tolist() == [6, 5, 2]
    assert batch.inputs["tokens"][0].tolist() == store[1][:6].flip(0).tolist()
    assert batch.inputs["tokens"][2].tolist() == [*store[2].flip(0).tolist(), *[7] * 4]


SHARES = (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999, 1)
TOKENS = (14, 60, 90, 130, 167, 187, 213, 245, 290, 356, 456, 644, 841, 1096, 1246, 1363, 1609, 2408, 3484)
"""How long the 25,000 training reviews of IMDB are: this share of them has fewer tokens."""


@pytest.mark.parametrize("batch_size", [32, 64, 128])
def test_little_is_padding(batch_size):
    """Source: SPEC B7; PERF 4.2 item 9 asks for less than a tenth."""
    lengths = torch.from_numpy(np.interp((np.arange(25_000) + 0.5) / 25_000, SHARES, TOKENS)).long()
    mixed = lengths[torch.randperm(25_000)]

    assert padding(Buckets(lengths=mixed, batch_size=batch_size, shuffle=True)) < 0.07
    assert padding(Buckets(lengths=mixed, batch_size=batch_size)) < 0.05


def padding(buckets):
    """The share of an epoch's batches that is padding."""
    sizes = [buckets.lengths[part] for part in buckets.batches(0)]
    return 1 - sum(int(part.sum()) for part in sizes) / sum(int(part.max()) * len(part) for part in sizes)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("num", [1, 4, 5, 6, 11, 12, 13, 14, 29])
def test_ranks_share_the_texts(num, shuffle):
    ranks = [
        Buckets(lengths=torch.tensor(uneven(num)), batch_size=2, shuffle=shuffle, rank=r, world_size=3)
        for r in range(3)
    ]
    shares = [rank.batches(0) for rank in ranks]
    seen = torch.cat([part for share in shares for part in share]).tolist()

    assert [len(share) for share in shares] == [len(rank) for rank in ranks]
    if shuffle:
        assert len({tuple(map(len, share)) for share in shares}) == 1
        assert set(seen) == set(range(num))
    else:
        assert sorted(seen) == list(range(num))


def test_a_classifiers_epoch_can_begin_in_the_middle():
    _, loader = buckets_of(uneven(43), batch_size=4, shuffle=True)
    rest = read(loader, 1, start=7)

    assert isinstance(loader, SeekableLoader)
    assert [b.indices.tolist() for b in rest] == [b.indices.tolist() for b in read(loader, 1)[7:]]


def test_take_and_names():
    store, loader = buckets_of([5, 9, 2], batch_size=3)
    batch = loader.take([2, 0])

    assert batch.inputs["tokens"][0].tolist() == [*store[2].tolist(), 7, 7, 7]
    assert batch.indices.tolist() == [2, 0]
    assert loader.names == ["0.txt", "1.txt", "2.txt"]
    assert loader.num_samples == 3


class LengthIsEven(nn.Module):
    """Says how long a text is."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, tokens, lengths):
        return torch.stack([lengths * self.weight, torch.zeros(len(lengths))], 1)


@pytest.mark.parametrize("shuffle", [True, False])
def test_predictions_come_in_the_order_of_the_data(shuffle):
    """Though the batches are sorted by length (SPEC B9), and with the names and targets of their texts."""
    lengths = [5, 9, 2, 7, 1, 30, 4]
    _, loader = buckets_of(lengths, batch_size=2, shuffle=shuffle)
    data = DataLoaders(loader, loader)
    learner = Learner(LengthIsEven(), data, nn.MSELoss(), torch.optim.SGD, device="cpu", progress=False)
    found = learner.predict()

    assert found.output[:, 0].tolist() == lengths
    assert found.targets.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert found.names == tuple(loader.names)


def test_read_texts_are_padded_as_stored_ones_are():
    store, loader = buckets_of([5, 9, 2], batch_size=3)
    (batch,) = read(loader)
    padded = pad_texts([store[i].long() for i in batch.indices.tolist()], 7)

    assert torch.equal(padded["tokens"], batch.inputs["tokens"])
    assert torch.equal(padded["lengths"], batch.inputs["lengths"])


def test_what_buckets_refuse(without_type_checks):
    with pytest.raises(DataError, match="3 texts but 2 targets"):
        BucketLoader(store_of([1, 2, 3]), torch.arange(3), torch.zeros(2), pad=1)
    with pytest.raises(ConfigError, match="max_length"):
        buckets_of([3], max_length=0)
    with pytest.raises(DataError, match="no texts"):
        Buckets(lengths=torch.zeros(0, dtype=torch.long))
