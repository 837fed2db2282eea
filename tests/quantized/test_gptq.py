"""GPTQ: the greedy order of columns, its damping and its special cases."""

from dataclasses import replace

import numpy as np
import pytest

from tests.quantized._rounding_problems import (
    GRIDS,
    correlated_rows,
    greedy_codes,
    layer,
    minmax_grid,
)
from uqlib.exceptions import UncertaintyWarning
from uqlib.quantized._gptq import gptq_codes, live_inputs
from uqlib.quantized._problem import LayerProblem, input_moments, layer_problem


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_each_column_is_rounded_from_the_optimum_of_those_to_come(
    name, act_order, seed
):
    problem = layer(seed)
    grid = GRIDS[name](problem.weight)
    order = np.arange(9)
    if act_order:
        order = np.argsort(-np.diag(problem.gram))
    np.testing.assert_array_equal(
        gptq_codes(problem, grid, act_order=act_order),
        greedy_codes(problem, grid, order),
    )


@pytest.mark.parametrize("block_size", [1, 2, 5, 9, 128])
@pytest.mark.parametrize("name", GRIDS)
def test_blocks_of_columns_change_no_code(name, block_size):
    problem = layer(3, n_out=20, n_in=23)
    grid = GRIDS[name](problem.weight)
    np.testing.assert_array_equal(
        gptq_codes(problem, grid, block_size=block_size),
        gptq_codes(problem, grid, block_size=23),
    )


@pytest.mark.parametrize("name", GRIDS)
def test_inputs_without_correlation_are_rounded_to_nearest(name):
    problem = layer(0)
    diagonal = np.diag(np.exp(np.random.default_rng(1).normal(0, 3, size=9)))
    problem = replace(problem, gram=diagonal)
    grid = GRIDS[name](problem.weight)
    nearest = grid.encode(problem.weight)
    np.testing.assert_array_equal(gptq_codes(problem, grid), nearest)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_loss_is_below_rounding_to_nearest_on_correlated_inputs(bits):
    for seed in range(20):
        problem = layer(seed, n_out=16, n_in=32, n_rows=128)
        grid = minmax_grid(problem.weight, bits)
        nearest = problem.loss(grid.nearest(problem.weight))
        for act_order in (True, False):
            codes = gptq_codes(problem, grid, act_order=act_order)
            assert problem.loss(grid.decode(codes)) <= nearest


def test_outputs_do_not_depend_on_one_another():
    problem = layer(2, n_out=11)
    grid = minmax_grid(problem.weight, 3, group_size=4)
    codes = gptq_codes(problem, grid)
    shuffled = np.random.default_rng(0).permutation(11)
    moved = replace(problem, weight=problem.weight[shuffled])
    moved_grid = minmax_grid(moved.weight, 3, group_size=4)
    np.testing.assert_array_equal(gptq_codes(moved, moved_grid), codes[shuffled])


def test_units_of_the_inputs_do_not_matter():
    problem = layer(2)
    grid = minmax_grid(problem.weight, 3)
    codes = gptq_codes(problem, grid)
    for unit in (2.0**-600, 2.0**600):
        scaled = replace(problem, gram=problem.gram * unit)
        np.testing.assert_array_equal(gptq_codes(scaled, grid), codes)


def test_whole_weights_of_rows_are_repetitions():
    rng = np.random.default_rng(4)
    rows, counts = rng.normal(size=(30, 8)), rng.integers(0, 4, size=30)
    weight = rng.normal(size=(5, 8))
    repeated = np.repeat(rows, counts, axis=0)
    grid = minmax_grid(weight, 2)
    found = [
        gptq_codes(layer_problem(weight, input_moments([part], 8), "fp"), grid)
        for part in ((rows, rows, counts), (repeated, repeated, None))
    ]
    np.testing.assert_array_equal(found[0], found[1])


def test_dead_inputs_are_rounded_to_nearest_and_move_nothing():
    problem = layer(5, n_in=12)
    dead = np.zeros(12, dtype=bool)
    dead[[0, 4, 5, 11]] = True
    gram = np.where(dead | dead[:, None], 0.0, problem.gram)
    grid = minmax_grid(problem.weight, 2)
    codes = gptq_codes(replace(problem, gram=gram), grid)
    np.testing.assert_array_equal(codes[:, dead], grid.encode(problem.weight)[:, dead])
    live = LayerProblem(
        problem.weight[:, ~dead], problem.gram[np.ix_(~dead, ~dead)], 40
    )
    rest = replace(grid, n_in=8, group_size=8)
    np.testing.assert_array_equal(codes[:, ~dead], gptq_codes(live, rest))


