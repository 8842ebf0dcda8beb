"""Both kernels against Pillow and against torch's own function, and what the model sees of the pixels."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from etude.data.buffers import Recycler
from etude.vision import ImagePreprocess
from etude.vision import resample as module
from etude.vision.windows import RandomResizedCrop, Windows

LAW = settings(max_examples=40, deadline=None, derandomize=True)
SIZES = [(40, 64), (64, 40), (23, 23), (90, 31), (128, 128), (5, 7)]


def _smooth(height, width, channels, generator):
    """A picture as cameras take them: slow changes, an edge, a little noise."""
    coarse = torch.rand(1, channels, 4, 5, generator=generator) * 255
    picture = F.interpolate(coarse, (height, width), mode="bicubic")[0].permute(1, 2, 0)
    picture[height // 3 :, width // 2 :] = 255 - picture[height // 3 :, width // 2 :]
    picture = picture + 8 * torch.randn(height, width, channels, generator=generator)
    return picture.round().clamp(0, 255).to(torch.uint8)


def _pictures(channels=3, sizes=SIZES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [_smooth(height, width, channels, generator) for height, width in sizes]


def _windows(pictures, seed=0):
    """Random windows, the first two of them whole pictures, so that every border is touched."""
    shapes = torch.tensor([picture.shape for picture in pictures])
    windows = RandomResizedCrop(scale=(0.1, 1.0))(seed, 0, torch.arange(len(pictures)), shapes[:, 0], shapes[:, 1])
    for field, whole in zip(windows[:4], (0, 0, shapes[:2, 0], shapes[:2, 1]), strict=True):
        field[:2] = whole
    return windows


def _on_cpu(*arguments, most):
    return module._one_by_one(*arguments, most[2], Recycler())


def _on_gpu(*arguments, most):
    return module._by_products(*arguments, most)


KERNELS = pytest.mark.parametrize("kernel", [_on_cpu, _on_gpu], ids=["one by one", "products"])


def _resample(kernel, pictures, windows, size, gap=0, filling=0):
    """The windows of pictures that lie in one flat store, `gap` values apart."""
    shapes = torch.tensor([picture.shape for picture in pictures])
    starts = gap + torch.cat([torch.zeros(1, dtype=torch.long), (shapes.prod(1) + gap).cumsum(0)])
    values = torch.full((int(starts[-1]),), filling, dtype=torch.uint8)
    for start, picture in zip(starts.tolist(), pictures, strict=False):
        values[start : start + picture.numel()] = picture.flatten()
    return kernel(values, starts[:-1], shapes, windows, size, most=tuple(shapes.amax(0).tolist()))


def _cut(picture, windows, i):
    top, left, height, width, mirror = (field[i].item() for field in windows)
    return picture[top : top + height, left : left + width], mirror


def _by_pillow(pictures, windows, size):
    results = []
    for i, picture in enumerate(pictures):
        window, mirror = _cut(picture, windows, i)
        image = Image.fromarray(window.squeeze(2).numpy()).resize((size, size), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).view(size, size, -1).permute(2, 0, 1)
        results.append(pixels.flip(2) if mirror else pixels)
    return torch.stack(results)


def _difference(a, b):
    difference = (a.int() - b.int()).abs().float()
    return difference.max().item(), difference.mean().item()


# -- both kernels -----------------------------------------------------------------------------------------------------


@KERNELS
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [3, 16, 48, 200])
def test_windows_are_what_pillow_makes_of_them(kernel, size, channels):
    for seed in range(4):
        pictures = _pictures(channels, seed=seed)
        windows = _windows(pictures, seed)
        largest, mean = _difference(_resample(kernel, pictures, windows, size), _by_pillow(pictures, windows, size))

        assert largest <= 2
        assert mean < 0.1


@KERNELS
def test_windows_of_photographs_are_what_pillow_makes_of_them(kernel, data_folder):
    archive = data_folder / "imagenette2-mini-64.tgz"
    if not archive.is_file():
        pytest.skip(f"{archive.name} is not at hand")
    pictures = []
    with tarfile.open(archive) as tar:
        for member in (member for member in tar if member.name.lower().endswith((".jpeg", ".jpg"))):
            image = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
            pictures.append(torch.from_numpy(np.array(image)))
            if len(pictures) == 60:
                break
    for size in (32, 64, 96):
        windows = _windows(pictures, size)
        largest, mean = _difference(_resample(kernel, pictures, windows, size), _by_pillow(pictures, windows, size))

        assert largest <= 2
        assert mean < 0.1


@KERNELS
@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_is_read_beyond_a_picture(kernel, channels):
    pictures = [torch.zeros(height, width, channels, dtype=torch.uint8) for height, width in SIZES]
    windows = _windows(pictures)

    for size in (4, 33, 150):
        assert _resample(kernel, pictures, windows, size, gap=1000, filling=255).max() == 0


@KERNELS
def test_nothing_is_read_beyond_a_window(kernel):
    pictures = [torch.full((20, 30, 3), 255, dtype=torch.uint8) for _ in range(2)]
    windows = Windows(*(torch.tensor([value] * 2) for value in (5, 7, 9, 11)), torch.tensor([False, True]))
    for picture in pictures:
        picture[5:14, 7:18] = 0

    for size in (4, 10, 64):
        assert _resample(kernel, pictures, windows, size).max() == 0


@KERNELS
def test_a_batch_is_channels_last(kernel):
    pictures = _pictures()
    batch = _resample(kernel, pictures, _windows(pictures), 16)

    assert batch.dtype == torch.uint8
    assert batch.shape == (len(SIZES), 3, 16, 16)
    assert batch.stride() == (16 * 16 * 3, 1, 16 * 3, 3)


@KERNELS
def test_a_picture_does_not_depend_on_the_others_of_its_batch(kernel):
    pictures = _pictures()
    windows = _windows(pictures)
    together = _resample(kernel, pictures, windows, 20)

    for i, picture in enumerate(pictures):
        alone = _resample(kernel, [picture], Windows(*(field[i : i + 1] for field in windows)), 20)
        assert torch.equal(alone[0], together[i])


@KERNELS
def test_a_store_may_be_a_part_of_a_larger_tensor(kernel):
    picture = _pictures(sizes=[(9, 12)])[0]
    values = torch.cat([torch.full((100,), 255, dtype=torch.uint8), picture.flatten()])[100:]
    windows = Windows(*(torch.tensor([value]) for value in (0, 0, 9, 12)), torch.tensor([False]))
    batch = kernel(values, torch.tensor([0]), torch.tensor([[9, 12, 3]]), windows, 6, most=(9, 12, 3))

    assert torch.equal(batch, _resample(kernel, [picture], windows, 6))


def test_products_of_parts_of_a_batch_equal_those_of_the_whole(monkeypatch):
    pictures = _pictures(sizes=SIZES * 3)
    windows = _windows(pictures)
    whole = [picture.flatten() for picture in pictures]
    shapes = torch.tensor([picture.shape for picture in pictures])
    starts = shapes.prod(1).cumsum(0) - shapes.prod(1)
    expected = _resample(_on_gpu, pictures, windows, 24)
    monkeypatch.setattr(module, "_BYTES", 5 * 128 * 128 * 3 * module._BYTES_PER_VALUE)
    calls, products = [], module._by_products
    monkeypatch.setattr(module, "_by_products", lambda *a: calls.append(len(a[1])) or products(*a))
    parts = module._in_parts(torch.cat(whole), starts, shapes, windows, 24, (128, 128, 3))

    assert calls == [5, 5, 5, 3]
    assert torch.equal(parts, expected)


# -- the private operator behind torch's function ---------------------------------------------------------------------


def _by_torch(pictures, windows, size):
    results = []
    for i, picture in enumerate(pictures):
        window, mirror = _cut(picture, windows, i)
        window = window.permute(2, 0, 1).unsqueeze(0).contiguous(memory_format=torch.channels_last)
        result = F.interpolate(window, (size, size), mode="bilinear", antialias=True, align_corners=False)[0]
        results.append(result.flip(2) if mirror else result)
    return torch.stack(results)


@LAW
@given(
    seed=st.integers(0, 1000),
    size=st.integers(1, 100),
    channels=st.sampled_from([1, 3]),
    sizes=st.lists(st.tuples(st.integers(1, 80), st.integers(1, 80)), min_size=2, max_size=4),
)
def test_the_cpu_kernel_is_torchs_own_resampling_bit_for_bit(seed, size, channels, sizes):
    pictures = _pictures(channels, sizes, seed)
    windows = _windows(pictures, seed)

    assert torch.equal(_resample(_on_cpu, pictures, windows, size), _by_torch(pictures, windows, size))


@KERNELS
def test_the_number_of_threads_changes_no_pixel(kernel):
    pictures = _pictures(sizes=SIZES * 3)
    windows = _windows(pictures)
    alone = _resample(kernel, pictures, windows, 64)
    torch.set_num_threads(4)

    assert torch.equal(_resample(kernel, pictures, windows, 64), alone)


# -- what the model sees ----------------------------------------------------------------------------------------------

MEAN, STD = [0.47, 0.48, 0.45], [0.29, 0.28, 0.30]


def _explicit(pixels, size, mean, std):
    """(x / 255 - mean) / std of the middle window, in float64."""
    top, left = (pixels.shape[-2] - size) // 2, (pixels.shape[-1] - size) // 2
    x = pixels[..., top : top + size, left : left + size].double() / 255
    return (x - torch.tensor(mean).double().view(-1, 1, 1)) / torch.tensor(std).double().view(-1, 1, 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["rows", "channels last"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(8, 8), (11, 8), (9, 14)], ids=str)
def test_every_pixel_is_normalized_exactly(shape, channels, dtype, layout):
    pixels = torch.randint(256, (5, channels, *shape), dtype=torch.uint8).to(dtype).contiguous(memory_format=layout)
    before = pixels.clone()
    mean, std = MEAN[:channels], STD[:channels]
    seen = ImagePreprocess(8, mean, std)(pixels)

    torch.testing.assert_close(seen.double(), _explicit(pixels, 8, mean, std), atol=1e-5, rtol=0)
    assert seen.dtype == torch.float32
    assert seen.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels, before)


def test_gradients_flow_to_pixels_in_floating_point():
    pixels = (torch.rand(2, 3, 9, 9) * 255).requires_grad_()
    ImagePreprocess(8, MEAN, STD)(pixels).sum().backward()
    expected = torch.zeros(2, 3, 9, 9)
    expected[:, :, :8, :8] = 1 / (255 * torch.tensor(STD).view(3, 1, 1))

    torch.testing.assert_close(pixels.grad, expected)


def _graph(seen):
    """Something that holds the pixels in an autograd graph alone, and what its gradient must be."""
    weight = torch.ones_like(seen).requires_grad_()
    return (weight * seen).sum(), weight


@pytest.mark.parametrize("held", ["tensor", "view", "array", "graph"])
def test_what_somebody_holds_of_an_earlier_batch_stays_as_it_was(held):
    preprocess = ImagePreprocess(8, MEAN, STD)
    seen = preprocess(torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8))
    values = seen.clone()
    kept = {"tensor": lambda: seen, "view": lambda: seen[1:, 0], "array": seen.numpy, "graph": lambda: _graph(seen)}
    kept = kept[held]()
    del seen
    for _ in range(10):
        preprocess(torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8))

    if held == "graph":
        kept[0].backward()
        assert torch.equal(kept[1].grad, values)
    else:
        assert torch.equal(torch.as_tensor(kept), values[1:, 0] if held == "view" else values)


def test_memory_that_nobody_holds_is_taken_again():
    preprocess, pixels = ImagePreprocess(8, MEAN, STD), torch.zeros(4, 3, 8, 8, dtype=torch.uint8)

    assert len({preprocess(pixels).data_ptr() for _ in range(5)}) == 1


def test_no_pictures_give_an_empty_batch():
    assert ImagePreprocess(8, MEAN, STD)(torch.zeros(0, 3, 8, 8, dtype=torch.uint8)).shape == (0, 3, 8, 8)
