"""The demo of texts, its documentation strings, and the simpler ways that it is compared with."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from coloring import etude, with_pictures
from etude.recipes import docstrings
from etude.recipes.docstrings import (
    Docstring,
    find_docstrings,
    folder_of_docstrings,
    is_held_out,
    modules_held_out,
)
from etude.recipes.trigram import trigram_perplexity

LIBRARY = {
    "email/__init__.py": '"""Mail."""\ndef send():\n    """Send some mail to somebody who reads it."""\n',
    "email/parse.py": 'class Parser:\n    """Reads mail."""\n    def feed(self):\n        """Send some mail."""\n',
    "tkinter/ttk.py": 'async def draw():\n    """Draw a window."""\nraise SystemExit("it was imported")\n',
    "test/test_email.py": '"""Tests are no documentation."""\n',
    "site-packages/other.py": '"""Not of Python."""\n',
    "odd.py": "this is no Python\n",
    "os.py": 'def again():\n    """Send some mail."""\n',
}


@pytest.fixture
def library(tmp_path):
    """A small library, one of whose modules must not be imported."""
    for name, source in LIBRARY.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(source, encoding="utf-8")
    return tmp_path


def test_every_text_is_found_once_and_nothing_is_imported(library):
    found = find_docstrings(library)

    assert found == [
        Docstring("Mail.", "email", "internet"),
        Docstring("Send some mail to somebody who reads it.", "email", "internet"),
        Docstring("Reads mail.", "email.parse", "internet"),
        Docstring("Send some mail.", "email.parse", "internet"),
        Docstring("Draw a window.", "tkinter.ttk", "windows"),
    ]


def test_whole_modules_are_held_out_of_every_topic():
    found = [Docstring(f"word {i} " * 10, f"{topic}.m{i}", topic) for topic in "ab" for i in range(20)]
    found.append(Docstring("word " * 10_000, "a.large", "a"))
    away = modules_held_out(found)

    assert "a.large" not in away
    assert sum(module[0] == "b" for module in away) == 3
    assert modules_held_out(reversed(found)) == away


def test_as_many_texts_are_held_out_as_it_says():
    held = [text for i in range(10_000) if is_held_out(text := f"text {i}")]

    assert 1_400 < len(held) < 1_600
    assert is_held_out(held[0])


def test_nothing_is_learned_from_that_is_measured_on(tmp_path, monkeypatch, library):
    monkeypatch.setenv("ETUDE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(docstrings.sysconfig, "get_path", lambda name: str(library))
    for i in range(60):
        (library / f"email{i}.py").write_text(f'"""Mail number {i} is sent to somebody who wants to read it."""\n')
    monkeypatch.setattr(docstrings, "TOPICS", {"internet": " ".join(["email", *(f"email{i}" for i in range(60))])})
    folder = folder_of_docstrings(labeled=False)
    again = folder_of_docstrings(labeled=False)

    def texts(part: Path, side: str) -> set[str]:
        return {json.loads(line)["text"] for line in (part / f"{side}.jsonl").read_text().splitlines() if line}

    topics = folder_of_docstrings(labeled=True)
    measured = texts(topics, "valid")
    assert folder == again
    assert measured
    assert texts(folder, "valid")
    assert not texts(topics, "train") & measured
    assert not texts(folder, "train") & (texts(folder, "valid") | measured)
    assert [path.name for path in folder.parent.parent.iterdir()] == [folder.parent.name]


# -- the trigram model ------------------------------------------------------------------------------------------------


def textbook(train: list[int], valid: list[int], size: int) -> float:
    """Interpolated modified Kneser-Ney word by word, from its formulas."""
    seen = [Counter(tuple(train[i : i + 3]) for i in range(len(train) - 2))]
    for _ in range(2):
        seen.append(Counter(gram[1:] for gram in seen[-1]))

    def taken(counts, count):
        n = [max(sum(value == k for value in counts.values()), 1) for k in (1, 2, 3, 4)]
        y = n[0] / (n[0] + 2 * n[1])
        best = (1 - 2 * y * n[1] / n[0], 2 - 3 * y * n[2] / n[1], 3 - 4 * y * n[3] / n[2])
        k = min(count, 3)
        return min(max(best[k - 1], 0.1), k)

    def p(gram):
        if not gram:
            return 1 / size
        counts = seen[3 - len(gram)]
        after = {other: count for other, count in counts.items() if other[:-1] == gram[:-1]}
        if not after:
            return p(gram[1:])
        total = sum(after.values())
        free = sum(taken(counts, count) for count in after.values())
        own = after[gram] - taken(counts, after[gram]) if gram in after else 0
        return (own + free * p(gram[1:])) / total

    for context in ([], [train[0]], train[:2]):
        assert sum(p((*context, word)) for word in range(size)) == pytest.approx(1)
    logs = [math.log(p(tuple(valid[i : i + 3]))) for i in range(len(valid) - 2)]
    return math.exp(-sum(logs) / len(logs))


def test_the_trigram_model_is_the_textbooks():
    chance = np.random.default_rng(0)
    words = np.cumsum(chance.choice([0, 1, 1, 1, 2], 600)) % 7
    train, valid = words[:400], words[400:]

    assert trigram_perplexity(train, valid, 7) == pytest.approx(textbook(train.tolist(), valid.tolist(), 7), rel=1e-12)


def test_the_trigram_model_knows_what_always_comes():
    train = np.array([0, 1, 2, 3, 4] * 200)

    assert trigram_perplexity(train, train[:50], 5) == pytest.approx(1, abs=0.01)
    alike = np.random.default_rng(0).integers(0, 5, 20_000)
    assert trigram_perplexity(alike, alike[::-1], 5) == pytest.approx(5, rel=0.02)


def test_a_word_that_was_never_seen_costs_no_infinity():
    train = np.array([list(pair) for pair in product(range(3), range(3))] * 5).ravel()

    assert math.isfinite(trigram_perplexity(train, np.array([3, 3, 3, 3]), 4))


# -- the demo ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_holds_what_it_promises(tmp_path):
    with with_pictures():
        done = etude("demo-text", "--run-dir", tmp_path / "run", "--json")
    result = done.json

    assert done.code == 0, done.errors
    assert result["perplexity"] < result["trigram_perplexity"]
    assert result["valid_accuracy"] > result["bag_of_words_accuracy"] - 0.02
    assert result["valid_accuracy"] > 2 * result["majority_accuracy"]
    assert result["train_seconds"] > 0
    assert (tmp_path / "run" / "classifier" / "curves.png").exists()
