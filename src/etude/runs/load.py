"""Read a saved model back."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from etude.data.loaders import DataLoaders
from etude.data.vocab import Vocab
from etude.errors import ConfigError, LoadError
from etude.training import saving
from etude.training.learner import Learner
from etude.vision.models import ARCHITECTURES, create_model
from etude.vision.preprocess import ImagePreprocess, ImageReader

_LOSSES = {"softmax": nn.CrossEntropyLoss, "sigmoid": nn.BCEWithLogitsLoss, None: nn.MSELoss}
"""A loss that predicts the way the saved one did."""


def load(path: str | os.PathLike[str], *, model: nn.Module | None = None, device: str = "auto") -> Learner:
    """A learner ready to predict, from a folder that `learner.save` or a run wrote.

    Args:
        path: the folder.
        model: for a model of your own, a new one of the same class; its weights are replaced.
        device: "auto", or a named one.

    Raises:
        LoadError: the folder is damaged, or holds a model that etude cannot build by name.
    """
    saved = saving.read(path)
    description = saved.description
    try:
        model = model if model is not None else _build(description)
        data = _data(saved)
        loss_fn = _LOSSES[description["probabilities"]]()
    except (KeyError, TypeError, AttributeError, ConfigError) as error:
        raise LoadError(f"{saved.path / saving.DESCRIPTION} cannot be used: {error}") from error
    saving.load_weights(model, saved.weights, str(saved.path))
    return Learner(model, data, loss_fn, _no_optimizer, device=device, progress=False)


def _build(description: dict[str, Any]) -> nn.Module:
    config = description["model"]
    if not isinstance(config, dict) or config.get("arch") not in ARCHITECTURES:
        raise ConfigError(
            f"it describes a {description['model_class']}, which etude cannot build by name; "
            "pass one: etude.load(path, model=MyModel())"
        )
    model = create_model(config["arch"], **{name: value for name, value in config.items() if name != "arch"})
    # the layout it was trained in: another one rounds differently
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form
    return model


def _data(saved: saving.SavedModel) -> DataLoaders:
    """What prediction needs of the data: labels, how to read an item, and preprocessing."""
    description = saved.description
    return DataLoaders(
        None,
        vocab=Vocab(description["vocab"]) if description["vocab"] is not None else None,
        preprocess=ImagePreprocess(**description["preprocess"]) if description["preprocess"] is not None else None,
        read=ImageReader(**description["read"]) if description["read"] is not None else None,
        channels=description["channels"],
        description=f"loaded from {saved.path}",
    )


def _no_optimizer(groups: object) -> Optimizer:
    raise LoadError("a loaded model has no optimizer; make a Learner with it to train on")
