"""Small fits that are stopped at a place by a real wish to stop, and resumed from what is then on the disk."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

import etude
from etude import (
    Callback,
    Choose,
    ClipGradNorm,
    CutMix,
    Cutout,
    Debug,
    EarlyStopping,
    ErasePixels,
    FourCorners,
    Learner,
    MixUp,
    Record,
    SaveBest,
    Scheduler,
    accuracy,
)
from etude.data.dataset import DatasetLoader
from etude.data.loaders import ArrayLoader, DataLoaders
from etude.testing import same
from etude.training import interrupt
from etude.training.callbacks import checkpoints
from etude.training.callbacks.checkpoints import Checkpoints
from etude.training.transfer import HoldNorms

SHIPPED: dict[str, Callable[[], Callback]] = {
    "mixup": lambda: MixUp(0.4),
    "mixup in a hidden layer": lambda: MixUp(0.4, at="2"),
    "cutmix": CutMix,
    "cutout": lambda: Cutout(0.4),
    "erase pixels": ErasePixels,
    "four corners": FourCorners,
    "choose": lambda: Choose(MixUp(0.4, at="2", seed=5), Cutout(0.5, seed=5), p=0.8),
    "clip": lambda: ClipGradNorm(0.1),
    "record": Record,
    "early stopping": lambda: EarlyStopping(patience=5),
    "save best": lambda: SaveBest("valid_accuracy"),
    "debug": lambda: Debug("after_step", call=lambda *_: None, times=3),
    "scheduler": lambda: Scheduler({"weight_decay": lambda position: 0.1 * position}),
    "hold norms": lambda: HoldNorms(["1"]),
    "progress": etude.ShowProgress,
}
"""Every callback that needs no folder; `test_callbacks.py` checks that none is left out."""

EPOCHS, BATCHES, ACCUMULATE = 3, 6, 2
STEPS = BATCHES // ACCUMULATE
PLACES = {
    "an epoch's end": ("epoch", 1, 0),
    "a step before": ("step", 0, BATCHES - ACCUMULATE),
    "a step after": ("step", 1, ACCUMULATE),
    "mid-epoch": ("step", 1, 2 * ACCUMULATE),
    "inside a window": ("step", 1, ACCUMULATE + 1),
    "in validation": ("valid", 1, 2),
}
"""What is seen last, in which epoch (counted from 0), after how many batches of it."""


class StopAt(Callback):
    """A wish to stop at a place, as a signal would leave it; see `signaled_by`."""

    def __init__(self, place: str | None) -> None:
        self.place = PLACES[place] if place else None
        self.wish = interrupt.Wish()
        self._evaluated = 0

    @override
    def before_epoch(self, learner):
        self._evaluated = 0

    @override
    def after_step(self, learner, batch, output):
        # progress.epoch_batch already counts this batch
        if self.place == ("step", learner.progress.fit_epoch, learner.progress.epoch_batch):
            self.wish.number = signal.SIGTERM

    @override
    def after_eval_batch(self, learner, batch, output):
        self._evaluated += 1
        if self.place == ("valid", learner.progress.fit_epoch, self._evaluated):
            self.wish.number = signal.SIGTERM

    @override
    def after_epoch(self, learner, results):
        if self.place == ("epoch", learner.progress.fit_epoch, 0):
            self.wish.number = signal.SIGTERM


class Noisy(Dataset):
    """Samples with a random transform that draws from all three global generators."""

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    @override
    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inputs[i] + 0.1 * torch.randn(1) + 0.1 * float(np.random.rand()), self.targets[i]


def _workers(number: int) -> dict[str, Any]:
    """Two are started anew for every epoch; four stay, for starting them takes longer than an epoch here."""
    return {"workers": number, "persistent_workers": number > 2}


def loaders(kind: str) -> Any:
    """Training and validation data: our arrays, a torch data set with 0, 2 or 4 workers, or a ready-made loader."""
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(16 * BATCHES - 4, 1, 6, 6, generator=generator)
    targets = inputs.flatten(1)[:, :4].argmax(1)
    if kind == "arrays":
        train = ArrayLoader(inputs, targets, batch_size=16, shuffle=True, seed=3)
        return DataLoaders(train, ArrayLoader(inputs, targets, batch_size=32), seed=3)
    if kind == "ready-made":
        return DataLoader(Noisy(inputs, targets), 16, shuffle=True), DataLoader(Noisy(inputs, targets), 32)
    train = DatasetLoader(Noisy(inputs, targets), batch_size=16, shuffle=True, seed=3, **_workers(int(kind.split()[0])))
    return DataLoaders(train, ArrayLoader(inputs, targets, batch_size=32), seed=3)


def learner(callbacks: list[Callback], *, data: str = "arrays", precision: str = "fp32", **options: Any) -> Learner:
    """A small network with a norm and dropout."""
    torch.manual_seed(0)
    np.random.seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 4)
    ).to(memory_format=torch.channels_last)
    defaults = {"optimizer": etude.optim.adamw(), "accumulate": ACCUMULATE, "metrics": [accuracy]}
    return Learner(
        model,
        loaders(data),
        nn.CrossEntropyLoss(),
        callbacks=callbacks,
        precision=precision,
        device="cpu",
        progress=False,
        **(defaults | options),
    )


@contextmanager
def signaled_by(stop: StopAt, monkeypatch) -> Iterator[None]:
    """The fit's wish to stop comes from the callback instead of from a signal's handler."""

    @contextmanager
    def wish(told: str) -> Iterator[interrupt.Wish]:
        yield stop.wish

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.interrupt, "wish_to_stop", wish)
        yield


def outcome(trained: Learner) -> dict[str, Any]:
    """All that must be equal: weights, buffers, optimizer, the table, the callbacks, torch's generator."""
    return {
        "model": trained.model.state_dict(),
        "optimizer": sorted(trained.optimizer.state_dict()["state"].items()),
        "rows": [{name: value for name, value in row.items() if name != "seconds"} for row in trained.history],
        "callbacks": [
            callback.state_dict() for callback in trained.callbacks if not isinstance(callback, StopAt | Checkpoints)
        ],
        "generator": torch.get_rng_state(),
    }


def stopped_and_resumed(make, folder: Path, place: str, monkeypatch, **options: Any) -> dict[str, Any]:
    """What a fit ends with that was stopped at a place and resumed in new objects."""
    stop = StopAt(place)
    with signaled_by(stop, monkeypatch), pytest.raises(SystemExit, match="143"):
        learner([*make(), stop, Checkpoints(folder)], **options).fit(EPOCHS, lr=0.05)
    resumed = learner([*make(), StopAt(None), Checkpoints(folder)], **options)
    torch.manual_seed(12345)
    resumed.fit(EPOCHS, lr=0.05, resume=folder)
    return outcome(resumed)


def never_stopped(make, folder: Path, **options: Any) -> dict[str, Any]:
    """What the same fit ends with as a whole."""
    whole = learner([*make(), StopAt(None), Checkpoints(folder)], **options)
    whole.fit(EPOCHS, lr=0.05)
    return outcome(whole)


def check_places(make, tmp_path: Path, monkeypatch, places=tuple(PLACES), **options: Any) -> None:
    """Stop a fit with some callbacks at some places, and compare with the whole one."""
    whole = never_stopped(make, tmp_path / "whole", **options)
    for place in places:
        resumed = stopped_and_resumed(make, tmp_path / place.replace(" ", "-"), place, monkeypatch, **options)
        different = [name for name in whole if not same(whole[name], resumed[name])]
        assert not different, f"{place}: other {different}"
