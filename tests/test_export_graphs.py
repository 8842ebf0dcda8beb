"""Models exported as graphs: by torch.export, and as ONNX."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import etude
from etude import ConfigError, cli, vision
from etude.exports import graph
from exporting import photos, train


def _graph_equals(learner: etude.Learner, form: str, folder: Path, inputs: torch.Tensor) -> None:
    done = etude.export(learner, folder, to=form)
    file = graph.PT2 if form == "torch-export" else graph.ONNX
    call = graph._loaded(folder / file)

    assert done.difference < 1e-5
    for part in (inputs, inputs[:1], inputs[:3]):
        with torch.no_grad():
            assert torch.allclose(call({"inputs": part}), learner.predict(part).output, atol=1e-5)
    vectors = load_file(folder / "test_vectors.safetensors")
    assert torch.allclose(call({"inputs": vectors["inputs"]}), vectors["expected"], atol=1e-5)
    about = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))
    assert about["inputs"]["shape"] == ["batch", *inputs.shape[1:]]
    assert file in (folder / "README.md").read_text(encoding="utf-8")


SLOW_ONNX = ["torch-export", pytest.param("onnx", marks=pytest.mark.slow)]


@pytest.mark.parametrize("form", SLOW_ONNX)
def test_a_graph_gives_what_the_learner_gives(form, tmp_path):
    pixels = torch.randint(0, 256, (12, 3, 20, 20), dtype=torch.uint8)
    data = vision.from_arrays((pixels, torch.arange(12) % 3), None, vocab=["a", "b", "c"], size=17)
    learner = vision.learner("lesson_cnn", data, progress=False, widths=[8, 16], activation="mish", concat_pool=True)

    _graph_equals(learner, form, tmp_path / "graph", pixels)
    assert json.loads((tmp_path / "graph" / "labels.json").read_text()) == ["a", "b", "c"]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torch-export", "onnx"])
def test_a_run_becomes_a_graph(form, tmp_path, capsys):
    photos(tmp_path)
    run = train(tmp_path, "run", "--arch xresnet18 --blur-pool")
    command = f"export {run} --to {form} --out {tmp_path / 'graph'} --data-license mine --json --quiet"

    assert cli.run_command(command.split()) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["difference"] < 1e-5
    assert told["data_license"] == "mine"
    assert "mine" in (tmp_path / "graph" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("form", SLOW_ONNX)
def test_a_model_of_ones_own_goes_out_as_a_graph(form, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    inputs = torch.randn(9, 6)
    learner = etude.Learner(net, [(inputs, torch.arange(9) % 3)], nn.CrossEntropyLoss(), torch.optim.SGD, device="cpu")
    with pytest.raises(ConfigError, match=r"etude's own picture models, and this is a Sequential.*to='torch-export'"):
        etude.export(learner, tmp_path / "bundle")

    _graph_equals(learner, form, tmp_path / "graph", inputs)
    assert not (tmp_path / "bundle").exists()
