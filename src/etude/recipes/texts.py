"""From the options of a training on texts to its loaders, its learner and what is said of its result."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from etude.output import plain_lines
from etude.recipes.docstrings import DOCSTRINGS, folder_of_docstrings
from etude.recipes.text_options import (
    LabeledTextOptions,
    LanguageModelTrainOptions,
    TextModelOptions,
    TextOptions,
    TextTrainOptions,
)
from etude.runs.statistics import number

if TYPE_CHECKING:
    from etude.data.loaders import DataLoaders
    from etude.text.tokenizers import Tokenizer
    from etude.training.learner import Learner
    from etude.types import Json

ALONE: Final = 4.0
"""A language model that is taken over trains its embedding alone at so many times --lr (SPEC R19)."""
_SAMPLE_TOKENS: Final = 30
_BETA, _EPS = 0.99, 1e-5
"""Adam's second beta, and what is added to the root of the second moment, as in the notes (SPEC A13)."""


def check_options(data: TextOptions, train: TextTrainOptions) -> None:
    """Refuse what `etude.recipes.options.check` does not look at; raises `ConfigError`."""
    from etude.errors import ConfigError

    if not all(0 <= beta < 1 for beta in train.momentum):
        raise ConfigError("--momentum must be two numbers from 0 to below 1, got {} {}".format(*train.momentum))
    if data.data is None:
        raise ConfigError(
            "name a folder of .txt files, an archive, a .csv or .jsonl, WikiText files, or a known data set "
            "(see: etude data list)"
        )


def description_of(source: str) -> dict[str, Any]:
    """What the folder of a trained model says of it; raises `LoadError`."""
    from etude.training import saving

    found: dict[str, Any] = saving.read(source).description
    return found


def check_source(source: str, flag: str, *, backward: bool) -> None:
    """Refuse a folder that holds no language model, or one that reads the other way.

    Raises:
        ConfigError: it is another model.
        LoadError: it is none, or damaged.
    """
    from etude.errors import ConfigError
    from etude.text.transfer import pretrained

    description = description_of(source)
    if description["model_class"] != "LanguageModel":
        raise ConfigError(
            f"--{flag} {source} holds a {description['model_class']}; name the run of a language model (etude lm)"
        )
    if pretrained(source).backward != backward:
        ways = ("forward", "backward")
        raise ConfigError(
            f"--{flag} {source} reads {ways[not backward]}, and this training {ways[backward]}; "
            f"{'leave out' if backward else 'add'} --backward, or name another run"
        )


def num_layers_of(source: str) -> int:
    """LSTM layers of a run's language model; raises `LoadError`."""
    from etude.text.transfer import pretrained

    return int(pretrained(source).encoder["num_layers"])


def check_labels(data: LabeledTextOptions, *, quiet: bool) -> None:
    """Refuse labeled texts that no classifier can be trained on, which takes no tokens to know.

    Raises:
        ConfigError: nothing is held out.
        DataError: naming the folder, file, column or class that cannot be used.
    """
    from etude.text.samples import checked, sides_of
    from etude.text.sources import find

    assert data.data is not None
    place = place_of(data.data, labeled=True)
    corpus = find(place, label=data.label or "auto", text_column=data.text_column, progress=not quiet)
    sides, _ = sides_of(corpus, valid=data.valid_pct, fold=None, seed=data.split_seed)
    checked(corpus, sides)


