"""The scores of a batch: residuals, targets, or how strange a target is."""

from typing import Any

import numpy as np

from uqlib._core.scores import AbsoluteScore
from uqlib._fitting import fit_score
from uqlib._predictions import predict_point
from uqlib._typing import FloatArray

TARGET_SCORES = ("signed", "outcome")


def check_nonconformity(nonconformity: Any) -> Any:
    """Return "signed", "outcome" or an object with a score and its inverse."""
    if isinstance(nonconformity, str):
        if nonconformity == "absolute":
            return AbsoluteScore()
        if nonconformity in TARGET_SCORES:
            return nonconformity
    elif _is_score(nonconformity):
        return nonconformity
    raise ValueError(
        f"nonconformity={nonconformity!r} must be 'signed', 'absolute', 'outcome' or "
        "an object with score(y, y_pred) and inverse(y_pred, threshold), whose scores "
        "do not depend on the level."
    )


def _is_score(nonconformity: Any) -> bool:
    known = all(hasattr(nonconformity, name) for name in ("score", "inverse"))
    return known and not hasattr(nonconformity, "predict_levels")


def fitted_score(nonconformity: Any, model: Any, X: Any, y: Any) -> Any:
    """Return the score, fitted to training rows if it learns; X is None if none."""
    return fit_score(check_nonconformity(nonconformity), model, X, y)


def score_prediction(score: Any, model: Any, X: Any, points: FloatArray) -> FloatArray:
    """Return what the score takes as y_pred."""
    return score.predict(model, X) if hasattr(score, "predict") else points


def score_rows(
    score: Any, model: Any, X: Any, y: FloatArray, points: FloatArray
) -> FloatArray:
    """Return the finite scores of rows, shape (n_samples,)."""
    if isinstance(score, str):
        scores = y.copy() if score == "outcome" else y - points
    else:
        prediction = score_prediction(score, model, X, points)
        scores = np.asarray(score.score(y, prediction), dtype=np.float64)
    if scores.shape != y.shape:
        raise ValueError(
            f"{type(score).__name__}.score must give one score a row, shape {y.shape}, "
            f"got {scores.shape}. Use nonconformity='signed' for two ends."
        )
    if not np.isfinite(scores).all():
        raise ValueError(
            "The scores of calibration and training rows must be finite: the estimator "
            "predicts infinite values or the score is infinite. Remove those rows."
        )
    return scores


def finite_points(model: Any, X: Any) -> FloatArray:
    """Return finite point predictions."""
    points = predict_point(model, X)
    if not np.isfinite(points).all():
        raise ValueError(
            f"{type(model).__name__} predicts infinite values: no statistic of the "
            "batch can be bounded. Leave those rows out."
        )
    return points


def check_range(score_bounds: Any, scores: FloatArray) -> tuple[float, float]:
    """Return the ends between which every score lies, or say what is wrong."""
    try:
        lower, upper = (float(end) for end in score_bounds)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"score_bounds must be a pair of numbers, got {score_bounds!r}. Pass "
            "(-np.inf, np.inf) where no bounds are known."
        ) from error
    if not (lower <= scores.min() and scores.max() <= upper):
        raise ValueError(
            f"score_bounds=({lower}, {upper}) must hold for every score, got scores "
            f"from {scores.min()} to {scores.max()}. With 'signed' scores the bounds "
            "are those of the residuals."
        )
    return lower, upper
