"""Train a classifier of texts: the recipe behind `etude classify-text`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etude.recipes.options import RunOptions
from etude.recipes.several import over_seeds
from etude.recipes.text_options import ClassifierTrainOptions, LabeledTextOptions, TextModelOptions
from etude.recipes.text_training import TextTraining

if TYPE_CHECKING:
    from etude.types import Json


def classify_text(
    data: LabeledTextOptions,
    source: str | None = None,
    model: TextModelOptions = TextModelOptions(),  # noqa: B008  # frozen
    train: ClassifierTrainOptions = ClassifierTrainOptions(),  # noqa: B008
    run: RunOptions = RunOptions(),  # noqa: B008
) -> dict[str, Json]:
    """Train a classifier of texts on the encoder of a language model, unfrozen from its head on; or from nothing.

    Args:
        data: which texts.
        source: the run of the language model.
        model: how large it is, where there is no language model.
        train: how to train.
        run: where results go.

    Returns:
        The run's result: `{"run": folder, "valid_accuracy": share, "train_seconds": seconds, ...}`.

    Source: SPEC R20-R26.
    """
    return over_seeds(training(data, source, model, train), run)


def training(
    data: LabeledTextOptions, source: str | None, model: TextModelOptions, train: ClassifierTrainOptions
) -> TextTraining:
    """What the recipe trains."""
    return TextTraining(
        name="classify-text", kind="text classifier", data=data, model=model, train=train, source=source
    )
