"""Commands that begin from a trained body: finetune, and the study of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from etude.commands.shared import From, Model, Pictures, Run, Training, finish
from etude.recipes import finetune as finetune_recipe
from etude.recipes import options as given
from etude.recipes import pets_study as study
from etude.recipes.options import DataOptions, ModelOptions, RunOptions, TuningOptions


def finetune(
    path: str | None = None,
    /,
    *,
    source: Annotated[str | None, From] = None,
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008  # frozen
    model: Annotated[ModelOptions, Model] = ModelOptions(),  # noqa: B008
    train: Annotated[finetune_recipe.FinetuneOptions, Training] = finetune_recipe.FinetuneOptions(),  # noqa: B008
    tuning: Annotated[TuningOptions, Training] = TuningOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Fine-tune a trained body on your own pictures.

    The body gets a new head, which trains alone first; then everything
    trains, the body more slowly. PATH is as for etude train.

    Parameters
    ----------
    path
        The pictures; the same as --data.
    source
        The body: a run's folder, timm:NAME, or a .safetensors file for --arch. Without it, says where to get one.
    """
    finish(finetune_recipe.finetune(given.data_of(path, data), source, model, train, tuning, run), run)


def pets_study(
    path: str | None = None,
    /,
    *,
    source: Annotated[str, From],
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008  # frozen
    model: Annotated[ModelOptions, Model] = ModelOptions(),  # noqa: B008
    train: Annotated[study.PetsStudyOptions, Training] = study.PetsStudyOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Measure what a trained body gives, and what freezing its norms costs.

    The lesson's experiment on the Pets as one table: from scratch, all
    trainable, frozen with each policy for the norms, two learning rates;
    over paired seeds, with what is more than chance.

    Parameters
    ----------
    path
        The pictures; oxford-iiit-pet unless named.
    source
        The body: the folder of a run, such as one of etude imagewoof, or a .safetensors file of weights for --arch.
    """
    data = given.data_of(path, data)
    if data.data is None:
        data = replace(data, data="oxford-iiit-pet", valid_pct=data.valid_pct or 0.1)
    finish(study.pets_study(data, source, model, train, run), run)
