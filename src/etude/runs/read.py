"""Read run folders, whole or not: what is damaged, unfinished or no run at all is said, and never an error.

Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

from etude.runs.files import changed, finite, is_locked, last_epoch, mapping, read_lines, read_object, text, whole

CONFIG: Final = "config.json"
ENVIRONMENT: Final = "environment.json"
RESULT: Final = "result.json"
HISTORY: Final = "history.jsonl"
INCIDENTS: Final = "incidents.jsonl"
LOCK: Final = "run.lock"
_OWN: Final = {"options", "data", "model"}
"""Keys that the config.json of a run has, and that of other programs has not."""
_NO_METRIC: Final = frozenset({"train_seconds", "valid_right", "valid_samples"})


class State(NamedTuple):
    """How a run stands, and why it ended if that was before its end."""

    word: str
    """finished, running, stopped, failed, unfinished, damaged."""
    why: str = ""


@dataclass(frozen=True)
class RunRecord:
    """What the folder of a run says.

    Args:
        folder: where it lies.
        config: what was asked for; empty where there is none.
        environment: where it ran.
        result: what came out; empty for a run that did not end.
        damage: the files that cannot be read, with the reason.
        planned: for several runs in one folder, the folders of all; None for a single run.
        parts: those of them that were begun.
    """

    folder: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    result: Mapping[str, Any]
    damage: Mapping[str, str]
    planned: tuple[str, ...] | None = None
    parts: tuple[RunRecord, ...] = ()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name or str(self.folder)

    @property
    def options(self) -> dict[str, Any]:
        """What was asked for, by flag name."""
        return mapping(self.config.get("options"))

    @property
    def training(self) -> dict[str, Any]:
        """What the recipe was asked to train; for several runs, the first of them."""
        if self.planned is None:
            return mapping(self.config.get("training"))
        parts = mapping(mapping(self.config.get("several")).get("parts"))
        return mapping(next(iter(parts.values()), None))

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        title = text(mapping(self.config.get("several")).get("title"))
        return title or text(self.training.get("name"))

    @property
    def noun(self) -> str:
        """What one of its samples is called."""
        return "text" if self.training.get("kind") in ("language model", "text classifier") else "picture"

    @property
    def data(self) -> str:
        """What it was trained on, in a word or two."""
        if self.training.get("kind") == "digits":
            return "digits"
        source = text(self.options.get("data")) or text(mapping(self.training.get("data")).get("data"))
        return Path(source).name or source or text(mapping(self.config.get("data")).get("description"))

    @property
    def model(self) -> str:
        """The architecture or the class of the model."""
        model = self.config.get("model")
        arch = text(mapping(model).get("arch")) or text(model)
        if not arch and self.parts:
            return self.parts[0].model
        return arch or text(mapping(self.training.get("model")).get("arch"))

    @property
    def seed(self) -> int | None:
        """The seed that decides weights, orders and augmentation."""
        return whole(self.options.get("seed", self.config.get("seed")))

    @property
    def commit(self) -> str:
        """The commit of the checkout it was started in, or an empty text."""
        if self.parts:
            return self.parts[0].commit
        return text(mapping(self.environment.get("git")).get("commit"))

    @property
    def epochs_asked(self) -> int | None:
        """How many epochs it was to train."""
        asked = self.config.get("epochs", self.options.get("epochs"))
        return whole(mapping(self.training.get("train")).get("epochs") if asked is None else asked)

    @cached_property
    def epochs_done(self) -> int | None:
        """How many epochs are finished."""
        if self.result:
            return whole(self.result.get("epochs"))
        return whole(self.last_epoch.get("epoch")) or 0

    @cached_property
    def last_epoch(self) -> dict[str, Any]:
        """The last row of the epoch table; only the end of the history is read."""
        return last_epoch(self.folder / HISTORY)

    @property
    def seconds(self) -> float | None:
        """How long it trained; for several, all together."""
        seconds = self.result.get("train_seconds")
        if isinstance(seconds, list):
            known = [value for value in map(finite, seconds) if value is not None]
            return sum(known) if known else None
        return finite(seconds)

    @cached_property
    def started(self) -> datetime | None:
        """When it was started; from the folder's name or its oldest file where it was not written down."""
        if self.parts:
            return min((part.started for part in self.parts if part.started is not None), default=None)
        return _when(text(self.environment.get("started"))) or _named_date(self.name) or _oldest(self.folder)

    def results(self) -> dict[str, float | None]:
        """The numbers of the last epoch: of the result, or of the last row of a run that has none yet."""
        numbers = self.result or self.last_epoch
        names = (name for name in numbers if name.startswith(("train_", "valid_")) and name not in _NO_METRIC)
        return {name: finite(numbers[name]) for name in names}

    def incidents(self) -> list[dict[str, Any]]:
        """Everything that did not go as planned."""
        return [mapping(line) for line in read_lines(self.folder / INCIDENTS)]

    @cached_property
    def state(self) -> State:
        """How it stands."""
        for name in (CONFIG, RESULT):
            if name in self.damage:
                return State("damaged", f"{name} {self.damage[name]}")
        if self.result and not self._goes_on():
            stopped = text(self.result.get("stopped"))
            return State("stopped", stopped) if stopped else State("finished")
        if is_locked(self.folder / LOCK):
            return State("running")
        return self._state_of_parts() if self.planned is not None else self._how_it_ended()

    def _goes_on(self) -> bool:
        """Whether a run that had a result is trained further: its history is newer, and its lock held."""
        history, result = changed(self.folder / HISTORY), changed(self.folder / RESULT)
        return history > result and is_locked(self.folder / LOCK)

    def _how_it_ended(self) -> State:
        lines = [line for line in self.incidents() if line.get("what") in ("fit ended", "resumed")]
        # how it ended before it was resumed is the past
        ends = [text(line.get("why")) for line in lines[-1:] if line.get("what") == "fit ended"]
        for signal, words in (
            ("KeyboardInterrupt", "by Ctrl-C"),
            ("SystemExit: 143", "by SIGTERM"),
            ("SystemExit: 129", "as its terminal was closed"),
        ):
            if ends and ends[-1].startswith(signal):
                return State("stopped", words)
        if ends:
            return State("failed", ends[-1])
        if (self.folder / LOCK).exists():
            return State("failed", "it ended without a word: it was killed, or the machine went down")
        return State("unfinished", "it has no result, and no lock that tells whether it is still running")

    def _state_of_parts(self) -> State:
        assert self.planned is not None
        states = {part.name: part.state for part in self.parts}
        count = sum(bool(part.result) for part in self.parts)
        done = f"{count} of {len(self.planned)} runs finished"
        for word in ("running", "failed", "damaged", "stopped"):
            for name, state in states.items():
                # a part that was stopped early by its own rule is as good as finished
                if state.word == word and not (word == "stopped" and self._part(name).result):
                    return State(word, f"{done}; {name} {state.word}" + (f": {state.why}" if state.why else ""))
        return State("unfinished", done)

    def _part(self, name: str) -> RunRecord:
        return next(part for part in self.parts if part.name == name)


