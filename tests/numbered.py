"""Gray pictures with their brightness as a number."""

from __future__ import annotations

import numpy as np
from PIL import Image

from etude import vision


def save(folder, num=60, label=lambda mean: f"{mean:.4f}", valid=0.25):
    """Gray pictures of random brightness with it as their number."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    lines = ["name,label,is_valid"]
    for i in range(num):
        pixels = (generator.uniform(30, 220) + generator.normal(0, 20, (20, 24, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
        lines.append(f"{i:03}.png,{label(pixels.mean())},{int(i < valid * num)}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


def load(folder, **options):
    return vision.load(folder, size=16, batch_size=8, progress=False, **{"target": "number", **options})


def learner(data, **options):
    return vision.learner("lesson_cnn", data, **{"precision": "fp32", "progress": False, "widths": [8, 16], **options})
