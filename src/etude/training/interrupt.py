"""Ctrl-C, SIGTERM and a closed terminal as a wish to stop at the next point of rest, so that nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final, NoReturn

_WATCHED: Final = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL} | (
    {signal.SIGHUP: signal.SIG_DFL} if os.name == "posix" else {}
)
"""Each signal and the handler that it has unless somebody else looks after it."""


class Wish:
    """Which signal has asked to stop, and whether it has come a second time."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.insists = False


@contextmanager
def wish_to_stop(told: str) -> Iterator[Wish]:
    """Turn signals into a wish for as long as this is open.

    The first signal only leaves that wish; a second one interrupts at once, as it would have without this. Signals
    that somebody else handles are left to them, and so are all outside of the main thread.

    Args:
        told: what will happen, for whoever sent the first signal.
    """
    wish, process = Wish(), os.getpid()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            _in_a_fork(number)
            return
        if wish.number is not None:
            wish.number, wish.insists = number, True
            put_back()
            stop(number)
        wish.number = number
        again = "; again to stop at once" if number == signal.SIGINT else ""
        # not print: the signal may have come in the middle of another one
        with suppress(OSError):
            os.write(2, f"\n{told}{again}\n".encode())

    before: dict[int, Any] = {}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number, usual in _WATCHED.items():
        if signal.getsignal(number) == usual:
            before[number] = signal.signal(number, handle)
    try:
        yield wish
    finally:
        put_back()


def _in_a_fork(number: int) -> None:
    """What a process does that was forked with our handler: Ctrl-C is its parent's to heed, SIGTERM ends it."""
    if number != signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def stop(number: int) -> NoReturn:
    """Leave as a process does that the signal has stopped: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
