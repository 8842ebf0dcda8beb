"""Bombs, damage and interruptions: an archive comes out whole, or nothing does."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from etude import DataError
from etude.data.sources import archive as archives
from etude.data.sources import members
from etude.data.sources.archive import extract
from packing import NICE, files_of, make_tar, make_zip, pack, refused


@pytest.fixture
def place(tmp_path):
    """Where archives are extracted, in the middle of things that must not change."""
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "dest-evil").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    return tmp_path / "place"


# -- bombs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tgz", ".zip"])
def test_contents_out_of_proportion_are_refused(place, suffix, monkeypatch):
    monkeypatch.setattr(members, "FREE_BYTES", 100_000)
    archive = pack(place / f"a{suffix}", {"small": b"x", "bomb": bytes(5_000_000)})

    refused(archive, place, "'bomb' makes its contents larger than")


def test_a_zip_that_lies_about_sizes_is_caught(place):
    path = make_zip(place / "a.zip", {"liar": bytes(1_000_000)})
    path.write_bytes(path.read_bytes().replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))

    refused(path, place, "damaged|larger than it says")


def test_a_tar_that_promises_too_much_is_refused_before_a_byte_is_written(place, monkeypatch):
    info = tarfile.TarInfo("huge")
    info.size = 1 << 50
    (place / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    monkeypatch.setattr(Path, "open", _only_reading(Path.open))

    refused(place / "a.tar", place, "'huge' makes its contents larger than")


def _only_reading(really):
    def opened(path, mode="r", *args, **options):
        assert mode.startswith("r")
        return really(path, mode, *args, **options)

    return opened


def test_headers_as_large_as_a_file_are_refused(place):
    """A name of 50 MB would be read into memory in one piece."""
    info = tarfile.TarInfo("a")
    info.pax_headers = {"comment": "x" * 50_000_000}

    refused(make_tar(place / "a.tgz", [info]), place, "headers larger than any")


def test_global_headers_that_pile_up_are_refused(place):
    extra = {f"key{number}": "" for number in range(1001)}
    with tarfile.open(place / "a.tar", "w", pax_headers=extra) as tar:
        tar.addfile(tarfile.TarInfo("a"))

    refused(place / "a.tar", place, "global headers")


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
@pytest.mark.parametrize("kind", ["files", "folders"])
def test_too_many_members_are_refused_on_the_way(place, suffix, kind, monkeypatch):
    names = [f"{number}" for number in range(9)] if kind == "files" else ["a/" * 9 + "b"]
    archive = pack(place / f"a{suffix}", dict.fromkeys(names, b""))
    for module in (members, archives):
        monkeypatch.setattr(module, "MAX_MEMBERS", 5)

    refused(archive, place, "one too many: at most 5|more than 5")


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", archives.SUFFIXES)
def test_an_archive_cut_anywhere_is_found(place, suffix):
    whole = pack(place / f"a{suffix}", NICE).read_bytes()
    # The end mark of a plain tar and the padding behind it may be cut: nothing is lost there.
    end = len(whole.rstrip(b"\0")) if suffix == ".tar" else len(whole)
    for cut in [*range(0, end, max(1, end // 25)), end - 1]:
        path = place / f"cut{suffix}"
        path.write_bytes(whole[:cut])
        refused(path, place, "damaged|holds no files")


@pytest.mark.parametrize("suffix", [".tgz", ".tar.xz", ".tar.bz2", ".zip"])
def test_a_flipped_byte_is_found_or_does_no_harm(place, suffix):
    whole = pack(place / f"a{suffix}", NICE).read_bytes()
    found = 0
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        path = place / f"flipped{suffix}"
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            files = files_of(extract(path, place / "dest"))
        except DataError:
            found += 1
        else:  # a time or a flag in a header
            assert sorted(files.values()) == sorted(NICE.values())
            shutil.rmtree(place / "dest")
        path.unlink()
        assert sorted(path.name for path in place.iterdir()) == [f"a{suffix}", "dest-evil"]
    assert found > 20


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(place):
    """The reader ends there in silence: the files behind it would be missing."""
    path = make_tar(place / "a.tar", NICE)
    data = bytearray(path.read_bytes())
    data[data.index(b"set/train/b.txt") + 3] ^= 1
    path.write_bytes(data)

    refused(path, place, "before its end mark")


@pytest.mark.parametrize(("field", "value"), [(30, 5), (41, 0x41)], ids=["longer extra field", "a file made a folder"])
def test_a_zip_does_not_lose_members_in_silence(place, field, value):
    """One flipped bit in its table of contents, and the reader takes the next entry for a remark to this one."""
    path = make_zip(place / "a.zip", NICE)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + field] ^= value
    path.write_bytes(data)

    refused(path, place, "damaged|a file and a folder at once")


@pytest.mark.parametrize("suffix", [".tgz", ".tar", ".zip"])
@pytest.mark.parametrize("contents", [b"", b"\0" * 10240, b"no archive" * 1000], ids=["empty", "zeros", "text"])
def test_what_is_no_archive_is_refused(place, suffix, contents):
    (place / f"a{suffix}").write_bytes(gzip.compress(contents) if suffix == ".tgz" else contents)

    refused(place / f"a{suffix}", place, "damaged|holds no files")


@pytest.mark.parametrize("name", ["a.rar", "missing.tgz"])
def test_what_cannot_be_extracted_is_refused_with_what_can(place, name):
    (place / "a.rar").write_bytes(b"Rar!")

    refused(place / name, place, r"expected .*\.tar\.xz")


# -- interrupted ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected", "match"),
    [
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
        (OSError(errno.ENOSPC, "No space left on device"), DataError, r"became full while extracting .*a\.tgz"),
        (OSError(errno.EACCES, "Permission denied"), DataError, r"a\.tgz cannot be extracted into .*dest.*denied"),
    ],
    ids=["Ctrl-C", "disk full", "no access"],
)
def test_an_interrupted_extraction_leaves_nothing(place, error, expected, match):
    archive = make_tar(place / "a.tgz", NICE)

    def stop(done, total):
        raise error

    with pytest.raises(expected, match=match):
        extract(archive, place / "dest", progress=stop)
    assert sorted(path.name for path in place.iterdir()) == ["a.tgz", "dest-evil"]


def test_what_a_killed_process_of_the_same_number_left_is_no_hindrance(place):
    (place / f"dest.part-{os.getpid()}").mkdir()
    (place / f"dest.part-{os.getpid()}" / "half.txt").write_text("half")

    assert files_of(extract(make_tar(place / "a.tgz", NICE), place / "dest")) == NICE


def test_room_is_looked_for_first(place, monkeypatch):
    archive = make_zip(place / "a.zip", {"zeros": bytes(3_000_000)})
    monkeypatch.setattr("etude.data.cache.free_space", lambda folder: 1_000_000)

    refused(archive, place, r"a\.zip needs 3\.0 MB .* but 1\.0 MB are free")
