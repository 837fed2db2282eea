"""Row kernels on quantile matrices: sort, isotonic projection, crossing, pinball.

Every function takes a matrix `q` of shape (n_samples, n_quantiles), float32 or
float64 in the machine's byte order and with any strides, and never writes to it.
+-inf is a legal value, NaN is not. What looks at every value anyway tells NaN without
a pass of its own: `sort_rows` raises, `isotonic_rows` returns NaN in that row, and
`pinball_sums` in that level (unless the row has weight zero); see each of them.

Post-processed quantiles are mostly monotone already, so the work is arranged around
that: copy a cache-resident block of rows to the output, scan it there while it is
hot, and touch again only the rows that cross. A block is copied by NumPy whatever
the strides of `q`, hence each kernel is compiled for one layout per dtype and a row
that does not cross comes back bitwise.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._row_kernels import add_losses, count_rows, pool_rows
from uqlib_kernels._row_sort import RowSorter

__all__ = ["count_crossing_rows", "isotonic_rows", "pinball_sums", "sort_rows"]

# A block is scanned from a private cache of 1 MiB (from the shared one where that is
# smaller) and takes twenty times longer than the interpreter's part in its loop.
_BLOCK_BYTES = 1 << 19


def sort_rows(q: NDArray[Any]) -> NDArray[Any]:
    r"""Sort each row in ascending order: :math:`q_{i(1)} \le \dots \le q_{i(m)}`.

    Rows that are non-decreasing already come back bitwise equal, which a plain sort
    does not promise: it may exchange -0.0 and 0.0.

    Parameters
    ----------
    q : ndarray of shape (n_samples, n_quantiles), float32 or float64
        Quantile matrix.

    Returns
    -------
    ndarray of shape (n_samples, n_quantiles)
        C-contiguous, in the dtype of `q`.

    Raises
    ------
    ValueError
        If `q` contains NaN; finding it costs nothing on monotone rows.

    Notes
    -----
    Up to 24 levels the crossing rows go through a sorting network, 64 rows side by
    side; wider rows are gathered, sorted by :func:`numpy.sort` and scattered back.
    Extra memory: the output and one block.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.rows import sort_rows
    >>> sort_rows(np.array([[1.0, 3.0, 2.0], [0.0, 1.0, 2.0]]))
    array([[1., 2., 3.],
           [0., 1., 2.]])
    """
    _check(q)
    if q.shape[1] == 1 and np.isnan(q).any():  # no neighbors to compare
        raise ValueError("q contains NaN, which has no place in an order.")
    out = np.empty(q.shape, dtype=q.dtype)
    sort_block = RowSorter(_rows_per_block(q), q.shape[1], q.dtype)
    for rows in _blocks(q):
        block = out[rows]
        np.copyto(block, q[rows])
        sort_block(block)
    return out


def isotonic_rows(
    q: NDArray[Any], level_weight: NDArray[np.float64] | None = None
) -> NDArray[Any]:
    r"""Project each row on the non-decreasing rows, in weighted least squares.

    .. math:: \operatorname*{arg\,min}_{v_1 \le \dots \le v_m}
              \sum_{k=1}^{m} w_k (q_{ik} - v_k)^2

    Rows that are non-decreasing already come back bitwise equal, and every returned
    row is exactly non-decreasing.

    Parameters
    ----------
    q : ndarray of shape (n_samples, n_quantiles), float32 or float64
        Quantile matrix.

    level_weight : ndarray of shape (n_quantiles,), float64, default=None
        Weights of the levels, positive and finite; None weights them equally.

    Returns
    -------
    ndarray of shape (n_samples, n_quantiles)
        C-contiguous, in the dtype of `q`; computed in float64. A pool that mixes
        +inf and -inf has no mean: its entries are NaN, for the caller to refuse. So
        has every row with NaN at least one.

    Notes
    -----
    Pool-adjacent-violators. A row is cut into blocks of levels; a block's value is
    its weighted mean, and while the block before is larger the two are pooled. Equal
    neighbors stay apart, so ties and levels outside any pool keep their bits.
    Extra memory: the output and O(n_quantiles).

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.rows import isotonic_rows
    >>> isotonic_rows(np.array([[1.0, 3.0, 2.0], [0.0, 1.0, 2.0]]))
    array([[1. , 2.5, 2.5],
           [0. , 1. , 2. ]])
    """
    _check(q)
    out = np.empty(q.shape, dtype=q.dtype)
    n_quantiles = q.shape[1]
    weight = _scaled_weight(level_weight, n_quantiles)
    pools = np.empty((3, n_quantiles), dtype=np.float64)
    starts = np.empty(n_quantiles, dtype=np.intp)
    for rows in _blocks(q):
        block = out[rows]
        np.copyto(block, q[rows])
        pool_rows(block, weight, pools, starts)
    return out


def count_crossing_rows(q: NDArray[Any]) -> int:
    r"""Count the rows in which some level lies below the one before it.

    .. math:: \#\{i : q_{i,k+1} < q_{ik} \text{ for some } k\}

    Parameters
    ----------
    q : ndarray of shape (n_samples, n_quantiles), float32 or float64
        Quantile matrix without NaN.

    Returns
    -------
    int
        Number of crossing rows; ties do not cross.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.rows import count_crossing_rows
    >>> count_crossing_rows(np.array([[1.0, 3.0, 2.0], [0.0, 1.0, 1.0]]))
    1
    """
    _check(q)
    return sum(int(count_rows(_frozen(q[rows]))) for rows in _blocks(q))


def pinball_sums(
    y: NDArray[Any],
    q: NDArray[Any],
    quantiles: NDArray[Any],
    sample_weight: NDArray[Any] | None = None,
) -> NDArray[np.float64]:
    r"""Sum the pinball loss of each level over the rows.

    .. math:: L_k = \sum_{i=1}^{n} w_i \max(\tau_k e_{ik}, (\tau_k - 1) e_{ik}),
              \qquad e_{ik} = y_i - q_{ik}

    Parameters
    ----------
    y : ndarray of shape (n_samples,), float
        Observed values, finite.

    q : ndarray of shape (n_samples, n_quantiles), float32 or float64
        Quantile matrix.

    quantiles : ndarray of shape (n_quantiles,), float
        Levels :math:`\tau_k` in (0, 1).

    sample_weight : ndarray of shape (n_samples,), float, default=None
        Weights of the rows, finite and not negative; None weights them by one. A row
        of weight zero contributes exactly zero, even where its loss is infinite.

    Returns
    -------
    ndarray of shape (n_quantiles,), float64
        The sums, accumulated in float64 by blocks of rows. NaN if, and only if, the
        column holds NaN in a row whose weight is not zero.

    Notes
    -----
    Extra memory: a few blocks of constant size and O(n_quantiles).

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.rows import pinball_sums
    >>> y, q = np.array([1.0, 2.0]), np.array([[0.0, 2.0], [1.0, 4.0]])
    >>> pinball_sums(y, q, np.array([0.25, 0.75]))
    array([0.5 , 0.75])
    """
    _check(q)
    tau = np.array(quantiles, dtype=np.float64)
    total = np.zeros(q.shape[1], dtype=np.float64)
    part = np.empty_like(total)
    ones = _frozen(np.ones(_rows_per_block(q), dtype=np.float64))
    for rows in _blocks(q):
        y_block = _frozen(np.asarray(y[rows], dtype=np.float64))
        weight = ones[: len(y_block)]
        if sample_weight is not None:
            weight = _frozen(np.asarray(sample_weight[rows], dtype=np.float64))
        add_losses(y_block, _frozen(q[rows]), tau, weight, part)
        # Sums of block sums: the rounding error grows with the rows of a block plus
        # the number of blocks, not with the number of rows.
        total += part
    return total


def _check(q: NDArray[Any]) -> None:
    """Refuse what the kernels are not compiled for."""
    if q.ndim != 2 or q.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(
            "q must be a 2-D array of float32 or float64 in native byte order, got "
            f"{q.ndim}-D {q.dtype}; convert it with np.asarray(q, dtype=np.float64)."
        )


def _rows_per_block(q: NDArray[Any]) -> int:
    """Rows in one block, at most all and at least one."""
    n_samples, n_quantiles = q.shape
    fitting = _BLOCK_BYTES // max(1, n_quantiles * q.itemsize)
    return max(1, min(n_samples, fitting))


def _blocks(q: NDArray[Any]) -> Iterator[slice]:
    """Slices that cut the rows of `q` into blocks."""
    n_block = _rows_per_block(q)
    for start in range(0, q.shape[0], n_block):
        yield slice(start, min(start + n_block, q.shape[0]))


def _frozen(block: NDArray[Any]) -> NDArray[Any]:
    """Return a C-contiguous read-only view (a copy only if strided).

    Numba types writable and read-only arrays apart; with one of the two a kernel is
    compiled once a dtype, and memory-mapped input needs no copy.
    """
    view = np.ascontiguousarray(block).view()
    view.flags.writeable = False
    return view


def _scaled_weight(
    level_weight: NDArray[np.float64] | None, n_quantiles: int
) -> NDArray[np.float64]:
    """Return weights times the power of two that brings their sum below one.

    Then no weighted sum exceeds the largest |q|, so rows of huge values do not
    overflow to inf; a power of two changes no digit of any mean.
    """
    if level_weight is None:
        level_weight = np.ones(n_quantiles)
    weight = np.array(level_weight, dtype=np.float64)
    _, exponent = np.frexp(weight.max(initial=0.0))
    return np.ldexp(weight, -int(exponent) - n_quantiles.bit_length())
