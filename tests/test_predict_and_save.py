"""Predictions with labels, and a saved model that gives the same ones, also without the library that made it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import etude
from etude import ConfigError, LoadError, vision
from etude.recipes.demo import digits
from etude.training.transfer import freeze_body, unfreeze


@pytest.fixture(scope="module")
def trained() -> etude.Learner:
    torch.set_num_threads(1)
    learner = vision.learner("lesson_cnn", digits(), precision="fp32", progress=False, device="cpu", widths=[32, 64])
    learner.fit(5, lr=2e-2)
    return learner


def test_a_saved_model_gives_the_same_predictions(trained, tmp_path):
    trained.save(tmp_path / "digits")
    loaded = etude.load(tmp_path / "digits")
    pixels = trained.data.valid.inputs[:50]

    assert {path.name for path in (tmp_path / "digits").iterdir()} == {"model.json", "model.safetensors"}
    assert torch.equal(loaded.predict(pixels).output, trained.predict(pixels).output)
    assert loaded.data.vocab == trained.data.vocab


def test_a_picture_file_is_predicted_alike_after_loading(tmp_path):
    """The loaded model reads files as the training data did: larger than its window, then the middle."""
    pixels = torch.randint(0, 256, (30, 3, 37, 37), dtype=torch.uint8)
    train = (pixels, torch.arange(30) % 2)
    learner = vision.learner(
        "lesson_cnn", vision.from_arrays(train, train, vocab=["a", "b"], size=32), progress=False, precision="fp32"
    )
    Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).resize((60, 50)).save(tmp_path / "new.png")
    learner.save(tmp_path / "model")

    assert torch.equal(
        etude.load(tmp_path / "model").predict(tmp_path / "new.png").output,
        learner.predict(tmp_path / "new.png").output,
    )


def test_predictions_come_in_order_with_labels_and_targets(trained):
    predictions = trained.predict()

    assert len(predictions) == 360
    assert torch.equal(predictions.targets, trained.data.valid.targets)
    assert torch.allclose(predictions.output.sum(1), torch.ones(360), atol=1e-5)
    right = (predictions.output.argmax(1) == predictions.targets).float().mean()
    assert trained.evaluate()["accuracy"] == pytest.approx(float(right), abs=1e-6)
    assert predictions[3].label == str(int(predictions.output[3].argmax()))
    assert "<table>" in predictions._repr_html_()
    assert repr(predictions).startswith("Predictions(360 items: Prediction(label=")


@pytest.mark.parametrize("form", ["path", "PIL", "array", "tensor"])
def test_one_item_in_any_form(trained, tmp_path, form):
    pixels = trained.data.valid.inputs[0]
    picture = Image.fromarray(pixels[0].numpy())
    picture.save(tmp_path / "digit.png")
    item = {
        "path": tmp_path / "digit.png",
        "PIL": picture,
        "array": np.asarray(picture),
        "tensor": [pixels],
    }[form]
    prediction = trained.predict(item)
    prediction = prediction[0] if form == "tensor" else prediction

    assert prediction.label == trained.predict(pixels.unsqueeze(0))[0].label
    assert 0 < prediction.probability <= 1
    assert prediction._repr_html_().startswith("<b>")


def test_predicting_leaves_no_trace(trained):
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    trained.model.train()
    random = torch.get_rng_state()
    trained.predict()

    assert all(torch.equal(value, before[name]) for name, value in trained.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert trained.model.training


@pytest.mark.parametrize(
    ("loss_fn", "check"),
    [
        (nn.CrossEntropyLoss(), lambda out: torch.allclose(out.sum(1), torch.ones(6))),
        (nn.BCEWithLogitsLoss(), lambda out: bool(((out > 0) & (out < 1)).all())),
        (nn.MSELoss(), lambda out: bool((out < 0).any())),
    ],
    ids=["softmax", "sigmoid", "as it is"],
)
def test_the_loss_decides_how_outputs_become_predictions(loss_fn, check):
    learner = etude.Learner(nn.Linear(4, 3), [(torch.ones(1, 4), torch.ones(1, 3))], loss_fn, torch.optim.SGD)

    assert check(learner.predict(torch.randn(6, 4)).output)


def test_a_loader_and_a_list_of_batches_can_be_predicted():
    x, y = torch.randn(10, 4), torch.randint(3, (10,))
    learner = etude.Learner(nn.Linear(4, 3), [(x, y)], nn.CrossEntropyLoss(), torch.optim.SGD)
    whole = learner.predict(x).output
    for form in (DataLoader(TensorDataset(x, y), 4), [(x[:7], y[:7]), (x[7:], y[7:])]):
        predictions = learner.predict(form)
        assert torch.allclose(predictions.output, whole)
        assert torch.equal(predictions.targets, y)


def test_what_cannot_be_predicted_is_explained():
    learner = etude.Learner(
        nn.Linear(4, 3), [(torch.ones(1, 4), torch.zeros(1))], nn.CrossEntropyLoss(), torch.optim.SGD
    )
    with pytest.raises(ConfigError, match="does not say how to read a str"):
        learner.predict("picture.jpg")
    with pytest.raises(ConfigError, match="no validation data"):
        learner.predict()
    with pytest.raises(etude.DataError, match="no items"):
        learner.predict([])


def test_a_model_of_ones_own_is_loaded_into_a_new_one(tmp_path):
    learner = etude.Learner(
        nn.Linear(4, 3), [(torch.ones(1, 4), torch.zeros(1))], nn.CrossEntropyLoss(), torch.optim.SGD
    )
    learner.save(tmp_path)
    loaded = etude.load(tmp_path, model=nn.Linear(4, 3))

    assert torch.equal(loaded.model.weight, learner.model.weight)
    with pytest.raises(LoadError, match="describes a Linear, which etude cannot build by name"):
        etude.load(tmp_path)
    with pytest.raises(LoadError, match=r"weight \(3x4 in the file, 5x4 here\)"):
        etude.load(tmp_path, model=nn.Linear(4, 5))


def test_a_model_of_ones_own_predicts_alike_after_loading(tmp_path):
    """Preprocessing, labels and how outputs become probabilities come back with it; no random number is drawn."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    learner = vision.learner(net, digits(), loss_fn=nn.BCEWithLogitsLoss(), precision="fp32", progress=False)
    learner.save(tmp_path)
    new = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    random = torch.get_rng_state()
    loaded = etude.load(tmp_path, model=new)
    pixels = learner.data.valid.inputs[:5]

    assert torch.equal(torch.get_rng_state(), random)
    assert torch.allclose(loaded.predict(pixels).output, learner.predict(pixels).output)
    assert loaded.predict(pixels)[0].label == learner.predict(pixels)[0].label


