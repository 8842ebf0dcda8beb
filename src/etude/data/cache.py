"""The library's own folder on this machine, one process at a time in it, and room on its disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from etude.errors import DataError


def home() -> Path:
    """The folder for downloads and extracted archives, made when it is missing.

    `$ETUDE_HOME`, else `$XDG_CACHE_HOME/etude`, else `~/.cache/etude` (on Windows `%LOCALAPPDATA%/etude`).

    Raises:
        DataError: the folder cannot be made.
    """
    folder = _home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the cache folder {folder} cannot be made ({error}); name a folder that can be written in ETUDE_HOME"
        ) from error
    return folder


def _home() -> Path:
    if own := os.environ.get("ETUDE_HOME"):
        return Path(own).expanduser().absolute()
    if os.name == "nt" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local, "etude")
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative $XDG_CACHE_HOME is invalid and to be ignored, says its specification.
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "etude"


@contextmanager
def lock(path: Path, *, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a path for this process (and thread) alone; whoever comes second waits. A process that dies lets go.

    Args:
        path: what is being made; the lock is a file beside it, `<path>.lock`.
        waiting: called once, with a line for the user, when somebody else holds the path.

    Raises:
        DataError: the lock file cannot be made.
    """
    held = FileLock(path.with_name(path.name + ".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=0)
        except Timeout:
            if waiting is not None:
                waiting(f"another process is preparing {path.name}; waiting")
            held.acquire()
    except OSError as error:
        raise DataError(
            f"{path.parent} cannot be written ({error}); name a folder that can be written in ETUDE_HOME"
        ) from error
    try:
        yield
    finally:
        held.release()


def entries() -> Iterator[tuple[str, Path]]:
    """Everything that is kept, with its kind: "stores", "archives" or "downloads"."""
    for kind in ("stores", "archives", "downloads"):
        folder = home() / kind
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix != ".lock":
                yield kind, path


def is_part(path: Path) -> bool:
    """Whether something in the cache is still being made, or was left half-made by a process that was killed."""
    return ".part" in path.name


def clear() -> tuple[int, list[str]]:
    """Remove decoded files, archives and downloads; what another process is making is left alone.

    Lock files stay: removed under a process that holds one, they would let two processes make the same thing.

    Returns:
        How many bytes were removed, and what could not be, with the reason.
    """
    freed, kept = 0, []
    for _, path in entries():
        held = FileLock(path.with_name(f"{path.name.split('.part')[0]}.lock"))
        try:
            with held.acquire(timeout=0):
                size = size_of(path)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                freed += size
        except Timeout:
            kept.append(f"{path.name}: another process is using it")
        except OSError as error:
            kept.append(f"{path.name}: {error.strerror or error}")
    return freed, kept


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files below a folder."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def free_space(folder: Path) -> int:
    """The free bytes of the disk that holds a folder, which need not exist yet."""
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(existing).free


def check_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Refuse to begin what cannot end.

    Raises:
        DataError: the disk of `folder` has less room than `what` needs.
    """
    free = free_space(folder)
    if needed_bytes > free:
        raise DataError(
            f"{what} needs {human_size(needed_bytes)} in {folder}, but {human_size(free)} are free there; "
            f"make room, or name a folder on a larger disk in ETUDE_HOME"
        )


def human_size(num_bytes: int) -> str:
    """A number of bytes as people write it.

    >>> human_size(999), human_size(99_003_388), human_size(1_557_161_267)
    ('999 bytes', '99.0 MB', '1.6 GB')
    """
    if num_bytes < 1000:
        return f"{num_bytes} bytes"
    size, units = num_bytes / 1000, ["kB", "MB", "GB", "TB"]
    while size >= 999.95 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.1f} {units[0]}"
