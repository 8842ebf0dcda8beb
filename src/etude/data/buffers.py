"""Memory of batches, used again when nobody holds it any more.

A fresh tensor of some megabytes costs more in page faults than filling it costs (12 MB: 80 us a picture, where
normalizing takes 9). So a batch's memory is taken up again, but only once every tensor, view and graph that looks at
it is gone: a batch that somebody keeps never changes under their feet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from typing_extensions import override

_count: Final[Callable[[int], int] | None] = getattr(torch._C, "_storage_Use_Count", None)
"""How many hold a storage; not a public function of torch, so without it memory is simply taken anew."""


class Recycler:
    """Hands out tensors whose memory was used before, and is free.

    Args:
        most: how many blocks of memory it keeps; when all are held, new memory is taken and not kept.
    """

    def __init__(self, most: int = 4) -> None:
        self._most = most
        self._kept: list[Any] = []
        self._lock = threading.Lock()

    @override
    def __reduce__(self) -> tuple[type[Recycler], tuple[int]]:
        # a copy, in this process or another, starts with no memory
        return Recycler, (self._most,)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialized tensor on the CPU, contiguous."""
        if _count is None:
            return torch.empty(shape, dtype=dtype)
        size = torch.Size(shape).numel() * dtype.itemsize
        # between count and use no other thread may find the same memory free
        with self._lock:
            for storage in self._kept:
                # 1: this list alone; what is shared, another process may look at
                if storage.nbytes() == size and _count(storage._cdata) == 1 and not storage.is_shared():
                    return torch.empty(0, dtype=dtype).set_(storage, 0, torch.Size(shape))  # type: ignore[call-overload,no-any-return]  # torch's stub lacks this form
            fresh = torch.empty(shape, dtype=dtype)
            self._kept = [storage for storage in self._kept if self._may_be_used_again(storage, size)]
            if len(self._kept) < self._most:
                self._kept.append(fresh.untyped_storage())
            return fresh

    @staticmethod
    def _may_be_used_again(storage: Any, size: int) -> bool:
        assert _count is not None
        return not storage.is_shared() and (storage.nbytes() == size or _count(storage._cdata) > 1)
