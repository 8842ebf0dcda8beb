"""A trained model as a folder of two files: `model.safetensors` and `model.json`. No pickle."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from etude.errors import ConfigError, LoadError
from etude.training import checkpoint
from etude.training.durable import write_tensors, write_text
from etude.training.predict import probabilities_of
from etude.types import HasConfig, Json

if TYPE_CHECKING:
    from etude.training.learner import Learner

WEIGHTS: Final = "model.safetensors"
DESCRIPTION: Final = "model.json"
_FORMAT: Final = 2
_KEYS: Final = {"model", "model_class", "read", "preprocess", "vocab", "channels", "probabilities"}


@dataclass(frozen=True)
class SavedModel:
    """What a folder held."""

    path: Path
    description: dict[str, Any]
    weights: dict[str, Tensor]


def save(learner: Learner, path: str | os.PathLike[str]) -> None:
    """Write the learner's model, labels and preprocessing; each file appears whole or not at all.

    Raises:
        ConfigError: the data's `preprocess` or `read` cannot say how it was built.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a new folder to save to")
    for name, part in (("preprocess", learner.data.preprocess), ("read", learner.data.read)):
        if part is not None and config_of(part) is None:
            raise ConfigError(
                f"the data's {name} ({type(part).__name__}) has no config(), so it could not be built again"
            )
    folder.mkdir(parents=True, exist_ok=True)
    with learner.averaged():
        save_weights(learner.model, folder / WEIGHTS)
    write_json(folder / DESCRIPTION, _description(learner))


def describe(learner: Learner) -> dict[str, Json] | None:
    """What `model.json` says of a learner's model; None when its data's parts cannot say how they were built."""
    parts = (learner.data.preprocess, learner.data.read)
    if any(part is not None and config_of(part) is None for part in parts):
        return None
    return _description(learner)


def _description(learner: Learner) -> dict[str, Json]:
    return {
        "format": _FORMAT,
        "model": config_of(learner.model),
        "model_class": type(learner.model).__name__,
        "read": config_of(learner.data.read),
        "preprocess": config_of(learner.data.preprocess),
        "vocab": list(learner.data.vocab) if learner.data.vocab is not None else None,
        "channels": learner.data.channels,
        "probabilities": probabilities_of(learner.loss_fn),
        "metrics": list(learner.metrics),
        "epochs": learner.progress.epoch,
    }


def config_of(module: object) -> dict[str, Json] | None:
    """The arguments that build a module again, if it knows them."""
    return module.config() if isinstance(module, HasConfig) else None


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a state dict as safetensors, replacing the file in one step."""
    temporary = path.with_name(path.name + ".part")
    write_tensors({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}, temporary)
    temporary.replace(path)


def write_json(path: Path, value: Json) -> None:
    """Write JSON, replacing the file in one step."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
        # the name of a file may hold bytes that are no text
        text = json.dumps(value, indent=2)
    temporary = path.with_name(path.name + ".part")
    write_text(text + "\n", temporary)
    temporary.replace(path)


def read(path: str | os.PathLike[str]) -> SavedModel:
    """Read what `save` wrote. Nothing in the files is executed, and no name in them is imported.

    Raises:
        LoadError: a file is missing, damaged, or of a newer format.
    """
    folder = Path(path)
    if (folder / checkpoint.MANIFEST).exists() or checkpoint.position_of(folder) is not None:
        checkpoint.verify(folder)
    for name in (WEIGHTS, DESCRIPTION):
        if not (folder / name).is_file() and (kept := checkpoint.checkpoints(folder / checkpoint.FOLDER)):
            raise LoadError(
                f"{folder} was stopped before its end; its newest checkpoint is {kept[0]}, and etude resume {folder} "
                "goes on with it"
            )
        if not (folder / name).is_file():
            raise LoadError(f"{folder} holds no {name}; expected a folder written by learner.save or by a run")
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise LoadError(f"{folder} is damaged: {error}") from error
    if not isinstance(description, dict) or description.get("format") != _FORMAT or not set(description) >= _KEYS:
        raise LoadError(
            f"{folder / DESCRIPTION} is not a whole description of format {_FORMAT}; another version of etude may have "
            "written it"
        )
    return SavedModel(folder, description, weights)


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Put weights into a model that has exactly these names and shapes.

    Raises:
        LoadError: naming what is missing, unexpected, or of another shape.
    """
    own = model.state_dict()
    missing, unexpected = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    reshaped = [
        f"{name}: {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in sorted(set(own) & set(weights))
        if own[name].shape != weights[name].shape
    ]
    if missing or unexpected or reshaped:
        raise LoadError(
            f"the weights of {source} do not fit {type(model).__name__}: missing {missing[:5]}, "
            f"unexpected {unexpected[:5]}, other shapes {reshaped[:5]}"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])
