"""WikiText-2 with a small AWD-LSTM, beside another library on the same token ids: perplexity over seeds, and time.

    python benchmarks/wikitext.py FOLDER                              ours
    python benchmarks/wikitext.py FOLDER --peers 'COMMAND' fastai     and other libraries

FOLDER holds train.txt, valid.txt and test.txt of WikiText-2. Rules, tokenizer and vocabulary are ours; every library
gets the same ids, sizes, dropouts, penalties, schedule and number of steps, in one thread. COMMAND NAME --ids FOLDER
--seed S must print a JSON line with valid_perplexity, steps, train_seconds and cpu_seconds; its folder holds train.npy
and valid.npy, the ids of all articles one after the other, train_lens.npy and valid_lens.npy, and about.json.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from etude import DataLoaders, one_cycle, text
from etude.recipes.studies import compare
from etude.text.batching import StreamLoader

SIZES = {"embed_dim": 64, "hidden_dim": 128, "num_layers": 2}
TRAIN = {"batch_size": 32, "bptt": 70}
LR, EPOCHS, DROP_MULT, VOCAB = 5e-3, 1, 0.2, 8_000


def data_of(folder: Path, seed: int, articles: int | None) -> DataLoaders:
    """The articles, held out as the files say; the first ones of train.txt, if not all."""
    data = text.load(folder, max_vocab=VOCAB, seed=seed, progress=False, **TRAIN)
    if articles is not None:
        assert isinstance(data.train, StreamLoader)
        train = StreamLoader(data.train.store, data.train.rows[:articles], shuffle=True, seed=seed, **TRAIN)
        return replace(data, train=train)
    return data


def ours(data: DataLoaders, seed: int, head: str) -> dict[str, float]:
    """One training as a user writes it."""
    torch.manual_seed(seed)
    learner = text.language_model(data, drop_mult=DROP_MULT, head=head, progress=False, **SIZES)
    wall, cpu = time.perf_counter(), time.process_time()
    history = learner.fit(EPOCHS, LR, schedule=partial(one_cycle, pct_start=0.3), momentum=(0.8, 0.7))
    return {
        "valid_perplexity": math.exp(history.rows[-1]["valid_loss"]),
        "steps": learner.progress.step,
        "train_seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
    }


def save_ids(data: DataLoaders, folder: Path) -> None:
    """What other libraries are given."""
    for name, loader in (("train", data.train), ("valid", data.valid)):
        assert isinstance(loader, StreamLoader)
        texts = [loader.store[row].numpy() for row in loader.rows.tolist()]
        np.save(folder / f"{name}.npy", np.concatenate(texts))
        np.save(folder / f"{name}_lens.npy", np.array([len(one) for one in texts]))
    (folder / "about.json").write_text(json.dumps({"size": len(data.vocab or ())}))


def peer(command: str, name: str, ids: Path, seed: int) -> dict[str, float]:
    """The same training in another library."""
    sizes = {**SIZES, **TRAIN, "epochs": EPOCHS, "lr": LR, "drop_mult": DROP_MULT}
    flags = [word for key, value in sizes.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    words = [*shlex.split(command), name, "--ids", str(ids), "--seed", str(seed), *flags]
    done = subprocess.run(words, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"{shlex.join(words)} printed no JSON line:\n{done.stderr[-800:]}")
    result: dict[str, float] = json.loads(lines[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--articles", type=int, help="of train.txt, the first ones; all without it")
    parser.add_argument("--heads", nargs="+", default=["fp32"], help="number formats of our decoder: fp32 bf16")
    parser.add_argument("--peers", nargs="+", default=[], metavar=("COMMAND", "NAME"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, list[float]] = {}
    for seed in arguments.seeds:
        data = data_of(arguments.folder, seed, arguments.articles)
        with tempfile.TemporaryDirectory() as ids:
            save_ids(data, Path(ids))
            runs = {f"etude, head {head}": partial(ours, data, seed, head) for head in arguments.heads}
            runs |= {name: partial(peer, arguments.peers[0], name, Path(ids), seed) for name in arguments.peers[1:]}
            for name, run in runs.items():
                result = run()
                results.setdefault(name, []).append(result["valid_perplexity"])
                line = {"library": name, "seed": seed, **{key: round(value, 3) for key, value in result.items()}}
                print(json.dumps(line), flush=True)
                if arguments.out:
                    with arguments.out.open("a") as file:
                        file.write(json.dumps(line) + "\n")
    for row in compare(dict(reversed(results.items()))) if len(arguments.seeds) > 1 else ():
        apart = f", {row['difference']:+.2f} ± {row['difference_half_interval']:.2f} to {row['against']}"
        print(f"{row['variant']}: perplexity {row['mean']:.2f} ± {row['sd']:.2f}{apart if row['against'] else ''}")


if __name__ == "__main__":
    main()
