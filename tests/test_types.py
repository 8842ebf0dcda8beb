"""The values that flow through a step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, default_collate

from etude import Batch, MixedTargets, StepOutput
from etude.types import per_sample_view

LAW = settings(max_examples=30, deadline=None, derandomize=True)


def test_the_dominant_label_has_the_larger_share():
    mixed = MixedTargets(torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6]), torch.tensor([0.9, 0.5, 0.49]))

    assert mixed.dominant.tolist() == [1, 2, 6]


def test_the_dominant_label_of_each_sample_is_taken_whole():
    first, second = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    dominant = MixedTargets(first, second, torch.tensor([0.2, 0.8])).dominant

    assert torch.equal(dominant[0], second[0])
    assert torch.equal(dominant[1], first[1])


@LAW
@given(shape=st.lists(st.integers(1, 3), min_size=1, max_size=5))
def test_per_sample_view_multiplies_each_sample_by_its_own_number(shape):
    like, numbers = torch.randn(shape), torch.randn(shape[0])
    product = per_sample_view(numbers, like) * like

    assert product.shape == like.shape
    assert all(torch.equal(product[i], numbers[i] * like[i]) for i in range(shape[0]))


@pytest.mark.parametrize(
    "inputs",
    [
        torch.zeros(5, 3),
        (torch.zeros(5, 3), torch.zeros(5)),
        {"tokens": torch.zeros(5, 3), "mask": torch.zeros(5, 3)},
        ({"tokens": torch.zeros(5, 3)}, torch.zeros(5)),
    ],
    ids=["tensor", "tuple", "dict", "dict in a tuple"],
)
def test_the_size_of_a_batch_is_its_number_of_samples(inputs):
    assert Batch(inputs, torch.zeros(5)).size == 5


def test_a_batch_needs_inputs_and_targets_only():
    batch = Batch(torch.zeros(2, 3), torch.zeros(2))

    assert batch.weight is None
    assert batch.indices is None


def test_a_step_output_counts_as_not_updated_unless_said():
    assert StepOutput(torch.zeros(()), None, Batch(torch.zeros(1), torch.zeros(1))).updated is False


def _samples(num):
    """Single samples with every field of a batch."""
    return [Batch(torch.full((3,), float(i)), torch.tensor(i), torch.tensor(1.0), torch.tensor(i)) for i in range(num)]


def test_torch_collates_samples_to_a_batch():
    batch = default_collate(_samples(4))

    assert isinstance(batch, Batch)
    assert batch.inputs.shape == (4, 3)
    assert batch.indices.tolist() == [0, 1, 2, 3]


def test_a_torch_loader_yields_batches_of_samples():
    batches = list(DataLoader(_samples(5), batch_size=2))

    assert [batch.size for batch in batches] == [2, 2, 1]
    assert torch.cat([batch.targets for batch in batches]).tolist() == [0, 1, 2, 3, 4]
