"""Intervals of cross-conformal prediction by order statistics: CV+, minmax, base.

Every row i has a score s_i under the model of its fold k(i), fitted without it, and the
ends that fold model k gives at x are affine in the threshold t,

    l_k(x) - c_k(x) t,    u_k(x) + c_k(x) t,    c >= 0

(l = u = the prediction and c = 1 for absolute residuals). With n rows and r the rank of
the level, ceil((n + 1) p),

    plus     the r-th smallest of all u_{k(i)}(x) + c_{k(i)}(x) s_i, i = 1, ..., n,
    minmax   the largest over the folds of u_k(x) + c_k(x) s_(r),
    base     u(x) + c(x) s_(r), with u, c of the model fitted on all rows;

the lower end is the upper end of the mirror image: floor((n + 1) (1 - p)) from below is
r from above. Rank n + 1 stands for an infinite end.
"""

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._core.checks import as_1d, check_no_nan, check_target
from uqlib._core.levels import check_confidence_level
from uqlib._core.outward import next_larger, outward_interval
from uqlib._core.ranks import order_statistic, rank_from_fraction, warn_infinite
from uqlib._core.union_selection import union_of_lists
from uqlib._typing import ArrayLike, FloatArray

CROSS_METHODS = ("plus", "minmax", "base")


def cross_conformal_interval(
    y_oof: ArrayLike,
    y_train: ArrayLike,
    fold: ArrayLike,
    y_fold_pred: ArrayLike,
    confidence_level: float,
    method: str = "plus",
    y_pred: ArrayLike | None = None,
) -> FloatArray:
    r"""Intervals from out-of-fold residuals and the predictions of the fold models.

    With :math:`\hat\mu_k` the model fitted without fold k, :math:`k(i)` the fold of
    training row i, :math:`R_i = |y_i - \hat\mu_{k(i)}(x_i)|`, n rows, and
    :math:`\alpha = 1 - p`, the method "plus" gives

    .. math:: C(x) = [\text{the } \lfloor (n + 1) \alpha \rfloor
              \text{-th smallest of } \hat\mu_{k(i)}(x) - R_i, \;
              \text{the } \lceil (n + 1) p \rceil
              \text{-th smallest of } \hat\mu_{k(i)}(x) + R_i],

    "minmax" moves the smallest and the largest of the :math:`\hat\mu_k(x)` by the
    :math:`\lceil (n + 1) p \rceil`-th smallest residual, and "base" moves the
    prediction of the model fitted on all rows by it.

    Parameters
    ----------
    y_oof : array-like of shape (n_train,)
        Out-of-fold prediction of each training row.
    y_train : array-like of shape (n_train,)
        Target of each training row, finite.
    fold : array-like of shape (n_train,)
        The column of `y_fold_pred` that belongs to each training row, from 0.
    y_fold_pred : array-like of shape (n_test, n_folds)
        Predictions of the fold models at the new rows.
    confidence_level : float
        The level p, strictly between 0 and 1.
    method : {"plus", "minmax", "base"}, default="plus"
        How the ends are put together.
    y_pred : array-like of shape (n_test,), default=None
        Predictions at the new rows of the model fitted on all training rows; needed by
        "base", without effect otherwise.

    Returns
    -------
    ndarray of shape (n_test, 2)
        Lower and upper bounds, rounded outwards by a few units in the last place;
        infinite where the rows are too few.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is NaN, `fold` names a column that does not
        exist, `method` is unknown, or "base" lacks `y_pred`.

    Warns
    -----
    InfiniteIntervalWarning
        If the training rows are too few for the level, with the number needed.

    See Also
    --------
    CrossConformalRegressor : The estimator that fits the fold models.
    conformal_quantile : The threshold of one model that has not seen the rows.

    Notes
    -----
    The coverage is at least :math:`1 - 2 \alpha`, less a slack for K < n folds, with
    "plus"; at least p with "minmax" and n folds; "base" has no guarantee. The
    assumptions are those of :class:`~uqlib.conformal.CrossConformalRegressor`.

    A row costs binary searches in each fold: no array of n_test times n_train is made
    unless every row is its own fold, and then in blocks.

    References
    ----------
    .. [1] R. F. Barber, E. J. Candes, A. Ramdas, R. J. Tibshirani, "Predictive
       Inference with the Jackknife+", arXiv:1905.02928.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.conformal import cross_conformal_interval
    >>> y_train, fold = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 0, 1, 1])
    >>> y_oof, y_fold_pred = np.full(4, 2.5), np.array([[2.0, 3.0]])
    >>> np.round(cross_conformal_interval(y_oof, y_train, fold, y_fold_pred, 0.6), 6)
    array([[1.5, 3.5]])
    """
    oof, y = as_1d(y_oof, "y_oof"), check_target(y_train, name="y_train")
    _check_length(oof, y.size, "y_oof", "y_train")
    bases = np.asarray(y_fold_pred, dtype=np.float64)
    if bases.ndim != 2:
        raise ValueError(
            "y_fold_pred must have shape (n_test, n_folds), got shape "
            f"{bases.shape}. Pass one column for each fold model."
        )
    check_no_nan(bases, "y_fold_pred")
    column = _check_fold(fold, y.size, bases.shape[1])
    check_method(method)
    level = check_confidence_level(confidence_level)
    calibration = FoldScores(np.abs(y - oof), column, bases.shape[1], level)
    if calibration.rank > y.size:
        warn_infinite(y.size, level)
    if method == "base":
        point = _check_base_prediction(y_pred, len(bases))
        return calibration.base(point, point, None)
    ends = calibration.plus if method == "plus" else calibration.minmax
    return ends(bases, bases, None)


