"""Mistakes that are easy to make are told at once, with the value and the cure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import etude
from etude import ConfigError, DataError, Learner, MixUp, accuracy, vision

PARTS = {
    "model": nn.Linear(4, 3),
    "data": [(torch.randn(8, 4), torch.randint(3, (8,)))],
    "loss_fn": nn.CrossEntropyLoss(),
    "optimizer": torch.optim.AdamW,
}

pytestmark = pytest.mark.usefixtures("without_type_checks")


def _learner(**changes) -> Learner:
    return Learner(**{**PARTS, **changes}, progress=False, device="cpu")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"callbacks": [MixUp]}, r"found <class .*MixUp'>; make one: MixUp\(...\)"),
        ({"callbacks": ["mixup"]}, "expected a list of callbacks, found 'mixup'"),
        ({"metrics": accuracy}, r"such as \[accuracy\], got <function accuracy"),
        ({"metrics": ["accuracy"]}, "must be a list of functions"),
        ({"optimizer": "adam"}, "such as torch.optim.AdamW or an optimizer, got 'adam'"),
        ({"loss_fn": nn.CrossEntropyLoss}, r"such as nn.CrossEntropyLoss\(\), got <class"),
        ({"accumulate": 1.5}, "accumulate must be a whole number of at least 1, got 1.5"),
        ({"precision": "fp8"}, "got 'fp8'"),
        ({"data": None}, r"NoneType has no len\(\)"),
    ],
)
def test_parts_of_a_learner(changes, words):
    with pytest.raises(ConfigError, match=words):
        _learner(**changes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1.5, 0.1), "whole number of at least 1, got 1.5"),
        (("3", 0.1), "whole number of at least 1, got '3'"),
        ((1, -0.1), "finite number of at least 0, got -0.1"),
        ((1, float("nan")), "finite number of at least 0, got nan"),
        ((1, [0.1, float("inf")]), "got inf"),
        ((1, "0.1"), "got '0.1'"),
    ],
)
def test_arguments_of_a_fit(arguments, words):
    with pytest.raises(ConfigError, match=words):
        _learner().fit(*arguments)


def test_a_model_without_anything_to_train():
    frozen = nn.Linear(4, 3).requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter of Linear is trainable"):
        _learner(model=frozen).fit(1, lr=0.1)


def test_an_update_that_overflows_says_that_the_weights_are_lost():
    model = nn.Linear(4, 3)
    model.weight.register_hook(lambda grad: grad.sign() * 1e3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e38)
    learner = _learner(model=model, optimizer=optimizer, data=PARTS["data"] * 3)
    with pytest.raises(etude.NonFiniteError, match="the weights are lost, go back to saved ones"):
        learner.fit(1)


@pytest.mark.parametrize("shape", [(8, 1), (8,)], ids=["one column", "flat"])
def test_accuracy_of_what_are_no_scores(shape):
    with pytest.raises(ConfigError, match="accuracy compares scores"):
        accuracy(torch.randn(shape), torch.ones(shape))


def test_numpy_batches_are_taken():
    batches = [(np.random.default_rng(0).normal(size=(8, 4)).astype("float32"), np.arange(8) % 3)]

    assert len(_learner(data=batches).fit(2, lr=0.1)) == 2


def test_pictures_that_are_scaled_already_are_not_scaled_again():
    pixels = torch.randint(0, 256, (20, 3, 12, 12), dtype=torch.uint8)
    part = (pixels, torch.arange(20) % 2)
    learner = vision.learner("lesson_cnn", vision.from_arrays(part, part, vocab=["a", "b"]), progress=False)
    with pytest.raises(DataError, match="expected a batch of uint8 pixels"):
        learner.predict(pixels / 255)
    with pytest.raises(DataError, match=r"expected pictures \(batch, 3, height, width\)"):
        learner.predict(pixels[:, :1])


def test_targets_outside_the_vocabulary():
    part = (torch.zeros(6, 1, 8, 8, dtype=torch.uint8), torch.arange(6))
    with pytest.raises(DataError, match="targets hold class 5 but the vocabulary has 2 names"):
        vision.from_arrays(part, None, vocab=["a", "b"])


def test_what_the_user_froze_stays_frozen_in_fine_tuning():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    model[0].bias.requires_grad_(False)
    before = model[0].bias.clone()
    _learner(model=model, groups=list).fine_tune(2, lr=0.1)

    assert torch.equal(model[0].bias, before)
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True]


def test_a_signal_in_the_wrong_place_and_two_at_once():
    def raises(signal):
        def call(*_):
            raise signal("enough")

        return call

    with pytest.raises(ConfigError, match="StopEpoch can be raised in before_step and after_step, not in after_epoch"):
        _learner().fit(1, lr=0.1, callbacks=[etude.Debug("after_epoch", call=raises(etude.StopEpoch))])
    both = [etude.Debug("after_step", call=raises(signal)) for signal in (etude.StopEpoch, etude.StopFit)]

    assert _learner().fit(3, lr=0.1, callbacks=both).stopped == "enough"


def test_a_sparse_gradient_is_checked_like_any_other():
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Flatten(), nn.Linear(6, 2))
    batches = [(torch.randint(5, (8, 2)), torch.randint(2, (8,)))]
    before = model[0].weight.clone()
    _learner(model=model, data=batches, optimizer=torch.optim.SGD).fit(1, lr=0.1)

    assert not torch.equal(model[0].weight, before)
