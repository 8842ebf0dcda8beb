"""What a plan forecasts beside what then happens: the seconds of four real fits.

Each run is planned, fitted as planned, and planned again: the machine may be busier or less so in between. `before` is
the first plan's forecast over the fit's seconds, `around` the mean of both plans'. With `--clock cpu` forecast and fact
are seconds of CPU time of this process, to which other processes do not add: what to look at on a machine that is
shared.

    python benchmarks/plan.py /path/to/archives
    python benchmarks/plan.py /path/to/archives --only digits mlp --clock cpu --json benchmarks/results/plan.json

The folder holds imagenette2-mini-64.tgz and oxford-iiit-pet-mini-64.tgz.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from etude import Learner, accuracy, vision
from etude.recipes.demo import DemoOptions, digits_learner
from etude.recipes.options import RunOptions
from etude.recipes.train import run_writers
from etude.recipes.training import Training
from etude.runs.environment import environment
from etude.training import forecast
from etude.training.callback import Callback
from etude.training.plan import make_plan

RUNS = {
    "digits": "the demo, with its run's folder and checkpoints",
    "imagenette": "imagenette2-mini-64 at 64 px, xresnet18, fp32, with MixUp",
    "pets": "oxford-iiit-pet-mini-64 at 64 px, lesson_cnn, fp32",
    "mlp": "a torch DataLoader over tensors, three linear layers, SGD with momentum",
}


class Run(NamedTuple):
    """Something to plan and to fit."""

    learner: Learner
    num_epochs: int
    lr: float
    writers: Callable[[], list[Callback]] = list
    """New ones for every fit, each into a folder of its own."""


def digits(folder: Path, kept: Path) -> Run:
    train = DemoOptions()
    training = Training(name="demo", kind="digits", train=train)

    def writers() -> list[Callback]:
        return run_writers(Path(tempfile.mkdtemp(dir=kept)), training, RunOptions())

    return Run(digits_learner(train, quiet=True), 15, train.lr, writers)


def pictures(archive: Path, arch: str, epochs: int, **options: Any) -> Run:
    # the windows that the data set's own validation pictures, if any, leave to training
    data = vision.load(archive, size=64, progress=False, **options)
    made = vision.learner(arch, data, mixup=0.2, precision="fp32", device="cpu", progress=False)
    return Run(made, epochs, 8e-3)


def imagenette(folder: Path, kept: Path) -> Run:
    return pictures(folder / "imagenette2-mini-64.tgz", "xresnet18", 2)


def pets(folder: Path, kept: Path) -> Run:
    return pictures(folder / "oxford-iiit-pet-mini-64.tgz", "lesson_cnn", 3, valid=0.2)


def mlp(folder: Path, kept: Path) -> Run:
    inputs = torch.randn(20_000, 128)
    dataset = TensorDataset(inputs, inputs[:, :10].argmax(1))
    loaders = DataLoader(dataset, 64, shuffle=True), DataLoader(dataset, 256)
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))

    def sgd(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9)

    loss = nn.CrossEntropyLoss()
    return Run(Learner(model, loaders, loss, sgd, metrics=[accuracy], device="cpu", progress=False), 5, 0.05)


MAKE: dict[str, Callable[[Path, Path], Run]] = {"digits": digits, "imagenette": imagenette, "pets": pets, "mlp": mlp}


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@contextmanager
def timed_by(clock: Callable[[], float]) -> Iterator[None]:
    """Let plans read another clock."""
    own, forecast.time = forecast.time, SimpleNamespace(perf_counter=clock)
    try:
        yield
    finally:
        forecast.time = own


def compare(name: str, folder: Path, clock_name: str = "wall") -> dict[str, float]:
    """Forecast and fact of one run, in seconds."""
    torch.manual_seed(0)
    clock = CLOCKS[clock_name]
    # the first call imports what it describes
    environment()
    with tempfile.TemporaryDirectory() as kept, timed_by(clock):
        run = MAKE[name](folder, Path(kept))

        def planned() -> tuple[float, float]:
            started = clock()
            writers = run.writers()
            plan = make_plan(run.learner, run.num_epochs, run.lr, callbacks=writers, timed=writers)
            return plan.forecast.total, clock() - started

        first, took = planned()
        writers = run.writers()
        started = clock()
        run.learner.fit(run.num_epochs, run.lr, callbacks=writers)
        fact = clock() - started
        second, _ = planned()
    return {
        "forecast": round(first, 2),
        "fact": round(fact, 2),
        "forecast_after": round(second, 2),
        "planning": round(took, 2),
        "before": round(first / fact, 3),
        "around": round((first + second) / 2 / fact, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in given.only}
    for i in range(given.rounds):
        for name in given.only[:: 1 if i % 2 == 0 else -1]:
            rows[name].append(compare(name, given.folder, given.clock))
            load = f"{os.getloadavg()[0]:.1f}"
            print(f"{name:12} {rows[name][-1]}  load {load}", flush=True)
    table = {
        name: {
            "what": RUNS[name],
            "before, median": statistics.median(row["before"] for row in found),
            "around, median": statistics.median(row["around"] for row in found),
            "rounds": found,
        }
        for name, found in rows.items()
    }
    for name, row in table.items():
        print(
            f"{name:12} forecast / fact {row['before, median']:.2f}, with the plan after it {row['around, median']:.2f}"
        )
    if given.json:
        machine = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
        settings = {"rounds": given.rounds, "threads": given.threads, "clock": given.clock, "machine": machine}
        given.json.write_text(json.dumps({**settings, "runs": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
