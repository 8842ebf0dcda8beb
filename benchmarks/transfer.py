"""What freezing does to the norms of a body: how far their statistics move, and how well they fit the new pictures.

A body trained on one set gets a new head for another, and the head trains alone under each policy for the norms. Then,
for each norm of the body:

- moved: how far its running mean is from the body's own, in deviations of the body's own, averaged over its channels;
- off: how far its running mean is from that of the new pictures, measured by running them through the network as it
  is now with every norm averaging what it sees, in deviations of the new pictures;
- scale: how far its scale moved, relative to itself.

    python benchmarks/transfer.py RUN PETS --json benchmarks/results/transfer.json
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from etude import Learner, vision
from etude.training import transfer
from etude.training.tuning import TuningPhase

POLICIES = ("train", "affine", "frozen")


def norms_of(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


def statistics_of_new_pictures(learner: Learner) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance that each norm meets on the training pictures, with the network's weights as they are."""
    model = copy.deepcopy(learner.model)
    for norm in norms_of(model).values():
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
    model.train()
    assert learner.data.train is not None
    assert learner.data.preprocess is not None
    with torch.no_grad():
        for batch in learner.data.train.batches(0, learner.device):
            model(learner.data.preprocess(batch.inputs))
    found = {}
    for name, norm in norms_of(model).items():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        found[name] = (norm.running_mean, norm.running_var)
    return found


def gap(mean: Tensor, other: Tensor, variance: Tensor) -> float:
    return float(((mean - other).abs() / variance.clamp(min=1e-8).sqrt()).mean())


def measure(run: str, pictures: str, norm: Any, epochs: int, size: int, valid: float, seed: int) -> dict[str, Any]:
    data = vision.load(pictures, size=size, valid=valid, seed=seed, split_seed=42)
    learner = vision.learner(run, data, precision="fp32")
    before = copy.deepcopy(norms_of(learner.model))
    transfer.run_phases(learner, [TuningPhase(epochs=epochs, lr=1e-2, trained=1, norm=norm, pct_start=0.5)])
    after, new = norms_of(learner.model), statistics_of_new_pictures(learner)
    rows = []
    for name, now in after.items():
        old, (mean, variance) = before[name], new[name]
        assert now.running_mean is not None
        assert old.running_mean is not None
        assert old.running_var is not None
        rows.append(
            {
                "norm": name,
                "moved": gap(now.running_mean, old.running_mean, old.running_var),
                "off": gap(now.running_mean, mean, variance),
                "scale": float(((now.weight - old.weight).norm() / old.weight.norm()).detach()),
            }
        )
    return {"accuracy": learner.history.rows[-1]["valid_accuracy"], "norms": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("pictures")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--valid", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    asked = (given.epochs, given.size, given.valid, given.seed)
    found: dict[str, Any] = {"epochs": given.epochs, "size": given.size, "valid": given.valid, "seed": given.seed}
    found["policies"] = {norm: measure(given.run, given.pictures, norm, *asked) for norm in POLICIES}
    for norm, one in found["policies"].items():
        rows = one["norms"]
        means = {name: sum(row[name] for row in rows) / len(rows) for name in ("moved", "off", "scale")}
        print(norm, f"accuracy {one['accuracy']:.3f}", {name: round(value, 3) for name, value in means.items()})
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
