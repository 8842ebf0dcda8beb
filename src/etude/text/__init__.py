"""Texts: data, models and the learners that put them together."""

from __future__ import annotations

from etude.text.awd_lstm import AWDLSTM as AWDLSTM
from etude.text.classifier import TextClassifier as TextClassifier
from etude.text.data import labeled as labeled
from etude.text.data import load as load
from etude.text.detokenize import detokenize as detokenize
from etude.text.dropout import Dropouts as Dropouts
from etude.text.generate import generate as generate
from etude.text.language_model import LanguageModel as LanguageModel
from etude.text.language_model import LanguageModelLoss as LanguageModelLoss
from etude.text.learner import classifier as classifier
from etude.text.learner import language_model as language_model
from etude.text.pair import Pair as Pair
from etude.text.pair import pair as pair
from etude.text.reader import TextReader as TextReader
from etude.text.tokenize import tokenize as tokenize
from etude.text.transfer import match_words as match_words
