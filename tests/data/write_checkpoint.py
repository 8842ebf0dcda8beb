"""Writes the checkpoint beside this file, of a training of a few numbers; run anew only when the format has changed.

    python tests/data/write_checkpoint.py FOLDER

The one that is committed was written by the first version with this format. Later versions must read it, and go on.
"""

from __future__ import annotations

import random
import signal
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from etude import Callback, Learner, MixUp, SaveBest
from etude.data.loaders import ArrayLoader, DataLoaders
from etude.training.callbacks.checkpoints import Checkpoints


class Stop(Callback):
    """Stops after the sixth of eight steps."""

    @override
    def after_step(self, learner, batch, output):
        if learner.progress.step == 6:
            signal.raise_signal(signal.SIGTERM)


def learner(folder: Path) -> Learner:
    """A linear layer and a norm, four samples a step."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    inputs = torch.arange(48, dtype=torch.float32).reshape(16, 3) / 48
    targets = torch.arange(16) % 2
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape))
    data = DataLoaders(
        ArrayLoader(inputs, targets, batch_size=4, shuffle=True, seed=3),
        ArrayLoader(inputs, targets, batch_size=8),
        seed=3,
    )
    return Learner(
        model,
        data,
        nn.CrossEntropyLoss(),
        lambda groups: torch.optim.SGD(groups, 0.1, momentum=0.9),
        callbacks=[MixUp(0.4), SaveBest(), Checkpoints(folder, keep=1, best=None, every=1)],
        device="cpu",
        progress=False,
    )


def main() -> None:
    torch.set_num_threads(1)
    # asks for an orderly stop in the middle of the second epoch
    with suppress(SystemExit):
        learner(Path(sys.argv[1])).fit(2, lr=0.1, callbacks=[Stop()])


if __name__ == "__main__":
    main()
