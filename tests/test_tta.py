"""Predictions from several views of each picture: which views, their mean, and when a mirror image is refused."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coloring import FAST, etude, save_colors
from etude import ConfigError, Learner, vision
from etude.data.loaders import ArrayLoader, DataLoaders
from etude.data.vocab import Vocab
from etude.optim import adamw
from etude.training.predict import predict
from etude.vision import ImagePreprocess, Views

SIZE = 8


def learner(model=None, loss_fn=None, num=100):
    """An untrained network on noise."""
    torch.manual_seed(1)
    data = DataLoaders(
        None,
        ArrayLoader(torch.randint(0, 256, (num, 3, SIZE, SIZE), dtype=torch.uint8), torch.arange(num) % 3),
        vocab=Vocab(["a", "b", "c"]),
        preprocess=ImagePreprocess(SIZE, [0.5] * 3, [0.2] * 3),
        read=vision.from_arrays(
            (torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8), torch.arange(2)), None, vocab=["a", "b"]
        ).read,
    )
    model = model or nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    return Learner(model, data, loss_fn or nn.CrossEntropyLoss(), adamw(), device="cpu", progress=False)


def pixels_of(learner):
    return learner.data.valid.inputs


# -- the views --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flip", "shift", "count"), [(True, 0, 2), (False, 3, 5), (True, 1, 10)])
def test_views_are_the_picture_its_mirror_image_and_shifts_of_its_reflected_surroundings(flip, shift, count):
    views, pixels = Views(flip=flip, shift=shift), torch.randint(0, 256, (2, 3, 6, 9)).float()
    padded = F.pad(pixels, (shift,) * 4, "reflect")
    places = [(shift, shift)] + [(top, left) for top in (0, 2 * shift) for left in (0, 2 * shift) if shift]
    windows = [padded[..., top : top + 6, left : left + 9] for top, left in places]
    expected = [view for window in windows for view in ((window, window.flip(3)) if flip else (window,))]
    found = list(views(pixels))

    assert len(views) == len(found) == count
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(torch.equal(a, b.to(torch.uint8)) for a, b in zip(views(pixels.byte()), expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(found, views(pixels), strict=True)), "the same every time"


@pytest.mark.parametrize(
    ("options", "message"), [({"flip": False}, "one view only"), ({"shift": -1}, "at least 0 pixels, got -1")]
)
def test_views_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Views(**options)


def test_what_has_no_such_views_is_refused():
    with pytest.raises(ConfigError, match=r"moved by 8 pixels .* got \(1, 3, 8, 8\)"):
        list(Views(shift=8)(torch.zeros(1, 3, 8, 8)))
    with pytest.raises(ConfigError, match=r"batches of larger pictures .* got \(1, 8\)"):
        list(Views()(torch.zeros(1, 8)))
    with pytest.raises(ConfigError, match="gave no view"):
        predict(learner(), None, lambda inputs: [])


# -- their mean -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [Views(), Views(shift=2)])
def test_probabilities_are_the_mean_over_the_views(views):
    one = learner()
    found = predict(one, None, views)
    with torch.no_grad():
        prepared = one.data.preprocess
        by_hand = torch.stack([one.model(prepared(view)).softmax(1) for view in views(pixels_of(one))]).mean(0)

    torch.testing.assert_close(found.output, by_hand)
    torch.testing.assert_close(found.output.sum(1), torch.ones(100))
    assert not torch.allclose(found.output, predict(one).output, atol=1e-3)
    assert found.targets.tolist() == one.data.valid.targets.tolist()


@pytest.mark.parametrize(
    ("loss_fn", "of"), [(nn.BCEWithLogitsLoss(), torch.sigmoid), (nn.MSELoss(), lambda outputs: outputs)]
)
def test_each_loss_has_its_own_mean(loss_fn, of):
    one = learner(loss_fn=loss_fn)
    with torch.no_grad():
        prepared = one.data.preprocess
        by_hand = [of(one.model(prepared(view))) for view in Views()(pixels_of(one))]

    torch.testing.assert_close(predict(one, None, Views()).output, torch.stack(by_hand).mean(0))


def test_a_model_that_does_not_see_sides_predicts_as_without_views():
    one = learner(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)))

    torch.testing.assert_close(predict(one, None, Views()).output, predict(one).output)


def test_items_tensors_and_loaders_agree_whatever_the_batch():
    one = learner()
    pixels, views = pixels_of(one), Views(shift=1)
    whole = predict(one, pixels, views).output

    torch.testing.assert_close(predict(one, None, views).output, whole)
    torch.testing.assert_close(predict(one, list(pixels[:70]), views).output, whole[:70])
    torch.testing.assert_close(predict(one, pixels[:1], views).output, whole[:1])
    assert predict(one, pixels[3].permute(1, 2, 0).numpy(), views).probability == pytest.approx(
        float(whole[3].max()), abs=1e-5
    )


def test_plain_predictions_have_the_bits_of_one_softmax_over_all():
    one = learner()
    with torch.no_grad():
        outputs = torch.cat([one.preds(batch) for batch in one.data.valid.batches(0, one.device)])

    assert torch.equal(predict(one).output, outputs.softmax(1))


def test_only_one_view_of_one_batch_is_in_memory():
    """Views are asked for one after another, each after the model has seen the one before."""
    one, log = learner(num=128), []

    def views(inputs):
        for name in "ab":
            log.append(name)
            yield inputs

    one.model.register_forward_hook(lambda *_: log.append("model"))
    predict(one, None, views)

    assert log == ["a", "model", "b", "model"] * 2


# -- the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tta")
    save_colors(folder / "colors", per_class=8)
    short = ["--valid-pct", "0.25", "--epochs", "1", "--precision", "fp32", "--quiet"]
    done = etude("train", folder / "colors", *FAST, *short, "--run-dir", folder / "run")
    assert done.code == 0, done.errors
    return folder / "run"


@pytest.mark.parametrize(("tta", "views"), [("flip", Views()), ("both", Views(shift=1))])
def test_the_commands_say_what_the_library_says(run, tta, views):
    import etude as library

    colors, one = run.parent / "colors", library.load(run)
    done = etude("predict", run, colors, "--tta", tta, "--top", "3", "--json", "--quiet")
    files = [row["file"] for row in done.json["predictions"]]
    found = predict(one, files, views)

    assert files == sorted(files)
    assert done.json["tta"] == tta
    for row, prediction in zip(done.json["predictions"], found, strict=True):
        assert row["label"] == prediction.label
        assert row["probability"] == pytest.approx(prediction.probability, abs=1e-5)
    measured = etude("evaluate", run, "--data", colors, "--tta", tta, "--json", "--quiet").json
    assert measured["tta"] == tta
    _, loader = vision.labeled(colors, one.data.read, one.data.vocab, valid=0.25, progress=False)
    assert measured["accuracy"] == predict(one, loader, views).num_right / loader.num_samples


def test_a_mirror_image_is_refused_where_training_mirrored_none(run, tmp_path):
    config = json.loads((run / "config.json").read_text())
    colors = run.parent / "colors"
    changes = ({"options": {"flip": 0.0}}, {"training": {"kind": "whole pictures"}}, {"training": {"kind": "digits"}})
    for change in changes:
        for path in run.iterdir():
            if path.name in ("model.safetensors", "model.json"):
                (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "config.json").write_text(
            json.dumps(config | {name: config[name] | value for name, value in change.items()})
        )
        for command in (["predict", tmp_path, colors], ["evaluate", tmp_path, "--data", colors]):
            done = etude(*command, "--tta", "flip")

            assert done.code == 2
            assert "mirrored none: a mirror image may be another thing to its model; take --tta shift" in done.errors
    assert etude("predict", tmp_path, colors, "--tta", "shift").code == 0
    (tmp_path / "config.json").unlink()
    unknown = etude("predict", tmp_path, colors, "--tta", "flip")
    assert unknown.code == 0
    assert "does not say whether mirrored pictures mean the same to it" in unknown.errors
