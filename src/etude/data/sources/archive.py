"""Extract archives that need not be trusted: whole, inside one folder, or not at all.

Every member is checked here, so nothing depends on `tarfile.data_filter`, which older Pythons lack.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, TypeAlias, cast

from typing_extensions import override

from etude.data.cache import check_space, human_size
from etude.data.sources.members import MAX_MEMBERS, Writer
from etude.errors import DataError

SUFFIXES: Final = (".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2", ".zip")
_MAX_HEADERS: Final = 1 << 20  # of one tar member: long names take some kB
_MAX_PADDING: Final = 64 << 20  # zeros after the last tar member
_MAX_DIRECTORY: Final = 128 << 20  # of a zip, which is read in one piece
_MAX_XZ_MEMORY: Final = 512 << 20  # `xz -9` asks for 65 MB
_CHUNK: Final = 1 << 20
_DAMAGED: Final = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    ArithmeticError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    struct.error,
)
Report: TypeAlias = Callable[[int, int], None]


def is_archive(path: Path) -> bool:
    """Whether a file's name says that it is an archive."""
    return path.name.lower().endswith(SUFFIXES)


def stem(path: Path) -> str:
    """An archive's name without its suffixes.

    >>> stem(Path("data/imagenette2-160.tar.gz"))
    'imagenette2-160'
    """
    suffix = max((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), key=len, default="")
    return path.name[: len(path.name) - len(suffix)]


def extract(archive: Path, folder: Path, *, progress: Report | None = None) -> Path:
    """Extract an archive into a new folder, which appears whole or not at all.

    Plain files and folders only. Names that leave the folder, or that not every system can hold, links, devices, names
    that come twice, and contents far larger than the archive are refused. Of a file's properties its time is kept.

    Args:
        archive: a tar (plain, gzip, xz or bzip2) or zip file.
        folder: where to; it must not exist yet.
        progress: called with the bytes done and their total.

    Raises:
        DataError: the archive is damaged or refused, naming the member; or the disk is full, or the folder exists.
    """
    if not archive.is_file():
        raise DataError(f"{archive} is not a file; expected an archive ({', '.join(SUFFIXES)})")
    if not is_archive(archive):
        raise DataError(f"{archive} is no archive that can be extracted; expected one of {', '.join(SUFFIXES)}")
    if os.path.lexists(folder):
        raise DataError(f"{folder} exists already; extract {archive.name} into a folder that does not")
    check_space(folder, archive.stat().st_size, f"extracting {archive.name}")
    temporary = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    with _clear_errors(archive, folder):
        try:
            # What a killed process left behind, its number used again: usual in containers.
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            writer = Writer(archive, temporary)
            (_extract_zip if archive.name.lower().endswith(".zip") else _extract_tar)(writer, progress)
            if not writer.num_files:
                raise DataError(f"{archive} holds no files")
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


