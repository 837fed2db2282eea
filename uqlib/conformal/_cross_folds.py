"""Cross-conformal regression over folds: one model without each."""

from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing

from uqlib._core.checks import check_sample_weight
from uqlib._core.cross_intervals import check_method
from uqlib._core.levels import check_confidence_level
from uqlib._fitting import (
    draw_seeds,
    fit_each_fold,
    fit_score,
    given_random_state,
    is_frozen,
    partition,
    seeded_clone,
    shuffled_splitter,
    warn_if_fitted,
)
from uqlib._predictions import predict_quantiles
from uqlib._typing import FloatArray
from uqlib._validation import check_X_y
from uqlib.conformal._cross_base import BaseCrossRegressor, LeftOut
from uqlib.conformal._cross_ends import FoldModels, score_of
from uqlib.conformal._scores import predict_for_score


class BaseFoldRegressor(BaseCrossRegressor):
    """Fit a model without each fold and score the fold with it.

    A subclass names the score in `_unfitted_score` and has the parameters `cv`,
    `n_jobs` and `random_state`.
    """

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        groups: Any = None,
        mondrian_groups: Any = None,
    ) -> Any:
        """Fit a model without each fold and score the fold with it.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        y : array-like of shape (n_samples,)
            Target, finite.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, handed to the estimator's training.
        groups : array-like of shape (n_samples,), default=None
            Labels for the splitter `cv`, as
            :class:`~sklearn.model_selection.GroupKFold` needs them: rows of one label
            share a fold.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row: every group is calibrated by its own rows,
            while all of them train. It has nothing to do with `groups`.

        Returns
        -------
        self : object
            Fitted.
        """
        X, y = check_X_y(self, X, y, reset=True)
        level = check_confidence_level(self.confidence_level)
        check_method(self.method)
        weight = check_sample_weight(sample_weight, y.size)
        conditions = self._conditions(X, mondrian_groups)
        self._check_not_frozen()
        warn_if_fitted(self.estimator, self)
        random_state = given_random_state(self.random_state)
        splitter = shuffled_splitter(self.cv, random_state)
        left_out, base = self._fit_models(X, y, weight, splitter, groups, random_state)
        self._set_calibration(y, left_out, base, conditions, level)
        self.fold_ = left_out.fold
        self.estimators_ = getattr(left_out.models, "models", [])
        if base is not None:
            self.estimator_ = base.models[0]
        return self

    def _fit_models(
        self,
        X: Any,
        y: FloatArray,
        weight: FloatArray | None,
        splitter: Any,
        groups: Any,
        random_state: Any,
    ) -> tuple[LeftOut, FoldModels | None]:
        """Return the fold models, and the model of all rows if the class has one."""
        splits = partition(splitter, X, y, groups)
        model = seeded_clone(self.estimator, draw_seeds(random_state, 1)[0])
        models = fit_each_fold(model, X, y, splits, weight, self.n_jobs)
        left_out = self._leave_out(models, X, y, splits)
        return left_out, self._fit_base(model, X, y, weight)

    def _leave_out(
        self, models: list[Any], X: Any, y: FloatArray, splits: list[tuple[Any, Any]]
    ) -> LeftOut:
        """Predict every row by the model without it."""
        score, level = self._unfitted_score(), float(self.confidence_level)
        scores = [score]
        if hasattr(score, "fit"):
            scores = [
                fit_score(score, model, _safe_indexing(X, train), y[train])
                for model, (train, _) in zip(models, splits, strict=True)
            ]
        quantiles = None
        if hasattr(score, "predict_levels"):
            first = _safe_indexing(X, splits[0][1][:1])
            quantiles = score.predict_levels(models[0], first, level).quantiles
        parts = []
        for k, (_, test) in enumerate(splits):
            rows = _safe_indexing(X, test)
            if quantiles is None:
                part = predict_for_score(score_of(scores, k), models[k], rows, level)
            else:
                part = predict_quantiles(models[k], rows, quantiles).values
            parts.append(part)
        tested = np.concatenate([test for _, test in splits])
        order = np.argsort(tested)
        sizes = [len(test) for _, test in splits]
        fold = np.repeat(np.arange(len(splits)), sizes)[order]
        values = np.concatenate(parts)[order]
        return LeftOut(values, quantiles, fold, FoldModels(models, scores), len(splits))

    def _fit_base(
        self, model: Any, X: Any, y: FloatArray, weight: FloatArray | None
    ) -> FoldModels | None:
        return None

    def _check_not_frozen(self) -> None:
        if is_frozen(self.estimator):
            raise ValueError(
                "estimator is a FrozenEstimator, but a model must be fitted without "
                "each fold. Pass the estimator itself, or calibrate the frozen one "
                "with SplitConformalRegressor or ConformalizedQuantileRegressor on "
                "rows that it was not trained on."
            )

    def _unfitted_score(self) -> Any:
        raise NotImplementedError("abstract: the nonconformity score")
