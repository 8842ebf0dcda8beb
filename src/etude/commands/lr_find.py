"""Commands that find a learning rate: `etude lr-find ...`, with the flags of the training that is meant."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from etude.commands.shared import From, Model, Output, Pictures, SomeBadError, Training, finish
from etude.recipes import demo as demo_recipe
from etude.recipes import finetune as finetune_recipe
from etude.recipes import imagenette as imagenette_recipe
from etude.recipes import lr_find as lr_find_recipe
from etude.recipes import options as given
from etude.recipes import training as asked
from etude.recipes.asked import Asked
from etude.recipes.lr_find import FinderOptions
from etude.recipes.options import DataOptions, ModelOptions, OutputOptions, TrainOptions, TuningOptions

Rates = Parameter(name="*")


def demo(
    *,
    finder: Annotated[FinderOptions, Rates] = FinderOptions(),  # noqa: B008  # frozen
    train: Annotated[demo_recipe.DemoOptions, Training] = demo_recipe.DemoOptions(),  # noqa: B008
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008
) -> None:
    """Find a learning rate for etude demo, without a download."""
    find(demo_recipe.training(train), finder, output)


def train(
    path: str | None = None,
    /,
    *,
    finder: Annotated[FinderOptions, Rates] = FinderOptions(),  # noqa: B008  # frozen
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008
    model: Annotated[ModelOptions, Model] = ModelOptions(),  # noqa: B008
    train: Annotated[TrainOptions, Training] = TrainOptions(),  # noqa: B008
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008
) -> None:
    """Find a learning rate for etude train, on your own pictures.

    Parameters
    ----------
    path
        A folder, an archive, or a known data set; the same as --data.
    """
    training = asked.Training(name="train", data=given.data_of(path, data), model=model, train=train)
    find(training, finder, output)


def finetune(
    path: str | None = None,
    /,
    *,
    source: Annotated[str | None, From] = None,
    finder: Annotated[FinderOptions, Rates] = FinderOptions(),  # noqa: B008
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008
    model: Annotated[ModelOptions, Model] = ModelOptions(),  # noqa: B008
    train: Annotated[finetune_recipe.FinetuneOptions, Training] = finetune_recipe.FinetuneOptions(),  # noqa: B008
    tuning: Annotated[TuningOptions, Training] = TuningOptions(),  # noqa: B008
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008
) -> None:
    """Find a learning rate for etude finetune, with everything trainable.

    Parameters
    ----------
    path
        A folder, an archive, or a known data set; the same as --data.
    source
        The body, as for etude finetune.
    """
    training = finetune_recipe.training(given.data_of(path, data), source, model, train, tuning)
    find(training, finder, output)


def imagenette(
    *,
    finder: Annotated[FinderOptions, Rates] = FinderOptions(),  # noqa: B008  # frozen
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008
    model: Annotated[ModelOptions, Model] = ModelOptions(),  # noqa: B008
    train: Annotated[imagenette_recipe.ImagenetteOptions, Training] = imagenette_recipe.ImagenetteOptions(),  # noqa: B008
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008
) -> None:
    """Find a learning rate for etude imagenette."""
    find(imagenette_recipe.training("imagenette", data, model, train), finder, output)


def imagewoof(
    *,
    finder: Annotated[FinderOptions, Rates] = FinderOptions(),  # noqa: B008  # frozen
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008
    model: Annotated[ModelOptions, Model] = ModelOptions(),  # noqa: B008
    train: Annotated[imagenette_recipe.ImagenetteOptions, Training] = imagenette_recipe.ImagenetteOptions(),  # noqa: B008
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008
) -> None:
    """Find a learning rate for etude imagewoof."""
    find(imagenette_recipe.training("imagewoof", data, model, train), finder, output)


def find(training: Asked, finder: FinderOptions, output: OutputOptions) -> None:
    """Try rates on a training and end the command, in failure where none is to be suggested."""
    result = lr_find_recipe.lr_find(training, finder, output)
    finish(result, output)
    if result["suggestion"] is None:
        raise SomeBadError
