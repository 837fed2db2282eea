"""Weights beside the grid: which they are, what they hold, what they save."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.quantized._rounding_problems import (
    GRIDS,
    codebook_grid,
    layer,
    minmax_grid,
    row_losses,
)
from uqlib.quantized._coordinate_descent import Descent
from uqlib.quantized._outliers import (
    _descend,
    _largest_eigenvalue,
    _rethreshold,
    dense,
    descend_with_outliers,
    deviations,
    largest,
    outliers_at,
    without_outliers,
)

SEEDS = st.integers(0, 2**32 - 1)


def beside(problem, share):
    """Return places of outliers and a grid for the other weights."""
    places = largest(np.abs(problem.weight), share)
    return places, minmax_grid(np.where(places, 0.0, problem.weight), 3)


def legal_start(problem, grid, places):
    return np.where(places, problem.weight, grid.nearest(problem.weight))


def assert_legal_but_at(places, values, grid):
    near = grid.nearest(values)
    np.testing.assert_allclose(values[~places], near[~places], rtol=0, atol=1e-12)


@given(SEEDS, st.floats(0, 1))
def test_the_largest_numbers_are_those_that_no_other_exceeds(seed, share):
    size = np.random.default_rng(seed).integers(0, 5, size=(4, 7)).astype(float)
    chosen = largest(size, share)
    count = int(share * 28 + 0.5)
    assert chosen.sum() == count
    in_order = sorted(range(28), key=lambda place: (-size.flat[place], place))
    np.testing.assert_array_equal(np.flatnonzero(chosen), sorted(in_order[:count]))


def test_deviations_are_those_of_each_row():
    weight = np.array([[1.0, -1.0, 3.0, -3.0], [2.0, 2.0, 2.0, 2.0]])
    expected = np.array([[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    expected[0] /= np.sqrt(5.0)
    np.testing.assert_allclose(deviations(weight), expected)
    units = np.array([[1e-3], [1e5]])
    np.testing.assert_allclose(deviations(weight * units), expected)


def test_terms_are_stored_in_half_precision_where_they_fit():
    places = np.array([[True, False], [True, True]])
    found = outliers_at(places, np.array([[0.1, 9.0], [0.0, -4.0]]))
    np.testing.assert_array_equal(found.positions, [0, 3])
    assert found.positions.dtype == np.int32
    assert found.values.dtype == np.float16
    np.testing.assert_array_equal(found.values, np.float16([0.1, -4.0]))
    np.testing.assert_array_equal(
        dense(found, (2, 2)), [[np.float16(0.1), 0.0], [0.0, -4.0]]
    )
    tiny = outliers_at(places, np.full((2, 2), 1e-20))
    assert tiny.values.dtype == np.float32
    assert outliers_at(places, np.zeros((2, 2))) is None
    assert outliers_at(~np.ones((2, 2), dtype=bool), np.ones((2, 2))) is None
    np.testing.assert_array_equal(dense(None, (2, 3)), np.zeros((2, 3)))


def test_the_problem_beside_outliers_has_the_same_loss():
    problem = layer(0)
    places, grid = beside(problem, 0.1)
    outliers = outliers_at(places, problem.weight)
    rest = without_outliers(problem, outliers)
    values = grid.nearest(rest.weight)
    total = values + dense(outliers, values.shape)
    assert rest.loss(values) == pytest.approx(problem.loss(total))
    assert without_outliers(problem, None).loss(values) == problem.loss(values)


@given(SEEDS, st.sampled_from(["int1", "int2", "uneven"]), st.floats(0.01, 0.4))
@settings(max_examples=50, deadline=None)
def test_no_step_increases_the_loss(seed, name, share):
    problem = layer(seed, n_out=4, n_in=8, n_rows=12)
    grid = GRIDS[name](problem.weight)
    places = largest(np.abs(problem.weight), share)
    base = grid.nearest(np.zeros_like(problem.weight))
    descent = Descent(problem, grid, legal_start(problem, grid, places))
    slack = 1e-12 * problem.loss(np.zeros_like(problem.weight))
    before, count = problem.loss(descent.values.T), places.sum()
    top = np.linalg.norm(problem.gram, 2)
    for _ in range(4):
        places = _rethreshold(descent, base, places, top)
        assert places.sum() == count
        assert_legal_but_at(places, descent.values.T, grid)
        after = problem.loss(descent.values.T)
        assert after <= before + slack
        descent.sweep(np.ascontiguousarray(places.T))
        assert_legal_but_at(places, descent.values.T, grid)
        before = problem.loss(descent.values.T)
        assert before <= after + slack


def test_a_step_of_thresholding_by_its_formula():
    problem = layer(1)
    places, grid = beside(problem, 0.2)
    base = grid.nearest(np.zeros_like(problem.weight))
    start = legal_start(problem, grid, places)
    descent = Descent(problem, grid, start)
    top = _largest_eigenvalue(problem.gram)
    assert top == pytest.approx(np.linalg.norm(problem.gram, 2))
    coded = np.where(places, base, start)
    wanted = start - coded - (start - problem.weight) @ problem.gram / top
    kept = np.argsort(-np.abs(wanted), axis=None)[: places.sum()]
    expected = coded.copy()
    expected.flat[kept] += wanted.flat[kept]
    chosen = _rethreshold(descent, base, places, top)
    np.testing.assert_array_equal(np.flatnonzero(chosen), np.sort(kept))
    np.testing.assert_allclose(descent.values.T, expected, rtol=0, atol=1e-12)


def test_more_sweeps_are_never_worse():
    problem = layer(2, n_out=12, n_in=20, heavy=True)
    places, grid = beside(problem, 0.05)
    base = grid.nearest(np.zeros_like(problem.weight))
    start = legal_start(problem, grid, places)
    losses = [
        problem.loss(_descend(problem, grid, base, places, start, n_sweeps)[0])
        for n_sweeps in range(6)
    ]
    assert losses[0] == problem.loss(start)
    assert (np.diff(losses) <= 0).all()
    assert losses[-1] < 0.5 * losses[0]


def test_free_values_alone_reach_the_target():
    problem = layer(3, n_rows=200)
    grid = minmax_grid(problem.weight, 1)
    descent = Descent(problem, grid, grid.nearest(problem.weight))
    for _ in range(400):
        descent.sweep(np.ones((9, 6), dtype=bool))
    np.testing.assert_allclose(descent.values.T, problem.weight, atol=1e-3)


@pytest.mark.parametrize("relaxed", [False, True])
def test_legal_weights_with_a_few_outliers_are_found_again(relaxed):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 8, size=(6, 9)).astype(np.uint8)
    codes[:, 0], codes[:, 1] = 0, 7
    grid = minmax_grid((codes - 3.0) / 8, 3)
    places = np.zeros((6, 9), dtype=bool)
    places[[0, 3, 5], [2, 4, 8]] = True
    weight = grid.decode(codes) + np.where(places, 20.0, 0.0)
    problem = replace(layer(0), weight=weight)
    start = None if relaxed else weight
    found, outliers = descend_with_outliers(
        problem, grid, places, start=start, n_sweeps=30
    )
    total = grid.decode(found) + dense(outliers, weight.shape)
    np.testing.assert_array_equal(np.flatnonzero(places), outliers.positions)
    np.testing.assert_allclose(total, weight, rtol=2**-11, atol=1e-9)


@pytest.mark.parametrize("relaxed", [False, True])
def test_outliers_save_more_than_the_grid_alone_can(relaxed):
    for seed in range(5):
        problem = layer(seed, n_out=16, n_in=24, n_rows=100, heavy=True)
        places, grid = beside(problem, 0.03)
        start = None if relaxed else legal_start(problem, grid, places)
        codes, outliers = descend_with_outliers(
            problem, grid, places, start=start, n_sweeps=30 if relaxed else 5
        )
        assert outliers.positions.size <= places.sum()
        assert codes.flags.c_contiguous
        total = grid.decode(codes) + dense(outliers, codes.shape)
        assert problem.loss(total) < problem.loss(legal_start(problem, grid, places))
        whole = minmax_grid(problem.weight, 3)
        assert problem.loss(total) < problem.loss(whole.nearest(problem.weight))


@pytest.mark.parametrize("relaxed", [False, True])
def test_codes_are_at_their_best_beside_the_stored_outliers(relaxed):
    problem = layer(4)
    places, grid = beside(problem, 0.1)
    start = None if relaxed else legal_start(problem, grid, places)
    codes, outliers = descend_with_outliers(
        problem, grid, places, start=start, n_sweeps=30
    )
    rest = without_outliers(problem, outliers)
    losses = row_losses(rest, grid.decode(codes))
    for j in range(9):
        for level in range(grid.n_levels):
            changed = codes.copy()
            changed[:, j] = level
            assert (row_losses(rest, grid.decode(changed)) >= losses - 1e-13).all()


@pytest.mark.parametrize("relaxed", [False, True])
def test_weights_of_dead_inputs_stay_near(relaxed):
    problem = layer(5)
    dead = np.isin(np.arange(9), (1, 6))
    gram = np.where(dead | dead[:, None], 0.0, problem.gram)
    problem = replace(problem, gram=gram)
    places, grid = beside(problem, 0.2)
    start = None if relaxed else legal_start(problem, grid, places)
    codes, outliers = descend_with_outliers(
        problem, grid, places, start=start, n_sweeps=30
    )
    total = grid.decode(codes) + dense(outliers, codes.shape)
    expected = legal_start(problem, grid, places)
    assert places[:, dead].any()
    np.testing.assert_allclose(
        total[:, dead], expected[:, dead], rtol=2**-10, atol=1e-3
    )


@pytest.mark.parametrize("relaxed", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (4, 5)])
def test_inputs_that_are_always_zero_and_tiny_layers(relaxed, shape):
    problem = layer(6, n_out=shape[0], n_in=shape[1])
    for gram in (problem.gram, np.zeros_like(problem.gram)):
        case = replace(problem, gram=gram)
        for share in (0.0, 0.2, 0.5):
            places, grid = beside(case, share)
            start = None if relaxed else legal_start(case, grid, places)
            codes, outliers = descend_with_outliers(
                case, grid, places, start=start, n_sweeps=6
            )
            assert codes.shape == shape
            n_found = 0 if outliers is None else outliers.positions.size
            assert n_found <= places.sum()


def test_a_grid_without_zero_keeps_outliers_right():
    problem = layer(7, heavy=True)
    grid = codebook_grid(problem.weight * 0.1, [-1, 1])
    places = largest(np.abs(problem.weight), 0.1)
    start = legal_start(problem, grid, places)
    codes, outliers = descend_with_outliers(
        problem, grid, places, start=start, n_sweeps=5
    )
    total = grid.decode(codes) + dense(outliers, codes.shape)
    assert problem.loss(total) < problem.loss(start)
