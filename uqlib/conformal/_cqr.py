"""Conformalized quantile regression."""

from typing import Any

from uqlib.conformal._base import BaseScoreRegressor
from uqlib.conformal._scores import QuantileScore


class ConformalizedQuantileRegressor(BaseScoreRegressor):
    r"""Intervals of guaranteed coverage whose width follows a quantile regressor.

    With the quantiles :math:`l(x), u(x)` of the levels :math:`\alpha / 2` and
    :math:`1 - \alpha / 2`, :math:`\alpha = 1 - p`, and n rows that the estimator was
    not trained on,

    .. math:: s_i = \max(l(x_i) - y_i, \; y_i - u(x_i)), \qquad
              C(x) = [l(x) - s_{(k)}, \; u(x) + s_{(k)}], \quad
              k = \lceil (n + 1) p \rceil .

    With ``symmetric=False`` each end has its own one-sided scores and the rank
    :math:`\lceil (n + 1) (1 - \alpha / 2) \rceil`.

    Parameters
    ----------
    estimator : estimator
        Any quantile regressor with both levels: one with `predict_quantiles`, a
        quantile forest, a pipeline that ends in one or in a quantile transformer. It is
        cloned and fitted; a :class:`~sklearn.frozen.FrozenEstimator` is used as it
        stands.
    confidence_level : float, default=0.9
        Coverage asked for, strictly between 0 and 1.
    symmetric : bool, default=True
        Move both ends by the same amount. False moves each end by its own, and
        guarantees each end: wider intervals for the same level.
    group_by : str, int or callable, default=None
        Column of X, by name or number, or a function of X, that gives the group of
        each row: every group is calibrated by its own rows. Instead, arrays can be
        passed as `mondrian_groups` to the methods.
    weight_estimator : classifier or callable, default=None
        What gives the likelihood ratio of new rows over calibration rows: a fitted
        classifier whose second class is the new rows, or a function of X. Instead,
        arrays can be passed as `likelihood_ratio` to the methods. Searches clone it:
        there, wrap a classifier in a :class:`~sklearn.frozen.FrozenEstimator`.
    calibration_size : float or int, default=0.25
        Share or number of rows held out for calibration. Without effect for a
        `FrozenEstimator`, where all rows calibrate.
    random_state : int, RandomState instance or None, default=None
        Draws the rows held out.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    quantiles_ : ndarray of shape (n_quantiles,)
        The levels of the estimator.
    scores_ : ndarray of shape (`n_calibration_`,) or (`n_calibration_`, 2)
        Scores of the calibration rows; one column for each end if not symmetric.
    n_calibration_ : int
        Number of calibration rows.
    confidence_level_ : float
        The level of the last calibration.
    threshold_ : float or ndarray of shape (2,), (n_groups,) or (n_groups, 2)
        What is added outwards at the lower and upper end. Negative values shrink. One
        for each group, and for each end if not symmetric. With likelihood ratios every
        row has its own, and there is no such attribute.
    groups_ : ndarray of shape (n_groups,)
        Labels of the groups at calibration, sorted, if there are groups.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If the estimator lacks one of the two levels (the message lists those there
        are), if y is not finite, or a parameter is out of its range.

    Warns
    -----
    InfiniteIntervalWarning
        If the calibration rows are too few for the level: the intervals are infinite.
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    SplitConformalRegressor : Around any regressor, with constant width.
    ConformalQuantiles : Calibrates a whole quantile matrix.

    Notes
    -----
    .. rubric:: Guarantee

    If the calibration rows and a new row are exchangeable and the estimator was not
    trained on them, :math:`P(y \in C(x)) \ge p`, and at most
    :math:`p + 1 / (n + 1)` for symmetric intervals if no two scores are equal and no
    ends had to be exchanged. With ``symmetric=False`` moreover
    :math:`P(y < C(x)) \le \alpha / 2` and :math:`P(y > C(x)) \le \alpha / 2`. Ends that
    cross after shrinking are exchanged, which only enlarges the interval.

    With groups the same holds within each group, and with the true likelihood ratios
    for new rows of the other law, as for :class:`SplitConformalRegressor`.

    References
    ----------
    .. [1] Y. Romano, E. Patterson, E. J. Candes, "Conformalized Quantile Regression",
       arXiv:1905.03222.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import QuantileRegressor
    >>> from uqlib.conformal import ConformalizedQuantileRegressor
    >>> from uqlib.quantile import MultiQuantileRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> base = MultiQuantileRegressor(
    ...     QuantileRegressor(alpha=0), quantiles=[0.05, 0.5, 0.95]
    ... )
    >>> model = ConformalizedQuantileRegressor(base, random_state=0).fit(X, y)
    >>> model.predict_interval(X).shape
    (442, 2)
    """

    def __init__(
        self,
        estimator: Any,
        *,
        confidence_level: float = 0.9,
        symmetric: bool = True,
        group_by: Any = None,
        weight_estimator: Any = None,
        calibration_size: float | int = 0.25,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.confidence_level = confidence_level
        self.symmetric = symmetric
        self.group_by = group_by
        self.weight_estimator = weight_estimator
        self.calibration_size = calibration_size
        self.random_state = random_state

    def _unfitted_score(self) -> Any:
        return QuantileScore(self.symmetric)
