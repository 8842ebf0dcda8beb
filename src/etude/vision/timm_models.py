"""Models of timm by name, such as "timm:resnet18": over a thousand architectures with pretrained weights.

timm is an extra: `pip install 'etude[timm]'`. Its weights come from a hub the first time and are kept there by timm.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, final

from torch import Tensor, nn
from typing_extensions import override

from etude.errors import ConfigError, LoadError
from etude.types import Json

if TYPE_CHECKING:
    from jaxtyping import Float


@final
class TimmModel(nn.Module):
    """A model of timm with its own head, made for other classes.

    Args:
        name: in timm's registry, without the prefix.
        net: the model.
        num_classes: width of the output.
        channels: of the pictures.
    """

    def __init__(self, name: str, net: nn.Module, num_classes: int, channels: int) -> None:
        super().__init__()
        self.net = net
        self._config: dict[str, Json] = {"arch": f"timm:{name}", "num_classes": num_classes, "channels": channels}

    @override
    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch class"]:
        scores: Tensor = self.net(x)
        return scores

    def config(self) -> dict[str, Json]:
        """What builds this model again, without weights."""
        return dict(self._config)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Body and head, as timm divides them."""
        classifier: Any = self.net.get_classifier()  # type: ignore[operator]  # every model of timm has it
        parts = classifier if isinstance(classifier, tuple) else (classifier,)
        head = {parameter for part in parts for parameter in part.parameters()}
        return [
            [parameter for parameter in self.parameters() if parameter not in head],
            [parameter for parameter in self.parameters() if parameter in head],
        ]


def create_timm(name: str, *, num_classes: int, channels: int = 3, pretrained: bool = False) -> TimmModel:
    """A model of timm.

    Args:
        name: in timm's own registry; addresses of hubs are refused, since a name may come from a file.
        num_classes: width of the new head.
        channels: of the pictures; timm adapts the first convolution.
        pretrained: with timm's weights, which are fetched the first time.

    Raises:
        ConfigError: timm is not installed, or has no such model.
        LoadError: the weights cannot be fetched.
    """
    timm = _timm()
    known = timm.list_models()
    if not re.fullmatch(r"[A-Za-z0-9_.]+", name) or name.split(".")[0] not in known:
        close = get_close_matches(name, known, 3)
        hint = f"; did you mean {', '.join(f'timm:{one}' for one in close)}?" if close else ""
        raise ConfigError(f"timm has no model {name!r}{hint}")
    try:
        net = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=channels)
    except Exception as error:
        if not pretrained:
            raise ConfigError(f"timm cannot make {name!r}: {type(error).__name__}: {error}") from error
        raise LoadError(
            f"the weights of timm:{name} cannot be had: {type(error).__name__}: {error}. Without a network, name a "
            "file that you have: --from FILE.safetensors --arch timm:" + name
        ) from error
    return TimmModel(name, net, num_classes, channels)


def normalization_of(model: TimmModel) -> tuple[list[float], list[float]]:
    """Mean and deviation, per channel of pixels in [0, 1], that the model's weights were trained with."""
    config: Any = model.net.pretrained_cfg
    return list(config["mean"]), list(config["std"])


def _timm() -> Any:
    try:
        return import_module("timm")
    except ImportError as error:
        raise ConfigError(f"models of timm need timm: pip install 'etude[timm]' ({error})") from error
    except Exception as error:  # a torchvision that does not go with this torch
        raise ConfigError(f"timm is installed but cannot be imported: {type(error).__name__}: {error}") from error
