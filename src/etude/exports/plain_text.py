"""What of a text classifier is exported, as plain facts: sizes, how texts become tokens, and tokens to test with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from etude.errors import ConfigError
from etude.text.classifier import TextClassifier
from etude.text.language_model import LanguageModel
from etude.text.models import CLASSIFIER as CLASSIFIER
from etude.text.rules import rules_hash
from etude.text.special import BOS, EOS, PAD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from etude.text.reader import TextReader
    from etude.training.learner import Learner
    from etude.types import Json

_SEED: Final = 2019
_LENGTHS: Final = (9, 75, 2)
"""Tokens of the test texts: a few, more than one chunk of 70, and none but the marks."""


def check_text(learner: Learner) -> None:
    """Refuse a model of texts that says no class of them; raises `ConfigError`."""
    if isinstance(learner.model, TextClassifier):
        return
    name = type(learner.model).__name__
    if isinstance(learner.model, LanguageModel):
        raise ConfigError(
            f"a {name} cannot be exported, a classifier of texts can: train one on top of it (etude classify-text "
            "DATA --lm RUN). What a language model writes, etude generate says"
        )
    raise ConfigError(f"of models that read texts, etude's own classifier can be exported, and this is a {name}")


def net(config: Mapping[str, Any]) -> dict[str, Json]:
    """A classifier's sizes."""
    encoder = config["encoder"]
    sizes = {name: encoder[name] for name in ("vocab_size", "embed_dim", "hidden_dim", "num_layers")}
    return {"name": CLASSIFIER, **sizes, "hidden": config["hidden"], "num_classes": config["num_classes"]}


def seen(read: TextReader) -> dict[str, Json]:
    """How a text becomes the numbers of its tokens, the vocabulary apart."""
    return {
        "tokenizer": read.tokenizer.config(),
        "rules": rules_hash(),
        "backward": read.backward,
        "max_length": read.max_length,
    }


def inputs(read: TextReader) -> dict[str, Tensor]:
    """Random tokens of a fixed seed, in texts of some lengths."""
    generator = torch.Generator().manual_seed(_SEED)
    begin, end, pad = (read.vocab.number(name) for name in (BOS, EOS, PAD))
    tokens = torch.randint(0, len(read.vocab), (len(_LENGTHS), max(_LENGTHS)), generator=generator)
    for row, length in zip(tokens, _LENGTHS, strict=True):
        row[0], row[length - 1] = (end, begin) if read.backward else (begin, end)
        row[length:] = pad
    return {"tokens": tokens, "lengths": torch.tensor(_LENGTHS)}
