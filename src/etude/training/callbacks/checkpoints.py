"""Keep checkpoints while training, and stop at once but in order when asked to."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, final

from typing_extensions import override

from etude.data.loaders import SeekableLoader
from etude.errors import ConfigError, SaveError
from etude.training import checkpoint, interrupt, saving, snapshot
from etude.training.callback import Callback
from etude.training.callbacks.stop import direction, is_better
from etude.training.writer import Writer, alone_in, prune
from etude.types import Batch, Json, StepOutput

if TYPE_CHECKING:
    import os

    from etude.training.learner import Learner
    from etude.training.loop import Rest

OnSaveError: TypeAlias = Literal["continue", "stop"]

_STOPPING: Final = "stopping after this step, with a checkpoint"
_STOPPING_READY_MADE: Final = "stopping after this step; a ready-made loader can only be resumed from an epoch's end"


@final
class Checkpoints(Callback):
    """Writes a checkpoint at the end of every epoch, and in long ones every ten minutes.

    The state is copied between two steps, and a thread writes the copy while training goes on. At Ctrl-C or SIGTERM
    the step under way is finished, a last checkpoint is written, and the process ends with 130 or 143.

    Args:
        folder: where they go; see `etude.training.checkpoint`.
        keep: how many of the newest ones stay.
        best: a column of the epoch table; the checkpoint of its best epoch stays too. None keeps none. A fit without
            that column keeps none either.
        every: also after every so many steps; 0 for none.
        minutes: also when so many minutes have passed since the last one.
        on_error: when one cannot be written, as on a full disk: "continue" says so and goes on training; "stop" raises.
            Earlier checkpoints are left alone either way.

    Raises:
        ConfigError: another fit fills the folder, or has; or there is something that no checkpoint can keep.
        SaveError: with on_error="stop".
        NonFiniteError: the weights are not finite; no checkpoint of them is kept.
    """

    decides_training = False

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int = 2,
        best: str | None = "valid_loss",
        every: int = 0,
        minutes: float = 10.0,
        on_error: OnSaveError = "continue",
    ) -> None:
        if keep < 1 or every < 0 or not minutes > 0:
            raise ConfigError(
                f"keep must be at least 1, every at least 0, minutes above 0; got {keep}, {every}, {minutes}"
            )
        if on_error not in ("continue", "stop"):
            raise ConfigError(f"on_error must be 'continue' or 'stop', got {on_error!r}")
        self.folder, self.keep, self.best, self.every = Path(folder), keep, best, every
        self.minutes, self.on_error = minutes, on_error
        self.best_value: float | None = None
        self.best_name = ""
        self._best_written = ""
        """The best one that is on the disk; not `best_name` while that one is being written, or could not be."""
        self._begun = self._has_saved = False
        self._writer: Writer | None = None
        self._wish = interrupt.Wish()
        self._before_validation: snapshot.Bystanders | None = None
        self._last = 0.0

    @override
    def before_fit(self, learner: Learner) -> None:
        """Say where a stop can be taken up again, if that is not everywhere."""
        # a fit that a second Ctrl-C has ended did not wait for it
        self._forget_writer()
        checkpoint.remove_leftovers(self.folder)
        self.best_value, self.best_name, self._best_written = None, "", ""
        self._begun, self._has_saved, self._last = False, False, time.monotonic()
        learner.running().at_rest.append(lambda after: self._rest(learner, after))
        if not isinstance(learner.data.train, SeekableLoader) and learner.show_progress:
            print("a ready-made loader of batches: checkpoints at the ends of epochs only", flush=True)

    @override
    def before_step(self, learner: Learner) -> None:
        """Refuse, before the first step, a state that cannot be kept, and a folder that is not for this fit."""
        if not self._begun:
            self._begun = True
            self._refuse_later_ones(learner)
            checkpoint.check_can_keep(snapshot.take(learner))

    def _refuse_later_ones(self, learner: Learner) -> None:
        """Refuse a folder whose checkpoints are of a fit that is further on.

        Beside those of this fit they would be the newest, so they would be kept, and resumed from, in place of them.
        A damaged one is none: the fit goes on from the one before it.
        """
        for path in checkpoint.checkpoints(self.folder):
            position = checkpoint.position_of(path)
            if position is not None and position[0] > learner.progress.step and checkpoint.is_whole(path):
                advice = (
                    "To go on from here all the same, move the checkpoints after that step away or remove them, or "
                    "name another folder"
                    if learner.progress.fit_step
                    else f"To go on with it, pass resume={str(self.folder)!r}; else name another folder, or remove it"
                )
                raise ConfigError(
                    f"{path} is of a fit that is further on than step {learner.progress.step}, where this one begins. "
                    f"{advice}"
                )

    @override
    def during_fit(self, learner: Learner) -> AbstractContextManager[Any]:
        """Keep the folder to this fit, listen to signals, and at the end wait for the last checkpoint."""
        return self._listening(learner)

    @contextmanager
    def _listening(self, learner: Learner) -> Iterator[None]:
        told = _STOPPING if isinstance(learner.data.train, SeekableLoader) else _STOPPING_READY_MADE
        with alone_in(self.folder), interrupt.wish_to_stop(told) as self._wish:
            try:
                yield
                self._collect(learner)
            except BaseException:
                # what ended the fit is what is to be told, and not what becomes of this checkpoint
                self._forget_writer()
                raise
            finally:
                self._before_validation = None
            self._tidy(learner)
            if self._wish.number is not None:
                # it came after the last point of rest; what follows this fit must not begin
                self._stop(learner, self._wish.number)

    def _tidy(self, learner: Learner) -> None:
        """Remove what failing or killed saves have left, the older checkpoints that they did not come to among it."""
        with suppress(OSError):
            checkpoint.remove_leftovers(self.folder)
            found = checkpoint.checkpoints(self.folder)
            # the first save of a fit does this; one that is resumed at its end has none
            if found and not self._has_saved and found[0].name == _end_of(learner) and checkpoint.is_whole(found[0]):
                prune(self.folder, found[0].name, (self.best_name, self._best_written), self.keep)

    def _forget_writer(self) -> None:
        """Wait for the checkpoint under way, whatever becomes of it, unless a second signal says not to."""
        if self._writer is not None and not self._wish.insists:
            self._writer.join()
            self._writer = None

    def _rest(self, learner: Learner, after: Rest) -> None:
        """Save if it is time, and stop if that was asked for."""
        if self._writer is not None and self._writer.error is not None:
            # a full disk is told, or ends the fit, at once and not when the next checkpoint is due
            self._collect(learner)
        wish = self._wish.number
        if after == "epoch":
            self._note_best(learner)
            self._save(learner)
        elif after == "trained":
            self._before_validation = snapshot.bystanders(learner)
        elif self._is_time(learner) or (wish and isinstance(learner.data.train, SeekableLoader)):
            self._save(learner)
        if wish is not None and after != "trained":
            self._stop(learner, wish)

    @override
    def after_eval_batch(self, learner: Learner, batch: Batch, output: StepOutput) -> None:
        """A wish to stop need not wait for the end of a validation pass: it is begun anew by the resumed run."""
        wish = self._wish.number
        # a callback may evaluate on its own, between epochs or within one
        if wish is None or self._before_validation is None or learner.running().train_results is None:
            return
        self._save(learner, self._before_validation)
        self._stop(learner, wish)

    def _is_time(self, learner: Learner) -> bool:
        if not isinstance(learner.data.train, SeekableLoader):
            return False
        by_steps = self.every and learner.progress.step % self.every == 0
        return bool(by_steps) or time.monotonic() - self._last >= 60 * self.minutes

    def _note_best(self, learner: Learner) -> None:
        """Whether this epoch's checkpoint is the one to be kept."""
        row = learner.running().history.rows[-1]
        if self.best is None or self.best not in row:
            return
        if is_better(row[self.best], self.best_value, maximize=direction(self.best, None)):
            self.best_value = row[self.best]
            self.best_name = _end_of(learner)

    def _save(self, learner: Learner, around: snapshot.Bystanders | None = None) -> None:
        """Hand a snapshot, with bystanders as they were, to a thread of its own, once the last one is on the disk."""
        # a good checkpoint must not give way to weights that an update has made infinite or NaN
        learner.running().check_finite()
        taken = snapshot.take(learner)
        if around is not None:
            taken = replace(taken, callbacks=around.callbacks, random=around.random, generators=around.generators)
        self._collect(learner)
        self._last = time.monotonic()
        best = (self.best_name, self._best_written)
        self._writer = Writer(taken, self.folder, saving.describe(learner), best, self.keep, self._wish)
        self._writer.start()

    def _collect(self, learner: Learner) -> None:
        """Wait for the checkpoint under way, and tell what became of it."""
        if (writer := self._writer) is None:
            return
        writer.join()
        self._writer = None
        if isinstance(writer.error, OSError):
            told = f"checkpoint {writer.name} could not be written: {writer.error}"
            if self.on_error == "stop":
                raise SaveError(f"{told}. Make room or name another folder; earlier checkpoints are as they were")
            _tell(learner, told, "training goes on, earlier checkpoints are as they were")
        elif writer.error is not None:
            raise writer.error
        else:
            self._has_saved = True
            if writer.name == writer.best[0]:
                self._best_written = writer.name
        if writer.not_pruned is not None:
            _tell(learner, f"older checkpoints could not be removed: {writer.not_pruned}", "training goes on")

    def _stop(self, learner: Learner, wish: int) -> None:
        """Wait until all is on the disk, and leave."""
        self._collect(learner)
        found = checkpoint.checkpoints(self.folder)
        position = checkpoint.position_of(found[0]) if found else None
        if position is None:
            where = "stopped before the first checkpoint"
        elif position[0] == learner.progress.step:
            where = f"stopped; {found[0]} holds all of it"
        else:
            where = f"stopped at step {learner.progress.step}; the newest checkpoint is {found[0]}"
        print(where, file=sys.stderr, flush=True)
        interrupt.stop(wish)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Which checkpoint is the best."""
        return {"best_value": self.best_value, "best_name": self.best_name, "best_written": self._best_written}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on comparing with it."""
        self.best_value, self.best_name = state["best_value"], state["best_name"]
        self._best_written = state["best_written"]

    @override
    def config(self) -> dict[str, Json]:
        """What is kept."""
        return {"keep": self.keep, "best": self.best}


def _tell(learner: Learner, told: str, but: str) -> None:
    learner.running().history.notes.append(told)
    print(f"{told}; {but}", file=sys.stderr, flush=True)


def _end_of(learner: Learner) -> str:
    return checkpoint.name_at(learner.progress.step, learner.progress.epoch)
