"""Calibration: the textbook's numbers, a temperature that is the best there is, and no peeking at what is measured."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import minimize_scalar

from etude import Interpretation
from etude.data.vocab import Vocab
from etude.errors import DataError
from etude.recipes.evaluate import measured
from etude.training.calibration import calibrate, fit_temperature, reliability, scale, two_classes, wilson_interval
from etude.training.predict import Predictions


def sampled(num: int, classes: int, *, sharpness: float = 1.0, seed: int = 0):
    """Scores times `sharpness`, and targets drawn by the softmax of the scores themselves."""
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(num, classes, generator=generator, dtype=torch.float64)
    targets = torch.multinomial(scores.softmax(1), 1, generator=generator).squeeze(1)
    return sharpness * scores, targets


def nll(scores, targets, temperature: float) -> float:
    return float(torch.nn.functional.cross_entropy(scores / temperature, targets))


@pytest.mark.parametrize(("classes", "sharpness"), [(2, 0.4), (3, 1.0), (10, 2.5), (50, 7.0)])
def test_temperature_is_that_of_a_general_minimizer_on_the_scores(classes, sharpness):
    scores, targets = sampled(400, classes, sharpness=sharpness)
    best = minimize_scalar(
        lambda log: nll(scores, targets, math.exp(log)), bounds=(-3, 4), method="bounded", options={"xatol": 1e-10}
    )

    # from float32 probabilities alone: what was added to a row of scores does not matter
    assert fit_temperature((scores + 3).softmax(1).float(), targets) == pytest.approx(math.exp(best.x), rel=1e-4)
    assert fit_temperature(scores.softmax(1), targets) == pytest.approx(math.exp(best.x), rel=1e-6)


def test_the_temperature_that_spoiled_probabilities_is_found_and_mends_them():
    scores, targets = sampled(20_000, 5, sharpness=3.0)
    done = calibrate(scores.softmax(1).float(), targets)

    assert done.temperature == pytest.approx(3, rel=0.05)
    assert done.before.ece > 0.1
    assert done.after.ece < 0.02
    assert done.after.nll < done.before.nll
    torch.testing.assert_close(scale(scores.softmax(1), 3.0), (scores / 3).softmax(1))


def test_what_is_measured_was_not_fitted():
    """With its own temperature for each half the loss were below that of the best single one, and here it is above."""
    for seed in range(5):
        scores, targets = sampled(30, 3, sharpness=2.0, seed=seed)
        done = calibrate(scores.softmax(1), targets)

        assert done.of_halves[0] != done.of_halves[1]
        assert done.after.nll > nll(scores, targets, done.temperature) + 1e-9


def test_calibration_error_and_bins_are_those_of_the_definition():
    scores, targets = sampled(500, 4, sharpness=2.0)
    probabilities = scores.softmax(1)
    confidence, guess = probabilities.max(1)
    error = 0.0
    done = reliability(probabilities, targets)
    for i, bin in enumerate(done.bins):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        assert bin.num == int(inside.sum())
        if bin.num:
            share, sure = (guess == targets)[inside].double().mean(), confidence[inside].mean()
            assert (bin.accuracy, bin.confidence) == (pytest.approx(float(share)), pytest.approx(float(sure)))
            error += bin.num / 500 * abs(float(share - sure))
        else:
            assert math.isnan(bin.accuracy)

    assert done.ece == pytest.approx(error)
    assert done.nll == pytest.approx(nll(scores, targets, 1.0))
    assert done.accuracy == pytest.approx(float((guess == targets).double().mean()))
    assert done.confidence == pytest.approx(float(confidence.mean()))


def test_a_confidence_on_an_edge_belongs_below_it_and_certainty_to_the_last_bin():
    probabilities = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.75, 0.25]], dtype=torch.float64)
    done = reliability(probabilities, torch.tensor([0, 0, 0]), num_bins=4)

    assert [bin.num for bin in done.bins] == [0, 1, 1, 1]


def test_chance_alone_makes_about_the_error_that_it_is_said_to():
    seen = [reliability(scores.softmax(1), targets) for scores, targets in (sampled(300, 4, seed=i) for i in range(40))]

    assert sum(one.ece for one in seen) == pytest.approx(sum(one.by_chance for one in seen), rel=0.2)


def test_more_numbers_than_a_block_are_the_same_numbers():
    scores, targets = sampled(4500, 1000, sharpness=1.5)
    done = reliability(scores.softmax(1).float(), targets)

    assert done.nll == pytest.approx(nll(scores, targets, 1.0), rel=1e-5)
    assert sum(bin.num for bin in done.bins) == 4500


def test_where_all_are_right_there_is_no_temperature_and_no_nan():
    probabilities, targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]), torch.tensor([0, 1, 0])
    done = calibrate(probabilities, targets)

    assert not done.found
    assert done.before.nll == pytest.approx(-math.log(0.9) / 3)
    assert math.isfinite(done.after.nll)
    wrong = calibrate(probabilities, 1 - targets)
    assert not wrong.found
    assert math.isfinite(wrong.before.nll)


def test_a_single_sample_is_not_measured_on_itself():
    assert calibrate(torch.tensor([[0.6, 0.4]]), torch.tensor([0])).after is None


def test_yes_and_no_are_two_classes():
    scores = torch.randn(50, 3, dtype=torch.float64)
    targets = (torch.rand(50, 3) < scores.sigmoid()).long()
    done = reliability(two_classes(scores.sigmoid()), targets.flatten())

    expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, targets.double())
    assert done.nll == pytest.approx(float(expected))
    assert done.confidence >= 0.5


@pytest.mark.parametrize("apart", [5.0, 40.0, 80.0, 300.0])
def test_sure_mistakes_cost_the_same_everywhere_and_as_much_as_in_training(apart):
    """Down to 1e-38, where float32 probabilities end."""
    scores, targets = torch.tensor([[apart, 0.0], [0.0, 1.0]]), torch.tensor([1, 1])
    classes = Predictions(scores.softmax(1), targets, Vocab(["a", "b"]), probable=True)
    expected = torch.nn.functional.cross_entropy(scores.double(), targets, reduction="none")
    expected = float(expected.clamp(max=-math.log(1e-38)).mean())

    assert measured(classes)["cross_entropy"] == pytest.approx(expected, rel=1e-5)
    assert float(Interpretation.of_predictions(classes).losses.mean()) == pytest.approx(expected, rel=1e-5)
    assert reliability(classes.output, targets).nll == pytest.approx(expected, rel=1e-5)

    yes = -scores[:, :1]
    answers = Predictions(yes.sigmoid(), torch.ones(2, 1), Vocab(["a"]), probable=True, several=True)
    costs = torch.nn.functional.softplus(-yes.double()).clamp(max=-math.log(1e-38))
    assert measured(answers)["cross_entropy"] == pytest.approx(float(costs.mean()), rel=1e-5)
    assert float(Interpretation.of_predictions(answers).losses.mean()) == pytest.approx(float(costs.mean()), rel=1e-5)


def test_scores_are_refused():
    with pytest.raises(DataError, match=r"rows sum to 1, got rows that sum to .* take scores.softmax\(1\)"):
        calibrate(torch.randn(5, 3), torch.zeros(5, dtype=torch.long))
    with pytest.raises(DataError, match="no samples"):
        calibrate(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))


def test_interval_is_wilsons_and_stays_within_bounds():
    # Newcombe 1998, table I: 81 of 263, 0 of 20, 1 of 29
    for hits, total, low, high in ((81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):
        assert wilson_interval(hits, total) == pytest.approx((low, high), abs=5e-5)
