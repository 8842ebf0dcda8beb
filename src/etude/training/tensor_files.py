"""Tensors of files that somebody else may have made; see `etude.training.guarded`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from etude.errors import LoadError
from etude.training.guarded import check_header, plain_size

_WIDENED: Final = (torch.float16, torch.bfloat16)
"""What a float32 tensor holds without a loss."""


def read_tensors(path: Path, inside: Path | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped into memory: they take some when they are used.

    Raises:
        LoadError: it is none, damaged, or larger than what it says.
    """
    size = plain_size(path, inside)
    try:
        with path.open("rb") as file:
            start = file.read(8)
        check_header(start, size)
        return load_file(path)
    # KeyError: a type of numbers that torch does not have
    except (ValueError, KeyError, OSError, RuntimeError, MemoryError, SafetensorError) as error:
        raise LoadError(f"{path} is damaged, or no safetensors file: {error}") from error


def is_same_type(own: Tensor, given: Tensor) -> bool:
    """Whether a tensor of a file can be copied into a model's and stays what it was."""
    return given.dtype == own.dtype or (own.dtype == torch.float32 and given.dtype in _WIDENED)
