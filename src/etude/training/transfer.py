"""Freezing: train the head while the body stands still, with an explicit policy for the norms in it.

A frozen BatchNorm is not one thing. In training mode it still normalizes by the batch and still moves its running
statistics; only its scale and shift stand still. What the lesson found is that freezing those ruins the result, so
they train unless told otherwise.

Source: SPEC T6-T10.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, final

from torch import Tensor, nn
from typing_extensions import override

from etude.errors import ConfigError
from etude.layers import NORMS
from etude.schedules import one_cycle
from etude.training import checkpoint
from etude.training.adapt import Adapted as Adapted
from etude.training.adapt import adapt as adapt
from etude.training.adapt import cut as cut
from etude.training.adapt import width_of as width_of
from etude.training.callback import Callback
from etude.training.optimizer import layer_groups
from etude.training.snapshot import Snapshot
from etude.training.tuning import NormPolicy, TuningPhase, check_norm, tuning_phases
from etude.training.weights import LoadReport as LoadReport
from etude.training.weights import load_weights as load_weights
from etude.types import Json

if TYPE_CHECKING:
    import os

    from etude.training.history import History
    from etude.training.learner import Learner

# -- layer groups -----------------------------------------------------------------------------------------------------


def norms_with_head(model: nn.Module) -> list[list[nn.Parameter]]:
    """Two layer groups: the body without its norms, and the norms with the head. For `Learner(groups=...)`.

    With a learning rate of 0 for the first group, it is as if frozen, and the norms train at the head's rate.

    Source: SPEC T9, T10.
    """
    *body, head = [group["params"] for group in layer_groups(model)]
    norms = {parameter for module in model.modules() if isinstance(module, NORMS) for parameter in module.parameters()}
    inner = [parameter for group in body for parameter in group]
    return [[one for one in inner if one not in norms], [*(one for one in inner if one in norms), *head]]


def in_thirds(model: nn.Module) -> list[list[nn.Parameter]]:
    """Three layer groups: the first half of the body, by its tensors, the second half, and the head.

    Cut between two children of the body, so that no block is divided. For gradual unfreezing.
    """
    *body, head = [group["params"] for group in layer_groups(model)]
    inner = {parameter for group in body for parameter in group}
    units = _units(model, inner)
    if len(units) < 2:
        raise ConfigError(f"the body of {type(model).__name__} has no parts to cut between; write groups= yourself")
    ends = list(accumulate(map(len, units[:-1])))
    middle = min(range(len(ends)), key=lambda i: abs(2 * ends[i] - len(inner)))
    first = [one for unit in units[: middle + 1] for one in unit]
    taken = set(first)
    return [first, [one for group in body for one in group if one not in taken], list(head)]


def _units(model: nn.Module, inner: set[nn.Parameter]) -> list[list[nn.Parameter]]:
    """The body's parameters, child by child; a body that is one child is opened."""
    units = [[one for one in child.parameters() if one in inner] for child in model.children()]
    units = [unit for unit in units if unit]
    if len(units) != 1:
        return units
    (body,) = (child for child in model.children() if inner & set(child.parameters()))
    return _units(body, inner) if list(body.children()) else units


# -- freezing ---------------------------------------------------------------------------------------------------------


def freeze_body(learner: Learner, norm: NormPolicy = "train") -> list[Callback]:
    """Let only the last layer group train; see `freeze`."""
    return freeze(learner, 1, norm)


