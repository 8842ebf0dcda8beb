"""What every training has in common, whatever it learns from: what runs, plans, resumes and repeats one reads of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from etude.recipes.options import FitOptions, Precision
    from etude.schedules import Cycle
    from etude.training.callbacks.scheduler import Momentum
    from etude.training.learner import Learner
    from etude.training.tuning import TuningPhase
    from etude.types import Json


class Asked(Protocol):
    """One training as it was asked for: of pictures (`Training`) or of texts (`TextTraining`)."""

    @property
    def name(self) -> str:
        """Of the command, and of the run's folder."""
        ...

    @property
    def kind(self) -> str:
        """What is trained on what: by it `training_of` knows the record's class."""
        ...

    @property
    def train(self) -> FitOptions:
        """How to train."""
        ...

    @property
    def momentum(self) -> Momentum:
        """What the schedule takes; see `Learner.fit`."""
        ...

    @property
    def num_epochs(self) -> int:
        """Of all its phases together."""
        ...

    def record(self) -> dict[str, Json]:
        """All of it as JSON, for a run's record."""
        ...

    def flags(self) -> dict[str, Json]:
        """Its options under their flag names; only those that have an effect."""
        ...

    def command(self, lr: float) -> list[str]:
        """The words of the command that asks for it with a learning rate, all flags that are not at their defaults."""
        ...

    def check(self) -> None:
        """Refuse what cannot be trained, before data is read; raises `ConfigError` or `LoadError`."""
        ...

    def learner(self, *, quiet: bool) -> Learner:
        """The learner, its random seed set."""
        ...

    def all_phases(self) -> list[TuningPhase]:
        """The fits that it is made of; none for a training in one fit."""
        ...

    def schedule(self) -> Cycle:
        """How its learning rate and momentum go."""
        ...

    def about(self) -> dict[str, Json]:
        """What a run's record says of it beside its options: all its epochs, and which weights it began from."""
        ...

    def outcome(self, learner: Learner, folder: Path) -> dict[str, Json]:
        """Look at the trained learner: pictures into the run's folder, and what belongs into its result."""
        ...

    def introduction(self) -> str:
        """What is said before anything is read; may be empty."""
        ...

    def told(self, result: Mapping[str, Json]) -> str:
        """A run's result in words."""
        ...

    def next_steps(self, run: Path) -> str:
        """What one might do with the trained run."""
        ...

    def seeded(self, seed: int) -> Self:
        """The same training once, with this seed."""
        ...

    def in_precision(self, precision: Precision) -> Self:
        """The same training in another number format."""
        ...

    def beside(self, folder: Path) -> Self:
        """The same training as one of several whose folders lie in this one, which may begin from another of them."""
        ...

    def resumed(self, train: Mapping[str, Any], data: str | None, found: Callable[[str], str], folder: Path) -> Self:
        """The same training where it goes on.

        Args:
            train: of its options, what was measured or is to be changed.
            data: where the data lies now; None where it was.
            found: from a path, as it was meant where the run was started, to where it is from here.
            folder: the run's.
        """
        ...


def training_of(record: Mapping[str, Any]) -> Asked:
    """What `record` of either class gave; raises `KeyError` or `TypeError` for something else."""
    from etude.recipes.text_training import KINDS, TextTraining
    from etude.recipes.training import Training

    return TextTraining.of(record) if record.get("kind") in KINDS else Training.of(record)
