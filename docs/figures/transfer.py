"""Draw the pictures of docs/transfer-learning.md: `python docs/figures/transfer.py` writes them.

What is drawn was measured by benchmarks/transfer.py and by `etude pets-study`, and lies in benchmarks/results.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from etude.plots import new_figure, save_figure

IMAGES: Final = Path(__file__).resolve().parents[1] / "images"
RESULTS: Final = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
COLORS: Final = {"train": "#55a868", "affine": "#c44e52", "frozen": "#4c72b0"}
WORDS: Final = {
    "moved": "how far the statistics moved\nfrom the body's own, in deviations",
    "off": "how far they are from those\nof the new pictures, in deviations",
    "scale": "how far the scale moved,\nrelative to itself",
}


def statistics(path: Path) -> None:
    """One panel for each measure, a line for each policy over the norms of the body."""
    found: dict[str, Any] = json.loads((RESULTS / "transfer.json").read_text(encoding="utf-8"))
    figure, axes = new_figure(1, 3, width=11, height=3.6)
    for axis, (measure, words) in zip(axes, WORDS.items(), strict=True):
        for norm, one in found["policies"].items():
            values = [row[measure] for row in one["norms"]]
            axis.plot(range(1, len(values) + 1), values, "-o", color=COLORS[norm], markersize=3, label=norm)
        axis.set_title(words, fontsize=9)
        axis.set_xlabel("norm, from the first to the last")
        axis.set_ylim(bottom=0)
    axes[0].legend(frameon=False, fontsize=8, title="norm=")
    save_figure(figure, path)


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    statistics(IMAGES / "norm-statistics.png")


if __name__ == "__main__":
    main()
