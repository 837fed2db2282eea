"""Rows with a known bias, and a quick split-point analysis of them."""

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, QuantileRegressor

from tests._models import Zero
from uqlib.spa._regressor import SPARegressor

NAMES = [
    "aleatoric",
    "epistemic",
    "sds",
    "relative_sds",
    "mar",
    "mar_up",
    "mar_down",
    "p_up",
    "bias",
    "quantile_up",
    "quantile_down",
]


def skewed_rows(n_samples=240, seed=0):
    """A line, and skewed noise whose spread follows x."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(n_samples, 2))
    noise = rng.lognormal(0, 0.8, size=n_samples) - np.exp(0.32)
    return X, 2 * X[:, 0] + (1 + X[:, 1] / 2) * noise


X, Y = skewed_rows()
FROZEN_ZERO = FrozenEstimator(Zero().fit(X, Y))


def quick(estimator=None, **parameters):
    """Linear heads: quick, and equivariant like the estimator."""
    parameters = {
        "mar_estimator": LinearRegression(),
        "quantile_estimator": QuantileRegressor(alpha=0),
        "random_state": 0,
    } | parameters
    estimator = LinearRegression() if estimator is None else estimator
    return SPARegressor(estimator, **parameters)


def first_column(rows):
    """One feature, as a column."""
    return np.asarray(rows)[:, :1]
