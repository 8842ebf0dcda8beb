"""The options of the networks, the lessons' plain network, and the low-pass filter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coloring import etude, save_colors
from etude import ConfigError
from etude.layers import AdaptiveConcatPool2d, BlurPool2d, conv_layer
from etude.recipes.options import DataOptions, ModelOptions, TrainOptions
from etude.recipes.training import Training
from etude.vision import LessonCNN, create_model, xresnet18


def _bare(make, *args, **options):
    with torch.device("meta"):
        return make(*args, **options)


def _maps(model, side):
    return model.eval()(torch.empty(1, 3, side, side, device="meta")).shape


def _has(model, kind):
    return any(isinstance(module, kind) for module in model.modules())


# -- XResNet ----------------------------------------------------------------------------------------------------------


def test_a_stem_of_stride_one_keeps_small_pictures_twice_as_large():
    assert _maps(_bare(xresnet18, 10)[:8], 32) == (1, 512, 1, 1)
    assert _maps(_bare(xresnet18, 10, stem_stride=1)[:8], 32) == (1, 512, 2, 2)


def test_blur_pool_filters_wherever_the_map_is_halved():
    model = _bare(xresnet18, 10, blur_pool=True)
    filters = [module for module in model.modules() if isinstance(module, BlurPool2d)]

    assert len(filters) == 5  # stem, max pool, three stages
    assert [type(layer).__name__ for layer in model[3]] == ["MaxPool2d", "BlurPool2d"]
    assert _maps(model[:8], 128) == (1, 512, 4, 4)


def test_blur_pool_adds_no_parameters_and_no_weights_to_save():
    plain, blurred = _bare(xresnet18, 10), _bare(xresnet18, 10, blur_pool=True)

    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in blurred.parameters())
    assert not any("kernel" in name for name in blurred.state_dict())


def test_blur_pool_agrees_on_odd_maps_too():
    model = xresnet18(5, blur_pool=True).eval()

    assert model(torch.randn(1, 3, 39, 57)).shape == (1, 5)


@pytest.mark.parametrize(("name", "kind"), [("relu", nn.ReLU), ("mish", nn.Mish), ("silu", nn.SiLU), ("gelu", nn.GELU)])
def test_the_activation_is_used_everywhere(name, kind):
    model = _bare(xresnet18, 10, activation=name)

    assert _has(model, kind)
    assert _has(model, nn.ReLU) == (kind is nn.ReLU)


@pytest.mark.parametrize("arch", ["xresnet18", "lesson_cnn"])
def test_a_concatenating_pool_doubles_the_heads_input(arch):
    model = _bare(create_model, arch, num_classes=10, concat_pool=True)

    assert _has(model, AdaptiveConcatPool2d)
    assert list(model)[-1].in_features == 1024
    assert _maps(model, 64) == (1, 10)


# -- the lessons' plain network ---------------------------------------------------------------------------------------


def test_the_lessons_network_halves_the_map_at_every_width():
    """X19: five convolutions of stride 2, the first one 5x5."""
    model = _bare(LessonCNN, 10)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]

    assert [c.out_channels for c in convolutions] == [32, 64, 128, 256, 512]
    assert [c.kernel_size[0] for c in convolutions] == [5, 3, 3, 3, 3]
    assert {c.stride for c in convolutions} == {(2, 2)}
    assert _maps(nn.Sequential(*list(model)[:5]), 128) == (1, 512, 4, 4)


def test_the_lessons_network_takes_small_gray_pictures():
    model = LessonCNN(4, channels=1, widths=(8, 16), stem_stride=1)

    assert model(torch.randn(3, 1, 9, 7)).shape == (3, 4)


def test_the_lessons_network_needs_a_width():
    with pytest.raises(ConfigError, match="at least one width"):
        LessonCNN(10, widths=())


# -- the recipes' options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "size", "stride"), [(None, 16, 1), (None, 48, 2), (1, 48, 1), (2, 16, 2)], ids=str)
def test_the_stem_is_as_asked_or_suits_the_size(tmp_path, asked, size, stride):
    data = DataOptions(data=str(save_colors(tmp_path, per_class=4)), size=size, valid_pct=0.3)
    model = ModelOptions(stem_stride=asked, blur_pool=True)
    train = TrainOptions(batch_size=4, precision="fp32")
    training = Training.of(Training(name="t", data=data, model=model, train=train).record())
    learner = training.learner(quiet=True)

    assert training.flags()["stem_stride"] == asked
    assert learner.model.config()["stem_stride"] == stride
    assert learner.summary().rows[0].shape[-1] == size // stride
    assert _has(learner.model, BlurPool2d)


def test_a_record_of_before_the_option_is_read():
    record = Training(name="t").record()
    del record["model"]["stem_stride"], record["train"]["progressive"]

    assert Training.of(record) == Training(name="t")


def test_a_stem_of_another_stride_is_refused_by_name():
    done = etude("train", "here", "--stem-stride", "3")

    assert done.code == 2
    assert "--stem-stride" in done.errors


# -- layers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel_size", "stride", "side"), [(1, 1, 9), (3, 1, 9), (5, 1, 9), (3, 2, 5), (5, 2, 5)])
def test_a_convolution_keeps_or_halves_the_size(kernel_size, stride, side):
    """X1, X2."""
    layer = conv_layer(3, 4, kernel_size, stride=stride)

    assert layer(torch.randn(2, 3, 9, 9)).shape == (2, 4, side, side)
    assert [type(part).__name__ for part in layer] == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert layer[0].bias is None


def test_a_linear_convolution_has_no_activation():
    assert [type(part).__name__ for part in conv_layer(3, 4, activation=None)] == ["Conv2d", "BatchNorm2d"]


@pytest.mark.parametrize("stride", [1, 2])
def test_blur_pool_equals_an_explicit_filter(stride):
    x, kernel = torch.randn(2, 3, 7, 6), torch.tensor([1.0, 2.0, 1.0]) / 4
    padded = F.pad(x, (1, 1, 1, 1), "reflect")
    explicit = sum(kernel[i] * kernel[j] * padded[..., i : i + 7, j : j + 6] for i in range(3) for j in range(3))

    torch.testing.assert_close(BlurPool2d(3, stride=stride)(x), explicit[..., ::stride, ::stride])


def test_blur_pool_leaves_an_even_surface_as_it_is_and_removes_a_chessboard():
    even = torch.full((1, 1, 8, 8), 3.0)
    chessboard = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).view(1, 1, 8, 8)

    torch.testing.assert_close(BlurPool2d(1)(even), even[..., ::2, ::2])
    torch.testing.assert_close(BlurPool2d(1)(chessboard), torch.zeros(1, 1, 4, 4))
