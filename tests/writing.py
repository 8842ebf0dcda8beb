"""Texts that a small model learns in seconds, and the flags that make it small."""

from __future__ import annotations

import random
from pathlib import Path

SUBJECTS = {"animals": ("the dog", "a cat", "my horse", "the owl"), "tools": ("the saw", "a hammer", "my drill")}
VERBS = {"animals": ("sleeps", "eats hay", "runs home", "sings"), "tools": ("cuts wood", "breaks", "hits the nail")}
SMALL = ["--embed-dim", "12", "--hidden-dim", "16", "--num-layers", "2", "--batch-size", "4", "--bptt", "8"]
SMALL += ["--min-freq", "1", "--valid-pct", "0.25"]


def sentences(topic: str, number: int) -> str:
    """Some sentences on a topic; the same for the same number."""
    chance = random.Random(f"{topic} {number}")
    told = [f"{chance.choice(SUBJECTS[topic])} {chance.choice(VERBS[topic])}" for _ in range(chance.randint(2, 5))]
    return ". ".join(one.capitalize() for one in told) + ".\n"


def save_texts(folder: Path, per_topic: int = 24) -> Path:
    """One folder per topic, one file per text."""
    for topic in SUBJECTS:
        (folder / topic).mkdir(parents=True)
        for number in range(per_topic):
            (folder / topic / f"{number:02}.txt").write_text(sentences(topic, number), encoding="utf-8")
    return folder
