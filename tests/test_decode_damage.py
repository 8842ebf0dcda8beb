"""Pictures that cannot be read are refused with a reason; nothing else is raised, and nothing waits."""

from __future__ import annotations

import errno
import os
import random
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from drawing import COLOR, GRAY, NOISE, as_bytes, either, flipped, save
from etude import DataError
from etude.data.build import BadFile
from etude.vision.decode import PictureCodec
from etude.vision.faults import MAX_PIXELS
from etude.vision.preprocess import ImageReader

__all__ = ["either"]

# -- what cannot be read ----------------------------------------------------------------------------------------------


def _promising(width, height):
    """A PNG whose header promises that many pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


def _large_jpeg():
    """A JPEG whose header promises 65,000 x 65,000 pixels."""
    data = bytearray(as_bytes("JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", 65000, 65000)
    return bytes(data)


BAD = {
    "empty.jpg": (lambda path: path.write_bytes(b""), r"^is empty$"),
    "text.png": (lambda path: path.write_text("no picture"), r"^is not a picture in any known format$"),
    "page.jpg": (lambda path: path.write_text("<!DOCTYPE html><html>"), r"^is not a picture in any known format$"),
    "start.jpg": (lambda path: path.write_bytes(b"\xff\xd8\xff"), r"^is not a picture in any known format$"),
    "folder.jpg": (lambda path: path.mkdir(), r"^does not exist or is not a file$"),
    "missing.jpg": (lambda path: None, r"^does not exist or is not a file$"),
    "float.tif": (lambda path: save(path, GRAY.astype(np.float32)), r"^holds floating-point pixels"),
    "bomb.png": (lambda path: path.write_bytes(_promising(200_000, 200_000)), rf"^has more than {MAX_PIXELS:,} pixels"),
    "bomb.jpg": (lambda path: path.write_bytes(_large_jpeg()), rf"^has more than {MAX_PIXELS:,} pixels"),
}


@pytest.mark.timeout(20)
@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_refused_before_it_is_decoded(tmp_path, name):
    write, reason = BAD[name]
    write(tmp_path / name)

    with pytest.raises(BadFile, match=reason):
        PictureCodec().scan(tmp_path / name)


def test_the_limit_of_pixels_is_our_own(tmp_path, monkeypatch):
    """Also when a program has taken Pillow's away."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "1.png").write_bytes(_promising(200_000, 200_000))

    with pytest.raises(BadFile, match="has more than"):
        PictureCodec().scan(tmp_path / "1.png")


def test_a_large_picture_below_the_limit_is_no_warning(tmp_path):
    (tmp_path / "1.png").write_bytes(_promising(10_000, 12_000))
    codec = PictureCodec(100)
    with codec.quietly():
        assert codec.scan(tmp_path / "1.png").shape == (120, 100, 3)


@pytest.mark.timeout(20)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither such links nor pipes")
@pytest.mark.usefixtures("either")
def test_links_to_nowhere_and_pipes_are_refused_at_once(tmp_path):
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")

    for name in ("link.jpg", "pipe.jpg"):
        with pytest.raises(BadFile, match="does not exist or is not a file"):
            PictureCodec().read(tmp_path / name)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("name", ["1.png", "1.jpg"])
def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch, name):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    path = save(tmp_path / name, COLOR)
    path.chmod(0)
    if os.access(path, os.R_OK):
        # an administrator may read everything
        monkeypatch.setattr(Path, "open", refuse)
        monkeypatch.setattr(Path, "read_bytes", refuse)
        monkeypatch.setattr(Image, "open", refuse)

    with pytest.raises(BadFile, match="may not be read"):
        PictureCodec().scan(path)
    with pytest.raises(BadFile, match="may not be read"):
        PictureCodec().decode(path, np.empty(COLOR.shape, np.uint8))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "webp", "tiff", "bmp"])
