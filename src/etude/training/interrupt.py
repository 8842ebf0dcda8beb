"""Ctrl-C and SIGTERM as a wish to stop at the next point of rest, so that nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final, NoReturn

_WATCHED: Final = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""Each signal and the handler that it has unless somebody else looks after it."""


@contextmanager
def wish_to_stop() -> Iterator[Callable[[], int | None]]:
    """Yield a function that says which signal has asked to stop, or None.

    The first signal only leaves that wish; a second one interrupts at once, as it would have without this. Signals
    that somebody else handles are left to them, and so are all outside of the main thread.
    """
    wish: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if wish:
            put_back()
            stop(number)
        wish.append(number)
        again = "; again to stop at once" if number == signal.SIGINT else ""
        # not print: the signal may have come in the middle of another one
        with suppress(OSError):
            os.write(2, f"\nstopping after this step, with a checkpoint{again}\n".encode())

    before: dict[int, Any] = {}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number, usual in _WATCHED.items():
        if signal.getsignal(number) == usual:
            before[number] = signal.signal(number, handle)
    try:
        yield lambda: wish[0] if wish else None
    finally:
        put_back()


def stop(number: int) -> NoReturn:
    """Leave as a process does that the signal has stopped: exit code 130 for Ctrl-C, 143 for SIGTERM."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
