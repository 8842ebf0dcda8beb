"""A body cut and given a new head, layer groups, and training in phases."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import etude
from etude import Checkpoints, ConfigError, Learner, LoadError, MixUp, flat, vision
from etude.layers import AdaptiveConcatPool2d
from etude.recipes.demo import digits
from etude.training import transfer
from etude.training.optimizer import layer_groups
from etude.training.tuning import TuningPhase, discriminative, tuning_phases
from resuming import StopAt, outcome, same, signaled_by


def pictures(num=4, side=32):
    return torch.randn(num, 3, side, side, generator=torch.Generator().manual_seed(0))


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# -- a new head -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["xresnet18", "lesson_cnn"])
def test_adapting_measures_the_width_and_touches_no_statistics(arch):
    """Rows T3 to T5: cut in front of the pool, measure in evaluation mode, pool by maximum and average."""
    model = vision.create_model(arch, num_classes=10)
    model.train()
    before = state(model)
    adapted = transfer.adapt(model, 37, pictures())

    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert isinstance(adapted[1], AdaptiveConcatPool2d)
    assert adapted[3].in_features == 1024
    assert adapted(pictures()).shape == (4, 37)
    assert len(layer_groups(adapted)) == 2
    body, head = (group["params"] for group in layer_groups(adapted))
    assert {id(one) for one in head} == {id(one) for one in adapted[3].parameters()}
    assert {id(one) for one in body} < {id(one) for one in model.parameters()}, "the body is shared, not copied"


class _Resting(nn.Module):
    """As torchvision's networks are: children in order, a flatten in `forward`."""

    def __init__(self, *, twice: bool) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.avgpool, self.fc, self.twice = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 10), twice

    def forward(self, x):
        x = self.norm(self.conv(x))
        return self.fc(self.avgpool(x * 2 if self.twice else x).flatten(1))


def test_a_network_is_cut_only_where_its_children_in_a_row_are_what_it_computes():
    assert transfer.adapt(_Resting(twice=False), 2, pictures())(pictures()).shape == (4, 2)
    with pytest.raises(ConfigError, match="do not compute what its forward does before the pool"):
        transfer.adapt(_Resting(twice=True), 2, pictures())
    with pytest.raises(ConfigError, match="has no pool"):
        transfer.adapt(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()), 2, pictures())
    with pytest.raises(ConfigError, match="must give a map"):
        transfer.width_of(nn.Flatten(), pictures())


def test_a_body_is_taken_over_by_name_from_a_file_or_a_folder(tmp_path, capsys):
    source = vision.learner("lesson_cnn", digits(), precision="fp32", progress=False, widths=[8, 16])
    source.save(tmp_path / "run")
    for pretrained in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
        made = vision.learner(
            "lesson_cnn", digits(), pretrained=pretrained, precision="fp32", progress=False, widths=[8, 16]
        )
        assert torch.equal(made.model[0][0].weight, source.model[0][0].weight)
        assert made.model[-1].in_features == 32
        assert "new head: 4.weight, 4.bias" in capsys.readouterr().out

    with pytest.raises(LoadError, match=r"(?s)are not those of this LessonCNN.*of another shape"):
        vision.learner(
            "lesson_cnn", digits(), pretrained=tmp_path / "run" / "model.safetensors", progress=False, widths=[8, 24]
        )
    with pytest.raises(ConfigError, match="holds a lesson_cnn, not a xresnet18"):
        vision.learner("xresnet18", digits(), pretrained=tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match="two bodies are named"):
        vision.learner(tmp_path / "run", digits(), pretrained=tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match="does not say of which architecture"):
        vision.learner(tmp_path / "run" / "model.safetensors", digits(), progress=False)
    with pytest.raises(LoadError, match="there are no weights at"):
        vision.learner("lesson_cnn", digits(), pretrained=tmp_path / "gone.safetensors", progress=False)
    with pytest.raises(ConfigError, match="no effect on a ready model"):
        vision.learner(nn.Flatten(), digits(), pretrained=tmp_path / "run", progress=False)


