"""Any map-style torch data set, random transforms included, whatever the number of workers."""

from __future__ import annotations

import multiprocessing
import os
import random as python_random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from etude import Batch, DataError, Learner
from etude.data.dataset import DatasetLoader
from etude.data.loaders import PlainLoader, as_dataloaders, as_loader
from etude.errors import ConfigError

CPU = torch.device("cpu")
# Python 3.12 and later warn of forks beside threads; torch makes its own before any of ours
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


class Noisy(Dataset):
    """Draws from every global generator that a user's transform may draw from."""

    def __init__(self, num: int = 11) -> None:
        self.num = num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, i: int):
        drawn = [python_random.random(), np.random.rand(), torch.rand(()).item(), np.random.normal()]
        return torch.tensor([float(i), *drawn], dtype=torch.float64), i % 3


class Named(Noisy):
    """Items of several inputs, by name."""

    def __getitem__(self, i: int):
        x = super().__getitem__(i)[0]
        return {"left": x[:2], "right": x[2:]}, i


class Several(Noisy):
    """Items of several inputs, in order."""

    def __getitem__(self, i: int):
        x = super().__getitem__(i)[0]
        return (x[:2], x[2:]), i


class Broken(Noisy):
    """One of its files cannot be read."""

    def __getitem__(self, i: int):
        if i == 5:
            raise OSError("photo-5.jpg is truncated")
        return super().__getitem__(i)


class Endless(IterableDataset):
    def __init__(self, num: int = 10) -> None:
        self.num = num

    def __iter__(self):
        return ((torch.full((2,), float(i)), i % 2) for i in range(self.num))


def _epoch(loader, epoch=0):
    return list(loader.batches(epoch, CPU))


def _inputs(loader, epoch=0):
    return torch.cat([batch.inputs for batch in _epoch(loader, epoch)])


def _loader(dataset=None, **options):
    return DatasetLoader(dataset or Noisy(), **{"batch_size": 4, "shuffle": True, "seed": 3, **options})


def _global_state():
    """The type checker of the tests draws from Python's generator, so a test of this runs without it."""
    numpy_state = np.random.get_state()
    return python_random.getstate(), numpy_state[1].tolist(), numpy_state[2:], torch.get_rng_state().tolist()


# -- randomness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_batches_are_the_same_with_and_without_workers(start_method):
    """In every epoch of workers that live on, and in an epoch that is asked for first."""
    alone, workers = _loader(), _loader(workers=2, start_method=start_method, persistent_workers=True)
    for epoch in (1, 0, 1):
        theirs, ours = _epoch(workers, epoch), _epoch(alone, epoch)

        assert [batch.indices.tolist() for batch in theirs] == [batch.indices.tolist() for batch in ours]
        assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(theirs, ours, strict=True))
        assert all(torch.equal(a.targets, b.targets) for a, b in zip(theirs, ours, strict=True))


class _Pids(Noisy):
    """Which process reads, and a number that a user may change."""

    number = 0

    def __getitem__(self, i: int):
        return torch.tensor([os.getpid(), self.number]), i


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (0, True), (1, False), (2, False), (1, True)])
def test_a_change_of_the_data_set_is_seen_unless_workers_live_on(workers, persistent):
    options = {"workers": workers, "start_method": "fork"} if workers else {}
    loader = _loader(dataset := _Pids(), persistent_workers=persistent, **options)
    first = _inputs(loader, 0)
    dataset.number = 5
    second = _inputs(loader, 1)
    lives_on = bool(workers) and persistent

    assert set(second[:, 1].tolist()) == {0 if lives_on else 5}
    assert (set(first[:, 0].tolist()) == set(second[:, 0].tolist())) == (lives_on or not workers)


@pytest.mark.parametrize("stop", ["end", "early", "error"])
def test_workers_end_with_their_epoch(stop):
    before = set(multiprocessing.active_children())
    loader = _loader(Broken() if stop == "error" else Noisy(), shuffle=False, workers=2, start_method="fork")
    batches = loader.batches(0, CPU)
    next(batches)
    assert len(set(multiprocessing.active_children()) - before) == 2
    if stop == "early":
        batches.close()
    else:
        with pytest.raises(OSError, match="truncated") if stop == "error" else nullcontext():
            list(batches)

    assert set(multiprocessing.active_children()) <= before


