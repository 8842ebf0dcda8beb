"""One life of a small training: it begins or resumes in a run folder, and kills itself at a planned place.

A life writes what it is doing to a board, a file mapped into memory, which outlives it: one line for its main thread
and one for the thread that writes checkpoints.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import nn
from typing_extensions import override

from etude import Callback, ClipGradNorm, Learner, MixUp, SaveBest, accuracy
from etude.data.loaders import ArrayLoader, DataLoaders
from etude.optim import adamw
from etude.runs.record import KeepRun
from etude.training import checkpoint, writer
from etude.training.callbacks.checkpoints import Checkpoints
from etude.training.trees import to_json

EPOCHS, BATCHES, ACCUMULATE, VALID_BATCHES = 3, 8, 3, 3
"""Windows of 3, 3 and 2 batches."""
KILL = int(getattr(signal, "SIGKILL", 9))


class Case(NamedTuple):
    """How a training is set up."""

    precision: str
    every: int
    keep: int = 2


class Plan(NamedTuple):
    """Where a life is to end."""

    kind: str
    """save, replace (in a save that takes the place of another), batch, window, valid, clock (killed from outside), or
    none."""
    number: int = 0
    """The how manyth save, batch or validation batch of this life."""
    name: str = ""
    """Of the operation in a save, or of the moment in a batch."""
    occurrence: int = 0
    """The how manyth such operation in that save."""
    when: str = "before"


class Board:
    """What a process is doing, in a file that outlives it."""

    _LINE = 48

    def __init__(self, path: Path, *, new: bool = False) -> None:
        if new:
            path.write_bytes(bytes(2 * self._LINE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 2 * self._LINE)

    def say(self, line: int, text: str) -> None:
        self._map[line * self._LINE : (line + 1) * self._LINE] = text.encode()[: self._LINE].ljust(self._LINE, b"\0")

    def read(self, line: int) -> str:
        return self._map[line * self._LINE : (line + 1) * self._LINE].rstrip(b"\0").decode()

    def close(self) -> None:
        self._map.close()


def die() -> None:
    os.kill(os.getpid(), KILL)
    time.sleep(60)


class Killer(Callback):
    """Ends the process at a batch, and keeps the board up to date."""

    def __init__(self, plan: Plan, board: Board) -> None:
        self.plan, self.board = plan, board
        self._batches = self._inside = self._evaluated = 0

    def _now(self, name: str) -> None:
        self.board.say(0, name)
        if self.plan.kind == "batch" and (self.plan.number, self.plan.name) == (self._batches, name):
            die()

    @override
    def transform_batch(self, batch, learner):
        self._batches += 1
        self._now("batch: before the model")
        return batch

    @override
    def transform_grads(self, model, learner):
        self._now("batch: before the update")

    @override
    def after_step(self, learner, batch, output):
        self._now("batch: after it")
        done = learner.progress.epoch_batch
        if done % ACCUMULATE and done < BATCHES:
            self.board.say(0, "inside a window")
            self._inside += 1
            if self.plan.kind == "window" and self.plan.number == self._inside:
                die()

    @override
    def after_eval_batch(self, learner, batch, output):
        self.board.say(0, "validation")
        self._evaluated += 1
        if self._evaluated == self.plan.number:
            if self.plan.kind == "valid":
                die()
            elif self.plan.kind == "replace":
                os.kill(os.getpid(), signal.SIGTERM)

    @override
    def after_epoch(self, learner, results):
        self.board.say(0, "an epoch's end")


class Saboteur:
    """Counts the file-system operations of each save, and ends the process at one of them."""

    def __init__(self, plan: Plan, board: Board) -> None:
        self.plan, self.board = plan, board
        self._saves, self._replacing = 0, False
        self._counts: dict[str, int] = {}
        write, run = checkpoint.write, writer.Writer.run

        def running(thread):
            board.say(1, "save: begins")
            run(thread)
            board.say(1, "")

        def watched(snapshot, folder, description):
            self._saves += 1
            self._replacing = (folder / checkpoint.name_of(snapshot)).exists()
            self._counts = {}
            return write(snapshot, folder, description)

        checkpoint.write, writer.Writer.run = watched, running
        for name in ("fsync", "mkdir", "rename", "unlink", "rmdir"):
            self._patch(os, name, name)
        self._patch(safetensors.torch, "save_file", "save_file", _half_of_tensors)
        self._patch(Path, "open", "open")
        self._patch(checkpoint, "write_text", "text", _half_of_text)

    def _patch(self, owner: Any, attribute: str, name: str, half: Callable[..., Any] | None = None) -> None:
        real = getattr(owner, attribute)

        def operation(*args, **kwargs):
            if threading.current_thread().name.startswith("step-"):
                return self._do(name, real, half, args, kwargs)
            return real(*args, **kwargs)

        setattr(owner, attribute, operation)

    def _do(self, name: str, real: Any, half: Any, args: Any, kwargs: Any) -> Any:
        count = self._counts[name] = self._counts.get(name, 0) + 1
        plan = self.plan
        right = plan.number == self._saves if plan.kind == "save" else plan.kind == "replace" and self._replacing
        meant = right and plan.name == name and plan.occurrence == count
        self.board.say(1, f"save: {plan.when if meant else 'in'} {name}")
        if meant and plan.when == "amid" and hasattr(os, "fork"):
            _killed_soon(random.uniform(0, 4e-4))
        elif meant and plan.when in ("half", "amid") and half is not None:
            half(*args)
            self.board.say(1, f"save: half of {name}")
            die()
        elif meant and plan.when == "before":
            die()
        result = real(*args, **kwargs)
        if meant:
            self.board.say(1, f"save: after {name}")
            die()
        self.board.say(1, "save: between operations")
        return result


def _half_of_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    data = safetensors.torch.save(tensors)
    path.write_bytes(data[: len(data) // 2])


def _half_of_text(text: str, path: Path) -> None:
    path.write_text(text[: len(text) // 2])


def _killed_soon(seconds: float) -> None:
    """Have another process kill this one in a moment, in the midst of what it does then."""
    (reads, writes), process = os.pipe(), os.getpid()
    if os.fork() == 0:
        os.read(reads, 1)
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, KILL)
        os._exit(0)
    os.write(writes, b".")


def learner(case: Case, folder: Path, plan: Plan, board: Board) -> Learner:
    """A small network with a norm and dropout, and everything that has a state of its own."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(8 * BATCHES - 3, 1, 6, 6, generator=generator)
    targets = inputs.flatten(1)[:, :4].argmax(1)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 4)
    )
    data = DataLoaders(
        ArrayLoader(inputs, targets, batch_size=8, shuffle=True, seed=3),
        ArrayLoader(inputs[: 8 * VALID_BATCHES], targets[: 8 * VALID_BATCHES], batch_size=8),
        seed=3,
    )
    saves = Checkpoints(folder / checkpoint.FOLDER, keep=case.keep, every=case.every)
    callbacks = [MixUp(0.4), ClipGradNorm(0.1), SaveBest(), Killer(plan, board), KeepRun(folder, {}), saves]
    return Learner(
        model,
        data,
        nn.CrossEntropyLoss(),
        adamw(),
        metrics=[accuracy],
        callbacks=callbacks,
        precision=case.precision,
        accumulate=ACCUMULATE,
        device="cpu",
        progress=False,
    )


