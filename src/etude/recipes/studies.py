"""Studies: the same training with one thing changed at a time, over paired seeds, as one table and one picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from etude.recipes.options import ClassWeights as ClassWeights
from etude.recipes.options import (
    DataOptions,
    ModelOptions,
    Precision,
    RunOptions,
    TrainOptions,
    check,
    refuse_changed,
)
from etude.recipes.options import NumberLoss as NumberLoss
from etude.recipes.several import Several, run_all
from etude.recipes.training import Training
from etude.runs.statistics import deviation, half_interval, mean, number, spread

if TYPE_CHECKING:
    from etude.types import Json

MIXUP_ALPHA = 0.4
SMOOTHING = 0.1
NOISE_SHARES = (0.0, 0.2, 0.5)


@dataclass(frozen=True, kw_only=True)
class StudyOptions(TrainOptions):
    """How each run of a study trains: as the lesson's one-epoch demonstrations."""

    epochs: int = 1
    seeds: int = 3
    pct_start: float = 0.5
    precision: Precision = "auto"


class Variant(NamedTuple):
    """One row of a study."""

    data: DataOptions
    train: TrainOptions


def techniques_study(
    data: DataOptions = DataOptions(data="imagenette2-160"),  # noqa: B008  # frozen
    model: ModelOptions = ModelOptions(arch="lesson_cnn"),  # noqa: B008
    train: StudyOptions = StudyOptions(),
    run: RunOptions = RunOptions(),  # noqa: B008
) -> dict[str, Json]:
    """One epoch each with nothing, with MixUp and with label smoothing, for several seeds.

    Args:
        data: which pictures; they are squashed to a square and not augmented, as in the lesson.
        model: the lesson's plain network unless said otherwise.
        train: how to train; its `mixup` and `label_smoothing` are what the study changes.
        run: where results go.

    Source: SPEC 9.1, M8, L1.
    """
    refuse_changed(train, ("mixup", "cutmix", "cutout", "label_smoothing"), "the study decides it")
    plain = replace(train, mixup=0.0, label_smoothing=0.0)
    variants = {
        "none": Variant(data, plain),
        f"MixUp {MIXUP_ALPHA}": Variant(data, replace(plain, mixup=MIXUP_ALPHA)),
        f"label smoothing {SMOOTHING}": Variant(data, replace(plain, label_smoothing=SMOOTHING)),
    }
    return _study("techniques-study", variants, model, run)


def noisy_label_study(
    data: DataOptions = DataOptions(data="imagenette2-160"),  # noqa: B008  # frozen
    model: ModelOptions = ModelOptions(arch="lesson_cnn"),  # noqa: B008
    train: StudyOptions = StudyOptions(),
    run: RunOptions = RunOptions(),  # noqa: B008
) -> dict[str, Json]:
    """Cross entropy against label smoothing with 0, 20 and 50 % of the training labels wrong; validation keeps its own.

    Args:
        data: which pictures; its `label_noise` is what the study changes.
        model: which model.
        train: how to train; its `label_smoothing` is what the study changes.
        run: where results go.

    Source: SPEC L2: "50 % permuted labels still train well".
    """
    refuse_changed(train, ("mixup", "cutmix", "cutout", "label_smoothing"), "the study decides it")
    refuse_changed(data, ("label_noise",), "the study decides it")
    variants = {
        f"{name}, {share:.0%} wrong": Variant(
            replace(data, label_noise=share), replace(train, mixup=0.0, label_smoothing=smoothing)
        )
        for share in NOISE_SHARES
        for name, smoothing in (("cross entropy", 0.0), (f"smoothing {SMOOTHING}", SMOOTHING))
    }
    # smoothing is compared with cross entropy on the same labels
    return _study("noisy-label-study", variants, model, run, group=2)


