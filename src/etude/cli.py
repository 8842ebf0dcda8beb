"""The command line: `etude <command> [flags]`.

Exit codes: 0 all went well, 1 something failed, 2 wrong usage, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter

from etude.recipes import data as data_recipe
from etude.recipes import demo as demo_recipe
from etude.recipes import imagenette as imagenette_recipe
from etude.recipes import options as given
from etude.recipes import predict as use_recipe
from etude.recipes import studies
from etude.recipes import train as train_recipe
from etude.recipes.options import DataOptions, ModelOptions, OnBadData, OutputOptions, RunOptions, TrainOptions

# each group of options stands at its own place in the help
Pictures, Model, Training, Run, Output = (
    Parameter(name="*", group=Group(name, sort_key=place))
    for place, name in enumerate(("Pictures", "Model", "Training", "Run", "Output"), start=2)
)

app = App(
    name="etude",
    help="Train image and text models: one readable technique per file, at full speed, with results to be trusted.",
    version_flags=["--version"],
    help_format="plaintext",  # rendering Markdown would take longer than all the rest
    suppress_keyboard_interrupt=False,  # `run_command` says that it stopped
    default_parameter=Parameter(negative=(), show_default=lambda default: None if default is False else default),
    group_arguments=Group("Arguments", sort_key=0),
    group_parameters=Group("Parameters", sort_key=1),
)
data_app = App(name="data", help="Look at data before training on it.", help_format="plaintext")
app.command(data_app)


@app.command
def demo(
    *,
    train: Annotated[demo_recipe.DemoOptions, Training] = demo_recipe.DemoOptions(),  # noqa: B008  # frozen
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008  # frozen
) -> None:
    """Learn to read 1,797 real handwritten digits, without a download.

    Trains a small convolutional network with MixUp, label smoothing and
    one-cycle, prints a table, and draws the curves and a grid of predictions
    into the run's folder.
    """
    _finish(demo_recipe.demo(train, run), run)


@app.command
def train(
    path: str | None = None,
    /,
    *,
    folds: int = 0,
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008  # frozen
    model: Annotated[ModelOptions, Model] = ModelOptions(),  # noqa: B008
    train: Annotated[TrainOptions, Training] = TrainOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Train a classifier on your own pictures.

    PATH is a folder, an archive, or a known data set. One folder per class,
    train and valid folders, a labels.csv, or files called LABEL_NUMBER.jpg:
    the layout is guessed, and said.

    Parameters
    ----------
    path
        The pictures; the same as --data.
    folds
        Cross-validate a small set: as many trainings, each holding out another part.
    """
    _finish(train_recipe.train(given.pictures_of(path, data), model, train, run, folds=folds), run)


