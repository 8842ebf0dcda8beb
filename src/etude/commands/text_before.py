"""Before a training on texts: tell what it will do, or find its learning rate, with that training's own flags."""

from __future__ import annotations

from typing import Annotated

from etude.commands.lr_find import Rates, find
from etude.commands.shared import From, Lm, Model, Output, Run, Texts, Training, finish
from etude.recipes import classify_text as classify_recipe
from etude.recipes import lm as lm_recipe
from etude.recipes import options as given
from etude.recipes import plan as plan_recipe
from etude.recipes.lr_find import FinderOptions
from etude.recipes.options import OutputOptions, RunOptions
from etude.recipes.text_options import (
    ClassifierTrainOptions,
    LabeledTextOptions,
    LanguageModelTrainOptions,
    TextModelOptions,
    TextOptions,
)


def plan_lm(
    path: str | None = None,
    /,
    *,
    source: Annotated[str | None, From] = None,
    out: str | None = None,
    data: Annotated[TextOptions, Texts] = TextOptions(),  # noqa: B008  # frozen
    model: Annotated[TextModelOptions, Model] = TextModelOptions(),  # noqa: B008
    train: Annotated[LanguageModelTrainOptions, Training] = LanguageModelTrainOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Tell what etude lm will do.

    Parameters
    ----------
    path
        The texts; the same as --data.
    source
        The run of a language model to begin from.
    out
        A PNG of learning rate and momentum, of the last phase.
    """
    training = lm_recipe.training(given.data_of(path, data), source, model, train)
    finish(plan_recipe.plan(training, run, out=out), run)


def plan_classify_text(
    path: str | None = None,
    /,
    *,
    lm: Annotated[str | None, Lm] = None,
    out: str | None = None,
    data: Annotated[LabeledTextOptions, Texts] = LabeledTextOptions(),  # noqa: B008  # frozen
    model: Annotated[TextModelOptions, Model] = TextModelOptions(),  # noqa: B008
    train: Annotated[ClassifierTrainOptions, Training] = ClassifierTrainOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Tell what etude classify-text will do.

    Parameters
    ----------
    path
        The labeled texts; the same as --data.
    lm
        The run of a language model, as for etude classify-text.
    out
        A PNG of learning rate and momentum, of the last phase.
    """
    training = classify_recipe.training(given.data_of(path, data), lm, model, train)
    finish(plan_recipe.plan(training, run, out=out), run)


def lr_find_lm(
    path: str | None = None,
    /,
    *,
    source: Annotated[str | None, From] = None,
    finder: Annotated[FinderOptions, Rates] = FinderOptions(),  # noqa: B008  # frozen
    data: Annotated[TextOptions, Texts] = TextOptions(),  # noqa: B008
    model: Annotated[TextModelOptions, Model] = TextModelOptions(),  # noqa: B008
    train: Annotated[LanguageModelTrainOptions, Training] = LanguageModelTrainOptions(),  # noqa: B008
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008
) -> None:
    """Find a learning rate for etude lm.

    Parameters
    ----------
    path
        The texts; the same as --data.
    source
        The run of a language model to begin from.
    """
    find(lm_recipe.training(given.data_of(path, data), source, model, train), finder, output)


def lr_find_classify_text(
    path: str | None = None,
    /,
    *,
    lm: Annotated[str | None, Lm] = None,
    finder: Annotated[FinderOptions, Rates] = FinderOptions(),  # noqa: B008  # frozen
    data: Annotated[LabeledTextOptions, Texts] = LabeledTextOptions(),  # noqa: B008
    model: Annotated[TextModelOptions, Model] = TextModelOptions(),  # noqa: B008
    train: Annotated[ClassifierTrainOptions, Training] = ClassifierTrainOptions(),  # noqa: B008
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008
) -> None:
    """Find a learning rate for etude classify-text.

    Parameters
    ----------
    path
        The labeled texts; the same as --data.
    lm
        The run of a language model, as for etude classify-text.
    """
    find(classify_recipe.training(given.data_of(path, data), lm, model, train), finder, output)
