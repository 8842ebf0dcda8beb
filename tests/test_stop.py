"""Signals, and whatever else ends a training in the middle: its exit code, and what is then on the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from etude.training import checkpoint, interrupt

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a process there cannot be sent Ctrl-C alone, nor be forked")
TESTS = Path(__file__).parent
SECONDS = 60
AT_ONCE = 10.0
INTERRUPTED = (130, -signal.SIGINT)
"""What a shell tells as 130."""


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen]:
    """What starts the trainings of `stopping.py`, which see all that they import as imported already."""
    process = subprocess.Popen(
        [sys.executable, TESTS / "stopping.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.stdin.close()
    assert process.wait(SECONDS) == 0
    process.stdout.close()


class Training:
    """One of them, while it runs."""

    def __init__(self, server: subprocess.Popen, name: str, folder: Path) -> None:
        self.server, self.folder = server, folder
        server.stdin.write(f"{name}\t{folder}\n")
        server.stdin.flush()
        self.process = self._answer("process")

    def said(self, stream: str = "out") -> str:
        path = self.folder / stream
        return path.read_text() if path.exists() else ""

    def wait_for(self, words: str, stream: str = "out") -> None:
        deadline = time.monotonic() + SECONDS
        while words not in self.said(stream) and time.monotonic() < deadline and self._is_there():
            time.sleep(0.005)
        if words not in self.said(stream):
            if self._is_there():
                self.interrupt(signal.SIGKILL)
            raise AssertionError(f"{self.exit_code()}: it never said {words!r}, but {self.said()}{self.said('err')}")

    def _is_there(self) -> bool:
        return Path(f"/proc/{self.process}").exists() if Path("/proc").is_dir() else True

    def interrupt(self, number: int = signal.SIGINT) -> None:
        """As a terminal does: all of its processes at once."""
        assert self.process == os.getpgid(self.process) != os.getpgrp()
        os.killpg(self.process, number)

    def exit_code(self) -> int:
        return self._answer("exit")

    def _answer(self, kind: str) -> int:
        word, number = self.server.stdout.readline().split()
        assert word == kind
        return int(number)


@pytest.mark.parametrize(
    ("what", "number"),
    [
        pytest.param("step", signal.SIGINT, id="step-SIGINT"),
        pytest.param("step", signal.SIGTERM, id="step-SIGTERM", marks=pytest.mark.slow),
        pytest.param("writer", signal.SIGINT, id="writer-SIGINT", marks=pytest.mark.slow),
        pytest.param("writer", signal.SIGTERM, id="writer-SIGTERM"),
    ],
)
def test_the_second_signal_ends_a_training_that_hangs(what, number, server, tmp_path):
    training = Training(server, what, tmp_path)
    training.wait_for("hanging")
    training.interrupt(number)
    training.wait_for("stopping after this step, with a checkpoint", "err")
    began = time.monotonic()
    training.interrupt(number)
    code = training.exit_code()

    assert code in (INTERRUPTED if number == signal.SIGINT else (143,))
    assert time.monotonic() - began < AT_ONCE


def test_the_second_signal_while_a_big_checkpoint_is_written(server, tmp_path):
    training = Training(server, "big", tmp_path)
    training.wait_for("hanging")
    training.interrupt()
    training.wait_for("stopping", "err")
    training.interrupt()

    assert training.exit_code() in INTERRUPTED
    assert "terminate called" not in training.said("err")


def test_a_callback_that_leaves_the_process_does_not_cost_the_checkpoint_under_way(server, tmp_path):
    training = Training(server, "leaves", tmp_path)

    assert training.exit_code() == 7, training.said("err")
    newest, *_ = checkpoint.checkpoints(tmp_path / "checkpoints")
    checkpoint.verify(newest)
    assert checkpoint.position_of(newest)[0] == 1


@pytest.mark.parametrize(
    "kind",
    [
        *("fork", "ready-made persistent"),
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("persistent", "ready-made")),
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("spawn", "forkserver", "ready-made spawn")),
    ],
)
def test_ctrl_c_in_a_terminal_reaches_the_workers_too(kind, server, tmp_path):
    training = Training(server, kind, tmp_path)
    training.wait_for("step 5\n")
    training.interrupt()
    code = training.exit_code()
    told = training.said("err")

    assert code in INTERRUPTED, told
    assert told.count("stopping after this step") == 1
    if kind.startswith("ready-made"):
        assert "; a ready-made loader can only be resumed from an epoch's end; again to stop at once" in told
        assert "with a checkpoint" not in told
    else:
        newest, *_ = checkpoint.checkpoints(tmp_path / "checkpoints")
        assert f"stopped; {newest} holds all of it" in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_process_that_is_forked_during_a_fit_has_no_part_in_its_wish(number, capfd):
    with interrupt.wish_to_stop("stopping") as wish:
        process = os.fork()
        if process == 0:
            os.kill(os.getpid(), number)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    assert code == (0 if number == signal.SIGINT else -number)
    assert wish.number is None
    assert "stopping" not in capfd.readouterr().err
