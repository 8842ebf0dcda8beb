"""A training step of an AWD-LSTM language model on one core: ours beside fastai's, in turns in one process.

    PYTHONPATH=src PEER/bin/python benchmarks/lstm.py --json FILE      with fastai, in an environment that has it
    python benchmarks/lstm.py                                          ours alone, with and without weight dropout

Both train the same network (400/1152/3, 30,000 words, batch 8, 72 tokens, all five dropouts as fastai sets them, tied
weights, float32) on random tokens: encoder, cross entropy, backward, Adam, state carried along, no penalties.
fastai's takes `torch.optim.Adam`, ours the same one fused. A round is some steps of each in turns; what counts is the
median over rounds of the ratio within a round, in CPU seconds of the process, which other processes do not add to,
though they slow down its memory. THP_MEM_ALLOC_ENABLE=1 in the environment gives both sides huge pages.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from etude.text.awd_lstm import AWDLSTM
from etude.text.dropout import Dropouts
from etude.text.language_model import LanguageModel, LanguageModelLoss

WORDS, PAD = 30_000, 1
DROPOUTS = Dropouts(output=0.1, hidden=0.15, input=0.25, embed=0.02, weight=0.2)
Step = Callable[[Tensor, Tensor], Tensor]


def ours(batch_size: int, *, dropouts: Dropouts = DROPOUTS, head: Any = "fp32") -> Step:
    """A step of our model."""
    model = LanguageModel(AWDLSTM(WORDS, pad=PAD, dropouts=dropouts))
    model.carry(batch_size)
    loss_fn = LanguageModelLoss(ar=0, tar=0, head=head)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    starts = torch.zeros(batch_size, dtype=torch.bool)

    def step(tokens: Tensor, targets: Tensor) -> Tensor:
        loss = loss_fn(model(tokens, starts), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def fastai(batch_size: int) -> Step:
    """A step of fastai's model."""
    from fastai.text.all import AWD_LSTM, awd_lstm_lm_config, get_language_model

    model = get_language_model(AWD_LSTM, WORDS, config=dict(awd_lstm_lm_config), drop_mult=1.0)
    model.reset()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(tokens: Tensor, targets: Tensor) -> Tensor:
        loss = F.cross_entropy(model(tokens)[0].view(-1, WORDS), targets.view(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def measure(steps: dict[str, Step], batch_size: int, bptt: int, rounds: int, per_round: int) -> dict[str, Any]:
    """CPU and wall seconds of a median step of each, in every round."""
    text = torch.randint(2, WORDS, (batch_size, bptt + 1))
    tokens, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    found: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in steps}
    for i in range(-1, rounds):
        times: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in steps}
        for _ in range(per_round if i >= 0 else 1):
            for name, step in steps.items():
                cpu, wall = time.process_time(), time.perf_counter()
                step(tokens, targets)
                times[name]["cpu"].append(time.process_time() - cpu)
                times[name]["wall"].append(time.perf_counter() - wall)
        if i < 0:  # the first steps make what is made once
            continue
        for name in steps:
            for clock in ("cpu", "wall"):
                found[name][clock].append(statistics.median(times[name][clock]))
        print(f"round {i + 1}: " + ", ".join(f"{n} {found[n]['cpu'][-1] * 1e3:.0f} ms" for n in steps), flush=True)
    return found


def ratios(found: dict[str, Any], clock: str, over: str, under: str) -> list[float] | None:
    """Median, smallest and largest ratio within a round."""
    if over not in found or under not in found:
        return None
    pairs = zip(found[over][clock], found[under][clock], strict=True)
    each = sorted(above / below for above, below in pairs)
    return [round(value, 3) for value in (statistics.median(each), each[0], each[-1])]


def versions() -> dict[str, str]:
    """Of what was compared."""
    found = {"torch": str(torch.__version__)}
    with contextlib.suppress(PackageNotFoundError):
        found["fastai"] = version("fastai")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--bptt", type=int, default=72)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="of each in a round")
    parser.add_argument("--bf16-head", action="store_true", help="also ours with head='bf16'")
    parser.add_argument("--json", type=Path, help="add the figures to this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps = {"ours": ours(given.batch_size), "ours, no weight dropout": _without_weight_dropout(given.batch_size)}
    if given.bf16_head:
        steps["ours, bf16 head"] = ours(given.batch_size, head="bf16")
    known = versions()
    if "fastai" in known:
        steps["fastai"] = fastai(given.batch_size)
    found = measure(steps, given.batch_size, given.bptt, given.rounds, given.steps)
    result: dict[str, Any] = {
        "ms_per_step": {n: {c: round(statistics.median(found[n][c]) * 1e3) for c in ("cpu", "wall")} for n in found},
        "weight_dropout_on_over_off": ratios(found, "cpu", "ours", "ours, no weight dropout"),
    }
    for name in (name for name in found if name.startswith("ours")):
        for clock in ("cpu", "wall"):
            result[f"fastai over {name}, {clock}"] = ratios(found, clock, "fastai", name)
    result |= {**known, "capability": torch.backends.cpu.get_cpu_capability(), "load": os.getloadavg()[0]}
    huge = "huge pages" if os.environ.get("THP_MEM_ALLOC_ENABLE") == "1" else "plain"
    print(json.dumps({huge: result}, indent=1))
    if given.json:
        before = json.loads(given.json.read_text()) if given.json.exists() else {}
        given.json.write_text(json.dumps(before | {huge: result}, indent=1) + "\n")


def _without_weight_dropout(batch_size: int) -> Step:
    return ours(batch_size, dropouts=Dropouts(**{**vars(DROPOUTS), "weight": 0.0}))


if __name__ == "__main__":
    main()
