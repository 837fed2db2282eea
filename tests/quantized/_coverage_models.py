"""Stand-ins for two fitted models, which predict columns of X, and data for them."""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin


class Points(RegressorMixin, BaseEstimator):
    """Predicts a column of X."""

    def __init__(self, column=0):
        self.column = column

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def predict(self, X):
        return np.asarray(X)[:, self.column]


class Quantiles(Points):
    """Predicts two columns of X as its quantiles."""

    quantiles_ = np.array([0.05, 0.95])

    def predict_quantiles(self, X):
        return np.asarray(X)[:, self.column : self.column + 2]


class Classes(ClassifierMixin, BaseEstimator):
    """Predicts columns of X as probabilities."""

    def __init__(self, classes=("a", "b", "c"), column=0):
        self.classes, self.column = classes, column

    def fit(self, X, y=None):
        self.classes_ = np.array(self.classes)
        return self

    def predict_proba(self, X):
        return np.asarray(X)[:, self.column : self.column + len(self.classes)]

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def point_data(seed=0, n=(99, 150), drift=1.0):
    """Two models' predictions as columns of X, and the targets."""
    rng = np.random.default_rng(seed)
    rows = []
    for size in n:
        f, noise = rng.normal(size=(2, size))
        moved = f + drift * rng.standard_t(3, size=size)
        rows += [np.column_stack([f, moved]), f + noise]
    return rows


def quantile_data(seed=0, n=(99, 150)):
    rng = np.random.default_rng(seed)
    rows = []
    for size in n:
        f, noise = rng.normal(size=(2, size))
        ends = np.column_stack([f - 1.5, f + 1.5])
        moved = ends + 0.5 * rng.normal(size=(size, 2))
        rows += [np.column_stack([ends, moved]), f + noise]
    return rows


def class_data(seed=0, n=(199, 300)):
    rng = np.random.default_rng(seed)
    rows = []
    for size in n:
        scores = rng.normal(size=(size, 3))
        rough = scores + 0.7 * rng.normal(size=(size, 3))
        proba = [
            np.exp(s) / np.exp(s).sum(axis=1, keepdims=True) for s in (scores, rough)
        ]
        drawn = (proba[0].cumsum(axis=1) > rng.random((size, 1))).argmax(axis=1)
        rows += [np.hstack(proba), np.array(["a", "b", "c"])[drawn]]
    return rows


POINTS = Points(0).fit(None), Points(1).fit(None)
QUANTILES = Quantiles(0).fit(None), Quantiles(2).fit(None)
CLASSES = Classes(column=0).fit(None), Classes(column=3).fit(None)