def test_a_sample_is_a_function_of_seed_epoch_and_index():
    def by_index(**options):
        epoch = options.pop("epoch", 0)
        inputs = _inputs(_loader(**options), epoch)
        return inputs[inputs[:, 0].argsort()]

    first = by_index()
    python_random.seed(9), np.random.seed(9), torch.manual_seed(9)
    assert torch.equal(by_index(), first)
    assert torch.equal(by_index(batch_size=3, shuffle=False), first)
    for other in (by_index(epoch=1), by_index(seed=4)):
        assert torch.equal(other[:, 0], first[:, 0])
        assert (other[:, 1:] != first[:, 1:]).all()
    assert first[:, 1:].unique().numel() == first[:, 1:].numel()


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(epoch, **options):
        return _inputs(_loader(**options), epoch)[:, 0].tolist()

    assert order(2) == order(2) == _loader().sampling.batches(2)[0].tolist() + order(2)[4:]
    assert len({tuple(order(epoch, seed=seed)) for epoch in range(3) for seed in range(3)}) == 9
    assert order(2, shuffle=False) == list(range(11))


@pytest.mark.parametrize("stop", ["end", "early", "error"])
@pytest.mark.usefixtures("without_type_checks")
def test_global_generators_are_left_as_they_were(stop):
    """Dropout draws the same whether the data has random transforms or not."""
    loader = _loader(Broken() if stop == "error" else Noisy(), shuffle=False)
    before = _global_state()
    if stop == "end":
        _epoch(loader)
    elif stop == "early":
        next(loader.batches(0, CPU))
    else:
        with pytest.raises(OSError, match="truncated"):
            _epoch(loader)

    assert _global_state() == before


@pytest.mark.usefixtures("without_type_checks")
def test_workers_leave_the_global_generators_as_they_were_too():
    loader = _loader(workers=1, start_method="fork")
    before = _global_state()
    _epoch(loader, 0)
    _epoch(loader, 1)

    assert _global_state() == before


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_two_epochs_may_be_read_side_by_side(workers, persistent):
    """A callback that looks at a batch of the training data does not disturb the epoch that is going on."""
    options = {"workers": workers, "start_method": "fork"} if workers else {}
    loader, expected = _loader(persistent_workers=persistent, **options), _inputs(_loader(), 0)
    _epoch(loader, 2)
    running = loader.batches(0, CPU)
    seen = [next(running).inputs]
    other = next(loader.batches(7, CPU))
    whole = _epoch(loader, 1)
    seen += [batch.inputs for batch in running]

    assert torch.equal(torch.cat(seen), expected)
    assert torch.equal(other.inputs, _inputs(_loader(), 7)[:4])
    assert torch.equal(torch.cat([batch.inputs for batch in whole]), _inputs(_loader(), 1))


# -- batches ----------------------------------------------------------------------------------------------------------


def test_indices_say_which_sample_is_which():
    for batch in _epoch(_loader()):
        assert batch.indices.tolist() == batch.inputs[:, 0].long().tolist()
        assert batch.targets.tolist() == [i % 3 for i in batch.indices.tolist()]


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 3]), (True, [4, 4])])
def test_len_is_the_number_of_batches(drop_last, sizes):
    loader = _loader(drop_last=drop_last)

    assert [batch.size for batch in _epoch(loader)] == sizes
    assert (len(loader), loader.num_samples) == (len(sizes), 11)


def test_several_inputs_are_passed_by_name_or_in_order():
    named, several = _epoch(_loader(Named()))[0], _epoch(_loader(Several()))[0]

    assert {name: tuple(x.shape) for name, x in named.inputs.items()} == {"left": (4, 2), "right": (4, 3)}
    assert isinstance(several.inputs, tuple)
    assert torch.equal(torch.cat(several.inputs, 1), torch.cat(list(named.inputs.values()), 1))
    assert torch.equal(named.targets, named.indices)


def _padded(samples):
    longest = max(len(x) for x, _ in samples)
    inputs = torch.stack([nn.functional.pad(x, (0, longest - len(x))) for x, _ in samples])
    return inputs, torch.tensor([y for _, y in samples])


