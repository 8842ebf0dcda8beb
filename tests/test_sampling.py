"""How a data set is dealt into batches, over any number of ranks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude import ConfigError, DataError
from etude.data.sampling import Sampling

LAW = settings(max_examples=150, deadline=None, derandomize=True)
ANY = {
    "num_samples": st.integers(1, 60),
    "batch_size": st.integers(1, 9),
    "world_size": st.integers(1, 6),
    "drop_last": st.booleans(),
    "epoch": st.integers(0, 3),
}


def _ranks(epoch=0, **options):
    """Each rank's batches, as lists of rows."""
    samplings = [Sampling(**options, rank=rank) for rank in range(options["world_size"])]
    batches = [[rows.tolist() for rows in sampling.batches(epoch)] for sampling in samplings]
    # also in the modes that a test does not ask about
    assert [len(sampling) for sampling in samplings] == [len(rank) for rank in batches]
    return batches


def _alone(epoch=0, **options):
    """The steps of one rank with a batch as large as those of all ranks together."""
    options["batch_size"] *= options.pop("world_size")
    return [rows.tolist() for rows in Sampling(**options).batches(epoch)]


def _flat(batches):
    return [row for batch in batches for row in batch]


@LAW
@given(**ANY)
def test_without_shuffling_every_sample_is_seen_once(num_samples, batch_size, world_size, drop_last, epoch):
    """Not once more to fill up the last step, which would count it twice in a metric."""
    options = {"num_samples": num_samples, "batch_size": batch_size, "world_size": world_size, "drop_last": drop_last}
    ranks = _ranks(epoch, **options)
    step = batch_size * world_size
    whole = num_samples // step * step

    assert sorted(_flat(_flat(ranks))) == list(range(whole if drop_last and whole else num_samples))
    assert all(1 <= len(batch) <= batch_size for rank in ranks for batch in rank)
    assert max(map(len, ranks)) - min(map(len, ranks)) <= 1


@LAW
@given(**ANY)
def test_ranks_together_take_the_steps_of_one_rank(num_samples, batch_size, world_size, drop_last, epoch):
    options = {"num_samples": num_samples, "batch_size": batch_size, "world_size": world_size, "drop_last": drop_last}
    ranks = _ranks(epoch, shuffle=True, **options)
    steps = list(zip(*ranks, strict=True))
    alone = _alone(epoch, shuffle=True, **options)

    assert len(steps) == len(alone)
    for parts, whole in zip(steps, alone, strict=True):
        together = _flat(parts)
        assert len({len(part) for part in parts}) == 1
        assert together[: len(whole)] == whole
        assert set(together[len(whole) :]) <= set(whole)
        assert len(together) - len(whole) < world_size
    assert {len(parts[0]) for parts in steps[:-1]} <= {batch_size}


@LAW
@given(**ANY, shuffle=st.booleans())
def test_the_last_smaller_step_is_left_out_on_request(num_samples, batch_size, world_size, drop_last, epoch, shuffle):
    options = {"num_samples": num_samples, "batch_size": batch_size, "world_size": world_size, "shuffle": shuffle}
    all_steps, step = _ranks(epoch, **options), batch_size * world_size
    kept = _ranks(epoch, drop_last=True, **options)

    if num_samples < step:
        assert kept == all_steps
    else:
        assert kept == [rank[: num_samples // step] for rank in all_steps]
        assert {len(batch) for rank in kept for batch in rank} == {batch_size}


@pytest.mark.parametrize("num_samples", range(1, 14))
def test_while_shuffling_every_rank_has_as_many_batches_of_one_size(num_samples):
    """A rank that came to its end earlier would leave the others waiting for its gradients."""
    ranks = _ranks(num_samples=num_samples, batch_size=2, world_size=5, shuffle=True)

    assert len({tuple(map(len, rank)) for rank in ranks}) == 1
    assert ranks[0]


def test_a_rank_without_a_share_of_the_last_step_has_a_batch_less():
    """`len` says so too: 2 of 11 samples are left for the last step of three ranks."""
    ranks = _ranks(num_samples=11, batch_size=3, world_size=3)

    assert ranks == [[[0, 3, 6], [9]], [[1, 4, 7], [10]], [[2, 5, 8]]]
    assert _ranks(num_samples=1, batch_size=3, world_size=3) == [[[0]], [], []]


def test_orders_are_a_function_of_seed_and_epoch():
    sampling = Sampling(num_samples=50, batch_size=8, shuffle=True, seed=1)

    def rows(sampling, epoch):
        return torch.cat(sampling.batches(epoch)).tolist()

    torch.manual_seed(5)
    first = rows(sampling, 2)
    torch.manual_seed(6)
    assert rows(replace(sampling), 2) == first
    assert sorted(first) == list(range(50))
    assert len({tuple(rows(replace(sampling, seed=seed), epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert rows(replace(sampling, shuffle=False), 2) == list(range(50))


def test_the_global_generator_is_left_as_it_was():
    before = torch.get_rng_state()
    Sampling(num_samples=50, shuffle=True).batches(1)

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_samples": 0}, DataError, "there are no samples; expected at least one"),
        ({"batch_size": 0}, ConfigError, "batch_size must be at least 1, got 0"),
        ({"batch_size": -3}, ConfigError, "batch_size must be at least 1, got -3"),
        ({"rank": 2, "world_size": 2}, ConfigError, r"rank must be in \[0, 2\) with world_size=2: 2"),
        ({"rank": -1}, ConfigError, r"rank must be in \[0, 1\) with world_size=1: -1"),
        ({"world_size": 0}, ConfigError, r"rank must be in \[0, 0\) with world_size=0"),
    ],
    ids=str,
)
def test_numbers_that_make_no_sense_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Sampling(**{"num_samples": 10, **options})
