"""XResNet as the lesson counts it, its blocks and its initialization, and building models by name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from etude import ConfigError, vision
from etude.layers import AdaptiveConcatPool2d, BlurPool2d, activation_layer, conv_layer, init_cnn
from etude.vision import XResNet, create_model, xresnet18, xresnet34
from etude.vision.xresnet import ResBlock

COUNTS = {
    "xresnet18": (11_228_586, 11_736_456),
    "xresnet34": (21_336_746, 21_844_616),
    "xresnet50": (23_575_466, 25_603_976),
    "xresnet101": (42_567_594, 44_596_104),
    "xresnet152": (58_211_242, 60_239_752),
}


def _count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def _bare(make, *args, **options):
    """A model without numbers: only its shapes are looked at."""
    with torch.device("meta"):
        return make(*args, **options)


# -- the whole network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "counts"), COUNTS.items(), ids=COUNTS)
def test_parameter_counts_are_the_lessons(arch, counts):
    """X8, at 10 and at 1000 classes."""
    assert (_count(_bare(create_model, arch, num_classes=10)), _count(_bare(getattr(vision, arch)))) == counts


def test_one_block_per_stage_would_be_another_network():
    """Error 8: the digit 1 for the letter l gave every model one block in each stage."""
    planted = _bare(XResNet, 1, (1, 1, 1, 1), 10)
    ours = _bare(xresnet34, 10)

    assert _count(planted) == pytest.approx(4.96e6, rel=1e-3)
    assert _count(ours) == pytest.approx(21.34e6, rel=1e-3)
    assert [len(stage) for stage in ours[4:8]] == [3, 4, 6, 3]


@pytest.mark.parametrize("arch", ["xresnet18", "xresnet34"])
def test_the_eleven_children_have_the_lessons_shapes(arch):
    """X8, at 128 pixels."""
    x, shapes = torch.empty(2, 3, 128, 128, device="meta"), []
    for child in _bare(create_model, arch, num_classes=10):
        x = child(x)
        shapes.append("x".join(map(str, x.shape[1:])))

    assert shapes == [
        *("32x64x64", "64x64x64", "64x64x64", "64x32x32"),
        *("64x32x32", "128x16x16", "256x8x8", "512x4x4"),
        *("512x1x1", "512", "10"),
    ]


def test_the_bottleneck_networks_are_four_times_as_wide():
    model = _bare(create_model, "xresnet50", num_classes=10)

    assert model[:8](torch.empty(1, 3, 128, 128, device="meta")).shape == (1, 2048, 4, 4)


@pytest.mark.parametrize(("channels", "first"), [(1, 16), (3, 32), (4, 40)])
def test_the_stem_widens_by_the_channels_of_the_picture(channels, first):
    """Error 9: the lesson's snippet takes the number of classes instead."""
    model = _bare(xresnet18, 10, channels=channels)
    stem = [layer[0] for layer in model[:3]]

    assert [(c.in_channels, c.out_channels) for c in stem] == [(channels, first), (first, 64), (64, 64)]
    assert [c.stride for c in stem] == [(2, 2), (1, 1), (1, 1)]


def test_training_and_evaluation_give_finite_scores():
    model = xresnet18(5)
    for training in (True, False):
        assert model.train(training)(torch.randn(2, 3, 40, 56)).isfinite().all()


def test_slicing_gives_the_body_with_the_same_tensors():
    model = xresnet18(10)
    body = model[:8]

    assert type(body) is nn.Sequential
    assert body[0][0].weight is model[0][0].weight
    assert isinstance(model[-1], nn.Linear)


def test_layer_groups_are_body_and_head():
    model = _bare(xresnet18, 10)
    body, head = model.layer_groups()

    assert [tuple(parameter.shape) for parameter in head] == [(10, 512), (10,)]
    assert len(body) + len(head) == len(list(model.parameters()))


def test_pictures_stay_channels_last_through_the_body():
    model = xresnet18(10).to(memory_format=torch.channels_last).eval()
    maps = model[:8](torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last))

    assert maps.is_contiguous(memory_format=torch.channels_last)
    assert not maps.is_contiguous()


# -- a block ----------------------------------------------------------------------------------------------------------

BLOCKS = [(e, i, w, s) for e in (1, 4) for i, w in ((8, 8), (8, 16)) for s in (1, 2)]


@pytest.mark.parametrize(("expansion", "in_width", "width", "stride"), BLOCKS, ids=str)
def test_a_new_block_only_passes_its_input_on(expansion, in_width, width, stride):
    """X4: the last norm of the branch starts at zero."""
    block = ResBlock(expansion, in_width, width, stride=stride)
    init_cnn(block)
    x = torch.randn(2, in_width * expansion, 8, 8)

    for training in (True, False):
        block.train(training)
        torch.testing.assert_close(block(x), block.idconv(block.pool(x)).relu())


def _awake(block):
    """The block with a branch that says something."""
    nn.init.ones_(block.convs[-1][1].weight)
    return block.eval()


@pytest.mark.parametrize(("expansion", "in_width", "width", "stride"), BLOCKS, ids=str)
def test_the_activation_comes_after_the_sum(expansion, in_width, width, stride):
    """Error 9: one parenthesis off, the lesson's text activates the branch alone."""
    block = _awake(ResBlock(expansion, in_width, width, stride=stride))
    x = torch.randn(2, in_width * expansion, 8, 8)
    planted = block.convs(x).relu() + block.idconv(block.pool(x))

    assert block(x).min() == 0
    assert planted.min() < 0
    torch.testing.assert_close(block(x), (block.convs(x) + block.idconv(block.pool(x))).relu())


