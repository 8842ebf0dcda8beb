"""A model for some pictures: a new one by name, or the body of a trained one with a new head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from etude.data.loaders import DataLoaders
from etude.errors import ConfigError, LoadError
from etude.training import saving
from etude.vision.models import ARCHITECTURES, create_model
from etude.vision.preprocess import ImagePreprocess

SMALL = 48
"""Below this many pixels the stem does not halve the picture."""


def model_for(arch: str, data: DataLoaders, options: dict[str, Any]) -> nn.Module:
    """A new model whose first weights depend on the data's seed alone, not on what was drawn before."""
    with torch.random.fork_rng([]):
        torch.manual_seed(data.seed or 0)
        return _new_model(arch, data, options)


def _new_model(arch: str, data: DataLoaders, options: dict[str, Any]) -> nn.Module:
    if arch in ARCHITECTURES:
        if "stem_stride" not in options and (size := _size(data)) < SMALL:
            print(f"{arch} with stem_stride=1: pictures of {size} pixels are too small to halve at once")
            options = {**options, "stem_stride": 1}
        return create_model(arch, num_classes=data.num_classes, channels=data.channels, **options)
    if not Path(arch).exists():
        # raises with the known names and the nearest one
        return create_model(arch)
    return _new_head(saving.read(arch), data, options)


def _new_head(saved: saving.SavedModel, data: DataLoaders, options: dict[str, Any]) -> nn.Module:
    """The saved model's body with a new head for this data: a max and an average pool, and a linear layer.

    Source: SPEC T3.
    """
    config = saved.description["model"]
    if config is None:
        raise LoadError(
            f"{saved.path} holds a {saved.description['model_class']}, which cannot be built by name; "
            "pass the model itself"
        )
    options = {name: value for name, value in config.items() if name != "arch"} | options
    if options["channels"] != data.channels:
        raise ConfigError(f"{saved.path} was trained on {options['channels']} channels, the data has {data.channels}")
    model = create_model(config["arch"], **options | {"num_classes": data.num_classes, "concat_pool": True})
    body = {name: tensor for name, tensor in saved.weights.items() if not name.startswith(f"{len(list(model)) - 1}.")}  # type: ignore[call-overload]
    head = {name: tensor for name, tensor in model.state_dict().items() if name not in body}
    saving.load_weights(model, {**body, **head}, str(saved.path))
    print(f"took over {len(body)} tensors of {saved.path}; new head: {', '.join(head)}")
    return model


def _size(data: DataLoaders) -> int:
    return data.preprocess.size if isinstance(data.preprocess, ImagePreprocess) else SMALL