def freeze(learner: Learner, trained: int = 1, norm: NormPolicy = "train") -> list[Callback]:
    """Let only the last layer groups train.

    Args:
        learner: its model must have more layer groups than are to train. What was frozen before stays so.
        trained: how many groups, from the head on.
        norm: for the norms of the frozen groups. "train": scale and shift train, statistics move (the lesson's
            finding). "affine": scale and shift stand still, statistics move. "frozen": both stand still.

    Returns:
        The callbacks that the fit needs for it.

    Raises:
        ConfigError: nothing would be left to freeze.
    """
    check_norm(norm)
    groups = layer_groups(learner.model, learner.groups)
    if len(groups) <= trained:
        count = "one layer group" if len(groups) == 1 else f"{len(groups)} layer groups"
        raise ConfigError(
            f"{type(learner.model).__name__} has {count}, so there is no body to freeze with trained={trained}; pass "
            "groups= to the learner, with the head last"
        )
    head = {parameter for group in groups[-trained:] for parameter in group["params"]}
    frozen_before = {parameter for parameter in learner.model.parameters() if not parameter.requires_grad}
    for parameter in learner.model.parameters():
        parameter.requires_grad_(parameter in head and parameter not in frozen_before)
    norms = {name: module for name, module in learner.model.named_modules() if isinstance(module, NORMS)}
    if norm == "train":
        for parameter in {parameter for module in norms.values() for parameter in module.parameters()} - frozen_before:
            parameter.requires_grad_(True)
    if norm != "frozen":
        return []
    return [HoldNorms([name for name, module in norms.items() if not _belongs_to(head, learner.model, name, module)])]


def _belongs_to(head: set[nn.Parameter], model: nn.Module, name: str, norm: nn.Module) -> bool:
    """Whether a norm is part of the head: by its own parameters or, without any, by those of the module it is in."""
    around = set(norm.parameters()) or set(model.get_submodule(name.rpartition(".")[0]).parameters())
    return bool(around) and around <= head


def unfreeze(learner: Learner) -> None:
    """Let every parameter train."""
    learner.model.requires_grad_(True)


# -- training in phases -----------------------------------------------------------------------------------------------


def fine_tune(
    learner: Learner,
    num_epochs: int,
    lr: float,
    freeze_epochs: int,
    norm: NormPolicy,
    gradual: bool,
    momentum: tuple[float, float] | None,
    callbacks: Sequence[Callback],
    resume: Snapshot | str | os.PathLike[str] | None,
) -> History:
    """Train the head alone, then everything with lower learning rates for the body; see `Learner.fine_tune`."""
    count = len(layer_groups(learner.model, learner.groups))
    phases = tuning_phases(
        num_epochs,
        lr,
        freeze_epochs=freeze_epochs,
        norm=norm,
        num_groups=count,
        gradual=gradual,
        momentum=momentum,
    )
    return run_phases(learner, phases, callbacks=callbacks, resume=resume)


def run_phases(
    learner: Learner,
    phases: Sequence[TuningPhase],
    *,
    callbacks: Sequence[Callback] = (),
    resume: Snapshot | str | os.PathLike[str] | None = None,
    change: Collection[str] = (),
    say: Callable[[str], None] | None = None,
) -> History:
    """Fit a learner in phases, each with its own part of the model trainable; afterwards all is as it was.

    Args:
        learner: what is trained.
        phases: in their order; their `epochs` must be numbers.
        callbacks: for every phase, after the learner's own.
        resume: a checkpoint of the same call; training goes on in the phase in which it was taken.
        change: what may differ from then; see `Learner.fit`.
        say: told of each phase before it begins; None prints it where the learner shows progress.

    Returns:
        The history of the last phase.
    """
    snapshot = resume if resume is None or isinstance(resume, Snapshot) else checkpoint.read_newest(resume)
    first = 0 if snapshot is None else snapshot.progress["phase"]
    if not first < len(phases):
        raise ConfigError(f"the checkpoint is of phase {first + 1}, but there are {len(phases)}; pass the same phases")
    try:
        for i, phase in enumerate(phases[first:], first):
            assert phase.epochs is not None
            with in_phase(learner, phase) as held:
                learner.progress.phase = i
                if len(phases) > 1 and (say or learner.show_progress):
                    (say or print)(f"phase {i + 1} of {len(phases)}: {describe_phase(learner, phase)}")
                history = learner.fit(
                    phase.epochs,
                    lr=phase.lr,
                    schedule=partial(one_cycle, pct_start=phase.pct_start),
                    momentum="auto" if phase.momentum is None else phase.momentum,
                    callbacks=[*held, *callbacks],
                    resume=snapshot,
                    change=change,
                    reset_optimizer=phase.reset_optimizer,
                )
            snapshot, change = None, ()
            if history.stopped and i + 1 < len(phases):
                # else the next fit would write over why
                note = f"phase {i + 1} of {len(phases)} ended early: {history.stopped}"
                learner.history.notes.append(note)
                if say or learner.show_progress:
                    (say or print)(note)
        return history
    finally:
        learner.progress.phase = 0


