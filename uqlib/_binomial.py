"""Exact intervals of shares of rows."""

import numpy as np
from scipy.special import betainccinv, betaincinv

from uqlib._typing import ArrayLike, FloatArray


def clopper_pearson(hits: ArrayLike, n_rows: ArrayLike, level: float) -> FloatArray:
    r"""Return the exact binomial intervals of shares.

    S of n rows: the lower end is the chance p at which P(Bin(n, p) >= S), which is the
    incomplete beta function I_p(S, n - S + 1), is half of 1 - level; the upper end that
    at which P(Bin(n, p) <= S) = 1 - I_p(S + 1, n - S) is. Both are defined for numbers
    that are not whole, as effective numbers of rows.

    Parameters
    ----------
    hits, n_rows : array-like of one shape
        Numbers S and n, 0 <= S <= n and n > 0.
    level : float
        The level, strictly between 0 and 1.

    Returns
    -------
    ndarray of that shape and (2,)
        Lower and upper ends.
    """
    s, n = np.broadcast_arrays(np.asarray(hits, float), np.asarray(n_rows, float))
    tail, missed = (1 - level) / 2, n - s
    # At S = 0 and at S = n one of the functions is not defined, and the end is known.
    some, all_but_some = s > 0, s < n
    lower = betaincinv(np.where(some, s, 1.0), missed + 1, tail)
    upper = betainccinv(s + 1, np.where(all_but_some, missed, 1.0), tail)
    ends = np.where(some, lower, 0.0), np.where(all_but_some, upper, 1.0)
    return np.stack(ends, axis=-1)
