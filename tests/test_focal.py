"""Focal loss and binary cross entropy: the paper's formula in float64, torch's own at gamma 0, and extreme scores."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from etude import ConfigError, MixedTargets, losses
from etude.losses import BinaryCrossEntropy, FocalLoss
from etude.training.predict import probabilities_of

REDUCTIONS = ("mean", "sum", "none")
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 0.25, 3.0])


def scores(batch=12, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(batch, classes, generator=generator), torch.randint(classes, (batch,), generator=generator)


def answers(seed=1):
    preds, _ = scores(seed=seed)
    return preds, (torch.rand(preds.shape, generator=torch.Generator().manual_seed(seed)) < 0.4).float()


def by_the_paper(row, target, gamma, weight=None, smoothing=0.0):
    """Equation 5 of one sample in Python's floats, for a target spread over the classes."""
    total = sum(math.exp(score) for score in row)
    loss = 0.0
    for i, score in enumerate(row):
        p = math.exp(score) / total
        share = (1 - smoothing) * (i == target) + smoothing / len(row)
        loss -= share * (1.0 if weight is None else weight[i]) * (1 - p) ** gamma * math.log(p)
    return loss


def answer_by_the_paper(score, target, gamma, no=1.0, yes=1.0):
    """The same of one yes-or-no answer, whose target may be a share."""
    p = 1 / (1 + math.exp(-score))
    return -yes * target * (1 - p) ** gamma * math.log(p) - no * (1 - target) * p**gamma * math.log(1 - p)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
def test_the_focal_loss_is_the_papers(gamma, smoothing, weight):
    preds, targets = scores()
    found = FocalLoss(gamma, weight, smoothing, reduction="none")(preds.double(), targets)

    weights = None if weight is None else weight.tolist()
    rows = zip(preds.double().tolist(), targets.tolist(), strict=True)
    expected = [by_the_paper(row, target, gamma, weights, smoothing) for row, target in rows]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_binary_focal_loss_is_the_papers(gamma, smoothing):
    preds, targets = answers()
    weight = torch.stack([WEIGHT, WEIGHT.flip(0)])
    loss_fn = FocalLoss(gamma, weight, smoothing, binary=True, reduction="none")
    found = loss_fn(preds.double(), targets.double())

    for i in range(len(preds)):
        for j in range(5):
            share = float(targets[i, j]) * (1 - smoothing) + smoothing / 2
            expected = answer_by_the_paper(float(preds[i, j]), share, gamma, float(weight[0, j]), float(weight[1, j]))
            assert float(found[i, j]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
def test_a_gamma_of_0_is_cross_entropy(reduction, smoothing, weight):
    preds, targets = scores()
    preds = preds[..., None].repeat(1, 1, 3)
    targets = torch.stack([targets, targets.flip(0), targets], 1)
    found = FocalLoss(0.0, weight, smoothing, reduction=reduction)(preds, targets)

    expected = F.cross_entropy(preds, targets, weight, label_smoothing=smoothing, reduction=reduction)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_binary_gamma_of_0_is_torchs_binary_cross_entropy(reduction):
    preds, targets = answers()
    weight = torch.stack([torch.ones(5), WEIGHT])
    expected = F.binary_cross_entropy_with_logits(preds, targets, pos_weight=WEIGHT, reduction=reduction)

    for loss_fn in (
        FocalLoss(0.0, weight, binary=True, reduction=reduction),
        BinaryCrossEntropy(class_weight=weight, reduction=reduction),
    ):
        torch.testing.assert_close(loss_fn(preds, targets), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_answers_are_a_binary_cross_entropy_against_softened_targets(smoothing):
    preds, targets = answers()
    preds, targets = preds.double(), targets.double()
    soft = targets * (1 - smoothing) + smoothing / 2

    expected = -(soft * preds.sigmoid().log() + (1 - soft) * (1 - preds.sigmoid()).log()).mean()
    torch.testing.assert_close(BinaryCrossEntropy(smoothing)(preds, targets), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("size", [30.0, 1e4, 1e30])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_scores_however_large_give_finite_losses_and_gradients(gamma, size, smoothing):
    preds = (size * torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.5], [0.0, 0.0, 0.0]])).requires_grad_()
    for loss, targets in (
        (FocalLoss(gamma, label_smoothing=smoothing), torch.tensor([0, 0, 2])),
        (FocalLoss(gamma, label_smoothing=smoothing, binary=True), torch.tensor([[1.0, 0, 0], [1, 0, 1], [0, 1, 0]])),
    ):
        value = loss(preds, targets)
        (gradient,) = torch.autograd.grad(value, preds)

        assert value.isfinite()
        assert gradient.isfinite().all()


