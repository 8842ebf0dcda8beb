"""Train a classifier on a folder of pictures: the recipe behind `etude train`, `imagenette` and the studies."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from etude.recipes.options import DataOptions, ModelOptions, RunOptions, TrainOptions, check, flags, teller
from etude.recipes.several import Several, over_seeds, run_all
from etude.recipes.training import Training

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from etude.recipes.asked import Asked
    from etude.runs.record import KeepRun
    from etude.training.callback import Callback
    from etude.training.callbacks.checkpoints import Checkpoints
    from etude.training.learner import Learner
    from etude.training.snapshot import Snapshot
    from etude.types import Json


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
    training = Training(name=name, data=data, model=model, train=train)
    return _cross_validate(training, run, folds) if folds else over_seeds(training, run)


def train_once(training: Asked, run: RunOptions) -> dict[str, Json]:
    """Train in a new run folder, and say what came out."""
    from etude.runs.record import KeepRun, check_run_dir, new_run_folder, running
    from etude.training.saving import write_json

    check(run)
    check_run_dir(run.run_dir)
    training.check()
    if introduction := training.introduction():
        teller(run)(introduction)
    learner = training.learner(quiet=run.quiet)
    folder = new_run_folder(training.name, run.run_dir)
    options = training.flags() | flags(run)
    with running(folder):
        # enough to begin again, whenever this process may die
        write_json(folder / "config.json", {"options": options, "training": training.record()})
        keep = KeepRun(folder, options, training.record(), about=training.about())
        return fit_and_finish(training, run, learner, keep)


def fit_and_finish(
    training: Asked,
    run: RunOptions,
    learner: Learner,
    keep: KeepRun,
    resume: Snapshot | None = None,
    change: Collection[str] = (),
) -> dict[str, Json]:
    """Fit a learner, or what is left of its fit, while its run folder is filled; draw its mistakes.

    Args:
        training: what is trained.
        run: what is printed, and which checkpoints are kept.
        learner: from `training`.
        keep: the run's folder.
        resume: where to go on.
        change: what may differ from then.
    """
    say = teller(run)
    if resume is None:
        steps = _many(len(learner.data.train or ()), "step")
        say(f"{_many(training.num_epochs, 'epoch')} of {steps}; writing to {keep.folder}")
    started = time.perf_counter() - (resume.seconds_trained if resume is not None else 0.0)
    try:
        _fit(training, learner, [keep, checkpoints_of(keep.folder, run)], resume, change)
    except (KeyboardInterrupt, SystemExit):
        say(f"go on with: etude resume {shlex.quote(str(keep.folder))}")
        raise
    return _finish(training, run, learner, keep, time.perf_counter() - started)


def _fit(
    training: Asked,
    learner: Learner,
    callbacks: Sequence[Callback],
    resume: Snapshot | None,
    change: Collection[str],
) -> None:
    """Train in one fit, or in the training's phases; see `Learner.fit`."""
    from etude.training.transfer import run_phases

    if phases := training.all_phases():
        run_phases(learner, phases, callbacks=callbacks, resume=resume, change=change)
        return
    learner.fit(
        training.train.epochs,
        training.train.lr,
        schedule=training.schedule(),
        momentum=training.momentum,
        callbacks=callbacks,
        resume=resume,
        change=change,
    )


def run_writers(folder: Path, training: Asked, run: RunOptions) -> list[Callback]:
    """What fills a run's folder while its learner fits, for who fits one elsewhere, to time it."""
    from etude.runs.record import KeepRun

    return [KeepRun(folder, training.flags() | flags(run), training.record()), checkpoints_of(folder, run)]


def checkpoints_of(folder: Path, run: RunOptions) -> Checkpoints:
    """What keeps a run's checkpoints."""
    from etude.training.callbacks.checkpoints import Checkpoints

    return Checkpoints(folder / "checkpoints", keep=run.keep, every=run.save_every, on_error=run.on_save_error)


def _finish(training: Asked, run: RunOptions, learner: Learner, keep: KeepRun, seconds: float) -> dict[str, Json]:
    """Look at what was trained, write the result and say it."""
    say, folder = teller(run), keep.folder
    assert learner.precision is not None
    extra: dict[str, Json] = {
        "train_seconds": round(seconds, 2),
        "seed": training.train.seed,
        "precision": learner.precision.name,
    }
    result = keep.finish(learner, extra | training.outcome(learner, folder))
    drawn = [str(path) for path in (folder / "curves.png", folder / "predictions.png") if path.exists()]
    say(f"\n{training.told(result)}, {seconds:.0f} s\nlook at {' and '.join(drawn)}")
    say(training.next_steps(folder))
    return result


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _cross_validate(training: Training, run: RunOptions, folds: int) -> dict[str, Json]:
    """Train once per fold: for sets too small for one held-out part to tell models apart (SPEC Q1)."""
    parts = {f"fold-{i + 1}": in_fold(training, i, folds) for i in range(max(folds, 1))}
    return run_all(Several(f"{training.name} with {folds} folds", parts), training.name, run)


def in_fold(training: Training, which: int, folds: int) -> Training:
    """One of the trainings of a cross-validation.

    Raises:
        ConfigError: there cannot be so many, or something else says what is held out.
    """
    from etude.errors import ConfigError

    if folds < 2:
        raise ConfigError(f"--folds must be at least 2, got {folds}")
    if training.train.seeds > 1 or training.data.valid_pct is not None:
        raise ConfigError("--folds decides what is held out and how often; leave out --seeds and --valid-pct")
    return replace(training, fold=(which, folds))
