"""Split-point analysis of any regressor."""

from fractions import Fraction
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin
from sklearn.utils import Bunch, _safe_indexing
from sklearn.utils.validation import check_is_fitted

from uqlib._core.checks import check_choice, check_sample_weight
from uqlib._core.levels import check_confidence_level, exact_level
from uqlib._core.ranks import threshold_at
from uqlib._core.split_point import sds_widening_factors, self_consistency_discrepancy
from uqlib._core.split_point_intervals import side_interval, side_scores
from uqlib._fitting import (
    all_or_nothing,
    draw_seeds,
    given_random_state,
    seeded_clone,
    split_rows,
    warn_if_fitted,
)
from uqlib._predictions import predict_point
from uqlib._typing import FloatArray
from uqlib._validation import check_X, check_X_y, with_input_tags
from uqlib.spa._heads import (
    MODES,
    Sides,
    check_widening,
    default_learner,
    fit_heads,
    map_features,
)
from uqlib.spa._residuals import RESIDUALS, residual_rows

_CHOICES = {
    "residuals": RESIDUALS,
    "heads": MODES,
    "calibration": ("conformal", None),
}


class SPARegressor(MetaEstimatorMixin, RegressorMixin, BaseEstimator):
    r"""Local bias, scale and asymmetry of any regressor, and lopsided intervals.

    Regressions of the residual r = y - v, v being the prediction, give for each x the
    mean absolute residuals m, :math:`m_+` (rows above v) and :math:`m_-` (the others),
    the bias b and the side quantiles :math:`q_+` and :math:`q_-`, and

    .. math:: \mathrm{SDS}(x) = |2 m_+ m_- - m (m_+ + m_-)|, \qquad
              C(x) = [v - t \, q_-(x), \; v + t \, q_+(x)],

    t being the :math:`\lceil (n + 1) p \rceil`-th smallest of n scores
    :math:`\max(r / q_+, -r / q_-)` of calibration rows.

    Parameters
    ----------
    estimator : estimator
        Any regressor or pipeline. It is cloned and fitted; a
        :class:`~sklearn.frozen.FrozenEstimator` is used as it stands, and then no row
        may have trained it.
    mar_estimator : estimator, default=None
        Regressor of the means, cloned for each; None is
        ``HistGradientBoostingRegressor(max_iter=50, max_leaf_nodes=8)``.
    quantile_estimator : estimator, default=None
        Regressor of the side quantiles, cloned for each side, its level and loss set
        as `MultiQuantileRegressor` does; None is gradient boosting as for the means.
    confidence_level : float, default=0.9
        Coverage asked for and level of the side quantiles, strictly between 0 and 1.
    residuals : {"oof", "holdout", "train"}, default="oof"
        Where the heads' residuals come from: "oof" is out of fold, the estimator being
        fitted on all training rows in the end; "holdout" is the test rows of the first
        split of `cv`, the estimator being fitted on the others; "train" is the
        training rows themselves, as published, with a warning if there is hardly any
        residual left. Without effect for a `FrozenEstimator`.
    heads : {"coherent", "separate"}, default="coherent"
        "coherent" learns :math:`E \max(\pm r, 0)` and the probability p of r > 0, in
        [0.02, 0.98], and derives the means: :math:`m = p m_+ + (1 - p) m_-` always.
        "separate" learns each mean by itself, as published, and p for the bias
        :math:`p m_+ - (1 - p) m_-`.
    feature_map : callable, default=None
        Function of X that gives what the heads see, of shape (n_samples, n_outputs),
        such as the features of a network's last layer. None shows them X.
    calibration : {"conformal", None}, default="conformal"
        "conformal" holds rows out and scales the side quantiles by them; None takes the
        side quantiles as they are.
    calibration_size : float or int, default=0.25
        Share or number of rows held out for calibration, seen neither by the estimator
        nor by the heads.
    sds_widening : float, default=None
        Multiply the side quantiles, before calibration, by
        :func:`~uqlib.spa.sds_widening_factors` of at most this cap, above 1. None
        multiplies by nothing.
    cv : int, cross-validation splitter or iterable, default=5
        Folds of "oof" and "holdout"; an int shuffles, and a list of splits numbers the
        rows that are left for training. Without effect for a `FrozenEstimator`.
    random_state : int, RandomState instance or None, default=None
        Draws the rows held out and the folds, and seeds models that have no seed.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    heads_ : dict of str to estimator
        The fitted heads by name.
    constant_heads_ : tuple of str
        Names of the heads that are constants, for want of rows: a side with fewer than
        20 rows has its marginal mean and quantile.
    floor_ : float
        What no mean and no side quantile falls below: a millionth of the mean absolute
        residual.
    clipped_share_ : float
        Share of the heads' own rows where at least one of them was raised to it.
    scores_ : ndarray of shape (`n_calibration_`,)
        Scores of the calibration rows, if calibrated.
    n_calibration_ : int
        Number of calibration rows, if calibrated.
    threshold_ : float
        The t, if calibrated; +inf if the rows are too few for the level.
    confidence_level_ : float
        The level of the last fit or calibration.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If y is not finite, a parameter is out of its range, a model predicts NaN or the
        residuals are infinite.

    Warns
    -----
    InfiniteIntervalWarning
        If the calibration rows are too few for the level: the intervals are infinite.
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.
    UncertaintyWarning
        If `residuals` is "train" and the estimator interpolates its training rows.

    See Also
    --------
    split_point_statistics : The same numbers of one sample.
    SplitConformalRegressor : Intervals that need no heads.

    Notes
    -----
    .. rubric:: Guarantee

    With `calibration` "conformal", if the calibration rows and a new row are
    exchangeable and neither the estimator nor the heads saw them, the interval covers
    with probability at least p, and at most :math:`p + 1 / (n + 1)` if no two scores
    are equal; widening before calibration changes the shape and not the guarantee. The
    probability is over calibration and new rows; it says nothing conditional on x.
    Without calibration: none. A model that predicts equal rows differently by how many
    go with them can lose coverage where rows and targets repeat; predict in batches of
    one size then.

    The interval is not equal-tailed: with true side quantiles it covers the share p of
    each side, so it is missed above in proportion to how often targets lie above. The
    coverage of either side is not guaranteed, since the side depends on the target.
    :func:`~uqlib.spa.conformal_side_scale` with ``two_sided=True`` bounds each tail.

    What else holds, and what does not:

    - Exact for coherent heads, approximate for separate ones:
      :math:`m = p m_+ + (1 - p) m_-` and
      :math:`\mathrm{SDS} = |b| \, |m_+ - m_-|`.
    - A theorem: no bias, no SDS. The converse is false: residuals (1, 1, 1, -1) have a
      bias of 0.5 and an SDS of 0, since the two sides are equal.
    - If a local bias is what you look for, `bias` finds it better than any form of the
      SDS, with its sign.
    - Only a heuristic: that the SDS is larger where there were no data. It is not an
      out-of-distribution detector: heads made of trees are constant there, and other
      heads disagree by accident.
    - :math:`m_+ + m_-` is a proxy of the scale of noise that a bias contaminates; with
      coherent heads `mar` is the better one.

    A side without any rows has the floor for its mean and the other side's marginal
    quantile. Heads are ordinary regressors: what X they take is up to them, so with
    columns of strings pass heads that are pipelines, or `feature_map`.

    References
    ----------
    .. [1] Z. Zhao, K. Chen, "Post-Hoc Split-Point Self-Consistency Verification for
       Efficient, Unified Quantification of Aleatoric and Epistemic Uncertainty in
       Deep Learning", arXiv:2509.13262.
    .. [2] J. Lei, M. G'Sell, A. Rinaldo, R. J. Tibshirani, L. Wasserman,
       "Distribution-Free Predictive Inference for Regression", arXiv:1604.04173.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from uqlib.spa import SPARegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SPARegressor(Ridge(), random_state=0).fit(X[:342], y[:342])
    >>> model.predict_interval(X[342:]).shape
    (100, 2)
    >>> bool((model.predict_uncertainty(X[342:]).mar > 0).all())
    True
    """

    def __init__(
        self,
        estimator: Any,
        *,
        mar_estimator: Any = None,
        quantile_estimator: Any = None,
        confidence_level: float = 0.9,
        residuals: str = "oof",
        heads: str = "coherent",
        feature_map: Any = None,
        calibration: str | None = "conformal",
        calibration_size: float | int = 0.25,
        sds_widening: float | None = None,
        cv: Any = 5,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.mar_estimator = mar_estimator
        self.quantile_estimator = quantile_estimator
        self.confidence_level = confidence_level
        self.residuals = residuals
        self.heads = heads
        self.feature_map = feature_map
        self.calibration = calibration
        self.calibration_size = calibration_size
        self.sds_widening = sds_widening
        self.cv = cv
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "SPARegressor":
        """Fit the estimator, the heads on its residuals, and calibrate.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator and the heads take them.
        y : array-like of shape (n_samples,)
            Target, finite.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, handed to the training of the estimator and of the heads.
            Calibration counts each of its rows once, as the guarantee needs.

        Returns
        -------
        self : SPARegressor
            Fitted.
        """
        # Heads without their calibration would give intervals of no level.
        with all_or_nothing(self):
            return self._fit(X, y, sample_weight)

    def calibrate(self, X: Any, y: Any) -> "SPARegressor":
        """Calibrate anew on rows that neither estimator nor heads were trained on.

        The level is the parameter `confidence_level`. What was fitted with
        ``calibration=None`` is calibrated from then on.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_calibration, n_features)
            Calibration rows.
        y : array-like of shape (n_calibration,)
            Their target, finite.

        Returns
        -------
        self : SPARegressor
            The estimator and its heads are as they were; the threshold is new.
        """
        check_is_fitted(self, "heads_")
        X, y = check_X_y(self, X, y, reset=False)
        return self._calibrate(X, y, check_confidence_level(self.confidence_level))

    def predict(self, X: Any) -> FloatArray:
        """Predict the point, as the wrapped estimator does.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples,)
            Point predictions, not corrected for the bias.
        """
        check_is_fitted(self, "heads_")
        return predict_point(self.estimator_, check_X(self, X, reset=False))

    def predict_interval(
        self, X: Any, confidence_level: float | None = None
    ) -> FloatArray:
        """Predict intervals.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator and the heads take them.
        confidence_level : float, default=None
            Coverage asked for, strictly between 0 and 1; None takes that of the last
            fit or calibration. At another level the calibration scales the same side
            quantiles.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds, infinite where the calibration rows are too few.

        Raises
        ------
        ValueError
            If another level is asked for without calibration.
        """
        check_is_fitted(self, "heads_")
        X = check_X(self, X, reset=False)
        scale = self._scale_at(confidence_level)
        sides = self._sides(X)
        point = predict_point(self.estimator_, X)
        return side_interval(point, sides.quantile_up, sides.quantile_down, scale)

    def predict_uncertainty(self, X: Any) -> Bunch:
        """Predict what the residuals are like at each row.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the heads take them.

        Returns
        -------
        Bunch
            Arrays of shape (n_samples,), larger = more uncertain: `aleatoric`, the sum
            of the two side means; `epistemic`, the square root of `sds`; `sds`, the
            self-consistency discrepancy in squared units; `relative_sds`, without
            units. Further `mar`, `mar_up` and `mar_down`, mean absolute residuals of
            all rows and of each side; `p_up`, the share of targets above the
            prediction; `bias`, the mean residual; `quantile_up` and `quantile_down`,
            the side quantiles that the calibration scales.
        """
        check_is_fitted(self, "heads_")
        sides = self._sides(check_X(self, X, reset=False))
        means = sides.mar, sides.mar_up, sides.mar_down
        sds, root, relative = (
            self_consistency_discrepancy(*means, kind=kind)
            for kind in ("raw", "sqrt", "relative")
        )
        return Bunch(
            aleatoric=sides.mar_up + sides.mar_down,
            epistemic=root,
            sds=sds,
            relative_sds=relative,
            **sides._asdict(),
        )

    def __sklearn_tags__(self) -> Any:
        heads = (self.mar_estimator, self.quantile_estimator)
        seen = [default_learner() if h is None else h for h in heads]
        if self.feature_map is not None:  # heads see what it makes of X
            seen = []
        return with_input_tags(super().__sklearn_tags__(), [self.estimator, *seen])

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> "SPARegressor":
        X, y = check_X_y(self, X, y, reset=True)
        weight = check_sample_weight(sample_weight, y.size)
        level = self._check_parameters()
        warn_if_fitted(self.estimator, self)
        random_state = given_random_state(self.random_state)
        if self.calibration is None:
            return self._train(X, y, weight, level, random_state)
        train, held_out = split_rows(y.size, self.calibration_size, random_state)
        self._train(
            _safe_indexing(X, train),
            y[train],
            None if weight is None else weight[train],
            level,
            random_state,
        )
        return self._calibrate(_safe_indexing(X, held_out), y[held_out], level)

    def _check_parameters(self) -> Fraction:
        level = check_confidence_level(self.confidence_level)
        for name, allowed in _CHOICES.items():
            check_choice(name, getattr(self, name), allowed)
        if self.feature_map is not None and not callable(self.feature_map):
            raise TypeError(
                "feature_map must be a function of X or None, got "
                f"{self.feature_map!r}."
            )
        check_widening(self.sds_widening)
        return level

    def _train(
        self,
        X: Any,
        y: FloatArray,
        weight: FloatArray | None,
        level: Fraction,
        random_state: Any,
    ) -> "SPARegressor":
        # Seeded beforehand, so that every fold fits the same model.
        base = seeded_clone(self.estimator, draw_seeds(random_state, 1)[0])
        found = residual_rows(base, X, y, weight, self.residuals, self.cv, random_state)
        if found.rows is not None:
            X = _safe_indexing(X, found.rows)
            weight = None if weight is None else weight[found.rows]
        Z = map_features(self.feature_map, X)
        heads = fit_heads(
            Z,
            found.residuals,
            weight,
            mode=self.heads,
            mar_estimator=self.mar_estimator,
            quantile_estimator=self.quantile_estimator,
            level=float(level),
            random_state=random_state,
        )
        clipped = heads.predict(Z)[1]
        for name in ("scores_", "threshold_", "n_calibration_"):
            vars(self).pop(name, None)
        self.estimator_, self._heads = found.model, heads
        self._shape = self.feature_map, self.sds_widening
        self.confidence_level_ = float(level)
        self.heads_, self.constant_heads_ = heads.models, heads.constant
        self.floor_, self.clipped_share_ = heads.floor, float(clipped.mean())
        return self

    def _calibrate(self, X: Any, y: FloatArray, level: Fraction) -> "SPARegressor":
        sides = self._sides(X)
        with np.errstate(over="ignore"):
            residuals = y - predict_point(self.estimator_, X)
        scores = side_scores(residuals, sides.quantile_up, sides.quantile_down)
        self.threshold_ = threshold_at(scores, level)
        self.scores_, self.n_calibration_ = scores, y.size
        self.confidence_level_ = float(level)
        return self

    def _scale_at(self, confidence_level: Any) -> float:
        """Return what the side quantiles are multiplied by at a level."""
        calibrated = hasattr(self, "scores_")
        if confidence_level is None:
            return self.threshold_ if calibrated else 1.0
        level = check_confidence_level(confidence_level)
        if calibrated:
            return threshold_at(self.scores_, level)
        if level == exact_level(self.confidence_level_):
            return 1.0
        raise ValueError(
            f"confidence_level={confidence_level!r} was asked for, but without "
            "calibration there are intervals at the level of the side quantiles alone, "
            f"{self.confidence_level_:g}. Fit with calibration='conformal', call "
            "calibrate with new rows, or fit at that level."
        )

    def _sides(self, X: Any) -> Sides:
        feature_map, cap = self._shape
        sides, _ = self._heads.predict(map_features(feature_map, X))
        if cap is None:
            return sides
        up, down = sds_widening_factors(sides.mar, sides.mar_up, sides.mar_down, cap)
        return sides._replace(
            quantile_up=up * sides.quantile_up, quantile_down=down * sides.quantile_down
        )
