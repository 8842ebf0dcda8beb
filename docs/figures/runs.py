"""Compare two ways to train: `python docs/figures/runs.py` writes docs/images/compare.png and prints what it shows.

It trains the demo with and without MixUp, some seeds each, and compares the two with `etude compare`.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Final

from etude.cli import run_command

IMAGES: Final = Path(__file__).resolve().parents[1] / "images"


def main(folder: Path = IMAGES, *, epochs: int = 4, seeds: int = 6) -> None:
    """Write compare.png into a folder."""
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        for name, mixup in (("plain", "0"), ("mixup", "0.2")):
            flags = ["--mixup", mixup, "--epochs", str(epochs), "--seeds", str(seeds)]
            assert run_command(["demo", *flags, "--run-dir", f"runs/{name}", "--quiet"]) == 0
        assert run_command(["runs"]) == 0
        assert run_command(["show", "plain"]) == 0
        assert run_command(["show", "plain/seed-42"]) == 0
        assert run_command(["compare", "plain", "mixup", "--out", str(folder / "compare.png")]) == 0


if __name__ == "__main__":
    main()
