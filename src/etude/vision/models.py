"""The architectures known by name: what `--arch` takes and what a saved model may ask for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches

from torch import nn

from etude.errors import ConfigError
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


def create_model(arch: str, **options: Json) -> nn.Module:
    """A new model by name.

    Args:
        arch: a key of `ARCHITECTURES`; nothing else is ever looked up or imported, whatever a file says.
        options: the arguments of that architecture, such as `num_classes`, `channels`, `blur_pool`.

    Raises:
        ConfigError: unknown architecture or option, with the known ones.
    """
    if arch not in ARCHITECTURES:
        close = get_close_matches(arch, ARCHITECTURES, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"unknown architecture {arch!r}, choose from {sorted(ARCHITECTURES)}{hint}")
    build = ARCHITECTURES[arch]
    known = set(inspect.signature(build).parameters) - {"name", "expansion", "num_blocks"}
    if unknown := sorted(set(options) - known):
        raise ConfigError(f"{arch} has no option {unknown}; it takes {sorted(known)}")
    return build(**options)
