"""Grad-CAM: the analytic form, every kind of network, and a model that is left as it was."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

import etude
from etude import vision
from etude.data.loaders import DataLoaders
from etude.errors import ConfigError
from etude.layers import AdaptiveConcatPool2d
from etude.losses import LabelSmoothingCrossEntropy
from etude.vision.gradcam import GradCam, grad_cam
from etude.vision.interpret import heated, overlays
from etude.vision.preprocess import ImageReader


def learner_of(model: nn.Module, channels: int = 3, size: int = 32, **options) -> etude.Learner:
    """On random pixels, with the preprocessing of pictures."""
    torch.manual_seed(0)
    pixels = torch.randint(256, (16, channels, size, size), dtype=torch.uint8)
    data = vision.from_arrays((pixels, torch.arange(16) % 4), (pixels, torch.arange(16) % 4), vocab="abcd")
    loss_fn = LabelSmoothingCrossEntropy()
    learner = etude.Learner(model, data, loss_fn, torch.optim.SGD, device="cpu", progress=False, **options)
    # norms that do something, and residual branches that are not zero
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
    return learner


def pictures(learner: etude.Learner):
    return learner.data.valid.inputs[:5]


def maps_before(body: nn.Module, learner: etude.Learner):
    """The maps that the pool sees, in evaluation mode."""
    body.eval()
    with torch.no_grad():
        return body(learner.data.preprocess(pictures(learner)))


def plain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


AVERAGE = {
    "xresnet18": lambda: vision.xresnet18(4, stem_stride=1),
    "xresnet50": lambda: vision.xresnet50(4, stem_stride=1),
    "lesson_cnn": lambda: vision.LessonCNN(4, widths=[8, 16, 16], stem_stride=1),
    "own": plain,
}


@pytest.mark.parametrize("name", AVERAGE)
def test_average_pool_and_linear_layer_weigh_maps_by_the_class_row(name):
    model = AVERAGE[name]()
    learner = learner_of(model)
    cam = grad_cam(learner, pictures(learner))
    maps = maps_before(nn.Sequential(*list(model)[:-3]), learner)
    row = model[-1].weight[cam.classes].detach() / maps[0, 0].numel()
    expected = torch.einsum("bc,bchw->bhw", row, maps).relu()

    assert cam.classes.tolist() == learner.preds(etude.Batch(pictures(learner), None)).argmax(1).tolist()
    assert expected.max() > 0
    torch.testing.assert_close(cam.maps, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "build",
    [
        lambda: vision.xresnet18(4, stem_stride=1, concat_pool=True),
        lambda: vision.LessonCNN(4, widths=[8, 16], concat_pool=True),
    ],
    ids=["xresnet18", "lesson_cnn"],
)
def test_concat_pool_adds_the_row_of_the_maximum_at_its_own_pixel(build):
    """In the mean over pixels each channel's maximum counts once, whichever pixel it is."""
    model = build()
    learner = learner_of(model)
    cam = grad_cam(learner, pictures(learner), classes=[0, 1, 2, 3, 0])
    maps = maps_before(nn.Sequential(*list(model)[:-3]), learner)
    of_max, of_mean = model[-1].weight[cam.classes].detach().chunk(2, dim=1)
    expected = torch.einsum("bc,bchw->bhw", (of_max + of_mean) / maps[0, 0].numel(), maps).relu()

    torch.testing.assert_close(cam.maps, expected, rtol=1e-4, atol=1e-6)


def test_a_network_with_a_hidden_head_equals_plain_autograd():
    body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.SiLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))
    model = nn.Sequential(body, head)
    learner = learner_of(model)
    cam = grad_cam(learner, pictures(learner), classes=[1] * 5)
    maps = maps_before(body, learner).requires_grad_()
    (grads,) = torch.autograd.grad(head(maps)[:, 1].sum(), maps)
    expected = (grads.mean((2, 3), keepdim=True) * maps).sum(1).relu().detach()

    torch.testing.assert_close(cam.maps, expected)
    assert cam.layer == "0"


def test_the_map_is_taken_before_a_pool_that_ends_a_container():
    features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    model = nn.Sequential(features, nn.Flatten(), nn.Linear(6 * 16 * 16, 4))
    cam = grad_cam(learner := learner_of(model), pictures(learner))

    assert cam.layer == "0.1"
    assert cam.maps.shape == (5, 32, 32)


