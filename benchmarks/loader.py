"""How fast pictures reach the model: images per second of CPU time, beside other libraries, and how exact they are.

From warm files or a warm store: a random resized crop to 128 pixels (area 0.35 to 1), mirrored half of the time, exact
normalization, to a channels-last tensor in the number format that the first convolution gets. One thread; the variants
take turns, and each figure is a median over rounds of images per second of the process's CPU time.

    python benchmarks/loader.py FOLDER                                  our variants, build times, exactness
    python benchmarks/loader.py FOLDER --peers 'COMMAND' fastai pil     other libraries as well

FOLDER holds CLASS/*.jpg. COMMAND NAME --root FOLDER must print a JSON line with img_per_cpu_s for the same work in the
library NAME.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from etude.data.build import open_or_build
from etude.data.files import find_images
from etude.data.store import RaggedStore
from etude.data.unstored import Unstored
from etude.vision import decode
from etude.vision.decode import PictureCodec
from etude.vision.pictures import PictureLoader
from etude.vision.preprocess import ImagePreprocess
from etude.vision.windows import RandomResizedCrop

SIZE = 128
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CPU = torch.device("cpu")


def loader(source: RaggedStore | Unstored, images: int | None = None) -> PictureLoader:
    """Shuffled training batches of 64, of all pictures or of some spread over the set."""
    rows = torch.arange(len(source))[:: max(len(source) // images, 1) if images else 1]
    return PictureLoader(
        source, rows, torch.zeros_like(rows), size=SIZE, windows=RandomResizedCrop(), batch_size=64, shuffle=True
    )


def rate(pictures: PictureLoader, epoch: int, dtype: torch.dtype | None) -> float:
    """Images per second of CPU time over one epoch; `dtype` None stops at uint8 pixels."""
    preprocess = ImagePreprocess(SIZE, MEAN, STD)
    start, count = time.process_time(), 0
    for batch in pictures.batches(epoch, CPU):
        assert isinstance(batch.inputs, torch.Tensor)
        if dtype is not None:
            preprocess(batch.inputs).to(dtype)
        count += batch.size
    return count / (time.process_time() - start)


def variants(stored: RaggedStore, files: Unstored) -> dict[str, Callable[[int], float]]:
    """What is timed, by name."""
    warm, anew = loader(stored), loader(files, 2000)
    return {
        "store, fp32": lambda epoch: rate(warm, epoch, torch.float32),
        "store, bf16": lambda epoch: rate(warm, epoch, torch.bfloat16),
        "store, uint8 pixels": lambda epoch: rate(warm, epoch, None),
        "no store, fp32": lambda epoch: rate(anew, epoch, torch.float32),
    }


def build_seconds(paths: list[Path], root: Path, *, simplejpeg: bool) -> dict[str, float]:
    """Wall and CPU seconds of decoding all files into a new store."""
    kept, home = decode._simplejpeg, os.environ.get("ETUDE_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ETUDE_HOME"] = folder
        if not simplejpeg:
            decode._simplejpeg = lambda: None
        wall, cpu = time.perf_counter(), time.process_time()
        open_or_build(paths, root, PictureCodec(2 * SIZE))
        seconds = {"wall": round(time.perf_counter() - wall, 2), "cpu": round(time.process_time() - cpu, 2)}
        decode._simplejpeg = kept
        os.environ.pop("ETUDE_HOME")
        if home is not None:
            os.environ["ETUDE_HOME"] = home
    return seconds


def exactness(stored: RaggedStore) -> dict[str, float]:
    """Differences to Pillow's crop and resize of the same windows, and of the normalization to float64, over 1,000."""
    rows = torch.arange(len(stored))[:: max(len(stored) // 1000, 1)]
    pictures = loader(stored)
    shapes = stored.shapes[rows]
    windows = pictures.windows(0, 0, rows, shapes[:, 0], shapes[:, 1])
    ours = pictures.pixels(rows, 0)
    normalized = ImagePreprocess(SIZE, MEAN, STD)(ours)
    exact = (ours.double() / 255 - torch.tensor(MEAN).double().view(3, 1, 1)) / torch.tensor(STD).double().view(3, 1, 1)
    worst, total = 0, 0.0
    for i, row in enumerate(rows.tolist()):
        top, left, height, width, mirror = (int(field[i]) for field in windows)
        picture = Image.fromarray(stored[row].numpy())
        box = (left, top, left + width, top + height)
        reference = np.asarray(picture.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)).astype(int)
        reference = reference[:, ::-1] if mirror else reference
        difference = np.abs(ours[i].permute(1, 2, 0).numpy().astype(int) - reference)
        worst, total = max(worst, int(difference.max())), total + float(difference.mean())
    return {
        "pictures": len(rows),
        "most of 255": worst,
        "mean of 255": round(total / len(rows), 4),
        "normalization": float((normalized.double() - exact).abs().max()),
    }


def peer_rate(command: str, name: str, root: Path) -> float:
    """What another library's script says of the same files."""
    done = subprocess.run([*shlex.split(command), name, "--root", str(root)], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"{command} {name} printed no JSON line:\n{done.stderr[-500:]}")
    return float(json.loads(lines[-1])["img_per_cpu_s"])


def summary(rates: dict[str, list[float]], base: list[str]) -> dict[str, dict[str, float]]:
    """The median of each variant, and the median over rounds of its ratio to each base."""
    return {
        name: {"images_per_cpu_second": round(statistics.median(values), 1)}
        | {
            f"over {other}": round(statistics.median(a / b for a, b in zip(values, rates[other], strict=True)), 2)
            for other in base
        }
        for name, values in rates.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", nargs="+", default=[], metavar=("COMMAND", "NAME"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    root = arguments.folder
    paths = find_images(root)
    builds = {
        "simplejpeg": build_seconds(paths, root, simplejpeg=True),
        "Pillow": build_seconds(paths, root, simplejpeg=False),
    }
    print(f"building the store of {len(paths)} pictures, seconds: {builds}", flush=True)
    torch.set_num_threads(1)
    stored, files = open_or_build(paths, root, PictureCodec(2 * SIZE)), Unstored(paths, root, PictureCodec(2 * SIZE))
    ours, peers = variants(stored, files), arguments.peers[1:]
    rates: dict[str, list[float]] = {name: [] for name in (*ours, *peers)}
    for i in range(arguments.rounds + 1):
        for name, run in ours.items():
            rates[name].append(run(i))
        for name in peers:
            rates[name].append(peer_rate(arguments.peers[0], name, root))
    # the first round fills caches
    table = summary({name: values[1:] for name, values in rates.items()}, list(peers))
    for name, row in table.items():
        print(f"{name:22} {row}", flush=True)
    checked = exactness(stored)
    print(f"against Pillow: {checked}")
    if arguments.out:
        machine = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
        result = {"folder": root.name, "rounds": arguments.rounds, "machine": machine, "builds": builds}
        arguments.out.write_text(json.dumps({**result, "table": table, "exactness": checked}, indent=2) + "\n")


if __name__ == "__main__":
    main()
