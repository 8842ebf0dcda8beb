"""Three ways to show a bar and a table: a terminal, a notebook, plain lines."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from etude.output import tell
from etude.training.history import History, format_cell

_SECONDS_BETWEEN_DRAWS = 0.1
_PLAIN_LINE_EVERY = 60.0
"""Seconds of silence after which an epoch under way gets a plain line."""


@runtime_checkable
class Display(Protocol):
    """Where a fit is shown."""

    def bar(self, title: str, done: int, total: int, text: str) -> None:
        """How far the pass under way is."""
        ...

    def row(self, results: dict[str, float]) -> None:
        """A finished epoch."""
        ...


@contextmanager
def open_display() -> Iterator[Display]:
    """The display that suits where the output goes, closed at the end."""
    if in_notebook():
        yield NotebookDisplay()
        return
    console = Console(highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield PlainDisplay()
        return
    # no refresh thread: the fit itself redraws, at most four times a second
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
        console=console,
        transient=True,
        auto_refresh=False,
    )
    with bar:
        yield TerminalDisplay(bar)


@contextmanager
def progress_bar(*, enabled: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for work before or beside a fit: call it with (what, done, total); drawn at most ten times a second."""
    if not enabled:
        yield lambda what, done, total: None
        return
    next_draw = 0.0
    with ExitStack() as stack:
        display: Display | None = None

        def show(what: str, done: int, total: int) -> None:
            nonlocal display, next_draw
            now = time.monotonic()
            if now < next_draw and done < total:
                return
            next_draw = now + _SECONDS_BETWEEN_DRAWS
            # opened with the first news, so that work which is quickly done shows nothing
            display = display or stack.enter_context(open_display())
            display.bar(what, done, total, "")

        yield show


class Table:
    """Lines of aligned columns; the header comes with the first row, so that none is printed for nothing."""

    def __init__(self) -> None:
        self._columns: list[str] = []

    def lines(self, results: dict[str, float]) -> list[str]:
        """The row, with the header before it when the columns are new."""
        new = list(results) != self._columns
        self._columns = list(results)
        widths = [max(len(name), 8 if name != "epoch" else 5) for name in self._columns]
        cells = [format_cell(name, results[name]) for name in self._columns]
        row = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        head = "  ".join(name.rjust(width) for name, width in zip(self._columns, widths, strict=True))
        return [head, row] if new else [row]


class PlainDisplay:
    """One line per epoch, and one a minute within a long one."""

    def __init__(self) -> None:
        self._table, self._last = Table(), time.monotonic()

    def bar(self, title: str, done: int, total: int, text: str) -> None:
        """A line, if nothing was printed for a minute."""
        if time.monotonic() - self._last >= _PLAIN_LINE_EVERY:
            self._print(f"{title} {done}/{total} {text}".rstrip())

    def row(self, results: dict[str, float]) -> None:
        """A line of the table."""
        for line in self._table.lines(results):
            self._print(line)

    def _print(self, line: str) -> None:
        self._last = time.monotonic()
        tell(line)


class TerminalDisplay:
    """A bar that goes away when the epoch is done, above it the table."""

    def __init__(self, progress: Progress) -> None:
        self._table, self._progress = Table(), progress
        self._task = progress.add_task("", total=None, text="", visible=False)
        self._title = ""

    def bar(self, title: str, done: int, total: int, text: str) -> None:
        """Redraw the bar."""
        if title != self._title:
            self._title = title
            self._progress.reset(self._task, description=title, total=total, visible=True)
        self._progress.update(self._task, completed=done, text=text)
        self._progress.refresh()

    def row(self, results: dict[str, float]) -> None:
        """A line of the table."""
        for line in self._table.lines(results):
            self._progress.console.print(line, markup=False)


class NotebookDisplay:
    """One output, updated in place; what stays in the saved notebook is the table."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html: Any = HTML
        self._history = History()
        self._handle: Any = display(HTML("<p>starting ...</p>"), display_id=True)

    def bar(self, title: str, done: int, total: int, text: str) -> None:
        """The table so far, and the bar under it."""
        words = html.escape(f"{title} {done}/{total} {text}")
        bar = f"<p><progress value='{done}' max='{total}'></progress> {words}</p>"
        self._handle.update(self._html(self._history._repr_html_() + bar))

    def row(self, results: dict[str, float]) -> None:
        """The table with one more row."""
        self._history.rows.append(results)
        self._handle.update(self._html(self._history._repr_html_()))


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code; IPython is not imported to find out."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell is not None and "IPKernelApp" in shell.config
