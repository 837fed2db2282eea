"""Predictions of bagged models: each alone, without a training row, and all."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import validate_data

from uqlib._core.out_of_bag import aggregate, aggregate_without
from uqlib._predictions import predict_point, predict_quantiles
from uqlib._typing import BoolArray, FloatArray
from uqlib.conformal._cross_ends import FoldModels


class BagMembers(NamedTuple):
    """Models that were fitted to one bag each."""

    fitted: FoldModels

    @property
    def models(self) -> list[Any]:
        """The models."""
        return self.fitted.models

    @property
    def scores(self) -> list[Any]:
        """One score for all models, or one a model."""
        return self.fitted.scores

    def levels(self, X: Any, level: float) -> FloatArray | None:
        """Return the quantile levels of the models, where the score is of quantiles."""
        score = self.scores[0]
        if not hasattr(score, "predict_levels"):
            return None
        first = _safe_indexing(X, [0])
        levels: FloatArray = score.predict_levels(
            self.models[0], first, level
        ).quantiles
        return levels

    def at(self, X: Any, level: float, quantiles: FloatArray | None) -> FloatArray:
        """Return what every model predicts, at all its levels if it has some."""
        if quantiles is None:
            return self.fitted.predictions(X, level)
        values = [
            predict_quantiles(model, X, quantiles).values for model in self.models
        ]
        return np.stack(values, axis=1)

    def points(self, X: Any) -> FloatArray:
        """Return the point prediction of every model."""
        return np.stack([predict_point(model, X) for model in self.models], axis=1)


class EnsembleMembers(NamedTuple):
    """Members of an ensemble that drew bags itself."""

    ensemble: Any
    scores: list[Any]

    @property
    def models(self) -> list[Any]:
        """The members."""
        return list(self.ensemble.estimators_)

    def levels(self, X: Any, level: float) -> None:
        """Return that members give points alone."""

    def at(self, X: Any, level: float, quantiles: Any) -> FloatArray:
        """Return the point prediction of every member."""
        return self.points(X)

    def points(self, X: Any) -> FloatArray:
        """Return the point prediction of every member."""
        from sklearn.ensemble import BaggingRegressor

        trees = not isinstance(self.ensemble, BaggingRegressor)
        # Members were fitted to arrays, whatever the ensemble got.
        rows = validate_data(
            self.ensemble,
            X,
            reset=False,
            dtype=np.float32 if trees else None,
            ensure_all_finite=False,
            accept_sparse="csr",
        )
        if trees:
            points = [tree.predict(rows) for tree in self.ensemble.estimators_]
        else:
            pairs = zip(
                self.ensemble.estimators_,
                self.ensemble.estimators_features_,
                strict=True,
            )
            points = [
                predict_point(model, rows[:, columns]) for model, columns in pairs
            ]
        return np.stack(points, axis=1)


class BaggedModels(NamedTuple):
    """For every training row the aggregate of the models without it."""

    members: Any
    scores: list[Any]
    out: BoolArray
    kind: str

    @property
    def width(self) -> int:
        """Number of predictions that a row costs at least."""
        return len(self.out)

    def blocks(self, X: Any, level: float, n_rows: int) -> Iterator[FloatArray]:
        """Yield the aggregates of so many rows, one column a training row."""
        values = self.members.at(X, level, None)
        for first in range(0, len(values), n_rows):
            block = values[first : first + n_rows]
            if block.ndim == 2:
                yield aggregate_without(block, self.out, self.kind)
            else:
                outputs = [
                    aggregate_without(block[:, :, j], self.out, self.kind)
                    for j in range(block.shape[2])
                ]
                yield np.stack(outputs, axis=2)


class AllModels(NamedTuple):
    """The aggregate of all models, as the one model of all rows."""

    members: Any
    scores: list[Any]
    kind: str

    def blocks(self, X: Any, level: float, n_rows: int) -> Iterator[FloatArray]:
        """Yield the aggregate of so many rows, in one column."""
        values = aggregate(self.members.at(X, level, None), self.kind)[:, None]
        for first in range(0, len(values), n_rows):
            yield values[first : first + n_rows]
