"""Coordinate descent: exact sweeps, monotone losses, what it ends at."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.quantized._rounding_problems import (
    GRIDS,
    best_single_changes,
    layer,
    minmax_grid,
    optimum,
    row_losses,
)
from uqlib.quantized._coordinate_descent import (
    Descent,
    coordinate_descent_codes,
    is_relaxed,
)
from uqlib.quantized._gptq import gptq_codes

SEEDS = st.integers(0, 2**32 - 1)


def slow_sweep(problem, grid, values, free):
    """Move one entry at a time to its best legal or real value."""
    values = values.copy()
    for row, j in np.ndindex(values.shape):
        error = values[row] - problem.weight[row]
        best = values[row, j] - error @ problem.gram[:, j] / problem.gram[j, j]
        if not free:
            levels = np.arange(grid.n_levels, dtype=np.uint8)
            legal = grid.decode(
                np.tile(levels, (len(values), 1)), np.full(len(levels), j)
            )
            best = legal[row][np.argmin(np.abs(legal[row] - best))]
        values[row, j] = best
    return values


def rounding_errors(problem):
    """Return what float64 may add to the loss of each row."""
    return 1e-12 * row_losses(problem, np.zeros_like(problem.weight))


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("free", [False, True])
def test_a_sweep_moves_one_coordinate_after_the_other(name, free):
    problem = layer(1)
    grid = GRIDS[name](problem.weight)
    start = grid.nearest(problem.weight)
    descent = Descent(problem, grid, start)
    descent.sweep(free)
    expected = slow_sweep(problem, grid, start, free)
    np.testing.assert_allclose(descent.values.T, expected, rtol=0, atol=1e-12)


def test_blocks_of_columns_do_not_matter(monkeypatch):
    problem = layer(2, n_out=8, n_in=150, n_rows=400)
    grid = minmax_grid(problem.weight, 3, group_size=32)
    found = []
    for size in (1, 64, 150):
        monkeypatch.setattr("uqlib.quantized._coordinate_descent._BLOCK", size)
        found.append(coordinate_descent_codes(problem, grid, n_sweeps=6, relaxed=True))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize("name", GRIDS)
def test_relaxed_descent_keeps_the_best_legal_rows(name):
    problem = layer(3)
    grid = GRIDS[name](problem.weight)
    values, best = problem.weight, grid.nearest(problem.weight)
    for free in (False, True, False, False):
        values = slow_sweep(problem, grid, values, free)
        if not free:
            better = row_losses(problem, values) < row_losses(problem, best)
            best = np.where(better[:, None], values, best)
    codes = coordinate_descent_codes(problem, grid, n_sweeps=4, relaxed=True)
    np.testing.assert_allclose(
        row_losses(problem, grid.decode(codes)), row_losses(problem, best), rtol=1e-9
    )


def test_every_third_sweep_is_relaxed_but_the_last_ones_are_not():
    relaxed = [sweep for sweep in range(30) if is_relaxed(sweep, 30)]
    assert relaxed == [1, 4, 7, 10, 13, 16, 19, 22]
    assert not any(is_relaxed(n - 1, n) for n in range(1, 40))


@given(SEEDS, st.sampled_from(sorted(GRIDS)), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_no_row_ever_loses_by_another_sweep(seed, name, n_rows):
    problem = layer(seed, n_out=3, n_in=7, n_rows=n_rows)
    grid = GRIDS[name](problem.weight)
    for start in (grid.encode(problem.weight), gptq_codes(problem, grid)):
        before = row_losses(problem, grid.decode(start))
        for n_sweeps in range(5):
            codes = coordinate_descent_codes(
                problem, grid, start=start, n_sweeps=n_sweeps
            )
            after = row_losses(problem, grid.decode(codes))
            assert (after <= before + rounding_errors(problem)).all()
            before = after


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("relaxed", [False, True])
def test_in_the_end_no_change_of_one_code_helps(name, relaxed):
    for seed in range(3):
        problem = layer(seed)
        grid = GRIDS[name](problem.weight)
        codes = coordinate_descent_codes(problem, grid, n_sweeps=100, relaxed=relaxed)
        losses = row_losses(problem, grid.decode(codes))
        best = best_single_changes(problem, grid, codes)
        assert (losses <= best + rounding_errors(problem)).all()


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_descent_from_gptq_is_never_worse_than_gptq(bits):
    for seed in range(20):
        problem = layer(seed, n_out=16, n_in=24, n_rows=20)
        grid = minmax_grid(problem.weight, bits, group_size=10)
        start = gptq_codes(problem, grid)
        codes = coordinate_descent_codes(problem, grid, start=start, n_sweeps=5)
        before = row_losses(problem, grid.decode(start))
        after = row_losses(problem, grid.decode(codes))
        assert (after <= before + rounding_errors(problem)).all()
        assert after.sum() < before.sum()


@pytest.mark.parametrize("relaxed", [False, True])
@pytest.mark.parametrize("name", GRIDS)
def test_no_row_is_worse_than_its_start(name, relaxed):
    problem = layer(4, n_out=30)
    grid = GRIDS[name](problem.weight)
    rng = np.random.default_rng(0)
    start = rng.integers(grid.n_levels, size=(30, 9)).astype(np.uint8)
    for given_start in (start, None):
        codes = coordinate_descent_codes(
            problem, grid, start=given_start, n_sweeps=4, relaxed=relaxed
        )
        first = grid.encode(problem.weight) if given_start is None else start
        before = row_losses(problem, grid.decode(first))
        after = row_losses(problem, grid.decode(codes))
        assert (after <= before + rounding_errors(problem)).all()


def test_on_all_layers_of_four_inputs_the_optimum_is_near():
    ratios = {"gptq": [], "cd": [], "gptq+cd": []}
    for seed in range(200):
        problem = layer(seed, n_out=1, n_in=4, n_rows=20)
        grid = minmax_grid(problem.weight, 2)
        least = optimum(problem, grid)
        start = gptq_codes(problem, grid)
        found = {
            "gptq": start,
            "cd": coordinate_descent_codes(problem, grid, n_sweeps=30, relaxed=True),
            "gptq+cd": coordinate_descent_codes(problem, grid, start=start, n_sweeps=5),
        }
        for name, codes in found.items():
            ratio = problem.loss(grid.decode(codes)) / least
            assert ratio >= 1 - 1e-9
            ratios[name].append(ratio)
    assert np.mean(ratios["gptq+cd"]) <= 1.25
    assert np.mean(ratios["cd"]) <= 1.25
    assert np.mean(ratios["gptq+cd"]) <= np.mean(ratios["gptq"])


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("relaxed", [False, True])
def test_inputs_without_correlation_are_rounded_to_nearest(name, relaxed):
    diagonal = np.diag(np.exp(np.random.default_rng(1).normal(0, 3, size=9)))
    problem = replace(layer(0), gram=diagonal)
    grid = GRIDS[name](problem.weight)
    codes = coordinate_descent_codes(problem, grid, n_sweeps=30, relaxed=relaxed)
    np.testing.assert_array_equal(codes, grid.encode(problem.weight))


@pytest.mark.parametrize("relaxed", [False, True])
def test_codes_of_dead_inputs_stay(relaxed):
    problem = layer(5)
    dead = np.isin(np.arange(9), (0, 4, 8))
    problem = replace(problem, gram=np.where(dead | dead[:, None], 0.0, problem.gram))
    grid = minmax_grid(problem.weight, 3)
    start = np.full((6, 9), 5, dtype=np.uint8)
    codes = coordinate_descent_codes(
        problem, grid, start=start, n_sweeps=30, relaxed=relaxed
    )
    assert (codes[:, dead] == 5).all()
    assert (codes[:, ~dead] != 5).any()
    codes = coordinate_descent_codes(problem, grid, n_sweeps=30, relaxed=relaxed)
    np.testing.assert_array_equal(codes[:, dead], grid.encode(problem.weight)[:, dead])


@pytest.mark.parametrize("relaxed", [False, True])
def test_inputs_that_are_always_zero(relaxed):
    problem = replace(layer(0), gram=np.zeros((9, 9)))
    grid = minmax_grid(problem.weight, 3)
    codes = coordinate_descent_codes(problem, grid, n_sweeps=3, relaxed=relaxed)
    np.testing.assert_array_equal(codes, grid.encode(problem.weight))


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1)])
@pytest.mark.parametrize("name", GRIDS)
def test_one_output_or_one_input(shape, name):
    problem = layer(8, n_out=shape[0], n_in=shape[1])
    grid = GRIDS[name](problem.weight)
    codes = coordinate_descent_codes(problem, grid, n_sweeps=100)
    assert codes.shape == shape
    assert codes.dtype == np.uint8
    best = best_single_changes(problem, grid, codes)
    losses = row_losses(problem, grid.decode(codes))
    assert (losses <= best + rounding_errors(problem)).all()
    if shape[1] == 1:
        np.testing.assert_array_equal(codes, grid.encode(problem.weight))


def test_outputs_do_not_depend_on_one_another():
    problem = layer(2, n_out=11)
    grid = minmax_grid(problem.weight, 3)
    shuffled = np.random.default_rng(0).permutation(11)
    moved = replace(problem, weight=problem.weight[shuffled])
    moved_grid = minmax_grid(moved.weight, 3)
    for relaxed in (False, True):
        codes = coordinate_descent_codes(problem, grid, n_sweeps=30, relaxed=relaxed)
        found = coordinate_descent_codes(
            moved, moved_grid, n_sweeps=30, relaxed=relaxed
        )
        np.testing.assert_array_equal(found, codes[shuffled])


def test_legal_targets_are_found_again():
    problem = layer(2)
    grid = minmax_grid(problem.weight, 3)
    codes = grid.encode(problem.weight)
    legal = replace(problem, weight=grid.decode(codes))
    for relaxed in (False, True):
        found = coordinate_descent_codes(legal, grid, n_sweeps=9, relaxed=relaxed)
        np.testing.assert_array_equal(found, codes)


def test_no_sweep_gives_the_start_and_changes_nothing_given():
    problem = layer(2)
    grid = minmax_grid(problem.weight, 3)
    start = np.zeros((6, 9), dtype=np.uint8)
    weight, gram = problem.weight.copy(), problem.gram.copy()
    codes = coordinate_descent_codes(problem, grid, start=start, n_sweeps=0)
    np.testing.assert_array_equal(codes, start)
    codes = coordinate_descent_codes(problem, grid, start=start, n_sweeps=5)
    assert codes.any()
    assert not start.any()
    assert codes.flags.c_contiguous
    np.testing.assert_array_equal(problem.weight, weight)
    np.testing.assert_array_equal(problem.gram, gram)
