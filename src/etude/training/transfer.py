"""Freezing: train the head while the body stands still, with an explicit policy for the norms in it.

A frozen BatchNorm is not one thing. In training mode it still normalizes by the batch and still moves its running
statistics; only its scale and shift stand still. What the lesson found is that freezing those ruins the result, so
they train unless told otherwise.

Source: SPEC T6-T8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, final

from torch import nn
from typing_extensions import override

from etude.errors import ConfigError
from etude.layers import NORMS
from etude.training import checkpoint
from etude.training.callback import Callback
from etude.training.optimizer import layer_groups
from etude.training.snapshot import Snapshot
from etude.types import Json

if TYPE_CHECKING:
    import os

    from etude.training.history import History
    from etude.training.learner import Learner

NormPolicy: TypeAlias = Literal["train", "affine", "frozen"]


def freeze_body(learner: Learner, norm: NormPolicy = "train") -> list[Callback]:
    """Let only the last layer group train.

    Args:
        learner: its model must have at least two layer groups.
        norm: for the norms of the frozen part. "train": scale and shift train, statistics move (the lesson's finding).
            "affine": scale and shift stand still, statistics move. "frozen": both stand still.

    Returns:
        The callbacks that the fit needs for it.

    Raises:
        ConfigError: the model has a single layer group, so there is no body.
    """
    if norm not in ("train", "affine", "frozen"):
        raise ConfigError(f"norm must be 'train', 'affine' or 'frozen', got {norm!r}")
    groups = layer_groups(learner.model, learner.groups)
    if len(groups) < 2:
        raise ConfigError(
            f"{type(learner.model).__name__} has one layer group, so there is no body to freeze; pass groups= to the "
            "learner, with the head last"
        )
    head = set(groups[-1]["params"])
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


def fine_tune(
    learner: Learner,
    num_epochs: int,
    lr: float,
    freeze_epochs: int,
    norm: NormPolicy,
    callbacks: Sequence[Callback],
    resume: Snapshot | str | os.PathLike[str] | None,
) -> History:
    """Train the head alone, then everything with a lower learning rate for the body."""
    snapshot = resume if resume is None or isinstance(resume, Snapshot) else checkpoint.read_newest(resume)
    phase = 0 if snapshot is None else snapshot.progress["phase"]
    trainable = {parameter: parameter.requires_grad for parameter in learner.model.parameters()}
    try:
        if freeze_epochs and phase == 0:
            frozen = freeze_body(learner, norm)
            learner.fit(freeze_epochs, lr=lr, callbacks=[*frozen, *callbacks], resume=snapshot)
            snapshot = None
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)
        count = len(layer_groups(learner.model, learner.groups))
        # each group a factor below the next one, a hundredth for the first of many: the head has the most to learn
        rates = [max(lr / 2 * 0.1 ** (count - 1 - i), lr / 200) for i in range(count)]
        learner.progress.phase = 1
        return learner.fit(num_epochs, lr=rates, callbacks=callbacks, resume=snapshot)
    finally:
        learner.progress.phase = 0
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)


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
