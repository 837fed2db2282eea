r"""Adaptive conformal inference: a level that follows its own misses.

Over a stream of scores s_1, s_2, ... with target alpha = 1 - p the threshold of step t
is the conformal quantile of past scores at level 1 - alpha_t, and

    alpha_{t+1} = alpha_t + gamma (alpha - m_t),   m_t = 1 if s_t > threshold_t else 0.

Summed up, alpha_t = alpha_1 + gamma ((t - 1) alpha - M_t), where M_t counts the misses
before step t: the level depends on two counts and needs no accumulated float. With
p = P / D, alpha = A / D and gamma = G / H the coverage asked for, 1 - alpha_t, is an
integer u_t in units of 1 / (D H),

    u_1 = P H,   u_{t+1} = u_t + (G P if m_t else -G A),

so that the rank ceil((n + 1) u_t / (D H)) is exact at every step of any stream. alpha_t
is not clipped to [0, 1]. That is what makes the misses right in the long run: while
alpha_t <= 0 the threshold is +inf, nothing can be missed and alpha_t rises; while
alpha_t >= 1 it is -inf, everything is missed and alpha_t falls. Hence
-gamma <= alpha_t <= 1 + gamma always, and since alpha_{T+1} - alpha_1 is gamma times
(T alpha - M_{T+1}), the share of misses in T steps obeys

    |M_{T+1} / T - alpha| <= (max(alpha_1, 1 - alpha_1) + gamma) / (gamma T).
"""

import math
from bisect import bisect_left, insort
from collections.abc import Iterable
from fractions import Fraction
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from uqlib._core.checks import as_1d
from uqlib._core.kernels import compiled_kernels
from uqlib._core.levels import check_confidence_level, exact_level
from uqlib._core.ranks import lower_rank_from_fraction, rank_from_fraction
from uqlib._typing import ArrayLike, FloatArray

_INT64 = 2**63


