"""ULMFiT on IMDB at a size for two CPU cores: what a language model of 50,000 reviews gives 2,000 labeled ones.

    python benchmarks/imdb.py FOLDER

FOLDER is the unpacked set: train/{pos,neg}, test/{pos,neg}, unsup. For each seed a language model learns from other
reviews without labels; then classifiers learn from the same labeled reviews: one from the language model, the head
first, one from nothing in as many epochs, and one from nothing in the few epochs that suit it best. All are measured on
the same 5,000 reviews of test. Rates, dropouts and epochs were chosen with seeds 0 to 2, on 5,000 other
reviews of test for each seed; about a fifth of what a seed is measured on was among those of another one.
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
from itertools import product
from pathlib import Path
from typing import Any

import torch

from etude import DataLoaders, one_cycle, text
from etude.recipes.studies import compare, table
from etude.training.learner import Learner
from etude.training.transfer import run_phases
from etude.training.tuning import ulmfit_phases

SIZES = {"embed_dim": 128, "hidden_dim": 256, "num_layers": 2}
VOCAB, LM_TEXTS, LABELED, HELD_OUT = 8_000, 50_000, 2_000, 5_000
LM = {"epochs": 1, "lr": 1e-2, "batch_size": 20, "bptt": 70, "drop_mult": 0.1, "head": "bf16"}
CLASSIFIER = {"batch_size": 32, "max_length": 512}
HEAD_LR, ALL_LR, ALL_EPOCHS, DROP_MULT = 1e-2, 1e-2, 12, 0.8
"""From the language model: an epoch of the head alone, then everything at one rate. A tenth, which the notes have,
leaves so small a model as it was."""
SCRATCH_LR, SCRATCH_EPOCHS, SCRATCH_DROP_MULT = 3e-3, 4, 0.4
"""From nothing, the best that was found: twice the rate, more epochs and more dropout were worse."""
MOMENTUM = (0.8, 0.7)


def reviews(folder: Path, seed: int) -> dict[str, Any]:
    """Texts without labels, in another order for every seed; (text, label) to learn from and held out, other ones."""
    draw = random.Random(seed)

    def some(parts: tuple[str, ...], num: int, *, leave_out: int = 0) -> list[tuple[str, str]]:
        files = [path for part in parts for path in sorted((folder / part).glob("*.txt"))]
        left_out = set(draw.sample(files, leave_out))
        drawn = draw.sample([path for path in files if path not in left_out], num)
        return [(path.read_text(encoding="utf-8"), path.parent.name) for path in drawn]

    half = LABELED // 2
    return {
        "unlabeled": [one for one, _ in some(("unsup",), LM_TEXTS)],
        "train": some(("train/pos",), half) + some(("train/neg",), half),
        # settings were chosen with those that are left out
        "test": some(("test/pos", "test/neg"), HELD_OUT, leave_out=HELD_OUT),
    }


def language_model(texts: list[str], seed: int, folder: Path) -> dict[str, float]:
    """Train a language model of the unlabeled reviews and save it; its perplexity on a tenth of them, and seconds."""
    started = time.perf_counter()
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
    learner = text.language_model(data, drop_mult=LM["drop_mult"], head=LM["head"], progress=False, **SIZES)
    history = learner.fit(LM["epochs"], LM["lr"], schedule=partial(one_cycle, pct_start=0.3), momentum=MOMENTUM)
    learner.save(folder)
    return {"perplexity": math.exp(history.rows[-1]["valid_loss"]), "lm_seconds": time.perf_counter() - started}


def labeled(given: dict[str, Any], lm: Path, seed: int, num_labels: int) -> DataLoaders:
    """Some labeled reviews, as many of each kind, numbered by the language model's words."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "reviews.jsonl").open("w", encoding="utf-8") as file:
        half, kind = num_labels // 2, len(given["train"]) // 2
        given = {"train": [*given["train"][:half], *given["train"][kind : kind + half]], "test": given["test"]}
        for part in ("train", "test"):
            for review, label in given[part]:
                file.write(json.dumps({"text": review, "label": label, "is_valid": part == "test"}) + "\n")
        file.flush()
        return text.load(
            file.name,
            labels="label",
            vocab=lm,
            batch_size=CLASSIFIER["batch_size"],
            max_length=CLASSIFIER["max_length"],
            seed=seed,
            progress=False,
        )


def from_the_language_model(data: DataLoaders, lm: Path) -> Learner:
    """The stages of ULMFiT that need labels."""
    learner = text.classifier(data, encoder=lm, drop_mult=DROP_MULT, progress=False)
    head, *_, everything = ulmfit_phases(SIZES["num_layers"] + 2, HEAD_LR)
    run_phases(learner, [head, replace(everything, lr=ALL_LR, epochs=ALL_EPOCHS)])
    return learner


def from_nothing(data: DataLoaders, epochs: int, drop_mult: float) -> Learner:
    """The same network in one cycle."""
    learner = text.classifier(data, drop_mult=drop_mult, progress=False, **SIZES)
    learner.fit(epochs, SCRATCH_LR, schedule=partial(one_cycle, pct_start=0.3), momentum=MOMENTUM)
    return learner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--labels", type=int, nargs="+", default=[LABELED], help=f"how many, {LABELED} at most")
    parser.add_argument("--keep", type=Path, help="where the language models are kept, and taken from the next time")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    keep = arguments.keep or Path(tempfile.mkdtemp())
    keep.mkdir(parents=True, exist_ok=True)
    results: dict[int, dict[str, list[float]]] = {}
    for seed, num_labels in product(arguments.seeds, arguments.labels):
        given, lm, told = reviews(arguments.folder, seed), keep / f"lm-{seed}", keep / f"lm-{seed}.json"
        if not told.exists():
            told.write_text(json.dumps(language_model(given["unlabeled"], seed, lm)))
        data = labeled(given, lm, seed, num_labels)
        to_learn = replace(data, valid=None)
        ways = {
            "from nothing": partial(from_nothing, to_learn, SCRATCH_EPOCHS, SCRATCH_DROP_MULT),
            "from the language model": partial(from_the_language_model, to_learn, lm),
            "from nothing, as many epochs": partial(from_nothing, to_learn, 1 + ALL_EPOCHS, DROP_MULT),
        }
        for name, train in ways.items():
            started = time.perf_counter()
            torch.manual_seed(seed)
            accuracy = train().evaluate(data.valid)["accuracy"]
            line = {"seed": seed, "labels": num_labels, "what": name, "accuracy": accuracy}
            line |= {"seconds": time.perf_counter() - started, **json.loads(told.read_text())}
            results.setdefault(num_labels, {}).setdefault(name, []).append(accuracy)
            print(json.dumps(line), flush=True)
            if arguments.out:
                with arguments.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    for num_labels, found in results.items():
        if len(arguments.seeds) > 1:
            print(f"\n{num_labels} labels\n{table(compare(found))}")


if __name__ == "__main__":
    main()
