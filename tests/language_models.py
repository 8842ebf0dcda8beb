"""Small language models, batches of text for them, and learners that train one on the other."""

from __future__ import annotations

from functools import partial

import torch

from etude import Learner, optim
from etude.data.loaders import DataLoaders
from etude.data.store import RaggedStore
from etude.metrics import perplexity
from etude.text.awd_lstm import AWDLSTM
from etude.text.batching import StreamLoader
from etude.text.dropout import Dropouts
from etude.text.language_model import LanguageModel, LanguageModelLoss, accuracy
from etude.types import Batch

WORDS, EMBED, HIDDEN, PAD, ROWS, TIME = 20, 6, 10, 1, 3, 5
NONE = Dropouts(0, 0, 0, 0, 0)


def model(dropouts=NONE, decoder=None, seed=0):
    torch.manual_seed(seed)
    made = LanguageModel(AWDLSTM(WORDS, EMBED, HIDDEN, 2, pad=PAD, dropouts=dropouts), decoder)
    made.carry(ROWS)
    return made


def batches(num=4, time=TIME, last=None, rows=ROWS):
    generator = torch.Generator().manual_seed(1)
    made = []
    for i in range(num):
        length = last if last and i == num - 1 else time
        text = torch.randint(2, WORDS, (rows, length + 1), generator=generator)
        starts = torch.full((rows,), i == 0)
        made.append(Batch({"tokens": text[:, :-1], "starts": starts}, text[:, 1:]))
    return made


def streams(seed=3):
    """Six windows an epoch, the last one shorter, over texts in an order of their own in every epoch."""
    store = RaggedStore(
        torch.randint(2, WORDS, (90,), generator=torch.Generator().manual_seed(1)),
        torch.arange(0, 90, 15),
        torch.full((6, 1), 15),
        tuple(map(str, range(6))),
    )
    loader = partial(StreamLoader, store, torch.arange(6), batch_size=ROWS, bptt=TIME, seed=seed)
    return DataLoaders(loader(shuffle=True), loader(), seed=seed)


def learner(callbacks=(), *, data=None, made=None, **options):
    defaults = {"optimizer": optim.adamw(), "metrics": [perplexity, accuracy], "device": "cpu", "progress": False}
    made = made or model(Dropouts(0.1, 0.1, 0.1, 0.1, 0.1))
    return Learner(
        made, data or (batches(), batches(2)), LanguageModelLoss(), callbacks=list(callbacks), **(defaults | options)
    )


def loss_of(preds, targets, training=True, **options):
    return LanguageModelLoss(**options).train(training)(preds, targets)


def output(made, batch):
    return made(**batch.inputs)
