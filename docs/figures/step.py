"""Draw one training step: `python docs/figures/step.py` writes docs/images/step.png.

The batch goes down the left column, the gradients come up the right one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

from etude.plots import new_figure, save_figure

IMAGES: Final = Path(__file__).resolve().parents[1] / "images"

INK, SOFT, PAPER, SHEET, LINE = "#22303c", "#66727d", "#ffffff", "#f6f8fa", "#b9c4cd"
FLOW, CHANGE, WATCH = "#dce9f5", "#d8efdc", "#fdf0cf"
EDGE: Final = {FLOW: "#5b8db8", CHANGE: "#4f9a5f", WATCH: "#c79a2b"}
LEFT, RIGHT, WIDTH, HEIGHT = 2.35, 6.55, 3.0, 0.88
"""Middle of the two columns, width and height of a box, in inches."""
TOP, ROW = 7.35, 1.23
"""Middle of the first row, and the distance between rows."""


class Box(NamedTuple):
    """One stage of the step: what it is called, what it does, and the file to read."""

    column: float
    row: float
    title: str
    what: str
    file: str
    color: str = FLOW


WATCHERS: Final = -1.42
"""The row of the watchers, above the first one."""

BOXES: Final = (
    Box(LEFT, 0, "raw batch", "uint8 pixels, targets, indices", "data/loaders.py"),
    Box(LEFT, 1, "augment", "random, keyed by seed, epoch, sample", "vision/augment.py"),
    Box(LEFT, 2, "transform_batch", "each callback: batch in, batch out", "training/callbacks/mixup.py", CHANGE),
    Box(LEFT, 3, "preprocess", "middle window, scale, normalize", "vision/data.py"),
    Box(LEFT, 4, "model", "in fewer bits, if asked for", "training/precision.py"),
    Box(LEFT, 5, "loss", "always in float32", "losses.py"),
    Box(RIGHT, 5, "backward", "gradients of a window add up, in float32", "training/loop.py"),
    Box(RIGHT, 3, "transform_grads", "each callback: gradients in place", "training/callbacks/clip.py", CHANGE),
    Box(RIGHT, 2, "finite guard", "anything infinite or NaN: no update", "training/finite.py"),
    Box(RIGHT, 1, "optimizer", "new weights, gradients cleared", "optim.py, or torch.optim"),
    Box(RIGHT, 0, "StepOutput", "loss, preds, batch, updated", "types.py"),
    Box(LEFT, WATCHERS, "before_step", "once per window: Scheduler", "training/callbacks/scheduler.py", WATCH),
    Box(RIGHT, WATCHERS, "after_step", "once per batch: Record, ShowProgress", "training/callbacks/record.py", WATCH),
)

VERBS: Final = (
    # name, side (-1 left, 1 right), first and last row
    ("learner.transform", -1, 1, 2),
    ("learner.forward", -1, 3, 5),
    ("learner.update", 1, 1, 3),
    ("learner.backward", 1, 5, 5),
)


def draw_step() -> Any:
    """The whole figure; one unit of its coordinates is one inch."""
    figure, axes = new_figure(1, 1, width=8.9, height=9.75)
    figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))
    axes.set(xlim=(0, 8.9), ylim=(0, 9.75))
    axes.set_axis_off()
    _frame(axes)
    for box in BOXES:
        _box(axes, box)
    _flow(axes)
    for verb in VERBS:
        _verb(axes, *verb)
    _legend(axes)
    return figure


def _y(row: float) -> float:
    return TOP - ROW * row


def _rectangle(axes: Any, center: tuple[float, float], size: tuple[float, float], face: str, edge: str) -> Any:
    from matplotlib.patches import FancyBboxPatch

    corner = (center[0] - size[0] / 2, center[1] - size[1] / 2)
    shape = FancyBboxPatch(corner, *size, boxstyle="round,pad=0,rounding_size=0.11")
    shape.set(facecolor=face, edgecolor=edge, linewidth=1.3, zorder=2)
    return axes.add_patch(shape)


def _frame(axes: Any) -> None:
    """The sheet behind everything that happens inside the step function, with its signature on the edge."""
    bottom, top = _y(5) - 0.72, _y(0) + 0.84
    _rectangle(axes, (4.45, (bottom + top) / 2), (8.6, top - bottom), SHEET, LINE).set(zorder=0)
    axes.text(
        4.45, top, "supervised_step(learner, batch) -> StepOutput", fontsize=11, fontweight="bold", color=INK,
        family="monospace", ha="center", va="center", zorder=5,
        bbox={"facecolor": PAPER, "edgecolor": LINE, "boxstyle": "round,pad=0.45"},
    )  # fmt: skip
    axes.text(0.85, bottom + 0.1, "training/step.py", fontsize=9.5, color=SOFT, family="monospace", ha="left")


def _box(axes: Any, box: Box) -> None:
    y = _y(box.row)
    _rectangle(axes, (box.column, y), (WIDTH, HEIGHT), box.color, EDGE[box.color])
    for dy, text, style in (
        (0.235, box.title, {"fontsize": 12.5, "fontweight": "bold", "color": INK}),
        (-0.03, box.what, {"fontsize": 10, "color": INK}),
        (-0.275, box.file, {"fontsize": 9.5, "color": SOFT, "family": "monospace"}),
    ):
        axes.text(box.column, y + dy, text, ha="center", va="center", zorder=3, **style)


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], color: str = INK, **style: Any) -> None:
    from matplotlib.patches import FancyArrowPatch

    given = {"arrowstyle": "-|>", "mutation_scale": 16, "linewidth": 1.7, "shrinkA": 0, "shrinkB": 0} | style
    axes.add_patch(FancyArrowPatch(start, end, color=color, zorder=2.5, **given))


def _flow(axes: Any) -> None:
    half, middle = HEIGHT / 2, (LEFT + RIGHT) / 2
    note = {"fontsize": 10, "color": SOFT, "style": "italic", "va": "center"}
    for row in range(5):
        _arrow(axes, (LEFT, _y(row) - half), (LEFT, _y(row + 1) + half))
    _arrow(axes, (LEFT + WIDTH / 2, _y(5)), (RIGHT - WIDTH / 2, _y(5)))
    for below, above in ((5, 3), (3, 2), (2, 1), (1, 0)):
        _arrow(axes, (RIGHT, _y(below) + half), (RIGHT, _y(above) - half))
    axes.text(middle, _y(5) + 0.28, "one number,\nscaled in fp16", ha="center", **note)
    axes.text(LEFT + 0.15, _y(4.5), "predictions", ha="left", **note)
    axes.text(RIGHT + 0.15, _y(4), "at the end of a window:\nfp16 is unscaled", ha="left", **note)
    # watchers stand outside and only look
    outside, inside = _y(WATCHERS) - half, _y(0) + half
    for x, start, end in ((LEFT - 0.7, outside, inside), (RIGHT + 0.7, inside, outside)):
        axes.plot([x, x], [start, end], color=EDGE[WATCH], linewidth=1.7, linestyle=":")
        _arrow(axes, (x, end + 0.02 * (start - end)), (x, end), EDGE[WATCH])
    # the optimizer's weights are the next forward pass's
    dashes = {"color": SOFT, "linewidth": 1.3, "linestyle": (0, (4, 3))}
    axes.plot([RIGHT - WIDTH / 2, middle, middle], [_y(1), _y(1), _y(4)], zorder=1, **dashes)
    _arrow(axes, (middle, _y(4)), (LEFT + WIDTH / 2, _y(4)), **dashes)
    axes.text(middle + 0.1, _y(3.8), "new\nweights", ha="left", **note)


def _verb(axes: Any, name: str, side: int, first: int, last: int) -> None:
    """One of the learner's four verbs, as a bracket beside the boxes that it covers."""
    edge = (LEFT if side < 0 else RIGHT) + side * (WIDTH / 2 + 0.12)
    high, low = _y(first) + HEIGHT / 2, _y(last) - HEIGHT / 2
    out = edge + 0.1 * side
    axes.plot([edge, out, out, edge], [high, high, low, low], color=INK, linewidth=1.4)
    axes.text(
        out + 0.2 * side, max((high + low) / 2, _y(5) + 0.25), name, fontsize=10.5,
        family="monospace", fontweight="bold", color=INK, rotation=90, ha="center", va="center",
    )  # fmt: skip


def _legend(axes: Any) -> None:
    for x, color, text in (
        (0.55, FLOW, "the step's own stages"),
        (3.05, CHANGE, "a callback transforms a value"),
        (6.2, WATCH, "a callback only watches"),
    ):
        _rectangle(axes, (x, 0.25), (0.26, 0.2), color, EDGE[color])
        axes.text(x + 0.24, 0.25, text, fontsize=10, color=INK, va="center")


def main(folder: Path = IMAGES) -> None:
    """Write step.png into a folder."""
    save_figure(draw_step(), folder / "step.png")
    print(f"wrote {folder / 'step.png'}")


if __name__ == "__main__":
    main()
