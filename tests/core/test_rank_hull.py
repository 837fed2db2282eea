"""Programs over ranks: laws, extremes, the concave hull, the core, integer grids."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import linprog

from tests.core._rank_oracle import multisets, weighted
from uqlib._core.batch_statistics import linear, resolve_statistic
from uqlib._core.rank_events import CERTAIN, linear_event, order_probability
from uqlib._core.rank_grid import integer_grid, normal_shape, rank_grid
from uqlib._core.rank_hull import core_bound, hull_bound
from uqlib._core.rank_law import grid_law
from uqlib._core.rank_programs import (
    largest_weighted_sum,
    largest_windowed_sum,
    weighted_law,
)

INF = math.inf


def points(seed, size, largest=60):
    """Strictly increasing levels from 0; non-decreasing values, some of them tied."""
    rng = np.random.default_rng(seed)
    levels = np.cumsum(rng.integers(1, 6, size=size)) - 1
    levels -= levels[0]
    values = np.sort(rng.integers(-largest, largest, size=size) / 4)
    return levels, values


def best_by_hand(levels, values, m, budget):
    """The largest sum of m values, by all multisets."""
    sets = np.array(multisets(len(levels) - 1, m)) - 1
    allowed = levels[sets].sum(axis=1) <= budget
    return values[sets].sum(axis=1)[allowed].max()


# -------------------------------------------------------------------------- laws


@pytest.mark.parametrize("weights", [(1, 1), (0, 1, 1), (1, 0, 2), (0, 3, 0, 1, 0)])
@pytest.mark.parametrize("n_allowed", [2, 5, 6])
def test_law_counts_multisets(weights, n_allowed):
    n, m = 5, len(weights)
    phi = np.append([0, 1, 1, 4, 4, 7][:n_allowed], [INF] * (6 - n_allowed))
    counts = Counter(
        sum(w * phi[v - 1] for w, v in zip(weights, r, strict=True) if w)
        for r in multisets(n, m)
    )
    total = len(multisets(n, m))
    a = linear(weights)
    levels = phi[:n_allowed].astype(int)
    law = weighted_law(levels, n, weights, a.first, a.last)
    wanted = [counts[s] / total for s in range(law.size)]
    np.testing.assert_allclose(law, wanted, atol=1e-15)
    assert law.size == sum(weights) * levels[-1] + 1


@pytest.mark.parametrize(("n", "m"), [(3, 60), (200, 30), (2000, 8)])
def test_law_of_equal_weights_is_the_grid_law(n, m):
    levels = np.arange(n + 1) // (n // 3)
    law = weighted_law(levels, n, (1,) * m, 1, m)
    np.testing.assert_allclose(law, grid_law(levels, m), atol=1e-13)


@pytest.mark.parametrize(("n", "m", "k"), [(50, 9, 1), (3000, 100, 90), (7, 200, 200)])
def test_probability_of_one_rank_is_beta_binomial(n, m, k):
    law = stats.betabinom(n, k, m + 1 - k)
    for j in (1, n // 2, n):
        assert order_probability(n, m, k, j) == pytest.approx(law.cdf(j - 1), rel=1e-9)
    assert order_probability(n, m, k, n + 1) == 1.0


def test_smallest_event_at_ties_in_the_level():
    # P(h <= q) = p exactly is enough: few multisets, and n / (n + m) = p with many.
    for n, m, level in [(4, 2, Fraction(12, 15)), (171, 9, Fraction(19, 20))]:
        phi = np.array([0, 0, 1, 3, 6]) if n == 4 else np.append(np.arange(n), INF)
        event = linear_event(rank_grid(phi, n, True), linear((1,) * m), level)
        assert event.probability == pytest.approx(float(level), abs=1e-12)
        more = level + Fraction(1, 10**9)
        above = linear_event(rank_grid(phi, n, True), linear((1,) * m), more)
        assert (above == CERTAIN) == (n == 171)
        assert above.probability > event.probability


# --------------------------------------------------------------------- programs


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4), st.integers(0, 40))
def test_weighted_program_equals_enumeration(seed, size, p, budget):
    levels, values = points(seed, size)
    a = np.random.default_rng(seed).integers(1, 4, size=p)
    sets = np.array(multisets(size - 1, p)) - 1
    allowed = (levels[sets] * a).sum(axis=1) <= budget
    wanted = (values[sets] * a).sum(axis=1)[allowed].max()
    assert largest_weighted_sum(levels, values, a, budget) == wanted


@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 5), st.integers(0, 80))
def test_windowed_program_equals_enumeration(seed, size, m, budget):
    levels, values = points(seed, size)
    # A slack as large as the budget leaves nothing out.
    found = largest_windowed_sum(levels, values, m, budget, budget)
    assert found == best_by_hand(levels, values, m, budget)


@given(
    st.integers(0, 10**6), st.integers(2, 7), st.integers(1, 5), st.integers(0, 80),
    st.integers(0, 10),
)  # fmt: skip
def test_window_holds_every_sum_with_little_slack(seed, size, m, budget, slack):
    levels, values = points(seed, size)
    sets = np.array(multisets(size - 1, m)) - 1
    used = levels[sets].sum(axis=1)
    near = (used <= budget) & (used >= budget - slack)
    found = largest_windowed_sum(levels, values, m, budget, slack)
    if near.any():
        assert found >= values[sets].sum(axis=1)[near].max()
    assert found <= best_by_hand(levels, values, m, budget)


def test_programs_that_would_not_fit_are_refused():
    levels = np.array([0, 2**27])
    with pytest.raises(ValueError, match="too many"):
        largest_weighted_sum(levels, levels * 1.0, np.ones(2, dtype=int), 2**28)
    with pytest.raises(ValueError, match="too many"):
        weighted_law(levels, 1, (1, 1), 1, 2)


# ----------------------------------------------------------------- hull and core


@given(
    st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 9), st.integers(0, 300)
)
def test_hull_is_the_linear_relaxation(seed, size, m, budget):
    levels, values = points(seed, size)
    hull = hull_bound(levels, values, m, budget)
    relaxed = linprog(
        -values, A_ub=[levels], b_ub=[budget], A_eq=[np.ones(size)], b_eq=[m]
    )
    assert hull.bound == pytest.approx(-relaxed.fun, abs=1e-9)


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 12), st.floats(0, 1.1))
def test_core_equals_the_full_program_and_hull_certifies_it(seed, size, m, share):
    levels, values = points(seed, size)
    budget = int(share * m * levels[-1])
    full = largest_weighted_sum(levels, values, np.ones(m, dtype=int), budget)
    hull = hull_bound(levels, values, m, budget)
    assert core_bound(levels, values, m, budget) == pytest.approx(full, abs=1e-9)
    assert hull.feasible <= full + 1e-9
    assert full <= hull.bound + 1e-9
    # The certificate is at most one step of the hull.
    assert hull.gap <= values[hull.right] - values[hull.left] + 1e-9


@pytest.mark.parametrize("law", ["normal", "t", "exponential", "constant", "two"])
def test_core_equals_the_full_program_at_size(law):
    rng = np.random.default_rng(0)
    n, m = 400, 12
    values = np.sort(
        {
            "normal": rng.normal(size=n),
            "t": rng.standard_t(2, size=n),
            "exponential": -rng.exponential(size=n),
            "constant": np.zeros(n),
            "two": rng.integers(0, 2, size=n).astype(float),
        }[law]
    )
    for shape in ("rank", "normal"):
        grid = rank_grid(shape, n, True)
        for level in (Fraction(3, 5), Fraction(19, 20)):
            event = linear_event(grid, linear((1,) * m), level)
            x = values[grid.last]
            args = (grid.steps, x)
            full = largest_weighted_sum(*args, np.ones(m, dtype=int), event.position)
            core = core_bound(*args, m, event.position)
            hull = hull_bound(*args, m, event.position)
            assert core == pytest.approx(full, rel=1e-12, abs=1e-12)
            assert core - 1e-9 <= hull.bound <= core + hull.gap + 1e-9


# ------------------------------------------------------------------------- grids


def test_grid_keeps_the_last_gap_of_each_level():
    grid = rank_grid([3, 3, 5, 5, INF], 4, True)
    assert (grid.levels.tolist(), grid.offset) == ([0, 0, 2, 2], 3)
    assert (grid.steps.tolist(), grid.last.tolist()) == ([0, 2], [1, 3])


def test_named_grids_forbid_the_last_gap_of_an_open_end_alone():
    for name in ("rank", "normal"):
        assert rank_grid(name, 9, True).levels.size == 9
        assert rank_grid(name, 9, False).levels.size == 10
    assert rank_grid("rank", 3, False).levels.tolist() == [0, 1, 2, 3]
    levels = rank_grid("normal", 99, False).levels
    wanted = stats.norm.ppf((np.arange(100) + 0.5) / 100)
    scaled = 250 + 250 * wanted / wanted[-1]
    assert np.abs(levels - scaled).max() <= 0.5 + 1e-9


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=30), st.floats(0, 5))
def test_integer_grid_is_a_phi(shape, kappa):
    for open_end in (False, True):
        if open_end and len(shape) == 2:
            continue
        phi = integer_grid(np.sort(shape) / 3, 40, kappa=kappa, open_end=open_end)
        finite = phi[np.isfinite(phi)]
        assert phi.size == len(shape)
        assert math.isinf(phi[-1]) == open_end
        assert np.all(np.diff(finite) >= 0)
        assert np.all(finite == np.rint(finite))
        assert finite[0] == 0
        assert finite[-1] in (0, 40)
        rank_grid(phi, phi.size - 1, open_end)


def test_penalty_makes_the_tails_dearer():
    shape, slope = normal_shape(200)
    plain = integer_grid(shape, 1000)
    heavy = integer_grid(shape, 1000, kappa=3.0, slope=slope)
    p = (np.arange(201) + 0.5) / 201
    wanted = shape + 3 * np.sqrt(p * (1 - p) / 200) / stats.norm.pdf(shape)
    rising = np.maximum.accumulate(wanted)
    np.testing.assert_allclose(
        heavy, np.rint(1000 * (rising - rising[0]) / np.ptp(rising))
    )
    assert np.diff(heavy)[-1] > np.diff(plain)[-1]
    # Differences of the shape serve where its slope is not known.
    np.testing.assert_array_equal(
        integer_grid(p, 1000, kappa=2.0),
        integer_grid(p, 1000, kappa=2.0, slope=np.ones(201)),
    )


def test_weights_of_statistics():
    wanted = {
        "mean": [1, 1, 1, 1, 1], "median": [0, 0, 1, 0, 0], "max": [0, 0, 0, 0, 1],
        ("trimmed", 0.2, 0.4): [0, 1, 1, 0, 0], ("quantile", 0.4): [0, 1, 0, 0, 0],
    }  # fmt: skip
    scores = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    for statistic, weights in wanted.items():
        found = resolve_statistic(statistic, 5).weights
        assert list(found) == weights
        assert weighted(found, scores) == scores @ weights / sum(weights)
    assert resolve_statistic("median", 4).weights == (0, 1, 1, 0)
    assert resolve_statistic([0.05, 0.1, 0.85], 3).weights == (1, 2, 17)
    assert resolve_statistic([2, 4, 0], 3).weights == (1, 2, 0)
