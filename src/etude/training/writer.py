"""The thread that writes a fit's checkpoints while it trains, in a folder that is that fit's alone."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout
from typing_extensions import override

from etude.errors import ConfigError
from etude.training import checkpoint
from etude.training.interrupt import Wish
from etude.training.snapshot import Snapshot
from etude.types import Json

_SECONDS_OF_ORPHANS: Final = 6.0
"""How long the workers of a killed training live on, and hold what it had locked: torch lets them look every 5 s."""
_SECONDS_AT_EXIT: Final = 1.0


class Writer(threading.Thread):
    """Writes one checkpoint and removes those that it replaces."""

    def __init__(
        self,
        taken: Snapshot,
        folder: Path,
        description: dict[str, Json] | None,
        best: tuple[str, str],
        keep: int,
        wish: Wish,
    ) -> None:
        super().__init__(name=checkpoint.name_of(taken), daemon=True)
        self._taken, self._folder, self._description = taken, folder, description
        self.best, self._keep, self.wish = best, keep, wish
        self.error: Exception | None = None
        self.not_pruned: Exception | None = None

    @override
    def run(self) -> None:
        try:
            checkpoint.write(self._taken, self._folder, self._description)
        except Exception as error:
            self.error = error
            return
        try:
            prune(self._folder, self.name, self.best, self._keep)
        except Exception as error:
            self.not_pruned = error


@atexit.register
def _wait_for_writers() -> None:
    """Let no writer run into the end of the interpreter: that would abort the process, and hide its exit code."""
    for thread in threading.enumerate():
        if isinstance(thread, Writer):
            with suppress(KeyboardInterrupt):
                thread.join(_SECONDS_AT_EXIT if thread.wish.insists else None)
            if thread.is_alive():
                for stream in (sys.stdout, sys.stderr):
                    with suppress(OSError, ValueError):
                        stream.flush()
                os._exit(128 + (thread.wish.number or signal.SIGINT))


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder of checkpoints, as no two fits can share one; where none can be written, each save tells."""
    held: AbstractContextManager[Any] = nullcontext()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / checkpoint.LOCK).acquire(timeout=_SECONDS_OF_ORPHANS)
    except Timeout:
        raise ConfigError(
            f"another fit is writing its checkpoints into {folder}; wait for it, or name another folder"
        ) from None
    except (OSError, NotImplementedError):
        pass
    with held:
        yield


def prune(folder: Path, newest: str, best: tuple[str, str], keep: int) -> None:
    """Remove all but the newest one and those before it, and the best or, where that is not there, the one before."""
    there = checkpoint.checkpoints(folder)
    names = [path.name for path in there]
    # those before it in this list are later ones that are damaged: the fit is about to train those steps again
    first = names.index(newest)
    kept = {*names[first : first + keep], best[0] if best[0] in names else best[1]}
    for old in there:
        if old.name not in kept:
            checkpoint.remove(old)
