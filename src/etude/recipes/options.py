"""The options that recipes share: one name in Python, on the command line, and in a run's record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from etude.types import Json

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to train."""

    epochs: int = 20
    """Passes over the training data."""
    batch_size: int = 64
    """Pictures per step."""
    lr: float = 1e-2
    """Peak learning rate of the one-cycle schedule."""
    weight_decay: float = 1e-2
    """Decoupled weight decay; norms and biases are left out."""
    mixup: float = 0.0
    """Alpha of MixUp; 0 trains without."""
    label_smoothing: float = 0.1
    """Share of each target spread over all classes; 0 trains without."""
    precision: Precision = "auto"
    """Number format of the model's computation; auto measures which is faster."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    seed: int = 42
    """Decides initial weights, orders, augmentation and MixUp."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where results go and what is printed."""

    run_dir: str | None = None
    """The run's folder, new or empty; by default runs/DATE-TIME-RECIPE."""
    json: bool = False
    """Print one JSON object as the last line."""
    quiet: bool = False
    """Print nothing but errors and the JSON line."""


def flags(*options: TrainOptions | RunOptions) -> dict[str, Json]:
    """All options under their flag names, for a run's record."""
    return {name: value for given in options for name, value in asdict(given).items()}
