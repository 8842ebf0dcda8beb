"""A trial trains a copy: nothing of the learner, of the random generators or of the data is touched."""

from __future__ import annotations

import random as python_random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from etude import ClipGradNorm, Learner, MixUp, Record, random
from etude.errors import ConfigError
from etude.training.trial import trial


def _learner(optimizer=torch.optim.AdamW) -> Learner:
    torch.manual_seed(3)
    inputs = torch.randn(48, 4)
    dataset = TensorDataset(inputs, inputs[:, :3].argmax(1))
    loader = DataLoader(dataset, 16, shuffle=True, generator=torch.Generator().manual_seed(5))
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    made = optimizer if isinstance(optimizer, type) else optimizer(model)
    return Learner(
        model,
        (loader, loader),
        nn.CrossEntropyLoss(),
        made,
        callbacks=[MixUp(0.4), ClipGradNorm(1.0), Record()],
        device="cpu",
        progress=False,
    )


def _rest(learner) -> list[object]:
    """What a fit reads, as comparable values."""
    optimizer = learner.optimizer.state_dict() if learner.optimizer else {}
    tensors = [tensor.tolist() for tensor in learner.model.state_dict().values()]
    numpy = np.random.get_state()
    generators = torch.get_rng_state().tolist(), python_random.getstate(), numpy[1].tolist(), numpy[2]
    loader = learner.data.train.iterable.generator.get_state().tolist()
    history = [{name: value for name, value in row.items() if name != "seconds"} for row in learner.history]
    return [tensors, repr(optimizer), *generators, loader, repr(learner.progress), history]


@pytest.mark.usefixtures("without_type_checks")  # the checker draws from Python's generator
@pytest.mark.parametrize("fits", [0, 1])
@pytest.mark.parametrize(
    "optimizer", [torch.optim.AdamW, lambda model: torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)]
)
def test_a_trial_leaves_everything_as_it_was_and_the_next_fit_the_same(optimizer, fits):
    tried, plain = _learner(optimizer), _learner(optimizer)
    for learner in (tried, plain):
        torch.manual_seed(1)
        for _ in range(fits):
            learner.fit(1, lr=0.1)
    before = _rest(tried)
    record = len(tried.callbacks[2].lrs)
    with trial(tried) as copy:
        copy.fit(2, lr=0.5)
        python_random.random()
        np.random.rand(3)
        torch.rand(3)

    assert _rest(tried) == before
    assert len(tried.callbacks[2].lrs) == record
    torch.manual_seed(2)
    tried.fit(1, lr=0.1)
    torch.manual_seed(2)
    plain.fit(1, lr=0.1)
    assert _rest(tried) == _rest(plain)


def test_a_trial_begins_where_the_learner_is():
    learner = _learner()
    learner.fit(2, lr=0.1)
    with trial(learner) as copy:
        first = copy.fit(1, lr=0.1)
    again = learner.fit(1, lr=0.1)

    assert [row["train_loss"] for row in first] == [row["train_loss"] for row in again]
    assert [type(callback).__name__ for callback in copy.callbacks] == ["MixUp", "ClipGradNorm"]


@pytest.mark.usefixtures("without_type_checks")
def test_the_global_generators_go_on_after_their_state_is_put_back():
    state = random.global_state()
    drawn = [torch.rand(2).tolist(), python_random.gauss(0, 1), np.random.randn()]
    random.set_global_state(state)

    assert [torch.rand(2).tolist(), python_random.gauss(0, 1), np.random.randn()] == drawn


def test_a_model_that_cannot_be_copied_is_refused_with_its_name():
    learner = _learner()
    learner.model.odd = (i for i in range(3))

    with pytest.raises(ConfigError, match="Sequential cannot be copied"), trial(learner):
        pass


def test_workers_that_a_loader_keeps_are_not_left_behind():
    learner = _learner()
    options = {"shuffle": True, "num_workers": 1, "persistent_workers": True}
    inputs = torch.randn(8, 4)
    loader = DataLoader(TensorDataset(inputs, inputs[:, 0]), 4, **options)
    learner.data.train.iterable = loader
    with trial(learner) as copy:
        next(copy.data.train.batches(0, torch.device("cpu")))
        assert loader._iterator is not None

    assert loader._iterator is None
