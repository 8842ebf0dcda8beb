"""Commands for texts: lm, classify-text, ulmfit, generate, demo-text, bptt-study."""

from __future__ import annotations

from typing import Annotated

from etude.commands.shared import From, Lm, Model, Output, Run, Texts, Training, finish
from etude.recipes import bptt_study as bptt_recipe
from etude.recipes import classify_text as classify_recipe
from etude.recipes import demo_text as demo_recipe
from etude.recipes import lm as lm_recipe
from etude.recipes import options as given
from etude.recipes import ulmfit as ulmfit_recipe
from etude.recipes.options import OutputOptions, RunOptions
from etude.recipes.text_options import (
    ClassifierTrainOptions,
    LabeledTextOptions,
    LanguageModelTrainOptions,
    TextModelOptions,
    TextOptions,
    UlmfitOptions,
)


def lm(
    path: str | None = None,
    /,
    *,
    source: Annotated[str | None, From] = None,
    data: Annotated[TextOptions, Texts] = TextOptions(),  # noqa: B008  # frozen
    model: Annotated[TextModelOptions, Model] = TextModelOptions(),  # noqa: B008
    train: Annotated[LanguageModelTrainOptions, Training] = LanguageModelTrainOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Train a language model on texts: an AWD-LSTM that guesses the next word.

    PATH is a folder of .txt files, an archive, a table, WikiText files, or a
    known data set. With --from, goes on with a trained language model: words
    that both know keep what was learned.

    Parameters
    ----------
    path
        The texts; the same as --data.
    source
        The run of a language model to begin from.
    """
    finish(lm_recipe.lm(given.data_of(path, data), source, model, train, run), run)


def classify_text(
    path: str | None = None,
    /,
    *,
    lm: Annotated[str | None, Lm] = None,
    data: Annotated[LabeledTextOptions, Texts] = LabeledTextOptions(),  # noqa: B008  # frozen
    model: Annotated[TextModelOptions, Model] = TextModelOptions(),  # noqa: B008
    train: Annotated[ClassifierTrainOptions, Training] = ClassifierTrainOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Train a classifier of texts on top of a language model.

    The head trains first, then the last LSTM with it, then everything, early
    layers more slowly. Without --lm all is trained from nothing at once.

    Parameters
    ----------
    path
        The labeled texts; the same as --data.
    lm
        The run of a language model (etude lm), at best one that was trained on such texts.
    """
    finish(classify_recipe.classify_text(given.data_of(path, data), lm, model, train, run), run)


def ulmfit(
    path: str | None = None,
    /,
    *,
    lm: Annotated[str | None, Lm] = None,
    lm_backward: str | None = None,
    both: bool = False,
    data: Annotated[LabeledTextOptions, Texts] = LabeledTextOptions(),  # noqa: B008  # frozen
    model: Annotated[TextModelOptions, Model] = TextModelOptions(),  # noqa: B008
    train: Annotated[UlmfitOptions, Training] = UlmfitOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Train a language model on texts, then a classifier on top of it.

    Each stage is a run of its own in the folder; etude resume of that folder
    goes on with the first one that is not finished.

    Parameters
    ----------
    path
        The labeled texts; the same as --data.
    lm
        The run of a language model to begin from; without it, begins from nothing.
    lm_backward
        With --both and --lm, the run of one that reads backward.
    both
        Train language model and classifier once more, reading backward, and average the two classifiers.
    """
    finish(ulmfit_recipe.ulmfit(given.data_of(path, data), lm, lm_backward, model, train, run, both=both), run)


def generate(
    run: str,
    prompt: str = "",
    /,
    *,
    num_tokens: int = 50,
    temperature: float = 0.8,
    seed: int = 42,
    device: str = "auto",
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008  # frozen
) -> None:
    """Let a trained language model write.

    Parameters
    ----------
    run
        The run of a language model.
    prompt
        How the text begins; of one that reads backward, how it ends.
    num_tokens
        The most words to add.
    temperature
        Below 1 likely words become likelier, above 1 less so.
    seed
        The same one writes the same text.
    device
        auto, cpu, cuda, cuda:1, mps.
    """
    made = lm_recipe.generate(
        run, prompt, num_tokens=num_tokens, temperature=temperature, seed=seed, device=device, output=output
    )
    finish(made, output)


def demo_text(
    *,
    model: Annotated[demo_recipe.DemoTextModelOptions, Model] = demo_recipe.DemoTextModelOptions(),  # noqa: B008
    train: Annotated[demo_recipe.DemoTextOptions, Training] = demo_recipe.DemoTextOptions(),  # noqa: B008  # frozen
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Learn English from Python's own documentation, without a download.

    A language model on the documentation strings of the standard library,
    beside a trigram model; then a classifier of what they are about, beside
    logistic regression. The first is measured on whole modules, the second on
    single texts.
    """
    finish(demo_recipe.demo_text(model, train, run), run)


def bptt_study(
    path: str | None = None,
    /,
    *,
    data: Annotated[TextOptions, Texts] = TextOptions(),  # noqa: B008  # frozen
    model: Annotated[TextModelOptions, Model] = TextModelOptions(),  # noqa: B008
    train: Annotated[bptt_recipe.BpttStudyOptions, Training] = bptt_recipe.BpttStudyOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Compare few long windows with many short ones, over several seeds.

    A language model for each batch size and window of one product, as one
    table with intervals, and one picture.

    Parameters
    ----------
    path
        The texts; the same as --data.
    """
    finish(bptt_recipe.bptt_study(given.data_of(path, data), model, train, run), run)
