"""The jackknife+ by closed forms, and what CV+, jackknife+ and minmax guarantee."""

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import KFold, LeaveOneOut
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests._models import normal_rows
from tests.conformal.test_cross import METHODS, NoAffine
from uqlib.conformal import AbsoluteScore, CrossConformalRegressor, NormalizedScore

X, Y = normal_rows(100, seed=0)
X_NEW, _ = normal_rows(40, seed=1)

LINEAR = {
    "least squares": LinearRegression(),
    "no intercept": LinearRegression(fit_intercept=False),
    "ridge": Ridge(alpha=2.0),
    "ridge, no intercept": Ridge(fit_intercept=False, solver="svd"),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", LINEAR)
def test_closed_forms_equal_n_fits(name, method, weighted):
    base, rows, y = LINEAR[name], X[:40] + 1, Y[:40]
    weight = np.random.default_rng(0).uniform(0.1, 2, 40) if weighted else None
    fast = CrossConformalRegressor(base, cv=LeaveOneOut(), method=method)
    slow = clone(fast).set_params(cv=list(LeaveOneOut().split(rows)))
    fast.fit(rows, y, weight), slow.fit(rows, y, weight)
    assert (len(fast.estimators_), len(slow.estimators_)) == (0, 40)
    np.testing.assert_allclose(fast.scores_, slow.scores_, rtol=1e-9, atol=1e-10)
    np.testing.assert_array_equal(fast.fold_, slow.fold_)
    np.testing.assert_array_equal(fast.predict(X_NEW), slow.predict(X_NEW))
    for level in (None, 0.7):
        np.testing.assert_allclose(
            fast.predict_interval(X_NEW, level),
            slow.predict_interval(X_NEW, level),
            rtol=1e-9,
            atol=1e-9,
        )


@pytest.mark.parametrize("score", ["signed", "gamma", NoAffine(AbsoluteScore())])
def test_closed_forms_take_every_score_of_the_point(score):
    rows, y = X[:40] + 1, Y[:40] + 5
    fast = CrossConformalRegressor(Ridge(), cv=LeaveOneOut(), nonconformity=score)
    slow = clone(fast).set_params(cv=list(LeaveOneOut().split(rows)))
    fast.fit(rows, y), slow.fit(rows, y)
    assert fast.estimators_ == []
    np.testing.assert_allclose(
        fast.predict_interval(X_NEW), slow.predict_interval(X_NEW), rtol=1e-9
    )


@pytest.mark.parametrize(
    ("base", "rows", "score"),
    [
        (LinearRegression(positive=True), X[:12], "absolute"),
        (Ridge(solver="lsqr"), X[:12], "absolute"),
        (Ridge(alpha=np.array([1.0])), X[:12], "absolute"),
        (make_pipeline(StandardScaler(), Ridge()), X[:12], "absolute"),
        (LinearRegression(), np.repeat(X[:12, :1], 2, axis=1), "absolute"),
        (LinearRegression(), np.eye(12), "absolute"),
        (Ridge(), X[:12].astype(np.float32), "absolute"),
        (Ridge(), X[:12], NormalizedScore(cv=2)),
    ],
    ids=[
        "positive",
        "iterative",
        "alphas",
        "pipeline",
        "collinear",
        "leverage one",
        "float32",
        "score of two predictions",
    ],
)
def test_whatever_has_no_closed_form_is_fitted_n_times(base, rows, score):
    model = CrossConformalRegressor(base, cv=LeaveOneOut(), nonconformity=score)
    model.fit(rows, Y[:12])
    assert len(model.estimators_) == 12
    again = clone(model).set_params(cv=list(LeaveOneOut().split(rows)))
    np.testing.assert_array_equal(
        model.predict_interval(rows), again.fit(rows, Y[:12]).predict_interval(rows)
    )


def test_closed_forms_refuse_what_the_model_refuses():
    model = CrossConformalRegressor(Ridge(), cv=LeaveOneOut()).fit(X, Y)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            model.predict_interval(np.full((1, 2), bad))
    with pytest.raises(ValueError, match="n_samples=1"):
        CrossConformalRegressor(Ridge(), cv=LeaveOneOut()).fit(X[:1], Y[:1])


# ----------------------------------------------------------------- coverage


def guaranteed(n, n_folds, level, method):
    """The theorem's level for folds of equal size."""
    slack = min(
        2 * (1 - 1 / n_folds) / (n / n_folds + 1), (1 - n_folds / n) / (n_folds + 1)
    )
    bound = 1 - 2 * (1 - level) - slack
    if method == "minmax":
        bound = max(bound, level * (n + 1) / (n + n / n_folds))
    return bound


def coverage(model, n, n_features, n_replications):
    covered = 0
    for seed in range(n_replications):  # fresh rows, one of them new
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(n + 1, n_features))
        y = rows[:, 0] + rng.normal(size=n + 1)
        (lower, upper), new = (
            model.fit(rows[:n], y[:n]).predict_interval(rows[n:])[0],
            y[n],
        )
        covered += lower <= new <= upper
    print(f"coverage {covered / n_replications:.3f}")  # pytest -rP
    return covered


@pytest.mark.parametrize(
    ("base", "n_features", "cv", "method"),
    [
        (LinearRegression(fit_intercept=False), 18, LeaveOneOut(), "plus"),
        (LinearRegression(fit_intercept=False), 18, LeaveOneOut(), "minmax"),
        (LinearRegression(fit_intercept=False), 15, KFold(5), "plus"),
        (KNeighborsRegressor(1), 1, KFold(5), "plus"),
        (KNeighborsRegressor(1), 1, KFold(5), "minmax"),
    ],
)
def test_coverage_reaches_the_level_of_the_theorem(base, n_features, cv, method):
    n, n_replications, level = 20, 150, 0.9
    n_folds = n if isinstance(cv, LeaveOneOut) else cv.get_n_splits()
    model = CrossConformalRegressor(base, confidence_level=level, cv=cv, method=method)
    covered = coverage(model, n, n_features, n_replications)
    bound = guaranteed(n, n_folds, level, method)
    # Each replication covers with at least this probability, independently.
    assert covered >= binom.ppf(1e-6, n_replications, bound)


def test_the_plain_jackknife_has_no_such_theorem():
    n, n_features, n_replications = 20, 20, 150

    class Interpolator(RegressorMixin, BaseEstimator):
        """Least squares of least norm: unstable where n meets n_features."""

        def fit(self, X, y):
            self.coef_ = np.linalg.lstsq(X, y, rcond=None)[0]
            return self

        def predict(self, X):
            return X @ self.coef_

    covered = {}
    for method in ("plus", "base"):
        model = CrossConformalRegressor(Interpolator(), cv=LeaveOneOut(), method=method)
        covered[method] = coverage(model, n, n_features, n_replications)
    bound = binom.ppf(1e-6, n_replications, 0.8)
    assert covered["base"] < bound <= covered["plus"]
