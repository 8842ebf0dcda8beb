"""Run folders of small text models, as their commands would have left them, and the texts that they were trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import etude
from etude import text
from etude.text.data import load
from run_folders import make_run
from tiny_texts import SMALL, WEAK, reviews

HELD_OUT = 0.25


def save_reviews(folder: Path, num: int = 120, seed: int = 1) -> Path:
    """Files of reviews, FOLDER/CLASS/*.txt."""
    for i, (review, label) in enumerate(zip(*reviews(num, seed), strict=True)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{i:03}.txt").write_text(review, encoding="utf-8")
    return folder


def classifier(data: Path, epochs: int = 6, **settings: Any) -> etude.Learner:
    """A classifier that has learned them."""
    loaders = load(data, labels="parent", valid=HELD_OUT, batch_size=8, min_freq=1, progress=False, **settings)
    learner = text.classifier(loaders, dropouts=WEAK, **{**SMALL, "num_layers": 1})
    learner.fit(epochs, lr=2e-2)
    return learner


def language_model(data: Path) -> etude.Learner:
    """A language model that has learned a little of them."""
    loaders = load(data, valid=HELD_OUT, batch_size=8, bptt=10, min_freq=1, progress=False)
    learner = text.language_model(loaders, dropouts=WEAK, **{**SMALL, "num_layers": 1})
    learner.fit(1, lr=3e-2)
    return learner


def save_run(learner: etude.Learner, folder: Path, data: Path, kind: str, **options: Any) -> Path:
    """Its run, with a record of where the texts were."""
    options = {"data": str(data), "valid_pct": HELD_OUT, "split_seed": 42, "batch_size": 8, "bptt": 10, **options}
    make_run(folder, config={"training": {"name": "text", "kind": kind}, "options": options}, data={"description": ""})
    learner.save(folder)
    return folder