class AciSteps(NamedTuple):
    """The integers of the recursion: 1 - alpha_t = coverage_t / unit.

    coverage_1 = start; a miss adds `rise`, a hit takes `fall` away.
    """

    unit: int
    start: int
    rise: int
    fall: int

    def rank(self, n: int, coverage: int) -> int:
        """Return the rank of the threshold among n scores; 0 is -inf, n + 1 is +inf."""
        if coverage <= 0:
            return 0
        if coverage >= self.unit:
            return n + 1
        return -(-(n + 1) * coverage // self.unit)

    def fit_int64(self, n: int, n_steps: int, start: int) -> bool:
        """Return whether no product or sum of the recursion leaves 64 bits."""
        reach = abs(start) + n_steps * max(self.rise, self.fall)
        return max((n + 2) * self.unit, reach) < _INT64


def aci_steps(level: Fraction, gamma: Fraction) -> AciSteps:
    """Return the integers of the recursion in lowest terms.

    Parameters
    ----------
    level : Fraction
        The coverage p.
    gamma : Fraction
        The step size.

    Returns
    -------
    AciSteps
        The integers.
    """
    numbers = (
        level.denominator * gamma.denominator,
        level.numerator * gamma.denominator,
        level.numerator * gamma.numerator,
        (level.denominator - level.numerator) * gamma.numerator,
    )
    common = math.gcd(*numbers)
    return AciSteps(*(number // common for number in numbers))


def aci_thresholds(
    calibration_scores: ArrayLike,
    scores: ArrayLike,
    confidence_level: float,
    gamma: float,
) -> FloatArray:
    r"""Thresholds of adaptive conformal inference over a fixed calibration set.

    .. math:: q_t = s_{(k_t)}, \qquad
              k_t = \max(1, \lceil (n + 1) (1 - \alpha_t) \rceil), \qquad
              \alpha_{t+1} = \alpha_t + \gamma (\alpha - 1\{s_t > q_t\}),

    with :math:`\alpha_1 = \alpha = 1 - p`; :math:`q_t = +\infty` if
    :math:`k_t > n` or :math:`\alpha_t \le 0`, and :math:`-\infty` if
    :math:`\alpha_t \ge 1`.

    Parameters
    ----------
    calibration_scores : array-like of shape (n,)
        Scores that the quantiles are taken of, larger = stranger. Infinities are
        legal, NaN is not. They stay the same at all steps.
    scores : array-like of shape (n_steps,)
        Scores of the stream in time order. Each one is compared with its threshold
        and seen only after that.
    confidence_level : float
        Coverage p asked for, strictly between 0 and 1.
    gamma : float
        Step size, finite and at least 0. With 0 all thresholds are the conformal
        quantile.

    Returns
    -------
    ndarray of shape (n_steps,)
        The threshold of each step. A score equal to its threshold is no miss.

    Raises
    ------
    ValueError
        If scores are not 1-D or contain NaN, the level is not in (0, 1), or gamma is
        negative or infinite.
    TypeError
        If the level or gamma is not a number.

    See Also
    --------
    OnlineConformalRegressor : Around a regressor, over the scores seen so far.
    conformal_quantile : The threshold of one step.

    Notes
    -----
    Whatever the scores are, as long as none is :math:`-\infty`, the share of misses in
    T steps is within
    :math:`(\max(\alpha_1, 1 - \alpha_1) + \gamma) / (\gamma T)` of :math:`\alpha`.
    That needs :math:`\alpha_t` unclipped, so an infinite threshold is part of the
    method and comes without a warning.

    Nothing is accumulated in floating point: level and gamma are taken as the fractions
    that they stand for, and :math:`\alpha_t` is an integer multiple of one unit.

    References
    ----------
    .. [1] I. Gibbs, E. Candes, "Adaptive Conformal Inference Under Distribution
       Shift", arXiv:2106.00170.

    Examples
    --------
    >>> from uqlib.conformal import aci_thresholds
    >>> aci_thresholds([1.0, 2.0, 3.0, 4.0], [9.0, 0.0, 0.0], 0.5, gamma=0.25)
    array([3., 4., 3.])
    """
    calibration = np.sort(as_1d(calibration_scores, "calibration_scores"))
    stream = as_1d(scores, "scores")
    level = check_confidence_level(confidence_level)
    steps = aci_steps(level, check_step_size(gamma))
    kernels = compiled_kernels("online", stream.size)
    if kernels is None or not steps.fit_int64(
        calibration.size, stream.size, steps.start
    ):
        return _fixed_reference(calibration, stream, steps)
    thresholds: FloatArray = kernels.fixed_thresholds(calibration, stream, *steps)
    return thresholds


def _fixed_reference(
    calibration: FloatArray, stream: FloatArray, steps: AciSteps
) -> FloatArray:
    """Return the thresholds, one step after the other in Python's own integers."""
    n, coverage = calibration.size, steps.start
    by_rank = [-math.inf, *calibration.tolist(), math.inf]
    thresholds = np.empty(stream.size)
    for t, score in enumerate(stream.tolist()):
        thresholds[t] = threshold = by_rank[steps.rank(n, coverage)]
        coverage += steps.rise if score > threshold else -steps.fall
    return thresholds


class ScoreStore:
    """The last scores of a stream, in time order and in size order.

    Parameters
    ----------
    scores : iterable of float
        Scores in time order, without NaN.
    window : int or None
        How many of the last ones are kept; None keeps all.
    """

    def __init__(self, scores: Iterable[float], window: int | None) -> None:
        self.window = window
        self.recent = list(scores)
        if window is not None:
            self.recent = self.recent[-window:]
        self.ordered = sorted(self.recent)

    def __len__(self) -> int:
        return len(self.recent)

    def add(self, score: float) -> None:
        """Let a score join, and the oldest leave if the window is full."""
        self.recent.append(score)
        insort(self.ordered, score)
        if self.window is not None and len(self.recent) > self.window:
            del self.ordered[bisect_left(self.ordered, self.recent.pop(0))]

    def extend(self, scores: list[float]) -> None:
        """Let many scores join, in time order."""
        fresh = ScoreStore(self.recent + scores, self.window)
        self.recent, self.ordered = fresh.recent, fresh.ordered

    def order_statistic(self, rank: int) -> float:
        """Return the rank-th smallest; rank 0 is -inf, one past the last is +inf."""
        if rank <= 0:
            return -math.inf
        return self.ordered[rank - 1] if rank <= len(self.ordered) else math.inf

    def count_below(self, score: float) -> int:
        """Return how many scores are smaller."""
        return bisect_left(self.ordered, score)


def window_thresholds(
    store: ScoreStore, stream: FloatArray, steps: AciSteps, coverage: int
) -> FloatArray:
    """Return the thresholds over the scores of a store, each new score joining it.

    Parameters
    ----------
    store : ScoreStore
        Scores before the stream; those of the stream are added.
    stream : ndarray of shape (n_steps,)
        New scores in time order.
    steps : AciSteps
        The integers of the recursion.
    coverage : int
        Its state before the first step, in units.

    Returns
    -------
    ndarray of shape (n_steps,)
        The threshold of each step.
    """
    size = store.window or len(store) + stream.size
    kernels = compiled_kernels("online", stream.size)
    if kernels is not None and steps.fit_int64(size, stream.size, coverage):
        past = np.array(store.recent, dtype=np.float64)
        store.extend(stream.tolist())
        result: FloatArray = kernels.window_thresholds(
            past, stream, size, steps.unit, coverage, steps.rise, steps.fall
        )
        return result
    thresholds = np.empty(stream.size)
    for t, score in enumerate(stream.tolist()):
        rank = steps.rank(len(store), coverage)
        thresholds[t] = threshold = store.order_statistic(rank)
        coverage += steps.rise if score > threshold else -steps.fall
        store.add(score)
    return thresholds


def check_step_size(
    gamma: Any, name: str = "gamma", typical: str = "0.001 to 0.1"
) -> Fraction:
    """Return a step size as the fraction that it stands for, or say what is wrong.

    Parameters
    ----------
    gamma : float
        Must be finite and at least 0.
    name : str, default="gamma"
        How the error calls it.
    typical : str, default="0.001 to 0.1"
        Values that the error advises.

    Returns
    -------
    Fraction
        The step size without its rounding error.
    """
    if isinstance(gamma, bool) or not isinstance(gamma, Real):
        raise TypeError(
            f"{name} must be a finite number >= 0, got {gamma!r} of type "
            f"{type(gamma).__name__}."
        )
    if not 0 <= float(gamma) < math.inf:
        raise ValueError(
            f"{name} must be a finite number >= 0, got {gamma!r}. Typical values are "
            f"{typical}."
        )
    return exact_level(gamma)


# A new residual falls between the i-th and the j-th smallest of n exchangeable ones
# with probability at least (j - i) / (n + 1), so both pairs below take
# j - i >= (n + 1) p. The equal-tailed pair leaves at most (n + 1) alpha / 2 ranks on
# either side. The shortest one looks at every i: beta = i / (n + 1) moves the error
# from one tail to the other. Both need the ranks 1 and n, no more: a finite pair exists
# exactly when n >= 2 / alpha - 1.
def residual_pair(
    ordered: FloatArray, level: Fraction, shortest: bool
) -> tuple[float, float]:
    """Return two order statistics of residuals around the share `level` of them.

    Parameters
    ----------
    ordered : ndarray of shape (n_residuals,)
        Signed residuals, non-decreasing.
    level : Fraction
        The coverage p.
    shortest : bool
        True takes the shortest of all pairs, the first if several are; False the pair
        with equal tails.

    Returns
    -------
    lower, upper : float
        Infinite if there are too few residuals.
    """
    n = ordered.size
    gap = rank_from_fraction(n, level)
    half = (1 - level) / 2
    first = lower_rank_from_fraction(n, half)
    if first < 1:
        return -math.inf, math.inf
    if not shortest:
        last = rank_from_fraction(n, 1 - half)
        return float(ordered[first - 1]), float(ordered[last - 1])
    with np.errstate(invalid="ignore"):
        widths = ordered[gap:] - ordered[: n - gap]
    best = int(np.argmin(np.where(np.isnan(widths), np.inf, widths)))
    return float(ordered[best]), float(ordered[best + gap])
