"""What a fit shows in a terminal, in a notebook, and without either."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from torch import nn

import etude
from etude.training import display

FIT = """
import torch, etude
from torch import nn
torch.manual_seed(0)
batches = [(torch.randn(8, 4), torch.randint(3, (8,)))] * 20
learner = etude.Learner(nn.Linear(4, 3), (batches, batches), nn.CrossEntropyLoss(), torch.optim.SGD, device="cpu")
"""


def test_plain_lines_without_a_terminal(capsys):
    batches = [(torch.randn(8, 4), torch.randint(3, (8,)))] * 3
    etude.Learner(nn.Linear(4, 3), (batches, batches), nn.CrossEntropyLoss(), torch.optim.SGD, device="cpu").fit(
        2, lr=0.1
    )
    lines = capsys.readouterr().out.splitlines()

    assert lines[0].split() == ["epoch", "train_loss", "valid_loss", "seconds"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2"]
    assert len({len(line) for line in lines}) == 1, "columns are aligned"


def test_no_header_without_a_row(capsys):
    """Row A8: the notes' tables of a cancelled fit had a header and nothing below."""

    def fail(*_):
        raise RuntimeError

    batches = [(torch.randn(8, 4), torch.randint(3, (8,)))]
    learner = etude.Learner(nn.Linear(4, 3), batches, nn.CrossEntropyLoss(), torch.optim.SGD, device="cpu")
    with pytest.raises(RuntimeError):
        learner.fit(1, lr=0.1, callbacks=[etude.Debug("after_step", call=fail)])

    assert capsys.readouterr().out == ""


def test_a_long_epoch_without_a_terminal_gets_a_line_a_minute(monkeypatch, capsys):
    clock = iter([0.0, 30.0, 61.0, 61.0, 90.0])
    monkeypatch.setattr(display.time, "monotonic", lambda: next(clock))
    plain = display.PlainDisplay()
    plain.bar("epoch 1/2 train", 5, 10, "loss 0.5")
    plain.bar("epoch 1/2 train", 7, 10, "loss 0.4")
    plain.bar("epoch 1/2 train", 8, 10, "loss 0.4")

    assert capsys.readouterr().out == "epoch 1/2 train 7/10 loss 0.4\n"


def test_a_terminal_gets_a_bar_that_goes_away():
    """Runs in a real pseudo-terminal: the bar is drawn, and what stays is the table."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, "-c", FIT + "learner.fit(2, lr=0.1)"], stdout=follower, stderr=follower, env=environment
    ) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                shown += os.read(leader, 4096)
            except OSError:
                break
    os.close(leader)
    text = shown.decode()

    assert process.returncode == 0
    assert "epoch 1/2 train" in text
    assert "\x1b[2K" in text, "the bar's line is erased"
    assert text.count("valid_loss") == 1


def test_a_notebook_keeps_one_output():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(FIT + "_ = learner.fit(2, lr=0.1)")])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = notebook.cells[0].outputs

    assert len(outputs) == 1
    html = outputs[0].data["text/html"]
    assert html.count("<tr>") == 3
    assert "<progress" not in html, "the finished bar does not stay"
