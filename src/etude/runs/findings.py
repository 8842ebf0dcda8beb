"""The parts of a report that say what a model gets right and wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from etude.plots import ink, png_bytes
from etude.runs import page
from etude.runs.page import Markup
from etude.runs.shown import Lines, Samples
from etude.training import interpret_plots as plots
from etude.training.verdict import verdict

if TYPE_CHECKING:
    from etude.training.activations import ActivationStatistics
    from etude.training.interpret import Interpretation, TopLoss

_LIGHT, _DARK = "#2b2e33", "#d5d8dc"
"""Letters of figures on light and on dark ground."""
_DPI, _PIXELS_PER_INCH = 144, 84
_OPEN_ROWS = 12
"""Rows of a table that are shown at once; longer ones open at a click."""


def drawn(figure: Callable[[], Any], what: str) -> Markup:
    """A figure on the page, drawn once for light and once for dark ground."""
    images = []
    for color in (_LIGHT, _DARK):
        with ink(color):
            made = figure()
            images.append(png_bytes(made, _DPI))
    return page.chart(images[0], images[1], made.get_figwidth() * _PIXELS_PER_INCH, what)


def findings(found: Interpretation, samples: Samples | None) -> Iterator[tuple[str, Markup]]:
    """Sections, each with its heading.

    Args:
        found: what to tell.
        samples: how its samples are shown; None for those that cannot be.
    """
    if found.kind == "numbers":
        yield "Predicted against true", drawn(lambda: plots.residuals_figure(found), "predicted against true numbers")
    else:
        if found.kind == "classes":
            yield "Confusion matrix", _matrix(found)
        yield "Class by class", _classes(found)
        yield "Can its probabilities be believed?", _calibration(found)
        if found.kind == "classes":
            yield "Most often confused", _confused(found, samples)
    title = "Largest errors" if found.kind == "numbers" else "Largest losses"
    yield title, _top_losses(found, samples)


def sentences(found: Interpretation) -> list[Markup]:
    """The verdict."""
    return [page.paragraph(line) for line in verdict(found)]


def _matrix(found: Interpretation) -> Markup:
    words = "Rows are what a sample is, columns what the model says: blue is right, orange a mistake."
    figure = drawn(lambda: plots.confusion_figure(found), "confusion matrix; the table below names the largest entries")
    return page.join([page.paragraph(words, "quiet"), figure])


def _classes(found: Interpretation) -> Markup:
    rows = [
        (one.name, _percent(one.precision), _percent(one.recall), _percent(one.f1), one.support, one.predicted)
        for one in sorted(found.per_class, key=lambda one: (math.isnan(one.f1), one.f1))
    ]
    head = ("class", "precision", "recall", "F1", "samples", "said of")
    whole = page.table(head, rows, " >>>>>")
    parts = [
        page.paragraph(
            "Precision: how much of what is called so is so. Recall: how much of what is so is called so. "
            "F1 is their harmonic mean."
            + (" A class is said to be there above a probability of 50 %." if found.kind == "labels" else ""),
            "quiet",
        ),
        drawn(lambda: plots.classes_figure(found), "precision, recall and F1 of each class, the worst first"),
        whole if len(rows) <= _OPEN_ROWS else page.hidden(f"all {len(rows)} classes as a table", whole),
    ]
    return page.join(parts)


def _calibration(found: Interpretation) -> Markup:
    calibration = found.calibration
    rows = [("as it is", *_numbers(calibration.before))]
    if calibration.after is not None and calibration.found:
        rows.append((f"temperature {calibration.temperature:.2f}", *_numbers(calibration.after)))
    halves = " and ".join(f"{value:.2f}" for value in calibration.of_halves)
    words = (
        "Of all answers given with 80 % probability, 80 % should be right. "
        + (
            "Every yes and no counts as an answer, with the probability that the model gives it. "
            * (found.kind == "labels")
        )
        + "The temperature divides the scores before the probabilities are made; no answer changes."
    )
    fitted = (
        f"The second row is measured on halves of the data, each under the temperature of the other half ({halves}); "
        f"{calibration.temperature:.3f} is that of all of it, for use on new samples."
    )
    head = ("", "sure on average", "right", "calibration error", "by chance alone", "log loss")
    return page.join(
        [
            page.paragraph(words, "quiet"),
            drawn(lambda: plots.calibration_figure(calibration), "share of right answers by confidence"),
            page.table(head, rows, " >>>>>"),
            *([page.paragraph(fitted, "quiet")] if len(rows) > 1 else []),
        ]
    )


def _numbers(one: Any) -> tuple[str, ...]:
    shares = (one.confidence, one.accuracy, one.ece, one.by_chance)
    return (*map(_percent, shares), f"{one.nll:.4f}")


def _confused(found: Interpretation, samples: Samples | None, pairs: int = 6, examples: int = 6) -> Markup:
    confused = found.most_confused(12)
    if not confused:
        return page.paragraph("No class was taken for another.")
    support = {one.name: one.support for one in found.per_class}
    rows = [(one.true, one.predicted, one.num, _percent(one.num / support[one.true])) for one in confused]
    parts = [page.table(("is", "taken for", "how often", "of its samples"), rows, "  >>")]
    for one in confused[:pairs] if samples is not None else ():
        assert samples is not None
        parts.append(page.heading(f"{one.true}, taken for {one.predicted}: {one.num}"))
        shown = []
        for position in one.positions[:examples]:
            sure = float(found.output[position].max())
            lines = [
                (f"is {one.true}", "true"),
                (f"says {one.predicted}", "said"),
                (f"{sure:.0%} sure", ""),
                (samples.names(position), "name"),
            ]
            shown.append((position, lines))
        parts.append(samples.shown(shown, explained=False))
    return page.join(parts)


def _top_losses(found: Interpretation, samples: Samples | None, num: int = 12) -> Markup:
    top = found.top_losses(num)
    words = {
        "classes": "The samples whose true class the model gives the least probability: surest mistakes, wrong labels.",
        "labels": "The samples whose true answers the model gives the least probability, over all classes.",
        "numbers": "The samples that the model is most off for.",
    }[found.kind]
    if _several_numbers(found):
        words += (
            " Each number's error is divided by the standard deviation of its true values, so that units do not count."
        )
    if samples is None:
        rows = [(one.position, one.true, one.predicted, f"{one.loss:.3g}") for one in top]
        listed = page.table(("sample", "is", "says", "loss"), rows, ">  >")
        return page.join([page.paragraph(words, "quiet"), listed])
    shown = samples.shown([(one.position, _lines(found, samples, one)) for one in top], explained=True)
    return page.join([page.paragraph(f"{words} {samples.explanation}".rstrip(), "quiet"), shown])


def _lines(found: Interpretation, samples: Samples, one: TopLoss) -> Lines:
    sure = "" if found.kind == "numbers" else f", {one.probability:.1%} for what it is"
    return [
        (f"is {one.true}", "true"),
        (f"says {one.predicted}", "said" if one.predicted != one.true else "true"),
        (f"{_loss(found, one)}{sure}", ""),
        (samples.names(one.position), "name"),
    ]


def _loss(found: Interpretation, one: TopLoss) -> str:
    if _several_numbers(found):
        return f"off by {math.sqrt(one.loss):.3g} deviations (root mean square)"
    return f"{'squared error' if found.kind == 'numbers' else 'loss'} {one.loss:.3g}"


def _several_numbers(found: Interpretation) -> bool:
    return found.kind == "numbers" and len(found.number_names) > 1


def layers(statistics: ActivationStatistics) -> Markup:
    """Activation statistics by layer."""
    rows = [
        (
            *(i, one.name, one.kind, "x".join(map(str, one.shape))),
            *(_number(one.mean), _number(one.deviation), _percent(one.near_zero), _percent(one.dead)),
        )
        for i, one in enumerate(statistics.rows)
    ]
    head = ("", "layer", "kind", "output", "mean", "deviation", "near zero", "dead channels")
    words = (
        "What each layer gives for one batch of these samples. Healthy values neither grow nor fade from layer to "
        "layer; a dead channel is zero for every sample of the batch."
    )
    return page.join(
        [
            page.paragraph(words, "quiet"),
            drawn(lambda: plots.activations_figure(statistics), "mean, deviation and share near zero by layer"),
            page.hidden(f"all {len(rows)} layers as a table", page.table(head, rows, ">   >>>>")),
        ]
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if math.isfinite(share) else ""


def _number(value: float) -> str:
    return f"{value:.3g}"
