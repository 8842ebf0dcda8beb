"""Everything worth knowing of a trained run on one page: what it is, what it gets right and wrong, and why."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from etude.recipes.options import OnBadData, OutputOptions, teller
from etude.recipes.reported import AskedData, Looked, look
from etude.recipes.runs import defaults_of, open_run
from etude.recipes.trained import Trained

if TYPE_CHECKING:
    from etude.runs.read import RunRecord
    from etude.types import Json

_OWN: Final = "report.html"


def report(
    run: str,
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
    output: OutputOptions = OutputOptions(),  # noqa: B008  # frozen
) -> dict[str, Json]:
    """Write one HTML file that stands alone about a run: its record, and what it makes of labeled pictures or texts.

    Without `data` these are those that its training held out, if they still lie where they lay. Whatever cannot be
    opened is named in the report, which then tells the rest. Of a language model it tells its perplexity, and what it
    writes.

    Args:
        run: the run's folder, or its name in runs/.
        data: other labeled pictures or texts: a folder, an archive, a table of texts, or a known data set; what cannot
            be opened raises.
        out: the file to write; None is report.html in the run's folder, or report-DATA.html for data that is not the
            run's own.
        valid_pct: as in `evaluate`.
        split_seed: as in `evaluate`.
        label: as in `evaluate`.
        text_column: as in `evaluate`.
        several: as in `evaluate`.
        on_bad_data: as in `evaluate`.
        device: where the model runs.
        output: whether to print.

    Returns:
        `{"run", "out", "data", "samples", "accuracy", "interval", "calibration_error", "temperature", "missing"}`;
        null what is not known, and in "missing" why; the temperature also where none is best, as where all are right.
        Of a language model "perplexity" too.
    """
    from etude.errors import EtudeError
    from etude.training.device import pick_device

    record = open_run(run)
    pick_device(device)
    say = teller(output)
    asked = AskedData(data, valid_pct, split_seed, label, text_column, several, on_bad_data, output.quiet)
    place = Path(out) if out is not None else record.folder / _name(record, data)
    _refuse(record, place)
    if out is None and place.name != _OWN:
        say(f"these are not the run's own samples, so the report goes to {place}; --out names another file")
    missing: list[str] = []
    looked = Looked()
    try:
        looked = look(record, asked, device, say)
    except (EtudeError, OSError) as error:
        if several or any(given is not None for given in (data, valid_pct, split_seed, label, text_column)):
            raise
        missing.append(str(error))
        say(f"without what the model makes of {record.noun}s: {error}")
    _write(record, place, looked, missing, _command(run, out, asked))
    say(f"look at {place}")
    source = data if data is not None else Trained.of(str(record.folder)).source
    return {"run": run, "out": str(place), "data": source, **_numbers(looked), "missing": [*missing]}


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


def _write(record: RunRecord, place: Path, looked: Looked, missing: list[str], made_by: str) -> None:
    """Put the page together and write it whole or not at all."""
    from etude.runs import page
    from etude.runs.findings import sentences
    from etude.runs.story import again, is_of_language, story, told_result
    from etude.training.durable import replace_text

    said = [page.paragraph(told_result(record))] if looked.found is None else sentences(looked.found)
    if looked.perplexity is not None:
        said.insert(0, page.paragraph(f"Perplexity {looked.perplexity:.1f} on the texts that it was measured on."))
    head = [page.block(said, "verdict")]
    if missing:
        lost = "its perplexity, what it writes" if is_of_language(record) else "classes, calibration, examples"
        words = f"What the model makes of {record.noun}s is missing here ({lost}): "
        head.append(page.block([page.paragraph(words + "; ".join(missing))], "warn"))
    own = list(story(record, defaults_of(record)))
    # what was trained comes first, what went wrong last
    content = [own[0], *looked.sections, *own[1:], ("Make it again", again(record, made_by))]
    recipe = f": {record.recipe}" if record.recipe and record.recipe not in record.name else ""
    title = f"{record.name}{recipe}" + (f" on {record.data}" if record.data else "")
    replace_text(page.page(title, content, head=page.join(head)), place)


def _numbers(looked: Looked) -> dict[str, Json]:
    found = looked.found
    if found is None or found.kind == "numbers":
        samples = looked.samples if found is None else len(found)
        more: dict[str, Json] = {} if looked.perplexity is None else {"perplexity": looked.perplexity}
        nothing = dict.fromkeys(("accuracy", "interval", "calibration_error", "temperature"))
        return {"samples": samples, **nothing, **more}
    return {
        "samples": len(found),
        "accuracy": found.accuracy,
        "interval": list(found.interval),
        "calibration_error": found.calibration.before.ece,
        "temperature": found.calibration.temperature if found.calibration.found else None,
    }


def _command(run: str, out: str | None, asked: AskedData) -> str:
    flags: list[tuple[str, Any]] = [
        ("--data", asked.data),
        ("--valid-pct", asked.valid_pct),
        ("--split-seed", asked.split_seed),
        ("--label", asked.label),
        ("--text-column", asked.text_column),
        ("--out", out),
    ]
    switches = ["--several"] if asked.several else []
    return shlex.join(
        ["etude", "report", run, *switches, *(str(part) for flag in flags if flag[1] is not None for part in flag)]
    )
