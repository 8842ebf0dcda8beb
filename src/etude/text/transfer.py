"""What a trained language model hands on: its layers, and its words in another vocabulary.

Source: Howard and Ruder 2018, "Universal language model fine-tuning for text classification"; SPEC R18.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from etude.data.vocab import Vocab
from etude.errors import ConfigError, DataError, LoadError
from etude.text.models import check_saved
from etude.text.reader import TextReader
from etude.text.special import SPECIAL
from etude.training import saving
from etude.training.learner import Learner
from etude.training.weights import load_weights

if TYPE_CHECKING:
    from jaxtyping import Float

ENCODER: Final = "encoder."
"""What the names of an encoder's tensors begin with, in every text model."""
VECTORS: Final = "encoder.embedding.weight"
BIAS: Final = "decoder.bias"
_PER_WORD: Final = (VECTORS, BIAS)
"""Tensors with a row for each word."""


class Pretrained(NamedTuple):
    """A trained text model, as far as another one can begin from it."""

    name: str
    """What it is called in messages."""
    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    vocab: Vocab
    """Its tokens."""
    backward: bool
    """Whether it reads texts from their ends."""

    @property
    def encoder(self) -> dict[str, Any]:
        """How its encoder is built."""
        return dict(self.config["encoder"])


def pretrained(source: Learner | str | os.PathLike[str]) -> Pretrained:
    """What can be taken over from a learner, or from the folder of a run or saved model.

    Raises:
        ConfigError: the learner's model is none of etude.text.
        LoadError: the folder is damaged, or holds another model.
    """
    if isinstance(source, Learner):
        return _of_learner(source)
    saved = saving.read(source)
    config, read = saved.description["model"], saved.description["read"]
    if not isinstance(config, dict) or not isinstance(read, dict) or "encoder" not in config:
        raise LoadError(f"{saved.path} holds a {saved.description['model_class']}, expected a language model of text")
    check_saved(config, saved.weights, str(saved.path))
    try:
        reader = TextReader.from_config(read)
        if len(reader.vocab) != config["encoder"]["vocab_size"]:
            raise ConfigError(f"it reads {len(reader.vocab)} tokens, its model knows {config['encoder']['vocab_size']}")
    except (TypeError, AttributeError, ConfigError, DataError) as error:
        raise LoadError(f"{saved.path / saving.DESCRIPTION} cannot be used: {error}") from error
    return Pretrained(str(saved.path), config, saved.weights, reader.vocab, reader.backward)


def _of_learner(learner: Learner) -> Pretrained:
    read, config = learner.data.read, saving.config_of(learner.model)
    if not isinstance(read, TextReader) or config is None or "encoder" not in config:
        raise ConfigError(
            f"words and layers are taken over from a text model, and this learner has a {type(learner.model).__name__}"
        )
    with learner.averaged():
        weights = {name: tensor.cpu() for name, tensor in learner.model.state_dict().items()}
    return Pretrained(f"the learner's {type(learner.model).__name__}", config, weights, read.vocab, read.backward)


@final
@dataclass(frozen=True)
class MatchReport:
    """How many words of a vocabulary a pretrained model knows."""

    source: str
    found: int
    new: int
    """They begin as the mean of all that it knows."""
    dropped: int
    """Words of the model that the new vocabulary does not have."""

    @override
    def __repr__(self) -> str:
        return (
            f"{self.found:,} of {self.found + self.new:,} words found in {self.source}; {self.new:,} new ones begin as "
            f"the mean, {self.dropped:,} of its own are not used"
        )


def match_words(
    weights: Mapping[str, Tensor], old: Vocab, new: Vocab, source: str = "the weights"
) -> tuple[dict[str, Tensor], MatchReport]:
    """The weights of a model for another vocabulary: what belongs to a word goes where its number is now.

    A word that is new gets the mean of the rows of all old words, and the mean of their biases.

    Args:
        weights: a state dict; it is not changed.
        old: its tokens.
        new: those that the new model has.
        source: what the weights are called in the report.

    Raises:
        ConfigError: no word is known to both; they were made by other tokenizers.

    Source: SPEC R18.
    """
    numbers = [old.get(word) for word in new]
    found = sum(number is not None for number in numbers)
    if not any(number is not None and word not in SPECIAL for word, number in zip(new, numbers, strict=True)):
        raise ConfigError(
            f"none of the {len(new):,} words of these texts is known to {source}; were its texts cut by another "
            f"tokenizer? These are by {_tokenizer(new)}, those by {_tokenizer(old)}"
        )
    rows = torch.tensor([-1 if number is None else number for number in numbers])
    matched = {name: _matched(tensor, rows) if name in _PER_WORD else tensor for name, tensor in weights.items()}
    return matched, MatchReport(source, found, len(new) - found, len(old) - found)


def _matched(tensor: Float[Tensor, "old *rest"], rows: Tensor) -> Float[Tensor, "new *rest"]:
    """The rows with these numbers; the mean of all where a number is -1."""
    known = (rows >= 0).view(-1, *[1] * (tensor.ndim - 1))
    return tensor[rows.clamp(min=0)].where(known, tensor.mean(0))


def _tokenizer(vocab: Vocab) -> str:
    made_by: Mapping[str, Any] = vocab.made_by or {}
    tokenizer = made_by.get("tokenizer")
    return str(tokenizer.get("name") if isinstance(tokenizer, Mapping) else tokenizer)


def take_over(model: nn.Module, source: Pretrained, read: TextReader, *, whole: bool) -> MatchReport:
    """Load what a pretrained model knows into a new one, by words and by names.

    Args:
        model: has the encoder of the source, for the tokens of `read`.
        source: where the weights come from.
        read: of the new model's data.
        whole: take over the decoder too; else the encoder alone.

    Raises:
        ConfigError: one reads texts forward and the other backward, or they have no word in common.
        LoadError: a tensor is missing or of another shape.
    """
    if source.backward != read.backward:
        ways = ("forward", "backward")
        raise ConfigError(
            f"{source.name} reads texts {ways[source.backward]}, and these data are read {ways[read.backward]}; "
            f"load them with backward={source.backward}, or begin from another model"
        )
    if whole and source.config["cutoffs"] and source.vocab != read.vocab:
        raise ConfigError(
            f"{source.name} has an adaptive softmax, whose clusters are of its own words; load the texts with "
            "vocab= its vocabulary, or begin from another model"
        )
    matched, report = match_words(source.weights, source.vocab, read.vocab, source.name)
    taken = {name: tensor for name, tensor in matched.items() if whole or name.startswith(ENCODER)}
    load_weights(model, taken, source=source.name, wanted=lambda name: whole or name.startswith(ENCODER))
    return report
