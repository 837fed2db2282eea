"""Ensembles of quantile models with convex weights learned out of fold."""

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import MetaEstimatorMixin, clone
from sklearn.model_selection import KFold, check_cv
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import check_is_fitted

from uqlib._compat import BaseComposition
from uqlib._core.aggregation import GLOBAL_RESOLUTIONS, aggregate, fit_weights
from uqlib._core.checks import check_sample_weight
from uqlib._core.levels import check_quantiles, level_indices
from uqlib._core.losses import level_losses
from uqlib._fitting import draw_seeds, seeded_clone, warn_if_fitted
from uqlib._predictions import predict_quantiles
from uqlib._typing import FloatArray
from uqlib._validation import (
    check_finite_predictions,
    check_X,
    check_X_y,
    with_input_tags,
)
from uqlib.quantile._base import (
    DEFAULT_QUANTILES,
    QuantileRegressorMixin,
)
from uqlib.quantile._cross_fit import cross_fit, partition
from uqlib.quantile._multi import at_levels


class QuantileEnsembleRegressor(
    MetaEstimatorMixin, QuantileRegressorMixin, BaseComposition
):
    r"""Aggregate several quantile models with convex weights.

    With :math:`Z_{ijk}` the quantile of level :math:`\tau_k` that model j gives for
    row i when it was fitted without the fold of that row, the weights solve

    .. math:: \min_w \sum_i \sum_k \psi_{\tau_k}\Big(y_i - \sum_j w_{jk} Z_{ijk}\Big)
              \quad \text{s.t.} \quad w_{jk} \ge 0, \ \sum_j w_{jk} = 1,

    with one weight a model and level ("medium"), or the same weight at all levels
    ("coarse"). The program is convex and solved to optimality, with a duality gap as
    certificate. Predictions apply the weights to the models fitted on all rows.

    Parameters
    ----------
    estimators : list of (str, estimator) tuples
        Quantile regressors, or learners that
        :class:`~uqlib.quantile.MultiQuantileRegressor` takes. A `FrozenEstimator` is
        not fitted in the folds: it must not have been trained on these rows, or its
        weight is that of a model that has seen the answers.
    quantiles : array-like of shape (n_quantiles,), default=(0.05, 0.10, ..., 0.95)
        Levels, strictly increasing, strictly between 0 and 1, set in every model.
    weights : {"average", "median", "coarse", "medium"} or object, default="medium"
        How the models are combined:

        - "average": the mean over the models;
        - "median": the median over the models at each row and level;
        - "coarse": one convex weight a model. Models that do not cross cannot cross
          together;
        - "medium": one convex weight a model and level. Rows can cross;
        - an object with ``fit(Z, y, X=None, sample_weight=None)`` and
          ``predict_quantiles(Z, X=None)`` on Z of shape (n_samples, n_models,
          n_quantiles), which is cloned and fitted on the out-of-fold quantiles.
    cv : int, cross-validation splitter or iterable, default=5
        Folds of the out-of-fold predictions. An int draws shuffled folds with
        `random_state`. Every row must lie in exactly one test fold.
    passthrough : bool, default=False
        Hand X to the aggregator too. Only an aggregator object can use it: with one
        of the names above it is an error.
    n_jobs : int, default=None
        Number of fits in parallel, as in joblib. The result does not depend on it.
    random_state : int, RandomState instance or None, default=None
        Draws the folds, and seeds the models whose own `random_state` is None.

    Attributes
    ----------
    estimators_ : list of estimators
        The models, fitted on all rows.
    named_estimators_ : :class:`~sklearn.utils.Bunch`
        The same by name.
    quantiles_ : ndarray of shape (n_quantiles,)
        The levels.
    weights_ : ndarray of shape (n_models,) or (n_models, n_quantiles), or None
        Convex weights: uniform, one a model ("coarse"), or one a model and level
        ("medium"). None for "median" and for an aggregator object.
    aggregator_ : object or None
        The fitted aggregator, if `weights` is one.
    oof_quantiles_ : ndarray of shape (n_samples, n_models, n_quantiles)
        Out-of-fold quantiles of the models.
    base_losses_ : ndarray of shape (n_models,)
        Mean pinball loss of each model's out-of-fold quantiles; smaller is better.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If a model cannot give the levels, if the folds are no partition of the rows,
        or if `weights` is unknown.

    See Also
    --------
    MultiQuantileRegressor : Many levels from one learner.
    SortQuantiles, IsotonicQuantiles : Repair rows whose levels cross.
    uqlib.conformal.ConformalizedQuantileRegressor : Coverage with a theorem.

    Notes
    -----
    Weights are learned from models fitted on fewer rows than those that predict. A
    model that memorizes its training rows gets no weight for it. No coverage is
    guaranteed: wrap the ensemble in a conformal calibrator.

    References
    ----------
    .. [1] R. Fakoor, T. Kim, J. Mueller, A. J. Smola, R. J. Tibshirani, "Flexible
       Model Aggregation for Quantile Regression", arXiv:2103.00083.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.ensemble import HistGradientBoostingRegressor
    >>> from sklearn.linear_model import QuantileRegressor
    >>> from uqlib.quantile import QuantileEnsembleRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> models = [
    ...     ("linear", QuantileRegressor(alpha=0)),
    ...     ("boosting", HistGradientBoostingRegressor(max_iter=20)),
    ... ]
    >>> ensemble = QuantileEnsembleRegressor(
    ...     models, quantiles=[0.1, 0.5, 0.9], weights="coarse", random_state=0
    ... ).fit(X, y)
    >>> ensemble.predict_quantiles(X).shape, ensemble.weights_.sum().round(12).item()
    ((442, 3), 1.0)
    """

    def __init__(
        self,
        estimators: list[tuple[str, Any]],
        *,
        quantiles: Any = DEFAULT_QUANTILES,
        weights: Any = "medium",
        cv: Any = 5,
        passthrough: bool = False,
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.estimators = estimators
        self.quantiles = quantiles
        self.weights = weights
        self.cv = cv
        self.passthrough = passthrough
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None
    ) -> "QuantileEnsembleRegressor":
        """Fit the models on all rows and on all but each fold, then the weights.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Training rows, as the models take them.
        y : array-like of shape (n_samples,)
            Target, finite.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row: in the models and in the loss of the aggregation.

        Returns
        -------
        self : QuantileEnsembleRegressor
            Fitted.
        """
        X, y = check_X_y(self, X, y, reset=True)
        weight = check_sample_weight(sample_weight, y.size)
        levels = check_quantiles(self.quantiles)
        self._check_parameters()
        random_state = (
            None if self.random_state is None else check_random_state(self.random_state)
        )
        splits = partition(self._splitter(random_state), X, y)
        models = self._models(levels, random_state)
        fitted = cross_fit(models, X, y, splits, weight, levels, self.n_jobs)
        self.estimators_ = fitted.estimators
        self.named_estimators_ = Bunch(
            **dict(zip(self._names(), self.estimators_, strict=True))
        )
        self.quantiles_ = levels
        self.oof_quantiles_ = fitted.out_of_fold
        if self.weights not in ("average", "median"):
            _check_finite(self.oof_quantiles_, self._names())
        self.base_losses_ = np.array(
            [
                level_losses(y, self.oof_quantiles_[:, j], levels, weight).mean()
                for j in range(len(self.estimators_))
            ]
        )
        self._fit_aggregation(X, y, weight)
        return self

    def predict_quantiles(self, X: Any, quantiles: Any = None) -> FloatArray:
        """Predict the aggregated quantile matrix.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the models take them.
        quantiles : array-like of shape (n_quantiles,), default=None
            Levels among `quantiles_`; None takes all.

        Returns
        -------
        ndarray of shape (n_samples, n_quantiles)
            Quantiles, one column a level. Rows can cross: see
            :func:`~uqlib.quantile.sort_quantiles`.

        Raises
        ------
        ValueError
            If a level asked for was not fitted.
        """
        check_is_fitted(self, "quantiles_")
        X = check_X(self, X, reset=False)
        asked = self.quantiles_ if quantiles is None else check_quantiles(quantiles)
        columns = level_indices(self.quantiles_, asked)
        if self.aggregator_ is not None:
            base = self._base_quantiles(X, self.quantiles_)
            extra = {"X": X} if self.passthrough else {}
            return self.aggregator_.predict_quantiles(base, **extra)[:, columns]
        # A level of the output depends on the same level of the models alone.
        base = self._base_quantiles(X, self.quantiles_[columns])
        weights = self.weights_
        if weights is not None and weights.ndim == 2:
            weights = weights[:, columns]
        return check_finite_predictions(aggregate(base, weights), self)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Get the parameters, those of the models as ``name__parameter``.

        Parameters
        ----------
        deep : bool, default=True
            Include the parameters of the models.

        Returns
        -------
        dict
            Names and values.
        """
        return self._get_params("estimators", deep=deep)

    def set_params(self, **params: Any) -> "QuantileEnsembleRegressor":
        """Set parameters; a model is replaced by its name.

        Parameters
        ----------
        **params : dict
            Names and values.

        Returns
        -------
        self : QuantileEnsembleRegressor
            Changed.
        """
        self._set_params("estimators", **params)
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        try:
            return with_input_tags(tags, [model for _, model in self.estimators])
        except (TypeError, ValueError, AttributeError):
            return tags  # malformed estimators are fit's to refuse

    def _names(self) -> list[str]:
        return [name for name, _ in self.estimators]

    def _check_parameters(self) -> None:
        pairs = self.estimators
        if (
            not isinstance(pairs, list | tuple)
            or not pairs
            or not all(
                isinstance(pair, tuple | list)
                and len(pair) == 2
                and isinstance(pair[0], str)
                and hasattr(pair[1], "fit")
                for pair in pairs
            )
        ):
            raise ValueError(
                "estimators must be a non-empty list of (name, estimator) tuples, got "
                f"{pairs!r}."
            )
        self._validate_names(self._names())
        named = isinstance(self.weights, str)
        if named and self.weights not in GLOBAL_RESOLUTIONS:
            raise ValueError(
                f"weights={self.weights!r} is unknown: choose one of "
                f"{list(GLOBAL_RESOLUTIONS)} or pass an aggregator object."
            )
        if not named and not hasattr(self.weights, "predict_quantiles"):
            raise ValueError(
                f"weights={self.weights!r} must be one of {list(GLOBAL_RESOLUTIONS)} "
                "or an object with fit(Z, y, X=None, sample_weight=None) and "
                "predict_quantiles(Z, X=None)."
            )
        if named and self.passthrough:
            raise ValueError(
                "passthrough=True hands X to an aggregator, but "
                f"weights={self.weights!r} does not look at X. Set passthrough=False."
            )

    def _splitter(self, random_state: Any) -> Any:
        if isinstance(self.cv, Integral):
            return KFold(int(self.cv), shuffle=True, random_state=random_state)
        return check_cv(self.cv)

    def _models(self, levels: FloatArray, random_state: Any) -> list[Any]:
        for _, model in self.estimators:
            warn_if_fitted(model, self)
        seeds = draw_seeds(random_state, len(self.estimators))
        return [
            at_levels(seeded_clone(model, seed), levels)
            for (_, model), seed in zip(self.estimators, seeds, strict=True)
        ]

    def _fit_aggregation(self, X: Any, y: FloatArray, weight: Any) -> None:
        self.aggregator_, self.weights_ = None, None
        if isinstance(self.weights, str):
            self.weights_ = fit_weights(
                self.oof_quantiles_, y, self.quantiles_, self.weights, weight
            )
            return
        extra = {"X": X} if self.passthrough else {}
        if weight is not None:
            extra["sample_weight"] = weight
        self.aggregator_ = clone(self.weights).fit(self.oof_quantiles_, y, **extra)

    def _base_quantiles(self, X: Any, levels: FloatArray) -> FloatArray:
        models = [predict_quantiles(m, X, levels).values for m in self.estimators_]
        return np.stack(models, axis=1)


def _check_finite(out_of_fold: FloatArray, names: list[str]) -> None:
    finite = np.isfinite(out_of_fold).all(axis=(0, 2))
    if not finite.all():
        bad = [name for name, good in zip(names, finite, strict=True) if not good]
        raise ValueError(
            f"estimators {bad} gave infinite out-of-fold quantiles, on which no weight "
            "can be learned. Drop them, or take weights='median'."
        )
