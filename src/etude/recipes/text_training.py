"""One training on texts as it was asked for: a language model, or a classifier on top of one."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from etude.recipes import texts
from etude.recipes.labeled_texts import AskedTexts, with_leaks_told
from etude.recipes.options import check, flags, refuse_changed
from etude.recipes.recorded import options_of, words
from etude.recipes.text_options import (
    ClassifierTrainOptions,
    LabeledTextOptions,
    LanguageModelTrainOptions,
    TextModelOptions,
    TextOptions,
    TextTrainOptions,
)
from etude.training.tuning import TuningPhase, corpus_phases, total_epochs, ulmfit_phases

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from etude.recipes.options import Precision
    from etude.schedules import Cycle
    from etude.training.learner import Learner
    from etude.types import Json

TextKind = Literal["language model", "text classifier"]
KINDS: Final = ("language model", "text classifier")
"""Of records that are of a training on texts."""


@dataclass(frozen=True, kw_only=True)
class TextTraining:
    """One training on texts as it was asked for.

    Args:
        name: of its command, and of its run's folder.
        kind: what is trained.
        data: which texts; `LabeledTextOptions` for a classifier.
        model: how large it is; nothing of its sizes is read where a language model is taken over.
        train: how to train; `LanguageModelTrainOptions` or `ClassifierTrainOptions`.
        source: the run of a language model to begin from.
        part: the run beside this one, in the folder of several, that is the `source`; see `beside`.
    """

    name: str
    kind: TextKind
    data: TextOptions
    model: TextModelOptions = field(default_factory=TextModelOptions)
    train: TextTrainOptions
    source: str | None = None
    part: str | None = None

    def record(self) -> dict[str, Json]:
        """All of it as JSON, for a run's record."""
        return asdict(self)

    def flags(self) -> dict[str, Json]:
        """Its options under their flag names."""
        return flags(self.data, self.model, self.train) | {self._flag: self.source}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> TextTraining:
        """What `record` gave; raises `KeyError`, `TypeError` or `ValueError` for something else."""
        from etude.runs.read import is_plain_name

        classifies, part = record["kind"] == "text classifier", record["part"]
        if part is not None and not is_plain_name(part):
            raise ValueError(f"{part!r} is no name of a folder beside it")
        made = cls(
            name=record["name"],
            kind=record["kind"],
            data=options_of(LabeledTextOptions if classifies else TextOptions, record["data"]),
            model=options_of(TextModelOptions, record["model"]),
            train=options_of(ClassifierTrainOptions if classifies else LanguageModelTrainOptions, record["train"]),
            source=record["source"],
            part=part,
        )
        if not isinstance(made.source, str | None):
            raise TypeError(f"source is {made.source!r}")
        check(made.data, made.model, made.train)
        texts.check_options(made.data, made.train)
        return made

    @property
    def classifies(self) -> bool:
        """Whether it is a classifier that is trained."""
        return self.kind == "text classifier"

    @property
    def _flag(self) -> str:
        """What its command calls the language model to begin from."""
        return "lm" if self.classifies or self.name == "ulmfit" else "from"

    @property
    def _pct_start(self) -> float:
        """As it was asked for, else as the notes have it (SPEC R17, R19, R26)."""
        if self.train.pct_start is not None:
            return self.train.pct_start
        return 0.3 if self.source is None else 0.5

    @property
    def momentum(self) -> tuple[float, float]:
        """At both ends of the schedule, and at the peak of the learning rate."""
        return self.train.momentum

    @property
    def num_epochs(self) -> int:
        """Of all its phases together."""
        return total_epochs(self.all_phases(), self.train.epochs) or self.train.epochs

    def check(self) -> None:
        """Refuse what cannot be trained before texts are read, which may take minutes.

        Raises:
            ConfigError: naming the flag or the device.
            LoadError: the folder to begin from holds no language model.
        """
        from etude.training.device import pick_device

        check(self.data, self.model, self.train)
        texts.check_options(self.data, self.train)
        self._check_dropouts()
        if isinstance(self.train, ClassifierTrainOptions) and self.train.all_lr and not self.train.freeze_epochs:
            refuse_changed(self.train, ("lr",), "all phases before the last are left out, and that has --all-lr")
        pick_device(self.train.device)
        if self.source is not None:
            why = f"the language model of --{self._flag} has its own"
            refuse_changed(self.model, ("embed_dim", "hidden_dim", "num_layers"), why)
            refuse_changed(self.data, ("tokenizer", *(("max_vocab", "min_freq") if self.classifies else ())), why)
            texts.check_source(self.source, self._flag, backward=self.data.backward)
        elif self.part is None:
            alone = ("freeze_epochs", *(("all_lr",) if self.classifies else ()))
            refuse_changed(self.train, alone, f"without --{self._flag} nothing is taken over")

    def _check_dropouts(self) -> None:
        """Refuse a factor that makes a probability of 1 or more; raises `ConfigError`."""
        from etude.errors import ConfigError
        from etude.text.learner import CLASSIFIER_DROPOUTS, LM_DROPOUTS

        flag = "--lm-drop-mult" if self.name == "ulmfit" and not self.classifies else "--drop-mult"
        try:
            (CLASSIFIER_DROPOUTS if self.classifies else LM_DROPOUTS).scaled(self.model.drop_mult)
        except ConfigError as error:
            raise ConfigError(f"{flag} {self.model.drop_mult} is too much: {error}") from error

    def learner(self, *, quiet: bool) -> Learner:
        """The learner, its random seed set."""
        import torch

        loaders = texts.loaders(self.data, self.train, self.source, quiet=quiet)
        if self.source is not None and isinstance(self.data, LabeledTextOptions) and self.data.data is not None:
            asked = AskedTexts(self.data.data, label=self.data.label, text_column=self.data.text_column, quiet=quiet)
            loaders = with_leaks_told(loaders, self.source, asked)
        torch.manual_seed(self.train.seed)
        return texts.learner(loaders, self.model, self.train, self.source, quiet=quiet)

    def all_phases(self) -> list[TuningPhase]:
        """The fits that it is made of: one after the other where a language model is taken over, else one fit."""
        if self.source is None:
            return []
        train, num_layers = self.train, texts.num_layers_of(self.source)
        if self.classifies:
            phases = ulmfit_phases(
                num_layers + 2,
                train.lr,
                num_epochs=train.epochs,
                freeze_epochs=max(train.freeze_epochs, 1),
                pct_start=self._pct_start,
                momentum=train.momentum,
            )
            if isinstance(train, ClassifierTrainOptions) and train.all_lr is not None:
                phases[-1] = replace(phases[-1], lr=train.all_lr)
            return phases if train.freeze_epochs else phases[-1:]
        return corpus_phases(
            num_layers + 1,
            texts.ALONE * train.lr,
            num_epochs=train.epochs,
            freeze_epochs=train.freeze_epochs,
            pct_start=self._pct_start,
            momentum=train.momentum,
        )

    def schedule(self) -> Cycle:
        """How its learning rate goes where it is one fit."""
        from etude.schedules import one_cycle

        return partial(one_cycle, pct_start=self._pct_start)

    def about(self) -> dict[str, Json]:
        """What a run's record says of it beside its options: all its epochs, and which weights it began from."""
        from etude.training import saving

        body: dict[str, Json] | None = None
        if self.source is not None:
            body = {"from": str(Path(self.source).absolute()), "weights_sha256": saving.digest_of_weights(self.source)}
        return {"epochs": self.num_epochs, "body": body}

    def outcome(self, learner: Learner, folder: Path) -> dict[str, Json]:
        """A sentence that a language model writes; how many texts a classifier gets right."""
        return texts.right(learner) if self.classifies else texts.written(learner, self.train.seed)

    def introduction(self) -> str:
        """Nothing: reading the texts says more."""
        return ""

    def told(self, result: Mapping[str, Json]) -> str:
        """A run's result in words."""
        return texts.told(result, classifies=self.classifies)

    def next_steps(self, run: Path) -> str:
        """What one might do with the trained run."""
        folder = shlex.quote(str(run))
        if self.classifies:
            return f"next: etude predict {folder} FILES"
        return f"next: etude generate {folder} PROMPT, or etude classify-text TEXTS --lm {folder}"

    def command(self, lr: float) -> list[str]:
        """The words of the command that asks for it with the learning rate of its first phase."""
        place = [] if self.data.data is None else [self.data.data]
        start = [] if self.source is None else [f"--{self._flag}", self.source]
        given = words(self.data, self.model, self.train, leave_out=("data", "lr"))
        alone = self.source is not None and not self.classifies and self.train.freeze_epochs
        return ["etude", self.name, *place, *start, *given, "--lr", f"{lr / texts.ALONE if alone else lr:.1e}"]

    def seeded(self, seed: int) -> TextTraining:
        """The same training once, with this seed."""
        return replace(self, train=replace(self.train, seed=seed, seeds=1))

    def in_precision(self, precision: Precision) -> TextTraining:
        """The same training in another number format."""
        return replace(self, train=replace(self.train, precision=precision))

    def beside(self, folder: Path) -> TextTraining:
        """The same training, begun from the run beside it that is its `part`."""
        return self if self.part is None else replace(self, source=str(folder / self.part))

    def resumed(
        self, train: Mapping[str, Any], data: str | None, found: Callable[[str], str], folder: Path
    ) -> TextTraining:
        """The same training where it goes on; see `Asked`."""
        from etude.training import checkpoint

        own, source = self.data.data, self.source
        there = replace(
            self,
            data=replace(self.data, data=data or (None if own is None else found(own))),
            train=replace(self.train, **train),
            source=None if source is None else found(source),
        )
        # the folder of several may have moved
        there, kept = there.beside(folder.parent), checkpoint.checkpoints(folder / checkpoint.FOLDER)
        if there.source is None or Path(there.source).exists() or not kept:
            return there
        # of a language model that is gone, a checkpoint has the sizes, the words and the weights
        return replace(there, source=str(kept[0]))
