"""Randomness as a function of its key."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude import random
from reference import textbook

LAW = settings(max_examples=50, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**63 - 1)


@LAW
@given(seed=SEEDS, counters=st.lists(st.integers(0, 10**6), max_size=3))
def test_a_key_is_a_63_bit_function_of_its_arguments(seed, counters):
    value = random.key(seed, "purpose", *counters)

    assert value == random.key(seed, "purpose", *counters)
    assert 0 <= value < 2**63


def test_a_key_is_the_same_in_every_process_and_on_every_machine():
    """The number itself: a change would change every order, split and augmentation ever drawn."""
    assert random.key(42, "order", 0) == 5807841735191177143


def test_keys_differ_in_every_argument():
    arguments = [(1, "a"), (2, "a"), (1, "b"), (1, "a", 0), (1, "a", 1), (1, "a", 0, 0), (11, "a"), (1, "a", 1, 1)]

    assert len({random.key(*each) for each in arguments}) == len(arguments)


def test_a_generator_starts_anew_each_time():
    first, second = (torch.rand(4, generator=random.generator(1, "mixup", 7)) for _ in range(2))
    other = torch.rand(4, generator=random.generator(1, "mixup", 8))

    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@LAW
@given(seed=SEEDS, epoch=st.integers(0, 1000), num_samples=st.integers(1, 200))
def test_an_order_is_a_permutation_and_a_function_of_seed_and_epoch(seed, epoch, num_samples):
    order = random.order(seed, epoch, num_samples)

    assert order.sort().values.tolist() == list(range(num_samples))
    assert torch.equal(order, random.order(seed, epoch, num_samples))


def test_every_epoch_and_every_seed_has_its_own_order():
    orders = [tuple(random.order(seed, epoch, 50).tolist()) for seed in range(5) for epoch in range(5)]

    assert len(set(orders)) == 25


def test_nothing_here_touches_the_global_generator():
    before = torch.get_rng_state()
    random.order(0, 0, 10)
    random.uniform(0, "augment", 0, torch.arange(10), 2)

    assert torch.equal(torch.get_rng_state(), before)


# -- uniform numbers for each sample ----------------------------------------------------------------------------------


@LAW
@given(seed=SEEDS, epoch=st.integers(0, 1000), index=st.integers(0, 2**40), num=st.integers(1, 4))
def test_uniform_is_splitmix64_at_the_position_of_the_sample(seed, epoch, index, num):
    ours = random.uniform(seed, "augment", epoch, torch.tensor([index]), num)[0].tolist()
    start = random.key(seed, "augment", epoch)

    # the 24 highest bits of each 64-bit word
    assert ours == [(textbook.splitmix64(start, index * num + i) >> 40) / 2**24 for i in range(num)]


@LAW
@given(data=st.data(), num_samples=st.integers(1, 60), batch_size=st.integers(1, 17))
def test_uniform_does_not_depend_on_order_or_batches(data, num_samples, batch_size):
    whole = random.uniform(3, "augment", 1, torch.arange(num_samples), 3)
    order = torch.tensor(data.draw(st.permutations(range(num_samples))))
    parts = [random.uniform(3, "augment", 1, rows, 3) for rows in order.split(batch_size)]

    assert torch.equal(torch.cat(parts), whole[order])


def test_uniform_numbers_lie_in_their_range_and_are_evenly_spread():
    numbers = random.uniform(0, "augment", 0, torch.arange(100_000), 2).double()
    expected = len(numbers) / 100

    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert numbers.mean(0).sub(0.5).abs().max() < 4 * (1 / 12 / len(numbers)) ** 0.5
    for column in numbers.T:
        counts = torch.histc(column, bins=100, min=0, max=1)
        # chi-square with 99 degrees of freedom: mean 99, deviation 14
        assert 50 < ((counts - expected) ** 2 / expected).sum() < 160


@pytest.mark.parametrize(
    "other",
    [("augment", 0, 1), ("augment", 1, 0), ("mixup", 0, 0)],
    ids=["another seed", "another epoch", "another purpose"],
)
def test_uniform_numbers_of_another_key_are_unrelated(other):
    purpose, epoch, seed = other
    index = torch.arange(20_000)
    these = random.uniform(0, "augment", 0, index, 1)[:, 0]
    those = random.uniform(seed, purpose, epoch, index, 1)[:, 0]

    assert torch.corrcoef(torch.stack([these, those]))[0, 1].abs() < 0.03
    assert (these == those).float().mean() < 0.001


def test_uniform_numbers_of_neighbouring_samples_and_columns_are_unrelated():
    numbers = random.uniform(5, "augment", 2, torch.arange(20_000), 2)
    columns, neighbours = numbers.T, torch.stack([numbers[:-1, 0], numbers[1:, 0]])

    assert torch.corrcoef(columns)[0, 1].abs() < 0.03
    assert torch.corrcoef(neighbours)[0, 1].abs() < 0.03
