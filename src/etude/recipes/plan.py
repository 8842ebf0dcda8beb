"""Tell what a recipe will train, how long it will take and how much memory, before anything is trained."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from etude.recipes.options import RunOptions, check, check_picture, teller

if TYPE_CHECKING:
    from etude.recipes.asked import Asked
    from etude.training.callback import Callback
    from etude.training.learner import Learner
    from etude.training.plan import Plan
    from etude.types import Json


def plan(
    training: Asked,
    run: RunOptions = RunOptions(),  # noqa: B008  # frozen
    *,
    out: str | None = None,
    runs: int | None = None,
) -> dict[str, Json]:
    """Plan a training as it was asked for; no run's folder is made.

    Args:
        training: what is to be trained.
        run: what is printed; the rest is checked as a training would, and nothing is written there.
        out: a PNG of learning rate and momentum; None draws none.
        runs: how many such trainings there will be; None for as many as it has seeds.

    Returns:
        The plan as JSON (see `etude.training.plan.Plan`; of several phases the last one's, and each as `phases`), with
        `runs`, how many such trainings there will be, and `runs_seconds`, what they will take together.
    """
    from etude.recipes.train import run_writers
    from etude.training.plan_text import seconds_text

    _check(training, run, out)
    runs = runs or training.train.seeds
    first = training.seeded(training.train.seed)
    say = teller(run)
    if introduction := training.introduction():
        say(introduction)
    learner = first.learner(quiet=run.quiet)
    say("timing a few steps on a copy of the model; nothing is trained or kept\n")
    with TemporaryDirectory(prefix="etude-plan-", ignore_cleanup_errors=True) as folder, _stopping_at_once():
        # a training writes its run while it goes on, which takes time too; here into a folder that goes away
        def writers(place: str) -> list[Callback]:
            into = Path(folder) / place
            into.mkdir()
            return run_writers(into, first, run)

        plans = list(_plans(first, learner, writers, say))
    seconds = sum(made.forecast.total for made in plans)
    if len(plans) > 1:
        say(f"\nall {len(plans)} phases take {seconds_text(seconds)}")
    if runs > 1:
        say(f"\n{runs} such trainings take {runs} times as long")
    if out is not None:
        plans[-1].draw(out)
        say(f"\nlook at {out}{' for the last phase' if len(plans) > 1 else ''}")
    phases: dict[str, Json] = {"phases": [made.as_json() for made in plans]} if len(plans) > 1 else {}
    return {**plans[-1].as_json(), **phases, "runs": runs, "runs_seconds": runs * seconds, "picture": out}


def _check(training: Asked, run: RunOptions, out: str | None) -> None:
    """Refuse what the training would refuse, before anything is read."""
    from etude.runs.record import check_run_dir

    if out is not None:
        check_picture(out)
    check(run)
    check_run_dir(run.run_dir)
    training.check()


def _plans(
    training: Asked, learner: Learner, writers: Callable[[str], list[Callback]], say: Callable[[str], None]
) -> Iterator[Plan]:
    """The plan of its one fit, or of each of its phases, said as it comes."""
    from etude.schedules import one_cycle
    from etude.training.plan import make_plan
    from etude.training.transfer import describe_phase, in_phase

    train, phases = training.train, training.all_phases()
    if not phases:
        kept = writers("run")
        made = make_plan(
            *(learner, train.epochs, train.lr),
            schedule=training.schedule(),
            momentum=training.momentum,
            callbacks=kept,
            timed=kept,
        )
        say(repr(made))
        yield made
    for i, phase in enumerate(phases, 1):
        assert phase.epochs is not None
        with in_phase(learner, phase) as held:
            say(f"phase {i} of {len(phases)}: {describe_phase(learner, phase)}\n")
            schedule, kept = partial(one_cycle, pct_start=phase.pct_start), writers(f"phase-{i}")
            made = make_plan(
                learner,
                phase.epochs,
                phase.lr,
                schedule=schedule,
                momentum="auto" if phase.momentum is None else phase.momentum,
                callbacks=[*held, *kept],
                timed=kept,
            )
        say(repr(made) + "\n")
        yield made


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