def loaders(data: TextOptions, train: TextTrainOptions, source: str | None, *, quiet: bool) -> DataLoaders:
    """The texts: for a classifier with their labels, and in the words of the language model that it begins from."""
    from etude.text.data import load

    labeled = isinstance(data, LabeledTextOptions)
    assert data.data is not None
    place = place_of(data.data, labeled=labeled)
    given = partial(
        load,
        place,
        text_column=data.text_column,
        valid=data.valid_pct,
        seed=train.seed,
        split_seed=data.split_seed,
        batch_size=train.batch_size,
        backward=data.backward,
        progress=not quiet,
    )
    if isinstance(data, LabeledTextOptions):
        given = partial(given, labels=data.label or "auto", max_length=data.max_length)
    else:
        given = partial(given, bptt=train.bptt)
    if labeled and source is not None:
        return given(vocab=source)
    tokenizer = data.tokenizer if source is None else _tokenizer_of(source)
    return given(tokenizer=tokenizer, max_vocab=data.max_vocab, min_freq=data.min_freq)


def place_of(data: str, *, labeled: bool) -> str:
    """Where the texts are that are called so."""
    if data == DOCSTRINGS and not Path(DOCSTRINGS).exists():
        return str(folder_of_docstrings(labeled=labeled))
    return data


def _tokenizer_of(source: str) -> Tokenizer:
    """What cut the texts of a run into tokens."""
    from etude.text.data import tokens_in
    from etude.text.reader import tokenizer_of

    return tokenizer_of(tokens_in(source))


def learner(
    data: DataLoaders, model: TextModelOptions, train: TextTrainOptions, source: str | None, *, quiet: bool
) -> Learner:
    """The learner on these texts; torch's seed is set before."""
    from etude import text
    from etude.optim import adamw

    sizes: dict[str, int] = {}
    if source is None:
        sizes = {"embed_dim": model.embed_dim, "hidden_dim": model.hidden_dim, "num_layers": model.num_layers}
    given: dict[str, Any] = {
        **sizes,
        "drop_mult": model.drop_mult,
        "clip": train.clip or None,
        "optimizer": adamw(betas=(train.momentum[0], _BETA), eps=_EPS, weight_decay=train.weight_decay),
        "precision": train.precision,
        "device": train.device,
        "progress": not quiet,
    }
    # what it says of the words it takes over is no error
    with redirect_stdout(None) if quiet else nullcontext():
        if isinstance(train, LanguageModelTrainOptions):
            return text.language_model(data, pretrained=source, ar=train.ar, tar=train.tar, **given)
        return text.classifier(data, encoder=source, bptt=train.bptt, **given)


def right(learner: Learner) -> dict[str, Json]:
    """How many of the held-out texts a classifier gets right."""
    if learner.data.valid is None:
        return {}
    predictions = learner.predict()
    return {"valid_right": predictions.num_right, "valid_samples": len(predictions)}


def written(learner: Learner, seed: int) -> dict[str, Json]:
    """The perplexity of a language model, and a sentence that it writes."""
    from etude import text

    last = learner.history.rows[-1] if learner.history.rows else {}
    return {
        "perplexity": last.get("valid_perplexity"),
        "unknown": _unknown_share(learner),
        "sample": text.generate(learner, "", num_tokens=_SAMPLE_TOKENS, seed=seed),
    }


def _unknown_share(learner: Learner) -> float | None:
    """Of the held-out tokens, those that a language model does not know: they are easy to guess."""
    from etude.text.batching import StreamLoader
    from etude.text.samples import unknown_share

    valid = learner.data.valid
    if not isinstance(valid, StreamLoader) or valid.vocab is None:
        return None
    return unknown_share(valid.store, valid.rows.cpu(), valid.vocab)


def told(result: Mapping[str, Json], *, classifies: bool) -> str:
    """A run's result in words."""
    if "valid_loss" not in result:
        return "trained without validation"
    share = number(result["valid_accuracy"])
    if classifies:
        return f"{result['valid_right']} of {result['valid_samples']} held-out texts right: {share:.2%}"
    unknown = result.get("unknown")
    return (
        f"it writes: {plain_lines(str(result['sample']))}\n"
        f"perplexity {number(result['perplexity']):.1f} on held-out texts, {share:.1%} of their words guessed"
        f"{'' if unknown is None else f', {number(unknown):.1%} of them unknown'}"
    )
