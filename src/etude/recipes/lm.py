"""Train a language model: the recipe behind `etude lm`, and what its model writes behind `etude generate`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from etude.output import plain_lines
from etude.recipes.options import OutputOptions, RunOptions, teller
from etude.recipes.several import over_seeds
from etude.recipes.text_options import LanguageModelTrainOptions, TextModelOptions, TextOptions
from etude.recipes.text_training import TextTraining

if TYPE_CHECKING:
    from etude.types import Json


def lm(
    data: TextOptions,
    source: str | None = None,
    model: TextModelOptions = TextModelOptions(),  # noqa: B008  # frozen
    train: LanguageModelTrainOptions = LanguageModelTrainOptions(),  # noqa: B008
    run: RunOptions = RunOptions(),  # noqa: B008
) -> dict[str, Json]:
    """Train a language model on texts, or go on with a trained one on texts of another kind.

    Args:
        data: which texts.
        source: the run of a language model to begin from.
        model: how large it is.
        train: how to train.
        run: where results go.

    Returns:
        The run's result: `{"run": folder, "perplexity": of held-out texts, "valid_accuracy": share of next words that
        were guessed, "sample": a text that it wrote, "train_seconds": seconds, ...}`.

    Source: SPEC R15, R17-R19.
    """
    return over_seeds(training(data, source, model, train), run)


def training(
    data: TextOptions, source: str | None, model: TextModelOptions, train: LanguageModelTrainOptions
) -> TextTraining:
    """What the recipe trains."""
    return TextTraining(name="lm", kind="language model", data=data, model=model, train=train, source=source)


def generate(
    run: str,
    prompt: str,
    *,
    num_tokens: int = 50,
    temperature: float = 0.8,
    seed: int = 42,
    device: str = "auto",
    output: OutputOptions = OutputOptions(),  # noqa: B008
) -> dict[str, Json]:
    """Let a trained language model write on.

    Args:
        run: its folder.
        prompt: how the text begins.
        num_tokens: the most tokens to add.
        temperature: below 1 likely words become likelier.
        seed: the same one writes the same text.
        device: "auto", or a named one.
        output: what is printed.

    Returns:
        `{"text": the whole text}`, as it is; printed, what no terminal should be sent is written as an escape.

    Raises:
        LoadError: the folder holds no model.
        ConfigError: it is no language model, or a setting is out of its range.
    """
    from etude import text
    from etude.errors import ConfigError
    from etude.runs.load import load
    from etude.text.language_model import LanguageModel
    from etude.text.reader import TextReader

    if not 0 < temperature < math.inf:
        raise ConfigError(f"--temperature must be a number above 0, such as 0.8, got {temperature}")
    if num_tokens < 0:
        raise ConfigError(f"--num-tokens must be at least 0, got {num_tokens}")
    learner = load(run, device=device)
    if not isinstance(learner.model, LanguageModel):
        kind = "a classifier of texts" if isinstance(learner.data.read, TextReader) else "a model of other data"
        raise ConfigError(f"{run} is {kind}, which writes nothing; name the run of a language model (etude lm)")
    written = text.generate(learner, prompt, num_tokens=num_tokens, temperature=temperature, seed=seed)
    teller(output)(plain_lines(written))
    return {"text": written}
