"""Simplex weights against linear programming, certificates, and special cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.sparse import block_array, csr_array, diags_array

from uqlib._core import simplex_program
from uqlib._core.aggregation import aggregate, fit_weights
from uqlib._core.simplex_program import fit_simplex_weights
from uqlib.exceptions import UncertaintyWarning

# Problems that pull the weights in different ways.
KINDS = ["noise", "shifted", "discrete", "collinear", "levels", "weighted", "few_rows"]
kinds = pytest.mark.parametrize("kind", KINDS)


def pinball(error, tau):
    return np.maximum(tau * error, (tau - 1) * error)


def weighted_loss(weights, Z, y, tau, cost):
    return float(cost @ pinball(y - Z @ weights, tau) / cost.sum())


def lp_optimum(Z, y, tau, cost):
    """The same program, written out for HiGHS."""
    n, p = Z.shape
    cost = cost / cost.sum()
    tau = np.broadcast_to(tau, n)
    identity = diags_array(np.ones(n))
    equalities = block_array(
        [[csr_array(Z), identity, -identity], [csr_array(np.ones((1, p))), None, None]],
        format="csr",
    )
    solution = linprog(
        np.concatenate([np.zeros(p), cost * tau, cost * (1 - tau)]),
        A_eq=equalities,
        b_eq=np.append(y, 1.0),
        bounds=(0, None),
        method="highs",
        options={
            "primal_feasibility_tolerance": 1e-10,
            "dual_feasibility_tolerance": 1e-10,
        },
    )
    assert solution.success
    # The solver's point, made exactly feasible, and judged by the loss itself.
    weights = np.maximum(solution.x[:p], 0)
    return weighted_loss(weights / weights.sum(), Z, y, tau, cost)


def problem(kind, seed, n=150, p=5):
    """Return models Z (n, p), target y (n,), level, and row weights (n,)."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    if kind == "few_rows":
        n, p = int(rng.integers(1, 4)), 6
    truth = rng.normal(size=n)
    Z = truth[:, None] + rng.uniform(0.1, 2.0, p) * rng.normal(size=(n, p))
    y = truth + 0.5 * rng.standard_t(3, n)
    tau, cost = rng.uniform(0.05, 0.95), np.ones(n)
    if kind == "shifted":
        Z = Z + 3 * rng.normal(size=p)
    if kind == "discrete":
        Z, y = np.round(Z), np.round(y)
    if kind == "collinear":
        Z[:, 1] = 0.3 * Z[:, 0] + 0.7 * Z[:, 2]
        Z[:, 3] = Z[:, 4]
    if kind == "levels":
        tau = rng.choice([0.05, 0.3, 0.5, 0.9], n)
    if kind == "weighted":
        cost = rng.exponential(size=n) ** 3 * (rng.random(n) < 0.8)
        cost[0] = 1.0
    return Z, y, tau, cost


def three_levels(seed=0, n=200, p=3):
    """Return base quantiles (n, p, 3), target and levels."""
    rng = np.random.default_rng(seed)
    quantiles = np.array([0.1, 0.5, 0.9])
    location = rng.normal(size=(n, 1, 1)) + 0.6 * rng.normal(size=(n, p, 1))
    width = rng.uniform(0.3, 3.0, size=(1, p, 3))
    base = location + width * np.array([-1.0, 0.0, 1.0])
    return base, location[:, 0, 0] + rng.normal(size=n), quantiles


# --------------------------------------------------------------- the optimum


# Problems on whose last steps the multipliers can leave their box by rounding.
HARD = [
    ("noise", 386),
    ("noise", 475),
    ("shifted", 210),
    ("shifted", 373),
    ("collinear", 301),
    ("levels", 241),
    ("levels", 420),
    ("weighted", 292),
]


@pytest.mark.parametrize(
    ("kind", "seed"), [(kind, seed) for kind in KINDS for seed in range(12)] + HARD
)
def test_loss_is_that_of_the_linear_program(kind, seed):
    Z, y, tau, cost = problem(kind, seed)
    fit = fit_simplex_weights(Z, y, tau, cost)
    optimum = lp_optimum(Z, y, tau, cost)
    # A nearly perfect fit has no loss to be relative to: take that of the average.
    average = weighted_loss(np.full(Z.shape[1], 1 / Z.shape[1]), Z, y, tau, cost)
    scale = max(optimum, 0.1 * average)
    assert abs(fit.loss - optimum) <= 1e-9 * scale
    # The certificate bounds the excess over any feasible point, and it is tight.
    assert fit.loss - optimum <= fit.gap + 1e-11 * scale
    assert -1e-12 * scale <= fit.gap <= 1e-8 * scale


