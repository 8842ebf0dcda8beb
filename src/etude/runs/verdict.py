"""A comparison in sentences, with no more said than so many runs can show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from etude.runs.compare import Comparison, Pairs, metric_of, results_of
from etude.runs.differences import conditions, things, told
from etude.runs.files import finite, whole
from etude.runs.read import RunRecord
from etude.runs.show import evenly
from etude.runs.statistics import Paired
from etude.runs.text import columns, plain, shorten

_MOST_EPOCHS: Final = 40
_EPOCH_COLUMNS: Final = ("train_loss", "valid_loss", "valid_accuracy")


def report(comparison: Comparison) -> Iterator[str]:
    """The comparison in lines for a terminal."""
    runs, letters = comparison.runs, comparison.letters
    for name, run in zip(letters, runs, strict=True):
        why = f" ({shorten(plain(run.state.why), 120)})" if run.state.why else ""
        yield f"{name}  {plain(run.folder)}: {run.state.word}{why}"
    yield ""
    yield from _differing(comparison)
    yield ""
    yield from _results(comparison)
    yield ""
    if comparison.several:
        for i, pairs in enumerate(comparison.pairs, 1):
            yield from _pair_table(pairs, letters[0], letters[i])
            yield from _paired_words(comparison, i)
    else:
        yield from _epochs(comparison)
        for i in range(1, len(runs)):
            yield from _single_words(comparison, i)


def _differing(comparison: Comparison) -> Iterator[str]:
    named = things(comparison.found)
    for name, run in zip(comparison.letters, comparison.runs, strict=True):
        if mixed := conditions(run.parts):
            yield f"the runs in {name} were not made under the same conditions: {plain(', '.join(mixed))}"
    if not comparison.found:
        yield "nothing that is recorded differs between them"
        return
    yield from columns(told(comparison.found, comparison.letters))
    if untold := [one.key for one in comparison.found if not one.told]:
        yield f"not recorded by all: {shorten(plain(', '.join(untold)), 160)}"
    if len(named) > 1:
        yield ""
        yield f"they differ in {len(named)} things: {plain(', '.join(named))}"
        yield "what the results differ by may come from any of these, or from several together"


def _results(comparison: Comparison) -> Iterator[str]:
    every = [results_of(run) for run in comparison.runs]
    names = [name for name in dict.fromkeys(name for one in every for name in one) if not name.endswith("_sd")]
    first = comparison.letters[0]
    rows = [("result", *comparison.letters, *(f"{name} - {first}" for name in comparison.letters[1:]))]
    for name in names:
        values = [one.get(name) for one in every]
        if all(value is None for value in values):
            continue
        spreads = [one.get(f"{name}_sd") for one in every]
        cells = [_number(name, value, sd) for value, sd in zip(values, spreads, strict=True)]
        rows.append((plain(name), *cells, *(_difference(name, values[0], value) for value in values[1:])))
    yield from columns(rows, " " + ">" * len(rows[0]))
    if len({str(run.config.get("loss")) for run in _singles(comparison)}) > 1:
        yield "their losses are not the same function: train_loss and valid_loss cannot be compared"


def _singles(comparison: Comparison) -> list[RunRecord]:
    return [part for run in comparison.runs for part in (run.parts or (run,))]


def _number(name: str, value: float | None, sd: float | None = None) -> str:
    if value is None:
        return ""
    if name.endswith("accuracy"):
        return f"{100 * value:.2f} %" + ("" if sd is None else f" ± {100 * sd:.2f}")
    if name in ("steps", "runs"):
        return f"{value:.0f}"
    return (f"{value:.1f}" if name == "seconds" else f"{value:.4f}") + ("" if sd is None else f" ± {sd:.4f}")


def _difference(name: str, first: float | None, value: float | None) -> str:
    if first is None or value is None:
        return ""
    if name.endswith("accuracy"):
        return f"{100 * (value - first):+.2f} points"
    return f"{value - first:+.0f}" if name in ("steps", "runs") else f"{value - first:+.4f}"


def _epochs(comparison: Comparison) -> Iterator[str]:
    """The epoch tables beside each other."""
    series = comparison.series
    names = [name for name in _EPOCH_COLUMNS if any(name in one.columns for one in series)]
    tables = [{int(row["epoch"]): row for row in one.epochs} for one in series]
    epochs = sorted({epoch for table in tables for epoch in table})
    if not epochs or not names:
        return
    header = ["epoch"] + [f"{name} {letter}" for name in names for letter in comparison.letters]
    rows = [header]
    shown, skipped = evenly(len(epochs), _MOST_EPOCHS)
    for epoch in (epochs[i] for i in shown):
        values = [finite(table.get(epoch, {}).get(name)) for name in names for table in tables]
        rows.append([str(epoch), *("" if value is None else f"{value:.4f}" for value in values)])
    yield from columns(rows, ">" * len(header))
    if skipped:
        yield f"one epoch of {skipped}, and the last"
    yield ""


# -- single runs -------------------------------------------------------------------------------------------------------


def _single_words(comparison: Comparison, i: int) -> Iterator[str]:
    """What can be said of the first run and another one."""
    one, other = comparison.runs[0], comparison.runs[i]
    names = f"{comparison.letters[0]} and {comparison.letters[i]}"
    parted, data = comparison.divergences[i - 1], comparison.data[i - 1]
    yield f"{names}: {parted.words()}"
    if not data.same:
        yield _apart(comparison.letters[0], comparison.letters[i], data.why)
        return
    if data.why:
        yield f"{names}: {data.why}"
    metric = metric_of([one, other])
    if not metric:
        yield f"{names} have no result in common that could be compared"
        return
    a, b = one.results()[metric], other.results()[metric]
    assert a is not None
    assert b is not None
    if not (one.result and other.result):
        yield f"{names}: not both are finished, so the last whole epoch of each is compared"
    if a == b:
        yield f"{names} have the same {metric}"
        return
    ahead = comparison.letters[i] if (b > a) == metric.endswith("accuracy") else comparison.letters[0]
    yield (
        f"{ahead} is ahead by {_amount(metric, abs(b - a))}{_samples(one, other)}, from one run each: no evidence of "
        "a difference. Chance alone may do as much; train both with --seeds 6 or more and compare the folders."
    )


def _apart(one: str, other: str, why: str) -> str:
    return f"{one} and {other} are not measured on the same data: {why}. Their results say nothing about each other."


def _amount(metric: str, value: float) -> str:
    return f"{100 * value:.2f} points" if metric.endswith("accuracy") else f"{value:.4g} in {metric}"


def _samples(one: RunRecord, other: RunRecord) -> str:
    """How many held-out samples a difference is."""
    samples = whole(one.result.get("valid_samples"))
    counts = [whole(run.result.get("valid_right")) for run in (one, other)]
    if not samples or samples != whole(other.result.get("valid_samples")) or None in counts:
        return ""
    return f", {abs((counts[0] or 0) - (counts[1] or 0))} of {samples} held-out {one.noun}s"


# -- several seeds -----------------------------------------------------------------------------------------------------


def _pair_table(pairs: Pairs, one: str, other: str) -> Iterator[str]:
    if pairs.keys and pairs.metric:
        rows = [(pairs.by, one, other, f"{other} - {one}")]
        for key, a, b in zip(pairs.keys, *pairs.values, strict=True):
            cells = (_number(pairs.metric, a), _number(pairs.metric, b), _difference(pairs.metric, a, b))
            rows.append((str(key), *cells))
        yield f"{pairs.metric}, paired by {pairs.by}"
        yield from columns(rows, ">>>>")
    if pairs.left_out:
        yield f"left out, having no partner: {plain(', '.join(pairs.left_out))}"


def _paired_words(comparison: Comparison, i: int) -> Iterator[str]:
    """What can be said of the first folder and another one."""
    one, other = comparison.letters[0], comparison.letters[i]
    pairs, data = comparison.pairs[i - 1], comparison.data[i - 1]
    if not data.same:
        yield _apart(one, other, data.why)
        yield ""
        return
    if data.why:
        yield f"{one} and {other}: {data.why}"
    if pairs.keys and pairs.equal:
        yield f"{pairs.equal} of {len(pairs.keys)} pairs have equal losses in every step"
    if pairs.paired is None:
        yield f"{len(pairs.keys)} pairs: no evidence of a difference can come of less than two"
    else:
        yield from _statistics(pairs, pairs.paired, one, other, len(comparison.pairs))
    yield ""


def _statistics(pairs: Pairs, paired: Paired, one: str, other: str, comparisons: int) -> Iterator[str]:
    metric, n = pairs.metric, len(pairs.keys)
    half = "not known" if math.isnan(paired.half) else _signed(metric, paired.half)[1:]
    level = f"{100 * paired.level:.4g} %" + (
        f" each, so that {comparisons} hold together in 95 %" if comparisons > 1 else ""
    )
    difference = f"{_signed(metric, paired.mean)} ± {half}"
    yield f"{other} - {one}: {difference} (mean of {n} pairs, {level} interval by Student's t)"
    p = "not counted for so many pairs" if math.isnan(paired.p) else f"p = {paired.p:.4g}"
    yield f"sign-flip permutation test, exact: {p}; the smallest that {n} pairs can give is {paired.smallest_p:.4g}"
    if pairs.by == "fold":
        yield "folds share most of their training pictures, so their differences hang together: read this with care"
    yield _conclusion(metric, paired, one, other)


def _signed(metric: str, value: float) -> str:
    return f"{100 * value:+.2f} points" if metric.endswith("accuracy") else f"{value:+.4g}"


def _conclusion(metric: str, paired: Paired, one: str, other: str) -> str:
    """The sentence to remember."""
    better = other if (paired.mean > 0) == metric.endswith("accuracy") else one
    amount = _amount(metric, abs(paired.mean))
    if paired.evidence == "clear":
        return f"{better} is better by {amount}"
    if paired.evidence == "weak":
        return (
            f"weak evidence that {better} is better by {amount}: it rests on the assumption that differences are "
            f"normally distributed; at least {_least_pairs(paired)} pairs could show it without"
        )
    needed = paired.pairs_needed() if paired.mean else None
    if math.isnan(paired.half) or not paired.mean:
        return "no evidence of a difference"
    hint = f"; if it stayed at {amount}, about {needed} pairs would show it" if needed else ""
    return (
        f"no evidence of a difference: less than {_amount(metric, paired.half)} cannot be told from chance here{hint}"
    )


def _least_pairs(paired: Paired) -> int:
    """The fewest pairs whose smallest p is small enough."""
    return math.ceil(1 - math.log2(1 - paired.level))
