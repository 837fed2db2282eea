"""Exchangeability martingales: bets against the uniformity of p-values.

P-values of an exchangeable sequence are independent and uniform on [0, 1]. Whoever bets
on them with functions f_t >= 0 that depend on p_1, ..., p_{t-1} and integrate to one,
has the capital S_t = f_1(p_1) ... f_t(p_t), a martingale that starts at 1. By Ville's
inequality it ever reaches 1 / alpha with probability at most alpha. Each method below
is one way to bet, and every capital is given by its natural logarithm.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from uqlib._core.outlier_p_values import check_p_values
from uqlib._typing import ArrayLike, FloatArray


def exchangeability_martingale(
    p_values: ArrayLike,
    method: str = "simple_jumper",
    *,
    jump_rate: float = 0.01,
    exponent: float = 0.92,
    n_bins: int = 10,
) -> FloatArray:
    r"""Logarithm of the capital of a gambler who bets against uniform p-values.

    .. math:: \log S_t = \sum_{i=1}^{t} \log f_i(p_i), \qquad
              \int_0^1 f_i(p)\,dp = 1 .

    Parameters
    ----------
    p_values : array-like of shape (n_samples,)
        P-values in the order in which they came, in [0, 1].
    method : {"simple_jumper", "mixture", "power", "histogram"}, default="simple_jumper"
        How to bet. "simple_jumper" spreads the capital over
        :math:`f(p) = 1 + \varepsilon (p - 1/2)`, :math:`\varepsilon \in \{-1, 0, 1\}`,
        and before each bet takes the share `jump_rate` of every part and spreads it
        evenly: it follows changes of direction. "power" bets
        :math:`f(p) = e\,p^{e - 1}` with e = `exponent`, on small p-values. "mixture"
        is the mean of the power martingales over all :math:`e \in [0, 1]`. "histogram"
        bets the frequencies so far in `n_bins` equal bins, one added to each count: it
        finds any shape.
    jump_rate : float, default=0.01
        In (0, 1]; for "simple_jumper".
    exponent : float, default=0.92
        In (0, 1]; for "power". At 1 no bet is made.
    n_bins : int, default=10
        At least 1; for "histogram".

    Returns
    -------
    ndarray of shape (n_samples,)
        Natural logarithm of the capital after each p-value, without overflow. A p-value
        of 0 makes the capital of "power" and "mixture" infinite for good.

    Raises
    ------
    ValueError
        If a p-value leaves [0, 1], or a parameter its range.
    TypeError
        If a parameter is not a number.

    See Also
    --------
    sequential_p_values : P-values that are uniform if the rows are exchangeable.

    Notes
    -----
    If the p-values are independent and uniform, the capital is a martingale with mean
    1, and :math:`P(\sup_t S_t \ge 1 / \alpha) \le \alpha` by Ville's inequality. To
    compare with capital in powers of ten, divide by log(10).

    References
    ----------
    .. [1] V. Vovk, "Testing randomness online", arXiv:1906.09256.
    .. [2] V. Vovk, I. Petej, I. Nouretdinov, E. Ahlberg, L. Carlsson, A. Gammerman,
       "Retrain or not retrain: Conformal test martingales for change-point detection",
       arXiv:2102.10439.
    .. [3] V. Fedorova, A. Gammerman, I. Nouretdinov, V. Vovk, "Plug-in martingales for
       testing exchangeability on-line", arXiv:1204.3251.

    Examples
    --------
    >>> from uqlib.conformal import exchangeability_martingale
    >>> exchangeability_martingale([0.5, 0.01, 0.02], "power", exponent=0.5).round(2)
    array([-0.35,  1.26,  2.53])
    """
    betting = Betting(method, jump_rate, exponent, n_bins)
    path, _ = betting.advance(betting.start(), check_p_values(p_values))
    return path


@dataclass(frozen=True)
class Betting:
    """A way to bet, that can go on from where it stopped.

    Its state is a 1-D array: p-values in several pieces give what they give in one.
    """

    method: str
    jump_rate: float
    exponent: float
    n_bins: int

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        if not isinstance(self.method, str) or self.method not in _METHODS:
            raise ValueError(
                f"method={self.method!r} must be one of {sorted(_METHODS)}: it names "
                "the way to bet."
            )
        for name in ("jump_rate", "exponent"):
            _check_share(getattr(self, name), name)
        if isinstance(self.n_bins, bool) or not isinstance(self.n_bins, Integral):
            raise TypeError(f"n_bins must be an integer, got {self.n_bins!r}.")
        if self.n_bins < 1:
            raise ValueError(f"n_bins must be at least 1, got {self.n_bins!r}.")

    def start(self) -> FloatArray:
        """Return the state before the first p-value."""
        start, _ = _METHODS[self.method]
        return start(self)

    def advance(
        self, state: FloatArray, p_values: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return the logarithm of the capital after each p-value, and the new state."""
        _, advance = _METHODS[self.method]
        return advance(self, state, p_values)


