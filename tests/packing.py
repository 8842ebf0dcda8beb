"""Archives built for tests, and what must hold when one is refused."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from etude import DataError
from etude.data.sources.archive import extract

NICE = {"set/train/a.txt": b"one", "set/train/b.txt": b"two" * 5000, "set/empty.txt": b""}
TAR_MODES = {".tar": "w", ".tgz": "w:gz", ".tar.gz": "w:gz", ".tar.xz": "w:xz", ".tar.bz2": "w:bz2"}


def make_tar(path, files, tar_format=tarfile.PAX_FORMAT):
    """A tar of name -> contents, or TarInfo objects."""
    mode = next(mode for suffix, mode in TAR_MODES.items() if path.name.endswith(suffix))
    with tarfile.open(path, mode, format=tar_format) as tar:
        for name, contents in files.items() if isinstance(files, dict) else [(item, b"") for item in files]:
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            member.size = len(contents)
            tar.addfile(member, io.BytesIO(contents))
    return path


def make_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, contents in files.items():
            file.writestr(name, contents)
    return path


def pack(path, files):
    return make_zip(path, files) if path.name.endswith(".zip") else make_tar(path, files)


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def refused(archive, place, match):
    """It is refused, and neither inside nor outside the target has anything changed."""

    def everything():
        return {path: path.is_file() and path.read_bytes() for path in place.parent.rglob("*")}

    before = everything()
    with pytest.raises(DataError, match=match) as caught:
        extract(archive, place / "dest")
    assert everything() == before
    assert archive.name in str(caught.value)
    return str(caught.value)