def test_a_loaded_model_cannot_be_trained_by_accident(trained, tmp_path):
    trained.save(tmp_path)
    with pytest.raises(ConfigError, match="no training data"):
        etude.load(tmp_path).fit(1, lr=0.1)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x04pickle"), "damaged"),
        (lambda folder: _cut(folder / "model.safetensors"), "damaged"),
        (lambda folder: (folder / "model.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "model.json").write_text("[]"), "not a whole description of format 2"),
        (lambda folder: _set(folder, arch="os.system"), "cannot build by name"),
        (lambda folder: _set(folder, num_classes=7), "of another shape"),
    ],
    ids=["missing", "pickle", "truncated", "broken json", "other json", "name of code", "other shape"],
)
def test_a_damaged_folder_is_refused(trained, tmp_path, damage, words):
    trained.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(LoadError, match=words):
        etude.load(tmp_path)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def _set(folder, **changes):
    description = json.loads((folder / "model.json").read_text())
    description["model"].update(changes)
    (folder / "model.json").write_text(json.dumps(description))


def test_a_new_head_on_a_saved_body(trained, tmp_path, capsys):
    """Rows T3 to T5: the body is taken over, the head is new, and no statistics are touched on the way."""
    trained.save(tmp_path)
    learner = vision.learner(tmp_path, digits(), progress=False, precision="fp32")
    body = {name: tensor for name, tensor in trained.model.state_dict().items() if not name.startswith("4.")}

    assert "new head: 4.weight, 4.bias" in capsys.readouterr().out
    assert all(torch.equal(learner.model.state_dict()[name], tensor) for name, tensor in body.items())
    assert learner.model[-1].in_features == 2 * 64


@pytest.mark.parametrize("norm", ["train", "affine", "frozen"])
def test_fine_tuning_freezes_the_body_with_the_named_norm_policy(trained, tmp_path, norm):
    """Row T7: a frozen norm is not one thing."""
    trained.save(tmp_path)
    learner = vision.learner(tmp_path, digits(), progress=False, precision="fp32")
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    changed: list[set[str]] = []

    def look(learner, results):
        now = learner.model.state_dict().items()
        changed.append({name for name, tensor in now if not torch.equal(tensor, before[name])})

    learner.callbacks = (etude.Debug("after_epoch", call=look),)
    history = learner.fine_tune(4, lr=3e-2, freeze_epochs=1, norm=norm)

    head = {"4.weight", "4.bias"}
    affine, statistics = {"0.1.weight", "0.1.bias"}, {"0.1.running_mean", "0.1.running_var"}
    assert head <= changed[0]
    assert "0.0.weight" not in changed[0]
    assert (affine <= changed[0]) == (norm == "train")
    assert (statistics <= changed[0]) == (norm != "frozen")
    assert "0.0.weight" in changed[1], "the second phase trains everything"
    assert history["valid_accuracy"][-1] > 0.85


def test_frozen_norms_are_those_of_the_body_only():
    """Norms without parameters belong to the module they are in; every kind of norm is known (row T8)."""
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.BatchNorm2d(4, affine=False))
    head = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36, affine=False), nn.Linear(36, 2), nn.RMSNorm(2))
    batches = [(torch.randn(8, 1, 5, 5), torch.zeros(8, dtype=torch.long))]
    learner = etude.Learner(
        nn.Sequential(body, head), batches, nn.CrossEntropyLoss(), torch.optim.SGD, groups=list, progress=False
    )
    learner.fit(1, lr=0.01, callbacks=freeze_body(learner, norm="frozen"))
    assert (int(body[2].num_batches_tracked), int(head[1].num_batches_tracked)) == (0, 1)

    unfreeze(learner)
    freeze_body(learner, norm="train")
    assert body[1].weight.requires_grad
    assert not body[0].weight.requires_grad


def test_fine_tuning_a_model_without_a_body_is_explained():
    learner = etude.Learner(
        nn.Linear(4, 3), [(torch.ones(1, 4), torch.zeros(1))], nn.CrossEntropyLoss(), torch.optim.SGD
    )
    with pytest.raises(ConfigError, match="one layer group"):
        learner.fine_tune(1, lr=0.1)
