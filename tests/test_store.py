"""The store of decoded files: made once whoever asks, never half, named by what went into it, checked when opened."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from etude import DataError, LoadError
from etude.data import build, cache
from etude.data.build import BadFile, Scan, open_or_build
from etude.data.store import Incident, mark_files, open_store, store_key


class Bytes:
    """A file's bytes as they are; those that begin with "bad" cannot be used."""

    def __init__(self, on_decode=None, **config):
        self.on_decode, self.settings, self.decoded = on_decode, config, []

    def config(self):
        return self.settings

    quietly = staticmethod(nullcontext)

    def scan(self, path):
        data = path.read_bytes()
        if data.startswith(b"bad"):
            raise BadFile("is bad")
        return Scan((len(data), 1), *(("converted", "odd") if data.startswith(b"odd") else ()))

    def decode(self, path, out):
        self.decoded.append(path.name)
        if self.on_decode is not None:
            self.on_decode(path)
        data = path.read_bytes()
        if len(data) != len(out):
            out[: len(data)] = 99
            raise BadFile("changed while it was read")
        out[:, 0] = np.frombuffer(data, np.uint8)


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_HOME", str(tmp_path / "home"))


def _files(folder, **contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        # what is there already keeps its time
        if not (folder / name).exists():
            (folder / name).write_bytes(data)
    return [folder / name for name in contents]


def _open(tmp_path, codec=None, **contents):
    contents = contents or {"a": b"12345", "b": b"678"}
    return open_or_build(_files(tmp_path / "data", **contents), tmp_path / "data", codec or Bytes())


def _left(tmp_path):
    """What lies among the stores, locks aside."""
    return sorted(path.name for path in (tmp_path / "home" / "stores").glob("*") if path.suffix != ".lock")


def _text(store, i):
    return bytes(store[i].flatten().tolist())


# -- what is in it ----------------------------------------------------------------------------------------------------


def test_a_store_holds_every_file_and_is_made_once(tmp_path):
    codec = Bytes()
    store, again = (_open(tmp_path, codec, b=b"678", a=b"12345") for _ in range(2))

    assert codec.decoded == ["a", "b"]
    assert (len(store), store.names, store.key) == (2, ("a", "b"), again.key)
    assert [_text(again, i) for i in range(2)] == [b"12345", b"678"]
    assert again.shapes.tolist() == [[5, 1], [3, 1]]
    assert _left(tmp_path) == [store.key]


def test_bad_files_leave_holes_and_are_remembered(tmp_path):
    for store in [_open(tmp_path, a=b"12", b=b"bad", c=b"odd", d=b"34") for _ in range(2)]:
        assert store.names == ("a", "c", "d")
        assert [_text(store, i) for i in range(3)] == [b"12", b"odd", b"34"]
        assert store.incidents == (Incident("b", "skipped", "is bad"), Incident("c", "converted", "odd"))
        assert store.marks["b"].size == 3, "also of files that were skipped"


def test_a_file_that_changes_while_it_is_read_is_skipped(tmp_path):
    codec = Bytes(lambda path: path.write_bytes(b"1") if path.name == "a" else None)
    store = _open(tmp_path, codec, a=b"1234", b=b"678")

    assert store.names == ("b",)
    assert _text(store, 0) == b"678"
    assert store.incidents == (Incident("a", "skipped", "changed while it was read"),)
    assert store.damaged() == []


def test_a_file_that_goes_away_while_it_is_read_is_an_error_that_names_it(tmp_path):
    with pytest.raises(DataError, match=r"cannot be kept in .*No such file.*'.*a'"):
        _open(tmp_path, Bytes(lambda path: path.unlink()))
    assert _left(tmp_path) == []


def test_no_file_that_can_be_used_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"none of the 2 files in .* can be used: a is bad"):
        _open(tmp_path, a=b"bad", b=b"bad too")
    with pytest.raises(DataError, match="none of the 0 files"):
        open_or_build([], tmp_path, Bytes())
    assert _left(tmp_path) == []


def test_a_place_on_a_device_is_shared(tmp_path):
    store = _open(tmp_path)
    there = store.on(torch.device("meta"))

    assert store.on(torch.device("cpu")) is store
    assert store.on(torch.device("meta")) is there is there.on(torch.device("meta"))
    assert store.fits(torch.device("meta"))
    assert (there.names, there.values.device.type) == (store.names, "meta")
    del there
    assert not store.fits(torch.device("meta")), "a copy goes when nobody uses it"


@pytest.mark.skipif(sys.platform == "win32", reason="names are text there")
def test_a_name_that_is_no_text_is_kept(tmp_path):
    name = os.fsdecode(b"caf\xe9 \xe2\x82\xac")

    assert [_open(tmp_path, **{name: b"1"}).names for _ in range(2)] == [(name,)] * 2


# -- its name ---------------------------------------------------------------------------------------------------------


def _key(folder, **config):
    return store_key(mark_files([path for path in folder.iterdir() if path.is_file()], folder), config)


