"""One run on one screen: `etude show RUN`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from etude.runs.chart import MARK, chart
from etude.runs.draw import smoothed
from etude.runs.files import finite, mapping, text
from etude.runs.listing import row_of, table_of
from etude.runs.read import RunRecord
from etude.runs.series import Series, read_series
from etude.runs.text import columns, many, plain, shorten

if TYPE_CHECKING:
    from etude.types import Json

PRINTED: Final = frozenset({"json", "quiet", "run_dir", "save_every", "keep", "on_save_error"})
"""Options that decide what is printed and kept, and nothing of the training."""
_MOST_ROWS: Final = 30
_MOST_INCIDENTS: Final = 12


def details(run: RunRecord, defaults: Mapping[str, Any]) -> dict[str, Json]:
    """Everything worth knowing of a run, as JSON.

    Args:
        run: the run.
        defaults: the options that its recipe has of itself.
    """
    series = read_series(run.folder)
    if run.planned is not None:
        parts: list[Json] = [row_of(part) for part in run.parts]
        rows: list[Json] = [mapping(row) for row in run.result.get("rows") or () if isinstance(row, dict)]
        return {**row_of(run), "parts": parts, "planned": list(run.planned), "rows": rows, "damage": dict(run.damage)}
    options = {name: value for name, value in run.options.items() if name not in PRINTED}
    return {
        **row_of(run),
        "command": command_of(run),
        "changed_options": {name: value for name, value in options.items() if differs(name, value, defaults)},
        "options": options,
        "data_identity": mapping(run.config.get("data")),
        "model_config": run.config.get("model"),
        "environment": {name: value for name, value in run.environment.items() if name not in ("git", "source")},
        "git": _git(run),
        "results": run.results(),
        "history": list(series.epochs),
        "steps": len(series.steps),
        "unreadable_lines": series.unreadable,
        "incidents": list(run.incidents()),
        "checkpoints": checkpoints(run.folder),
        "files": files(run.folder),
        "damage": dict(run.damage),
    }


def differs(name: str, value: object, defaults: Mapping[str, Any]) -> bool:
    """Whether an option is not at its recipe's default; what the recipe does not know is."""
    return name not in defaults or defaults[name] != value


def command_of(run: RunRecord) -> str:
    """The command line, to be pasted into a shell."""
    words = run.environment.get("command")
    if not isinstance(words, list) or not words:
        return ""
    return shlex.join([Path(str(words[0])).name, *map(str, words[1:])])


def _git(run: RunRecord) -> dict[str, Json]:
    git = mapping(run.environment.get("git"))
    changes = text(git.get("changes"))
    return {
        "commit": text(git.get("commit")) or None,
        "changed_lines": changed_lines(changes),
        "untracked": finite(git.get("untracked")),
    }


def changed_lines(patch: str) -> int:
    """How many lines a patch takes out or puts in."""
    return sum(line[:1] in ("+", "-") and line[:4] not in ("+++ ", "--- ") for line in patch.splitlines())


def checkpoints(folder: Path) -> dict[str, Json]:
    """The checkpoints of a run with their sizes in bytes."""
    return {path.name: _size(path) for path in _inside(folder / "checkpoints") if path.is_dir()}


def files(folder: Path) -> dict[str, Json]:
    """The files right in a run's folder with their sizes in bytes."""
    return {path.name: _size(path) for path in _inside(folder) if path.is_file()}


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _size(path: Path) -> int:
    try:
        return sum(part.stat().st_size for part in ([path] if path.is_file() else path.rglob("*")) if part.is_file())
    except OSError:
        return 0  # it was removed meanwhile, as old checkpoints are


# -- as text -----------------------------------------------------------------------------------------------------------


