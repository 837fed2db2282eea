"""The parts of learned rounding: Adam, relaxed losses, gradients, schedules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.quantized._rounding_problems import GRIDS, layer, minmax_grid, row_losses
from tests.quantized.test_learned_rounding import ALL_GRIDS
from uqlib.quantized import _adaround, _discquant
from uqlib.quantized._adam import Adam
from uqlib.quantized._adaround import adaround_place, logits, places
from uqlib.quantized._discquant import discquant_place, search_direction
from uqlib.quantized._flexround import (
    Divisors,
    divisor_gradients,
    flexround_codes,
)
from uqlib.quantized._grid import Grid
from uqlib.quantized._learned_interpolation import Interpolation, better_rows
from uqlib.quantized._problem import LayerProblem


def slopes(function, at, step=1e-6):
    """Return central differences of a function of an array."""
    found = np.empty_like(at)
    for k in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[k] += step
        down[k] -= step
        found[k] = (function(up) - function(down)) / (2 * step)
    return found


def between(name, seed=0, shrink=0.8):
    """Return an interpolation; some targets lie beyond the grid if it is shrunk."""
    problem = layer(seed)
    grid = ALL_GRIDS[name](shrink * problem.weight)
    return problem, grid, Interpolation.of(problem, grid)


def test_adam_equals_its_recursion():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(20, 2, 3))
    values, descent = np.ones((2, 3)), Adam((2, 3))
    expected, mean, square = np.ones((2, 3)), 0.0, 0.0
    for t, gradient in enumerate(gradients, start=1):
        descent.move(values, gradient, 0.1 / t)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        root = np.sqrt(square / (1 - 0.999**t)) + 1e-12
        expected = expected - 0.1 / t * mean / (1 - 0.9**t) / root
    np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_the_first_step_of_adam_is_the_rate_and_none_without_a_gradient():
    values, descent = np.zeros(3), Adam((3,))
    descent.move(values, np.array([1e-3, -1e6, 0.0]), 0.1)
    np.testing.assert_allclose(values, [-0.1, 0.1, 0.0], rtol=1e-6)


@pytest.mark.parametrize("name", ALL_GRIDS)
def test_places_at_the_ends_have_the_losses_of_their_codes(name):
    problem, grid, middle = between(name)
    place = np.random.default_rng(0).integers(2, size=(6, 9)).astype(float)
    values = grid.decode(middle.codes(place))
    np.testing.assert_allclose(middle.losses(place), row_losses(problem, values))


@pytest.mark.parametrize("name", GRIDS)
def test_places_of_the_weights_are_the_weights_within_the_grid(name):
    problem, grid, middle = between(name, shrink=1.2)
    low, high = (grid.decode(code) for code in (middle.below, middle.above))
    values = low + middle.target * (high - low)
    np.testing.assert_allclose(values[middle.free], problem.weight[middle.free])
    np.testing.assert_array_equal(
        middle.codes(middle.target), grid.encode(problem.weight)
    )
    inside = middle.free.all(axis=1)
    assert inside.any() or name == "int1"
    assert (middle.losses(middle.target)[inside] < 1e-20).all()


def test_what_has_no_choice_keeps_its_nearest_value():
    problem, grid, middle = between("int3 in ragged groups")
    below, above = grid.neighbors(problem.weight)
    np.testing.assert_array_equal(middle.free, below != above)
    assert not middle.free.all()
    for place in (np.zeros((6, 9)), np.ones((6, 9))):
        codes = middle.codes(place)[~middle.free]
        np.testing.assert_array_equal(codes, grid.encode(problem.weight)[~middle.free])
        assert (middle.gradient(place)[~middle.free] == 0).all()


@pytest.mark.parametrize("name", ALL_GRIDS)
def test_the_gradient_is_that_of_the_relaxed_losses(name):
    _, _, middle = between(name)
    place = np.random.default_rng(1).uniform(size=(6, 9))
    expected = slopes(lambda x: middle.losses(x).sum(), place) / middle.cost
    np.testing.assert_allclose(middle.gradient(place), expected, rtol=1e-5, atol=1e-7)


def test_the_gradient_is_twice_the_way_to_the_best_place():
    _, _, middle = between("int2", shrink=1.0)
    place = np.random.default_rng(2).uniform(size=(6, 9))
    best = place - middle.gradient(place) / 2
    for row, j in np.argwhere(middle.free):
        moved = place.copy()
        moved[row, j] = best[row, j]
        slope = middle.gradient(moved)[row, j]
        assert abs(slope) < 1e-9 * (1 + np.abs(middle.gradient(place)).max())


def test_the_cost_is_the_loss_of_one_move():
    problem, _, middle = between("int2", shrink=1.0)
    for row, j in np.argwhere(middle.free):
        moved = problem.weight.copy()
        moved[row, j] += middle.gap[row, j]
        np.testing.assert_allclose(problem.loss(moved), middle.cost[row, j])


@pytest.mark.parametrize("beta", [None, 20.0, 5.0, 2.0])
def test_adaround_descends_on_losses_and_penalties(beta):
    _, _, middle = between("int3 in ragged groups")
    logit = np.random.default_rng(3).uniform(-2, 2, size=(6, 9))

    def objective(v):
        h = places(v)
        penalty = 0.0 if beta is None else 1 - np.abs(2 * h - 1) ** beta
        weighted = np.sum((middle.cost * penalty)[middle.free])
        return middle.losses(h).sum() + _adaround.PENALTY * weighted

    expected = np.where(middle.free, slopes(objective, logit) / middle.cost, 0)
    found = _adaround.objective_gradient(middle, logit, beta)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@given(st.floats(0, 1))
def test_logits_are_the_inverse_of_places(place):
    assert places(logits(np.array(place))) == pytest.approx(place, abs=1e-12)


def test_places_reach_both_ends_and_stay_there():
    _, _, middle = between("int2")
    logit = np.full((6, 9), 50.0)
    for sign, end in ((1, 1.0), (-1, 0.0)):
        assert (places(sign * logit) == end).all()
        assert (_adaround.objective_gradient(middle, sign * logit, 2.0) == 0).all()


def test_the_penalty_sets_in_late_and_its_exponent_falls():
    exponents = [_adaround.penalty_exponent(t) for t in (0.0, 0.19, 0.2, 0.6, 1.0)]
    assert exponents[:2] == [None, None]
    np.testing.assert_allclose(exponents[2:], [20, 11, 2])


def test_without_steps_adaround_is_the_weights_themselves():
    _, _, middle = between("int3 in ragged groups")
    place = adaround_place(middle, n_steps=0)
    np.testing.assert_allclose(place, middle.target, atol=1e-12)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_nearly_all_choices_are_made_before_rounding(bits):
    for seed in range(2):
        problem = layer(seed, n_out=24, n_in=32, n_rows=128)
        middle = Interpolation.of(problem, minmax_grid(problem.weight, bits))
        assert middle.settled(adaround_place(middle)) > 0.9
        place = discquant_place(middle, np.random.RandomState(seed))
        assert middle.settled(place) > 0.9
        assert place.min() >= 0
        assert place.max() <= 1


def test_settled_counts_choices_alone():
    _, _, middle = between("int2")
    place = np.where(middle.free, 0.005, 0.5)
    assert middle.settled(place) == 1
    place[tuple(np.argwhere(middle.free)[0])] = 0.02
    assert middle.settled(place) == pytest.approx(1 - 1 / middle.free.sum())
    problem = layer(0)
    grid = minmax_grid(problem.weight, 2)
    legal = LayerProblem(grid.nearest(problem.weight), problem.gram, 40)
    without = Interpolation.of(legal, grid)
    assert without.free.sum() < 3  # but for rounding errors of floats
    assert without.settled(np.where(without.free, 0.0, 0.5)) == 1


@given(st.integers(0, 2**32 - 1))
def test_the_linear_term_is_the_distance_on_corners(seed):
    rng = np.random.default_rng(seed)
    target, corners = rng.uniform(size=9), rng.integers(2, size=(2, 9))
    linear = -corners @ (2 * target - 1)
    distance = ((corners - target) ** 2).sum(axis=1)
    assert np.diff(distance)[0] == pytest.approx(np.diff(linear)[0], abs=1e-12)


def test_the_direction_of_discquant():
    _, _, middle = between("int2")
    place = np.random.default_rng(4).uniform(size=(6, 9))
    pull = np.clip(10 * middle.gradient(place), -1, 1)
    for t in (0.0, 0.3, 1.0):
        expected = (1 - t) * (1 - 2 * middle.target) + t * 6 * (1 - 2 * place) + pull
        np.testing.assert_allclose(
            search_direction(middle, place, t), np.where(middle.free, expected, 0)
        )


def test_the_rate_of_discquant_rises_and_falls():
    rates = [_discquant.rate(t) for t in np.linspace(0, 1, 801)]
    assert rates[0] == 0
    assert rates[100] == max(rates) == _discquant.RATE
    assert (np.diff(rates[:101]) > 0).all()
    assert (np.diff(rates[100:]) < 0).all()
    assert rates[-1] == pytest.approx(0)


def in_single_precision(grid):
    return Grid(
        grid.codebook,
        grid.scale.astype(np.float32),
        grid.zero_point,
        grid.group_size,
        grid.n_in,
    )


@pytest.mark.parametrize("name", ALL_GRIDS)
def test_flexround_gradients_are_those_with_rounding_as_a_constant(name):
    problem = layer(0)
    grid = in_single_precision(ALL_GRIDS[name](0.8 * problem.weight))
    rng = np.random.default_rng(5)
    start = Divisors(
        rng.normal(0, 0.1, size=(6, 9)),
        rng.normal(0, 0.1, size=(6, 1)),
        rng.normal(0, 0.1, size=grid.scale.shape),
    )
    now = start.grid(grid)
    scale, zero_point = now.parameters(None)
    v = start.divided(problem.weight)
    p0, level = v / scale + zero_point, now.codebook[now.encode(v)].astype(float)
    first, last = now.codebook[:2].astype(float), now.codebook[-2:].astype(float)
    passes = (p0 > first[0] - np.diff(first) / 2) & (p0 < last[1] + np.diff(last) / 2)
    assert not passes.all() or name in ("int1", "ternary")

    def objective(weight, row, log_scale):
        wide = Grid(
            now.codebook, now.scale * np.exp(log_scale), now.zero_point,
            now.group_size, now.n_in,
        )  # fmt: skip
        s, z = wide.parameters(None)
        p = v * np.exp(-weight - row) / s + z
        values = (level + passes * (p - p0) - z) * s
        return row_losses(problem, values).sum()

    unit = np.ones((6, 1))
    found = divisor_gradients(problem, grid, start, unit)
    zeros = [np.zeros_like(part) for part in found]
    for k, gradient in enumerate(found):

        def moved(part, k=k):
            return objective(*zeros[:k], part, *zeros[k + 1 :])

        expected = slopes(moved, zeros[k])
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ALL_GRIDS)
def test_flexround_starts_at_the_nearest_values(name):
    problem = layer(0)
    grid = ALL_GRIDS[name](problem.weight)
    codes, found = flexround_codes(problem, grid, n_steps=0)
    np.testing.assert_array_equal(codes, grid.encode(problem.weight))
    np.testing.assert_array_equal(found.scale, grid.scale)


@pytest.mark.parametrize("name", ["int2", "tensor", "uneven"])
def test_flexround_keeps_the_best_of_all_steps(name):
    problem = layer(1)
    grid = ALL_GRIDS[name](problem.weight)
    losses = np.array([
        row_losses(problem, found.decode(codes))
        for codes, found in (
            flexround_codes(problem, grid, n_steps=n) for n in (0, 20, 200)
        )
    ])  # fmt: skip
    totals = losses if name != "tensor" else losses.sum(axis=1, keepdims=True)
    assert (totals <= totals[0] * (1 + 1e-12)).all()
    assert (totals[1:] < totals[0]).any(axis=1).all()


def test_better_rows_prefers_the_second_of_equals():
    problem = layer(2)
    grid = minmax_grid(problem.weight, 3)
    nearest = grid.encode(problem.weight)
    worse = nearest.copy()
    worse[:3] = grid.n_levels - 1 - nearest[:3]
    np.testing.assert_array_equal(better_rows(problem, grid, worse, nearest), nearest)
    np.testing.assert_array_equal(better_rows(problem, grid, nearest, worse), nearest)
