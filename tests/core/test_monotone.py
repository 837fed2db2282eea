"""Sorting and isotonic projection of quantile rows: theorems and oracles."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core._rows import (
    LEVEL_WEIGHT,
    LEVELS,
    N_ROWS,
    M,
    batches,
    bits,
    both_paths,
    both_repairs,
    finite_rows,
    needs_kernels,
    random_rows,
    row_losses,
    scipy_rows,
    targets,
    tolerance,
    using,
)
from uqlib.quantile import crossing_rate, isotonic_quantiles, sort_quantiles

# ------------------------------------------------------------------- the loss


@both_paths
@batches
def test_sorting_gains_the_same_for_every_target(path, kind):
    q = random_rows(kind)
    with using(path):
        sorted_rows = sort_quantiles(q)
    # sum_k tau_k (q_(k) - q_k): no y in it.
    identity = (LEVELS * (sorted_rows - q)).sum(axis=1)
    for seed in (1, 2):
        y = targets(q, seed)
        gain = row_losses(y, q) - row_losses(y, sorted_rows)
        assert np.all(np.abs(gain - identity) <= tolerance(y, q))
    assert np.all(identity >= -tolerance(y, q))
    moved = np.any(sorted_rows != q, axis=1)
    assert np.all(identity[moved] > 0)
    assert np.all(identity[~moved] == 0)
    assert moved.any()


@both_paths
@batches
def test_isotonic_never_increases_the_loss(path, kind):
    q = random_rows(kind)
    y = targets(q)
    with using(path):
        fitted = isotonic_quantiles(q)
    assert np.all(row_losses(y, fitted) <= row_losses(y, q) + tolerance(y, q))


@both_paths
@batches
def test_weighted_isotonic_never_increases_the_weighted_loss(path, kind):
    q = random_rows(kind)
    y = targets(q)
    with using(path):
        fitted = isotonic_quantiles(q, level_weight=LEVEL_WEIGHT)
    before, after = (row_losses(y, v, LEVEL_WEIGHT) for v in (q, fitted))
    assert np.all(after <= before + LEVEL_WEIGHT.max() * tolerance(y, q))


@given(q=finite_rows(min_rows=1), data=st.data())
def test_no_repair_increases_the_loss_of_any_row(q, data):
    m = q.shape[1]
    thousandths = st.lists(st.integers(1, 999), min_size=m, max_size=m, unique=True)
    levels = np.sort(data.draw(thousandths)) / 1000
    weight = np.array(data.draw(st.lists(st.floats(0.1, 9), min_size=m, max_size=m)))
    y = data.draw(st.one_of(st.sampled_from(q.ravel().tolist()), st.floats(-1e6, 1e6)))

    def loss(v, w):
        return (w * np.maximum(levels * (y - v), (levels - 1) * (y - v))).sum(axis=1)

    slack = 1e-12 * (abs(y) + np.abs(q).sum()) * weight.sum()
    for repaired, w in (
        (sort_quantiles(q), 1.0),
        (isotonic_quantiles(q), 1.0),
        (isotonic_quantiles(q, weight), weight),
    ):
        assert np.all(loss(repaired, w) <= loss(q, w) + slack)


def test_other_weights_than_those_of_the_loss_can_increase_it():
    # Two levels, the upper one ten times as heavy, y at the value of the upper one.
    q, y = np.array([[1.0, 0.0]]), 0.0
    levels, weight = np.array([0.4, 0.5]), np.array([1.0, 10.0])

    def loss(v):
        return float(
            (weight * np.maximum(levels * (y - v), (levels - 1) * (y - v))).sum()
        )

    assert loss(q) == pytest.approx(0.6)
    assert loss(sort_quantiles(q)) == pytest.approx(5.0)
    assert loss(isotonic_quantiles(q)) == pytest.approx(2.8)
    assert loss(isotonic_quantiles(q, weight)) <= loss(q)


def test_neither_repair_dominates():
    q = random_rows("normal")
    y = targets(q)
    difference = row_losses(y, sort_quantiles(q)) - row_losses(y, isotonic_quantiles(q))
    assert difference.min() < -0.1
    assert difference.max() > 0.1


# -------------------------------------------------------------- the projection


@both_paths
@pytest.mark.parametrize("weight", [None, LEVEL_WEIGHT], ids=["equal", "weighted"])
@batches
def test_isotonic_equals_scipy(path, weight, kind):
    q = random_rows(kind, n_rows=2000)
    with using(path):
        fitted = isotonic_quantiles(q, level_weight=weight)
    expected = scipy_rows(q, weight)
    scale = np.abs(q).max(axis=1, keepdims=True)
    assert np.all(np.abs(fitted - expected) <= 1e-12 * scale)


@both_paths
@pytest.mark.parametrize("weight", [None, LEVEL_WEIGHT], ids=["equal", "weighted"])
@batches
def test_isotonic_is_optimal(path, weight, kind):
    """Optimality conditions, which need no second solver.

    With multipliers d_k >= 0 of v_k <= v_{k+1}, the sums of w (q - v) up to k are d_k:
    never negative, and zero where the fit steps up and at the end.
    """
    q = random_rows(kind)
    with using(path):
        fitted = isotonic_quantiles(q, level_weight=weight)
    w = np.ones(M) if weight is None else weight
    multipliers = np.cumsum(w * (q - fitted), axis=1)
    slack = 1e-12 * np.abs(q).max(axis=1, keepdims=True) * w.sum()
    steps = np.diff(fitted, axis=1)
    assert np.all(steps >= 0)
    assert np.all(multipliers >= -slack)
    assert np.all(np.abs(multipliers[:, -1:]) <= slack)  # the weighted mean is kept
    assert np.all(np.abs(multipliers[:, :-1]) * (steps > 0) <= slack)


@both_paths
@batches
def test_sort_keeps_the_multiset(path, kind):
    q = random_rows(kind)
    with using(path):
        assert np.array_equal(sort_quantiles(q), np.sort(q, axis=1))


@both_paths
@pytest.mark.parametrize("p", [1, 1.5, 2, np.inf])
@batches
def test_repairs_come_closer_to_every_monotone_row(path, p, kind):
    q = random_rows(kind)
    rng = np.random.default_rng(3)
    target = np.sort(
        q[rng.permutation(N_ROWS)] * rng.uniform(0, 2, (N_ROWS, 1)), axis=1
    )
    before = np.linalg.norm(q - target, ord=p, axis=1)
    with using(path):
        repaired = [sort_quantiles(q), isotonic_quantiles(q)]
        weighted = isotonic_quantiles(q, LEVEL_WEIGHT)
    slack = 1e-12 * np.maximum(np.abs(q), np.abs(target)).max(axis=1)
    for fitted in repaired:
        assert np.all(np.linalg.norm(fitted - target, ord=p, axis=1) <= before + slack)
    # The weighted projection contracts the norm with its own weights.
    scale = LEVEL_WEIGHT ** (0 if p == np.inf else 1 / p)
    before = np.linalg.norm(scale * (q - target), ord=p, axis=1)
    after = np.linalg.norm(scale * (weighted - target), ord=p, axis=1)
    assert np.all(after <= before + slack)


@both_paths
@given(q=finite_rows(), factor=st.integers(-8, 8), shift=st.integers(-64, 64))
def test_repairs_commute_with_powers_of_two(path, q, factor, shift):
    q = np.round(q)  # then no sum below is rounded, and equality is exact for sorting
    moved = np.ldexp(q, factor) + shift
    with using(path):
        expected = np.ldexp(sort_quantiles(q), factor) + shift
        assert np.array_equal(sort_quantiles(moved), expected)
        expected = np.ldexp(isotonic_quantiles(q), factor) + shift
        assert isotonic_quantiles(moved) == pytest.approx(expected, rel=1e-12, abs=1e-9)


@both_paths
@both_repairs
@batches
def test_repairs_are_affine_equivariant(path, repair, kind):
    q = random_rows(kind)
    with using(path):
        moved, fitted = repair(3.7 * q - 11.0), repair(q)
    scale = 3.7 * np.abs(q).max(axis=1, keepdims=True) + 11.0
    assert np.all(np.abs(moved - (3.7 * fitted - 11.0)) <= 1e-12 * scale)


@both_repairs
def test_repairs_do_not_mix_rows(repair):
    q = random_rows("normal", n_rows=200)
    alone = np.concatenate([repair(q[i : i + 1]) for i in range(200)])
    assert np.array_equal(repair(q), alone)


@given(q=finite_rows(min_rows=1))
def test_one_weight_for_all_levels_is_no_weight(q):
    weighted = isotonic_quantiles(q, np.full(q.shape[1], 0.37))
    assert weighted == pytest.approx(isotonic_quantiles(q), rel=1e-12, abs=1e-9)


@given(q=finite_rows(min_rows=1), data=st.data())
def test_integer_weights_are_repeated_levels(q, data):
    m = q.shape[1]
    counts = data.draw(st.lists(st.integers(1, 3), min_size=m, max_size=m))
    first = np.cumsum([0, *counts[:-1]])
    repeated = isotonic_quantiles(np.repeat(q, counts, axis=1))
    assert isotonic_quantiles(q, counts) == pytest.approx(
        repeated[:, first], rel=1e-12, abs=1e-9
    )


# ------------------------------------------------------------ what stays as it was


@both_paths
@both_repairs
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@batches
def test_repairs_are_idempotent_bitwise(path, repair, dtype, kind):
    q = random_rows(kind).astype(dtype)
    with using(path):
        once = repair(q)
        twice = repair(once)
    assert once.dtype == twice.dtype == dtype
    assert np.all(np.diff(once, axis=1) >= 0)
    assert np.array_equal(bits(once), bits(twice))


@both_paths
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_monotone_rows_pass_bitwise(path, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    huge = np.finfo(dtype).max
    monotone = np.array(
        [
            [0.0, -0.0, 0.0, -0.0],
            [-0.0, 0.0, -0.0, 0.0],
            [-tiny, -0.0, 0.0, tiny],
            [tiny, tiny, 2 * tiny, 3 * tiny],
            [-huge, -huge, huge, huge],
            [0.1, 0.1, 0.1, 0.3],
            [-np.inf, -np.inf, 0.1, np.inf],
            [-np.inf] * 4,
            [np.inf] * 4,
        ],
        dtype=dtype,
    )
    crossing = np.array([[3.0, 2.0, 1.0, 0.0]], dtype=dtype)
    # Crossing rows between them must not disturb their neighbors.
    q = np.vstack([row for keep in monotone for row in (crossing, keep[None])])
    with using(path):
        for repaired in (
            sort_quantiles(q),
            isotonic_quantiles(q),
            isotonic_quantiles(q, [1.0, 2.0, 0.3, 4.0]),
        ):
            assert repaired.dtype == dtype
            assert np.array_equal(bits(repaired[1::2]), bits(monotone))


@given(q=finite_rows(np.float32, min_rows=1))
def test_sorted_float32_rows_pass_bitwise(q):
    q = np.sort(q, axis=1)
    for repair in (sort_quantiles, isotonic_quantiles):
        assert np.array_equal(bits(repair(q)), bits(q))


@both_repairs
def test_a_monotone_result_is_a_new_array(repair):
    q = np.array([[1.0, 2.0]])
    repair(q)[0, 0] = 99.0
    assert q[0, 0] == 1.0


@both_paths
@both_repairs
def test_the_input_is_not_changed(path, repair):
    q = random_rows("normal", n_rows=300)
    before = q.copy()
    q.setflags(write=False)
    with using(path):
        assert repair(q).flags.writeable
        crossing_rate(q)
    assert np.array_equal(bits(q), bits(before))


def test_the_level_weight_is_not_changed():
    weight = LEVEL_WEIGHT.copy()
    weight.setflags(write=False)
    isotonic_quantiles(random_rows("normal", n_rows=10), weight)
    assert np.array_equal(weight, LEVEL_WEIGHT)


# ------------------------------------------------------------------- the kernels


@needs_kernels
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("m", [1, 2, 9, 30])
@batches
def test_kernels_equal_the_reference(dtype, m, kind):
    q = random_rows(kind, n_rows=1000, m=m).astype(dtype)
    weight = np.random.default_rng(4).uniform(0.1, 2.0, m)
    results = {}
    for path in ("numpy", "kernels"):
        with using(path):
            results[path] = (
                sort_quantiles(q),
                isotonic_quantiles(q),
                isotonic_quantiles(q, weight),
                crossing_rate(q),
            )
    sort_a, equal_a, weighted_a, rate_a = results["numpy"]
    sort_b, equal_b, weighted_b, rate_b = results["kernels"]
    assert np.array_equal(sort_a, sort_b)
    assert rate_a == rate_b
    scale = np.abs(q).max(axis=1, keepdims=True).astype(np.float64)
    rounding = np.maximum(1e-12, np.finfo(dtype).eps) * scale
    for a, b in ((equal_a, equal_b), (weighted_a, weighted_b)):
        assert np.all(np.abs(a.astype(np.float64) - b) <= rounding)
    monotone = np.all(np.diff(q, axis=1) >= 0, axis=1)
    for result in (sort_a, equal_a, weighted_a, sort_b, equal_b, weighted_b):
        assert np.array_equal(bits(result[monotone]), bits(q[monotone]))


# --------------------------------------------------------------- crossing_rate


@both_paths
@batches
def test_repaired_rows_never_cross(path, kind):
    q = random_rows(kind)
    with using(path):
        assert crossing_rate(q) > 0
        assert crossing_rate(sort_quantiles(q)) == 0.0
        assert crossing_rate(isotonic_quantiles(q)) == 0.0
        assert crossing_rate(isotonic_quantiles(q, LEVEL_WEIGHT)) == 0.0


@both_paths
@given(q=finite_rows(min_rows=1))
def test_crossing_rate_counts_rows(path, q):
    count = sum(any(b < a for a, b in itertools.pairwise(row)) for row in q)
    with using(path):
        rate = crossing_rate(q)
    assert rate == count / len(q)
    assert type(rate) is float


def test_ties_and_infinities_do_not_cross():
    assert crossing_rate([[1.0, 1.0], [-np.inf, np.inf], [0.0, -0.0]]) == 0.0
    assert crossing_rate([[np.inf, -np.inf], [np.inf, np.inf]]) == 0.5
