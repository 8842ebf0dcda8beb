"""Take a trained network's body and give it a new head.

Source: SPEC T3-T5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from etude.errors import ConfigError
from etude.hooks import forward_hooks, mode
from etude.layers import AdaptiveConcatPool2d, Stack

if TYPE_CHECKING:
    from jaxtyping import Float

POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, AdaptiveConcatPool2d)
"""What stands between the body of a network for pictures and its head."""


@final
class Adapted(Stack):
    """A body, then a new head: max and average pool side by side, and a linear layer.

    Args:
        body: from pictures (batch, channel, height, width) to a map.
        width: channels of that map.
        num_outputs: classes, or numbers.
    """

    def __init__(self, body: nn.Module, width: int, num_outputs: int) -> None:
        head = nn.Linear(2 * width, num_outputs)
        nn.init.kaiming_normal_(head.weight)
        nn.init.zeros_(head.bias)
        super().__init__(body, AdaptiveConcatPool2d(), nn.Flatten(), head)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Body and head."""
        return [list(self[0].parameters()), list(self[3].parameters())]


def adapt(model: nn.Module, num_outputs: int, inputs: Float[Tensor, "batch channel height width"]) -> Adapted:
    """A new network of the same body, which is shared and not copied, and a new head.

    The body's width is measured in evaluation mode and without gradients, so its statistics stay what they were.

    Args:
        model: trained; its children up to its pool are the body.
        num_outputs: classes of the new data, or numbers.
        inputs: a few pictures as the model sees them.

    Raises:
        ConfigError: the model has no pool among its children, or its children in a row are not what it computes.

    Source: SPEC T5.
    """
    body = cut(model, inputs)
    return Adapted(body, width_of(body, inputs), num_outputs).to(inputs.device)


def cut(model: nn.Module, inputs: Float[Tensor, "batch channel height width"]) -> nn.Sequential:
    """The children of a network in front of its pool, in a row.

    A network that is no `nn.Sequential` may do more in its `forward` than call its children one after the other, so
    what the pool is given there is compared with what the children in a row make of the same pictures.

    Source: SPEC T3.
    """
    children = list(model.children())
    place = next((i for i, child in enumerate(children) if isinstance(child, POOLS)), None)
    if not place:
        raise ConfigError(
            f"{type(model).__name__} has no pool ({', '.join(pool.__name__ for pool in POOLS)}) behind other children "
            "of its own, so where its body ends cannot be told; build it yourself: Adapted(body, width, num_outputs)"
        )
    body, given = nn.Sequential(*children[:place]), []

    def look(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        given.append(args[0])

    with torch.no_grad(), mode(model, training=False):
        with forward_hooks([children[place]], look):
            model(inputs)
        found = body(inputs)
    if not given or found.shape != given[0].shape or not torch.equal(found, given[0]):
        raise ConfigError(
            f"the children of {type(model).__name__} in a row do not compute what its forward does before the pool; "
            "build it yourself: Adapted(body, width, num_outputs)"
        )
    return body


def width_of(body: nn.Module, inputs: Float[Tensor, "batch channel height width"]) -> int:
    """Channels of the map that a body makes; leaves its statistics and modes as they are."""
    with torch.no_grad(), mode(body, training=False):
        found = body(inputs)
    if not isinstance(found, Tensor) or found.ndim != 4:
        what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(f"a body must give a map (batch, channel, height, width), got {what}")
    return found.shape[1]
