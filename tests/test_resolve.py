"""What a user may give as data, and the folder it comes to lie in."""

from __future__ import annotations

import re
import shutil
import threading
import time

import pytest

from etude import DataError
from etude.data import cache, fetch
from etude.data.fetch import DATASETS, resolve
from etude.data.sources import download as downloads
from etude.data.sources.archive import extract
from packing import NICE, make_tar, make_zip


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_HOME", str(tmp_path / "home"))


@pytest.fixture
def _no_network(monkeypatch):
    def refused(*args, **options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(downloads.urllib.request, "urlopen", refused)


@pytest.mark.usefixtures("_no_network")
def test_folders_and_archives_of_ones_own(tmp_path):
    one = make_tar(tmp_path / "one[1].tar.gz", NICE)
    several = make_zip(tmp_path / "several.zip", {"train/a": b"a", "valid/b": b"b"})
    from_a_mac = make_zip(tmp_path / "mac.zip", {"set/a": b"a", "__MACOSX/set/._a": b"", ".DS_Store": b""})

    assert resolve(tmp_path) == tmp_path
    assert resolve(str(one), say=[].append).name == "set"
    assert sorted(path.name for path in resolve(several, say=[].append).iterdir()) == ["train", "valid"]
    assert resolve(from_a_mac, say=[].append).name == "set"


@pytest.mark.usefixtures("_no_network")
def test_two_at_once_extract_once(tmp_path, monkeypatch):
    archive, calls, folders = make_tar(tmp_path / "a.tar", NICE), [], []

    def slow(*args, **options):
        calls.append(args)
        time.sleep(0.2)
        return extract(*args, **options)

    monkeypatch.setattr(fetch, "extract", slow)
    threads = [threading.Thread(target=lambda: folders.append(resolve(archive, say=[].append))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(calls) == 1
    assert len(folders) == 2
    assert folders[0] == folders[1]


@pytest.mark.usefixtures("_no_network")
def test_a_changed_archive_is_another_one_and_half_extracted_ones_are_cleared(tmp_path):
    archive = make_tar(tmp_path / "a.tar", {"set/x": b"one"})
    first = resolve(archive, say=[].append)
    left = first.parent.with_name(first.parent.name + ".part-999999")
    left.mkdir()
    shutil.rmtree(first.parent)
    first = resolve(archive, say=[].append)
    make_tar(archive, {"set/x": b"two"})

    assert not left.exists()
    assert (resolve(archive, say=[].append) / "x").read_bytes() == b"two"
    assert (first / "x").read_bytes() == b"one"


@pytest.mark.usefixtures("_no_network")
def test_what_is_nothing_is_refused_with_what_is_near(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").write_text("")

    with pytest.raises(DataError, match=r"Did you mean imagenette2-160 or .* Expected a folder, an archive"):
        resolve("imagenete2-160")
    with pytest.raises(DataError, match=r"photo is neither .* Did you mean .*photos\?"):
        resolve(tmp_path / "photo")
    with pytest.raises(DataError, match=r"there is no folder .*missing either"):
        resolve(tmp_path / "missing" / "photos")
    with pytest.raises(DataError, match=r"notes\.txt is a file but no archive"):
        resolve(tmp_path / "notes.txt")


def test_the_known_data_sets_are_described_in_full():
    for name, dataset in DATASETS.items():
        assert dataset.name == name
        assert dataset.url.startswith("https://")
        assert dataset.url.endswith((".tgz", ".tar.gz", ".zip"))
        assert re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", dataset.digest)
        assert all([dataset.license, dataset.description, dataset.folder])


# -- the cache folder -------------------------------------------------------------------------------------------------


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setattr(cache.Path, "home", lambda: tmp_path)
    monkeypatch.setenv("ETUDE_HOME", str(tmp_path / "own"))
    assert cache.home() == tmp_path / "own"
    monkeypatch.setenv("ETUDE_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.home() == tmp_path / "xdg" / "etude"
    for relative in ("somewhere", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert cache.home() == tmp_path / ".cache" / "etude"
    assert cache.home().is_dir()


@pytest.mark.parametrize(
    ("num_bytes", "words"),
    [(0, "0 bytes"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (10**12, "1.0 TB"), (10**16, "10000.0 TB")],
)
def test_sizes_as_people_write_them(num_bytes, words):
    assert cache.human_size(num_bytes) == words


def test_who_comes_second_waits_and_is_told(tmp_path):
    lines, order = [], []

    def second():
        with cache.lock(tmp_path / "thing", waiting=lines.append):
            order.append("second")

    with cache.lock(tmp_path / "thing"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()

    assert order == ["first", "second"]
    assert lines == ["another process is preparing thing; waiting"]
