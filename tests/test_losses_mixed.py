"""Mixed targets and sample weights: every loss against its explicit one-hot form, sample by sample."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from etude import LabelSmoothingCrossEntropy, losses
from etude.losses import FocalLoss
from etude.types import MixedTargets
from reference import textbook

LAW = settings(max_examples=50, deadline=None, derandomize=True)
REDUCTIONS = ("mean", "sum", "none")
NEAR = {"atol": 1e-6, "rtol": 1e-6}


def _mixed(batch=8, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    preds = 3 * torch.randn(batch, classes, generator=generator)
    first = torch.randint(classes, (batch,), generator=generator)
    partner = torch.randperm(batch, generator=generator)
    weight = 0.5 + 0.5 * torch.rand(batch, generator=generator)
    return preds, MixedTargets(first, first[partner], weight)


def _explicit(preds, mixed, smoothing=0.0):
    """The loss of each sample against the weighted mean of two explicit distributions."""
    classes, weight = preds.shape[1], mixed.weight.double()[:, None]
    first, second = (textbook.smoothed(labels, classes, smoothing) for labels in mixed[:2])
    return textbook.soft_cross_entropy(preds, textbook.lin_comb(first, second, weight))


def _cross_entropy_written_by_a_user(preds, targets, reduction="mean"):
    values = preds.logsumexp(1) - preds.gather(1, targets[:, None])[:, 0]
    return {"mean": values.mean(), "sum": values.sum(), "none": values}[reduction]


CROSS_ENTROPIES = {
    "torch module": (lambda r: nn.CrossEntropyLoss(reduction=r), 0.0),
    "torch module, smoothed": (lambda r: nn.CrossEntropyLoss(label_smoothing=0.1, reduction=r), 0.1),
    "ours, smoothed": (lambda r: LabelSmoothingCrossEntropy(0.1, r), 0.1),
    "ours, other classes only": (lambda r: LabelSmoothingCrossEntropy(0.08, r, exclude_true=True), 0.1),
    "torch function": (lambda r: partial(F.cross_entropy, reduction=r), 0.0),
    "partial": (lambda r: partial(F.cross_entropy, label_smoothing=0.1, reduction=r), 0.1),
    "user's function": (lambda r: partial(_cross_entropy_written_by_a_user, reduction=r), 0.0),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("make", "smoothing"), CROSS_ENTROPIES.values(), ids=CROSS_ENTROPIES)
def test_mixed_cross_entropy_equals_its_one_hot_form(make, smoothing, reduction):
    preds, mixed = _mixed()
    ours = losses.apply(make(reduction), preds, mixed)

    expected = losses.reduce(_explicit(preds, mixed, smoothing), reduction)
    torch.testing.assert_close(ours.double(), expected, **NEAR)


@LAW
@given(batch=st.integers(1, 9), classes=st.integers(2, 12), smoothing=st.floats(0, 0.9), seed=st.integers(0, 1000))
def test_mixed_label_smoothing_equals_its_one_hot_form_for_any_shape(batch, classes, smoothing, seed):
    """Error 2 of the notes is the batch of one: their weights became a scalar and the mixing an IndexError."""
    preds, mixed = _mixed(batch, classes, seed)
    preds, mixed = preds.double(), mixed._replace(weight=mixed.weight.double())
    ours = losses.apply(LabelSmoothingCrossEntropy(smoothing), preds, mixed)

    torch.testing.assert_close(ours, _explicit(preds, mixed, smoothing).mean(), **NEAR)


@pytest.mark.parametrize("loss_fn", [F.cross_entropy, _cross_entropy_written_by_a_user], ids=["torch's", "user's"])
def test_a_plain_function_needs_no_wrapping(loss_fn):
    preds, mixed = _mixed()

    torch.testing.assert_close(losses.apply(loss_fn, preds, mixed).double(), _explicit(preds, mixed).mean(), **NEAR)


def test_the_gradient_of_the_mixed_loss_is_probability_minus_target():
    preds, mixed = _mixed()
    preds = preds.double().requires_grad_()
    losses.apply(nn.CrossEntropyLoss(), preds, mixed).backward()

    first, second = (textbook.one_hot(labels, 5) for labels in mixed[:2])
    target = textbook.lin_comb(first, second, mixed.weight.double()[:, None])
    torch.testing.assert_close(preds.grad, (preds.detach().softmax(1) - target) / 8, **NEAR)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_weigh_both_labels_and_divide_the_mean(smoothing, reduction):
    preds, mixed = _mixed()
    of_class = torch.tensor([1.0, 2.0, 0.5, 4.0, 0.0])
    loss_fn = nn.CrossEntropyLoss(of_class, label_smoothing=smoothing, reduction=reduction)
    ours = losses.apply(loss_fn, preds, mixed)

    distributions = [textbook.smoothed(labels, 5, smoothing) * of_class.double() for labels in mixed[:2]]
    parts = [textbook.soft_cross_entropy(preds, distribution) for distribution in distributions]
    each = textbook.lin_comb(*parts, mixed.weight.double())
    counts = textbook.lin_comb(*(of_class[labels].double() for labels in mixed[:2]), mixed.weight.double())
    expected = each.sum() / counts.sum() if reduction == "mean" else losses.reduce(each, reduction)
    torch.testing.assert_close(ours.double(), expected, **NEAR)


OF_CLASS = torch.tensor([1.0, 2.0, 0.5, 4.0, 0.25])
WEIGHTED = {
    "torch module": lambda: nn.CrossEntropyLoss(OF_CLASS),
    "torch module, smoothed": lambda: nn.CrossEntropyLoss(OF_CLASS, label_smoothing=0.1),
    "ignored": lambda: nn.CrossEntropyLoss(OF_CLASS, ignore_index=3),
    "partial": lambda: partial(F.cross_entropy, weight=OF_CLASS, label_smoothing=0.1),
    "likelihood": lambda: nn.NLLLoss(OF_CLASS),
    "focal": lambda: FocalLoss(2.0, OF_CLASS),
    "focal, smoothed": lambda: FocalLoss(2.0, OF_CLASS, 0.1),
}


@pytest.mark.parametrize("make", WEIGHTED.values(), ids=WEIGHTED)
def test_a_share_of_one_is_the_weighted_loss_without_mixing(make):
    preds, mixed = _mixed(batch=16)
    plain, one = losses.apply(make(), preds, mixed.first), torch.ones(16)
    other = MixedTargets(mixed.second, mixed.first.flip(0), mixed.weight)

    torch.testing.assert_close(losses.apply(make(), preds, MixedTargets(mixed.first, mixed.second, one)), plain)
    torch.testing.assert_close(losses.apply(make(), preds, MixedTargets(mixed.first, other, one)), plain)
    torch.testing.assert_close(losses.apply(make(), preds, MixedTargets(other, mixed.first, 0 * one)), plain)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "sample weights"])
@pytest.mark.parametrize("make", WEIGHTED.values(), ids=WEIGHTED)
def test_mixes_of_mixes_are_means_over_all_labels_by_their_class_weights(make, weighted):
    preds, mixed = _mixed(batch=16)
    nested = MixedTargets(mixed, mixed._replace(first=mixed.first.flip(0)), mixed.weight.flip(0))
    weight = torch.linspace(0, 2, 16) if weighted else None
    ours = losses.apply(make(), preds, nested, weight)

    up = counts = torch.zeros(16, dtype=torch.float64)
    for labels, share in zip(nested.labels(), nested.shares(), strict=True):
        with losses.unreduced(make()) as elementwise:
            up = up + share.double() * elementwise(preds, labels).double()
        kept = labels != getattr(make(), "ignore_index", -100)
        counts = counts + share.double() * OF_CLASS.double()[labels] * kept
    by = torch.ones(16) if weight is None else weight
    torch.testing.assert_close(ours.double(), (by * up).sum() / (by * counts).sum(), **NEAR)


@pytest.mark.parametrize("loss_fn", [nn.BCEWithLogitsLoss, nn.MSELoss], ids=["bce", "mse"])
def test_losses_of_real_targets_mix_the_losses_of_both(loss_fn):
    preds, mixed = _mixed()
    first, second = (textbook.one_hot(labels, 5).float() for labels in mixed[:2])
    ours = losses.apply(loss_fn(), preds, MixedTargets(first, second, mixed.weight))

    elementwise = loss_fn(reduction="none")
    parts = [elementwise(preds.double(), targets.double()).mean(1) for targets in (first, second)]
    torch.testing.assert_close(ours.double(), textbook.lin_comb(*parts, mixed.weight.double()).mean(), **NEAR)


def test_binary_cross_entropy_of_mixed_targets_is_that_of_the_mean_target():
    preds, mixed = _mixed()
    first, second = (textbook.one_hot(labels, 5) for labels in mixed[:2])
    ours = losses.apply(nn.BCEWithLogitsLoss(), preds.double(), MixedTargets(first, second, mixed.weight.double()))

    target = textbook.lin_comb(first, second, mixed.weight.double()[:, None])
    torch.testing.assert_close(ours, nn.BCEWithLogitsLoss()(preds.double(), target))


def test_a_loss_per_pixel_is_mixed_by_the_weight_of_its_sample():
    preds, first = torch.randn(4, 3, 5, 6), torch.randint(3, (4, 5, 6))
    mixed = MixedTargets(first, first.flip(0), torch.tensor([0.9, 0.5, 0.7, 1.0]))
    ours = losses.apply(nn.CrossEntropyLoss(), preds, mixed)

    parts = [F.cross_entropy(preds.double(), labels, reduction="none").mean((1, 2)) for labels in mixed[:2]]
    torch.testing.assert_close(ours.double(), textbook.lin_comb(*parts, mixed.weight.double()).mean(), **NEAR)


# -- the notes' errors, planted ---------------------------------------------------------------------------------------


def test_the_notes_outer_product_is_another_number():
    """Error 1: a weight left in the shape of pictures pairs every weight with every sample's loss."""
    preds, mixed = _mixed()
    parts = [F.cross_entropy(preds, labels, reduction="none") for labels in mixed[:2]]
    wrong = textbook.lin_comb(*parts, mixed.weight.view(-1, 1, 1, 1))
    ours = losses.apply(nn.CrossEntropyLoss(), preds, mixed).double()

    assert wrong.shape == (8, 1, 1, 8)
    assert abs(wrong.mean().item() - ours.item()) > 1e-3
    assert wrong.sum().item() > 5 * ours.item() * 8
    torch.testing.assert_close(ours, _explicit(preds, mixed).mean(), **NEAR)


