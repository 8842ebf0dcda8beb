"""ULMFiT whole: a language model on the texts, then a classifier on top of it; the recipe behind `etude ulmfit`.

Each stage is a run of its own, in a folder in that of them all: lm/ (or tuned/, where a trained language model is taken
over), then classifier/; and the same for a second pair that reads backward.

Source: Howard and Ruder 2018, "Universal language model fine-tuning for text classification"; SPEC R15-R28.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from etude.recipes.options import Options, RunOptions, check
from etude.recipes.several import Result, Several, run_all
from etude.recipes.text_options import (
    ClassifierTrainOptions,
    LabeledTextOptions,
    LanguageModelTrainOptions,
    TextModelOptions,
    TextOptions,
    UlmfitOptions,
)
from etude.recipes.text_training import TextTraining
from etude.recipes.texts import check_labels
from etude.runs.statistics import deviation, mean, number

if TYPE_CHECKING:
    from etude.training.learner import Learner
    from etude.types import Json

BACKWARD: Final = "backward-"
"""What the names of the stages that read backward begin with."""
_OF_THE_MODEL: Final[dict[str, Any]] = {
    name: getattr(LabeledTextOptions(), name) for name in ("tokenizer", "max_vocab", "min_freq")
}
"""Of a classifier's texts: its language model has cut and counted them."""
_T = TypeVar("_T", bound=Options)


def ulmfit(
    data: LabeledTextOptions,
    source: str | None = None,
    backward_source: str | None = None,
    model: TextModelOptions = TextModelOptions(),  # noqa: B008  # frozen
    train: UlmfitOptions = UlmfitOptions(),  # noqa: B008
    run: RunOptions = RunOptions(),  # noqa: B008
    *,
    both: bool = False,
) -> dict[str, Json]:
    """Train a language model on texts, then a classifier of them; on request both once more, reading backward.

    The texts that are held out are held out of both.

    Args:
        data: which texts.
        source: the run of a language model to begin from; None begins from nothing.
        backward_source: the same of one that reads backward.
        model: how large the language model is.
        train: how to train the two.
        run: where results go.
        both: train a second pair that reads backward; the mean of the probabilities of the two classifiers counts too.

    Returns:
        `{"run", "perplexity", "valid_accuracy", "train_seconds", "stages": [{"stage", "run", ...}, ...]}`; with both
        ways `"backward_perplexity"`, `"backward_accuracy"` and `"pair_accuracy"` too; of several seeds the means, and
        the accuracies as `"valid_accuracies"`.
    """
    several = stages("ulmfit", data, source, backward_source, model, train, both=both)
    # else the classifier would be refused after the language model has trained for hours
    check_labels(data, quiet=run.quiet)
    return run_all(several, "ulmfit", run)


def stages(
    name: Result,
    data: LabeledTextOptions,
    source: str | None,
    backward_source: str | None,
    model: TextModelOptions,
    train: UlmfitOptions,
    *,
    both: bool = False,
) -> Several:
    """Every stage, for each seed and each way of reading, in the order in which they train.

    Raises:
        ConfigError: something cannot be trained; nothing has been then.
    """
    _check(data, source, backward_source, train, both=both)
    parts: dict[str, TextTraining] = {}
    for seed in range(train.seed, train.seed + train.seeds):
        for backward in (False, True) if both else (data.backward,):
            before, after = BACKWARD if both and backward else "", f"-seed-{seed}" if train.seeds > 1 else ""
            start = backward_source if both and backward else source
            stage = f"{before}{'lm' if start is None else 'tuned'}{after}"
            first, second = _two(name, replace(data, backward=backward), start, stage, model, train)
            parts |= {stage: first.seeded(seed), f"{before}classifier{after}": second.seeded(seed)}
    for training in parts.values():
        training.check()
    return Several(name, parts, name)


def _two(
    name: Result,
    data: LabeledTextOptions,
    source: str | None,
    stage: str,
    model: TextModelOptions,
    train: UlmfitOptions,
) -> tuple[TextTraining, TextTraining]:
    """A language model, which is the stage of that name, and the classifier on top of it."""
    own: dict[str, Any] = {"epochs": train.lm_epochs, "lr": train.lm_lr, "pct_start": train.lm_pct_start}
    if source is None:
        # nothing is taken over, so that nothing stands still
        own["freeze_epochs"] = LanguageModelTrainOptions().freeze_epochs
    first = TextTraining(
        name=name,
        kind="language model",
        data=_common(TextOptions, data),
        model=replace(_common(TextModelOptions, model), drop_mult=train.lm_drop_mult),
        train=_common(LanguageModelTrainOptions, train, own),
        source=source,
    )
    second = TextTraining(
        name=name,
        kind="text classifier",
        data=replace(data, **_OF_THE_MODEL),
        model=TextModelOptions(drop_mult=model.drop_mult),
        train=_common(ClassifierTrainOptions, train),
        part=stage,
    )
    return first, second