def test_a_picture_that_ends_too_early_is_refused(tmp_path, kind, share):
    data = as_bytes(kind, NOISE)
    (tmp_path / f"1.{kind}").write_bytes(data[: int(share * len(data))])

    with pytest.raises(BadFile, match=r"cannot be (decoded|read as a picture): .|is not a picture"):
        PictureCodec().read(tmp_path / f"1.{kind}")


def test_a_picture_that_became_another_one_is_refused(tmp_path):
    """Not squeezed into the room that the first one had."""
    codec, path = PictureCodec(16), save(tmp_path / "1.png", np.zeros((160, 160), np.uint8))
    out = np.empty(codec.scan(path).shape, np.uint8)
    save(path, np.zeros((160, 320), np.uint8))

    with pytest.raises(BadFile, match=r"changed while it was read: it was \(16, 16, 3\), now \(16, 32, 3\)"):
        codec.decode(path, out)


# -- damaged pictures -------------------------------------------------------------------------------------------------


def _small(kind):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    exif[0x8769] = {0x9003: "2020:01:01 00:00:00"}
    return as_bytes(kind, **({"exif": exif} if kind in ("jpeg", "webp", "png") else {}))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "webp", "tiff", "bmp", "ppm"])
def test_a_damaged_picture_is_read_or_refused_and_nothing_else(tmp_path, kind):
    """No other exception, and none of the warnings that Pillow has for damaged tags: they are errors in tests."""
    whole, path, rng = _small(kind), tmp_path / f"1.{kind}", random.Random(kind)
    codec, reasons = PictureCodec(12), set()
    for _ in range(150):
        path.write_bytes(flipped(whole, rng))
        try:
            with codec.quietly():
                codec.read(path)
        except BadFile as bad:
            reasons.add(str(bad))

    assert reasons
    assert not [reason for reason in reasons if reason.rstrip().endswith(":")], "what went wrong is told"


def test_broken_tags_do_not_spoil_a_picture(tmp_path):
    data = as_bytes("JPEG", quality=100, subsampling=0, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12")
    (tmp_path / "1.jpg").write_bytes(data)
    (tmp_path / "2.jpg").write_bytes(data.replace(b"MM\0*", b"what"))

    for name in ("1.jpg", "2.jpg"):
        codec = PictureCodec()
        with codec.quietly():
            assert np.abs(codec.read(tmp_path / name).astype(int) - COLOR).max() <= 4


def test_pillows_warnings_are_kept_from_the_user_and_the_filters_put_back(tmp_path):
    """They are errors in tests: a picture that warned would not be read."""
    paths = [tmp_path / f"{i}.png" for i in range(24)]
    for path in paths:
        path.write_bytes(_promising(10_000, 12_000))
    before, codec = list(warnings.filters), PictureCodec(100)
    with codec.quietly(), ThreadPoolExecutor(8) as pool:
        shapes = {scan.shape for scan in pool.map(codec.scan, paths)}

    assert shapes == {(120, 100, 3)}
    assert warnings.filters == before
    with pytest.warns(Image.DecompressionBombWarning), Image.open(paths[0]):
        pass


# -- what is not the file's fault -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("stage", ["open", "stat", "read_bytes"])
@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), OSError(errno.EMFILE, "Too many"), MemoryError()]
)
@pytest.mark.parametrize("name", ["1.png", "1.jpg"])
def test_a_failing_disk_is_no_bad_file(tmp_path, monkeypatch, name, stage, error):
    """The picture would be left out of the store for ever."""

    def fail(*args, **options):
        raise error

    path = save(tmp_path / name, COLOR)
    said = (
        "there is not enough memory"
        if isinstance(error, MemoryError)
        else f"the disk or network answered '{error.strerror}'"
    )
    with monkeypatch.context() as patch:
        patch.setattr(Path, stage, fail)
        if stage == "open":
            patch.setattr(Image, "open", fail)
        with pytest.raises(DataError, match=rf"{name}: {said}.*; nothing was kept, try again$") as caught:
            PictureCodec().read(path)

    assert type(caught.value) is DataError