def test_a_batch_of_one_is_mixed_with_itself():
    """Error 2: squeezing the batch axis away."""
    preds, mixed = _mixed(batch=1)

    torch.testing.assert_close(
        losses.apply(nn.CrossEntropyLoss(), preds, mixed), F.cross_entropy(preds, mixed.first), **NEAR
    )


@pytest.mark.parametrize(
    "loss_fn", [nn.BCEWithLogitsLoss(reduction="sum"), nn.CrossEntropyLoss(torch.ones(5))], ids=["bce", "class weights"]
)
def test_the_reduction_is_put_back_after_an_error_in_the_loss(loss_fn):
    before, (preds, mixed) = loss_fn.reduction, _mixed()
    no_such_class = mixed._replace(first=mixed.first + 5)

    with pytest.raises((IndexError, ValueError)):
        losses.apply(loss_fn, preds, no_such_class)
    assert loss_fn.reduction == before


# -- sample weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_sample_weights_by_value(reduction):
    preds, mixed = _mixed()
    weight = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.5, 3.0, 1.0, 1.0])
    ours = losses.apply(nn.CrossEntropyLoss(reduction=reduction), preds, mixed.first, weight)

    weighted = F.cross_entropy(preds, mixed.first, reduction="none") * weight
    expected = {"mean": weighted.sum() / weight.sum(), "sum": weighted.sum(), "none": weighted}[reduction]
    torch.testing.assert_close(ours, expected)


