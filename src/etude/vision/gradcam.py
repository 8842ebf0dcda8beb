"""Grad-CAM: where in a picture a network found what it says.

Source: Selvaraju et al. 2017, "Grad-CAM: visual explanations from deep networks via gradient-based localization".
"""

from __future__ import annotations

import os
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
        if type(size) is not int or size < 1:
            raise ConfigError(f"maps are enlarged to a whole number of pixels of at least 1, got {size!r}")
        large = F.interpolate(self.maps.unsqueeze(1), size=(size, size), mode="bilinear", align_corners=False)[:, 0]
        top = self.maps.flatten(1).amax(1).clamp(min=torch.finfo(torch.float32).tiny)
        return large / top.view(-1, 1, 1)


def grad_cam(
    learner: Learner,
    items: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Shaped[Tensor, "batch channel height width"],
    *,
    classes: int | str | Sequence[int | str] | Tensor | None = None,
    layer: str | None = None,
) -> GradCam:
    """Where the network found a class: its last maps, each weighed by the mean gradient of the class's score.

    The model is in evaluation mode, in the learner's precision and with averaged weights, if it has them; it is left as
    it was, gradients too. Frozen models can be looked at as well.

    Args:
        learner: trained on pictures.
        items: a picture's path or several, read as the model's own validation pictures are; or a batch as its data
            yields it: uint8 pixels for data from `vision.load`.
        classes: whose score to follow, by number or by name: one for all pictures, or one for each; None takes the one
            that the model says.
        layer: name of a module whose output is (batch, channel, height, width); None takes the last one with more than
            one pixel that is no pool.

    Raises:
        ConfigError: the items are none of these, there is no such layer, or a class that the model does not have.
        DataError: naming the picture that cannot be read.
    """
    pictures = _pixels(learner, items)
    numbers = None if classes is None else _numbers(learner, classes, len(pictures))
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
            chosen = _chosen(scores, numbers)
            (grads,) = torch.autograd.grad(scores.gather(1, chosen.unsqueeze(1)).sum(), maps, allow_unused=True)
    if grads is None:
        raise ConfigError(f"the scores do not depend on the output of {found.names[module]}; name another layer")
    weights = grads.float().mean((2, 3), keepdim=True)
    cam = (weights * maps.detach().float()).sum(1).relu()
    return GradCam(cam.cpu(), chosen.cpu(), found.names[module])


def _pixels(learner: Learner, items: Any) -> Tensor:
    """A batch of pictures, read where they are paths."""
    if isinstance(items, Tensor):
        if items.ndim != 4:
            raise ConfigError(f"expected pictures (batch, channel, height, width), got a tensor {tuple(items.shape)}")
        return items
    paths = [items] if isinstance(items, str | os.PathLike) else items
    if not isinstance(paths, list | tuple) or not paths or not all(isinstance(one, str | os.PathLike) for one in paths):
        raise ConfigError(
            "Grad-CAM takes a picture's path, a list of paths, or a tensor (batch, channel, height, width), "
            f"got {items!r:.100}"
        )
    read = learner.data.read
    if read is None:
        raise ConfigError(
            "this learner's data does not say how a picture is read from a path; give a tensor "
            "(batch, channel, height, width), as its data yields it"
        )
    return torch.stack([read(one) for one in paths])


def _numbers(learner: Learner, classes: Any, num: int) -> Tensor:
    """The class of each of `num` pictures as a number."""
    wanted = [classes] * num if isinstance(classes, int | str) else classes
    data = learner.data
    names = list(data.vocab) if data.vocab is not None else list(data.numbers.names) if data.numbers is not None else []
    if not isinstance(wanted, Tensor):
        if unknown := [one for one in wanted if isinstance(one, str) and one not in names]:
            shown = f"{names[:10]}{', ...' if len(names) > 10 else ''}" if names else "no names, only numbers"
            raise ConfigError(f"the model has no class {unknown[0]!r}; it has {shown}")
        wanted = torch.tensor([names.index(one) if isinstance(one, str) else one for one in wanted])
    if wanted.shape != (num,) or wanted.is_floating_point():
        raise ConfigError(f"expected a class for each of {num} pictures, by number or by name, got {classes!r:.100}")
    return wanted


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


def _chosen(scores: Tensor, classes: Tensor | None) -> Tensor:
    if classes is None:
        return scores.argmax(1)
    chosen = classes.to(scores.device)
    if not ((chosen >= 0) & (chosen < scores.shape[1])).all():
        raise ConfigError(
            f"expected a class from 0 to {scores.shape[1] - 1} for each of {len(scores)} pictures, "
            f"got {chosen.tolist()}"
        )
    return chosen