def test_a_disk_that_fails_while_tags_are_read_is_no_bad_file(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.ESTALE, "Stale file handle")

    path = save(tmp_path / "1.tif", COLOR)
    monkeypatch.setattr(Image.Image, "getexif", fail)
    with pytest.raises(DataError, match="Stale file handle"):
        PictureCodec().read(path)


# -- one picture for a model ------------------------------------------------------------------------------------------


def test_a_reader_takes_arrays_and_opened_pictures(tmp_path):
    reader = ImageReader(16)
    square = COLOR[:, :16]
    expected = square.transpose(2, 0, 1)

    assert np.array_equal(reader(square), expected)
    assert np.array_equal(reader(Image.fromarray(square)), expected)
    assert np.array_equal(reader(str(save(tmp_path / "1.png", square))), expected)
    assert (reader(GRAY[:, :16]).numpy() == GRAY[:, :16]).all()


def test_what_a_reader_cannot_take_is_refused_by_name(tmp_path):
    reader = ImageReader(16)
    (tmp_path / "cut.png").write_bytes(as_bytes("PNG", NOISE)[:2000])

    with pytest.raises(DataError, match=r"cut\.png cannot be decoded: .*\. Repair it or take it out"):
        reader(tmp_path / "cut.png")
    with (
        Image.open(tmp_path / "cut.png") as opened,
        pytest.raises(DataError, match=r"cut\.png cannot be read as a picture: .*\. Repair it or take it out"),
    ):
        reader(opened)
    with pytest.raises(DataError, match="the picture holds floating-point pixels"):
        reader(Image.fromarray(GRAY.astype(np.float32)))
    for kind in (np.float32, np.float64, np.int32, np.int64, bool):
        for pixels in (GRAY, COLOR):
            with pytest.raises(DataError, match=rf"got an array of {np.dtype(kind)} \(16, 24.*; scale them first"):
                reader(pixels.astype(kind))
    with pytest.raises(DataError, match=r"expected pixels \(height, width\) .* got an array of uint8 \(2, 3, 4, 5\)"):
        reader(np.zeros((2, 3, 4, 5), np.uint8))
    for shape in ((16, 24, 3), (1, 16, 16), (16, 24), (2, 3, 16, 16)):
        with pytest.raises(DataError, match="with channels=3, got a tensor"):
            reader(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(DataError, match=r"got a tensor of torch\.float32; scale them first"):
        reader(torch.zeros(3, 16, 16))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", [{}, {"share": 0.7}, {"squash": True}, {"stored": 20}], ids=str)
def test_a_tensor_is_seen_as_an_array_is(channels, options):
    reader = ImageReader(16, channels, **options)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 50, channels), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)

    assert torch.equal(reader(tensor), reader(pixels if channels == 3 else pixels[..., 0]))
    assert torch.equal(reader(tensor), reader(pixels))
    ready = tensor[:, :16, :16]
    assert torch.equal(reader(ready), ready)


def test_an_array_of_16_bits_is_scaled():
    reader = ImageReader(16)
    for kind in ("<u2", ">u2"):
        assert torch.equal(reader(COLOR.astype(kind) * 257), reader(COLOR))
        assert torch.equal(reader(GRAY.astype(kind) * 257), reader(GRAY))


@pytest.mark.parametrize("orientation", [1, 6])
def test_an_opened_picture_is_seen_as_its_file_is(tmp_path, orientation):
    """It was reduced from all its pixels, and the file from an eighth of them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    large = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    path, reader = save(tmp_path / "1.jpg", large, exif=exif), ImageReader(16, stored=20)
    expected = reader(path)
    with Image.open(path) as opened:
        assert torch.equal(reader(opened), expected)
        assert opened.size == (400, 300), "it stays as it is"
        opened.load()
        assert (reader(opened).int() - expected.int()).abs().max() < 30
    with Image.open(path) as opened:
        opened.draft("RGB", (50, 50))
        assert reader(opened).shape == (3, 16, 16)
