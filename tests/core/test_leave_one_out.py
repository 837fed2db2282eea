"""All leave-one-out fits from one factorization, against the n fits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge

from uqlib._core.leave_one_out import leave_one_out_fits


def refit(X, y, X_new, penalty, fit_intercept, weight):
    """The n fits: predictions of new rows, and of each row by the model without it."""
    n = len(y)
    new, oof = np.empty((len(X_new), n)), np.empty(n)
    for i in range(n):
        keep = np.arange(n) != i
        model = Ridge(penalty, fit_intercept=fit_intercept, solver="svd")
        if penalty == 0:
            model = LinearRegression(fit_intercept=fit_intercept)
        model.fit(X[keep], y[keep], None if weight is None else weight[keep])
        new[:, i], oof[i] = model.predict(X_new), model.predict(X[[i]])[0]
    return new, oof


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(12, 1), (12, 4), (30, 20), (9, 15), (2, 1), (3, 3)]),
    penalty=st.sampled_from([0.0, 1e-3, 1.0, 100.0]),
    fit_intercept=st.booleans(),
    weighted=st.booleans(),
)
def test_equals_n_fits(seed, shape, penalty, fit_intercept, weighted):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=shape) + 2, rng.normal(size=shape[0]) + 10
    X_new = rng.normal(size=(4, shape[1]))
    weight = rng.uniform(0.1, 3, size=len(y)) if weighted else None
    result = leave_one_out_fits(
        X, y, penalty=penalty, fit_intercept=fit_intercept, sample_weight=weight
    )
    if result is None:  # only where the other rows leave the fit open
        assert penalty <= 1e-3
        return
    new, oof = refit(X, y, X_new, penalty, fit_intercept, weight)
    fits, y_oof = result
    np.testing.assert_allclose(fits.predict(X_new), new, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(y_oof, oof, rtol=1e-9, atol=1e-9)


def test_plain_least_squares_is_not_refused():
    rng = np.random.default_rng(0)
    for shape in [(12, 4), (30, 20), (200, 5)]:
        X, y = rng.normal(size=shape), rng.normal(size=shape[0])
        assert leave_one_out_fits(X, y) is not None


def test_a_row_of_weight_zero_changes_no_fit():
    rng = np.random.default_rng(1)
    X, y, weight = rng.normal(size=(12, 3)), rng.normal(size=12), np.ones(12)
    weight[4] = 0
    fits, y_oof = leave_one_out_fits(X, y, sample_weight=weight)
    new, oof = refit(X, y, X, 0.0, True, weight)
    np.testing.assert_allclose(fits.predict(X), new, rtol=1e-9)
    np.testing.assert_allclose(y_oof, oof, rtol=1e-9)


def test_a_constant_model_leaves_out_the_mean():
    y = np.array([1.0, 2.0, 6.0])
    fits, y_oof = leave_one_out_fits(np.zeros((3, 1)), y, penalty=1.0)
    np.testing.assert_allclose(y_oof, [4, 3.5, 1.5])
    np.testing.assert_allclose(fits.predict(np.ones((1, 1))), [[4, 3.5, 1.5]])


@pytest.mark.parametrize(
    ("X", "weight"),
    [
        (np.eye(5), None),  # p = n: every leverage is 1
        (np.column_stack([np.arange(8.0), 2 * np.arange(8.0)]), None),  # collinear
        (np.random.default_rng(0).normal(size=(30, 2))[:, [0, 1, 0]], None),
        (np.eye(8)[:, :1], None),  # one row alone determines the slope
        (np.arange(4.0).reshape(-1, 1), np.array([1.0, 1.0, 0.0, 0.0])),
    ],
    ids=["square", "collinear", "twice the same", "leverage one", "too few weights"],
)
def test_what_the_other_rows_do_not_determine_is_left_to_refits(X, weight):
    y = np.random.default_rng(2).normal(size=len(X))
    assert leave_one_out_fits(X, y, sample_weight=weight) is None


def test_a_penalty_determines_every_fit():
    rng = np.random.default_rng(3)
    X, y = np.eye(5), rng.normal(size=5)
    fits, y_oof = leave_one_out_fits(X, y, penalty=0.5)
    new, oof = refit(X, y, X, 0.5, True, None)
    np.testing.assert_allclose(fits.predict(X), new, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(y_oof, oof, rtol=1e-9, atol=1e-12)
