"""From a picture file to upright uint8 pixels (height, width, channel), and what becomes of odd pictures.

| the file | what is done |
|---|---|
| gray, palette, CMYK, transparent | converted to the asked channels; transparency is dropped |
| 16 bits per channel | converted: scaled to 8 bits, not cut off |
| turned by the camera (EXIF, XMP) | converted: turned upright |
| animated, or of several pages | first frame |
| named .jpg but something else | converted: read by what it is |
| larger than the stored size | reduced once, with an antialiasing filter (a matter of course, not noted) |
| truncated, empty, not a picture, unreadable, floating point, 32-bit, too many pixels | skipped |
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple, TypeAlias, final

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from etude.data.build import BadFile, Scan
from etude.errors import ConfigError
from etude.types import Json
from etude.vision.faults import MAX_PIXELS, TOO_LARGE, bad_files, is_ours, named, size_of

Pixels: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"

_FLOATING: Final = "holds floating-point pixels, which have no known range"
_INTEGERS: Final = "holds 32-bit pixels, which have no known range"
_SLACK: Final = 1.25
"""A picture is reduced only when its shorter side is this much above the stored size; less saves hardly anything."""
_VERSION: Final = 3
"""One more whenever the same file gives other pixels or another outcome: older stores are then made anew."""
_ORIENTATION: Final = 0x0112
_JPEG: Final = b"\xff\xd8\xff"
_START: Final = 1 << 16
"""Bytes of a JPEG that are read for its header; more only where its tags take more."""
_FORMATS: Final = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".avif": "AVIF",
}
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""


class _Header(NamedTuple):
    """What is known of a picture before its pixels are decoded."""

    height: int
    width: int
    """Upright, as stored in the file."""
    outcome: str
    reason: str


@final
class PictureCodec:
    """Reads pictures, reduced to a stored size.

    What is wrong with a file is a `BadFile`. Where the disk, the network or the memory fails, nothing is known of the
    file: that is a plain `DataError`.

    Args:
        stored: the shorter side, in pixels, to which larger pictures are reduced; None keeps every picture as it is.
        channels: 3 for color, 1 for gray.
    """

    def __init__(self, stored: int | None = None, channels: int = 3) -> None:
        if channels not in (1, 3):
            raise ConfigError(f"pictures have 1 or 3 channels, got {channels}")
        if stored is not None and stored < 1:
            raise ConfigError(f"the stored size must be at least 1 pixel, got {stored}")
        self.stored, self.channels = stored, channels

    def config(self) -> dict[str, Json]:
        """The constructor's arguments, and which version of this file decodes."""
        return {"stored": self.stored, "channels": self.channels, "version": _VERSION}

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Keeps from the user what Pillow warns of, corrupt metadata say; opened around the work in the calling thread.

        Python's filters of warnings belong to all threads, so the threads that decode must not each change them.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield

    def scan(self, path: Path) -> Scan:
        """The shape (height, width, channels) of the pixels, from the file's header alone; raises `BadFile`."""
        with named(path):
            header = self._jpeg_header(path) or self._header(path)
        return Scan((*self._reduced(header.height, header.width), self.channels), header.outcome, header.reason)

    def decode(self, path: Path, out: Pixels) -> None:
        """The pixels, into an array of the shape that `scan` told; raises `BadFile`."""
        with named(path), bad_files("cannot be read"):
            data = path.read_bytes()
        with named(path):
            if not self._decode_jpeg(data, out):
                self._decode_any(data, out)

    def read(self, item: Path | Image.Image) -> Pixels:
        """The pixels of one file or opened picture; raises `BadFile`."""
        if isinstance(item, Image.Image):
            with named(getattr(item, "filename", "") or "the picture"), bad_files("cannot be read as a picture"):
                if (data := _undecoded(item)) is None:
                    return self._convert(item)
                # as a file is read, and the opened picture stays as it is
                with Image.open(BytesIO(data)) as picture:
                    return self._convert(picture, self._drafted(picture))
        out = np.empty(self.scan(item).shape, np.uint8)
        self.decode(item, out)
        return out

    def _reduced(self, height: int, width: int) -> tuple[int, int]:
        """The stored size of a picture."""
        short = min(height, width)
        if self.stored is None or short <= _SLACK * self.stored:
            return height, width
        return max(round(height * self.stored / short), 1), max(round(width * self.stored / short), 1)

    # -- any picture, with Pillow ---------------------------------------------------------------------------------

    def _header(self, path: Path) -> _Header:
        with bad_files("cannot be read as a picture"):
            if size_of(path) == 0:
                raise BadFile("is empty")
            with Image.open(path) as picture:
                height, width = _upright_size(picture)
                if height * width > MAX_PIXELS:
                    raise BadFile(TOO_LARGE)
                return _Header(height, width, *_notable(picture, path.suffix, self.channels))

    def _decode_any(self, data: bytes, out: Pixels) -> None:
        with bad_files("cannot be decoded"), Image.open(BytesIO(data)) as picture:
            size = self._drafted(picture)
            if (*size, self.channels) != out.shape:
                raise BadFile(f"changed while it was read: it was {out.shape}, now {(*size, self.channels)}")
            out[...] = self._convert(picture, size)

    def _drafted(self, picture: Image.Image) -> tuple[int, int]:
        """The stored size of an opened picture that is not decoded yet, of which no more than needed will be."""
        height, width = whole = _upright_size(picture)
        size = self._reduced(height, width)
        if size != whole:
            # a JPEG can be decoded at an eighth, a quarter or a half, still larger than what is asked
            target = size[::-1] if picture.size == whole[::-1] else size
            picture.draft("RGB" if self.channels == 3 else "L", target)
        return size

    def _convert(self, picture: Image.Image, size: tuple[int, int] | None = None) -> Pixels:
        """Upright, with the asked channels, in 8 bits, reduced to (height, width)."""
        # Pillow turns a TIFF as it loads it, and takes the orientation out
        picture.load()
        if (turn := _TURNS.get(_orientation(picture))) is not None:
            picture = picture.transpose(turn)
        if picture.mode == "F":
            raise BadFile(_FLOATING)
        if picture.mode.startswith("I"):
            # Pillow's own conversion cuts 16 bits off at 255 instead of scaling them
            picture = Image.fromarray(from_16_bits(np.asarray(picture)))
        picture = picture.convert("RGB" if self.channels == 3 else "L")
        height, width = size if size is not None else self._reduced(picture.height, picture.width)
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=None)
        return np.array(picture).reshape(height, width, self.channels)

    # -- JPEGs that need no turning, with simplejpeg where it is installed ------------------------------------------

    def _jpeg_header(self, path: Path) -> _Header | None:
        """The header of a plain JPEG, in a tenth of the time; None leaves the file to Pillow."""
        simplejpeg = _simplejpeg()
        if simplejpeg is None or self.channels != 3 or path.suffix.lower() not in (".jpg", ".jpeg"):
            return None
        try:
            if size_of(path) == 0 or (head := _read_head(path)) is None or not _is_plain(head):
                return None
            height, width, color, _ = simplejpeg.decode_jpeg_header(head)
        except (OSError, ValueError) as error:
            if is_ours(error):
                raise
            # left to Pillow, which tells what is wrong with it
            return None
        if color not in ("YCbCr", "Gray") or height * width > MAX_PIXELS:
            return None
        gray = color == "Gray"
        return _Header(height, width, "converted" if gray else "", "gray" if gray else "")

    def _decode_jpeg(self, data: bytes, out: Pixels) -> bool:
        """Decode a plain JPEG that keeps its size straight into the store; False leaves it to Pillow."""
        simplejpeg = _simplejpeg()
        if simplejpeg is None or self.channels != 3 or (head := _head(data)) is None or not _is_plain(head):
            return False
        try:
            height, width, color, _ = simplejpeg.decode_jpeg_header(data)
            if (height, width, 3) != out.shape or color not in ("YCbCr", "Gray"):
                return False
            simplejpeg.decode_jpeg(data, "RGB", buffer=out.reshape(-1))
        except ValueError:
            # Pillow decides what is too damaged, with simplejpeg or without
            return False
        return True


