"""One training as it was asked for: what a recipe, its plan, its learning-rate finder and its resume all begin from."""

from __future__ import annotations

import shlex
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

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
from etude.recipes.teacher import check_student, check_teacher, step_of
from etude.recipes.trained import with_leaks_told
from etude.training.tuning import TuningPhase, total_epochs, tuning_phases

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from etude.data.loaders import Augment, DataLoaders
    from etude.schedules import Cycle
    from etude.training.average import EMA
    from etude.training.callback import Callback
    from etude.training.learner import Learner
    from etude.training.optimizer import Groups as GroupsOf
    from etude.training.snapshot import Snapshot
    from etude.types import Json
    from etude.vision.progressive import ProgressiveResizing

Kind = Literal["pictures", "whole pictures", "digits"]
Groups = Literal["body and head", "norms with the head", "thirds"]
"""How a model is divided into layer groups; see `etude.training.transfer`."""
_T = TypeVar("_T", DataOptions, ModelOptions, TrainOptions, TuningOptions)


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
            data=_options(DataOptions, record["data"]),
            model=_options(ModelOptions, record["model"]),
            train=_options(TrainOptions, record["train"]),
            fold=None if fold is None else (fold[0], fold[1]),
            tuning=_options(TuningOptions, record["tuning"]) if record.get("tuning") else None,
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
            _check_model(self.model, self.train)
            for growing in _growing(self.train):
                growing.check(self.data.size)
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
            made = _picture_learner(loaders, self.model, self.train, _groups_of(self.groups), quiet=quiet)
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

    def fit(
        self,
        learner: Learner,
        callbacks: Sequence[Callback],
        resume: Snapshot | None = None,
        change: Collection[str] = (),
    ) -> None:
        """Train its learner in one fit, or in its phases; see `Learner.fit`."""
        from etude.training.transfer import run_phases

        if phases := self.all_phases():
            run_phases(learner, phases, callbacks=callbacks, resume=resume, change=change)
            return
        train, schedule = self.train, self.schedule()
        learner.fit(train.epochs, train.lr, schedule=schedule, callbacks=callbacks, resume=resume, change=change)

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
        from etude import vision
        from etude.errors import ConfigError

        data = self.data
        check(data, self.train)
        if data.data is None:
            raise ConfigError("name a folder or archive of pictures, or a known data set (see: etude data list)")
        whole = vision.MiddleCrop(1.0, squash=True) if self.kind == "whole pictures" else None
        return vision.load(
            data.data,
            size=data.size,
            valid=data.valid_pct,
            batch_size=self.train.batch_size,
            seed=self.train.seed,
            split_seed=data.split_seed,
            label=data.label,
            target=data.target,
            several=data.several,
            sampling=data.sampling,
            fold=self.fold,
            label_noise=data.label_noise,
            windows=whole or vision.RandomResizedCrop((data.min_scale, 1.0), flip=data.flip),
            middle=whole or vision.MiddleCrop(squash=data.squash),
            augment=_augment(data),
            stored_size=data.stored_size,
            store=data.store,
            on_bad_data=data.on_bad_data,
            progress=not quiet,
        )


def _options(kind: type[_T], record: Mapping[str, Any]) -> _T:
    """Options from a record; what an older version did not know yet has its default."""
    known = {one.name for one in fields(kind)}
    if unknown := sorted(set(record) - known):
        raise KeyError(f"unknown settings {unknown}; a newer version of etude may have written them")
    return kind(**record)


def _groups_of(name: Groups) -> GroupsOf | None:
    """The function from a model to its layer groups; None is the model's own."""
    from etude.training import transfer

    return {"body and head": None, "norms with the head": transfer.norms_with_head, "thirds": transfer.in_thirds}[name]


def _check_model(model: ModelOptions, train: TrainOptions) -> None:
    import torch

    from etude.errors import ConfigError
    from etude.training import saving
    from etude.training.device import pick_device
    from etude.vision.models import create_model

    pick_device(train.device)
    if model.pretrained is not None:
        saving.read_weights(model.pretrained)
    if Path(model.arch).is_file():
        raise ConfigError(
            f"{model.arch} is a file of weights; say --pretrained {model.arch}, and --arch for its network"
        )
    if Path(model.arch).exists():
        saving.read(model.arch)
        return
    with torch.device("meta"):  # no memory, no random numbers
        create_model(model.arch, num_classes=1, **_model_options(model))


def _model_options(model: ModelOptions) -> dict[str, Any]:
    """What was asked of the architecture beside its name."""
    options: dict[str, Any] = {}
    if model.stem_stride is not None:
        options["stem_stride"] = model.stem_stride
    if model.blur_pool:
        options["blur_pool"] = True
    if model.activation != "relu":
        options["activation"] = model.activation
    return options


def mixing(train: TrainOptions) -> list[Callback]:
    """What blanks and mixes batches, in the order in which they work: pictures are blanked before they are mixed."""
    from etude.training.callbacks.choose import Choose
    from etude.training.callbacks.cutmix import CutMix
    from etude.training.callbacks.cutout import Cutout
    from etude.training.callbacks.mixup import MixUp

    first: list[Callback] = [Cutout(train.cutout)] if train.cutout else []
    mixers: list[Callback] = [MixUp(train.mixup)] if train.mixup else []
    mixers += [CutMix(train.cutmix)] if train.cutmix else []
    return [*first, Choose(*mixers)] if len(mixers) > 1 else [*first, *mixers]


def average_of(train: TrainOptions) -> EMA | None:
    """The average of the weights, if there shall be one."""
    from etude.training.average import EMA

    return EMA(train.ema) if train.ema else None


def _growing(train: TrainOptions) -> list[ProgressiveResizing]:
    """What lets the pictures grow, if they shall."""
    from etude import vision

    return [vision.ProgressiveResizing(train.progressive)] if train.progressive else []


def _augment(data: DataOptions) -> Augment | None:
    """The random changes beside window and mirroring, in the order in which they work."""
    from etude import vision

    changes = []
    if data.rotate:
        changes.append(vision.affine(rotate=data.rotate, padding="reflection"))
    if data.color:
        changes.append(vision.color_jitter(brightness=data.color, contrast=data.color, saturation=data.color))
    if data.erase:
        changes.append(vision.random_erasing(p=data.erase))
    return vision.compose(*changes) if changes else None


def _picture_learner(
    loaders: DataLoaders, model: ModelOptions, train: TrainOptions, groups: GroupsOf | None, *, quiet: bool
) -> Learner:
    from etude import vision
    from etude.optim import adamw

    # what it says of the model it makes is no error
    with redirect_stdout(None) if quiet else nullcontext():
        return vision.learner(
            model.arch,
            loaders,
            pretrained=model.pretrained,
            groups=groups,
            label_smoothing=train.label_smoothing,
            class_weights=None if train.class_weights == "none" else train.class_weights,
            focal=train.focal,
            loss_fn=train.loss,
            optimizer=adamw(weight_decay=train.weight_decay),
            step=step_of(train),
            callbacks=[*mixing(train), *_growing(train)],
            precision=train.precision,
            average=average_of(train),
            device=train.device,
            progress=not quiet,
            **_model_options(model),
        )
