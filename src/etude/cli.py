"""The command line: `etude <command> [flags]`.

Exit codes: 0 all went well, 1 something failed, 2 wrong usage, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from etude.recipes import demo as demo_recipe
from etude.recipes.options import RunOptions

app = App(
    name="etude",
    help="Train image and text models: one readable technique per file, at full speed, with results to be trusted.",
    version_flags=["--version"],
    help_format="plaintext",  # rendering Markdown would take longer than all the rest
    default_parameter=Parameter(negative=()),
)


@app.command
def demo(
    *,
    train: Annotated[demo_recipe.DemoOptions, Parameter(name="*")] = demo_recipe.DemoOptions(),  # noqa: B008  # frozen
    run: Annotated[RunOptions, Parameter(name="*")] = RunOptions(),  # noqa: B008  # frozen
) -> None:
    """Learn to read 1,797 real handwritten digits, without a download.

    Trains a small convolutional network with MixUp, label smoothing and
    one-cycle, prints a table, and draws the curves and a grid of predictions
    into the run's folder.
    """
    _finish(demo_recipe.demo(train, run), run)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    sys.exit(run_command(sys.argv[1:] if arguments is None else list(arguments)))


def run_command(arguments: list[str]) -> int:
    """Run one command; returns its exit code instead of leaving the process."""
    try:
        app(arguments, exit_on_error=False, result_action="return_value")
    except CycloptsError:
        # cyclopts has printed what was wrong with the flags
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        return _failed(error, as_json="--json" in arguments)
    return 0


def _finish(result: dict[str, Any], run: RunOptions) -> None:
    """Print a command's result as the last line, if asked."""
    if run.json:
        print(json.dumps(result))


def _failed(error: Exception, *, as_json: bool) -> int:
    """Print an error of the library or the system as one clear line; let a bug show its traceback."""
    from etude.errors import ConfigError, EtudeError

    if not isinstance(error, EtudeError | OSError):
        raise error
    print(f"etude: {error}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": str(error)}))
    return 2 if isinstance(error, ConfigError) else 1
