"""The command line: `etude <command> [flags]`.

Exit codes: 0 all went well, 1 something failed, 2 wrong usage, 130 stopped by Ctrl-C, 143 stopped by
SIGTERM, 129 stopped because the terminal was closed.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App, CycloptsError, Group, Parameter

from etude.commands import (
    data,
    export,
    finetune,
    lr_find,
    plan,
    predict,
    report,
    resume,
    runs,
    text,
    text_before,
    train,
)
from etude.commands.shared import SomeBadError
from etude.recipes import options as given

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
app.command(train.demo)
app.command(train.train)
app.command(finetune.finetune)
app.command(train.imagenette)
app.command(train.imagewoof)
app.command(train.techniques_study)
app.command(train.noisy_label_study)
app.command(finetune.pets_study)
app.command(text.demo_text)
app.command(text.lm)
app.command(text.classify_text)
app.command(text.ulmfit)
app.command(text.generate)
app.command(text.bptt_study)
app.command(resume.resume)
app.command(predict.predict)
app.command(predict.evaluate)
app.command(export.export)
app.command(runs.runs)
app.command(runs.show)
app.command(runs.compare)
app.command(report.report)

data_app = App(name="data", help="Look at data before training on it.", help_format="plaintext")
app.command(data_app)
data_app.command(data.list_known, name="list")
data_app.command(data.get)
data_app.command(data.check)
data_app.command(data.show)
data_app.command(data.cache)

lr_find_app = App(
    name="lr-find", help="Find a learning rate: lr-find TRAINING, with that training's flags.", help_format="plaintext"
)
app.command(lr_find_app)
lr_find_app.command(lr_find.demo)
lr_find_app.command(lr_find.train)
lr_find_app.command(lr_find.finetune)
lr_find_app.command(lr_find.imagenette)
lr_find_app.command(lr_find.imagewoof)
lr_find_app.command(text_before.lr_find_lm, name="lm")
lr_find_app.command(text_before.lr_find_classify_text, name="classify-text")

plan_app = App(
    name="plan",
    help="Tell what a training will do: plan TRAINING, with that training's flags.",
    help_format="plaintext",
)
app.command(plan_app)
plan_app.command(plan.demo)
plan_app.command(plan.train)
plan_app.command(plan.finetune)
plan_app.command(plan.imagenette)
plan_app.command(plan.imagewoof)
plan_app.command(text_before.plan_lm, name="lm")
plan_app.command(text_before.plan_classify_text, name="classify-text")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    warnings.formatwarning = _formatted
    sys.exit(run_command(sys.argv[1:] if arguments is None else list(arguments)))


def _formatted(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of ours as a line for a user, whom the place in the code does not help; others as Python has them."""
    if Path(filename).is_relative_to(Path(__file__).parent):
        return f"warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def run_command(arguments: list[str]) -> int:
    """Run one command; returns its exit code instead of leaving the process."""
    try:
        app(arguments, exit_on_error=False, result_action="return_value")
    except CycloptsError as error:  # it has printed what was wrong with the flags
        if "--json" in arguments:
            print(json.dumps({"error": str(error)}))
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


def _failed(error: Exception, *, as_json: bool) -> int:
    """Print an error of the library or the system as one clear line; let a bug show its traceback."""
    from etude.errors import ConfigError, EtudeError

    if not isinstance(error, EtudeError | OSError):
        raise error
    from etude.output import plain

    names = () if isinstance(error, ConfigError) else (("on_bad_data", "text_column", "labels"),)
    message = given.in_flags(str(error), *names)
    print("\n".join(map(plain, f"etude: {message}".split("\n"))), file=sys.stderr)
    if as_json:
        print(json.dumps({"error": message}))
    return 2 if isinstance(error, ConfigError) else 1