@pytest.mark.parametrize("expansion", [1, 4])
@pytest.mark.parametrize(("side", "half"), [(7, 4), (8, 4), (1, 1), (5, 3)])
def test_both_paths_of_an_odd_map_agree(expansion, side, half):
    """X5: 7 becomes 4 on both."""
    block = ResBlock(expansion, 4, 8, stride=2)
    x = torch.randn(2, 4 * expansion, side, side)

    assert block.eval().convs(x).shape == block.idconv(block.pool(x)).shape == (2, 8 * expansion, half, half)


def test_a_bottleneck_strides_in_its_3x3_convolution():
    convolutions = [layer[0] for layer in ResBlock(4, 8, 16, stride=2).convs]

    assert [(c.kernel_size[0], c.stride[0]) for c in convolutions] == [(1, 1), (3, 2), (1, 1)]


def test_the_shortcut_pools_before_its_1x1_convolution():
    block = ResBlock(1, 8, 16, stride=2)

    assert isinstance(block.pool, nn.AvgPool2d)
    assert block.idconv[0].stride == (1, 1)
    assert len(block.idconv) == 2  # no activation


# -- initialization ---------------------------------------------------------------------------------------------------


def _deviation_errors(model):
    """Of every convolution with many weights: its deviation against sqrt(2 / fan_in)."""
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 5000]
    return [m.weight.std().item() / math.sqrt(2 / m.weight[0].numel()) - 1 for m in convolutions]


def test_every_convolution_at_every_depth_is_initialized():
    """X3."""
    errors = _deviation_errors(xresnet18(10))

    assert len(errors) == 21
    assert max(map(abs, errors)) < 0.06


def test_the_lessons_recursion_would_leave_the_blocks_untouched():
    """Error 9: with the recursion indented under the `if`, nothing below the top is reached."""

    def planted(module):
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            for child in module.children():
                planted(child)

    model = nn.Sequential(conv_layer(64, 64), nn.Sequential(conv_layer(64, 64)))
    planted(model)
    assert min(map(abs, _deviation_errors(model))) > 0.3
    init_cnn(model)
    assert max(map(abs, _deviation_errors(model))) < 0.06


@pytest.mark.parametrize("arch", ["xresnet18", "xresnet50"])
def test_the_last_norm_of_every_branch_starts_at_zero_and_every_other_one_at_one(arch):
    model = create_model(arch, num_classes=10)
    last = [block.convs[-1][1] for stage in model[4:8] for block in stage]
    others = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m not in last]

    assert all((norm.weight == 0).all() for norm in last)
    assert all((norm.weight == 1).all() for norm in others)
    assert len(others) > len(last)


def test_every_bias_starts_at_zero():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.Linear(4, 4)), nn.LayerNorm(4))
    nn.init.ones_(model[2].bias)
    init_cnn(model)

    assert all((parameter == 0).all() for name, parameter in model.named_parameters() if name.endswith("bias"))


# -- building by name -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("xresnet18", {"num_classes": 7}),
        ("xresnet34", {"num_classes": 7, "channels": 1, "stem_stride": 1, "blur_pool": True, "activation": "mish"}),
        ("xresnet50", {"num_classes": 7, "concat_pool": True}),
        ("lesson_cnn", {"num_classes": 7}),
        ("lesson_cnn", {"num_classes": 7, "channels": 1, "widths": [8, 16], "stem_stride": 1, "activation": "silu"}),
    ],
    ids=["xresnet18", "xresnet34", "xresnet50", "lesson_cnn", "lesson_cnn of all options"],
)
def test_a_models_config_builds_it_again(arch, options):
    model = _bare(create_model, arch, **options)
    config = model.config()
    again = _bare(create_model, **config)

    assert config["arch"] == arch
    assert options.items() <= config.items()
    assert repr(again) == repr(model)
    assert again.config() == config


def test_changing_a_config_does_not_change_the_model():
    model = _bare(xresnet18, 10)
    model.config()["num_classes"] = 99

    assert model.config()["num_classes"] == 10


def test_an_unknown_architecture_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"unknown architecture 'xresnet43', .*did you mean 'xresnet34'\?"):
        create_model("xresnet43")


def test_an_unknown_option_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"xresnet18 has no option \['blurpool'\]; it takes .*'blur_pool'"):
        create_model("xresnet18", num_classes=10, blurpool=True)


@pytest.mark.parametrize("option", ["expansion", "num_blocks", "name"])
def test_what_makes_an_architecture_is_not_an_option(option):
    with pytest.raises(ConfigError, match="has no option"):
        create_model("xresnet18", **{option: 4})


def test_an_unknown_activation_is_refused():
    with pytest.raises(ConfigError, match=r"unknown activation 'rleu'; choose from .*'relu'"):
        activation_layer("rleu")


def test_building_a_model_needs_no_look_at_its_names_elsewhere():
    """A name from a file is looked up in one table, never imported."""
    with pytest.raises(ConfigError, match=r"unknown architecture 'torch\.nn\.Linear'"):
        create_model("torch.nn.Linear")


def test_adaptive_concat_pool_is_max_and_then_average():
    x = torch.randn(2, 3, 4, 5)

    torch.testing.assert_close(
        AdaptiveConcatPool2d()(x), torch.cat([x.amax((2, 3), keepdim=True), x.mean((2, 3), keepdim=True)], dim=1)
    )


def test_blur_pool_takes_a_one_pixel_map():
    assert BlurPool2d(3)(torch.ones(2, 3, 1, 1)).tolist() == torch.ones(2, 3, 1, 1).tolist()
