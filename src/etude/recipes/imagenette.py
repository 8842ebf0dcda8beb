"""Imagenette and Imagewoof: fast.ai's ten easy and ten hard classes of ImageNet, with the lesson's recipe.

Source: SPEC X15, sections 9.2 and 9.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from etude.recipes.options import ClassWeights as ClassWeights
from etude.recipes.options import DataOptions, ModelOptions, Precision, RunOptions, TrainOptions
from etude.recipes.options import NumberLoss as NumberLoss
from etude.recipes.several import over_seeds
from etude.recipes.training import Training

if TYPE_CHECKING:
    from etude.types import Json


@dataclass(frozen=True, kw_only=True)
class ImagenetteOptions(TrainOptions):
    """How the lesson trains."""

    epochs: int = 5
    lr: float = 8e-3
    pct_start: float = 0.5
    precision: Precision = "auto"


def imagenette(
    data: DataOptions = DataOptions(),  # noqa: B008  # frozen
    model: ModelOptions = ModelOptions(),  # noqa: B008
    train: ImagenetteOptions = ImagenetteOptions(),
    run: RunOptions = RunOptions(),  # noqa: B008
) -> dict[str, Json]:
    """Train on Imagenette; without `data.data` the archive that suits `data.size` is fetched."""
    return over_seeds(training("imagenette", data, model, train), run)


def imagewoof(
    data: DataOptions = DataOptions(),  # noqa: B008  # frozen
    model: ModelOptions = ModelOptions(),  # noqa: B008
    train: ImagenetteOptions = ImagenetteOptions(),
    run: RunOptions = RunOptions(),  # noqa: B008
) -> dict[str, Json]:
    """Train on Imagewoof; without `data.data` the archive that suits `data.size` is fetched."""
    return over_seeds(training("imagewoof", data, model, train), run)


def training(
    name: Literal["imagenette", "imagewoof"], data: DataOptions, model: ModelOptions, train: TrainOptions
) -> Training:
    """What either recipe trains."""
    return Training(name=name, data=_with_archive(data, f"{name}2"), model=model, train=train)


def _with_archive(data: DataOptions, name: str) -> DataOptions:
    """The archive whose pictures are a little larger than what the model sees, as the lesson chooses it."""
    if data.data is not None:
        return data
    suffix = "-160" if data.size < 140 else "-320" if data.size < 240 else ""
    return replace(data, data=f"{name}{suffix}")
