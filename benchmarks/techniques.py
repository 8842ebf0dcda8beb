"""What each technique gives: the same recipe with it and without it, over seeds, on a quarter of a picture data set.

    python benchmarks/techniques.py IMAGENETTE_FOLDER --seeds 5 --out benchmarks/results/techniques.json
    python benchmarks/techniques.py IMAGENETTE_FOLDER --only precision --seeds 3 --size 64 --out FILE

Every run is `etude train` as its user types it, on one thread; two run side by side. The quarter is chosen by a hash of
each file's name, as are the 1,000 validation pictures. A difference is the mean of the differences of runs with the
same seed, with its 95 % interval; "no evidence" is a result. Runs that FILE holds already are not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from etude.runs.statistics import half_interval

TECHNIQUES = {
    "none": [],
    "MixUp": ["--mixup", "0.4"],
    "CutMix": ["--cutmix", "1.0"],
    "Cutout": ["--cutout", "0.5"],
    "EMA": ["--ema", "0.99"],
    "BlurPool": ["--blur-pool"],
    "progressive resizing": ["--progressive", "0.5"],
    "distillation": ["--teacher", "TEACHER"],
}
PRECISIONS = {name: ["--precision", name] for name in ("fp32", "bf16", "bf16-master")}
TEACHER_EPOCHS = 20
"""The teacher of the distillation: the plain recipe with four times the epochs, on the same pictures."""


def quarter(source: Path, place: Path) -> Path:
    """Links to a quarter of the training pictures and to 1,000 for validation."""
    for split, most in (("train", 0.25), ("val", None)):
        found = sorted((source / split).rglob("*.JPEG"), key=lambda path: hashlib.sha256(path.name.encode()).digest())
        for path in found[: round(len(found) * most) if most else 1000]:
            link = place / split / path.parent.name / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    return place


def run(data: Path, seed: int, size: int, epochs: int, flags: list[str], folder: Path) -> dict[str, Any]:
    """One run of the command."""
    fixed = ["--size", str(size), "--epochs", str(epochs), "--seed", str(seed), "--lr", "4e-3"]
    precision = [] if "--precision" in flags else ["--precision", "bf16-master"]
    options = [*fixed, *precision, *flags, "--json", "--quiet", "--run-dir", str(folder)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "etude", "train", str(data), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=one_thread)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-800:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    losses = [row["train_loss"] for row in rows if "train_loss" in row]
    kept = ("valid_accuracy", "valid_loss", "train_seconds")
    return {**{name: result[name] for name in kept}, "seed": seed, "train_losses": losses}


def differences(runs: dict[str, list[dict[str, Any]]], base: str) -> dict[str, Any]:
    """Points of accuracy that each row is above the base, with a 95 % interval, and its time relative to it."""
    found: dict[str, Any] = {}
    first = {row["seed"]: row for row in runs[base]}
    for name, rows in runs.items():
        pairs = [(row, first[row["seed"]]) for row in rows if row["seed"] in first]
        if not pairs:
            continue
        points = [100 * (row["valid_accuracy"] - other["valid_accuracy"]) for row, other in pairs]
        half = half_interval(points) if len(points) > 1 else None
        found[name] = {
            "accuracy": round(100 * mean(row["valid_accuracy"] for row, _ in pairs), 2),
            "points": round(mean(points), 2),
            "interval": None if half is None else [round(mean(points) - half, 2), round(mean(points) + half, 2)],
            "seconds": round(mean(row["train_seconds"] / other["train_seconds"] for row, other in pairs), 2),
            "seeds": len(pairs),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="an unpacked folder with train/ and val/")
    parser.add_argument("--only", choices=["techniques", "precision"], default="techniques")
    parser.add_argument("--rows", nargs="+", help="these rows only")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = TECHNIQUES if given.only == "techniques" else PRECISIONS
    rows = {name: flags for name, flags in rows.items() if not given.rows or name in given.rows}
    known: dict[str, list[dict[str, Any]]] = {name: [] for name in rows}
    if given.out.exists():
        known |= json.loads(given.out.read_text())["runs"]
    with tempfile.TemporaryDirectory() as folder:
        data = quarter(given.data, Path(folder) / "data")
        teacher = Path(folder) / "teacher"
        if any("TEACHER" in flags for flags in rows.values()):
            print(f"teacher: {run(data, 1000, given.size, TEACHER_EPOCHS, [], teacher)}", flush=True)
        missing = [
            (name, seed)
            for seed in range(given.seeds)
            for name in rows
            if seed not in [row["seed"] for row in known[name]]
        ]

        def train(name: str, seed: int) -> None:
            flags = [str(teacher) if flag == "TEACHER" else flag for flag in rows[name]]
            place = Path(folder) / f"{name}-{seed}"
            known[name].append(run(data, seed, given.size, given.epochs, flags, place))
            shutil.rmtree(place)
            print(f"{name}, seed {seed}: {known[name][-1]}", flush=True)
            written = {"differences": differences(known, next(iter(known))), "runs": known}
            given.out.write_text(json.dumps({"size": given.size, "epochs": given.epochs, **written}, indent=1) + "\n")

        with ThreadPoolExecutor(2) as pool:
            for finished in [pool.submit(train, name, seed) for name, seed in missing]:
                finished.result()
    print(json.dumps(differences(known, next(iter(known))), indent=1))


if __name__ == "__main__":
    main()
