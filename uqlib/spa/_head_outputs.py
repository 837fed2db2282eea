r"""Heads as arrays: what they start from, and how their outputs are read.

A hidden layer is h -> max(h W + b, 0), the last layer is linear with one output z_j a
head, and head j gives

    c_j                     if it is constant (it had too few rows to learn from),
    s_j link_j(z_j)         otherwise,

with link_j one of t -> t, t -> log(1 + exp(t)) and t -> 1 / (1 + exp(-t)), and s_j the
unit: the root mean square of the residuals for a mean or a quantile of them, 1 for a
probability. Training needs torch; this does not.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, logit

from uqlib._typing import BoolArray, FloatArray

REGRESSION_HEADS = (
    "mar",
    "mar_up",
    "mar_down",
    "quantile_up",
    "quantile_down",
    "p_up",
)
CLASSIFICATION_HEADS = ("mar", "side_up", "side_down")
# A head with fewer targets than this is the constant that suits them.
MIN_ROWS = 20
# What a positive head starts from at least, in its unit: softplus and the logistic
# function reach 0 at minus infinity only, and hardly move near it.
_LOWEST_START = 1e-3
# A feature is seen up to this many standard deviations from its mean: one that hardly
# ever moved in training cannot run away.
_FEATURE_BOUND = 10.0


class HeadPlan(NamedTuple):
    """What is known of the heads before they are trained.

    All arrays have the shape (n_outputs,): `softplus` and `logistic` say where these
    are the link, `start` is the last bias, `constant` is NaN where the head learns and
    `unit` is what an output is multiplied by.
    """

    softplus: BoolArray
    logistic: BoolArray
    start: FloatArray
    constant: FloatArray
    unit: FloatArray


def regression_heads(
    residuals: FloatArray, confidence_level: float, positive: bool
) -> HeadPlan:
    """Return the heads of `REGRESSION_HEADS` as they start.

    Parameters
    ----------
    residuals : ndarray of shape (n_samples,)
        Target minus prediction, float64.
    confidence_level : float
        Level of the two side quantiles.
    positive : bool
        Whether the three means go through softplus. The quantiles always do.

    Returns
    -------
    HeadPlan
        Each starts as the mean or the quantile of its targets.
    """
    up = residuals > 0
    targets = [
        np.abs(residuals),
        residuals[up],
        -residuals[~up],
        residuals[up],
        -residuals[~up],
        up.astype(np.float64),
    ]
    # A level of no guarantee: the first value that reaches it will do.
    level = {"method": "inverted_cdf", "q": confidence_level}
    values = np.array(
        [
            (np.quantile(target, **level) if k in (3, 4) else target.mean())
            if target.size
            else 0.0
            for k, target in enumerate(targets)
        ]
    )
    scale = rms(residuals)
    unit = np.array([scale] * 5 + [1.0])
    softplus = np.array([positive] * 3 + [True, True, False])
    logistic = np.array([False] * 5 + [True])
    learns = np.array([_can_learn(target) for target in targets])
    # A share needs rows on both sides, however few on one of them.
    start = _inverse_links(values / unit, softplus, logistic)
    return HeadPlan(softplus, logistic, start, np.where(learns, np.nan, values), unit)


def classification_heads(targets: FloatArray, positive: bool) -> HeadPlan:
    """Return the heads of `CLASSIFICATION_HEADS`, one of each a column, as they start.

    Parameters
    ----------
    targets : ndarray of shape (n_samples, n_outputs)
        What each output is to be the mean of, in [0, 1].
    positive : bool
        Whether outputs go through the logistic function.

    Returns
    -------
    HeadPlan
        Each starts as the mean of its targets.
    """
    values = targets.mean(axis=0)
    learns = np.array([_can_learn(column) for column in targets.T])
    logistic, softplus = np.full((2, values.size), [[positive], [False]])
    start = _inverse_links(values, softplus, logistic)
    constant = np.where(learns, np.nan, values)
    return HeadPlan(softplus, logistic, start, constant, np.ones(values.size))


def class_targets(proba: FloatArray, is_class: BoolArray) -> FloatArray:
    """Return the targets of the classification heads.

    Parameters
    ----------
    proba : ndarray of shape (n_samples, n_columns)
        Probabilities.
    is_class : ndarray of shape (n_samples, n_columns)
        Whether the label is the class of the column.

    Returns
    -------
    ndarray of shape (n_samples, 3 * n_columns)
        |y - p|, (1 - p) y and p (1 - y).
    """
    up = np.where(is_class, 1 - proba, 0.0)
    down = np.where(is_class, 0.0, proba)
    return np.hstack([up + down, up, down])


def read_heads(
    features: FloatArray, layers: list[Any], scaling: Any, plan: HeadPlan
) -> FloatArray:
    """Return what trained heads give.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        Features of the network, whose type the layers are computed in.
    layers : list of (ndarray of shape (n_in, n_out), ndarray of shape (n_out,))
        Matrix and bias of each layer.
    scaling : tuple of ndarray of shape (n_features,)
        Center and scale of the features.
    plan : HeadPlan
        How the outputs are read.

    Returns
    -------
    ndarray of shape (n_samples, n_outputs)
        Float64.
    """
    dtype = features.dtype
    value = standardize(features, scaling)
    for k, (matrix, bias) in enumerate(layers):
        if k:
            np.maximum(value, 0.0, out=value)
        value = value @ matrix.astype(dtype)
        value += bias.astype(dtype)
    value = value.astype(np.float64)
    for columns, link in ((plan.softplus, _softplus), (plan.logistic, expit)):
        value[:, columns] = link(value[:, columns])
    return np.where(np.isnan(plan.constant), plan.unit * value, plan.constant)


def fit_scaling(features: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of each feature, 1 for one that is constant.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        Features of the network.

    Returns
    -------
    center, scale : ndarray of shape (n_features,)
        The moments.
    """
    features = features.astype(np.float64)
    center = features.mean(axis=0)
    largest = np.abs(features).max(axis=0)
    scale = np.array([rms(column) for column in (features - center).T])
    # What differs from its mean by the rounding of a network in float32 is constant.
    constant = scale <= 10 * np.finfo(np.float32).eps * largest
    return center, np.where(constant, 1.0, scale)


