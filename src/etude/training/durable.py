"""Files that are on the disk, and not only on their way to it, when a function returns."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor


def write_tensors(tensors: dict[str, Tensor], path: Path) -> str:
    """Write a safetensors file and bring it to the disk.

    Returns:
        Its SHA-256, of what can be read back.

    Raises:
        OSError: the disk is full, or may not be written to.
    """
    path.touch()
    mode = path.stat().st_mode
    # each in plain order, for the format knows no other; and shared ones apart
    plain = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    try:
        safetensors.torch.save_file(plain, path)
    except SafetensorError as error:
        if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    # it writes a file of its own that nobody else may read
    path.chmod(mode)
    with path.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest


def can_write(tensor: Tensor) -> bool:
    """Whether the format knows this kind of tensor."""
    try:
        safetensors.torch.save({"": torch.empty(0, dtype=tensor.dtype, layout=tensor.layout)})
    except (KeyError, ValueError, RuntimeError, SafetensorError):
        return False
    return True


def write_text(text: str, path: Path) -> str:
    """Write a text file and bring it to the disk; returns its SHA-256."""
    # the name of a file may hold bytes that are no text
    data = text.encode("utf-8", "surrogateescape")
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def replace_text(text: str, path: Path) -> None:
    """Write a text file whole or not at all; a link stays one, and what it leads to is replaced.

    Raises:
        OSError: it cannot be written; it names the path that was given.
    """
    place = path.resolve()
    temporary = place.with_name(place.name + ".part")
    try:
        write_text(text, temporary)
        temporary.replace(place)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system has such a thing."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some file systems, networked ones above all, cannot do that to a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
