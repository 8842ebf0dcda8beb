"""Draw the pictures of docs/transfer-learning.md: `python docs/figures/transfer.py` writes them.

What is drawn was measured by benchmarks/transfer.py and by `etude pets-study`, and lies in benchmarks/results.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from etude.plots import new_figure, save_figure
from etude.recipes.pets_picture import draw

IMAGES: Final = Path(__file__).resolve().parents[1] / "images"
RESULTS: Final = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
COLORS: Final = {"train": "#55a868", "affine": "#c44e52", "frozen": "#4c72b0"}
_EPOCHS, _SHARES = (
    (0, 10, 20, 22, 24, 28, 29, 33, 35, 37, 39),
    (26.2, 45.2, 64.6, 66.6, 72.6, 77, 78.8, 79.6, 80.4, 81, 79.6),
)
NOTES: Final = {epoch: share / 100 for epoch, share in zip(_EPOCHS, _SHARES, strict=True)}
"""Epoch, counted from 0, to the validation accuracy that the notes print."""
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


def body(path: Path) -> None:
    """The accuracy of the body's own training, beside that of the notes (SPEC 9.3)."""
    found: dict[str, Any] = json.loads((RESULTS / "imagewoof-body.json").read_text(encoding="utf-8"))
    figure, axis = new_figure(1, 1, width=6, height=3.4)
    ours = found["valid_accuracy"]
    axis.plot(range(1, len(ours) + 1), [100 * value for value in ours], color="#4c72b0")
    axis.plot(
        [epoch + 1 for epoch in NOTES], [100 * value for value in NOTES.values()], "o", color="#8c8c8c", markersize=4
    )
    axis.annotate("here: half of the pictures, 64 pixels", (25, 52), color="#4c72b0", fontsize=8)
    axis.annotate("the notes: 12,454 pictures, 128 pixels", (3, 74), color="#6c6c6c", fontsize=8)
    axis.set(xlabel="epoch", ylabel="validation accuracy, %")
    save_figure(figure, path)


def study(path: Path) -> None:
    """What `etude pets-study` draws, from the accuracies that it kept."""
    found: dict[str, Any] = json.loads((RESULTS / "pets-study.json").read_text(encoding="utf-8"))
    draw(found["curves"], found["frozen"], path)


def main(folder: Path = IMAGES) -> None:
    """Write the pictures into a folder."""
    statistics(folder / "norm-statistics.png")
    body(folder / "imagewoof-body.png")
    study(folder / "pets-study.png")


if __name__ == "__main__":
    main()
