"""Row kernels against slow, readable references."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import isotonic_regression

from uqlib_kernels import _row_sort
from uqlib_kernels import rows as row_kernels
from uqlib_kernels.rows import (
    count_crossing_rows,
    isotonic_rows,
    pinball_sums,
    sort_rows,
)

# The first call of a kernel compiles it, which no per-example deadline allows for.
relaxed = settings(deadline=None, max_examples=60)

WIDTHS = [1, 2, 3, 19, 24, 25, 40]
DTYPES = [np.float32, np.float64]


# ----------------------------------------------------------------- references


def project_row(row, weight):
    """Weighted isotonic projection by the min-max formula, in exact rationals."""
    row = [Fraction(float(value)) for value in row]
    weight = [Fraction(float(value)) for value in weight]
    m = len(row)

    def mean(i, j):
        span = range(i, j + 1)
        return sum(weight[k] * row[k] for k in span) / sum(weight[k] for k in span)

    return np.array(
        [
            float(max(min(mean(i, j) for j in range(k, m)) for i in range(k + 1)))
            for k in range(m)
        ]
    )


def pinball_reference(y, q, quantiles, weight):
    """Sum the loss row by row and level by level."""
    total = np.zeros(q.shape[1])
    for i, k in itertools.product(range(q.shape[0]), range(q.shape[1])):
        if weight[i] > 0:
            error = float(y[i]) - float(q[i, k])
            loss = quantiles[k] * error if error >= 0 else (quantiles[k] - 1) * error
            total[k] += weight[i] * loss
    return total


def crosses(q):
    return np.any(q[:, 1:] < q[:, :-1], axis=1)


def bits(a):
    """Integers that tell -0.0 from 0.0."""
    return np.ascontiguousarray(a).view(np.dtype(f"u{a.itemsize}"))


def levels(m):
    return (np.arange(m) + 0.5) / m


# ----------------------------------------------------------------- strategies


def matrices(elements, min_rows=0, max_width=30):
    shapes = st.tuples(st.integers(min_rows, 9), st.integers(1, max_width))
    return st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, shapes, elements=elements)
    )


# Few distinct values, so that ties, signed zeros and monotone rows are common.
coarse = st.sampled_from([-np.inf, -2.0, -1.0, -0.0, 0.0, 1.0, 1.5, np.inf])
fine = st.floats(-1e3, 1e3, width=32)
finite = st.one_of(st.sampled_from([-1.0, -0.0, 0.0, 0.5]), fine)


def mixed_rows(rng, n, m, dtype, share=0.5):
    """Draw rows of which `share` are sorted."""
    q = rng.normal(size=(n, m)).astype(dtype)
    monotone = rng.random(n) < share
    q[monotone] = np.sort(q[monotone], axis=1)
    return q


# ----------------------------------------------------------------- sort


@relaxed
@given(matrices(st.one_of(coarse, fine), max_width=30))
def test_sort_equals_numpy(q):
    original = q.copy()
    result = sort_rows(q)
    np.testing.assert_array_equal(result, np.sort(q, axis=1))
    assert result.dtype == q.dtype
    assert result.flags.c_contiguous
    kept = ~crosses(q)
    np.testing.assert_array_equal(bits(result[kept]), bits(q[kept]))
    np.testing.assert_array_equal(bits(q), bits(original))


@relaxed
@given(matrices(coarse, max_width=30))
def test_sort_keeps_every_value(q):
    # Signed zeros included: a row is permuted, nothing is lost or made up.
    # (NumPy's own sort of wide rows need not keep the sign of each zero.)
    if q.shape[1] <= 24:
        np.testing.assert_array_equal(
            np.sort(bits(sort_rows(q)), axis=1), np.sort(bits(q), axis=1)
        )


@pytest.mark.parametrize("width", range(8))
def test_network_sorts_every_pattern_of_zeros_and_ones(width):
    # The 0-1 principle: a network that sorts these sorts everything.
    network = _row_sort.merge_network(width)
    for pattern in itertools.product([0, 1], repeat=width):
        row = list(pattern)
        for low, high in network:
            assert low < high
            row[low], row[high] = sorted((row[low], row[high]))
        assert row == sorted(pattern)


@pytest.mark.parametrize("width", [12, 19, 24])
def test_network_sorts_wide_patterns(width):
    rng = np.random.default_rng(width)
    rows = rng.integers(0, 2, size=(20_000, width))
    for low, high in _row_sort.merge_network(width):
        rows[:, [low, high]] = np.sort(rows[:, [low, high]], axis=1)
    assert not crosses(rows).any()


@pytest.mark.parametrize("width", [19, 40])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_sort_at_every_share_of_monotone_rows(width, share):
    # A wide block with few monotone rows is sorted whole and restored.
    q = mixed_rows(np.random.default_rng(0), 5_000, width, np.float64, share)
    q[::7] = np.where(np.arange(width) < width // 2, -0.0, 0.0)
    q[3::7] = np.where(np.arange(width) < width // 2, 0.0, -0.0)
    result = sort_rows(q)
    np.testing.assert_array_equal(result, np.sort(q, axis=1))
    kept = ~crosses(q)
    np.testing.assert_array_equal(bits(result[kept]), bits(q[kept]))


# ----------------------------------------------------------------- isotonic


@relaxed
@given(matrices(finite, max_width=8), st.data())
def test_isotonic_equals_exact_projection(q, data):
    m = q.shape[1]
    weight = data.draw(hnp.arrays(np.float64, m, elements=st.floats(0.125, 8.0)))
    for level_weight in (None, weight):
        result = isotonic_rows(q, level_weight)
        used = np.ones(m) if level_weight is None else level_weight
        expected = np.array([project_row(row, used) for row in q]).reshape(q.shape)
        scale = max(1.0, float(np.abs(q).max(initial=0.0)))
        tolerance = 4 * m * np.finfo(q.dtype).eps * scale
        np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("width", WIDTHS)
def test_isotonic_equals_scipy(width):
    rng = np.random.default_rng(width)
    q = mixed_rows(rng, 300, width, np.float64, 0.3)
    weight = rng.uniform(0.1, 5.0, size=width)
    for level_weight in (None, weight):
        expected = [isotonic_regression(row, weights=level_weight).x for row in q]
        np.testing.assert_allclose(
            isotonic_rows(q, level_weight), expected, rtol=1e-12, atol=1e-12
        )


@relaxed
@given(matrices(finite, max_width=30))
def test_isotonic_is_monotone_idempotent_and_bitwise_on_monotone_rows(q):
    original = q.copy()
    result = isotonic_rows(q)
    assert not crosses(result).any()
    assert result.dtype == q.dtype
    np.testing.assert_array_equal(bits(isotonic_rows(result)), bits(result))
    kept = ~crosses(q)
    np.testing.assert_array_equal(bits(result[kept]), bits(q[kept]))
    np.testing.assert_array_equal(bits(q), bits(original))


@relaxed
@given(matrices(coarse, max_width=12))
def test_isotonic_makes_nan_only_by_mixing_opposite_infinities(q):
    # A pool mixes them exactly when +inf comes before -inf.
    seen = np.maximum.accumulate(q == np.inf, axis=1)
    mixing = np.any(seen & (q == -np.inf), axis=1)
    result = isotonic_rows(q)
    np.testing.assert_array_equal(np.isnan(result).any(axis=1), mixing)
    assert not crosses(result[~mixing]).any()


def test_isotonic_passes_infinities_through():
    q = np.array([[-np.inf, 2.0, 1.0, np.inf], [0.0, np.inf, 5.0, np.inf]])
    expected = [[-np.inf, 1.5, 1.5, np.inf], [0.0, np.inf, np.inf, np.inf]]
    np.testing.assert_array_equal(isotonic_rows(q), expected)


def test_isotonic_does_not_overflow():
    huge = np.finfo(np.float64).max
    q = np.array([[huge, huge, huge / 2, -huge]])
    result = isotonic_rows(q)
    np.testing.assert_allclose(result / huge, 0.375, rtol=1e-15)


def test_isotonic_keeps_ties_that_no_pool_touches():
    # 0.1 + 0.1 + 0.1 is not 0.3: pooling equal neighbors would change their bits.
    q = np.array([[0.1, 0.1, 0.1, 3.0, 2.0]])
    np.testing.assert_array_equal(isotonic_rows(q), [[0.1, 0.1, 0.1, 2.5, 2.5]])


@pytest.mark.parametrize("scale", [1e-200, 0.1, 3.0, 1e200])
def test_isotonic_ignores_the_scale_of_weights(scale):
    rng = np.random.default_rng(1)
    q, weight = rng.normal(size=(50, 9)), rng.uniform(1, 2, size=9)
    np.testing.assert_allclose(
        isotonic_rows(q, scale * weight), isotonic_rows(q, weight), rtol=1e-13
    )


# ----------------------------------------------------------------- crossing


@relaxed
@given(matrices(st.one_of(coarse, fine)))
def test_count_equals_numpy(q):
    count = count_crossing_rows(q)
    assert type(count) is int
    assert count == np.count_nonzero(crosses(q))
    assert count_crossing_rows(sort_rows(q)) == 0


# ----------------------------------------------------------------- pinball


@relaxed
@given(matrices(finite), st.data())
def test_pinball_equals_reference(q, data):
    n, m = q.shape
    y = data.draw(hnp.arrays(np.float64, n, elements=finite))
    weight = data.draw(hnp.arrays(np.float64, n, elements=st.sampled_from([0, 1, 2.5])))
    for sample_weight in (None, weight):
        used = np.ones(n) if sample_weight is None else sample_weight
        result = pinball_sums(y, q, levels(m), sample_weight)
        assert result.dtype == np.float64
        np.testing.assert_allclose(
            result, pinball_reference(y, q, levels(m), used), rtol=1e-12, atol=1e-300
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_pinball_equals_broadcasting_over_many_blocks(dtype):
    rng = np.random.default_rng(2)
    y, q = rng.normal(size=50_000), mixed_rows(rng, 50_000, 19, dtype)
    error = y[:, None] - q.astype(np.float64)
    expected = np.maximum(levels(19) * error, (levels(19) - 1) * error).sum(axis=0)
    np.testing.assert_allclose(pinball_sums(y, q, levels(19)), expected, rtol=1e-12)


def test_pinball_of_infinite_quantiles():
    y, q = np.zeros(2), np.array([[-np.inf, 1.0], [-1.0, np.inf]])
    tau = np.array([0.25, 0.75])
    np.testing.assert_array_equal(pinball_sums(y, q, tau), [np.inf, np.inf])
    first, second = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    np.testing.assert_array_equal(pinball_sums(y, q, tau, first), [np.inf, 0.25])
    np.testing.assert_array_equal(pinball_sums(y, q, tau, second), [0.25, np.inf])


@relaxed
@given(matrices(finite, min_rows=1), st.data())
def test_sort_and_isotonic_never_raise_the_pinball_loss(q, data):
    y = data.draw(hnp.arrays(np.float64, q.shape[0], elements=finite))
    tau = levels(q.shape[1])
    slack = 1e-5 if q.dtype == np.float32 else 1e-12
    loss = pinball_sums(y, q, tau).sum()
    bound = loss + slack * (1 + np.abs(q).sum() + np.abs(y).sum())
    assert pinball_sums(y, sort_rows(q), tau).sum() <= bound
    assert pinball_sums(y, isotonic_rows(q), tau).sum() <= bound


# ----------------------------------------------------------------- layouts and sizes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("offset", [-1, 0, 1])
@pytest.mark.parametrize("n_blocks", [1, 2])
def test_sizes_around_a_block(monkeypatch, dtype, width, offset, n_blocks):
    monkeypatch.setattr(row_kernels, "_BLOCK_BYTES", 70 * width * dtype().itemsize)
    n = 70 * n_blocks + offset
    rng = np.random.default_rng(n)
    q, y = mixed_rows(rng, n, width, dtype), rng.normal(size=n)
    np.testing.assert_array_equal(sort_rows(q), np.sort(q, axis=1))
    assert count_crossing_rows(q) == np.count_nonzero(crosses(q))
    np.testing.assert_array_equal(
        isotonic_rows(q), np.concatenate([isotonic_rows(row[None]) for row in q])
    )
    np.testing.assert_allclose(
        pinball_sums(y, q, levels(width)),
        pinball_reference(y, q, levels(width), np.ones(n)),
        rtol=1e-12,
    )


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_few_rows(n, width, dtype):
    q = -np.arange(n * width, dtype=dtype).reshape(n, width)
    np.testing.assert_array_equal(sort_rows(q), q[:, ::-1])
    means = np.broadcast_to(q.mean(axis=1, keepdims=True), q.shape)
    np.testing.assert_allclose(isotonic_rows(q), means, rtol=1e-6)
    assert count_crossing_rows(q) == (n if width > 1 else 0)
    sums = pinball_sums(np.zeros(n), q, levels(width))
    np.testing.assert_allclose(sums, -levels(width) * q.sum(axis=0), rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [19, 40])
def test_any_strides_and_read_only(dtype, width):
    rng = np.random.default_rng(3)
    base = mixed_rows(rng, 401, 2 * width, dtype)
    y, tau = rng.normal(size=base.shape[0]), levels(width)
    read_only = base[:, :width].copy()
    read_only.flags.writeable = False
    views = [
        base[:, ::2],
        base[::-1, width - 1 :: -1],
        np.asfortranarray(base[:, :width]),
        np.broadcast_to(base[:1, :width], (401, width)),
        read_only,
    ]
    for q in views:
        plain = np.array(q, order="C")
        for kernel in (sort_rows, isotonic_rows):
            result = kernel(q)
            np.testing.assert_array_equal(bits(result), bits(kernel(plain)))
            assert result.flags.c_contiguous
            assert result.flags.writeable
            assert not np.shares_memory(result, q)
        assert count_crossing_rows(q) == count_crossing_rows(plain)
        weight = np.repeat([0.0, 1.0, 2.0], 200)[: 2 * len(q) : 2]
        weight = np.resize(weight, 2 * len(q))[::2]
        np.testing.assert_array_equal(
            pinball_sums(y[::-1], q, tau, weight),
            pinball_sums(y[::-1].copy(), plain, tau, weight.copy()),
        )
        np.testing.assert_array_equal(q, plain)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_nan_never_passes_unseen(dtype, width):
    clean = np.sort(np.random.default_rng(4).normal(size=(9, width)), axis=1)
    for column in range(width):
        q = clean.astype(dtype)
        q[5, column] = np.nan
        with pytest.raises(ValueError, match="q contains NaN"):
            sort_rows(q)
        rows = np.isnan(isotonic_rows(q)).any(axis=1)
        np.testing.assert_array_equal(rows, np.arange(9) == 5)
        sums = pinball_sums(np.zeros(9), q, levels(width))
        np.testing.assert_array_equal(np.isnan(sums), np.arange(width) == column)


@pytest.mark.parametrize(
    "q", [np.zeros((2, 3), dtype=int), np.zeros(3), np.zeros((2, 3), dtype=">f8")]
)
@pytest.mark.parametrize("kernel", [sort_rows, isotonic_rows, count_crossing_rows])
def test_refuses_other_arrays(kernel, q):
    with pytest.raises(TypeError, match="q must be a 2-D array of float32 or float64"):
        kernel(q)
