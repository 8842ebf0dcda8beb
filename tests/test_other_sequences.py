"""Sequences that are no English: tokens as they are, and docs/other-sequences.md, whose best model is known."""

from __future__ import annotations

import itertools
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from etude import text
from etude.errors import ConfigError
from etude.text.tokenize import made_by
from etude.text.tokenizers import Characters, Spaces, make_tokenizer

PAGE = Path(__file__).parent.parent / "docs" / "other-sequences.md"


def run(blocks: slice) -> dict[str, Any]:
    """What some blocks of the page define."""
    namespace: dict[str, Any] = {"__name__": "other_sequences"}
    for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)[blocks]:
        exec(compile(code, str(PAGE), "exec"), namespace)
    return namespace


@pytest.fixture(scope="module")
def grammar() -> dict[str, Any]:
    return run(slice(2))


# -- the best model ---------------------------------------------------------------------------------------------------


def test_probabilities_of_all_sequences_add_up(grammar):
    longest = 5
    pieces = (itertools.product(grammar["LETTERS"], repeat=length) for length in range(2, longest + 1))
    written = ["".join(letters) for letters in itertools.chain.from_iterable(pieces)]
    for source in grammar["SOURCES"].values():
        total = math.fsum(math.exp(grammar["log_probability"](sequence, source)) for sequence in written)

        assert total == pytest.approx(1 - (1 - grammar["STOP"]) ** (longest - 1), abs=1e-12)


def test_the_best_perplexity_is_that_of_a_reader_who_weighs_both_sources(grammar):
    sequences, sources, stop = grammar["sequences"][:50], list(grammar["SOURCES"].values()), grammar["STOP"]
    nats = 0.0
    for sequence in sequences:
        belief = [0.5, 0.5]
        nats -= 2 * math.log(1 / 4) + (len(sequence) - 2) * math.log(1 - stop) + math.log(stop)
        for pair, letter in zip(map("".join, itertools.pairwise(sequence)), sequence[2:], strict=False):
            ways = [weight * source[pair][letter] for weight, source in zip(belief, sources, strict=True)]
            nats -= math.log(sum(ways))
            belief = [way / sum(ways) for way in ways]

    told = grammar["best_perplexity"](sequences)
    assert told == pytest.approx(math.exp(nats / sum(len(sequence) + 2 for sequence in sequences)), rel=1e-12)


def test_no_other_model_predicts_better(grammar):
    sequences, (one, other) = grammar["sequences"], grammar["SOURCES"].values()
    mean = {pair: {letter: (one[pair][letter] + other[pair][letter]) / 2 for letter in one[pair]} for pair in one}
    num = sum(len(sequence) + 2 for sequence in sequences)
    reached = [
        math.exp(-sum(grammar["log_probability"](sequence, source) for sequence in sequences) / num)
        for source in (one, other, mean)
    ]

    assert grammar["best_perplexity"](sequences) < 0.95 * min(reached)


# -- tokens as they are -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokenizer", "sequence", "tokens"),
    [
        (Characters(), "AAAAacgtCl", [*"AAAAacgtCl"]),
        (Characters(), "AC\nGT\r\nA", [*"ACGTA"]),
        (Characters(), "a b", ["a", " ", "b"]),
        (Characters(3), "AAAACGT", ["AAA", "ACG", "T"]),
        (Characters(), "", []),
        (Spaces(), "ON<60>  WAIT<12>\nWAIT<12> WAIT<12> WAIT<12> &amp; a/b", None),
        (Spaces(), " \n ", []),
    ],
)
def test_no_rule_touches_them(tokenizer, sequence, tokens):
    assert text.tokenize(sequence, tokenizer) == ["xxbos", *(sequence.split() if tokens is None else tokens), "xxeos"]


@pytest.mark.parametrize("tokenizer", [Characters(), Characters(3), Spaces()])
def test_they_are_recorded_and_built_again(tokenizer):
    draw = random.Random(0)
    sequences = ["".join(draw.choices("AACG \n", k=draw.randint(1, 40))) for _ in range(60)]
    data = text.load(texts=sequences, valid=0.2, tokenizer=tokenizer, min_freq=1, batch_size=2, progress=False)
    again = text.TextReader.from_config(data.read.config())
    store = data.valid.store

    assert data.read.vocab.made_by == made_by(tokenizer)
    assert (made_by(tokenizer)["tokenizer"], made_by(tokenizer)["rules"]) == (tokenizer.config(), None)
    assert make_tokenizer(tokenizer.config()).config() == tokenizer.config()
    for row, name in enumerate(store.names):
        ids = store.values[store.starts[row] : store.starts[row] + store.shapes[row, 0]]
        assert torch.equal(again(sequences[int(name)]).int(), ids)


def test_the_way_back_has_blanks_only_where_they_were():
    marked = ["xxbos", "C", "C", "(", "=", "O", ")", "xxeos"]

    assert Characters().text(marked) == "CC(=O)"
    assert Spaces().text(["xxbos", "ON<60>", "WAIT<1>"]) == "ON<60> WAIT<1>"
    assert make_tokenizer("words").text(["xxbos", "xxmaj", "well", ",", "yes", "."]) == "Well, yes."


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", True, None])
def test_a_group_of_no_characters_is_refused(k):
    with pytest.raises(ConfigError, match="k counts the characters of a token"):
        make_tokenizer({"name": "characters", "k": k})


def test_an_unknown_setting_is_refused():
    with pytest.raises(ConfigError, match=r"there is no tokenizer.*'spaces'"):
        make_tokenizer({"name": "spaces", "k": 3})


def test_a_vocabulary_of_letters_is_not_used_for_groups_of_them():
    letters = text.load(texts=["ACGT"] * 20, tokenizer="characters", batch_size=1, progress=False).vocab

    with pytest.raises(ConfigError, match="tokenizer"):
        text.load(texts=["ACGT"] * 20, tokenizer=Characters(3), vocab=letters, batch_size=1, progress=False)


# -- the page's own training ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_reaches_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = run(slice(None))
    tuned, scratch = page["right"].values()

    assert page["best"] <= page["reached"] <= 1.05 * page["best"]
    assert len(tuned) == 3
    assert all(one > other for one, other in zip(tuned, scratch, strict=True))
    assert page["by_table"] >= max(tuned) - 0.02
    assert set(text.generate(page["lm"], num_tokens=40)) <= {*"ACGT"}
    # what the page shows as printed is printed
    printed = capsys.readouterr().out
    comments = re.findall(r"  # (.*)$", PAGE.read_text(encoding="utf-8"), re.M)
    shown = [comment for comment in comments if comment.startswith("[")]
    assert len(shown) == 3
    assert all(comment.removesuffix(" ...") in printed for comment in shown)
