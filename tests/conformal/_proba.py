"""Models whose probabilities are the rows themselves, and oracles of label scores."""

import warnings

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.frozen import FrozenEstimator

from uqlib import InfiniteIntervalWarning
from uqlib.conformal import ConformalClassifier, conformal_rank

NAMES = ["aps", "lac", "margin", "raps", "saps", "topk"]


class ColumnsAsProba(ClassifierMixin, BaseEstimator):
    """The rows themselves are the probabilities: learns nothing."""

    def __init__(self, classes=(0, 1, 2)):
        self.classes = classes

    def fit(self, X, y):
        self.classes_ = np.array(self.classes)
        return self

    def predict_proba(self, X):
        return np.asarray(X)

    def predict(self, X):
        return self.classes_[np.argmax(X, axis=1)]


class Table:
    """A user's score: a monotone transform of lac."""

    def scores(self, proba):
        return np.exp(5 * (1 - proba))


def frozen(classes=(0, 1, 2)):
    return FrozenEstimator(ColumnsAsProba(classes).fit(None, None))


def nine_digits(values):
    """Round to 33 significant bits, in the arithmetic of the definition."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.floor(np.ldexp(mantissa, 33) + 0.5), exponent - 33)


def proba_rows(n_samples, n_classes=3, seed=0, digits=None):
    """Random probabilities, rounded as they count, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.full(n_classes, 0.7), n_samples)
    if digits is not None:  # ties
        proba = np.round(proba * digits) + 1e-9
        proba /= proba.sum(axis=1, keepdims=True)
    labels = [rng.choice(n_classes, p=row) for row in proba]
    return nine_digits(proba), np.array(labels)


def quietly(function, *arguments, **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InfiniteIntervalWarning)
        return function(*arguments, **keywords)


def calibrated(proba, labels, **parameters):
    classes = tuple(range(proba.shape[1]))
    model = ConformalClassifier(frozen(classes), **parameters)
    return quietly(model.fit, proba, labels)


def threshold_by_hand(scores, level):
    """The k-th smallest of a sorted list, k by exact arithmetic; +inf beyond it."""
    rank = conformal_rank(len(scores), level)
    return sorted(scores)[rank - 1] if rank <= len(scores) else np.inf


def scores_of_every_label(model, proba):
    """Enumerate: hypothesize each label in turn and score it alone."""
    n_samples, n_classes = proba.shape
    u = np.ones(n_samples)
    return np.column_stack(
        [
            model.nonconformity_.labels(proba, np.full(n_samples, y), u)
            for y in range(n_classes)
        ]
    )
