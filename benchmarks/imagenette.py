"""Imagenette at 64 pixels beside another library on the same files: accuracy over seeds, and wall time in turns.

    python benchmarks/imagenette.py ARCHIVE_OR_FOLDER --seeds 3                         our accuracy
    python benchmarks/imagenette.py ARCHIVE_OR_FOLDER --time 3 --peers 'COMMAND' fastai fastai-best

With --seeds every library trains for the full number of epochs with each seed; with --time each trains for one epoch at
a time, in turns, and what counts is the median of the ratios of a round. COMMAND NAME --data FOLDER --seed S --epochs E
must print a JSON line with train_seconds and valid_accuracy. train_seconds are those of the epochs with their
validation; ours do not hold the decoding, done once beforehand, which a peer does in every epoch: process_seconds are
those of the whole process, imports and (with a warm store) the reading of the folder among them.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from etude.data.fetch import resolve
from etude.recipes.studies import compare, table

EPOCHS = 5


def ours(data: Path, seed: int, epochs: int, extra: list[str]) -> dict[str, float]:
    """The recipe as its user runs it, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--size 64 --arch xresnet18 --batch-size 64 --epochs {epochs} --seed {seed} --json --quiet"
        command = [sys.executable, "-m", "etude", "imagenette", "--data", str(data), *flags.split(), *extra]
        return run([*command, "--run-dir", str(Path(folder) / "run")])


def peer(command: str, name: str, data: Path, seed: int, epochs: int) -> dict[str, float]:
    """The same recipe in another library."""
    return run([*shlex.split(command), name, "--data", str(data), "--seed", str(seed), "--epochs", str(epochs)])


def run(command: list[str]) -> dict[str, float]:
    """The JSON line that a command prints."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = round(time.perf_counter() - started, 1)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"{shlex.join(command)} printed no JSON line:\n{done.stderr[-800:]}")
    result = json.loads(lines[-1])
    kept = {"train_seconds": result["train_seconds"], "valid_accuracy": result["valid_accuracy"]}
    return {**kept, "process_seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--time", type=int, default=0, metavar="ROUNDS")
    parser.add_argument("--peers", nargs="+", default=[], metavar=("COMMAND", "NAME"))
    parser.add_argument(
        "--flag", action="append", default=[], help="one more flag of our recipe, such as --flag=--lr=1e-2"
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    data = resolve(arguments.data)
    names = ["etude", *arguments.peers[1:]]
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}

    def one(name: str, seed: int, epochs: int) -> None:
        if name == "etude":
            result = ours(data, seed, epochs, arguments.flag)
        else:
            result = peer(arguments.peers[0], name, data, seed, epochs)
        results[name].append(result)
        line = {"library": name, "seed": seed, "epochs": epochs, **result, "load": os.getloadavg()[0]}
        print(json.dumps(line), flush=True)
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(json.dumps(line) + "\n")

    for seed in range(arguments.seeds):
        for name in names:
            one(name, seed, EPOCHS)
    for i in range(arguments.time):
        for name in names if i % 2 == 0 else reversed(names):
            one(name, 0, 1)
    if arguments.seeds and len(names) > 1:
        print(table(compare({name: [r["valid_accuracy"] for r in results[name]] for name in reversed(names)})))
    for name in names[1:]:
        for what in ("train_seconds", "process_seconds"):
            ratios = [a[what] / b[what] for a, b in zip(results["etude"], results[name], strict=True)]
            print(f"etude over {name}, {what}: {statistics.median(ratios):.3f} ({[round(r, 3) for r in ratios]})")


if __name__ == "__main__":
    main()
