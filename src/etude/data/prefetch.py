"""Make batches ahead of time in a thread, and bring them to the device."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from etude.types import Batch

_DEPTH: Final = 2
"""Batches made ahead of the one in use."""


def prefetched(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches, made in a thread while earlier ones are in use, and moved to the device.

    An error in the thread is raised here, at the batch that it belongs to; a reader that stops early ends the thread.
    """
    ahead: queue.Queue[Batch | BaseException | None] = queue.Queue(_DEPTH)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not stop.is_set():
            try:
                ahead.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for batch in batches:
                put(_moved(batch, device))
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    return _read(ahead, stop, threading.Thread(target=work, name="etude-prefetch", daemon=True))


def _read(
    ahead: queue.Queue[Batch | BaseException | None], stop: threading.Event, thread: threading.Thread
) -> Iterator[Batch]:
    thread.start()
    try:
        while (item := ahead.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def _moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on the device; to a GPU from pinned memory, so that the copy runs beside the work."""

    def move(tensor: Tensor) -> Tensor:
        if device.type == "cuda" and tensor.device.type == "cpu":
            return tensor.pin_memory().to(device, non_blocking=True)
        return tensor.to(device)

    moved: Batch = tree_map_only(Tensor, move, batch)
    return moved