def test_a_named_layer_is_seen_before_what_works_in_place_on_it():
    model = plain()
    learner = learner_of(model)
    cam = grad_cam(learner, pictures(learner), layer="3")
    maps = maps_before(nn.Sequential(*model[:4]), learner).requires_grad_()
    (grads,) = torch.autograd.grad(model[7](maps.relu().mean((2, 3))).gather(1, cam.classes.unsqueeze(1)).sum(), maps)
    expected = (grads.mean((2, 3), keepdim=True) * maps).sum(1).relu().detach()

    torch.testing.assert_close(cam.maps, expected)


def state_of(model: nn.Module):
    return (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        [module.training for module in model.modules()],
        [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()],
        [len(module._forward_hooks) for module in model.modules()],
    )


@pytest.mark.parametrize("frozen", [False, True])
def test_the_model_is_left_as_it_was(frozen):
    model = vision.xresnet18(4, stem_stride=1)
    learner = learner_of(model)
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    model[3].eval()
    if frozen:
        model.requires_grad_(False)
    before = state_of(model)
    with torch.no_grad():
        cam = grad_cam(learner, pictures(learner))
    after = state_of(model)

    assert cam.maps.max() > 0
    assert (before[1], before[3]) == (after[1], after[3])
    for name, tensor in before[0].items():
        assert torch.equal(tensor, after[0][name]), name
    for (needs, grad), (needs_after, grad_after) in zip(before[2], after[2], strict=True):
        assert needs == needs_after
        assert torch.equal(grad, grad_after)


def test_it_is_left_as_it_was_after_an_error_too():
    model = plain()
    learner = learner_of(model)
    before = state_of(model)
    with pytest.raises(ConfigError, match="expected a class from 0 to 3 for each of 5 pictures"):
        grad_cam(learner, pictures(learner), classes=[0, 1, 2, 3, 4])

    assert state_of(model)[1:] == before[1:]


def test_a_frozen_body_under_a_trained_head_can_be_looked_at():
    model = vision.xresnet18(4, stem_stride=1, concat_pool=True)
    learner = learner_of(model)
    open_body = grad_cam(learner, pictures(learner))
    for parameter in model[:8].parameters():
        parameter.requires_grad_(False)

    assert torch.equal(grad_cam(learner, pictures(learner)).maps, open_body.maps)
    assert open_body.maps.max() > 0


@pytest.mark.parametrize("precision", ["bf16", "bf16-master"])
def test_half_precision_gives_nearly_the_same_map(precision):
    model = vision.LessonCNN(4, widths=[8, 16], stem_stride=1)
    full = grad_cam(learner := learner_of(model), pictures(learner), classes=[0] * 5)
    half = grad_cam(
        learner := learner_of(copy.deepcopy(model), precision=precision), pictures(learner), classes=[0] * 5
    )

    assert half.maps.dtype == torch.float32
    torch.testing.assert_close(half.maps, full.maps, rtol=0.1, atol=0.05 * float(full.maps.max()))


def test_the_map_points_at_what_makes_the_class():
    """Pictures whose class is the color of a spot: the map is largest there."""
    pixels = torch.full((64, 3, 32, 32), 128, dtype=torch.uint8)
    targets = torch.arange(64) % 2
    places = torch.randint(0, 3, (64, 2), generator=torch.Generator().manual_seed(1)) * 11
    for i, (y, x) in enumerate(places.tolist()):
        pixels[i, :, y : y + 10, x : x + 10] = torch.tensor([[255, 0, 0], [0, 0, 255]])[targets[i]].view(3, 1, 1)
    data = vision.from_arrays((pixels, targets), (pixels, targets), vocab="rb", batch_size=16)
    torch.manual_seed(0)
    model = vision.LessonCNN(2, widths=[16, 16], stem_stride=2)
    learner = etude.Learner(model, data, LabelSmoothingCrossEntropy(), torch.optim.AdamW, device="cpu", progress=False)
    learner.fit(8, lr=1e-2)
    cam = grad_cam(learner, pixels).enlarged(32)
    hottest = cam.flatten(1).argmax(1)
    y, x = hottest // 32 - places[:, 0], hottest % 32 - places[:, 1]
    inside = (y >= -2) & (y < 12) & (x >= -2) & (x < 12)

    assert learner.evaluate()["loss"] < 0.4
    assert inside.double().mean() > 0.9
    assert cam.amax((1, 2)).min() > 0.8


