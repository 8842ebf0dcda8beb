"""What a checkpoint at the end of every epoch costs beside an Imagenette epoch.

    python benchmarks/checkpoint.py [--rounds 12] [--threads 2]

Trains what `etude imagenette --size 64 --batch-size 64` trains (xresnet18, AdamW, batches of 64 pictures of 64 pixels:
147 steps and 31 validation batches an epoch) on random pictures in memory, with a checkpoint every seven steps, and
measures in the same fit

- a step with nothing beside it, and a validation batch, and from them an epoch;
- how long the loop waits at a checkpoint: for the copy of the state, and for the thread's start;
- a step beside the thread that writes, and with it how much longer the steps take until it is done.

The difference of two whole epochs would be less than their noise, so the cost is put together from these parts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from etude import Callback, vision
from etude.training import checkpoint, saving, snapshot
from etude.training.callbacks.checkpoints import Checkpoints
from etude.types import Batch

STEPS, VALID_BATCHES, EVERY = 147, 31, 7
RESULTS = Path(__file__).parent / "results" / "checkpoint.json"


class Clock(Callback):
    """Notes when the loop comes to rest, before or after the checkpoint is handed over."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def before_fit(self, learner) -> None:
        learner.running().at_rest.append(lambda after: self.times.append(time.perf_counter()))


class Writes(Callback):
    """After the fit's steps, writes one checkpoint as the thread does, and notes time, processor time and size."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.found = folder, {}

    def before_fit(self, learner) -> None:
        learner.running().at_rest.append(lambda after: self.write(learner) if after == "epoch" else None)

    def write(self, learner) -> None:
        taken, description = snapshot.take(learner), saving.describe(learner)
        wall, cpu = time.perf_counter(), time.thread_time()
        place = checkpoint.write(taken, self.folder, description)
        self.found = {
            "write_ms": 1e3 * (time.perf_counter() - wall),
            "write_cpu_ms": 1e3 * (time.thread_time() - cpu),
            "megabytes": sum(file.stat().st_size for file in place.iterdir()) / 1e6,
        }


def measure(folder: Path, rounds: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64 * EVERY * rounds, 3, 64, 64), dtype=torch.uint8, generator=generator)
    targets = torch.randint(0, 10, (len(pixels),), generator=generator)
    few = pixels[:128], targets[:128]
    data = vision.from_arrays((pixels, targets), few, vocab=[str(i) for i in range(10)], batch_size=64)
    learner = vision.learner("xresnet18", data, precision="auto", progress=False)
    before, after, writes = Clock(), Clock(), Writes(folder / "one")
    saves = Checkpoints(folder / "many", every=EVERY, minutes=1e9)
    learner.fit(1, lr=1e-3, callbacks=[before, saves, after, writes])
    waits = [end - start for start, end in zip(before.times, after.times, strict=True)][: EVERY * rounds]
    steps = [start - end for end, start in zip(after.times, before.times[1:], strict=False)][: EVERY * rounds - 1]
    # steps[i] is the one after the (i + 1)-th; the first of seven runs beside the thread, the last four do not
    beside = [seconds for i, seconds in enumerate(steps) if i >= EVERY - 1 and i % EVERY == EVERY - 1]
    alone = [seconds for i, seconds in enumerate(steps) if i >= EVERY and i % EVERY in (2, 3, 4, 5)]
    wait = statistics.median(waits[EVERY - 1 :: EVERY])
    step, other = statistics.median(alone), statistics.median(beside)
    valid = statistics.median(timed(learner, Batch(*few)) for _ in range(5))
    epoch = STEPS * step + VALID_BATCHES * valid
    longer = max(other - step, 0.0) * max(writes.found["write_ms"] / 1e3 / other, 1.0)
    return {
        "precision": learner.precision.name,
        "step_ms": 1e3 * step,
        "step_beside_thread_ms": 1e3 * other,
        "wait_ms": 1e3 * wait,
        **writes.found,
        "epoch_s": epoch,
        "cost_percent_of_epoch": 100 * (wait + longer) / epoch,
        "checkpoints": rounds,
    }


def timed(learner, batch: Batch) -> float:
    start = time.perf_counter()
    learner.preds(batch)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        result = {**measure(Path(folder), arguments.rounds), "threads": arguments.threads, "torch": torch.__version__}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
