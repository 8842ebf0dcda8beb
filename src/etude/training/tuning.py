"""Fine-tuning as a list of phases, each one fit with its own part of the model trainable. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
        reset_optimizer: begin with a new optimizer instead of keeping momentum and step counts.
    """

    epochs: int | None = None
    lr: float | tuple[float, ...]
    trained: int | None = None
    norm: NormPolicy = "train"
    pct_start: float = 0.3
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
        lr = record["lr"]
        return cls(**{**record, "lr": tuple(lr) if isinstance(lr, list) else lr})


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
    frozen = [
        TuningPhase(epochs=freeze_epochs, lr=lr if count == 1 else rates, trained=count, norm=norm, pct_start=pct_start)
        for count in counts
        if freeze_epochs
    ]
    return [*frozen, TuningPhase(epochs=num_epochs, lr=rates, pct_start=pct_start)]


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
