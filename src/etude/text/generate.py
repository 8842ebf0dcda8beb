"""Let a language model write on."""

from __future__ import annotations

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

_NEVER: Final = (UNK, PAD)
"""What a model is not to say."""


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
        ConfigError: the learner's model is no language model, or a setting is out of its range.
    """
    model, read = learner.model, learner.data.read
    if not isinstance(model, LanguageModel) or not isinstance(read, TextReader):
        raise ConfigError(f"only a language model of etude.text writes text, this learner has a {type(model).__name__}")
    if not temperature > 0 or num_tokens < 0 or (top_k is not None and top_k < 1):
        raise ConfigError(
            "temperature must be positive, num_tokens 0 or more and top_k at least 1, got "
            f"temperature={temperature}, num_tokens={num_tokens}, top_k={top_k}"
        )
    # tokens in the order in which the model reads them
    tokens = tokenize(prompt, read.tokenizer)
    tokens, end = (tokens[:0:-1], BOS) if read.backward else (tokens[:-1], EOS)
    vocab = read.vocab
    never = torch.tensor([vocab.number(name) for name in (*_NEVER, end)])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), learner.evaluating():
        known = [token if vocab.get(token) is not None else UNK for token in tokens]
        new = torch.tensor([[vocab.number(token) for token in known]], device=learner.device)
        state = None
        for _ in range(num_tokens):
            scores, state = model.step(new, state)
            number = _sample(scores[0].cpu().double().index_fill(0, never, -torch.inf), temperature, top_k, generator)
            never = never[: len(_NEVER)]
            tokens.append(vocab[number])
            if tokens[-1] == end:
                break
            new = torch.tensor([[number]], device=learner.device)
    return read.tokenizer.text(tokens[::-1] if read.backward else tokens)


def _sample(scores: Float[Tensor, "word"], temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """A word by its score, on the CPU: the same on every device for the same scores."""
    numbers = torch.arange(len(scores))
    if top_k is not None:
        scores, numbers = scores.topk(min(top_k, len(scores)))
    chosen = torch.multinomial((scores / temperature).softmax(0), 1, generator=generator)
    return int(numbers[chosen])
