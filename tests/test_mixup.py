"""MixUp: what it mixes, that it repeats, that validation never sees it, and that it leaves nothing behind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from typing_extensions import override

from etude import ArrayLoader, Batch, Callback, ConfigError, DataLoaders, Learner, MixedTargets, MixUp
from etude.training.transfer import HoldNorms
from reference import textbook

LAW = settings(max_examples=40, deadline=None, derandomize=True)


def _learner(*callbacks, model=None, loss_fn=None, batch_size=16, inputs=None):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(48, 4, generator=generator) if inputs is None else inputs
    targets = torch.randint(3, (len(inputs),), generator=generator)
    torch.manual_seed(0)
    return Learner(
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) if model is None else model(),
        DataLoaders(
            ArrayLoader(inputs, targets, batch_size=batch_size, shuffle=True, seed=3),
            ArrayLoader(inputs, targets, batch_size=batch_size),
            seed=3,
        ),
        loss_fn or nn.CrossEntropyLoss(),
        torch.optim.SGD,
        callbacks=callbacks,
        progress=False,
        device="cpu",
    )


def _mixed(inputs, mixup=None, *, at_batch=0, num=None):
    """The mixed batch. Targets are the samples' numbers, so that the second label names the partner."""
    learner = _learner()
    learner.progress.batch = at_batch
    size = num or len(inputs)
    return (mixup or MixUp(0.4)).transform_batch(Batch(inputs, torch.arange(size)), learner)


# -- what is mixed ----------------------------------------------------------------------------------------------------


@LAW
@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=5), at_batch=st.integers(0, 1000))
def test_inputs_of_any_rank_are_weighted_means_of_each_sample_and_its_partner(shape, at_batch):
    """M8, with batches of one among the shapes."""
    x = torch.randn(shape)
    batch = _mixed(x, at_batch=at_batch)
    targets = batch.targets

    expected, _ = textbook.mixup(x, x, targets.second, targets.weight)
    torch.testing.assert_close(batch.inputs.double(), expected, atol=1e-6, rtol=1e-6)
    assert targets.first.tolist() == list(range(shape[0]))
    assert sorted(targets.second.tolist()) == list(range(shape[0]))


def test_stored_pixels_are_mixed_as_floating_point_numbers():
    pixels = torch.randint(256, (8, 3, 4, 4), dtype=torch.uint8)
    batch = _mixed(pixels)

    expected, _ = textbook.mixup(pixels, pixels, batch.targets.second, batch.targets.weight)
    torch.testing.assert_close(batch.inputs.double(), expected, atol=1e-4, rtol=1e-6)
    assert batch.inputs.dtype == torch.float32


@LAW
@given(batch=st.integers(1, 12), classes=st.integers(1, 6), at_batch=st.integers(0, 100))
def test_mixed_one_hot_targets_sum_to_one(batch, classes, at_batch):
    labels = torch.arange(batch) % classes
    targets = _mixed(torch.zeros(batch, 1), at_batch=at_batch).targets
    _, mixed = textbook.mixup(labels, textbook.one_hot(labels, classes), targets.second, targets.weight)

    torch.testing.assert_close(mixed.sum(1), torch.ones(batch, dtype=torch.float64))
    assert mixed.min() >= 0


def test_every_part_of_an_input_is_mixed_alike():
    x, y = torch.randn(6, 3), torch.randn(6, 2, 2)
    alone = _mixed(x).inputs
    pair, named = _mixed((x, y), num=6).inputs, _mixed({"x": x, "y": y}, num=6).inputs

    assert torch.equal(pair[0], alone)
    assert torch.equal(named["x"], alone)
    assert torch.equal(pair[1], _mixed(y).inputs)
    assert torch.equal(named["y"], pair[1])


def test_weight_and_index_of_each_sample_stay_with_it():
    batch = Batch(torch.randn(4, 2), torch.arange(4), torch.rand(4), torch.tensor([7, 5, 3, 1]))
    mixed = MixUp().transform_batch(batch, _learner())

    assert mixed.weight is batch.weight
    assert mixed.indices is batch.indices


def test_a_vanishing_alpha_mixes_nothing():
    x = torch.randn(64, 3)
    batch = _mixed(x, MixUp(1e-6))

    assert torch.equal(batch.inputs, x)
    assert (batch.targets.weight == 1).all()


# -- repeatable -------------------------------------------------------------------------------------------------------


def test_pairs_and_weights_are_a_function_of_seed_and_batch_number():
    x = torch.randn(16, 4)
    torch.manual_seed(1)
    first = _mixed(x, at_batch=5)
    torch.manual_seed(2)
    again = _mixed(x, at_batch=5)

    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets.weight, again.targets.weight)
    for other in (_mixed(x, at_batch=6), _mixed(x, MixUp(0.4, seed=99), at_batch=5)):
        assert not torch.equal(first.targets.weight, other.targets.weight)
        assert not torch.equal(first.targets.second, other.targets.second)


def test_its_own_seed_replaces_the_learners():
    x = torch.randn(16, 4)

    assert torch.equal(_mixed(x, MixUp(0.4, seed=3)).inputs, _mixed(x).inputs)  # the learner's seed is 3


def test_mixing_draws_nothing_from_the_global_generator():
    x, learner = torch.randn(16, 4), _learner()
    before = torch.get_rng_state()
    MixUp().transform_batch(Batch(x, torch.arange(16)), learner)

    assert torch.equal(torch.get_rng_state(), before)


