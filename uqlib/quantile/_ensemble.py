"""Ensembles of quantile models with weights learned out of fold."""

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import MetaEstimatorMixin, clone
from sklearn.utils import Bunch, _safe_indexing
from sklearn.utils.validation import _num_samples, check_is_fitted

from uqlib._compat import BaseComposition
from uqlib._core.aggregation import aggregate
from uqlib._core.checks import check_sample_weight
from uqlib._core.levels import check_quantiles, level_indices
from uqlib._core.losses import level_losses
from uqlib._fitting import (
    draw_seeds,
    given_random_state,
    partition,
    seeded_clone,
    shuffled_splitter,
    warn_if_fitted,
)
from uqlib._predictions import predict_quantiles
from uqlib._typing import FloatArray
from uqlib._validation import (
    check_finite_predictions,
    check_X,
    check_X_y,
    with_input_tags,
)
from uqlib.quantile._aggregator import QuantileAggregator
from uqlib.quantile._base import (
    DEFAULT_QUANTILES,
    QuantileRegressorMixin,
    check_non_crossing,
    monotone_rows,
)
from uqlib.quantile._choice import (
    AGGREGATIONS,
    baseline,
    choose_aggregation,
    named_aggregator,
)
from uqlib.quantile._cross_fit import CrossFit, cross_fit, nested_cross_fit
from uqlib.quantile._multi import at_levels


