"""Read items in threads, ahead of whoever uses them, in order and with bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from etude.errors import DataError

Read: TypeAlias = Callable[[Any], Tensor]


@runtime_checkable
class ThreadedReader(Protocol):
    """A reader of items that can read several at a time."""

    def threaded(self) -> AbstractContextManager[Read]:
        """Inside, a function that reads as the reader does, from any thread."""
        ...


@contextmanager
def reading(read: Read) -> Iterator[tuple[Read, int]]:
    """A function that reads, and how many threads may call it: one, unless the reader says that more can."""
    if not isinstance(read, ThreadedReader):
        yield read, 1
        return
    with read.threaded() as threaded:
        yield threaded, os.cpu_count() or 1


def read_ahead(
    read: Read, items: Iterable[Any], *, threads: int, ahead: int
) -> Iterator[tuple[Any, Tensor | DataError]]:
    """Each item with what was read of it, or with why it cannot be read, in the order of the items.

    Args:
        read: from an item to a tensor; raises `DataError`.
        items: may be without an end; no more than `ahead` of them are taken before they are asked for.
        threads: that read; with 1 nothing is read ahead.
        ahead: items that are read, or being read, at a time.
    """

    def tried(item: Any) -> Tensor | DataError:
        try:
            return read(item)
        except DataError as error:
            return error

    if threads == 1:
        for item in items:
            yield item, tried(item)
        return
    source, waiting = iter(items), deque[tuple[Any, Future[Tensor | DataError]]]()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="etude-read")
    try:
        waiting.extend((item, pool.submit(tried, item)) for item in islice(source, ahead))
        while waiting:
            item, found = waiting.popleft()
            result = found.result()
            waiting.extend((item, pool.submit(tried, item)) for item in islice(source, 1))
            yield item, result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
