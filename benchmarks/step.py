"""Images per second of a training step: xresnet18 at 128 pixels on one core, beside other libraries, in turns.

    python benchmarks/step.py                                            our precisions against each other
    python benchmarks/step.py --peers 'COMMAND' fastai fastai-best       and other libraries

Ours is a real fit: `Learner`, cross entropy, AdamW, channels last, batches that are in memory already. Every variant
runs in a process of its own, one after the other, for several rounds; what counts is the median over the rounds of the
ratio within a round. COMMAND NAME --batch-size B --steps N must print a JSON line with cpu_seconds (of the process, one
thread) and seconds, each of a median step of a network with as many operations: its stem has 32, 64 and 64 channels.
CPU seconds are what is compared: other processes do not add to them.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from etude import Learner, MixedPrecision, optim
from etude.vision.xresnet import xresnet18

SIZE, SKIPPED = 128, 2
VARIANTS = {
    "fp32": "fp32",
    "bf16": "bf16",
    "bf16-master": "bf16-master",
    "bf16-master, flat": MixedPrecision("bf16", flat=True),
}


class Batches:
    """Two batches in turn; notes the time at which each is asked for."""

    def __init__(self, batch_size: int, steps: int, size: int = SIZE) -> None:
        generator = torch.Generator().manual_seed(0)
        self.few = [
            (
                torch.randn(batch_size, 3, size, size, generator=generator).to(memory_format=torch.channels_last),
                torch.randint(10, (batch_size,), generator=generator),
            )
            for _ in range(2)
        ]
        self.steps, self.cpu, self.wall = steps + SKIPPED, [], []

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for i in range(self.steps):
            self._note()
            yield self.few[i % 2]
        self._note()

    def _note(self) -> None:
        self.cpu.append(time.process_time())
        self.wall.append(time.perf_counter())


def median_gap(times: list[float]) -> float:
    """The median time of a counted step."""
    return statistics.median(end - start for start, end in zip(times[SKIPPED:-1], times[SKIPPED + 1 :], strict=True))


def one(variant: str, batch_size: int, steps: int) -> None:
    """Train in one variant and print what a step takes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = xresnet18(num_classes=10).to(memory_format=torch.channels_last)
    batches = Batches(batch_size, steps)
    learner = Learner(
        model,
        (batches, None),
        nn.CrossEntropyLoss(),
        optim.adamw(),
        precision=VARIANTS[variant],
        device="cpu",
        progress=False,
    )
    learner.fit(1, lr=1e-3)
    print(json.dumps({"cpu_seconds": median_gap(batches.cpu), "seconds": median_gap(batches.wall)}))


def run(command: list[str]) -> dict[str, float]:
    """The JSON line that a command prints."""
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=one_thread)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"{shlex.join(command)} printed no JSON line:\n{done.stderr[-800:]}")
    result: dict[str, float] = json.loads(lines[-1])
    return result


def measure(batch_size: int, steps: int, rounds: int, variants: list[str], peers: list[str]) -> dict[str, Any]:
    """Every variant in every round, in turns."""
    size = ["--batch-size", str(batch_size), "--steps", str(steps)]
    commands = {name: [sys.executable, __file__, "--one", name, *size] for name in variants}
    if peers:
        commands |= {name: [*shlex.split(peers[0]), name, *size] for name in peers[1:]}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for i in range(rounds):
        for name, command in commands.items():
            found[name].append(run(command))
            rate = batch_size / found[name][-1]["cpu_seconds"]
            print(f"batch {batch_size}, round {i + 1}: {name:22} {rate:6.1f} images per CPU second", flush=True)
    medians = {name: statistics.median(row["cpu_seconds"] for row in rows) for name, rows in found.items()}
    walls = {name: statistics.median(row["seconds"] for row in rows) for name, rows in found.items()}
    return {
        "images_per_cpu_second": {name: round(batch_size / value, 2) for name, value in medians.items()},
        "images_per_second": {name: round(batch_size / value, 2) for name, value in walls.items()},
        "bf16_master_faster_than": {name: _ratio(found[name], found["bf16-master"]) for name in commands},
    }


def _ratio(others: list[dict[str, float]], ours: list[dict[str, float]]) -> list[float]:
    """Median, smallest and largest ratio within a round."""
    ratios = sorted(theirs["cpu_seconds"] / own["cpu_seconds"] for theirs, own in zip(others, ours, strict=True))
    return [round(value, 2) for value in (statistics.median(ratios), ratios[0], ratios[-1])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", choices=VARIANTS, help="train in this variant only, in this process")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="which of ours")
    parser.add_argument("--peers", nargs="+", default=[], metavar=("COMMAND", "NAME"))
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    if given.one:
        one(given.one, given.batch_size[0], given.steps)
        return
    result = {
        f"batch {size}": measure(size, given.steps, given.rounds, given.variants, given.peers)
        for size in given.batch_size
    } | {
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
    }
    print(json.dumps(result, indent=1))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
