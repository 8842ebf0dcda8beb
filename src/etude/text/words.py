"""English words as spaCy's English tokenizer cuts them, without spaCy.

Each chunk between blanks is cut alone. If it is no special case, characters that may stand in front or behind are
peeled off, one after the other, until what is left is a special case, an address or a word; a word is cut at some
characters inside it. Last, special cases that were peeled apart, such as ":)" in "well:)", are put together again.

Source: spaCy's tokenizer.pyx; see english.py for its licence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, pairwise
from typing import Final

from etude.text.english import INFIX, PREFIX, SUFFIX, URL, special_cases

_RUN: Final = re.compile(r"\S+|\s+")
_PLAIN: Final = re.compile(r"""([("]?)([A-Za-z]{2,}(?:-[A-Za-z]{2,})*(?:'s)?)([,!?;:)"]|(?<=[a-z])\.|)""")
"""Five chunks out of six: a word with ordinary punctuation, for which all of the below can be left out."""
_LONGEST: Final = 1_000
"""What has no blank for so long is no word; it is cut into parts of this length, so that time stays in proportion."""
_SUFFIX_WINDOW: Final = 8
"""No suffix but a row of dots is longer."""

SPECIAL_CASES: Final = special_cases()


def tokens(text: str) -> list[str]:
    r"""The tokens of a text. Blanks that are more than one space are tokens too.

    >>> tokens("I can't: 10km/h.\n\nBye:)")
    ['I', 'ca', "n't", ':', '10', 'km/h', '.', '\n\n', 'Bye', ':)']
    """
    if text.isalpha():  # the most frequent case: no blank, no punctuation
        return [*SPECIAL_CASES.get(text, (text,))]
    if text.split() == [text]:
        return [*cut(text)]
    result: list[str] = []
    for i, run in enumerate(_RUN.findall(text)):
        if not run.isspace():
            result += cut(run)
        elif blank := run[1:] if i > 0 and run[0] == " " else run:
            result.append(blank)
    return result


def cut(chunk: str) -> Iterable[str]:
    """The tokens of a chunk that holds no blank."""
    if chunk in SPECIAL_CASES:
        return SPECIAL_CASES[chunk]
    if plain := _PLAIN.fullmatch(chunk):
        before, word, after = plain.groups()
        if word + after in SPECIAL_CASES:
            return (*before, *SPECIAL_CASES[word + after])
        parts = _parts(word)
        # else the last part and the point may be a special case, as in "Kent-Mr."
        if after != "." or len(parts) == 1:
            return (*before, *parts, *after)
    if len(chunk) > _LONGEST:
        return chain.from_iterable(cut(chunk[i : i + _LONGEST]) for i in range(0, len(chunk), _LONGEST))
    return _hard(chunk)


def _parts(word: str) -> Sequence[str]:
    """A plain word's parts: those of a special case, else those between hyphens, and 's."""
    if word in SPECIAL_CASES:
        return SPECIAL_CASES[word]
    if word.endswith("'s"):
        return (*_parts(word[:-2]), "'s")
    return word.replace("-", " - ").split(" ")


@lru_cache(maxsize=2**16)
def _hard(chunk: str) -> tuple[str, ...]:
    """The tokens of any chunk."""
    return tuple(_put_together(_peel(chunk, SPECIAL_CASES)))


def _peel(chunk: str, special: dict[str, tuple[str, ...]]) -> list[str]:
    """The tokens of a chunk: what is peeled off in front and behind, and what is left."""
    before: list[str] = []
    after: list[str] = []
    while chunk and chunk not in special:
        found = PREFIX.match(chunk)
        prefix = found.end() if found else 0
        if prefix and chunk[prefix:] in special:
            before.append(chunk[:prefix])
            chunk = chunk[prefix:]
            break
        rest = chunk[prefix:]
        found = SUFFIX.search(rest, max(0, min(len(rest.rstrip(".")), len(rest) - _SUFFIX_WINDOW)))
        end = len(chunk) - (len(found[0]) if found else 0)
        if found and chunk[:end] in special:
            after.append(chunk[end:])
            chunk = chunk[:end]
            break
        if not prefix and not found:
            break
        if prefix:
            before.append(chunk[:prefix])
        if found:
            after.append(chunk[end:])
        chunk = chunk[prefix:end]
    return [*before, *_inner(chunk, special), *reversed(after)]


def _inner(word: str, special: dict[str, tuple[str, ...]]) -> Sequence[str]:
    """What is left after peeling: a special case, an address, or a word that is cut at some characters."""
    if not word or word in special:
        return special.get(word, ())
    if "." in word and URL.fullmatch(word):
        return (word,)
    parts: list[str] = []
    start = 0
    for infix in INFIX.finditer(word):
        if infix.start() == 0:  # what stands in front was not peeled, and stays
            continue
        parts += (word[start : infix.start()], infix[0])
        start = infix.end()
    return [part for part in (*parts, word[start:]) if part]


def _in_pieces() -> dict[tuple[str, ...], str]:
    """The special cases that peeling would take apart, by their pieces."""
    return {pieces: case for case in SPECIAL_CASES if len(pieces := tuple(_peel(case, {}))) > 1}


_IN_PIECES: Final = _in_pieces()
_MOST_PIECES: Final = max(map(len, _IN_PIECES))
_FIRST_TWO: Final = frozenset(pieces[:2] for pieces in _IN_PIECES)


def _put_together(pieces: list[str]) -> list[str]:
    """The tokens, with special cases whose pieces stand side by side whole again: the longest first."""
    if _FIRST_TWO.isdisjoint(pairwise(pieces)):
        return pieces
    found = [
        (start - end, start, end)
        for start in range(len(pieces) - 1)
        for end in range(start + 2, min(len(pieces), start + _MOST_PIECES) + 1)
        if tuple(pieces[start:end]) in _IN_PIECES
    ]
    taken: set[int] = set()
    whole: dict[int, int] = {}
    for _, start, end in sorted(found):
        if start not in taken and end - 1 not in taken:
            whole[start] = end
        taken.update(range(start, end))
    result: list[str] = []
    i = 0
    while i < len(pieces):
        end = whole.get(i, i + 1)
        result += SPECIAL_CASES["".join(pieces[i:end])] if i in whole else (pieces[i],)
        i = end
    return result
