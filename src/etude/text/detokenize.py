"""From tokens back to text that reads well: the way back of `tokenize`, as far as there is one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from etude.text.special import BOS, EOS, MAJ, PAD, REP, SPECIAL, UP, WREP

_SILENT: Final = (BOS, EOS, PAD)
_MOST_REPEATS: Final = 100
"""A model can say any number."""
_SPACE: Final = "\u2581"
"""What pieces of words have in place of the space before a word."""
_AFTER_NONE: Final = re.compile(r"[(\[{$#]|.*[/\n]", re.DOTALL)
"""A token that no space follows."""
_BEFORE_NONE: Final = re.compile(r"[.,!?;:%)\]}/\u2026]+|n['\u2019]t|['\u2019](?:s|m|d|re|ve|ll)?|\n+", re.IGNORECASE)
"""A token that no space precedes."""
_ONE_WORD: Final = frozenset({("can", "not"), ("gon", "na"), ("wan", "na"), ("got", "ta"), ("gim", "me")})
"""Two tokens that English writes as one word."""


def detokenize(tokens: Sequence[str]) -> str:
    """Text that reads well, from its tokens.

    Capitals and repetitions are written out. Spaces are put where English has them; where the tokens do not tell, as
    between a hyphen and a dash, the more frequent form is taken.

    >>> detokenize(["xxbos", "xxmaj", "hello", ",", "world", "xxrep", "4", "!", "xxeos"])
    'Hello, world!!!!'
    >>> detokenize(["i", "do", "n't", "like", '"', "xxup", "tv", '"', "at", "all", "."])
    'I don\\'t like "TV" at all.'

    Source: SPEC P3, P4.
    """
    text, before, quoted = "", "", False
    for word in _written_out(_whole(tokens)):
        opens, closes = word == '"' and not quoted, word == '"' and quoted
        text += word if not text or closes or _joined(before, word) else f" {word}"
        quoted ^= word == '"'
        # an opening quotation mark is followed by no space, a closing one is
        before = "(" if opens else word
    return text


def _joined(before: str, word: str) -> bool:
    """Whether no space is between two tokens."""
    if "-" in (before, word):
        # one hyphen between words is part of a compound far more often than a dash
        return True
    if _AFTER_NONE.fullmatch(before) or _BEFORE_NONE.fullmatch(word):
        return True
    return (before.lower(), word.lower()) in _ONE_WORD


def _whole(tokens: Sequence[str]) -> Sequence[str]:
    """Words put together from their pieces; words that are whole already are left as they are."""
    if not any(token.startswith(_SPACE) for token in tokens):
        return tokens
    words: list[str] = []
    for token in tokens:
        if token.startswith(_SPACE) or token in SPECIAL or not words or words[-1] in SPECIAL:
            words.append(token.removeprefix(_SPACE))
        else:
            words[-1] += token
    return [word for word in words if word]


def _written_out(tokens: Sequence[str]) -> Iterator[str]:
    """The tokens with capitals and repetitions as they are written; a mark with nothing to mark is left out."""
    style, times, joined = "", 1, False
    rest = iter(token for token in tokens if token not in _SILENT)
    for token in rest:
        if token in (MAJ, UP):
            style = token
        elif token in (REP, WREP):
            number, joined = next(rest, ""), token == REP
            # of a number with thousands of digits the first ones are more than enough
            times = min(int(number[:9]), _MOST_REPEATS) if number.isdecimal() else 1
        else:
            word = _styled(token, style)
            yield from [word * times] if joined else [word] * times
            style, times, joined = "", 1, False


def _styled(token: str, style: str) -> str:
    if style == UP:
        return token.upper()
    # the rules mark no single letters
    return token[:1].upper() + token[1:] if style == MAJ or token == "i" else token
