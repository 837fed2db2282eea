"""Worst-slab coverage: how bad coverage is where features make it worst."""

import math
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np

from uqlib._core.coverage_checks import check_covered
from uqlib._core.levels import exact_level
from uqlib._core.slabs import Slab, standardizing
from uqlib._core.slabs import worst_slab as find_worst_slab
from uqlib._typing import ArrayLike, BoolArray, FloatArray


class WorstSlab(NamedTuple):
    """The slab of :func:`worst_slab`: coverage and where it is.

    Parameters
    ----------
    coverage : float
        Share of the slab's rows that are covered.
    standard_error : float
        Of that share, ``sqrt(coverage * (1 - coverage) / n_samples)``.
    n_samples : int
        Number of rows behind the share.
    direction : ndarray of shape (n_features,)
        What each feature counts for, per unit of the feature.
    lower, upper : float
        The slab is ``lower <= X @ direction <= upper``, in standard deviations; an end
        may be infinite.

    Examples
    --------
    >>> from uqlib.metrics import worst_slab
    >>> X, covered = [[0.0], [1.0], [2.0], [3.0]], [True, True, False, True]
    >>> worst_slab(X, covered, min_share=0.5, test_size=None).n_samples
    2
    """

    coverage: float
    standard_error: float
    n_samples: int
    direction: FloatArray
    lower: float
    upper: float


def worst_slab_coverage(
    X: ArrayLike,
    covered: ArrayLike,
    *,
    min_share: float = 0.1,
    n_directions: int = 1000,
    test_size: float | None = 0.5,
    rng: Any = None,
) -> float:
    r"""Coverage in the slab of the feature space where it is lowest.

    .. math:: \mathrm{WSC} = \min_{v, a, b} \Pr(y \in C(x) \mid a \le v^\top x \le b)
              \quad \text{over} \quad \Pr(a \le v^\top x \le b) \ge \delta .

    The slab is chosen on some rows and its coverage counted on the others. See
    :func:`worst_slab`, which also tells where the slab lies, for how.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Features, finite.
    covered : array-like of shape (n_samples,)
        Booleans: which rows are covered, by intervals, sets or regions.
    min_share : float, default=0.1
        Share :math:`\delta` of rows that a slab must hold, in (0, 1].
    n_directions : int, default=1000
        Number of random directions v, at least 0. The axes are always tried too.
    test_size : float or None, default=0.5
        Share of rows kept for counting coverage, in (0, 1). None counts on the rows
        by which the slab was chosen.
    rng : None, int or numpy.random.Generator, default=None
        Draws the directions and then the split.

    Returns
    -------
    float
        Between 0 and 1. Best is the level that was asked for.

    Raises
    ------
    ValueError
        If shapes do not agree, `X` is not finite, there are too few rows, no row is in
        the slab when its coverage is to be counted, or a parameter is out of range.
    TypeError
        If `covered` is not boolean or `n_directions` not an integer.

    See Also
    --------
    worst_slab : The slab itself, and the standard error.
    group_coverage : Coverage in groups that you name.

    Notes
    -----
    With ``test_size=None`` the value is too low, as it is the least of very many: even
    a predictor whose coverage is p at every x falls below p, the further the smaller
    the slabs. With a split, the value is an unbiased estimate of the coverage in the
    slab that was chosen, and for such a predictor p on average.

    References
    ----------
    .. [1] M. Cauchois, S. Gupta, J. Duchi, "Knowing what You Know: valid and validated
       confidence sets in multiclass and multilabel prediction", arXiv:2004.10181.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.metrics import worst_slab_coverage
    >>> X = np.random.default_rng(0).normal(size=(400, 2))
    >>> covered = X[:, 0] < 1.0
    >>> worst_slab_coverage(X, covered, n_directions=10, rng=0)
    0.0
    """
    return worst_slab(
        X,
        covered,
        min_share=min_share,
        n_directions=n_directions,
        test_size=test_size,
        rng=rng,
    ).coverage


