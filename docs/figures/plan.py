"""Make the plan of docs/plan.md: `python docs/figures/plan.py` prints it and writes docs/images/plan.png."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from etude.cli import run_command

IMAGES: Final = Path(__file__).resolve().parents[1] / "images"
COMMAND: Final = "plan demo --epochs 20"


def main(folder: Path = IMAGES) -> None:
    """Write plan.png into a folder."""
    code = run_command([*COMMAND.split(), "--out", str(folder / "plan.png")])
    assert code == 0


if __name__ == "__main__":
    main()
