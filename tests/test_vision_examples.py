"""The contract of what a user types, run as it stands: DESIGN 3b's examples that need no text."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import etude
from etude import Learner, accuracy, vision
from etude.recipes.demo import digits


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of pictures with three classes: real digits, enlarged."""
    data = digits()
    for digit in range(3):
        folder = tmp_path / "photos" / ("zero", "one", "two")[digit]
        folder.mkdir(parents=True)
        pixels = data.train.inputs[data.train.targets == digit][:60]
        for i, picture in enumerate(pixels):
            Image.fromarray(picture[0].numpy()).resize((40, 40)).convert("RGB").save(folder / f"{i}.png")
    Image.fromarray(data.valid.inputs[0][0].numpy()).resize((40, 40)).save(tmp_path / "new.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_train_predict_save_load_and_fine_tune(photos, capsys):
    """To the accuracy that it must reach; that it runs is seen with the README's code."""
    data = vision.load("photos/", size=12, valid=0.2, seed=42, batch_size=16)
    learner = vision.learner("xresnet18", data, mixup=0.2)
    learner.fit(6, lr=5e-3)
    prediction = learner.predict("new.jpg")
    learner.save("roses")
    loaded = etude.load("roses")

    said = capsys.readouterr().out
    assert "pictures of 3 classes (CLASS folders)" in said
    assert "stem_stride=1" in said, "small pictures are not halved at once, and it says so"
    assert learner.precision.reason in said
    assert learner.history["valid_accuracy"][-1] > 0.8
    assert prediction.label in data.vocab
    # the loaded model predicts in fp32 whatever it was trained in
    assert loaded.predict("new.jpg").probability == pytest.approx(prediction.probability, abs=0.02)

    tuned = vision.learner("roses", data)
    history = tuned.fine_tune(2, lr=3e-3, freeze_epochs=1, norm="train")
    assert history["valid_accuracy"][-1] > 0.8


def test_plain_pytorch():
    inputs = torch.randn(96, 10)
    dataset = TensorDataset(inputs, (inputs[:, 0] > 0).long())
    train_loader, valid_loader = DataLoader(dataset, 16, shuffle=True), DataLoader(dataset, 32)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 2))
    learner = Learner(model, (train_loader, valid_loader), nn.CrossEntropyLoss(), torch.optim.AdamW, metrics=[accuracy])
    history = learner.fit(5, lr=1e-2)

    assert history["valid_accuracy"][-1] > 0.9


@pytest.mark.slow
def test_digits_reach_the_goal_over_five_seeds():
    """98.5 % held out as a mean over seeds: the number that the README prints comes from this."""
    accuracies = []
    for seed in range(1, 6):
        learner = vision.learner(
            "lesson_cnn",
            digits(seed),
            mixup=0.2,
            precision="fp32",
            progress=False,
            device="cpu",
            widths=[64, 128, 256],
            stem_stride=1,
        )
        accuracies.append(learner.fit(30, lr=1e-2)["valid_accuracy"][-1])

    assert sum(accuracies) / 5 >= 0.985
