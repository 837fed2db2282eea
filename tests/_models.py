"""Small predictors whose quantiles are known exactly."""

import numpy as np
from scipy.stats import norm
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.validation import check_is_fitted


class ColumnQuantiles(RegressorMixin, BaseEstimator):
    """Quantiles of N(X[:, column], scale^2): learns nothing, so nothing leaks."""

    def __init__(self, quantiles=(0.05, 0.5, 0.95), column=0, scale=1.0, shift=0.0):
        self.quantiles = quantiles
        self.column = column
        self.scale = scale
        self.shift = shift

    def fit(self, X, y):
        """Record the levels."""
        self.quantiles_ = np.asarray(self.quantiles, dtype=float)
        return self

    def predict_quantiles(self, X):
        """Return the quantiles of the normal law around a column."""
        check_is_fitted(self)
        center = np.asarray(X)[:, [self.column]] + self.shift
        return center + self.scale * norm.ppf(self.quantiles_)

    def predict(self, X):
        """Return the center."""
        return np.asarray(X)[:, self.column] + self.shift


class Memorizer(RegressorMixin, BaseEstimator):
    """Predict the target of the nearest training row at every level.

    In sample its pinball loss is 0; out of sample it is a poor model.
    """

    def __init__(self, quantiles=(0.25, 0.5, 0.75)):
        self.quantiles = quantiles

    def fit(self, X, y):
        """Remember the rows."""
        self.quantiles_ = np.asarray(self.quantiles, dtype=float)
        self.neighbors_, self.y_ = NearestNeighbors(n_neighbors=1).fit(X), np.asarray(y)
        return self

    def predict_quantiles(self, X):
        """Return the remembered target, once a level."""
        _, nearest = self.neighbors_.kneighbors(X)
        return np.repeat(self.y_[nearest], self.quantiles_.size, axis=1)


class Zero(RegressorMixin, BaseEstimator):
    """Predict 0: the scores of a calibrator are then functions of y alone."""

    def fit(self, X, y):
        """Learn nothing."""
        self.fitted_ = True
        return self

    def predict(self, X):
        """Return zeros."""
        return np.zeros(len(X))


def normal_rows(n_samples, seed, n_features=2, noise=1.0):
    """Rows with y = X[:, 0] + noise, noise normal."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, n_features))
    return X, X[:, 0] + noise * rng.normal(size=n_samples)