def test_pictures_are_normalized_as_the_bodys_own_were(tmp_path, capsys):
    bright = vision.from_arrays(
        (torch.full((8, 3, 32, 32), 250, dtype=torch.uint8), torch.arange(8) % 2), None, vocab=["a", "b"], size=32
    )
    noise = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    other = vision.from_arrays((noise, torch.arange(8) % 2), None, vocab=["a", "b"], size=32)
    vision.learner("lesson_cnn", other, precision="fp32", progress=False).save(tmp_path)
    made = vision.learner(tmp_path, bright, precision="fp32", progress=False)

    assert made.data.preprocess.config() == other.preprocess.config()
    assert made.data.preprocess.config() != bright.preprocess.config()
    assert "normalized as the body's own pictures were" in capsys.readouterr().out


# -- layer groups -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["xresnet18", pytest.param("xresnet50", marks=pytest.mark.slow), "lesson_cnn"])
@pytest.mark.parametrize("groups", [transfer.norms_with_head, transfer.in_thirds, None])
def test_groups_hold_every_parameter_once(arch, groups):
    """Row T9: `layer_groups` refuses anything else; here, that what the functions give is what they say."""
    model = vision.create_model(arch, num_classes=5)
    parts = [group["params"] for group in layer_groups(model, groups)]
    names = {parameter: name for name, parameter in model.named_parameters()}
    norms = {one for module in model.modules() if isinstance(module, nn.BatchNorm2d) for one in module.parameters()}

    assert {names[one] for one in parts[-1]} >= {f"{len(model) - 1}.weight", f"{len(model) - 1}.bias"}
    if groups is transfer.norms_with_head:
        assert not norms & set(parts[0])
        assert norms <= set(parts[1])
    if groups is transfer.in_thirds:
        first, second = ({names[one].split(".")[0] for one in part} for part in parts[:2])
        assert not first & second, "cut between two children"
        assert max(map(int, first)) < min(map(int, second))
        assert 0.3 < len(parts[0]) / (len(parts[0]) + len(parts[1])) < 0.8


def test_a_learning_rate_of_zero_is_as_good_as_frozen():
    """Row T10: no update and no decay for the first group, while the norms and the head train."""
    learner = _small(groups=transfer.norms_with_head)
    before = state(learner.model)
    learner.fit(1, lr=(0.0, 0.05))
    changed = {name for name, tensor in learner.model.state_dict().items() if not torch.equal(tensor, before[name])}

    assert "0.0.weight" not in changed
    assert {"0.1.weight", "0.1.running_mean", "4.weight"} <= changed


# -- phases -----------------------------------------------------------------------------------------------------------


def _small(callbacks=(), **options):
    """A small network on the digits, its weights the same each time."""
    torch.manual_seed(0)
    return vision.learner(
        "lesson_cnn",
        digits(batch_size=128),
        precision="fp32",
        progress=False,
        widths=[8, 8],
        callbacks=callbacks,
        **options,
    )


@pytest.mark.usefixtures("without_type_checks")
def test_rates_and_phases():
    assert discriminative(1.0, 1) == (0.5,)
    assert discriminative(1.0, 3) == pytest.approx((0.005, 0.05, 0.5))
    assert discriminative(1.0, 5)[0] == pytest.approx(0.005), "however many groups, the first trains a hundredth"
    assert [phase.trained for phase in tuning_phases(2, 0.1, num_groups=4, gradual=True)] == [1, 2, 3, None]
    assert [phase.trained for phase in tuning_phases(2, 0.1, freeze_epochs=0)] == [None]
    head, later, whole = tuning_phases(2, 0.1, num_groups=3, gradual=True)
    assert (head.lr, later.lr) == (0.1, whole.lr), "the whole rate for the head alone, then a rate for each group"
    for wrong in (
        {"freeze_epochs": -1},
        {"norm": "off"},
        {"gradual": True},
        {"gradual": True, "freeze_epochs": 0, "num_groups": 3},
    ):
        with pytest.raises(ConfigError):
            tuning_phases(2, 0.1, **wrong)
    with pytest.raises(ConfigError, match="at least one layer group"):
        TuningPhase(lr=0.1, trained=0)
    with pytest.raises(ConfigError, match="at least one epoch"):
        TuningPhase(lr=0.1, epochs=0)


