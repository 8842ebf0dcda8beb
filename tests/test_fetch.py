"""Downloads from a server that breaks off, lies, or changes its mind."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from etude import DataError
from etude.data import cache
from etude.data.fetch import DATASETS, DataSet, resolve
from etude.data.sources import download as downloads
from packing import NICE, files_of, make_tar
from serving import Server


@pytest.fixture
def server(tmp_path):
    server = Server()
    server.body = make_tar(tmp_path / "served.tgz", {**NICE, "set/noise": _noise(60_000)}).read_bytes()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _apart_from_the_world(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ETUDE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(downloads, "PAUSES", (0.0, 0.0, 0.0))


def _noise(size):
    return b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(size // 32))


def _dataset(server, **changes):
    digest = f"md5:{hashlib.md5(server.body).hexdigest()}"
    return replace(
        DataSet("set", server.url, len(server.body), digest, "free", "a test", "set", "images"),
        **changes,
    )


def _download(dataset, lines=None):
    return downloads.download(dataset, say=(lines if lines is not None else []).append)


def _left(tmp_path):
    return sorted(path.name for path in (tmp_path / "home" / "downloads").iterdir() if path.suffix != ".lock")


# -- downloads --------------------------------------------------------------------------------------------------------


def test_a_file_is_downloaded_once(server, tmp_path):
    steps, lines = [], []
    path = downloads.download(_dataset(server), say=lines.append, progress=lambda *step: steps.append(step))

    assert path.read_bytes() == server.body
    assert _left(tmp_path) == ["set.tgz"]
    assert steps[-1] == (len(server.body), len(server.body))
    assert "license: free" in lines[0]
    assert _download(_dataset(server)) == path
    assert server.requests == [None]


def test_a_download_that_breaks_off_asks_for_the_rest_only(server):
    size = len(server.body)
    server.cuts = [1, size // 3, size // 2]
    lines = []

    assert _download(_dataset(server), lines).read_bytes() == server.body
    assert server.requests == [None, "bytes=1-", f"bytes={1 + size // 3}-", f"bytes={1 + size // 3 + size // 2}-"]
    assert server.sent == size
    assert len([line for line in lines if "broke off" in line]) == 3


def test_a_new_process_goes_on_where_the_old_one_stopped(server, tmp_path):
    server.cuts = [20_000, 0, 0, 0, 0]
    with pytest.raises(DataError, match=r"broke off after 20\.0 kB") as caught:
        _download(_dataset(server))
    assert re.search(r"download http://127.*set\.tgz \(.* kB\) .*--data PATH", str(caught.value))
    assert _left(tmp_path) == ["set.tgz.part", "set.tgz.part.json"]
    server.cuts, server.requests = [], []

    assert _download(_dataset(server)).read_bytes() == server.body
    assert server.requests == ["bytes=20000-"]


@pytest.mark.parametrize("change", ["content", "content, If-Range ignored", "no ranges", "no version", "note lost"])
def test_what_cannot_be_continued_is_started_over(server, tmp_path, change):
    server.etag = change != "no version"
    server.cuts = [20_000, 0, 0, 0, 0]
    with pytest.raises(DataError):
        _download(_dataset(server))
    if change.startswith("content"):
        server.body = server.body[::-1]
        server.obeys_if_range = "ignored" not in change
    if change == "note lost":
        (tmp_path / "home" / "downloads" / "set.tgz.part.json").unlink()
    server.ranges = change != "no ranges"
    server.cuts = []

    assert _download(_dataset(server)).read_bytes() == server.body
    assert server.sent == 20_000 + len(server.body) + (
        len(server.body) - 20_000 if "ignored" in change else 0  # the piece of the new file that does not fit
    )


def test_a_part_that_only_lacks_its_name_is_not_asked_for_again(server, tmp_path):
    path = _download(_dataset(server))
    path.rename(path.with_name("set.tgz.part"))
    note = {"url": server.url, "version": f'"{hashlib.md5(server.body).hexdigest()}"'}
    path.with_name("set.tgz.part.json").write_text(json.dumps(note))

    assert _download(_dataset(server)).read_bytes() == server.body
    assert len(server.requests) == 1
    path.rename(path.with_name("set.tgz.part"))
    path.with_name("set.tgz.part.json").write_text(json.dumps(note))
    assert _download(_dataset(server, size=None)).read_bytes() == server.body
    assert server.requests[1:] == [f"bytes={len(server.body)}-", None]


def test_a_flipped_byte_is_found_wherever_it_is(server, tmp_path):
    dataset, body = _dataset(server), server.body
    for at in [0, 1, len(body) // 2, len(body) - 1]:
        server.body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        with pytest.raises(DataError, match=f"expected {dataset.digest.replace(':', ' ')}, got ") as caught:
            _download(dataset)
        assert hashlib.md5(server.body).hexdigest() in str(caught.value)
        assert _left(tmp_path) == []


@pytest.mark.parametrize("size", ["known", "unknown"])
def test_a_file_cut_short_is_found(server, tmp_path, size):
    dataset, body = _dataset(server), server.body
    if size == "unknown":
        dataset = replace(dataset, size=None)
    for length in [1, 1000, len(body) // 2, len(body) - 1]:
        server.body = body[:length]
        with pytest.raises(DataError, match="sends .* bytes but" if size == "known" else "not what it should be"):
            _download(dataset)
        assert _left(tmp_path) == []


@pytest.mark.parametrize("off", [-1000, 1000])
def test_a_length_that_is_wrong_is_found(server, off):
    dataset = _dataset(server, size=None)
    server.announced = len(server.body) + off
    with pytest.raises(DataError, match=r"broke off|answered 416|not what it should be"):
        _download(dataset)


def test_a_damaged_file_from_an_earlier_download_is_replaced(server):
    path = _download(_dataset(server))
    path.write_bytes(server.body[:-1] + b"?")
    lines = []

    assert _download(_dataset(server), lines).read_bytes() == server.body
    assert "damaged or of another version" in lines[0]


def test_without_a_digest_the_user_is_told(server):
    lines = []
    _download(_dataset(server, digest=None), lines)

    assert f"cannot be checked; its sha256 is {hashlib.sha256(server.body).hexdigest()}" in lines[-1]


def test_a_server_in_trouble_is_asked_again_and_one_that_refuses_is_not(server):
    server.statuses = [503, 429]
    assert _download(_dataset(server)).read_bytes() == server.body
    server.statuses, server.requests = [404, 404], []
    with pytest.raises(DataError, match="the server answered 404 Not Found"):
        _download(_dataset(server, name="other"))
    assert len(server.requests) == 1


def test_without_a_network_the_message_says_what_to_do(server):
    dataset = _dataset(server, url="http://127.0.0.1:9/set.tgz")
    with pytest.raises(
        DataError, match=r"no connection to 127.0.0.1 .*download http://127.*on another machine.*--data"
    ):
        _download(dataset)


def test_an_address_of_another_kind_is_refused(server):
    with pytest.raises(DataError, match="no https address"):
        _download(_dataset(server, url="file:///etc/passwd"))


def test_room_is_looked_for_before_anything_is_written(server, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "free_space", lambda folder: 1000)
    with pytest.raises(DataError, match=r"downloading set needs .* but 1\.0 kB are free"):
        _download(_dataset(server))
    assert _left(tmp_path) == []


def test_a_home_that_cannot_be_written_is_named(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ETUDE_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(DataError, match=r"file.home cannot be made .* ETUDE_HOME"):
        _download(_dataset(server))


_OTHER_PROCESS = """
import sys
from etude.data.fetch import DATASETS, DataSet, resolve
url, size, digest = sys.argv[1:]
DATASETS["set"] = DataSet("set", url, int(size), digest, "free", "a test", "set", "images")
print(resolve("set"))
"""


def test_two_processes_download_and_extract_once(server):
    dataset = _dataset(server)
    command = [sys.executable, "-c", _OTHER_PROCESS, dataset.url, str(dataset.size), dataset.digest]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in processes]

    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0][-1] == outputs[1][-1]
    assert server.requests == [None]
    assert sum("extracting" in line for lines in outputs for line in lines) == 1


def test_a_known_name_is_downloaded_and_extracted_once(server, monkeypatch):
    monkeypatch.setitem(DATASETS, "set", _dataset(server))
    lines = []
    folder = resolve("set", say=lines.append)

    assert files_of(folder)["train/a.txt"] == b"one"
    assert folder.name == "set"
    assert folder.parent.name == f"set-{hashlib.sha256(server.body).hexdigest()[:16]}"
    assert resolve("set", say=lines.append) == folder
    assert len([line for line in lines if "extracting" in line]) == 1
    assert server.requests == [None]
