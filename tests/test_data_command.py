"""`etude data`: a look at data before training, and at what is kept of it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from coloring import COLORS, etude, save_colors, save_odd
from etude import plots
from etude.data import cache
from etude.data.sources.known import DATASETS
from etude.exports.origin import license_of


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_HOME", str(tmp_path / "home"))


@pytest.fixture
def colors(tmp_path):
    return save_colors(tmp_path / "colors", per_class=8)


# -- check ------------------------------------------------------------------------------------------------------------


def test_check_counts_classes_and_names_odd_files(colors):
    reasons = save_odd(colors / "red")
    done = etude("data", "check", colors, "--valid-pct", "0.25", "--json")

    assert (done.code, done.errors) == (0, "")
    found = {row["file"]: row["reason"] for row in done.json["incidents"]}
    assert set(found) == {f"red/{name}" for name in reasons}
    assert all(reason in found[f"red/{name}"] for name, reason in reasons.items())
    assert {name: sum(counts) for name, counts in done.json["classes"].items()} == {"blue": 8, "green": 8, "red": 13}
    assert all(0 < mean < 1 for mean in done.json["mean"])
    assert [line.split()[0] for line in done.out.splitlines()[-4:-1]] == list(COLORS)


def test_check_is_content_without_a_share_and_says_what_training_needs(colors):
    done = etude("data", "check", colors)

    assert done.code == 0
    assert f"{colors} has no validation pictures of its own; a training needs --valid-pct" in done.out
    training = etude("train", colors)
    assert training.code == 2
    assert "such as --valid-pct 0.2" in training.errors, "a flag, not a Python argument"


def test_check_and_training_see_the_same_data(colors, tmp_path):
    description = etude("data", "check", colors, "--valid-pct", "0.25", "--size", "16", "--json").json["description"]
    small = ["--size", "16", "--batch-size", "8", "--epochs", "1", "--arch", "lesson_cnn", "--precision", "fp32"]
    etude("train", colors, "--valid-pct", "0.25", *small, "--run-dir", tmp_path / "run", "--quiet")
    config = json.loads((tmp_path / "run" / "config.json").read_text())

    assert config["data"]["description"] == description


def test_an_archive_is_looked_into(data_folder):
    done = etude("data", "check", data_folder / "imagenette2-mini-64.tgz", "--size", "32", "--json")

    assert done.code == 0, done.errors
    assert len(done.json["classes"]) == 10
    assert all(counts == [40, 20] for counts in done.json["classes"].values())


def test_two_places_for_the_pictures_are_refused(colors):
    done = etude("data", "check", colors, "--data", colors)

    assert done.code == 2
    assert "name one" in done.errors


# -- show -------------------------------------------------------------------------------------------------------------


def test_show_draws_training_and_validation_pictures(colors, tmp_path):
    out = tmp_path / "batch.png"
    done = etude("data", "show", colors, "--valid-pct", "0.25", "--size", "16", "--out", out)

    assert done.code == 0, done.errors
    assert done.out.splitlines()[-1] == f"look at {out}"
    with Image.open(out) as drawn:
        assert drawn.size[0] > 1000
        # the pictures are there, in their colors, not only axes and titles
        assert np.asarray(drawn.convert("RGB")).reshape(-1, 3).std(0).min() > 20


@pytest.mark.parametrize("out", ["batch.jpg", "nowhere/batch.png"])
def test_show_refuses_a_place_that_it_cannot_write(colors, tmp_path, out):
    done = etude("data", "show", colors, "--out", tmp_path / out)

    assert done.code == 2
    assert f"--out must be a .png file in a folder that exists, got {tmp_path / out}" in done.errors


@pytest.mark.parametrize(
    ("length", "shown"), [(26, "german_shorthaired_pointer"), (15, "german_…pointer"), (6, "ger…er")]
)
def test_long_names_are_cut_in_the_middle(length, shown):
    assert plots.cut("german_shorthaired_pointer", length) == shown


# -- list and get -----------------------------------------------------------------------------------------------------


def test_list_names_every_data_set_with_its_license():
    done = etude("data", "list", "--json")
    lines = done.out.splitlines()

    assert [row["name"] for row in done.json["datasets"]] == [*sorted(DATASETS), "python-docstrings"]
    assert len(lines) == 2 * len(DATASETS) + 3
    assert {line.index("license: ") for line in lines[1:-1:2]} == {lines[0].index(DATASETS["cifar10"].description)}


def test_the_license_of_texts_that_are_made_here_is_known():
    run = SimpleNamespace(options={"data": "python-docstrings"})
    assert license_of(run, None).startswith("PSF License")
    assert license_of(run, "CC0") == "CC0"


def test_list_knows_what_is_here_and_what_was_only_tried():
    downloads = cache.home() / "downloads"
    downloads.mkdir(parents=True)
    (downloads / "imagewoof2-160.tgz").write_bytes(b"whole")
    for name in ("imdb.tar.gz.lock", "cifar10.tgz.part", "cifar10.tgz.part.json"):
        (downloads / name).touch()
    rows = etude("data", "list", "--json", "--quiet").json["datasets"]

    assert [row["name"] for row in rows if row["here"]] == ["imagewoof2-160"]


def test_get_unpacks_an_archive_and_says_where(data_folder):
    done = etude("data", "get", data_folder / "imagewoof2-mini-64.tgz", "--json")

    assert done.code == 0, done.errors
    assert done.out.splitlines()[-2] == done.json["folder"]
    again = etude("data", "get", data_folder / "imagewoof2-mini-64.tgz", "--json", "--quiet")
    assert again.json == done.json
    assert len(again.out.splitlines()) == 1


def test_get_names_what_is_known():
    done = etude("data", "get", "imagenete")

    assert done.code == 1
    assert "imagenete is neither a folder, nor an archive, nor a known data set" in done.errors


# -- cache ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(colors):
    """The folder of a store in the cache."""
    etude("data", "check", colors, "--valid-pct", "0.25", "--size", "16", "--quiet")
    (folder,) = (path for path in (cache.home() / "stores").iterdir() if path.is_dir())
    return folder


def test_cache_lists_what_is_kept(store):
    done = etude("data", "cache", "--json")
    (row,) = done.json["entries"]

    assert row["name"] == store.name
    assert row["bytes"] == done.json["bytes"] == sum(path.stat().st_size for path in store.iterdir())
    assert row["samples"] == 24
    assert "24 pictures, such as blue/00.png" in done.out


def test_cache_verify_finds_a_changed_byte(store):
    assert etude("data", "cache", "--verify").code == 0
    values = bytearray((store / "values.bin").read_bytes())
    values[100] ^= 1
    (store / "values.bin").write_bytes(values)
    done = etude("data", "cache", "--verify", "--json")

    assert done.code == 1
    assert done.json["damaged"] == [store.name]
    assert done.json["entries"][0]["damaged"] == ["blue/00.png"]
    assert "--clear" in done.errors


def test_cache_clear_removes_everything_and_data_is_made_anew(store, colors):
    done = etude("data", "cache", "--clear", "--json")

    assert (done.code, done.json["cleared"]) == (0, True)
    assert etude("data", "cache", "--json", "--quiet").json["entries"] == []
    assert etude("data", "check", colors, "--valid-pct", "0.25", "--size", "16").code == 0
    assert store.is_dir()
