"""Commands that tell what a training will do: `etude plan ...`, with the flags of the training that is meant."""

from __future__ import annotations

from typing import Annotated

from etude.commands.shared import From, Model, Pictures, Run, Training, finish
from etude.recipes import demo as demo_recipe
from etude.recipes import finetune as finetune_recipe
from etude.recipes import imagenette as imagenette_recipe
from etude.recipes import options as given
from etude.recipes import plan as plan_recipe
from etude.recipes import train as train_recipe
from etude.recipes import training as asked
from etude.recipes.options import DataOptions, ModelOptions, RunOptions, TrainOptions, TuningOptions


def demo(
    *,
    out: str | None = None,
    train: Annotated[demo_recipe.DemoOptions, Training] = demo_recipe.DemoOptions(),  # noqa: B008  # frozen
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Tell what etude demo will do.

    Parameters
    ----------
    out
        A PNG of learning rate and momentum to draw.
    """
    finish(plan_recipe.plan(demo_recipe.training(train), run, out=out), run)


def train(
    path: str | None = None,
    /,
    *,
    out: str | None = None,
    folds: int = 0,
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008  # frozen
    model: Annotated[ModelOptions, Model] = ModelOptions(),  # noqa: B008
    train: Annotated[TrainOptions, Training] = TrainOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Tell what etude train will do with your own pictures.

    Parameters
    ----------
    path
        A folder, an archive, or a known data set; the same as --data.
    out
        A PNG of learning rate and momentum to draw.
    folds
        Of a cross-validation; the first of its trainings is planned.
    """
    training = asked.Training(name="train", data=given.data_of(path, data), model=model, train=train)
    if folds:
        training = train_recipe.in_fold(training, 0, folds)
    finish(plan_recipe.plan(training, run, out=out, runs=folds or None), run)


def finetune(
    path: str | None = None,
    /,
    *,
    source: Annotated[str | None, From] = None,
    out: str | None = None,
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008
    model: Annotated[ModelOptions, Model] = ModelOptions(),  # noqa: B008
    train: Annotated[finetune_recipe.FinetuneOptions, Training] = finetune_recipe.FinetuneOptions(),  # noqa: B008
    tuning: Annotated[TuningOptions, Training] = TuningOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Tell what etude finetune will do with your own pictures.

    Parameters
    ----------
    path
        A folder, an archive, or a known data set; the same as --data.
    source
        The body, as for etude finetune.
    out
        A PNG of learning rate and momentum of the last phase.
    """
    training = finetune_recipe.training(given.data_of(path, data), source, model, train, tuning)
    finish(plan_recipe.plan(training, run, out=out), run)


def imagenette(
    *,
    out: str | None = None,
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008  # frozen
    model: Annotated[ModelOptions, Model] = ModelOptions(),  # noqa: B008
    train: Annotated[imagenette_recipe.ImagenetteOptions, Training] = imagenette_recipe.ImagenetteOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Tell what etude imagenette will do.

    Parameters
    ----------
    out
        A PNG of learning rate and momentum to draw.
    """
    finish(plan_recipe.plan(imagenette_recipe.training("imagenette", data, model, train), run, out=out), run)


def imagewoof(
    *,
    out: str | None = None,
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008  # frozen
    model: Annotated[ModelOptions, Model] = ModelOptions(),  # noqa: B008
    train: Annotated[imagenette_recipe.ImagenetteOptions, Training] = imagenette_recipe.ImagenetteOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Tell what etude imagewoof will do.

    Parameters
    ----------
    out
        A PNG of learning rate and momentum to draw.
    """
    finish(plan_recipe.plan(imagenette_recipe.training("imagewoof", data, model, train), run, out=out), run)
