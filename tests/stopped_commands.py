"""Commands that are stopped by a wish in one of their steps, and what their run folders then hold."""

from __future__ import annotations

import hashlib
import itertools
import json
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

from coloring import FAST
from etude.training import interrupt
from etude.training.callbacks import checkpoints

TRAIN = ["--valid-pct", "0.25", *FAST, "--epochs", "3", "--precision", "fp32", "--mixup", "0.3"]


@contextmanager
def stopped_after(num_steps: int, monkeypatch):
    """The command gets SIGTERM when its fits have asked so many times whether there is one."""
    asked = itertools.count()

    class Wish(interrupt.Wish):
        number = property(lambda self: signal.SIGTERM if next(asked) >= num_steps else None, lambda self, number: None)

    @contextmanager
    def wish(told):
        yield Wish()

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.interrupt, "wish_to_stop", wish)
        with pytest.raises(SystemExit) as left:
            yield
    assert left.value.code == 143


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def steps(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))