def test_gradual_unfreezing_thaws_one_group_after_the_other():
    learner, seen = _small(groups=transfer.in_thirds), []
    before = state(learner.model)

    def look(learner, results):
        now = learner.model.state_dict().items()
        seen.append(
            {name for name, tensor in now if name.endswith("0.weight") and not torch.equal(tensor, before[name])}
        )

    learner.callbacks = (etude.Debug("after_epoch", call=look),)
    learner.fine_tune(1, lr=0.05, freeze_epochs=1, gradual=True)

    assert seen == [set(), {"1.0.weight"}, {"0.0.weight", "1.0.weight"}]
    assert all(parameter.requires_grad for parameter in learner.model.parameters())
    assert learner.progress.phase == 0, "the next fit is not a phase"


def test_frozen_weights_are_the_same_to_the_bit_whatever_the_optimizer_remembers():
    """Momentum and decay from an earlier fit must not move what is frozen now."""
    learner = _small()
    learner.fit(1, lr=0.05)
    before = state(learner.model)
    phase = TuningPhase(epochs=1, lr=0.05, trained=1, norm="frozen")
    transfer.run_phases(learner, [phase])

    body = {name for name in before if not name.startswith("4.")}
    assert all(torch.equal(learner.model.state_dict()[name], before[name]) for name in body)
    assert not torch.equal(learner.model.state_dict()["4.weight"], before["4.weight"])


def test_what_was_frozen_by_hand_stays_so_under_every_policy():
    learner = _small()
    by_hand = {"4.bias", "0.1.weight"}
    for name, parameter in learner.model.named_parameters():
        parameter.requires_grad_(name not in by_hand)
    transfer.freeze(learner, norm="train")
    flags = {name for name, parameter in learner.model.named_parameters() if parameter.requires_grad}

    assert flags == {"4.weight", "0.1.bias", "1.1.weight", "1.1.bias"}


@pytest.mark.parametrize("reset", [True, False])
def test_a_phase_can_begin_with_a_new_optimizer(reset):
    learner = _small()
    phases = [TuningPhase(epochs=1, lr=0.01), TuningPhase(epochs=1, lr=0.01, reset_optimizer=reset)]
    transfer.run_phases(learner, phases)
    counts = {int(state["step"]) for state in learner.optimizer.state.values()}

    assert counts == {len(learner.data.train) * (1 if reset else 2)}


def test_an_error_in_a_phase_thaws_what_it_froze():
    learner = _small()

    def fail(*_):
        raise KeyError("planted")

    learner.model[0][0].weight.requires_grad_(False)
    with pytest.raises(KeyError, match="planted"):
        learner.fine_tune(1, lr=0.1, callbacks=[etude.Debug("after_epoch", call=fail)])

    flags = {name: parameter.requires_grad for name, parameter in learner.model.named_parameters()}
    assert [name for name, flag in flags.items() if not flag] == ["0.0.weight"], "frozen before, frozen after"
    assert learner.progress.phase == 0


