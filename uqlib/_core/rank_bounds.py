r"""Bounds of a statistic of unseen scores, over a set of ranks of known probability.

n calibration scores and m unseen scores T are exchangeable. Let S_(1) <= ... <= S_(n)
be the sorted calibration scores, S_(n+1) the upper end of their range, and
r_1 <= ... <= r_m the gaps 1 + #{S < T_(i)} into which the sorted unseen scores fall,
ties broken at random. Exchangeability says that (r_1, ..., r_m) is uniform on the
multisets of m gaps out of n + 1. Since T_(i) <= S_(r_i) always, every fixed set A of
multisets with probability 1 - alpha gives

    P(g(T) <= U) >= 1 - alpha,    U = max over r in A of g(S_(r_1), ..., S_(r_m)),

for a g that decreases in no score. Here A = {r : h(r) <= q} with h(r) the sum of
phi(r_i) over the positions that g looks at, and the smallest q with the probability.
Lower bounds are upper bounds of the mirrored problem, -g(-T) with scores -S.
"""

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from uqlib._core.batch_statistics import Composition, Linear, resolve_statistic
from uqlib._core.checks import as_1d
from uqlib._core.levels import check_confidence_level
from uqlib._core.order_law import check_sizes
from uqlib._core.rank_sides import BatchBound, lower_side, upper_side
from uqlib._typing import ArrayLike, FloatArray
from uqlib.exceptions import InfiniteIntervalWarning, warn_user

SIDES = ("upper", "lower", "two")


def batch_bound(
    scores: ArrayLike,
    m: int,
    statistic: Any = "mean",
    confidence_level: float = 0.9,
    *,
    phi: Any = "rank",
    score_bounds: tuple[float, float] = (-math.inf, math.inf),
    side: str = "two",
    method: str = "auto",
) -> float | tuple[float, float]:
    r"""Bound a statistic of m unseen scores by the ranks that they may have.

    .. math:: U = \max \{ g(S_{(r_1)}, \dots, S_{(r_m)}) : h(r) \le q \}, \qquad
              h(r) = \sum_{i : a_i > 0} a_i \varphi(r_i),

    over gaps :math:`r_1 \le \dots \le r_m` between the sorted scores S, with the
    smallest q for which :math:`h \le q` has probability p under the uniform law on
    multisets of gaps. The lower bound is the mirror image.

    Parameters
    ----------
    scores : array-like of shape (n,)
        Calibration scores, n >= 1, without NaN; infinite ones only where the statistic
        is an order statistic.
    m : int
        Number of unseen scores, at least 1.
    statistic : str, tuple, array-like of shape (m,) or Composition, default="mean"
        ``"mean"``, ``"median"`` (of an even number: the mean of the middle two),
        ``"max"``, ``"min"``; ``("order", k)``, the k-th smallest; ``("quantile", p)``,
        the k-th smallest with k = ceil(p m); ``("trimmed", l, u)``, the mean without
        the floor(l m) smallest and the floor(u m) largest scores, l and u shares in
        [0, 0.5); weights of the sorted scores, not negative and proportional to
        integers of at most 1000, normalized to sum to 1; or a `Composition`.
    confidence_level : float, default=0.9
        Probability p of the bound, strictly between 0 and 1. The two sides of
        ``side="two"`` each take half of 1 - p.
    phi : {"rank", "normal"} or array-like of shape (n + 1,), default="rank"
        What a gap costs: its number, the normal quantile at it on a grid of 500
        integers, or non-decreasing integers for the gaps 1, ..., n + 1, mirrored for
        the lower side. inf forbids a gap; names forbid the last one where the scores
        are unbounded there. It must not depend on the scores. Ignored by the closed
        form and the band, which need none.
    score_bounds : tuple of two floats, default=(-inf, inf)
        Values between which every score must lie, known beforehand.
    side : {"two", "upper", "lower"}, default="two"
        Which bound.
    method : {"auto", "closed", "dp", "hull", "core", "band"}, default="auto"
        ``"closed"``: order statistics, by a rank. ``"dp"``: the maximum by a full
        dynamic program. ``"core"``: the same for the mean, over those gaps that can
        matter. ``"hull"``: for the mean, its concave majorant, at most a step between
        two scores above. ``"band"``: a bound on every gap at once, for any statistic.
        ``"auto"``: closed forms where there are, core or hull by n and m for the mean,
        else the program.

    Returns
    -------
    float or tuple of two floats
        The bound; lower and upper for ``side="two"``. Programs add in floating point,
        correct to about 1e-13 of the largest score.

    Raises
    ------
    ValueError
        If there are no scores, one is NaN or outside of `score_bounds`, `m` is below
        1, `phi` decreases or has another length, the statistic or its parameters are
        not as above, or the method does not apply to it.
    TypeError
        If `m` is not an integer or `confidence_level` is not a number.

    Warns
    -----
    InfiniteIntervalWarning
        If a bound is infinite, with the number of scores that a finite one needs: for
        the mean and the maximum n >= m (1 / a - 1), a = 1 - p or half of it.

    See Also
    --------
    order_statistic_rank : The rank of the closed form.
    batch_band : The bounds of all gaps at once.

    Notes
    -----
    .. rubric:: Guarantee

    If the n scores and the m unseen ones are exchangeable, each side holds with
    probability at least its level, with ties and whatever `phi`, `method` and the law
    of the scores are [1]_. It is over the draw of both the scores and the batch.

    References
    ----------
    .. [1] Y. Lee, E. Tchetgen Tchetgen, E. Dobriban, "Batch Predictive Inference",
       arXiv:2409.13990.

    Examples
    --------
    >>> from uqlib.batch import batch_bound
    >>> scores = [1.0, 2.0, 4.0, 7.0]
    >>> batch_bound(scores, 2, "mean", 0.6, score_bounds=(0.0, 10.0))
    (1.0, 7.0)
    >>> batch_bound(scores, 2, ("order", 1), 0.6, side="upper")
    2.0
    """
    sides = batch_bound_details(
        scores,
        m,
        statistic,
        confidence_level,
        phi=phi,
        score_bounds=score_bounds,
        side=side,
        method=method,
    )
    warn_infinite_batch(sides, np.size(scores), m, statistic, confidence_level, side)
    values = tuple(bound.value for bound in sides)
    return (values[0], values[1]) if len(values) == 2 else values[0]