class QuantileEnsembleRegressor(
    MetaEstimatorMixin, QuantileRegressorMixin, BaseComposition
):
    r"""Aggregate several quantile models with weights learned out of fold.

    With :math:`Z_{ijk}` the quantile of level :math:`\tau_k` that model j gives for
    row i when it was fitted without the fold of that row, the weights solve

    .. math:: \min_w \sum_i \sum_k \psi_{\tau_k}\Big(y_i - \sum_j w_{jk} Z_{ijk}\Big)
              \quad \text{s.t.} \quad w_{jk} \ge 0, \ \sum_j w_{jk} = 1,

    with one weight a model and level ("medium"), or the same weight at all levels
    ("coarse"), solved to optimality with a duality gap as certificate; or the weights
    :math:`w(x_i)` come from a network on the features ("local"). Predictions apply the
    weights to the models fitted on all rows.

    Parameters
    ----------
    estimators : list of (str, estimator) tuples
        Quantile regressors, or learners that
        :class:`~uqlib.quantile.MultiQuantileRegressor` takes. A `FrozenEstimator` is
        not fitted in the folds: it must not have been trained on these rows, or its
        weight is that of a model that has seen the answers.
    quantiles : array-like of shape (n_quantiles,), default=(0.05, 0.10, ..., 0.95)
        Levels, strictly increasing, strictly between 0 and 1, set in every model.
    weights : str or object, default="medium"
        How the models are combined:

        - "average": the mean over the models;
        - "median": the median over the models at each row and level;
        - "coarse" or "qra" (quantile regression averaging): one convex weight a model.
          Models that do not cross cannot cross together;
        - "medium": one convex weight a model and level. Rows can cross;
        - "fqra" (flexible quantile regression averaging): the same without crossing on
          the training rows;
        - "fine": each level built of all levels of all models;
        - "local_coarse", "local_medium", "local_fine": the same three with weights
          that depend on the features, the mean over five networks (needs torch);
        - "auto": whichever of the single models, "average", "coarse", "medium",
          "local_medium" and "local_fine" has the lowest loss on rows that its weights
          were not learned on. Without torch or with fewer than 200 rows the local ones
          are not tried;
        - a :class:`~uqlib.quantile.QuantileAggregator`, or any object with
          ``fit(Z, y, X=None, sample_weight=None)`` and ``predict_quantiles(Z, X=None)``
          on Z of shape (n_samples, n_models, n_quantiles), which is cloned and fitted
          on the out-of-fold quantiles.
    cv : int, cross-validation splitter or iterable, default=5
        Folds of the out-of-fold predictions. An int draws shuffled folds with
        `random_state`. Every row must lie in exactly one test fold.
    refit : bool, default=True
        Predict with models fitted on all rows. False predicts with the mean of the
        fold models instead: one training fewer a model, several times the work at
        prediction, and often lower losses where the models are noisy.
    non_crossing : {None, "sort", "isotonic"}, default=None
        How rows of the output are made monotone.
    passthrough : bool, default=False
        Hand X to an aggregator object that does not say that it needs it. The names
        above, and a `QuantileAggregator` with ``local=True``, get it where they use it.
    n_jobs : int, default=None
        Number of fits in parallel, as in joblib. The result does not depend on it.
    random_state : int, RandomState instance or None, default=None
        Draws the folds, and seeds the models whose own `random_state` is None.

    Attributes
    ----------
    estimators_ : list of estimators
        The models, fitted on all rows; without `refit` the means of the fold models.
    named_estimators_ : :class:`~sklearn.utils.Bunch`
        The same by name.
    quantiles_ : ndarray of shape (n_quantiles,)
        The levels.
    aggregator_ : object
        The fitted aggregator: a `QuantileAggregator`, or what was passed.
    weights_ : ndarray of shape (n_models,), (n_models, m) or (n_models, m, m), or None
        Its global weights, if it has any, for m levels: one a model, one a model and
        level, or those of the fine resolution, the last axis the level of the output.
    selected_ : str or None
        The name of what "auto" chose ("single:name" for a model alone); None else.
    candidate_losses_ : dict or None
        Mean pinball loss of each candidate of "auto" on rows that its weights were not
        learned on; None else.
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
        refit: bool = True,
        non_crossing: str | None = None,
        passthrough: bool = False,
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.estimators = estimators
        self.quantiles = quantiles
        self.weights = weights
        self.cv = cv
        self.refit = refit
        self.non_crossing = non_crossing
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
        X, y, weight, levels = self._checked(X, y, sample_weight)
        random_state = given_random_state(self.random_state)
        splits = partition(shuffled_splitter(self.cv, random_state), X, y)
        models = self._models(levels, random_state)
        fitted = cross_fit(
            models, X, y, splits, weight, levels, self.n_jobs, self.refit
        )
        return self._finish(fitted, X, y, weight, random_state)

    def fit_folds(
        self, X: Any, y: Any, splits: Any, sample_weight: Any = None
    ) -> list["QuantileEnsembleRegressor"]:
        """Fit one ensemble on the training rows of each split, sharing the models.

        The ensemble without fold k needs each model without the folds k and l, for its
        out-of-fold quantiles of fold l. That model serves the ensemble without fold l
        too: with K folds, K (K - 1) / 2 trainings of each model, and K without one fold
        for the predictions. Fitting every ensemble by itself takes K times as many as
        it has folds of its own, plus one.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the models take them.
        y : array-like of shape (n_samples,)
            Target, finite.
        splits : list of (train, test)
            Row numbers; the test rows are a partition.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row.

        Returns
        -------
        list of QuantileEnsembleRegressor
            One a split. The folds inside of it are the other folds of `splits`, and
            not those of `cv`, unless there are fewer than three, or the training rows
            are not all others, or sharing would take more trainings.
        """
        splits = list(splits)
        template = clone(self)  # what is checked here is not the state of a fit
        X, y, weight, levels = template._checked(X, y, sample_weight)
        if not self._shares(splits, y.size):
            return [self._fit_rows(X, y, train, weight) for train, _ in splits]
        random_state = given_random_state(self.random_state)
        models = self._models(levels, random_state)
        nested = nested_cross_fit(
            models, X, y, splits, weight, levels, self.n_jobs, self.refit
        )
        ensembles = []
        for (train, _), fitted in zip(splits, nested, strict=True):
            part = None if weight is None else weight[train]
            copy = clone(self)
            rows, y_rows, part, _ = copy._checked(
                _safe_indexing(X, train), y[train], part
            )
            ensembles.append(copy._finish(fitted, rows, y_rows, part, random_state))
        return ensembles

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
        weights = self.weights_
        by_level = isinstance(self.aggregator_, QuantileAggregator) and (
            not self.aggregator_.networks_
            and (weights is None or weights.ndim < 3)
            and self.aggregator_.non_crossing is None
        )
        if by_level and self.non_crossing is None:
            # A level of the output depends on the same level of the models alone.
            base = self._base_quantiles(X, self.quantiles_[columns])
            if weights is not None and weights.ndim == 2:
                weights = weights[:, columns]
            return check_finite_predictions(aggregate(base, weights), self)
        base = self._base_quantiles(X, self.quantiles_)
        values = self.aggregator_.predict_quantiles(base, **self._features(X))
        values = check_finite_predictions(np.asarray(values), self)
        return monotone_rows(values, self.non_crossing)[:, columns]

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
        check_non_crossing(self.non_crossing)
        known = [*AGGREGATIONS, "auto"]
        named = isinstance(self.weights, str)
        if named and self.weights not in known:
            raise ValueError(
                f"weights={self.weights!r} is unknown: choose one of {known} or pass "
                "an aggregator object."
            )
        if not named and not hasattr(self.weights, "predict_quantiles"):
            raise ValueError(
                f"weights={self.weights!r} must be one of {known} or an object with "
                "fit(Z, y, X=None, sample_weight=None) and "
                "predict_quantiles(Z, X=None)."
            )
        if named and self.passthrough:
            raise ValueError(
                "passthrough=True hands X to an aggregator object; "
                f"weights={self.weights!r} gets it where it uses it. Set "
                "passthrough=False."
            )

    def _checked(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, ...]:
        X, y = check_X_y(self, X, y, reset=True)
        weight = check_sample_weight(sample_weight, y.size)
        levels = check_quantiles(self.quantiles)
        self._check_parameters()
        return X, y, weight, levels

    def _models(self, levels: FloatArray, random_state: Any) -> list[Any]:
        for _, model in self.estimators:
            warn_if_fitted(model, self)
        seeds = draw_seeds(random_state, len(self.estimators))
        return [
            at_levels(seeded_clone(model, seed), levels)
            for (_, model), seed in zip(self.estimators, seeds, strict=True)
        ]

    def _shares(self, splits: Any, n_samples: int) -> bool:
        """Return whether folds can share models, and save trainings by it."""
        n_folds = len(splits)
        tested = np.concatenate([test for _, test in splits])
        if not np.array_equal(np.sort(tested), np.arange(n_samples)) or any(
            len(train) + len(test) != n_samples or np.intersect1d(train, test).size
            for train, test in splits
        ):
            return False
        return n_folds > 2 and (n_folds - 1) / 2 <= self._n_folds(n_folds)

    def _n_folds(self, default: int) -> int:
        if not isinstance(self.cv, Integral) and not hasattr(self.cv, "split"):
            return default  # a list of splits of other rows
        try:
            return int(shuffled_splitter(self.cv, None).get_n_splits())
        except (TypeError, ValueError):
            return default  # a splitter that needs the rows to count its folds

    def _fit_rows(self, X: Any, y: FloatArray, rows: Any, weight: Any) -> Any:
        part = None if weight is None else weight[rows]
        return clone(self).fit(_safe_indexing(X, rows), y[rows], part)

    def _finish(
        self, fitted: CrossFit, X: Any, y: FloatArray, weight: Any, random_state: Any
    ) -> "QuantileEnsembleRegressor":
        if self.weights not in ("average", "median"):
            _check_finite(fitted.out_of_fold, self._names())
        self.estimators_ = fitted.estimators
        self.named_estimators_ = Bunch(
            **dict(zip(self._names(), self.estimators_, strict=True))
        )
        self.quantiles_, self.oof_quantiles_ = fitted.quantiles, fitted.out_of_fold
        self.base_losses_ = np.array(
            [
                level_losses(y, of_model, self.quantiles_, weight).mean()
                for of_model in np.swapaxes(self.oof_quantiles_, 0, 1)
            ]
        )
        self.selected_, self.candidate_losses_ = None, None
        self.aggregator_ = self._fit_aggregator(X, y, weight, random_state)
        self.weights_ = getattr(self.aggregator_, "weights_", None)
        return self

    def _fit_aggregator(
        self, X: Any, y: FloatArray, weight: Any, random_state: Any
    ) -> Any:
        Z, levels = self.oof_quantiles_, self.quantiles_
        seed = draw_seeds(random_state, 1)[0]
        if self.weights == "auto":
            choice = choose_aggregation(Z, y, X, levels, self._names(), weight, seed)
            self.selected_, self.candidate_losses_ = choice.name, choice.losses
            return choice.aggregator
        if self.weights in ("average", "median"):
            return baseline(self.weights, Z.shape, levels)
        if isinstance(self.weights, str):
            aggregator = named_aggregator(self.weights, levels, seed)
        else:
            aggregator = seeded_clone(self.weights, seed)
            if isinstance(aggregator, QuantileAggregator):
                aggregator.set_params(quantiles=tuple(levels.tolist()))
        extra = {} if weight is None else {"sample_weight": weight}
        if self.passthrough or getattr(aggregator, "local", False):
            extra["X"] = X
        return aggregator.fit(Z, y, **extra)

    def _features(self, X: Any) -> dict[str, Any]:
        if self.passthrough or getattr(self.aggregator_, "local", False):
            return {"X": X}
        return {}

    def _base_quantiles(self, X: Any, levels: FloatArray) -> FloatArray:
        # Written model by model into one array: a list of them would be a second one.
        base = np.empty((_num_samples(X), len(self.estimators_), levels.size))
        for j, model in enumerate(self.estimators_):
            base[:, j] = predict_quantiles(model, X, levels).values
        return base


def _check_finite(out_of_fold: FloatArray, names: list[str]) -> None:
    finite = np.isfinite(out_of_fold).all(axis=(0, 2))
    if not finite.all():
        bad = [name for name, good in zip(names, finite, strict=True) if not good]
        raise ValueError(
            f"estimators {bad} gave infinite out-of-fold quantiles, on which no weight "
            "can be learned. Drop them, or take weights='median'."
        )
