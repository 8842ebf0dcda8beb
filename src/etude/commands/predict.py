"""Commands that use a trained run: predict and evaluate."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from etude.commands.shared import Output, SomeBadError, finish
from etude.recipes import evaluate as evaluate_recipe
from etude.recipes import predict as use_recipe
from etude.recipes.options import OnBadData, OutputOptions
from etude.recipes.predicted import Format


def predict(
    run_folder: str,
    # "-" is a name here, not a flag
    files: Annotated[list[str] | None, Parameter(allow_leading_hyphen=True)] = None,
    /,
    *,
    text: list[str] | None = None,
    text_column: str | None = None,
    format: Format | None = None,
    out: str | None = None,
    top: int | None = None,
    threshold: float | None = None,
    tta: use_recipe.Tta = "no",
    on_bad_data: OnBadData = "skip",
    device: str = "auto",
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008  # frozen
) -> None:
    """Say what a trained run makes of pictures or texts.

    Parameters
    ----------
    run_folder
        The run, as written by a training.
    files
        Pictures, folders of pictures, or - for names on standard input. For a model of texts: .txt files, folders of
        them, and tables (.csv, .tsv, .jsonl), of which each row is a text.
    text
        A text itself, for a model of texts; may be given several times.
    text_column
        The column of a table that holds the texts; that of the training, or found by its name, unless said.
    format
        table; csv; or json, one object a line. Rows come in the order of the names, one that cannot be read has an
        error in csv and json. Memory stays the same for any number of them, but with --json, which prints one object
        of all.
    out
        A file for the rows, FILE.part until it is whole; .csv, .json and .jsonl say the format.
    top
        How many classes to say for each picture or text, 1 unless given.
    threshold
        Where a picture may have several labels: the probability from which one is said, 0.5 unless given.
    tta
        Of pictures: the mean over several views of each, in as many times the time: flip (2, one of them mirrored),
        shift (5, four of them moved a little), both (10).
    on_bad_data
        skip says which pictures or texts cannot be read, goes on, and exits with 1 at the end; stop ends at the first.
    device
        auto, cpu, cuda, cuda:1, mps.
    """
    result = use_recipe.predict(
        run_folder,
        files or (),
        text=text or (),
        text_column=text_column,
        format=format,
        out=out,
        top=top,
        threshold=threshold,
        tta=tta,
        on_bad_data=on_bad_data,
        device=device,
        output=output,
    )
    finish(result, output)
    if result["skipped"]:
        raise SomeBadError


def evaluate(
    run_folder: str,
    /,
    *,
    data: str | None = None,
    valid_pct: float | None = None,
    split_seed: int | None = None,
    label: str | None = None,
    text_column: str | None = None,
    several: bool = False,
    tta: use_recipe.Tta = "no",
    on_bad_data: OnBadData = "skip",
    device: str = "auto",
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008  # frozen
) -> None:
    """Measure a trained run on labeled pictures or texts; a language model on any texts.

    Parameters
    ----------
    run_folder
        The run, as written by a training.
    data
        A folder, an archive, a table of texts, or a known data set: its own held-out samples, or all where it has
        none. That of the training unless said.
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
        Of pictures: one may have several labels or none, also where no label of the table holds a ';'.
    tta
        Of pictures: the mean over several views of each, as in predict.
    on_bad_data
        What to do about pictures or texts that cannot be read.
    device
        auto, cpu, cuda, cuda:1, mps.
    """
    result = evaluate_recipe.evaluate(
        run_folder,
        data,
        valid_pct=valid_pct,
        split_seed=split_seed,
        label=label,
        text_column=text_column,
        several=several,
        tta=tta,
        on_bad_data=on_bad_data,
        device=device,
        output=output,
    )
    finish(result, output)