def live(case: Case, folder: Path, plan: Plan, board_path: Path) -> None:
    """Train to the end, or to the place of the plan; what came out is written beside the run's folder."""
    torch.set_num_threads(1)
    board = Board(board_path)
    board.say(0, "beginning")
    made = learner(case, folder, plan, board)
    Saboteur(plan, board)
    start = folder if checkpoint.checkpoints(folder / checkpoint.FOLDER) else None
    board.say(0, "resuming" if start else "beginning")
    made.fit(EPOCHS, lr=0.05, resume=start)
    board.say(0, "done")
    folder.with_suffix(".json").write_text(json.dumps(outcome(made, folder)))


def warm_up(folder: Path) -> None:
    """Import and set up all that the first training in a process does, for the processes that are forked from it."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True)
    made = learner(Case("bf16", 1), folder, Plan("none"), Board(folder.with_suffix(".board"), new=True))
    made.fit(1, lr=0.05)


def outcome(made: Learner, folder: Path) -> dict[str, str]:
    """Digests of all that must be equal."""
    tensors: dict[str, torch.Tensor] = {}
    state = to_json({"model": made.model.state_dict(), "optimizer": made.optimizer.state_dict()}, tensors)
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in made.history]
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    steps = [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
    return {
        "weights, buffers, optimizer": _digest(safetensors.torch.save(tensors) + json.dumps(state).encode()),
        "table": _digest(json.dumps(rows).encode()),
        "history.jsonl": _digest(json.dumps(steps).encode()),
        "torch's generator": _digest(torch.get_rng_state().numpy().tobytes()),
    }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
