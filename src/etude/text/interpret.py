"""Which words of a text moved what a model says of it: each is left out in turn, and the model is asked again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor

from etude.errors import ConfigError
from etude.text.reader import TextReader
from etude.text.special import BOS, EOS, MAJ, REP, UP, WREP
from etude.training.predict import probabilities_of
from etude.types import Batch

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from etude.training.learner import Learner

_BATCH: Final = 64
_MARKS: Final = {MAJ: 1, UP: 1, REP: 2, WREP: 2}
"""Tokens that say something of the word behind them, and how many they are with their number."""


class WordScore(NamedTuple):
    """A word, and how it moved the prediction."""

    words: str
    """With the marks that belong to it, such as `xxmaj great`; in a long text several words in a row."""
    score: float
    """The log-odds of the class with these words minus those without them: above 0 they spoke for it."""


def word_importance(
    learner: Learner, text: str | Path | Int[Tensor, "time"], *, label: int | str | None = None, most: int = 100
) -> list[WordScore]:
    """How each word moved the prediction: what the model says of the text minus what it says without the word.

    That difference is measured, not estimated from gradients, so every score is true by itself: taking the word out
    moves the log-odds log(p / (1 - p)) of the class by just so much. The scores do not add up to anything where words
    act together: of two words that say the same, leaving out either one may change nothing. For a model that is linear
    in the words, a score is the weight of its word.

    Args:
        learner: a text classifier.
        text: a text, a file of one, or its tokens as `learner.data.read` gives them.
        label: the class, by name or number, whose log-odds are told; None takes the one that the model says.
        most: how often a text is read again, at most. In one of more words, neighbors are left out together.

    Returns:
        Words in their order; the marks of beginning and end are in every reading, and have no score.

    Raises:
        ConfigError: the learner does not read texts, or has no such class.
        DataError: the file cannot be read.

    Source: Li, Monroe and Jurafsky 2016, "Understanding neural networks through representation erasure".
    """
    read = learner.data.read
    if not isinstance(read, TextReader):
        raise ConfigError("which words moved a prediction is known for learners of texts, and this one reads others")
    if most < 1:
        raise ConfigError(f"most must be at least 1, got {most}")
    # words are put together in the order in which they were written
    ids = _turned(text if isinstance(text, Tensor) else read(text), read)
    tokens = [read.vocab[number] for number in ids.tolist()]
    parts = _joined([part for part in units(tokens) if tokens[part.start] not in (BOS, EOS)], most)
    readings = (torch.cat([ids[: part.start], ids[part.stop :]]) for part in parts)
    whole, *without = _outputs(learner, (_turned(one, read) for one in (ids, *readings)))
    chosen = int(whole.argmax()) if label is None else _number(learner, label, len(whole))
    kind = probabilities_of(learner.loss_fn)
    said = log_odds(whole, chosen, kind)
    scores = [float(said - log_odds(one, chosen, kind)) for one in without]
    return [WordScore(" ".join(tokens[part]), score) for part, score in zip(parts, scores, strict=True)]


def units(tokens: Sequence[str]) -> list[slice]:
    """Where each word stands, with the marks in front of it that say something of it.

    >>> [part.stop - part.start for part in units(["xxbos", "xxmaj", "so", "good", "xxrep", "4", "!", "xxeos"])]
    [1, 2, 1, 3, 1]
    """
    found, start = [], 0
    while start < len(tokens):
        end = start
        while end < len(tokens) and tokens[end] in _MARKS:
            end += _MARKS[tokens[end]]
        found.append(slice(start, min(end + 1, len(tokens))))
        start = end + 1
    return found


def log_odds(outputs: Float[Tensor, "class"], chosen: int, kind: str | None) -> Float[Tensor, ""]:
    """log(p / (1 - p)) of a class, from scores and in float64, so that a sure answer has one too.

    Args:
        outputs: scores, before probabilities are made of them.
        chosen: which class.
        kind: "softmax", "sigmoid", or None for outputs that are told as they are.
    """
    outputs = outputs.double()
    if kind != "softmax":
        return outputs[chosen]
    return outputs[chosen] - torch.cat([outputs[:chosen], outputs[chosen + 1 :]]).logsumexp(0)


def _turned(ids: Tensor, read: TextReader) -> Tensor:
    """From the order in which a text is written to that in which the model reads it, and back."""
    return ids.flip(0) if read.backward else ids


def _joined(parts: Sequence[slice], most: int) -> list[slice]:
    """At most so many parts, neighbors put together."""
    size = max(-(-len(parts) // most), 1)
    some = [parts[i : i + size] for i in range(0, len(parts), size)]
    return [slice(run[0].start, run[-1].stop) for run in some]


def _outputs(learner: Learner, texts: Iterable[Tensor]) -> list[Tensor]:
    """The scores of each text."""
    found: list[Tensor] = []
    with learner.evaluating():
        for batch in _batches(learner, texts):
            found += learner.preds(batch).detach().cpu()
    return found


def _batches(learner: Learner, texts: Iterable[Tensor]) -> Iterator[Batch]:
    collate, waiting = learner.data.collate, list[Tensor]()
    assert collate is not None
    for text in texts:
        waiting.append(text)
        if len(waiting) == _BATCH:
            yield Batch(collate(waiting), None)
            waiting = []
    if waiting:
        yield Batch(collate(waiting), None)


def _number(learner: Learner, label: int | str, num: int) -> int:
    """The class of a name or number."""
    names = list(learner.data.vocab or ())
    if isinstance(label, str) and label in names:
        return names.index(label)
    if isinstance(label, int) and 0 <= label < num:
        return label
    raise ConfigError(f"the model has no class {label!r}; it has {names[:10]}{', ...' if len(names) > 10 else ''}")
