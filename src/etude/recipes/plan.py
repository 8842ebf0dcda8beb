"""Tell what a recipe will train, how long it will take and how much memory, before anything is trained."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from etude.recipes.options import RunOptions, check, check_picture, flags, teller

if TYPE_CHECKING:
    from etude.recipes.training import Training
    from etude.training.callback import Callback
    from etude.types import Json


def plan(
    training: Training,
    run: RunOptions = RunOptions(),  # noqa: B008  # frozen
    *,
    out: str | None = None,
    folds: int = 0,
) -> dict[str, Json]:
    """Plan a training as it was asked for; no run's folder is made.

    Args:
        training: what is to be trained.
        run: what is printed; the rest is checked as a training would, and nothing is written there.
        out: a PNG of learning rate and momentum; None draws none.
        folds: of a cross-validation; 0 for none. The first of its trainings is planned.

    Returns:
        The plan as JSON (see `etude.training.plan.Plan`), with `runs`, how many such trainings there will be, and
        `runs_seconds`, what they will take together.
    """
    from etude.errors import ConfigError
    from etude.recipes.train import checkpoints_of
    from etude.runs.record import KeepRun, check_run_dir

    if out is not None:
        check_picture(out)
    check(run)
    check_run_dir(run.run_dir)
    training.check()
    if folds and (folds < 2 or training.train.seeds > 1 or training.data.valid_pct is not None):
        raise ConfigError("--folds must be at least 2, and decides what is held out: without --seeds and --valid-pct")
    runs = folds or training.train.seeds
    first = replace(training, train=replace(training.train, seeds=1), fold=(0, folds) if folds else training.fold)
    say = teller(run)
    if introduction := training.introduction():
        say(introduction)
    learner = first.learner(quiet=run.quiet)
    say("timing a few steps on a copy of the model; nothing is trained or kept\n")
    with TemporaryDirectory(prefix="etude-plan-", ignore_cleanup_errors=True) as folder, _stopping_at_once():
        # a training writes its run while it goes on, which takes time too; here into a folder that goes away
        keep = KeepRun(Path(folder), first.flags() | flags(run), first.record())
        writers: list[Callback] = [keep, checkpoints_of(Path(folder), run)]
        from etude.training.plan import make_plan

        train = first.train
        made = make_plan(learner, train.epochs, train.lr, schedule=first.schedule(), callbacks=writers, timed=writers)
    say(repr(made))
    if runs > 1:
        say(f"\n{runs} such trainings take {runs} times as long")
    if out is not None:
        made.draw(out)
        say(f"\nlook at {out}")
    return {**made.as_json(), "runs": runs, "runs_seconds": runs * made.forecast.total, "picture": out}


@contextmanager
def _stopping_at_once() -> Iterator[None]:
    """Ctrl-C ends the work as usual: there is no checkpoint to be written first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
