"""How a report shows single samples: pictures with a heat map beside them, texts with their words marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, NamedTuple, Protocol, TypeAlias

from etude.runs import page
from etude.runs.page import Markup
from etude.runs.text import shorten

_PIXELATED: Final = 33
"""Pictures of a smaller side are shown pixel by pixel."""
_MOST_WORDS: Final = 150
"""Words of a text that are shown; a page with whole books is read by nobody."""
_LONGEST_WORD: Final = 80
_FEW: Final = 5
"""Words that are named as the strongest ones."""

Lines: TypeAlias = list[tuple[str, str]]
"""What is said below a sample, line by line, each with its style; see `page.tile`."""


class Samples(Protocol):
    """How a domain shows its samples; only those that are asked for are ever read."""

    @property
    def explanation(self) -> str:
        """What an explained sample shows beside itself, in a sentence."""
        ...

    @property
    def names(self) -> Callable[[int], str]:
        """What the sample at a position is called."""
        ...

    def shown(self, samples: Sequence[tuple[int, Lines]], *, explained: bool) -> Markup:
        """Samples by their positions, with their lines; explained where that can be done."""
        ...


class Pictures(NamedTuple):
    """Pictures in a row."""

    plain: Callable[[Sequence[int]], list[bytes]]
    """Positions in the data -> pictures, encoded."""
    heated: Callable[[Sequence[int]], list[bytes]] | None
    """With what spoke for the model's answer laid over; None where nothing can be laid over."""
    explanation: str
    names: Callable[[int], str]
    side: int
    """Pixels of a side."""

    def shown(self, samples: Sequence[tuple[int, Lines]], *, explained: bool) -> Markup:
        """See `Samples`."""
        positions = [position for position, _ in samples]
        images = [self.plain(positions)]
        if explained and self.heated is not None:
            images.append(self.heated(positions))
        tiles = []
        for (position, lines), *some in zip(samples, *images, strict=True):
            name = self.names(position)
            both = list(zip(some, (name, f"Grad-CAM of {name}"), strict=False))
            tiles.append(page.tile(both, lines, small=self.side < _PIXELATED))
        return page.block(tiles, "tiles pairs" if len(images) > 1 else "tiles")


class Texts(NamedTuple):
    """Texts one below the other."""

    words: Callable[[int], list[str]]
    """Position in the data -> the words of the text there, as they are read by people."""
    moved: Callable[[int], list[tuple[str, float]] | None]
    """The same words, some of them put together, and how far each moved what the model says; None if it is too long."""
    explanation: str
    names: Callable[[int], str]

    def shown(self, samples: Sequence[tuple[int, Lines]], *, explained: bool) -> Markup:
        """See `Samples`."""
        return page.block([self._quote(position, lines, explained) for position, lines in samples], "quotes")

    def _quote(self, position: int, lines: Lines, explained: bool) -> Markup:
        moved = self.moved(position) if explained else None
        words = moved or [(word, 0.0) for word in self.words(position)]
        short, left = _cut(words)
        rest = [(f"and {left:,} more words", "name")] if left else []
        return page.quote(short, [*rest, *([] if moved is None else [(strongest(moved), "")]), *lines])


def _cut(words: Sequence[tuple[str, float]]) -> tuple[list[tuple[str, float]], int]:
    """The first words, very long ones shortened, and how many are left out."""
    kept, room = list[tuple[str, float]](), _MOST_WORDS
    for word, score in words:
        parts = word.split(" ")
        kept.append((" ".join(shorten(part, _LONGEST_WORD) for part in islice(parts, room)), score))
        room -= len(parts)
        if room <= 0:
            break
    total = sum(len(word.split(" ")) for word, _ in words)
    return kept, max(total - _MOST_WORDS, 0)


def strongest(words: Sequence[tuple[str, float]]) -> str:
    """The words that moved most, each way, as text: for those who see no colors, or no page at all."""
    told = []
    for name, sign in (("for it", 1), ("against it", -1)):
        strong = sorted((word for word in words if sign * word[1] > 0), key=lambda word: -abs(word[1]))[:_FEW]
        if strong:
            named = (f"{shorten(word, _LONGEST_WORD)} {score:+.2f}" for word, score in strong)
            told.append(f"{name}: {', '.join(named)}")
    return "; ".join(told) or "no word alone moved it"
