"""ULMFiT on IMDB at a size for two CPU cores: what a language model of 10,000 reviews gives 2,000 labeled ones.

    python benchmarks/imdb.py FOLDER

FOLDER is the unpacked set: train/{pos,neg}, test/{pos,neg}, unsup. For each seed a language model learns from other
reviews without labels, then two classifiers learn from the same labeled reviews in as many steps: one from the
language model, the head first, and one from nothing. Both are measured on the same 2,000 reviews of test.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from etude import DataLoaders, one_cycle, text
from etude.recipes.studies import compare, table
from etude.training.learner import Learner
from etude.training.transfer import run_phases
from etude.training.tuning import ulmfit_phases

SIZES = {"embed_dim": 80, "hidden_dim": 256, "num_layers": 2}
VOCAB, LM_TEXTS, LABELED, HELD_OUT = 8_000, 10_000, 2_000, 2_000
LM = {"epochs": 1, "lr": 5e-3, "batch_size": 32, "bptt": 70, "drop_mult": 0.3}
HEAD = {"epochs": 3, "lr": 1e-2, "batch_size": 32, "drop_mult": 0.5, "max_length": 256}
ALL_LR = 3e-3
"""With everything trainable, and from nothing. The notes' rates, a tenth of it, leave so small a model as it was."""
MOMENTUM = (0.8, 0.7)


def reviews(folder: Path, seed: int) -> dict[str, Any]:
    """Texts without labels, and (text, label) to learn from and held out: other ones for every seed, but the latter."""
    draw = random.Random(seed)

    def some(parts: tuple[str, ...], num: int, draw: random.Random) -> list[tuple[str, str]]:
        files = [path for part in parts for path in sorted((folder / part).glob("*.txt"))]
        return [(path.read_text(encoding="utf-8"), path.parent.name) for path in draw.sample(files, num)]

    half = LABELED // 2
    return {
        "unlabeled": [one for one, _ in some(("unsup",), LM_TEXTS, draw)],
        "train": some(("train/pos",), half, draw) + some(("train/neg",), half, draw),
        "test": some(("test/pos", "test/neg"), HELD_OUT, random.Random(0)),
    }


def language_model(texts: list[str], seed: int) -> tuple[Learner, float]:
    """A language model of the unlabeled reviews, and its perplexity on a tenth of them."""
    data = text.load(
        texts=texts,
        valid=0.1,
        seed=seed,
        max_vocab=VOCAB,
        batch_size=LM["batch_size"],
        bptt=LM["bptt"],
        progress=False,
    )
    torch.manual_seed(seed)
    learner = text.language_model(data, drop_mult=LM["drop_mult"], progress=False, **SIZES)
    history = learner.fit(LM["epochs"], LM["lr"], momentum=MOMENTUM)
    return learner, math.exp(history.rows[-1]["valid_loss"])


def labeled(given: dict[str, Any], lm: Learner, seed: int) -> DataLoaders:
    """The labeled reviews, numbered by the language model's words."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "reviews.jsonl").open("w", encoding="utf-8") as file:
        for part in ("train", "test"):
            for review, label in given[part]:
                file.write(json.dumps({"text": review, "label": label, "is_valid": part == "test"}) + "\n")
        file.flush()
        return text.load(
            file.name,
            labels="label",
            vocab=lm.data.vocab,
            batch_size=HEAD["batch_size"],
            max_length=HEAD["max_length"],
            seed=seed,
            progress=False,
        )


def accuracy(data: DataLoaders, lm: Learner | None, seed: int, lr: float) -> float:
    """Of a classifier that begins from a language model, or from nothing: as many epochs, one cycle for each phase."""
    torch.manual_seed(seed)
    sizes = SIZES if lm is None else {}
    learner = text.classifier(
        replace(data, valid=None), encoder=lm, drop_mult=HEAD["drop_mult"], progress=False, **sizes
    )
    head, *_, everything = ulmfit_phases(SIZES["num_layers"] + 2, lr)
    phases = [head, replace(everything, lr=ALL_LR, epochs=HEAD["epochs"])]
    if lm is not None:
        run_phases(learner, phases)
    else:
        epochs = sum(phase.epochs or 0 for phase in phases)
        learner.fit(epochs, lr, schedule=partial(one_cycle, pct_start=0.3), momentum=MOMENTUM)
    return learner.evaluate(data.valid)["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results: dict[str, list[float]] = {}
    for seed in arguments.seeds:
        given = reviews(arguments.folder, seed)
        started = time.perf_counter()
        lm, perplexity = language_model(given["unlabeled"], seed)
        lm_seconds = time.perf_counter() - started
        data = labeled(given, lm, seed)
        found = {
            "from nothing": partial(accuracy, data, None, seed, ALL_LR),
            "from the language model": partial(accuracy, data, lm, seed, HEAD["lr"]),
        }
        for name, run in found.items():
            started = time.perf_counter()
            line = {"seed": seed, "what": name, "accuracy": run(), "seconds": time.perf_counter() - started}
            results.setdefault(name, []).append(line["accuracy"])
            line |= {"perplexity": perplexity, "lm_seconds": lm_seconds}
            print(json.dumps(line), flush=True)
            if arguments.out:
                with arguments.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    if len(arguments.seeds) > 1:
        print(table(compare(results)))


if __name__ == "__main__":
    main()