def _check(
    data: LabeledTextOptions, source: str | None, backward_source: str | None, train: UlmfitOptions, *, both: bool
) -> None:
    """Refuse what has no effect; raises `ConfigError`."""
    from etude.errors import ConfigError

    check(train)
    if both and data.backward:
        raise ConfigError("--both reads forward and backward; leave out --backward")
    if backward_source is not None and not both:
        raise ConfigError("--lm-backward has no effect without --both; leave it out, or say --lm and --backward")
    if both and (source is None) != (backward_source is None):
        given, missing = ("--lm", "--lm-backward") if source is not None else ("--lm-backward", "--lm")
        raise ConfigError(f"{given} begins one way of reading from a language model; say {missing} for the other too")


def _common(kind: type[_T], options: Options, own: Mapping[str, Any] = MappingProxyType({})) -> _T:
    """Options of another kind with what the two have in common, and values of its own."""
    both = {one.name: getattr(options, one.name) for one in fields(kind) if one.name in _names(options)}
    return kind(**both | dict(own))


def _names(options: Options) -> set[str]:
    return {one.name for one in fields(options)}


def conclude(
    several: Several, folder: Path, results: Mapping[str, dict[str, Json]], say: Callable[[str], None]
) -> dict[str, Json]:
    """The table of the stages, and the result of them all."""
    from etude.training.saving import write_json

    summary = summarize(several, folder, results)
    write_json(folder / "result.json", summary)
    say("\n" + "\n".join(table(summary)))
    say(f"\neach stage is a run in {folder}; next: etude predict {folder / classifier_of(several)} FILES")
    return summary


def classifier_of(several: Several) -> str:
    """The part that is the classifier; of several the last one that reads forward."""
    return [name for name in several.parts if name.startswith("classifier")][-1]


def summarize(several: Several, folder: Path, results: Mapping[str, dict[str, Json]]) -> dict[str, Json]:
    """Everything that the stages came to."""
    found: dict[str, list[float]] = {}
    for name, result in results.items():
        way = "backward_" if name.startswith(BACKWARD) else ""
        if "classifier" in name:
            found.setdefault("backward_accuracy" if way else "valid_accuracy", []).append(
                number(result["valid_accuracy"])
            )
        else:
            found.setdefault(f"{way}perplexity", []).append(number(result["perplexity"]))
    if "backward_accuracy" in found:
        pairs = [name for name in several.parts if name.startswith("classifier")]
        found["pair_accuracy"] = [_pair_accuracy(several, folder, name) for name in pairs]
    rows: list[Json] = [_row(name, folder, result) for name, result in results.items()]
    seconds = sum(number(result["train_seconds"]) for result in results.values())
    summary: dict[str, Json] = {"run": str(folder), **{name: mean(values) for name, values in found.items()}}
    if len(found["valid_accuracy"]) > 1:
        summary |= {"valid_accuracy_sd": deviation(found["valid_accuracy"])}
        summary |= {"valid_accuracies": list(found["valid_accuracy"]), "perplexities": list(found["perplexity"])}
    return {**summary, "train_seconds": round(seconds, 2), "stages": rows}


def _row(name: str, folder: Path, result: Mapping[str, Any]) -> dict[str, Json]:
    kept = ("perplexity", "valid_accuracy", "valid_loss", "epochs", "train_seconds", "sample")
    return {"stage": name, "run": str(folder / name), **{key: result[key] for key in kept if key in result}}


def _pair_accuracy(several: Several, folder: Path, forward: str) -> float:
    """Of the mean of what a classifier and the one that reads backward say."""
    from etude import text

    both = (_trained(several, folder, name) for name in (forward, f"{BACKWARD}{forward}"))
    return text.pair(*both).evaluate()["accuracy"]


def _trained(several: Several, folder: Path, name: str) -> Learner:
    """A stage's learner with what it has learned, and its texts."""
    from etude.training import saving
    from etude.training.weights import load_exactly

    learner = several.parts[name].beside(folder).learner(quiet=True)
    load_exactly(learner.model, saving.read(folder / name).weights, str(folder / name))
    return learner


def table(summary: Mapping[str, Any]) -> list[str]:
    """The stages as aligned text, and what the two ways of reading come to together."""
    lines = [("stage", "perplexity", "accuracy", "epochs", "seconds")]
    for row in summary["stages"]:
        perplexity = f"{row['perplexity']:.2f}" if "perplexity" in row else ""
        accuracy = "" if "perplexity" in row else f"{row['valid_accuracy']:.2%}"
        lines.append((row["stage"], perplexity, accuracy, str(row["epochs"]), f"{row['train_seconds']:.0f}"))
    if "pair_accuracy" in summary:
        lines.append(("both ways, averaged", "", f"{summary['pair_accuracy']:.2%}", "", ""))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    told = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    if "valid_accuracy_sd" in summary:
        spread = 100 * summary["valid_accuracy_sd"]
        told.append(
            f"accuracy {summary['valid_accuracy']:.2%} ± {spread:.2f} over {len(summary['perplexities'])} seeds"
        )
    return told
