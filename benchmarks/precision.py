"""Speed and memory of each precision, and what looking for an overflow costs.

xresnet18 with ten classes, batch 64 at 64 pixels, channels last, AdamW, one torch thread: an Imagenette-like step
through `Learner`. The precisions take turns in one process; counted is CPU time, which other processes do not add to.
float16 takes so long on a CPU that it runs with fewer pictures. Memory is what `etude plan` counts: weights, gradients,
optimizer state and the peak of what one step's tensors hold. Beside it the check for overflow: one fused operation for
all gradients, and the form of the lesson's notes, which asks for one number per tensor.

    python benchmarks/precision.py --json benchmarks/results/precision.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from step import Batches, median_gap
from torch import Tensor, nn

from etude import Learner, optim
from etude.training.scaler import LossScaler
from etude.vision.xresnet import xresnet18

SIZE = 64


def learner_of(precision: str, batch_size: int, steps: int) -> tuple[Learner, Batches]:
    """A learner and the batches that note the time."""
    torch.manual_seed(0)
    batches = Batches(batch_size, steps, SIZE)
    model = xresnet18(num_classes=10).to(memory_format=torch.channels_last)
    data: Any = (batches, None)
    made = Learner(model, data, nn.CrossEntropyLoss(), optim.adamw(), precision=precision, device="cpu", progress=False)
    return made, batches


def speed(precisions: list[str], batch_size: int, steps: int, rounds: int) -> dict[str, Any]:
    """Median CPU milliseconds per picture in each precision, and times as fast as fp32."""
    learners = {name: learner_of(name, batch_size, steps) for name in precisions}
    found: dict[str, list[float]] = {name: [] for name in precisions}
    for _ in range(rounds):
        for name, (made, batches) in learners.items():
            batches.cpu.clear()
            made.fit(1, lr=1e-3)
            found[name].append(median_gap(batches.cpu) / batch_size * 1e3)
            print(f"{name}: {found[name][-1]:.2f} ms per picture", flush=True)
    return {
        "batch_size": batch_size,
        "ms_per_picture": {name: round(statistics.median(values), 2) for name, values in found.items()},
        "faster_than_fp32": {
            name: round(statistics.median(a / b for a, b in zip(found["fp32"], values, strict=True)), 2)
            for name, values in found.items()
        },
    }


def memory(precision: str) -> dict[str, int]:
    """Millions of bytes that a plan counts."""
    counted = learner_of(precision, 64 if precision != "fp16" else 8, 2)[0].plan(1, lr=1e-3).as_json()["memory"]
    assert isinstance(counted, dict)
    return {name: round(value / 1e6) for name, value in counted.items() if isinstance(value, int | float) and value}


def check_cost(rounds: int) -> dict[str, float]:
    """CPU milliseconds for all gradients of the model: looked at and divided, in one operation and one by one."""
    grads = [torch.randn_like(weight) for weight in xresnet18(num_classes=10).parameters()]
    scaler = LossScaler()
    forms: dict[str, Callable[[], object]] = {
        "fused": lambda: scaler.unscale(grads),
        "per_parameter": lambda: one_by_one(grads, 2.0**16),
    }
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            start = time.process_time()
            form()
            times[name].append((time.process_time() - start) * 1e3)
    return {name: round(statistics.median(values), 2) for name, values in times.items()}


def one_by_one(grads: list[Tensor], scale: float) -> bool:
    """The notes' form: the host asks for the sum of every tensor, and divides every tensor."""
    found = False
    for grad in grads:
        total = float(grad.float().sum())
        found = found or total in (float("inf"), float("-inf")) or total != total
        grad.div_(scale)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "speed": speed(["fp32", "bf16", "bf16-master"], 64, given.steps, given.rounds),
        "speed of fp16": speed(["fp32", "fp16"], 8, 2, 2),
        "memory_mb": {name: memory(name) for name in ("fp32", "bf16", "bf16-master")},
        "overflow_check_ms": check_cost(20 * given.rounds),
        "torch": torch.__version__,
    }
    step_ms = result["speed"]["ms_per_picture"]["bf16-master"] * 64
    result["overflow_check_share_of_a_step"] = round(result["overflow_check_ms"]["fused"] / step_ms, 4)
    print(json.dumps(result, indent=1))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
