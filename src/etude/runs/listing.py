"""Many runs as one table: `etude runs`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from etude.runs.files import finite
from etude.runs.read import RunRecord
from etude.runs.text import columns, plain, shorten

if TYPE_CHECKING:
    from etude.types import Json

Sort = Literal["when", "name", "accuracy", "loss", "seconds"]
_HEADER: Final = ("run", "state", "started", "recipe", "data", "model", "epochs", "validation", "seconds", "commit")
_ALIGN: Final = "      >>> "
_WIDTHS: Final = {"run": 44, "recipe": 18, "data": 20, "model": 14}


def sort_runs(runs: Sequence[RunRecord], by: Sort) -> list[RunRecord]:
    """The best, newest or fastest first; a run that lacks the number comes last."""
    if by == "name":
        return sorted(runs, key=lambda run: run.name)
    value: dict[str, Callable[[RunRecord], float | None]] = {
        "when": lambda run: -run.started.timestamp() if run.started else None,
        "accuracy": lambda run: _negative(run.results().get("valid_accuracy")),
        "loss": lambda run: run.results().get("valid_loss"),
        "seconds": lambda run: run.seconds,
    }

    def place(run: RunRecord) -> tuple[float, str]:
        found = value[by](run)
        return (math.inf if found is None else found, run.name)

    return sorted(runs, key=place)


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def row_of(run: RunRecord) -> dict[str, Json]:
    """One run of the listing, as JSON."""
    state, results = run.state, run.results()
    return {
        "name": run.name,
        "folder": str(run.folder),
        "state": state.word,
        "why": state.why,
        "started": run.started.isoformat(timespec="seconds") if run.started else None,
        "recipe": run.recipe,
        "data": run.data,
        "model": run.model,
        "runs": None if run.planned is None else len(run.planned),
        "epochs": run.epochs_done if run.planned is None else None,
        "epochs_asked": run.epochs_asked,
        "valid_accuracy": results.get("valid_accuracy"),
        "valid_accuracy_sd": results.get("valid_accuracy_sd"),
        "valid_rmse": results.get("valid_rmse"),
        "valid_loss": results.get("valid_loss"),
        "seconds": run.seconds,
        "commit": run.commit or None,
    }


def table_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The listing as lines, and under it why runs ended that did not finish."""
    if not rows:
        return []
    lines = columns([_HEADER, *map(_cells, rows)], _ALIGN)
    reasons = [(str(row["name"]), str(row["state"]), str(row["why"])) for row in rows if row["why"]]
    notes = [f"  {plain(name)} {state}: {shorten(plain(why), 200)}" for name, state, why in reasons]
    return [*lines, *(["", *notes] if notes else [])]


def _cells(row: dict[str, Any]) -> list[str]:
    asked = "" if row["epochs_asked"] is None else f"/{row['epochs_asked']}"
    epochs = f"{row['runs']} runs" if row["runs"] is not None else f"{_or_empty(row['epochs'])}{asked}"
    cells = {
        "run": row["name"],
        "state": row["state"],
        "started": (row["started"] or "")[:16].replace("T", " "),
        "recipe": row["recipe"],
        "data": row["data"],
        "model": row["model"],
        "epochs": epochs,
        "validation": validation(row),
        "seconds": "" if row["seconds"] is None else f"{row['seconds']:.1f}",
        "commit": (row["commit"] or "")[:8],
    }
    return [shorten(plain(cells[name]), _WIDTHS.get(name, 100)) for name in _HEADER]


def _or_empty(value: object) -> str:
    return "" if value is None else str(value)


def validation(numbers: dict[str, Any]) -> str:
    """What validation gave, in a few signs: accuracy with its spread, or the error of numbers, or loss."""
    accuracy, sd = finite(numbers.get("valid_accuracy")), finite(numbers.get("valid_accuracy_sd"))
    if accuracy is not None:
        return f"{100 * accuracy:.2f} %" + ("" if sd is None else f" ± {100 * sd:.2f}")
    if (error := finite(numbers.get("valid_rmse"))) is not None:
        return f"RMSE {error:.4g}"
    loss = finite(numbers.get("valid_loss"))
    return "" if loss is None else f"loss {loss:.4f}"


def nothing_there(folder: Path) -> list[str]:
    """What to do where no run is."""
    where = f"{plain(folder)} holds no runs" if folder.is_dir() else f"there is no folder {plain(folder)}"
    return [
        f"{where} yet",
        "etude demo, etude train FOLDER and the other trainings write theirs to runs/; name another place:"
        " etude runs FOLDER",
    ]
