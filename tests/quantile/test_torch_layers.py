"""Layers of networks that predict quantiles: values and gradients."""

import itertools

import numpy as np
import pytest

from tests.core._rows import both_paths, using
from uqlib._core.crossing import margin_offsets
from uqlib._core.losses import level_losses
from uqlib._core.monotone import isotonic_quantiles, sort_quantiles

torch = pytest.importorskip("torch", reason="torch is not installed")
gradcheck = torch.autograd.gradcheck

from uqlib.quantile._torch_layers import (  # noqa: E402
    crossing_penalty,
    isotonic_rows,
    pinball_loss,
    sort_rows,
)

LEVELS = np.array([0.05, 0.2, 0.5, 0.7, 0.95])
RNG = np.random.default_rng(0)


def tensor(values, requires_grad=False):
    result = torch.tensor(np.asarray(values), dtype=torch.float64)
    return result.requires_grad_(requires_grad)


def rows(n_rows=6, m=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n_rows, m))


def gradient_of(function, q, outer):
    """Gradient of <outer, function(q)>."""
    variable = tensor(q, requires_grad=True)
    function(variable).backward(tensor(outer))
    return variable.grad.numpy()


def finite_differences(function, q, outer, step=1e-6):
    result = np.empty_like(q)
    for index in np.ndindex(*q.shape):
        above, below = q.copy(), q.copy()
        above[index] += step
        below[index] -= step
        change = (function(tensor(above)) - function(tensor(below))).numpy()
        result[index] = np.sum(outer * change) / (2 * step)
    return result


# -------------------------------------------------------------------- pinball loss


@pytest.mark.parametrize("weighted", [False, True])
def test_pinball_loss_is_the_mean_over_rows_and_levels(weighted):
    q, y = rows(40), RNG.normal(size=40)
    weight = RNG.uniform(0, 3, size=40) if weighted else None
    share = None if weight is None else tensor(weight / weight.mean())
    loss = pinball_loss(tensor(q), tensor(y), tensor(LEVELS), share)
    assert loss.item() == pytest.approx(level_losses(y, q, LEVELS, weight).mean())


def test_batches_estimate_the_weighted_loss_without_bias():
    q, y, weight = rows(40), RNG.normal(size=40), RNG.uniform(0, 3, size=40)
    weight /= weight.mean()
    parts = [
        pinball_loss(tensor(q[b]), tensor(y[b]), tensor(LEVELS), tensor(weight[b]))
        for b in np.arange(40).reshape(8, 5)
    ]
    expected = level_losses(y, q, LEVELS, weight).mean()
    assert torch.stack(parts).mean().item() == pytest.approx(expected)


@pytest.mark.parametrize("n_levels", [1, 5])
def test_pinball_loss_with_levels_of_each_row(n_levels):
    q, y = rows(30, n_levels), RNG.normal(size=30)
    levels = np.sort(RNG.uniform(size=(30, n_levels)), axis=1)
    each = [
        np.maximum(tau * (t - v), (tau - 1) * (t - v))
        for tau, t, v in zip(
            levels.ravel(), np.repeat(y, n_levels), q.ravel(), strict=True
        )
    ]
    loss = pinball_loss(tensor(q), tensor(y), tensor(levels))
    assert loss.item() == pytest.approx(np.mean(each))


def test_gradient_of_the_pinball_loss_is_minus_the_level_or_one_minus_it():
    q = tensor([[0.0, 0.0], [2.0, 2.0]], requires_grad=True)
    pinball_loss(q, tensor([1.0, 1.0]), tensor([0.1, 0.7])).backward()
    expected = np.array([[-0.1, -0.7], [0.9, 0.3]]) / 4
    np.testing.assert_allclose(q.grad.numpy(), expected, rtol=1e-15)


# ------------------------------------------------------------------ monotone layers


@pytest.mark.parametrize("m", [1, 2, 5, 19])
@pytest.mark.parametrize("layer", [sort_rows, isotonic_rows])
def test_gradients_of_monotone_layers(layer, m):
    q = tensor(rows(8, m), requires_grad=True)
    assert gradcheck(layer, (q,))


@both_paths
@pytest.mark.parametrize(
    ("layer", "reference"),
    [(sort_rows, sort_quantiles), (isotonic_rows, isotonic_quantiles)],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_monotone_layers_are_those_of_the_library(layer, reference, dtype, path):
    q = np.round(rows(200, 9), 1).astype(dtype)
    with using(path):
        result = layer(torch.from_numpy(q)).numpy()
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, reference(q))


def test_isotonic_gradient_is_the_mean_over_blocks():
    q = np.array([[1.0, 3.0, 2.0, 5.0, 4.0, 3.5], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]])
    outer = rows(2, 6)
    blocks = [[0], [1, 2], [3, 4, 5]]
    expected = outer.copy()
    for block in blocks:
        expected[0, block] = outer[0, block].mean()
    np.testing.assert_allclose(gradient_of(isotonic_rows, q, outer), expected)
    np.testing.assert_allclose(
        gradient_of(isotonic_rows, q, outer),
        finite_differences(isotonic_rows, q, outer),
        atol=1e-8,
    )


