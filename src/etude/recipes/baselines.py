"""What simpler ways come to on the texts of a training: the marks that it has to beat."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from etude.recipes.text_training import TextTraining


def trigram(training: TextTraining) -> float:
    """The perplexity of a trigram model on the very tokens that a language model is validated on."""
    from etude.recipes import texts
    from etude.recipes.trigram import trigram_perplexity

    data = texts.loaders(training.data, training.train, training.source, quiet=True)
    train, valid = (_stream(loader) for loader in (data.train, data.valid))
    return trigram_perplexity(train, valid, data.num_classes)


def _stream(loader: Any) -> NDArray[np.int64]:
    """The tokens of an epoch, in the order of their texts."""
    import torch

    batches: list[Any] = list(loader.batches(0, torch.device("cpu")))
    first = torch.cat([batch.inputs["tokens"] for batch in batches], 1)
    # a row's last target is the first token of the next row
    tokens: NDArray[np.int64] = torch.cat([first.flatten(), batches[-1].targets[-1, -1:]]).numpy()
    return tokens


def check_sklearn() -> None:
    """Refuse to begin what would end without scikit-learn; raises `ConfigError`."""
    from etude.errors import ConfigError

    if importlib.util.find_spec("sklearn") is None:
        raise ConfigError("the demo compares with scikit-learn; install it: pip install 'etude[demo]'")


def bag_of_words(folder: Path) -> tuple[float, float]:
    """How often the most frequent label is right, and logistic regression on the weighted words of the texts.

    Args:
        folder: with train.jsonl and valid.jsonl, whose lines have "text" and "label".

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    check_sklearn()
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    (texts, labels), (held_texts, held_labels) = (_rows(folder / f"{side}.jsonl") for side in ("train", "valid"))
    most = Counter(labels).most_common(1)[0][0]
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    # its one setting is chosen on the training texts
    model = GridSearchCV(LogisticRegression(max_iter=1000), {"C": [3, 10, 30]}, cv=3)
    model.fit(vectorizer.fit_transform(texts), labels)
    return held_labels.count(most) / len(held_labels), float(model.score(vectorizer.transform(held_texts), held_labels))


def _rows(path: Path) -> tuple[list[str], list[str]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["text"] for row in rows], [row["label"] for row in rows]
