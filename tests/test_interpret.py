"""Interpretation: the numbers of scikit-learn, planted confusions and losses found where they are, readable figures."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from PIL import Image
from sklearn import metrics
from torch import nn

import etude
from etude import Interpretation, Learner
from etude.data.vocab import Vocab
from etude.errors import ConfigError, DataError
from etude.recipes.demo import digits
from etude.training.interpret_plots import calibration_figure, classes_figure, confusion_figure, residuals_figure
from etude.training.predict import Predictions


def random_classes(num: int = 300, classes: int = 5, seed: int = 0) -> Interpretation:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (num,), generator=generator)
    scores = torch.randn(num, classes, generator=generator)
    scores[torch.arange(num), targets] += 1.5
    return Interpretation.of_predictions(Predictions(scores.softmax(1), targets, None, probable=True))


def of(output, targets, names=None, *, probable: bool = True) -> Interpretation:
    vocab = Vocab(names) if names else None
    return Interpretation.of_predictions(
        Predictions(torch.as_tensor(output), torch.as_tensor(targets), vocab, probable)
    )


# -- classes ----------------------------------------------------------------------------------------------------------


def test_matrix_and_scores_are_those_of_scikit_learn():
    found = random_classes()
    true, said = found.targets.numpy(), found.output.argmax(1).numpy()

    assert found.confusion.tolist() == metrics.confusion_matrix(true, said).tolist()
    columns = zip(*metrics.precision_recall_fscore_support(true, said), strict=True)
    for one, (precision, recall, f1, support) in zip(found.per_class, columns, strict=True):
        assert (one.precision, one.recall, one.f1) == pytest.approx((precision, recall, f1))
        assert one.support == support
        assert one.predicted == int((said == int(one.name)).sum())
    assert found.accuracy == pytest.approx(metrics.accuracy_score(true, said))
    assert float(found.losses.mean()) == pytest.approx(
        metrics.log_loss(true, (found.output.double() / found.output.double().sum(1, keepdim=True)).numpy()), rel=1e-5
    )


def test_a_class_that_is_never_said_and_one_without_samples_have_no_share():
    found = of([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]], [0, 1], ["a", "b", "c"])
    never, none = found.per_class[1], found.per_class[2]

    assert math.isnan(never.precision)
    assert (never.recall, never.f1) == (0, 0)
    assert math.isnan(none.recall)
    assert "c" in repr(found)


def test_the_planted_confusion_comes_first_with_its_samples_the_surest_first():
    rows = {3: 0.6, 7: 0.99, 11: 0.8}
    output = torch.tensor([[0.9, 0.06, 0.04]]).repeat(20, 1)
    for place, sure in rows.items():
        output[place] = torch.tensor([0.0, 1 - sure, sure])
    output[5] = torch.tensor([0.1, 0.9, 0.0])
    found = of(output, [0] * 20, ["cat", "dog", "cow"])
    first, second = found.most_confused()

    assert first == ("cat", "cow", 3, (7, 11, 3))
    assert second == ("cat", "dog", 1, (5,))
    assert "cat is taken for cow in 3 of 20 samples" in repr(found)


def test_top_losses_are_the_samples_whose_true_class_is_least_believed():
    found = of([[0.9, 0.1], [0.01, 0.99], [0.4, 0.6], [0.2, 0.8]], [0, 0, 1, 1], ["cat", "dog"])
    one, two = found.top_losses(2)

    assert (one.position, one.true, one.predicted) == (1, "cat", "dog")
    assert one.probability == pytest.approx(0.01)
    assert one.loss == pytest.approx(-math.log(0.01), rel=1e-6)
    assert two.position == 2
    assert len(found.top_losses(99)) == 4


def test_positions_are_those_of_the_learners_data():
    data = digits()
    # one picture is planted twice: once under a label that it does not have
    data.valid.targets[123] = (data.valid.targets[123] + 5) % 10
    learner = etude.vision.learner("lesson_cnn", data, widths=[32, 64], stem_stride=1, precision="fp32", progress=False)
    learner.fit(2, lr=1e-2)
    found = Interpretation.of(learner)
    top = [one.position for one in found.top_losses(5)]

    assert 123 in top
    batch = data.valid.take(top)
    assert [found.describe(place)[0] for place in top] == [data.vocab[i] for i in batch.targets.tolist()]
    assert found.accuracy == pytest.approx(learner.evaluate()["accuracy"])


def test_a_probability_of_zero_is_a_large_loss_and_not_an_infinite_one():
    assert 80 < of([[1.0, 0.0]], [1]).top_losses()[0].loss < 100


# -- several labels, one output, numbers ------------------------------------------------------------------------------


def test_several_labels_are_scored_class_by_class():
    torch.manual_seed(0)
    targets = (torch.rand(200, 4) < 0.3).float()
    output = (2 * torch.randn(200, 4) + 3 * targets - 1.5).sigmoid()
    found = of(output, targets, ["a", "b", "c", "d"])
    columns = metrics.precision_recall_fscore_support(targets.numpy(), (output > 0.5).numpy(), average=None)

    assert found.kind == "labels"
    for one, row in zip(found.per_class, zip(*columns, strict=True), strict=True):
        assert (one.precision, one.recall, one.f1, one.support) == pytest.approx(row)
    assert found.accuracy == pytest.approx(float(((output > 0.5) == targets.bool()).float().mean()))
    assert int(found.right.sum()) == int(((output > 0.5) == targets.bool()).all(1).sum())
    expected = nn.functional.binary_cross_entropy(output.double(), targets.double(), reduction="none").mean(1)
    torch.testing.assert_close(found.losses, expected)
    assert found.calibration.before.nll == pytest.approx(float(expected.mean()))
    assert "yes-or-no answers" in repr(found)
    with pytest.raises(ConfigError, match="one class per sample, not for several labels"):
        _ = found.confusion


def test_labels_are_listed_and_none_is_said():
    found = of([[0.9, 0.8], [0.1, 0.2]], [[1.0, 0.0], [0.0, 0.0]], ["sky", "sea"])

    assert found.describe(0) == ("sky", "sky; sea")
    assert found.describe(1) == ("(none)", "(none)")


@pytest.mark.parametrize("shape", [(4, 1), (4,)])
def test_one_output_is_the_second_of_two_classes(shape):
    found = of(
        torch.tensor([0.9, 0.2, 0.7, 0.4]).view(shape), torch.tensor([1.0, 0.0, 0.0, 1.0]).view(shape), ["no", "yes"]
    )

    assert found.kind == "classes"
    assert found.confusion.tolist() == [[1, 1], [1, 1]]
    assert found.names == ("no", "yes")


def test_shares_of_classes_after_a_softmax_count_as_the_largest():
    found = of([[0.7, 0.3], [0.6, 0.4]], [[0.9, 0.1], [0.2, 0.8]])

    assert found.targets.tolist() == [0, 1]


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_numbers_have_errors(shape):
    found = of(torch.tensor([1.0, 2.0, 7.0]).view(shape), torch.tensor([1.5, 2.0, 3.0]), probable=False)

    assert found.kind == "numbers"
    assert found.errors.flatten().tolist() == [-0.5, 0, 4]
    worst = found.top_losses(1)[0]
    assert (worst.position, worst.true, worst.predicted, worst.loss) == (2, "3", "7", 16)
    assert "off by 1.5 on average" in repr(found)
    with pytest.raises(ConfigError, match="not for numbers"):
        _ = found.per_class


def two_numbers() -> tuple[torch.Tensor, torch.Tensor]:
    """One number of deviation 100, well predicted but for sample 3, and one of 0.01, badly, worst in sample 7."""
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(200, 2, generator=generator, dtype=torch.float64) * torch.tensor([100, 0.01]) + 5
    said = true + torch.randn(200, 2, generator=generator, dtype=torch.float64) * torch.tensor([20, 0.014])
    said[3, 0], said[7, 1] = true[3, 0] + 600, true[7, 1] + 0.08
    return said, true


def test_several_numbers_are_told_each_in_its_unit():
    said, true = two_numbers()
    found = Interpretation.of_predictions(Predictions(said, true, None, False, numbers=("weight", "width")))
    whole, *rows = repr(found).split("\n")

    assert f"the mean of their R² is {metrics.r2_score(true, said):.3g} " in whole
    assert metrics.r2_score(true, said) < 0.1
    for i, (name, row) in enumerate(zip(("weight", "width"), rows, strict=True)):
        assert row.startswith(f"{name}: off by {metrics.mean_absolute_error(true[:, i], said[:, i]):.4g} on average")
        assert f"{metrics.root_mean_squared_error(true[:, i], said[:, i]):.4g} root mean square" in row
    assert f"{100 * metrics.r2_score(true[:, 0], said[:, 0]):.1f} % of the targets' variance is explained" in rows[0]
    assert f"Worse than always saying the mean (R² {metrics.r2_score(true[:, 1], said[:, 1]):.3g})." in rows[1]
    bias = float((said - true)[:, 1].mean())
    assert f"too {'high' if bias > 0 else 'low'} by {abs(bias):.3g} ±" in rows[1] or "not to be told from 0" in rows[1]


def test_the_largest_errors_are_by_the_deviation_of_each_number():
    said, true = two_numbers()
    found = of(said, true, probable=False)

    assert [one.position for one in found.top_losses(2)] == [7, 3]
    expected = (((said - true) / true.std(0, correction=0)) ** 2).mean(1)
    torch.testing.assert_close(found.losses, expected)
    # in metres instead of millimetres it is the same
    units = torch.tensor([1, 1000])
    torch.testing.assert_close(of(said * units, true * units, probable=False).losses, expected)


def test_numbers_that_are_worse_than_their_mean_are_told_so():
    words = repr(of(torch.tensor([4.0, 2.0, -6.0]), torch.tensor([1.0, 2.0, 3.0]), probable=False))

    assert "Worse than always saying the mean (R² -44)." in words
    assert "-" not in words.split("\n")[1].replace("R² -44", "")


def test_of_many_numbers_the_worst_are_told_and_a_constant_one_has_no_r2():
    torch.manual_seed(0)
    true = torch.randn(40, 20)
    said = true + 0.1 * torch.randn(40, 20)
    said[:, 13] = -3 * true[:, 13]
    true[:, 0] = 1
    words = repr(of(said, true, probable=False)).split("\n")

    assert words[0] == "40 samples of 20 numbers."
    assert words[1].startswith("value 14: ")
    assert words[-1] == "These are the 3 of the least R²."
    assert len(words) == 5


def test_several_numbers_are_drawn_each_in_its_unit():
    figure = residuals_figure(of(*two_numbers(), probable=False))

    assert [round(axis.get_xlim()[1], 1) > 50 for axis in figure.axes] == [True, True, False, False]
    assert "value 2" in figure.axes[2].get_title()
    assert len(residuals_figure(of(torch.randn(9, 30), torch.randn(9, 30), probable=False)).axes) == 12


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "targets", "probable", "error", "words"),
    [
        (torch.rand(3, 2), None, True, ConfigError, "without true answers"),
        (torch.zeros(0, 2), torch.zeros(0), True, ConfigError, "without true answers"),
        (torch.randn(3, 2), torch.tensor([0, 1, 0]), False, ConfigError, "the loss defines no probabilities"),
        (
            torch.full((3, 2), math.nan),
            torch.tensor([0, 1, 0]),
            True,
            DataError,
            "predictions of 3 samples are not finite",
        ),
        (torch.full((2, 2), 0.5), torch.tensor([0, 2]), True, DataError, "targets hold 0 to 2, expected .* 0 to 1"),
        (torch.full((2, 2), 0.5), torch.tensor([0, -100]), True, DataError, "targets hold -100 to 0"),
        (torch.full((2, 2, 5), 0.5), torch.zeros(2, 5).long(), True, ConfigError, r"\(2, 2, 5\) and \(2, 5\)"),
    ],
)
def test_what_cannot_be_interpreted_says_why(output, targets, probable, error, words):
    with pytest.raises(error, match=words):
        Interpretation.of_predictions(Predictions(output, targets, None, probable))


def test_single_items_are_no_labeled_data():
    learner = Learner(
        nn.Linear(3, 2), [(torch.randn(4, 3), torch.zeros(4).long())], nn.CrossEntropyLoss(), torch.optim.SGD
    )
    with pytest.raises(ConfigError, match="no validation data"):
        Interpretation.of(learner)
    with pytest.raises(ConfigError, match="without true answers"):
        Interpretation.of(learner, torch.randn(2, 3))
    loader = [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))]
    assert len(Interpretation.of(learner, loader)) == 4


# -- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 10, *(pytest.param(num, marks=pytest.mark.slow) for num in (37, 120))])
def test_no_name_in_a_figure_lies_on_another_or_outside(classes):
    found = random_classes(20 * classes, classes)
    names = tuple(f"class number {i} of a long name"[: 10 + 7 * (i % 3)] for i in range(classes))
    found = Interpretation(found.kind, found.output, found.targets, names)
    for figure in (confusion_figure(found), classes_figure(found)):
        figure.draw_without_rendering()
        axis = figure.axes[0]
        for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
            boxes = [label.get_window_extent() for label in labels if label.get_text()]
            assert len(boxes) > 1
            for one, other in pairwise(boxes):
                assert not one.overlaps(other)
            for box in boxes:
                assert figure.bbox.x0 <= box.x0
                assert box.x1 <= figure.bbox.x1
                assert figure.bbox.y0 <= box.y0


def test_numbers_stay_in_their_cells():
    found = random_classes(42_000, 14)
    figure = confusion_figure(found)
    figure.draw_without_rendering()
    axis = figure.axes[0]
    cell = axis.transData.transform((1, 0))[0] - axis.transData.transform((0, 0))[0]

    assert len(axis.texts) == int((found.confusion > 0).sum())
    assert max(text.get_window_extent().width for text in axis.texts) < cell


def test_figures_are_written_as_png(tmp_path):
    found = random_classes()
    numbers = of(torch.randn(50), torch.randn(50), probable=False)
    found.draw_confusion(tmp_path / "confusion.png")
    found.draw_classes(tmp_path / "classes.png")
    found.draw_calibration(tmp_path / "calibration.png")
    numbers.draw_residuals(tmp_path / "residuals.png")

    assert len(list(tmp_path.iterdir())) == 4
    for path in tmp_path.iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 250
            assert picture.convert("L").entropy() > 0.3
    with pytest.raises(ConfigError, match="not for numbers"):
        numbers.draw_confusion(tmp_path / "no.png")


def test_the_reliability_diagram_shows_the_measured_shares():
    found = random_classes(2000)
    figure = calibration_figure(found.calibration)
    labeled = {line.get_label(): line for line in figure.axes[0].lines if not line.get_label().startswith("_")}
    drawn = next(line for name, line in labeled.items() if name.startswith("as it is"))

    assert drawn.get_ydata().tolist() == [bin.accuracy for bin in found.calibration.before.bins if bin.num]
    assert any(name.startswith("temperature") for name in labeled)
    assert residuals_figure(of(torch.randn(5), torch.randn(5), probable=False)).axes[0].lines