class FoldScores:
    """Scores of training rows by fold, to be added to the ends of any rows.

    Parameters
    ----------
    scores : ndarray of shape (n,) or (n, 2)
        Out-of-fold scores without NaN; one column an end takes each end at the level
        1 - alpha / 2.
    fold : ndarray of shape (n,)
        The fold of each row, from 0 to n_folds - 1.
    n_folds : int
        The number of fold models.
    level : Fraction
        The exact level p.
    """

    def __init__(
        self,
        scores: FloatArray,
        fold: NDArray[np.intp],
        n_folds: int,
        level: Fraction,
    ) -> None:
        self.scores = scores
        self.columns = [scores, scores] if scores.ndim == 1 else list(scores.T)
        self.n = len(scores)
        self.rank = rank_from_fraction(self.n, one_sided(scores, level))
        self.fold = fold
        self.sizes = np.bincount(fold, minlength=n_folds)
        self._sorted: dict[bool, list[FloatArray]] = {}

    @property
    def thresholds(self) -> FloatArray:
        """The threshold of each column of the scores: shape () or (2,)."""
        ends = [order_statistic(column, self.rank) for column in self.columns]
        return np.array(ends[0] if self.scores.ndim == 1 else ends)

    def plus(
        self, lower: FloatArray, upper: FloatArray, scale: FloatArray | None
    ) -> FloatArray:
        """Return the intervals of the union of all ends.

        Parameters
        ----------
        lower, upper : ndarray of shape (n_rows, n_folds)
            The l and u of every row and fold model.
        scale : ndarray of shape (n_rows, n_folds) or None
            The c, at least 0; None stands for 1.

        Returns
        -------
        ndarray of shape (n_rows, 2)
            The intervals.
        """
        if self.rank > self.n:
            return everything(len(lower))
        below, above = self._shifts(scale is not None)
        stop, rank = np.cumsum(self.sizes), self.rank
        return outward_interval(
            -next_larger(union_of_lists(-lower, below, stop, rank, scale)),
            next_larger(union_of_lists(upper, above, stop, rank, scale)),
        )

    def minmax(
        self, lower: FloatArray, upper: FloatArray, scale: FloatArray | None
    ) -> FloatArray:
        """Return the hull of the intervals of the fold models with one threshold.

        Parameters
        ----------
        lower, upper : ndarray of shape (n_rows, n_folds)
            The l and u of every row and fold model.
        scale : ndarray of shape (n_rows, n_folds) or None
            The c, at least 0; None stands for 1.

        Returns
        -------
        ndarray of shape (n_rows, 2)
            The intervals.
        """
        if self.rank > self.n:
            return everything(len(lower))
        used = self.sizes > 0
        scale = None if scale is None else scale[:, used]
        low, high = self._one_threshold(lower[:, used], upper[:, used], scale)
        return outward_interval(low.min(axis=1), high.max(axis=1))

    def base(
        self, lower: FloatArray, upper: FloatArray, scale: FloatArray | None
    ) -> FloatArray:
        """Return the intervals of one model with one threshold.

        Parameters
        ----------
        lower, upper : ndarray of shape (n_rows,)
            The l and u of every row.
        scale : ndarray of shape (n_rows,) or None
            The c, at least 0; None stands for 1.

        Returns
        -------
        ndarray of shape (n_rows, 2)
            The intervals.
        """
        if self.rank > self.n:
            return everything(len(lower))
        return outward_interval(*self._one_threshold(lower, upper, scale))

    def _one_threshold(
        self, lower: FloatArray, upper: FloatArray, scale: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        shifts = _outward(self.thresholds, scale is not None)
        below, above = np.broadcast_to(shifts, 2)
        return -_end(-lower, below, scale), _end(upper, above, scale)

    def _shifts(self, scaled: bool) -> list[FloatArray]:
        """Return what is added outwards at the lower and upper end, sorted by fold."""
        if scaled not in self._sorted:
            self._sorted[scaled] = [
                _outward(column[np.lexsort((column, self.fold))], scaled)
                for column in self.columns
            ]
        return self._sorted[scaled]


# What is rounded when. A score s = fl(d), d = y - u, is compared with a threshold, and
# as `_core/outward.py` derives, no y with s <= t is lost above up(fl(u + up(t))). The
# map up is monotone, so it can be applied to the shifts before, and to the one end that
# is selected after the selection. With a scale the score is fl(fl(d) / c) <= t, hence
#
#     fl(d) < c up(t)   and   y <= up(fl(u + up(fl(up(t) c)))),
#
# and the inner up, which stands between product and sum, is had by enlarging the shift
# instead: an up is a relative growth by at least 2^-53, fl(t' c) is off by at most
# 2^-53 relatively, and so eight of them give fl(t' c) >= up(fl(up(t) c)) with room
# (if it does not underflow, and then it is too small to move any u but 0).
_SCALED_UPS = 8


def _outward(shift: FloatArray, scaled: bool) -> FloatArray:
    for _ in range(_SCALED_UPS if scaled else 1):
        shift = next_larger(shift)
    return shift


def _end(base: FloatArray, shift: FloatArray, scale: FloatArray | None) -> FloatArray:
    """Return base + scale shift rounded upwards; undefined is +inf, 0 inf is inf."""
    with np.errstate(invalid="ignore", over="ignore"):
        product = shift if scale is None else scale * shift
        end = next_larger(base + np.where(np.isnan(product), shift, product))
    return np.where(np.isnan(end), np.inf, end)


def one_sided(scores: FloatArray, level: Fraction) -> Fraction:
    """Return the level of each column of the scores.

    Parameters
    ----------
    scores : ndarray of shape (n,) or (n, 2)
        One column an end, or one for both.
    level : Fraction
        The level of the interval.

    Returns
    -------
    Fraction
        The level, or 1 - alpha / 2 where each end has its own scores.
    """
    return level if scores.ndim == 1 else 1 - (1 - level) / 2


def everything(n_rows: int) -> FloatArray:
    """Return intervals without bounds.

    Parameters
    ----------
    n_rows : int
        Their number.

    Returns
    -------
    ndarray of shape (n_rows, 2)
        -inf and +inf.
    """
    return np.tile([-np.inf, np.inf], (n_rows, 1))


def check_method(method: Any) -> None:
    """Refuse an unknown method.

    Parameters
    ----------
    method : str
        One of `CROSS_METHODS`.
    """
    if not isinstance(method, str) or method not in CROSS_METHODS:
        raise ValueError(f"method={method!r} must be one of {list(CROSS_METHODS)}.")


def _check_fold(fold: Any, n_train: int, n_folds: int) -> NDArray[np.intp]:
    values = np.asarray(fold)
    if values.shape != (n_train,):
        raise ValueError(
            f"fold must have shape ({n_train},), one column number a training row, got "
            f"shape {values.shape}."
        )
    if n_train == 0:
        return np.empty(0, dtype=np.intp)
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= n_folds:
        raise ValueError(
            f"fold must hold integers from 0 to {n_folds - 1}, the columns of "
            f"y_fold_pred, got {values.dtype} from {values.min()} to {values.max()}."
        )
    return values.astype(np.intp)


def _check_base_prediction(y_pred: Any, n_test: int) -> FloatArray:
    if y_pred is None:
        raise ValueError(
            'method="base" needs y_pred, the predictions at the new rows of the model '
            "fitted on all training rows, got None."
        )
    point = as_1d(y_pred, "y_pred")
    _check_length(point, n_test, "y_pred", "y_fold_pred")
    return point


def _check_length(values: FloatArray, n: int, name: str, reference: str) -> None:
    if values.size != n:
        raise ValueError(
            f"{name} has {values.size} rows but {reference} has {n}: pass arrays over "
            "the same rows."
        )