def test_no_map_is_an_error_that_says_so():
    data = DataLoaders(None)
    flat = etude.Learner(
        nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), data, nn.CrossEntropyLoss(), torch.optim.SGD, device="cpu"
    )
    with pytest.raises(ConfigError, match="Grad-CAM is for convolutional networks"):
        grad_cam(flat, torch.randn(2, 3, 2, 2))
    learner = learner_of(plain())
    with pytest.raises(ConfigError, match="has no module 'body'"):
        grad_cam(learner, pictures(learner), layer="body")
    with pytest.raises(ConfigError, match="7 gives no map"):
        grad_cam(learner, pictures(learner), layer="7")


def test_paths_are_read_as_validation_pictures_are_and_classes_have_names(tmp_path):
    learner = learner_of(vision.LessonCNN(4, widths=[8, 8], stem_stride=1))
    learner.data = replace(learner.data, read=ImageReader(32))
    pixels, paths = pictures(learner), [tmp_path / f"{i}.png" for i in range(5)]
    for path, one in zip(paths, pixels, strict=True):
        Image.fromarray(one.permute(1, 2, 0).numpy()).save(path)
    expected = grad_cam(learner, pixels, classes=[2, 2, 0, 1, 3])

    assert torch.equal(grad_cam(learner, paths, classes=["c", 2, "a", "b", "d"]).maps, expected.maps)
    # another batch size may be rounded otherwise
    torch.testing.assert_close(
        grad_cam(learner, str(paths[0]), classes="c").maps, expected.maps[:1], rtol=1e-5, atol=1e-8
    )
    assert grad_cam(learner, paths, classes="b").classes.tolist() == [1] * 5
    assert torch.equal(grad_cam(learner, paths).maps, grad_cam(learner, pixels).maps)
    with pytest.raises(ConfigError, match=r"no class 'rose'; it has \['a', 'b', 'c', 'd'\]"):
        grad_cam(learner, paths, classes=["a", "rose", "b", "c", "d"])
    with pytest.raises(ConfigError, match="a class for each of 5 pictures"):
        grad_cam(learner, paths, classes=["a"])


@pytest.mark.usefixtures("without_type_checks")
def test_what_is_no_picture_is_refused():
    learner = learner_of(plain())
    for items in (3, [], [3], None, b"x.png", {"a.png"}):
        with pytest.raises(ConfigError, match="takes a picture's path, a list of paths, or a tensor"):
            grad_cam(learner, items)
    with pytest.raises(ConfigError, match=r"got a tensor \(3, 32, 32\)"):
        grad_cam(learner, pictures(learner)[0])
    learner.data = replace(learner.data, read=None)
    with pytest.raises(ConfigError, match="does not say how a picture is read"):
        grad_cam(learner, "x.png")
    for size in (0, -1, 2.5):
        with pytest.raises(ConfigError, match="a whole number of pixels of at least 1"):
            GradCam(torch.zeros(1, 2, 2), torch.tensor([0]), "0").enlarged(size)


def test_one_number_for_each_picture_is_followed_as_it_is():
    model = nn.Sequential(*list(plain())[:-1], nn.Linear(6, 1), nn.Flatten(0))
    learner = learner_of(model)
    maps = maps_before(nn.Sequential(*list(model)[:5]), learner)
    expected = torch.einsum("c,bchw->bhw", model[7].weight[0].detach() / maps[0, 0].numel(), maps).relu()

    torch.testing.assert_close(grad_cam(learner, pictures(learner)).maps, expected)


def test_an_empty_map_stays_empty_and_leaves_the_picture_gray():
    cam = GradCam(torch.zeros(1, 2, 2), torch.tensor([0]), "0")
    pixels = torch.randint(256, (1, 3, 8, 8), dtype=torch.uint8)
    shown = heated(pixels, cam.enlarged(8))

    assert torch.equal(cam.enlarged(8), torch.zeros(1, 8, 8))
    assert (shown.float() - pixels.float().mean(1, keepdim=True)).abs().max() <= 0.5 + 1e-3


def test_overlays_are_the_same_in_parts_and_at_once():
    learner = learner_of(vision.LessonCNN(4, widths=[8, 8], stem_stride=1), channels=3)
    pixels = torch.randint(256, (37, 3, 32, 32), dtype=torch.uint8)
    shown = overlays(learner, pixels, [i % 4 for i in range(37)])

    assert shown.shape == pixels.shape
    for i in (0, 20, 36):
        assert (shown[i].int() - overlays(learner, pixels[i : i + 1], [i % 4])[0].int()).abs().max() <= 1


def test_the_concat_pool_is_known_as_a_pool():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(AdaptiveConcatPool2d(), nn.Flatten(), nn.Linear(8, 4)))
    learner = learner_of(model)

    assert grad_cam(learner, pictures(learner)).layer == "0"
