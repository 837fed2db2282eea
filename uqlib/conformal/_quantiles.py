"""Conformal calibration of a whole quantile matrix, as a pipeline step."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from uqlib._core.levels import (
    LEVEL_TOLERANCE,
    check_quantiles,
    exact_level,
    is_symmetric,
    level_names,
    levels_from_names,
)
from uqlib._core.outward import add_outward, outward_envelope
from uqlib._core.ranks import (
    lower_rank_from_fraction,
    order_statistic,
    rank_from_fraction,
    warn_infinite,
)
from uqlib._core.scores import quantile_pair_scores
from uqlib._typing import FloatArray
from uqlib._validation import check_quantile_input, check_X_y


class ConformalQuantiles(TransformerMixin, BaseEstimator):
    r"""Calibrate each level of a quantile matrix by its own one-sided rank.

    With the signed scores :math:`s_i = y_i - q_\tau(x_i)` of n calibration rows,

    .. math:: \tilde q_\tau(x) = q_\tau(x) + s_{(r)}, \qquad
              r = \begin{cases}
              \lceil (n + 1) \tau \rceil, & \tau > 1/2, \\
              \lfloor (n + 1) \tau \rfloor, & \tau < 1/2,
              \end{cases}

    where rank 0 stands for :math:`-\infty` and rank n + 1 for :math:`+\infty`. The
    median is moved by the median of its scores. Crossing is then repaired by the
    outward envelope: a lower end becomes the minimum over the ends inside it, an upper
    end the maximum.

    With ``symmetric=True`` each pair :math:`\tau, 1 - \tau` is moved outwards by the
    :math:`\lceil (n + 1) (1 - 2 \tau) \rceil`-th smallest of
    :math:`\max(q_\tau - y, y - q_{1-\tau})`, and the median is left. This controls
    pairs only, not single levels.

    Parameters
    ----------
    quantiles : array-like of shape (n_quantiles,), default=None
        The levels of the columns. None reads them from column names (q0.05, ...), as
        ``set_output(transform="pandas")`` on the steps before gives them.
    symmetric : bool, default=False
        Calibrate central pairs instead of levels.

    Attributes
    ----------
    quantiles_ : ndarray of shape (n_quantiles,)
        The levels.
    threshold_ : ndarray of shape (n_quantiles,)
        What is added to each level, positive = upwards; infinite where the rows are too
        few for the level.
    n_calibration_ : int
        Number of calibration rows.
    n_features_in_ : int
        Number of levels.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if they are strings.

    Raises
    ------
    ValueError
        If there are no levels or not as many as columns, if the matrix contains NaN or
        y is not finite, or if ``symmetric=True`` and a level has no partner.

    Warns
    -----
    InfiniteIntervalWarning
        If the calibration rows are too few for the outermost level.

    See Also
    --------
    ConformalizedQuantileRegressor : One interval, split for you.
    uqlib.quantile.CrossFitQuantiles : The step before.

    Notes
    -----
    .. rubric:: Guarantee

    If the rows passed to `fit` and a new row are exchangeable and the quantiles come
    from a model that was not trained on them, then for every level alone
    :math:`P(y \le \tilde q_\tau(x)) \ge \tau` if :math:`\tau > 1/2` and
    :math:`P(y < \tilde q_\tau(x)) \le \tau` if :math:`\tau < 1/2`, hence every central
    pair covers with probability at least :math:`1 - 2 \tau`. The envelope only
    enlarges. For the median there is none. With ``symmetric=True``: every pair covers
    with probability at least :math:`1 - 2 \tau`, and single levels have none.

    After :class:`~uqlib.quantile.CrossFitQuantiles` in a pipeline, the rows come from
    out-of-fold models while predictions come from another one: no theorem holds, and
    coverage is to be measured.

    References
    ----------
    .. [1] Y. Romano, E. Patterson, E. J. Candes, "Conformalized Quantile Regression",
       arXiv:1905.03222.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.conformal import ConformalQuantiles
    >>> y = np.arange(1.0, 20.0)
    >>> q = np.zeros((19, 2))
    >>> ConformalQuantiles(quantiles=[0.1, 0.9]).fit(q, y).transform([[0.0, 0.0]])
    array([[ 2., 18.]])
    """

    def __init__(self, quantiles: Any = None, *, symmetric: bool = False) -> None:
        self.quantiles = quantiles
        self.symmetric = symmetric

    def fit(self, X: Any, y: Any) -> "ConformalQuantiles":
        """Calibrate the levels.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_quantiles)
            Quantile matrix of the calibration rows.
        y : array-like of shape (n_samples,)
            Their target, finite.

        Returns
        -------
        self : ConformalQuantiles
            Calibrated.
        """
        matrix = check_quantile_input(self, X, reset=True)
        _, y = check_X_y(self, X, y, reset=False)
        self.quantiles_ = self._levels(matrix.shape[1])
        self.n_calibration_ = int(y.size)
        calibrate = _pair_thresholds if self.symmetric else _level_thresholds
        self.threshold_ = calibrate(y, matrix.astype(np.float64), self.quantiles_)
        self._warn_if_infinite()
        return self

    def transform(self, X: Any) -> FloatArray:
        """Return the calibrated quantile matrix.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_quantiles)
            Quantile matrix.

        Returns
        -------
        ndarray or dataframe of shape (n_samples, n_quantiles)
            Non-decreasing rows, possibly infinite at the ends.
        """
        check_is_fitted(self, "threshold_")
        matrix = check_quantile_input(self, X, reset=False).astype(np.float64)
        shifted = add_outward(matrix, self.quantiles_, self.threshold_)
        return outward_envelope(shifted, self.quantiles_)

    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """Return the names of the columns: q0.05, q0.1, ...

        Parameters
        ----------
        input_features : None
            Ignored: the columns are named by their levels.

        Returns
        -------
        ndarray of shape (n_quantiles,)
            Names of dtype object.
        """
        check_is_fitted(self, "threshold_")
        return np.array(level_names(self.quantiles_), dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _levels(self, n_columns: int) -> FloatArray:
        named = levels_from_names(getattr(self, "feature_names_in_", ()))
        levels = named if self.quantiles is None else check_quantiles(self.quantiles)
        if levels is None:
            raise ValueError(
                "quantiles=None, and the columns have no names like q0.05 to read the "
                "levels from. Pass quantiles=, or set_output(transform='pandas') on "
                "the steps before."
            )
        if levels.size != n_columns:
            raise ValueError(
                f"quantiles has {levels.size} levels but X has {n_columns} columns: "
                "pass one level for each column."
            )
        if named is not None and np.abs(named - levels).max() > LEVEL_TOLERANCE:
            raise ValueError(
                f"quantiles={levels.tolist()} contradicts the names of the columns, "
                f"{list(self.feature_names_in_)}. Put both in the same order."
            )
        if self.symmetric and not is_symmetric(levels):
            raise ValueError(
                "symmetric=True needs the level 1 - tau for every level tau, got "
                f"quantiles={levels.tolist()}. Add the partners or set symmetric=False."
            )
        return levels

    def _warn_if_infinite(self) -> None:
        # The outermost level needs the most rows, so one warning names the number.
        infinite = np.isinf(self.threshold_)
        if not infinite.any():
            return
        levels = [exact_level(float(t)) for t in self.quantiles_[infinite]]
        if self.symmetric:
            sided = max(abs(1 - 2 * level) for level in levels)
        else:
            sided = max(max(level, 1 - level) for level in levels)
        n = self.n_calibration_
        if rank_from_fraction(n, sided) > n:
            warn_infinite(n, sided)


def _level_thresholds(
    y: FloatArray, matrix: FloatArray, quantiles: FloatArray
) -> FloatArray:
    shifts = []
    for column, tau in zip(matrix.T, quantiles, strict=True):
        scores, level = y - column, exact_level(float(tau))
        if level * 2 == 1:
            shifts.append(_median_shift(scores))
            continue
        rank_of = rank_from_fraction if level * 2 > 1 else lower_rank_from_fraction
        shifts.append(order_statistic(scores, rank_of(scores.size, level)))
    return np.array(shifts)


def _median_shift(scores: FloatArray) -> float:
    # Between -inf and +inf lies nothing in particular: the median then stays.
    with np.errstate(invalid="ignore"):
        middle = float(np.median(scores))
    return 0.0 if np.isnan(middle) else middle


def _pair_thresholds(
    y: FloatArray, matrix: FloatArray, quantiles: FloatArray
) -> FloatArray:
    shifts = np.zeros(quantiles.size)
    for low in range(quantiles.size // 2):
        high = quantiles.size - 1 - low
        scores = np.maximum(*quantile_pair_scores(y, matrix[:, [low, high]]))
        level = 1 - 2 * exact_level(float(quantiles[low]))
        outwards = order_statistic(scores, rank_from_fraction(y.size, level))
        shifts[low], shifts[high] = -outwards, outwards
    return shifts
