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
from etude.text.language_model import LanguageModelLoss
from etude.text.models import ARCHITECTURES as TEXT_MODELS
from etude.text.models import LANGUAGE_MODEL
from etude.text.models import create_for as text_model_for
from etude.text.reader import TextReader
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
    try:
        data, loss_fn = _data(saved), _loss(saved)
        if model is None:
            model = _build(saved)
        else:
            load_exactly(model, saved.weights, str(saved.path))
    except (KeyError, TypeError, AttributeError, OverflowError, ConfigError, DataError) as error:
        raise LoadError(f"{saved.path / saving.DESCRIPTION} cannot be used: {error}") from error
    return Learner(model, data, loss_fn, _no_optimizer, device=device, progress=False)


def _loss(saved: saving.SavedModel) -> nn.Module:
    """A loss that predicts the way the saved one did."""
    if (kind := saved.description["probabilities"]) not in _LOSSES:
        raise ConfigError(f"probabilities are one of {list(_LOSSES)}, got {kind!r}")
    return LanguageModelLoss() if _arch(saved) == LANGUAGE_MODEL else _LOSSES[kind]()


def _arch(saved: saving.SavedModel) -> object:
    """What the description calls the model; None for one of the user's own."""
    return (saved.description["model"] or {}).get("arch")


def _build(saved: saving.SavedModel) -> nn.Module:
    config, vocab = saved.description["model"], saved.description["vocab"]
    if _arch(saved) in TEXT_MODELS:
        return _build_text(saved)
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


def _build_text(saved: saving.SavedModel) -> nn.Module:
    config, vocab, read = saved.description["model"], saved.description["vocab"], saved.description["read"]
    model = text_model_for(config, saved.weights, str(saved.path))
    tokens = None if read is None else len(read.get("tokens", ()))
    if tokens not in (None, config["encoder"]["vocab_size"]):
        raise ConfigError(f"it reads {tokens} tokens, and its model knows {config['encoder']['vocab_size']}")
    if vocab is not None and config.get("num_classes", tokens) != len(vocab):
        raise ConfigError(f"it has {len(vocab)} labels, and its model another number of outputs")
    return model


def _data(saved: saving.SavedModel) -> DataLoaders:
    """What prediction needs of the data: labels, how to read an item, and preprocessing."""
    description = saved.description
    if description["read"] is not None and "tokens" in description["read"]:
        return _text_data(saved, TextReader.from_config(description["read"]))
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


def _text_data(saved: saving.SavedModel, read: TextReader) -> DataLoaders:
    vocab = None if saved.description["vocab"] is None else Vocab(saved.description["vocab"])
    # a language model's are its tokens, which know how they were made
    vocab = read.vocab if vocab == read.vocab else vocab
    return DataLoaders(None, vocab=vocab, read=read, collate=read.collate, description=f"loaded from {saved.path}")


def _numbers(saved: saving.SavedModel) -> Numbers | None:
    """What is known of the numbers that it predicts; an older description does not say that there are none."""
    told = saved.description.get("numbers")
    return None if told is None else Numbers.from_config(told)


def _no_optimizer(groups: object) -> Optimizer:
    raise LoadError("a loaded model has no optimizer; make a Learner with it to train on")