def from_16_bits(pixels: np.ndarray[Any, np.dtype[Any]]) -> Pixels:
    """Pixels of 16 bits scaled to 8; raises `BadFile` where they need more."""
    if pixels.size and (pixels.min() < 0 or pixels.max() > 65535):
        raise BadFile(_INTEGERS)
    scaled: Pixels = (pixels.astype(np.float32) / 257).round().astype(np.uint8)
    return scaled


def _orientation(picture: Image.Image) -> int:
    """How the camera was held; 1, upright, when it does not say so in a way that can be read."""
    try:
        found = picture.getexif().get(_ORIENTATION, 1)
    except Exception as error:
        if is_ours(error):
            raise
        return 1
    return found if isinstance(found, int) and found in _TURNS else 1


def _upright_size(picture: Image.Image) -> tuple[int, int]:
    """Height and width of an opened picture once it is turned upright."""
    height, width = picture.height, picture.width
    if isinstance(picture, TiffImageFile):
        # some versions of Pillow tell the size of a TIFF before it is turned, some after
        height, width = picture.tag_v2[IMAGELENGTH], picture.tag_v2[IMAGEWIDTH]
    return (width, height) if _orientation(picture) >= 5 else (height, width)


def _notable(picture: Image.Image, suffix: str, channels: int) -> tuple[str, str]:
    """What will be done with a picture that is not a matter of course, and why."""
    if picture.mode == "F":
        raise BadFile(_FLOATING)
    reasons = []
    # cameras append a preview to a JPEG, and Pillow calls that MPO
    kind = "JPEG" if picture.format == "MPO" else picture.format
    if kind != (expected := _FORMATS.get(suffix.lower())) and expected is not None:
        reasons.append(f"{kind} named {suffix}")
    if _orientation(picture) != 1:
        reasons.append("turned by the camera")
    plain = ("RGB",) if channels == 3 else ("L",)
    if picture.mode not in plain:
        reasons.append(_MODES.get(picture.mode, f"mode {picture.mode}"))
    if picture.format != "MPO" and getattr(picture, "is_animated", False):
        return "first frame", ", ".join(["animated or of several pages", *reasons])
    return ("converted", ", ".join(reasons)) if reasons else ("", "")


