"""The architectures known by name: what `--arch` takes and what a saved model may ask for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import ConfigError, LoadError
from etude.training.weights import check_weights, load_exactly
from etude.types import Json
from etude.vision.cnn import LessonCNN
from etude.vision.xresnet import xresnet18, xresnet34, xresnet50, xresnet101, xresnet152

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "lesson_cnn": LessonCNN,
    "xresnet18": xresnet18,
    "xresnet34": xresnet34,
    "xresnet50": xresnet50,
    "xresnet101": xresnet101,
    "xresnet152": xresnet152,
}


TIMM = "timm:"
"""What stands before a name of timm's."""
_MOST = 1 << 20
"""Classes, channels, or channels of a layer."""
_MOST_WIDTHS = 64
"""Layers of a LessonCNN: each halves the picture."""


def create_model(arch: str, **options: Json) -> nn.Module:
    """A new model by name.

    Args:
        arch: a key of `ARCHITECTURES`, or "timm:NAME" for one of timm's, without weights; nothing else is ever looked
            up or imported, whatever a file says.
        options: the arguments of that architecture, such as `num_classes`, `channels`, `blur_pool`.

    Raises:
        ConfigError: unknown architecture or option, with the known ones.
    """
    if arch.startswith(TIMM):
        from etude.vision.timm_models import create_timm

        if unknown := sorted(set(options) - {"num_classes", "channels"}):
            raise ConfigError(f"{arch} has no option {unknown}; it takes ['channels', 'num_classes']")
        sizes: dict[str, Any] = {"num_classes": 1000, **options}
        return create_timm(arch.removeprefix(TIMM), **sizes)
    if arch not in ARCHITECTURES:
        close = get_close_matches(arch, ARCHITECTURES, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"unknown architecture {arch!r}, choose from {sorted(ARCHITECTURES)}{hint}")
    build = ARCHITECTURES[arch]
    known = set(inspect.signature(build).parameters) - {"name", "expansion", "num_blocks"}
    if unknown := sorted(set(options) - known):
        raise ConfigError(f"{arch} has no option {unknown}; it takes {sorted(known)}")
    check_options(arch, options)
    return build(**options)


def check_options(arch: str, options: Mapping[str, Any]) -> None:
    """Refuse options that no network has, whatever they would cost.

    Raises:
        ConfigError: naming the option and what it takes.
    """
    for name, value in options.items():
        values = value if name == "widths" and isinstance(value, list | tuple) else [value]
        if name in ("blur_pool", "concat_pool"):
            good, takes = type(value) is bool, "yes or no"
        elif name == "activation":
            good, takes = type(value) is str, "a name"
        elif name == "stem_stride":
            good, takes = type(value) is int and value in (1, 2), "1 or 2"
        else:
            good = len(values) <= _MOST_WIDTHS and all(type(one) is int and 1 <= one <= _MOST for one in values)
            takes = f"a whole number from 1 to {_MOST:,}"
            takes = f"at most {_MOST_WIDTHS} numbers, each {takes}" if name == "widths" else takes
        if not good:
            raise ConfigError(f"{name} of {arch} must be {takes}, got {str(value)[:60]}")


def create_for(config: Mapping[str, Any], weights: dict[str, Tensor], source: str) -> nn.Module:
    """The model that a saved one describes, with its weights; it is built only if it is as large as they are.

    Args:
        config: as `config()` of the model gave it: its name as "arch", and its options.
        weights: of the saved model.
        source: what it is called in errors.

    Raises:
        LoadError: there is no such architecture or option, or the weights are not those of such a model.
    """
    check_saved(config, weights, source)
    model = create_model(config["arch"], **{name: value for name, value in config.items() if name != "arch"})
    load_exactly(model, weights, source)
    return model


def check_saved(config: Mapping[str, Any], weights: dict[str, Tensor], source: str) -> None:
    """Refuse a description that is not of these weights before anything of its size is built; see `create_for`."""
    arch, options = config.get("arch"), {name: value for name, value in config.items() if name != "arch"}
    try:
        if type(arch) is not str:
            raise ConfigError(f"an architecture has a name, got {str(arch)[:60]}")
        if arch.startswith(TIMM):
            if unknown := sorted(set(options) - {"num_classes", "channels"}):
                raise ConfigError(f"{arch} has no option {unknown}")
            check_options(arch, options)
            if not any(options.get("num_classes") in tensor.shape for tensor in weights.values()):
                raise ConfigError(f"no weight is as wide as its {options.get('num_classes')} classes")
            return
        # of no memory, and no random number is drawn
        with torch.device("meta"):
            model = create_model(arch, **options)
    except (ConfigError, TypeError) as error:
        raise LoadError(f"the model that {source} describes cannot be built: {error}") from error
    check_weights(model, weights, source)
