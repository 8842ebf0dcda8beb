"""A model for some pictures: a new one by name, or the body of a trained one with a new head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from etude.data.loaders import DataLoaders
from etude.errors import ConfigError, LoadError
from etude.training import saving
from etude.training.optimizer import layer_groups
from etude.training.weights import load_weights
from etude.vision.models import ARCHITECTURES, TIMM, check_saved, create_model
from etude.vision.preprocess import ImagePreprocess

SMALL = 48
"""Below this many pixels the stem does not halve the picture."""


class Start(NamedTuple):
    """What a training begins from."""

    model: nn.Module
    mean: list[float] | None = None
    """By which the body's own pictures were normalized; None for a new model."""
    std: list[float] | None = None
    told: str = ""
    """Where its weights come from."""


def start_for(arch: str, data: DataLoaders, options: dict[str, Any], pretrained: str | None = None) -> Start:
    """A model for the data; its new weights depend on the data's seed alone, not on what was drawn before.

    Args:
        arch: an architecture's name, "timm:NAME", or the folder of a run or saved model, whose body is taken over.
        data: what it is to be trained on.
        options: of the architecture.
        pretrained: where the body of a named architecture comes from; see `vision.learner`.

    Raises:
        ConfigError: the architecture, or one of its options, is not known, or the channels differ.
        LoadError: the weights do not fit, or the file is damaged.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(data.seed or 0)
        if arch.startswith(TIMM):
            return _of_timm(arch, data, options, pretrained)
        if arch not in ARCHITECTURES and Path(arch).exists():
            if pretrained is not None:
                raise ConfigError(f"two bodies are named, {arch} and pretrained={pretrained!r}; name one")
            return _of_folder(arch, data, options)
        if pretrained is None:
            # an unknown name raises, with the known ones and the nearest of them
            return Start(create_model(arch, **_for_data(arch, data, options) if arch in ARCHITECTURES else {}))
        return _of_weights(arch, data, options, pretrained)


def normalized_as(data: DataLoaders, start: Start) -> DataLoaders:
    """The data, normalized by what the body's own pictures were: that is what its first layer knows. Says so."""
    own = data.preprocess
    known = start.mean is not None and start.std is not None and isinstance(own, ImagePreprocess)
    if start.told:
        print(start.told + ("; normalized as the body's own pictures were" if known else ""))
    if not known:
        return data
    assert isinstance(own, ImagePreprocess)
    assert start.mean is not None
    assert start.std is not None
    return replace(data, preprocess=ImagePreprocess(own.size, start.mean, start.std))


def _for_data(arch: str, data: DataLoaders, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a new model for the data."""
    if "stem_stride" not in options and (size := _size(data)) < SMALL:
        print(f"{arch} with stem_stride=1: pictures of {size} pixels are too small to halve at once")
        options = {**options, "stem_stride": 1}
    return {"num_classes": data.num_outputs, "channels": data.channels, **options}


def _of_folder(path: str, data: DataLoaders, options: dict[str, Any]) -> Start:
    """The body of a run or saved model, with a new head for this data.

    Source: SPEC T3.
    """
    if Path(path).is_file():
        raise ConfigError(
            f"{path} is a file of weights, which does not say of which architecture they are; name it: "
            f"vision.learner('xresnet18', data, pretrained={path!r})"
        )
    saved = saving.read(path)
    config = saved.description["model"]
    if not isinstance(config, dict) or "arch" not in config:
        raise LoadError(
            f"{saved.path} holds a {saved.description['model_class']}, which cannot be built by name; "
            "pass the model itself"
        )
    check_saved(config, saved.weights, str(saved.path))
    own = {name: value for name, value in config.items() if name not in ("arch", "num_classes", "concat_pool")}
    if own.get("channels") != data.channels:
        raise ConfigError(f"{saved.path} was trained on {own.get('channels')} channels, the data has {data.channels}")
    model = _with_new_head(config["arch"], own | options | {"num_classes": data.num_outputs})
    told = _take_body(model, saved.weights, str(saved.path))
    return Start(model, *_seen(saved), told)


def _seen(saved: saving.SavedModel) -> tuple[list[float] | None, list[float] | None]:
    """Mean and deviation of a saved model's own pictures; raises `LoadError` for what is none."""
    if (described := saved.description["preprocess"]) is None:
        return None, None
    try:
        own = ImagePreprocess(**described)
    except (TypeError, OverflowError, ConfigError) as error:
        raise LoadError(f"{saved.path / saving.DESCRIPTION} cannot be used: {error}") from error
    return list(own.mean), list(own.std)


def _of_weights(arch: str, data: DataLoaders, options: dict[str, Any], pretrained: str) -> Start:
    """A named architecture with the body of a file, or of a folder."""
    beside = Path(pretrained).with_name(saving.DESCRIPTION)
    if Path(pretrained).name == saving.WEIGHTS and beside.is_file():
        # the description beside the weights knows more than their names do
        pretrained = str(beside.parent)
    if Path(pretrained).is_dir():
        start = _of_folder(pretrained, data, options)
        built = saving.config_of(start.model) or {}
        if built.get("arch") != arch:
            raise ConfigError(f"{pretrained} holds a {built.get('arch')}, not a {arch}; leave out the architecture")
        return start
    if not Path(pretrained).exists():
        raise LoadError(f"there are no weights at {pretrained}; expected a .safetensors file, or a run's folder")
    model = _with_new_head(arch, _for_data(arch, data, options))
    told = _take_body(model, saving.read_weights(pretrained), pretrained)
    return Start(model, told=f"{told}; how its own pictures were normalized is not known")


def _of_timm(arch: str, data: DataLoaders, options: dict[str, Any], pretrained: str | None) -> Start:
    """A model of timm with its pretrained weights, or with the body of a file."""
    from etude.vision.timm_models import create_timm, normalization_of

    if options:
        raise ConfigError(f"{sorted(options)} belong to etude's own architectures and have no effect on {arch}")
    name, told = arch.removeprefix(TIMM), f"{arch} with its own weights"
    model = create_timm(name, num_classes=data.num_outputs, channels=data.channels, pretrained=pretrained is None)
    if pretrained is not None:
        weights = saving.read_weights(pretrained)
        # a file of timm's own has its names; one of a run has them below `net`
        own = not any(key.startswith("net.") for key in weights)
        told = _take_body(model, {f"net.{key}" if own else key: value for key, value in weights.items()}, pretrained)
    mean, std = normalization_of(model)
    return Start(model, mean, std, told) if len(mean) == data.channels else Start(model, told=told)


def _with_new_head(arch: str, options: dict[str, Any]) -> nn.Module:
    """A new model whose head pools by maximum and average both."""
    return create_model(arch, **options, **({} if arch.startswith(TIMM) else {"concat_pool": True}))


def _take_body(model: nn.Module, weights: dict[str, torch.Tensor], source: str) -> str:
    """Load all of the body, and nothing of the head; gives what it did in words."""
    head = set(layer_groups(model)[-1]["params"])
    new = [name for name, parameter in model.named_parameters() if parameter in head]
    body = {name: tensor for name, tensor in weights.items() if name not in new}
    report = load_weights(model, body, source=source, wanted=lambda name: name not in new)
    told = f"{len(report.loaded)} tensors of the body from {source}; new head: {', '.join(new)}"
    return f"{report}\n{told}" if report.unexpected else told


def _size(data: DataLoaders) -> int:
    return data.preprocess.size if isinstance(data.preprocess, ImagePreprocess) else SMALL
