"""Read a saved model back."""

from __future__ import annotations

import os

import torch
from torch import nn
from torch.optim import Optimizer

from etude.data.loaders import DataLoaders
from etude.data.vocab import Vocab
from etude.errors import ConfigError, DataError, LoadError
from etude.regression import Numbers, give_numbers
from etude.training import saving
from etude.training.learner import Learner
from etude.training.weights import load_exactly
from etude.vision.models import ARCHITECTURES, TIMM, create_for
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
        data = _data(saved)
        if (kind := description["probabilities"]) not in _LOSSES:
            raise ConfigError(f"probabilities are one of {list(_LOSSES)}, got {kind!r}")
        loss_fn = _LOSSES[kind]()
        if model is None:
            model = _build(saved)
        else:
            load_exactly(model, saved.weights, str(saved.path))
    except (KeyError, TypeError, AttributeError, OverflowError, ConfigError, DataError) as error:
        raise LoadError(f"{saved.path / saving.DESCRIPTION} cannot be used: {error}") from error
    return Learner(model, data, loss_fn, _no_optimizer, device=device, progress=False)


def _build(saved: saving.SavedModel) -> nn.Module:
    config, vocab = saved.description["model"], saved.description["vocab"]
    if config is None or not (config.get("arch") in ARCHITECTURES or str(config.get("arch")).startswith(TIMM)):
        raise ConfigError(
            f"it describes a {saved.description['model_class']}, which etude cannot build by name; "
            "pass one: etude.load(path, model=MyModel())"
        )
    model = create_for(config, saved.weights, str(saved.path))
    if (numbers := _numbers(saved)) is not None:
        model = give_numbers(model, numbers)
    if vocab is not None and config.get("num_classes") not in (len(vocab), 1):
        raise ConfigError(f"it has {len(vocab)} labels and {config.get('num_classes')} classes")
    # the layout it was trained in: another one rounds differently
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # torch's stub


def _data(saved: saving.SavedModel) -> DataLoaders:
    """What prediction needs of the data: labels, how to read an item, and preprocessing."""
    description = saved.description
    preprocess = ImagePreprocess(**description["preprocess"]) if description["preprocess"] is not None else None
    read = ImageReader(**description["read"]) if description["read"] is not None else None
    if preprocess is not None and read is not None:
        given, asked = (read.size, read.codec.channels), (preprocess.size, len(preprocess.mean))
        if given[0] < asked[0] or given[1] != asked[1]:
            raise ConfigError(f"pictures are read with (size, channels) {given}, and normalized with {asked}")
    return DataLoaders(
        None,
        vocab=Vocab(description["vocab"]) if description["vocab"] is not None else None,
        preprocess=preprocess,
        read=read,
        channels=description["channels"],
        numbers=_numbers(saved),
        description=f"loaded from {saved.path}",
    )


def _numbers(saved: saving.SavedModel) -> Numbers | None:
    """What is known of the numbers that it predicts; an older description does not say that there are none."""
    told = saved.description.get("numbers")
    return None if told is None else Numbers.from_config(told)


def _no_optimizer(groups: object) -> Optimizer:
    raise LoadError("a loaded model has no optimizer; make a Learner with it to train on")
