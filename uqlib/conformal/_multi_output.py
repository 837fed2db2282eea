"""Joint conformal regions for several outputs."""

from fractions import Fraction
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import _num_samples, check_is_fitted

from uqlib._core.checks import check_not_a_date
from uqlib._core.group_ranks import list_labels
from uqlib._core.levels import check_confidence_level
from uqlib._core.outward import lower_end, upper_end
from uqlib._core.ranks import rows_needed
from uqlib._core.region_shapes import Box, Ellipsoid
from uqlib._core.regions import (
    rows_that_suffice,
    warn_infinite_box,
    warn_infinite_ellipsoid,
)
from uqlib._predictions import predict_point
from uqlib._typing import BoolArray, FloatArray
from uqlib._validation import check_finite_predictions, check_X, check_X_y
from uqlib.conformal._base import BaseSplitCalibrator
from uqlib.exceptions import InfiniteIntervalWarning, warn_user

_SHAPES: dict[str, Any] = {"box": Box, "ellipsoid": Ellipsoid}
_WARNINGS = {"box": warn_infinite_box, "ellipsoid": warn_infinite_ellipsoid}


class MultiOutputConformalRegressor(RegressorMixin, BaseSplitCalibrator):
    r"""Regions that hold all outputs of a row at once with guaranteed coverage.

    With the residuals :math:`e_i = y_i - \hat y_i \in R^m` of n rows that the estimator
    was not trained on, their second moments :math:`\Sigma` and leverages h, and
    :math:`k = \lceil (n + 1) p \rceil`, the region around the point prediction is

    .. math:: \text{box:} \quad |e_j| \le |e|_{(\rho_j), j} \text{ for all } j,
              \qquad
              \text{ellipsoid:} \quad
              e^\top \Sigma^{-1} e \le n \, \frac{h_{(k)}}{1 - h_{(k)}} .

    The rank :math:`\rho_j` is set by the ranks of the rows in all outputs, see
    :func:`~uqlib.conformal.max_rank_thresholds`. A box is a set of intervals, one an
    output; an ellipsoid is smaller where the errors of the outputs go together.

    Parameters
    ----------
    estimator : estimator
        Any regressor or pipeline that predicts all outputs; wrap one that predicts a
        single output in :class:`~sklearn.multioutput.MultiOutputRegressor`. It is
        cloned and fitted; a :class:`~sklearn.frozen.FrozenEstimator` is used as it
        stands.
    region : {"box", "ellipsoid"}, default="box"
        Form of the region. With one output both are the interval of absolute residuals.
    confidence_level : float, default=0.9
        Probability asked for that all outputs lie in the region, strictly between 0
        and 1.
    group_by : str, int or callable, default=None
        Column of X, or function of X, with the group of each row. Every group is
        calibrated by its own rows.
    calibration_size : float or int, default=0.25
        Share or number of rows held out for calibration. Without effect for a
        `FrozenEstimator`, where all rows calibrate.
    random_state : int, RandomState instance or None, default=None
        Draws the rows held out.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    n_outputs_ : int
        Number of outputs m.
    scores_ : ndarray of shape (`n_calibration_`, `n_outputs_`)
        Residuals of the calibration rows.
    half_widths_ : ndarray of shape (`n_outputs_`,) or (n_groups, `n_outputs_`)
        How far the region reaches in each output; +inf if the rows are too few.
    groups_ : ndarray of shape (n_groups,)
        Sorted labels of the groups, if there are any.
    n_calibration_ : int
        Number of calibration rows.
    confidence_level_ : float
        The level of the last calibration.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If y is not finite, a parameter is out of its range, or the estimator predicts
        NaN, infinity or another number of outputs.

    Warns
    -----
    InfiniteIntervalWarning
        If the calibration rows are too few for the level, or their residuals do not
        span all outputs: the region is infinite.
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    SplitConformalRegressor : The case of one output, with any nonconformity score.
    max_rank_thresholds : The box as a function of arrays.
    conformal_ellipsoid : The ellipsoid as a function of arrays.

    Notes
    -----
    .. rubric:: Guarantee

    If the calibration rows and a new row are exchangeable and the estimator was not
    trained on them, :math:`P(y \in C(x)) \ge p` for the vector y of all outputs,
    whatever their dependence; with groups, within each group. Both regions contain a
    full conformal set whose score depends on all n + 1 rows symmetrically, which is why
    the same calibration rows may also give the scales and :math:`\Sigma`. For two
    outputs and more no upper bound on the coverage is claimed.

    References
    ----------
    .. [1] A. Timans, C.-N. Straehle, K. Sakmann, C. A. Naesseth, E. Nalisnick,
       "Max-Rank: Efficient Multiple Testing for Conformal Prediction",
       arXiv:2311.10900.
    .. [2] C. Johnstone, B. Cox, "Conformal Uncertainty Sets for Robust Optimization",
       arXiv:2105.14957.

    Examples
    --------
    >>> from sklearn.datasets import load_linnerud
    >>> from sklearn.linear_model import Ridge
    >>> from uqlib.conformal import MultiOutputConformalRegressor
    >>> X, Y = load_linnerud(return_X_y=True)
    >>> model = MultiOutputConformalRegressor(
    ...     Ridge(), confidence_level=0.5, calibration_size=10, random_state=0
    ... ).fit(X, Y)
    >>> model.predict_box(X).shape, model.contains(X, Y).shape
    ((20, 3, 2), (20,))
    """

    def __init__(
        self,
        estimator: Any,
        *,
        region: str = "box",
        confidence_level: float = 0.9,
        group_by: Any = None,
        calibration_size: float | int = 0.25,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.region = region
        self.confidence_level = confidence_level
        self.group_by = group_by
        self.calibration_size = calibration_size
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, mondrian_groups: Any = None
    ) -> Any:
        """Split the rows, fit the estimator on one part, calibrate on the other.

        With a `FrozenEstimator` nothing is trained and all rows calibrate.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets, finite.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, handed to the estimator's training. Calibration counts
            each of its rows once, as the guarantee needs.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row: every group is calibrated by its own rows.

        Returns
        -------
        self : object
            Fitted and calibrated.
        """
        _check_region(self.region)
        return super().fit(X, y, sample_weight, mondrian_groups=mondrian_groups)

    def calibrate(self, X: Any, y: Any, *, mondrian_groups: Any = None) -> Any:
        """Calibrate anew on rows that the estimator was not trained on.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_calibration, n_features)
            Calibration rows.
        y : array-like of shape (n_calibration,) or (n_calibration, n_outputs)
            Their targets, finite.
        mondrian_groups : array-like of shape (n_calibration,), default=None
            Label of the group of each row.

        Returns
        -------
        self : object
            The estimator is as it was; the region is new.
        """
        return super().calibrate(X, y, mondrian_groups=mondrian_groups)

    def predict(self, X: Any) -> FloatArray:
        """Predict the point, as the wrapped estimator does.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Point predictions, in the shape of the y that was passed to `fit`.
        """
        check_is_fitted(self, "scores_")
        points = self._points(check_X(self, X, reset=False))
        return points[:, 0] if self._flat else points

    def predict_box(
        self,
        X: Any,
        confidence_level: float | None = None,
        *,
        mondrian_groups: Any = None,
    ) -> FloatArray:
        """Predict the smallest box around the region: an interval for each output.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        confidence_level : float, default=None
            Coverage asked for, strictly between 0 and 1; None takes that of the last
            calibration.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row, if the calibration had groups.

        Returns
        -------
        ndarray of shape (n_samples, n_outputs, 2)
            Lower and upper bounds, which hold for all outputs together.
        """
        X, shapes, groups = self._regions_of(X, confidence_level, mondrian_groups)
        points = self._points(X)
        widths = np.array([shape.half_widths() for shape in shapes])[groups]
        return np.stack([lower_end(points, -widths), upper_end(points, widths)], axis=2)

    def contains(
        self,
        X: Any,
        y: Any,
        confidence_level: float | None = None,
        *,
        mondrian_groups: Any = None,
    ) -> BoolArray:
        """Tell which targets lie in the regions of their rows.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets, finite.
        confidence_level : float, default=None
            Coverage asked for, strictly between 0 and 1; None takes that of the last
            calibration.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row, if the calibration had groups.

        Returns
        -------
        ndarray of shape (n_samples,)
            True where all outputs lie in the region.
        """
        X, shapes, groups = self._regions_of(X, confidence_level, mondrian_groups)
        targets = _check_targets(X, y)
        self._check_n_outputs(targets)
        residuals = targets.reshape(len(targets), -1) - self._points(X)
        inside = np.empty(len(residuals), dtype=bool)
        for group in np.unique(groups):
            rows = groups == group
            inside[rows] = shapes[group].contains(residuals[rows])
        return inside

    def region_volume(
        self,
        X: Any,
        confidence_level: float | None = None,
        *,
        mondrian_groups: Any = None,
    ) -> FloatArray:
        """Return the volume of the region of each row.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        confidence_level : float, default=None
            Coverage asked for, strictly between 0 and 1; None takes that of the last
            calibration.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row, if the calibration had groups.

        Returns
        -------
        ndarray of shape (n_samples,)
            The volumes, in the product of the units of the outputs; with one output
            the width of the interval. Infinite where a bound is.
        """
        _, shapes, groups = self._regions_of(X, confidence_level, mondrian_groups)
        volumes: FloatArray = np.array([shape.volume() for shape in shapes])[groups]
        return volumes

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _check_rows(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, FloatArray]:
        if np.asarray(y).ndim < 2:
            X, y = check_X_y(self, X, y, reset=reset)
        else:
            X = check_X(self, X, reset=reset)
            y = _check_targets(X, y)
        if not reset:
            self._check_n_outputs(y)
        return X, y

    def _set_calibration(self, X: Any, y: FloatArray) -> None:
        self._region = _check_region(self.region)
        self._flat = y.ndim == 1
        targets = y.reshape(len(y), -1)
        self.n_outputs_ = targets.shape[1]
        self.scores_ = targets - self._points(X)

    def _set_threshold(self, level: Fraction) -> None:
        vars(self).pop("groups_", None)
        if self._thresholds.labels is not None:
            self.groups_ = self._thresholds.labels
        self._shapes = self._calibrated_shapes(level)
        widths = np.array([shape.half_widths() for shape in self._shapes[:-1]])
        self.half_widths_ = widths[0] if self._thresholds.labels is None else widths

    def _calibrated_shapes(self, level: Fraction) -> list[Any]:
        """Return the region of each group, and the whole space for an unseen one."""
        shape = _SHAPES[self._region]
        shapes = [
            shape.calibrate(self.scores_[self._thresholds.members(group)], level)
            for group in range(self._thresholds.n_groups)
        ]
        self._warn_if_infinite(shapes, level)
        return [*shapes, Box(np.full(self.n_outputs_, np.inf))]

    def _warn_if_infinite(self, shapes: list[Any], level: Fraction) -> None:
        infinite = np.array([np.isposinf(s.half_widths()).any() for s in shapes])
        labels = self._thresholds.labels
        if not infinite.any():
            return
        if labels is None:
            _WARNINGS[self._region](self.n_calibration_, self.n_outputs_, level)
            return
        needed = {
            "box": f"{rows_that_suffice(self.n_outputs_, level)} rows suffice",
            "ellipsoid": f"At least {max(rows_needed(level), self.n_outputs_ + 1)} "
            "rows are needed",
        }
        warn_user(
            f"{infinite.sum()} of {labels.size} groups have too few calibration rows "
            f"for a finite region at level {float(level):g}: "
            f"{list_labels(labels[infinite])}. {needed[self._region]} in each. The "
            "region is infinite there; pass more calibration rows, merge groups or ask "
            "for a lower level.",
            InfiniteIntervalWarning,
        )

    def _regions_of(
        self, X: Any, confidence_level: Any, mondrian_groups: Any
    ) -> tuple[Any, list[Any], Any]:
        """Return X, the regions of the groups and the number of each row's group."""
        check_is_fitted(self, "scores_")
        X = check_X(self, X, reset=False)
        new = self._new_conditions(X, mondrian_groups)
        groups = self._thresholds.group_numbers(new, _num_samples(X))
        if confidence_level is None:
            return X, self._shapes, groups
        level = check_confidence_level(confidence_level)
        return X, self._calibrated_shapes(level), groups

    def _points(self, X: Any) -> FloatArray:
        model = self.estimator_
        points = predict_point(model, X) if self._flat else model.predict(X)
        points = np.asarray(points, dtype=np.float64)
        if points.ndim == 1:
            points = points.reshape(-1, 1)
        if points.shape != (_num_samples(X), self.n_outputs_):
            raise ValueError(
                f"{type(model).__name__} gave predictions of shape {points.shape} for "
                f"{_num_samples(X)} rows and {self.n_outputs_} outputs. Wrap a model "
                "of one output in sklearn.multioutput.MultiOutputRegressor."
            )
        if np.isinf(points).any():
            raise ValueError(
                f"{type(model).__name__} predicted infinity: no region can be built "
                "around it. Check its training data and parameters."
            )
        return check_finite_predictions(points, model)

    def _check_n_outputs(self, y: FloatArray) -> None:
        n_outputs = 1 if y.ndim == 1 else y.shape[1]
        if n_outputs != self.n_outputs_:
            raise ValueError(
                f"y has {n_outputs} outputs, but {type(self).__name__} was fitted with "
                f"{self.n_outputs_}. Pass the same outputs in the same order."
            )


def _check_region(region: Any) -> str:
    if region in _SHAPES:
        return str(region)
    raise ValueError(f"region must be one of {sorted(_SHAPES)}, got {region!r}.")


def _check_targets(X: Any, y: Any) -> FloatArray:
    check_not_a_date(y, "y")
    targets = check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
    check_consistent_length(X, targets)
    return np.asarray(targets, dtype=np.float64)
