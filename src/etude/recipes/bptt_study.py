"""Few long windows or many short ones: the same language model, with batch size times window held constant.

Every step sees as many tokens; what differs is how far a gradient reaches back, and how many streams of text a step
takes it from. All are measured on one stream, `stream_to_measure`. The notes: "I don't know; great experiment".

Source: SPEC Q5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from etude.recipes.options import Precision as Precision
from etude.recipes.options import RunOptions, check
from etude.recipes.several import Several, run_all
from etude.recipes.studies import compare
from etude.recipes.text_options import LanguageModelTrainOptions, TextModelOptions, TextOptions
from etude.recipes.text_training import TextTraining
from etude.runs.statistics import mean, number
from etude.runs.text import columns

if TYPE_CHECKING:
    from etude.types import Json

_MOST_HALVINGS: Final = 10
"""A window of one token against one of a million is no question any more."""


@dataclass(frozen=True, kw_only=True)
class BpttStudyOptions(LanguageModelTrainOptions):
    """How each language model of the study trains."""

    epochs: int = 1
    bptt: int = 72
    """Tokens of each that are read at once: how far a gradient reaches back."""
    seeds: int = 3
    halvings: int = 2
    """So often --bptt is halved, with twice as large a batch each time, and so often doubled."""


def bptt_study(
    data: TextOptions,
    model: TextModelOptions = TextModelOptions(),  # noqa: B008  # frozen
    train: BpttStudyOptions = BpttStudyOptions(),
    run: RunOptions = RunOptions(),  # noqa: B008
) -> dict[str, Json]:
    """Train a language model with longer and longer windows and smaller and smaller batches, for several seeds.

    Args:
        data: which texts.
        model: how large it is.
        train: how to train; what its batch size and window are, the study begins from.
        run: where results go.

    Returns:
        `{"run", "rows": [{"variant", "losses", "perplexity", "difference", "seconds", ...}]}`; differences are of the
        loss per token, to the batch size and window that were asked for.

    Raises:
        ConfigError: one of the two cannot be halved so often, or a flag has a value that no training takes.
    """
    check(train)
    plain = LanguageModelTrainOptions(
        **{one.name: getattr(train, one.name) for one in fields(LanguageModelTrainOptions)}
    )
    parts, titles = {}, {}
    for seed in range(train.seed, train.seed + train.seeds):
        for batch_size, bptt in windows(train):
            part = f"{batch_size}x{bptt}-seed-{seed}"
            titles[part] = f"batch {batch_size}, window {bptt}"
            parts[part] = TextTraining(
                name="bptt-study",
                kind="language model",
                data=data,
                model=model,
                train=replace(plain, batch_size=batch_size, bptt=bptt, seed=seed, seeds=1),
            )
    for training in parts.values():
        training.check()
    return run_all(Several("bptt-study", parts, "bptt", variants=titles), "bptt-study", run)


def windows(train: BpttStudyOptions) -> list[tuple[int, int]]:
    """Batch sizes and windows of one product; first what was asked for, which the others are compared with."""
    from etude.errors import ConfigError

    if not 1 <= train.halvings <= _MOST_HALVINGS:
        raise ConfigError(f"--halvings must be from 1 to {_MOST_HALVINGS}, got {train.halvings}")
    factor = 2**train.halvings
    for flag, value in (("--batch-size", train.batch_size), ("--bptt", train.bptt)):
        if value % factor:
            raise ConfigError(
                f"{flag} {value} cannot be halved {train.halvings} times; take a multiple of {factor}, or fewer "
                "--halvings"
            )
    factors = [2**power for power in range(1, train.halvings + 1)]
    shorter = [(train.batch_size * factor, train.bptt // factor) for factor in factors]
    longer = [(train.batch_size // factor, train.bptt * factor) for factor in factors]
    return [(train.batch_size, train.bptt), *reversed(shorter), *longer]


def conclude(
    several: Several, folder: Path, results: Mapping[str, dict[str, Json]], say: Callable[[str], None]
) -> dict[str, Json]:
    """The study's table, picture and result from those of its runs."""
    from etude.training.saving import write_json

    assert several.variants is not None
    losses: dict[str, list[float]] = {}
    perplexities: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for part, result in results.items():
        title = several.variants[part]
        losses.setdefault(title, []).append(number(result["valid_loss"]))
        perplexities.setdefault(title, []).append(number(result["perplexity"]))
        seconds.setdefault(title, []).append(number(result["train_seconds"]))
    rows: list[dict[str, Json]] = []
    for row, title in zip(compare(losses), losses, strict=True):
        row["losses"] = row.pop("accuracies")
        rows.append(row | {"perplexity": mean(perplexities[title]), "seconds": mean(seconds[title])})
    draw(perplexities, folder / "study.png")
    summary: dict[str, Json] = {"run": str(folder), "rows": list(rows)}
    write_json(folder / "result.json", summary)
    say("\n" + "\n".join(table(rows)))
    say(f"\nlook at {folder / 'study.png'}; each run has a folder in {folder}")
    return summary


def table(rows: Sequence[Mapping[str, Json]]) -> list[str]:
    """The rows as aligned text."""
    lines = [("batch size and window", "perplexity", "loss, difference to the first (95 % interval)", "seconds")]
    for row in rows:
        half = row["difference_half_interval"]
        interval = f" ± {number(half):.4f}" if half is not None else ""
        difference = f"{number(row['difference']):+.4f}{interval}" if row["against"] else ""
        told = (f"{number(row['perplexity']):.2f}", difference, f"{number(row['seconds']):.0f}")
        lines.append((str(row["variant"]), *told))
    return columns(lines)


def draw(perplexities: Mapping[str, Sequence[float]], path: Path) -> None:
    """A dot for the perplexity of each seed, a line at their mean, from the shortest window to the longest."""
    from etude.plots import new_figure, save_figure

    figure, axis = new_figure(1, 1, width=8, height=3.6)
    ordered = sorted(perplexities.items(), key=lambda item: int(item[0].rpartition(" ")[2]))
    for i, (_, values) in enumerate(ordered):
        axis.plot([i] * len(values), list(values), "o", color="#4c72b0", alpha=0.6)
        axis.plot([i - 0.25, i + 0.25], [mean(values)] * 2, color="#dd8452", linewidth=3)
    axis.set_xticks(range(len(ordered)), [title.replace(", ", "\n") for title, _ in ordered])
    axis.set(ylabel="perplexity", title="a dot for each seed, a line at their mean")
    save_figure(figure, path)
