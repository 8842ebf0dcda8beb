"""A run to export, odd pictures to read, and a Python that has no etude."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import etude
from etude import cli, vision
from etude.recipes.demo import digits

OPTIONS = "--size 32 --stored-size 40 --epochs 1 --batch-size 12 --activation mish --ema 0.5"
WITHOUT_ETUDE = f"""
import importlib.util, json, sys
sys.path.append({sysconfig.get_path("purelib")!r})
assert importlib.util.find_spec("etude") is None
sys.path.insert(0, sys.argv[1])
from read_bundle import Bundle
bundle = Bundle(sys.argv[1])
print(json.dumps([bundle.check(), [bundle.predict(name) for name in sys.argv[2:]]]))
assert not [name for name in sys.modules if name.startswith("etude")]
"""
"""Run by a Python that sees packages, and none that is installed to be edited."""


def photos(place: Path) -> None:
    """Pictures of many sizes in folders of two classes, photos/CLASS/*.png."""
    rng = np.random.default_rng(0)
    for name in ("circle", "square"):
        (place / "photos" / name).mkdir(parents=True)
        for i in range(15):
            pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            size = (60 + 3 * i, 48 + i)
            Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(place / "photos" / name / f"{i}.png")


def train(place: Path, name: str, options: str) -> Path:
    """A run on them."""
    command = f"train {place / 'photos'} --valid-pct 0.4 {OPTIONS} {options} --run-dir {place / name} --quiet"
    assert cli.run_command(command.split()) == 0
    return place / name


def odd_pictures(folder: Path) -> list[Path]:
    """Files of every odd kind."""
    rng = np.random.default_rng(1)
    color = Image.fromarray(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)).resize((130, 90))
    gray, alpha = color.convert("L"), color.copy()
    alpha.putalpha(gray)
    wide = Image.fromarray(np.asarray(gray.resize((50, 70))).astype(np.uint16) * 257 + 3)
    made: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "plain.png": (color, {}),
        "plain.jpg": (color, {}),
        "gray.jpg": (gray, {}),
        "cmyk.jpg": (color.convert("CMYK"), {}),
        "palette.gif": (color.convert("P"), {}),
        "binary.png": (gray.convert("1"), {}),
        "alpha.png": (alpha, {}),
        "gray with alpha.png": (alpha.convert("LA"), {}),
        "16 bits.png": (wide, {}),
        "16 bits.tif": (wide, {}),
        "large.jpg": (color.resize((900, 700)), {"quality": 90}),
        "large gray.jpg": (gray.resize((701, 900)), {"quality": 90}),
        "wide.png": (color.resize((900, 33)), {}),
        "tall.jpg": (color.resize((41, 500)), {}),
        "tiny.png": (color.resize((5, 3)), {}),
        "exactly.png": (color.resize((50, 50)), {}),
        "jpeg named.png": (color, {"format": "JPEG"}),
        "webp.webp": (color, {}),
    }
    for turn in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        made[f"turned {turn}.jpg"] = (color.resize((300, 200)), {"exif": exif})
        made[f"turned {turn}.tif"] = (color.resize((70, 40)), {"exif": exif})
        made[f"turned {turn}.png"] = (color.resize((120, 200)), {"exif": exif})
    for name, (picture, options) in made.items():
        picture.save(folder / name, **options)
    return [folder / name for name in made]


def without_etude(bundle: Path, pictures: list[Path]) -> tuple[float, list[dict[str, float]]]:
    command = [sys.executable, "-I", "-S", "-B", "-c", WITHOUT_ETUDE, str(bundle), *map(str, pictures)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    difference, rows = json.loads(done.stdout)
    return difference, rows


def digits_learner() -> etude.Learner:
    return vision.learner("lesson_cnn", digits(), progress=False, widths=[4], device="cpu")