class _Ragged(Noisy):
    def __getitem__(self, i: int):
        return torch.full((i + 1,), float(i)), i


class _Weighted:
    def __call__(self, samples):
        inputs, targets = _padded(samples)
        return Batch(inputs, targets, weight=targets.float())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_collate_of_ones_own_makes_the_batches(workers):
    options = {"workers": workers, "shuffle": False, "start_method": "fork" if workers else None}
    first, *_ = _epoch(_loader(_Ragged(), collate=_padded, **options))
    weighted, *_ = _epoch(_loader(_Ragged(), collate=_Weighted(), **options))

    assert first.inputs.tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [2, 2, 2, 0], [3, 3, 3, 3]]
    assert weighted.weight.tolist() == [0, 1, 2, 3]
    assert torch.equal(weighted.indices, torch.arange(4))


@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_share_each_step(shuffle):
    options = {"shuffle": shuffle, "dataset": Noisy(13)}
    ranks = [_epoch(_loader(batch_size=2, rank=rank, world_size=3, **options)) for rank in range(3)]
    steps = _epoch(_loader(batch_size=6, **options))
    samples = {int(x[0]): x for batch in steps for x in batch.inputs}

    assert [len(rank) for rank in ranks] == ([3, 3, 3] if shuffle else [3, 2, 2])
    for i, step in enumerate(steps):
        together = torch.cat([rank[i].inputs for rank in ranks if i < len(rank)])
        assert set(together[:, 0].tolist()) == set(step.inputs[:, 0].tolist())
        assert all(torch.equal(x, samples[int(x[0])]) for x in together)


# -- what a user hands over -------------------------------------------------------------------------------------------


def test_a_learner_fits_on_a_pair_of_data_sets():
    x = torch.randn(200, 4)
    data = TensorDataset(x, (x[:, 0] > 0).long())

    def weights():
        torch.manual_seed(5)
        learner = Learner(nn.Linear(4, 2), (data, data), nn.CrossEntropyLoss(), torch.optim.SGD, progress=False)
        history = learner.fit(3, lr=0.5)
        assert history["valid_loss"][-1] < history["valid_loss"][0]
        assert len(learner.data.train) == 3
        assert len(learner.data.valid) == 4
        return learner.model.weight

    assert torch.equal(weights(), weights())


def test_data_sets_are_shuffled_for_training_alone():
    data = as_dataloaders((Noisy(300), Noisy(300)))

    assert _inputs(data.valid)[:, 0].tolist() == list(range(300))
    assert _inputs(data.train)[:, 0].tolist() != list(range(256))
    assert [len(data.train), len(data.valid)] == [4, 5]


@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
def test_an_iterable_data_set_comes_in_a_loader_of_its_own():
    class Sized(Endless):
        def __len__(self):
            return self.num

    loader = as_loader(DataLoader(Sized(), batch_size=4))

    assert isinstance(loader, PlainLoader)
    assert [batch.size for batch in _epoch(loader)] == [4, 4, 2]
    with pytest.raises(ConfigError, match=r"has no len\(\), so a schedule cannot know where it ends"):
        as_loader(Endless())


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_data_set_reaches_the_user(workers):
    loader = _loader(Broken(), shuffle=False, workers=workers, start_method="fork" if workers else None)
    batches = loader.batches(0, CPU)

    assert next(batches).indices.tolist() == [0, 1, 2, 3]
    with pytest.raises(OSError, match=r"photo-5\.jpg is truncated"):
        next(batches)


def test_a_data_set_without_a_length_is_refused():
    class NoLength(Dataset):
        def __getitem__(self, i):
            return i, i

    with pytest.raises(DataError, match=r"NoLength has no len\(\); wrap an iterable data set in a torch DataLoader"):
        DatasetLoader(NoLength())


@pytest.mark.usefixtures("without_type_checks")
def test_items_that_are_no_pairs_are_refused():
    with pytest.raises(DataError, match=r"batch 0 is a Tensor; expected \(inputs, targets\)"):
        _epoch(DatasetLoader(range(10)))


@pytest.mark.usefixtures("without_type_checks")
def test_an_empty_data_set_is_refused():
    with pytest.raises(DataError, match="there are no samples"):
        DatasetLoader([])
