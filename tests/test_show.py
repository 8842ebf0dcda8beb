"""What a fit shows in a terminal, in a notebook, and without either."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from torch import nn

import etude
from etude import ConfigError, plots, vision
from etude.data.loaders import ArrayLoader, DataLoaders
from etude.recipes.demo import digits
from etude.training import display
from etude.vision import show
from etude.vision.show import draw_batch, draw_predictions

_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

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


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=_GPU)])
def test_pictures_are_drawn_wherever_their_pixels_lie(tmp_path, device):
    """After a fit they lie on the GPU."""
    data = digits()
    learner = vision.learner("lesson_cnn", data, precision="fp32", progress=False, device=device, widths=[8])
    learner.fit(1, lr=1e-2)
    assert data.train.inputs.device.type == device
    draw_batch(data, tmp_path / "batch.png")
    draw_predictions(learner, learner.predict(), tmp_path / "predictions.png", rows=1)

    for name in ("batch.png", "predictions.png"):
        assert (tmp_path / name).stat().st_size > 1000


def test_what_is_drawn_is_asked_for_and_brought_home_from_where_it_lies(monkeypatch):
    """The meta device stands for a GPU: it takes no rows of the CPU, and nothing of it can be drawn."""
    data, brought = digits(), []
    train = ArrayLoader(data.train.inputs.to("meta"), data.train.targets.to("meta"))
    monkeypatch.setattr(show, "to_device", lambda batch, device: brought.append((batch, device)) or batch)
    batch = show._seen(DataLoaders(train), train, 0, 4, augment=False)

    assert brought == [(batch, torch.device("cpu"))]
    assert {batch.inputs.device.type, batch.targets.device.type, batch.indices.device.type} == {"meta"}


def test_a_notebook_has_one_output_that_is_updated(monkeypatch, capsys):
    """Without a kernel, which takes seconds to start; the next test has one."""
    outputs = []

    class Handle:
        def update(self, html):
            outputs[-1].append(html)

    def shown(html, *, display_id):
        outputs.append([html])
        return Handle()

    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(HTML=str, display=shown))
    batches = [(torch.randn(8, 4), torch.randint(3, (8,)))] * 3
    learner = etude.Learner(nn.Linear(4, 3), (batches, batches), nn.CrossEntropyLoss(), torch.optim.SGD, device="cpu")
    learner.fit(2, lr=0.1)

    (versions,) = outputs
    assert any("<progress" in html for html in versions)
    assert versions[-1].count("<tr>") == 3
    assert "<progress" not in versions[-1], "the finished bar does not stay"
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_notebook_keeps_one_output():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(FIT + "_ = learner.fit(2, lr=0.1)")])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = notebook.cells[0].outputs

    assert len(outputs) == 1
    html = outputs[0].data["text/html"]
    assert html.count("<tr>") == 3
    assert "<progress" not in html, "the finished bar does not stay"


# -- figures ----------------------------------------------------------------------------------------------------------


def _titled(words):
    figure, axis = plots.new_figure(1, 1, width=2, height=2)
    axis.set_title(words)
    return figure


def test_a_figure_is_written_where_it_can_be_and_as_what_it_is(tmp_path):
    (tmp_path / "target.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to(tmp_path / "target.png")
    (tmp_path / "folder.png").mkdir()
    for name, words in (
        ("x.jpg", "must end in .png, got"),
        ("xx", "must end in .png, got"),
        ("no/x.png", "there is no folder"),
        ("folder.png", "is a folder"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            plots.save_figure(_titled("a"), tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    plots.save_figure(_titled("a"), tmp_path / "link.png")

    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "target.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"target.png", "link.png", "folder.png"}


def test_signs_that_no_font_has_are_boxes_without_a_warning(tmp_path):
    plots.save_figure(_titled("\u72d7"), tmp_path / "x.png")  # a warning is an error in tests


def test_another_installed_font_is_asked_for_what_the_usual_one_lacks(monkeypatch):
    """A sign of a font that comes with matplotlib and that its usual one lacks, in the place of a Chinese one."""
    box = plots.png_bytes(_titled("\ue001"))
    monkeypatch.setattr(plots, "_MORE_FONTS", ("Not Installed", "STIXNonUnicode"))

    assert plots.png_bytes(_titled("\ue001")) != box
    monkeypatch.setattr(plots, "_MORE_FONTS", ("Not Installed",))
    assert plots.png_bytes(_titled("\ue001")) == box
