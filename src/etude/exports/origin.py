"""Where an exported model comes from: the run, its result, its versions, and the license of its data."""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from etude.data import fetch
from etude.data.sources.known import DOCSTRINGS
from etude.runs.files import mapping, text
from etude.runs.read import RunRecord, read_run
from etude.training.learner import Learner
from etude.types import Json

UNKNOWN: Final = "unknown: ask whoever gave the data"


def run_of(path: Path) -> RunRecord | None:
    """The run whose folder, or checkpoint in it, a path is; None for a model that was saved elsewhere."""
    folder = path.resolve()
    return read_run(folder.parent.parent if folder.parent.name == "checkpoints" else folder)


def origin_of(run: RunRecord | None, learner: Learner) -> dict[str, Json]:
    """The run that a model comes from, as far as it is known, and what exports it."""
    now = {"date": datetime.now().astimezone().isoformat(timespec="seconds"), **_versions()}
    if run is None:
        rows = learner.history.rows
        return {"run": None, "result": _numbers(rows[-1]) if rows else None, "exported": now}
    git = mapping(run.environment.get("git"))
    return {
        "run": run.name,
        "command": run.environment.get("command"),
        "options": run.options,
        "git_commit": git.get("commit"),
        "git_changed": bool(git.get("changes")),
        "started": run.environment.get("started"),
        "packages": mapping(run.environment.get("packages")),
        "result": _numbers(run.result) or None,
        "exported": now,
    }


def _numbers(row: Any) -> dict[str, Json]:
    """What of a result can be said of any machine."""
    return {name: value for name, value in row.items() if name != "run" and value == value}


def _versions() -> dict[str, Json]:
    found: dict[str, Json] = {}
    for package in ("etude", "torch", "safetensors", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def license_of(run: RunRecord | None, given: str | None) -> str:
    """The license of the data: as it was said, or that of a known data set."""
    if given is not None:
        return given
    name = "" if run is None else text(run.options.get("data"))
    if name == DOCSTRINGS.name:
        return f"{DOCSTRINGS.license} ({name})"
    known = fetch.DATASETS.get(name)
    return UNKNOWN if known is None else f"{known.license} ({known.name}, {known.url})"
