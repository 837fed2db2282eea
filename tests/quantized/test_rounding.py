"""The door to rounding: what each name does, on every format, and how well."""

import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from tests.quantized._rounding_problems import layer, row_losses
from uqlib.quantized._coordinate_descent import coordinate_descent_codes
from uqlib.quantized._formats import fit_grid
from uqlib.quantized._gptq import gptq_codes
from uqlib.quantized._layers import QuantizedLayer
from uqlib.quantized._learned_interpolation import better_rows
from uqlib.quantized._outliers import deviations, largest
from uqlib.quantized._problem import LayerProblem
from uqlib.quantized._rounding import damped, fitted_grid, round_layer
from uqlib.quantized._scheme import QuantizationScheme

WITHOUT_LEARNING = ("rtn", "gptq", "cd", "gptq+cd")
FORMATS = (
    *("int1", "int2", "int3", "int4", "int8", "ternary", "nf4", "fp4", "fp8"),
    *("power4", "bfp4", "codebook2"),
)


def scheme_of(weights="int3", **parts):
    if weights.startswith("bfp"):
        parts = {"granularity": "group", "group_size": 4} | parts
    return QuantizationScheme(weights=weights, **parts)


def rounded(problem, **parts):
    return round_layer(problem, problem.weight, scheme_of(**parts), None)


def nearest_with_minmax(problem, weights="int3"):
    return problem.loss(
        rounded(problem, weights=weights, clip="minmax", rounding="rtn").weight()
    )


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("outliers", [0.0, 0.1, 0.5])
def test_every_rounding_of_every_format_gives_legal_weights(weights, outliers):
    problem = layer(0, n_out=5, n_in=10)
    losses = {}
    for rounding in WITHOUT_LEARNING:
        found = rounded(problem, weights=weights, rounding=rounding, outliers=outliers)
        assert found.codes.shape == (5, 10)
        assert found.codes.dtype == np.uint8
        assert found.codes.flags.c_contiguous
        assert found.codes.max() < found.grid.n_levels
        n_outliers = 0 if found.outliers is None else found.outliers.positions.size
        assert n_outliers <= int(outliers * 50 + 0.5)
        stored_layer = QuantizedLayer(
            "layer", found.codes, found.grid, outliers=found.outliers
        )
        np.testing.assert_array_equal(found.weight(), stored_layer.transformed_weight())
        losses[rounding] = problem.loss(found.weight())
    assert losses["cd"] <= losses["rtn"]
    if not outliers:
        assert losses["gptq+cd"] <= losses["gptq"] * (1 + 1e-12)


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_names_stand_for_their_functions(granularity):
    problem = layer(1)
    parts = {"granularity": granularity, "group_size": 4}
    grid = fit_grid(problem.weight, scheme_of(**parts))
    start, nearest = gptq_codes(problem, grid), grid.encode(problem.weight)
    varied = damped(problem)
    descended = coordinate_descent_codes(varied, grid, n_sweeps=30, relaxed=True)
    improved = coordinate_descent_codes(varied, grid, start=start, n_sweeps=5)
    expected = {
        "rtn": nearest,
        "gptq": start,
        "cd": better_rows(problem, grid, descended, nearest),
        "gptq+cd": better_rows(problem, grid, improved, start),
    }
    for rounding, codes in expected.items():
        found = rounded(problem, rounding=rounding, **parts)
        np.testing.assert_array_equal(found.codes, codes)
        np.testing.assert_array_equal(found.grid.scale, grid.scale)
        assert found.outliers is None


@pytest.mark.parametrize("rounding", ["gptq", "cd", "gptq+cd"])
@pytest.mark.parametrize("outliers", [0.0, 0.1])
def test_an_input_that_is_small_in_calibration_keeps_its_weight(rounding, outliers):
    # A constant that is small costs little wherever its weight goes, and the mean of
    # the outputs can be repaired by it: undamped, descent moves it by three steps of
    # the grid and more. A new row may hold a large value there.
    rng = np.random.default_rng(0)
    X = rng.normal(0.5, 1.0, size=(200, 9))
    X[:, 8] = 0.05
    weight = rng.normal(size=(30, 9))
    problem = LayerProblem(weight, X.T @ X / 200, 200)
    found = rounded(problem, rounding=rounding, outliers=outliers)
    steps = (found.weight() - weight)[:, [8]] / found.grid.scale.astype(float)
    assert np.sqrt(np.mean(steps**2)) < 1.6
    ridge = 0.01 * np.mean(np.diag(problem.gram))
    np.testing.assert_array_equal(
        damped(problem).gram, problem.gram + ridge * np.eye(9)
    )


