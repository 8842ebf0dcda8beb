"""Label smoothing against torch and the textbook, reductions, and the losses that are refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from etude import ConfigError, LabelSmoothingCrossEntropy, losses
from etude.types import MixedTargets
from reference import textbook

LAW = settings(max_examples=50, deadline=None, derandomize=True)
REDUCTIONS = ("mean", "sum", "none")


def _scores(batch, classes, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    preds = scale * torch.randn(batch, classes, generator=generator)
    return preds, torch.randint(classes, (batch,), generator=generator)


# -- label smoothing --------------------------------------------------------------------------------------------------


@LAW
@given(
    batch=st.integers(1, 9),
    classes=st.integers(2, 12),
    smoothing=st.floats(0, 0.99),
    reduction=st.sampled_from(REDUCTIONS),
    seed=st.integers(0, 1000),
)
def test_label_smoothing_equals_torch(batch, classes, smoothing, reduction, seed):
    preds, targets = _scores(batch, classes, seed)
    ours = LabelSmoothingCrossEntropy(smoothing, reduction)(preds, targets)

    expected = F.cross_entropy(preds, targets, label_smoothing=smoothing, reduction=reduction)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)


@LAW
@given(batch=st.integers(1, 9), classes=st.integers(2, 12), smoothing=st.floats(0, 0.99), seed=st.integers(0, 1000))
def test_label_smoothing_is_cross_entropy_against_the_smoothed_distribution(batch, classes, smoothing, seed):
    preds, targets = _scores(batch, classes, seed)
    preds = preds.double()
    ours = LabelSmoothingCrossEntropy(smoothing, "none")(preds, targets)

    expected = textbook.soft_cross_entropy(preds, textbook.smoothed(targets, classes, smoothing))
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_excluding_the_true_class_equals_a_larger_smoothing(classes):
    preds, targets = _scores(16, classes)
    excluding = LabelSmoothingCrossEntropy(0.1, exclude_true=True)(preds, targets)

    larger = LabelSmoothingCrossEntropy(0.1 * classes / (classes - 1))(preds, targets)
    words = textbook.soft_cross_entropy(preds, textbook.smoothed_excluding_true(targets, classes, 0.1)).mean()
    torch.testing.assert_close(excluding, larger)
    torch.testing.assert_close(excluding.double(), words, atol=1e-6, rtol=1e-6)


def _distribution(loss, classes):
    """What a loss holds for the truth when class 0 is: the cost of each class's log-probability alone."""
    log_probs, targets = -torch.eye(classes, dtype=torch.float64), torch.zeros(classes, dtype=torch.long)
    return losses.smoothed_losses(log_probs, targets, loss.smoothing, loss.exclude_true)


@pytest.mark.parametrize("exclude_true", [False, True])
def test_smoothed_targets_are_a_probability_distribution(exclude_true):
    distribution = _distribution(LabelSmoothingCrossEntropy(0.1, exclude_true=exclude_true), 5)

    assert distribution.min() >= 0
    assert distribution.sum().item() == pytest.approx(1)


def test_the_three_smoothing_formulas_of_the_notes_are_told_apart():
    """Error 7: the notes use three formulas for one name; ours is Szegedy's, the words are an option."""
    shared = _distribution(LabelSmoothingCrossEntropy(0.1), 5).tolist()
    words = _distribution(LabelSmoothingCrossEntropy(0.1, exclude_true=True), 5).tolist()

    assert shared == pytest.approx([0.92, 0.02, 0.02, 0.02, 0.02])
    assert words == pytest.approx([0.9, 0.025, 0.025, 0.025, 0.025])


def test_the_printed_formula_is_not_a_probability():
    """Error 7: summed over all classes, the printed smoothing / (k - 1) gives away more than there is."""
    printed = textbook.smoothed_as_printed(torch.tensor([0]), 5, 0.1)
    shared = textbook.smoothed(torch.tensor([0]), 5, 0.1)

    assert printed.sum().item() == pytest.approx(1 + 0.1 / 4)
    assert shared.sum().item() == pytest.approx(1)