# -- training only ----------------------------------------------------------------------------------------------------


class _Watch(Callback):
    """Keeps the targets of every batch that the model saw."""

    def __init__(self):
        self.train, self.valid = [], []

    @override
    def after_step(self, learner, batch, output):
        self.train.append(batch.targets)

    @override
    def after_eval_batch(self, learner, batch, output):
        self.valid.append(batch.targets)


def test_training_sees_mixed_batches_and_validation_whole_ones():
    watch = _Watch()
    _learner(MixUp(), watch).fit(2, lr=0.1)

    assert [type(targets) for targets in watch.train] == [MixedTargets] * 6
    assert [type(targets) for targets in watch.valid] == [torch.Tensor] * 6


@pytest.mark.parametrize("at", ["input", "1"])
def test_evaluation_is_the_same_with_and_without(at):
    with_it, without = _learner(MixUp(at=at)), _learner()

    assert with_it.evaluate() == without.evaluate()
    with_it.fit(1, lr=0.1)
    without.model.load_state_dict(with_it.model.state_dict())
    assert with_it.history["valid_loss"][-1] == without.evaluate()["loss"]


# -- in a hidden layer ------------------------------------------------------------------------------------------------


def _with_identity():
    return nn.Sequential(nn.Identity(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def test_mixing_behind_an_identity_equals_mixing_the_input():
    """Same partners, same weights, same loss: bit for bit the same training."""
    hidden, at_input = _learner(MixUp(at="0"), model=_with_identity), _learner(MixUp(), model=_with_identity)
    plain = _learner(model=_with_identity)
    rows = [learner.fit(2, lr=0.5)["train_loss"] for learner in (hidden, at_input, plain)]

    assert rows[0] == rows[1] != rows[2]
    assert torch.equal(hidden.model[3].weight, at_input.model[3].weight)


def test_tokens_are_mixed_behind_their_embedding():
    tokens = torch.randint(9, (48, 4))

    def model():
        return nn.Sequential(nn.Embedding(9, 2), nn.Flatten(), nn.Linear(8, 3))

    assert _learner(MixUp(at="0"), model=model, inputs=tokens).fit(1, lr=0.1).stopped == ""
    with pytest.raises(ConfigError, match=r"int64 are numbers of things, which cannot be averaged.*MixUp\(at="):
        _learner(MixUp(), model=model, inputs=tokens).fit(1, lr=0.1)


def test_a_norm_that_is_held_in_evaluation_mode_still_mixes_in_training():
    """A frozen norm's own mode says nothing about whether the model trains."""
    seen = []

    def model():
        norm = nn.BatchNorm1d(4)
        head = nn.Linear(4, 3)
        head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
        return nn.Sequential(norm, head)

    _learner(MixUp(at="0"), HoldNorms(["0"]), model=model).fit(1, lr=0.1)
    mixed = seen[0]
    seen.clear()
    _learner(HoldNorms(["0"]), model=model).fit(1, lr=0.1)

    assert not torch.equal(mixed, seen[0])


@pytest.mark.parametrize("name", ["encoder", "", "0.weight"])
def test_a_name_that_is_no_module_is_refused_with_the_known_ones(name):
    learner = _learner(MixUp(at=name))

    with pytest.raises(ConfigError, match=rf"no module '{name}' to mix at; it has \['0', '1', '2'\]"):
        learner.fit(1, lr=0.1)


def test_a_module_that_the_model_does_not_call_is_refused():
    """Not trained on mixed labels of whole pictures."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ConfigError):
        _learner(MixUp(at="unused"), model=Two).fit(1, lr=0.1)


def test_what_cannot_be_mixed_is_explained():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.head = Pair(), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.pair(x)[0])

    with pytest.raises(ConfigError, match="returns tuple"):
        _learner(MixUp(at="pair"), model=Model).fit(1, lr=0.1)


# -- nothing is left behind -------------------------------------------------------------------------------------------


class _Planted(Exception):
    pass


class _FailingLoss(nn.CrossEntropyLoss):
    """A loss that fails in the second training batch, in the middle of its unreduced call."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, preds, targets):
        self.calls += 1
        if self.calls == 3:
            raise _Planted
        return super().forward(preds, targets)


@pytest.mark.parametrize("at", ["input", "1"])
def test_loss_and_model_are_as_before_after_an_error(at):
    learner = _learner(MixUp(at=at), loss_fn=_FailingLoss())
    with pytest.raises(_Planted):
        learner.fit(1, lr=0.1)

    assert learner.loss_fn.reduction == "mean"
    assert not any(module._forward_hooks for module in learner.model.modules())
    assert learner.fit(1, lr=0.1).stopped == ""


@pytest.mark.parametrize("at", ["input", "1"])
def test_loss_and_model_are_as_before_after_a_fit(at):
    learner = _learner(MixUp(at=at), loss_fn=nn.CrossEntropyLoss(torch.ones(3)))
    learner.fit(1, lr=0.1)

    assert learner.loss_fn.reduction == "mean"
    assert not any(module._forward_hooks for module in learner.model.modules())


@pytest.mark.parametrize("at", ["input", "1"])
def test_batches_of_one_train(at):
    """Error 2."""
    assert len(_learner(MixUp(at=at), batch_size=1).fit(1, lr=0.01)) == 1


def test_its_settings_are_recorded():
    assert MixUp(0.2, at="1", seed=7).config() == {"alpha": 0.2, "at": "1", "seed": 7}