def test_all_roundings_agree_where_inputs_do_not_correlate():
    problem = replace(layer(2), gram=np.diag(np.arange(1.0, 10.0)))
    for weights in ("int1", "int2", "int4", "ternary", "nf4"):
        first, *others = (
            rounded(problem, weights=weights, rounding=rounding).codes
            for rounding in WITHOUT_LEARNING
        )
        for codes in others:
            np.testing.assert_array_equal(codes, first)


@pytest.mark.parametrize("rounding", WITHOUT_LEARNING)
@pytest.mark.parametrize("outliers", [0.0, 0.1])
def test_outputs_in_another_order_give_the_same_codes(rounding, outliers):
    problem = layer(3, n_out=10)
    order = np.random.default_rng(0).permutation(10)
    moved = replace(problem, weight=problem.weight[order])
    parts = {"rounding": rounding, "outliers": outliers}
    found, other = rounded(problem, **parts), rounded(moved, **parts)
    np.testing.assert_allclose(other.weight(), found.weight()[order], atol=1e-12)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_descent_after_gptq_is_never_worse(bits):
    for seed in range(10):
        problem = layer(seed, n_out=12, n_in=20, n_rows=15)
        found = [
            row_losses(
                problem,
                rounded(problem, weights=f"int{bits}", rounding=rounding).weight(),
            )
            for rounding in ("gptq", "gptq+cd")
        ]
        slack = 1e-12 * row_losses(problem, np.zeros((12, 20)))
        assert (found[1] <= found[0] + slack).all()


def test_nearest_takes_the_weights_and_the_others_the_target():
    problem = layer(4)
    weight = problem.weight + 0.1
    grid = fit_grid(weight, scheme_of())
    nearest = round_layer(problem, weight, scheme_of(rounding="rtn"), None)
    np.testing.assert_array_equal(nearest.codes, grid.encode(weight))
    greedy = round_layer(problem, weight, scheme_of(rounding="gptq"), None)
    np.testing.assert_array_equal(greedy.codes, gptq_codes(problem, greedy.grid))


@pytest.mark.parametrize(("growth", "refitted"), [(1.1, False), (1.3, True)])
def test_the_grid_follows_a_target_that_outgrows_the_weights(growth, refitted):
    weight = layer(5).weight
    problem = replace(layer(5), weight=weight * growth)
    source = problem.weight if refitted else weight
    expected = fit_grid(source, scheme_of())
    found = fitted_grid(problem, weight, scheme_of())
    np.testing.assert_array_equal(found.scale, expected.scale)
    np.testing.assert_array_equal(found.zero_point, expected.zero_point)


def test_only_weights_on_the_grid_count_for_its_range():
    weight = layer(5).weight
    target = weight.copy()
    target[2, 3] = 100.0
    included = target != 100.0
    problem = replace(layer(5), weight=target)
    found = fitted_grid(problem, weight, scheme_of(), included)
    expected = fit_grid(weight, scheme_of(), included)
    np.testing.assert_array_equal(found.scale, expected.scale)
    assert fitted_grid(problem, weight, scheme_of()).scale[2, 0] > expected.scale[2, 0]


@pytest.mark.parametrize("rounding", ["rtn", "gptq"])
def test_data_free_outliers_are_the_largest_of_their_rows(rounding):
    problem = layer(6, n_out=8, n_in=25, heavy=True)
    found = rounded(problem, rounding=rounding, outliers=0.04)
    places = largest(deviations(problem.weight), 0.04)
    np.testing.assert_array_equal(found.outliers.positions, np.flatnonzero(places))
    grid = fit_grid(problem.weight, scheme_of(), included=~places)
    np.testing.assert_array_equal(found.grid.scale, grid.scale)
    if rounding == "rtn":
        beyond = found.weight()[places]
        np.testing.assert_allclose(beyond, problem.weight[places], rtol=2**-10)
        np.testing.assert_array_equal(
            found.codes[~places], grid.encode(problem.weight)[~places]
        )


@pytest.mark.parametrize("rounding", WITHOUT_LEARNING)
def test_outliers_help_where_tails_are_heavy(rounding):
    for seed in range(3):
        problem = layer(seed, n_out=32, n_in=32, n_rows=200, heavy=True)
        plain = problem.loss(rounded(problem, rounding=rounding).weight())
        found = rounded(problem, rounding=rounding, outliers=0.02)
        assert problem.loss(found.weight()) < plain