@pytest.mark.parametrize("phase", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_training_in_phases_goes_on_as_if_it_had_not_been_stopped(phase, tmp_path, monkeypatch):
    phases = [
        TuningPhase(epochs=1, lr=0.05, trained=1, norm="frozen"),
        TuningPhase(epochs=1, lr=(0.001, 0.01, 0.05), trained=2, norm="affine", reset_optimizer=True),
        TuningPhase(epochs=1, lr=0.01),
    ]

    def make(folder):
        stop = StopAt(None)
        made = _small([stop, Checkpoints(folder), MixUp(0.3)], groups=transfer.in_thirds)
        return made, stop

    whole, _ = make(tmp_path / "whole")
    transfer.run_phases(whole, phases)
    stopped, stop = make(tmp_path / "cut")

    def arm(learner):
        stop.place = ("step", 0, 4) if learner.progress.phase == phase else None

    with signaled_by(stop, monkeypatch), pytest.raises(SystemExit):
        transfer.run_phases(stopped, phases, callbacks=[etude.Debug("before_fit", call=arm)])
    resumed, _ = make(tmp_path / "cut")
    transfer.run_phases(resumed, phases, callbacks=[etude.Debug("before_fit", call=print)], resume=tmp_path / "cut")

    assert same(outcome(whole), outcome(resumed))
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3]


def test_a_phase_that_a_callback_ends_says_so_and_the_next_begins(capsys):
    learner = _small()

    def enough(learner, *_):
        if learner.progress.phase == 0:
            raise etude.StopFit("enough")

    learner.fine_tune(1, lr=0.01, freeze_epochs=2, callbacks=[etude.Debug("after_epoch", call=enough)])

    assert learner.history.notes[-1] == "phase 1 of 2 ended early: enough"
    assert [row["epoch"] for row in learner.history] == [1, 2]


def test_a_rate_of_zero_is_not_called_training():
    learner = _small(groups=transfer.norms_with_head)
    words = transfer.describe_phase(learner, TuningPhase(epochs=1, lr=(0.0, 0.05)))

    assert words == "122 of 898 parameters train, the others have a rate of 0, 1 epoch, lr 0, 0.05"


def test_other_phases_than_those_of_the_checkpoint_are_refused(tmp_path):
    learner = _small([Checkpoints(tmp_path)])
    learner.fine_tune(1, lr=0.05, freeze_epochs=1)
    with pytest.raises(ConfigError, match="the checkpoint is of phase 2, but there are 1"):
        transfer.run_phases(learner, [TuningPhase(epochs=1, lr=0.1)], resume=tmp_path)


# -- what is shown ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["train", pytest.param("affine", marks=pytest.mark.slow), "frozen"])
def test_the_summary_shows_what_each_layers_norms_do(norm):
    model = vision.xresnet18(num_classes=4)
    learner = Learner(model, [(pictures(), torch.arange(4))], nn.CrossEntropyLoss(), torch.optim.SGD, progress=False)
    learner.callbacks = tuple(transfer.freeze(learner, norm=norm))
    summary = learner.summary()

    assert [row.norms for row in summary.rows] == [
        norm, norm, norm, "", f"4 {norm}", f"5 {norm}", f"5 {norm}", f"5 {norm}", "", "", "",
    ]  # fmt: skip
    assert f"5 {norm}" in repr(summary)
    assert f"<td>5 {norm}</td>" in summary._repr_html_()
    layers = learner.summary(all_layers=True).rows
    assert {row.norms for row in layers if row.kind == "BatchNorm2d"} == {norm}
    assert len([row for row in layers if row.kind == "Conv2d"]) == 22
    assert layers[0].shape == (4, 32, 16, 16)


def test_the_word_of_a_norm_without_statistics():
    model = nn.Sequential(nn.LayerNorm(3), nn.BatchNorm1d(3, affine=False), nn.GroupNorm(1, 3))
    model[2].requires_grad_(False)

    assert transfer.norm_state(model) == {"0": "train", "1": "affine", "2": "frozen"}
    assert transfer.norm_state(model, ["1"])["1"] == "frozen"


def test_one_fit_of_what_is_frozen_by_hand_is_still_possible():
    learner = _small()
    held = transfer.freeze(learner, norm="affine")
    learner.fit(1, lr=0.01, schedule=flat, callbacks=held)
    transfer.unfreeze(learner)

    assert held == []
    assert all(parameter.requires_grad for parameter in learner.model.parameters())
