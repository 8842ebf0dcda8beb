"""Weights are loaded with a report: what was taken over, what is missing, what was not used."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from etude import LoadError, vision
from etude.training import transfer


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_what_fits_is_loaded_and_the_rest_is_reported():
    """Row T1: nothing is silent."""
    source, model = vision.xresnet18(num_classes=10), vision.xresnet18(num_classes=3)
    weights = state(source)
    weights["extra"] = torch.zeros(1)
    del weights["0.0.weight"]
    own = state(model)
    report = transfer.load_weights(model, weights, source="ten classes")

    assert report.missing == ["0.0.weight"]
    assert report.unexpected == ["extra"]
    assert report.reshaped == [("10.weight", (10, 512), (3, 512)), ("10.bias", (10,), (3,))]
    assert not report.whole
    assert len(report.loaded) == len(own) - 3
    for name, tensor in model.state_dict().items():
        wanted = weights[name] if name in report.loaded else own[name]
        assert torch.equal(tensor, wanted), name
    assert repr(report).splitlines() == [
        f"{len(own) - 3} tensors of ten classes loaded into XResNet",
        "  1 not in the file, left as they were: 0.0.weight",
        "  1 in the file, not used: extra",
        "  2 of another shape, not used: 10.weight (10x512 in the file, 3x512 here), 10.bias (10 in the file, 3 here)",
    ]


def test_wanted_weights_are_loaded_all_or_nothing():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    before = state(model)
    with pytest.raises(LoadError, match="1 tensors that are needed are not there"):
        transfer.load_weights(model, {"0.weight": torch.ones(3, 2)}, wanted=lambda name: name.startswith("0."))
    with pytest.raises(LoadError, match="no tensor fits"):
        transfer.load_weights(model, {"0.weight": torch.ones(2, 2)})

    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_come_from_a_file_a_folder_and_never_from_a_pickle(tmp_path):
    source = nn.Sequential(nn.Linear(2, 3))
    save_file(state(source), tmp_path / "a.safetensors")
    torch.save(source.state_dict(), tmp_path / "a.pth")
    model = nn.Sequential(nn.Linear(2, 3))

    assert transfer.load_weights(model, tmp_path / "a.safetensors").whole
    assert torch.equal(model[0].weight, source[0].weight)
    with pytest.raises(LoadError, match=r"a\.pth is not a \.safetensors file.*can hold code"):
        transfer.load_weights(model, tmp_path / "a.pth")
    with pytest.raises(LoadError, match=r"nowhere"):
        transfer.load_weights(model, tmp_path / "nowhere")