@pytest.mark.filterwarnings("ignore::uqlib.exceptions.UncertaintyWarning")
@pytest.mark.parametrize("seed", range(30))
def test_models_that_are_off_by_orders_of_magnitude(seed):
    rng = np.random.default_rng(seed)
    Z, y, tau, cost = problem("noise", seed)
    Z = np.column_stack([Z[:, :2], np.exp(8 * rng.normal(size=(y.size, 2)))])
    fit = fit_simplex_weights(Z, y, tau, cost)
    best = min(weighted_loss(w, Z, y, tau, cost) for w in np.eye(4))
    assert fit.loss <= best * (1 + 1e-12)
    # The certificate is the oracle: older linear programming solvers give up here.
    assert fit.gap <= 1e-5 * best


def test_weights_that_are_not_certified_come_with_a_warning(monkeypatch):
    Z, y, tau, cost = problem("noise", 0)
    uniform = np.full(Z.shape[1], 1 / Z.shape[1])
    monkeypatch.setattr(simplex_program, "_interior_point", lambda *_: (uniform, 0.0))
    with pytest.warns(UncertaintyWarning, match="optimal only up to"):
        fit = fit_simplex_weights(Z, y, tau, cost)
    assert fit.gap == fit.loss
    best = min(weighted_loss(w, Z, y, tau, cost) for w in np.eye(Z.shape[1]))
    assert fit.loss <= best * (1 + 1e-12)


