"""Ends of intervals under many models at once, for any nonconformity score.

`predictions` always has the shape (n_rows, n_models) or (n_rows, n_models, n_outputs):
what the score takes as y_pred, under each of the models. `scores` is a list of score
objects: one for all models, or one a model where the score was fitted.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from uqlib._core.cross_intervals import FoldScores
from uqlib._core.outward import outward_interval
from uqlib._typing import FloatArray
from uqlib.conformal._scores import invert_score, predict_for_score


class FoldModels(NamedTuple):
    """Fitted models and the scores that turn them into predictions."""

    models: list[Any]
    scores: list[Any]

    @property
    def width(self) -> int:
        """Number of predictions that a row costs at least."""
        return len(self.models)

    def predictions(self, X: Any, level: float) -> FloatArray:
        """Return the predictions of rows under every model."""
        return np.stack(
            [
                predict_for_score(score_of(self.scores, k), model, X, level)
                for k, model in enumerate(self.models)
            ],
            axis=1,
        )

    def blocks(self, X: Any, level: float, n_rows: int) -> Iterator[FloatArray]:
        """Yield the predictions of so many rows at a time."""
        predictions = self.predictions(X, level)
        for first in range(0, len(predictions), n_rows):
            yield predictions[first : first + n_rows]


def score_of(scores: list[Any], k: int) -> Any:
    """Return the score of model k."""
    return scores[0] if len(scores) == 1 else scores[k]


def is_affine(scores: list[Any]) -> bool:
    """Return whether the ends that a score gives are affine in the threshold."""
    return hasattr(scores[0], "affine")


def intervals_of(
    method: str, predictions: FloatArray, scores: list[Any], calibration: FoldScores
) -> FloatArray:
    """Return intervals (n_rows, 2) by a method of `FoldScores`, with any score."""
    if is_affine(scores):
        lower, upper, scale = _affine_ends(predictions, scores)
        if method == "base":
            lower, upper = lower[:, 0], upper[:, 0]
            scale = None if scale is None else scale[:, 0]
        interval: FloatArray = getattr(calibration, method)(lower, upper, scale)
        return interval
    if method == "plus":
        return _plus_by_inverse(predictions, scores, calibration)
    return _hull_by_inverse(predictions, scores, calibration)


def _affine_ends(predictions: FloatArray, scores: list[Any]) -> Any:
    """Return lower and upper base and scale, each (n_rows, n_models).

    A scale that is 1 everywhere is None.
    """
    shape = predictions.shape[:2]
    if len(scores) == 1:
        flat = predictions.reshape(-1, *predictions.shape[2:])
        ends = [np.reshape(part, shape) for part in scores[0].affine(flat)]
    else:
        models = [score.affine(predictions[:, k]) for k, score in enumerate(scores)]
        ends = [np.stack(part, axis=1) for part in zip(*models, strict=True)]
    lower, upper, scale = ends
    return lower, upper, None if np.all(scale == 1) else scale


# Without an affine inverse the ends of every training row are written out: the caller
# passes no more rows than fit in a chunk with all of them.


def _plus_by_inverse(
    predictions: FloatArray, scores: list[Any], calibration: FoldScores
) -> FloatArray:
    n_rows = len(predictions)
    ends = np.empty((n_rows, calibration.n, 2))
    for k in np.unique(calibration.fold):
        rows = calibration.fold == k
        own = calibration.scores[rows]
        ends[:, rows] = invert_score(
            score_of(scores, k),
            np.repeat(predictions[:, k], len(own), axis=0),
            np.tile(own, (n_rows, *[1] * (own.ndim - 1))),
        ).reshape(n_rows, len(own), 2)
    last = calibration.rank - 1
    lower = -np.partition(-ends[:, :, 0], last, axis=1)[:, last]
    return outward_interval(lower, np.partition(ends[:, :, 1], last, axis=1)[:, last])


def _hull_by_inverse(
    predictions: FloatArray, scores: list[Any], calibration: FoldScores
) -> FloatArray:
    threshold = calibration.thresholds
    # The one column of method "base" is of no fold.
    single = predictions.shape[1] == 1
    columns = [0] if single else np.unique(calibration.fold)
    ends = np.stack(
        [
            invert_score(
                score_of(scores, k),
                predictions[:, k],
                np.broadcast_to(threshold, (len(predictions), *threshold.shape)),
            )
            for k in columns
        ]
    )
    return outward_interval(ends[:, :, 0].min(axis=0), ends[:, :, 1].max(axis=0))
