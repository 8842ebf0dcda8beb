"""Unequal classes: draws in balance, weights in the loss, and what is shown then."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from coloring import COLORS, FAST, etude, picture
from etude import ConfigError, vision
from etude.data.sampling import Sampling, balanced
from etude.losses import FocalLoss
from etude.vision.objective import balanced_weights

NUMS = {"blue": 60, "green": 12, "red": 3}


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    """Training pictures of three colors, far from as many of each; five of each to validate on."""
    folder = tmp_path_factory.mktemp("unequal")
    for color in COLORS:
        for side, num in (("train", NUMS[color]), ("valid", 5)):
            (folder / side / color).mkdir(parents=True)
            for i in range(num):
                picture(color, i + 1000 * (side == "valid")).save(folder / side / color / f"{i:02}.png")
    return folder


def load(folder, **options):
    return vision.load(folder, size=16, batch_size=8, progress=False, **options)


def learner(data, **options):
    return vision.learner("lesson_cnn", data, precision="fp32", progress=False, widths=[8, 16], **options)


# -- draws ------------------------------------------------------------------------------------------------------------


def draws(targets, epochs=1, **options):
    sampling = Sampling(num_samples=len(targets), shuffle=True, seed=3, weights=balanced(targets), **options)
    return [torch.cat(sampling.batches(epoch)) for epoch in range(epochs)]


def test_every_class_is_drawn_equally_often():
    targets = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    rows = torch.cat(draws(targets, epochs=30)) % len(targets)
    shares = torch.bincount(targets[rows]) / len(rows)

    assert torch.allclose(shares, torch.full((3,), 1 / 3), atol=0.01)
    of_last = torch.bincount(rows[targets[rows] == 2] - 990) / (targets[rows] == 2).sum()
    assert torch.allclose(of_last, torch.full((10,), 0.1), atol=0.01)


def test_with_several_labels_every_label_and_no_label_are_drawn_equally_often():
    # no picture has two, so that each draw is of one class
    targets = torch.zeros(400, 3)
    targets[:300, 0] = targets[300:380, 1] = targets[380:390, 2] = 1
    rows = torch.cat(draws(targets, epochs=40)) % 400
    counts = torch.cat([targets[rows].sum(0), (targets[rows].sum(1) == 0).sum()[None]])

    assert torch.allclose(counts / len(rows), torch.full((4,), 0.25), atol=0.01)


def test_a_picture_of_two_labels_is_drawn_for_both():
    targets = torch.tensor([[1.0, 1], [1, 0], [1, 0], [1, 0]])

    assert torch.allclose(balanced(targets), torch.tensor([1.25, 0.25, 0.25, 0.25]).double() * 2)


def test_an_epoch_keeps_its_length_and_counts_on_what_is_drawn_again():
    targets = torch.tensor([0] * 50 + [1] * 2)
    (rows,) = draws(targets, batch_size=8)

    assert len(rows) == 52
    assert len(set(rows.tolist())) == 52
    for sample in (50, 51):
        times = sorted((rows[rows % 52 == sample] // 52).tolist())
        assert times == list(range(len(times)))
        assert len(times) > 5


def test_draws_are_a_function_of_seed_and_epoch():
    targets = torch.tensor([0] * 50 + [1] * 5)
    weights = balanced(targets)

    def rows(seed, epoch):
        sampling = Sampling(num_samples=55, shuffle=True, seed=seed, weights=weights)
        return torch.cat(sampling.batches(epoch)).tolist()

    assert rows(1, 4) == rows(1, 4)
    assert rows(1, 4) != rows(1, 5)
    assert rows(1, 4) != rows(2, 4)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_any_number_of_ranks_shares_the_same_draws(world_size):
    targets = torch.tensor([0] * 60 + [1] * 6)
    options = {"num_samples": 66, "shuffle": True, "drop_last": True, "weights": balanced(targets)}
    alone = Sampling(batch_size=6, **options).batches(2)
    ranks = [
        Sampling(batch_size=6 // world_size, rank=rank, world_size=world_size, **options).batches(2)
        for rank in range(world_size)
    ]

    assert [torch.cat(parts).tolist() for parts in zip(*ranks, strict=True)] == [step.tolist() for step in alone]


def test_a_picture_that_is_drawn_again_is_seen_in_another_window(unequal):
    data = load(unequal, sampling="balanced")
    seen = {}
    for batch in data.train.batches(0, torch.device("cpu")):
        for index, pixels, target in zip(batch.indices.tolist(), batch.inputs, batch.targets.tolist(), strict=True):
            assert target == int(data.train.targets[index % 75])
            seen.setdefault(index % 75, []).append(pixels)
    often = max(seen.values(), key=len)

    assert len(often) > 3
    assert not any(torch.equal(often[0], other) for other in often[1:])


def test_validation_is_not_drawn(unequal):
    data = load(unequal, sampling="balanced")

    assert torch.cat([batch.targets for batch in data.valid.batches(0, torch.device("cpu"))]).tolist() == [
        *[0] * 5,
        *[1] * 5,
        *[2] * 5,
    ]


def test_a_resume_within_an_epoch_draws_what_was_left(unequal):
    data = load(unequal, sampling="balanced")
    device = torch.device("cpu")
    whole = [batch.indices.tolist() for batch in data.train.batches(3, device)]

    assert [batch.indices.tolist() for batch in data.train.batches_from(3, 4, device)] == whole[4:]


def test_weights_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="without shuffle nothing is"):
        Sampling(num_samples=2, weights=torch.ones(2))
    with pytest.raises(ConfigError, match="3 weights for 2 samples"):
        Sampling(num_samples=2, shuffle=True, weights=torch.ones(3))


# -- weights ----------------------------------------------------------------------------------------------------------


def test_class_weights_are_inverse_frequencies_of_mean_1(unequal):
    data = load(unequal)
    weights = balanced_weights(data)

    assert weights.tolist() == pytest.approx([75 / (3 * NUMS[color]) for color in data.vocab])
    assert float(weights[data.train.targets].mean()) == pytest.approx(1)
    loss_fn = learner(data, class_weights="balanced").loss_fn
    assert torch.equal(loss_fn.weight, weights)
    focal = learner(data, class_weights="balanced", focal=2.0).loss_fn
    assert isinstance(focal, FocalLoss)
    assert torch.equal(focal.class_weight, weights)


def test_balanced_draws_or_weights_find_a_rare_class_that_looks_much_like_the_common_one(tmp_path):
    """One rare picture in eleven, a little brighter on average: a plain training never says rare."""
    generator = np.random.default_rng(0)
    for name, mean, nums in (("common", 100, (160, 40)), ("rare", 125, (16, 40))):
        for side, num in zip(("train", "valid"), nums, strict=True):
            (tmp_path / side / name).mkdir(parents=True)
            for i in range(num):
                pixels = generator.normal(mean, 15) + generator.normal(0, 10, (16, 16, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / side / name / f"{i:03}.png")
    recalls = {}
    for name, draws_as, weights in (
        ("plain", "uniform", None),
        ("draws", "balanced", None),
        ("weights", "uniform", "balanced"),
    ):
        data = vision.load(tmp_path, size=16, batch_size=16, progress=False, sampling=draws_as)
        made = vision.learner("lesson_cnn", data, precision="fp32", progress=False, widths=[8], class_weights=weights)
        made.fit(3, lr=1e-2)
        found = made.predict()
        recalls[name] = float((found.output.argmax(1) == 1)[found.targets == 1].double().mean())

    assert recalls["plain"] < 0.3
    assert min(recalls["draws"], recalls["weights"]) > 0.5, recalls


def test_draws_and_weights_together_are_refused(unequal):
    with pytest.raises(ConfigError, match="every class equally often already"):
        learner(load(unequal, sampling="balanced"), class_weights="balanced")
    done = etude("train", unequal, "--sampling", "balanced", "--class-weights", "balanced", *FAST)
    assert done.code == 2
    assert "--sampling balanced shows every class equally often already" in done.errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": "fair"}, "class_weights must be 'balanced', a tensor, a list or None, got 'fair'"),
        ({"focal": 2.0, "loss_fn": torch.nn.CrossEntropyLoss()}, "focal would change the loss that you give"),
        ({"loss_fn": "huber"}, "the loss 'huber' is one of numbers, and these targets are classes"),
    ],
    ids=["weights", "own loss", "number's"],
)
@pytest.mark.usefixtures("without_type_checks")
def test_settings_without_effect_are_refused(unequal, options, message):
    with pytest.raises(ConfigError, match=message):
        learner(load(unequal), **options)


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_keeps_its_draws_and_focal_loss_over_a_resume(unequal, tmp_path):
    flags = ["--sampling", "balanced", "--focal", "1.5", "--mixup", "0.2", *FAST, "--precision", "fp32", "--quiet"]
    whole = etude("train", unequal, *flags, "--epochs", "2", "--run-dir", tmp_path / "whole", "--json")
    assert whole.code == 0, whole.errors
    config = json.loads((tmp_path / "whole" / "config.json").read_text())

    assert (config["options"]["sampling"], config["options"]["focal"]) == ("balanced", 1.5)
    assert config["loss"].startswith("FocalLoss(gamma=1.5, label_smoothing=0.1")
    assert {"valid_balanced_accuracy", "valid_macro_f1"} <= set(whole.json)
    for name in ("result.json", "model.safetensors", "model.json"):
        (tmp_path / "whole" / name).rename(tmp_path / name)
    last = max((tmp_path / "whole" / "checkpoints").iterdir())
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    resumed = etude("resume", tmp_path / "whole", "--json")
    assert resumed.code == 0, resumed.errors

    assert resumed.json["valid_loss"] == whole.json["valid_loss"]
    again = (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert again == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_plan_tells_the_loss(unequal):
    done = etude("plan", "train", unequal, *FAST, "--class-weights", "balanced", "--epochs", "1", "--precision", "fp32")

    assert done.code == 0, done.errors
    assert "loss CrossEntropyLoss()" in done.out
    assert "balanced_accuracy, macro_f1" in done.out