def test_sample_weights_and_mixed_targets_together():
    preds, mixed = _mixed()
    weight = torch.arange(1.0, 9.0)
    ours = losses.apply(LabelSmoothingCrossEntropy(0.1), preds, mixed, weight)

    explicit = _explicit(preds, mixed, 0.1)
    torch.testing.assert_close(ours.double(), (explicit * weight).sum() / weight.sum(), **NEAR)


def test_a_sample_of_weight_zero_is_left_out():
    preds, mixed = _mixed()
    weight = torch.ones(8)
    weight[3] = 0
    ours = losses.apply(F.cross_entropy, preds, mixed.first, weight)

    keep = weight.bool()
    torch.testing.assert_close(ours, F.cross_entropy(preds[keep], mixed.first[keep]))


REAL = {"mse": nn.MSELoss, "bce": nn.BCEWithLogitsLoss, "l1": nn.L1Loss}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss_fn", REAL.values(), ids=REAL)
def test_weights_of_one_change_nothing(loss_fn, reduction):
    """Also where a loss gives more than one number for each sample."""
    preds, targets = torch.randn(4, 3), torch.rand(4, 3)
    loss_fn = loss_fn(reduction=reduction)

    torch.testing.assert_close(losses.apply(loss_fn, preds, targets, torch.ones(4)), loss_fn(preds, targets))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss_fn", REAL.values(), ids=REAL)
def test_two_equal_labels_change_nothing(loss_fn, reduction):
    """A sample mixed with one of the same label costs what it costs unmixed."""
    preds, targets = torch.randn(4, 3), torch.rand(4, 3)
    loss_fn = loss_fn(reduction=reduction)
    mixed = MixedTargets(targets, targets, torch.tensor([0.5, 0.6, 0.9, 1.0]))

    torch.testing.assert_close(losses.apply(loss_fn, preds, mixed), loss_fn(preds, targets))


@pytest.mark.usefixtures("without_type_checks")
def test_cross_entropy_of_distributions_takes_sample_weights():
    """Torch's cross entropy also takes a distribution over the classes as the target."""
    preds, targets = torch.randn(4, 3), torch.rand(4, 3).softmax(1)
    ours = losses.apply(nn.CrossEntropyLoss(), preds, targets, torch.ones(4))

    torch.testing.assert_close(ours, F.cross_entropy(preds, targets))
