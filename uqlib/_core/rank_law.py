r"""Laws of sums over the ranks of a batch.

The ranks r_1 <= ... <= r_m of m new scores among n old ones are uniform on the
C(n + m, m) multisets of size m from {1, ..., n + 1}. For a statistic phi(v) of a gap v
the law of phi(r_1) + ... + phi(r_m) is h_m(z) / C(n + m, m), where h_m, the complete
homogeneous symmetric polynomial of the monomials z^phi(v), sums over multisets:

    sum_k h_k(z) t^k = prod_v 1 / (1 - t z^phi(v)).

Gaps at which phi is infinite are forbidden and leave the product; then the law holds
the mass of the multisets without them only, C(n' - 1 + m, m) / C(n + m, m) with n' gaps
left.

phi(v) = v - 1 gives a Gaussian binomial coefficient, with a recursion over m of running
sums, or with m factors at each frequency where the recursion is not stable. For any
other phi there are two ways. The counting program multiplies one factor after the
other, in O(n m) vector steps; every term is positive. The other way goes through the
discrete Fourier transform, where each h_m is a number. With the power sums p_l(z) =
sum_v z^(l phi(v)), which are n' q_l, Newton's identities are

    k h_k = sum_{l=1}^{k} p_l h_{k-l}

and, for H_k = h_k / C(n' - 1 + k, k), with |q_l|, |H_k| <= 1 on the unit circle,

    H_k = sum_l c_kl q_l H_{k-l},  sum_l c_kl = 1,
    c_kl = n' / (n' - 1 + k) prod_{t=1}^{l-1} (k - t) / (n' - 1 + k - t),

as z = 1 shows. H_k is a mean of its predecessors, so errors are averaged, never
amplified: after m steps they are below m^2 units of rounding, and in practice below m.
By Parseval's theorem the errors of all probabilities together, squared and summed, stay
below that squared, and the error of a cumulative sum of s of them below sqrt(s) times
that. The shares c_kl fall like (k / n')^l: those that do not matter are left out.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._core.kernels import compiled_kernels
from uqlib._core.order_law import check_sizes
from uqlib._typing import ArrayLike, FloatArray

_NEGLIGIBLE = 2.0**-56  # what all shares left out of one mean sum up to
_MASS_TOLERANCE = 1e-11
_LONGEST_LAW = 2**31
# The rounding errors of the recursion grow to 1e-14 at 100 scores, to 1e-9 at 200.
_LONGEST_RECURSION = 100
_CHUNK = 2**15


def rank_sum_law(n: int, m: int) -> FloatArray:
    r"""Law of the sum of the ranks of m new scores among n old scores.

    .. math:: P\Bigl(\sum_{i=1}^{m} (r_i - 1) = s\Bigr), \quad s = 0, \dots, n m,
              \qquad \sum_s P(s) z^s = \binom{n + m}{m}^{-1} \binom{n + m}{m}_z,

    for the ranks :math:`r_i = 1 + \#\{j : S_j < T_{(i)}\}`, ties broken at random: a
    Gaussian binomial coefficient, the null law of the Mann-Whitney statistic.

    Parameters
    ----------
    n : int
        Number of calibration scores, at least 0.
    m : int
        Number of new scores, at least 1.

    Returns
    -------
    ndarray of shape (n * m + 1,)
        Probabilities of s = 0, ..., n m: exactly symmetric, non-negative, with sum 1 to
        rounding.

    Raises
    ------
    ValueError
        If `n` is negative or `m` below 1.
    TypeError
        If a number is not an integer.

    See Also
    --------
    grid_law : The law of the sum of any function of the ranks.

    Notes
    -----
    The scores are assumed exchangeable. Time O(n m min(n, m)), memory O(n m): one
    running sum for each score of the smaller sample, over the lower half of the law; a
    discrete Fourier transform if the smaller sample has more than 100 scores, where
    running sums would lose digits. Cumulative sums are exact to 1e-13.

    References
    ----------
    .. [1] H. B. Mann, D. R. Whitney, "On a Test of Whether one of Two Random Variables
       is Stochastically Larger than the Other", Ann. Math. Statist. 18, 1947.
    .. [2] Y. Lee, E. Tchetgen Tchetgen, E. Dobriban, "Batch Predictive Inference",
       arXiv:2409.13990.

    Examples
    --------
    >>> from uqlib.batch import rank_sum_law
    >>> (15 * rank_sum_law(4, 2)).round(12)
    array([1., 1., 2., 2., 3., 2., 2., 1., 1.])
    """
    n, m = check_sizes(n, m)
    if m > n:  # the number of pairs (old, new) in order has a symmetric law
        n, m = m, n
    if m == 0:
        return np.ones(1)
    if m > _LONGEST_RECURSION:
        return sine_law(n, m)
    kernels = compiled_kernels("rank_law", n * m * m // 4)
    law: FloatArray = (_rank_sums if kernels is None else kernels.rank_sum_law)(n, m)
    return law


def grid_law(phi: ArrayLike, m: int) -> FloatArray:
    r"""Law of the sum of a function of the ranks of m new scores among n old scores.

    .. math:: P\Bigl(\sum_{i=1}^{m} \varphi(r_i) = s\Bigr), \qquad
              s = 0, \dots, m \max_{\varphi(v) < \infty} \varphi(v),

    for the ranks :math:`r_i = 1 + \#\{j : S_j < T_{(i)}\}`, ties broken at random.

    Parameters
    ----------
    phi : array-like of shape (n + 1,)
        Values at the gaps 1, ..., n + 1 between n calibration scores: non-negative
        integers, non-decreasing. inf forbids a gap.
    m : int
        Number of new scores, at least 1.

    Returns
    -------
    ndarray of shape (m * max(phi) + 1,)
        Probabilities of s = 0, 1, ... for the largest finite value of `phi`. They sum
        to 1 or, with forbidden gaps, to the probability that no new score falls into
        one: the sum is infinite with the rest. With n' gaps left this is
        :math:`\binom{n' - 1 + m}{m} / \binom{n + m}{m}`.

    Raises
    ------
    ValueError
        If `phi` is not 1-D, is empty, holds NaN or values that are negative, fractional
        or decreasing, or forbids every gap; if m max(phi) exceeds 2^31; if `m` is below
        1.
    TypeError
        If `m` is not an integer.

    See Also
    --------
    rank_sum_law : For phi = 0, 1, ..., n.

    Notes
    -----
    The scores are assumed exchangeable. Time O(m^3 max(phi)) through the discrete
    Fourier transform, less for n much larger than m, or O(n m) vector steps for n up to
    m. The probabilities are exact to about 1e-15 each, their cumulative sums to 1e-11:
    compare a cumulative sum that must reach a level with the level plus 1e-10.
    Consecutive values 0, 1, 2, ... are passed on to :func:`rank_sum_law`.

    References
    ----------
    .. [1] Y. Lee, E. Tchetgen Tchetgen, E. Dobriban, "Batch Predictive Inference",
       arXiv:2409.13990.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.batch import grid_law
    >>> (15 * grid_law([0, 0, 1, 3, 6], 2)).round(12)
    array([3., 2., 1., 2., 1., 0., 3., 1., 0., 1., 0., 0., 1.])
    >>> (15 * grid_law([0, 1, 2, 3, np.inf], 2)).round(12)
    array([1., 1., 2., 2., 2., 1., 1.])
    """
    levels, n = check_phi(phi)
    _, m = check_sizes(n, m)
    if m * int(levels[-1]) > _LONGEST_LAW:
        raise ValueError(
            f"phi reaches {levels[-1]}, so the law of the sum of m={m} values would "
            f"have more than {_LONGEST_LAW} entries. Pass a coarser grid."
        )
    mass = allowed_mass(n, m, levels.size)
    if np.array_equal(levels, np.arange(levels.size)):
        return rank_sum_law(levels.size - 1, m) * mass
    if levels.size <= m:
        return counting_law(levels, m) * mass
    return fourier_law(levels, m) * mass


def check_phi(phi: Any) -> tuple[NDArray[np.int64], int]:
    """Return the finite values of a function of the gaps, and the number of old scores.

    Parameters
    ----------
    phi : array-like of shape (n + 1,)
        Must be non-negative integers, non-decreasing; inf where a gap is forbidden.

    Returns
    -------
    levels : ndarray of shape (n_allowed,)
        The finite values, at least one.
    n : int
        The number of old scores.
    """
    values = np.asarray(phi, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(
            "phi must have shape (n + 1,), one value for each gap between n scores, "
            f"got shape {values.shape}."
        )
    if not np.all((values >= 0) & (np.floor(values) == values)):
        raise ValueError(
            "phi must hold non-negative integers, or inf for a forbidden gap, got "
            f"values from {values.min()} to {values.max()}. Shift, scale and round."
        )
    if np.any(values[1:] < values[:-1]):
        raise ValueError(
            "phi must be non-decreasing: take its running maximum, "
            "np.maximum.accumulate(phi)."
        )
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        raise ValueError("phi forbids every gap: at least one value must be finite.")
    if finite[-1] > _LONGEST_LAW:
        raise ValueError(
            f"phi must not exceed {_LONGEST_LAW}, got {finite[-1]}. Use a coarser grid."
        )
    return finite.astype(np.int64), values.size - 1


def allowed_mass(n: int, m: int, n_allowed: int) -> float:
    r"""Return the probability that all m ranks are among the first `n_allowed` gaps.

    .. math:: \prod_{i=1}^{m} \frac{n' - 1 + i}{n + i}

    Parameters
    ----------
    n, m : int
        Checked numbers of old and new scores.
    n_allowed : int
        The number n' of gaps, from 1 to n + 1.

    Returns
    -------
    float
        The probability.
    """
    i = np.arange(1.0, m + 1)
    return float(np.prod((n_allowed - 1 + i) / (n + i)))


# The recursion H_i = H_{i-1} (1 - z^(n+i)) / (1 - z^i) i / (n + i) over polynomials of
# degree i n. Each is symmetric: its lower half decides.
def _rank_sums(n: int, m: int) -> FloatArray:
    law = np.full(n + 1, 1 / (n + 1))
    for i in range(2, m + 1):
        half, window = n * i // 2 + 1, n + i
        rows = np.zeros(-(-half // i) * i)  # columns of stride i
        rows[:half] = law[:half]
        rows[window:half] -= law[: max(half - window, 0)]
        rows *= i / (n + i)
        np.cumsum(rows.reshape(-1, i), axis=0, out=rows.reshape(-1, i))
        law = np.concatenate([rows[:half], rows[: n * i + 1 - half][::-1]])
    return law


# At z = exp(2 i w) the product of the (1 - z^(n+i)) / (1 - z^i) i / (n + i) is, but for
# its phase n m w, the product of the sin((n + i) w) / sin(i w) i / (n + i): a product
# keeps the relative accuracy of its factors, whatever they are. At the odd multiples
# w = pi (2 f + 1) / (2 M) no denominator vanishes if M > m is a power of two, since 2 M
# does not divide i (2 f + 1); and each sine has an argument that is reduced exactly.
def sine_law(n: int, m: int) -> FloatArray:
    """Return the law of the sum of r_i - 1 by a stable product at each frequency.

    Parameters
    ----------
    n, m : int
        Numbers of old and new scores, at least 1.

    Returns
    -------
    ndarray of shape (n * m + 1,)
        Symmetric probabilities with sum 1.
    """
    period = 1 << (n * m).bit_length()
    quarter = np.sin(np.pi / (2 * period) * np.arange(period + 1))
    wave = np.concatenate([quarter[:-1], quarter[:0:-1]])
    wave = np.concatenate([wave, -wave])
    spectrum = np.empty(period // 2, dtype=np.complex128)
    for start in range(0, spectrum.size, _CHUNK):
        odd = 2 * np.arange(start, min(start + _CHUNK, spectrum.size)) + 1
        product = np.ones(odd.size)
        for i in range(1, m + 1):
            product *= wave[(n + i) * odd % wave.size] * (i / (n + i))
            product /= wave[i * odd % wave.size]
        phase = n * m * odd % wave.size
        part = slice(start, start + odd.size)
        spectrum[part] = product * np.exp(0.5j * np.pi / period * phase)
    turn = np.exp(-1j * np.pi / period * np.arange(n * m + 1))
    law = (np.fft.fft(spectrum, period)[: n * m + 1] * turn).real / period
    return np.asarray(np.maximum(law + law[::-1], 0.0))


# With counts N_i(s) of multisets of size i and sum s from the gaps seen so far, a new
# gap v adds N_{i-1}(s - phi(v)) to N_i(s), for i = 1, ..., m in place: N_{i-1} then
# holds the multisets with v already. Shares N_i / C(n' - 1 + i, i) stay in range.
def counting_law(levels: NDArray[np.int64], m: int) -> FloatArray:
    """Return the law of the sum over multisets of m levels, gap by gap.

    Parameters
    ----------
    levels : ndarray of shape (n_allowed,)
        Non-negative, non-decreasing.
    m : int
        The size of the multisets, at least 1.

    Returns
    -------
    ndarray of shape (m * levels[-1] + 1,)
        Probabilities with sum 1.
    """
    n = levels.size - 1
    counts = np.zeros((m + 1, m * int(levels[-1]) + 1))
    counts[0, 0] = 1.0
    for level in levels.tolist():
        for i in range(1, m + 1):
            stop = i * level + 1  # no sum of i levels so far is larger
            counts[i, level:stop] += counts[i - 1, : stop - level] * (i / (n + i))
    return np.asarray(counts[m])


def fourier_law(levels: NDArray[np.int64], m: int) -> FloatArray:
    """Return the law of the sum over multisets of m levels, by Newton's identities.

    Parameters
    ----------
    levels : ndarray of shape (n_allowed,)
        Non-negative, non-decreasing.
    m : int
        The size of the multisets, at least 1.

    Returns
    -------
    ndarray of shape (m * levels[-1] + 1,)
        Probabilities with sum 1.
    """
    n_sums = m * int(levels[-1]) + 1
    period = _smooth_length(n_sums)
    spectrum = np.fft.fft(np.bincount(levels) / levels.size, period)
    shares = _newton_shares(levels.size, m)
    kernels = compiled_kernels("rank_law", period * int(np.count_nonzero(shares)) // 2)
    symmetric = kernels.complete_symmetric if kernels is not None else _complete
    law = np.maximum(np.fft.irfft(symmetric(spectrum, shares), period)[:n_sums], 0.0)
    if not abs(law.sum() - 1) <= _MASS_TOLERANCE:
        return counting_law(levels, m)  # positive terms only
    return np.asarray(law)


def _newton_shares(n_allowed: int, m: int) -> FloatArray:
    """Return the c_kl, k and l from 1 to m, with zeros where they do not matter."""
    k, t = np.arange(1.0, m + 1)[:, None], np.arange(1.0, m)[None, :]
    first = n_allowed / (n_allowed - 1 + k)
    falling = np.maximum(k - t, 0) / np.maximum(n_allowed - 1 + k - t, 1)
    shares = first * np.cumprod(np.hstack([np.ones_like(k), falling]), axis=1)
    return np.where(shares > _NEGLIGIBLE / m, shares, 0.0)


def _complete(
    spectrum: NDArray[np.complex128], shares: FloatArray
) -> NDArray[np.complex128]:
    """Return H_m at the frequencies 0, ..., M // 2 of a period of length M."""
    m, n_period = len(shares), len(spectrum)
    n_terms = np.count_nonzero(shares, axis=1)
    out = np.empty(n_period // 2 + 1, dtype=np.complex128)
    width = max(1, _CHUNK // m)
    for start in range(0, out.size, width):
        frequency = np.arange(start, min(start + width, out.size))
        power = spectrum[
            np.outer(np.arange(1, n_terms.max() + 1), frequency) % n_period
        ]
        product = np.ones((m + 1, frequency.size), dtype=np.complex128)
        for k, n_kept in enumerate(n_terms.tolist(), start=1):
            before = product[k - n_kept : k][::-1]
            weighted = shares[k - 1, :n_kept, None] * power[:n_kept]
            product[k] = np.einsum("lf,lf->f", weighted, before)
        out[frequency] = product[m]
    return out


def _smooth_length(length: int) -> int:
    """Return the smallest period >= length without a prime factor above 5."""
    best = 1 << max(length - 1, 0).bit_length()
    for power in range(math.ceil(math.log(best, 3)) + 1):
        for fives in range(math.ceil(math.log(best, 5)) + 1):
            odd = 3**power * 5**fives
            if odd < best:
                best = min(best, odd << max(-(-length // odd) - 1, 0).bit_length())
    return best
