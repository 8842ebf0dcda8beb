"""Reviews per CPU second from text to numbers: rules, tokens, counts, vocabulary, numbers; beside fastai, in turns.

    python benchmarks/text.py aclImdb                                  ours alone, and 100,000 reviews with peak memory
    python benchmarks/text.py aclImdb --fastai .peers/bin/python       and fastai, with the interpreter that has it

The same 25,000 reviews of IMDB's training folder, in the same order, each variant in a process of its own on one core,
one after the other for several rounds; what counts is the median over the rounds of the ratio within a round. CPU
seconds are compared: other processes do not add to them. Reading the files is not counted. `warm` is the same corpus
again, in the same process, with what is known of chunks kept. The vocabulary holds up to 60,000 words that come three
times. fastai takes its own rules and spaCy, by `parallel_tokenize` without further processes, `make_vocab`, and a list
of numbers for each text.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MAX_VOCAB, MIN_FREQ = 60_000, 3


def read(folder: Path, count: int) -> list[str]:
    """The first texts of a fixed shuffle; the 25,000 of the training folder where that is enough."""
    files = sorted((folder / "train").glob("*/*.txt"))
    if count > len(files):
        files += sorted((folder / "test").glob("*/*.txt")) + sorted(folder.glob("unsup/*.txt"))
    random.Random(0).shuffle(files)
    return [file.read_text(encoding="utf-8") for file in files[:count]]


def ours(texts: list[str]) -> dict[str, float]:
    """Twice the same corpus: with nothing known, and with all chunks known."""
    from etude.text.numericalize import Numericalizer
    from etude.text.tokenizers import Words

    numericalizer = Numericalizer(Words())
    result: dict[str, float] = {}
    for name in ("cold", "warm"):
        cpu, wall = time.process_time(), time.perf_counter()
        numericalizer.clear()
        for text in texts:
            numericalizer.add(text)
        vocab = numericalizer.vocab(max_vocab=MAX_VOCAB, min_freq=MIN_FREQ)
        blocks = list(numericalizer.blocks(vocab))
        result[name] = time.process_time() - cpu
        result[f"{name}_wall"] = time.perf_counter() - wall
        if name == "cold":
            result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        result |= {"tokens": sum(len(values) for values, _ in blocks), "names": len(vocab)}
    return result


def fastai(texts: list[str]) -> dict[str, float]:
    """The library's own path, in this process."""
    from collections import Counter, defaultdict

    from fastai.text.core import parallel_tokenize
    from fastai.text.data import make_vocab

    cpu = time.process_time()
    tokens: list[Any] = [None] * len(texts)
    for i, one in parallel_tokenize(texts, n_workers=0):
        tokens[i] = one
    vocab = make_vocab(Counter(token for one in tokens for token in one), MIN_FREQ, MAX_VOCAB)
    numbers = defaultdict(int, {word: i for i, word in enumerate(vocab)})
    ids = [[numbers[token] for token in one] for one in tokens]
    return {"cold": time.process_time() - cpu, "tokens": sum(map(len, ids)), "names": len(vocab)}


def run(python: str, name: str, folder: Path, count: int) -> dict[str, float]:
    """One variant in a process of its own."""
    command = [python, __file__, str(folder), "--one", name, "--reviews", str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"{' '.join(command)} printed no JSON line:\n{done.stderr[-800:]}")
    result: dict[str, float] = json.loads(lines[-1])
    return result


def measure(folder: Path, count: int, rounds: int, peer: str | None) -> dict[str, Any]:
    """Every variant in every round, in turns."""
    own, other = [], []
    for i in range(rounds):
        own.append(run(sys.executable, "etude", folder, count))
        rates = f"{count / own[-1]['cold']:.0f} cold, {count / own[-1]['warm']:.0f} warm"
        if peer:
            other.append(run(peer, "fastai", folder, count))
            rates += f", fastai {count / other[-1]['cold']:.0f}"
        print(f"round {i + 1}: reviews per CPU second: {rates}", flush=True)
    result: dict[str, Any] = {"reviews": count, "rounds": rounds}
    for name in ("cold", "warm"):
        result[f"{name}_reviews_per_cpu_second"] = round(count / statistics.median(row[name] for row in own))
        if peer:
            ratios = sorted(theirs["cold"] / row[name] for theirs, row in zip(other, own, strict=True))
            shown = [round(ratio, 1) for ratio in (statistics.median(ratios), ratios[0], ratios[-1])]
            result[f"{name}_faster_than_fastai"] = shown
    if peer:
        result["fastai_reviews_per_cpu_second"] = round(count / statistics.median(row["cold"] for row in other))
    return result | {name: round(own[-1][name]) for name in ("tokens", "names", "peak_mb")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="IMDB's reviews, with train, test and unsup in it")
    parser.add_argument("--one", choices=("etude", "fastai"), help="measure this only, in this process")
    parser.add_argument("--reviews", type=int, default=25_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fastai", metavar="PYTHON", help="an interpreter with fastai")
    parser.add_argument("--all", type=int, default=100_000, help="how many reviews alone with peak memory; 0: skip")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    if given.one:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        texts = read(given.folder, given.reviews)
        print(json.dumps(ours(texts) if given.one == "etude" else fastai(texts)))
        return
    result = {"pairs": measure(given.folder, given.reviews, given.rounds, given.fastai)}
    if given.all:
        alone = run(sys.executable, "etude", given.folder, given.all)
        result["alone"] = {"reviews": given.all} | {name: round(value, 1) for name, value in alone.items()}
    result["machine"] = {"load": round(os.getloadavg()[0], 1), "python": sys.version.split()[0]}
    print(json.dumps(result, indent=1))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
