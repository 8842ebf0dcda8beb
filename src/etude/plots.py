"""Figures: matplotlib is imported when the first one is drawn, and never opens a window. Charts of text need none."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from etude.errors import ConfigError
from etude.output import file_to_write

_MORE_FONTS: Final = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "PingFang HK",
    "Hiragino Sans GB",
    "Hiragino Sans",
    "Heiti TC",
    "Arial Unicode MS",
    "Microsoft YaHei",
    "SimHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Apple SD Gothic Neo",
    "NanumGothic",
    "Droid Sans Fallback",
)
"""Where signs are looked for that matplotlib's own font lacks, Chinese ones above all; those that are installed."""


def new_figure(rows: int, columns: int, *, width: float, height: float) -> tuple[Any, Any]:
    """A figure outside pyplot's global state, with light axes; returns it and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns)
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    return figure, axes


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG, replacing the file in one step; a link stays one, and what it leads to is replaced.

    Raises:
        ConfigError: the name is not that of a PNG, its folder is missing, or something lies there that is no file.
        OSError: it cannot be written; it names the path that was given.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(f"a figure is written as a PNG, so the name of its file must end in .png, got {path}")
    place = file_to_write(path, "a figure's path")
    data = png_bytes(figure, transparent=False)
    temporary = place.with_name(place.name + ".part")
    try:
        temporary.write_bytes(data)
        temporary.replace(place)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def png_bytes(figure: Any, dpi: int = 110, *, transparent: bool = True) -> bytes:
    """A figure as a PNG: on no ground of its own, to be put on a page, unless said otherwise."""
    from matplotlib.text import Text

    more, file = _installed_fonts(), io.BytesIO()
    for text in figure.findobj(Text) if more else ():
        text.set_fontfamily([*text.get_fontfamily(), *more])
    with warnings.catch_warnings():
        # a box stands for a sign that no font has; the warning would name a line of ours
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, dpi=dpi, format="png", transparent=transparent)
    return file.getvalue()


def _installed_fonts() -> list[str]:
    """Families that are asked after the usual one; matplotlib keeps a list of what is installed."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return [name for name in _MORE_FONTS if name in installed]


@contextmanager
def ink(color: str) -> Iterator[None]:
    """Figures made inside the `with` block have letters, axes and grids of a color: a light one for dark ground."""
    import matplotlib

    colors: Any = dict.fromkeys(_INKED, color)
    with matplotlib.rc_context(colors):
        yield


_INKED = (
    "text.color",
    "axes.labelcolor",
    "axes.edgecolor",
    "axes.titlecolor",
    "xtick.color",
    "ytick.color",
    "grid.color",
)


def cut(line: str, length: int) -> str:
    """A line without its middle where it is too long: names of classes differ at both ends.

    >>> cut("german_shorthaired_pointer", 15)
    'german_…pointer'
    """
    if len(line) <= length:
        return line
    return f"{line[: length // 2]}…{line[len(line) - (length - 1) // 2 :]}"


_BLOCKS = " ▁▂▃▄▅▆▇█"


def text_chart(values: Sequence[float], *, width: int = 60, height: int = 6) -> list[str]:
    """Numbers of at least 0 as columns of blocks, from left to right, the largest one as high as the chart.

    Args:
        values: what to draw; more or fewer than `width` are sampled at even distances.
        width: of the chart, in characters.
        height: in lines; a line has eight levels.

    >>> print("\\n".join(text_chart([0.0, 0.5, 1.0], width=3, height=2)))
      █
     ██
    """
    last, top = len(values) - 1, max(values)
    columns = [values[round(i * last / max(width - 1, 1))] for i in range(width)]
    levels = [round(value / top * 8 * height) if top > 0 else 0 for value in columns]
    return [
        "".join(_BLOCKS[min(max(level - 8 * row, 0), 8)] for level in levels).rstrip()
        for row in reversed(range(height))
    ]