@app.command
def imagenette(
    *,
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008  # frozen
    model: Annotated[ModelOptions, Model] = ModelOptions(),  # noqa: B008
    train: Annotated[imagenette_recipe.ImagenetteOptions, Training] = imagenette_recipe.ImagenetteOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Train on Imagenette, fast.ai's ten easy classes, with the lesson's recipe.

    Fetches the archive that suits --size unless --data names one.
    """
    _finish(imagenette_recipe.imagenette(data, model, train, run), run)


@app.command
def imagewoof(
    *,
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008  # frozen
    model: Annotated[ModelOptions, Model] = ModelOptions(),  # noqa: B008
    train: Annotated[imagenette_recipe.ImagenetteOptions, Training] = imagenette_recipe.ImagenetteOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Train on Imagewoof, ten breeds of dogs, with the lesson's recipe.

    Fetches the archive that suits --size unless --data names one.
    """
    _finish(imagenette_recipe.imagewoof(data, model, train, run), run)


@app.command
def techniques_study(
    *,
    data: Annotated[DataOptions, Pictures] = DataOptions(data="imagenette2-160"),  # noqa: B008  # frozen
    model: Annotated[ModelOptions, Model] = ModelOptions(arch="lesson_cnn"),  # noqa: B008
    train: Annotated[studies.StudyOptions, Training] = studies.StudyOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Compare nothing, MixUp and label smoothing over several seeds.

    The lesson's one-epoch demonstrations on Imagenette as one table with
    intervals, and one picture.
    """
    _finish(studies.techniques_study(data, model, train, run), run)


@app.command
def noisy_label_study(
    *,
    data: Annotated[DataOptions, Pictures] = DataOptions(data="imagenette2-160"),  # noqa: B008  # frozen
    model: Annotated[ModelOptions, Model] = ModelOptions(arch="lesson_cnn"),  # noqa: B008
    train: Annotated[studies.StudyOptions, Training] = studies.StudyOptions(),  # noqa: B008
    run: Annotated[RunOptions, Run] = RunOptions(),  # noqa: B008
) -> None:
    """Compare cross entropy and label smoothing with wrong labels.

    0, 20 and 50 % of the training labels are made wrong; validation keeps its own.
    """
    _finish(studies.noisy_label_study(data, model, train, run), run)


@app.command
def predict(
    run_folder: str,
    # "-" is a name here, not a flag
    files: Annotated[list[str], Parameter(allow_leading_hyphen=True)],
    /,
    *,
    top: int = 1,
    on_bad_data: OnBadData = "skip",
    device: str = "auto",
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008  # frozen
) -> None:
    """Say what a trained run makes of pictures.

    Parameters
    ----------
    run_folder
        The run, as written by a training.
    files
        Pictures, folders of pictures, or - for names on standard input.
    top
        How many classes to say for each picture.
    on_bad_data
        skip says which pictures cannot be read, goes on, and exits with 1 at the end.
    device
        auto, cpu, cuda, cuda:1, mps.
    """
    result = use_recipe.predict(run_folder, files, top=top, on_bad_data=on_bad_data, device=device, output=output)
    _finish(result, output)
    if result["skipped"]:
        raise SomeBadError


@app.command
def evaluate(
    run_folder: str,
    /,
    *,
    data: str,
    valid_pct: float | None = None,
    split_seed: int | None = None,
    label: str | None = None,
    on_bad_data: OnBadData = "skip",
    device: str = "auto",
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008  # frozen
) -> None:
    """Measure a trained run on labeled pictures.

    Parameters
    ----------
    run_folder
        The run, as written by a training.
    data
        A folder, an archive, or a known data set: its own held-out pictures, or all where it has none.
    valid_pct
        Only the share that a training with this --valid-pct and --split-seed holds out; on the run's data, its own.
    split_seed
        That of the training; on the run's data, its own.
    label
        Where a label comes from, as in the training: parent, top, or a regular expression; on its data, its own.
    on_bad_data
        What to do about pictures that cannot be read.
    device
        auto, cpu, cuda, cuda:1, mps.
    """
    result = use_recipe.evaluate(
        run_folder,
        data,
        valid_pct=valid_pct,
        split_seed=split_seed,
        label=label,
        on_bad_data=on_bad_data,
        device=device,
        output=output,
    )
    _finish(result, output)


@data_app.command(name="list")
def data_list(*, output: Annotated[OutputOptions, Output] = OutputOptions()) -> None:  # noqa: B008  # frozen
    """List the data sets that are known by name."""
    _finish(data_recipe.list_known(output), output)


@data_app.command(name="get")
def data_get(name: str, /, *, output: Annotated[OutputOptions, Output] = OutputOptions()) -> None:  # noqa: B008
    """Fetch a known data set, check it and unpack it.

    Parameters
    ----------
    name
        One of those that etude data list names, or an archive of your own.
    """
    _finish(data_recipe.get(name, output), output)


@data_app.command(name="check")
def data_check(
    path: str | None = None,
    /,
    *,
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008  # frozen
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008
) -> None:
    """Say what a training would take: layout, classes, odd and broken pictures.

    Parameters
    ----------
    path
        A folder, an archive, or a known data set; the same as --data.
    """
    _finish(data_recipe.check(given.pictures_of(path, data), output), output)


@data_app.command(name="show")
def data_show(
    path: str | None = None,
    /,
    *,
    out: str = "batch.png",
    data: Annotated[DataOptions, Pictures] = DataOptions(),  # noqa: B008  # frozen
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008
) -> None:
    """Draw what the model will see, augmentation included.

    Parameters
    ----------
    path
        A folder, an archive, or a known data set; the same as --data.
    out
        The PNG to write.
    """
    _finish(data_recipe.show(given.pictures_of(path, data), out, output), output)


@data_app.command(name="cache")
def data_cache(
    *,
    verify: bool = False,
    clear: bool = False,
    output: Annotated[OutputOptions, Output] = OutputOptions(),  # noqa: B008  # frozen
) -> None:
    """List what is kept of earlier runs: decoded pictures, archives, downloads.

    Parameters
    ----------
    verify
        Read every store of decoded pictures, and say what is damaged.
    clear
        Remove everything; what is needed is made anew.
    """
    result = data_recipe.cached(verify=verify, clear=clear, output=output)
    _finish(result, output)
    if result["damaged"]:
        raise SomeBadError


class SomeBadError(Exception):
    """A command did its work, found that some files are bad, and has said which."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    sys.exit(run_command(sys.argv[1:] if arguments is None else list(arguments)))


def run_command(arguments: list[str]) -> int:
    """Run one command; returns its exit code instead of leaving the process."""
    try:
        app(arguments, exit_on_error=False, result_action="return_value")
    except CycloptsError:  # it has printed what was wrong with the flags
        return 2
    except SomeBadError:
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # whoever read our output has left, as `head` does; without this, Python complains once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _failed(error, as_json="--json" in arguments)
    return 0


def _finish(result: dict[str, Any], output: OutputOptions) -> None:
    """Print a command's result as the last line, if asked."""
    if output.json:
        print(json.dumps(result))


def _failed(error: Exception, *, as_json: bool) -> int:
    """Print an error of the library or the system as one clear line; let a bug show its traceback."""
    from etude.errors import ConfigError, EtudeError

    if not isinstance(error, EtudeError | OSError):
        raise error
    message = given.in_flags(str(error), *(() if isinstance(error, ConfigError) else (("on_bad_data",),)))
    print(f"etude: {message}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": message}))
    return 2 if isinstance(error, ConfigError) else 1
