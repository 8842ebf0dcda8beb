"""What may come out of an archive: the checks of each member, and the writing of those that pass."""

from __future__ import annotations

import io
import os
import unicodedata
from hashlib import blake2b
from pathlib import Path
from typing import Final

from etude.data.cache import human_size
from etude.errors import DataError

MAX_MEMBERS: Final = 2_000_000
MAX_RATIO: Final = 200
FREE_BYTES: Final = 100_000_000
"""Contents up to this size are extracted however small the archive is."""
_CHUNK: Final = 1 << 20
_LONGEST_NAME, _LONGEST_PATH = 255, 1024
_RESERVED: Final = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{device}{number}" for device in ("com", "lpt") for number in "0123456789¹²³"}
)


class Writer:
    """Checks members one by one and writes them below a folder of its own.

    Args:
        archive: the archive, for its size and its name in errors.
        root: an empty folder that nobody else writes to.
    """

    def __init__(self, archive: Path, root: Path) -> None:
        self.archive, self.root = archive, root
        self.size = archive.stat().st_size
        self.ceiling = max(FREE_BYTES, MAX_RATIO * self.size)
        self.num_members = self.num_files = self.num_bytes = 0
        # Hash of the folded path -> hash of the exact one for a folder, b"" for a file: small, however long names are.
        self._seen: dict[bytes, bytes] = {}
        self._inside: tuple[str, ...] = ()

    def refuse(self, name: str, why: str) -> DataError:
        """The error for a member that must not be extracted."""
        shown = repr(name if len(name) <= 200 else name[:200] + "...")
        return DataError(
            f"{self.archive} is refused: its member {shown} {why}. "
            f"Nothing was extracted; if you trust it, extract it by hand and give the folder"
        )

    def refuse_size(self, name: str) -> DataError:
        """The error for contents out of all proportion."""
        return self.refuse(
            name,
            f"makes its contents larger than {human_size(self.ceiling)}, "
            f"too much for an archive of {human_size(self.size)}",
        )

    def folder(self, name: str) -> None:
        """Make a folder.

        Raises:
            DataError: the member is refused.
        """
        self.root.joinpath(*self._enter(name, is_folder=True)).mkdir(parents=True, exist_ok=True)

    def file(self, name: str, size: int, mtime: float, source: io.BufferedIOBase) -> None:
        """Write a file of a declared size, and not a byte more.

        Raises:
            DataError: the member is refused.
            EOFError: the source has fewer bytes.
        """
        parts = self._enter(name, is_folder=False)
        if size < 0:
            raise self.refuse(name, f"declares a size of {size}")
        self.num_bytes += size
        if self.num_bytes > self.ceiling:
            raise self.refuse_size(name)
        path = self.root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            left = size
            while left:
                if not (chunk := source.read(min(_CHUNK, left))):
                    raise EOFError(f"its member {name!r} ends {left} bytes early")
                left -= file.write(chunk)
        # Written so that NaN becomes 0; the upper end lies in 2106.
        when = min(mtime, float(1 << 32)) if mtime > 0 else 0.0
        os.utime(path, (when, when))
        self.num_files += 1

    def _enter(self, name: str, *, is_folder: bool) -> tuple[str, ...]:
        """The checked parts of a member's name, which is remembered along with the folders it lies in."""
        self.num_members += 1
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if why := why_unsafe(name, parts) or ("" if parts or is_folder else "names no file"):
            raise self.refuse(name, why)
        if parts[:-1] != self._inside:
            for end in range(1, len(parts)):
                self._remember(name, parts[:end], is_folder=True)
            self._inside = parts[:-1]
        if parts:
            self._remember(name, parts, is_folder=is_folder)
        if max(self.num_members, len(self._seen)) > MAX_MEMBERS:
            raise self.refuse(name, f"is one too many: at most {MAX_MEMBERS:,} files and folders are extracted")
        return parts

    def _remember(self, name: str, parts: tuple[str, ...], *, is_folder: bool) -> None:
        path = "/".join(parts)
        exact = _hash(path) if is_folder else b""
        key = _hash(_folded(path))
        before = self._seen.get(key)
        if before is None:
            self._seen[key] = exact
        elif bool(before) != is_folder:
            raise self.refuse(name, "uses the same name as a file and as a folder")
        elif not is_folder or before != exact:
            raise self.refuse(name, "comes twice, or differs from another only in case or in how accents are coded")


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


def _folded(path: str) -> str:
    """The same for names that some system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def why_unsafe(name: str, parts: tuple[str, ...]) -> str:
    """What is wrong with a member's name, on whatever system; nothing when it is fine."""
    if name.startswith(("/", "\\")) or name[1:2] == ":":
        return "has an absolute path"
    if ".." in parts:
        return "leaves the folder with '..'"
    if "\\" in name or ":" in name:
        return "has a backslash or colon in its name"
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        return "has control characters or bytes that are not UTF-8 in its name"
    if len(name.encode()) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in parts):
        return f"has too long a name (at most {_LONGEST_NAME} bytes, with its folders {_LONGEST_PATH})"
    for part in parts:
        if part.split(".")[0].rstrip().lower() in _RESERVED or part.endswith((".", " ")):
            return f"has a name that Windows cannot hold ({part!r})"
    return ""
