"""Fine-tuning as a list of phases, each one fit with its own part of the model trainable. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias, final, get_args

from etude.errors import ConfigError

NormPolicy: TypeAlias = Literal["train", "affine", "frozen"]
"""What the norms of the frozen part do: "train": scale and shift train, statistics move. "affine": scale and shift
stand still, statistics move. "frozen": both stand still."""

_LOWEST: Final = 200
"""The first of several layer groups trains at a two-hundredth of the learning rate that was asked for."""


@final
@dataclass(frozen=True, kw_only=True)
class TuningPhase:
    """One fit of a training in phases.

    Args:
        epochs: passes over the data; None takes the training's own number.
        lr: the peak learning rate, or one for each layer group.
        trained: how many layer groups train, counted from the head; None is all.
        norm: what the norms of the frozen groups do.
        pct_start: the share of the phase in which the learning rate goes up.
        momentum: (at both ends, at the peak of the learning rate); None is the schedule's own.
        reset_optimizer: begin with a new optimizer instead of keeping momentum and step counts.
    """

    epochs: int | None = None
    lr: float | tuple[float, ...]
    trained: int | None = None
    norm: NormPolicy = "train"
    pct_start: float = 0.3
    momentum: tuple[float, float] | None = None
    reset_optimizer: bool = False

    def __post_init__(self) -> None:
        check_norm(self.norm)
        if self.trained is not None and self.trained < 1:
            raise ConfigError(f"a phase must train at least one layer group, got trained={self.trained}")
        if self.epochs is not None and self.epochs < 1:
            raise ConfigError(f"a phase needs at least one epoch, got epochs={self.epochs}")

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> TuningPhase:
        """From JSON, where a tuple is a list; raises `TypeError` for something else."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
        }
        return cls(**values)


def check_norm(norm: object) -> None:
    """Refuse a policy that there is not; raises `ConfigError`."""
    if norm not in get_args(NormPolicy):
        raise ConfigError(f"norm must be 'train', 'affine' or 'frozen', got {norm!r}")


def tuning_phases(
    num_epochs: int | None,
    lr: float,
    *,
    freeze_epochs: int = 1,
    norm: NormPolicy = "train",
    num_groups: int = 2,
    gradual: bool = False,
    pct_start: float = 0.3,
    momentum: tuple[float, float] | None = None,
) -> list[TuningPhase]:
    """The head alone, then everything; gradually, one more layer group in each phase in between.

    Args:
        num_epochs: of the last phase, in which everything trains.
        lr: the head's peak learning rate while it trains alone; half of it afterwards, and less for earlier groups.
        freeze_epochs: of each phase before the last; 0 leaves those phases out.
        norm: what the norms of frozen groups do.
        num_groups: layer groups of the model.
        gradual: unfreeze one group after the other, from the head on.
        pct_start: the share of each phase in which the learning rate goes up.
        momentum: of each phase; see `TuningPhase`.

    Source: SPEC T6, T10; gradual unfreezing: Howard & Ruder 2018, section 3.3.

    >>> [(phase.trained, phase.epochs) for phase in tuning_phases(5, 1e-2, num_groups=3, gradual=True)]
    [(1, 1), (2, 1), (None, 5)]
    """
    if freeze_epochs < 0:
        raise ConfigError(f"freeze_epochs must be 0 or more, got {freeze_epochs}")
    check_norm(norm)
    if gradual and not freeze_epochs:
        raise ConfigError("gradual unfreezing needs freeze_epochs of at least 1: they are the length of its phases")
    if gradual and num_groups < 3:
        raise ConfigError(
            f"gradual unfreezing needs at least 3 layer groups, the model has {num_groups}; pass the learner "
            "groups=transfer.in_thirds"
        )
    rates = discriminative(lr, num_groups)
    counts = range(1, num_groups) if gradual else (1,)
    last = TuningPhase(epochs=num_epochs, lr=rates, pct_start=pct_start, momentum=momentum)
    frozen = [
        replace(last, epochs=freeze_epochs, lr=lr if count == 1 else rates, trained=count, norm=norm)
        for count in counts
        if freeze_epochs
    ]
    return [*frozen, last]