@kinds
@pytest.mark.parametrize("seed", range(12))
def test_weights_are_on_the_simplex_and_have_the_loss(kind, seed):
    Z, y, tau, cost = problem(kind, seed)
    fit = fit_simplex_weights(Z, y, tau, cost)
    assert fit.weights.shape == (Z.shape[1],)
    assert np.all(fit.weights >= 0)
    assert abs(fit.weights.sum() - 1) <= 1e-12
    loss = weighted_loss(fit.weights, Z, y, tau, cost)
    assert fit.loss == pytest.approx(loss, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("p", [2, 20, 60])
def test_many_models(p):
    Z, y, tau, cost = problem("shifted", seed=p, n=400, p=p)
    fit = fit_simplex_weights(Z, y, tau, cost)
    assert fit.loss == pytest.approx(lp_optimum(Z, y, tau, cost), rel=1e-9)


@pytest.mark.parametrize("tau", [0.001, 0.5, 0.999])
def test_two_models_against_a_fine_grid(tau):
    rng = np.random.default_rng(0)
    Z, y = rng.normal(size=(80, 2)), rng.normal(size=80)
    fit = fit_simplex_weights(Z, y, tau, np.ones(80))
    grid = np.linspace(0, 1, 2001)
    error = y[:, None] - np.outer(Z[:, 0], grid) - np.outer(Z[:, 1], 1 - grid)
    assert fit.loss <= pinball(error, tau).mean(axis=0).min() + 1e-12


@given(seed=st.integers(0, 10**6), p=st.integers(2, 6), n=st.integers(1, 40))
def test_no_other_weights_are_better(seed, p, n):
    rng = np.random.default_rng(seed)
    Z, y = rng.normal(size=(n, p)), rng.normal(size=n)
    tau, cost = rng.uniform(0.02, 0.98, n), rng.exponential(size=n)
    fit = fit_simplex_weights(Z, y, tau, cost)
    others = [*np.eye(p), np.full(p, 1 / p), *rng.dirichlet(np.full(p, 0.3), 50)]
    best = min(weighted_loss(w, Z, y, tau, cost) for w in others)
    assert fit.loss <= best + 1e-10


# ------------------------------------------------------------------ symmetries


@kinds
def test_the_order_of_the_models_does_not_matter(kind):
    Z, y, tau, cost = problem(kind, seed=100)
    order = np.random.default_rng(0).permutation(Z.shape[1])
    fit, permuted = (
        fit_simplex_weights(columns, y, tau, cost) for columns in (Z, Z[:, order])
    )
    assert permuted.loss == pytest.approx(fit.loss, rel=1e-9, abs=1e-12)
    if kind not in ("collinear", "few_rows", "discrete"):  # elsewhere it is unique
        assert permuted.weights == pytest.approx(fit.weights[order], abs=1e-6)


@kinds
@pytest.mark.parametrize(("factor", "shift"), [(1.0, 5.0), (250.0, -3.0), (1e-3, 0.0)])
def test_units_do_not_matter(kind, factor, shift):
    Z, y, tau, cost = problem(kind, seed=101)
    fit = fit_simplex_weights(Z, y, tau, cost)
    moved = fit_simplex_weights(factor * Z + shift, factor * y + shift, tau, cost)
    assert moved.loss == pytest.approx(factor * fit.loss, rel=1e-9, abs=1e-12 * factor)
    if kind not in ("collinear", "few_rows", "discrete"):
        assert moved.weights == pytest.approx(fit.weights, abs=1e-6)


def test_a_different_shift_of_each_row_does_not_matter():
    Z, y, tau, cost = problem("noise", seed=0)
    shift = np.random.default_rng(0).normal(scale=10, size=y.size)
    fit = fit_simplex_weights(Z, y, tau, cost)
    moved = fit_simplex_weights(Z + shift[:, None], y + shift, tau, cost)
    assert moved.weights == pytest.approx(fit.weights, abs=1e-6)


def test_mirrored_targets_have_mirrored_levels():
    Z, y, tau, cost = problem("noise", seed=3)
    fit = fit_simplex_weights(Z, y, tau, cost)
    mirrored = fit_simplex_weights(-Z, -y, 1 - tau, cost)
    assert mirrored.loss == pytest.approx(fit.loss, rel=1e-9)
    assert mirrored.weights == pytest.approx(fit.weights, abs=1e-6)


def test_a_large_offset_costs_no_accuracy():
    Z, y, tau, cost = problem("noise", seed=4)
    fit = fit_simplex_weights(Z, y, tau, cost)
    moved = fit_simplex_weights(Z + 1e6, y + 1e6, tau, cost)
    # The offset alone rounds the data at 1e-10.
    assert moved.loss == pytest.approx(fit.loss, abs=1e-9)
    assert moved.weights == pytest.approx(fit.weights, abs=1e-6)


# ---------------------------------------------------------------- row weights


def test_rows_without_weight_are_not_there():
    Z, y, tau, cost = problem("weighted", seed=5)
    kept = cost > 0
    assert not kept.all()
    with_zeros = fit_simplex_weights(Z, y, tau, cost)
    without = fit_simplex_weights(Z[kept], y[kept], tau, cost[kept])
    assert np.array_equal(with_zeros.weights, without.weights)
    assert with_zeros.loss == without.loss


@kinds
def test_integer_weights_are_repeated_rows(kind):
    Z, y, tau, _ = problem(kind, seed=102)
    counts = np.random.default_rng(0).integers(0, 4, y.size)
    counts[0] = 1
    rows = np.repeat(np.arange(y.size), counts)
    levels = np.broadcast_to(tau, y.size)
    weighted = fit_simplex_weights(Z, y, tau, counts.astype(float))
    repeated = fit_simplex_weights(Z[rows], y[rows], levels[rows], np.ones(rows.size))
    assert weighted.loss == pytest.approx(repeated.loss, rel=1e-9, abs=1e-12)


def test_the_scale_of_the_row_weights_does_not_matter():
    Z, y, tau, cost = problem("weighted", seed=6)
    fit = fit_simplex_weights(Z, y, tau, cost)
    scaled = fit_simplex_weights(Z, y, tau, 1e4 * cost)
    assert scaled.loss == pytest.approx(fit.loss, rel=1e-9)
    assert scaled.weights == pytest.approx(fit.weights, abs=1e-6)


# --------------------------------------------------------------- special cases


def test_one_model_gets_all_the_weight():
    Z, y, tau, cost = problem("noise", seed=7)
    fit = fit_simplex_weights(Z[:, :1], y, tau, cost)
    assert fit.weights.tolist() == [1.0]
    assert fit.gap == 0.0
    assert fit.loss == pytest.approx(weighted_loss([1.0], Z[:, :1], y, tau, cost))


@kinds
def test_a_duplicated_model_changes_no_prediction(kind):
    Z, y, tau, cost = problem(kind, seed=103)
    fit = fit_simplex_weights(Z, y, tau, cost)
    twice = fit_simplex_weights(np.column_stack([Z, Z[:, 0]]), y, tau, cost)
    assert twice.loss == pytest.approx(fit.loss, rel=1e-8, abs=1e-8)
    if kind not in ("collinear", "few_rows", "discrete"):
        before = Z @ fit.weights
        after = np.column_stack([Z, Z[:, 0]]) @ twice.weights
        assert after == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.9])
