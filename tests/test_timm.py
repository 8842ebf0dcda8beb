"""Models of timm, in an environment of their own: `make test-timm`. Nothing is fetched: weights come from a file."""

from __future__ import annotations

import warnings

import pytest
import torch
from safetensors.torch import save_file

import etude as library
from coloring import etude, save_colors
from etude import ConfigError, vision


def _import_timm():
    """timm, or the reason why it is not there.

    A torchvision built for another torch lacks two operators that timm never calls; declared, it can be imported.
    """
    try:
        import timm
    except ImportError:
        pytest.skip("timm is not installed here; it has an environment of its own: make test-timm")
    except RuntimeError:
        declared = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import timm

        globals()["_kept"] = declared
    return timm


@pytest.fixture(scope="module")
def timm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _import_timm()


@pytest.fixture(scope="module")
def weights(timm, tmp_path_factory):
    """Weights as timm itself would name them."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=7)
    path = tmp_path_factory.mktemp("timm") / "resnet18.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


def test_without_timm_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install 'etude\[timm\]'"):
        vision.create_model("timm:resnet18", num_classes=2)


def test_a_body_of_timm_is_tuned_saved_loaded_and_lent_again(timm, weights, tmp_path):
    colors = save_colors(tmp_path / "colors")
    few = ["--valid-pct", "0.25", "--size", "32", "--batch-size", "8", "--precision", "fp32", "--epochs", "2"]
    run, again = tmp_path / "run", tmp_path / "again"
    done = etude("finetune", colors, "--from", weights, "--arch", "timm:resnet18", *few, "--run-dir", run)

    assert done.code == 0, done.errors
    assert "new head: net.fc.weight, net.fc.bias" in done.out
    assert "normalized as the body's own pictures were" in done.out
    loaded = library.load(run)
    picture = next((colors / "red").iterdir())
    said = etude("predict", run, picture, "--json").json["predictions"][0]
    assert loaded.predict(picture).label == said["label"]
    assert loaded.predict(picture).probability == pytest.approx(said["probability"], abs=1e-5)

    done = etude("finetune", colors, "--from", run, *few, "--run-dir", again)
    assert done.code == 0, done.errors
    assert library.load(again).model.config()["arch"] == "timm:resnet18"


def test_names_that_are_no_models_are_refused(timm):
    with pytest.raises(ConfigError, match="did you mean timm:resnet18"):
        vision.create_model("timm:resnet19", num_classes=2)
    for name in ("hf-hub:someone/something", "../x", "local-dir:/tmp", "os.system"):
        with pytest.raises(ConfigError, match="timm has no model"):
            vision.create_model(f"timm:{name}", num_classes=2)
    with pytest.raises(ConfigError, match="has no option"):
        vision.create_model("timm:resnet18", num_classes=2, blur_pool=True)


def test_every_parameter_is_in_one_group_and_the_last_is_the_classifier(timm):
    for name in ("resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050"):
        body, head = vision.create_model(f"timm:{name}", num_classes=3).layer_groups()
        assert [len(one.shape) for one in head] == [2, 1], name
        assert len(body) > 50
