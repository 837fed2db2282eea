r"""Nonconformity scores of labels, from class probabilities. Larger is stranger.

Symbols, for one row: p_y the probabilities, y = 0, ..., K - 1; a label j comes before y
if p_j > p_y, or p_j = p_y and j < y; o_y the rank from 1, so o_y - 1 labels come
before; r_y the mass of a label; b_y the sum of the masses before y; u in [0, 1].

=======  =========================================  ===========================
score    randomized                                 deterministic, u = 1
=======  =========================================  ===========================
lac                                                 1 - p_y
margin                                              max over j != y of p_j - p_y
aps      b_y + u r_y                                b_y + r_y
raps     b_y + u r_y + penalty max(0, o_y - k_reg)  with b_y + r_y
topk     o_y - 1 + u                                o_y
saps     u p_max                      if o_y = 1    p_max
         p_max + (o_y - 2 + u) step  otherwise      p_max + (o_y - 1) step
=======  =========================================  ===========================

A label is in a set exactly when its own score is at most the threshold, and the score
is the same float whether it was computed alone, in a sorted row or bucket by bucket:

1. The mass is r = (p + 1) - 1 in float64. For 0 <= p the sum p + 1 is rounded to a
   multiple of 2^-52 and subtracting 1 from it is exact, so r is a multiple of 2^-52 at
   most 2^-53 (p < 1) away from p. A multiple of 2^-52 below 2 has at most 53 bits:
   rows sum to 1.001 at most, so every partial sum of masses is a float, every addition
   and subtraction of masses is exact, and their order does not matter. The order of
   the labels is that of p itself.
2. The floats of the scores do not decrease in the rank, hence a set is a prefix of the
   ranking. Rounding is monotone. For successive labels with masses r, r' and sums b,
   b' = b + r: fl(u r) <= r, as r is a float, so fl(b + fl(u r)) <= b' <=
   fl(b' + fl(u r')); the penalty does not decrease and adding it is monotone. For saps
   likewise fl(u p_max) <= p_max <= fl(p_max + fl(fl(o - 2 + u) step)).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from uqlib._core.kernels import compiled_kernels
from uqlib._typing import BoolArray, FloatArray

IntArray = NDArray[np.intp]

# So many probabilities are worked on at once.
_BLOCK = 2**17


class LabelScore(Protocol):
    """A nonconformity score of labels; `u` and `threshold` are one a row."""

    def labels(self, proba: FloatArray, y: IntArray, u: FloatArray) -> FloatArray:
        """Return the score of one label a row, shape (n_samples,)."""

    def matrix(self, proba: FloatArray, u: FloatArray) -> FloatArray:
        """Return the score of every label, shape (n_samples, n_classes)."""

    def sets(
        self, proba: FloatArray, threshold: FloatArray, u: FloatArray
    ) -> BoolArray:
        """Return where the score is at most the threshold, the same shape."""


class ColumnScore:
    """A score that takes no ranks: all labels at once, block by block."""

    def block(self, proba: FloatArray, u: FloatArray) -> FloatArray:
        """Return the scores of a float64 block of rows, shape (n_rows, n_classes)."""
        raise NotImplementedError

    def labels(self, proba: FloatArray, y: IntArray, u: FloatArray) -> FloatArray:
        """Return the score of one label a row, shape (n_samples,)."""
        scores = np.empty(len(proba))
        for rows, block in row_blocks(proba):
            scores[rows] = take_labels(self.block(block, u[rows]), y[rows])
        return scores

    def matrix(self, proba: FloatArray, u: FloatArray) -> FloatArray:
        """Return the score of every label, shape (n_samples, n_classes)."""
        scores = np.empty(proba.shape)
        for rows, block in row_blocks(proba):
            scores[rows] = self.block(block, u[rows])
        return scores

    def sets(
        self, proba: FloatArray, threshold: FloatArray, u: FloatArray
    ) -> BoolArray:
        """Return where the score is at most the threshold, the same shape."""
        inside = np.empty(proba.shape, dtype=np.bool_)
        for rows, block in row_blocks(proba):
            scores = self.block(block, u[rows])
            np.less_equal(scores, threshold[rows, None], out=inside[rows])
        return inside


@dataclass(frozen=True)
class LacScore(ColumnScore):
    """One minus the probability of the label."""

    def block(self, proba: FloatArray, u: FloatArray) -> FloatArray:
        """Return the scores of a block."""
        return 1.0 - proba

    def labels(self, proba: FloatArray, y: IntArray, u: FloatArray) -> FloatArray:
        """Return the score of one label a row, shape (n_samples,)."""
        return 1.0 - take_labels(proba, y).astype(np.float64)


@dataclass(frozen=True)
class MarginScore(ColumnScore):
    """The largest probability of another label, minus that of the label."""

    def block(self, proba: FloatArray, u: FloatArray) -> FloatArray:
        """Return the scores of a block; a label without others is compared to 0."""
        rows, top = np.arange(len(proba)), np.argmax(proba, axis=1)
        others = proba.copy()
        others[rows, top] = 0.0  # no probability is lower
        scores = proba[rows, top, None] - proba
        scores[rows, top] = others.max(axis=1) - proba[rows, top]
        return scores


class RankedScore(ColumnScore):
    """A score that follows the ranking: its floats do not decrease in the rank."""

    takes_top: ClassVar[bool] = False

    def formula(self, before: Any, own: Any, rank: Any, top: Any, u: Any) -> FloatArray:
        """Return the score from b, r, o, p_max and u, which broadcast."""
        raise NotImplementedError

    def block(self, proba: FloatArray, u: FloatArray) -> FloatArray:
        """Return the scores of a block, from its sorted rows."""
        order = np.argsort(-proba, axis=1, kind="stable")
        own = np.take_along_axis(_masses(proba), order, axis=1)
        before = np.cumsum(own, axis=1) - own
        rank = np.arange(1, proba.shape[1] + 1)
        top = proba.max(axis=1, keepdims=True)
        scores = np.empty_like(own)
        ranked = self.formula(before, own, rank, top, u[:, None])
        np.put_along_axis(scores, order, ranked, axis=1)
        return scores

    def labels(self, proba: FloatArray, y: IntArray, u: FloatArray) -> FloatArray:
        """Return the score of one label a row, in one pass without a sort."""
        before, n_before = _sum_before(proba, y)
        own = _masses(take_labels(proba, y).astype(np.float64))
        # A pass over all probabilities, for the one score that looks at the largest.
        top = proba.max(axis=1).astype(np.float64) if self.takes_top else 0.0
        return self.formula(before, own, n_before + 1, top, u)


@dataclass(frozen=True)
class MassScore(RankedScore):
    """Cumulative mass, with a penalty on ranks above k_reg."""

    k_reg: int = 0
    penalty: float = 0.0

    def formula(self, before: Any, own: Any, rank: Any, top: Any, u: Any) -> FloatArray:
        """Return the score from b, r, o, p_max and u, which broadcast."""
        excess = np.maximum(0.0, rank - self.k_reg)
        return np.asarray(before + u * own + self.penalty * excess)

    def sets(
        self, proba: FloatArray, threshold: FloatArray, u: FloatArray
    ) -> BoolArray:
        """Return where the score is at most the threshold, the same shape."""
        kernels = compiled_kernels("sets", proba.size)
        if kernels is None:
            return super().sets(proba, threshold, u)
        inside: BoolArray = kernels.mass_sets(
            proba, threshold, u, self.k_reg, self.penalty
        )
        return inside


class StepScore(RankedScore):
    """A score of the rank and the largest probability alone."""

    def sets(
        self, proba: FloatArray, threshold: FloatArray, u: FloatArray
    ) -> BoolArray:
        """Return where the score is at most the threshold, the same shape."""
        kernels = compiled_kernels("sets", proba.size)
        if kernels is None:
            return super().sets(proba, threshold, u)
        rank = np.arange(1, proba.shape[1] + 1)
        size = np.empty(len(proba), dtype=np.intp)
        for rows, block in row_blocks(proba):
            top = block.max(axis=1, keepdims=True)
            scores = self.formula(0.0, 0.0, rank, top, u[rows, None])
            size[rows] = np.count_nonzero(scores <= threshold[rows, None], axis=1)
        inside: BoolArray = kernels.top_sets(proba, size)
        return inside


@dataclass(frozen=True)
class TopScore(StepScore):
    """The rank."""

    def formula(self, before: Any, own: Any, rank: Any, top: Any, u: Any) -> FloatArray:
        """Return the score from b, r, o, p_max and u, which broadcast."""
        return np.asarray((rank - 1) + u)


@dataclass(frozen=True)
class SortedScore(StepScore):
    """The largest probability, and a constant for every further rank."""

    rank_weight: float
    takes_top: ClassVar[bool] = True

    def formula(self, before: Any, own: Any, rank: Any, top: Any, u: Any) -> FloatArray:
        """Return the score from b, r, o, p_max and u, which broadcast."""
        further = top + ((rank - 2) + u) * self.rank_weight
        return np.asarray(np.where(rank == 1, u * top, further))


def row_blocks(proba: FloatArray) -> Iterator[tuple[slice, FloatArray]]:
    """Yield blocks of rows as float64.

    Parameters
    ----------
    proba : ndarray of shape (n_samples, n_classes)
        Class probabilities.

    Yields
    ------
    rows : slice
        The rows of the block.
    block : ndarray of shape (n_rows, n_classes)
        Their probabilities.
    """
    n_rows = max(1, _BLOCK // proba.shape[1])
    for start in range(0, len(proba), n_rows):
        rows = slice(start, start + n_rows)
        yield rows, proba[rows].astype(np.float64, copy=False)


def take_labels(matrix: FloatArray, y: IntArray) -> FloatArray:
    """Return the entry of one column of each row.

    Parameters
    ----------
    matrix : ndarray of shape (n_samples, n_classes)
        Anything.
    y : ndarray of shape (n_samples,)
        Columns.

    Returns
    -------
    ndarray of shape (n_samples,)
        The entries.
    """
    entries: FloatArray = matrix[np.arange(len(matrix)), y]
    return entries


def _masses(proba: FloatArray) -> FloatArray:
    return (proba + 1.0) - 1.0


def _sum_before(proba: FloatArray, y: IntArray) -> tuple[FloatArray, IntArray]:
    """Return the mass and the number of the labels before one label of each row."""
    kernels = compiled_kernels("sets", proba.size)
    if kernels is not None:
        sums: tuple[FloatArray, IntArray] = kernels.label_masses(proba, y)
        return sums
    before = np.empty(len(proba))
    n_before = np.empty(len(proba), dtype=np.intp)
    columns = np.arange(proba.shape[1])
    for rows, block in row_blocks(proba):
        label = y[rows, None]
        own = np.take_along_axis(block, label, axis=1)
        first = (block > own) | ((block == own) & (columns < label))
        before[rows] = np.where(first, _masses(block), 0.0).sum(axis=1)
        n_before[rows] = np.count_nonzero(first, axis=1)
    return before, n_before
