"""Download one file: continued where it broke off, checked before it gets its name."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias
from urllib.parse import urlsplit

from etude.data.cache import check_space, home, human_size, lock
from etude.data.sources.archive import SUFFIXES
from etude.data.sources.known import DataSet
from etude.errors import DataError

PAUSES: Final = (1.0, 3.0, 9.0)
"""Seconds between tries that bring nothing new; one more try than pauses."""
TIMEOUT: Final = 30.0
_CHUNK: Final = 1 << 18
_TRY_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
Say: TypeAlias = Callable[[str], None]
Report: TypeAlias = Callable[[int, int], None]


class _BrokenOffError(Exception):
    """The connection failed in a way that another try may heal."""


@dataclass(frozen=True)
class _Job:
    """A download under way: the file gets its name when it is whole, until then it is `<name>.part`."""

    dataset: DataSet
    target: Path
    progress: Report | None

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    @property
    def note(self) -> Path:
        """Beside the part: which version of the file on the server it is a part of."""
        return self.target.with_name(self.target.name + ".part.json")

    def size(self) -> int:
        """How many bytes are there."""
        return self.part.stat().st_size if self.part.exists() else 0

    def forget(self) -> None:
        """Delete what is there."""
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def download(dataset: DataSet, *, say: Say = print, progress: Report | None = None) -> Path:
    """The archive of a data set, downloaded once; an interrupted download is continued.

    Proxies are taken from the environment (`https_proxy`). Two processes that ask for the same file download it once.

    Args:
        dataset: what to download.
        say: called with lines for the user.
        progress: called with the bytes done and their total, 0 when the server tells none.

    Raises:
        DataError: the server cannot be reached or sends something else, or the disk cannot hold the file.
    """
    if urlsplit(dataset.url).scheme not in ("https", "http"):
        raise DataError(f"{dataset.url} of {dataset.name} is no https address")
    suffix = max((suffix for suffix in SUFFIXES if dataset.url.endswith(suffix)), key=len, default="")
    target = home() / "downloads" / f"{dataset.name}{suffix}"
    with lock(target, waiting=say):
        if target.is_file() and (why := _why_wrong(target, dataset)):
            say(f"{target} is damaged or of another version ({why}); it is downloaded again")
            target.unlink()
        if not target.is_file():
            size = f" ({human_size(dataset.size)})" if dataset.size else ""
            say(f"downloading {dataset.name}{size} from {dataset.url}; license: {dataset.license}")
            job = _Job(dataset, target, progress)
            try:
                _try_until_whole(job, say)
                _check(job, say)
                job.part.replace(target)
                job.note.unlink(missing_ok=True)
            except OSError as error:
                raise _cannot_write(job, error) from error
    return target


def _cannot_write(job: _Job, error: OSError) -> DataError:
    if error.errno in _FULL:
        return DataError(
            f"the disk of {job.target.parent} is full after {human_size(job.size())} of {job.dataset.name}; make room "
            f"and start again, it will go on from there, or name a folder on a larger disk in ETUDE_HOME"
        )
    return DataError(f"{job.part} cannot be written ({error}); name a folder that can be written in ETUDE_HOME")


def _try_until_whole(job: _Job, say: Say) -> None:
    """Tries that bring the file further do not count against the number of tries."""
    failures, furthest = 0, job.size()
    while True:
        try:
            return _transfer(job, say)
        except _BrokenOffError as broken:
            failures = 1 if job.size() > furthest else failures + 1
            furthest = max(furthest, job.size())
            if failures > len(PAUSES):
                raise _unreachable(job, broken) from broken
            say(f"{job.dataset.name}: {broken}; trying again")
            time.sleep(PAUSES[failures - 1])


def _unreachable(job: _Job, why: object) -> DataError:
    dataset = job.dataset
    size = f" ({human_size(dataset.size)})" if dataset.size else ""
    return DataError(
        f"{dataset.name} cannot be downloaded: {why}. Without a network, download {dataset.url}{size} "
        f"on another machine, copy it here, and give the file: --data PATH"
    )


def _transfer(job: _Job, say: Say) -> None:
    """One try: ask for what is missing, else for everything."""
    job.target.parent.mkdir(parents=True, exist_ok=True)
    note = _read_note(job)
    if note is None:
        job.forget()
    start = job.size()
    if start and start == job.dataset.size:  # killed just before the check
        return
    request = urllib.request.Request(job.dataset.url, headers={"User-Agent": "etude", "Accept-Encoding": "identity"})
    if note is not None and start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", note)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            _refused(job, error.code)
            raise _BrokenOffError(f"the server answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(f"no connection to {urlsplit(job.dataset.url).hostname} ({_reason(error)})") from error
    with response:
        if urlsplit(job.dataset.url).scheme == "https" and urlsplit(response.url).scheme != "https":
            raise DataError(f"{job.dataset.url} was redirected to {response.url}, which is not encrypted")
        if start and not _continues(response.status, response.headers, start, note):
            say(f"{job.dataset.name}: the server cannot go on from {human_size(start)}, or its file changed; from 0")
            start = 0
            if response.status == 206:  # a piece of another file
                job.forget()
                raise _BrokenOffError("the file on the server changed")
        _receive(job, response, start)


def _refused(job: _Job, status: int) -> None:
    """Raise where another try cannot help."""
    if status == 416:  # beyond the end: the part is not of this file
        job.forget()
    elif status not in _TRY_AGAIN:
        raise _unreachable(job, f"the server answered {status} {http.client.responses.get(status, '')}".strip())


def _reason(error: Exception) -> object:
    return error.reason if isinstance(error, urllib.error.URLError) else (str(error) or type(error).__name__)


def _continues(status: int, headers: Message, start: int, note: str | None) -> bool:
    """Whether an answer is the rest of the part: from its end, and of the same version, whatever the server obeyed."""
    span = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    return status == 206 and span is not None and int(span[1]) == start and _version(headers) == note


def _version(headers: Message) -> str | None:
    """What tells versions of a file apart; a weak ETag does not tell bytes apart."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified")


