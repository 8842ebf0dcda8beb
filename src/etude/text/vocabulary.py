"""The vocabulary of a corpus: special tokens first, then the most common words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from etude.data.vocab import Vocab
from etude.errors import ConfigError
from etude.text.special import SPECIAL

if TYPE_CHECKING:
    from etude.types import Json


def build_vocab(
    counts: Mapping[str, int],
    *,
    max_vocab: int = 60_000,
    min_freq: int = 2,
    multiple_of: int = 1,
    made_by: Mapping[str, Json] | None = None,
) -> Vocab:
    """The special tokens, then the most common words; words that are equally common come in the order of the alphabet.

    Args:
        counts: how often each token comes in the training texts.
        max_vocab: how many names at most, special tokens and fillers included; the published figures of ULMFiT are
            for 60,000.
        min_freq: how often a word must come; one that came only once says little, and an unknown word must be seen in
            training.
        multiple_of: fillers (`xxfill0`, ...) make the size a multiple of it; 8 is what matrix units of GPUs like.
        made_by: how the tokens were made, kept with the vocabulary.

    >>> list(build_vocab({"b": 2, "a": 2, "xxbos": 9, "rare": 1, "the": 3}))[8:]
    ['the', 'a', 'b']

    Raises:
        ConfigError: the special tokens and fillers do not fit, or a setting is below 1.

    Source: SPEC P7 and error 18 of its section 11.
    """
    if min(min_freq, multiple_of) < 1:
        raise ConfigError(f"min_freq ({min_freq}) and multiple_of ({multiple_of}) must be at least 1")
    limit = max_vocab - max_vocab % multiple_of
    if limit < len(SPECIAL):
        raise ConfigError(
            f"max_vocab={max_vocab} (in steps of {multiple_of}) has no room for the {len(SPECIAL)} special tokens"
        )
    reserved = set(SPECIAL)
    common = [(-count, word) for word, count in counts.items() if count >= min_freq and word not in reserved]
    common.sort()
    names = [*SPECIAL, *(word for _, word in common[: limit - len(SPECIAL)])]
    taken = set(names)
    fillers = (name for i in range(limit) if (name := f"xxfill{i}") not in taken)
    names += [next(fillers) for _ in range(-len(names) % multiple_of)]
    return Vocab(names, made_by=made_by)
