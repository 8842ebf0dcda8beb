"""Trainings that wait to be stopped by a signal, each a fork of one process that has imported all they need.

    python tests/stopping.py        reads lines "NAME FOLDER"; for each, prints "process ID", then "exit CODE"

Each leads a session of its own, writes to FOLDER/out and FOLDER/err, and ends as any script does.
"""

from __future__ import annotations

import gc
import multiprocessing.forkserver
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from typing_extensions import override

from etude import Callback
from etude.data.dataset import DatasetLoader
from etude.data.loaders import as_dataloaders
from etude.training import checkpoint, writer
from etude.training.callbacks.checkpoints import Checkpoints
from resuming import Noisy, learner

INPUTS, TARGETS = torch.randn(96, 1, 6, 6), torch.zeros(96, dtype=torch.long)


class Slow(Noisy):
    """So that no batch is there yet when a worker dies."""

    @override
    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(0.005)
        return super().__getitem__(i)


class Tell(Callback):
    """Prints each step, and leaves the process at one of them."""

    def __init__(self, leave_at: int | None = None) -> None:
        self.leave_at = leave_at

    @override
    def after_step(self, learner, batch, output):
        print(f"step {learner.progress.step}", flush=True)
        if learner.progress.step == self.leave_at:
            sys.exit(7)


def _hang(*_) -> None:
    print("hanging", flush=True)
    while True:
        time.sleep(3600)


def a_step_that_hangs(folder: Path) -> None:
    learner([Checkpoints(folder)], step=_hang).fit(3, lr=0.05)


def a_writer_that_hangs(folder: Path) -> None:
    checkpoint.write = _hang
    learner([Checkpoints(folder, every=1)]).fit(3, lr=0.05)


def _big(callbacks: list[Callback], width: int = 8000) -> None:
    made = learner(callbacks)
    made.model[5] = nn.Sequential(nn.Linear(128, width), nn.Linear(width, 1000), nn.Linear(1000, 4))
    made.fit(9, lr=0.05)


def a_callback_that_leaves(folder: Path) -> None:
    """While a checkpoint is written that takes long."""
    _big([Checkpoints(folder, every=1), Tell(leave_at=2)], width=3000)


def a_big_checkpoint(folder: Path) -> None:
    """That is still being written when the interpreter ends."""
    writer._SECONDS_AT_EXIT = 0.0
    real = checkpoint.write_tensors

    def write(*given):
        print("hanging", flush=True)
        return real(*given)

    checkpoint.write_tensors = write
    _big([Checkpoints(folder, every=1)])


def workers(folder: Path, **options) -> None:
    data = DatasetLoader(Slow(INPUTS, TARGETS), batch_size=8, workers=2, **options)
    _with(data, folder)


def ready_made(folder: Path, **options) -> None:
    _with(DataLoader(Slow(INPUTS, TARGETS), 8, num_workers=2, **options), folder)


def _with(train, folder: Path) -> None:
    made = learner([Checkpoints(folder), Tell()])
    made.data = as_dataloaders(train)
    made.fit(500, lr=0.05)


TRAININGS = {
    "step": a_step_that_hangs,
    "writer": a_writer_that_hangs,
    "leaves": a_callback_that_leaves,
    "big": a_big_checkpoint,
    "fork": lambda folder: workers(folder, start_method="fork"),
    "persistent": lambda folder: workers(folder, start_method="fork", persistent_workers=True),
    "spawn": lambda folder: workers(folder, start_method="spawn", persistent_workers=True),
    "forkserver": lambda folder: _after_a_fork_server(folder),
    "ready-made": lambda folder: ready_made(folder, multiprocessing_context="fork"),
    "ready-made persistent": lambda folder: ready_made(folder, persistent_workers=True),
    "ready-made spawn": lambda folder: ready_made(folder, multiprocessing_context="spawn", persistent_workers=True),
}


def _after_a_fork_server(folder: Path) -> None:
    """With workers that do not inherit what their parent has set for them."""
    multiprocessing.forkserver.ensure_running()
    workers(folder, start_method="forkserver", persistent_workers=True)


def _become(name: str, folder: Path) -> None:
    """Be the process of one training."""
    os.setsid()
    # a background job of some shells ignores Ctrl-C, and so would what it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(("out", "err"), 1):
        os.dup2(os.open(folder / stream, os.O_WRONLY | os.O_CREAT), number)
    TRAININGS[name](folder / "checkpoints")


def main() -> None:
    torch.set_num_threads(1)
    learner([]).fit(1, lr=0.05)
    # so that the ends of the forks do not search what they have inherited for garbage
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    while line := sys.stdin.readline():
        name, folder = line.strip().split("\t")
        process = os.fork()
        if process == 0:
            _become(name, Path(folder))
            return
        print("process", process, flush=True)
        print("exit", os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
