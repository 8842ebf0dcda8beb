r"""From many texts to numbers, fast, and the same numbers as by `tokenize`.

Words come again and again, so each is put through the rules and the tokenizer once. What stands between two blanks is a
*chunk*; a dictionary knows for each chunk the number of its *row*, and a row holds the tokens that the chunk becomes. A
text is split at its blanks and looked up, all in C; the corpus is a stream of row numbers of four bytes each. Counting
is done on rows, and numpy writes the numbers of the tokens once the vocabulary is known.

Not every rule sees one chunk only. A text takes the readable way (`tokenize`) instead if

- a word repetition reaches over several chunks. It is looked for where two chunks are the same, those without a word
  between them aside, for of four words with the same characters behind each the second and third are such chunks;
- blanks that are no spaces, such as tabs, go on over the border between two chunks.

Source: SPEC P3, P4, P7.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, final

import numpy as np

from etude.errors import ConfigError
from etude.text.rows import BLANK_BEFORE, BLANK_BEHIND, LINES, SPACE_BEFORE, WORD, Rows
from etude.text.rules import fixup_text, repeats_a_word, rm_useless_spaces, sub_br
from etude.text.special import UNK
from etude.text.tokenize import made_by, tokenize
from etude.text.tokenizers import Tokenizer
from etude.text.vocabulary import build_vocab

if TYPE_CHECKING:
    from etude.data.vocab import Vocab
    from etude.types import Json

Int32s: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int32]]"
Int64s: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"

_BLOCK_TEXTS: Final = 512
_BLOCK_CHARS: Final = 4_000_000
"""Texts are worked on in blocks of so many texts or characters, whichever comes first."""
_MOST_CHUNKS: Final = 2_000_000
"""When more chunks are known, all are forgotten, about 300 bytes each. What stays is the tokens that came and a row for
each chunk, in arrays, and the row numbers of the texts."""

_LINES_OR_CHUNK: Final = re.compile(r"\n[ \n]*|[^ \n]+")


class Encoded(NamedTuple):
    """Texts as numbers, one after the other.

    Text i is `values[starts[i]:starts[i + 1]]`.
    """

    values: Int32s
    starts: Int64s
    """Where each text begins, and at last where the last one ends."""
    vocab: Vocab


class _Block(NamedTuple):
    """Some texts, as rows."""

    rows: Int32s
    sizes: Int64s
    """How many rows each text has; at least two, for its beginning and its end."""
    counted: np.ndarray[tuple[int], np.dtype[np.bool_]]


@final
class Numericalizer:
    """Takes texts one by one, counts their tokens, and writes their numbers block by block.

    Args:
        tokenizer: what cuts the texts into tokens.

    >>> from etude.text.tokenizers import Words
    >>> numbers = Numericalizer(Words())
    >>> numbers.add("Yes, yes!")
    >>> numbers.counts()["yes"]
    2
    >>> vocab = numbers.vocab(min_freq=1)
    >>> [[vocab[i] for i in values] for values, lengths in numbers.blocks(vocab)]
    [['xxbos', 'xxmaj', 'yes', ',', 'yes', '!', 'xxeos']]
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._rows = Rows(tokenizer)
        self.clear()

    def clear(self) -> None:
        """Forget the texts, and keep what is known of chunks: the next texts are faster."""
        self._blocks: list[_Block] = []
        self._waiting: list[str] = []
        self._counted: list[bool] = []
        self._chars = 0

    def add(self, text: str, counted: bool = True) -> None:
        """Take a text.

        Args:
            text: as it was read.
            counted: whether its tokens count for the vocabulary; those of validation texts must not.
        """
        self._waiting.append(text)
        self._counted.append(counted)
        self._chars += len(text)
        if len(self._waiting) == _BLOCK_TEXTS or self._chars > _BLOCK_CHARS:
            self._work()

    def counts(self) -> dict[str, int]:
        """How often each token comes in the texts that count, special tokens included."""
        self._work()
        per_row = np.zeros(len(self._rows.notes), np.int64)
        for block in self._blocks:
            per_row += np.bincount(block.rows[np.repeat(block.counted, block.sizes)], minlength=len(per_row))
        tokens, ends = self._row_tokens()
        numbers = self._rows.words.numbers
        per_token = np.bincount(tokens, np.repeat(per_row, np.diff(ends)), minlength=len(numbers))
        counts = zip(numbers, per_token.astype(np.int64).tolist(), strict=True)
        return {token: count for token, count in counts if count}

    @property
    def num_tokens(self) -> int:
        """How many tokens all texts have."""
        self._work()
        lengths = np.diff(self._row_tokens()[1])
        return sum(int(lengths[block.rows].sum()) for block in self._blocks)

    def vocab(self, *, max_vocab: int = 60_000, min_freq: int = 2, multiple_of: int = 1) -> Vocab:
        """The vocabulary of the texts that count; see `build_vocab`."""
        return build_vocab(
            self.counts(),
            max_vocab=max_vocab,
            min_freq=min_freq,
            multiple_of=multiple_of,
            made_by=made_by(self.tokenizer),
        )

    def blocks(self, vocab: Vocab) -> Iterator[tuple[Int32s, Int64s]]:
        """Some texts' numbers, one text after the other, and how many each has; block by block, in the order given."""
        self._work()
        unknown = vocab.number(UNK)
        numbers = (vocab.get(token) for token in self._rows.words.numbers)
        table = np.array([unknown if number is None else number for number in numbers], np.int32)
        tokens, ends = self._row_tokens()
        tokens, lengths = table[tokens], np.diff(ends)
        for block in self._blocks:
            sizes = lengths[block.rows]
            stops = np.cumsum(sizes)
            # the place of each token: where its row begins, plus how far into the row it is
            places = np.repeat(ends[block.rows] - (stops - sizes), sizes) + np.arange(stops[-1])
            yield tokens[places], np.add.reduceat(sizes, np.cumsum(block.sizes) - block.sizes)

    def _row_tokens(self) -> tuple[Int32s, Int64s]:
        """All rows' tokens, and where in them each row begins (at last, where the last one ends)."""
        return np.array(self._rows.tokens, np.int32), np.array(self._rows.ends, np.int64)

    def _work(self) -> None:
        """Turn the texts that wait into a block of rows."""
        if not self._waiting:
            return
        if len(self._rows) > _MOST_CHUNKS:
            self._rows.forget()
        rows, sizes = self._split() if self.tokenizer.by_chunk else self._unsplit(self._waiting)
        self._blocks.append(_Block(rows, sizes, np.array(self._counted)))
        self._waiting, self._counted, self._chars = [], [], 0

    def _unsplit(self, texts: Sequence[str]) -> tuple[Int32s, Int64s]:
        """Each text as one row, the readable way."""
        rows = [(self._rows.first, self._whole(text), self._rows.last) for text in texts]
        return np.array(rows, np.int32).reshape(-1), np.full(len(rows), 3)

    def _whole(self, text: str) -> int:
        """A row for a text, the readable way; its beginning and end aside."""
        return self._rows.add_tokens(tokenize(text, self.tokenizer)[1:-1])

    def _split(self) -> tuple[Int32s, Int64s]:
        """The texts that wait as rows of their chunks; those that need it as one row, the readable way."""
        stream, stops = array("i"), array("q")
        for text in self._waiting:
            stream.append(self._rows.first)
            stream.extend(map(self._rows.__getitem__, _chunks(text)))
            stream.append(self._rows.last)
            stops.append(len(stream))
        rows, ends = np.array(stream), np.array(stops)
        sizes = np.diff(ends, prepend=0)
        notes = np.array(self._rows.notes)[rows]
        for i in np.flatnonzero(notes[1:] & SPACE_BEFORE).tolist():
            rows[i] = self._rows.spaced.get(rows[i], rows[i])
        kept = np.ones(len(rows), np.bool_)
        for i in self._odd(rows, notes, ends):
            begin = ends[i] - sizes[i]
            rows[begin : begin + 2] = self._rows.first, self._whole(self._waiting[i])
            kept[begin + 2 : ends[i] - 1] = False
            sizes[i] = 3
        return rows[kept], sizes

    def _odd(self, rows: Int32s, notes: np.ndarray[tuple[int], np.dtype[np.uint8]], ends: Int64s) -> list[int]:
        """The texts that must take the readable way."""
        words = np.flatnonzero(notes & WORD)
        same = words[1:][rows[words[1:]] == rows[words[:-1]]]
        repeated = [i for i in _texts_at(same, ends) if repeats_a_word(fixup_text(sub_br(self._waiting[i])))]
        # blanks that go on behind the space or line break between two chunks, or a space that is not there
        blanks = (notes[:-1] & (BLANK_BEHIND | LINES) > 0) & (notes[1:] & BLANK_BEFORE > 0)
        blanks |= (notes[:-1] & BLANK_BEHIND > 0) & ((rows[1:] == self._rows.last) | (rows[1:] == self._rows.empty))
        return sorted({*_texts_at(np.flatnonzero(blanks), ends), *repeated})


