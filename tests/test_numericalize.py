"""The fast way from texts to numbers gives what the readable way gives, whatever the texts are."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import numpy as np
import pytest

from etude import ConfigError
from etude.data.vocab import Vocab
from etude.text import numericalize
from etude.text.numericalize import Encoded, Numericalizer, encode
from etude.text.special import SPECIAL
from etude.text.tokenize import made_by, tokenize
from etude.text.tokenizers import Words
from reference.numbers import numbers
from reviews import all_reviews, sample_reviews

WORDS = Words()
# what lies at the borders between chunks, blanks, repetitions and rules
PIECES = (
    *(" ", " ", " ", " ", "  ", "\n", "\n", "\n\n", "\n \n", "\t", "\x85", "\xa0", "\u2028", "\0", "\ud800"),
    *(
        "no",
        "no ",
        "no, ",
        "no-",
        "no\n",
        "no - ",
        '"no" ',
        "4",
        "4 ",
        "44",
        "No",
        "NO",
        "İ",
        "ok.",
        "it's",
        "don't",
        "a/b",
    ),
    *(
        "-",
        "--",
        "----",
        ".",
        "...",
        "....",
        "!!!!!",
        "/",
        "#",
        "\\",
        "\\n",
        ":)",
        "( ",
        "(",
        ")",
        '"',
        "'",
        "aaaa",
        "1000",
    ),
    *(
        "<br />",
        "<br>",
        "<br/",
        "<unk>",
        "amp;",
        "&lt;",
        "&",
        ";",
        "#39;",
        " @.@ ",
        " @-@ ",
        "xxrep 4",
        "xxbos",
        "😀",
        "שלום",
    ),
    *("no no no ", "no\x85", "x" * 40, "http://a.bc/d", "_", "no_"),
    *(
        "no no no no",
        "very very ",
        "x x x x",
        "\x0b",
        "\x1c",
        "\u3000",
        "&nbsp;",
        "&#32;",
        "&#10;",
        "n't",
        "ǅ",
        "ŉ",
        "ß",
    ),
)


def texts_of(encoded: Encoded) -> list[list[str]]:
    return [[encoded.vocab[i] for i in encoded.values[a:b]] for a, b in pairwise(encoded.starts)]


def check(texts: list[str]) -> None:
    """With every token known, the numbers say what `tokenize` says."""
    found = texts_of(encode(texts, WORDS, min_freq=1, max_vocab=10**7))
    for text, tokens in zip(texts, found, strict=True):
        assert tokens == tokenize(text, WORDS), repr(text)


def hostile(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(PIECES, k=draw.randint(0, 14))) for _ in range(count)]


# -- equal to the readable way ----------------------------------------------------------------------------------------


def test_a_thousand_reviews(data_folder):
    texts = sample_reviews(data_folder)
    encoded = encode(texts, WORDS, max_vocab=5_000, min_freq=3)

    assert [values.tolist() for values in np.split(encoded.values, encoded.starts[1:-1])] == numbers(
        texts, WORDS, max_vocab=5_000, min_freq=3
    )
    assert (encoded.values.dtype, encoded.starts.dtype) == (np.int32, np.int64)


def test_texts_made_of_nasty_pieces():
    check(hostile(4_000, seed=1))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "\n",
            " \n",
            "a ",
            " a",
            "a\n",
            "a\n ",
            "\n\n a",
            "a \n\n b",
            "a\n\n\nb",
            "a\n \nb",
            "a\x85 \n\nb",
            "a\x85",
            "\t",
            "a \x85 b",
        ),
        *("....a", "a\n....", "a\n\n ....", "a ....", "\x85....", "a\n/b", "/", "#1\n#2", "a\n\n  ****b"),
        *(
            "no no no no ",
            "x no no no no\n",
            "no\nno\nno\nno\n",
            "no - no - no - no - a",
            "no-no-no-no-no",
            "(no) (no) (no) (no) ",
        ),
        *(
            "no no no",
            "no no no no",
            "no\n\nno\n\nno\n\nno\n\nno",
            "no . . no . . no . . no . . ",
            "no\x85no no\x85no no\x85no no\x85no ",
            "1000 1000 1000 1000 ",
        ),
        *(
            "xxrep 10000 a",
            "4444 4 4 4 4 ",
            "4 4 4 4444",
            "amp;lt; &lt;br&gt;",
            "a \\ b\\nc",
            "a  b   c",
            "no  no  no  no  a",
        ),
    ],
)
def test_where_rules_reach_over_chunks(text):
    check([text, "between", text + text, f"{text} {text}"])


@pytest.mark.parametrize(
    "text",
    [
        '"no no no no!!!!',
        "(very very very very....",
        "-no, no, no, no,----",
        "a-no no no no////",
        "x\nno\nno\nno\nno----",
    ],
)
def test_a_repetition_that_begins_or_ends_within_a_chunk(text):
    """Two chunks are the same, and their neighbors only hold the same word."""
    check([text, f"{text} {text}", f"so {text}\n"])


def test_words_that_are_the_same_twice_or_thrice_stay_on_the_fast_way(monkeypatch):
    """Each article of WikiText has three unknown words in a row somewhere."""
    monkeypatch.setattr(Numericalizer, "_whole", None)
    check(["<unk> <unk> <unk> , <unk> <unk> , <unk>", "that that had had, no, no, no: no.", "4 4 4"])


def test_memory_is_given_back(monkeypatch):
    monkeypatch.setattr(numericalize, "_BLOCK_TEXTS", 3)
    monkeypatch.setattr(numericalize, "_MOST_CHUNKS", 20)
    numericalizer = Numericalizer(WORDS)
    for i in range(300):
        numericalizer.add(f"word{i} other{i}, more{i}")

    assert len(numericalizer._rows) < 40
    assert len(numericalizer._rows.words) < 60
    assert numericalizer.num_tokens == 300 * 6
    assert numericalizer.counts()["other7"] == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_review_and_many_nasty_texts(data_folder):
    check(hostile(100_000, seed=2))
    check([text for _, text in all_reviews(data_folder, "train")])


def test_a_long_line_takes_seconds():
    begin = time.process_time()
    encoded = encode(["word, " * 300_000 + "x" * 1_000_000 + "ab" * 500_000], WORDS)

    assert len(encoded.values) > 5
    assert time.process_time() - begin < 30


# -- what counts, what is known ---------------------------------------------------------------------------------------


def test_validation_texts_do_not_count():
    encoded = encode(["a a b", "c c c", "a c"], WORDS, counted=[True, False, True], min_freq=1)

    assert list(encoded.vocab) == [*SPECIAL, "a", "b", "c"]
    assert texts_of(encoded)[1] == ["xxbos", "c", "c", "c", "xxeos"]
    assert "c" not in encode(["a a b", "c c c"], WORDS, counted=[True, False], min_freq=1).vocab


def test_a_given_vocabulary_is_used_by_name():
    """Its special tokens may be anywhere: an older version had xxbos first."""
    vocab = Vocab(["xxbos", "hello", "xxeos", "xxpad", "xxunk"])

    assert encode(["hello you"], WORDS, vocab=vocab).values.tolist() == [0, 1, 4, 2]


def test_a_vocabulary_of_another_tokenizer_is_refused():
    vocab = Vocab(SPECIAL, made_by=made_by(WORDS) | {"rules": "older"})

    with pytest.raises(ConfigError, match="older"):
        encode(["a"], WORDS, vocab=vocab)
    assert len(encode(["a"], WORDS, vocab=Vocab(SPECIAL, made_by=made_by(WORDS))).values) == 3


def test_blocks_come_in_order_and_texts_are_not_kept(monkeypatch):
    monkeypatch.setattr(numericalize, "_BLOCK_TEXTS", 3)
    monkeypatch.setattr(numericalize, "_MOST_CHUNKS", 5)  # chunks are forgotten again and again
    texts = hostile(40, seed=3)
    seen = []
    numericalizer = Numericalizer(WORDS)
    for text in texts:
        numericalizer.add(text)
        assert len(numericalizer._waiting) < 3
    vocab = numericalizer.vocab(min_freq=1)
    for values, lengths in numericalizer.blocks(vocab):
        seen += [[vocab[i] for i in one] for one in np.split(values, np.cumsum(lengths)[:-1])]

    assert seen == [tokenize(text, WORDS) for text in texts]
    assert sum(numericalizer.counts().values()) == sum(map(len, seen))


def test_cleared_it_gives_the_same_again():
    numericalizer = Numericalizer(WORDS)
    for texts in (hostile(50, seed=4), hostile(50, seed=5)):
        numericalizer.clear()
        for text in texts:
            numericalizer.add(text)
        vocab = numericalizer.vocab()
        values = np.concatenate([values for values, _ in numericalizer.blocks(vocab)])
        assert vocab == encode(texts, WORDS).vocab
        assert np.array_equal(values, encode(texts, WORDS).values)


def test_progress_is_reported():
    seen: list[int] = []
    encode(iter(["a", "b", "c"]), WORDS, report=seen.append)

    assert seen == [1, 2, 3]
