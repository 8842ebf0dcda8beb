"""The command of a bundle's reader, and what a bundle says of itself."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import etude
from etude import vision
from etude.regression import Numbers, give_numbers
from etude.vision.models import create_model
from exporting import digits_learner


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return etude.export(digits_learner(), tmp_path_factory.mktemp("reader") / "bundle").folder


@pytest.fixture
def call(monkeypatch, capsys):
    """The reader's command in this process: what it ends with, what it prints, and its errors."""

    def call(bundle, *names):
        monkeypatch.setattr(sys, "argv", ["read_bundle.py", str(bundle), *map(str, names)])
        monkeypatch.setattr(sys, "tracebacklimit", 1000, raising=False)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(bundle / "read_bundle.py"), run_name="__main__")
        return int(ended.value.code), *capsys.readouterr()

    return call


def test_the_readers_command_goes_on_after_a_bad_picture(call, bundle, tmp_path):
    (tmp_path / "no picture.jpg").write_text("words")
    good = bundle / "test_picture_0.png"
    code, out, errors = call(bundle, tmp_path / "no picture.jpg", tmp_path, good)

    assert code == 1
    assert out.startswith(f"{good}  ")
    assert [line.split(" cannot be read")[0] for line in errors.splitlines()] == [
        str(tmp_path / "no picture.jpg"),
        str(tmp_path),
    ]


def test_the_readers_command_ends_silently_when_nobody_reads_on(bundle):
    command = [sys.executable, str(bundle / "read_bundle.py"), str(bundle), str(bundle / "test_picture_0.png")]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        cut = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (cut.returncode, cut.stderr) == (0, "")


def test_what_a_bundle_says_of_itself(call, bundle, tmp_path):
    pixels = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    data = vision.from_arrays((pixels, torch.zeros(6).long()), (pixels, torch.zeros(6).long()), vocab=["a"])
    one = etude.export(vision.learner("lesson_cnn", data, progress=False, widths=[8]), tmp_path / "one").folder
    assert "lesson_cnn of 1 label." in (one / "README.md").read_text(encoding="utf-8")
    assert "`etude export RUN --test-pictures 0`" in (bundle / "README.md").read_text(encoding="utf-8")
    assert "{label: probability" in (bundle / "README.md").read_text(encoding="utf-8")
    numbers = Numbers(("height", "weight", "width", "age"), (1.7, 3, 4, 5), (9.0, 0.1, 1, 1))
    model = give_numbers(create_model("lesson_cnn", num_classes=4, widths=[8]), numbers)
    learner = vision.learner(model, replace(data, numbers=numbers, vocab=None), loss_fn=nn.MSELoss(), progress=False)
    folder = etude.export(learner, tmp_path / "numbers").folder
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "of 4 numbers" in text
    assert "probabilit" not in text.replace("bundle.probabilities(", "")
    line = call(folder, folder / "test_picture_0.png")[1]
    assert [cell.split()[0] for cell in line.split("  ")[1:]] == ["height", "weight", "width", "age"]
