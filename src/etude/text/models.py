"""The text models known by name: what a saved model may ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

import torch
from torch import Tensor, nn

from etude.errors import ConfigError, LoadError
from etude.text.awd_lstm import AWDLSTM
from etude.text.classifier import TextClassifier
from etude.text.dropout import Dropouts
from etude.text.head import AdaptiveDecoder
from etude.text.language_model import LanguageModel
from etude.training.weights import check_weights, load_exactly

LANGUAGE_MODEL: Final = "language_model"
CLASSIFIER: Final = "text_classifier"
ARCHITECTURES: Final = (LANGUAGE_MODEL, CLASSIFIER)

_MOST: Final = 1 << 24
"""Words, features, classes or tokens of a chunk."""
_MOST_LAYERS: Final = 64


def create_model(config: Mapping[str, Any]) -> LanguageModel | TextClassifier:
    """A new model, as `config()` of another one describes it.

    Raises:
        ConfigError: it is none of etude's text models, or has sizes that no model has.
    """
    options = {name: value for name, value in config.items() if name not in ("arch", "encoder")}
    _check_sizes(config["encoder"], but=("dropouts",))
    if set(config["encoder"]["dropouts"]) != {field.name for field in fields(Dropouts)}:
        raise ConfigError(f"the five dropouts of an encoder are not {str(config['encoder']['dropouts'])[:60]}")
    encoder = AWDLSTM.from_config(config["encoder"])
    if config["arch"] == CLASSIFIER:
        _check_sizes(options, but=("output_p", "hidden_p"))
        return TextClassifier(encoder, **options)
    if config["arch"] != LANGUAGE_MODEL or set(options) != {"cutoffs"}:
        raise ConfigError(f"a text model is one of {list(ARCHITECTURES)}, got {str(config['arch'])[:60]}")
    if (cutoffs := options["cutoffs"]) is None:
        return LanguageModel(encoder)
    if not isinstance(cutoffs, list) or not all(type(one) is int for one in cutoffs):
        raise ConfigError(f"cutoffs must be a list of word numbers, got {str(cutoffs)[:60]}")
    return LanguageModel(encoder, AdaptiveDecoder(encoder.vocab_size, encoder.embed_dim, tuple(cutoffs)))


def create_for(config: Mapping[str, Any], weights: Mapping[str, Tensor], source: str) -> nn.Module:
    """The model that a saved one describes, with its weights; it is built only if it is as large as they are.

    Args:
        config: as `config()` of the model gave it.
        weights: of the saved model.
        source: what it is called in errors.

    Raises:
        LoadError: there is no such model, or the weights are not those of it.
    """
    check_saved(config, weights, source)
    model = create_model(config)
    load_exactly(model, weights, source)
    return model


def check_saved(config: Mapping[str, Any], weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse a description that is not of these weights before anything of its size is built; see `create_for`."""
    try:
        # of no memory, and no random number is drawn
        with torch.device("meta"):
            model = create_model(config)
    except (ConfigError, TypeError, KeyError, AttributeError) as error:
        raise LoadError(f"the model that {source} describes cannot be built: {error}") from error
    check_weights(model, weights, source)


def _check_sizes(options: Mapping[str, Any], but: tuple[str, ...]) -> None:
    """Refuse what is no size, whatever it would cost; raises `ConfigError`."""
    for name, value in options.items():
        most = _MOST_LAYERS if name == "num_layers" else _MOST
        least = 0 if name == "pad" else 1
        if name not in but and not (type(value) is int and least <= value <= most):
            raise ConfigError(f"{name} must be a whole number from {least} to {most:,}, got {str(value)[:60]}")