def test_no_smoothing_is_plain_cross_entropy():
    preds, targets = _scores(8, 4)

    torch.testing.assert_close(LabelSmoothingCrossEntropy(0.0)(preds, targets), F.cross_entropy(preds, targets))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 1.5])
def test_smoothing_outside_its_range_is_refused(smoothing):
    with pytest.raises(ConfigError, match=rf"smoothing must be in \[0, 1\), got {smoothing}"):
        LabelSmoothingCrossEntropy(smoothing)


def test_label_smoothing_shows_its_settings():
    assert "smoothing=0.2, reduction='sum'" in repr(LabelSmoothingCrossEntropy(0.2, "sum"))


# -- the notes' linear combination, by value --------------------------------------------------------------------------


def test_smoothing_takes_its_share_from_the_uniform_term_not_from_the_true_class():
    """M7: lin_comb(uniform, true, smoothing), in this order."""
    preds, targets = _scores(6, 4)
    uniform, true = -preds.log_softmax(1).mean(1), F.cross_entropy(preds, targets, reduction="none")
    ours = LabelSmoothingCrossEntropy(0.1, "none")(preds, targets)

    torch.testing.assert_close(ours, textbook.lin_comb(uniform, true, 0.1))
    assert not torch.allclose(ours, textbook.lin_comb(true, uniform, 0.1), atol=1e-2)


def test_the_weight_of_mixed_targets_is_the_share_of_the_first():
    """M7: lin_comb(loss of first, loss of second, weight), in this order."""
    preds, first = _scores(6, 4)
    second, weight = first.roll(1), torch.full((6,), 0.9)
    ours = losses.per_sample(nn.CrossEntropyLoss(), preds, MixedTargets(first, second, weight))
    parts = [F.cross_entropy(preds, targets, reduction="none") for targets in (first, second)]

    torch.testing.assert_close(ours, textbook.lin_comb(*parts, 0.9))
    assert not torch.allclose(ours, textbook.lin_comb(*parts[::-1], 0.9), atol=1e-2)


# -- reductions -------------------------------------------------------------------------------------------------------


def test_reduce_by_value():
    values = torch.tensor([1.0, 2.0, 6.0])

    assert losses.reduce(values, "mean").item() == 3
    assert losses.reduce(values, "sum").item() == 9
    assert losses.reduce(values, "none") is values


@pytest.mark.parametrize("reduction", ["avg", "Mean", ""])
def test_an_unknown_reduction_is_refused(reduction):
    with pytest.raises(ConfigError, match="must be 'mean', 'sum' or 'none'"):
        losses.reduce(torch.ones(2), reduction)
    with pytest.raises(ConfigError, match="must be 'mean', 'sum' or 'none'"):
        LabelSmoothingCrossEntropy(0.1, reduction)


def _defaults_to_sum(preds, targets, reduction="sum"):
    return F.mse_loss(preds, targets, reduction=reduction)


def _needs_no_reduction(preds, targets):
    return (preds - targets).square().mean()


@pytest.mark.parametrize(
    ("loss_fn", "expected"),
    [
        (nn.CrossEntropyLoss(), "mean"),
        (nn.CrossEntropyLoss(reduction="sum"), "sum"),
        (LabelSmoothingCrossEntropy(0.1, "none"), "none"),
        (F.cross_entropy, "mean"),
        (partial(F.cross_entropy, reduction="sum"), "sum"),
        (partial(F.cross_entropy, label_smoothing=0.1), "mean"),
        (_defaults_to_sum, "sum"),
        (_needs_no_reduction, "mean"),
    ],
    ids=["mean", "sum", "none", "function", "partial sum", "partial mean", "default sum", "no argument"],
)
def test_reduction_of_reads_modules_functions_and_partials(loss_fn, expected):
    assert losses.reduction_of(loss_fn) == expected


