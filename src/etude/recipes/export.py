"""Write a trained run for use without etude: a bundle with its own reader, torch.export, or ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from etude.recipes.options import OutputOptions, teller
from etude.recipes.trained import Trained

if TYPE_CHECKING:
    from etude.data.vocab import Vocab
    from etude.types import Json

Form = Literal["bundle", "torch-export", "onnx"]
_DIGITS = "CC BY 4.0 (Optical Recognition of Handwritten Digits, UCI Machine Learning Repository)"


def export(
    run: str,
    *,
    to: Form = "bundle",
    out: str | None = None,
    data_license: str | None = None,
    test_pictures: int = 4,
    output: OutputOptions = OutputOptions(),  # noqa: B008  # frozen
) -> dict[str, Json]:
    """Write a trained run for use without etude; it gets its name only when it gives what the run gives.

    Args:
        run: the folder of a run, checkpoint or saved model.
        to: "bundle", for etude's own models; "torch-export" or "onnx", for any.
        out: a new or empty folder, in one that exists; None takes the run's name and the form, in the current folder.
        data_license: of the data; None knows those of the known data sets.
        test_pictures: how many held-out pictures go into a bundle to test it with, where the run's data is at hand; a
            bundle of texts holds none.
        output: whether to print, and how.

    Returns:
        `{"run", "to", "folder", "difference", "test_pictures", "data_license"}`; "difference" is the largest one
        between the outputs of what was written and those of the run.
    """
    import etude
    from etude.errors import ConfigError
    from etude.exports.export import check_form
    from etude.runs.text import many
    from etude.text.reader import TextReader

    if test_pictures < 0:
        raise ConfigError(f"--test-pictures must be at least 0, got {test_pictures}")
    folder, say = Path(out) if out is not None else Path(f"{Path(run).resolve().name}-{to}"), teller(output)
    check_form(to, folder)
    learner = etude.load(run, device="cpu")
    say(f"writing {to} of {run} and comparing it with the model")
    shown = to == "bundle" and test_pictures > 0 and not isinstance(learner.data.read, TextReader)
    pictures = _pictures(run, learner.data.vocab, test_pictures) if shown else []
    if data_license is None and Trained.of(run).kind == "digits":
        data_license = _DIGITS
    done = etude.export(run, folder, to=to, pictures=pictures, data_license=data_license)
    say(f"{done.folder}: the outputs are those of the run, within {done.difference:.1e}")
    if done.pictures:
        say(f"{many(len(done.pictures), 'held-out picture')} in it to test it with; --test-pictures 0 leaves them out")
    elif shown:
        say("the run's data is not at hand, so it is tested with random pixels alone")
    say(f"license of the data: {done.license}")
    return {
        "run": run,
        "to": to,
        "folder": str(done.folder),
        "difference": done.difference,
        "test_pictures": [*done.pictures],
        "data_license": done.license,
    }


def _pictures(run: str, vocab: Vocab | None, count: int) -> list[Any]:
    """Some of the pictures that the run held out, spread over them, where its data is at hand: nothing is downloaded.

    Only pictures of the model's own labels count: what the run's folder names may be another folder by now.
    """
    from etude.data import fetch
    from etude.data.cache import home
    from etude.errors import EtudeError

    trained = Trained.of(run)
    if trained.kind == "digits":
        from etude.exports.vectors import some_pictures
        from etude.recipes.demo import digits

        return some_pictures(digits().valid, count)
    source = trained.source
    if source is None:
        return []
    if not Path(source).expanduser().exists() and not any((home() / "downloads").glob(f"{Path(source).name}.*")):
        return []
    try:
        samples = trained.samples(fetch.resolve(source, say=lambda line: None)).valid
    except (EtudeError, OSError, TypeError, ValueError):
        return []
    paths = [sample.path for sample in samples if vocab is None or _names(sample.label) <= set(vocab)]
    return list(paths[:: max(len(paths) // count, 1)][:count])


def _names(label: Any) -> set[Any]:
    return set(label) if isinstance(label, tuple) else {label}
