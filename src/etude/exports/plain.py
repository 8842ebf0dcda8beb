"""What is exported, as plain facts: a copy of the model on the CPU, and how pictures or texts become what it sees."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from typing_extensions import override

from etude.data.loaders import Loader
from etude.errors import ConfigError
from etude.exports import plain_text
from etude.regression import NumberHead
from etude.text.reader import TextReader
from etude.training.learner import Learner
from etude.training.predict import Predictions, probabilities_of
from etude.training.saving import config_of
from etude.types import Batch, Json
from etude.vision.models import ARCHITECTURES
from etude.vision.preprocess import ImagePreprocess, ImageReader

if TYPE_CHECKING:
    from jaxtyping import Float

_SEED: Final = 2019
_FEW: Final = 4
"""Test vectors of random pixels, or of a batch that the data gives."""
_OUTPUTS: Final = {"softmax": "softmax", "sigmoid": "sigmoid", None: "number"}


@dataclass(frozen=True)
class Plain:
    """A learner's model for export.

    Args:
        learner: a copy that predicts on the CPU in float32: with the average of the weights, if there is one.
        net: its architecture by name and options, where it is one of etude's own; else None.
        preprocess: how a picture or a text becomes what the model sees; None for a learner of other data.
        labels: of the outputs, or the names of the numbers; None where they have none.
        outputs: "softmax", "sigmoid" or "number": what the numbers are that come out.
        inputs: a few to test with, each (sample, ...), by the names of the model's arguments: random uint8 pixels or
            tokens, or the tensor of a batch, which is called `inputs`.
        tokens: what the numbers of a text's tokens mean; None for a learner of other data.
    """

    learner: Learner
    net: dict[str, Json] | None
    preprocess: dict[str, Json] | None
    labels: list[str] | None
    outputs: str
    inputs: dict[str, Tensor]
    tokens: list[str] | None = None

    def expected(self, items: Any) -> Float[Tensor, "sample output"]:
        """What `learner.predict` says of items, or of `inputs`."""
        given = [Batch(_as_given(items), None)] if isinstance(items, dict) else items
        predictions = self.learner.predict(given)
        assert isinstance(predictions, Predictions)
        return predictions.output.float()


def _as_given(inputs: dict[str, Tensor]) -> Any:
    """A single tensor is the model's first argument, whatever that is called."""
    return inputs["inputs"] if inputs.keys() == {"inputs"} else inputs


def plain(learner: Learner) -> Plain:
    """What there is to export.

    Raises:
        ConfigError: the learner's inputs are not known, are no single tensor, or its model only writes text.
    """
    read = learner.data.read
    if isinstance(read, TextReader):
        plain_text.check_text(learner)
    with learner.averaged():
        model = _folded(copy.deepcopy(learner.model))
    data = replace(learner.data, train=None, valid=None, augment=None, preprocess=_own(learner.data.preprocess))
    own = Learner(model.eval(), data, copy.deepcopy(learner.loss_fn), torch.optim.SGD, device="cpu", progress=False)
    vocab, numbers = learner.data.vocab, learner.data.numbers
    names = numbers.names if numbers is not None else vocab
    return Plain(
        own,
        _net(config_of(model) or {}),
        _preprocess(learner),
        None if names is None else list(names),
        _OUTPUTS[probabilities_of(learner.loss_fn)],
        _inputs(learner),
        list(read.vocab) if isinstance(read, TextReader) else None,
    )


def _net(config: dict[str, Json]) -> dict[str, Json] | None:
    """An architecture by name and options; None for one that is not etude's own."""
    if config.get("arch") == plain_text.CLASSIFIER:
        return plain_text.net(config)
    if config.get("arch") not in ARCHITECTURES:
        return None
    net = {"name": config["arch"], **{name: value for name, value in config.items() if name not in ("arch", "widths")}}
    # how wide each is, the weights say
    return {**net, "layers": len(widths)} if isinstance(widths := config.get("widths"), list) else net


