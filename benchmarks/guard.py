"""What the guard against NaN costs a training step.

xresnet18 with ten classes, batch 64 at 64 pixels, channels last, AdamW, bf16 where the processor has the instructions:
an Imagenette-like step, through `Learner`, with the guard and with a stand-in that lets every step pass. One torch
thread; the two take turns in one process, a few steps at a time, and what is counted is the CPU time of the training
thread, which other processes do not add to. Two figures say the same in two ways: the median over rounds of the ratio
of the two variants' median steps, and, with far less noise, the CPU time spent inside the guard (the optimizer's own
step taken out) as a share of the step. `--toy` adds a 64-64-10 network, where a step is hardly more than overhead.

    python benchmarks/guard.py --json benchmarks/results/guard.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

import etude
from etude.optim import adamw
from etude.training import loop
from etude.training.finite import BadStep, FiniteGuard
from etude.vision.xresnet import xresnet18

SKIPPED = 3
"""Steps at the start of each turn that are not counted: the first one also looks at all the state."""


class Steps:
    """The same few batches again and again; notes the CPU time at which each is asked for."""

    def __init__(self, few: list[tuple[Tensor, Tensor]], steps: int) -> None:
        self.few, self.steps = few, steps
        self.times: list[float] = []

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.times = []
        for i in range(self.steps):
            self.times.append(time.thread_time())
            yield self.few[i % len(self.few)]
        self.times.append(time.thread_time())

    def seconds(self) -> list[float]:
        """CPU seconds of each counted step."""
        gaps = [end - start for start, end in zip(self.times[:-1], self.times[1:], strict=True)]
        return gaps[SKIPPED:]


class NoGuard:
    """Lets every step pass."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, device: torch.device) -> None:
        self.optimizer = optimizer

    def before_step(self) -> None:
        pass

    def step(self, losses: list[Tensor], grads: list[Tensor]) -> bool:
        self.optimizer.step()
        return True

    def last_word(self) -> BadStep | None:
        return None

    def bad_weight(self) -> str:
        return ""


class TimedGuard:
    """The guard, and the CPU time that it takes for itself in each step."""

    seconds: ClassVar[list[float]] = []

    def __init__(self, model: nn.Module, optimizer: Optimizer, device: torch.device) -> None:
        self.guard = FiniteGuard(model, optimizer, device)
        self.optimizer, self.inside, self.before = optimizer, 0.0, 0.0

    def before_step(self) -> None:
        start = time.thread_time()
        self.guard.before_step()
        self.before = time.thread_time() - start

    def step(self, losses: list[Tensor], grads: list[Tensor]) -> bool | Tensor:
        untimed = self.optimizer.step

        def timed() -> None:
            start = time.thread_time()
            untimed()
            self.inside = time.thread_time() - start

        self.optimizer.step = timed  # type: ignore[method-assign]
        start = time.thread_time()
        updated = self.guard.step(losses, grads)
        own = time.thread_time() - start - self.inside
        del self.optimizer.step
        self.seconds.append(self.before + own)
        return updated

    def last_word(self) -> BadStep | None:
        return self.guard.last_word()

    def bad_weight(self) -> str:
        return self.guard.bad_weight()


GUARDS: dict[str, Callable[..., Any]] = {"without": NoGuard, "with": TimedGuard}


def pictures(precision: str, steps: int) -> tuple[Steps, etude.Learner]:
    """An Imagenette-like step."""
    torch.manual_seed(0)
    batches = [
        (torch.randn(64, 3, 64, 64).to(memory_format=torch.channels_last), torch.randint(10, (64,))) for _ in range(4)
    ]
    data = Steps(batches, steps)
    model = xresnet18(num_classes=10).to(memory_format=torch.channels_last)
    return data, _learner(model, data, precision)


def toy(precision: str, steps: int) -> tuple[Steps, etude.Learner]:
    """A step that is hardly more than overhead."""
    torch.manual_seed(0)
    data = Steps([(torch.randn(64, 64), torch.randint(10, (64,))) for _ in range(50)], steps)
    return data, _learner(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), data, precision)


def _learner(model: nn.Module, data: Steps, precision: str) -> etude.Learner:
    return etude.Learner(
        model, (data, None), F.cross_entropy, adamw(lr=1e-4), precision=precision, device="cpu", progress=False
    )


def compare(make: Callable[[str, int], tuple[Steps, etude.Learner]], precision: str, rounds: int, steps: int) -> Any:
    """Both variants in turn."""
    made = {name: make(precision, steps + SKIPPED) for name in GUARDS}
    rows: list[dict[str, float]] = []
    for i in range(rounds + 1):
        row = {}
        for name in list(GUARDS)[:: 1 if i % 2 else -1]:
            data, learner = made[name]
            loop.FiniteGuard = GUARDS[name]  # type: ignore[misc,assignment]
            TimedGuard.seconds = []
            learner.fit(1)
            row[name] = statistics.median(data.seconds())
            if name == "with":
                row["guard"] = statistics.median(TimedGuard.seconds[SKIPPED:])
        # the first round warms up
        rows += [row] if i else []
    ratios = [row["with"] / row["without"] for row in rows]
    shares = [row["guard"] / row["with"] for row in rows]
    return {
        "precision": precision,
        "rounds": rounds,
        "steps_per_round": steps,
        "ms_per_step_without": round(statistics.median(row["without"] for row in rows) * 1e3, 3),
        "ms_per_step_with": round(statistics.median(row["with"] for row in rows) * 1e3, 3),
        "ratio": round(statistics.median(ratios), 4),
        "ratio_quartiles": [round(value, 4) for value in statistics.quantiles(ratios, n=4)[::2]],
        "guard_us": round(statistics.median(row["guard"] for row in rows) * 1e6, 1),
        "share_of_step": round(statistics.median(shares), 5),
        "share_quartiles": [round(value, 5) for value in statistics.quantiles(shares, n=4)[::2]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="default: bf16 if the processor has AVX512")
    parser.add_argument("--toy", action="store_true", help="also a network of 4,810 weights")
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    has_bf16 = torch.backends.cpu.get_cpu_capability() in ("AVX512", "AMX")
    precision = given.precision or ("bf16" if has_bf16 else "fp32")
    table = {"xresnet18, batch 64, 64 pixels": compare(pictures, precision, given.rounds, given.steps)}
    if given.toy:
        table["64-64-10, batch 64"] = compare(toy, "fp32", given.rounds, 300)
    for name, row in table.items():
        print(f"{name} ({row['precision']}): {row['ms_per_step_with']} ms of CPU time per step")
        low, high = row["ratio_quartiles"]
        print(f"  with the guard / without: {row['ratio']} (quartiles {low} to {high})")
        print(f"  inside the guard: {row['guard_us']} us, {row['share_of_step']:.3%} of the step")
    if given.json:
        machine = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
        given.json.write_text(json.dumps({"machine": machine, "table": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
