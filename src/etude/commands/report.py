"""The command that writes one page about a run: report."""

from __future__ import annotations

from typing import Annotated

from etude.commands.shared import Output, finish
from etude.recipes import report as recipe
from etude.recipes.options import OnBadData, OutputOptions


def report(
    run_folder: str,
    /,
    *,
    data: str | None = None,
    out: str | None = None,
    valid_pct: float | None = None,
    split_seed: int | None = None,
    label: str | None = None,
    text_column: str | None = None,
    several: bool = False,
    on_bad_data: OnBadData = "skip",
    device: str = "auto",
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008  # frozen
) -> None:
    """Write one HTML file about a run: what it is, what it gets right and wrong, and why.

    Parameters
    ----------
    run_folder
        The run, as written by a training, or its name in runs/.
    data
        Labeled pictures or texts to look at; unless said those that the training held out.
    out
        The .html file; unless said report.html in the run's folder, report-DATA.html for other data than the run's.
    valid_pct
        Only the share that a training with this --valid-pct and --split-seed holds out; on the run's data, its own.
    split_seed
        That of the training; on the run's data, its own.
    label
        Where a label comes from, as in the training: parent, top, a column, or a regular expression; on its data, its
        own.
    text_column
        The column of a table that holds the texts, found by its name unless said.
    several
        Of pictures: they may have several labels or none, as in the training; on its data, its own.
    on_bad_data
        What to do about pictures or texts that cannot be read.
    device
        auto, cpu, cuda, cuda:1, mps.
    """
    result = recipe.report(
        run_folder,
        data=data,
        out=out,
        valid_pct=valid_pct,
        split_seed=split_seed,
        label=label,
        text_column=text_column,
        several=several,
        on_bad_data=on_bad_data,
        device=device,
        output=output,
    )
    finish(result, output)
