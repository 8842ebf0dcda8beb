"""What a report tells of texts: which words moved a prediction, and what a language model writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from torch import Tensor

    from etude.data.loaders import Loader
    from etude.runs.page import Markup
    from etude.runs.shown import Texts
    from etude.training.learner import Learner
    from etude.types import Batch, Inputs

_PROMPTS: Final = ("", "The")
_WRITTEN: Final = 60
"""Tokens of each text that a language model writes for its report."""
_READINGS: Final = range(10, 101)
_AT_ONCE: Final = 12_000
"""Tokens that are read again to see which words of one text moved the prediction: seconds on a CPU."""
_LONGEST: Final = 2_000
"""Tokens of a text up to which its words are looked at."""


def shown_texts(learner: Learner, loader: Loader, names: Callable[[int], str]) -> Texts:
    """How the texts of a loader are shown, with what moved the learner; each is read when it is asked for."""
    from etude.runs.shown import Texts
    from etude.text.batching import BucketLoader
    from etude.text.interpret import units, word_importance
    from etude.text.reader import TextReader
    from etude.text.special import BOS, EOS

    read = learner.data.read
    assert isinstance(loader, BucketLoader)
    assert isinstance(read, TextReader)

    def ids(position: int) -> Tensor:
        inputs: Any = loader.take([position]).inputs
        tokens: Tensor = inputs["tokens"][0, : int(inputs["lengths"])].cpu()
        return tokens

    def words(position: int) -> list[str]:
        tokens = [read.vocab[number] for number in ids(position).tolist()]
        tokens = [token for token in (tokens[::-1] if read.backward else tokens) if token not in (BOS, EOS)]
        return [_readable(tokens[part]) for part in units(tokens)]

    def moved(position: int) -> list[tuple[str, float]] | None:
        text = ids(position)
        if len(text) > _LONGEST:
            return None
        most = min(max(_AT_ONCE // len(text), _READINGS.start), _READINGS[-1])
        found = word_importance(learner, text, most=most)
        return [(_readable(one.words.split(" ")), one.score) for one in found]

    explanation = (
        "Words that spoke for what the model says stand on a line, those that spoke against it over dots. Each was "
        "left out, in longer texts several in a row at a time; its number is by how much the log-odds of the answer "
        f"fell. Texts of more than {_LONGEST:,} tokens are shown without."
    )
    return Texts(words, moved, explanation, names)


def first_chunk(learner: Learner, batch: Batch) -> Batch:
    """The beginnings of texts, which the model reads at once: so each layer works once, and not once for each chunk."""
    from etude.text.classifier import TextClassifier

    model, inputs = learner.model, batch.inputs
    if not isinstance(model, TextClassifier) or not isinstance(inputs, dict):
        return batch
    beginnings: Inputs = {
        "tokens": inputs["tokens"][:, : model.bptt],
        "lengths": inputs["lengths"].clamp(max=model.bptt),
    }
    return batch._replace(inputs=beginnings)


def _readable(tokens: list[str]) -> str:
    """Tokens as people write them; a break of a line as a sign."""
    from etude.text.detokenize import detokenize

    return " ".join(detokenize(tokens).split()) or "\u00b6"


def written(learner: Learner, loss: float) -> list[tuple[str, Markup]]:
    """Sections of a language model: its perplexity, and some texts that it writes.

    Args:
        learner: of the language model.
        loss: its cross entropy per token.
    """
    import math

    from etude import text
    from etude.runs import page

    facts = [
        ("cross entropy", f"{loss:.4f} per token"),
        ("perplexity", f"{math.exp(loss):.2f}: its exponential, between how many words it seems to waver"),
        ("tokens it knows", f"{learner.data.num_classes:,}"),
    ]
    written = [
        text.generate(learner, prompt, num_tokens=_WRITTEN, seed=seed) for seed, prompt in enumerate(_PROMPTS, 1)
    ]
    words = "Sampled at temperature 0.8; the first from nothing, the others go on from their first word."
    return [
        ("How well it guesses the next word", page.facts(facts)),
        ("What it writes", page.join([page.paragraph(words, "quiet"), *map(page.listing, written)])),
    ]