def test_an_input_that_is_lost_in_rounding_errors_is_dead():
    problem = layer(5)
    assert live_inputs(problem.gram).all()
    tiny = np.where(np.arange(9) == 3, 1e-20, 1.0)
    gram = problem.gram * tiny * tiny[:, None]
    np.testing.assert_array_equal(live_inputs(gram), np.arange(9) != 3)
    grid = minmax_grid(problem.weight, 2)
    codes = gptq_codes(replace(problem, gram=gram), grid)
    np.testing.assert_array_equal(codes[:, 3], grid.encode(problem.weight)[:, 3])


@pytest.mark.parametrize("n_rows", [1, 2, 8, 29])
def test_fewer_rows_than_inputs_are_legal(n_rows):
    rng = np.random.default_rng(n_rows)
    rows = correlated_rows(rng, n_rows, 30)
    problem = LayerProblem(rng.normal(size=(7, 30)), rows.T @ rows / n_rows, n_rows)
    grid = minmax_grid(problem.weight, 3)
    order = np.argsort(-np.diag(problem.gram), kind="stable")
    codes = gptq_codes(problem, grid)
    np.testing.assert_array_equal(codes, greedy_codes(problem, grid, order))


@pytest.mark.parametrize(("least", "damping"), [(-0.05, 0.1), (-0.5, 1.0)])
def test_damping_grows_until_there_is_a_factor(least, damping):
    gram = np.eye(9) * (9 - least) / 8 - np.ones((9, 9)) * (1 - least) / 8
    assert np.linalg.eigvalsh(gram)[0] == pytest.approx(least * gram[0, 0])
    problem = replace(layer(6), gram=gram)
    grid = minmax_grid(problem.weight, 3)
    with pytest.warns(UncertaintyWarning, match=f"damped by {damping}"):
        codes = gptq_codes(problem, grid)
    expected = greedy_codes(problem, grid, np.arange(9), damping)
    np.testing.assert_array_equal(codes, expected)


def test_a_matrix_without_factor_falls_back_to_nearest():
    problem = layer(6)
    broken = np.ones((9, 9)) * 50 - 49.5 * np.eye(9)
    broken[0, 1] = broken[1, 0] = -50.0
    grid = minmax_grid(problem.weight, 3)
    with pytest.warns(UncertaintyWarning, match="rounded to nearest"):
        codes = gptq_codes(replace(problem, gram=broken), grid)
    np.testing.assert_array_equal(codes, grid.encode(problem.weight))


def test_inputs_that_are_always_zero():
    problem = replace(layer(0), gram=np.zeros((9, 9)))
    grid = minmax_grid(problem.weight, 3)
    nearest = grid.encode(problem.weight)
    np.testing.assert_array_equal(gptq_codes(problem, grid), nearest)


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1)])
@pytest.mark.parametrize("name", GRIDS)
def test_one_output_or_one_input(shape, name):
    problem = layer(8, n_out=shape[0], n_in=shape[1])
    grid = GRIDS[name](problem.weight)
    order = np.argsort(-np.diag(problem.gram))
    codes = gptq_codes(problem, grid)
    assert codes.shape == shape
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(codes, greedy_codes(problem, grid, order))


def test_all_weights_zero():
    problem = replace(layer(0), weight=np.zeros((6, 9)))
    grid = minmax_grid(problem.weight, 2)
    assert not grid.decode(gptq_codes(problem, grid)).any()


def test_arrays_that_are_not_contiguous_and_are_never_changed():
    problem = layer(9, n_out=12, n_in=18)
    grid = minmax_grid(problem.weight[::2, ::2], 3)
    strided = LayerProblem(problem.weight[::2, ::2], problem.gram[::2, ::2], 40)
    copied = LayerProblem(strided.weight.copy(), strided.gram.copy(), 40)
    found = gptq_codes(strided, grid)
    np.testing.assert_array_equal(found, gptq_codes(copied, grid))
    np.testing.assert_array_equal(strided.weight, copied.weight)
    np.testing.assert_array_equal(strided.gram, copied.gram)
    assert found.flags.c_contiguous
