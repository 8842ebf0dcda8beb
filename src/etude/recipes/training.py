"""One training on pictures as it was asked for: what its recipe, plan, learning-rate finder and resume begin from."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from etude.recipes import pictures
from etude.recipes.options import (
    DataOptions,
    ModelOptions,
    TrainOptions,
    TuningOptions,
    check,
    check_target,
    flags,
    refuse_changed,
)
from etude.recipes.pictures import Groups
from etude.recipes.recorded import options_of, words
from etude.recipes.teacher import check_student, check_teacher
from etude.recipes.trained import with_leaks_told
from etude.training.tuning import TuningPhase, total_epochs, tuning_phases

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from etude.data.loaders import DataLoaders
    from etude.recipes.options import Precision
    from etude.schedules import Cycle
    from etude.training.callbacks.scheduler import Momentum
    from etude.training.learner import Learner
    from etude.types import Json

Kind = Literal["pictures", "whole pictures", "digits"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training as it was asked for.

    Args:
        name: of its run's folder.
        kind: what is trained on: "pictures" in random windows; "whole pictures", squashed and not augmented, as the
            studies do; or the "digits" of the demo.
        data: which pictures; nothing of it is read for digits.
        model: which model; nothing of it is read for digits.
        train: how to train.
        fold: (which, of how many) is held out, counted from 0.
        tuning: how its body is fine-tuned; None trains everything in one fit.
        phases: instead of those that `tuning` asks for.
        groups: the layer groups of the model.
    """

    name: str
    kind: Kind = "pictures"
    data: DataOptions = field(default_factory=DataOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    fold: tuple[int, int] | None = None
    tuning: TuningOptions | None = None
    phases: tuple[TuningPhase, ...] = ()
    groups: Groups = "body and head"

    def record(self) -> dict[str, Json]:
        """All of it as JSON, for a run's record."""
        return asdict(self)

    def flags(self) -> dict[str, Json]:
        """Its options under their flag names; for digits only those that have an effect."""
        tuning = () if self.tuning is None else (self.tuning,)
        return flags(self.train) if self.kind == "digits" else flags(self.data, self.model, self.train, *tuning)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Training:
        """What `record` gave; raises `KeyError` or `TypeError` for something else."""
        fold = record["fold"]
        return cls(
            name=record["name"],
            kind=record["kind"],
            data=options_of(DataOptions, record["data"]),
            model=options_of(ModelOptions, record["model"]),
            train=options_of(TrainOptions, record["train"]),
            fold=None if fold is None else (fold[0], fold[1]),
            tuning=options_of(TuningOptions, record["tuning"]) if record.get("tuning") else None,
            phases=tuple(map(TuningPhase.of, record.get("phases", ()))),
            groups=record.get("groups", "body and head"),
        )

    def check(self) -> None:
        """Refuse what cannot be trained before pictures are read, which may take minutes.

        Raises:
            ConfigError: naming the flag, the model or the device.
            LoadError: a folder holds no model.
        """
        check(self.train) if self.kind == "digits" else check(self.data, self.train)
        check_teacher(self.train)
        if self.tuning is not None:
            check(self.tuning)
        self.all_phases()
        if self.kind != "digits":
            check_target(self.data, self.train)
            pictures.check_model(self.model, self.train, self.data.size)
        else:
            refuse_changed(self.train, ("progressive",), "the digits are 8 pixels small")
            refuse_changed(self.train, ("loss",), "it is one of numbers, and digits are classes")

    def learner(self, *, quiet: bool) -> Learner:
        """The learner, its random seed set."""
        import torch

        if self.kind == "digits":
            from etude.recipes.demo import digits_learner

            torch.manual_seed(self.train.seed)
            made = digits_learner(self.train, quiet=quiet)
        else:
            loaders = with_leaks_told(self.loaders(quiet=quiet), self.model, self.data, quiet=quiet)
            torch.manual_seed(self.train.seed)
            made = pictures.learner(loaders, self.model, self.train, self.groups, quiet=quiet)
        check_student(made)
        return made

    def all_phases(self) -> list[TuningPhase]:
        """The fits that it is made of; none for a training in one fit."""
        asked, train = self.tuning, self.train
        phases = list(self.phases)
        if asked is not None and not phases:
            phases = tuning_phases(
                None,
                train.lr,
                freeze_epochs=asked.freeze_epochs,
                norm=asked.norm,
                num_groups=3 if asked.gradual else 2,
                gradual=asked.gradual,
                pct_start=train.pct_start,
            )
        return [replace(one, epochs=train.epochs if one.epochs is None else one.epochs) for one in phases]

    @property
    def num_epochs(self) -> int:
        """Of all its phases together."""
        return total_epochs(self.all_phases(), self.train.epochs) or self.train.epochs

    def about(self) -> dict[str, Json]:
        """What a run's record says of it beside its options: all its epochs, and which weights its body had."""
        from etude.training import saving

        source, body = self.model.pretrained or self.model.arch, None
        if Path(source).exists() and self.kind != "digits":
            body = {"from": str(Path(source).absolute()), "weights_sha256": saving.digest_of_weights(source)}
        return {"epochs": self.num_epochs, "body": body}

    def introduction(self) -> str:
        """What is said before anything is read; empty for pictures, of which reading says more."""
        if self.kind != "digits":
            return ""
        from etude.recipes.demo import INTRODUCTION

        return INTRODUCTION

    def next_steps(self, run: Path) -> str:
        """What one might do with the trained run."""
        if self.kind != "digits":
            return f"next: etude predict {shlex.quote(str(run))} FILES"
        from etude.recipes.demo import NEXT_STEPS

        return NEXT_STEPS.format(folder=run)

    def schedule(self) -> Cycle:
        """How its learning rate and momentum go."""
        from etude.schedules import one_cycle

        return partial(one_cycle, pct_start=self.train.pct_start)

    def loaders(self, *, quiet: bool) -> DataLoaders:
        """Its pictures."""
        return pictures.loaders(self.data, self.train, fold=self.fold, whole=self.kind == "whole pictures", quiet=quiet)

    @property
    def momentum(self) -> Momentum:
        """The schedule's own."""
        return "auto"

    def command(self, lr: float) -> list[str]:
        """The words of the command that asks for it with a learning rate."""
        start = ["etude", self.name]
        if self.kind == "digits":
            return [*start, *words(self.train, leave_out=("lr",)), "--lr", f"{lr:.1e}"]
        leave_out = ["lr"]
        if self.name in ("train", "finetune") and self.data.data is not None:
            leave_out.append("data")
            start.append(self.data.data)
        renamed = {"arch" if self.model.pretrained is None else "pretrained": "from"}
        tuning = () if self.tuning is None else (self.tuning,)
        given = words(
            *(self.data, self.model, self.train, *tuning),
            leave_out=leave_out,
            renamed=renamed if self.name == "finetune" else None,
        )
        return [*start, *given, "--lr", f"{lr:.1e}"]

    def outcome(self, learner: Learner, folder: Path) -> dict[str, Json]:
        """Look at the held-out pictures."""
        return pictures.outcome(learner, folder)

    def told(self, result: Mapping[str, Json]) -> str:
        """A run's result in words."""
        return pictures.told(result)

    def seeded(self, seed: int) -> Training:
        """The same training once, with this seed."""
        return replace(self, train=replace(self.train, seed=seed, seeds=1))

    def in_precision(self, precision: Precision) -> Training:
        """The same training in another number format."""
        return replace(self, train=replace(self.train, precision=precision))

    def beside(self, folder: Path) -> Training:
        """The same: no training on pictures begins from one beside it."""
        return self

    def resumed(
        self, train: Mapping[str, Any], data: str | None, found: Callable[[str], str], folder: Path
    ) -> Training:
        """The same training where it goes on; see `Asked`."""
        own, teacher = self.data.data, self.train.teacher
        return replace(
            self,
            data=replace(self.data, data=data or (None if own is None else found(own))),
            model=pictures.found_again(self.model, found, folder),
            train=replace(self.train, **{**train, "teacher": None if teacher is None else found(teacher)}),
        )