def _folded(model: nn.Module) -> nn.Module:
    """The model with the units of its numbers inside its last linear layer, so that weights alone hold all of it."""
    for name, module in list(model.named_modules()):
        if isinstance(module, NumberHead):
            place, _, last = name.rpartition(".")
            model.get_submodule(place).register_module(last, module.folded())
    return model


def _own(preprocess: nn.Module | None) -> nn.Module | None:
    """A copy of preprocessing."""
    if isinstance(preprocess, ImagePreprocess):
        return ImagePreprocess(preprocess.size, preprocess.mean, preprocess.std)
    return copy.deepcopy(preprocess)


def is_of_pictures(learner: Learner) -> bool:
    """Whether a learner reads and normalizes pictures as etude does."""
    return isinstance(learner.data.preprocess, ImagePreprocess) and isinstance(learner.data.read, ImageReader)


def _preprocess(learner: Learner) -> dict[str, Json] | None:
    seen, read = learner.data.preprocess, learner.data.read
    if isinstance(read, TextReader):
        return plain_text.seen(read)
    if not isinstance(seen, ImagePreprocess) or not isinstance(read, ImageReader):
        return None
    return {
        "size": seen.size,
        "read_size": read.size,
        "stored": read.codec.stored,
        "share": read.crop.share,
        "squash": read.crop.squash,
        "channels": read.codec.channels,
        "mean": list(seen.mean),
        "std": list(seen.std),
    }


def _inputs(learner: Learner) -> dict[str, Tensor]:
    read = learner.data.read
    if isinstance(read, TextReader):
        return plain_text.inputs(read)
    if is_of_pictures(learner) and isinstance(read, ImageReader):
        generator = torch.Generator().manual_seed(_SEED)
        shape = (_FEW, read.codec.channels, read.size, read.size)
        return {"inputs": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)}
    loader: Loader | None = learner.data.valid or learner.data.train
    if loader is None:
        raise ConfigError("what this model takes is not known, as it has no data; export the learner that trained it")
    inputs = next(iter(loader.batches(0, learner.device))).inputs
    if not isinstance(inputs, Tensor):
        raise ConfigError(
            f"a model of one tensor can be exported, and the inputs of this one are {type(inputs).__name__}"
        )
    return {"inputs": inputs[:_FEW].cpu()}


class Whole(nn.Module):
    """Preprocessing, model and what makes probabilities of its scores, as one module.

    Args:
        given: what is exported.
    """

    def __init__(self, given: Plain) -> None:
        super().__init__()
        seen = given.learner.data.preprocess
        # its own form, which works in place and remembers memory, cannot be traced
        self.preprocess = _Normalize(seen) if isinstance(seen, ImagePreprocess) else (seen or nn.Identity())
        self.model, self.outputs = given.learner.model, given.outputs

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        return probabilities(self.model(self.preprocess(inputs)).float(), self.outputs)


def probabilities(scores: Tensor, outputs: str) -> Tensor:
    """What `Plain.outputs` says is made of a model's scores."""
    if outputs == "softmax":
        return scores.softmax(1)
    return scores.sigmoid() if outputs == "sigmoid" else scores


class _Normalize(nn.Module):
    """`ImagePreprocess` in plain arithmetic."""

    scale: Tensor
    shift: Tensor

    def __init__(self, seen: ImagePreprocess) -> None:
        super().__init__()
        self.size = seen.size
        mean, std = (torch.tensor(numbers, dtype=torch.float64).view(1, -1, 1, 1) for numbers in (seen.mean, seen.std))
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    @override
    def forward(self, pixels: Tensor) -> Tensor:
        top, left = ((side - self.size) // 2 for side in pixels.shape[-2:])
        window = pixels[..., top : top + self.size, left : left + self.size]
        return window.float() * self.scale + self.shift
