"""Batches made ahead of time in a thread: the same batches, in their order, and nothing left behind."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import deque

import pytest
import torch

from etude import Batch, Learner
from etude.data.prefetch import prefetched
from etude.data.store import RaggedStore
from etude.vision.pictures import PictureLoader
from etude.vision.windows import RandomResizedCrop

CPU, META = torch.device("cpu"), torch.device("meta")


def _batches(num, fail_at=None, made=None):
    for i in range(num):
        if i == fail_at:
            raise OSError(f"batch {i} cannot be read")
        if made is not None:
            made.append(i)
        yield Batch(torch.full((2,), float(i)), torch.tensor([i, i]), indices=torch.tensor([i, i + 1]))


def _threads():
    return [thread for thread in threading.enumerate() if thread.name == "etude-prefetch"]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    if _threads():
        gc.collect()
    assert not _threads()


@pytest.mark.parametrize("num", [0, 1, 2, 3, 50])
def test_every_batch_comes_once_and_in_its_order(num):
    numbers = [int(batch.targets[0]) for batch in prefetched(_batches(num), CPU)]

    assert numbers == list(range(num))


def test_batches_are_made_ahead_but_not_all_of_them():
    made = []
    batches = prefetched(_batches(50, made=made), CPU)
    next(batches)
    for _ in range(500):
        if len(made) == 4:
            break
        time.sleep(0.01)
    time.sleep(0.15)

    # one in use, two that wait, and one for which there is no room yet
    assert made == [0, 1, 2, 3]
    batches.close()


def test_no_thread_starts_before_the_first_batch_is_asked_for():
    batches = prefetched(_batches(3), CPU)

    assert not _threads()
    assert len(list(batches)) == 3


@pytest.mark.parametrize("fail_at", [0, 1, 5])
def test_an_error_is_raised_at_the_batch_that_it_belongs_to(fail_at):
    batches = prefetched(_batches(8, fail_at), CPU)
    numbers = [int(next(batches).targets[0]) for _ in range(fail_at)]
    with pytest.raises(OSError, match=f"batch {fail_at} cannot be read") as raised:
        next(batches)

    assert numbers == list(range(fail_at))
    assert "_batches" in [frame.name for frame in raised.traceback]


@pytest.mark.parametrize("seen", [1, 3])
def test_a_reader_that_stops_early_ends_the_thread(seen):
    batches = prefetched(_batches(10**9), CPU)
    for _ in range(seen):
        next(batches)
    assert len(_threads()) == 1
    batches.close()

    assert not _threads()


def test_a_reader_that_is_forgotten_ends_the_thread():
    batches = prefetched(_batches(10**9), CPU)
    next(batches)
    del batches
    gc.collect()

    assert not _threads()


def test_an_error_of_the_reader_ends_the_thread():
    def read():
        for _ in prefetched(_batches(10**9), CPU):
            raise ValueError("the model failed")

    with pytest.raises(ValueError, match="the model failed"):
        read()
    gc.collect()

    assert not _threads()


@pytest.mark.parametrize("stop", ["end", "early"])
def test_no_batch_is_kept_alive(stop):
    kept = []

    def batches():
        for batch in _batches(6):
            kept.append(weakref.ref(batch.inputs))
            yield batch

    ahead = prefetched(batches(), CPU)
    if stop == "end":
        deque(ahead, maxlen=0)
    else:
        next(ahead)
        ahead.close()
    del ahead
    gc.collect()

    assert kept
    assert [ref() for ref in kept] == [None] * len(kept)


def test_every_tensor_moves_to_the_device():
    batch = Batch({"a": torch.zeros(2)}, (torch.zeros(2), torch.ones(2)), torch.ones(2), torch.arange(2))
    (moved,) = prefetched(iter([batch]), META)

    assert isinstance(moved, Batch)
    tensors = [moved.inputs["a"], *moved.targets, moved.weight, moved.indices]
    assert {tensor.device for tensor in tensors} == {META}


# -- pictures ---------------------------------------------------------------------------------------------------------


def _loader(num=23, **options):
    shapes = torch.tensor([[10 + i % 5, 14 - i % 4, 3] for i in range(num)])
    ends = shapes.prod(1).cumsum(0)
    values = torch.randint(256, (int(ends[-1]),), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    store = RaggedStore(values, ends - shapes.prod(1), shapes, tuple(map(str, range(num))))
    options = {"size": 8, "windows": RandomResizedCrop(), "batch_size": 4, "shuffle": True, "seed": 2, **options}
    return PictureLoader(store, torch.arange(num), torch.arange(num) % 3, **options)


def test_pictures_that_are_made_ahead_are_the_same_pictures(monkeypatch):
    expected = list(_loader().batches(3, CPU))
    monkeypatch.setattr(RaggedStore, "fits", lambda self, device: False)
    batches = _loader().batches(3, CPU)
    first = next(batches)
    assert len(_threads()) == 1
    ahead = [first, *batches]

    assert len(ahead) == len(expected) == 6
    for a, b in zip(ahead, expected, strict=True):
        assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("inputs", "targets", "indices"))


def test_a_device_that_holds_no_store_is_given_finished_batches():
    batches = list(_loader().batches(0, META))

    assert {batch.inputs.device for batch in batches} == {batch.targets.device for batch in batches} == {META}
    assert [tuple(batch.inputs.shape) for batch in batches] == [(4, 3, 8, 8)] * 5 + [(3, 3, 8, 8)]


def test_a_fit_on_pictures_made_ahead_gives_the_same_weights(monkeypatch):
    def weights():
        torch.manual_seed(3)
        model = torch.nn.Sequential(_Scaled(), torch.nn.Flatten(), torch.nn.Linear(192, 3))
        loss_fn, optimizer = torch.nn.CrossEntropyLoss(), torch.optim.SGD
        Learner(model, _loader(), loss_fn, optimizer, progress=False, device="cpu").fit(2, lr=0.1)
        return model[2].weight

    expected = weights()
    monkeypatch.setattr(RaggedStore, "fits", lambda self, device: False)

    assert torch.equal(weights(), expected)


class _Scaled(torch.nn.Module):
    def forward(self, pixels):
        return pixels.float() / 255
