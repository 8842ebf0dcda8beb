"""Predictions of more pictures than memory holds: read ahead in order, forgotten when they are written."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time

import pytest
import torch

from coloring import FAST, etude, picture, save_colors
from etude import DataError
from etude.data.ahead import read_ahead, reading


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("stream")
    save_colors(folder / "colors", per_class=8)
    short = ["--valid-pct", "0.25", "--epochs", "1", "--precision", "fp32", "--quiet", "--run-dir", folder / "run"]
    assert etude("train", folder / "colors", *FAST, *short).code == 0
    return folder / "run"


class Names:
    """Standard input without an end in memory: counts the names that were taken."""

    def __init__(self, name, num):
        self.name, self.num, self.taken = name, num, 0

    def __iter__(self):
        for _ in range(self.num):
            self.taken += 1
            yield f"{self.name}\n"


def test_names_are_taken_from_standard_input_as_rows_go_out(run, monkeypatch):
    picture("red", 1).save(run.parent / "one.png")
    names = Names(run.parent / "one.png", 700)
    monkeypatch.setattr("sys.stdin", names)
    ahead = []
    written = io.StringIO()

    class Out(io.StringIO):
        def write(self, text):
            written.write(text)
            ahead.append(names.taken - written.getvalue().count('"file"'))
            return len(text)

    monkeypatch.setattr("sys.stdout", Out())
    from etude import cli

    assert cli.run_command(["predict", str(run), "-", "--format", "json"]) == 0
    assert written.getvalue().count('"file"') == 700
    assert max(ahead) <= 2 * 64 + 64


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_pictures(run):
    """Peak memory for 1,000 and for 20,000 names of the same pictures, each in a process of its own."""
    paths = []
    for i in range(8):
        paths.append(run.parent / f"small{i}.png")
        picture("blue", 900 + i).save(paths[-1])
    code = (
        "import resource, sys; from etude.cli import run_command\n"
        "code = run_command(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    peaks = {}
    for num in (1_000, 20_000):
        names = "".join(f"{paths[i % 8]}\n" for i in range(num))
        command = [sys.executable, "-c", code, "predict", str(run), "-", "--out", str(run.parent / f"{num}.jsonl")]
        done = subprocess.run(command, input=names, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks[num] = int(done.stderr.split()[-1]) / 1024
    with (run.parent / "20000.jsonl").open() as file:
        found = [json.loads(line)["file"] for line in file]

    assert found == [str(paths[i % 8]) for i in range(20_000)]
    assert peaks[20_000] < peaks[1_000] + 40, peaks


@pytest.mark.parametrize("threads", [1, 3])
def test_items_come_in_order_with_their_errors(threads):
    def read(item):
        time.sleep(0.002 * (item % 3))
        if item % 5 == 0:
            raise DataError(f"{item} is bad")
        return torch.tensor(item)

    found = list(read_ahead(read, iter(range(40)), threads=threads, ahead=7))

    assert [item for item, _ in found] == list(range(40))
    assert [str(one) if isinstance(one, DataError) else int(one) for _, one in found] == [
        f"{i} is bad" if i % 5 == 0 else i for i in range(40)
    ]


def test_no_more_items_are_read_than_was_said():
    taken, reading_now, most = [], set(), [0]

    def read(item):
        reading_now.add(threading.get_ident())
        most[0] = max(most[0], len(reading_now))
        return torch.tensor(item)

    def items():
        for i in range(50):
            taken.append(i)
            yield i

    for done, _ in enumerate(read_ahead(read, items(), threads=3, ahead=6)):
        assert len(taken) - done <= 7
    assert most[0] <= 3


def test_another_error_than_bad_data_ends_it_and_leaves_no_thread():
    def read(item):
        if item == 3:
            raise ValueError("a bug")
        return torch.tensor(item)

    before = threading.active_count()
    with pytest.raises(ValueError, match="a bug"):
        list(read_ahead(read, iter(range(100)), threads=2, ahead=10))
    assert threading.active_count() == before
    for _ in read_ahead(read, iter(range(2)), threads=2, ahead=10):
        break
    assert threading.active_count() == before


def test_a_function_of_ones_own_is_called_by_one_thread():
    with reading(torch.as_tensor) as (read, threads):
        assert (read, threads) == (torch.as_tensor, 1)
