"""A training whose step, or whose writer, hangs: run as a process of its own and interrupted twice."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from etude.training import checkpoint
from etude.training.callbacks.checkpoints import Checkpoints
from resuming import learner


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)

    def hang(*_):
        print("hanging", flush=True)
        while True:
            time.sleep(3600)

    if what == "step":
        made = learner([Checkpoints(folder)], step=hang)
    else:
        checkpoint.write = hang
        made = learner([Checkpoints(folder, every=1)])
    made.fit(3, lr=0.05)


if __name__ == "__main__":
    main()
