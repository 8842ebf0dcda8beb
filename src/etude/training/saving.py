"""A trained model as a folder of two files: `model.safetensors` and `model.json`. No pickle."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor, nn

from etude.errors import ConfigError, LoadError
from etude.training import checkpoint
from etude.training.durable import write_tensors, write_text
from etude.training.guarded import read_json
from etude.training.predict import probabilities_of
from etude.training.tensor_files import read_tensors
from etude.types import HasConfig, Json

if TYPE_CHECKING:
    from etude.training.learner import Learner

WEIGHTS: Final = "model.safetensors"
DESCRIPTION: Final = "model.json"
_FORMAT: Final = 2
_DIGEST: Final = "weights_sha256"
"""In the description, unless an older version wrote it."""
_RESULT: Final = "result.json"
_FEW: Final = 5
"""In the folder of a run that has ended."""
_NO: Final = type(None)
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "model": (dict, _NO),
    "model_class": (str,),
    "read": (dict, _NO),
    "preprocess": (dict, _NO),
    "vocab": (list, _NO),
    "channels": (int,),
    "probabilities": (str, _NO),
}
"""What every description has."""


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
        digest = save_weights(learner.model, folder / WEIGHTS)
    write_json(folder / DESCRIPTION, {**_description(learner), _DIGEST: digest})


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
        "numbers": None if learner.data.numbers is None else learner.data.numbers.config(),
        "metrics": list(learner.metrics),
        "epochs": learner.progress.epoch,
    }


def config_of(module: object) -> dict[str, Json] | None:
    """The arguments that build a module again, if it knows them."""
    return module.config() if isinstance(module, HasConfig) else None


def save_weights(model: nn.Module, path: Path) -> str:
    """Write a state dict as safetensors, replacing the file in one step; returns its SHA-256."""
    temporary = path.with_name(path.name + ".part")
    digest = write_tensors({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}, temporary)
    temporary.replace(path)
    return digest


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
        LoadError: a file is missing, damaged, something else than a plain file, or of another format.
    """
    folder = Path(path)
    if (folder / checkpoint.MANIFEST).exists() or checkpoint.position_of(folder) is not None:
        checkpoint.verify(folder)
    for name in (WEIGHTS, DESCRIPTION):
        if not os.path.lexists(folder / name):
            raise LoadError(_why_missing(folder, name) if folder.exists() else f"{folder} does not exist")
    description = read_description(folder / DESCRIPTION)
    weights = read_tensors(folder / WEIGHTS, folder)
    if (digest := description.get(_DIGEST)) is not None:
        with (folder / WEIGHTS).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise LoadError(f"{folder / WEIGHTS} is damaged: it is not what was written (SHA-256)")
    return SavedModel(folder, description, weights)


def _why_missing(folder: Path, name: str) -> str:
    """What is said of a folder without a file that a saved model has."""
    if folder.is_file():
        return f"{folder} is a file; name the folder that it lies in: {folder.absolute().parent}"
    kept = checkpoint.checkpoints(folder / checkpoint.FOLDER)
    if kept and (folder / _RESULT).exists():
        return (
            f"{folder / name} is missing, though its run has ended: it was lost or moved. The newest checkpoint holds "
            f"the model of that moment: {kept[0]}"
        )
    if kept:
        return (
            f"{folder} was stopped before its end; its newest checkpoint is {kept[0]}, and etude resume {folder} "
            "goes on with it"
        )
    if (folder / ".metadata").exists():
        return f"{folder} is a folder of torch.distributed.checkpoint, whose files can hold code; it is not opened"
    if (folder / "bundle.json").exists():
        return f"{folder} is a bundle, which the reader in it reads; name the run that it was made from"
    if held := _saved_in(folder):
        named = ", ".join(str(one) for one in held[:_FEW]) + (", ..." if len(held) > _FEW else "")
        return f"{folder} holds {'several runs; name one' if len(held) > 1 else 'a run; name it'}: {named}"
    return f"{folder} holds no {name}; expected a folder written by learner.save or by a run"


def _saved_in(folder: Path) -> list[Path]:
    """The folders of models directly in a folder, such as the runs of several seeds."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if (path / DESCRIPTION).is_file() and (path / WEIGHTS).is_file())


def read_description(path: Path) -> dict[str, Any]:
    """What `model.json` says, every part of the kind that `save` writes.

    Raises:
        LoadError: naming the file, and what is wrong with it.
    """
    description = read_json(path, path.parent)
    if not isinstance(description, dict) or description.get("format") != _FORMAT or not set(description) >= set(_KINDS):
        raise LoadError(
            f"{path} is not a whole description of format {_FORMAT}; another version of etude may have written it"
        )
    for name, kinds in _KINDS.items():
        if type(description[name]) not in kinds:
            raise LoadError(f"{path} is damaged: {name} is a {type(description[name]).__name__}")
    if not all(type(label) is str for label in description["vocab"] or ()):
        raise LoadError(f"{path} is damaged: vocab holds what is no name")
    return description


def digest_of_weights(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a `.safetensors` file, or of the weights in a folder."""
    file = Path(path) / WEIGHTS if Path(path).is_dir() else Path(path)
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The weights of a `.safetensors` file, or of what `read` takes.

    Raises:
        LoadError: there is no such file, or it is no safetensors file.
    """
    file = Path(path)
    if not file.is_file():
        return read(path).weights
    if file.suffix != ".safetensors":
        raise LoadError(
            f"{file} is not a .safetensors file. Files of torch.save can hold code; write their weights anew where you "
            "trust them: safetensors.torch.save_file(torch.load(path, weights_only=True), 'weights.safetensors')"
        )
    return read_tensors(file)
