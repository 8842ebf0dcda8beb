"""Runs side by side: what differs between them, what came out, and whether that is more than chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from etude.errors import ConfigError
from etude.runs.differences import Comparable, Difference, comparable, differences, things
from etude.runs.files import finite, mapping
from etude.runs.listing import row_of
from etude.runs.read import RunRecord
from etude.runs.series import Divergence, Series, first_difference, read_series
from etude.runs.statistics import Paired, deviation, mean
from etude.runs.text import plain

if TYPE_CHECKING:
    from etude.types import Json

METRICS: Final = ("valid_accuracy", "valid_rmse", "valid_cross_entropy", "valid_loss")
"""What runs are judged by: the first that all of them have. A loss is no measure where the runs' losses differ."""


@dataclass(frozen=True)
class Pairs:
    """Two folders of several runs, paired by seed or by fold.

    Args:
        by: "seed" or "fold".
        metric: what is compared.
        keys: the seeds or folds that both have finished.
        values: of both, pair by pair.
        left_out: what only one of them has, in words.
        equal: how many pairs have equal losses in every step.
        paired: the statistics; None for less than two pairs.
    """

    by: str
    metric: str
    keys: tuple[int, ...]
    values: tuple[tuple[float, ...], tuple[float, ...]]
    left_out: tuple[str, ...]
    equal: int
    paired: Paired | None


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other; each is compared with the first.

    Args:
        runs: the runs, or the folders of several.
        letters: A, B, C, ...
        found: what differs.
        data: for each run after the first, whether it was measured on the same data.
        series: the histories of single runs.
        divergences: for each single run after the first, where its losses leave those of the first.
        pairs: for each folder of several after the first, its pairs with the first.
    """

    runs: tuple[RunRecord, ...]
    letters: tuple[str, ...]
    found: list[Difference]
    data: list[Comparable]
    series: list[Series]
    divergences: list[Divergence]
    pairs: list[Pairs]

    @property
    def several(self) -> bool:
        """Whether each is a folder of several runs."""
        return self.runs[0].planned is not None


def letter(i: int) -> str:
    """A, B, ..., Z, AA, AB, ...

    >>> letter(0), letter(25), letter(26)
    ('A', 'Z', 'AA')
    """
    return (letter(i // 26 - 1) if i >= 26 else "") + chr(ord("A") + i % 26)


def compare_runs(runs: Sequence[RunRecord]) -> Comparison:
    """Compare runs with the first of them.

    Args:
        runs: two or more, all single or all of several seeds or folds.

    Raises:
        ConfigError: they are of different kinds, studies, or have nothing that can be compared.
    """
    _check(runs)
    letters = tuple(letter(i) for i in range(len(runs)))
    if runs[0].planned is None:
        series = [read_series(run.folder) for run in runs]
        data = [comparable(runs[0], run) for run in runs[1:]]
        parted = [first_difference(series[0], one) for one in series[1:]]
        return Comparison(tuple(runs), letters, differences(runs), data, series, parted, [])
    pairs = [_pairs((runs[0], run), letters[0], letters[i], len(runs) - 1) for i, run in enumerate(runs[1:], 1)]
    firsts = [_first(run, pairs) for run in runs]
    data = [_all_comparable(runs[0], run, one) for run, one in zip(runs[1:], pairs, strict=True)]
    return Comparison(tuple(runs), letters, differences(firsts), data, [], [], pairs)


def _check(runs: Sequence[RunRecord]) -> None:
    if len(runs) < 2:
        raise ConfigError("name two runs or more to compare, such as: etude compare runs/A runs/B")
    places = [run.folder.resolve() for run in runs]
    if len(set(places)) < len(places):
        raise ConfigError("a run is named twice; name different ones")
    for run in runs:
        if "rows" in run.result or mapping(run.config.get("several")).get("result") == "study":
            raise ConfigError(
                f"{plain(run.folder)} is a study, which compares its own runs: etude show {plain(run.folder)}. "
                "Two of its runs can be compared: name their folders"
            )
        if run.planned is not None and not run.parts:
            raise ConfigError(f"{plain(run.folder)} holds no run that was begun, so there is nothing to compare")
    single = [run for run in runs if run.planned is None]
    if 0 < len(single) < len(runs):
        several = next(run for run in runs if run.planned is not None)
        raise ConfigError(
            f"{plain(single[0].folder)} is one run, {plain(several.folder)} holds {len(several.planned or ())}: they "
            f"cannot be compared. Name one of these, such as {plain(several.parts[0].folder)}, or train the other "
            "with --seeds"
        )


# -- several seeds or folds --------------------------------------------------------------------------------------------


def _key(run: RunRecord) -> tuple[str, int] | None:
    """What a run is paired by: its fold, or its seed."""
    fold = run.training.get("fold")
    if isinstance(fold, list) and fold and isinstance(fold[0], int):
        return "fold", fold[0] + 1
    return None if run.seed is None else ("seed", run.seed)


def _by_key(run: RunRecord) -> dict[tuple[str, int], RunRecord]:
    """The finished runs of a folder."""
    return {key: part for part in run.parts if part.result and (key := _key(part)) is not None}


def _pairs(folders: tuple[RunRecord, RunRecord], one: str, other: str, comparisons: int) -> Pairs:
    """The pairs of two folders; intervals are as wide as so many comparisons with the first need."""
    finished = [_by_key(folder) for folder in folders]
    both = sorted(set(finished[0]) & set(finished[1]))
    metric = metric_of([finished[side][key] for key in both for side in (0, 1)])
    values = tuple(tuple(_value(finished[side][key], metric) for key in both) for side in (0, 1))
    differing = tuple(b - a for a, b in zip(*values, strict=True))
    by = both[0][0] if both else "seed"
    left_out = tuple(
        f"{name} {kind} {number}"
        for name, mine in zip((one, other), finished, strict=True)
        for kind, number in sorted(set(mine) - set(both))
    ) + tuple(
        f"{name} {part} (not finished)"
        for name, folder, mine in zip((one, other), folders, finished, strict=True)
        for part in folder.planned or ()
        if part not in {run.name for run in mine.values()}
    )
    equal = sum(_equal(finished[0][key], finished[1][key]) for key in both)
    paired = Paired(differing, 1 - 0.05 / comparisons) if len(both) > 1 and metric else None
    return Pairs(by, metric, tuple(key[1] for key in both), (values[0], values[1]), left_out, equal, paired)


def _equal(one: RunRecord, other: RunRecord) -> bool:
    found = first_difference(read_series(one.folder), read_series(other.folder))
    return found.step is None and found.steps > 0


def metric_of(runs: Sequence[RunRecord]) -> str:
    """What runs can be judged by; empty where they have nothing in common."""
    losses = {str(run.config.get("loss")) for run in runs}
    for name in METRICS:
        if name == "valid_loss" and len(losses) > 1:
            continue
        if runs and all(run.results().get(name) is not None for run in runs):
            return name
    return ""


def _value(run: RunRecord, metric: str) -> float:
    value = run.results().get(metric)
    return math.nan if value is None else value


def _first(folder: RunRecord, pairs: Sequence[Pairs]) -> RunRecord:
    """The run of a folder that stands for the others in what differs: that of the first seed that all have."""
    keys = set.intersection(*(set(one.keys) for one in pairs))
    return next((part for part in folder.parts if (key := _key(part)) and key[1] in keys), folder.parts[0])


def _all_comparable(one: RunRecord, other: RunRecord, pairs: Pairs) -> Comparable:
    """Whether every pair was measured on the same data."""
    mine, theirs = (_by_key(run) for run in (one, other))
    found = [comparable(mine[pairs.by, key], theirs[pairs.by, key]) for key in pairs.keys]
    return next((one for one in found if not one.same), found[0] if found else Comparable(True))


# -- as JSON -----------------------------------------------------------------------------------------------------------


def as_json(comparison: Comparison) -> dict[str, Json]:
    """All of it, for other tools."""
    runs = comparison.runs
    names = dict.fromkeys(name for run in runs for name in results_of(run))
    return {
        "runs": [row_of(run) for run in runs],
        "differences": [{"group": one.group, "key": one.key, "values": list(one.values)} for one in comparison.found],
        "differ_in": list(things(comparison.found)),
        "data": [{"same": one.same, "why": one.why} for one in comparison.data],
        "results": {name: [results_of(run).get(name) for run in runs] for name in names},
        "first_difference": [
            {"common_steps": one.steps, "step": one.step, "losses": _losses(one)} for one in comparison.divergences
        ],
        "paired": [_pairs_json(one) for one in comparison.pairs],
    }


def _losses(one: Divergence) -> Json:
    return None if one.losses is None else [finite(loss) for loss in one.losses]


def _pairs_json(pairs: Pairs) -> dict[str, Json]:
    paired = pairs.paired
    statistics: dict[str, Json] = {}
    if paired is not None:
        statistics = {
            "difference": finite(paired.mean),
            "half_interval": finite(paired.half),
            "level": paired.level,
            "p": finite(paired.p),
            "smallest_p": paired.smallest_p,
            "evidence": paired.evidence,
        }
    return {
        "by": pairs.by,
        "metric": pairs.metric or None,
        "keys": list(pairs.keys),
        "values": [[finite(value) for value in side] for side in pairs.values],
        "left_out": list(pairs.left_out),
        "equal_losses": pairs.equal,
        **statistics,
    }


def results_of(run: RunRecord) -> dict[str, float | None]:
    """The numbers that a run ended with; of several, mean and spread of those that are finished."""
    if run.planned is None:
        numbers: Mapping[str, Any] = {"steps": run.result.get("steps"), "seconds": run.seconds}
        return {**run.results(), **{name: finite(value) for name, value in numbers.items()}}
    finished = [part.results() for part in run.parts if part.result]
    names = dict.fromkeys(name for one in finished for name in one if not name.endswith("seconds"))
    means: dict[str, float | None] = {}
    for name in names:
        values = [value for one in finished if (value := one.get(name)) is not None]
        means[name] = mean(values) if values else None
        means[f"{name}_sd"] = finite(deviation(values)) if values else None
    return {**means, "runs": len(finished), "seconds": run.seconds}