def standardize(features: FloatArray, scaling: Any) -> FloatArray:
    """Return what the heads see of the features.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        Features of the network.
    scaling : tuple of ndarray of shape (n_features,)
        Center and scale.

    Returns
    -------
    ndarray of shape (n_samples, n_features)
        Standardized and bounded, in the type of the features.
    """
    center, scale = (values.astype(features.dtype) for values in scaling)
    value = (features - center) / scale
    return np.clip(value, -_FEATURE_BOUND, _FEATURE_BOUND, out=value)


def rms(values: FloatArray) -> float:
    """Return the root mean square, or 1 where all values are 0.

    Parameters
    ----------
    values : ndarray of shape (n_samples,)
        Finite.

    Returns
    -------
    float
        Positive.
    """
    largest = np.abs(values).max()
    # Relative to the largest, so that no square is lost to overflow or underflow.
    return (
        float(largest * np.sqrt(np.mean((values / largest) ** 2))) if largest else 1.0
    )


def _softplus(t: FloatArray) -> FloatArray:
    # Faster than logaddexp, and as exact where it matters.
    return np.maximum(t, 0.0) + np.log1p(np.exp(-np.abs(t)))


def _can_learn(targets: FloatArray) -> bool:
    return targets.size >= MIN_ROWS and bool(np.any(targets != targets[0]))


def _inverse_links(
    values: FloatArray, softplus: BoolArray, logistic: BoolArray
) -> FloatArray:
    low = np.maximum(values, _LOWEST_START)
    start = np.where(softplus, low + np.log(-np.expm1(-low)), values)
    inside = np.clip(values, _LOWEST_START, 1 - _LOWEST_START)
    return np.where(logistic, logit(inside), start)
