"""What the training loop costs per step beside a bare loop, and how many Python functions it calls.

A toy network (64-64-10, batch 64) on batches that lie in memory, one thread: nearly all of a step is overhead. The
variants take turns in one process, a few hundred steps at a time, so that a slow moment of the machine hits all; what
is counted is the CPU time of the training thread, which other processes do not add to. Figures are medians over the
rounds of the difference to the bare loop of the same round.

    python benchmarks/loop.py                            our variants
    python benchmarks/loop.py --peers 'COMMAND' bare ignite    other libraries as well

COMMAND NAME must print a JSON line with cpu_us_per_step for the same network and batches in the library NAME; `bare` is
its own bare loop, run beside the others in every round.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import etude
from etude.runs.record import KeepRun, new_run_folder
from etude.training.callbacks.mixup import draw_weights

VARIANTS = {
    "bare": "a for loop: forward, loss, backward, step, zero_grad; SGD",
    "bare, momentum": "the same with momentum 0.9, which scheduling momentum needs",
    "bare, MixUp": "the same with MixUp's operations by hand",
    "Learner": "no callbacks",
    "Learner, 8 watchers": "eight callbacks that do nothing in before_step and after_step",
    "Learner, MixUp": "MixUp(0.4)",
    "Learner, recipe": "Scheduler (lr and momentum), ClipGradNorm, KeepRun, SaveBest, EarlyStopping, ShowProgress; "
    "accuracy and cross entropy",
    "Learner, recipe - clip": "the same without ClipGradNorm, whose own arithmetic is no overhead",
}
BASE = {
    "Learner, MixUp": "bare, MixUp",
    "Learner, recipe": "bare, momentum",
    "Learner, recipe - clip": "bare, momentum",
}


class Batches:
    """Fifty batches again and again; notes the CPU time when the first and the last of an epoch are asked for."""

    def __init__(self, steps: int) -> None:
        torch.manual_seed(0)
        self.steps = steps
        self.fifty = [(torch.randn(64, 64), torch.randint(0, 10, (64,))) for _ in range(50)]
        self.start = self.end = 0.0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for i in range(self.steps):
            # the first steps after a change of variant are slower
            if i == 20:
                self.start = time.thread_time()
            if i == self.steps - 1:
                self.end = time.thread_time()
            yield self.fifty[i % 50]

    @property
    def us_per_step(self) -> float:
        return (self.end - self.start) / (self.steps - 21) * 1e6


class Watcher(etude.Callback):
    """Does nothing, twice a step."""

    def before_step(self, learner: etude.Learner) -> None:
        pass

    def after_step(self, learner: etude.Learner, batch: etude.Batch, output: etude.StepOutput) -> None:
        pass


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def bare(batches: Batches, momentum: float, mixup: bool) -> Callable[[], None]:
    """The loop that everything is compared with."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=momentum)
    generator = torch.Generator()

    def run() -> None:
        for inputs, targets in batches:
            if mixup:
                loss = mixed_loss(model, inputs, targets, generator)
            else:
                loss = F.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def mixed_loss(
    model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    weight = draw_weights(0.4, len(inputs), generator)
    partner = torch.randperm(len(inputs), generator=generator)
    mixed = inputs.index_select(0, partner).lerp(inputs, weight.view(-1, 1))
    log_probs = model(mixed).log_softmax(-1)
    first = F.nll_loss(log_probs, targets, reduction="none")
    second = F.nll_loss(log_probs, targets.index_select(0, partner), reduction="none")
    return second.lerp(first, weight).mean()


def learner(batches: Batches, variant: str) -> Callable[[], object]:
    """One epoch of a variant of ours; the learner is made anew each time, outside the counted steps."""
    recipe = variant.startswith("Learner, recipe")

    def run() -> None:
        callbacks: list[etude.Callback] = []
        if variant == "Learner, 8 watchers":
            callbacks = [Watcher() for _ in range(8)]
        if variant == "Learner, MixUp":
            callbacks = [etude.MixUp(0.4)]
        if recipe:
            folder = new_run_folder("bench", Path(tempfile.mkdtemp(prefix="etude-bench-")) / "run")
            callbacks = [KeepRun(folder, {}), etude.SaveBest("train_loss"), etude.EarlyStopping("train_loss")]
        if variant == "Learner, recipe":
            callbacks.insert(0, etude.ClipGradNorm(10.0))
        made = etude.Learner(
            network(),
            (batches, None),
            F.cross_entropy,
            lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.9 if recipe else 0.0),
            metrics=[etude.accuracy, etude.metrics.cross_entropy] if recipe else (),
            callbacks=callbacks,
            device="cpu",
            progress=recipe,
        )
        with contextlib.redirect_stdout(io.StringIO()):
            made.fit(1, lr=1e-2 if recipe else None)

    return run


