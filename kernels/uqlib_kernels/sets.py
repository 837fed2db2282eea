r"""Row kernels on class probabilities: ranks, masses and prediction sets, no full sort.

Labels are ranked by decreasing probability, ties by index. The mass of a set of labels
is the sum of their probabilities, each rounded to a multiple of 2^-52,

.. math:: r(p) = (p + 1) - 1 \quad \text{in float64},

so that every sum below 2 is exact and none depends on the order of its terms: a sum
over buckets, one over a sorted row and one over an unsorted row are bitwise equal.

Every function takes a matrix `proba` of shape (n_samples, n_classes), float32 or
float64 in the machine's byte order and with any strides, and never writes to it. It
must be finite and not negative with rows that sum to less than 2; that is not checked.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._jit import row_jit

__all__ = ["label_masses", "mass_sets", "top_sets"]

# A block of rows as float64 stays in a private cache.
_BLOCK_BYTES = 1 << 18

# A non-negative float orders as the integer of its bits. The 11 bits of the exponent
# and the first 4 of the mantissa are the bucket: 16 an octave, from 2^-54, below which
# a mass is zero and all labels share one bucket, up to 2.
_SHIFT = 48
_LOWEST = (1023 - 54) << 4
_N_BUCKETS = 55 << 4
_ABS = 0x7FFFFFFFFFFFFFFF  # without its sign -0.0 is 0.0
_FEW = 32  # so many labels are sorted by insertion


def label_masses(
    proba: NDArray[Any], y: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    r"""Mass and number of the labels ranked before a label of each row.

    .. math:: b_i = \sum_{j \prec y_i} r(p_{ij}), \qquad
              j \prec y \iff p_{ij} > p_{iy} \text{ or }
              (p_{ij} = p_{iy} \text{ and } j < y).

    Parameters
    ----------
    proba : ndarray of shape (n_samples, n_classes), float32 or float64
        Class probabilities.
    y : ndarray of shape (n_samples,), int
        One column of each row, from 0 to n_classes - 1.

    Returns
    -------
    before : ndarray of shape (n_samples,), float64
        The masses, exact.
    n_before : ndarray of shape (n_samples,), intp
        The numbers of labels; the rank, from 1, is one more.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.sets import label_masses
    >>> label_masses(np.array([[0.25, 0.5, 0.25]]), np.array([2]))
    (array([0.75]), array([2]))
    """
    _check(proba)
    before = np.empty(len(proba))
    n_before = np.empty(len(proba), dtype=np.intp)
    for rows, block in _blocks(proba):
        labels = np.ascontiguousarray(y[rows], dtype=np.intp)
        _sum_before(block, labels, before[rows], n_before[rows])
    return before, n_before


def mass_sets(
    proba: NDArray[Any],
    threshold: NDArray[np.float64],
    u: NDArray[np.float64],
    k_reg: int = 0,
    penalty: float = 0.0,
) -> NDArray[np.bool_]:
    r"""Labels whose penalized cumulative mass is at most a threshold.

    .. math:: b_{ij} + u_i \, r(p_{ij}) + \lambda \max(0, o_{ij} - k) \le t_i,

    with the mass b before a label and its rank o, from 1. Each operation is rounded
    once, in the order written.

    Parameters
    ----------
    proba : ndarray of shape (n_samples, n_classes), float32 or float64
        Class probabilities.
    threshold : ndarray of shape (n_samples,), float64
        The t, infinities included.
    u : ndarray of shape (n_samples,), float64
        Share of its own mass that counts for a label, in [0, 1].
    k_reg : int, default=0
        The k: so many labels are not penalized.
    penalty : float, default=0.0
        The lambda, finite and not negative.

    Returns
    -------
    ndarray of shape (n_samples, n_classes), bool
        The sets.

    Notes
    -----
    The scores do not decrease along the ranking, so a set is a prefix of it. Labels are
    counted and their masses summed by bucket; whole buckets are passed until one may
    hold the end of the set, and only that one is sorted.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.sets import mass_sets
    >>> mass_sets(np.array([[0.25, 0.5, 0.25]]), np.array([0.75]), np.ones(1))
    array([[ True,  True, False]])
    """
    return _sets(proba, threshold, u, k_reg, penalty, 1.0)


def top_sets(proba: NDArray[Any], size: NDArray[Any]) -> NDArray[np.bool_]:
    """Labels of the highest ranks: so many in each row.

    Parameters
    ----------
    proba : ndarray of shape (n_samples, n_classes), float32 or float64
        Class probabilities.
    size : ndarray of shape (n_samples,)
        How many labels.

    Returns
    -------
    ndarray of shape (n_samples, n_classes), bool
        The sets.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.sets import top_sets
    >>> top_sets(np.array([[0.25, 0.5, 0.25]]), np.array([2]))
    array([[ True,  True, False]])
    """
    return _sets(proba, size, np.ones(len(proba)), 0, 1.0, 0.0)


def _sets(
    proba: NDArray[Any],
    threshold: NDArray[Any],
    u: NDArray[np.float64],
    k_reg: int,
    penalty: float,
    weight: float,
) -> NDArray[np.bool_]:
    """Allocate and run block by block; masses are multiplied by `weight`, 0 or 1."""
    _check(proba)
    out = np.empty(proba.shape, dtype=np.bool_)
    mass, count = np.empty(_N_BUCKETS), np.empty(_N_BUCKETS, dtype=np.int64)
    chosen = np.empty(proba.shape[1], dtype=np.int64)
    threshold = np.array(threshold, dtype=np.float64)
    u = np.array(u, dtype=np.float64)
    for rows, block in _blocks(proba):
        keys = block.view(np.int64)
        scale = (float(k_reg), float(penalty), weight)
        buffers = (mass, count, chosen)
        _cut_rows(block, keys, threshold[rows], u[rows], scale, buffers, out[rows])
    return out


def _check(proba: NDArray[Any]) -> None:
    """Refuse what the kernels are not compiled for."""
    if proba.ndim != 2 or proba.dtype not in (np.float32, np.float64):
        raise TypeError(
            "proba must be a 2-D array of float32 or float64 in native byte order, got "
            f"{proba.ndim}-D {proba.dtype}; convert it with "
            "np.asarray(proba, dtype=np.float64)."
        )


def _blocks(proba: NDArray[Any]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Blocks of rows, C-contiguous, float64 and read-only: one layout to compile."""
    n_rows = max(1, _BLOCK_BYTES // max(1, 8 * proba.shape[1]))
    for start in range(0, len(proba), n_rows):
        rows = slice(start, start + n_rows)
        block = np.ascontiguousarray(proba[rows], dtype=np.float64).view()
        block.flags.writeable = False
        yield rows, block


@row_jit
def _sum_before(
    proba: NDArray[np.float64],
    y: NDArray[np.intp],
    before: NDArray[np.float64],
    n_before: NDArray[np.intp],
) -> None:
    """Sum what is ranked before one label of each row, in one pass."""
    for i in range(len(proba)):
        row, own = proba[i], proba[i, y[i]]
        mass, count = 0.0, 0
        for j in range(y[i]):
            first = row[j] >= own
            mass += (row[j] + 1.0) - 1.0 if first else 0.0
            count += first
        for j in range(y[i] + 1, len(row)):
            first = row[j] > own
            mass += (row[j] + 1.0) - 1.0 if first else 0.0
            count += first
        before[i], n_before[i] = mass, count


@row_jit
def _bucket(key: int) -> int:
    return max((key >> _SHIFT) - _LOWEST, 0)


@row_jit
def _sort_labels(row: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
    """Sort labels, given in increasing order, by decreasing probability; stable."""
    if len(labels) > _FEW:
        labels[:] = labels[np.argsort(-row[labels], kind="mergesort")]
        return
    for a in range(1, len(labels)):
        label = labels[a]
        b = a
        while b > 0 and row[labels[b - 1]] < row[label]:
            labels[b] = labels[b - 1]
            b -= 1
        labels[b] = label


@row_jit
def _cut_rows(
    proba: NDArray[np.float64],
    keys: NDArray[np.int64],
    threshold: NDArray[np.float64],
    u: NDArray[np.float64],
    scale: tuple[float, float, float],
    buffers: tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]],
    out: NDArray[np.bool_],
) -> None:
    """Write the sets: the labels up to the last one whose score is small enough."""
    n_samples, n_classes = proba.shape
    k_reg, penalty, weight = scale
    mass, count, chosen = buffers
    for i in range(n_samples):
        mass[:] = 0.0
        count[:] = 0
        for j in range(n_classes):
            b = _bucket(keys[i, j] & _ABS)
            mass[b] += (proba[i, j] + 1.0) - 1.0
            count[b] += 1

        # The set ends at the label `last` with the bits `cut`; -1 if it is full.
        cut, last = np.int64(-1), -1
        before, rank, b = 0.0, 0, _N_BUCKETS
        is_open = True
        while is_open and rank < n_classes:
            b -= 1
            if count[b] == 0:
                continue
            # No label of the bucket scores higher than this.
            upto = before + weight * mass[b]
            excess = max(0.0, rank + count[b] - k_reg)
            if upto + penalty * excess <= threshold[i]:
                before = upto
                rank += count[b]
                continue
            # Unless one of the bucket is in, the set ends with those above it.
            cut, last = np.int64((b + 1 + _LOWEST) << _SHIFT) - 1, -1
            found = 0
            for j in range(n_classes):
                if _bucket(keys[i, j] & _ABS) == b:
                    chosen[found] = j
                    found += 1
            _sort_labels(proba[i], chosen[:found])
            for label in chosen[:found]:
                own = weight * ((proba[i, label] + 1.0) - 1.0)
                rank += 1
                score = before + u[i] * own + penalty * max(0.0, rank - k_reg)
                if not score <= threshold[i]:
                    is_open = False
                    break
                before += own
                cut, last = keys[i, label] & _ABS, label
        if is_open:
            cut, last = np.int64(-1), -1
        for j in range(n_classes):
            key = keys[i, j] & _ABS
            out[i, j] = (key > cut) | ((key == cut) & (j <= last))
