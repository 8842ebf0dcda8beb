"""Draw the picture of docs/learning-rate.md with the project's own command: `python docs/figures/learning_rate.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from etude.cli import run_command

IMAGES: Final = Path(__file__).resolve().parents[1] / "images"


def main(folder: Path = IMAGES) -> None:
    """Write lr-find.png into a folder."""
    assert run_command(["lr-find", "demo", "--out", str(folder / "lr-find.png")]) == 0


if __name__ == "__main__":
    main()
