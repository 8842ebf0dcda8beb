"""The vocabulary: special tokens inside its limit, a fixed order, a size that suits the GPU; and what it remembers."""

from __future__ import annotations

import pytest

from etude import ConfigError, DataError
from etude.data.vocab import Vocab
from etude.text import special
from etude.text.special import SPECIAL
from etude.text.vocabulary import build_vocab

COUNTS = {f"word{i:03}": 200 - i for i in range(150)} | dict.fromkeys(SPECIAL, 10_000)


def test_error_18_special_tokens_are_inside_the_limit():
    """The original put them on top: 60,003 names where 60,000 were asked for."""
    vocab = build_vocab(COUNTS, max_vocab=20)

    assert len(vocab) == 20
    assert tuple(vocab)[:8] == SPECIAL
    assert list(vocab)[8:] == [f"word{i:03}" for i in range(12)]


def test_error_18_looking_up_an_unknown_word_adds_nothing():
    """The original's defaultdict grew with every unknown word."""
    vocab = build_vocab(COUNTS)
    size = len(vocab)

    assert vocab.get("never seen") is None
    assert vocab.get("word000") == 8 == vocab.number("word000")
    assert len(vocab) == size
    with pytest.raises(DataError, match="never seen"):
        vocab.number("never seen")


def test_the_order_does_not_depend_on_that_of_the_texts():
    words = {"b": 3, "a": 3, "é": 3, "Z": 3, "often": 9, "rare": 1}

    assert list(build_vocab(words))[8:] == ["often", "Z", "a", "b", "é"]
    assert build_vocab(dict(reversed(words.items()))) == build_vocab(words)


@pytest.mark.parametrize("num_words", [0, 1, 7, 8, 9, 11, 12])
def test_the_size_is_a_multiple_inside_the_limit(num_words):
    counts = {f"w{i:02}": 5 for i in range(num_words)} | {"xxfill1": 9}
    vocab = build_vocab(counts, max_vocab=21, multiple_of=8)

    assert len(vocab) == (16 if num_words <= 12 else 24)
    assert len(set(vocab)) == len(vocab)
    assert "xxfill1" in list(vocab)[8:]


def test_numbers_of_special_tokens_are_looked_up():
    vocab = build_vocab(COUNTS)

    assert [vocab.number(name) for name in SPECIAL] == list(range(8))
    assert SPECIAL[:4] == (special.UNK, special.PAD, special.BOS, special.EOS)


@pytest.mark.parametrize(
    "setting", [{"max_vocab": 7}, {"max_vocab": 15, "multiple_of": 16}, {"min_freq": 0}, {"multiple_of": 0}]
)
def test_settings_without_sense_are_refused(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        build_vocab(COUNTS, **setting)


def test_a_vocabulary_remembers_how_its_tokens_were_made():
    made = {"tokenizer": {"name": "words"}, "rules": "abc"}

    assert build_vocab(COUNTS, made_by=made).made_by == made
    assert build_vocab(COUNTS, made_by=made) == build_vocab(COUNTS)
    assert Vocab(["a"]).made_by is None
