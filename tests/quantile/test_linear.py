"""LinearQuantileRegressor: optimality, equivariance, degenerate data, errors."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import QuantileRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests._models import normal_rows
from tests.core._linear_problems import LEVELS, objective, problem
from uqlib.metrics import pinball_loss
from uqlib.quantile import (
    LinearQuantileRegressor,
    crossing_rate,
    isotonic_quantiles,
    sort_quantiles,
)

THREE = (0.1, 0.5, 0.9)
X, Y = normal_rows(200, seed=0, n_features=3)
both_solvers = pytest.mark.parametrize("solver", ["frisch_newton", "preprocessing"])


def losses(model, X, y, weight=None):
    """The objective of each level."""
    return np.array(
        [
            objective(coef, intercept, X, y, tau, weight, model.alpha)
            for coef, intercept, tau in zip(
                model.coef_, model.intercept_, model.quantiles_, strict=True
            )
        ]
    )


# --------------------------------------------------------------- the optimum


@both_solvers
@pytest.mark.parametrize("alpha", [0.0, 0.003, 0.1])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_objective_is_that_of_scikit_learn(alpha, fit_intercept, solver):
    options = {"alpha": alpha, "fit_intercept": fit_intercept}
    model = LinearQuantileRegressor(LEVELS, solver=solver, **options).fit(X, Y)
    weight = np.random.default_rng(0).exponential(size=Y.size)
    weighted = clone(model).fit(X, Y, weight)
    for k, tau in enumerate(LEVELS):
        peer = QuantileRegressor(quantile=tau, solver="highs", **options)
        for ours, row_weight in ((model, None), (weighted, weight)):
            peer.fit(X, Y, row_weight)
            expected = objective(
                peer.coef_, peer.intercept_, X, Y, tau, row_weight, alpha
            )
            assert losses(ours, X, Y, row_weight)[k] <= expected * (1 + 1e-8)
            assert losses(ours, X, Y, row_weight)[k] >= expected * (1 - 1e-7)


@both_solvers
def test_the_shares_of_rows_below_are_the_levels(solver):
    X, y, _ = problem("heavy tails", 0, n=1000, d=6)
    model = LinearQuantileRegressor(LEVELS, solver=solver).fit(X, y)
    slack = 7 / y.size
    below = (y[:, None] < model.predict_quantiles(X)).mean(axis=0)
    assert np.all(np.abs(below - LEVELS) <= slack)
    # A vertex: as many rows are fitted exactly as there are coefficients.
    error = np.abs(y[:, None] - model.predict_quantiles(X))
    assert np.all(np.count_nonzero(error <= 1e-12, axis=0) == 7)


@both_solvers
def test_the_gap_bounds_the_excess(solver):
    X, y, _ = problem("heavy tails", 0, n=500)
    exact = LinearQuantileRegressor(THREE).fit(X, y)
    rough = LinearQuantileRegressor(THREE, solver=solver, tol=0.05).fit(X, y)
    assert np.all(rough.dual_gap_ <= 0.05 * losses(rough, X, y))
    assert np.all(losses(rough, X, y) - losses(exact, X, y) <= rough.dual_gap_ + 1e-15)
    assert np.all(exact.dual_gap_ <= 1e-8 * losses(exact, X, y))
    assert np.all(exact.dual_gap_ >= 0)


@pytest.mark.parametrize("n", [1, 2, 9, 10])
def test_without_features_that_vary_it_is_an_order_statistic(n):
    y = np.random.default_rng(n).permutation(n) * 1.0
    model = LinearQuantileRegressor(THREE).fit(np.full((n, 2), 3.0), y)
    assert np.all(model.coef_ == 0)
    expected = np.quantile(y, THREE, method="inverted_cdf")
    best = pinball_loss(y, np.tile(expected, (n, 1)), THREE)
    assert losses(model, np.zeros((n, 2)), y).mean() == pytest.approx(best, abs=1e-12)
    assert np.abs(model.intercept_ - np.round(model.intercept_)).max() <= 1e-12


def test_fits_of_no_loss_are_exact():
    y = X @ [1.0, -2.0, 0.5] + 3
    model = LinearQuantileRegressor(THREE).fit(X, y)
    assert model.coef_ == pytest.approx(np.tile([1.0, -2.0, 0.5], (3, 1)), abs=1e-9)
    assert model.intercept_ == pytest.approx(3.0)
    few = LinearQuantileRegressor(THREE).fit(X[:2], Y[:2])
    assert few.predict_quantiles(X[:2]) == pytest.approx(np.tile(Y[:2], (3, 1)).T)


# ---------------------------------------------------------------- L1 penalty


def test_a_large_penalty_leaves_only_the_intercept():
    model = LinearQuantileRegressor(THREE, alpha=100.0).fit(X, Y)
    assert np.all(model.coef_ == 0)
    plain = LinearQuantileRegressor(THREE).fit(np.zeros((Y.size, 1)), Y)
    assert model.intercept_ == pytest.approx(plain.intercept_, abs=1e-12)


def test_the_penalty_selects_columns():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 10))
    y = 2 * X[:, 0] + rng.normal(size=400)
    model = LinearQuantileRegressor([0.5], alpha=0.1).fit(X, y)
    assert np.count_nonzero(np.abs(model.coef_) > 1e-12) == 1
    path = [LinearQuantileRegressor([0.5], alpha=a).fit(X, y) for a in (0, 0.01, 0.1)]
    sizes = [np.abs(fitted.coef_).sum() for fitted in path]
    assert sizes == sorted(sizes, reverse=True)


def test_the_penalty_prefers_the_column_of_larger_scale():
    # Twice the column costs half the coefficient.
    twice = np.column_stack([X[:, 0], 2 * X[:, 0]])
    model = LinearQuantileRegressor([0.5], alpha=0.01).fit(twice, Y)
    alone = LinearQuantileRegressor([0.5], alpha=0.01).fit(twice[:, 1:], Y)
    assert abs(model.coef_[0, 0]) <= 1e-9
    assert model.coef_[0, 1] == pytest.approx(alone.coef_[0, 0], abs=1e-9)


# --------------------------------------------------------------- equivariance


@both_solvers
@pytest.mark.parametrize(("factor", "shift"), [(1e6, 0.0), (1e-5, 3.0), (2.0, -1e4)])
def test_units_of_the_target(factor, shift, solver):
    model = LinearQuantileRegressor(THREE, solver=solver).fit(X, Y)
    moved = clone(model).fit(X, factor * Y + shift)
    assert moved.coef_ == pytest.approx(factor * model.coef_, rel=1e-6)
    expected = factor * model.intercept_ + shift
    assert moved.intercept_ == pytest.approx(expected, rel=1e-6, abs=1e-6 * factor)


@both_solvers
def test_mirrored_targets_have_mirrored_levels(solver):
    model = LinearQuantileRegressor(THREE, solver=solver).fit(X, Y)
    mirrored = clone(model).fit(X, -Y)
    assert mirrored.coef_[::-1] == pytest.approx(-model.coef_, abs=1e-8)
    assert mirrored.intercept_[::-1] == pytest.approx(-model.intercept_, abs=1e-8)


@both_solvers
def test_a_trend_is_added_to_the_coefficients(solver):
    model = LinearQuantileRegressor(THREE, solver=solver).fit(X, Y)
    trend = np.array([1.0, 2.0, 3.0])
    moved = clone(model).fit(X, Y + X @ trend)
    assert moved.coef_ == pytest.approx(model.coef_ + trend, abs=1e-8)


@both_solvers
@pytest.mark.parametrize("seed", range(3))
def test_another_basis_of_the_columns_changes_no_prediction(seed, solver):
    rng = np.random.default_rng(seed)
    basis, offset = rng.normal(size=(3, 3)) * [1e-3, 1.0, 1e3], rng.normal(size=3)
    model = LinearQuantileRegressor(THREE, solver=solver).fit(X, Y)
    other = clone(model).fit(X @ basis + offset, Y)
    before, after = (
        model.predict_quantiles(X),
        other.predict_quantiles(X @ basis + offset),
    )
    assert after == pytest.approx(before, abs=1e-7)


def test_duplicated_columns_change_no_prediction():
    model = LinearQuantileRegressor(THREE).fit(X, Y)
    twice = clone(model).fit(np.column_stack([X, X]), Y)
    before = model.predict_quantiles(X)
    assert twice.predict_quantiles(np.column_stack([X, X])) == pytest.approx(before)


# ------------------------------------------------------------------- weights


@both_solvers
@pytest.mark.parametrize("alpha", [0.0, 0.02])
def test_integer_weights_are_repeated_rows(alpha, solver):
    counts = np.random.default_rng(0).integers(0, 4, Y.size)
    rows = np.repeat(np.arange(Y.size), counts)
    model = LinearQuantileRegressor(THREE, alpha=alpha, solver=solver)
    weighted = clone(model).fit(X, Y, counts)
    repeated = clone(model).fit(X[rows], Y[rows])
    expected = losses(repeated, X[rows], Y[rows])
    assert losses(weighted, X[rows], Y[rows]) == pytest.approx(expected, rel=1e-9)
    assert weighted.coef_ == pytest.approx(repeated.coef_, abs=1e-7)


def test_rows_without_weight_are_not_there():
    weight = np.random.default_rng(0).exponential(size=Y.size)
    weight[::3] = 0.0
    kept = weight > 0
    spoiled = np.where(kept, Y, 1e9)
    model = LinearQuantileRegressor(THREE).fit(X, spoiled, weight)
    without = clone(model).fit(X[kept], Y[kept], weight[kept])
    np.testing.assert_array_equal(model.coef_, without.coef_)
    scaled = clone(model).fit(X[kept], Y[kept], 1e6 * weight[kept])
    assert scaled.coef_ == pytest.approx(without.coef_, abs=1e-9)


# ---------------------------------------------------------------- prediction


def test_levels_and_the_median():
    model = LinearQuantileRegressor(THREE).fit(X, Y)
    matrix = model.predict_quantiles(X)
    assert matrix == pytest.approx(X @ model.coef_.T + model.intercept_)
    assert model.predict_quantiles(X, [0.1, 0.9]) == pytest.approx(matrix[:, [0, 2]])
    assert model.predict(X) == pytest.approx(matrix[:, 1])
    with pytest.raises(ValueError, match=r"no quantile level 0\.3"):
        model.predict_quantiles(X, [0.3])
    assert model.coef_.shape == (3, 3)
    for name in ("intercept_", "dual_gap_", "n_iter_", "quantiles_"):
        assert getattr(model, name).shape == (3,), name


@pytest.mark.parametrize(
    ("name", "repair"), [("sort", sort_quantiles), ("isotonic", isotonic_quantiles)]
)
def test_rows_that_cross_are_repaired_over_all_levels(name, repair):
    far = 50 * X
    levels = np.arange(1, 20) / 20
    raw = LinearQuantileRegressor(levels).fit(X, Y)
    assert crossing_rate(raw.predict_quantiles(far)) > 0.5
    model = LinearQuantileRegressor(levels, non_crossing=name).fit(X, Y)
    expected = repair(raw.predict_quantiles(far))
    np.testing.assert_array_equal(model.predict_quantiles(far), expected)
    np.testing.assert_array_equal(
        model.predict_quantiles(far, levels[[3, 9]]), expected[:, [3, 9]]
    )
    np.testing.assert_array_equal(model.predict(far), expected[:, 9])


def test_default_levels():
    model = LinearQuantileRegressor().fit(X, Y)
    assert model.predict_quantiles(X[:2]).shape == (2, 19)


# --------------------------------------------------------------------- input


def test_single_precision_is_fitted_as_it_is():
    single = X.astype(np.float32)
    model = LinearQuantileRegressor(THREE).fit(single, Y)
    double = clone(model).fit(single.astype(np.float64), Y)
    assert model.coef_ == pytest.approx(double.coef_, rel=1e-12)
    matrix = model.predict_quantiles(single)
    assert matrix.dtype == np.float64
    assert matrix == pytest.approx(double.predict_quantiles(single.astype(float)))


def test_any_memory_layout():
    model = LinearQuantileRegressor(THREE).fit(X, Y)
    wide, long = np.zeros((400, 6)), np.zeros(400)
    wide[::2, ::2], long[::2] = X, Y
    strided = clone(model).fit(wide[::2, ::2], long[::2])
    fortran = clone(model).fit(np.asfortranarray(X), Y)
    assert strided.coef_ == pytest.approx(model.coef_, rel=1e-10)
    assert fortran.coef_ == pytest.approx(model.coef_, rel=1e-10)


def test_dataframes(df_module):
    columns = [(f"x{j}", X[:, j]) for j in range(3)]
    frame, target = df_module.make_dataframe(columns), df_module.make_series(Y)
    model = LinearQuantileRegressor(THREE).fit(frame, target)
    assert model.feature_names_in_.tolist() == ["x0", "x1", "x2"]
    plain = LinearQuantileRegressor(THREE).fit(X, Y)
    assert model.predict_quantiles(frame) == pytest.approx(plain.predict_quantiles(X))


def test_integers_are_numbers():
    model = LinearQuantileRegressor([0.5]).fit([[0], [1], [2]], [0, 1, 2])
    assert model.coef_ == pytest.approx(np.array([[1.0]]))


def test_clone_and_pickle():
    model = make_pipeline(StandardScaler(), LinearQuantileRegressor(THREE)).fit(X, Y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    np.testing.assert_array_equal(clone(model).fit(X, Y).predict(X), model.predict(X))


def test_the_input_is_not_changed():
    x, y, weight = X.copy(), Y.copy(), np.ones(Y.size)
    for array in (x, y, weight):
        array.setflags(write=False)
    LinearQuantileRegressor(THREE, alpha=0.1).fit(x, y, weight)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)


# -------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"quantiles": [0.5, 0.1]}, "strictly increasing"),
        ({"quantiles": [0.0, 0.5]}, "strictly between 0 and 1"),
        ({"alpha": -1.0}, r"alpha must be .* got -1\.0"),
        ({"alpha": np.inf}, "alpha must be a finite"),
        ({"alpha": "1"}, "alpha must be"),
        ({"tol": 0.0}, "tol must be"),
        ({"tol": 1.0}, "tol must be"),
        ({"max_iter": 0}, "max_iter must be an integer of at least 1"),
        ({"max_iter": 2.5}, "max_iter must be"),
        ({"max_iter": True}, "max_iter must be"),
        ({"solver": "simplex"}, r"solver must be one of .* got 'simplex'"),
        ({"non_crossing": "pava"}, "non_crossing must be one of"),
    ],
)
def test_parameters_out_of_range(parameters, message):
    model = LinearQuantileRegressor(**parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y)
    assert not hasattr(model, "quantiles_")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_is_not_finite(value):
    bad = X.copy()
    bad[3, 1] = value
    model = LinearQuantileRegressor(THREE)
    with pytest.raises(ValueError, match="Input X contains"):
        model.fit(bad, Y)
    with pytest.raises(ValueError, match="Input y contains"):
        model.fit(X, np.where(np.arange(Y.size) == 3, value, Y))
    model.fit(X, Y)
    with pytest.raises(ValueError, match="Input X contains"):
        model.predict_quantiles(bad)


def test_data_of_the_wrong_kind():
    model = LinearQuantileRegressor(THREE)
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        model.fit(csr_array(X), Y)
    with pytest.raises(ValueError, match="dates or durations"):
        model.fit(X, Y.astype("M8[s]"))
    with pytest.raises(ValueError, match="sample_weight must be finite"):
        model.fit(X, Y, np.zeros(Y.size))
    with pytest.raises(ValueError, match="sample_weight must have shape"):
        model.fit(X, Y, np.ones(3))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, Y[:-1])
    with pytest.raises(NotFittedError):
        LinearQuantileRegressor(THREE).predict_quantiles(X)


@both_solvers
def test_iterations_that_end_early_are_announced(solver):
    model = LinearQuantileRegressor(THREE, solver=solver, max_iter=1, tol=1e-12)
    with pytest.warns(ConvergenceWarning, match="Increase max_iter") as caught:
        model.fit(X, Y)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    exact = LinearQuantileRegressor(THREE).fit(X, Y)
    excess = losses(model, X, Y) - losses(exact, X, Y)
    assert np.all(excess <= model.dual_gap_ + 1e-15)
    assert np.any(model.dual_gap_ > 1e-12 * losses(model, X, Y))


# ---------------------------------------------------------------- properties


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 80),
    d=st.integers(1, 4),
    decimals=st.sampled_from([0, 1, 12]),
    solver=st.sampled_from(["auto", "frisch_newton", "preprocessing"]),
)
def test_as_many_rows_below_as_the_level_says(seed, n, d, decimals, solver):
    rng = np.random.default_rng(seed)
    X = np.round(rng.normal(size=(n, d)), decimals)
    y = np.round(rng.standard_t(2, size=n), decimals)
    model = LinearQuantileRegressor(THREE, solver=solver).fit(X, y)
    matrix = model.predict_quantiles(X)
    slack = 1e-9 * (1 + np.abs(y)[:, None])
    below = (y[:, None] < matrix - slack).mean(axis=0)
    not_above = (y[:, None] <= matrix + slack).mean(axis=0)
    # The subgradient condition of the intercept, ties included.
    assert np.all(below <= np.array(THREE) + 1e-9)
    assert np.all(not_above >= np.array(THREE) - 1e-9)
