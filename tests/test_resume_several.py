"""`etude resume` of a folder that holds several runs: seeds, or a study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from coloring import FAST, etude, save_colors
from stopped_commands import TRAIN, digest, read, stopped_after


@pytest.fixture(scope="module")
def colors(tmp_path_factory) -> Path:
    """Three classes of 16 pictures."""
    return save_colors(tmp_path_factory.mktemp("several") / "colors")


@pytest.fixture(scope="module")
def cut(colors, tmp_path_factory) -> Path:
    """Two seeds, stopped in the first."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cut") / "cut"
    with pytest.MonkeyPatch.context() as patch, stopped_after(1, patch):
        etude("train", colors, *TRAIN, "--seeds", "2", "--run-dir", folder)
    return folder


@pytest.mark.parametrize("name", ["../precious", "/tmp/precious", "..", ""])
def test_a_part_never_leads_out_of_its_folder(cut, tmp_path, name):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "mine.txt").write_text("precious")
    shutil.copytree(cut, tmp_path / "cut")
    config = read(tmp_path / "cut" / "config.json")
    config["several"]["parts"][name] = config["several"]["parts"].pop("seed-42")
    (tmp_path / "cut" / "config.json").write_text(json.dumps(config))
    done = etude("resume", tmp_path / "cut")

    assert done.code == 2
    assert "is no name of a folder in it" in done.errors
    assert (tmp_path / "precious" / "mine.txt").read_text() == "precious"


def test_a_parts_folder_that_holds_something_else_is_not_touched(cut, tmp_path):
    shutil.copytree(cut, tmp_path / "cut")
    (tmp_path / "cut" / "seed-43").mkdir()
    (tmp_path / "cut" / "seed-43" / "mine.txt").write_text("precious")
    done = etude("resume", tmp_path / "cut")

    assert done.code == 2
    assert (tmp_path / "cut" / "seed-43" / "mine.txt").read_text() == "precious"


def test_seeds_go_on_where_they_were_stopped(colors, tmp_path, monkeypatch):
    """The first one is finished, the second is not."""
    seeds = [*TRAIN, "--seeds", "2"]
    assert etude("train", colors, *seeds, "--run-dir", tmp_path / "whole").code == 0
    with stopped_after(12, monkeypatch):
        etude("train", colors, *seeds, "--run-dir", tmp_path / "cut")
    done = etude("resume", tmp_path / "cut", "--json")
    whole = read(tmp_path / "whole" / "result.json")

    assert done.code == 0, done.errors
    assert done.json["valid_accuracies"] == whole["valid_accuracies"]
    for seed in ("seed-42", "seed-43"):
        assert digest(tmp_path / "cut" / seed) == digest(tmp_path / "whole" / seed)


def test_a_study_goes_on_where_it_was_stopped(colors, tmp_path, monkeypatch):
    study = ["techniques-study", "--data", colors, "--valid-pct", "0.25", *FAST, "--epochs", "1"]
    study += ["--seeds", "1", "--precision", "fp32"]
    assert etude(*study, "--run-dir", tmp_path / "whole").code == 0
    with stopped_after(3, monkeypatch):
        etude(*study, "--run-dir", tmp_path / "cut")
    # a part of which a killed process had made the folder and no more
    (tmp_path / "cut" / "label-smoothing-0.1-seed-42").mkdir(exist_ok=True)
    done = etude("resume", tmp_path / "cut", "--json")

    assert done.code == 0, done.errors
    assert done.json["rows"] == read(tmp_path / "whole" / "result.json")["rows"]
