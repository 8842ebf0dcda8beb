"""`etude compare`: what differs, what came out, and that no more is said of it than so many runs can show."""

from __future__ import annotations

import itertools
import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image

from coloring import etude
from etude.recipes import studies
from etude.runs import statistics
from etude.runs.compare import compare_runs
from etude.runs.differences import comparable
from etude.runs.overlay import COLORS, distinct_names
from etude.runs.read import read_run
from etude.runs.series import read_series
from etude.runs.statistics import Paired, half_interval, sign_flip_p, t_quantile
from run_folders import make_run, make_seeds


@pytest.fixture
def compared(tmp_path, monkeypatch):
    """Compare folders under tmp_path by their names; nothing is drawn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("etude.runs.overlay.draw_comparison", lambda *_: None)

    def run(*names):
        return etude("compare", *names, "--json")

    return run


def differing(done):
    return {one["key"]: one["values"] for one in done.json["differences"]}


# -- single runs ------------------------------------------------------------------------------------------------------


def test_only_what_differs_is_named(tmp_path, compared):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", lr=0.02, quiet=False, environment={"threads": 4, "cwd": "/elsewhere"})
    done = compared("a", "b")

    assert differing(done) == {"lr": [0.01, 0.02], "threads": [1, 4]}
    assert done.json["differ_in"] == ["the option lr", "the machine or its settings"]
    assert "they differ in 2 things: the option lr, the machine or its settings" in done.out
    assert "option      lr       0.01  0.02" in done.out


def test_one_difference_is_one_thing(tmp_path, compared):
    make_run(tmp_path / "a")
    # the scheduler follows from the option
    make_run(tmp_path / "b", lr=0.02, config={"callbacks": ["Scheduler(lr=[2])"]})
    done = compared("a", "b")

    assert set(differing(done)) == {"lr", "callback Scheduler"}
    assert done.json["differ_in"] == ["the option lr"]
    assert "they differ in" not in done.out


def test_the_same_run_twice_differs_in_nothing(tmp_path, compared):
    make_run(tmp_path / "a", losses=[2.0, float("nan")])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    done = compared("a", "b")

    assert done.json["differences"] == []
    assert "nothing that is recorded differs between them" in done.out
    assert "A and B: the losses of all 2 steps that both have are equal to the last digit" in done.out
    assert "A and B have the same valid_accuracy" in done.out


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"data": {"store": "s2"}}, "store"),
        ({"config": {"model": {"arch": "xresnet18", "num_classes": 2}}}, "model arch"),
        ({"environment": {"packages": {"etude": "0.1.0", "torch": "2.12.0"}}}, "torch"),
        ({"environment": {"git": {"commit": "d" * 40, "changes": "", "untracked": 0}}}, "commit"),
        ({"environment": {"git": {"commit": "c" * 40, "changes": "+x\n"}}}, "uncommitted changes"),
        ({"environment": {"cpu": "slide rule"}}, "cpu"),
        ({"environment": {"variables": {"OMP_NUM_THREADS": "3"}}}, "OMP_NUM_THREADS"),
        ({"config": {"groups": [{"lr": 1.0}, {"lr": 2.0}]}}, "lr of the groups"),
        ({"config": {"callbacks": ["Scheduler(lr=[1])", "MixUp(alpha=0.2)"]}}, "callback MixUp"),
    ],
)
def test_every_kind_of_difference_is_seen(tmp_path, compared, change, key):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", **change)

    assert key in differing(compared("a", "b"))


def test_results_stand_beside_each_other(tmp_path, compared):
    counts = [{"valid_samples": 400, "valid_right": right} for right in (300, 310)]
    make_run(tmp_path / "a", accuracy=0.75, result=counts[0])
    make_run(tmp_path / "b", accuracy=0.775, result=counts[1] | {"valid_loss": 0.25})
    done = compared("a", "b")

    assert done.json["results"]["valid_loss"] == [0.5, 0.25]
    assert "valid_accuracy  75.00 %  77.50 %  +2.50 points" in done.out
    assert "B is ahead by 2.50 points, 10 of 400 held-out pictures, from one run each: no evidence" in done.out


def test_the_first_step_that_differs_is_named(tmp_path, compared):
    same = [0.5] * 16
    for name, losses in {"a": [*same, 0.123, 1.0], "b": [*same, 0.124], "c": [*same, 0.12300000000001]}.items():
        make_run(tmp_path / name, losses=losses)
    done = compared("a", "b", "c")

    assert "A and B: the losses first differ at step 17: 0.123 against 0.124" in done.out
    assert "A and C: the losses first differ at step 17: 0.123 against 0.12300000000001" in done.out
    assert done.json["first_difference"][0] == {"common_steps": 17, "step": 17, "losses": [0.123, 0.124]}


def test_a_loss_is_no_measure_where_losses_differ(tmp_path, compared):
    smooth = {"loss": "LabelSmoothingCrossEntropy(0.1)"}
    for name, config in {"a": {}, "b": smooth}.items():
        make_run(tmp_path / name, config=config, result={"valid_accuracy": None, "valid_loss": 0.3})
    done = compared("a", "b")

    assert "their losses are not the same function" in done.out
    assert "have no result in common that could be compared" in done.out


@pytest.mark.parametrize(
    ("change", "same", "words"),
    [
        ({}, True, ""),
        ({"data": {"classes": ["a", "c"]}}, False, "classes are not the same"),
        ({"data": {"labels": "l2"}}, False, "other pictures are held out"),
        ({"data": {"labels": "l2"}, "label_noise": 0.5}, True, "made wrong on purpose"),
        ({"data": {"labels": "l2"}, "label_noise": 0.5, "split_seed": 7}, False, "other pictures are held out"),
        ({"data": {"store": "s2"}}, True, "that the pictures are the same is not recorded"),
        ({"config": {"training": {"kind": "digits"}}}, False, "the demo's digits"),
        ({"config": {"training": {"fold": [1, 3]}}, "data": {"labels": "l2"}}, False, "(fold)"),
        ({"config": {"data": {}}}, False, "is not recorded"),
    ],
)
def test_other_data_is_said_instead_of_compared(tmp_path, compared, change, same, words):
    make_run(tmp_path / "a", accuracy=0.5)
    make_run(tmp_path / "b", accuracy=0.9, **change)
    done = compared("a", "b")
    found = comparable(read_run(tmp_path / "a"), read_run(tmp_path / "b"))

    assert (found.same, words in found.why) == (same, True)
    assert ("B is ahead" in done.out) == same
    assert ("Their results say nothing about each other" in done.out) != same


def test_what_cannot_be_compared_is_refused(tmp_path, compared):
    make_run(tmp_path / "a")
    make_seeds(tmp_path / "seeds", {1: 0.5, 2: 0.6})
    study = make_seeds(tmp_path / "study", {1: 0.5})
    (study / "result.json").write_text(json.dumps({"rows": [{"variant": "none", "mean": 0.5}]}))
    for names, words in {
        ("a", "seeds"): "a is one run, seeds holds 2: they cannot be compared",
        ("a", "a"): "named twice",
        ("seeds", "study"): "study is a study, which compares its own runs: etude show study",
    }.items():
        done = compared(*names)
        assert done.code == 2
        assert words in done.errors
    assert compared("a", "nothing").code == 1
    assert etude("compare", "a", "seeds/seed-1", "--out", "x.jpg").code == 2
    assert "none" in etude("show", "study").out


# -- several seeds ----------------------------------------------------------------------------------------------------


def test_seeds_are_paired_and_the_numbers_are_right(tmp_path, compared):
    make_seeds(tmp_path / "a", {1: 0.70, 2: 0.80, 3: 0.75})
    make_seeds(tmp_path / "b", {3: 0.78, 1: 0.72, 2: 0.81, 4: 0.5})
    done = compared("a", "b")
    (paired,) = done.json["paired"]

    # by hand: differences 0.02, 0.01, 0.03; mean 0.02, deviation 0.01, t(2) = 4.3027
    assert paired["keys"] == [1, 2, 3]
    assert paired["difference"] == pytest.approx(0.02)
    assert paired["half_interval"] == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)
    assert paired["p"] == pytest.approx(2 / 8)
    assert paired["smallest_p"] == 0.25
    assert paired["left_out"] == ["B seed 4"]
    assert "B - A: +2.00 points ± 2.48 points (mean of 3 pairs, 95 % interval by Student's t)" in done.out
    assert "no evidence of a difference: less than 2.48 points cannot be told from chance here" in done.out
    assert "if it stayed at 2.00 points, about 6 pairs would show it" in done.out


def test_seeds_alone_are_no_difference(tmp_path, compared):
    make_seeds(tmp_path / "a", {1: 0.7, 2: 0.8})
    make_seeds(tmp_path / "b", {1: 0.7, 2: 0.8})
    done = compared("a", "b")

    assert done.json["differences"] == []
    assert "2 of 2 pairs have equal losses in every step" in done.out
    assert "no evidence of a difference\n" in done.out


def test_a_small_difference_over_many_seeds_is_found(tmp_path, compared):
    noise = [0.001, -0.001, 0.0005, 0.0, -0.0005, 0.0008, -0.0002, 0.0003]
    make_seeds(tmp_path / "a", {i: 0.9 + 0.01 * (i % 3) for i in range(8)})
    make_seeds(tmp_path / "b", {i: 0.9 + 0.01 * (i % 3) + 0.003 + noise[i] for i in range(8)}, mixup=0.2)
    done = compared("a", "b")

    assert done.out.splitlines()[-4] == "B is better by 0.31 points"
    assert done.json["paired"][0]["p"] == 2 / 256
    assert compared("b", "a").out.splitlines()[-4] == "A is better by 0.31 points"


def test_three_pairs_are_weak_evidence_at_best(tmp_path, compared):
    make_seeds(tmp_path / "a", {1: 0.70, 2: 0.80, 3: 0.75})
    make_seeds(tmp_path / "b", {1: 0.75, 2: 0.851, 3: 0.799})
    done = compared("a", "b")

    assert "weak evidence that B is better by 5.00 points" in done.out
    assert "at least 6 pairs could show it without" in done.out


def test_several_comparisons_ask_for_more(tmp_path, compared):
    for name in "abc":
        make_seeds(tmp_path / name, {1: 0.70, 2: 0.80, 3: 0.75})
    done = compared("a", "b", "c")

    assert [one["level"] for one in done.json["paired"]] == [0.975, 0.975]
    assert "97.5 % each, so that 2 hold together in 95 % interval" in done.out


def test_one_pair_or_none_gives_no_verdict(tmp_path, compared):
    make_seeds(tmp_path / "a", {1: 0.7, 2: 0.8})
    make_seeds(tmp_path / "b", {2: 0.9, 3: None})
    make_seeds(tmp_path / "c", {8: 0.9, 9: 0.9})

    done = compared("a", "b")
    assert "1 pairs: no evidence of a difference can come of less than two" in done.out
    assert done.json["paired"][0]["left_out"] == ["A seed 1", "B seed-3 (not finished)"]
    assert "0 pairs" in compared("a", "c").out


def test_seeds_on_other_data_give_no_verdict(tmp_path, compared):
    make_seeds(tmp_path / "a", dict.fromkeys(range(6), 0.5))
    make_seeds(tmp_path / "b", {i: 0.9 + i / 1000 for i in range(6)}, data={"labels": "l2"})
    done = compared("a", "b")
    assert "A and B are not measured on the same data" in done.out
    assert "better" not in done.out
    path = tmp_path / "a" / "seed-3" / "config.json"
    path.write_text(path.read_text().replace('"l1"', '"l3"'))
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    path.write_text(path.read_text().replace('"l3"', '"l1"'))
    assert "not measured on the same" in compared("a", "c").out


def test_a_folder_of_mixed_commits_says_so(tmp_path, compared):
    for name in "ab":
        make_seeds(tmp_path / name, {1: 0.7, 2: 0.8})
    path = tmp_path / "b" / "seed-2" / "environment.json"
    path.write_text(path.read_text().replace("c" * 40, "d" * 40))

    assert "the runs in B were not made under the same conditions: the commit" in compared("a", "b").out


# -- statistics -------------------------------------------------------------------------------------------------------


def test_sign_flips_equal_counting_them_all():
    rng = np.random.default_rng(0)
    for n, _ in itertools.product(range(1, 10), range(5)):
        values = (rng.integers(-4, 9, n) / 360).tolist()
        flips = [abs(np.dot(signs, values)) for signs in itertools.product((1, -1), repeat=n)]
        by_hand = np.mean([flip >= abs(sum(values)) - 1e-12 for flip in flips])

        assert sign_flip_p(values) == pytest.approx(by_hand), values
    assert sign_flip_p([0.0, 0.0]) == 1
    assert sign_flip_p([1.0] * 6) == Paired((1.0,) * 6).smallest_p == 2 / 64
    assert math.isnan(sign_flip_p([]))
    assert math.isnan(sign_flip_p([1.0] * 37))


@pytest.mark.parametrize(
    ("freedom", "level", "quantile"),
    # NIST/SEMATECH e-Handbook of Statistical Methods, table 1.3.6.7.2
    [(1, 0.95, 12.706), (2, 0.95, 4.303), (5, 0.95, 2.571), (30, 0.95, 2.042), (100, 0.95, 1.984), (7, 0.99, 3.499)],
)
def test_students_t_equals_the_table(freedom, level, quantile):
    assert t_quantile(freedom, level) == pytest.approx(quantile, abs=6e-4)


def test_without_a_difference_five_percent_are_called_one():
    """The whole verdict on chance alone: at most one in twenty is called better."""
    rng = np.random.default_rng(1)
    called = [Paired(tuple(rng.normal(0, 0.01, 8).tolist())).evidence == "clear" for _ in range(1000)]

    assert 0.02 < np.mean(called) < 0.065


def test_more_pairs_than_can_be_flipped_rest_on_the_interval():
    assert Paired((0.01, 0.02) * 20).evidence == "clear"
    assert Paired((0.01, -0.01) * 20).evidence == "none"


def test_studies_use_the_same_interval():
    (_, row) = studies.compare({"a": [0.5, 0.6, 0.7], "b": [0.6, 0.65, 0.7]})

    assert row["difference_half_interval"] == pytest.approx(half_interval([0.1, 0.05, 0.0]))
    assert studies.spread is statistics.spread


# -- the picture ------------------------------------------------------------------------------------------------------


def test_curves_have_a_color_for_each_run(tmp_path):
    hostile = ["a", "$x_$", "_花", "line\nbreak"]
    for name in hostile:
        make_run(tmp_path / name, losses=[2.0, None, 1.0, 0.5])
    make_run(tmp_path / "empty")
    (tmp_path / "empty" / "history.jsonl").unlink()
    names = [tmp_path / name for name in [*hostile, "empty"]]
    done = etude("compare", *names, "--out", tmp_path / "c.png")

    assert (done.code, done.errors) == (0, "")
    with Image.open(tmp_path / "c.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for color in COLORS[:5]:
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels - wanted).max(1) < 8).any(), color


def test_seeds_are_drawn_with_their_mean(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("etude.runs.overlay.save_figure", lambda figure, path: drawn.append(figure))
    for name in "ab":
        make_seeds(tmp_path / name, {1: 0.7, 2: 0.8})
    assert etude("compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c.png").code == 0
    accuracy = drawn[0].axes[2]

    assert [line.get_ydata()[0] for line in accuracy.lines[:3]] == pytest.approx([0.7, 0.8, 0.75])
    assert len({line.get_color() for line in accuracy.lines}) == 2


def test_names_are_told_apart_by_the_folders_above(tmp_path):
    runs = [read_run(make_run(tmp_path / name / "run")) for name in ("x", "y")]

    assert distinct_names(runs) == ["x/run", "y/run"]
    assert compare_runs(runs).letters == ("A", "B")
    assert len(read_series(runs[0].folder).epochs) == 1
