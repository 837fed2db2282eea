"""Linear quantile programs against HiGHS, and what their solvers are made of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from tests.core._linear_problems import (
    CHANGES,
    LEVELS,
    lp_optimum,
    objective,
    pinball,
    problem,
)
from uqlib._core import linear_design, linear_quantile, quantile_preprocessing
from uqlib._core.linear_design import DenseDesign, OrthonormalDesign
from uqlib._core.linear_quantile import fit_linear_quantile, fit_linear_quantiles
from uqlib._core.pinball_program import (
    Program,
    certify,
    correlate,
    reach_of,
    residuals,
    row_norms,
)
from uqlib._core.quantile_interior_point import solve_in_memory
from uqlib._core.quantile_smoothing import smooth

kinds = pytest.mark.parametrize("kind", CHANGES)
solvers = pytest.mark.parametrize("solver", ["frisch_newton", "preprocessing"])


def check_optimal(fits, X, y, tau, weight, alpha, fit_intercept, k=0):
    """Assert that level k is optimal, and that its certificate is right."""
    loss = objective(fits.coef[k], fits.intercept[k], X, y, tau, weight, alpha)
    optimum = lp_optimum(X, y, tau, weight, alpha, fit_intercept)
    # A nearly perfect fit has no loss to be relative to.
    scale = max(optimum, 1e-6 * np.abs(y).mean(), 1e-300)
    assert loss <= optimum + 1e-8 * scale
    assert loss - optimum <= fits.gap[k] + 2e-10 * scale + 1e-15 * np.abs(y).max()
    assert 0 <= fits.gap[k] <= 1e-8 * scale
    assert fits.loss[k] == pytest.approx(loss, rel=1e-9, abs=1e-9 * scale)


@solvers
@kinds
@pytest.mark.parametrize("seed", range(3))
def test_loss_is_that_of_the_linear_program(kind, seed, solver):
    X, y, weight = problem(kind, seed)
    rng = np.random.default_rng(seed)
    tau = float(rng.choice(LEVELS))
    for alpha, fit_intercept in [(0.0, True), (0.0, False), (0.05, True)]:
        options = {"alpha": alpha, "fit_intercept": fit_intercept}
        fits = fit_linear_quantiles(X, y, [tau], weight, solver=solver, **options)
        check_optimal(fits, X, y, tau, weight, **options)


@solvers
@pytest.mark.parametrize("tau", LEVELS)
def test_two_thousand_rows(tau, solver):
    X, y, _ = problem("heavy tails", 0, n=2000, d=8)
    fits = fit_linear_quantiles(X, y, [tau], solver=solver)
    check_optimal(fits, X, y, tau, None, 0.0, True)


@kinds
def test_both_solvers_have_the_same_loss_on_many_rows(kind):
    X, y, weight = problem(kind, 1, n=6000)
    levels = np.array([0.02, 0.5, 0.9])
    one, other = (
        fit_linear_quantiles(X, y, levels, weight, solver=solver)
        for solver in ("frisch_newton", "preprocessing")
    )
    scale = np.maximum(one.loss, 1e-6 * np.abs(y - np.median(y)).mean())
    assert np.all(np.abs(one.loss - other.loss) <= 1e-8 * scale)
    assert np.all(np.maximum(one.gap, other.gap) <= 1e-8 * scale)


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 60),
    d=st.integers(1, 5),
    tau=st.floats(0.005, 0.995),
    discrete=st.booleans(),
    alpha=st.sampled_from([0.0, 0.01, 0.3]),
)
def test_no_other_coefficients_are_better(seed, n, d, tau, discrete, alpha):
    rng = np.random.default_rng(seed)
    X, y, weight = rng.normal(size=(n, d)), rng.normal(size=n), rng.exponential(size=n)
    if discrete:
        X, y = np.round(X), np.round(y)
    fits = fit_linear_quantiles(X, y, [tau], weight, alpha=alpha)
    coef, intercept = fits.coef[0], fits.intercept[0]
    loss = objective(coef, intercept, X, y, tau, weight, alpha)
    for size in (1e-6, 1e-3, 0.1, 1.0):
        for step in size * rng.normal(size=(10, d + 1)):
            moved = coef + step[:-1], intercept + step[-1]
            assert loss <= objective(*moved, X, y, tau, weight, alpha) + 1e-12


# --------------------------------------------------------------- one program


def lp_of_rows(X, y, tau, cost):
    """Optimal loss of rows with levels of their own, without intercept."""
    n, d = X.shape
    cost = cost / cost.sum()
    solution = linprog(
        np.concatenate([np.zeros(2 * d), cost * tau, cost * (1 - tau)]),
        A_eq=np.hstack([X, -X, np.eye(n), -np.eye(n)]),
        b_eq=y,
        bounds=(0, None),
        method="highs",
    )
    assert solution.success
    return float(solution.fun)


@pytest.mark.parametrize("seed", range(8))
def test_rows_with_levels_of_their_own(seed):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(80, 3)), rng.normal(size=80)
    # 0 and 1 are legal: such a row has no loss on one side.
    tau, cost = rng.choice([0.0, 0.2, 0.5, 0.95, 1.0], 80), rng.exponential(size=80)
    fit = fit_linear_quantile(X, y, tau, cost)
    assert fit.loss == pytest.approx(lp_of_rows(X, y, tau, cost), rel=1e-8)
    assert fit.loss == pytest.approx(
        np.average(pinball(y - X @ fit.coef, tau), weights=cost), rel=1e-12
    )
    assert 0 <= fit.gap <= 1e-8 * fit.loss


def test_rows_that_only_bound_from_above():
    # max(e, 0) alone asks for a fit above all rows: there is one without loss.
    X, y = np.ones((5, 1)), np.arange(5.0)
    fit = fit_linear_quantile(X, y, 1.0, np.ones(5))
    assert fit.loss <= 1e-12
    assert fit.coef[0] >= 4 - 1e-9


def test_a_start_changes_nothing_but_the_way():
    X, y, _ = problem("plain", 0)
    cold = fit_linear_quantile(X, y, 0.3, np.ones(y.size))
    warm = fit_linear_quantile(X, y, 0.3, np.ones(y.size), start=cold.coef)
    assert warm.loss == pytest.approx(cold.loss, rel=1e-12)
    assert warm.coef == pytest.approx(cold.coef, abs=1e-9)


def test_rows_without_weight_are_not_there():
    X, y, weight = problem("weights", 0)
    kept = weight > 0
    assert not kept.all()
    with_zeros = fit_linear_quantile(X, y, 0.3, weight)
    without = fit_linear_quantile(X[kept], y[kept], 0.3, weight[kept])
    assert np.array_equal(with_zeros.coef, without.coef)
    assert with_zeros.loss == without.loss


def test_no_target_and_no_columns():
    fit = fit_linear_quantile(np.ones((3, 2)), np.zeros(3), 0.3, np.ones(3))
    assert fit.coef.tolist() == [0, 0]
    assert fit.gap == fit.loss == 0
    fit = fit_linear_quantile(np.zeros((2, 2)), np.array([1.0, -1]), 0.3, np.ones(2))
    assert fit.coef.tolist() == [0, 0]
    assert fit.loss == pytest.approx(0.5)
    assert fit.gap == 0


# --------------------------------------------------------------- certificates


def orthonormal_program(seed, n=120, d=4, tau=0.3, alpha=0.0):
    rng = np.random.default_rng(seed)
    cost = rng.exponential(size=n)
    cost /= cost.sum()
    X, y = rng.normal(size=(n, d)), rng.normal(size=n)
    design = OrthonormalDesign(X, cost, intercept=True, alpha=alpha)
    n_penalties = design.penalty_cost.size
    return Program(
        design,
        np.concatenate([y, np.zeros(n_penalties)]),
        np.concatenate([np.full(n, tau), np.full(n_penalties, 0.5)]),
        np.concatenate([cost, design.penalty_cost]),
    )


@given(seed=st.integers(0, 10**6), share=st.floats(0, 1))
def test_certificates_hold_far_from_the_optimum(seed, share):
    program = orthonormal_program(seed)
    rng = np.random.default_rng(seed)
    reach = reach_of(row_norms(program.design), program.tau)
    best = solve_in_memory(program, np.zeros(5), 1e-10, 100)
    optimum = certify(program, best.b, best.a, reach)
    b = best.b + share * rng.normal(size=5)
    for a in (best.a, 0 * best.a, share * best.a, rng.normal(size=best.a.size)):
        loss, gap = certify(program, b, a, reach)
        assert loss - optimum.loss <= gap + 1e-12
        assert gap <= loss


def test_the_dual_point_is_feasible():
    program = orthonormal_program(0, alpha=0.02)
    solution = solve_in_memory(program, np.zeros(5), 1e-8, 100)
    assert np.all(solution.a <= program.cost * program.tau + 1e-15)
    assert np.all(solution.a >= program.cost * (program.tau - 1) - 1e-15)
    assert np.abs(correlate(program, solution.a)).max() <= 1e-15
    dual = program.y @ solution.a
    assert certify(program, solution.b, solution.a, 0.0).loss == pytest.approx(dual)


@solvers
def test_a_fit_that_is_cut_short_says_so(solver):
    X, y, _ = problem("heavy tails", 0, n=3000)
    fits = fit_linear_quantiles(X, y, [0.2], solver=solver, max_iter=1, tol=1e-12)
    exact = fit_linear_quantiles(X, y, [0.2])
    assert fits.relative_gap[0] > 1e-12
    assert 0 <= fits.loss[0] - exact.loss[0] <= fits.gap[0]


# ---------------------------------------------------------------- the designs


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.01])
@kinds
def test_rows_are_orthonormal(kind, alpha, intercept):
    X, _, weight = problem(kind, 0)
    cost = np.ones(X.shape[0]) if weight is None else weight[: X.shape[0]]
    X, cost = X[cost > 0], cost[cost > 0] / cost.sum()
    design = OrthonormalDesign(X, cost, intercept=intercept, alpha=alpha)
    rows, rank = design.in_memory(), design.shape[1]
    total = np.concatenate([cost, design.penalty_cost])
    assert (rows.T * total) @ rows == pytest.approx(np.eye(rank), abs=1e-6)
    b = np.random.default_rng(0).normal(size=rank)
    coef, constant = design.coefficients(b)
    fitted = rows[: design.n_samples] @ b
    size = np.abs(X * coef).sum(axis=1) + abs(constant) + 1
    assert np.all(np.abs(X @ coef + constant - fitted) <= 1e-11 * size)


@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_streamed_rows_are_the_rows_in_memory(monkeypatch, alpha):
    X, _, _ = problem("plain", 0, n=500)
    cost = np.full(500, 1 / 500)
    kept = OrthonormalDesign(X, cost, intercept=True, alpha=alpha)
    monkeypatch.setattr(linear_design, "_KEPT", 0)
    monkeypatch.setattr(linear_design, "_BLOCK", 320)
    streamed = OrthonormalDesign(X, cost, intercept=True, alpha=alpha)
    assert streamed._kept is None
    assert len(list(streamed.blocks())) > 5
    numbers = np.array([3, 0, 499, kept.shape[0] - 1])
    signs = np.sign(np.sum(kept.in_memory() * streamed.in_memory(), axis=0))
    expected = kept.in_memory() * signs
    assert streamed.in_memory() == pytest.approx(expected, abs=1e-12)
    assert streamed.take(numbers) == pytest.approx(expected[numbers], abs=1e-12)
    assert row_norms(streamed) == pytest.approx(row_norms(kept), abs=1e-12)


@solvers
def test_streamed_fits_are_the_fits_in_memory(monkeypatch, solver):
    X, y, weight = problem("wild weights", 0, n=3000)
    options = {"solver": solver, "alpha": 0.01}
    kept = fit_linear_quantiles(X, y, [0.1, 0.6], weight, **options)
    monkeypatch.setattr(linear_design, "_KEPT", 0)
    streamed = fit_linear_quantiles(X, y, [0.1, 0.6], weight, **options)
    assert streamed.loss == pytest.approx(kept.loss, rel=1e-8)
    assert streamed.coef == pytest.approx(kept.coef, abs=1e-7)


@pytest.mark.parametrize("solver", ["frisch_newton", "preprocessing"])
def test_memory_layout_and_type_do_not_matter(solver):
    X, y, _ = problem("plain", 0, n=2500)
    X = X.astype(np.float32)
    wide = np.zeros((5000, 8), dtype=np.float32)
    wide[::2, ::2] = X
    base = fit_linear_quantiles(X.astype(float), y, [0.3], solver=solver)
    for same in (X, np.asfortranarray(X), wide[::2, ::2], X[::-1][::-1]):
        fits = fit_linear_quantiles(same, y, [0.3], solver=solver)
        assert fits.coef == pytest.approx(base.coef, rel=1e-10)


# ------------------------------------------------------------------ smoothing


def test_smoothing_ends_where_its_gradient_is_zero():
    program = orthonormal_program(1, n=400)
    b, bandwidth = smooth(program, np.zeros(5), 1.0, rows_per_column=5.0)
    error = residuals(program, b)
    root = np.hypot(error, bandwidth)
    a = program.cost * (program.tau - 0.5 + error / (2 * root))
    assert np.abs(correlate(program, a)).max() <= 1e-3
    # As a is in its box and nearly feasible, it is a certificate: at most h / 2.
    loss, gap = certify(program, b, a, reach=0.0)
    assert 0 < gap <= bandwidth / 2
    assert np.count_nonzero(np.abs(error) <= bandwidth) < 5 * 5
    exact = solve_in_memory(program, b, 1e-10, 100)
    optimum = certify(program, exact.b, exact.a, reach=0.0).loss
    assert optimum <= loss <= optimum + bandwidth


# -------------------------------------------------------------- preprocessing


def test_the_rows_of_a_side_are_worth_one_row():
    program = orthonormal_program(2)
    b = np.random.default_rng(0).normal(size=5)
    error = residuals(program, b)
    sides = [np.flatnonzero(error > 0.5), np.flatnonzero(error < -0.5)]
    middle = np.flatnonzero(np.abs(error) <= 0.5)
    reduced = quantile_preprocessing._reduce(program, middle, sides)
    assert reduced.y.size == middle.size + 2
    whole, part = (
        float(p.cost @ pinball(residuals(p, b), p.tau)) for p in (program, reduced)
    )
    assert part == pytest.approx(whole, rel=1e-12)
    # Multipliers of the reduced program are multipliers of the whole one.
    a = np.random.default_rng(1).normal(size=reduced.y.size)
    spread = quantile_preprocessing._spread(program, a, middle, sides)
    assert correlate(program, spread) == pytest.approx(correlate(reduced, a))


def misled(amount):
    """A smoothing that ends far from the solution, and is sure of it."""

    def smoothing(program, b, bandwidth, rows_per_column):
        b, bandwidth = smooth(program, b, bandwidth, rows_per_column)
        return b + amount, bandwidth

    return smoothing


@pytest.mark.parametrize("amount", [0.02, 0.3, 3.0, 100.0])
def test_a_wrong_middle_is_repaired_or_given_up(monkeypatch, amount):
    X, y, _ = problem("heavy tails", 3, n=4000)
    monkeypatch.setattr(quantile_preprocessing, "smooth", misled(amount))
    fits = fit_linear_quantiles(X, y, [0.1, 0.5], solver="preprocessing")
    exact = fit_linear_quantiles(X, y, [0.1, 0.5], solver="frisch_newton")
    assert fits.loss == pytest.approx(exact.loss, rel=1e-8)
    assert np.all(fits.relative_gap <= 1e-8)


def test_the_last_resort_is_all_rows(monkeypatch):
    X, y, _ = problem("heavy tails", 3, n=4000)
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return solve_in_memory(*arguments)

    monkeypatch.setattr(linear_quantile, "solve_in_memory", counted)
    fit_linear_quantiles(X, y, [0.1], solver="preprocessing")
    monkeypatch.setattr(quantile_preprocessing, "smooth", misled(0.04))
    fits = fit_linear_quantiles(X, y, [0.1], solver="preprocessing")
    check_optimal(fits, X, y, 0.1, None, 0.0, True)
    assert calls == []  # the wrong middle was repaired
    monkeypatch.setattr(quantile_preprocessing, "_MAX_ROUNDS", 1)
    fits = fit_linear_quantiles(X, y, [0.1], solver="preprocessing")
    assert len(calls) == 1
    check_optimal(fits, X, y, 0.1, None, 0.0, True)


def test_many_rows_are_preprocessed_by_default(monkeypatch):
    calls = []
    monkeypatch.setattr(
        linear_quantile, "solve_in_memory", lambda *_: calls.append(1) or 1 / 0
    )
    X, y, _ = problem("plain", 0, n=5000)
    fit_linear_quantiles(X, y, [0.5])
    with pytest.raises(ZeroDivisionError):
        fit_linear_quantiles(X[:500], y[:500], [0.5])


def test_the_input_is_not_changed():
    X, y, weight = problem("weights", 0, n=3000)
    before = [array.copy() for array in (X, y, weight)]
    for array in (X, y, weight):
        array.setflags(write=False)
    for solver in linear_quantile.SOLVERS:
        fit_linear_quantiles(X, y, [0.5], weight, solver=solver, alpha=0.01)
    fit_linear_quantile(X, y, 0.5, weight)
    for array, old in zip((X, y, weight), before, strict=True):
        assert np.array_equal(array, old)


def test_dense_rows_are_taken_as_they_are():
    rows = np.random.default_rng(0).normal(size=(7, 2))
    design = DenseDesign(rows)
    assert design.in_memory() is rows
    assert np.array_equal(design.take(np.array([5, 1])), rows[[5, 1]])
    assert np.array_equal(np.concatenate([r for _, r in design.blocks()]), rows)
