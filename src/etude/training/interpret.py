"""What a model gets right and wrong, class by class: from predictions and true answers alone, whatever the domain."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from torch import Tensor
from typing_extensions import override

from etude.errors import ConfigError
from etude.training.answers import Kind, answers
from etude.training.calibration import Calibration, calibrate, log_probabilities, two_classes, wilson_interval

if TYPE_CHECKING:
    import os

    from jaxtyping import Float, Int, Shaped

    from etude.training.learner import Learner
    from etude.training.predict import Predictions, Views


class ClassScore(NamedTuple):
    """How well one class is found."""

    name: str
    precision: float
    """Share of the samples it is said of that are of it; NaN where it is said of none."""
    recall: float
    """Share of its samples of which it is said; NaN where there are none."""
    f1: float
    """The harmonic mean of the two; NaN where both are."""
    support: int
    """How many samples are of this class."""
    predicted: int
    """How many it is said of."""


class Confused(NamedTuple):
    """Two classes of which one is taken for the other."""

    true: str
    predicted: str
    num: int
    positions: tuple[int, ...]
    """Of these samples in the data, the surest mistake first."""


class TopLoss(NamedTuple):
    """One sample of a large loss."""

    position: int
    """In the data, counted from 0."""
    loss: float
    """Cross entropy, at most 87.5, for several labels the mean binary one; the squared error of a number; of several
    numbers the mean squared error in standard deviations, each of its own among these targets."""
    true: str
    predicted: str
    probability: float
    """Of the true class; for several labels of the least believed true answer; NaN for numbers."""


@final
@dataclass(frozen=True, eq=False)
class Interpretation:
    """Predictions beside true answers: `Interpretation.of(learner)`; print it for a verdict in words.

    Args:
        kind: what the answers are.
        output: probabilities (samples, classes), or numbers (samples, ...).
        targets: class numbers, 0 and 1 for each class, or numbers like the output.
        names: of the classes, or of the numbers, where they have names.
    """

    kind: Kind
    output: Shaped[Tensor, "sample ..."]
    targets: Shaped[Tensor, "sample ..."]
    names: tuple[str, ...]

    @classmethod
    def of(cls, learner: Learner, data: Any = None, *, views: Views | None = None) -> Interpretation:
        """What a learner makes of labeled data.

        Args:
            learner: who predicts.
            data: a loader; None takes the validation data. Positions are those in the order in which it comes.
            views: predict several views of each sample; see `Learner.predict`.

        Raises:
            ConfigError: no data, no true answers, or a loss that defines no probabilities.
        """
        from etude.training.predict import Predictions

        predictions = learner.predict(data, views=views)
        if not isinstance(predictions, Predictions):
            raise ConfigError(f"an interpretation needs a loader of labeled samples, got {type(data).__name__}")
        return cls.of_predictions(predictions)

    @classmethod
    def of_predictions(cls, predictions: Predictions) -> Interpretation:
        """From what `learner.predict(loader)` gave.

        Raises:
            ConfigError: there are no true answers, or a loss that defines no probabilities.
            DataError: targets that are no classes of the model, or predictions that are not finite.
        """
        return cls(*answers(predictions))

    # -- in one number -------------------------------------------------------------------------------------------

    @override
    def __repr__(self) -> str:
        from etude.training.verdict import verdict

        return "\n".join(verdict(self))

    def _repr_html_(self) -> str:
        """The verdict in a notebook."""
        return "".join(f"<p>{html.escape(line)}</p>" for line in repr(self).split("\n"))

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def right(self) -> Shaped[Tensor, "sample"]:
        """Which samples are right; with several labels, in every answer."""
        if self.kind == "classes":
            return self.output.argmax(1) == self.targets
        self._needs("labels")
        return (self._yes == self.targets).all(1)

    @property
    def accuracy(self) -> float:
        """Share of samples of the right class; with several labels, of right answers."""
        right = (self._yes == self.targets) if self.kind == "labels" else self.right
        return float(right.double().mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Where the share of `right` samples lies on other data of this kind, with 95 % confidence."""
        return wilson_interval(int(self.right.sum()), len(self))

    # -- class by class ------------------------------------------------------------------------------------------

    @cached_property
    def confusion(self) -> Int[Tensor, "class class"]:
        """How often samples of a class (row) are taken for a class (column)."""
        self._needs("classes")
        num = len(self.names)
        return torch.bincount(self.targets * num + self.output.argmax(1), minlength=num * num).view(num, num)

    @cached_property
    def per_class(self) -> list[ClassScore]:
        """Precision, recall and F1 of every class, in the order of the classes; yes is above 0.5."""
        self._needs("classes", "labels")
        if self.kind == "classes":
            hits, support, predicted = self.confusion.diag(), self.confusion.sum(1), self.confusion.sum(0)
        else:
            true = self.targets.bool()
            hits, support, predicted = (self._yes & true).sum(0), true.sum(0), self._yes.sum(0)
        counts = zip(self.names, *(count.tolist() for count in (hits, support, predicted)), strict=True)
        return [
            ClassScore(name, _share(hit, said), _share(hit, num), _share(2 * hit, num + said), num, said)
            for name, hit, num, said in counts
        ]

    def most_confused(self, num: int = 10) -> list[Confused]:
        """The pairs of a true and another, predicted class that come most often."""
        wrong = self.confusion.clone().fill_diagonal_(0)
        values, places = wrong.flatten().topk(min(num, wrong.numel()))
        return [
            self._confused(*divmod(place, len(self.names)))
            for value, place in zip(values.tolist(), places.tolist(), strict=True)
            if value
        ]

    def _confused(self, true: int, predicted: int) -> Confused:
        probability, guess = self.output.max(1)
        positions = ((self.targets == true) & (guess == predicted)).nonzero().flatten()
        positions = positions[probability[positions].argsort(descending=True, stable=True)]
        return Confused(self.names[true], self.names[predicted], len(positions), tuple(positions.tolist()))

    # -- sample by sample ----------------------------------------------------------------------------------------

    @cached_property
    def losses(self) -> Float[Tensor, "sample"]:
        """The loss of every sample, in float64; see `TopLoss`."""
        if self.kind == "numbers":
            errors = self.errors.flatten(1)
            if errors.shape[1] > 1:
                # numbers of different units are compared in their deviations
                spread = self.targets.flatten(1).std(0, correction=0)
                errors = errors / spread.where(spread > 0, 1.0)
            return (errors**2).mean(1)
        logs = log_probabilities(self._true_probabilities)
        return -logs if self.kind == "classes" else -logs.mean(1)

    def top_losses(self, num: int = 9) -> list[TopLoss]:
        """The samples of the largest losses, the largest first."""
        losses, places = self.losses.topk(min(num, len(self)))
        return [self._top_loss(place, loss) for loss, place in zip(losses.tolist(), places.tolist(), strict=True)]

    def _top_loss(self, place: int, loss: float) -> TopLoss:
        true, said = self.describe(place)
        if self.kind == "numbers":
            return TopLoss(place, loss, true, said, math.nan)
        return TopLoss(place, loss, true, said, float(self._true_probabilities[place].min()))

    def describe(self, position: int) -> tuple[str, str]:
        """What a sample is, and what the model says of it, in words."""
        target, output = self.targets[position], self.output[position]
        if self.kind == "classes":
            return self.names[int(target)], self.names[int(output.argmax())]
        if self.kind == "labels":
            return self._listed(target.bool()), self._listed(output > 0.5)
        return self._told(target), self._told(output)

    def _listed(self, present: Tensor) -> str:
        return "; ".join(self.names[i] for i in present.nonzero().flatten().tolist()) or "(none)"

    @property
    def number_names(self) -> tuple[str, ...]:
        """A name for each number; "value 1" and so on where they have none, and of a single one ""."""
        self._needs("numbers")
        num = self.targets[0].numel()
        if num == 1:
            return ("",)
        return self.names if len(self.names) == num else tuple(f"value {i + 1}" for i in range(num))

    def _told(self, values: Tensor) -> str:
        names = self.names if len(self.names) > 1 else [""] * values.numel()
        return ", ".join(f"{name} {value:.4g}".strip() for name, value in zip(names, values.tolist(), strict=True))

    # -- probabilities and numbers -------------------------------------------------------------------------------

    @cached_property
    def calibration(self) -> Calibration:
        """Whether the probabilities can be believed; with several labels, those of every yes and no."""
        self._needs("classes", "labels")
        if self.kind == "classes":
            return calibrate(self.output, self.targets)
        return calibrate(two_classes(self.output), self.targets.long().flatten())

    @property
    def errors(self) -> Float[Tensor, "sample ..."]:
        """Predicted minus true numbers, in float64."""
        self._needs("numbers")
        return self.output - self.targets

    # -- as pictures ---------------------------------------------------------------------------------------------

    def draw_confusion(self, path: str | os.PathLike[str]) -> None:
        """Write the confusion matrix as a PNG."""
        from etude.training.interpret_plots import confusion_figure

        _save(confusion_figure(self), path)

    def draw_classes(self, path: str | os.PathLike[str]) -> None:
        """Write precision, recall and F1 of the classes as a PNG, the worst at the top."""
        from etude.training.interpret_plots import classes_figure

        _save(classes_figure(self), path)

    def draw_calibration(self, path: str | os.PathLike[str]) -> None:
        """Write a PNG: the share of right answers by confidence, before and after temperature scaling."""
        from etude.training.interpret_plots import calibration_figure

        _save(calibration_figure(self.calibration), path)

    def draw_residuals(self, path: str | os.PathLike[str]) -> None:
        """Write a PNG: predicted numbers against true ones, and how the errors are spread."""
        from etude.training.interpret_plots import residuals_figure

        _save(residuals_figure(self), path)

    # -- parts ---------------------------------------------------------------------------------------------------

    @property
    def _yes(self) -> Tensor:
        return self.output > 0.5

    @cached_property
    def _true_probabilities(self) -> Tensor:
        """Of the true class; for several labels, of each true answer."""
        if self.kind == "classes":
            return self.output.gather(1, self.targets.unsqueeze(1)).squeeze(1)
        output = self.output.double()
        return output.where(self.targets.bool(), 1 - output)

    def _needs(self, *kinds: Kind) -> None:
        if self.kind not in kinds:
            known = {"classes": "one class", "labels": "several labels", "numbers": "numbers"}
            raise ConfigError(
                f"this is known for {' or '.join(known[kind] for kind in kinds)} per sample, not for {known[self.kind]}"
            )


def _save(figure: Any, path: str | os.PathLike[str]) -> None:
    from pathlib import Path

    from etude.plots import save_figure

    save_figure(figure, Path(path))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
