"""Files decoded anew for every batch: the same pixels as from a store, and broken files known before training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from drawing import NOISE, save
from etude import DataError, Learner, vision
from etude.data.build import open_or_build
from etude.data.unstored import Unstored
from etude.vision.decode import PictureCodec

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures of two classes and several sizes, one of them broken."""
    for label, pixels in (("cat", NOISE), ("dog", 255 - NOISE)):
        (tmp_path / label).mkdir()
        for i in range(6):
            save(tmp_path / label / f"{i}.jpg", pixels[: 20 + 3 * i], quality=90)
    (tmp_path / "cat" / "5.jpg").write_bytes(b"no picture")
    return tmp_path


def _both(folder, **options):
    options = {"size": 8, "valid": 0.3, "batch_size": 3, "progress": False, **options}
    return vision.load(folder, **options), vision.load(folder, store="none", **options)


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_are_those_of_the_store(folder, threads):
    torch.set_num_threads(threads)
    stored, anew = _both(folder)

    assert anew.train.names == stored.train.names
    for side in ("train", "valid"):
        ours, theirs = (getattr(data, side).batches(1, CPU) for data in (anew, stored))
        for batch, expected in zip(ours, theirs, strict=True):
            assert torch.equal(batch.inputs, expected.inputs)
            assert torch.equal(batch.targets, expected.targets)
    assert anew.preprocess.mean == stored.preprocess.mean


def test_broken_files_are_known_before_training(folder):
    stored, anew = _both(folder)

    assert anew.incidents == stored.incidents
    assert [incident.name for incident in anew.incidents] == ["cat/5.jpg"]
    with pytest.raises(DataError, match=r"cat/5\.jpg is not a picture"):
        _both(folder, on_bad_data="stop")


def test_nothing_is_kept(folder, tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("ETUDE_HOME", str(home))
    vision.load(folder, size=8, valid=0.3, store="none", progress=False)

    assert not list(home.iterdir())


@pytest.mark.parametrize("threads", [1, 2])
def test_a_file_that_changes_meanwhile_is_named(folder, threads):
    torch.set_num_threads(threads)
    _, anew = _both(folder)
    (folder / anew.valid.names[0]).write_bytes(b"")

    with pytest.raises(DataError, match=rf"{anew.valid.names[0]} changed since training began: it "):
        list(anew.valid.batches(0, CPU))


def test_nothing_that_can_be_used_is_refused(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"")

    with pytest.raises(DataError, match=r"none of the 1 files .* can be used: 1\.jpg is empty"):
        Unstored([tmp_path / "1.jpg"], tmp_path, PictureCodec())


def test_a_model_trains_on_files_as_on_their_store(folder):
    weights = []
    for data in _both(folder):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        Learner(model, data, nn.CrossEntropyLoss(), torch.optim.SGD, device="cpu", progress=False).fit(2, lr=0.1)
        weights.append(model[1].weight)

    assert torch.equal(*weights)


def test_samples_look_alike_in_both_forms(folder):
    paths = sorted(folder.rglob("*.jpg"))
    stored, anew = open_or_build(paths, folder, PictureCodec()), Unstored(paths, folder, PictureCodec())

    assert anew.names == stored.names
    assert torch.equal(anew.shapes, stored.shapes)
    assert len(anew) == len(stored) == 11
    assert anew.marks == stored.marks
    assert anew.on(CPU) is anew
    assert not anew.fits(torch.device("cuda"))
