"""Long files cut into texts: the articles of WikiText, and parts of any other file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice, tee
from typing import Final

_TITLE: Final = re.compile(r"\s*= [^=]+ =\s*")
PART: Final = 10_000
"""Characters, about 2,000 words: texts long enough to carry a thought, and many enough to hold some out."""


def is_title(line: str) -> bool:
    """Whether a line is the title of an article; those of its sections have more signs.

    >>> is_title(" = Valkyria Chronicles III = "), is_title(" = = Gameplay = = ")
    (True, False)

    Source: SPEC R16.
    """
    return _TITLE.fullmatch(line) is not None


def articles(lines: Iterable[str]) -> Iterator[str]:
    r"""The articles of a WikiText file, each with its title: a title stands between blank lines.

    Blanks around a line are of the format, not of the article.

    >>> list(articles([" \n", " = A = \n", " \n", " a = b \n", " \n", " = B = \n", " \n", " b \n"]))
    ['= A =\n\na = b', '= B =\n\nb']

    Source: SPEC R16.
    """
    article: list[str] = []
    # the line before and the one after each; nothing is as good as a blank one
    before, line, after = tee(chain([""], lines, [""]), 3)
    for last, this, following in zip(before, islice(line, 1, None), islice(after, 2, None), strict=False):
        if is_title(this) and not last.strip() and not following.strip() and any(article):
            yield "\n".join(article).strip("\n")
            article = []
        article.append(this.strip())
    if any(article):
        yield "\n".join(article).strip("\n")


def parts(lines: Iterable[str], size: int = PART) -> Iterator[str]:
    """Parts of about `size` characters of a long text, each ending with a line; longer lines are cut behind a space."""
    part: list[str] = []
    length = 0
    for line in chain.from_iterable(_pieces(line, size) for line in lines):
        part.append(line)
        length += len(line)
        if length >= size:
            yield "".join(part)
            part, length = [], 0
    if part:
        yield "".join(part)


def _pieces(line: str, size: int) -> Iterator[str]:
    """A line in pieces of about `size` characters, cut behind the next space where there is one."""
    start = 0
    while len(line) - start > size:
        end = line.find(" ", start + size - 1, start + 2 * size) + 1 or start + size
        yield line[start:end]
        start = end
    yield line[start:]


def texts_of(lines: Iterable[str]) -> Iterator[str]:
    """The articles of a file that begins with the title of one, or parts of any other."""
    lines = iter(lines)
    first = []
    for line in lines:
        first.append(line)
        if line.strip():
            break
    cut = articles if first and is_title(first[-1]) else parts
    return cut(chain(first, lines))