def test_a_share_of_less_than_one_weight_gives_none():
    found = rounded(layer(6), outliers=0.005)
    assert found.outliers is None
    np.testing.assert_array_equal(found.codes, rounded(layer(6)).codes)


def test_learned_rounding_gets_problem_grid_and_randomness(monkeypatch):
    calls = []

    def learned_codes(problem, grid, method, random_state):
        calls.append((method, random_state))
        return grid.encode(problem.weight), replace(grid, scale=grid.scale * 2)

    module = ModuleType("uqlib.quantized._learned_rounding")
    module.learned_codes = learned_codes
    monkeypatch.setitem(sys.modules, module.__name__, module)
    problem, state = layer(7), np.random.RandomState(0)
    for method in ("adaround", "flexround", "discquant"):
        for outliers in (0.0, 0.1):
            scheme = scheme_of(rounding=method, outliers=outliers)
            found = round_layer(problem, problem.weight, scheme, state)
            assert calls.pop() == (method, state)
            plain = rounded(problem, rounding="rtn", outliers=outliers)
            np.testing.assert_array_equal(found.codes, plain.codes)
            np.testing.assert_array_equal(found.grid.scale, plain.grid.scale * 2)
            if outliers:
                np.testing.assert_array_equal(
                    found.outliers.positions, plain.outliers.positions
                )


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_inputs_that_are_not_finite_are_an_error(broken):
    problem = layer(0)
    gram = problem.gram.copy()
    gram[2, 3] = broken
    with pytest.raises(ValueError, match="infinite or NaN"):
        rounded(replace(problem, gram=gram))
    weight = problem.weight.copy()
    weight[0, 0] = broken
    with pytest.raises(ValueError, match="infinite or NaN"):
        round_layer(replace(problem, weight=weight), problem.weight, scheme_of(), None)


@pytest.mark.parametrize("rounding", WITHOUT_LEARNING)
@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (8, 1)])
@pytest.mark.parametrize("outliers", [0.0, 0.25])
def test_small_layers_and_inputs_that_are_always_zero(rounding, shape, outliers):
    problem = layer(0, n_out=shape[0], n_in=shape[1])
    parts = {"rounding": rounding, "outliers": outliers}
    for gram in (problem.gram, np.zeros_like(problem.gram)):
        for weight in (problem.weight, np.zeros(shape)):
            case = LayerProblem(weight, gram, 1)
            found = rounded(case, **parts)
            assert found.codes.shape == shape
            assert np.isfinite(found.weight()).all()
            if not weight.any():
                np.testing.assert_array_equal(found.weight(), weight)


def test_nothing_given_is_changed():
    problem = layer(8)
    weight, gram = problem.weight.copy(), problem.gram.copy()
    for rounding in WITHOUT_LEARNING:
        rounded(problem, rounding=rounding, outliers=0.1)
    np.testing.assert_array_equal(problem.weight, weight)
    np.testing.assert_array_equal(problem.gram, gram)


# Loss of a layer of 128 x 128 as a part of that of rounding to nearest with min-max
# scales, from an independent prototype: normal weights, weights of a t4 law.
LAYER_LOSSES = {
    "rtn": {4: (0.90, 0.91), 3: (0.76, 0.77), 2: (0.59, 0.59)},
    "gptq": {4: (0.110, 0.108), 3: (0.095, 0.095), 2: (0.107, 0.105)},
    "cd": {4: (0.128, 0.126), 3: (0.108, 0.111), 2: (0.088, 0.101)},
    "gptq+cd": {4: (0.106, 0.105), 3: (0.091, 0.092), 2: (0.083, 0.091)},
    "cd + 1 % outliers": {4: (0.106, 0.068), 3: (0.095, 0.061), 2: (0.084, 0.062)},
}


@pytest.mark.parametrize("bits", [4, 3, 2])
@pytest.mark.parametrize("heavy", [False, True])
def test_losses_of_a_layer_are_those_of_the_methods(bits, heavy):
    ratios = {name: [] for name in LAYER_LOSSES}
    for seed in range(5):
        problem = layer(seed, n_out=128, n_in=128, n_rows=512, heavy=heavy)
        whole = nearest_with_minmax(problem, f"int{bits}")
        for name in LAYER_LOSSES:
            rounding, *outliers = name.split(" + ")
            share = 0.01 if outliers else 0.0
            found = rounded(
                problem, weights=f"int{bits}", rounding=rounding, outliers=share
            )
            ratios[name].append(problem.loss(found.weight()) / whole)
    for name, reference in LAYER_LOSSES.items():
        assert np.mean(ratios[name]) <= 1.15 * reference[bits][heavy]
