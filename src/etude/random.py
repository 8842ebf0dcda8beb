"""Randomness as a function: every draw is keyed by what it is for and where in training it happens.

The order of epoch *e*, the augmentation of sample *i* in it and the MixUp partners of batch *b* are pure
functions of `(seed, purpose, counters)`. They do not depend on the number of workers, on what was drawn
before, or on whether training was stopped and resumed in between.
"""

from __future__ import annotations

import hashlib
import random as python_random
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_MASK_34 = (1 << 34) - 1
_MASK_33 = (1 << 33) - 1
_MASK_37 = (1 << 37) - 1


def key(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit number that depends on every argument.

    >>> key(42, "order", 0) == key(42, "order", 0), key(42, "order", 0) == key(42, "order", 1)
    (True, False)
    """
    text = ":".join((str(seed), purpose, *map(str, counters)))
    # a purpose may hold the name of a file, and a name bytes that are no text
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, *counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh torch generator for one purpose at one place in training."""
    return torch.Generator(device).manual_seed(key(seed, purpose, *counters))


def order(seed: int, epoch: int, num_samples: int) -> Int[Tensor, "samples"]:
    """The order of the training samples in one epoch, on the CPU."""
    return torch.randperm(num_samples, generator=generator(seed, "order", epoch))


def uniform(seed: int, purpose: str, epoch: int, index: Int[Tensor, "batch"], num: int) -> Float[Tensor, "batch num"]:
    """`num` numbers in [0, 1) for each sample, keyed by (seed, purpose, epoch, index), on the device of `index`.

    A counter-based generator (splitmix64): the same numbers on every device and for any grouping of the
    samples into batches.

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    start = key(seed, purpose, epoch)
    column = torch.arange(num, device=index.device)
    # int64 arithmetic wraps around exactly like uint64; only the right shifts need their sign bits cleared
    z = (index.long().unsqueeze(1) * num + column) * _signed(0x9E3779B97F4A7C15) + start
    z = (z ^ (z >> 30 & _MASK_34)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> 27 & _MASK_37)) * _signed(0x94D049BB133111EB)
    z = z ^ (z >> 31 & _MASK_33)
    return (z >> 40 & (1 << 24) - 1).float() / (1 << 24)


class PythonState(TypedDict):
    """Of Python's `random`."""

    version: int
    numbers: Tensor
    gauss: float | None


class NumpyState(TypedDict):
    """Of NumPy's global generator."""

    name: str
    keys: Tensor
    position: int
    has_gauss: int
    cached: float


class GlobalState(TypedDict):
    """Every global generator's state: numbers, and tensors on the CPU."""

    torch: Tensor
    cuda: list[Tensor]
    mps: list[Tensor]
    """Of Apple's GPU: one, or none."""
    python: PythonState
    numpy: NumpyState


def global_state() -> GlobalState:
    """The state of every global generator that code outside of this library draws from.

    torch's on the CPU and on each GPU (Apple's too), Python's and NumPy's: numbers, and tensors on the CPU.
    """
    version, numbers, gauss = python_random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002  # the global one is what users draw from
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else [],
        "python": {"version": version, "numbers": torch.tensor(numbers, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
    }


def set_global_state(state: GlobalState) -> None:
    """Put every global generator to where `global_state` found it; GPUs that are not there are left out."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for i, one in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(one, i)
    if torch.backends.mps.is_available():
        for one in state["mps"]:
            torch.mps.set_rng_state(one)
    python, numpy = state["python"], state["numpy"]
    python_random.setstate((python["version"], tuple(python["numbers"].tolist()), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(  # noqa: NPY002
        (numpy["name"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"])
    )


def _signed(unsigned: int) -> int:
    """The int64 with the same bits as a uint64."""
    return unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned
