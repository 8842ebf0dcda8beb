"""Draw the pictures of docs/text.md and docs/ulmfit.md: `python docs/figures/text.py` writes them.

They are drawn by the library's own code, its tokens, windows, batches and masks, and from benchmarks/results.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from etude import text
from etude.plots import new_figure, save_figure
from etude.text.dealing import Buckets, Stream
from etude.text.dropout import VariationalDropout, WordEmbedding, dropout_mask
from etude.text.tokenizers import Words

IMAGES: Final = Path(__file__).resolve().parents[1] / "images"
RESULTS: Final = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
INK, SOFT, LINE, EMPTY = "#22303c", "#66727d", "#b9c4cd", "#f1f3f5"
COLORS: Final = ("#dce9f5", "#d8efdc", "#fdf0cf")
BLUE, RED = "#4c72b0", "#c44e52"
EXAMPLE: Final = """
In this notebook, we will go back over the example of classifying movie reviews we studied in part 1 and dig deeper \
under the surface.
First we will look at the processing steps necessary to convert text into numbers and how to customize it. By doing \
this, we'll have another example of the Processor used in the data block API.
Then we will study how we build a language model and train it.

"""
"""The notes' text (listing 114)."""
SHARES: Final = (0, .01, .05, .1, .2, .3, .4, .5, .6, .7, .8, .9, .95, .98, .99, .995, .999, .9999, 1)  # fmt: skip
TOKENS: Final = (14, 60, 90, 130, 167, 187, 213, 245, 290, 356, 456, 644, 841, 1096, 1246, 1363, 1609, 2408, 3484)
"""How long the 25,000 training reviews of IMDB are: this share of them has fewer tokens."""
WAYS: Final = {
    ("from the language model", BLUE): "from a language model, 13 epochs",
    ("from nothing, as many epochs", RED): "from nothing, 13 epochs",
    ("from nothing", SOFT): "from nothing, 4 epochs",
}
WORDS: Final = ("the", "film", "was", "not", "the", "worst", "film", "of", "the", "year")


def stream(path: Path) -> None:
    """The tokens of a text as the rows of a batch, and the windows in which they are read."""
    tokens = text.tokenize(EXAMPLE, Words())
    cut = Stream(num_texts=1, num_tokens=len(tokens), batch_size=6, bptt=5)
    edges = cut.edges(0)
    figure, axis = _plain(width=12.5, height=3.6)
    for row in range(cut.batch_size):
        for column in range(cut.stride):
            window = min(column // cut.bptt, len(edges) - 2)
            word = tokens[row * cut.stride + column].replace("\n", "\\n")
            _cell(axis, (column, -row), COLORS[window])
            axis.text(column + 0.5, 0.5 - row, word, ha="center", va="center", fontsize=7.5, color=INK)
        axis.text(-0.15, 0.5 - row, f"row {row}", ha="right", va="center", fontsize=9, color=SOFT)
    for window, (left, right) in enumerate(pairwise(edges)):
        axis.text((left + right) / 2, 1.25, f"batch {window}", ha="center", fontsize=10, color=INK, weight="bold")
    _outline(axis, (1, -5), (5, 6), "targets of batch 0: the tokens one place on")
    axis.set(xlim=(-1.1, cut.stride + 0.1), ylim=(-5.9, 1.8))
    save_figure(figure, path)


def padding(path: Path) -> None:
    """How much of a batch is padding, with texts as they come and with texts of like length."""
    lengths = torch.from_numpy(np.interp((np.arange(25_000) + 0.5) / 25_000, SHARES, TOKENS)).long()
    mixed = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0)).split(64)
    alike = Buckets(lengths=lengths, batch_size=64, shuffle=True).batches(0)
    figure, axes = new_figure(1, 2, width=10, height=3.6)
    for axis, batches, title in ((axes[0], mixed, "as they come"), (axes[1], alike, "of like length")):
        total = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
        share = 1 - float(lengths.sum()) / total
        for i, batch in enumerate(batches[:8]):
            places = [i * 70 + j for j in range(len(batch))]
            axis.barh(places, [int(lengths[batch].max())] * len(batch), height=1, color="#e3b7b8")
            axis.barh(places, lengths[batch].tolist(), height=1, color=BLUE)
        axis.set(title=f"{title}: {share:.0%} of an epoch is padding", xlabel="tokens", yticks=[], xlim=(0, 2000))
        axis.invert_yaxis()
        axis.grid(visible=False)
    axes[0].set_ylabel("8 batches of 64 texts")
    save_figure(figure, path)


def dropouts(path: Path) -> None:
    """What each of the dropouts sets to zero: their own masks."""
    torch.manual_seed(5)
    numbers = torch.tensor([[sorted(set(WORDS)).index(word) for word in WORDS]])
    words = WordEmbedding(len(set(WORDS)), 24, pad=0, dropout=0.3)
    torch.nn.init.ones_(words.weight)
    places = torch.ones(1, len(WORDS), 24)
    masks = {
        "ordinary dropout (not used):\nevery number for itself": dropout_mask(places, places.shape, 0.3)[0],
        "embed: a word,\nwherever it stands": words(numbers)[0].detach(),
        "input, hidden, output:\na feature, at every word": VariationalDropout(0.3)(places)[0],
        "weight: single weights,\nthe same for the whole chunk": dropout_mask(places, (20, 24), 0.3),
    }
    figure, axes = new_figure(1, 4, width=12.5, height=3.3)
    for axis, (title, mask) in zip(axes, masks.items(), strict=True):
        _mask(axis, mask)
        axis.set_title(title, fontsize=10, color=INK)
        axis.set_xlabel("features" if len(mask) == len(WORDS) else "from: hidden features", fontsize=9, color=SOFT)
    axes[0].set_yticks(range(len(WORDS)), WORDS, fontsize=9)
    axes[3].set_ylabel("to: gates", fontsize=9, color=SOFT)
    save_figure(figure, path)


def labels(path: Path) -> None:
    """Held-out reviews right over the labels that were learned from, as benchmarks/imdb.py measured it."""
    lines = [json.loads(line) for line in (RESULTS / "imdb.jsonl").read_text(encoding="utf-8").splitlines()]
    found: dict[str, dict[int, list[float]]] = {}
    for line in lines:
        found.setdefault(line["what"], {}).setdefault(line["labels"], []).append(100 * line["accuracy"])
    figure, axis = new_figure(1, 1, width=6.5, height=3.6)
    for (what, color), name in WAYS.items():
        by_labels, counts = found[what], sorted(found[what])
        axis.plot(counts, [mean(by_labels[count]) for count in counts], color=color, label=name)
        for count in counts:
            axis.scatter([count] * len(by_labels[count]), by_labels[count], color=color, s=16)
    axis.set(xscale="log", xlabel="labeled reviews", ylabel="held-out reviews right, %")
    axis.set_xticks(counts, [f"{count:,}" for count in counts])
    axis.minorticks_off()
    axis.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def _plain(*, width: float, height: float) -> tuple[Any, Any]:
    figure, axis = new_figure(1, 1, width=width, height=height)
    axis.set_axis_off()
    return figure, axis


def _cell(axis: Any, corner: tuple[float, float], color: str) -> None:
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle(corner, 1, 1, facecolor=color, edgecolor="white", linewidth=1.5))


def _outline(axis: Any, corner: tuple[float, float], size: tuple[float, float], words: str) -> None:
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor=RED, linewidth=1.6, linestyle=(0, (4, 2))))
    axis.text(corner[0], corner[1] - 0.25, words, color=RED, fontsize=9, va="top")


def _mask(axis: Any, mask: Tensor) -> None:
    from matplotlib.colors import ListedColormap

    axis.imshow(
        (mask > 0).numpy(), cmap=ListedColormap([EMPTY, BLUE]), vmin=0, vmax=1, aspect="auto", interpolation="none"
    )
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)


def main(folder: Path = IMAGES) -> None:
    """Write the pictures into a folder."""
    stream(folder / "text-stream.png")
    padding(folder / "text-padding.png")
    dropouts(folder / "text-dropouts.png")
    labels(folder / "text-labels.png")


if __name__ == "__main__":
    main()
