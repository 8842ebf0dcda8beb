"""Reviews of a handful of words, and the loaders of text models for them, as `text.load` makes them."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import torch

import etude
from etude import text
from etude.data.loaders import DataLoaders
from etude.data.vocab import Vocab
from etude.text.dropout import Dropouts

WORDS = {"pos": ["great", "lovely", "fine", "Superb"], "neg": ["bad", "awful", "dull", "BORING"]}
VERBS = {"pos": "liked", "neg": "hated"}
"""What follows from the word before it: a language model has to tell good words from bad ones."""
NOUNS = ["film", "plot", "cast", "score", "end"]
SMALL = {"embed_dim": 12, "hidden_dim": 16, "num_layers": 2, "device": "cpu", "progress": False}
"""Sizes of a model that learns them in seconds."""
GOOD, BAD = "The film was great, I liked it.", "The end was awful, I hated it."
TEXTS = [GOOD, BAD, " ".join([BAD] * 4), GOOD.replace("great", "lovely")]
WEAK = Dropouts(0.05, 0.05, 0.05, 0.02, 0.05)


def reviews(num: int, seed: int = 0, longest: int = 3) -> tuple[list[str], list[str]]:
    """Texts of one sentence or several, each with what it thinks."""
    draw = random.Random(seed)
    labels = [draw.choice(["neg", "pos"]) for _ in range(num)]
    return [
        " ".join(
            f"The {draw.choice(NOUNS)} was {draw.choice(WORDS[label])}, I {VERBS[label]} it."
            for _ in range(draw.randint(1, longest))
        )
        for label in labels
    ], labels


def corpus(texts: list[str] | None = None, vocab: Vocab | None = None, **settings: Any) -> DataLoaders:
    """Of a language model."""
    words = {"min_freq": 1} if vocab is None else {"vocab": vocab}
    shared = {"valid": 0.2, "batch_size": 4, "bptt": 10, "progress": False}
    return text.load(texts=texts or reviews(60)[0], **shared | words | settings)


def labeled(vocab: Vocab | None = None, *, num: int = 120, batch_size: int = 16, **settings: Any) -> DataLoaders:
    """Of a classifier."""
    words = {"min_freq": 1} if vocab is None else {"vocab": vocab}
    texts = zip(*reviews(num, 1), strict=True)
    return text.load(texts=texts, valid=0.2, batch_size=batch_size, progress=False, **words, **settings)


def language_model(**settings) -> etude.Learner:
    settings = {"data": corpus(), **SMALL, **settings}
    return text.language_model(settings.pop("data"), **settings)


def classifier(**settings) -> etude.Learner:
    settings = {"data": labeled(), **SMALL, **settings}
    return text.classifier(settings.pop("data"), **settings)


@cache
def both_trained() -> dict[str, etude.Learner]:
    """A language model, and a classifier of whole reviews on it: the contract of the README, on tiny texts."""
    torch.set_num_threads(1)
    lm = language_model(dropouts=WEAK)
    lm.fit(3, lr=3e-2, momentum=(0.8, 0.7))
    body = {name: value for name, value in SMALL.items() if name in ("device", "progress")}
    data = labeled(lm.data.vocab, num=150, batch_size=8)
    reader = text.classifier(data, encoder=lm, dropouts=WEAK, **body)
    reader.fine_tune(1, lr=1e-2)
    reader.fit(3, lr=1e-2)
    return {"lm": lm, "classifier": reader}
