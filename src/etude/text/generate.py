"""Let a language model write on."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from etude.errors import ConfigError
from etude.text.language_model import LanguageModel
from etude.text.reader import TextReader
from etude.text.special import BOS, EOS, PAD, UNK
from etude.text.tokenize import tokenize

if TYPE_CHECKING:
    from jaxtyping import Float

    from etude.training.learner import Learner

_FILLER: Final = re.compile(r"xxfill\d+")
"""What only rounds the size of a vocabulary."""


def generate(
    learner: Learner,
    prompt: str = "",
    *,
    num_tokens: int = 50,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 42,
) -> str:
    """A text that begins with a prompt and goes on as the language model would; for a backward one, ends with it.

    Args:
        learner: of a language model.
        prompt: how the text begins; "" lets the model begin.
        num_tokens: the most tokens to add; the text may end before, where the model says so, but not at once.
        temperature: by which scores are divided; below 1 likely words become likelier still, 1 samples what the model
            believes. 0.8 reads more coherently than 1 and repeats itself less than 0.5.
        top_k: sample among so many most likely tokens; None is all.
        seed: the same seed writes the same text.

    Raises:
        ConfigError: the learner's model is no language model, or a setting is out of its range or of another type.
    """
    model, read = learner.model, learner.data.read
    if not isinstance(model, LanguageModel) or not isinstance(read, TextReader):
        raise ConfigError(f"only a language model of etude.text writes text, this learner has a {type(model).__name__}")
    _check(num_tokens, temperature, top_k)
    # tokens in the order in which the model reads them
    tokens = tokenize(prompt, read.tokenizer)
    tokens, begin, end = (tokens[:0:-1], EOS, BOS) if read.backward else (tokens[:-1], BOS, EOS)
    vocab = read.vocab
    names = [UNK, PAD, begin, *filter(_FILLER.fullmatch, vocab)]
    never = torch.tensor([vocab.number(name) for name in (*names, end)])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), learner.evaluating():
        known = [token if vocab.get(token) is not None else UNK for token in tokens]
        new = torch.tensor([[vocab.number(token) for token in known]], device=learner.device)
        state = None
        for _ in range(num_tokens):
            scores, state = model.step(new, state)
            number = _sample(scores[0].cpu().double().index_fill(0, never, -torch.inf), temperature, top_k, generator)
            never = never[: len(names)]
            tokens.append(vocab[number])
            if tokens[-1] == end:
                break
            new = torch.tensor([[number]], device=learner.device)
    return read.tokenizer.text(tokens[::-1] if read.backward else tokens)


def _check(num_tokens: object, temperature: object, top_k: object) -> None:
    """Refuse what cannot be meant; raises `ConfigError`."""
    if not (isinstance(temperature, int | float) and 0 < temperature < math.inf):
        raise ConfigError(f"temperature must be a number above 0, such as 0.8, got {temperature!r}")
    if not _is_whole(num_tokens, 0):
        raise ConfigError(f"num_tokens must be a whole number from 0 on, got {num_tokens!r}")
    if not (top_k is None or _is_whole(top_k, 1)):
        raise ConfigError(f"top_k must be a whole number from 1 on, or None, got {top_k!r}")


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _sample(scores: Float[Tensor, "word"], temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """A word by its score, on the CPU: the same on every device for the same scores."""
    numbers = torch.arange(len(scores))
    if top_k is not None:
        scores, numbers = scores.topk(min(top_k, len(scores)))
    # from the highest on, so that no temperature is too low for a number
    chosen = torch.multinomial(((scores - scores.max()) / temperature).softmax(0), 1, generator=generator)
    return int(numbers[chosen])