def test_the_exact_model_is_found_among_noise(tau):
    rng = np.random.default_rng(0)
    n = 5000
    location = rng.normal(size=n)
    y = location + rng.normal(size=n)
    exact = location + {0.1: -1.2815515655, 0.5: 0.0, 0.9: 1.2815515655}[tau]
    noise = exact[:, None] + rng.normal(size=(n, 4)) * [1.0, 1.5, 2.0, 4.0]
    fit = fit_simplex_weights(np.column_stack([noise, exact]), y, tau, np.ones(n))
    assert fit.weights[-1] > 0.95


def test_a_perfect_model_gets_all_the_weight():
    rng = np.random.default_rng(0)
    y = rng.normal(size=100)
    Z = np.column_stack([y + rng.normal(size=100), y, y + 1.0])
    fit = fit_simplex_weights(Z, y, 0.3, np.ones(100))
    assert fit.weights == pytest.approx([0.0, 1.0, 0.0], abs=1e-9)
    assert fit.loss <= 1e-10


def test_models_that_are_all_perfect():
    y = np.random.default_rng(0).normal(size=50)
    fit = fit_simplex_weights(np.column_stack([y, y, y]), y, 0.3, np.ones(50))
    assert np.all(fit.weights >= 0)
    assert fit.weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert fit.loss == pytest.approx(0.0, abs=1e-15)
    assert fit.gap == pytest.approx(0.0, abs=1e-15)


def test_models_that_are_all_the_same():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(2, 60))
    fit = fit_simplex_weights(np.column_stack([z, z, z, z]), y, 0.2, np.ones(60))
    assert np.all(fit.weights >= 0)
    assert fit.weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert fit.loss == pytest.approx(pinball(y - z, 0.2).mean(), rel=1e-9)


def test_constant_models_around_a_constant_target():
    Z = np.tile([0.0, 1.0, 4.0], (30, 1))
    fit = fit_simplex_weights(Z, np.full(30, 2.0), 0.7, np.ones(30))
    assert fit.loss <= 1e-9
    assert Z[0] @ fit.weights == pytest.approx(2.0, abs=1e-8)


@pytest.mark.parametrize("y", [-5.0, 1.5, 9.0])
def test_one_row(y):
    Z = np.array([[1.0, 2.0, 3.0]])
    fit = fit_simplex_weights(Z, np.array([y]), 0.25, np.ones(1))
    nearest = np.clip(y, 1.0, 3.0)
    assert fit.loss == pytest.approx(float(pinball(y - nearest, 0.25)), abs=1e-9)
    assert (Z @ fit.weights)[0] == pytest.approx(nearest, abs=1e-8)


def test_the_input_is_not_changed():
    Z, y, _, cost = problem("weighted", seed=8)
    tau = np.full(y.size, 0.4)
    arrays = (Z, y, tau, cost)
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.setflags(write=False)
    fit_simplex_weights(*arrays)
    for array, old in zip(arrays, before, strict=True):
        assert np.array_equal(array, old)


# ----------------------------------------------------------------- fit_weights


def mean_loss(base, weights, y, quantiles, row_weight=None):
    error = y[:, None] - aggregate(base, weights)
    losses = pinball(error, quantiles).mean(axis=1)
    return float(np.average(losses, weights=row_weight))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_finer_weights_fit_better(seed, weighted):
    base, y, quantiles = three_levels(seed)
    row_weight = (
        np.random.default_rng(seed).exponential(size=y.size) if weighted else None
    )
    loss = {
        name: mean_loss(
            base,
            fit_weights(base, y, quantiles, name, row_weight),
            y,
            quantiles,
            row_weight,
        )
        for name in ("average", "coarse", "medium")
    }
    best = min(mean_loss(base, w, y, quantiles, row_weight) for w in np.eye(3))
    assert loss["coarse"] <= min(best, loss["average"]) + 1e-8
    assert loss["medium"] <= loss["coarse"] + 1e-8