def screen(run: RunRecord, defaults: Mapping[str, Any]) -> Iterator[str]:
    """A run in lines for a terminal."""
    state = run.state
    yield f"{plain(run.folder)}: {state.word}" + (f" ({plain(state.why)})" if state.why else "")
    for name, fault in run.damage.items():
        yield f"DAMAGED: {name} {plain(fault)}"
    if run.planned is not None:
        yield from _several(run)
        return
    yield ""
    known = [(name, plain(value)) for name, value in facts(run, defaults) if value]
    yield from columns(known)
    series = read_series(run.folder)
    yield from _history(run, series)
    yield from _incidents(run)
    yield from _contents(run.folder)


def _several(run: RunRecord) -> Iterator[str]:
    yield ""
    yield from table_of([row_of(part) for part in run.parts])
    assert run.planned is not None
    begun = {part.name for part in run.parts}
    if missing := [name for name in run.planned if name not in begun]:
        yield f"not begun: {plain(', '.join(missing))}"
    yield ""
    rows = run.result.get("rows")
    if isinstance(rows, list):
        yield from columns([("variant", "accuracy", "difference to", ""), *map(_variant, rows)])
    elif run.result:
        line = row_of(run)
        yield f"mean of {len(run.parts)} runs: accuracy {_percent(line['valid_accuracy'])}" + (
            "" if line["valid_accuracy_sd"] is None else f", standard deviation {_percent(line['valid_accuracy_sd'])}"
        )
    if len(run.parts) > 1:
        yield f"compare two of them: etude compare {' '.join(shlex.quote(str(p.folder)) for p in run.parts[:2])}"


def _variant(row: Any) -> tuple[str, str, str, str]:
    row = mapping(row)
    difference, half = finite(row.get("difference")), finite(row.get("difference_half_interval"))
    against = text(row.get("against"))
    points = "" if difference is None or not against else f"{100 * difference:+.2f} points"
    spread = "" if finite(row.get("sd")) is None else f" ± {100 * float(row['sd']):.2f}"
    interval = f" ± {100 * half:.2f}" if half is not None and points else ""
    return plain(text(row.get("variant"))), _percent(row.get("mean")) + spread, plain(against), points + interval


def _percent(share: Any) -> str:
    found = finite(share)
    return "not known" if found is None else f"{100 * found:.2f} %"


