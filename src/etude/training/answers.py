"""Predictions and true answers in one form, whatever loss and targets they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from torch import Tensor

from etude.data.vocab import Vocab
from etude.errors import ConfigError, DataError
from etude.training.calibration import two_classes

if TYPE_CHECKING:
    from etude.training.predictions import Predictions

Kind: TypeAlias = Literal["classes", "labels", "numbers"]
"""One class for each sample; a yes or no for each class; or numbers."""


class Answers(NamedTuple):
    """What `Interpretation` is made of; see there."""

    kind: Kind
    output: Tensor
    targets: Tensor
    names: tuple[str, ...]


def answers(predictions: Predictions) -> Answers:
    """Check predictions and targets, and bring them into one form.

    Raises:
        ConfigError: there are no true answers, or the loss defines no probabilities.
        DataError: targets that are no classes of the model, or predictions that are not finite.
    """
    output, targets = predictions.output.detach().cpu(), predictions.targets
    if targets is None or not len(output):
        raise ConfigError("these predictions come without true answers; predict a loader of labeled samples")
    if bad := int((~output.isfinite()).reshape(len(output), -1).any(1).sum()):
        raise DataError(f"the predictions of {bad} samples are not finite; look at the model's weights and inputs")
    targets = targets.detach().cpu()
    if predictions.numbers or not predictions.probable:
        return Answers("numbers", *_numbers(output, targets), predictions.numbers)
    return Answers(*_classified(output, targets, predictions.vocab, several=predictions.several))


def _numbers(output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted and true numbers of one shape, in float64."""
    if not targets.is_floating_point() or targets.numel() != output.numel():
        raise ConfigError(
            "the loss defines no probabilities, and the targets are no numbers like the predictions: got "
            f"{targets.dtype} {tuple(targets.shape)} for predictions {tuple(output.shape)}. Classes need a cross "
            "entropy loss (etude.LabelSmoothingCrossEntropy, nn.CrossEntropyLoss, nn.BCEWithLogitsLoss)"
        )
    # (samples,) and (samples, 1) are the same numbers
    return output.double().reshape(len(output), -1), targets.double().reshape(len(output), -1)


def _classified(
    output: Tensor, targets: Tensor, vocab: Vocab | None, *, several: bool
) -> tuple[Kind, Tensor, Tensor, tuple[str, ...]]:
    """Kind, probabilities, targets and names."""
    two = vocab is None or len(vocab) == 2
    if output[0].numel() == 1 and targets.numel() == len(output) and two and not several:
        # one output is the probability of the second of two classes
        return "classes", two_classes(output).to(output.dtype), (targets.flatten() > 0.5).long(), _names(vocab, 2)
    if output.ndim != 2 or targets.shape not in (output.shape, output.shape[:1]):
        raise ConfigError(
            "expected probabilities (samples, classes) and targets (samples,) or like them, got "
            f"{tuple(output.shape)} and {tuple(targets.shape)}"
        )
    names = _names(vocab, output.shape[1])
    if targets.ndim == 2:
        whole = not several and ((output.sum(1) - 1).abs() < 1e-4).all() and output.shape[1] > 1
        # after a softmax, targets in this form are the shares of the classes
        return ("classes", output, targets.argmax(1), names) if whole else ("labels", output, (targets > 0.5), names)
    if targets.is_floating_point() or int(targets.min()) < 0 or int(targets.max()) >= len(names):
        raise DataError(
            f"targets hold {float(targets.min()):.6g} to {float(targets.max()):.6g}, expected class numbers from 0 to "
            f"{len(names) - 1}"
        )
    return "classes", output, targets.long(), names


def _names(vocab: Sequence[str] | None, num: int) -> tuple[str, ...]:
    if vocab is not None and len(vocab) != num:
        raise ConfigError(f"the model has {num} outputs, and the data {len(vocab)} classes")
    return tuple(vocab) if vocab is not None else tuple(map(str, range(num)))
