"""Measure a trained run on labeled pictures or texts, and a language model on any texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from etude.output import plain
from etude.recipes import labeled_texts
from etude.recipes.labeled import labeled_pictures
from etude.recipes.labeled_texts import AskedTexts
from etude.recipes.options import OnBadData, OutputOptions
from etude.recipes.predict import predicted
from etude.recipes.trained import Trained
from etude.recipes.tta import NUM_VIEWS, Tta, views_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from etude.data.store import Incident
    from etude.data.vocab import Vocab
    from etude.training.learner import Learner
    from etude.training.predictions import Predictions
    from etude.vision.views import Views

Noun: TypeAlias = Literal["pictures", "texts"]
_FEW = 5
"""Classes without samples that are named in a line."""


def evaluate(
    run: str,
    data: str | None = None,
    *,
    valid_pct: float | None = None,
    split_seed: int | None = None,
    label: str | None = None,
    text_column: str | None = None,
    several: bool = False,
    tta: Tta = "no",
    on_bad_data: OnBadData = "skip",
    device: str = "auto",
    output: OutputOptions = OutputOptions(),  # noqa: B008  # frozen
) -> dict[str, Any]:
    """Measure a trained run on labeled pictures or texts: those held out in a layout of its own, else all of them.

    On the data that the run was trained on, what is not given is as it was in that training. A language model is
    measured on texts without labels.

    Args:
        run: the run's folder.
        data: a folder, an archive, a table of texts, or a known data set; None is the data of the training.
        valid_pct: only the share that training with this share and split seed holds out.
        split_seed: of that training.
        label: where labels come from; see `vision.load` and `text.load`.
        text_column: the column of a table that holds the texts; None finds it.
        several: a picture may have several labels or none; see `vision.load`.
        tta: as in `predict`.
        on_bad_data: "skip" leaves out what cannot be read; "stop" raises.
        device: where the model runs.
        output: whether to print.

    Returns:
        `{"run", "data", "tta", "samples", ..., "trained_on", "skipped"}`, "tta" of pictures alone. "trained_on" counts
        the samples that the run was trained on, as far as they still lie where they lay; null where the folder of that
        training has no such layout any more. Between them stands what suits the targets:

        one label each: "accuracy", "cross_entropy", "balanced_accuracy", "macro_f1", and "classes": {name: {"samples",
        "accuracy"}}; of texts "calibration_error" too.

        several labels: "accuracy", the share of right yes-or-no "answers"; "cross_entropy", a binary one;
        "exact_match", "macro_f1", "mean_average_precision", and "classes", where a class's samples are those that have
        it: {name: {"samples", "accuracy", "average_precision"}}.

        Both with "without_samples", the classes of which there is none here: balanced accuracy, macro F1 and mean
        average precision are means over the other ones.

        A cross entropy is of probabilities, of which one below 1e-38 counts as 1e-38: no answer costs more than 87.5.

        numbers: "mae", "rmse" and "r2", over several numbers their means, and "numbers": {name: {"mae", "rmse", "r2"}}.

        a language model: "samples" are texts; "tokens" those that it was asked to predict, of which all else is said;
        "cross_entropy" per token, "perplexity", its exponential, "accuracy", the share of tokens that it guesses, and
        "unknown", the share of those that it does not know.

    Raises:
        ConfigError: the run does not say what it was trained on, was trained on other data than is given, or a
            setting has no effect on it.
        DataError: naming the folder, file or label that cannot be used.
    """
    import etude
    from etude.errors import ConfigError
    from etude.text.language_model import LanguageModel
    from etude.text.reader import TextReader

    learner = etude.load(run, device=device)
    views, record = views_of(learner, run, tta), Trained.of(run)
    source = data if data is not None else record.source
    if source is None:
        raise ConfigError(f"{run} does not say what it was trained on; name data to measure it on: --data")
    asked = AskedTexts(source, valid_pct, split_seed, label, text_column, output.quiet)
    noun: Noun = "texts" if isinstance(learner.data.read, TextReader) else "pictures"
    labeled_texts.refuse_unused(noun == "texts", several=several, text_column=text_column)
    if isinstance(learner.model, LanguageModel):
        on = _on_stream(learner, record, asked, on_bad_data)
    elif noun == "texts":
        on = _on_texts(learner, record, run, asked, on_bad_data)
    else:
        on = _on_pictures(learner, record, run, asked, views, several=several, on_bad_data=on_bad_data)
    result: dict[str, Any] = {"run": run, "data": source, **({} if noun == "texts" else {"tta": tta}), **on.measures}
    result["trained_on"] = on.trained_on
    result["skipped"] = [{"file": name, "reason": reason} for name, _, reason in on.skipped]
    if not output.quiet:
        for line in _told(result, noun):
            print(line)
    return result


class _On(NamedTuple):
    """What a run was measured to be, and on what."""

    measures: dict[str, Any]
    trained_on: int | None
    skipped: Sequence[Incident]


def _on_pictures(
    learner: Learner,
    record: Trained,
    run: str,
    asked: AskedTexts,
    views: Views | None,
    *,
    several: bool,
    on_bad_data: OnBadData,
) -> _On:
    found, loader = labeled_pictures(
        learner,
        record,
        run,
        asked.data,
        valid_pct=asked.valid_pct,
        split_seed=asked.split_seed,
        label=asked.label,
        several=several,
        on_bad_data=on_bad_data,
        quiet=asked.quiet,
    )
    measures = measured(predicted(learner, loader, views))
    return _On(measures, record.trained_on(found, asked.data, quiet=asked.quiet), found.skipped)


def _on_texts(learner: Learner, record: Trained, run: str, asked: AskedTexts, on_bad_data: OnBadData) -> _On:
    from etude.training.calibration import calibrate

    found, loader = labeled_texts.labeled_texts(learner, record, run, asked, on_bad_data)
    predictions = predicted(learner, loader, None)
    assert predictions.targets is not None
    ece = calibrate(predictions.output, predictions.targets).before.ece
    both = labeled_texts.trained_on(loader.names, record, asked, labeled=True)
    return _On({**measured(predictions), "calibration_error": ece}, both, labeled_texts.skipped(found.incidents))


def _on_stream(learner: Learner, record: Trained, asked: AskedTexts, on_bad_data: OnBadData) -> _On:
    import math

    from etude.metrics import named
    from etude.text.language_model import accuracy
    from etude.text.special import UNK

    loader = labeled_texts.stream_of(learner, record, asked, on_bad_data)
    names = list(loader.store.names)
    assert loader.vocab is not None
    number = loader.vocab.number(UNK)

    def unknown(preds: object, targets: Tensor) -> Tensor:
        return (targets == number).double().mean()

    learner.metrics = named([accuracy, unknown])
    found = learner.evaluate(loader)
    measures = {
        "samples": len(names),
        "tokens": loader.num_targets,
        "cross_entropy": found["loss"],
        "perplexity": math.exp(found["loss"]),
        "accuracy": found["accuracy"],
        "unknown": found["unknown"],
    }
    both = labeled_texts.trained_on(names, record, asked, labeled=False)
    return _On(measures, both, labeled_texts.skipped(loader.store.incidents))


def measured(predictions: Predictions) -> dict[str, Any]:
    """How right predictions of labeled samples are, by the kind of their targets; see `evaluate`."""
    assert predictions.targets is not None
    if predictions.numbers:
        return _of_numbers(predictions.output, predictions.targets, predictions.numbers)
    assert predictions.vocab is not None
    if predictions.targets.ndim == 2:
        return _of_answers(predictions.output, predictions.targets, predictions.vocab)
    return _of_classes(predictions.output, predictions.targets, predictions.vocab)


def _of_classes(output: Tensor, targets: Tensor, vocab: Vocab) -> dict[str, Any]:
    from etude.metrics import BalancedAccuracy, MacroF1
    from etude.training.calibration import log_probabilities

    chosen = log_probabilities(output.gather(1, targets.unsqueeze(1)))
    right = (output.argmax(1) == targets).double()
    balanced, macro_f1 = BalancedAccuracy(), MacroF1()
    there = targets.bincount(minlength=len(vocab)) > 0
    return {
        "samples": len(targets),
        "accuracy": float(right.mean()),
        "cross_entropy": float(-chosen.mean()),
        "balanced_accuracy": balanced.value(balanced.sums(output, targets)),
        # a class without samples is in none of the means over classes
        "macro_f1": macro_f1.value(macro_f1.sums(output, targets)[:, there]),
        "without_samples": [name for name, any_of_it in zip(vocab, there.tolist(), strict=True) if not any_of_it],
        "classes": {
            name: {"samples": int((targets == i).sum()), "accuracy": float(right[targets == i].mean())}
            for i, name in enumerate(vocab)
            if there[i]
        },
    }


def _of_answers(output: Tensor, targets: Tensor, vocab: Vocab) -> dict[str, Any]:
    from etude.metrics import MacroF1, average_precisions
    from etude.training.calibration import log_probabilities

    # a probability of one half is a score of 0, which says no
    said, macro_f1 = output - 0.5, MacroF1()
    there = (targets > 0.5).any(0)
    right = ((output > 0.5) == (targets > 0.5)).double()
    precisions = average_precisions(output, targets)
    yes = output.double()
    chosen = log_probabilities(yes.where(targets > 0.5, 1 - yes))
    return {
        "samples": len(targets),
        "answers": targets.numel(),
        "accuracy": float(right.mean()),
        "cross_entropy": float(-chosen.mean()),
        "exact_match": float(right.all(1).double().mean()),
        "macro_f1": _json(macro_f1.value(macro_f1.sums(said, targets)[:, there])),
        "mean_average_precision": _json(float(precisions.nanmean())),
        "without_samples": [name for name, any_of_it in zip(vocab, there.tolist(), strict=True) if not any_of_it],
        "classes": {
            name: {
                "samples": int(targets[:, i].sum()),
                "accuracy": float(right[:, i].mean()),
                "average_precision": _json(float(precisions[i])),
            }
            for i, name in enumerate(vocab)
        },
    }


def _of_numbers(output: Tensor, targets: Tensor, names: tuple[str, ...]) -> dict[str, Any]:
    from etude.metrics import R2, RMSE, mae

    def all_of(preds: Tensor, true: Tensor) -> dict[str, Any]:
        rmse, r2 = RMSE(), R2()
        return {
            "mae": float(mae(preds, true)),
            "rmse": rmse.value(rmse.sums(preds, true)),
            "r2": _json(r2.value(r2.sums(preds, true))),
        }

    each = {name: all_of(output[:, i : i + 1], targets[:, i : i + 1]) for i, name in enumerate(names)}
    return {"samples": len(targets), **all_of(output, targets), "numbers": each}


def _json(value: float) -> float | None:
    """JSON has no NaN."""
    return value if value == value else None


def _told(result: dict[str, Any], noun: Noun) -> Iterator[str]:
    """Class by class, worst first, or number by number; the last line is of all."""
    if "perplexity" in result:
        yield (
            f"perplexity {result['perplexity']:.2f} (cross entropy {result['cross_entropy']:.4f}) over "
            f"{result['tokens']:,} tokens, {result['unknown']:.2%} of them unknown; {result['accuracy']:.2%} guessed"
        )
        return
    views = f", the mean of {NUM_VIEWS[result['tta']]} views each" if result.get("tta", "no") != "no" else ""
    if "numbers" in result:
        yield from _numbers_told(result)
        yield f"{_numbers_in_words(result)} over {result['samples']} {noun}{views}"
        return
    width = max(len(plain(name)) for name in result["classes"])
    for name, row in sorted(result["classes"].items(), key=lambda item: item[1]["accuracy"]):
        if "answers" in result:
            precision = _share(row["average_precision"])
            tail = f"of {result['samples']} answers, of which {row['samples']} are yes; average precision {precision}"
        else:
            tail = f"{round(row['accuracy'] * row['samples'])} of {row['samples']}"
        yield f"  {plain(name).ljust(width)}  {row['accuracy']:7.2%}  {tail}"
    if absent := result["without_samples"]:
        few = ", ".join(map(plain, absent[:_FEW])) + (", ..." if len(absent) > _FEW else "")
        classes, verb = ("class has", "is") if len(absent) == 1 else ("classes have", "are")
        yield f"{len(absent)} {classes} no samples and {verb} left out of the means over classes ({few})"
    yield from _all_told(result, noun, views)


def _all_told(result: dict[str, Any], noun: Noun, views: str) -> Iterator[str]:
    """What is said of all samples together, where they have classes."""
    if "answers" in result:
        yield (
            f"exact match {result['exact_match']:.2%}, macro F1 {_share(result['macro_f1'])}, "
            f"mean average precision {_share(result['mean_average_precision'])}"
        )
        yield (
            f"{result['accuracy']:.2%} of {result['answers']} yes-or-no answers right, "
            f"binary cross entropy {result['cross_entropy']:.4f}{views}"
        )
        return
    calibrated = f", calibration error {result['calibration_error']:.2%}" if "calibration_error" in result else ""
    yield f"balanced accuracy {result['balanced_accuracy']:.2%}, macro F1 {result['macro_f1']:.2%}{calibrated}"
    right = round(result["accuracy"] * result["samples"])
    yield (
        f"{right} of {result['samples']} {noun} right: {result['accuracy']:.2%}, "
        f"cross entropy {result['cross_entropy']:.4f}{views}"
    )


def _numbers_told(result: dict[str, Any]) -> Iterator[str]:
    if len(result["numbers"]) > 1:
        width = max(map(len, result["numbers"]))
        for name, row in result["numbers"].items():
            yield f"  {name.ljust(width)}  {_numbers_in_words(row)}"


def _numbers_in_words(row: dict[str, Any]) -> str:
    r2 = "not defined, for all are the same" if row["r2"] is None else f"{row['r2']:.4f}"
    return f"MAE {row['mae']:.4g}, RMSE {row['rmse']:.4g}, R2 {r2}"


def _share(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.2%}"
