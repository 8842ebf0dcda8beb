"""The demo: learn to read 1,797 real handwritten digits, in less than a minute, without a download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from etude.recipes.options import ClassWeights as ClassWeights
from etude.recipes.options import NumberLoss as NumberLoss
from etude.recipes.options import Precision, RunOptions, TrainOptions
from etude.recipes.pictures import average_of, mixing
from etude.recipes.several import over_seeds
from etude.recipes.teacher import step_of
from etude.recipes.training import Training

if TYPE_CHECKING:
    from torch import Tensor

    from etude.data.loaders import DataLoaders
    from etude.training.learner import Learner
    from etude.types import Json
_NUM_VALID = 360
_SPLIT_SEED = 0
"""The held-out digits are the same whatever seed a run has."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions(TrainOptions):
    """How the demo trains."""

    epochs: int = 30
    mixup: float = 0.2
    # the pictures are too small to gain by fewer bits, and a demo should give everyone the same curve
    precision: Precision = "fp32"


def demo(train: TrainOptions = DemoOptions(), run: RunOptions = RunOptions()) -> dict[str, Json]:  # noqa: B008  # frozen
    """Train on scikit-learn's digits with MixUp, label smoothing and one-cycle, and draw what came out.

    Args:
        train: how to train.
        run: where results go.

    Returns:
        The run's result: `{"run": folder, "valid_accuracy": share, "train_seconds": seconds, ...}`.
    """
    return over_seeds(training(train), run)


def training(train: TrainOptions) -> Training:
    """What the demo trains."""
    return Training(name="demo", kind="digits", train=train)


def digits_learner(train: TrainOptions, *, quiet: bool) -> Learner:
    """The lessons' network, made for 8x8 pixels."""
    from etude import vision
    from etude.optim import adamw

    return vision.learner(
        "lesson_cnn",
        digits(train.seed, train.batch_size),
        label_smoothing=train.label_smoothing,
        class_weights=None if train.class_weights == "none" else train.class_weights,
        focal=train.focal,
        optimizer=adamw(weight_decay=train.weight_decay),
        step=step_of(train),
        callbacks=mixing(train),
        precision=train.precision,
        average=average_of(train),
        device=train.device,
        progress=not quiet,
        widths=[64, 128, 256],
        stem_stride=1,
    )


INTRODUCTION = f"scikit-learn's handwritten digits of 8x8 pixels, {_NUM_VALID} of them held out"
NEXT_STEPS = """
next steps, in Python:
  import etude
  learner = etude.load("{folder}")        # the model you just trained
  from etude import vision
  data = vision.load("photos/", valid=0.2)  # your own pictures, one folder per class
  vision.learner("xresnet18", data, mixup=0.2).fit(5, lr=1e-2)
and to understand what happened: docs/how-a-step-flows.md"""


def digits(seed: int = 42, batch_size: int = 64) -> DataLoaders:
    """scikit-learn's digits: 8x8 pixels, 1,437 to train on, 360 held out, shifted by up to one pixel in training.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    import torch

    from etude import random, vision
    from etude.errors import ConfigError

    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigError("the demo's digits come with scikit-learn; install it: pip install 'etude[demo]'") from error
    bunch = load_digits()
    # 17 gray levels become 0..255
    pixels = (torch.from_numpy(bunch.images).float().unsqueeze(1) * (255 / 16)).round().to(torch.uint8)
    targets = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(pixels), generator=random.generator(_SPLIT_SEED, "digits"))
    held_out, rest = order[:_NUM_VALID], order[_NUM_VALID:]

    def part(rows: Tensor) -> tuple[Tensor, Tensor]:
        return pixels[rows], targets[rows]

    return vision.from_arrays(
        part(rest),
        part(held_out),
        vocab=[str(digit) for digit in range(10)],
        batch_size=batch_size,
        seed=seed,
        augment=vision.flip_and_shift(flip=0.0, shift=1),
        description=f"{len(rest)} handwritten digits of 8x8 pixels to learn from, {len(held_out)} held out",
    )
