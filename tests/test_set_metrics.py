"""Metrics of whole sets: exact however a set is cut into batches, equal to scikit-learn's, and kept in mid-epoch."""

from __future__ import annotations

import math

import pytest
import sklearn.metrics as sk
import torch

from etude import Batch, ConfigError, StepOutput
from etude.metrics import (
    R2,
    RMSE,
    BalancedAccuracy,
    EpochMeter,
    MacroF1,
    average_precisions,
    binary_cross_entropy,
    exact_match,
    mae,
    named,
)


def measured(metrics, preds, targets, sizes, between=lambda meter: meter):
    """An epoch over batches of these sizes, with something done to the meter between two batches."""
    meter = EpochMeter(named(metrics))
    for part, aim in zip(preds.split(sizes), targets.split(sizes), strict=True):
        meter.add(StepOutput(torch.tensor(1.0), part, Batch(torch.zeros(len(part)), aim)))
        meter = between(meter)
    return meter.compute()


def classes(seed, num=60, of=4):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.multinomial(torch.tensor([0.7, 0.2, 0.07, 0.03]), num, replacement=True, generator=generator)
    return torch.randn(num, of, generator=generator) + 1.5 * torch.eye(of)[targets], targets


CUTS = [[60], [1] * 60, [59, 1], [7] * 8 + [4]]


@pytest.mark.parametrize("sizes", CUTS, ids=["one", "singles", "uneven", "even"])
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")  # a rare class may be missing
@pytest.mark.parametrize("seed", range(3))
def test_metrics_of_classes_equal_scikit_learns_however_the_set_is_cut(sizes, seed):
    preds, targets = classes(seed)
    found = measured([BalancedAccuracy(), MacroF1()], preds, targets, sizes)

    guesses = preds.argmax(1)
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(targets, guesses), abs=1e-12)
    assert found["macro_f1"] == pytest.approx(sk.f1_score(targets, guesses, average="macro"), abs=1e-12)


@pytest.mark.parametrize("sizes", CUTS, ids=["one", "singles", "uneven", "even"])
def test_metrics_of_several_labels_equal_scikit_learns(sizes):
    generator = torch.Generator().manual_seed(3)
    targets = (torch.rand(60, 4, generator=generator) < 0.3).float()
    preds = torch.randn(60, 4, generator=generator) + targets
    found = measured([MacroF1(), exact_match, binary_cross_entropy], preds, targets, sizes)

    said = preds > 0
    assert found["macro_f1"] == pytest.approx(sk.f1_score(targets, said, average="macro"), abs=1e-12)
    assert found["exact_match"] == pytest.approx(sk.accuracy_score(targets, said), abs=1e-12)
    expected = torch.nn.functional.binary_cross_entropy(preds.sigmoid(), targets)
    assert found["binary_cross_entropy"] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("sizes", CUTS, ids=["one", "singles", "uneven", "even"])
@pytest.mark.parametrize("num", [1, 3])
def test_metrics_of_numbers_equal_scikit_learns(sizes, num):
    generator = torch.Generator().manual_seed(4)
    targets = 1000 + 50 * torch.randn(60, num, generator=generator) * torch.arange(1, num + 1)
    preds = targets + 20 * torch.randn(60, num, generator=generator)
    found = measured([mae, RMSE(), R2()], preds, targets, sizes)
    true, said = targets.double(), preds.double()

    assert found["mae"] == pytest.approx(sk.mean_absolute_error(true, said), rel=1e-9)
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(true, said), rel=1e-9)
    assert found["r2"] == pytest.approx(sk.r2_score(true, said), rel=1e-9)


def test_metrics_go_on_where_a_meter_was_kept_within_an_epoch():
    preds, targets = classes(5)
    metrics = [BalancedAccuracy(), MacroF1()]

    def put_away(meter):
        again = EpochMeter(named(metrics))
        again.load_state_dict(meter.state_dict(), torch.device("cpu"))
        return again

    assert measured(metrics, preds, targets, [7] * 8 + [4], put_away) == measured(metrics, preds, targets, [60])


def test_classes_that_are_not_there_are_left_out():
    preds, targets = 9 * torch.eye(4)[torch.tensor([0, 0, 1, 1])], torch.tensor([0, 1, 1, 1])
    found = measured([BalancedAccuracy(), MacroF1()], preds, targets, [4])

    assert found["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_numbers_that_never_change_have_no_r2():
    same = torch.full((8, 1), 0.1)

    assert math.isnan(measured([R2()], same + 1, same, [4, 4])["r2"])


@pytest.mark.parametrize("sizes", CUTS, ids=["one", "singles", "uneven", "even"])
def test_numbers_far_from_zero_have_an_r2_however_the_set_is_cut_and_put_away(sizes):
    generator = torch.Generator().manual_seed(6)
    targets = 1.7e9 + 1e3 * torch.randn(60, 2, generator=generator, dtype=torch.float64)
    preds = targets + 500 * torch.randn(60, 2, generator=generator, dtype=torch.float64)

    def put_away(meter):
        # one block is summed, and a new process goes on
        meter.compute()
        again = EpochMeter(named([R2()]))
        again.load_state_dict(meter.state_dict(), torch.device("cpu"))
        return again

    expected = sk.r2_score(targets - 1.7e9, preds - 1.7e9)
    assert measured([R2()], preds, targets, sizes)["r2"] == pytest.approx(expected, rel=1e-9)
    assert measured([R2()], preds, targets, sizes, put_away)["r2"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("same", [0.1, 1 / 3, 5 / 3, 1e9 / 7])
def test_not_even_rounding_makes_an_r2_of_numbers_that_never_change(same):
    same = torch.full((60, 1), same, dtype=torch.float64)
    for sizes in CUTS:
        assert math.isnan(measured([R2()], same + 64, same, sizes)["r2"])


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_equals_scikit_learns_with_ties_too(seed):
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(50, 3, generator=generator) < 0.3).float()
    scores = torch.rand(50, 3, generator=generator)
    scores[:, 1] = (scores[:, 1] * 4).round()
    found = average_precisions(scores, targets)

    for i in range(3):
        assert float(found[i]) == pytest.approx(sk.average_precision_score(targets[:, i], scores[:, i]), abs=1e-6)


def test_what_would_be_averaged_over_batches_wrongly_is_refused():
    targets = (torch.rand(50, 3) < 0.5).float()
    with pytest.raises(ConfigError, match=r"average_precisions gave \(3,\) for 50 samples.*SetMetric"):
        measured([average_precisions], torch.rand(50, 3), targets, [25, 25])