@contextmanager
def in_phase(learner: Learner, phase: TuningPhase) -> Iterator[list[Callback]]:
    """Inside, only what the phase trains is trainable; gives the callbacks that its fit needs."""
    trainable = {parameter: parameter.requires_grad for parameter in learner.model.parameters()}
    try:
        yield [] if phase.trained is None else freeze(learner, phase.trained, phase.norm)
    finally:
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)


_WORDS = {
    "train": "the norms of the rest train",
    "affine": "the norms of the rest only move their statistics",
    "frozen": "the norms of the rest stand still",
}


def describe_phase(learner: Learner, phase: TuningPhase) -> str:
    """A phase in words; the learner must be frozen for it already."""
    total = sum(parameter.numel() for parameter in learner.model.parameters())
    trained = sum(parameter.numel() for parameter in learner.model.parameters() if parameter.requires_grad)
    rates = phase.lr if isinstance(phase.lr, tuple) else (phase.lr,)
    lr = f"lr {', '.join(f'{rate:.3g}' for rate in rates)}"
    epochs = f"{phase.epochs} epoch{'' if phase.epochs == 1 else 's'}"
    if 0 in rates:
        groups = zip(layer_groups(learner.model, learner.groups), rates, strict=False)
        moving = sum(one.numel() for group, rate in groups if rate for one in group["params"] if one.requires_grad)
        return f"{moving:,} of {total:,} parameters train, the others have a rate of 0, {epochs}, {lr}"
    if phase.trained is None:
        return f"all {total:,} parameters train, {epochs}, {lr}"
    what = "the head trains" if phase.trained == 1 else f"the last {phase.trained} layer groups train"
    norms = f", {_WORDS[phase.norm]}" if any(isinstance(module, NORMS) for module in learner.model.modules()) else ""
    return f"{what}{norms} ({trained:,} of {total:,} parameters), {epochs}, {lr}"


@final
class HoldNorms(Callback):
    """Keep some norms in evaluation mode while the rest of the model trains, so that their statistics stand still.

    Args:
        names: the norms, as in `model.named_modules()`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)

    @override
    def before_step(self, learner: Learner) -> None:
        """The loop puts the whole model in training mode at the start of an epoch; take these back."""
        for name in self.names:
            learner.model.get_submodule(name).eval()

    @override
    def config(self) -> dict[str, Json]:
        """The names."""
        return {"names": list(self.names)}


def norm_state(model: nn.Module, holding: Collection[str] = ()) -> dict[str, str]:
    """What each norm does in a training step, in the words of the policies.

    Args:
        model: its `requires_grad` flags tell whether scale and shift train.
        holding: norms that are kept in evaluation mode, as by `HoldNorms`.

    Returns:
        Name to "train", "affine" (of the two only the statistics move) or "frozen".
    """
    states = {}
    for name, module in model.named_modules():
        if not isinstance(module, NORMS):
            continue
        trains = any(parameter.requires_grad for parameter in module.parameters())
        keeps = isinstance(getattr(module, "running_mean", None), Tensor)
        moves = keeps and name not in holding
        states[name] = "train" if trains else "affine" if moves else "frozen"
    return states