def batch_bound_details(
    scores: ArrayLike,
    m: int,
    statistic: Any = "mean",
    confidence_level: float = 0.9,
    *,
    phi: Any = "rank",
    score_bounds: tuple[float, float] = (-math.inf, math.inf),
    side: str = "two",
    method: str = "auto",
) -> tuple[BatchBound, ...]:
    """Return each side of a bound with its event, certificate and rank; never warn.

    Parameters
    ----------
    scores, m, statistic, confidence_level, phi, score_bounds, side, method
        As `batch_bound` takes them.

    Returns
    -------
    tuple of BatchBound
        One bound, or the lower and the upper for ``side="two"``.
    """
    level = side_level(confidence_level, side)
    values = np.sort(as_1d(scores, "scores"))
    _, m = check_sizes(values.size, m)
    lower, upper = _check_range(values, score_bounds)
    resolved = resolve_statistic(statistic, m)
    _check_finite(values, resolved, method)
    found = []
    if side != "upper":
        found.append(lower_side(values, lower, m, resolved, level, phi, method))
    if side != "lower":
        found.append(upper_side(values, upper, m, resolved, level, phi, method))
    return tuple(found)


# ---------------------------------------------------------------------------
# Infinite bounds. The k-th unseen score is above all calibration scores if the largest
# m - k + 1 of the n + m pooled ones are all unseen, and can then be arbitrarily large.


def rows_for_finite_bound(m: int, k: int, level: Fraction) -> int:
    """Return the least n at which the k-th of m unseen scores has a finite upper bound.

    Parameters
    ----------
    m, k : int
        Batch scores, position.
    level : Fraction
        The exact one-sided level.

    Returns
    -------
    int
        The n; ceil(m (1 / a - 1)) for k = m, with a = 1 - level.
    """
    low, high = 0, math.ceil(m * level / (1 - level))
    while low < high:
        middle = (low + high) // 2
        odds = math.perm(m, m - k + 1) * level.denominator
        all_odds = math.perm(middle + m, m - k + 1)
        if odds <= (level.denominator - level.numerator) * all_odds:
            high = middle
        else:
            low = middle + 1
    return high