def facts(run: RunRecord, defaults: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a run is, each fact under its name; empty where it is not known, without a name where it belongs above."""
    environment, data = run.environment, mapping(run.config.get("data"))
    yield "started", run.started.strftime("%Y-%m-%d %H:%M:%S") if run.started else ""
    yield "command", command_of(run)
    yield "in", text(environment.get("cwd"))
    changed = {n: v for n, v in run.options.items() if n not in PRINTED and differs(n, v, defaults)}
    yield "options", ", ".join(f"{name} {value}" for name, value in changed.items()) or "the recipe's defaults"
    yield "data", text(data.get("description"))
    yield "", fingerprint(data)
    yield "model", _as_words(run.config.get("model"))
    yield "loss", text(run.config.get("loss"))
    yield "optimizer", text(run.config.get("optimizer"))
    yield "precision", f"{run.config.get('precision')} on {run.config.get('device')}"
    yield "versions", _versions(environment)
    yield "machine", _machine(environment)
    yield "commit", _commit(run)


def fingerprint(data: Mapping[str, Any]) -> str:
    """What tells the data from any other, shortened."""
    parts = [f"{name} {text(data.get(name))[:12]}" for name in ("store", "labels") if text(data.get(name))]
    return ", ".join(parts)


def _as_words(model: Any) -> str:
    config = mapping(model)
    rest = ", ".join(f"{name} {value}" for name, value in config.items() if name != "arch")
    return f"{config.get('arch', '')} ({rest})" if config else text(model)


def _versions(environment: Mapping[str, Any]) -> str:
    packages = mapping(environment.get("packages"))
    known = [f"{name} {version}" for name, version in packages.items() if version]
    return ", ".join([*known, *([f"python {environment['python']}"] if "python" in environment else [])])


def _machine(environment: Mapping[str, Any]) -> str:
    gpus = environment.get("gpus")
    parts = [
        text(environment.get("cpu")) or text(environment.get("machine")),
        *(map(str, gpus) if isinstance(gpus, list) else ()),
        f"{_counted(environment['threads'], 'thread')} of {_counted(environment.get('cpu_count'), 'CPU')}"
        if "threads" in environment
        else "",
        text(environment.get("platform")),
    ]
    return ", ".join(filter(None, parts))


def _commit(run: RunRecord) -> str:
    git = _git(run)
    if git["commit"] is None:
        return "not in a git checkout" if run.environment else ""
    untracked = git["untracked"]
    files = f", {untracked:.0f} files that git does not know" if isinstance(untracked, float) and untracked else ""
    lines = git["changed_lines"]
    return f"{git['commit']}, {f'{lines} changed lines not committed' if lines else 'nothing uncommitted'}{files}"


def _history(run: RunRecord, series: Series) -> Iterator[str]:
    if series.epochs:
        yield ""
        names = series.columns
        shown, skipped = evenly(len(series.epochs), _MOST_ROWS)
        cells = [[_cell(name, series.epochs[i].get(name)) for name in names] for i in shown]
        yield from columns([list(map(plain, names)), *cells], ">" * len(names))
        if skipped:
            yield f"one epoch of {skipped}, and the last; --json has all"
    if series.unreadable:
        yield f"{series.unreadable} lines of history.jsonl cannot be read, as after a crash; the others are used"
    yield from _chart(run, series)


def evenly(count: int, most: int) -> tuple[list[int], int]:
    """Places of at most so many rows, the last among them, and the distance between them; 0 when all are there."""
    if count <= most:
        return list(range(count)), 0
    stride = -(-count // (most - 1))
    return sorted({*range(stride - 1, count, stride), count - 1}), stride


def _cell(name: str, value: Any) -> str:
    found = finite(value)
    if found is None:
        return ""
    return f"{found:.0f}" if name == "epoch" else f"{found:.1f}" if name == "seconds" else f"{found:.4f}"


def _chart(run: RunRecord, series: Series) -> Iterator[str]:
    losses = [step.loss for step in series.steps]
    valid = series.column("valid_loss")
    last = series.steps[-1].step if series.steps else 0
    per_epoch = finite(run.config.get("steps_per_epoch")) or (last / len(valid) if valid else 0)
    marks = [((i + 1) * per_epoch / last, value) for i, value in enumerate(valid)] if last else []
    keep = 1 - 1 / max(min(len(losses) / 20, 50), 1)
    lines = chart(smoothed(losses, keep), [(place, value) for place, value in marks if place <= 1])
    if len(losses) > 1 and lines:
        yield ""
        yield "loss of training (line, smoothed)" + (f" and validation ({MARK})" if marks else "")
        yield from lines
        yield f"step 1 to {last}"


def _counted(count: Any, noun: str) -> str:
    return many(count, noun) if isinstance(count, int) else f"{plain(count)} {noun}s"


def _incidents(run: RunRecord) -> Iterator[str]:
    incidents = run.incidents()
    if incidents:
        yield ""
        yield many(len(incidents), "incident")
    for line in incidents[:_MOST_INCIDENTS]:
        step = f" (step {line['step']})" if line.get("step") is not None else ""
        yield f"  {plain(line.get('what'))}: {shorten(plain(line.get('why')), 200)}{plain(step)}"
    if len(incidents) > _MOST_INCIDENTS:
        yield f"  and {len(incidents) - _MOST_INCIDENTS} more in {plain(run.folder / 'incidents.jsonl')}"


def _contents(folder: Path) -> Iterator[str]:
    for title, found in (("checkpoints", checkpoints(folder)), ("files", files(folder))):
        if found:
            yield ""
            yield f"{title}: " + ", ".join(f"{plain(name)} {_human(size)}" for name, size in found.items())


def _human(size: Json) -> str:
    size = finite(size) or 0
    exponent = min(int(math.log(size, 1000)), 4) if size >= 1 else 0
    return f"{size / 1000**exponent:.3g} {['bytes', 'kB', 'MB', 'GB', 'TB'][exponent]}"
