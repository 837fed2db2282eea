"""Split conformal regression around any regressor."""

from typing import Any

from uqlib._typing import NonconformityScore
from uqlib.conformal._base import BaseScoreRegressor
from uqlib.conformal._scores import resolve_score


class SplitConformalRegressor(BaseScoreRegressor):
    r"""Intervals of guaranteed coverage around any regressor.

    With nonconformity scores :math:`s_i = s(y_i, \hat y_i)` of n rows that the
    estimator was not trained on, and level p,

    .. math:: C(x) = \{y : s(y, \hat y(x)) \le s_{(k)}\}, \qquad
              k = \lceil (n + 1) p \rceil .

    For absolute residuals this is :math:`\hat y(x) \pm s_{(k)}`.

    Parameters
    ----------
    estimator : estimator
        Any regressor or pipeline. It is cloned and fitted; a
        :class:`~sklearn.frozen.FrozenEstimator` is used as it stands.
    confidence_level : float, default=0.9
        Coverage asked for, strictly between 0 and 1.
    nonconformity : str or nonconformity score, default="absolute"
        How strange a target is, larger = stranger: "absolute" is
        :class:`AbsoluteScore`, "signed" :class:`SignedScore`, "normalized"
        :class:`NormalizedScore`, "gamma" :class:`GammaScore` and "quantile"
        :class:`QuantileScore`. An object with ``score(y, y_pred)`` -> (n_samples,) and
        its inverse ``inverse(y_pred, threshold)`` -> (n_samples, 2) is used as it is;
        scores of shape (n_samples, 2) belong to the two ends, each calibrated at
        :math:`1 - \alpha / 2`.
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
    nonconformity_ : object
        The score.
    scores_ : ndarray of shape (`n_calibration_`,)
        Scores of the calibration rows.
    n_calibration_ : int
        Number of calibration rows.
    confidence_level_ : float
        The level of the last calibration.
    threshold_ : float or ndarray of shape (2,), (n_groups,) or (n_groups, 2)
        The k-th smallest score; +inf if the rows are too few for the level. One for
        each group, and for each end where the scores have two columns. With likelihood
        ratios every row has its own, and there is no such attribute.
    groups_ : ndarray of shape (n_groups,)
        Labels of the groups at calibration, sorted, if there are groups.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If y is not finite, a parameter is out of its range, or the estimator predicts
        NaN.

    Warns
    -----
    InfiniteIntervalWarning
        If the calibration rows are too few for the level: the intervals are infinite.
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    ConformalizedQuantileRegressor : Intervals whose width follows x.

    Notes
    -----
    .. rubric:: Guarantee

    If the calibration rows and a new row are exchangeable and the estimator was not
    trained on them,

    .. math:: P(y \in C(x)) \ge p,

    The probability is over calibration and new rows; it says nothing conditional on x.
    For scores of one column, of which no two are equal, it is at most
    :math:`p + 1 / (n + 1)`, and if the rows are independent draws of one law, the
    coverage conditional on the calibration rows is random with the law
    :math:`\mathrm{Beta}(k, n + 1 - k)`. Both are exceeded where quantiles cross and
    are exchanged. With scores of two columns each end is missed with probability at
    most :math:`(1 - p) / 2`.

    With groups the same holds within each group, n being its number of calibration
    rows: :math:`P(y \in C(x) \mid g) \ge p`. A group without calibration rows gets
    the infinite interval, with a warning.

    With the true likelihood ratios, up to a factor, :math:`P(y \in C(x)) \ge p` holds
    for independent new rows whose features follow the other law [2]_; a new row that is
    too unlike the calibration rows gets the infinite interval, with a warning. With
    estimated ratios there is no guarantee: coverage is then at least p less the total
    variation distance between the law that the ratios belong to and the true one.

    References
    ----------
    .. [1] J. Lei, M. G'Sell, A. Rinaldo, R. J. Tibshirani, L. Wasserman,
       "Distribution-Free Predictive Inference for Regression", arXiv:1604.04173.
    .. [2] R. J. Tibshirani, R. F. Barber, E. J. Candes, A. Ramdas, "Conformal
       Prediction Under Covariate Shift", arXiv:1904.06019.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from uqlib.conformal import SplitConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SplitConformalRegressor(Ridge(), random_state=0).fit(X[:342], y[:342])
    >>> interval = model.predict_interval(X[342:])
    >>> interval.shape, model.n_calibration_
    ((100, 2), 86)
    """

    def __init__(
        self,
        estimator: Any,
        *,
        confidence_level: float = 0.9,
        nonconformity: str | NonconformityScore = "absolute",
        group_by: Any = None,
        weight_estimator: Any = None,
        calibration_size: float | int = 0.25,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.confidence_level = confidence_level
        self.nonconformity = nonconformity
        self.group_by = group_by
        self.weight_estimator = weight_estimator
        self.calibration_size = calibration_size
        self.random_state = random_state

    def _unfitted_score(self) -> Any:
        return resolve_score(self.nonconformity)
