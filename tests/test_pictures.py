"""Batches of pictures as pure functions of (seed, epoch, index), from the loader to the trained weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from etude import Callback, ConfigError, DataError, DataLoaders, Learner
from etude.data.loaders import Loader
from etude.data.store import RaggedStore
from etude.training import snapshot
from etude.training.step import supervised_step
from etude.vision import ImagePreprocess
from etude.vision.pictures import DrawWindows, PictureLoader
from etude.vision.windows import MiddleCrop, RandomResizedCrop

CPU = torch.device("cpu")
NUM = 41


def _store(num=NUM, channels=3):
    """Pictures of many sizes; each class is a little brighter than the one before it."""
    generator = torch.Generator().manual_seed(4)
    shapes = torch.stack([*torch.randint(9, 30, (2, num), generator=generator), torch.full((num,), channels)], 1)
    sizes = shapes.prod(1)
    pictures = [
        torch.randint(40 * (i % 3), 40 * (i % 3) + 170, (size,), generator=generator)
        for i, size in enumerate(sizes.tolist())
    ]
    names = tuple(f"class {i % 3}/{i}.png" for i in range(num))
    return RaggedStore(torch.cat(pictures).to(torch.uint8), sizes.cumsum(0) - sizes, shapes, names)


STORE = _store()


def _loader(rows=None, store=STORE, **options):
    rows = torch.arange(len(store)) if rows is None else rows
    options = {"size": 8, "windows": RandomResizedCrop(), "batch_size": 6, "shuffle": True, "seed": 3, **options}
    return PictureLoader(store, rows, rows % 3, **options)


def _epoch(loader, epoch=0):
    """One epoch, in the order of the data set: indices, targets, pixels."""
    batches = list(loader.batches(epoch, CPU))
    indices, targets, pixels = (
        torch.cat([getattr(batch, name) for batch in batches]) for name in ("indices", "targets", "inputs")
    )
    order = indices.argsort(stable=True)
    return indices[order], targets[order], pixels[order]


def _equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# -- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_uint8_channels_last_with_its_targets_and_indices():
    batch = next(_loader().batches(0, CPU))

    assert batch.inputs.shape == (6, 3, 8, 8)
    assert batch.inputs.dtype == torch.uint8
    assert batch.inputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.targets, batch.indices % 3)
    assert batch.weight is None


def test_pictures_are_a_function_of_seed_epoch_and_index():
    first = _epoch(_loader(), 2)
    torch.manual_seed(99)
    loader = _loader()
    _epoch(loader, 0)

    assert _equal(_epoch(loader, 2), first)
    for other in (_epoch(loader, 3), _epoch(_loader(seed=4), 2)):
        assert _equal(other[:2], first[:2])
        assert ((other[2] != first[2]).flatten(1).any(1)).float().mean() > 0.9


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 100}, {"shuffle": False}], ids=str)
def test_pictures_do_not_depend_on_batch_size_or_order(options):
    assert _equal(_epoch(_loader(**options), 1), _epoch(_loader(), 1))


def test_pictures_may_be_asked_for_by_their_positions():
    loader = _loader()
    _, targets, pixels = _epoch(loader, 1)
    rows = torch.tensor([40, 3, 3, 17])
    batch = loader.take(rows, 1)

    assert torch.equal(batch.inputs, pixels[rows])
    assert torch.equal(batch.targets, targets[rows])
    assert torch.equal(batch.indices, rows)


def test_a_data_set_is_some_rows_of_the_store():
    """Windows are keyed by the position in the data set: the same picture elsewhere has another one."""
    rows = torch.tensor([30, 2, 11, 7])
    loader = _loader(rows, windows=MiddleCrop())
    whole = _loader(windows=MiddleCrop())

    assert loader.names == ["class 0/30.png", "class 2/2.png", "class 2/11.png", "class 1/7.png"]
    assert (loader.num_samples, len(loader)) == (4, 1)
    assert torch.equal(loader.pixels(torch.arange(4)), whole.pixels(rows))


def test_the_middle_is_the_same_in_every_epoch_and_for_every_seed():
    options = {"windows": MiddleCrop(), "shuffle": False}

    assert _equal(_epoch(_loader(**options), 0), _epoch(_loader(**options, seed=8), 5))


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [6] * 6 + [5]), (True, [6] * 6)])
def test_len_is_the_number_of_batches(drop_last, sizes):
    loader = _loader(drop_last=drop_last)

    assert [batch.size for batch in loader.batches(0, CPU)] == sizes
    assert (len(loader), loader.num_samples) == (len(sizes), NUM)


def test_two_ranks_see_what_one_rank_with_double_batches_sees():
    ranks = [list(_loader(batch_size=3, rank=rank, world_size=2, drop_last=True).batches(1, CPU)) for rank in (0, 1)]
    alone = list(_loader(batch_size=6, drop_last=True).batches(1, CPU))

    assert len(ranks[0]) == len(ranks[1]) == len(alone)
    for first, second, whole in zip(*ranks, alone, strict=True):
        for name in ("inputs", "targets", "indices"):
            assert torch.equal(torch.cat([getattr(first, name), getattr(second, name)]), getattr(whole, name))


def test_gray_pictures_have_one_channel():
    batch = next(_loader(store=_store(channels=1)).batches(0, CPU))

    assert batch.inputs.shape == (6, 1, 8, 8)


def test_the_loader_and_its_windows_are_what_the_library_asks_for():
    assert isinstance(_loader(), Loader)
    assert isinstance(RandomResizedCrop(), DrawWindows)
    assert isinstance(MiddleCrop(), DrawWindows)


def test_two_epochs_may_be_read_side_by_side():
    loader = _loader()
    pairs = list(zip(loader.batches(0, CPU), loader.batches(1, CPU), strict=True))

    for epoch in (0, 1):
        for ours, expected in zip(pairs, _loader().batches(epoch, CPU), strict=True):
            assert torch.equal(ours[epoch].inputs, expected.inputs)


@pytest.mark.parametrize(
    ("options", "targets", "error", "message"),
    [
        ({}, 4, DataError, "41 pictures but 4 targets; expected one target per picture"),
        ({"size": 0}, NUM, ConfigError, "size must be at least 1 pixel, got 0"),
        ({"batch_size": 0}, NUM, ConfigError, "batch_size must be at least 1, got 0"),
        ({"rank": 1}, NUM, ConfigError, r"rank must be in \[0, 1\)"),
    ],
    ids=["targets", "size", "batch size", "rank"],
)
@pytest.mark.usefixtures("without_type_checks")
def test_settings_that_make_no_sense_are_refused(options, targets, error, message):
    with pytest.raises(error, match=message):
        PictureLoader(STORE, torch.arange(NUM), torch.zeros(targets), **{"size": 8, "windows": MiddleCrop(), **options})


# -- training ---------------------------------------------------------------------------------------------------------


class _Keep(Callback):
    """Keeps every batch that it sees, and copies of them."""

    def __init__(self) -> None:
        self.kept, self.copies = [], []

    def after_step(self, learner, batch, output):
        if len(self.kept) < 20:
            self.kept.append(batch.inputs)
            self.copies.append(batch.inputs.clone())


class _SnapshotAt(Callback):
    """Takes a snapshot after so many epochs."""

    def __init__(self, num_epochs: int) -> None:
        self.num_epochs, self.taken = num_epochs, None

    def before_fit(self, learner):
        learner.running().at_rest.append(lambda after: self._take(learner) if after == "epoch" else None)

    def _take(self, learner):
        state = snapshot.take(learner)
        if len(state.rows) == self.num_epochs:
            self.taken = state


def _learner(callbacks=(), **options):
    torch.manual_seed(6)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))
    valid = _loader(windows=MiddleCrop(), shuffle=False)
    data = DataLoaders(_loader(**options), valid, preprocess=ImagePreprocess(8, [0.5] * 3, [0.3] * 3), seed=3)
    loss_fn = nn.CrossEntropyLoss()
    return Learner(model, data, loss_fn, torch.optim.AdamW, callbacks=callbacks, progress=False, device="cpu")


def _weights(learner):
    return [value.clone() for value in learner.model.state_dict().values()]


def test_a_batch_that_is_kept_never_changes():
    """Memory is used again only when nobody holds it."""
    keep = _Keep()
    _learner([keep]).fit(4, lr=0.01)

    assert len(keep.kept) == 20
    assert all(torch.equal(kept, copy) for kept, copy in zip(keep.kept, keep.copies, strict=True))


def test_a_fit_uses_the_memory_of_its_batches_again():
    places = set()

    class Look(Callback):
        def after_step(self, learner, batch, output):
            places.add(batch.inputs.data_ptr())

    _learner([Look()], drop_last=True).fit(4, lr=0.01)

    assert len(places) <= 4


def test_equal_seeds_give_equal_weights():
    first, second, third = _learner(), _learner(), _learner(seed=4)
    histories = [learner.fit(3, lr=0.01) for learner in (first, second, third)]

    assert _equal(_weights(first), _weights(second))
    assert histories[0]["valid_loss"] == histories[1]["valid_loss"]
    assert histories[0]["valid_loss"][-1] < histories[0]["valid_loss"][0]
    assert not _equal(_weights(first), _weights(third))


@pytest.mark.parametrize("num_epochs", [1, 2])
def test_going_on_from_a_snapshot_equals_never_having_stopped(num_epochs):
    whole = _learner([_SnapshotAt(num_epochs)])
    history = whole.fit(3, lr=0.01)
    taken, resumed = whole.callbacks[0].taken, _learner([_SnapshotAt(num_epochs)])
    steps = []
    resumed.step = lambda learner, batch: steps.append(batch) or supervised_step(learner, batch)
    again = resumed.fit(3, lr=0.01, resume=taken, change=["step"])

    assert len(steps) == (3 - num_epochs) * 7
    assert _equal(_weights(whole), _weights(resumed))
    assert again["valid_loss"] == history["valid_loss"]
