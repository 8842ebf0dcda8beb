"""Two classifiers of the same texts, one reading forward and one backward, that answer together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from etude.errors import ConfigError
from etude.text.batching import BucketLoader
from etude.text.reader import TextReader
from etude.training.learner import Learner
from etude.training.predict import Prediction, Predictions

if TYPE_CHECKING:
    from jaxtyping import Float, Int


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
            ConfigError: the validation texts of the two are not the same.
        """
        if items is None:
            self._check_texts()
        items = list(items) if isinstance(items, Iterator) else items
        one, other = self.forward.predict(items), self.backward.predict(items)
        if isinstance(one, Prediction):
            output = (one.output + other.output) / 2
            return Predictions(output.unsqueeze(0), None, self.forward.data.vocab, probable=True)[0]
        return replace(one, output=(one.output + other.output) / 2)  # type: ignore[no-any-return]  # it is one or other

    def evaluate(self) -> dict[str, float]:
        """Cross entropy (as "loss") and accuracy of the two together on the validation data."""
        targets = self._check_texts()
        # the mean of the probabilities, in logarithms: one that float32 rounds to 0 would make the loss infinite
        log_probs = torch.logaddexp(_log_probs(self.forward), _log_probs(self.backward)) - math.log(2)
        right = log_probs.argmax(1) == targets
        return {"loss": F.nll_loss(log_probs, targets).item(), "accuracy": right.double().mean().item()}

    def _check_texts(self) -> Int[Tensor, "text"]:
        """The classes of the validation texts; raises `ConfigError` unless both learners have the same ones."""
        one, other = self.forward.data.valid, self.backward.data.valid
        if not isinstance(one, BucketLoader) or not isinstance(other, BucketLoader):
            raise ConfigError("there are no validation texts; load both sides with valid=")
        same = one.names == other.names and torch.equal(one.targets, other.targets)
        reads, checks = (self.forward.data.read, self.backward.data.read), (one.store.checks, other.store.checks)
        assert isinstance(reads[0], TextReader)
        assert isinstance(reads[1], TextReader)
        if same and reads[0].vocab == reads[1].vocab and checks[0] is not None and checks[1] is not None:
            # texts that were given as such have numbers for names
            same = torch.equal(checks[0][one.rows.cpu()], checks[1][other.rows.cpu()])
        if not same:
            raise ConfigError("the two were given other validation texts; load both from the same ones, with one seed")
        return one.targets.cpu()


def _log_probs(learner: Learner) -> Float[Tensor, "text class"]:
    """Of the validation texts in the order of the data, in float64; they are read longest first."""
    assert learner.data.valid is not None
    found: list[Tensor] = []
    places: list[Tensor] = []
    with learner.evaluating():
        for batch in learner.data.valid.batches(0, learner.device):
            assert batch.indices is not None
            found.append(learner.preds(batch).detach().cpu().double().log_softmax(1))
            places.append(batch.indices.cpu())
    return torch.cat(found)[torch.cat(places).argsort()]
