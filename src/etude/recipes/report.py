"""Everything worth knowing of a trained run on one page: what it is, what it gets right and wrong, and why."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from etude.recipes.options import OnBadData, OutputOptions, teller
from etude.recipes.runs import defaults_of, open_run
from etude.recipes.trained import Trained

if TYPE_CHECKING:
    from etude.data.loaders import Loader
    from etude.runs.findings import Pictures
    from etude.runs.page import Markup
    from etude.runs.read import RunRecord
    from etude.training.interpret import Interpretation
    from etude.training.learner import Learner
    from etude.types import Json


_OWN: Final = "report.html"


@dataclass(frozen=True)
class _Asked:
    """What was asked of the report's data."""

    data: str | None
    valid_pct: float | None
    split_seed: int | None
    label: str | None
    several: bool
    on_bad_data: OnBadData
    quiet: bool


def report(
    run: str,
    *,
    data: str | None = None,
    out: str | None = None,
    valid_pct: float | None = None,
    split_seed: int | None = None,
    label: str | None = None,
    several: bool = False,
    on_bad_data: OnBadData = "skip",
    device: str = "auto",
    output: OutputOptions = OutputOptions(),  # noqa: B008  # frozen
) -> dict[str, Json]:
    """Write one HTML file that stands alone about a run: its record, and what it makes of labeled pictures.

    Without `data` these are the pictures that its training held out, if they still lie where they lay. Whatever cannot
    be opened is named in the report, which then tells the rest.

    Args:
        run: the run's folder, or its name in runs/.
        data: other labeled pictures: a folder, an archive, or a known data set; what cannot be opened raises.
        out: the file to write; None is report.html in the run's folder, or report-DATA.html for data that is not the
            run's own.
        valid_pct: as in `evaluate`.
        split_seed: as in `evaluate`.
        label: as in `evaluate`.
        several: as in `evaluate`.
        on_bad_data: as in `evaluate`.
        device: where the model runs.
        output: whether to print.

    Returns:
        `{"run", "out", "data", "samples", "accuracy", "interval", "calibration_error", "temperature", "missing"}`;
        null what is not known, and in "missing" why; the temperature also where none is best, as where all are right.
    """
    from etude.errors import EtudeError
    from etude.training.device import pick_device

    record = open_run(run)
    pick_device(device)
    say, asked = teller(output), _Asked(data, valid_pct, split_seed, label, several, on_bad_data, output.quiet)
    place = Path(out) if out is not None else record.folder / _name(record, data)
    _refuse(record, place)
    if out is None and place.name != _OWN:
        say(f"these are not the run's own pictures, so the report goes to {place}; --out names another file")
    missing: list[str] = []
    found: Interpretation | None = None
    sections: list[tuple[str, Markup]] = []
    try:
        seen = _seen(record, asked, device, say)
        found = seen.found
        sections = list(_told(seen, say))
    except (EtudeError, OSError) as error:
        if any(given is not None for given in (data, valid_pct, split_seed, label)):
            raise
        missing.append(str(error))
        say(f"without what the model makes of pictures: {error}")
    _write(record, place, found, sections, missing, _command(run, out, asked))
    say(f"look at {place}")
    return {"run": run, "out": str(place), **_numbers(found), "missing": [*missing]}


def _name(record: RunRecord, data: str | None) -> str:
    """What the report is called unless said: that of other data takes no place from that of the run's own."""
    if data is None or Trained.of(str(record.folder)).is_on(data):
        return _OWN
    name = re.sub(r"[^\w.-]+", "_", Path(data).expanduser().resolve().name).strip("._")
    return f"report-{name[:80] or 'data'}.html"


def _refuse(record: RunRecord, place: Path) -> None:
    """Refuse what cannot be reported on before the work is done."""
    from etude.errors import ConfigError
    from etude.output import file_to_write

    if record.planned is not None:
        parts = ", ".join(str(part.folder) for part in record.parts[:3]) or "none was begun"
        raise ConfigError(f"{record.folder} holds several runs; make a report of one of them: {parts}")
    if place.suffix.lower() not in (".html", ".htm") or not place.absolute().parent.is_dir():
        raise ConfigError(f"--out must be a .html file in a folder that exists, got {place}")
    file_to_write(place, "--out")


