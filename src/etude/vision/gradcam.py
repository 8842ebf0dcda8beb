"""Grad-CAM: where in a picture a network found what it says.

Source: Selvaraju et al. 2017, "Grad-CAM: visual explanations from deep networks via gradient-based localization".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.errors import ConfigError
from etude.hooks import forward_hooks
from etude.layers import AdaptiveConcatPool2d
from etude.training.precision import FullPrecision
from etude.types import Batch

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped

    from etude.training.learner import Learner

_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d, nn.MaxPool2d, AdaptiveConcatPool2d)


class GradCam(NamedTuple):
    """What spoke for a class, pixel by pixel of the layer's map."""

    maps: Float[Tensor, "batch height width"]
    """relu of the sum over channels of weight times map, in float32 on the CPU; 0 where nothing spoke for the class."""
    classes: Int[Tensor, "batch"]
    """Which class each map is of."""
    layer: str
    """The layer whose output was weighed."""

    def enlarged(self, size: int) -> Float[Tensor, "batch size size"]:
        """The maps in the size of the pictures, each from 0 to 1; one that is 0 everywhere stays so."""
        large = F.interpolate(self.maps.unsqueeze(1), size=(size, size), mode="bilinear", align_corners=False)[:, 0]
        top = self.maps.flatten(1).amax(1).clamp(min=torch.finfo(torch.float32).tiny)
        return large / top.view(-1, 1, 1)


def grad_cam(
    learner: Learner,
    pictures: Shaped[Tensor, "batch channel height width"],
    *,
    classes: Sequence[int] | Tensor | None = None,
    layer: str | None = None,
) -> GradCam:
    """Where the network found a class: its last maps, each weighed by the mean gradient of the class's score.

    The model is in evaluation mode, in the learner's precision and with averaged weights, if it has them; it is left as
    it was, gradients too. Frozen models can be looked at as well.

    Args:
        learner: trained on pictures.
        pictures: as its data yields them: uint8 pixels for data from `vision.load`.
        classes: whose score to follow for each picture; None takes the one that the model says.
        layer: name of a module whose output is (batch, channel, height, width); None takes the last one with more than
            one pixel that is no pool.

    Raises:
        ConfigError: there is no such layer, or a class that the model does not have.
    """
    found = _Layers(learner.model)
    batch = Batch(pictures.to(learner.device), None)
    precision = learner.precision or FullPrecision("fp32", learner.device)
    with learner.evaluating():
        if layer is None:
            with torch.no_grad(), forward_hooks(found.names, found.look):
                learner.run(learner.model, batch, precision)
        module = found.last(layer)
        held = _Held()
        with torch.enable_grad(), forward_hooks([module], held.hold):
            scores = learner.run(learner.model, batch, precision)
            maps, scores = held.maps, _scores(scores)
            if maps is None:
                raise ConfigError(f"{found.names[module]} gives no map (batch, channel, height, width); name another")
            chosen = _chosen(scores, classes)
            (grads,) = torch.autograd.grad(scores.gather(1, chosen.unsqueeze(1)).sum(), maps, allow_unused=True)
    if grads is None:
        raise ConfigError(f"the scores do not depend on the output of {found.names[module]}; name another layer")
    weights = grads.float().mean((2, 3), keepdim=True)
    cam = (weights * maps.detach().float()).sum(1).relu()
    return GradCam(cam.cpu(), chosen.cpu(), found.names[module])


class _Layers:
    """Which module gave the last map before the pool."""

    def __init__(self, model: nn.Module) -> None:
        self.names = {module: name for name, module in model.named_modules()}
        self._last: nn.Module | None = None
        self._pooled: Tensor | None = None

    def look(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """A forward hook."""
        if not _is_map(output):
            return
        # a container that ends in a pool gives the pool's own output
        if isinstance(module, _POOLS) or output is self._pooled:
            self._pooled = output
        else:
            self._last = module

    def last(self, name: str | None) -> nn.Module:
        """The module of a name, or the last one with a map."""
        if name is not None:
            known: dict[str, nn.Module] = {called: module for module, called in self.names.items()}
            if name not in known:
                raise ConfigError(f"the model has no module {name!r}; it has {[*filter(None, known)][:10]}, ...")
            return known[name]
        if self._last is None:
            raise ConfigError(
                "no module of this model gives maps (batch, channel, height, width) of more than one pixel, so there "
                "is nowhere to look; Grad-CAM is for convolutional networks"
            )
        return self._last


class _Held:
    """Takes hold of a map, so that the gradient begins there: no weight is asked for one."""

    def __init__(self) -> None:
        self.maps: Tensor | None = None

    def hold(self, module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
        """A forward hook; its output goes on in the place of the module's."""
        if not _is_map(output):
            return None
        self.maps = output.detach().requires_grad_()
        # what comes next may work in place, as activations do, which a leaf does not allow
        return self.maps.clone()


def _is_map(output: Any) -> bool:
    return isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1


def _scores(scores: Any) -> Tensor:
    """(batch, class); one number per picture is the score of the only class."""
    if not isinstance(scores, Tensor) or scores.ndim not in (1, 2):
        raise ConfigError("Grad-CAM follows one score per class, (batch, class); this model returns something else")
    return scores.unsqueeze(1) if scores.ndim == 1 else scores


def _chosen(scores: Tensor, classes: Sequence[int] | Tensor | None) -> Tensor:
    if classes is None:
        return scores.argmax(1)
    chosen = torch.as_tensor(classes, device=scores.device)
    if chosen.shape != scores.shape[:1] or not ((chosen >= 0) & (chosen < scores.shape[1])).all():
        raise ConfigError(
            f"expected a class from 0 to {scores.shape[1] - 1} for each of {len(scores)} pictures, "
            f"got {chosen.tolist()}"
        )
    return chosen