def read_run(folder: Path, *, with_parts: bool = True) -> RunRecord | None:
    """What a folder says of its run; None for a folder that is no run's.

    Args:
        folder: any folder.
        with_parts: whether the runs in it are read too, where it holds several.
    """
    files, damage = {}, {}
    for name in (CONFIG, ENVIRONMENT, RESULT):
        files[name], fault = read_object(folder / name)
        if fault:
            damage[name] = fault
    config = files[CONFIG]
    several = config.get("several")
    if several is not None and not isinstance(several, dict):
        damage[CONFIG] = 'has no object under "several"'
    if not _is_run(folder, config, damage):
        return None
    planned, parts = _parts(folder, several) if with_parts and isinstance(several, dict) else (None, ())
    return RunRecord(folder, config, files[ENVIRONMENT], files[RESULT], damage, planned, parts)


def _is_run(folder: Path, config: Mapping[str, Any], damage: Mapping[str, str]) -> bool:
    """Whether a folder is a run's: other programs write a config.json, too, and perhaps a result.json."""
    if "several" in config or set(config) >= _OWN:
        return True
    known = CONFIG in damage or not (folder / CONFIG).exists()
    return known and any((folder / name).is_file() for name in (INCIDENTS, HISTORY))


def _parts(folder: Path, several: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[RunRecord, ...]]:
    """The runs in a folder of several: their names, and those that were begun. A name never leads out of the folder."""
    planned = tuple(name for name in mapping(several.get("parts")) if is_plain_name(name))
    found = (read_run(folder / name, with_parts=False) for name in planned)
    return planned, tuple(part for part in found if part is not None)


def is_plain_name(name: str) -> bool:
    """Whether a name that was read from a file is that of a folder inside, and leads nowhere else."""
    return name not in ("", ".", "..") and not set(name) & set("/\\:\0")


class Found(NamedTuple):
    """What a folder holds."""

    runs: list[RunRecord]
    others: list[str]
    """Names of the folders in it that are no runs'."""


def find_runs(folder: Path) -> Found:
    """All runs right under a folder; for the folder of several runs, these."""
    runs: list[RunRecord] = []
    others: list[str] = []
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            continue
        run = read_run(path)
        runs.append(run) if run is not None else others.append(path.name)
    return Found(runs, others)


def _when(stamp: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return found.astimezone()


def _named_date(name: str) -> datetime | None:
    """The date in a folder's name as `new_run_folder` gives it."""
    found = re.match(r"(\d{8}-\d{6})-", name)
    try:
        return datetime.strptime(found[1], "%Y%m%d-%H%M%S").astimezone() if found else None
    except ValueError:
        return None


def _oldest(folder: Path) -> datetime | None:
    times = list(filter(None, (changed(folder / name) for name in (CONFIG, ENVIRONMENT, INCIDENTS, HISTORY))))
    return datetime.fromtimestamp(min(times)).astimezone() if times else None
