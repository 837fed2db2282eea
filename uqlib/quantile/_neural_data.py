"""Rows for a network: split, standardized, with weights of mean 1."""

from typing import Any, NamedTuple

import numpy as np

from uqlib._core.crossing import margin_offsets
from uqlib._typing import FloatArray

# A network sees features up to this many standard deviations from the mean: far
# outside of the training rows its quantiles stay where they are.
_FEATURE_BOUND = 10.0
_CHUNK = 2**20  # numbers standardized at once in float64
_N_PILOT = 10_000  # rows that tell the scale of the margins


class Rows(NamedTuple):
    """Standardized features and target; weights with mean 1, or None for equal ones."""

    features: FloatArray
    y: FloatArray
    weight: FloatArray | None


class Scaling(NamedTuple):
    """Center and scale of the features, each (n_features,), and of the target."""

    feature_center: FloatArray
    feature_scale: FloatArray
    target_center: float
    target_scale: float


def fit_scaling(
    X: FloatArray, y: FloatArray, rows: Any, weight: FloatArray | None
) -> Scaling:
    """Return weighted means and standard deviations of the training rows.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Features.
    y : ndarray of shape (n_samples,)
        Target.
    rows : ndarray of int
        The training rows.
    weight : ndarray of shape (n_rows,) or None
        Their weights.

    Returns
    -------
    Scaling
        With scale 1 for what is constant.
    """
    # One column at a time: X may be large.
    columns = [_moments(X[rows, j], weight) for j in range(X.shape[1])]
    center, scale = np.array(columns).T
    return Scaling(center, scale, *_moments(y[rows], weight))


def standardized_rows(
    X: FloatArray, y: FloatArray, weight: FloatArray | None, rows: Any, scaling: Scaling
) -> Rows:
    """Return some rows as a network is trained on them.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Features.
    y : ndarray of shape (n_samples,)
        Target.
    weight : ndarray of shape (n_samples,) or None
        Weights.
    rows : ndarray of int
        Which rows.
    scaling : Scaling
        Of the training rows.

    Returns
    -------
    Rows
        Features in float32.
    """
    features = np.empty((rows.size, X.shape[1]), dtype=np.float32)
    n_chunk = max(1, _CHUNK // X.shape[1])
    for first in range(0, rows.size, n_chunk):
        chunk = slice(first, first + n_chunk)
        features[chunk] = standardize(X[rows[chunk]], scaling)
    target = (y[rows] - scaling.target_center) / scaling.target_scale
    return Rows(features, target, unit_weight(weight, rows))


def standardize(X: FloatArray, scaling: Scaling) -> FloatArray:
    """Return what a network sees of the features.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Features.
    scaling : Scaling
        Of the training rows.

    Returns
    -------
    ndarray of shape (n_samples, n_features)
        Standardized and bounded features, float64.
    """
    features = (X - scaling.feature_center) / scaling.feature_scale
    return np.clip(features, -_FEATURE_BOUND, _FEATURE_BOUND)


def unit_weight(weight: FloatArray | None, rows: Any) -> FloatArray | None:
    """Return the weights of some rows, scaled to mean 1.

    Parameters
    ----------
    weight : ndarray of shape (n_samples,) or None
        Weights.
    rows : ndarray of int
        Which rows; one of them has positive weight.

    Returns
    -------
    ndarray of shape (n_rows,) or None
        None stands for equal weights.
    """
    if weight is None:
        return None
    share = weight[rows] / weight[rows].max()
    return np.asarray(share / share.mean())


def split_rows(
    weight: FloatArray | None,
    n_samples: int,
    validation_fraction: float | None,
    random_state: Any,
) -> tuple[Any, Any]:
    """Return the rows to train on and those held out.

    Parameters
    ----------
    weight : ndarray of shape (n_samples,) or None
        Weights; rows without any are in neither part.
    n_samples : int
        Number of rows.
    validation_fraction : float or None
        Share of the rows to hold out, rounded up; None holds out none.
    random_state : RandomState
        Draws them.

    Returns
    -------
    rows, held_out : ndarray of int
        `held_out` is None if no row is held out.
    """
    rows = np.arange(n_samples) if weight is None else np.flatnonzero(weight)
    if validation_fraction is None:
        return rows, None
    n_held_out = int(np.ceil(validation_fraction * rows.size))
    if n_held_out >= rows.size:
        raise ValueError(
            f"With n_samples={rows.size} (of positive weight) and "
            f"validation_fraction={validation_fraction!r} no row is left to train on. "
            "Give more rows, a smaller fraction, or early_stopping=False."
        )
    rows = random_state.permutation(rows)
    return rows[n_held_out:], rows[:n_held_out]


def pilot_margins(
    margin: Any, levels: FloatArray, training: Rows, target_scale: float
) -> tuple[FloatArray, float]:
    """Return the margins of the crossing penalty, with a linear model as the pilot.

    Parameters
    ----------
    margin : float or {"auto", "spacing"}
        As in `margin_offsets`; a number is in units of the target.
    levels : ndarray of shape (n_quantiles,)
        The levels.
    training : Rows
        The first of them are looked at.
    target_scale : float
        What the target was divided by.

    Returns
    -------
    offsets : ndarray of shape (n_quantiles,)
        In units of the standardized target.
    constant : float
        In the same units.
    """
    y, features = training.y[:_N_PILOT], training.features[:_N_PILOT]
    design = np.column_stack([np.ones(y.size), features])
    linear = np.linalg.lstsq(design, y, rcond=None)[0]
    offsets, constant = margin_offsets(margin, levels, y - design @ linear)
    return offsets, constant / target_scale


def _moments(values: FloatArray, weight: FloatArray | None) -> tuple[float, float]:
    center = np.average(values, weights=weight).astype(np.float64)
    deviation = values - center
    largest = np.abs(deviation).max()
    # What differs from its mean by rounding alone is constant.
    if largest <= 10 * np.finfo(values.dtype).eps * np.abs(values).max():
        return float(center), 1.0
    share = np.average((deviation / largest) ** 2, weights=weight)
    return float(center), float(largest * np.sqrt(share))
