"""The main job on real data: blocks that give coverage an exact law.

The rows are cut into 5 random blocks. In split s, block s is halved at random into
calibration and test rows and the other blocks train. Given the blocks as sets, the
halving of one block is independent of that of another, and a model that does not
depend on the order of its training rows depends on the other blocks as sets alone.
Hence the numbers of covered test rows in the splits are independent, and each has the
beta-binomial law of split conformal prediction,

    covered ~ BetaBinomial(n_test, k, n_calibration + 1 - k),   k = ceil((n + 1) p),

if no two scores are equal and no ends of an interval had to be exchanged (otherwise
they can only be larger).
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import betabinom

from uqlib import conformal_rank

N_SPLITS = 5


class Split(NamedTuple):
    """Row numbers of one split; training rows in their original order."""

    train: np.ndarray
    calibration: np.ndarray
    test: np.ndarray


def block_splits(n_samples, seed=0):
    """Return the splits of `n_samples` rows."""
    rng = np.random.default_rng(seed)
    blocks = np.array_split(rng.permutation(n_samples), N_SPLITS)
    splits = []
    for block in blocks:
        train = np.setdiff1d(np.arange(n_samples), block)
        calibration, test = np.array_split(block, 2)
        splits.append(Split(train, calibration, test))
    return splits


def coverage_band(splits, confidence_level, error=1e-6):
    """Return the central range of the sum of covered rows, up to `error`."""
    law = np.ones(1)
    for split in splits:
        n, n_test = len(split.calibration), len(split.test)
        rank = conformal_rank(n, confidence_level)
        counts = np.arange(n_test + 1)
        law = np.convolve(law, betabinom(n_test, rank, n + 1 - rank).pmf(counts))
    below = np.cumsum(law)
    lower = int(np.searchsorted(below, error / 2))
    upper = int(np.searchsorted(below, 1 - error / 2))
    return lower, upper