def _rewritten(path, place):
    """One byte changed, size and time as they were."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"x")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


CHANGES = {
    "a small file": lambda folder: _rewritten(folder / "b", 1),
    "first byte": lambda folder: _rewritten(folder / "a", 0),
    "last byte": lambda folder: _rewritten(folder / "a", 19_999),
    "size": lambda folder: (folder / "a").write_bytes(bytes(20_001)),
    "time": lambda folder: os.utime(folder / "a", ns=(1, 1)),
    "name": lambda folder: (folder / "a").rename(folder / "c"),
    "one more": lambda folder: (folder / "c").write_bytes(b""),
    "one less": lambda folder: (folder / "a").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_file_means_another_store(tmp_path, change):
    _files(tmp_path, a=bytes(20_000), b=b"678")
    before = _key(tmp_path)
    CHANGES[change](tmp_path)

    assert _key(tmp_path) != before


def test_other_settings_mean_another_store_and_another_place_does_not(tmp_path):
    _files(tmp_path / "one", a=b"1", b=b"2")
    before = _key(tmp_path / "one", size=1)

    assert _key(tmp_path / "one", size=2) != before
    (tmp_path / "one").rename(tmp_path / "two")
    assert _key(tmp_path / "two", size=1) == before
    shutil.copytree(tmp_path / "two", tmp_path / "three")
    assert _key(tmp_path / "three", size=1) == before


# -- several processes, and ends that come too early -------------------------------------------------------------------

SLOW = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_store import Bytes
from etude.data.build import open_or_build

def decode(path):
    print("decoding", flush=True)
    time.sleep(0.02)
    while not root.with_name("go").exists():
        time.sleep(0.02)

root = Path(sys.argv[2])
say = lambda line: print(line, flush=True)
print("sum", int(open_or_build(sorted(root.iterdir()), root, Bytes(decode), say=say).values.sum()))
"""


def _process(root):
    command = [sys.executable, "-c", SLOW, str(Path(__file__).parent), str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_processes_make_one_store(tmp_path):
    _files(tmp_path / "data", a=b"\1\2")
    first, codec, said = _process(tmp_path / "data"), Bytes(), []
    assert first.stdout.readline() == "decoding\n"

    def say(line):
        said.append(line)
        (tmp_path / "go").touch()

    store = open_or_build([tmp_path / "data" / "a"], tmp_path / "data", codec, say=say)

    assert said[0].startswith("another process is preparing")
    assert first.communicate(timeout=60)[0] == "sum 3\n"
    assert (_text(store, 0), codec.decoded) == (b"\1\2", [])


def test_a_killed_process_leaves_nothing_that_is_taken_for_a_store(tmp_path):
    paths = _files(tmp_path / "data", **{f"{i:02}": bytes([i] * 50) for i in range(40)})
    (tmp_path / "go").touch()
    process = _process(tmp_path / "data")
    assert process.stdout.readline() == "decoding\n"
    time.sleep(random.random() / 4)
    process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    process.communicate(timeout=60)

    assert [".part-" in name for name in _left(tmp_path)] == [True]
    codec = Bytes()
    store = open_or_build(paths, tmp_path / "data", codec)
    assert len(codec.decoded) == 40
    assert int(store.values.sum()) == 50 * sum(range(40))
    assert _left(tmp_path) == [store.key]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_an_error_leaves_nothing_behind(tmp_path, error):
    def fail(path):
        raise error("no")

    with pytest.raises(error):
        _open(tmp_path, Bytes(fail))

    assert _left(tmp_path) == []
    assert len(_open(tmp_path)) == 2


# -- the disk ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=7)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    codec = Bytes()

    with pytest.raises(DataError, match=r"needs 8 bytes in .*, but 7 bytes are free there; make room, or .*ETUDE_HOME"):
        _open(tmp_path, codec)
    assert (codec.decoded, _left(tmp_path)) == ([], [])


@pytest.mark.parametrize("step", ["_reserve", "save_file"])
def test_a_disk_that_fills_up_meanwhile_is_told(tmp_path, monkeypatch, step):
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(build, step, lambda *args: (_ for _ in ()).throw(full))
    with pytest.raises(DataError, match=r"cannot be kept in .*No space left on device"):
        _open(tmp_path)
    assert _left(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    cache.home()
    (tmp_path / "home" / "stores").write_text("in the way")

    with pytest.raises(DataError, match=r"stores cannot be written .*ETUDE_HOME"):
        _open(tmp_path)


def test_a_store_that_is_there_needs_no_writing(tmp_path, monkeypatch):
    """As on a machine where one person fills the cache for all."""
    key = _open(tmp_path).key
    monkeypatch.setattr(build.cache, "lock", lambda *args, **options: pytest.fail("wants to write"))

    assert _open(tmp_path).key == key


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 4, 5, 7, 9, 12])
def test_damaged_samples_are_named(tmp_path, place):
    store = _open(tmp_path, a=b"12345", b=b"bad", c=b"678", d=b"90ab")
    names = "aaaaacccdddd"
    with (store.folder / "values.bin").open("r+b") as file:
        file.seek(min(place, 11))
        file.write(b"!")

    assert open_store(store.folder).damaged() == [names[min(place, 11)]]


def _cut(path):
    path.write_bytes(path.read_bytes()[:-2])


def _spoil(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


def _of_another_format(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))


DAMAGES = [(name, do) for name in ("store.json", "index.safetensors", "values.bin") for do in (_cut, os.remove)]
DAMAGES += [("index.safetensors", _spoil), ("store.json", _of_another_format)]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_store_is_said_and_made_anew(tmp_path, capsys, name, damage):
    store = _open(tmp_path)
    values = store.values.clone()
    damage(store.folder / name)

    with pytest.raises(LoadError, match=rf"{store.folder.name} are damaged \(.+\)\.$"):
        open_store(store.folder)
    assert torch.equal(_open(tmp_path).values, values)
    assert re.search(rf"{store.folder.name} are damaged \(.+\)\. It is made anew\.$", capsys.readouterr().out.strip())
    assert _open(tmp_path).damaged() == []
