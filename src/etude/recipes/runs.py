"""Look at run folders: list them, show one, compare several. The folders are all there is; nothing else is kept."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import ConfigError, LoadError
from etude.recipes.options import DataOptions, ModelOptions, OutputOptions, TrainOptions, check_picture, flags
from etude.runs.listing import Sort
from etude.runs.read import RunRecord, read_run
from etude.runs.text import plain

if TYPE_CHECKING:
    from etude.types import Json

RUNS = "runs"
"""Where trainings write to unless told otherwise."""


def list_runs(
    folder: str = RUNS,
    *,
    sort: Sort = "when",
    limit: int = 50,
    output: OutputOptions = OutputOptions(),  # noqa: B008  # frozen
) -> dict[str, Json]:
    """List the runs in a folder, newest first.

    Args:
        folder: the folder; that of several runs lists these.
        sort: what to sort by; the best, newest or fastest comes first.
        limit: how many to list at most; 0 lists all.
        output: whether to print.

    Raises:
        ConfigError: a negative limit.
        LoadError: there is no such folder, unless it is the one that trainings write to.
    """
    from etude.runs.listing import nothing_there, row_of, sort_runs, table_of
    from etude.runs.read import Found

    place = Path(folder)
    if limit < 0:
        raise ConfigError(f"--limit must be at least 0, got {limit}")
    if not place.is_dir() and (place.exists() or folder != RUNS):
        raise LoadError(f"{'a file, not a folder' if place.exists() else 'there is no folder'}: {plain(folder)}")
    found = _found(place) if place.is_dir() else Found([], [])
    listed = sort_runs(found.runs, sort)[: limit or None]
    rows = [row_of(run) for run in listed]
    _say(table_of(rows) if rows else nothing_there(place), output)
    if len(found.runs) > len(rows):
        _say([f"and {len(found.runs) - len(rows)} more; --limit 0 lists all"], output)
    if found.others:
        few = plain(", ".join(found.others[:3])) + (", ..." if len(found.others) > 3 else "")
        _say([f"{len(found.others)} other folders are no runs: {few}"], output)
    every: list[Json] = list(rows)
    return {"folder": folder, "total": len(found.runs), "runs": every, "others": list(found.others)}


def _found(place: Path) -> Any:
    """The runs in a folder; a run's own folder is that run, or those in it."""
    from etude.runs.read import Found, find_runs

    own = read_run(place)
    if own is None:
        return find_runs(place)
    return Found([own] if own.planned is None else list(own.parts), [])


def show_run(run: str, output: OutputOptions = OutputOptions()) -> dict[str, Json]:  # noqa: B008  # frozen
    """Show everything worth knowing of a run on one screen.

    Args:
        run: its folder, or its name in runs/.
        output: whether to print.

    Raises:
        LoadError: it is no run's folder.
    """
    from etude.runs.show import details, screen

    record = open_run(run)
    defaults = defaults_of(record)
    _say(screen(record, defaults), output)
    return details(record, defaults)


def compare_runs(
    runs: Sequence[str],
    out: str = "compare.png",
    output: OutputOptions = OutputOptions(),  # noqa: B008  # frozen
) -> dict[str, Json]:
    """Compare runs, or folders of several seeds, with the first of them; draw their curves over each other.

    Args:
        runs: two or more folders, or names in runs/.
        out: the PNG to write.
        output: whether to print.

    Raises:
        ConfigError: they are not of one kind, or `out` cannot be written.
        LoadError: one is no run's folder.
    """
    from etude.runs.compare import as_json
    from etude.runs.compare import compare_runs as compare
    from etude.runs.overlay import draw_comparison
    from etude.runs.verdict import report

    check_picture(out)
    comparison = compare([open_run(run) for run in runs])
    lines = list(report(comparison))
    draw_comparison(comparison, Path(out))
    _say([*lines, f"look at {plain(out)}"], output)
    return {**as_json(comparison), "picture": out}


def open_run(run: str) -> RunRecord:
    """A run by its folder, or by its name in runs/.

    Raises:
        LoadError: naming what is there instead.
    """
    for place in (Path(run), Path(RUNS) / run):
        if place.is_dir() and (record := read_run(place)) is not None:
            return record
    if Path(run).is_dir():
        raise LoadError(
            f"{plain(run)} is no run's folder: it holds no config.json that a training wrote. "
            f"To list the runs in it: etude runs {plain(run)}"
        )
    kind = "is a file" if Path(run).exists() else "does not exist, nor is it a run in runs/"
    raise LoadError(f"{plain(run)} {kind}; name the folder of a run (see: etude runs)")


def defaults_of(record: RunRecord) -> dict[str, Json]:
    """The options of a run's recipe, had nothing been said."""
    from etude.recipes.demo import DemoOptions
    from etude.recipes.imagenette import ImagenetteOptions
    from etude.recipes.studies import StudyOptions
    from etude.recipes.text_options import (
        ClassifierTrainOptions,
        LabeledTextOptions,
        LanguageModelTrainOptions,
        TextModelOptions,
        TextOptions,
    )

    kind, recipe = record.training.get("kind"), record.recipe
    if kind == "language model":
        return _as_json(flags(TextOptions(), TextModelOptions(), LanguageModelTrainOptions())) | {"from": None}
    if kind == "text classifier":
        return _as_json(flags(LabeledTextOptions(), TextModelOptions(), ClassifierTrainOptions())) | {"lm": None}
    if kind == "digits":
        return flags(DemoOptions())
    train: TrainOptions = TrainOptions()
    if recipe in ("imagenette", "imagewoof"):
        train = ImagenetteOptions()
    elif kind == "whole pictures":
        train = StudyOptions()
    return flags(DataOptions(), ModelOptions(), train)


def _as_json(options: Mapping[str, Json]) -> dict[str, Json]:
    """Options as a run's record has them: a pair is a list there."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def _say(lines: Iterable[str], output: OutputOptions) -> None:
    """Print lines; a sign that the terminal does not have as an escape."""
    if output.quiet:
        return
    encoding = sys.stdout.encoding or "utf-8"
    for line in lines:
        print(line.encode(encoding, "backslashreplace").decode(encoding))
