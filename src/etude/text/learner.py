"""Learners for texts, each in one call: a language model, and a classifier on its encoder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias, TypeVar

import torch
from torch import nn

from etude.data.loaders import DataLoaders
from etude.errors import ConfigError
from etude.metrics import perplexity
from etude.optim import OptimizerFactory, adamw
from etude.text.awd_lstm import AWDLSTM
from etude.text.batching import BucketLoader, StreamLoader
from etude.text.classifier import TextClassifier
from etude.text.dropout import Dropouts
from etude.text.head import AdaptiveDecoder, HeadPrecision
from etude.text.language_model import LanguageModel, LanguageModelLoss
from etude.text.language_model import accuracy as next_token_accuracy
from etude.text.objective import ClassWeights, loss_for, metrics_for
from etude.text.reader import TextReader
from etude.text.special import PAD
from etude.text.transfer import Pretrained, take_over
from etude.text.transfer import pretrained as pretrained_from
from etude.training.average import EMA
from etude.training.callback import Callback
from etude.training.callbacks.clip import ClipGradNorm
from etude.training.learner import Learner
from etude.training.precision import Precision

_Model = TypeVar("_Model", bound=nn.Module)

LM_DROPOUTS: Final = Dropouts(output=0.1, hidden=0.15, input=0.25, embed=0.02, weight=0.2)
"""Of a language model. Source: SPEC R17."""
CLASSIFIER_DROPOUTS: Final = Dropouts(output=0.4, hidden=0.3, input=0.4, embed=0.05, weight=0.5)
"""Of a classifier; the output's is that of its head. Source: SPEC R26."""
_SIZES: Final = {"embed_dim": 400, "hidden_dim": 1152, "num_layers": 3}
"""ULMFiT's."""
Source: TypeAlias = Learner | str | os.PathLike[str]
"""A learner, or the folder of a run or saved model."""