def _check_share(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number in (0, 1], got {value!r}.")
    if not 0 < float(value) <= 1:
        raise ValueError(f"{name} must lie in (0, 1], got {value!r}.")


def _running_sum(start: float, steps: FloatArray) -> FloatArray:
    return np.cumsum(np.concatenate([[start], steps]))[1:]


def _minus_log(p_values: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        return -np.log(p_values)


# Power. State: the logarithm of the capital.
def _start_power(betting: Betting) -> FloatArray:
    return np.zeros(1)


def _advance_power(
    betting: Betting, state: FloatArray, p_values: FloatArray
) -> tuple[FloatArray, FloatArray]:
    if betting.exponent == 1:  # 0 * inf
        return np.full(p_values.size, state[0]), state
    gain = (1 - betting.exponent) * _minus_log(p_values)
    path = _running_sum(state[0], math.log(betting.exponent) + gain)
    return path, np.append(state, path)[-1:]


# Mixture. With L = -sum of log p_i over n p-values, and e = exp(t),
#
#     S_n = int_0^1 e^n exp(L (1 - e)) de = int_{-inf}^0 exp(h(t)) dt,
#     h(t) = (n + 1) t + L (1 - exp(t)),
#
# concave with its peak at t* = min(0, log((n + 1) / L)). Let M = L exp(t*) and
# r = n + 1 - M, which is 0 unless the peak is at the end. At a distance x h falls by
#
#     left of the peak   r x + M (x - 1 + exp(-x)),
#     right of it        M (exp(x) - 1 - x).
#
# Beyond a fall of 40 nothing is left in double precision. Up to there the integrand
# lies between a Gaussian and an exponential function, and Gauss-Legendre quadrature
# with 48 nodes on each side has an error below 1e-13. Both falls are convex, so Newton
# steps from a point beyond the end never pass it.
#
# State: n and L.
_FALL = 40.0
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(48)


def _start_mixture(betting: Betting) -> FloatArray:
    return np.zeros(2)


def _advance_mixture(
    betting: Betting, state: FloatArray, p_values: FloatArray
) -> tuple[FloatArray, FloatArray]:
    count = state[0] + np.arange(1, p_values.size + 1)
    total = _running_sum(state[1], _minus_log(p_values))
    path = log_mixture_capital(count, total)
    last = np.append(state[1], total)[-1]
    return path, np.array([state[0] + p_values.size, last])


def log_mixture_capital(count: FloatArray, total: FloatArray) -> FloatArray:
    """Return log of the integral of e^n exp(L (1 - e)) over e in [0, 1].

    Parameters
    ----------
    count : ndarray of shape (n_samples,)
        The n, at least 0.
    total : ndarray of shape (n_samples,)
        The L, at least 0 and possibly infinite.

    Returns
    -------
    ndarray of shape (n_samples,)
        With an error of at most 1e-13 max(1, n, L).
    """
    infinite = np.isposinf(total)
    rise, mass = count + 1, np.where(infinite, 0.0, total)
    peak = -np.log(np.maximum(1.0, mass / rise))
    height = rise * peak - mass * np.expm1(peak)
    bent = np.minimum(mass, rise)
    area = _area_left(rise - bent, bent) + _area_right(peak, bent)
    return np.where(infinite, np.inf, height + np.log(area))


def _area_left(slope: FloatArray, bent: FloatArray) -> FloatArray:
    def fall(x: FloatArray) -> FloatArray:
        return slope * x + bent * (x + np.expm1(-x))

    # x - 1 + exp(-x) >= x^2 / (2 + x) turns the end into a quadratic equation.
    rise, linear = slope + bent, _FALL - 2 * slope
    end = (linear + np.sqrt(linear**2 + 8 * _FALL * rise)) / (2 * rise)
    for _ in range(3):
        end = end - (fall(end) - _FALL) / (slope - bent * np.expm1(-end))
    return _area(fall, end)


def _area_right(peak: FloatArray, bent: FloatArray) -> FloatArray:
    scale = np.maximum(bent, 1.0)  # n + 1 unless the peak is at the end, the area 0

    def fall(x: FloatArray) -> FloatArray:
        return scale * (np.expm1(x) - x)

    # exp(x) - 1 - x is at least x^2 / 2, and at least exp(x) / 2 from x = 2 on.
    ratio = 2 * _FALL / scale
    end = np.minimum(np.sqrt(ratio), np.maximum(2.0, np.log(ratio)))
    for _ in range(3):
        end = end - (fall(end) - _FALL) / (scale * np.expm1(end))
    return _area(fall, np.minimum(end, -peak))


def _area(fall: Callable[[FloatArray], FloatArray], end: FloatArray) -> FloatArray:
    area = np.zeros_like(end)
    for node, weight in zip(_NODES, _NODE_WEIGHTS, strict=True):
        area += weight * np.exp(-fall(end * (0.5 + 0.5 * node)))
    return 0.5 * end * area


# Simple jumper. With shares w_e of the capital, e in {-1, 0, 1}, each bet multiplies
# the capital by sum of w_e (1 + e (p - 1/2)) = 1 + (w_1 - w_{-1}) (p - 1/2), which lies
# in [1/2, 3/2]: only the logarithm of the capital is ever large.
#
# State: the logarithm of the capital, and the shares of -1, 0 and 1.
def _start_jumper(betting: Betting) -> FloatArray:
    return np.array([0.0, 1 / 3, 1 / 3, 1 / 3])


def _advance_jumper(
    betting: Betting, state: FloatArray, p_values: FloatArray
) -> tuple[FloatArray, FloatArray]:
    jump = float(betting.jump_rate)
    stay, each = 1 - jump, jump / 3
    _, down, even, up = state.tolist()
    factors = []
    for tilt in (p_values - 0.5).tolist():
        down = (stay * down + each) * (1 - tilt)
        even = stay * even + each
        up = (stay * up + each) * (1 + tilt)
        factor = down + even + up
        down, even, up = down / factor, even / factor, up / factor
        factors.append(factor)
    path = _running_sum(state[0], np.log(np.array(factors, dtype=np.float64)))
    return path, np.array([np.append(state[0], path)[-1], down, even, up])


# Histogram. Among n_bins = K bins with counts c_k of t - 1 p-values, the next one is
# bet on with the density K (c_k + 1) / (t - 1 + K).
#
# State: the logarithm of the capital, and the counts.
def _start_histogram(betting: Betting) -> FloatArray:
    return np.zeros(1 + betting.n_bins)


def _advance_histogram(
    betting: Betting, state: FloatArray, p_values: FloatArray
) -> tuple[FloatArray, FloatArray]:
    n_bins, counts = betting.n_bins, state[1:]
    bins = np.minimum((p_values * n_bins).astype(np.int64), n_bins - 1)
    new = np.bincount(bins, minlength=n_bins)
    # In the order of bins, and of time within a bin, the counts before are 0, 1, 2 ...
    order = np.argsort(bins, kind="stable")
    before = np.empty(bins.size)
    before[order] = np.arange(bins.size) - np.repeat(new.cumsum() - new, new)
    before += counts[bins]
    seen = counts.sum() + np.arange(bins.size)
    path = _running_sum(state[0], np.log(n_bins * (before + 1) / (seen + n_bins)))
    last = np.append(state[0], path)[-1:]
    return path, np.concatenate([last, counts + new])


_Start = Callable[[Betting], FloatArray]
_Advance = Callable[[Betting, FloatArray, FloatArray], tuple[FloatArray, FloatArray]]
_METHODS: dict[str, tuple[_Start, _Advance]] = {
    "simple_jumper": (_start_jumper, _advance_jumper),
    "mixture": (_start_mixture, _advance_mixture),
    "power": (_start_power, _advance_power),
    "histogram": (_start_histogram, _advance_histogram),
}
