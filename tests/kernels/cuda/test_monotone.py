"""Rows sorted and projected as a GPU does it, bitwise equal to those of the CPU."""

import ctypes
import functools

import numpy as np
import pytest

from tests.kernels.cuda._emulated import (
    SEEDS,
    check,
    emulated,
    free_guarded,
    guarded,
    guarded_empty,
    pointer,
)
from uqlib_kernels.rows import isotonic_rows, sort_rows

INVALID = -1
WIDTHS = [1, 2, 3, 8, 9, 19, 24, 32, 33, 64, 99]
# Rows of one block, of several with a last one that is not full, and the edges between.
SIZES = [1, 17, 255, 256, 600]
every_type = pytest.mark.parametrize("dtype", [np.float32, np.float64])
every_width = pytest.mark.parametrize("width", WIDTHS)


@pytest.fixture(autouse=True)
def _memory():
    yield
    free_guarded()


@functools.cache
def kernels():
    return emulated("monotone")


def bits(a):
    """Integers that tell -0.0 from 0.0."""
    return np.ascontiguousarray(a).view(np.dtype(f"u{a.itemsize}"))


def assert_same(result, expected):
    """Equal bit for bit, but for which NaN it is."""
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(result), nan)
    np.testing.assert_array_equal(bits(result)[~nan], bits(expected)[~nan])


def rows_of(n, width, dtype, seed=0, crossing=0.4):
    """Rows of which some cross, some of those nearly sorted and some not at all."""
    rng = np.random.default_rng([seed, n, width])
    q = np.sort(rng.normal(size=(n, width)), axis=1)
    mixed = rng.random(n) < crossing
    noise = rng.choice([0.05, 1.0], size=(n, 1)) * rng.normal(size=(n, width))
    q = np.where(mixed[:, None], q + noise, q).astype(dtype)
    q[3::7] = np.round(q[3::7])  # ties and both zeros
    return q


def beginning(q, offset):
    """Operand and result whose memory begins `offset` numbers behind 16 bytes."""
    whole = guarded(np.concatenate([np.zeros(offset, q.dtype), q.ravel()]))
    out = guarded_empty(offset + q.size, q.dtype)
    return whole[offset:], out[offset:], out[:offset]


def run(q, call, seed=0, offset=0):
    """Rows as a kernel returns them; nothing before or behind them is written."""
    library = kernels()
    library.uqlib_emulate(seed, 4)
    rows, out, before = beginning(q, offset)
    check(library, call(library, rows, out))
    np.testing.assert_array_equal(rows, q.ravel(), strict=True)
    assert (bits(before) == np.iinfo(bits(before).dtype).max).all()
    return out.reshape(q.shape)


def sizes_of(q):
    return int(q.dtype == np.float64), ctypes.c_int64(len(q)), q.shape[1]


def sorted_rows(q, found_nan=None, **how):
    def call(library, rows, out):
        return library.uqlib_sort_rows(
            pointer(rows), pointer(out), *sizes_of(q), pointer(found_nan), None
        )

    return run(q, call, **how)


def projected_rows(q, level_weight=None, **how):
    weight = guarded(level_weight)

    def call(library, rows, out):
        return library.uqlib_isotonic_rows(
            pointer(rows), pointer(weight), pointer(out), *sizes_of(q), None
        )

    return run(q, call, **how)


# ----------------------------------------------------------------- sort


def assert_sorted(result, q):
    """Rows that do not cross keep their bits, the others their values."""
    expected = sort_rows(q)
    np.testing.assert_array_equal(result, expected)
    kept = ~np.any(q[:, 1:] < q[:, :-1], axis=1)
    np.testing.assert_array_equal(bits(result)[kept], bits(q)[kept])
    np.testing.assert_array_equal(
        np.sort(bits(result), axis=1), np.sort(bits(q), axis=1)
    )


@every_type
@every_width
def test_sorted_rows_equal_those_of_the_cpu(width, dtype):
    for seed, n in enumerate(SIZES):
        q = rows_of(n, width, dtype)
        assert_sorted(sorted_rows(q, seed=seed, offset=seed % 2), q)


@every_type
@pytest.mark.parametrize("width", [19, 40])
@pytest.mark.parametrize("crossing", [0.0, 1.0])
def test_all_rows_cross_or_none(crossing, width, dtype):
    q = rows_of(300, width, dtype, crossing=crossing)
    for seed in SEEDS:
        assert_sorted(sorted_rows(q, seed=seed), q)


@every_type
@pytest.mark.parametrize("width", [2, 8, 19, 24, 32, 50, 99])
def test_one_descent_is_seen_wherever_it_is(width, dtype):
    n = 5 * width
    q = np.tile(np.arange(width, dtype=dtype), (n, 1))
    row, level = np.arange(n), np.arange(n) % (width - 1)
    q[row, level], q[row, level + 1] = level + 1, level
    np.testing.assert_array_equal(sorted_rows(q), np.sort(q, axis=1))
    assert_same(projected_rows(q), isotonic_rows(q))


@pytest.mark.parametrize("width", range(33, 43))
def test_merging_sorts_zeros_and_ones(width):
    # The 0-1 principle: exchanges that sort these sort everything.
    ones = np.random.default_rng(width).integers(0, 2, (100, width))
    steps = np.arange(width) < np.arange(width + 1)[:, None]
    q = np.concatenate([ones, steps, steps[:, ::-1]]).astype(np.float32)
    assert_sorted(sorted_rows(q, seed=width), q)