def make(variant: str, steps: int) -> tuple[Batches, Callable[[], object]]:
    batches = Batches(steps)
    if variant.startswith("Learner"):
        return batches, learner(batches, variant)
    return batches, bare(batches, 0.9 if "momentum" in variant else 0.0, "MixUp" in variant)


def calls_per_step(variant: str) -> float:
    """Calls of functions written in this library per step, counted over twenty steps."""
    batches, run = make(variant, 41)
    count = 0

    package = str(Path(etude.__file__).parent)

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        if event == "call" and batches.start and not batches.end and frame.f_code.co_filename.startswith(package):
            count += 1

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count / 20


def ours(rounds: int, steps: int) -> dict[str, list[float]]:
    """Microseconds per step of each variant, round by round."""
    torch.set_num_threads(1)
    made = {variant: make(variant, steps) for variant in VARIANTS}
    figures: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for i in range(rounds + 1):
        for variant, (batches, run) in list(made.items())[:: 1 if i % 2 else -1]:
            run()
            # the first round warms up
            if i:
                figures[variant].append(batches.us_per_step)
    return figures


def peers(command: str, names: list[str], rounds: int) -> dict[str, list[float]]:
    """The same of other libraries, each run a process of its own."""
    figures: dict[str, list[float]] = {f"peer {name}": [] for name in names}
    for i in range(rounds):
        for name in names[:: 1 if i % 2 else -1]:
            done = subprocess.run([*shlex.split(command), name], capture_output=True, text=True)
            lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
            if not lines:
                raise SystemExit(f"{command} {name} printed no figures:\n{done.stderr[-800:]}")
            figures[f"peer {name}"].append(json.loads(lines[-1])["cpu_us_per_step"])
        print(f"peers, round {i + 1} of {rounds}", file=sys.stderr)
    return figures


def table(figures: dict[str, list[float]]) -> dict[str, dict[str, object]]:
    rows: dict[str, dict[str, object]] = {}
    for name, values in figures.items():
        base = "peer bare" if name.startswith("peer") else BASE.get(name, "bare")
        over = [value - other for value, other in zip(values, figures[base], strict=True)]
        quarters = statistics.quantiles(over, n=4) if len(over) > 1 else [over[0]] * 3
        rows[name] = {
            "us_per_step": round(statistics.median(values), 1),
            "over": base,
            "us_over": round(statistics.median(over), 1),
            "us_over_quartiles": [round(quarters[0], 1), round(quarters[2], 1)],
            "calls_per_step": calls_per_step(name) if name.startswith("Learner") else None,
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--steps", type=int, default=320)
    parser.add_argument("--peers", nargs="+", metavar=("COMMAND", "NAME"))
    parser.add_argument("--peer-rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    given = parser.parse_args()
    figures = ours(given.rounds, given.steps)
    if given.peers:
        figures |= peers(given.peers[0], given.peers[1:], given.peer_rounds)
    rows = table(figures)
    print(f"{'':24}{'CPU us/step':>12}{'over its bare loop':>20}{'(quartiles)':>18}{'own calls':>11}")
    for name, row in rows.items():
        low, high = row["us_over_quartiles"]
        calls = "" if row["calls_per_step"] is None else row["calls_per_step"]
        print(
            f"{name:24}{row['us_per_step']:12.1f}{row['us_over']:+20.1f}{f'({low:+.1f} to {high:+.1f})':>18}{calls:>11}"
        )
    if given.json:
        machine = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
        settings = {"rounds": given.rounds, "steps": given.steps, "peer_rounds": given.peer_rounds}
        given.json.write_text(
            json.dumps({**settings, "machine": machine, "variants": VARIANTS, "table": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