@dataclass(frozen=True)
class _Seen:
    """What a model made of data."""

    learner: Learner
    loader: Loader
    found: Interpretation
    names: Callable[[int], str]
    notes: list[str]


def _seen(record: RunRecord, asked: _Asked, device: str, say: Callable[[str], None]) -> _Seen:
    """The run's model on its own validation data, or on other data.

    Raises:
        EtudeError: there is no model, or no data.
    """
    import etude
    from etude.runs.text import many

    folder, notes = _model_of(record)
    learner = etude.load(folder, device=device)
    if record.training.get("kind") == "digits" and asked.data is None:
        loader, names = _digits(record)
        notes.append("Measured on the digits that the demo holds out.")
    else:
        loader, names, more = _pictures(record, learner, asked)
        notes += more
    say(f"looking at what {folder} makes of {many(len(loader), 'batch')} of samples")
    with _progress(loader, quiet=asked.quiet) as watched:
        found = etude.Interpretation.of(learner, watched)
    return _Seen(learner, loader, found, names, notes)


def _model_of(record: RunRecord) -> tuple[Path, list[str]]:
    """The folder of the run's model: its own, or its newest checkpoint while it has not ended."""
    from etude.training import checkpoint, saving

    if (record.folder / saving.WEIGHTS).exists():
        return record.folder, []
    kept = checkpoint.checkpoints(record.folder / checkpoint.FOLDER)
    if not kept:
        return record.folder, []
    return kept[0], [f"The run has not ended; this is its newest checkpoint, {kept[0].name}."]


def _digits(record: RunRecord) -> tuple[Loader, Callable[[int], str]]:
    from etude.recipes.demo import digits

    valid = digits().valid
    assert valid is not None
    return valid, lambda position: f"held-out digit {position}"


def _pictures(record: RunRecord, learner: Learner, asked: _Asked) -> tuple[Loader, Callable[[int], str], list[str]]:
    """Labeled pictures for the model, seen as its own validation pictures were."""
    from etude.errors import DataError
    from etude.recipes.labeled import labeled_pictures
    from etude.runs.text import many

    trained = Trained.of(str(record.folder))
    source = asked.data
    if source is None:
        source = trained.source
        if source is None:
            raise DataError(f"{record.folder} does not say which pictures it was trained on; name some with --data")
    found, loader = labeled_pictures(
        learner,
        trained,
        str(record.folder),
        source,
        valid_pct=asked.valid_pct,
        split_seed=asked.split_seed,
        label=asked.label,
        several=asked.several,
        on_bad_data=asked.on_bad_data,
        quiet=asked.quiet,
    )
    notes = [f"Measured on {many(len(loader.names), 'picture')} of {source} ({found.description})."]
    trained_on = trained.trained_on(found, source, quiet=True)
    if trained_on:
        were = "was" if trained_on == 1 else "were"
        notes.append(f"{trained_on} of these pictures {were} trained on; new ones will do worse.")
    if found.skipped:
        notes.append(f"{many(len(found.skipped), 'picture')} could not be read, and left out.")
    names = loader.names
    return loader, lambda position: names[position], notes


@contextmanager
def _progress(loader: Loader, *, quiet: bool) -> Iterator[Loader]:
    """A loader whose batches move a bar."""
    import torch

    from etude.data.loaders import Loader as LoaderType
    from etude.training.display import progress_bar
    from etude.types import Batch

    with progress_bar(enabled=not quiet) as bar:

        class Watched:
            """The same batches."""

            def __len__(self) -> int:
                return len(loader)

            def batches(self, epoch: int, device: torch.device) -> Iterator[Batch]:
                """Those of the loader."""
                for i, batch in enumerate(loader.batches(epoch, device), 1):
                    yield batch
                    bar("predicting", i, len(loader))

        watched = Watched()
        assert isinstance(watched, LoaderType)
        yield watched


