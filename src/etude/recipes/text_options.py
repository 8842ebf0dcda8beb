"""The options of trainings on texts; what they share with other trainings is in `options`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from etude.recipes.options import FitOptions, Options, Precision, SourceOptions

TokenizerName = Literal["words", "subwords", "spacy", "characters", "spaces"]


@dataclass(frozen=True, kw_only=True)
class TextOptions(SourceOptions):
    """Which texts, and how they are read."""

    data: str | None = None
    """A folder of .txt files, an archive, a .csv or .jsonl, WikiText files, or a data set (see: etude data list)."""
    text_column: str | None = None
    """The column of a table that holds the texts; found by its name unless said."""
    valid_pct: float | None = None
    """Share of the texts held out, such as 0.1, instead of what they hold out themselves; a language model takes it of
    all text files."""
    split_seed: int = 42
    """Which texts --valid-pct holds out: the same for every --seed, so that runs can be compared."""
    tokenizer: TokenizerName = "words"
    """words cuts as one reads English; subwords learns frequent pieces from the training texts, for any language; spacy
    asks spaCy; characters and spaces are for other sequences than words."""
    max_vocab: int = 60_000
    """At most so many tokens are known, the most frequent ones."""
    min_freq: int = 2
    """Tokens that are rarer are unknown."""
    backward: bool = False
    """Read every text from its end to its beginning."""


@dataclass(frozen=True, kw_only=True)
class LabeledTextOptions(TextOptions):
    """Which labeled texts, and how they are read."""

    label: str | None = None
    """Where a label comes from: parent (the folder), top (the first folder), a column of a table, or a regular
    expression with one group. Unset: the column label of a table, else parent."""
    max_length: int | None = None
    """Longer texts are cut after so many tokens."""


@dataclass(frozen=True, kw_only=True)
class TextModelOptions(Options):
    """Which AWD-LSTM. The defaults are the notes' small model, for laptops; the paper's is 400, 1152 and 3."""

    embed_dim: int = 300
    """Numbers that a token becomes."""
    hidden_dim: int = 300
    """Width of the LSTM layers; the last one has --embed-dim."""
    num_layers: int = 2
    """LSTM layers."""
    drop_mult: float = 0.5
    """What the five dropouts are multiplied by: less for many texts and few epochs, more for few texts and many."""


@dataclass(frozen=True, kw_only=True)
class TextTrainOptions(FitOptions):
    """How to train on texts."""

    epochs: int = 5
    """Passes over the texts with everything trainable."""
    batch_size: int = 64
    """Texts per step; for a language model, streams of text that are read side by side."""
    bptt: int = 70
    """Tokens of each that are read at once: how far a gradient reaches back."""
    momentum: tuple[float, float] = (0.8, 0.7)
    """Adam's first beta at both ends of the one-cycle schedule, and at the peak of the learning rate."""
    clip: float = 0.1
    """Longest gradient of a step; 0 does not clip."""
    freeze_epochs: int = 1
    """Where a trained language model is taken over: epochs of each phase in which part of it stands still."""
    weight_decay: float = 0.0
    """Decoupled weight decay; norms and biases are left out. The notes have none."""
    precision: Precision = "fp32"
    """Number format of the model's computation; auto measures which is fastest, fp16 apart."""


@dataclass(frozen=True, kw_only=True)
class LanguageModelTrainOptions(TextTrainOptions):
    """How to train a language model."""

    pct_start: float | None = None
    """Share of the training in which the learning rate goes up. Unset: 0.3, and of each phase of --from 0.5."""
    lr: float = 5e-3
    """Peak learning rate. With --from four times that for the embedding alone, then two fifths for it, a fifth for
    the LSTMs."""
    ar: float = 2.0
    """Weight of the penalty on large activations."""
    tar: float = 1.0
    """Weight of the penalty on activations that change fast."""


@dataclass(frozen=True, kw_only=True)
class ClassifierTrainOptions(TextTrainOptions):
    """How to train a classifier of texts."""

    epochs: int = 2
    """Passes over the texts with everything trainable."""
    pct_start: float = 0.3
    """Share of each phase in which the learning rate goes up."""
    lr: float = 1e-2
    """Peak learning rate of the head while it trains alone; half of it with the last LSTM, then a tenth."""
    all_lr: float | None = None
    """Peak learning rate of everything in the last phase. Unset: a tenth of --lr for the head, half as much for each
    layer before it, which suits a language model of much text; one of little text has more to learn."""


@dataclass(frozen=True, kw_only=True)
class UlmfitOptions(ClassifierTrainOptions):
    """How to train language model and classifier; what both have is said once."""

    lm_epochs: int = 5
    """Passes of the language model over the texts."""
    lm_lr: float = 5e-3
    """Peak learning rate of the language model, as --lr of etude lm."""
    lm_pct_start: float | None = None
    """As --pct-start of etude lm; --pct-start is the classifier's."""
    lm_drop_mult: float = 0.5
    """What the dropouts of the language model are multiplied by; --drop-mult is the classifier's."""