def language_model(
    data: DataLoaders,
    *,
    pretrained: Source | None = None,
    embed_dim: int | None = None,
    hidden_dim: int | None = None,
    num_layers: int | None = None,
    drop_mult: float = 1.0,
    dropouts: Dropouts = LM_DROPOUTS,
    head: HeadPrecision = "fp32",
    cutoffs: Sequence[int] | None = None,
    ar: float = 2.0,
    tar: float = 1.0,
    clip: float | None = 0.1,
    optimizer: OptimizerFactory | None = None,
    callbacks: Sequence[Callback] = (),
    precision: str | Precision = "fp32",
    average: EMA | None = None,
    accumulate: int = 1,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Learner:
    """A learner of an AWD-LSTM that predicts the next token; shows perplexity and accuracy in validation.

    Args:
        data: from `text.load` without labels.
        pretrained: a language model to go on from: its layers, and of its words those that come here too; the others
            begin as the mean of all. `etude.training.tuning.corpus_phases` is how the notes train it then.
        embed_dim: width of word vectors; None is the pretrained model's, else ULMFiT's 400.
        hidden_dim: width of the layers in between; None is the pretrained model's, else ULMFiT's 1152.
        num_layers: LSTM layers; None is the pretrained model's, else ULMFiT's 3.
        drop_mult: what all dropouts are multiplied by: less for much text, more for little.
        dropouts: the five probabilities.
        head: "bf16" computes the scores of all words in bfloat16 in training.
        cutoffs: word numbers at which clusters of rare words begin, for an adaptive softmax; None is the pretrained
            model's, else scores all words.
        ar: weight of the penalty on large outputs, in training.
        tar: weight of the penalty on outputs that change fast, in training.
        clip: the longest gradient; None leaves it alone.
        optimizer: instead of `text_adam()`.
        callbacks: after the clipping.
        precision: "fp32", which is fastest for an LSTM on a CPU; see `Learner`.
        average: `EMA(...)`: evaluate, predict and save with the average of the weights over the steps.
        accumulate: batches per update.
        device: "auto", or a named one.
        progress: show a bar and the epoch table.

    Raises:
        ConfigError: the data have labels, or the pretrained model reads the other way or has other sizes.

    Source: SPEC R9-R19.
    """
    sizes = {"embed_dim": embed_dim, "hidden_dim": hidden_dim, "num_layers": num_layers}
    model = _language_model(data, pretrained, sizes, dropouts.scaled(drop_mult), cutoffs)
    return Learner(
        model,
        data,
        LanguageModelLoss(ar, tar, head=head),
        optimizer or text_adam(),
        metrics=[perplexity, next_token_accuracy],
        callbacks=_with_clipping(clip, callbacks),
        precision=precision,
        average=average,
        accumulate=accumulate,
        device=device,
        progress=progress,
    )


def classifier(
    data: DataLoaders,
    *,
    encoder: Source | None = None,
    embed_dim: int | None = None,
    hidden_dim: int | None = None,
    num_layers: int | None = None,
    drop_mult: float = 1.0,
    dropouts: Dropouts = CLASSIFIER_DROPOUTS,
    hidden: int = 50,
    bptt: int = 70,
    max_backprop: int = 1400,
    label_smoothing: float = 0.0,
    class_weights: ClassWeights = None,
    clip: float | None = 0.1,
    optimizer: OptimizerFactory | None = None,
    callbacks: Sequence[Callback] = (),
    precision: str | Precision = "fp32",
    average: EMA | None = None,
    accumulate: int = 1,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Learner:
    """A learner of one class for each text; shows accuracy and cross entropy.

    Args:
        data: from `text.load` with labels.
        encoder: a language model whose layers and words are taken over, see `language_model`; None begins from nothing.
            `learner.fine_tune` and `etude.training.tuning.ulmfit_phases` train the new head first.
        embed_dim: width of word vectors; None is the encoder's, else ULMFiT's 400.
        hidden_dim: width of the layers in between; None is the encoder's, else ULMFiT's 1152.
        num_layers: LSTM layers; None is the encoder's, else ULMFiT's 3.
        drop_mult: what all dropouts are multiplied by.
        dropouts: the five probabilities; that of the output is the head's.
        hidden: width of the layer between encoder and classes.
        bptt: tokens that are read at once; see `TextClassifier`.
        max_backprop: tokens at the end of each text that train the encoder; see `TextClassifier`.
        label_smoothing: 0 is plain cross entropy.
        class_weights: "balanced" makes every class count as much in the loss, however rare; or one weight for each
            class. Balanced accuracy and macro F1 are then shown too.
        clip: the longest gradient; None leaves it alone.
        optimizer: instead of `text_adam()`.
        callbacks: after the clipping.
        precision: "fp32", which is fastest for an LSTM on a CPU; see `Learner`.
        average: `EMA(...)`: evaluate, predict and save with the average of the weights over the steps.
        accumulate: batches per update.
        device: "auto", or a named one.
        progress: show a bar and the epoch table.

    Raises:
        ConfigError: the data have no labels, or the encoder reads the other way or has other sizes.

    Source: SPEC R20-R26.
    """
    sizes = {"embed_dim": embed_dim, "hidden_dim": hidden_dim, "num_layers": num_layers}
    head = {"hidden": hidden, "bptt": bptt, "max_backprop": max_backprop}
    return Learner(
        _classifier(data, encoder, sizes, dropouts.scaled(drop_mult), head),
        data,
        loss_for(data, label_smoothing, class_weights),
        optimizer or text_adam(),
        metrics=metrics_for(unequal=class_weights is not None),
        callbacks=_with_clipping(clip, callbacks),
        precision=precision,
        average=average,
        accumulate=accumulate,
        device=device,
        progress=progress,
    )


def text_adam() -> OptimizerFactory:
    """Adam as the notes train texts with it: without weight decay.

    Its first beta holds for a `fit` without a schedule. One cycle sets its own, 0.95 to 0.85, unless `fit` is given
    that of the notes, `momentum=(0.8, 0.7)`, as the phases in `etude.training.tuning` are.

    Source: SPEC A13, R17.
    """
    return adamw(betas=(0.8, 0.99), eps=1e-5, weight_decay=0.0)


def _language_model(
    data: DataLoaders,
    pretrained: Source | None,
    asked: Mapping[str, int | None],
    dropouts: Dropouts,
    cutoffs: Sequence[int] | None,
) -> LanguageModel:
    read, source = _reader(data, StreamLoader), None if pretrained is None else pretrained_from(pretrained)
    sizes = _sizes(asked, source)
    if source is not None and "cutoffs" not in source.config:
        raise ConfigError(f"{source.name} is no language model; only a classifier can begin from it: text.classifier")
    if source is not None and cutoffs is None:
        cutoffs = source.config["cutoffs"]

    def make() -> LanguageModel:
        encoder = _encoder(read, sizes, dropouts)
        if cutoffs is None:
            return LanguageModel(encoder)
        return LanguageModel(encoder, AdaptiveDecoder(encoder.vocab_size, encoder.embed_dim, tuple(cutoffs)))

    model = _begun(make, data, source, read, whole=True)
    if isinstance(data.train, StreamLoader):
        # a checkpoint holds the carried state of so many rows
        model.carry(data.train.sampling.batch_size)
    return model


def _classifier(
    data: DataLoaders,
    encoder: Source | None,
    asked: Mapping[str, int | None],
    dropouts: Dropouts,
    head: Mapping[str, int],
) -> TextClassifier:
    read, source = _reader(data, BucketLoader), None if encoder is None else pretrained_from(encoder)
    sizes = _sizes(asked, source)

    def make() -> TextClassifier:
        body = _encoder(read, sizes, replace(dropouts, output=0.0))
        return TextClassifier(body, data.num_classes, output_p=dropouts.output, **head)

    return _begun(make, data, source, read, whole=False)


def _reader(data: DataLoaders, kind: type[StreamLoader] | type[BucketLoader]) -> TextReader:
    """How the data read texts; raises `ConfigError` if they are those of another kind of model."""
    loaders = [loader for loader in (data.train, data.valid) if loader is not None]
    if not isinstance(data.read, TextReader) or not all(isinstance(loader, kind) for loader in loaders):
        needed, how = ("a language model", "without") if kind is StreamLoader else ("a classifier", "with")
        raise ConfigError(
            f"{needed} needs data of text.load(...) {how} labels, got {data.description or type(data.train).__name__}"
        )
    return data.read


def _sizes(asked: Mapping[str, int | None], source: Pretrained | None) -> dict[str, int]:
    """The sizes of the encoder; raises `ConfigError` for others than those of the one that is taken over."""
    own = _SIZES if source is None else {name: source.encoder[name] for name in _SIZES}
    sizes = {name: own[name] if value is None else value for name, value in asked.items()}
    if source is not None and sizes != own:
        raise ConfigError(f"{source.name} has the sizes {own}, which cannot be changed to {sizes}; leave them out")
    return sizes


def _encoder(read: TextReader, sizes: Mapping[str, int], dropouts: Dropouts) -> AWDLSTM:
    return AWDLSTM(len(read.vocab), **sizes, pad=read.vocab.number(PAD), dropouts=dropouts)


def _begun(
    make: Callable[[], _Model], data: DataLoaders, source: Pretrained | None, read: TextReader, *, whole: bool
) -> _Model:
    """A model whose new weights depend on the data's seed alone, with what is taken over; says what that is."""
    with torch.random.fork_rng([]):
        torch.manual_seed(data.seed or 0)
        model = make()
    if source is not None:
        print(take_over(model, source, read, whole=whole))
    return model


def _with_clipping(clip: float | None, callbacks: Sequence[Callback]) -> list[Callback]:
    return [*([ClipGradNorm(clip)] if clip else []), *callbacks]