def _texts_at(places: Int64s, ends: Int64s) -> list[int]:
    """The texts that some rows are of."""
    found: list[int] = np.unique(np.searchsorted(ends, places, "right")).tolist()
    return found


def _chunks(text: str) -> list[str]:
    """A text between its spaces, after the rules that see more than one chunk; line breaks are chunks of their own."""
    text = sub_br(text)
    if ";" in text or "&" in text or "\\" in text or " @" in text or "<unk>" in text:
        text = fixup_text(text)
    elif "  " in text:
        text = rm_useless_spaces(text)
    if text[:1] == " ":
        return [" "]
    if "\n" in text:
        if "\n " in text or "\n\n\n" in text:
            return _LINES_OR_CHUNK.findall(text)
        text = text.replace("\n", " \n ").replace("\n  \n", "\n\n")
    return text.split(" ")


def encode(
    texts: Iterable[str],
    tokenizer: Tokenizer,
    *,
    vocab: Vocab | None = None,
    max_vocab: int = 60_000,
    min_freq: int = 2,
    multiple_of: int = 1,
    counted: Iterable[bool] | None = None,
    report: Callable[[int], None] | None = None,
) -> Encoded:
    """Texts as numbers, and the vocabulary that says what they mean.

    Args:
        texts: read one after the other; none is kept.
        tokenizer: what cuts them into tokens.
        vocab: the vocabulary to use; by default one is made of the texts.
        max_vocab: how many names it holds at most; see `build_vocab`.
        min_freq: how often a word must come in the texts to be in it.
        multiple_of: what its size must be a multiple of.
        counted: for each text, whether its tokens count for the vocabulary: not those of validation texts.
        report: called with the number of texts taken, after each one.

    >>> from etude.text.tokenizers import Words
    >>> encoded = encode(["Good.", "Good!"], Words())
    >>> encoded.values.tolist(), encoded.starts.tolist(), encoded.vocab[8]
    ([2, 7, 8, 0, 3, 2, 7, 8, 0, 3], [0, 5, 10], 'good')

    Raises:
        ConfigError: the vocabulary was made with another tokenizer or other rules.
    """
    if vocab is not None and vocab.made_by is not None and vocab.made_by != made_by(tokenizer):
        raise ConfigError(
            f"the vocabulary was made by {_shown(vocab.made_by)}, but the texts are cut by "
            f"{_shown(made_by(tokenizer))}: its numbers would mean other words. Use make_tokenizer(vocab.made_by"
            "['tokenizer']), or make a new vocabulary."
        )
    numbers = Numericalizer(tokenizer)
    flags = repeat(True) if counted is None else counted
    for done, (text, counts) in enumerate(zip(texts, flags, strict=False), 1):
        numbers.add(text, counts)
        if report is not None:
            report(done)
    if vocab is None:
        vocab = numbers.vocab(max_vocab=max_vocab, min_freq=min_freq, multiple_of=multiple_of)
    blocks = list(numbers.blocks(vocab))
    lengths = np.concatenate([np.zeros(1, np.int64), *(sizes for _, sizes in blocks)])
    return Encoded(np.concatenate([np.zeros(0, np.int32), *(v for v, _ in blocks)]), np.cumsum(lengths), vocab)


def _shown(made: Mapping[str, Json]) -> str:
    """How tokens were made, for a message; a tokenizer's definition may be long."""
    text = str(dict(made))
    return text if len(text) < 200 else f"{text[:200]}..."