@contextmanager
def _clear_errors(archive: Path, folder: Path) -> Iterator[None]:
    """Turn whatever the readers raise into one error that names the archive."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"the disk of {folder.parent} became full while extracting {archive}; make room, "
                f"or name a folder on a larger disk in ETUDE_HOME"
            ) from error
        if error.errno is not None:
            raise DataError(f"{archive} cannot be extracted into {folder}: {error}") from error
        raise _damaged(archive, error) from error
    except _DAMAGED as error:
        raise _damaged(archive, error) from error


def _damaged(archive: Path, error: object) -> DataError:
    return DataError(f"{archive} is damaged, cut short or no archive: {error}. Download or copy it again")


# -- zip --------------------------------------------------------------------------------------------------------------


class _ZipFile(io.FileIO):
    """The file below a zip; it keeps `zipfile` from reading a table of contents of any size into memory."""

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_DIRECTORY:
            raise DataError(f"{self.name} is refused: its table of contents takes {human_size(size)}")
        data = super().read(-1 if size is None else size) or b""
        if data.count(b"PK\1\2") > MAX_MEMBERS:
            raise DataError(f"{self.name} is refused: it holds more than {MAX_MEMBERS:,} files and folders")
        return data


def _extract_zip(writer: Writer, progress: Report | None) -> None:
    with _ZipFile(writer.archive) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if (promised := _promised_members(file, archive)) not in (None, len(members)):
            raise zipfile.BadZipFile(f"it lists {len(members)} members of {promised}")
        total = sum(member.file_size for member in members)
        if total > writer.ceiling:
            raise writer.refuse_size(max(members, key=lambda member: member.file_size).filename)
        check_space(writer.root, total, f"extracting {writer.archive.name}")
        for member in members:
            # `filename` is cut at a NUL; this is what the archive says.
            name, kind = member.orig_filename, stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise writer.refuse(name, "is a link, device or pipe; only files and folders are extracted")
            if member.flag_bits & 1:
                raise writer.refuse(name, "is encrypted")
            if (kind == stat.S_IFDIR) > name.endswith("/") or (name.endswith("/") and member.file_size):
                raise writer.refuse(name, "is a file and a folder at once")
            if name.endswith("/"):
                writer.folder(name)
                continue
            with archive.open(member) as source:
                writer.file(name, member.file_size, _zip_time(member), cast("io.BufferedIOBase", source))
                if source.read(1):
                    raise writer.refuse(name, "is larger than it says")
            if progress is not None:
                progress(writer.num_bytes, total)


def _promised_members(file: io.FileIO, archive: zipfile.ZipFile) -> int | None:
    """How many members the end of a zip promises; `zipfile` does not look. None where it is too many for 16 bits."""
    file.seek(-(22 + len(archive.comment)), os.SEEK_END)
    (promised,) = struct.unpack("<10xH10x", file.read(22))
    return int(promised) if promised < 0xFFFF else None


def _zip_time(member: zipfile.ZipInfo) -> float:
    try:
        # A zip knows no time zone. Read as UTC, a file has the same time on every machine.
        return datetime(*member.date_time, tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


# -- tar --------------------------------------------------------------------------------------------------------------


class _Stream(io.BufferedIOBase):
    """A tar's bytes, unpacked, read once from front to end, never more of them than was agreed on."""

    def __init__(self, source: io.BufferedIOBase, writer: Writer) -> None:
        super().__init__()
        self.source, self.writer = source, writer
        self.position, self.allowed = 0, _MAX_HEADERS
        self.name = ""  # of the member being read
        self.last = b""

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > self.allowed:
            raise self.writer.refuse(self.name, "or what follows it has headers larger than any real archive's")
        self.last = self.source.read(size)
        self.position += len(self.last)
        self.allowed -= len(self.last)
        # Each member may take up to 2 kB of headers and padding besides its contents, folders too.
        if self.position > self.writer.ceiling + 2048 * MAX_MEMBERS:
            raise self.writer.refuse_size(self.name)
        return self.last

    @override
    def tell(self) -> int:
        return self.position

    @override
    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence or offset < self.position:
            raise tarfile.ReadError("its headers point backwards")
        while self.position < offset and self.read(min(_CHUNK, offset - self.position)):
            pass
        return self.position


def _extract_tar(writer: Writer, progress: Report | None) -> None:
    with writer.archive.open("rb") as raw, _unpacked(raw) as source:
        stream = _Stream(source, writer)
        with tarfile.TarFile(fileobj=cast("IO[bytes]", stream), errorlevel=2) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined] # else every member stays in memory
                stream.name = member.name
                if len(archive.pax_headers) > 1000:  # they add up from member to member
                    raise writer.refuse(member.name, "comes after more global headers than any real archive has")
                stream.allowed = max(member.size, 0) + _MAX_HEADERS
                _extract_member(writer, member, stream)
                stream.allowed = _MAX_HEADERS
                if progress is not None:
                    progress(raw.tell(), writer.size)
        # tarfile takes a damaged header for the end, but the end is a block of zeros.
        if len(stream.last) != tarfile.BLOCKSIZE or any(stream.last):
            raise tarfile.ReadError("it breaks off before its end mark")
        stream.allowed = _MAX_PADDING
        while stream.read(min(_CHUNK, stream.allowed)):  # to the checksum at the very end
            pass


def _extract_member(writer: Writer, member: tarfile.TarInfo, stream: _Stream) -> None:
    if member.issparse() or any(key.startswith("GNU.sparse") for key in member.pax_headers):
        raise writer.refuse(member.name, "is a file with holes (sparse)")
    if member.type == tarfile.DIRTYPE:
        writer.folder(member.name)
    elif member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
        writer.file(member.name, member.size, float(member.mtime), stream)
    else:
        raise writer.refuse(member.name, "is a link, device or pipe; only files and folders are extracted")


@contextmanager
def _unpacked(raw: io.BufferedReader) -> Iterator[io.BufferedIOBase]:
    """A tar's bytes behind whatever packing its first bytes tell."""
    start = raw.read(1 << 16)
    raw.seek(0)
    source: io.BufferedIOBase = raw
    with ExitStack() as stack:
        if start.startswith(b"\x1f\x8b"):
            source = stack.enter_context(gzip.GzipFile(fileobj=raw))
        elif start.startswith(b"BZh"):
            source = stack.enter_context(bz2.BZ2File(raw))
        elif start.startswith(b"\xfd7zXZ\0"):
            # Raises where the archive asks for more memory than any real one.
            lzma.LZMADecompressor(memlimit=_MAX_XZ_MEMORY).decompress(start, max_length=1)
            source = stack.enter_context(lzma.LZMAFile(raw))
        yield source