def _read_note(job: _Job) -> str | None:
    """The version that the part belongs to, if it can be continued."""
    try:
        note = json.loads(job.note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(note, dict) and note.get("url") == job.dataset.url and isinstance(note.get("version"), str)
    return str(note["version"]) if known else None


def _receive(job: _Job, response: http.client.HTTPResponse, start: int) -> None:
    """Write the answer behind the first `start` bytes of the part."""
    announced = response.headers.get("Content-Length", "")
    total = start + int(announced) if announced.isdecimal() else None
    if total is not None and job.dataset.size not in (None, total):
        job.forget()
        raise _unreachable(
            job,
            f"the server sends {total:,} bytes but the data set has {job.dataset.size:,}; "
            f"a login page perhaps, or a new version",
        )
    expected = total or job.dataset.size or 0
    check_space(job.part.parent, expected - start, f"downloading {job.dataset.name}")
    if not start:
        version = {"url": job.dataset.url, "version": _version(response.headers)}
        job.part.unlink(missing_ok=True)  # before the note, which must never speak of older bytes
        job.note.write_text(json.dumps(version), encoding="utf-8")
    with job.part.open("ab") as file:
        _copy(response, file, start, expected, job.progress)
        file.flush()
        os.fsync(file.fileno())
    if job.size() < expected:
        raise _BrokenOffError(f"the connection broke off after {human_size(job.size())} of {human_size(expected)}")


def _copy(response: http.client.HTTPResponse, file: BinaryIO, done: int, total: int, progress: Report | None) -> None:
    while True:
        try:
            # Not `read`, which waits for all of a chunk and loses what came when the line breaks.
            chunk = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenOffError(f"the connection broke off after {human_size(done)} ({_reason(error)})") from error
        if not chunk or (total and done > total):  # what is too long is refused later
            return
        file.write(chunk)
        done += len(chunk)
        if progress is not None:
            progress(done, total)


def _why_wrong(path: Path, dataset: DataSet) -> str:
    """In what a whole file differs from the data set's archive; nothing when it is the same as far as is known."""
    size = path.stat().st_size
    if dataset.size not in (None, size):
        return f"expected {dataset.size:,} bytes, got {size:,}"
    if dataset.digest is None:
        return ""
    kind, _, expected = dataset.digest.partition(":")
    got = _digest(path, kind)
    return "" if got == expected else f"expected {kind} {expected}, got {got} ({size:,} bytes)"


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _check(job: _Job, say: Say) -> None:
    """Before the file gets its name."""
    dataset = job.dataset
    if why := _why_wrong(job.part, dataset):
        job.forget()
        raise DataError(
            f"{dataset.name} from {dataset.url} is not what it should be: {why}. "
            f"It was deleted; start again, or download it by hand and give the file: --data PATH"
        )
    if dataset.digest is None:
        got = _digest(job.part, "sha256")
        say(f"{dataset.name}: nobody published a digest, so it cannot be checked; its sha256 is {got}")
