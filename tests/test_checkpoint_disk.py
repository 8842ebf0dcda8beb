"""Trouble with the disk at every operation of a save: earlier checkpoints stay whole, and training goes on or stops."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from typing_extensions import override

from checkpointing import fitted, names
from coloring import FAST, etude, save_colors
from etude import Callback
from etude.errors import SaveError
from etude.training import checkpoint
from etude.training.callbacks.checkpoints import Checkpoints

KINDS = ("fsync", "mkdir", "rename", "open", "chmod")


@contextmanager
def failing(monkeypatch, at: int | None, number: int = errno.ENOSPC):
    """Every file-system operation of a save, counted; from the `at`-th on for as long as this is open, none works."""
    done: list[str] = []

    def wrap(owner, name, fails):
        real = getattr(owner, name)

        def operation(*args, **kwargs):
            done.append(name)
            if at is not None and len(done) >= at:
                raise fails()
            return real(*args, **kwargs)

        patch.setattr(owner, name, operation)

    def os_error():
        return OSError(number, os.strerror(number))

    def tensor_error():
        # what the library really raises
        return checkpoint.SafetensorError(f"Error while serializing: I/O error: no (os error {number})")

    with monkeypatch.context() as patch:
        for name in KINDS:
            wrap(os, name, os_error)
        wrap(checkpoint.safetensors.torch, "save_file", tensor_error)
        wrap(Path, "open", os_error)
        yield done


@pytest.fixture
def kept(tmp_path) -> tuple[Path, checkpoint.Snapshot]:
    """A folder with one checkpoint, and another snapshot to write."""
    fitted(tmp_path / "two", keep=2, best=None)
    snapshot = checkpoint.read_newest(tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "step-00000009-epoch-0003")
    return tmp_path / "two", snapshot


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("replaces", [False, True], ids=["a new place", "in place of another"])
def test_a_failure_at_every_operation_leaves_what_was_there(number, replaces, kept, monkeypatch):
    folder, snapshot = kept
    if replaces:
        checkpoint.write(snapshot, folder, None)
    with failing(monkeypatch, None) as operations:
        checkpoint.write(snapshot, folder, None)
    assert len(operations) >= 20
    for at in range(1, len(operations) + 1):
        if not replaces:
            shutil.rmtree(folder / "step-00000009-epoch-0003", ignore_errors=True)
        before = checkpoint.checkpoints(folder)
        with failing(monkeypatch, at, number), pytest.raises(OSError, match=os.strerror(number)):
            checkpoint.write(snapshot, folder, None)
        after = checkpoint.checkpoints(folder)
        assert len(after) >= len(before)
        for path in after:
            checkpoint.verify(path)
        checkpoint.remove_leftovers(folder)
        checkpoint.write(snapshot, folder, None)
        assert names(folder) == ["step-00000006-epoch-0002", "step-00000009-epoch-0003"]


def test_training_goes_on_and_saves_again_once_there_is_room(tmp_path, monkeypatch, capsys):
    real = checkpoint.write

    def write(snapshot, folder, description):
        if snapshot.progress["step"] in (4, 5):
            with failing(monkeypatch, 9):
                return real(snapshot, folder, description)
        return real(snapshot, folder, description)

    monkeypatch.setattr(checkpoint, "write", write)
    made = fitted(tmp_path, keep=20, best=None, every=1)
    steps = [checkpoint.position_of(path)[0] for path in checkpoint.checkpoints(tmp_path)]
    told = capsys.readouterr().err

    assert steps == [9, 9, 8, 7, 6, 6, 3, 3, 2, 1]
    assert len(made.history.notes) == 2
    assert "checkpoint step-00000004 could not be written" in made.history.notes[0]
    assert told.count("No space left on device") == 2
    assert "training goes on, earlier checkpoints are as they were" in told
    assert all(checkpoint.position_of(tmp_path / name) for name in names(tmp_path))


def test_old_ones_that_cannot_be_removed_do_not_end_the_fit(tmp_path, monkeypatch, capsys):
    def remove(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(checkpoint, "remove", remove)
    made = fitted(tmp_path, keep=1, best="train_loss", on_error="stop")
    saves = next(callback for callback in made.callbacks if isinstance(callback, Checkpoints))
    told = capsys.readouterr().err

    assert len(names(tmp_path)) == 3
    assert saves.state_dict()["best_written"] == saves.best_name
    assert all(note.startswith("older checkpoints could not be removed: [Errno 13]") for note in made.history.notes)
    assert told.count("older checkpoints could not be removed") == len(made.history.notes) == 2
    assert "could not be written" not in told


def test_with_stop_the_fit_ends_in_an_error(tmp_path, monkeypatch):
    real = checkpoint.write

    def write(snapshot, folder, description):
        if snapshot.progress["step"] == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(snapshot, folder, description)

    monkeypatch.setattr(checkpoint, "write", write)
    with pytest.raises(SaveError, match=r"step-00000004 could not be written.*Make room or name another folder"):
        fitted(tmp_path, every=1, on_error="stop")
    assert checkpoint.read_newest(tmp_path).progress["step"] == 3


def test_with_stop_the_fit_does_not_wait_for_the_next_checkpoint(tmp_path, monkeypatch):
    """An epoch may take hours."""
    steps = []

    class Wait(Callback):
        @override
        def after_step(self, learner, batch, output):
            steps.append(learner.progress.step)
            if learner.progress.step > 3:
                # long enough for the thread to have met the full disk
                next(one for one in learner.callbacks if isinstance(one, Checkpoints))._writer.join()

    monkeypatch.setattr(checkpoint, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(SaveError, match="could not be written"):
        fitted(tmp_path, on_error="stop", callbacks=[Wait()])

    assert steps[-1] == 4, "the step after the first epoch's checkpoint"


def test_the_command_ends_with_1(tmp_path, monkeypatch):
    def write(snapshot, folder, description):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", write)
    photos = save_colors(tmp_path / "photos", 4)
    run = tmp_path / "run"
    done = etude(
        "train",
        photos,
        *FAST,
        "--valid-pct",
        "0.25",
        "--epochs",
        "1",
        "--run-dir",
        run,
        "--on-save-error",
        "stop",
        "--quiet",
    )

    assert done.code == 1
    assert "could not be written: [Errno 28] No space left on device" in done.errors


def test_a_folder_that_is_removed_under_a_fit_is_made_again(tmp_path):
    class Remove(Callback):
        @override
        def before_step(self, learner):
            if learner.progress.step == 4:
                shutil.rmtree(tmp_path / "here", ignore_errors=True)

    fitted(tmp_path / "here", keep=2, best=None, every=1, callbacks=[Remove()])

    assert names(tmp_path / "here") == ["step-00000009", "step-00000009-epoch-0003"]


def test_a_file_where_the_folder_should_be_is_told(tmp_path, capsys):
    (tmp_path / "here").write_text("mine")
    fitted(tmp_path / "here")

    assert (tmp_path / "here").read_text() == "mine"
    assert "could not be written" in capsys.readouterr().err


def test_a_folder_that_is_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here").symlink_to(tmp_path / "elsewhere")
    fitted(tmp_path / "here", keep=1, best=None)

    assert names(tmp_path / "elsewhere") == ["step-00000009-epoch-0003"]
    assert (tmp_path / "here").is_symlink()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path, capsys):
    fitted(tmp_path / "here", keep=1, epochs=1)
    (tmp_path / "here").chmod(0o500)
    fitted(tmp_path / "here" / "below")

    assert "Permission denied" in capsys.readouterr().err


def _limited(folder: Path, bytes_each: int) -> None:
    import resource
    import signal

    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_each, bytes_each))
    made = fitted(folder, keep=1)
    assert len(made.history.notes) == 3
    assert all("File too large" in note for note in made.history.notes)
    assert names(folder) == []


@pytest.mark.skipif(os.name == "nt", reason="no such limit there")
@pytest.mark.slow
def test_a_limit_on_the_size_of_files(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_limited, args=(tmp_path, 8000))
    process.start()
    process.join(200)

    assert process.exitcode == 0


def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        fitted(disk / "here", keep=1, best=None, epochs=1)
        size = sum(path.stat().st_size for path in disk.rglob("*") if path.is_file())
        free = shutil.disk_usage(disk).free
        (disk / "filler").write_bytes(bytes(free - size // 2))
        snapshot = checkpoint.read_newest(disk / "here")
        for _ in range(3):
            with pytest.raises(OSError, match="No space left on device"):
                checkpoint.write(snapshot, disk / "here", None)
            assert names(disk / "here") == ["step-00000003-epoch-0001"]
            checkpoint.verify(disk / "here" / "step-00000003-epoch-0001")
        (disk / "filler").unlink()
        checkpoint.write(snapshot, disk / "here", None)
        assert json.loads((disk / "here" / "step-00000003-epoch-0001" / "manifest.json").read_text())["step"] == 3
    finally:
        subprocess.run(["umount", disk], check=True)
