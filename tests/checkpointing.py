"""A folder of checkpoints to damage, and what a small fit writes into one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from etude import ClipGradNorm, Learner, MixUp, Record, SaveBest
from etude.training import checkpoint
from etude.training.callbacks.checkpoints import Checkpoints
from resuming import EPOCHS, learner

FILES = ("manifest.json", "model.json", "model.safetensors", "state.json", "state.safetensors")


def fitted(folder: Path, *, epochs: int = EPOCHS, resume: Any = None, callbacks: Any = (), **options: Any) -> Learner:
    """A small fit that has written its checkpoints, of nine steps in three epochs, into a folder."""
    saves = Checkpoints(folder, **options)
    made = learner([MixUp(0.4), ClipGradNorm(0.1), Record(), SaveBest(), saves, *callbacks])
    made.fit(epochs, lr=0.05, resume=resume)
    return made


def names(folder: Path) -> list[str]:
    """All that lies in a folder of checkpoints beside its lock, in the order in which it was written."""
    there = (path for path in folder.iterdir() if path.name != checkpoint.LOCK)
    found = sorted(there, key=lambda path: (checkpoint.position_of(path) or (0, 0, False), path.name))
    return [path.name for path in found]
