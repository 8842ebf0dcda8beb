"""Commands that train: demo, train, imagenette, imagewoof and the studies."""

from __future__ import annotations

from typing import Annotated

from etude.commands.shared import Model, Pictures, Run, Training, finish
from etude.recipes import demo as demo_recipe
from etude.recipes import imagenette as imagenette_recipe
from etude.recipes import options as given
from etude.recipes import studies
from etude.recipes import train as train_recipe
from etude.recipes.options import DataOptions, ModelOptions, RunOptions, TrainOptions


def demo(
    *,
    train: Annotated[demo_recipe.DemoOptions, Training] = demo_recipe.DemoOptions(),  # noqa: B008  # frozen
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008  # frozen
) -> None:
    """Learn to read 1,797 real handwritten digits, without a download.

    Trains a small convolutional network with MixUp, label smoothing and
    one-cycle, prints a table, and draws the curves and a grid of predictions
    into the run's folder.
    """
    finish(demo_recipe.demo(train, run), run)


def train(
    path: str | None = None,
    /,
    *,
    folds: int = 0,
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008  # frozen
    model: Annotated[ModelOptions, Model] = ModelOptions(),  # noqa: B008
    train: Annotated[TrainOptions, Training] = TrainOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Train a classifier on your own pictures.

    PATH is a folder, an archive, or a known data set. One folder per class,
    train and valid folders, a labels.csv, or files called LABEL_NUMBER.jpg:
    the layout is guessed, and said.

    Parameters
    ----------
    path
        The pictures; the same as --data.
    folds
        Cross-validate a small set: as many trainings, each holding out another part.
    """
    finish(train_recipe.train(given.data_of(path, data), model, train, run, folds=folds), run)


def imagenette(
    *,
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008  # frozen
    model: Annotated[ModelOptions, Model] = ModelOptions(),  # noqa: B008
    train: Annotated[imagenette_recipe.ImagenetteOptions, Training] = imagenette_recipe.ImagenetteOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Train on Imagenette, fast.ai's ten easy classes, with the lesson's recipe.

    Fetches the archive that suits --size unless --data names one.
    """
    finish(imagenette_recipe.imagenette(data, model, train, run), run)


def imagewoof(
    *,
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008  # frozen
    model: Annotated[ModelOptions, Model] = ModelOptions(),  # noqa: B008
    train: Annotated[imagenette_recipe.ImagenetteOptions, Training] = imagenette_recipe.ImagenetteOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Train on Imagewoof, ten breeds of dogs, with the lesson's recipe.

    Fetches the archive that suits --size unless --data names one.
    """
    finish(imagenette_recipe.imagewoof(data, model, train, run), run)


def techniques_study(
    *,
    data: Annotated[DataOptions, Pictures] = DataOptions(data="imagenette2-160"),  # noqa: B008  # frozen
    model: Annotated[ModelOptions, Model] = ModelOptions(arch="lesson_cnn"),  # noqa: B008
    train: Annotated[studies.StudyOptions, Training] = studies.StudyOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Compare nothing, MixUp and label smoothing over several seeds.

    The lesson's one-epoch demonstrations on Imagenette as one table with
    intervals, and one picture.
    """
    finish(studies.techniques_study(data, model, train, run), run)


def noisy_label_study(
    *,
    data: Annotated[DataOptions, Pictures] = DataOptions(data="imagenette2-160"),  # noqa: B008  # frozen
    model: Annotated[ModelOptions, Model] = ModelOptions(arch="lesson_cnn"),  # noqa: B008
    train: Annotated[studies.StudyOptions, Training] = studies.StudyOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Compare cross entropy and label smoothing with wrong labels.

    0, 20 and 50 % of the training labels are made wrong; validation keeps its own.
    """
    finish(studies.noisy_label_study(data, model, train, run), run)
