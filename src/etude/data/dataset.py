"""Batches from any map-style torch `Dataset`, with the same samples whatever the number of workers."""

from __future__ import annotations

import multiprocessing
import os
import random as python_random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from etude import random
from etude.data.convert import as_batch, to_device
from etude.data.sampling import Sampling
from etude.errors import DataError
from etude.types import Batch


class DatasetLoader:
    """Batches of a map-style `Dataset` of (input, target) pairs.

    The order of an epoch is a function of (seed, epoch). Before each sample is read, the global generators of Python,
    NumPy and torch are set by (seed, epoch, index), so a random transform gives the same sample with any number of
    workers, and in a run that was stopped and resumed; in this process they are put back afterwards.

    Args:
        dataset: has `__len__` and `__getitem__`; picklable if workers are spawned.
        batch_size: samples per batch.
        shuffle: a new order every epoch.
        drop_last: leave out the last, smaller batch.
        seed: decides orders and random transforms.
        workers: processes that read; 0 reads in this one.
        collate: list of samples -> (inputs, targets); None stacks them as torch does.
        persistent_workers: keep workers from epoch to epoch instead of starting new ones. That saves the time of their
            start, but they keep the copy of `dataset` that they started with: a change of it is not seen, and they
            end only with this loader.
        start_method: how workers start, "spawn", "forkserver" or "fork"; None is the platform's own.
        rank: which part of each step this process takes.
        world_size: the number of processes.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        batch_size: int = 64,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        workers: int = 0,
        collate: Callable[[list[Any]], Any] | None = None,
        persistent_workers: bool = False,
        start_method: str | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        try:
            num_samples = len(dataset)  # type: ignore[arg-type]  # a map-style one has a length
        except TypeError as error:
            raise DataError(
                f"{type(dataset).__name__} has no len(); wrap an iterable data set in a torch DataLoader of your own"
            ) from error
        self.sampling = Sampling(
            num_samples=num_samples,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        self._dataset, self._collate = _Keyed(dataset, seed, workers), collate
        self._workers, self._start_method = workers, start_method
        self._persistent = persistent_workers and workers > 0
        self._idle: tuple[_EpochBatches, DataLoader[Any]] | None = None

    @property
    def num_samples(self) -> int:
        """The number of samples of one epoch, over all ranks."""
        return self.sampling.num_samples

    def __len__(self) -> int:
        return len(self.sampling)

    def batches(self, epoch: int, device: torch.device) -> Iterator[Batch]:
        """The batches of one epoch, on the device."""
        return self.batches_from(epoch, 0, device)

    def batches_from(self, epoch: int, start: int, device: torch.device) -> Iterator[Batch]:
        """The batches of one epoch but the first `start`; their samples are not read."""
        # an epoch that is read beside another one gets workers of its own
        reader, self._idle = self._idle or self._reader(), None
        sampler, loader = reader
        sampler.epoch, sampler.start = epoch, start
        with ctrl_c_kept_from_workers(loader):
            items = iter(loader)
        try:
            for i, (item, index) in enumerate(zip(items, self.sampling.batches(epoch)[start:], strict=True), start):
                batch = item if isinstance(item, Batch) else as_batch(item, i)
                yield to_device(batch._replace(indices=index), device)
        finally:
            if self._persistent and self._idle is None:
                self._idle = reader
            elif self._workers:
                # at once, and not when they are found to be garbage: after an error that would take seconds
                items._shutdown_workers()  # type: ignore[attr-defined]  # torch has no public name for it

    def _reader(self) -> tuple[_EpochBatches, DataLoader[Any]]:
        """What reads one epoch at a time."""
        sampler = _EpochBatches(self.sampling)
        return sampler, DataLoader(
            self._dataset,
            batch_sampler=sampler,
            num_workers=self._workers,
            collate_fn=self._collate,
            worker_init_fn=_ignore_ctrl_c,
            pin_memory=False,
            persistent_workers=self._persistent,
            multiprocessing_context=self._start_method if self._workers else None,
            # of its own, as torch draws a seed for its workers from it, and else from the global one
            generator=torch.Generator(),
        )


@contextmanager
def ctrl_c_kept_from_workers(loader: DataLoader[Any]) -> Iterator[None]:
    """Have workers that are started in here never see Ctrl-C, which a terminal sends to all processes.

    Whether to stop is for the training to say; it ends its workers. A Ctrl-C that comes meanwhile is seen at the end.
    """
    if not loader.num_workers or os.name == "nt":  # a process there has no such mask
        yield
        return
    if (loader.multiprocessing_context or multiprocessing).get_start_method() != "fork":
        # it comes with the first of them, and would lift the mask at its start
        resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ignore_ctrl_c(worker: int) -> None:
    """The same for a worker that does not inherit its parent's mask, for a fork server may have started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _EpochBatches:
    """The batch sampler: which (epoch, index) pairs make each batch."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling, self.epoch, self.start = sampling, 0, 0

    def __len__(self) -> int:
        return len(self.sampling) - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return ([(self.epoch, i) for i in rows.tolist()] for rows in self.sampling.batches(self.epoch)[self.start :])


class _Keyed(Dataset[Any]):
    """A data set whose randomness is keyed by (seed, epoch, index)."""

    def __init__(self, dataset: Dataset[Any], seed: int, workers: int) -> None:
        self.dataset, self.seed, self.workers = dataset, seed, workers

    @override
    def __getitem__(self, place: tuple[int, int]) -> Any:
        epoch, i = place
        key = random.key(self.seed, "sample", epoch, i)
        if self.workers:
            # a worker's generators belong to nobody else
            _set_generators(key)
            return self.dataset[i]
        with _generators_kept():
            _set_generators(key)
            return self.dataset[i]


def _set_generators(key: int) -> None:
    python_random.seed(key)
    np.random.seed(key % (1 << 32))  # noqa: NPY002  # what users' transforms draw from
    torch.default_generator.manual_seed(key)


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Put the global generators back as they were."""
    states = python_random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        python_random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