def test_reduction_of_a_loss_without_a_python_signature():
    """Torch's own compiled functions have none; a learner asks every loss for its reduction."""
    assert losses.reduction_of(torch.dist) == "mean"


def test_unreduced_puts_the_reduction_back():
    loss_fn = nn.CrossEntropyLoss(reduction="sum")
    with losses.unreduced(loss_fn) as elementwise:
        assert elementwise(*_scores(5, 3)).shape == (5,)

    assert loss_fn.reduction == "sum"


def test_unreduced_puts_the_reduction_back_after_an_error():
    loss_fn = nn.CrossEntropyLoss()
    with pytest.raises(RuntimeError, match="planted"), losses.unreduced(loss_fn):
        raise RuntimeError("planted")

    assert loss_fn.reduction == "mean"


class _WithoutReduction(nn.Module):
    def forward(self, preds, targets):
        return F.cross_entropy(preds, targets)


class _IgnoresReduction(nn.Module):
    def __init__(self):
        super().__init__()
        self.reduction = "mean"

    def forward(self, preds, targets):
        return F.cross_entropy(preds, targets)


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (_WithoutReduction(), "_WithoutReduction has no `reduction` attribute"),
        (_needs_no_reduction, "_needs_no_reduction takes no `reduction` argument"),
    ],
    ids=["module", "function"],
)
def test_a_loss_without_reduction_is_refused_with_its_name_and_the_cure(loss_fn, message):
    preds, targets = _scores(4, 4)
    targets = MixedTargets(targets, targets.roll(1), torch.full((4,), 0.7))

    with pytest.raises(ConfigError, match=message) as caught:
        losses.apply(loss_fn, preds, targets)
    assert "honour" in str(caught.value)


@pytest.mark.parametrize("loss_fn", [_WithoutReduction(), F.cross_entropy], ids=["module", "function"])
def test_a_loss_without_reduction_serves_plain_targets(loss_fn):
    preds, targets = _scores(4, 4)

    assert torch.equal(losses.apply(loss_fn, preds, targets), F.cross_entropy(preds, targets))


def test_a_loss_that_ignores_its_reduction_is_refused_and_left_as_it_was():
    loss_fn, (preds, targets) = _IgnoresReduction(), _scores(4, 4)

    with pytest.raises(ConfigError, match="_IgnoresReduction returned one number"):
        losses.per_sample(loss_fn, preds, targets)
    assert loss_fn.reduction == "mean"


# -- per sample is the loss before its reduction ----------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_per_sample_of_cross_entropy_equals_torch_unreduced(smoothing):
    preds, targets = _scores(7, 4)
    ours = losses.per_sample(nn.CrossEntropyLoss(label_smoothing=smoothing), preds, targets)

    torch.testing.assert_close(ours, F.cross_entropy(preds, targets, label_smoothing=smoothing, reduction="none"))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_sample_marked_as_ignored_costs_nothing(smoothing):
    """-100 is what torch's cross entropy ignores unless told otherwise."""
    preds, targets = _scores(7, 4)
    targets[2] = -100
    ours = losses.per_sample(nn.CrossEntropyLoss(label_smoothing=smoothing), preds, targets)

    torch.testing.assert_close(ours, F.cross_entropy(preds, targets, label_smoothing=smoothing, reduction="none"))


@pytest.mark.parametrize(
    "loss_fn",
    [F.cross_entropy, nn.CrossEntropyLoss(), LabelSmoothingCrossEntropy(0.0)],
    ids=["function", "module", "ours"],
)
def test_a_masked_class_costs_nothing_without_smoothing(loss_fn):
    """A score of -inf rules a class out; nothing times infinity must not become NaN."""
    preds, targets = _scores(4, 3)
    preds[:, 2], targets = -torch.inf, targets.clamp(max=1)
    ours = losses.per_sample(loss_fn, preds, targets)

    torch.testing.assert_close(ours, F.cross_entropy(preds, targets, reduction="none"))