@every_type
@pytest.mark.parametrize("width", [1, 2, 19, 50])
def test_nan_is_found(width, dtype):
    q = rows_of(300, width, dtype)
    found = guarded(np.zeros(1, np.int32))
    sorted_rows(q, found)
    assert found[0] == 0
    for row, level in ((0, 0), (299, width - 1), (100, width // 2)):
        bad = q.copy()
        bad[row, level] = np.nan
        found[0] = 0
        others = np.arange(300) != row
        result = sorted_rows(bad, found)
        np.testing.assert_array_equal(result[others], sort_rows(q)[others])
        assert found[0] == 1


# ----------------------------------------------------------------- projection


def weights(width):
    rng = np.random.default_rng(width)
    yield None
    yield rng.uniform(0.1, 5.0, width)
    yield 1e-300 * rng.uniform(0.1, 5.0, width)  # subnormal numbers when scaled


@every_type
@every_width
def test_projected_rows_equal_those_of_the_cpu(width, dtype):
    for seed, n in enumerate(SIZES):
        q = rows_of(n, width, dtype)
        for weight in weights(width):
            result = projected_rows(q, weight, seed=seed, offset=seed % 2)
            assert_same(result, isotonic_rows(q, weight))


def test_weights_may_be_scaled_before():
    q = rows_of(40, 19, np.float64, crossing=1.0)
    weight = np.random.default_rng(0).uniform(0.1, 5.0, 19)
    once = projected_rows(q, weight)
    for exponent in (-40, -6, 3, 900):
        assert_same(projected_rows(q, np.ldexp(weight, exponent)), once)


@every_type
@pytest.mark.parametrize("width", [2, 5, 19, 50])
def test_numbers_at_the_edges(width, dtype):
    rng = np.random.default_rng(width)
    huge, tiny = np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal
    for values in (
        [-np.inf, -2.0, -1.0, -0.0, 0.0, 1.0, 1.5, np.inf],
        [np.nan, 0.0, 1.0, 2.0, -1.0, np.inf],
        [huge, -huge, huge / 2, 1.0],
        [tiny, -tiny, 0.0, -0.0, 3 * tiny],
    ):
        q = rng.choice(np.array(values, dtype), size=(300, width))
        for seed, weight in enumerate(weights(width)):
            with np.errstate(all="ignore"):
                expected = isotonic_rows(q, weight)
            assert_same(projected_rows(q, weight, seed=seed), expected)


@every_type
@pytest.mark.parametrize("crossing", [0.0, 1.0])
def test_any_order_of_threads_gives_the_same(crossing, dtype):
    q = rows_of(300, 19, dtype, crossing=crossing)
    expected = isotonic_rows(q)
    for seed in SEEDS:
        assert_same(projected_rows(q, seed=seed), expected)


# A falling staircase makes a pool of each step, and of all in the end: the stack is as
# deep as it gets before.
@pytest.mark.parametrize("width", [18, 19, 64])
def test_the_stack_is_deep_enough(width):
    pairs = np.repeat(np.arange(width, dtype=float), 2)[:width]
    pairs[1::2] -= 0.5
    q = np.stack([pairs, np.append(pairs[:-1], -1e6), np.arange(width, 0.0, -1.0)])
    q = np.repeat(q, 90, axis=0)
    assert_same(projected_rows(q), isotonic_rows(q))


# ----------------------------------------------------------------- wide rows


@every_type
@pytest.mark.parametrize("width", [301, 1000, 4096])
def test_wide_rows(width, dtype):
    q = rows_of(11 if width < 4096 else 3, width, dtype)
    q[0, 0] += 1  # crosses
    assert_sorted(sorted_rows(q, seed=width), q)
    assert_same(projected_rows(q, seed=width), isotonic_rows(q))


@every_type
@pytest.mark.parametrize("memory", [99, 163, 227])
def test_machines_with_less_memory_take_rows_as_wide(memory, dtype):
    library = kernels()
    library.uqlib_emulate_memory(memory * 1024)
    try:
        for width in (142, 1007, 2048):
            q = rows_of(9, width, dtype, crossing=0.5)
            assert_sorted(sorted_rows(q, seed=width), q)
            assert_same(projected_rows(q, seed=width), isotonic_rows(q))
    finally:
        library.uqlib_emulate_memory(227 * 1024)


# ----------------------------------------------------------------- errors


def test_no_rows():
    q = np.empty((0, 3), np.float32)
    assert sorted_rows(q).shape == projected_rows(q).shape == (0, 3)


def test_arguments_that_no_kernel_takes():
    library = kernels()
    q, out = guarded(np.zeros((2, 3))), guarded_empty((2, 3), np.float64)
    two = ctypes.c_int64(2)
    for rows, to, n_rows, n_levels in (
        (None, out, two, 3),
        (q, None, two, 3),
        (q, out, ctypes.c_int64(-1), 3),
        (q, out, two, 0),
        (q, out, two, 10**6),  # more than shared memory holds
        (q, out, ctypes.c_int64(2**40), 3),  # more blocks than a grid has
    ):
        operands = pointer(rows), pointer(to), 1, n_rows, n_levels, None, None
        assert library.uqlib_sort_rows(*operands) == INVALID
        operands = pointer(rows), None, pointer(to), 1, n_rows, n_levels, None
        assert library.uqlib_isotonic_rows(*operands) == INVALID
    assert bits(out).min() == np.iinfo(np.uint64).max