_MODES: Final = {
    "1": "black and white",
    "L": "gray",
    "LA": "gray with transparency",
    "P": "palette",
    "PA": "palette with transparency",
    "RGBA": "with transparency",
    "RGB": "in color",
    "CMYK": "CMYK",
    "I": "16 bits",
    "I;16": "16 bits",
    "I;16B": "16 bits",
}


def _undecoded(picture: Image.Image) -> bytes | None:
    """The file of an opened JPEG that is as it was opened; None for any other picture."""
    if not isinstance(picture, JpegImageFile) or not picture.tile or picture.decoderconfig or picture.tell():
        return None
    if (file := picture.fp) is None:
        return None
    place = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(place)
    return data


def _read_head(path: Path) -> bytes | None:
    with path.open("rb") as file:
        data = file.read(_START)
        head = _head(data)
        return _head(data + file.read()) if head is None and len(data) == _START and data.startswith(_JPEG) else head


def _head(data: bytes) -> bytes | None:
    """A JPEG's segments before its pixels, which hold all tags that Pillow reads; None where they are not whole."""
    place = 2
    while data.startswith(_JPEG) and len(data) > place + 3 and data[place] == 0xFF and 0xC0 <= data[place + 1] < 0xFF:
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place + 1] == 0xDA:
            return data[:end] if end <= len(data) else None
        place = end
    return None


def _is_plain(head: bytes) -> bool:
    """Whether a JPEG's first segments have no tag that says how the camera was held."""
    if b"Exif\x00\x00" not in head and b"tiff:Orientation" not in head:
        return True
    try:
        with Image.open(BytesIO(head)) as picture:
            return _orientation(picture) == 1
    except Exception as error:
        if is_ours(error):
            raise
        # left to Pillow, which tells what is wrong with it
        return False


@cache
def _simplejpeg() -> ModuleType | None:
    """The faster JPEG decoder, where it is installed; it gives the same pixels."""
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:
        return None
