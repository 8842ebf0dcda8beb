"""Train a classifier on a folder of pictures: the recipe behind `etude train`, `imagenette` and the studies."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from etude.recipes.options import DataOptions, ModelOptions, Precision, RunOptions, TrainOptions, check, flags, teller
from etude.recipes.seeds import number, over_seeds, summarize

if TYPE_CHECKING:
    from etude.data.loaders import Augment, DataLoaders
    from etude.training.learner import Learner
    from etude.types import Json
    from etude.vision.pictures import DrawWindows
    from etude.vision.windows import MiddleCrop


def train(
    data: DataOptions,
    model: ModelOptions = ModelOptions(),  # noqa: B008  # frozen
    train: TrainOptions = TrainOptions(),  # noqa: B008
    run: RunOptions = RunOptions(),  # noqa: B008
    *,
    folds: int = 0,
    name: str = "train",
) -> dict[str, Json]:
    """Train on pictures from any folder, archive or known data set.

    Args:
        data: which pictures.
        model: which model.
        train: how to train.
        run: where results go.
        folds: cross-validation: as many trainings as folds, each with another part held out; 0 trains once.
        name: of the run's folder.

    Returns:
        The run's result: `{"run": folder, "valid_accuracy": share, "train_seconds": seconds, ...}`.
    """
    if folds:
        return _cross_validate(data, model, train, run, folds, name)
    return over_seeds(name, partial(train_once, name, data, model), train, run)


def train_once(
    name: str,
    data: DataOptions,
    model: ModelOptions,
    train: TrainOptions,
    run: RunOptions,
    *,
    fold: tuple[int, int] | None = None,
) -> dict[str, Json]:
    """One training with its run folder."""
    from etude.runs.record import check_run_dir

    check_run_dir(run.run_dir)
    check_model(model, train)
    loaders = load_data(data, train, quiet=run.quiet, fold=fold)
    result = fit_and_keep(
        name,
        lambda: make_learner(loaders, model, train, quiet=run.quiet),
        flags(data, model, train, run),
        train,
        run,
    )
    if not run.quiet:
        print(f"next: etude predict {result['run']} FILES", flush=True)
    return result


def load_data(
    data: DataOptions,
    train: TrainOptions,
    *,
    quiet: bool,
    fold: tuple[int, int] | None = None,
    windows: DrawWindows | None = None,
    middle: MiddleCrop | None = None,
) -> DataLoaders:
    """The pictures that the options name; `windows` and `middle` replace what the options say."""
    from etude import vision
    from etude.errors import ConfigError

    check(data, train)
    if data.data is None:
        raise ConfigError("name a folder or archive of pictures, or a known data set (see: etude data list)")
    return vision.load(
        data.data,
        size=data.size,
        valid=data.valid_pct,
        batch_size=train.batch_size,
        seed=train.seed,
        split_seed=data.split_seed,
        label=data.label,
        fold=fold,
        label_noise=data.label_noise,
        windows=windows or vision.RandomResizedCrop((data.min_scale, 1.0), flip=data.flip),
        middle=middle or vision.MiddleCrop(squash=data.squash),
        augment=_augment(data),
        stored_size=data.stored_size,
        store=data.store,
        on_bad_data=data.on_bad_data,
        progress=not quiet,
    )


def check_model(model: ModelOptions, train: TrainOptions) -> None:
    """Refuse a model or device that is not there before pictures are read, which may take minutes.

    Raises:
        ConfigError: naming it, with the known ones.
        LoadError: a folder holds no model.
    """
    import torch

    from etude.training import saving
    from etude.training.device import pick_device
    from etude.vision.models import create_model

    pick_device(train.device)
    if Path(model.arch).exists():
        saving.read(model.arch)
        return
    with torch.device("meta"):  # no memory, no random numbers
        create_model(model.arch, num_classes=1, **_model_options(model))


def _model_options(model: ModelOptions) -> dict[str, Any]:
    """What was asked of the architecture beside its name."""
    options: dict[str, Any] = {}
    if model.blur_pool:
        options["blur_pool"] = True
    if model.activation != "relu":
        options["activation"] = model.activation
    return options


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


def make_learner(loaders: DataLoaders, model: ModelOptions, train: TrainOptions, *, quiet: bool) -> Learner:
    """The learner that the options name."""
    from etude import vision
    from etude.optim import adamw

    # what it says of the model it makes is no error
    with redirect_stdout(None) if quiet else nullcontext():
        return vision.learner(
            model.arch,
            loaders,
            mixup=train.mixup,
            label_smoothing=train.label_smoothing,
            optimizer=adamw(weight_decay=train.weight_decay),
            precision=train.precision,
            device=train.device,
            progress=not quiet,
            **_model_options(model),
        )


def fit_and_keep(
    name: str, make: Callable[[], Learner], options: dict[str, Json], train: TrainOptions, run: RunOptions
) -> dict[str, Json]:
    """Fit a learner, fill its run folder, draw its mistakes, and say what came out.

    Args:
        name: of the run's folder.
        make: called once the random seed is set.
        options: for the run's record.
        train: epochs, learning rate and its schedule, seed.
        run: where results go.
    """
    import torch

    from etude.runs.record import KeepRun, new_run_folder
    from etude.schedules import one_cycle
    from etude.vision.show import draw_predictions

    say = teller(run)
    torch.manual_seed(train.seed)
    learner = make()
    folder = new_run_folder(name, run.run_dir)
    say(f"{_many(train.epochs, 'epoch')} of {_many(len(learner.data.train or ()), 'step')}; writing to {folder}")
    keep = KeepRun(folder, options)
    started = time.perf_counter()
    try:
        learner.fit(train.epochs, lr=train.lr, schedule=partial(one_cycle, pct_start=train.pct_start), callbacks=[keep])
    except KeyboardInterrupt:
        kept = f"the model after the last whole epoch is kept: etude predict {keep.last} FILES"
        say(kept if keep.last.exists() else "no epoch was finished, so no model is kept")
        raise
    seconds = time.perf_counter() - started
    assert learner.precision is not None
    extra: dict[str, Json] = {
        "train_seconds": round(seconds, 2),
        "seed": train.seed,
        "precision": learner.precision.name,
    }
    if learner.data.valid is not None and not learner.data.several_labels:
        predictions = learner.predict()
        draw_predictions(learner, predictions, folder / "predictions.png")
        extra |= {"valid_right": predictions.num_right, "valid_samples": len(predictions)}
    result = keep.finish(learner, extra)
    pictures = [str(path) for path in (folder / "curves.png", folder / "predictions.png") if path.exists()]
    say(f"\n{_accuracy(result)}, {seconds:.0f} s\nlook at {' and '.join(pictures)}")
    return result


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _accuracy(result: dict[str, Json]) -> str:
    if "valid_accuracy" not in result:
        return "trained without validation"
    share = number(result["valid_accuracy"])
    if "valid_right" not in result:
        return f"{share:.2%} of all yes-or-no answers on held-out pictures right"
    return f"{result['valid_right']} of {result['valid_samples']} held-out pictures right: {share:.2%}"


def _cross_validate(
    data: DataOptions, model: ModelOptions, train: TrainOptions, run: RunOptions, folds: int, name: str
) -> dict[str, Json]:
    """Train once per fold: for sets too small for one held-out part to tell models apart (SPEC Q1)."""
    from etude.errors import ConfigError
    from etude.runs.record import new_run_folder

    if folds < 2:
        raise ConfigError(f"--folds must be at least 2, got {folds}")
    if train.seeds > 1 or data.valid_pct is not None:
        raise ConfigError("--folds decides what is held out and how often; leave out --seeds and --valid-pct")
    say = teller(run)
    folder = new_run_folder(name, run.run_dir, several=True)
    results = []
    for i in range(folds):
        say(f"\n--- fold {i + 1} of {folds}")
        one = replace(run, run_dir=str(folder / f"fold-{i + 1}"))
        results.append(train_once(name, data, model, train, one, fold=(i, folds)))
        # what the first fold measured holds for all: else two folds might differ in more than their pictures
        train = replace(train, precision=cast("Precision", results[0]["precision"]))
    return summarize(f"{name} with {folds} folds", folder, results, say)
