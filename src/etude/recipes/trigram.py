"""A model of three words, as a mark that a language model must beat: interpolated modified Kneser-Ney, whole in numpy.

It counts how often each word came after two others. What it takes off these counts, by as much as the counts of counts
say, it gives to a model of two words, which counts not how often a word came after another but after how many; and so
on down to all words alike.

Source: Chen and Goodman 1998, "An empirical study of smoothing techniques for language modeling", section 3.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]
    Probabilities = NDArray[np.float64]

_ORDER = 3


def trigram_perplexity(train: Ids, valid: Ids, vocab_size: int) -> float:
    """The perplexity on held-out words of a trigram model of the training words.

    Args:
        train: the numbers of the training words, in their order.
        valid: of the held-out words; each but the first two is predicted from all that the training words told.
        vocab_size: so many words there are.
    """
    told = np.full(len(valid) - _ORDER + 1, 1 / vocab_size)
    counted = _grams(train, _ORDER, vocab_size)
    # of the longest grams how often they came; of the shorter ones after how many words
    levels = [np.unique(counted, return_counts=True)]
    for order in range(_ORDER - 1, 0, -1):
        levels.append(np.unique(levels[-1][0] % vocab_size**order, return_counts=True))
    asked = _grams(valid, _ORDER, vocab_size)
    for order, (grams, counts) in enumerate(reversed(levels), 1):
        told = _mixed(grams, counts, asked % vocab_size**order, told, vocab_size)
    return math.exp(-float(np.log(told).mean()))


def _grams(words: Ids, order: int, vocab_size: int) -> Ids:
    """Each run of so many words as one number, the last word in its lowest digit."""
    last = len(words) - order + 1
    grams = np.zeros(last, np.int64)
    for i in range(order):
        grams = grams * vocab_size + words[i : i + last]
    return grams


def _mixed(grams: Ids, counts: Ids, asked: Ids, lower: Probabilities, vocab_size: int) -> Probabilities:
    """The probability of the last word of each gram that is asked for.

    Args:
        grams: those that were seen, in their order.
        counts: of each.
        asked: grams.
        lower: what the model of one word less says of each of them.
        vocab_size: so many words there are.
    """
    taken = _discounts(counts)[np.minimum(counts, 3)]
    contexts, place = np.unique(grams // vocab_size, return_inverse=True)
    total, free = np.bincount(place, counts), np.bincount(place, taken)
    kept = _found(grams, counts - taken, asked)
    of = asked // vocab_size
    total_asked = _found(contexts, total, of)
    known = total_asked > 0
    mixed: Any = (kept + _found(contexts, free, of) * lower) / np.where(known, total_asked, 1)
    return np.where(known, mixed, lower)


def _discounts(counts: Ids) -> Probabilities:
    """What is taken off a count of 0, 1, 2, and 3 or more: by how many grams came once, twice, three, four times."""
    ones, twos, threes, fours = (max(int((counts == count).sum()), 1) for count in (1, 2, 3, 4))
    share = ones / (ones + 2 * twos)
    best = [1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes]
    # of few words the counts of counts may say nonsense
    return np.array([0.0, *(min(max(value, 0.1), most) for value, most in zip(best, (1, 2, 3), strict=True))])


def _found(keys: Ids, values: NDArray[Any], asked: Ids) -> Probabilities:
    """The value of each key that is asked for; 0 for one that is not there."""
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[place] == asked, values[place], 0.0)