def ulmfit_phases(
    num_groups: int,
    lr: float = 1e-2,
    *,
    num_epochs: int | None = 2,
    freeze_epochs: int = 1,
    pct_start: float = 0.3,
    momentum: tuple[float, float] | None = (0.8, 0.7),
) -> list[TuningPhase]:
    """A text classifier on a pretrained encoder, as the notes train it: the head, then the last layer too, then all.

    The last layer's phase has half the learning rate for the head and a quarter for the layer; the last phase a tenth
    for the head, and half as much for each layer group before it.

    Args:
        num_groups: layer groups of the classifier.
        lr: the head's peak learning rate while it trains alone.
        num_epochs: with everything trainable; None takes the training's own number.
        freeze_epochs: of each of the two phases before; 0 leaves them out.
        pct_start: the share of each phase in which the learning rate goes up.
        momentum: of each phase.

    Source: SPEC R26; Howard and Ruder 2018, section 3.3.

    >>> [phase.lr for phase in ulmfit_phases(4)]
    [0.01, (0.0025, 0.0025, 0.0025, 0.005), (0.000125, 0.00025, 0.0005, 0.001)]
    """
    if num_groups < 3:
        raise ConfigError(f"an embedding, layers and a head are at least 3 layer groups, got {num_groups}")
    halved = tuple(lr / 10 / 2 ** (num_groups - 1 - i) for i in range(num_groups))
    last = TuningPhase(epochs=num_epochs, lr=halved, pct_start=pct_start, momentum=momentum)
    if not freeze_epochs:
        return [last]
    head = replace(last, epochs=freeze_epochs, lr=lr, trained=1)
    return [head, replace(head, lr=(*[lr / 4] * (num_groups - 1), lr / 2), trained=2), last]


def corpus_phases(
    num_groups: int,
    lr: float = 2e-2,
    *,
    num_epochs: int | None = 10,
    freeze_epochs: int = 1,
    pct_start: float = 0.5,
    momentum: tuple[float, float] | None = (0.8, 0.7),
) -> list[TuningPhase]:
    """A pretrained language model on a corpus of its own, as the notes train it: the words first, then everything.

    New words have only the mean of the known ones to begin with, so the embedding, which is the decoder too, trains
    alone first; afterwards it has a tenth of the learning rate, and the layers a twentieth.

    Args:
        num_groups: layer groups of the language model, its embedding last.
        lr: the embedding's peak learning rate while it trains alone.
        num_epochs: with everything trainable; None takes the training's own number.
        freeze_epochs: with only the embedding trainable; 0 leaves that out.
        pct_start: the share of each phase in which the learning rate goes up.
        momentum: of each phase.

    Source: SPEC R19, T-C2.

    >>> [phase.lr for phase in corpus_phases(3)]
    [0.02, (0.001, 0.001, 0.002)]
    """
    rates = (*[lr / 20] * (num_groups - 1), lr / 10)
    last = TuningPhase(epochs=num_epochs, lr=rates, pct_start=pct_start, momentum=momentum)
    return [*([replace(last, epochs=freeze_epochs, lr=lr, trained=1)] if freeze_epochs else []), last]


def discriminative(lr: float, num_groups: int) -> tuple[float, ...]:
    """A learning rate for each layer group, evenly spaced in logarithm: the later a layer, the more it has to learn.

    Half of `lr` for the last group, a tenth of that for the body of two, a hundredth for the first of more.

    >>> discriminative(2.0, 2), discriminative(2.0, 3)
    ((0.1, 1.0), (0.01, 0.1, 1.0))

    Source: SPEC T10; Howard & Ruder 2018, section 3.1.
    """
    factor = 0.1 if num_groups < 3 else (2 / _LOWEST) ** (1 / (num_groups - 1))
    return tuple(lr / 2 * factor ** (num_groups - 1 - i) for i in range(num_groups))


def total_epochs(phases: Sequence[TuningPhase], own: int) -> int:
    """Epochs of all phases together, with the training's own number where a phase takes that."""
    return sum(own if phase.epochs is None else phase.epochs for phase in phases)