def test_the_gradient_is_that_of_the_formula():
    preds, targets = scores(4, 3)
    for loss_fn, aim in (
        (FocalLoss(0.5, torch.tensor([1.0, 2, 3]), 0.1), targets),
        (FocalLoss(1.5, binary=True), torch.eye(3)[targets].double()),
    ):
        assert torch.autograd.gradcheck(lambda x: loss_fn(x, aim), preds.double().requires_grad_())  # noqa: B023


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
def test_mixed_classes_have_the_weighted_mean_of_both_losses(weight):
    preds, targets = scores()
    mixed = MixedTargets(targets, targets.flip(0), torch.linspace(0.5, 1, 12))
    loss_fn = FocalLoss(2.0, weight, 0.1)
    found = losses.apply(loss_fn, preds, mixed)

    each = FocalLoss(2.0, weight, 0.1, reduction="none")
    expected = mixed.weight * each(preds, targets) + (1 - mixed.weight) * each(preds, targets.flip(0))
    of_class = torch.ones(len(WEIGHT)) if weight is None else weight
    counts = mixed.weight * of_class[targets] + (1 - mixed.weight) * of_class[targets.flip(0)]
    torch.testing.assert_close(found, expected.sum() / counts.sum())
    assert loss_fn.reduction == "mean"


@pytest.mark.parametrize("loss_fn", [BinaryCrossEntropy(0.1), FocalLoss(2.0, binary=True)], ids=["plain", "focal"])
def test_mixed_answers_are_soft_answers(loss_fn):
    preds, targets = answers()
    share = torch.linspace(0.5, 1, 12)
    mixed = losses.apply(loss_fn, preds, MixedTargets(targets, targets.flip(0), share))

    soft = share[:, None] * targets + (1 - share[:, None]) * targets.flip(0)
    torch.testing.assert_close(mixed, loss_fn(preds, soft))


def test_sample_weights_count_as_repeated_samples():
    preds, targets = scores()
    counts = torch.tensor([1, 2, 3] * 4)
    for weight in (None, WEIGHT):
        loss_fn = FocalLoss(2.0, weight)
        repeated = loss_fn(preds.repeat_interleave(counts, 0), targets.repeat_interleave(counts))

        torch.testing.assert_close(losses.apply(loss_fn, preds, targets, counts.float()), repeated)


def test_what_a_loss_does_not_take_is_refused():
    preds, targets = scores()
    with pytest.raises(ConfigError, match="gamma must be a finite number of at least 0"):
        FocalLoss(-1)
    with pytest.raises(ConfigError, match=r"smoothing must be in \[0, 1\), got 1"):
        BinaryCrossEntropy(1.0)
    with pytest.raises(ConfigError, match=r"class_weight must be \(2, classes\).*got \(5,\)"):
        FocalLoss(binary=True, class_weight=WEIGHT)
    with pytest.raises(ConfigError, match=r"class_weight must be \(classes,\), none below 0"):
        FocalLoss(class_weight=-WEIGHT)
    with pytest.raises(ConfigError, match=r"takes class numbers, got targets of torch\.float32"):
        FocalLoss()(preds, torch.eye(5)[targets])
    with pytest.raises(ConfigError, match=r"takes 0 and 1 for each class, got targets of torch\.int64"):
        FocalLoss(binary=True)(preds, targets)


def test_the_kind_of_loss_tells_how_scores_become_probabilities():
    assert [probabilities_of(FocalLoss()), probabilities_of(FocalLoss(binary=True))] == ["softmax", "sigmoid"]
    assert [probabilities_of(BinaryCrossEntropy()), probabilities_of(nn.MSELoss())] == ["sigmoid", None]
