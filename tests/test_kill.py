"""Trainings that are killed, and stopped by signals, go on as if they never had been; see `kill.py`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from checkpointing import names
from coloring import FAST, etude, save_colors
from etude.training import checkpoint

TESTS = Path(__file__).parent
SIGNALS = [pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGINT)]
if os.name != "nt":
    SIGNALS.append(pytest.param(signal.SIGKILL, marks=pytest.mark.slow))


@pytest.mark.parametrize("kills", [11, pytest.param(40, marks=pytest.mark.slow)])
def test_kills_at_every_kind_of_place(kills):
    # without fork each life is a Python of its own
    count = str(kills if "fork" in dir(os) else 6)
    done = subprocess.run(
        [sys.executable, TESTS / "kill.py", "--seed", "3", "--kills", count],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "unreadable checkpoints: 0\ncheckpoints lost: 0\ndifferent results: 0\nother failures: 0" in done.stdout


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return save_colors(tmp_path_factory.mktemp("photos") / "colors", 16)


def _arguments(photos: Path, run: Path) -> list[str]:
    given = [*FAST, "--epochs", "8", "--valid-pct", "0.25", "--mixup", "0.3", "--save-every", "1"]
    return ["train", str(photos), *given, "--device", "cpu", "--precision", "fp32", "--run-dir", str(run), "--quiet"]


def _start(*arguments: str, log: Path) -> subprocess.Popen:
    command = (
        "import signal, sys; from etude.cli import main; signal.signal(signal.SIGINT, signal.default_int_handler); "
    )
    with log.open("wb") as out:
        # a background job of some shells ignores Ctrl-C, and so would what it starts
        return subprocess.Popen(
            [sys.executable, "-c", f"{command}main(sys.argv[1:])", *arguments],
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def _run(*arguments: str, log: Path) -> None:
    assert _start(*arguments, log=log).wait(200) == 0, log.read_text()


@pytest.fixture(scope="module")
def weights(photos, tmp_path_factory) -> bytes:
    """What a run that was never stopped ends with."""
    run = tmp_path_factory.mktemp("whole") / "run"
    torch.set_num_threads(1)
    assert etude(*_arguments(photos, run)).code == 0
    return (run / "model.safetensors").read_bytes()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: signal.Signals(number).name)
def test_a_command_that_is_stopped_and_resumed(number, photos, weights, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    process = _start(*_arguments(photos, run), log=log)
    try:
        deadline = time.monotonic() + 200
        while not any(checkpoint.position_of(path)[0] >= 7 for path in checkpoint.checkpoints(run / "checkpoints")):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(number)
        code = process.wait(60)
    finally:
        process.kill()
    assert not (run / "result.json").exists()
    newest = checkpoint.checkpoints(run / "checkpoints")[0]
    checkpoint.verify(newest)
    if number in (signal.SIGTERM, signal.SIGINT):
        told = log.read_text()
        assert code == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
        assert "stopping after this step, with a checkpoint" in told
        assert f"stopped; {newest} holds all of it" in told
    else:
        assert code == -number
        _run("resume", str(run), log=log)
    if code != -number:
        assert etude("resume", run).code == 0

    assert (run / "model.safetensors").read_bytes() == weights
    assert all(checkpoint.position_of(run / "checkpoints" / name) for name in names(run / "checkpoints"))
