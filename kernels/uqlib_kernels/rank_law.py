r"""Laws of the ranks of a batch: a walk over one rank, and two laws of sums of ranks.

The ranks r_1 <= ... <= r_m of m new scores among n old ones are uniform on the
multisets of size m from {1, ..., n + 1}. Callers see to it that n >= 0, m >= 1 and
1 <= k <= m; that is not checked.
"""

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._jit import row_jit

__all__ = ["complete_symmetric", "first_ranks", "rank_sum_law"]

# Probabilities are kept as weight * 2^(-500 scale), since P(1) may underflow.
_SHRINK = 2.0**-500
_GROW = 2.0**500

# So many frequencies side by side: the work of one block stays in the first cache.
_LANES = 32


def first_ranks(n: int, m: int, k: int, low: float, high: float) -> tuple[int, int]:
    r"""Smallest ranks at which the distribution function of r_k reaches two levels.

    .. math:: \min\{j : P(r_k \le j) \ge p\}, \qquad
              \frac{P(r_k = j + 1)}{P(r_k = j)} =
              \frac{(j + k - 1)(n - j + 1)}{j (n + m - j - k + 1)}.

    Parameters
    ----------
    n, m, k : int
        Old scores, new scores, and which of the new ones.
    low, high : float
        The levels, low <= high.

    Returns
    -------
    first, last : int
        The ranks, from 1 to n + 1; n + 1 also for a level that is never reached.

    Examples
    --------
    >>> from uqlib_kernels.rank_law import first_ranks
    >>> first_ranks(200, 100, 90, 0.8, 0.9)
    (186, 188)
    """
    first, last = _walk(n, m, k, low, high)
    return first, last


def rank_sum_law(n: int, m: int) -> NDArray[np.float64]:
    r"""Probabilities of the sum of r_i - 1, the coefficients of a Gaussian binomial.

    .. math:: \prod_{i=1}^{m} \frac{i}{n + i} \, \frac{1 - z^{n+i}}{1 - z^i}

    Parameters
    ----------
    n, m : int
        Old and new scores; the cost grows with :math:`n m^2`.

    Returns
    -------
    ndarray of shape (n * m + 1,), float64
        The probabilities, exactly symmetric.

    Examples
    --------
    >>> from uqlib_kernels.rank_law import rank_sum_law
    >>> (15 * rank_sum_law(4, 2)).round(12)
    array([1., 1., 2., 2., 3., 2., 2., 1., 1.])
    """
    law, buffer = np.empty(n * m + 1), np.empty(n * m + 1)
    law[: n + 1] = 1 / (n + 1)
    for i in range(2, m + 1):
        _multiply(law, buffer, n, i)
        law, buffer = buffer, law
    half = (n * m) // 2
    law[n * m - half :] = law[: half + 1][::-1]
    return law


