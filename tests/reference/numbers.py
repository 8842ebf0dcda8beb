"""Texts to numbers, the textbook way: tokens of one text after the other, a counter, a sorted list, a dictionary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from etude.text.special import SPECIAL
from etude.text.tokenize import tokenize
from etude.text.tokenizers import Tokenizer


def numbers(texts: Sequence[str], tokenizer: Tokenizer, *, max_vocab: int, min_freq: int) -> list[list[int]]:
    """Each text's numbers, and the vocabulary's names behind the special ones in their order."""
    tokens = [tokenize(text, tokenizer) for text in texts]
    counts = Counter(token for one in tokens for token in one if token not in SPECIAL)
    common = sorted(counts, key=lambda token: (-counts[token], token))
    names = [*SPECIAL, *(token for token in common if counts[token] >= min_freq)][:max_vocab]
    number = {name: i for i, name in enumerate(names)}
    return [[number.get(token, 0) for token in one] for one in tokens]
