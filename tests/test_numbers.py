"""Numbers as targets: read without a guess, checked, and put into the user's units."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from torch import nn

from coloring import FAST, etude
from etude import ConfigError, DataError, MixedTargets, losses
from etude.regression import NumberHead, NumberLoss, Numbers, give_numbers
from numbered import learner, load, save


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    """Numbers far from 0 with a small spread: 5000 plus brightness."""
    return save(tmp_path_factory.mktemp("numbers") / "data", label=lambda mean: f"{5000 + mean:.4f}")


# -- reading ----------------------------------------------------------------------------------------------------------


def test_numbers_are_never_guessed_and_named(bright):
    with pytest.raises(DataError, match=r"look like numbers, such as '50.*target='number' \(--target number\)"):
        load(bright, target="class")
    done = etude("train", bright, *FAST)
    assert (done.code, "--target number" in done.errors) == (1, True)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([str(i % 10) for i in range(100)], False),
        ([f"{i % 3}.5" for i in range(100)], False),
        ([str(i) for i in range(100)], True),
        ([f"{i % 7}.25" for i in range(100)], True),
        ([str(18 + i % 80) for i in range(5000)], False),
        ([f"n{i}" for i in range(100)], False),
        (["nan", *map(str, range(99))], False),
    ],
    ids=["digits", "grades", "amounts", "weights", "numbered classes", "names", "nan"],
)
def test_what_looks_like_numbers(labels, said):
    from etude.data.numeric import hint_of_numbers

    assert bool(hint_of_numbers(labels)) is said


def test_targets_are_the_numbers_of_the_table(bright):
    data = load(bright)
    with (bright / "labels.csv").open() as file:
        told = {row["name"]: float(row["label"]) for row in csv.DictReader(file)}

    assert data.vocab is None
    assert data.num_outputs == 1
    assert torch.allclose(data.train.targets, torch.tensor([[told[name]] for name in data.train.names]))
    train = [told[name] for name in data.train.names]
    assert data.numbers.mean == pytest.approx([np.mean(train)])
    assert data.numbers.std == pytest.approx([np.std(train)])


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("", "name or label is empty"),
        ("nan", "'nan' is no finite number"),
        ("-inf", "'-inf' is no finite number"),
        ("1e400", "'1e400' is no finite number"),
        ("1e39", "'1e39' is beyond what a 32-bit number holds"),
        ("old", "'old' is no number"),
        ("1_000", "'1_000' is no number"),
        ('"3,5"', r"'3,5' is no number \(a decimal point is a point\)"),
        ("1;2", "'1;2' holds 2 numbers, the samples before it 1"),
        ("1;", "'' is no number"),
    ],
)
def test_what_is_no_number_is_refused_with_file_and_line(tmp_path, label, message):
    save(tmp_path, num=4)
    table = tmp_path / "labels.csv"
    lines = table.read_text().splitlines()
    lines[3] = f"002.png,{label},0"
    table.write_text("\n".join(lines))

    with pytest.raises(DataError, match=rf"labels\.csv, line 4: .*{message}"):
        load(tmp_path)


def test_numbers_may_come_from_names_folders_and_functions(tmp_path):
    save(tmp_path, num=12)
    (tmp_path / "labels.csv").unlink()
    data = load(tmp_path, valid=0.3, label=r"(\d+)\.png")
    assert sorted(int(value) for value in torch.cat([data.train.targets, data.valid.targets])) == list(range(12))
    pairs = load(tmp_path, valid=0.3, label=lambda path, root: (float(path.stem), 0.5))
    assert pairs.num_outputs == 2
    with pytest.raises(DataError, match=r"the label of .*000\.png: 'a' is no number"):
        load(tmp_path, valid=0.3, label=lambda path, root: "a")


def test_folds_deal_numbers_by_chance(bright):
    held = [set(load(bright, fold=(i, 3)).valid.names) for i in range(3)]

    assert sum(map(len, held)) == len(set().union(*held)) == 45
    assert held[0] != set(load(bright, fold=(0, 3), split_seed=7).valid.names)


def test_targets_that_never_change_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"targets are \[7\.0\]: there is nothing to learn"):
        load(save(tmp_path, num=8, label=lambda mean: "7"))


@pytest.mark.parametrize("step", [1, 100])
def test_numbers_that_are_others_in_32_bits_are_refused(tmp_path, step):
    labels = iter(range(1_700_000_000, 1_700_001_000, step))
    with pytest.raises(DataError, match=r"float32, of about 7 digits\. Subtract an offset .* as 17000"):
        load(save(tmp_path, num=8, label=lambda mean: str(next(labels))))


def test_numbers_of_seven_digits_are_taken(tmp_path):
    labels = iter(range(1_000_000, 1_001_000))

    assert load(save(tmp_path, num=12, label=lambda mean: str(next(labels)))).numbers.mean[0] > 1e6


def test_numbers_taken_for_classes_are_told_first(tmp_path):
    save(tmp_path, num=40)
    with pytest.raises(DataError, match=r"^the \d+ different labels look like numbers, .*target='number'"):
        load(tmp_path, target="class")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "balanced"}, "draws classes equally often, and numbers have none"),
        ({"label_noise": 0.1}, "label_noise makes labels of other classes"),
    ],
    ids=["sampling", "noise"],
)
def test_data_settings_of_classes_are_refused(bright, options, message):
    with pytest.raises(ConfigError, match=message):
        load(bright, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"focal": 2.0}, "focal belongs to classes and has no effect on numbers"),
        ({"label_smoothing": 0.2}, r"label_smoothing=0\.2 belongs to classes"),
        ({"class_weights": "balanced"}, "class_weights belong to classes and have no"),
        ({"loss_fn": "cubed"}, "must be one of .*'huber'.*got 'cubed'"),
    ],
    ids=["focal", "smoothing", "weights", "loss"],
)
@pytest.mark.usefixtures("without_type_checks")
def test_learner_settings_of_classes_are_refused(bright, options, message):
    with pytest.raises(ConfigError, match=message):
        learner(load(bright), **options)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--target", "number", "--several"], "--several has no effect here"),
        (["--target", "number", "--sampling", "balanced"], "--sampling has no effect here"),
        (["--target", "number", "--focal", "2"], "--focal has no effect here"),
        (["--target", "number", "--class-weights", "balanced"], "--class-weights has no effect here"),
        (["--target", "number", "--label-smoothing", "0.2"], "--label-smoothing has no effect here"),
        (["--target", "number", "--label-noise", "0.2"], "--label-noise has no effect here"),
        (["--loss", "huber"], "--loss has no effect here"),
    ],
    ids=lambda value: value[-2] if isinstance(value, list) else "",
)
def test_flags_without_effect_are_refused_before_pictures_are_read(flags, words):
    done = etude("train", "nowhere", *flags)

    assert done.code == 2
    assert words in done.errors


# -- the parts --------------------------------------------------------------------------------------------------------


def by_hand(kind, errors):
    """The losses in float64, delta 1."""
    errors = errors.double()
    if kind == "mse":
        return errors.square()
    return errors.abs() if kind == "l1" else torch.where(errors.abs() < 1, errors.square() / 2, errors.abs() - 0.5)


@pytest.mark.parametrize("kind", ["mse", "l1", "huber"])
def test_losses_of_numbers_have_no_units(kind):
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(9, 2, generator=generator) * torch.tensor([100.0, 0.01])
    preds = targets + torch.randn(9, 2, generator=generator) * torch.tensor([200.0, 0.02])
    scale = (100.0, 0.01)
    expected = by_hand(kind, (preds.double() - targets.double()) / torch.tensor(scale, dtype=torch.float64))

    torch.testing.assert_close(NumberLoss(kind, scale)(preds, targets).double(), expected.mean(), rtol=1e-5, atol=0)
    share = torch.linspace(0.5, 1, 9)
    mixed = losses.apply(NumberLoss(kind, scale), preds, MixedTargets(targets, targets.flip(0), share))
    other = by_hand(kind, (preds.double() - targets.flip(0).double()) / torch.tensor(scale, dtype=torch.float64))
    soft = share.double() * expected.mean(1) + (1 - share.double()) * other.mean(1)
    torch.testing.assert_close(mixed.double(), soft.mean(), rtol=1e-5, atol=0)


def test_a_head_gives_the_users_units_and_can_be_folded():
    numbers = Numbers(("a", "b"), (1000.0, -3.0), (50.0, 0.1))
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    inputs = torch.randn(16, 4)
    plain = model(inputs)
    names = list(model.state_dict())
    model = give_numbers(model, numbers)

    expected = plain * torch.tensor(numbers.std) + torch.tensor(numbers.mean)
    torch.testing.assert_close(model(inputs), expected)
    assert list(model.state_dict()) == names
    assert isinstance(model[2], NumberHead)
    torch.testing.assert_close(model[2].folded()(model[:2](inputs)), expected)
    with pytest.raises(ConfigError, match="does not end in a linear layer of 2 numbers"):
        give_numbers(nn.Sequential(nn.Linear(4, 3)), numbers)


def test_a_head_in_16_bits_gives_its_units_in_32():
    model = give_numbers(nn.Sequential(nn.Linear(4, 1)), Numbers(("a",), (1000.0,), (1.0,)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(torch.randn(16, 4))

    assert found.dtype == torch.float32
    assert len(found.unique()) > 8, "1000 in 16 bits has steps of 4"
