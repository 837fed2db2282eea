"""Weights coupled between levels, against linear programming written out."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import block_diag, csr_array, eye_array, hstack, vstack

from uqlib._core.aggregation import aggregate, fit_weights, source_levels
from uqlib._core.monotone import crossing_rate
from uqlib._core.weight_program import CONSTRAINTS, fit_coupled_weights
from uqlib.exceptions import UncertaintyWarning

constraints = pytest.mark.parametrize("constraint", CONSTRAINTS)


def problem(seed):
    """Models that cross, a target of any scale and place, unequal row weights."""
    rng = np.random.default_rng(seed)
    n, m, p = rng.integers(3, 40), rng.integers(2, 5), rng.integers(1, 4)
    scale, shift = 10.0 ** rng.integers(-2, 3), rng.choice([0.0, 100.0])
    y = shift + scale * rng.normal(size=n)
    Z = y[:, None, None] + 0.3 * np.abs(y).mean() * rng.normal(size=(n, p, m))
    levels = np.sort(rng.uniform(0.05, 0.95, m))
    penalty = 10 ** rng.uniform(-2, 1.5)
    return Z, y, levels, rng.uniform(size=n), penalty, rng


def lp_optimum(Z, y, levels, cost, penalty, pairs, margins, constraint, shared):
    """Variables: weights, positive and negative residuals, amounts of crossing."""
    n, p, m = Z.shape
    cost = cost / cost.sum()
    n_rows, n_hinges = n * m, n * len(pairs)
    blocks = [csr_array(Z[:, :, k]) for k in range(m)]
    design = csr_array(vstack(blocks) if shared else block_diag(blocks))
    n_weights = design.shape[1]
    rows = [design[k * n : (k + 1) * n] for k in range(m)]
    objective = np.concatenate(
        [
            np.zeros(n_weights),
            np.repeat(levels, n) * np.tile(cost, m) / m,
            np.repeat(1 - levels, n) * np.tile(cost, m) / m,
            penalty * np.tile(cost, len(pairs)) / max(len(pairs), 1),
        ]
    )
    nothing = csr_array((n_rows, n_hinges))
    equal = hstack([design, eye_array(n_rows), -eye_array(n_rows), nothing])
    right = np.tile(y, m)
    if constraint != "free":
        ones = np.ones((1, p))
        sums = csr_array(ones) if shared else block_diag([csr_array(ones)] * m)
        rest = csr_array((sums.shape[0], 2 * n_rows + n_hinges))
        equal = vstack([equal, hstack([sums, rest])])
        right = np.append(right, np.ones(sums.shape[0]))
    above, bound = None, None
    if pairs:
        crossing = vstack([rows[a] - rows[b] for a, b in pairs])
        middle = csr_array((n_hinges, 2 * n_rows))
        above = hstack([crossing, middle, -eye_array(n_hinges)]).tocsr()
        bound = -np.repeat(margins, n)
    signed = (0 if constraint == "simplex" else None, None)
    others = [(0, None)] * (2 * n_rows + n_hinges)
    solution = linprog(
        objective, above, bound, equal.tocsr(), right, [signed] * n_weights + others
    )
    assert solution.success
    return solution.fun


@pytest.mark.parametrize("all_pairs", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@constraints
def test_equals_linear_programming(constraint, shared, all_pairs):
    for seed in range(12):
        Z, y, levels, cost, penalty, rng = problem(seed)
        m = levels.size
        last = m if all_pairs else 2
        pairs = [(a, a + lag) for lag in range(1, last) for a in range(m - lag)]
        margins = 0.1 * np.abs(y).mean() * rng.uniform(size=len(pairs))
        fit = fit_coupled_weights(
            [Z[:, :, k] for k in range(m)],
            y,
            levels,
            cost,
            penalty=penalty,
            pairs=pairs,
            margins=margins,
            constraint=constraint,
            shared=shared,
        )
        optimum = lp_optimum(
            Z, y, levels, cost, penalty, pairs, margins, constraint, shared
        )
        scale = max(optimum, 1e-4 * np.abs(y).mean())
        assert abs(fit.loss - optimum) <= 1e-8 * scale
        assert fit.gap <= 1e-8 * scale


@constraints
def test_weights_obey_their_constraint(constraint):
    Z, y, levels, cost, _, _ = problem(3)
    pairs = [(k, k + 1) for k in range(levels.size - 1)]
    fit = fit_coupled_weights(
        [Z[:, :, k] for k in range(levels.size)], y, levels, cost,
        penalty=1.0, pairs=pairs, margins=np.zeros(len(pairs)), constraint=constraint,
    )  # fmt: skip
    for weights in fit.weights:
        if constraint != "free":
            assert weights.sum() == pytest.approx(1, abs=1e-12)
        if constraint == "simplex":
            assert (weights >= 0).all()


def test_looser_constraints_never_cost_anything():
    Z, y, levels, cost, penalty, _ = problem(5)
    pairs = [(k, k + 1) for k in range(levels.size - 1)]
    losses = [
        fit_coupled_weights(
            [Z[:, :, k] for k in range(levels.size)], y, levels, cost,
            penalty=penalty, pairs=pairs, margins=np.zeros(len(pairs)), constraint=name,
        ).loss
        for name in CONSTRAINTS
    ]  # fmt: skip
    assert losses[1] <= losses[0] + 1e-9 * losses[0]
    assert losses[2] <= losses[1] + 1e-9 * losses[0]


def test_without_pairs_it_equals_the_simplex_program():
    Z, y, levels, cost, _, _ = problem(8)
    coupled = fit_coupled_weights(
        [Z[:, :, k] for k in range(levels.size)], y, levels, cost,
        penalty=0.0, pairs=[], margins=np.zeros(0),
    )  # fmt: skip
    medium = fit_weights(Z, y, levels, "medium", cost)
    error = y[:, None] - aggregate(Z, medium)
    loss = np.average(
        np.maximum(levels * error, (levels - 1) * error).mean(axis=1), weights=cost
    )
    assert loss == pytest.approx(coupled.loss, rel=1e-9)


def test_a_row_without_weight_has_no_say():
    Z, y, levels, cost, penalty, _ = problem(11)
    cost[0] = 0.0
    margins = (np.zeros(levels.size), 0.0)
    options = {"crossing_penalty": penalty, "margins": margins}
    with_row = fit_weights(Z, y, levels, "medium", cost, **options)
    without = fit_weights(Z[1:], y[1:], levels, "medium", cost[1:], **options)
    np.testing.assert_allclose(with_row, without, atol=1e-12)


def crossing_models(seed=0, n=300):
    """One model that never crosses, and better ones that do."""
    rng = np.random.default_rng(seed)
    levels = np.linspace(0.1, 0.9, 9)
    y = rng.normal(size=n)
    steady = np.tile(np.linspace(-1.3, 1.3, 9), (n, 1))
    wild = [0.9 * y[:, None] + rng.normal(size=(n, 9)) * 0.5 for _ in range(3)]
    return np.stack([steady, *wild], axis=1), y, levels


@pytest.mark.parametrize("resolution", ["coarse", "medium", "fine"])
def test_an_infinite_penalty_is_a_constraint(resolution):
    Z, y, levels = crossing_models()
    loose = aggregate(Z, fit_weights(Z, y, levels, resolution))
    strict = aggregate(
        Z, fit_weights(Z, y, levels, resolution, crossing_penalty=np.inf)
    )
    assert crossing_rate(loose) > 0.1
    assert (np.diff(strict, axis=1) >= -1e-9).all()


def test_an_impossible_constraint_is_told():
    Z, y, levels = crossing_models()
    with pytest.warns(UncertaintyWarning, match="crossing_penalty=inf"):
        fit_weights(Z[:, 1:], y, levels, "coarse", crossing_penalty=np.inf)


def test_a_greater_penalty_crosses_less():
    Z, y, levels = crossing_models()

    def crossing(penalty):
        weights = fit_weights(Z, y, levels, "medium", crossing_penalty=penalty)
        return np.maximum(-np.diff(aggregate(Z, weights), axis=1), 0).mean()

    amounts = [crossing(penalty) for penalty in (0.0, 0.1, 1.0, 10.0)]
    assert all(b <= a + 1e-9 for a, b in pairwise(amounts))
    assert amounts[-1] < amounts[0] / 2


def test_fine_within_a_band_uses_no_other_level():
    Z, y, levels = crossing_models()
    sources = source_levels(9, 2)
    weights = fit_weights(Z, y, levels, "fine", bandwidth=2)
    for k in range(9):
        outside = np.setdiff1d(np.arange(9), sources[:, k])
        assert sources.shape == (5, 9)
        assert k in sources[:, k]
        assert (weights[:, outside, k] == 0).all()
        assert weights[:, :, k].sum() == pytest.approx(1, abs=1e-12)


def test_finer_weights_never_cost_anything():
    Z, y, levels = crossing_models()

    def loss(resolution, **options):
        q = aggregate(Z, fit_weights(Z, y, levels, resolution, **options))
        error = y[:, None] - q
        return np.maximum(levels * error, (levels - 1) * error).mean()

    steps = [
        loss("coarse"),
        loss("medium"),
        loss("fine", bandwidth=1),
        loss("fine", bandwidth=3),
        loss("fine"),
    ]
    assert all(b <= a + 1e-9 for a, b in pairwise(steps))
    assert loss("fine", bandwidth=0) == pytest.approx(loss("medium"), rel=1e-9)


def test_infinite_quantiles_have_a_say_only_with_a_weight():
    Z = np.zeros((3, 2, 2))
    Z[0, 1, 1], Z[1, 0, 0] = np.inf, -np.inf
    Z[2, 0, 0], Z[2, 1, 1] = np.inf, -np.inf
    weights = np.zeros((2, 2, 2))
    weights[0, 0, 0] = 1.0  # level 0: from model 0 alone
    weights[:, :, 1] = 0.25
    result = aggregate(Z, weights)
    np.testing.assert_array_equal(
        result, [[0.0, np.inf], [-np.inf, -np.inf], [np.inf, np.nan]]
    )