def test_isotonic_gradient_of_many_rows_agrees_with_finite_differences():
    q = rows(200, 7, seed=3)
    outer = rows(200, 7, seed=4)
    blocks = np.abs(np.diff(isotonic_quantiles(q), axis=1)) < 1e-4
    assert np.any(blocks)  # rows are pooled
    gap = np.abs(np.diff(isotonic_quantiles(q), axis=1))
    smooth = np.all((gap == 0) | (gap > 1e-4), axis=1)  # no kink within the step
    assert smooth.sum() > 190
    np.testing.assert_allclose(
        gradient_of(isotonic_rows, q[smooth], outer[smooth]),
        finite_differences(isotonic_rows, q[smooth], outer[smooth]),
        atol=1e-6,
    )


def test_a_value_equal_to_the_mean_of_its_block_belongs_to_it():
    outer = np.array([[1.0, 2.0, 3.0, 6.0]])
    gradient = gradient_of(isotonic_rows, np.array([[3.0, 2.0, 2.0, 1.0]]), outer)
    np.testing.assert_allclose(gradient, np.full((1, 4), 3.0))


@pytest.mark.parametrize("layer", [sort_rows, isotonic_rows])
def test_levels_that_start_equal_can_part(layer):
    outer = rows(3, 5)
    gradient = gradient_of(layer, np.zeros((3, 5)), outer)
    np.testing.assert_array_equal(gradient, outer)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_isotonic_layer_lets_a_diverged_network_be_seen(bad):
    q = np.array([[2.0, 1.0, bad]])
    np.testing.assert_array_equal(isotonic_rows(tensor(q)).numpy(), q)
    outer = rows(1, 3)
    np.testing.assert_array_equal(gradient_of(isotonic_rows, q, outer), outer)


def test_layers_take_transposed_matrices():
    q = rows(5, 6).T
    np.testing.assert_array_equal(
        isotonic_rows(tensor(q.T).T).numpy(), isotonic_quantiles(q)
    )


# ----------------------------------------------------------------- crossing penalty


def brute_force(q, offsets, constant, pairs):
    n_rows, m = q.shape
    chosen = [
        (a, b)
        for a, b in itertools.combinations(range(m), 2)
        if pairs == "all" or b == a + 1
    ]
    terms = [
        max(0.0, q[i, a] - q[i, b] + constant + offsets[b] - offsets[a])
        for i in range(n_rows)
        for a, b in chosen
    ]
    return np.mean(terms)


both_pairs = pytest.mark.parametrize("pairs", ["neighbors", "all"])


@both_pairs
@pytest.mark.parametrize("constant", [0.0, 0.4])
@pytest.mark.parametrize("m", [2, 3, 8])
def test_penalty_is_the_double_loop(pairs, constant, m):
    q, offsets = rows(11, m), np.sort(RNG.normal(size=m))
    penalty = crossing_penalty(tensor(q), tensor(offsets), constant, pairs)
    assert penalty.item() == pytest.approx(brute_force(q, offsets, constant, pairs))


@both_pairs
def test_gradient_of_the_penalty(pairs):
    q, offsets = tensor(rows(7, 6), requires_grad=True), tensor(np.linspace(0, 1, 6))
    assert gradcheck(lambda v: crossing_penalty(v, offsets, 0.3, pairs), (q,))


@both_pairs
def test_offsets_of_each_row(pairs):
    q, offsets = rows(5, 4), np.sort(rows(5, 4, seed=1), axis=1)
    each = [
        brute_force(q[[i]], offsets[i], 0.1, pairs) for i in range(5)
    ]  # every row has as many pairs
    penalty = crossing_penalty(tensor(q), tensor(offsets), 0.1, pairs)
    assert penalty.item() == pytest.approx(np.mean(each))


@both_pairs
def test_no_penalty_where_all_margins_are_kept(pairs):
    offsets = tensor([0.0, 0.5, 0.7])
    q = tensor([[0.0, 0.8, 1.2]], requires_grad=True)
    penalty = crossing_penalty(q, offsets, 0.1, pairs)
    penalty.backward()
    assert penalty.item() == 0.0
    np.testing.assert_array_equal(q.grad.numpy(), np.zeros((1, 3)))


@both_pairs
def test_a_single_level_has_no_penalty(pairs):
    q = tensor(rows(4, 1), requires_grad=True)
    penalty = crossing_penalty(q, tensor([0.0]), 1.0, pairs)
    penalty.backward()
    assert penalty.item() == 0.0
    np.testing.assert_array_equal(q.grad.numpy(), np.zeros((4, 1)))


@both_pairs
@pytest.mark.parametrize("margin", ["auto", "spacing"])
def test_penalty_has_the_units_of_the_target(pairs, margin):
    q, residuals = rows(20), RNG.normal(size=300)

    def penalty(factor):
        offsets, constant = margin_offsets(margin, LEVELS, factor * residuals)
        return crossing_penalty(
            tensor(factor * q), tensor(offsets), constant, pairs
        ).item()

    assert penalty(2.0**10) == pytest.approx(2.0**10 * penalty(1.0), rel=1e-12)
    assert penalty(1.0) > 0


def test_unknown_pairs():
    with pytest.raises(ValueError, match="got 'some'"):
        crossing_penalty(tensor(rows()), tensor(np.zeros(5)), pairs="some")
