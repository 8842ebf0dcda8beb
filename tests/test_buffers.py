"""Memory of batches is taken again when nobody holds it, and never before."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.data import buffers
from etude.data.buffers import Recycler

LAW = settings(max_examples=60, deadline=None, derandomize=True)


def test_memory_that_nobody_holds_is_taken_again():
    memory = Recycler()
    first = memory.empty((4, 5), torch.float32)
    place = first.data_ptr()
    del first
    again = memory.empty((4, 5), torch.float32)

    assert again.data_ptr() == place
    assert (again.shape, again.dtype, again.is_contiguous()) == ((4, 5), torch.float32, True)


def test_another_shape_and_type_of_the_same_size_takes_it_too():
    memory = Recycler()
    place = memory.empty((4, 5), torch.float32).data_ptr()
    other = memory.empty((2, 40), torch.uint8)

    assert other.data_ptr() == place
    assert (other.shape, other.dtype, other.is_contiguous()) == ((2, 40), torch.uint8, True)


class _Keep(torch.autograd.Function):
    """Holds a tensor in the graph alone."""

    @staticmethod
    def forward(ctx, weight, values):
        ctx.save_for_backward(values)
        return weight.sum()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None


def _in_a_graph(tensor):
    weight = torch.ones_like(tensor).requires_grad_()
    return _Keep.apply(weight, tensor), weight


HOLD = {
    "tensor": lambda tensor: tensor,
    "view": lambda tensor: tensor[2:, 1],
    "reshaped": lambda tensor: tensor.permute(1, 0).unsqueeze(0),
    "detached": lambda tensor: tensor.detach(),
    "array": lambda tensor: tensor.numpy(),
    "slice of an array": lambda tensor: tensor.numpy()[1:],
    "dlpack": lambda tensor: torch.utils.dlpack.to_dlpack(tensor),
    "graph": _in_a_graph,
}


@pytest.mark.parametrize("hold", HOLD.values(), ids=HOLD)
def test_memory_that_somebody_holds_is_left_alone(hold):
    memory = Recycler()
    first = memory.empty((4, 5), torch.float32).fill_(7)
    place, kept = first.data_ptr(), hold(first)
    del first
    gc.collect()
    later = [memory.empty((4, 5), torch.float32).fill_(i) for i in range(8)]

    assert place not in {tensor.data_ptr() for tensor in later}
    if isinstance(kept, torch.Tensor):
        assert (kept == 7).all()


def test_a_gradient_is_right_after_the_memory_was_asked_for_again():
    memory = Recycler()
    loss, weight = _in_a_graph(memory.empty((4, 5), torch.float32).fill_(7))
    for i in range(8):
        memory.empty((4, 5), torch.float32).fill_(i)
    loss.backward()

    assert (weight.grad == 7).all()


@LAW
@given(steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.booleans()), max_size=40))
def test_no_two_tensors_that_are_alive_share_memory(steps):
    """Any order of asking, keeping and letting go."""
    memory, kept = Recycler(3), {}
    for number, (size, slot, keep) in enumerate(steps):
        tensor = memory.empty((size + 1, 8), torch.int64).fill_(number)
        if keep:
            kept[slot] = (tensor, number)
        else:
            kept.pop(slot, None)
        assert all((held == value).all() for held, value in kept.values())


def test_without_torchs_private_count_memory_is_taken_anew(monkeypatch):
    monkeypatch.setattr(buffers, "_count", None)
    memory = Recycler()
    kept = [memory.empty((4, 5), torch.float32).fill_(i) for i in range(3)]

    assert [tensor[0, 0].item() for tensor in kept] == [0, 1, 2]
    assert memory._kept == []


@pytest.mark.parametrize("most", [0, 1, 4])
def test_only_so_many_blocks_are_kept(most):
    memory = Recycler(most)
    tensors = [memory.empty((4, 5), torch.float32) for _ in range(10)]
    del tensors
    assert len(memory._kept) == most

    for size in range(1, 30):
        memory.empty((size, 7), torch.float32)
    assert len(memory._kept) <= most


def test_a_new_size_drops_what_the_old_one_had_left():
    """A run that grows its pictures does not keep the memory of the small ones."""
    memory = Recycler()
    for size in (8, 16, 32):
        tensors = [memory.empty((size, size), torch.uint8) for _ in range(3)]
        del tensors
    sizes = [storage.nbytes() for storage in memory._kept]

    assert sizes == [32 * 32] * 3


def test_an_empty_batch_has_memory():
    memory = Recycler()

    assert memory.empty((0, 3), torch.uint8).shape == memory.empty((0, 3), torch.uint8).shape == (0, 3)


def test_memory_that_another_process_may_look_at_is_left_alone():
    """A batch put into a queue of torch.multiprocessing is shared, not copied."""
    memory = Recycler()
    first = memory.empty((4, 5), torch.float32).share_memory_()
    place = first.data_ptr()
    del first
    later = memory.empty((4, 5), torch.float32)

    assert later.data_ptr() != place
    assert not later.is_shared()


def test_two_threads_are_never_given_the_same_memory(monkeypatch):
    """As when batches are made ahead while the same loader is asked for one more."""
    memory, given, barrier, count = Recycler(), [], threading.Barrier(3), buffers._count

    def slow_count(storage):
        number = count(storage)
        time.sleep(0.01)
        return number

    def work():
        barrier.wait()
        given.append(memory.empty((8,), torch.int64))

    memory.empty((8,), torch.int64)
    monkeypatch.setattr(buffers, "_count", slow_count)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({tensor.data_ptr() for tensor in given}) == 3


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda memory: pickle.loads(pickle.dumps(memory))], ids=["copy", "pickle"]
)
def test_a_copy_starts_with_no_memory(again):
    memory = Recycler(2)
    memory.empty((1000,), torch.uint8)
    other = again(memory)
    tensors = [other.empty((1000,), torch.uint8) for _ in range(5)]

    assert len(tensors) == 5
    assert len(other._kept) == 2
    assert len(pickle.dumps(memory)) < 500
