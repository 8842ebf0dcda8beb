"""The notes' experiment on transfer: a body trained on Imagewoof, a new head for Pets, and what freezing does to it.

Source: SPEC 9.4, T6-T10.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

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
from etude.recipes.pictures import Groups
from etude.recipes.several import Several, run_all
from etude.recipes.training import Training
from etude.runs.statistics import Paired, number, spread
from etude.training.tuning import TuningPhase

if TYPE_CHECKING:
    from etude.types import Json

BASE: Final = "all trainable"
"""What the others are compared with."""
SCRATCH: Final = "from scratch"
_LEVEL: Final = 0.95
_OF_NETWORK: Final = ("stem_stride", "blur_pool", "activation")
"""Options that body and training from scratch must share."""


@dataclass(frozen=True, kw_only=True)
class PetsStudyOptions(TrainOptions):
    """How each row trains, as in the notes."""

    epochs: int = 5
    """Of the training with everything trainable."""
    freeze_epochs: int = 3
    """Of the training with the body frozen, before it."""
    lr: float = 3e-3
    """Peak learning rate with everything trainable; the frozen phase takes 10/3 of it, as in the notes."""
    pct_start: float = 0.5
    seeds: int = 3
    precision: Precision = "auto"


class Row(NamedTuple):
    """One row of the table."""

    phases: tuple[TuningPhase, ...]
    groups: Groups = "body and head"
    scratch: bool = False


def rows_of(train: PetsStudyOptions) -> dict[str, Row]:
    """The rows of SPEC 9.4, and one more: a body whose norms stand still altogether."""
    lr, pct, head_lr = train.lr, train.pct_start, train.lr * 10 / 3
    whole = TuningPhase(lr=lr, pct_start=pct)
    again = replace(whole, reset_optimizer=True)

    def frozen(norm: Any) -> tuple[TuningPhase, ...]:
        return TuningPhase(epochs=train.freeze_epochs, lr=head_lr, trained=1, norm=norm, pct_start=pct), again

    # the notes' rates: nothing and 3e-2, then 1e-3 and 1e-2, where all trainable is 3e-3
    still = TuningPhase(epochs=train.freeze_epochs, lr=(0.0, 10 * lr), pct_start=pct)
    apart = TuningPhase(lr=(lr / 3, head_lr), pct_start=0.3)
    return {
        SCRATCH: Row((whole,), scratch=True),
        BASE: Row((whole,)),
        "norms affine, then all": Row(frozen("affine")),
        "norms frozen, then all": Row(frozen("frozen")),
        "norms train, then all": Row(frozen("train")),
        "groups at two rates": Row((still, apart), "norms with the head"),
    }


def pets_study(
    data: DataOptions,
    source: str,
    model: ModelOptions = ModelOptions(),  # noqa: B008  # frozen
    train: PetsStudyOptions = PetsStudyOptions(),
    run: RunOptions = RunOptions(),  # noqa: B008
) -> dict[str, Json]:
    """Train every row of the notes' table for several seeds, and say which differences are more than chance.

    Args:
        data: which pictures; Pets, unless another set is named.
        source: the body: the folder of a run, or a `.safetensors` file for `model.arch`.
        model: options of a body that comes from a file.
        train: how to train.
        run: where results go.

    Returns:
        `{"run", "rows": [{"variant", "accuracies", "mean", "sd", "frozen", ...}], "pairs": [...], "smallest_p"}`
    """
    from etude.errors import ConfigError
    from etude.recipes.finetune import body_of

    refuse_changed(data, ("target", "several"), "the study compares how many of one class each are right")
    if train.freeze_epochs < 1:
        raise ConfigError(f"--freeze-epochs must be at least 1 in the study, got {train.freeze_epochs}")
    refuse_changed(train, ("progressive",), "each phase would begin with small pictures again")
    body = body_of(source, model)
    network = network_of(body)
    plain = TrainOptions(**{name: getattr(train, name) for name in TrainOptions.__dataclass_fields__})
    check(data, plain)
    parts, titles = {}, {}
    for seed in range(train.seed, train.seed + train.seeds):
        for title, row in rows_of(train).items():
            part = f"{title.replace(',', '').replace(' ', '-')}-seed-{seed}"
            titles[part] = title
            parts[part] = Training(
                name=title.replace(",", "").replace(" ", "-"),
                data=data,
                model=network if row.scratch else body,
                train=replace(plain, seed=seed, seeds=1),
                phases=row.phases,
                groups=row.groups,
            )
    for training in parts.values():
        training.check()
    return run_all(Several("pets-study", parts, "transfer", variants=titles), "pets-study", run)


def network_of(body: ModelOptions) -> ModelOptions:
    """The same network without its weights.

    Raises:
        ConfigError: it is one of timm's, which is never made without them.
    """
    from etude.errors import ConfigError
    from etude.training import saving
    from etude.vision.cnn import LESSON_WIDTHS

    if body.arch.startswith("timm:"):
        raise ConfigError(f"the study trains {body.arch} from scratch too, which is not offered; take a run of etude")
    if body.pretrained is not None:
        return replace(body, pretrained=None)
    config = saving.read(body.arch).description["model"]
    asked = {name: value for name in _OF_NETWORK if (value := getattr(body, name)) != getattr(ModelOptions(), name)}
    known = {"arch", "num_classes", "channels", "concat_pool", *_OF_NETWORK}
    if config.get("arch") == "lesson_cnn" and tuple(config["widths"]) == LESSON_WIDTHS:
        known.add("widths")
    if other := sorted(set(config) - known):
        raise ConfigError(f"the body of {body.arch} has {other} of its own, which a training from scratch cannot have")
    return ModelOptions(arch=config["arch"], **{name: config[name] for name in _OF_NETWORK if name in config} | asked)


def conclude(
    several: Several, folder: Path, results: Mapping[str, dict[str, Json]], say: Callable[[str], None]
) -> dict[str, Json]:
    """The table, the picture and the verdicts from the runs of the study."""
    from etude.recipes.pets_picture import draw
    from etude.training.saving import write_json

    assert several.variants is not None
    curves: dict[str, list[list[float]]] = {}
    seconds: dict[str, list[float]] = {}
    frozen: dict[str, int] = {}
    for part, result in results.items():
        title, training = several.variants[part], several.parts[part]
        curves.setdefault(title, []).append(_curve(folder / part))
        seconds.setdefault(title, []).append(number(result["train_seconds"]))
        frozen[title] = sum(phase.epochs or 0 for phase in training.all_phases()[:-1])
    finals = {title: [curve[-1] for curve in of] for title, of in curves.items()}
    rows = [_row(title, of, frozen[title], seconds[title], finals[BASE]) for title, of in curves.items()]
    pairs = [_pair(one, other, finals) for one, other in combinations(finals, 2)]
    draw(curves, frozen, folder / "study.png")
    count = len(finals[BASE])
    summary: dict[str, Json] = {
        "run": str(folder),
        "precision": next(iter(results.values()))["precision"],
        "seeds": count,
        "smallest_p": 2.0 ** (1 - count),
        "rows": list(rows),
        "pairs": list(pairs),
    }
    write_json(folder / "result.json", summary)
    say("\n" + "\n".join([*table(rows), "", *verdicts(pairs, count)]))
    say(f"\nlook at {folder / 'study.png'}; each run has a folder in {folder}")
    return summary


def _curve(folder: Path) -> list[float]:
    """The validation accuracy of each epoch of a run."""
    from etude.runs.files import read_lines

    lines = [line for line in read_lines(folder / "history.jsonl") if isinstance(line, dict)]
    return [number(line.get("valid_accuracy")) for line in lines if line.get("kind") == "epoch"]


def _row(
    title: str, curves: Sequence[Sequence[float]], frozen: int, seconds: Sequence[float], base: Sequence[float]
) -> dict[str, Json]:
    finals = [curve[-1] for curve in curves]
    paired = _paired(base, finals)
    return {
        "variant": title,
        "accuracies": finals,
        "mean": sum(finals) / len(finals),
        "spread": spread(finals),
        "frozen_epochs": frozen,
        "frozen_accuracies": [curve[frozen - 1] for curve in curves] if frozen else None,
        "epochs": len(curves[0]),
        "seconds": sum(seconds) / len(seconds),
        "difference": paired.mean if title != BASE else None,
        "difference_half_interval": paired.half if title != BASE and len(base) > 1 else None,
    }


def _paired(one: Sequence[float], other: Sequence[float], level: float = _LEVEL) -> Paired:
    return Paired(tuple(second - first for first, second in zip(one, other, strict=True)), level)


def _pair(one: str, other: str, finals: Mapping[str, Sequence[float]]) -> dict[str, Json]:
    """Whether two rows differ by more than chance, allowing for how many pairs are looked at."""
    count = len(finals) * (len(finals) - 1) // 2
    paired = _paired(finals[one], finals[other], 1 - (1 - _LEVEL) / count)
    known = len(finals[one]) > 1
    return {
        "first": one,
        "second": other,
        "difference": paired.mean,
        "t_p": paired.t_p if known else None,
        "sign_flip_p": paired.p,
        "real": known and paired.excludes_zero,
    }


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows as aligned text."""
    cells = [("row", "frozen first", "accuracy", f"difference to {BASE} (95 % interval)", "epochs", "seconds")]
    for row in rows:
        half = row["difference_half_interval"]
        interval = f" ± {100 * half:.1f}" if half is not None else ""
        difference = "" if row["difference"] is None else f"{100 * row['difference']:+.1f} points{interval}"
        first = "" if row["frozen_accuracies"] is None else spread(row["frozen_accuracies"])
        cells.append((row["variant"], first, row["spread"], difference, str(row["epochs"]), f"{row['seconds']:.0f}"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells]


def verdicts(pairs: Sequence[dict[str, Any]], count: int) -> list[str]:
    """Which of all pairs of rows can be told apart, and which cannot."""
    if count < 2:
        return ["one seed tells nothing about which differences are more than chance; add --seeds 3 or more"]
    real = [_words(pair) for pair in pairs if pair["real"]]
    rest = [f"{pair['first']} / {pair['second']}" for pair in pairs if not pair["real"]]
    return [
        f"more than chance (paired t over {count} seeds, {_LEVEL:.0%} for all {len(pairs)} pairs together):",
        *(f"  {line}" for line in real or ["none"]),
        "cannot be told apart with so many seeds:",
        *(f"  {line}" for line in rest or ["none"]),
        f"without assuming a normal distribution, {count} seeds can give no p below {2.0 ** (1 - count):.3g} "
        "(sign flips), whatever the results",
    ]


def _words(pair: dict[str, Any]) -> str:
    first, second, difference = pair["first"], pair["second"], pair["difference"]
    low, high = (first, second) if difference > 0 else (second, first)
    return f"{high} is {abs(100 * difference):.1f} points above {low} (p = {pair['t_p']:.2g})"
