"""Odd pictures: what becomes of each, why, and which pixels come out."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drawing import COLOR, DEEP, GRAY, OTHER, PALETTE, as_bytes, either, flipped, save, with_both
from etude import ConfigError
from etude.data.build import BadFile
from etude.vision import decode
from etude.vision.decode import PictureCodec

__all__ = ["either"]

# -- pictures that are read, though not as they are -------------------------------------------------------------------


def _colored(gray):
    """Three equal channels."""
    return np.repeat(gray[..., None], 3, 2)


def _odd(name, said="", pixels=COLOR, mode=None, *, expected=None, off=0, **options):
    """A file as it is saved, what is said of it ("outcome: reason"), and the pixels that come out, up to `off`."""
    if expected is None:
        expected = pixels if pixels.ndim == 3 else _colored(pixels)
    return pytest.param(name, said, pixels, mode, options, expected, off, id=name)


_FINE = {"quality": 100, "subsampling": 0, "off": 4}
_PALETTE = {"pixels": PALETTE, "expected": np.array(PALETTE.convert("RGB"))}
_BITS = {"pixels": GRAY > 99, "expected": _colored(np.uint8(255) * (GRAY > 99))}
_DEEP = {"pixels": DEEP, "expected": _colored((DEEP / 257).round())}
_STRIP = np.tile(COLOR[:1], (1, 125, 1))
ODD = [
    _odd("1.png"),
    _odd("1.bmp"),
    _odd("1.ppm"),
    _odd("1.webp", lossless=True),
    _odd("1.tif", compression="tiff_lzw"),
    _odd("1.jpg", **_FINE),
    _odd("1.JPEG", progressive=True, **_FINE),
    _odd("gray.png", "converted: gray", GRAY),
    _odd("gray.jpg", "converted: gray", GRAY, quality=100, off=4),
    _odd("gray.pgm", "converted: gray", GRAY),
    _odd("alpha.png", "converted: gray with transparency", GRAY, "LA"),
    _odd("1bit.png", "converted: black and white", **_BITS),
    _odd("1bit.tif", "converted: black and white", **_BITS),
    _odd("16.png", "converted: 16 bits", **_DEEP),
    _odd("16.tif", "converted: 16 bits", **_DEEP),
    _odd("big.tif", "converted: 16 bits", **{**_DEEP, "pixels": DEEP.astype(">u2")}),
    _odd("palette.png", "converted: palette", **_PALETTE),
    _odd("palette.gif", "converted: palette", **_PALETTE),
    _odd("one.png", "converted: palette", transparency=2, **_PALETTE),
    _odd("each.png", "converted: palette", transparency=b"\0\7", **_PALETTE),
    _odd("rgba.png", "converted: with transparency", np.dstack([COLOR, GRAY]), expected=COLOR),
    _odd("cmyk.jpg", "converted: CMYK", mode="CMYK", **_FINE),
    _odd("cmyk.tif", "converted: CMYK", mode="CMYK"),
    _odd("moves.gif", "first frame: animated or of several pages, palette", second=OTHER, **_PALETTE),
    _odd("moves.webp", "first frame: animated or of several pages", lossless=True, second=OTHER),
    _odd("moves.png", "first frame: animated or of several pages", second=OTHER),
    _odd("pages.tif", "first frame: animated or of several pages", second=OTHER),
    _odd("preview.jpg", format="MPO", second=OTHER, **_FINE),
    _odd("png.jpg", "converted: PNG named .jpg", format="PNG"),
    _odd("jpeg.png", "converted: JPEG named .png", format="JPEG", **_FINE),
    _odd("gif.jpg", "converted: GIF named .jpg, palette", format="GIF", **_PALETTE),
    _odd("dot.png", pixels=COLOR[:1, :1]),
    _odd("dot.jpg", pixels=COLOR[:1, :1], **_FINE),
    _odd("strip.png", pixels=_STRIP),
    _odd("strip.jpg", pixels=_STRIP, **_FINE),
]


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize(("name", "said", "pixels", "mode", "options", "expected", "off"), ODD)
def test_an_odd_picture_is_read_and_it_is_said_how(tmp_path, name, said, pixels, mode, options, expected, off):
    path = save(tmp_path / name, pixels, mode, **options)
    codec = PictureCodec()
    with codec.quietly():
        scan, read = codec.scan(path), codec.read(path)

    assert scan.shape == expected.shape
    assert f"{scan.outcome}: {scan.reason}" == (said or ": ")
    assert (read.dtype, read.shape) == (np.uint8, expected.shape)
    assert np.abs(read.astype(int) - expected).max() <= off


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("name", ["1.png", "1.jpg"])
def test_one_channel_can_be_asked_for(tmp_path, name):
    codec = PictureCodec(channels=1)
    path = save(tmp_path / name, COLOR)
    gray = np.array(Image.open(path).convert("L"))

    assert codec.scan(path) == ((16, 24, 1), "converted", "in color")
    assert np.abs(codec.read(path)[..., 0].astype(int) - gray).max() <= (1 if name == "1.jpg" else 0)
    assert codec.scan(save(tmp_path / f"gray{name}", GRAY)).outcome == ""


UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}


def _turned(path, orientation, pixels=COLOR, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    tags = {"tiffinfo": {0x0112: orientation}} if path.suffix == ".tif" else {"exif": exif}
    return save(path, pixels, **tags, **options)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("name", ["1.png", "1.jpg", "1.tif", "1.webp"])
def test_a_picture_that_the_camera_turned_is_read_upright(tmp_path, name, orientation):
    options = {"lossless": True} if name == "1.webp" else {"quality": 100, "subsampling": 0} if name == "1.jpg" else {}
    path = _turned(tmp_path / name, orientation, **options)
    codec, expected = PictureCodec(), UPRIGHT[orientation](COLOR)
    read = codec.read(path)

    assert read.shape == expected.shape
    assert np.abs(read.astype(int) - expected).max() <= (4 if name == "1.jpg" else 0)
    assert codec.scan(path)[1:] == (("", "") if orientation == 1 else ("converted", "turned by the camera"))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_means_nothing_is_passed_over(tmp_path, orientation):
    path = _turned(tmp_path / "1.png", orientation)

    assert np.array_equal(PictureCodec().read(path), COLOR)
    assert PictureCodec().scan(path).outcome == ""


# -- reduced once -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("name", ["1.png", "1.jpg"])
def test_a_large_picture_is_reduced_by_averaging_not_by_leaving_out(tmp_path, name):
    board = (np.indices((128, 192)).sum(0) % 2 * 255).astype(np.uint8)
    read = PictureCodec(16).read(save(tmp_path / name, board))

    assert read.shape == (16, 24, 3)
    assert np.abs(read.astype(int) - 127.5).max() < 12


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("name", ["1.png", "1.jpg", "1.tif"])
def test_the_shorter_side_is_what_is_reduced(tmp_path, name, orientation):
    large = np.kron(COLOR, np.ones((8, 8, 1))).astype(np.uint8)
    read = PictureCodec(16).read(_turned(tmp_path / name, orientation, large))
    expected = UPRIGHT[orientation](COLOR)

    assert read.shape == expected.shape
    # inside the blocks; at their edges colors run into each other
    assert np.abs(read.astype(int) - expected)[3::8, 3::8].max() <= (0 if name != "1.jpg" else 8)


def test_hardly_larger_and_smaller_pictures_are_stored_as_they_are(tmp_path):
    codec = PictureCodec(16)

    assert np.array_equal(codec.read(save(tmp_path / "1.png", COLOR)), COLOR)
    assert codec.scan(save(tmp_path / "2.png", np.zeros((20, 40), np.uint8))).shape == (20, 40, 3)
    assert codec.scan(save(tmp_path / "3.png", np.zeros((21, 42), np.uint8))).shape == (16, 32, 3)
    assert codec.scan(save(tmp_path / "4.png", np.zeros((1, 3000), np.uint8))).shape == (1, 3000, 3)
    assert codec.scan(save(tmp_path / "5.png", np.zeros((3000, 21), np.uint8))).shape == (2286, 16, 3)


# -- with and without simplejpeg --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [None, 24, 100])
@pytest.mark.parametrize(
    "options",
    [{"subsampling": i, "quality": quality} for i in (0, 1, 2) for quality in (30, 95)]
    + [{"progressive": True}, {"gray": True}, {"exif": 1}, {"exif": 6}, {"mode": "CMYK"}, {"restart_marker_rows": 1}]
    + [{"xmp": orientation, "far": far} for orientation in (1, 6) for far in (False, True)],
    ids=str,
)
def test_the_pixels_are_the_same_with_and_without_simplejpeg(tmp_path, monkeypatch, options, stored):
    pytest.importorskip("simplejpeg")
    pixels = np.random.default_rng(0).integers(0, 256, (51, 77, 3), dtype=np.uint8)
    options = dict(options)
    if options.pop("gray", False):
        pixels = pixels[..., 0]
    if "exif" in options:
        exif = Image.Exif()
        exif[0x0112] = options.pop("exif")
        options["exif"] = exif
    if "xmp" in options:
        options["xmp"] = b'<x tiff:Orientation="%d"/>' % options["xmp"]
        # Pillow writes XMP first: what is before it is a segment of the comment's own
        far = _COMMENT if options.pop("far") else b""
        data = as_bytes("JPEG", pixels, **options)
        (tmp_path / "1.jpg").write_bytes(data[:2] + far + data[2:])
        fast, slow = with_both(tmp_path / "1.jpg", monkeypatch, stored)
        turned = "converted" if b"6" in options["xmp"] else ""
        assert (fast[1], fast[0][0] > fast[0][1]) == (turned, bool(turned))
        assert fast == slow
        return
    fast, slow = with_both(save(tmp_path / "1.jpg", pixels, **options), monkeypatch, stored)

    assert isinstance(fast, tuple)
    assert fast == slow


def test_a_damaged_jpeg_is_the_same_with_and_without_simplejpeg(tmp_path, monkeypatch):
    """Not skipped by one and read by the other: which decoder is installed must not change the data."""
    pytest.importorskip("simplejpeg")
    whole, path = as_bytes("JPEG", np.tile(COLOR, (3, 3, 1))), tmp_path / "1.jpg"
    rng, kinds = random.Random(0), set()
    for _ in range(150):
        path.write_bytes(flipped(whole, rng))
        with monkeypatch.context() as patch:
            fast, slow = with_both(path, patch)
        assert fast == slow
        kinds.add(type(fast))

    assert kinds == {tuple, str}


_COMMENT = b"\xff\xfe\xff\xff" + b"c" * 65533
"""A JPEG's segment of the largest size: what follows it is beyond the first 64 KiB."""