def test_coarse_is_the_optimum_of_its_linear_program():
    base, y, quantiles = three_levels(11)
    weights = fit_weights(base, y, quantiles, "coarse")
    rows = np.concatenate([base[:, :, k] for k in range(3)])
    tau = np.repeat(quantiles, y.size)
    optimum = lp_optimum(rows, np.tile(y, 3), tau, np.ones(tau.size))
    assert mean_loss(base, weights, y, quantiles) == pytest.approx(optimum, rel=1e-9)


def test_medium_is_the_optimum_of_one_linear_program_a_level():
    base, y, quantiles = three_levels(12)
    weights = fit_weights(base, y, quantiles, "medium")
    for k, tau in enumerate(quantiles):
        Z, cost = base[:, :, k], np.ones(y.size)
        loss = weighted_loss(weights[:, k], Z, y, tau, cost)
        assert loss == pytest.approx(lp_optimum(Z, y, tau, cost), rel=1e-9)


def test_coarse_and_medium_agree_on_one_level():
    base, y, quantiles = three_levels(13)
    coarse = fit_weights(base[:, :, :1], y, quantiles[:1], "coarse")
    medium = fit_weights(base[:, :, :1], y, quantiles[:1], "medium")
    assert medium[:, 0] == pytest.approx(coarse, abs=1e-9)


@pytest.mark.parametrize("resolution", ["average", "median", "coarse", "medium"])
def test_shapes_of_the_weights(resolution):
    base, y, quantiles = three_levels()
    weights = fit_weights(base, y, quantiles, resolution)
    if resolution == "median":
        assert weights is None
        return
    assert weights.shape == ((3, 3) if resolution == "medium" else (3,))
    assert np.all(weights >= 0)
    assert weights.sum(axis=0) == pytest.approx(np.ones(weights.shape[1:]), abs=1e-12)


@pytest.mark.parametrize("resolution", ["average", "median", "coarse", "medium"])
def test_one_model_alone_is_returned_exactly(resolution):
    base, y, quantiles = three_levels(p=1)
    weights = fit_weights(base, y, quantiles, resolution)
    assert np.array_equal(aggregate(base, weights), base[:, 0])


# ------------------------------------------------------------------- aggregate


def test_aggregate_by_hand():
    base = np.array([[[0.0, 10.0], [2.0, 20.0], [7.0, 30.0]]])
    weights = np.array([0.5, 0.25, 0.25])
    assert np.array_equal(aggregate(base, weights), [[2.25, 17.5]])
    by_level = np.array([[1.0, 0.0], [0.0, 0.5], [0.0, 0.5]])
    assert np.array_equal(aggregate(base, by_level), [[0.0, 25.0]])
    assert np.array_equal(aggregate(base, None), [[2.0, 20.0]])


def test_aggregate_lies_between_the_models():
    base, y, quantiles = three_levels(3)
    for weights in (None, fit_weights(base, y, quantiles, "medium")):
        result = aggregate(base, weights)
        assert np.all(result >= base.min(axis=1) - 1e-12)
        assert np.all(result <= base.max(axis=1) + 1e-12)


@pytest.mark.parametrize("infinity", [-np.inf, np.inf])
def test_a_model_without_weight_may_be_infinite(infinity):
    base = np.array([[[infinity, 1.0], [2.0, 3.0]]])
    assert np.array_equal(aggregate(base, np.array([0.0, 1.0])), [[2.0, 3.0]])
    by_level = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert np.array_equal(aggregate(base, by_level), [[2.0, 1.0]])
    assert np.array_equal(aggregate(base, np.array([0.5, 0.5])), [[infinity, 2.0]])
    # The median over three models ignores one that is infinite.
    three = np.concatenate([base, [[[5.0, 5.0]]]], axis=1)
    expected = np.median([infinity, 2.0, 5.0])
    assert np.array_equal(aggregate(three, None), [[expected, 3.0]])
