"""A language model writes, and its tokens are put into words that read well."""

from __future__ import annotations

import doctest
import sys
from itertools import islice

import pytest
import torch

from etude import text
from etude.errors import ConfigError
from etude.text.detokenize import detokenize
from etude.text.special import BOS, EOS, PAD, UNK
from etude.text.tokenizers import Words
from tiny_texts import SMALL, WEAK, both_trained, corpus, labeled, reviews


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ("xxmaj hello , world !", "Hello, world!"),
        ("do n't", "don't"),
        ("xxbos i ca n't say xxup what he 'd like ; you 're it 's . xxeos", "I can't say WHAT he'd like; you're it's."),
        ("good xxrep 5 ! ( really ) xxrep 3 .", "good!!!!! (really)..."),
        ("xxwrep 4 very bad", "very very very very bad"),
        ("xxwrep 3 xxup no", "NO NO NO"),
        ("xxmaj xxrep 4 a", "AAAA"),
        ("a well - known 10 / 10 film", "a well-known 10/10 film"),
        ('he said " xxmaj stop " , and left', 'he said "Stop", and left'),
        ("$ 5.50 [ or 20 % ]", "$5.50 [or 20%]"),
        ("one \n\n xxmaj two", "one\n\nTwo"),
        ("i can not , gon na", "I cannot, gonna"),
        ("xxpad xxpad a xxpad", "a"),
        ("", ""),
        # what only a model says: marks of nothing, and numbers that are none
        ("xxmaj", ""),
        ("xxrep", ""),
        ("xxrep 4", ""),
        ("xxrep many !", "!"),
        ("xxmaj xxup a", "A"),
        # pieces of words
        ("xxbos xxmaj \u2581the \u2581fi lm xxrep \u25814 \u2581! \u2581was \u2581n't", "The film!!!! wasn't"),
    ],
)
def test_tokens_become_text(tokens, expected):
    assert detokenize(tokens.split(" ") if tokens else []) == expected


def test_no_number_is_too_large():
    assert detokenize(["xxrep", "9" * 5000, "!"]) == "!" * 100
    assert detokenize(["xxwrep", "\u0664", "a"]) == "a a a a"  # a digit of another script


def test_examples():
    module = sys.modules["etude.text.detokenize"]  # the package's name of it is the function

    assert doctest.testmod(module) == (0, 2)


@pytest.mark.parametrize(
    "plain",
    [
        "The film wasn't bad; I'd see it again!",
        'She said "no" (twice), and left.',
        "WOW!!!!! It cost $5, or 20% less...",
        "A low-budget film: 7/10, isn't it?",
    ],
)
def test_there_and_back(plain):
    assert detokenize(text.tokenize(plain, Words())).lower() == plain.lower()


def test_real_reviews_read_nearly_as_they_were_written(data_folder):
    """Most words with what stands around them come back; capitals in the middle of a word do not."""
    import csv
    import tarfile

    with tarfile.open(data_folder / "imdb_sample.tgz") as archive:
        name = next(one for one in archive.getnames() if one.endswith(".csv"))
        lines = archive.extractfile(name).read().decode().splitlines(keepends=True)
    texts = [row["text"].replace("<br />", "\n") for row in islice(csv.DictReader(lines), 100)]
    found = wanted = 0
    for one in texts:
        words = one.split()
        back = set(detokenize(text.tokenize(one, Words())).split())
        found, wanted = found + sum(word in back for word in words), wanted + len(words)

    assert found / wanted > 0.95


# -- writing ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lm():
    return both_trained()["lm"]


def test_it_goes_on_as_it_has_learned(lm):
    written = text.generate(lm, "The film was", temperature=0.3, num_tokens=40)
    words = set(written.lower().replace(".", "").replace(",", "").split())

    assert written.startswith("The film was ")
    assert words <= set(lm.data.vocab)
    assert {"the", "was"} < words
    assert text.generate(lm, "The film was", num_tokens=0) == "The film was"
    assert text.generate(lm, num_tokens=8)


def test_the_same_seed_writes_the_same_text(lm):
    """Whatever else draws random numbers, and without drawing any of those."""
    first = text.generate(lm, "The", seed=3)
    torch.manual_seed(5)
    before = torch.get_rng_state()

    assert text.generate(lm, "The", seed=3) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert len({text.generate(lm, "The", seed=seed) for seed in range(5)}) > 1


def test_the_likeliest_token_is_taken_without_a_choice(lm):
    one = text.generate(lm, "The", top_k=1, seed=0, num_tokens=12)

    assert one == text.generate(lm, "The", top_k=1, seed=1, num_tokens=12)
    assert one == text.generate(lm, "The", temperature=1e-4, num_tokens=12)
    assert one == text.generate(lm, "The", temperature=1e-310, num_tokens=12)


def test_it_says_nothing_unknown_and_stops_at_the_end(lm):
    """A model that gives everything to xxunk, xxpad, xxbos and a filler, then to xxeos."""
    vocab = lm.data.vocab
    never = [UNK, PAD, BOS, next(name for name in vocab if name.startswith("xxfill"))]
    bias = lm.model.decoder.bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias[[vocab.number(name) for name in never]] = 1000
        bias[vocab.number("film")] = 500
        often = text.generate(lm, "", num_tokens=3)
        bias[vocab.number(EOS)] = 900
        ended = text.generate(lm, "A", num_tokens=50)
        bias.copy_(before)

    assert often == "film film film"
    assert ended == "a film"


def test_words_of_the_prompt_that_are_unknown_stay(lm):
    assert text.generate(lm, "The zeppelin", num_tokens=2).startswith("The zeppelin")


def test_training_goes_on_as_if_nothing_was_written(lm):
    state = {name: buffer.clone() for name, buffer in lm.model.named_buffers()}
    lm.model.train()
    text.generate(lm, "The")

    assert lm.model.training
    assert all(torch.equal(buffer, state[name]) for name, buffer in lm.model.named_buffers())


def test_a_backward_model_writes_what_comes_before():
    learner = text.language_model(corpus(reviews(40)[0], backward=True), dropouts=WEAK, **SMALL)
    learner.fit(1, lr=3e-2, momentum=(0.8, 0.7))
    written = text.generate(learner, "was great.", num_tokens=2, temperature=0.3)

    assert written.endswith(" was great.")
    assert len(written.split()) > 2
    vocab = learner.data.vocab
    with torch.no_grad():
        learner.model.decoder.bias[vocab.number(BOS)] = 1000
    assert len(text.generate(learner, "great.").split()) == 2


@pytest.mark.parametrize(
    "setting",
    [
        *({"temperature": value} for value in (0, float("inf"), float("nan"), "a")),
        *({"num_tokens": value} for value in (-1, 2.5, True, None)),
        *({"top_k": value} for value in (0, 2.5, True)),
    ],
)
def test_refused(lm, setting):
    with pytest.raises(ConfigError, match="must be a"):
        text.generate(lm, "The", **setting)


def test_a_classifier_does_not_write():
    with pytest.raises(ConfigError, match="this learner has a TextClassifier"):
        text.generate(text.classifier(labeled(), **SMALL), "The")