def warn_infinite_batch(
    bounds: tuple[BatchBound, ...],
    n: int,
    m: int,
    statistic: Any,
    confidence_level: Any,
    side: str,
) -> None:
    """Warn once if a bound is infinite, and name the number of scores needed.

    Parameters
    ----------
    bounds : tuple of BatchBound
        As `batch_bound_details` returns them.
    n, m : int
        Numbers of calibration and of batch scores.
    statistic, confidence_level, side
        As `batch_bound` takes them.
    """
    names = ("lower", "upper") if side == "two" else (side,)
    open_ = [
        name
        for name, bound in zip(names, bounds, strict=True)
        if math.isinf(bound.value) and _is_an_end(bound, n)
    ]
    if not open_:
        return
    level, resolved = (
        side_level(confidence_level, side),
        resolve_statistic(statistic, m),
    )
    needed = max(_rows_needed(resolved, m, level, name) for name in open_)
    where = f"{open_[0]} side" if len(open_) == 1 else "lower and the upper side"
    remedy = (
        f"at least {needed} are needed. Pass more scores, a smaller batch, a lower "
        "level or finite score_bounds."
        if n < needed
        else f"{needed} would do with another method, or with a phi that forbids the "
        "last gap (inf)."
    )
    warn_user(
        f"{n} calibration scores do not bound the statistic of {m} scores on the "
        f"{where} at level {float(level):g}, so that the bound is infinite: {remedy}",
        InfiniteIntervalWarning,
    )


def _is_an_end(bound: BatchBound, n: int) -> bool:
    """Whether the bound is not itself a calibration score, one that is infinite."""
    return bound.method != "closed" or bound.rank in (0, n + 1)


def _rows_needed(
    statistic: Linear | Composition, m: int, level: Fraction, side: str
) -> int:
    if isinstance(statistic, Composition):
        return rows_for_finite_bound(m, m, level)
    k = statistic.last if side == "upper" else m + 1 - statistic.first
    return rows_for_finite_bound(m, k, level)


# ---------------------------------------------------------------------------
# Checks.


def side_level(confidence_level: Any, side: str) -> Fraction:
    """Return the exact level of one side: two sides share the miscoverage equally.

    Parameters
    ----------
    confidence_level : float
        Strictly between 0 and 1.
    side : {"two", "upper", "lower"}
        Which bound.

    Returns
    -------
    Fraction
        The one-sided level.
    """
    if side not in SIDES:
        raise ValueError(f"side={side!r} must be one of {', '.join(map(repr, SIDES))}.")
    # The rational that a float stands for takes longer to find than a hull.
    exact = _level_of_float if type(confidence_level) is float else _level_of
    return exact(confidence_level, side)


def _level_of(confidence_level: Any, side: str) -> Fraction:
    level = check_confidence_level(confidence_level)
    return (1 + level) / 2 if side == "two" else level


@lru_cache(maxsize=256)
def _level_of_float(confidence_level: float, side: str) -> Fraction:
    return _level_of(confidence_level, side)


def _check_range(values: FloatArray, score_bounds: Any) -> tuple[float, float]:
    if values.size == 0:
        raise ValueError("scores is empty: pass at least one calibration score.")
    try:
        lower, upper = (float(end) for end in score_bounds)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"score_bounds must be a pair of numbers, got {score_bounds!r}. Pass "
            "(-np.inf, np.inf) where no bounds are known."
        ) from error
    if not lower <= values[0] or not values[-1] <= upper:
        raise ValueError(
            f"scores must lie within score_bounds=({lower}, {upper}), got scores from "
            f"{values[0]} to {values[-1]}. Pass bounds that hold for every score."
        )
    return lower, upper


def _check_finite(
    values: FloatArray, statistic: Linear | Composition, method: str
) -> None:
    ordered = isinstance(statistic, Linear) and statistic.order is not None
    added = not ordered or method in ("hull", "core")
    if added and not np.isfinite(values[[0, -1]]).all():
        raise ValueError(
            "scores must be finite, except for the closed form of an order statistic: "
            "sums of infinite scores are not defined. Remove or clip them."
        )
