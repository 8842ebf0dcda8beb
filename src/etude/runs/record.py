"""The folder of a run, filled while it trains.

config.json         command, options, model, data, callbacks: what was asked for
environment.json    versions, machine, threads, git commit: where it ran
resumes.jsonl       where it went on, each time that it was resumed
history.jsonl       one line per step (loss, learning rate) and per epoch (the table's row)
incidents.jsonl     one line for everything that did not go as planned; empty when all went well
checkpoints/        where a run that was stopped can go on; see `etude.training.checkpoint`
curves.png          loss, accuracy and learning rate over the run
model.safetensors, model.json    the trained model, for `etude.load`
result.json         what came out; its presence means that the run ended
run.lock            held by the process that fills the folder
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

from filelock import FileLock, Timeout
from typing_extensions import override

from etude.errors import ConfigError
from etude.runs.draw import draw_curves
from etude.runs.environment import environment
from etude.training import saving
from etude.training.callback import Callback, describe
from etude.training.callbacks.record import Record
from etude.training.history import History
from etude.training.settings import told
from etude.training.transfer import HoldNorms, norm_state
from etude.types import Batch, Json, StepOutput

if TYPE_CHECKING:
    from etude.training.learner import Learner


def check_run_dir(run_dir: str | os.PathLike[str] | None) -> None:
    """Refuse a folder that holds something already; nothing of it is touched.

    What a process leaves that was killed while it made the folder is nothing.

    Raises:
        ConfigError: naming it.
    """
    folder = Path(run_dir) if run_dir is not None else None
    if folder is None or not folder.exists():
        return
    if folder.is_dir() and all(_is_empty(path) for path in folder.iterdir()):
        return
    unfinished = (folder / "config.json").exists() and not (folder / "result.json").exists()
    ways = f"go on with it: etude resume {folder}; or name" if unfinished else "name"
    raise ConfigError(f"{folder} is not an empty folder; {ways} another one with --run-dir, or remove it")


def _is_empty(path: Path) -> bool:
    if path.name == "checkpoints" and path.is_dir():
        return not any(path.iterdir())
    return path.name in ("incidents.jsonl", "run.lock") and path.stat().st_size == 0


def new_run_folder(name: str, run_dir: str | os.PathLike[str] | None = None, *, several: bool = False) -> Path:
    """A new folder: `run_dir` itself, or `runs/<date>-<time>-<name>`.

    Args:
        name: of the recipe.
        run_dir: the folder; new or empty.
        several: it will hold the folders of several runs, and nothing of a run itself but the result.

    Raises:
        ConfigError: `run_dir` holds something already; nothing of it is touched.
    """
    check_run_dir(run_dir)
    if run_dir is not None:
        folder = Path(run_dir)
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder = _first_free(Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}")
    if not several:
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "incidents.jsonl").touch()
    return folder


def _first_free(wanted: Path) -> Path:
    """The wanted folder or, when several runs start in one second, the first free number behind it."""
    for i in itertools.count(1):
        folder = wanted if i == 1 else wanted.with_name(f"{wanted.name}-{i}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


_PATIENCE = 6.0
"""Seconds."""


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """Hold a run's folder while it is filled; a process that dies lets go.

    Raises:
        ConfigError: another process fills it.
    """
    try:
        # workers of a process that was killed hold its lock for up to five seconds more
        held = FileLock(folder / "run.lock").acquire(timeout=_PATIENCE)
    except Timeout:
        raise ConfigError(f"{folder} is being trained by another process; wait for it, or stop it") from None
    with held:
        yield


_SECONDS_BETWEEN_WRITES = 30.0


@final
class KeepRun(Callback):
    """Writes a run's folder while it trains.

    Args:
        folder: from `new_run_folder`.
        options: what the user asked for, by flag name.
        training: what a recipe needs to make the same learner again; None for one made by hand.
        resumed: what is said of a run that goes on; empty for a new one.
        changed: what of it is not as it began, by the names that `Learner.fit` takes.
        about: what else config.json shall say, such as the epochs of all phases and where the body comes from.
    """

    decides_training = False

    def __init__(
        self,
        folder: Path,
        options: dict[str, Json],
        training: dict[str, Json] | None = None,
        *,
        resumed: str = "",
        changed: Collection[str] = (),
        about: Mapping[str, Json] = MappingProxyType({}),
    ) -> None:
        self.folder, self.options, self.training, self.about = folder, options, training, dict(about)
        self.resumed, self.changed = resumed, sorted(changed)
        self._record = Record()
        self._rows: list[tuple[int, dict[str, Json]]] = []
        """Each epoch's row, and how many batches were recorded before it."""
        self._phases: list[dict[str, Json]] = []
        self._written, self._next_write = 0, 0.0
        self._begun = False

    @override
    def before_fit(self, learner: Learner) -> None:
        """Write down what was asked for, and where it runs; of each further phase, what it trains."""
        # of a resumed phase the entry comes back with the checkpoint's state
        self._phases = [*self._phases[: learner.progress.phase], _phase(learner)]
        saving.write_json(self.folder / "config.json", self._config(learner))
        if self._begun:
            return
        self._begun = True
        # of a run that was finished, and now goes on
        for name in ("result.json", saving.WEIGHTS, saving.DESCRIPTION):
            (self.folder / name).unlink(missing_ok=True)
        self._write_anew()
        if self.resumed:
            self.incident("resumed", self.resumed)
            _append(self.folder / "resumes.jsonl", [{"why": self.resumed, "environment": environment()}])
            return
        saving.write_json(self.folder / "environment.json", environment())
        for name, outcome, reason in learner.data.incidents:
            self.incident(f"data: {outcome}", f"{name}: {reason}")

    @override
    def during_fit(self, learner: Learner) -> AbstractContextManager[Any]:
        """An error that ends the fit is an incident."""
        return self._noting_errors(learner)

    @contextmanager
    def _noting_errors(self, learner: Learner) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.incident("fit ended", f"{type(error).__name__}: {error}".removesuffix(": "), learner.progress.step)
            raise

    @override
    def after_step(self, learner: Learner, batch: Batch, output: StepOutput) -> None:
        """Remember loss and learning rate; now and then write them, so that a process that is killed leaves a trace."""
        self._record.after_step(learner, batch, output)
        if (now := time.monotonic()) >= self._next_write:
            if self._next_write:
                self._append_steps()
            self._next_write = now + _SECONDS_BETWEEN_WRITES

    @override
    def after_epoch(self, learner: Learner, results: dict[str, float]) -> None:
        """Append the epoch's steps and its row."""
        self._append_steps()
        row = {name: _number(value) for name, value in results.items()}
        self._rows.append((self._written, row))
        _append(self.folder / "history.jsonl", [{"kind": "epoch", **row}])

    @override
    def after_fit(self, learner: Learner, history: History) -> None:
        """Append the steps of an epoch that was not finished."""
        self._append_steps()

    def _append_steps(self) -> None:
        """Write the steps that are not on disk yet."""
        start, self._written = self._written, len(self._record.lrs)
        _append(self.folder / "history.jsonl", self._steps(start, self._written))

    def _steps(self, start: int, end: int) -> list[dict[str, Json]]:
        record = self._record
        columns = (column[start:end] for column in (record.steps, record.losses, record.lrs, record.momenta))
        return [
            {"kind": "step", "step": step, "loss": _number(loss), "lr": lr, "momentum": momentum}
            for step, loss, lr, momentum in zip(*columns, strict=True)
        ]

    def _write_anew(self) -> None:
        """Write the history as it is known: what a killed process wrote beyond its last checkpoint is trained again."""
        lines: list[dict[str, Json]] = []
        done = 0
        for position, row in self._rows:
            lines += [*self._steps(done, position), {"kind": "epoch", **row}]
            done = position
        self._written = len(self._record.lrs)
        lines += self._steps(done, self._written)
        part = self.folder / "history.jsonl.part"
        part.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        part.replace(self.folder / "history.jsonl")

    def incident(self, what: str, why: str, step: int | None = None) -> None:
        """Write down something that did not go as planned."""
        _append(self.folder / "incidents.jsonl", [{"what": what, "why": why, "step": step}])

    def finish(self, learner: Learner, extra: dict[str, Json]) -> dict[str, Json]:
        """Write the model, the curves and, last, the result.

        Returns:
            The result: the last row of the table, how the fit ended, and `extra`.
        """
        for note in learner.history.notes:
            self.incident("note", note)
        learner.save(self.folder)
        draw_curves(learner.history, self._record, self.folder / "curves.png")
        last = learner.history.rows[-1] if learner.history.rows else {}
        result: dict[str, Json] = {
            "run": str(self.folder),
            **{name: _number(value) for name, value in last.items() if name not in ("epoch", "seconds")},
            "epochs": len(learner.history),
            "steps": learner.progress.step,
            "stopped": learner.history.stopped,
            "ended": datetime.now().astimezone().isoformat(timespec="seconds"),
            **extra,
        }
        saving.write_json(self.folder / "result.json", result)
        return result

    @override
    def state_dict(self) -> dict[str, Any]:
        """What was recorded."""
        return {"record": self._record.state_dict(), "rows": list(self._rows), "phases": list(self._phases)}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on recording."""
        self._record.load_state_dict(state["record"])
        self._rows = [(position, row) for position, row in state["rows"]]
        if (phases := state.get("phases")) and phases != self._phases:
            # those before the one that is resumed were not known when this fit began
            self._phases = list(phases)
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
            saving.write_json(self.folder / "config.json", {**config, "phases": list(phases)})
        self._write_anew()

    def _config(self, learner: Learner) -> dict[str, Json]:
        optimizer = learner.optimizer
        assert optimizer is not None
        return {
            "options": self.options,
            "training": self.training,
            "changed": self.changed,
            "model": saving.config_of(learner.model) or type(learner.model).__name__,
            "data": {"description": learner.data.description, **learner.data.identity},
            "loss": str(learner.loss_fn),
            "optimizer": type(optimizer).__name__,
            "groups": [
                {name: _plain(value) for name, value in group.items() if name != "params"}
                | {"tensors": len(group["params"])}
                for group in optimizer.param_groups
            ],
            "callbacks": [describe(callback) for callback in learner.running().events.callbacks],
            "precision": learner.precision.name if learner.precision else None,
            "precision_reason": learner.precision.reason if learner.precision else None,
            "average": None if learner.average is None else str(learner.average),
            "step": told(learner.step),
            "device": str(learner.device),
            "accumulate": learner.accumulate,
            "seed": learner.seed,
            "epochs": learner.progress.num_epochs,
            "phases": list(self._phases),
            **self.about,
            "steps_per_epoch": learner.progress.steps_per_epoch,
        }


def _phase(learner: Learner) -> dict[str, Json]:
    """What one fit of a training trains: all of the model, or what is not frozen, and what the norms do in a step."""
    held = [name for one in learner.running().events.callbacks if isinstance(one, HoldNorms) for name in one.names]
    counts = Counter(norm_state(learner.model, held).values())
    parameters = list(learner.model.parameters())
    return {
        "first_epoch": learner.progress.epoch + 1,
        "epochs": learner.progress.num_epochs,
        "trainable": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "norms": dict(counts),
    }


def _append(path: Path, lines: Sequence[dict[str, Json]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _plain(value: Any) -> Json:
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _number(value: float) -> Json:
    """JSON has no NaN."""
    return value if value == value and abs(value) != float("inf") else None
