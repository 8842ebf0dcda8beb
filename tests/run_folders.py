"""Run folders made by hand, as a training would have left them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from coloring import Done, etude

OPTIONS = {"epochs": 2, "lr": 0.01, "mixup": 0.0, "label_noise": 0.0, "data": "flowers", "seed": 42, "quiet": True}
DATA = {
    "description": "8 train and 4 valid",
    "store": "s1",
    "labels": "l1",
    "train": 8,
    "valid": 4,
    "classes": ["a", "b"],
}
ENVIRONMENT = {
    "started": "2026-01-02T03:04:05+00:00",
    "command": ["/usr/bin/etude", "train", "my flowers", "--lr", "0.01"],
    "cwd": "/home/me",
    "python": "3.11.7",
    "packages": {"etude": "0.1.0", "torch": "2.11.0"},
    "cpu": "abacus",
    "threads": 1,
    "git": {"commit": "c" * 40, "changes": "--- a/x\n+++ b/x\n-one\n+two\n+three\n", "untracked": 3},
    "source": None,
}


def make_run(folder: Path, *, accuracy: float | None = 0.75, losses: list[Any] | None = None, **changed: Any) -> Path:
    """A finished run of two steps and one epoch; without accuracy, one that did not end.

    Args:
        folder: to be made.
        accuracy: of the held-out pictures.
        losses: of the steps.
        changed: an option, or `environment`, `data`, `config` or `result` with what differs in them.
    """
    folder.mkdir(parents=True)
    parts = {name: changed.pop(name, {}) for name in ("environment", "data", "config", "result")}
    options = OPTIONS | changed
    config = {
        "options": options,
        "training": {"name": "train", "kind": "pictures", "fold": None, "train": {"epochs": options["epochs"]}},
        "model": {"arch": "lesson_cnn", "num_classes": 2},
        "data": DATA | parts["data"],
        "loss": "CrossEntropyLoss()",
        "callbacks": ["Scheduler(lr=[1])", "KeepRun()"],
        "epochs": options["epochs"],
        "steps_per_epoch": 2,
    } | parts["config"]
    write(folder / "config.json", config)
    write(folder / "environment.json", ENVIRONMENT | parts["environment"])
    (folder / "incidents.jsonl").touch()
    lines = [step(i, loss) for i, loss in enumerate(losses or [2.0, 1.0], 1)]
    lines.append({"kind": "epoch", "epoch": 1, "train_loss": 1.5, "valid_loss": 0.5, "valid_accuracy": accuracy})
    write_lines(folder / "history.jsonl", lines)
    if accuracy is not None:
        result = {"run": str(folder), "valid_loss": 0.5, "valid_accuracy": accuracy, "epochs": 2, "stopped": ""}
        write(folder / "result.json", result | {"train_seconds": 3.5} | parts["result"])
    return folder


def make_seeds(folder: Path, accuracies: dict[int, float | None], **changed: Any) -> Path:
    """A folder of several seeds; those without accuracy did not end."""
    parts = {f"seed-{seed}": {"name": "train", "kind": "pictures"} for seed in accuracies}
    folder.mkdir(parents=True)
    write(folder / "config.json", {"several": {"title": "train", "parts": parts, "result": "mean"}})
    for seed, accuracy in accuracies.items():
        make_run(folder / f"seed-{seed}", accuracy=accuracy, seed=seed, **changed)
    if None not in accuracies.values():
        mean = sum(filter(None, accuracies.values())) / len(accuracies)
        write(folder / "result.json", {"runs": [*parts], "valid_accuracy": mean, "valid_accuracy_sd": 0.01})
    return folder


def step(number: int, loss: Any) -> dict[str, Any]:
    """One line of a history."""
    return {"kind": "step", "step": number, "loss": loss, "lr": 0.01, "momentum": 0.9}


def write(path: Path, value: Any) -> None:
    """A JSON file."""
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, lines: list[Any]) -> None:
    """A JSONL file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def listed(folder: Path, *flags: str) -> tuple[dict[str, dict[str, Any]], Done]:
    """What `etude runs` lists: each row by its name."""
    done = etude("runs", folder, *flags, "--json")
    assert done.code == 0, done.errors
    return {row["name"]: row for row in done.json["runs"]}, done
