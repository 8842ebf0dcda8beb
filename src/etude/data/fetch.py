"""From what a user gives as data, a folder, an archive or a known name, to a folder."""

from __future__ import annotations

import difflib
import glob
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from etude.data.cache import home, lock
from etude.data.sources.archive import SUFFIXES, extract, is_archive, stem
from etude.data.sources.download import download
from etude.data.sources.known import DATASETS, DataSet
from etude.errors import DataError

__all__ = ["DATASETS", "DataSet", "download", "resolve"]


def resolve(
    source: str | os.PathLike[str],
    *,
    say: Callable[[str], None] = print,
    progress: Callable[[int, int], None] | None = None,
    unpacking: Callable[[int, int], None] | None = None,
) -> Path:
    """The folder that a source means. Folders and archives of one's own never touch the network.

    An archive is extracted once, into the cache, under a name that holds its digest; a changed archive is another one.

    Args:
        source: a folder, an archive (tar or zip), or the name of a known data set.
        say: called with lines for the user.
        progress: called with the bytes done and their total, first of the download, then of the extraction.
        unpacking: called instead of `progress` with those of the extraction.

    Raises:
        DataError: the source is none of these, or cannot be downloaded or extracted.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        if not is_archive(path):
            raise DataError(f"{path} is a file but no archive; expected a folder, or one of {', '.join(SUFFIXES)}")
        return _only_folder(_extracted(path, say, unpacking or progress))
    if (dataset := DATASETS.get(str(source))) is None:
        raise DataError(_what_else(path))
    archive = download(dataset, say=say, progress=progress)
    folder = _extracted(archive, say, unpacking or progress) / dataset.folder
    if not folder.is_dir():
        raise DataError(f"the archive of {dataset.name} holds no folder {dataset.folder}; its source changed")
    return folder


def _extracted(archive: Path, say: Callable[[str], None], progress: Callable[[int, int], None] | None) -> Path:
    """The folder in the cache with an archive's contents."""
    try:
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{archive} cannot be read: {error}") from error
    folder = home() / "archives" / f"{stem(archive)}-{digest[:16]}"
    with lock(folder, waiting=say):
        if not folder.is_dir():
            # Of processes that were killed: the lock says that none is at work.
            for left in folder.parent.glob(f"{glob.escape(folder.name)}.part-*"):
                shutil.rmtree(left, ignore_errors=True)
            say(f"extracting {archive.name} into {folder}")
            extract(archive, folder, progress=progress)
    return folder


def _only_folder(folder: Path) -> Path:
    """The one folder at the top of an archive, if there is nothing else; what file managers add aside."""
    inside = [path for path in folder.iterdir() if not path.name.startswith(".") and path.name != "__MACOSX"]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _what_else(path: Path) -> str:
    """What is wrong with a source that is nothing, and what may have been meant."""
    return (
        f"{path} is neither a folder, nor an archive, nor a known data set{meant(path, DATASETS)} Expected a folder, "
        f"an archive ({', '.join(SUFFIXES)}), or one of {', '.join(sorted(DATASETS))}"
    )


def meant(path: Path, known: Iterable[str]) -> str:
    """The end of a sentence on a path that does not exist, and what may have been meant: a neighbor or a known name."""
    beside = path.parent
    near = sorted(entry.name for entry in beside.iterdir()) if beside.is_dir() else []
    close = [str(beside / name) for name in difflib.get_close_matches(path.name, near)]
    close += difflib.get_close_matches(str(path), known)
    gone = "" if beside.is_dir() else f" (there is no folder {beside} either)"
    return f"{gone}." + (f" Did you mean {' or '.join(close)}?" if close else "")
