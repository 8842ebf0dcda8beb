"""What the training loop costs per step beside a bare loop, and how many Python functions it calls.

A toy network (64-64-10, batch 64) on batches that lie in memory, one thread: nearly all of a step is overhead. Each
variant runs in its own process, round-robin, so that a slow moment of the machine hits all; the figures are
medians of the rounds and of the differences to the bare loop of the same round.

    python benchmarks/loop.py                       our variants
    python benchmarks/loop.py --peers COMMAND       and other libraries: COMMAND NAME prints {"us_per_step": ...}
    python benchmarks/loop.py --json FILE           keep the figures
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

WARM_UP = 200
VARIANTS = {
    "bare": "forward, loss, backward, step, zero_grad in a for loop; SGD",
    "bare momentum": "the same with momentum 0.9, which a scheduler of momentum needs",
    "bare mixup": "the same with MixUp's operations by hand",
    "learner": "Learner, no callbacks",
    "learner watchers": "and eight watchers that do nothing in before_step and after_step",
    "learner mixup": "Learner with MixUp",
    "learner recipe": "the recipes' set: accuracy and cross entropy, Scheduler (lr, momentum), ClipGradNorm, Record, "
    "ShowProgress, KeepRun, SaveBest, EarlyStopping",
}
BASE = {"learner mixup": "bare mixup", "learner recipe": "bare momentum"}


def batches(steps: int):
    """Fifty batches again and again, and the times at which step WARM_UP and the last one begin."""
    import torch

    torch.manual_seed(0)
    fifty = [(torch.randn(64, 64), torch.randint(0, 10, (64,))) for _ in range(50)]

    class Batches:
        def __len__(self) -> int:
            return steps

        def __iter__(self):
            for i in range(steps):
                if i == WARM_UP:
                    self.start = time.perf_counter()
                if i == steps - 1:
                    self.end = time.perf_counter()
                yield fifty[i % 50]

        @property
        def us_per_step(self) -> float:
            return (self.end - self.start) / (steps - 1 - WARM_UP) * 1e6

    return Batches()


def bare(loader, momentum: float = 0.0, alpha: float | None = None) -> None:
    """The loop that everything is compared with."""
    import torch
    import torch.nn.functional as F

    from etude.training.callbacks.mixup import draw_weights

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=momentum)
    generator = torch.Generator()
    for inputs, targets in loader:
        if alpha is None:
            loss = F.cross_entropy(model(inputs), targets)
        else:
            weight = draw_weights(alpha, len(inputs), generator)
            partner = torch.randperm(len(inputs), generator=generator)
            mixed = inputs.index_select(0, partner).lerp(inputs, weight.view(-1, 1))
            log_probs = model(mixed).log_softmax(-1)
            first = F.nll_loss(log_probs, targets, reduction="none")
            second = F.nll_loss(log_probs, targets.index_select(0, partner), reduction="none")
            loss = second.lerp(first, weight).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def network():
    """The toy network, always with the same weights."""
    import torch
    from torch import nn

    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def learner(loader, variant: str) -> Callable[[], object]:
    """A fit of one of our variants, ready to run."""
    import tempfile

    import torch

    import etude
    from etude.runs.record import KeepRun, new_run_folder

    class Watcher(etude.Callback):
        def before_step(self, learner) -> None:
            pass

        def after_step(self, learner, batch, output) -> None:
            pass

    run = new_run_folder("bench", Path(tempfile.mkdtemp(prefix="etude-bench-")) / "run")
    callbacks = {
        "learner": list,
        "learner watchers": lambda: [Watcher() for _ in range(8)],
        "learner mixup": lambda: [etude.MixUp(0.4)],
        "learner recipe": lambda: [
            etude.ClipGradNorm(10.0),
            etude.Record(),
            KeepRun(run, {}),
            etude.SaveBest("train_loss"),
            etude.EarlyStopping("train_loss"),
        ],
    }[variant]()
    recipe = variant == "learner recipe"
    made = etude.Learner(
        network(),
        (loader, None),
        torch.nn.functional.cross_entropy,
        lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.9 if recipe else 0.0),
        metrics=[etude.accuracy, etude.metrics.cross_entropy] if recipe else (),
        callbacks=callbacks,
        device="cpu",
        progress=recipe,
    )
    return lambda: made.fit(1, lr=1e-2) if recipe else made.fit(1)


def measure(variant: str, steps: int) -> dict[str, float]:
    """One timed run of a variant in this process, and its own Python calls per step."""
    import torch

    torch.set_num_threads(1)
    loader = batches(steps)
    fit = _fit(loader, variant)
    fit()
    short = batches(WARM_UP + 12)
    return {"us_per_step": loader.us_per_step, "calls_per_step": _calls(_fit(short, variant), short)}


def _fit(loader, variant: str) -> Callable[[], object]:
    if variant.startswith("learner"):
        return learner(loader, variant)
    return lambda: bare(loader, 0.9 if "momentum" in variant else 0.0, 0.4 if "mixup" in variant else None)


def _calls(fit: Callable[[], object], loader) -> float:
    """Calls of functions written in this project (or in this file) per step, counted over ten steps."""
    ours = ("etude", Path(__file__).name)
    count = 0
    began = False

    def profile(frame, event, argument) -> None:
        nonlocal count, began
        if event == "call" and any(word in frame.f_code.co_filename for word in ours):
            began = began or "start" in vars(loader)
            count += began and "end" not in vars(loader) and frame.f_code.co_name not in ("__iter__", "<lambda>")

    sys.setprofile(profile)
    try:
        fit()
    finally:
        sys.setprofile(None)
    return count / 11


def _run(command: list[str]) -> dict[str, float]:
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"{shlex.join(command)} printed no figures:\n{done.stderr[-800:]}")
    return json.loads(lines[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--peers", help="a command that takes a peer's name and prints its figures as JSON")
    parser.add_argument("--peer-names", nargs="*", default=["ignite", "lightning", "fastai", "transformers"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.steps)))
        return
    commands = {name: [sys.executable, __file__, "--one", name, "--steps", str(given.steps)] for name in VARIANTS}
    if given.peers:
        commands |= {f"peer {name}": [*shlex.split(given.peers), name] for name in ("bare", *given.peer_names)}
    figures = {name: [] for name in commands}
    for i in range(given.rounds):
        for name in list(commands)[:: 1 if i % 2 == 0 else -1]:
            figures[name].append(_run(commands[name]))
        print(f"round {i + 1} of {given.rounds}", file=sys.stderr)
    report(figures, given)


def report(figures: dict[str, list[dict[str, float]]], given: argparse.Namespace) -> None:
    """Print the table, and keep it if asked."""
    table = {}
    for name, rounds in figures.items():
        base = "peer bare" if name.startswith("peer") else BASE.get(name, "bare")
        over = [a["us_per_step"] - b["us_per_step"] for a, b in zip(rounds, figures[base], strict=True)]
        table[name] = {
            "us_per_step": round(statistics.median(a["us_per_step"] for a in rounds), 1),
            "over": base,
            "us_over": round(statistics.median(over), 1),
            "us_over_min_max": [round(min(over), 1), round(max(over), 1)],
            "calls_per_step": rounds[0].get("calls_per_step"),
        }
    print(f"{'':20} {'us/step':>8} {'over its bare loop, us (min to max)':>38} {'own calls':>10}")
    for name, row in table.items():
        low, high = row["us_over_min_max"]
        over = f"{row['us_over']:+.1f} ({low:+.1f} to {high:+.1f}) over {row['over']}"
        print(f"{name:20} {row['us_per_step']:8.1f} {over:>38} {row['calls_per_step'] or '':>10}")
    if given.json:
        machine = {"python": platform.python_version(), "processor": platform.processor(), "cpus": platform.machine()}
        command = shlex.join(["python", *sys.argv])
        kept = {"command": command, "rounds": given.rounds, "machine": machine, "table": table}
        given.json.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
