"""What a report tells of a run's model: what it makes of pictures or texts, and what a language model writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.recipes.labeled_texts import AskedTexts
from etude.recipes.options import OnBadData
from etude.recipes.trained import Trained

if TYPE_CHECKING:
    from torch import Tensor

    from etude.data.loaders import Loader
    from etude.runs.page import Markup
    from etude.runs.read import RunRecord
    from etude.runs.shown import Pictures, Samples
    from etude.training.interpret import Interpretation
    from etude.training.learner import Learner


@dataclass(frozen=True)
class AskedData:
    """What was asked of the report's data."""

    data: str | None
    valid_pct: float | None
    split_seed: int | None
    label: str | None
    text_column: str | None
    several: bool
    on_bad_data: OnBadData
    quiet: bool

    def texts(self, source: str) -> AskedTexts:
        """The same of texts."""
        return AskedTexts(source, self.valid_pct, self.split_seed, self.label, self.text_column, self.quiet)


@dataclass(frozen=True)
class Looked:
    """What a model made of data, in sections of a page."""

    found: Interpretation | None = None
    perplexity: float | None = None
    samples: int | None = None
    sections: list[tuple[str, Markup]] = field(default_factory=list)


@dataclass(frozen=True)
class _Seen:
    """What a model made of data."""

    learner: Learner
    loader: Loader
    found: Interpretation
    names: Callable[[int], str]
    notes: list[str]


def look(record: RunRecord, asked: AskedData, device: str, say: Callable[[str], None]) -> Looked:
    """What the run's model makes of its own validation data, or of other data.

    Raises:
        EtudeError: there is no model, or no data.
    """
    import etude
    from etude.recipes.labeled_texts import refuse_unused
    from etude.runs.text import many
    from etude.text.language_model import LanguageModel
    from etude.text.reader import TextReader

    folder, notes = _model_of(record)
    learner = etude.load(folder, device=device)
    reads_texts = isinstance(learner.data.read, TextReader)
    refuse_unused(reads_texts, several=asked.several, text_column=asked.text_column)
    if isinstance(learner.model, LanguageModel):
        return _of_language_model(record, learner, asked, notes, say)
    if record.training.get("kind") == "digits" and asked.data is None:
        loader, names = _digits(record)
        notes.append("Measured on the digits that the demo holds out.")
    elif reads_texts:
        loader, names, more = _texts(record, learner, asked)
        notes += more
    else:
        loader, names, more = _pictures(record, learner, asked)
        notes += more
    say(f"looking at what {folder} makes of {many(len(loader), 'batch')} of samples")
    with _progress(loader, quiet=asked.quiet) as watched:
        found = etude.Interpretation.of(learner, watched)
    seen = _Seen(learner, loader, found, names, notes)
    say("drawing")
    return Looked(found, sections=list(_told(seen)))


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


def _source(record: RunRecord, trained: Trained, asked: AskedData, noun: str) -> str:
    """What is looked at: what was named, or what was trained on."""
    from etude.errors import DataError

    source = asked.data if asked.data is not None else trained.source
    if source is None:
        raise DataError(f"{record.folder} does not say which {noun} it was trained on; name some with --data")
    return source


def _pictures(record: RunRecord, learner: Learner, asked: AskedData) -> tuple[Loader, Callable[[int], str], list[str]]:
    """Labeled pictures for the model, seen as its own validation pictures were."""
    from etude.recipes.labeled import labeled_pictures
    from etude.runs.text import many

    trained = Trained.of(str(record.folder))
    source = _source(record, trained, asked, "pictures")
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


def _texts(record: RunRecord, learner: Learner, asked: AskedData) -> tuple[Loader, Callable[[int], str], list[str]]:
    """Labeled texts for the model, read as its own validation texts were."""
    from etude.recipes import labeled_texts
    from etude.runs.text import many

    trained = Trained.of(str(record.folder))
    texts = asked.texts(_source(record, trained, asked, "texts"))
    found, loader = labeled_texts.labeled_texts(learner, trained, str(record.folder), texts, asked.on_bad_data)
    names = loader.names
    notes = [f"Measured on {many(len(names), 'text')} of {texts.data} ({found.description})."]
    notes += _seen_before(names, trained, texts, labeled=True)
    if bad := labeled_texts.skipped(found.incidents):
        notes.append(f"{many(len(bad), 'text')} could not be used, and left out.")
    return loader, lambda position: names[position], notes


def _seen_before(names: list[str], trained: Trained, texts: AskedTexts, *, labeled: bool) -> list[str]:
    from etude.recipes import labeled_texts

    both = labeled_texts.trained_on(names, trained, texts, labeled=labeled)
    return (
        [f"{both} of these texts {'was' if both == 1 else 'were'} trained on; new ones will do worse."] if both else []
    )


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


def _told(seen: _Seen) -> Iterator[tuple[str, Markup]]:
    """The sections that the model's predictions give."""
    import torch

    from etude.recipes.reported_texts import first_chunk, shown_texts
    from etude.runs import page
    from etude.runs.findings import findings, layers
    from etude.text.reader import TextReader
    from etude.training.activations import activation_statistics

    if seen.notes:
        yield "What it was measured on", page.join(page.paragraph(note) for note in seen.notes)
    of_texts = isinstance(seen.learner.data.read, TextReader)
    samples: Samples = shown_texts(seen.learner, seen.loader, seen.names) if of_texts else _shown(seen)
    yield from findings(seen.found, samples)
    batch = next(iter(seen.loader.batches(0, torch.device("cpu"))))
    batch = first_chunk(seen.learner, batch) if of_texts else batch
    yield "Layer by layer", layers(activation_statistics(seen.learner, batch))


def _shown(seen: _Seen) -> Pictures:
    """How the pictures are shown; each is read when it is asked for."""
    from etude.errors import ConfigError
    from etude.runs.shown import Pictures
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
    except ConfigError:
        return Pictures(plain, None, "", seen.names, first.shape[-1])
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


def _of_language_model(
    record: RunRecord, learner: Learner, asked: AskedData, notes: list[str], say: Callable[[str], None]
) -> Looked:
    """Its perplexity, and some texts that it writes."""
    import math

    from etude.recipes import labeled_texts, reported_texts
    from etude.runs import page
    from etude.runs.text import many

    trained = Trained.of(str(record.folder))
    texts = asked.texts(_source(record, trained, asked, "texts"))
    loader = labeled_texts.stream_of(learner, trained, texts, asked.on_bad_data)
    say(f"looking at what {record.folder} makes of {many(len(loader), 'batch')} of tokens")
    with _progress(loader, quiet=asked.quiet) as watched:
        loss = learner.evaluate(watched)["loss"]
    names = list(loader.store.names)
    notes = [*notes, f"Measured on {loader.num_targets:,} tokens of {many(len(names), 'text')} of {texts.data}."]
    notes += _seen_before(names, trained, texts, labeled=False)
    told = page.join(page.paragraph(note) for note in notes)
    sections = [("What it was measured on", told), *reported_texts.written(learner, loss)]
    return Looked(perplexity=math.exp(loss), samples=len(names), sections=sections)