def _study(
    name: str, variants: Mapping[str, Variant], model: ModelOptions, run: RunOptions, group: int | None = None
) -> dict[str, Json]:
    """Every variant with every seed, seed by seed, so that a study that was stopped holds whole comparisons."""
    data, first = next(iter(variants.values()))
    refuse_changed(data, ("min_scale", "flip", "squash"), "a study sees whole pictures, squashed, without augmentation")
    check(data, first)
    parts, titles = {}, {}
    for seed in range(first.seed, first.seed + first.seeds):
        for title, variant in variants.items():
            part = f"{_slug(title)}-seed-{seed}"
            titles[part] = title
            parts[part] = Training(
                name=_slug(title),
                kind="whole pictures",
                data=variant.data,
                model=model,
                train=replace(variant.train, seed=seed, seeds=1),
            )
    next(iter(parts.values())).check()
    return run_all(Several(name, parts, "study", group, titles), name, run)


def conclude(
    several: Several, folder: Path, results: Mapping[str, dict[str, Json]], say: Callable[[str], None]
) -> dict[str, Json]:
    """The study's table, picture and result from those of its runs."""
    from etude.training.saving import write_json

    assert several.variants is not None
    accuracies: dict[str, list[float]] = {}
    for part, result in results.items():
        accuracies.setdefault(several.variants[part], []).append(number(result["valid_accuracy"]))
    rows = compare(accuracies, several.group)
    draw_study(several.title, accuracies, folder / "study.png")
    precision = next(iter(results.values()))["precision"]
    summary: dict[str, Json] = {"run": str(folder), "precision": precision, "rows": list(rows)}
    write_json(folder / "result.json", summary)
    say(f"\n{table(rows)}\n\nlook at {folder / 'study.png'}; each run has a folder in {folder}")
    return summary


def compare(accuracies: Mapping[str, Sequence[float]], group: int | None = None) -> list[dict[str, Json]]:
    """Mean and spread of each variant, and its difference to a base over paired seeds with a 95 % interval.

    Args:
        accuracies: of each variant, seed by seed.
        group: the base is the first of so many variants after each other; None is the first of all.
    """
    rows: list[dict[str, Json]] = []
    titles = list(accuracies)
    for i, (title, values) in enumerate(accuracies.items()):
        base = titles[i - i % group] if group else titles[0]
        differences = [value - other for value, other in zip(values, accuracies[base], strict=True)]
        half = half_interval(differences)
        row: dict[str, Json] = {
            "variant": title,
            "accuracies": list(values),
            "mean": mean(values),
            "sd": deviation(values) if len(values) > 1 else None,
            "against": base if base != title else None,
            "difference": mean(differences),
            "difference_half_interval": half if math.isfinite(half) else None,
        }
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Json]]) -> str:
    """The rows as aligned text."""
    bases = {row["against"] for row in rows} - {None}
    other = bases.pop() if len(bases) == 1 else "the row above"
    lines = [("variant", "accuracy", f"difference to {other} (95 % interval)")]
    for row in rows:
        values = row["accuracies"]
        assert isinstance(values, list)
        half = row["difference_half_interval"]
        interval = f" ± {100 * number(half):.2f}" if half is not None else ""
        difference = f"{100 * number(row['difference']):+.2f} points{interval}" if row["against"] else ""
        lines.append((str(row["variant"]), spread([number(value) for value in values]), difference))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def draw_study(name: str, accuracies: Mapping[str, Sequence[float]], path: Path) -> None:
    """One row per variant: a dot for each seed, and a line at their mean."""
    from etude.plots import new_figure, save_figure

    figure, axis = new_figure(1, 1, width=8, height=1.2 + 0.5 * len(accuracies))
    for i, values in enumerate(accuracies.values()):
        axis.plot([100 * value for value in values], [i] * len(values), "o", color="#4c72b0", alpha=0.6)
        axis.plot([100 * mean(values)] * 2, [i - 0.25, i + 0.25], color="#dd8452", linewidth=3)
        axis.annotate(f"{100 * mean(values):.1f}", (100 * mean(values), i - 0.32), ha="center", fontsize=8)
    axis.set_yticks(range(len(accuracies)), list(accuracies))
    # the first variant on top, with room for the number above its line
    axis.set_ylim(len(accuracies) - 0.5, -0.7)
    axis.set(xlabel="validation accuracy, %", title=f"{name}: a dot for each seed, a line at their mean")
    save_figure(figure, path)


def _slug(title: str) -> str:
    """A title as a folder's name."""
    return "-".join(title.replace("%", "").replace(",", "").lower().split())