def complete_symmetric(
    spectrum: NDArray[np.complex128], shares: NDArray[np.float64]
) -> NDArray[np.complex128]:
    r"""Scaled complete homogeneous symmetric polynomials along a half spectrum.

    .. math:: H_k(f) = \sum_{l=1}^{k} c_{kl} \, q_l(f) H_{k-l}(f), \qquad
              q_l(f) = Q_{f l \bmod M}, \quad H_0 = 1.

    Parameters
    ----------
    spectrum : ndarray of shape (M,), complex128
        The Q.
    shares : ndarray of shape (m, m), float64
        The c in rows of k, l <= k. A row ends at its first zero.

    Returns
    -------
    ndarray of shape (M // 2 + 1,), complex128
        The last polynomial :math:`H_m` at the frequencies f = 0, ..., M // 2.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.rank_law import complete_symmetric
    >>> shares = np.array([[1.0, 0.0], [2 / 3, 1 / 3]])
    >>> complete_symmetric(np.array([1.0 + 0j, 0.0]), shares).real.round(12)
    array([1.        , 0.33333333])
    """
    m = len(shares)
    polynomial = np.empty(len(spectrum) // 2 + 1, dtype=np.complex128)
    power, product = np.empty((2, m, _LANES)), np.empty((2, m + 1, _LANES))
    real = np.ascontiguousarray(spectrum.real)
    imag = np.ascontiguousarray(spectrum.imag)
    _newton(real, imag, np.ascontiguousarray(shares), power, product, polynomial)
    return polynomial


@row_jit
def _walk(n: int, m: int, k: int, low: float, high: float) -> tuple[int, int]:
    weight, scale = 1.0, 0
    for i in range(k):
        weight *= (m - i) / (n + m - i)
        if weight < _SHRINK:
            weight *= _GROW
            scale += 1
    total, j = weight, 1
    # What is summed up here is nothing beside any level above 2^-500.
    while scale > 0 and j <= n:
        weight *= (j + k - 1.0) * (n - j + 1.0) / (j * (n + m - j - k + 1.0))
        total += weight
        j += 1
        if weight > 1.0:
            weight *= _SHRINK
            total *= _SHRINK
            scale -= 1
    while total < low and j <= n:
        weight *= (j + k - 1.0) * (n - j + 1.0) / (j * (n + m - j - k + 1.0))
        total += weight
        j += 1
    first = j if low > 0.0 else 1
    while total < high and j <= n:
        weight *= (j + k - 1.0) * (n - j + 1.0) / (j * (n + m - j - k + 1.0))
        total += weight
        j += 1
    return first, j if high > 0.0 else 1


@row_jit
def _multiply(
    law: NDArray[np.float64], new: NDArray[np.float64], n: int, i: int
) -> None:
    """Write the lower half of the law of i ranks, given that of i - 1 in full.

    Of the law of i - 1 ranks the lower half is given; what is needed beyond it is
    mirrored here.
    """
    degree, half = n * (i - 1), (n * i) // 2
    for s in range(degree // 2 + 1, min(half, degree) + 1):
        law[s] = law[degree - s]
    share = i / (n + i)
    for s in range(min(i, half + 1)):
        new[s] = law[s] * share
    # Blocks of i, within which no entry depends on another.
    for start in range(i, half + 1, i):
        stop = min(start + i, half + 1)
        middle = min(max(start, n + i), stop)
        for s in range(start, middle):
            new[s] = new[s - i] + law[s] * share
        for s in range(middle, stop):
            new[s] = new[s - i] + (law[s] - law[s - n - i]) * share


@row_jit
def _newton(
    real: NDArray[np.float64],
    imag: NDArray[np.float64],
    shares: NDArray[np.float64],
    power: NDArray[np.float64],
    product: NDArray[np.float64],
    polynomial: NDArray[np.complex128],
) -> None:
    """Fill H_m, `_LANES` frequencies at a time."""
    m, n_period, n_frequencies = len(shares), len(real), len(polynomial)
    sum_real, sum_imag = np.empty(_LANES), np.empty(_LANES)
    product[0, 0, :] = 1.0
    product[1, 0, :] = 0.0
    for start in range(0, n_frequencies, _LANES):
        for f in range(_LANES):
            step = min(start + f, n_frequencies - 1)
            place = 0
            for k in range(m):
                place += step
                if place >= n_period:
                    place -= n_period
                power[0, k, f] = real[place]
                power[1, k, f] = imag[place]
        for k in range(1, m + 1):
            sum_real[:] = 0.0
            sum_imag[:] = 0.0
            for i in range(1, k + 1):
                share = shares[k - 1, i - 1]
                if share == 0.0:
                    break
                for f in range(_LANES):
                    a, b = power[0, i - 1, f] * share, power[1, i - 1, f] * share
                    c, d = product[0, k - i, f], product[1, k - i, f]
                    sum_real[f] += a * c - b * d
                    sum_imag[f] += a * d + b * c
            for f in range(_LANES):
                product[0, k, f] = sum_real[f]
                product[1, k, f] = sum_imag[f]
        for f in range(min(_LANES, n_frequencies - start)):
            polynomial[start + f] = complex(product[0, m, f], product[1, m, f])
