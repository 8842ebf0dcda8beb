"""Fine-tune a trained body on your own pictures: the recipe behind `etude finetune`.

Source: SPEC T3-T10.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from etude.recipes.options import ClassWeights as ClassWeights
from etude.recipes.options import (
    DataOptions,
    ModelOptions,
    Precision,
    RunOptions,
    TrainOptions,
    TuningOptions,
    refuse_changed,
)
from etude.recipes.options import NumberLoss as NumberLoss
from etude.recipes.several import over_seeds
from etude.recipes.training import Training

if TYPE_CHECKING:
    from etude.types import Json

_ARCH: Final = ModelOptions().arch
_SHOWN: Final = 3
"""Runs that are proposed."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(TrainOptions):
    """How to fine-tune."""

    epochs: int = 5
    """Passes over the training data with everything trainable, after those of --freeze-epochs."""
    lr: float = 1e-2
    """Peak learning rate of the head while it trains alone; half of it afterwards, a twentieth for the body."""
    precision: Precision = "auto"


def finetune(
    data: DataOptions,
    source: str | None,
    model: ModelOptions = ModelOptions(),  # noqa: B008  # frozen
    train: FinetuneOptions = FinetuneOptions(),
    tuning: TuningOptions = TuningOptions(),  # noqa: B008
    run: RunOptions = RunOptions(),  # noqa: B008
) -> dict[str, Json]:
    """Give a trained body a new head, train the head alone, then everything.

    Args:
        data: which pictures.
        source: the body: a run's folder, a `.safetensors` file of the weights of `model.arch`, or "timm:NAME".
        model: options of a body that comes from a file.
        train: how to train.
        tuning: what is frozen, and for how long.
        run: where results go.

    Returns:
        The run's result, as `etude.recipes.train.train` gives it.
    """
    return over_seeds(training(data, source, model, train, tuning), run)


def training(
    data: DataOptions, source: str | None, model: ModelOptions, train: TrainOptions, tuning: TuningOptions
) -> Training:
    """What the recipe trains.

    Raises:
        ConfigError: no body is named, or two are.
    """
    refuse_changed(train, ("progressive",), "each phase would begin with small pictures again")
    if not tuning.freeze_epochs and not tuning.gradual:
        refuse_changed(tuning, ("norm",), "with --freeze-epochs 0 nothing is frozen")
    return Training(
        name="finetune",
        data=data,
        model=body_of(source, model, data.data),
        train=train,
        tuning=tuning,
        groups="thirds" if tuning.gradual else "body and head",
    )


def body_of(source: str | None, model: ModelOptions, data: str | None = None) -> ModelOptions:
    """The model whose body comes from a source; without one, `ConfigError` says where one can be had."""
    from etude.errors import ConfigError

    if source is None:
        if model.pretrained is not None:
            return model
        raise ConfigError(_where_to_get_one(data))
    if model.pretrained is not None:
        raise ConfigError(f"two bodies are named, --from {source} and --pretrained {model.pretrained}; name one")
    if Path(source).suffix == ".safetensors" or Path(source).is_file():
        return replace(model, pretrained=source)
    if model.arch not in (_ARCH, source):
        if source.startswith("timm:"):
            raise ConfigError(f"--from {source} says which network it is; leave out --arch {model.arch}")
        return replace(model, pretrained=source)
    if not source.startswith("timm:") and not Path(source).exists():
        raise ConfigError(
            f"--from {source}: there is no such folder or file; expected the folder of a run, a .safetensors file, or "
            "timm:NAME"
        )
    return replace(model, arch=source)


def _where_to_get_one(data: str | None) -> str:
    """What there is to start from, and what each costs."""
    here = [f"  --from {folder}{told}" for folder, told in _own_runs(Path("runs"), data)]
    found = ["finished runs of yours:", *here, "or:"] if here else []
    lines = [
        "say which trained body to start from, with --from:",
        *found,
        "  --from RUN        a run of your own. A good first one: etude imagewoof --size 64 --epochs 40 --lr 3e-3",
        "                    (fetches 93 MB; about half an hour on two cores that have bf16)",
        "  --from timm:resnet18   trained on ImageNet (pip install 'etude[timm]'; fetches 45 MB once)",
        "  --from FILE.safetensors --arch xresnet18   weights that you have",
        "without a trained body: etude train",
    ]
    return "\n".join(lines)


def _own_runs(folder: Path, data: str | None) -> list[tuple[Path, str]]:
    """Finished runs on other pictures, those with the most pictures first, each with its accuracy in words."""
    found = []
    for path in folder.glob("*/result.json"):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            config = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
            accuracy, pictures = float(result["valid_accuracy"]), int(config["data"]["train"])
            same = data is not None and Path(config["options"]["data"]).resolve() == Path(data).resolve()
            of_pictures = config["training"]["kind"] in ("pictures", "whole pictures")
            if of_pictures and not same and (path.parent / "model.safetensors").exists():
                words = f"   ({config['training']['name']} on {pictures:,} pictures, {accuracy:.1%} right)"
                found.append((pictures, path.parent, words))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [(path, words) for _, path, words in sorted(found, reverse=True)[:_SHOWN]]