def _told(seen: _Seen, say: Callable[[str], None]) -> Iterator[tuple[str, Markup]]:
    """The sections that the model's predictions give."""
    import torch

    from etude.runs import page
    from etude.runs.findings import findings, layers
    from etude.training.activations import activation_statistics

    say("drawing")
    if seen.notes:
        yield "What it was measured on", page.join(page.paragraph(note) for note in seen.notes)
    yield from findings(seen.found, _shown(seen))
    batch = next(iter(seen.loader.batches(0, torch.device("cpu"))))
    yield "Layer by layer", layers(activation_statistics(seen.learner, batch))


def _shown(seen: _Seen) -> Pictures:
    """How the pictures are shown; each is read when it is asked for."""
    from torch import Tensor

    from etude.errors import ConfigError
    from etude.runs.findings import Pictures
    from etude.vision.gradcam import grad_cam
    from etude.vision.interpret import encoded, overlays, pictures_at

    def pixels(positions: Any) -> Tensor:
        return pictures_at(seen.learner, positions, seen.loader)

    def plain(positions: Any) -> list[bytes]:
        return [encoded(one) for one in pixels(positions)]

    def explained(positions: Any) -> list[bytes]:
        return [encoded(one) for one in overlays(seen.learner, pixels(positions))]

    first = pixels([0])
    try:
        cam = grad_cam(seen.learner, first)
    except ConfigError as error:
        return Pictures(plain, None, str(error), seen.names, first.shape[-1])
    height, width = cam.maps.shape[1:]
    followed = {
        "classes": "where the network saw what it says",
        "labels": "where the network saw the class that it is surest of",
        "numbers": "what made the number larger",
    }[seen.found.kind]
    explanation = (
        f"Beside each picture: {followed} (Grad-CAM), yellow a little, red most; gray all over where no part spoke for "
        f"it. Its last map, of layer {cam.layer}, has {height} x {width} pixels; it tells no finer."
    )
    return Pictures(plain, explained, explanation, seen.names, first.shape[-1])


def _write(
    record: RunRecord,
    place: Path,
    found: Interpretation | None,
    sections: list[tuple[str, Markup]],
    missing: list[str],
    made_by: str,
) -> None:
    """Put the page together and write it whole or not at all."""
    from etude.runs import page
    from etude.runs.findings import sentences
    from etude.runs.story import again, story, told_result
    from etude.training.durable import replace_text

    head = [page.block(sentences(found) if found is not None else [page.paragraph(told_result(record))], "verdict")]
    if missing:
        words = "What the model makes of pictures is missing here (classes, calibration, examples): "
        head.append(page.block([page.paragraph(words + "; ".join(missing))], "warn"))
    own = list(story(record, defaults_of(record)))
    # what was trained comes first, what went wrong last
    content = [own[0], *sections, *own[1:], ("Make it again", again(record, made_by))]
    recipe = f": {record.recipe}" if record.recipe and record.recipe not in record.name else ""
    title = f"{record.name}{recipe}" + (f" on {record.data}" if record.data else "")
    replace_text(page.page(title, content, head=page.join(head)), place)


def _numbers(found: Interpretation | None) -> dict[str, Json]:
    if found is None or found.kind == "numbers":
        samples = None if found is None else len(found)
        return {"samples": samples, "accuracy": None, "interval": None, "calibration_error": None, "temperature": None}
    return {
        "samples": len(found),
        "accuracy": found.accuracy,
        "interval": list(found.interval),
        "calibration_error": found.calibration.before.ece,
        "temperature": found.calibration.temperature if found.calibration.found else None,
    }


def _command(run: str, out: str | None, asked: _Asked) -> str:
    flags: list[tuple[str, Any]] = [
        ("--data", asked.data),
        ("--valid-pct", asked.valid_pct),
        ("--split-seed", asked.split_seed),
        ("--label", asked.label),
        ("--out", out),
    ]
    switches = ["--several"] if asked.several else []
    return shlex.join(
        ["etude", "report", run, *switches, *(str(part) for flag in flags if flag[1] is not None for part in flag)]
    )
