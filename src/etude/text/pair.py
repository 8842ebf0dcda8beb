"""Two classifiers of the same texts, one reading forward and one backward, that answer together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, final

import torch

from etude.errors import ConfigError
from etude.text.reader import TextReader
from etude.training.learner import Learner
from etude.training.predict import Prediction, Predictions


def pair(forward: Learner, backward: Learner) -> Pair:
    """Two classifiers as one: the mean of their probabilities counts.

    Args:
        forward: reads texts from their beginnings.
        backward: from their ends: its data were loaded with backward=True, and its encoder's too.

    Raises:
        ConfigError: one is no classifier of texts, they know different classes, or they do not read in two ways.

    Source: Howard and Ruder 2018, section 3.3, "Bidirectional language model"; SPEC R28.
    """
    for learner, ends in ((forward, False), (backward, True)):
        read = learner.data.read
        if not isinstance(read, TextReader) or read.backward != ends:
            raise ConfigError(f"pair(forward, backward) needs a classifier whose texts are loaded with backward={ends}")
    classes = [None if one.data.vocab is None else list(one.data.vocab) for one in (forward, backward)]
    if None in classes or classes[0] != classes[1]:
        raise ConfigError(f"the two must know the same classes in the same order, got {classes[0]} and {classes[1]}")
    return Pair(forward, backward)


@final
@dataclass(frozen=True)
class Pair:
    """Two classifiers as one; see `pair`."""

    forward: Learner
    backward: Learner

    def predict(self, items: Any = None) -> Prediction | Predictions:
        """What the two say of new items together.

        Args:
            items: one text or file, or several, as `Learner.predict` takes them; None for the validation data.

        Raises:
            ConfigError: the validation data of the two have other targets.
        """
        items = list(items) if isinstance(items, Iterator) else items
        one, other = self.forward.predict(items), self.backward.predict(items)
        if isinstance(one, Prediction):
            output = (one.output + other.output) / 2
            return Predictions(output.unsqueeze(0), None, self.forward.data.vocab, probable=True)[0]
        if one.targets is not None and not torch.equal(one.targets, other.targets):
            raise ConfigError("the two were given other validation texts; load both from the same ones, with one seed")
        return replace(one, output=(one.output + other.output) / 2)  # type: ignore[no-any-return]  # it is one or other

    def evaluate(self) -> dict[str, float]:
        """Cross entropy (as "loss") and accuracy of the two together on the validation data."""
        together = self.predict()
        assert isinstance(together, Predictions)
        if together.targets is None:
            raise ConfigError("there are no true classes to compare with")
        of_true = together.output.double().gather(1, together.targets.unsqueeze(1))
        return {"loss": -of_true.log().mean().item(), "accuracy": together.num_right / len(together)}
