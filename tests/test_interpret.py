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
