"""The parts of a report that a run's folder tells by itself: what was trained, how it went, and how to do it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from etude.runs import page
from etude.runs.draw import history_figure
from etude.runs.files import finite, text
from etude.runs.findings import drawn
from etude.runs.page import Markup
from etude.runs.read import RunRecord
from etude.runs.series import read_series
from etude.runs.show import command_of, evenly, facts
from etude.runs.text import many

_MOST_ROWS = 40
_MOST_INCIDENTS = 200


def is_of_language(run: RunRecord) -> bool:
    """Whether it is a language model that was trained."""
    return run.training.get("kind") == "language model"


def told_result(run: RunRecord) -> str:
    """State and last numbers of a run, in a sentence."""
    numbers = ", ".join(f"{name} {value:.4f}" for name, value in run.results().items() if value is not None)
    why = f" ({run.state.why})" if run.state.why else ""
    done = f" after {run.epochs_done} of {run.epochs_asked} epochs" if run.epochs_asked else ""
    return f"The run is {run.state.word}{why}{done}" + (f": {numbers}." if numbers else ".")


def story(run: RunRecord, defaults: Mapping[str, Any]) -> Iterator[tuple[str, Markup]]:
    """Sections, each with its heading.

    Args:
        run: whose folder.
        defaults: the options that its recipe has of itself.
    """
    yield "What was trained", _about(run, defaults)
    curves = _curves(run)
    if curves:
        yield "How it went", curves
    yield "What did not go as planned", _incidents(run)


def again(run: RunRecord, made_by: str) -> Markup:
    """How to make the run and its report once more, and what to name when it is spoken of."""
    packages = run.environment.get("packages")
    version = text(packages.get("etude")) if isinstance(packages, dict) else ""
    data = run.config.get("data")
    keys = {name: text(data.get(name)) for name in ("store", "labels")} if isinstance(data, dict) else {}
    named = [
        f"run {run.name}",
        f"etude {version}" if version else "",
        f"commit {run.commit}" if run.commit else "",
        f"seed {run.seed}" if run.seed is not None else "",
        f"data {run.data}" if run.data else "",
        *(f"{name} {key}" for name, key in keys.items() if key),
    ]
    cwd = text(run.environment.get("cwd"))
    command = command_of(run)
    parts = [page.paragraph("To name it:", "quiet"), page.listing(", ".join(filter(None, named)))]
    if command:
        lines = (f"cd {shlex.quote(cwd)}\n" if cwd else "") + command
        parts += [page.paragraph("To train it again:", "quiet"), page.listing(lines)]
    when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    parts += [page.paragraph(f"To make this report again (it was made on {when}):", "quiet"), page.listing(made_by)]
    return page.join(parts)


def _about(run: RunRecord, defaults: Mapping[str, Any]) -> Markup:
    known = [(name, value) for name, value in facts(run, defaults) if value]
    rows = [("state", run.state.word + (f" ({run.state.why})" if run.state.why else "")), *known]
    rows += [(f"damaged: {name}", fault) for name, fault in run.damage.items()]
    results = [(name, f"{value:.4f}") for name, value in run.results().items() if value is not None]
    seconds = [("trained for", f"{run.seconds:.0f} s")] if run.seconds is not None else []
    epochs = [("epochs", f"{run.epochs_done} of {run.epochs_asked}")] if run.epochs_asked else []
    options = [(name, str(value)) for name, value in run.options.items()]
    parts = [page.facts([*rows, *epochs, *seconds, *results])]
    if options:
        parts.append(page.hidden(f"all {len(options)} options", page.facts(options)))
    return page.join(parts)


def _curves(run: RunRecord) -> Markup | None:
    series = read_series(run.folder)
    if not series.steps and not series.epochs:
        return None
    parts = [drawn(lambda: history_figure(series), "loss and accuracy over the epochs")]
    if series.epochs:
        names = series.columns
        places, _ = evenly(len(series.epochs), _MOST_ROWS)
        rows = [[_cell(name, series.epochs[i].get(name)) for name in names] for i in places]
        parts.append(page.hidden("the epochs as a table", page.table(names, rows, ">" * len(names))))
    return page.join(parts)


def _cell(name: str, value: Any) -> str:
    number = finite(value)
    if number is None:
        return ""
    return f"{number:.0f}" if name == "epoch" else f"{number:.4f}"


def _incidents(run: RunRecord) -> Markup:
    incidents = run.incidents()
    if not incidents:
        return page.paragraph(
            f"Nothing: no {run.noun} was left out or converted, no step was skipped, nothing was resumed."
        )
    rows = [
        (one.get("what", ""), one.get("why", ""), "" if one.get("step") is None else one["step"]) for one in incidents
    ]
    shown = page.table(("what", "why", "step"), rows[:_MOST_INCIDENTS], "  >", kind="facts")
    more = len(rows) - _MOST_INCIDENTS
    parts = [shown if len(rows) <= 12 else page.hidden(many(len(rows), "incident"), shown)]
    if more > 0:
        parts.append(page.paragraph(f"and {more} more in {run.folder / 'incidents.jsonl'}", "quiet"))
    return page.join(parts)