@pytest.mark.usefixtures("either")
def test_a_scan_reads_no_more_than_a_header_of_a_jpeg(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    near, read, header = save(tmp_path / "1.jpg", noise, quality=95), [], decode._read_head
    assert near.stat().st_size > 3 << 16
    data = near.read_bytes()
    (tmp_path / "far.jpg").write_bytes(data[:2] + _COMMENT + data[2:])
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("the whole file is read"))
    monkeypatch.setattr(decode, "_read_head", lambda path: read.append(header(path)) or read[-1])

    assert PictureCodec().scan(near) == PictureCodec().scan(tmp_path / "far.jpg") == ((400, 600, 3), "", "")
    assert [len(head) < 1000 for head in read] in ([], [True, False])


@pytest.mark.parametrize("values", [(0, 65536), (-1, 5)], ids=str)
def test_pixels_of_32_bits_have_no_known_range(tmp_path, values):
    """They were cut to black and white."""
    deep = np.array([[*values, 300]], np.int32)

    with pytest.raises(BadFile, match=r"^holds 32-bit pixels, which have no known range$"):
        PictureCodec().read(save(tmp_path / "1.tif", deep))
    fits = save(tmp_path / "2.tif", deep.clip(0, 65535))
    assert PictureCodec().read(fits)[0, :, 0].tolist() == (deep[0].clip(0, 65535) / 257).round().tolist()


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="1 or 3 channels, got 4"):
        PictureCodec(channels=4)
    with pytest.raises(ConfigError, match="at least 1 pixel, got 0"):
        PictureCodec(0)
