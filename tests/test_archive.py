"""Archives that need not be trusted: everything inside one folder, or nothing at all."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from etude.data.sources import archive as archives
from etude.data.sources.archive import extract, stem
from packing import NICE, files_of, make_tar, make_zip, pack, refused


@pytest.fixture(params=["with the filter", "without"], autouse=True)
def _old_and_new_pythons(request, monkeypatch):
    if request.param == "without":
        for name in ("data_filter", "fully_trusted_filter", "tar_filter"):
            monkeypatch.delattr(tarfile, name, raising=False)


@pytest.fixture
def place(tmp_path):
    """Where archives are extracted, in the middle of things that must not change."""
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "dest-evil").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    return tmp_path / "place"


# -- what is extracted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", archives.SUFFIXES)
def test_an_archive_of_any_kind_comes_out_whole(place, suffix):
    steps = []
    archive = pack(place / f"nice{suffix}", NICE)
    folder = extract(archive, place / "new" / "dest", progress=lambda done, total: steps.append((done, total)))

    assert folder == place / "new" / "dest"
    assert files_of(folder) == NICE
    assert [path.name for path in folder.parent.iterdir()] == ["dest"]
    assert steps == sorted(steps)
    assert 0 < steps[-1][0] <= steps[-1][1]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(place, tar_format):
    files = {"./ordner/" + "x" * 90 + "/" + "y" * 90 + ".txt": b"long", "ordner/größe-日本.txt": b"foreign"}

    assert files_of(extract(make_tar(place / "a.tar", files, tar_format), place / "dest")) == {
        name.removeprefix("./"): contents for name, contents in files.items()
    }


def test_times_are_kept_and_rights_are_not(place):
    members_ = {"old": 1e9, "before": -5.0, "never": float("nan"), "late": 1e30}
    infos = []
    for name, mtime in members_.items():
        info = tarfile.TarInfo(name)
        info.mode, info.uid, info.pax_headers = 0o6777, 1234, {"mtime": str(mtime)}
        infos.append(info)
    folder = extract(make_tar(place / "a.tar", infos), place / "dest")

    assert {name: (folder / name).stat().st_mtime for name in members_} == {
        "old": 1e9,
        "before": 0,
        "never": 0,
        "late": 2**32,
    }
    for path in folder.iterdir():
        assert path.stat().st_uid == place.stat().st_uid
        assert not path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR)


def test_real_archives(place, data_folder):
    for name, num_files in {"imagenette2-mini-64.tgz": 600, "imdb_sample.tgz": 1}.items():
        if not (data_folder / name).is_file():
            pytest.skip(f"{name} is not in the folder of real archives")
        assert len(files_of(extract(data_folder / name, place / stem(Path(name))))) == num_files


def test_an_existing_folder_is_left_alone(place):
    archive = make_tar(place / "a.tgz", NICE)
    (place / "dest").mkdir()
    (place / "dest" / "mine.txt").write_text("mine")

    refused(archive, place, "exists already")


# -- names ------------------------------------------------------------------------------------------------------------

BAD_NAMES = {
    "/etc/evil": "absolute",
    "C:/evil": "absolute",
    "C:evil": "absolute",
    "//server/share/evil": "absolute",
    "\\\\server\\share\\evil": "absolute",
    "../evil": "leaves the folder",
    "a/../../evil": "leaves the folder",
    "../dest-evil/evil": "leaves the folder",
    "a\\..\\..\\evil": "backslash",
    "file:stream": "colon",
    "a\nb": "control characters",
    "a\x1b[2Jb": "control characters",
    "n" * 256: "too long",
    "/".join(["n" * 200] * 6): "too long",
    "a/CON": "Windows",
    "lpt1.txt": "Windows",
    "nul .txt": "Windows",
    "a./b": "Windows",
    "end ": "Windows",
    ".": "names no file",
}


@pytest.mark.parametrize("suffix", [".tgz", ".zip"])
@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name[:20]))
def test_a_bad_name_is_refused(place, suffix, name):
    message = refused(pack(place / f"a{suffix}", {**NICE, name: b"evil"}), place, BAD_NAMES[name])

    assert repr(name)[:200] in message


def test_a_sibling_whose_name_begins_alike_is_outside(place):
    refused(make_tar(place / "a.tar", {f"{place}/dest-evil/x": b"evil"}), place, "absolute")


def test_a_nul_in_a_zip_is_seen(place):
    """`zipfile` cuts names there: the check would see another name than the archive holds."""
    path = make_zip(place / "a.zip", {"good.txtQ.exe": b"evil"})
    path.write_bytes(path.read_bytes().replace(b"good.txtQ.exe", b"good.txt\0.exe"))

    refused(path, place, "control characters")


def test_bytes_that_are_no_text_are_refused(place):
    refused(make_tar(place / "a.tar", {"caf\udce9": b"x"}, tarfile.GNU_FORMAT), place, "not UTF-8")


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["a.txt", "a.txt"], "twice"),
        (["a.txt", "A.TXT"], "twice"),
        (["x/a.txt", "X/b.txt"], "case"),
        (["straße", "STRASSE"], "twice"),
        (["caf\u00e9", "cafe\u0301"], "accents"),
        (["a", "a/b"], "as a file and as a folder"),
        (["a/b", "a"], "as a file and as a folder"),
        (["./a", "a"], "twice"),
    ],
)
def test_names_that_some_system_takes_for_the_same_are_refused(place, names, match):
    refused(make_tar(place / "a.tar", [tarfile.TarInfo(name) for name in names]), place, match)


def test_a_folder_may_be_listed_again_or_after_itsfiles_of(place):
    infos = [tarfile.TarInfo("a/b.txt"), *(tarfile.TarInfo("a/") for _ in range(2))]
    for info in infos[1:]:
        info.type = tarfile.DIRTYPE

    assert files_of(extract(make_tar(place / "a.tar", infos), place / "dest")) == {"a/b.txt": b""}


# -- links and other things -------------------------------------------------------------------------------------------

KINDS = {
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "pipe": tarfile.FIFOTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "unknown": b"Z",
}


@pytest.mark.parametrize("target", ["../secret.txt", "/etc/passwd", "set/a"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_refused(place, kind, target):
    link = tarfile.TarInfo("set/link")
    link.type, link.linkname = KINDS[kind], target
    inside = tarfile.TarInfo("set/link/evil")

    refused(make_tar(place / "a.tar", [tarfile.TarInfo("set/a"), link, inside]), place, "'set/link' is a link, device")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_what_is_no_file_in_a_zip_is_refused(place, kind):
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, (kind | 0o777) << 16

    refused(make_zip(place / "a.zip", {"a": b"", link: b"/etc/passwd"}), place, "'link' is a link, device")


def test_files_with_holes_are_refused(place):
    info = tarfile.TarInfo("holes")
    info.pax_headers = {"GNU.sparse.size": "1000000000000", "GNU.sparse.map": "0,0", "GNU.sparse.numblocks": "1"}

    refused(make_tar(place / "a.tar", [info]), place, "holes")