def worst_slab(
    X: ArrayLike,
    covered: ArrayLike,
    *,
    min_share: float = 0.1,
    n_directions: int = 1000,
    test_size: float | None = 0.5,
    rng: Any = None,
) -> WorstSlab:
    r"""Slab of the feature space where coverage is lowest.

    .. math:: (v, a, b) = \arg\min \frac{\#\{i : a \le v^\top x_i \le b, \;
              y_i \in C(x_i)\}}{\#\{i : a \le v^\top x_i \le b\}}
              \quad \text{over} \quad
              \#\{i : a \le v^\top x_i \le b\} \ge \delta n .

    For each direction v the worst a and b are found exactly. Directions are those of
    the axes and random ones, uniform on the sphere, after each feature was divided by
    its standard deviation.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Features, finite. They need not be those of the model.
    covered : array-like of shape (n_samples,)
        Booleans: which rows are covered, by intervals, sets or regions.
    min_share : float, default=0.1
        Share :math:`\delta` of rows that a slab must hold, in (0, 1].
    n_directions : int, default=1000
        Number of random directions, at least 0. One feature has only its axis.
    test_size : float or None, default=0.5
        Share of rows kept for counting coverage, in (0, 1). None counts on the rows
        by which the slab was chosen, which is too low.
    rng : None, int or numpy.random.Generator, default=None
        Draws the directions and then the split.

    Returns
    -------
    WorstSlab
        Named fields: ``coverage``, ``standard_error`` and ``n_samples`` of the slab
        among the rows on which coverage is counted; ``direction``, an ndarray of shape
        (n_features,), and ``lower`` and ``upper``, such that the slab is
        ``lower <= X @ direction <= upper``.

    Raises
    ------
    ValueError
        If shapes do not agree, `X` is not finite, there are too few rows, no row is in
        the slab when its coverage is to be counted, or a parameter is out of range.
    TypeError
        If `covered` is not boolean or `n_directions` not an integer.

    See Also
    --------
    worst_slab_coverage : Its coverage alone.
    covered_by_interval : Which rows are covered by intervals.
    covered_by_set : Which rows are covered by sets.

    Notes
    -----
    Bounds lie halfway between the outermost row inside and the next one outside, and
    are infinite where there is none. Units and origins of the features do not matter,
    equal rows stay together, and with ``test_size=None`` neither does the order of the
    rows. The cost is that of sorting, O(n log n) for each direction.

    The standard error is that of a slab fixed beforehand: it holds with a split and
    not with ``test_size=None``. Many features need many directions: name the features
    that matter by passing only their columns.

    References
    ----------
    .. [1] M. Cauchois, S. Gupta, J. Duchi, "Knowing what You Know: valid and validated
       confidence sets in multiclass and multilabel prediction", arXiv:2004.10181.

    Examples
    --------
    >>> from uqlib.metrics import worst_slab
    >>> X, covered = [[0.0], [1.0], [2.0], [3.0]], [True, True, False, False]
    >>> slab = worst_slab(X, covered, min_share=0.5, test_size=None)
    >>> slab.coverage, slab.n_samples, slab.upper
    (0.0, 2, inf)
    """
    points = _check_features(X)
    inside = check_covered(covered, len(points))
    share = _check_share(min_share)
    n_test = _check_test_size(test_size, len(points))
    generator = np.random.default_rng(rng)
    directions = _directions(n_directions, points.shape[1], generator)
    scaling = standardizing(points)
    points = scaling.transform(points)
    if n_test is None:
        slab = find_worst_slab(points, inside, _least(share, len(points)), directions)
    else:
        order = generator.permutation(len(points))
        fit, test = order[n_test:], order[:n_test]
        least = _least(share, fit.size)
        slab = find_worst_slab(points[fit], inside[fit], least, directions)
        slab = _recount(slab, points[test], inside[test])
    return _named(scaling.original(slab))


def _directions(n_directions: Any, n_features: int, rng: Any) -> FloatArray:
    if isinstance(n_directions, bool) or not isinstance(n_directions, Integral):
        raise TypeError(f"n_directions must be an integer >= 0, got {n_directions!r}.")
    if n_directions < 0:
        raise ValueError(
            f"n_directions must be at least 0, got {n_directions!r}. Pass 0 for the "
            "axes alone."
        )
    axes = np.eye(n_features)
    if n_features == 1:
        return axes
    normal = rng.standard_normal((int(n_directions), n_features))
    return np.vstack([axes, normal / np.linalg.norm(normal, axis=1, keepdims=True)])


def _least(share: Fraction, n_samples: int) -> int:
    return math.ceil(share * n_samples)


def _recount(slab: Slab, points: FloatArray, inside: BoolArray) -> Slab:
    """Return the slab with the numbers of other rows."""
    projection = points @ slab.direction
    held = (slab.lower <= projection) & (projection <= slab.upper)
    if not held.any():
        raise ValueError(
            f"None of the {len(points)} rows kept by test_size is in the slab, so that "
            "its coverage cannot be counted. Raise min_share, or pass more rows."
        )
    return slab._replace(n_covered=int(inside[held].sum()), n_rows=int(held.sum()))


def _named(slab: Slab) -> WorstSlab:
    coverage = slab.n_covered / slab.n_rows
    error = math.sqrt(coverage * (1 - coverage) / slab.n_rows)
    return WorstSlab(
        coverage, error, slab.n_rows, slab.direction, slab.lower, slab.upper
    )


def _check_features(X: Any) -> FloatArray:
    points = np.asarray(X, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(
            "X must have shape (n_samples, n_features) with at least one feature, got "
            f"shape {points.shape}. Reshape one feature with X.reshape(-1, 1)."
        )
    if not np.isfinite(points).all():
        raise ValueError(
            "X contains NaN or infinity, which have no place in a slab. Impute them or "
            "leave out those rows or columns, here only."
        )
    return points


def _check_share(min_share: Any) -> Fraction:
    is_number = isinstance(min_share, Real) and not isinstance(min_share, bool)
    if not is_number or not 0 < min_share <= 1:
        raise ValueError(
            f"min_share must be a number in (0, 1], got {min_share!r}. Pass 0.1 for "
            "slabs with at least a tenth of the rows."
        )
    return exact_level(min_share)


def _check_test_size(test_size: Any, n_samples: int) -> int | None:
    """Return the number of rows on which coverage is counted; None for all."""
    if test_size is None:
        return None
    is_number = isinstance(test_size, Real) and not isinstance(test_size, bool)
    if not is_number or not 0 < test_size < 1:
        raise ValueError(
            f"test_size must be a number in (0, 1) or None, got {test_size!r}. Pass "
            "0.5, or None to count on the rows by which the slab was chosen."
        )
    n_test = math.floor(exact_level(test_size) * n_samples)
    if n_test == 0:
        raise ValueError(
            f"test_size={test_size!r} keeps none of {n_samples} rows. Pass more rows, "
            "or test_size=None."
        )
    return n_test
