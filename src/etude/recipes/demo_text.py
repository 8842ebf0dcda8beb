"""The demo of texts: learn English from the documentation of Python itself, in a minute or two, without a download."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etude.recipes import baselines
from etude.recipes.docstrings import DOCSTRINGS, TOPICS, folder_of_docstrings
from etude.recipes.options import Precision as Precision
from etude.recipes.options import RunOptions, teller
from etude.recipes.several import Several, run_all
from etude.recipes.text_options import LabeledTextOptions, TextModelOptions, UlmfitOptions
from etude.recipes.text_training import TextTraining
from etude.recipes.ulmfit import classifier_of, stages, summarize, table

if TYPE_CHECKING:
    from etude.types import Json


@dataclass(frozen=True, kw_only=True)
class DemoTextOptions(UlmfitOptions):
    """How the demo trains."""

    lm_epochs: int = 2
    lm_lr: float = 1e-2
    lm_drop_mult: float = 0.5
    lr: float = 1e-2
    all_lr: float | None = 5e-3
    epochs: int = 12
    batch_size: int = 32
    bptt: int = 50


@dataclass(frozen=True, kw_only=True)
class DemoTextModelOptions(TextModelOptions):
    """How large the demo's model is."""

    embed_dim: int = 200
    num_layers: int = 1
    drop_mult: float = 1.0


_DATA = LabeledTextOptions(data=DOCSTRINGS, min_freq=3, max_length=150)


def demo_text(
    model: DemoTextModelOptions = DemoTextModelOptions(),  # frozen
    train: DemoTextOptions = DemoTextOptions(),
    run: RunOptions = RunOptions(),  # noqa: B008
) -> dict[str, Json]:
    """Train a language model on the documentation strings of Python's library, then a classifier of their topics.

    Both are measured on texts that they have not seen, beside what simpler ways come to on the same words.

    Args:
        model: how large it is.
        train: how to train.
        run: where results go.

    Returns:
        As `etude.recipes.ulmfit.ulmfit`, with `"trigram_perplexity"`, `"bag_of_words_accuracy"` and
        `"majority_accuracy"`.
    """
    baselines.check_sklearn()
    several = stages("demo-text", _DATA, None, None, model, train)
    teller(run)(
        f"the documentation strings of Python {platform.python_version()}'s library: a language model learns their "
        f"English, a classifier to tell {len(TOPICS)} topics apart"
    )
    return run_all(several, "demo-text", run)


def conclude(
    several: Several, folder: Path, results: Mapping[str, dict[str, Json]], say: Callable[[str], None]
) -> dict[str, Json]:
    """The stages beside simpler ways."""
    from etude.training.saving import write_json

    name = classifier_of(several)
    first = next(iter(several.parts.values()))
    assert isinstance(first, TextTraining)
    majority, bag = baselines.bag_of_words(folder_of_docstrings(labeled=True))
    summary = {
        **summarize(several, folder, results),
        "trigram_perplexity": baselines.trigram(first),
        "bag_of_words_accuracy": bag,
        "majority_accuracy": majority,
        "python": platform.python_version(),
    }
    write_json(folder / "result.json", summary)
    say("\n" + "\n".join([*table(summary), "", *_beside(summary)]))
    say(f"\nlook at {folder / name / 'curves.png'}; each stage is a run in {folder}")
    say(f'next: etude generate {folder / next(iter(several.parts))} "Return the"')
    return summary


def _beside(summary: Mapping[str, Json]) -> list[str]:
    return [
        f"perplexity {summary['perplexity']:.1f}; of a trigram model on the same words "
        f"{summary['trigram_perplexity']:.1f}",
        f"accuracy {summary['valid_accuracy']:.1%}; of logistic regression on the words "
        f"{summary['bag_of_words_accuracy']:.1%}, of always the most frequent topic {summary['majority_accuracy']:.1%}",
    ]
