"""Grids: encode is the nearest level, decode inverts it, neighbors, storage, errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqlib.quantized._grid import Grid, check_codes, stored

RNG = np.random.default_rng(0)
CODEBOOKS = {
    "unsigned": np.arange(16),
    "signed": np.arange(-3, 4),
    "binary": np.array([-1, 1]),
    "ternary": np.array([-1, 0, 1]),
    "halves": np.arange(-4, 4) + 0.5,
    "uneven": np.sort(RNG.normal(size=13)),
    "bytes": np.arange(256),
    "single": np.array([0.3]),
}
N_OUT, N_IN = 5, 11


def make_grid(codebook, granularity="group", zero_point=True, seed=1):
    rng = np.random.default_rng(seed)
    group_size = 4 if granularity == "group" else N_IN
    shape = {"tensor": (1, 1), "channel": (N_OUT, 1), "group": (N_OUT, 3)}[granularity]
    scale = rng.uniform(0.1, 2.0, size=shape).astype(np.float16)
    z = rng.integers(0, 9, size=shape).astype(np.uint8) if zero_point else None
    return Grid(codebook.astype(np.float32), scale, z, group_size, N_IN)


def legal_values(grid):
    """All values of each weight, shape (n_out, n_in, n_levels), one by one."""
    values = np.empty((N_OUT, N_IN, grid.n_levels))
    for i in range(N_OUT):
        for j in range(N_IN):
            row = 0 if grid.scale.shape[0] == 1 else i
            group = 0 if grid.scale.shape[1] == 1 else j // grid.group_size
            z = 0.0 if grid.zero_point is None else float(grid.zero_point[row, group])
            for q, level in enumerate(grid.codebook.tolist()):
                values[i, j, q] = (level - z) * float(grid.scale[row, group])
    return values


@pytest.mark.parametrize("zero_point", [True, False])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("name", CODEBOOKS)
def test_encode_decode_and_neighbors_against_all_levels(name, granularity, zero_point):
    grid = make_grid(CODEBOOKS[name], granularity, zero_point)
    legal = legal_values(grid)
    low, high = legal.min(), legal.max()
    margin = 0.3 * (high - low) + 1
    values = RNG.uniform(low - margin, high + margin, size=(N_OUT, N_IN))
    codes = grid.encode(values)
    chosen = np.take_along_axis(legal, codes[:, :, None].astype(int), 2)[:, :, 0]
    np.testing.assert_array_equal(grid.decode(codes), chosen)
    np.testing.assert_array_equal(grid.nearest(values), chosen)
    least = np.abs(legal - values[:, :, None]).min(axis=2)
    np.testing.assert_allclose(np.abs(chosen - values), least, rtol=0, atol=1e-12)
    below, above = (grid.decode(part) for part in grid.neighbors(values))
    under = np.where(legal <= values[:, :, None], legal, -np.inf).max(axis=2)
    over = np.where(legal >= values[:, :, None], legal, np.inf).min(axis=2)
    np.testing.assert_array_equal(below, np.where(np.isinf(under), over, under))
    np.testing.assert_array_equal(above, np.where(np.isinf(over), under, over))
    assert codes.dtype == np.uint8


@pytest.mark.parametrize("name", CODEBOOKS)
def test_legal_values_have_their_own_code(name):
    grid = make_grid(CODEBOOKS[name])
    for q in range(grid.n_levels):
        codes = np.full((N_OUT, N_IN), q, dtype=np.uint8)
        np.testing.assert_array_equal(grid.encode(grid.decode(codes)), codes)


@given(value=st.floats(-1e6, 1e6), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_rounding_twice_is_rounding_once(value, seed):
    for codebook in CODEBOOKS.values():
        grid = make_grid(codebook, seed=seed)
        once = grid.encode(np.full((N_OUT, N_IN), value))
        np.testing.assert_array_equal(grid.encode(grid.decode(once)), once)


@given(values=st.lists(st.floats(-50, 50), min_size=2, max_size=N_IN))
@settings(deadline=None, max_examples=60)
def test_encode_is_monotone(values):
    row = np.sort(np.resize(values, N_IN))
    for codebook in CODEBOOKS.values():
        grid = make_grid(codebook, "channel")
        codes = grid.encode(np.tile(row, (N_OUT, 1))).astype(int)
        assert np.all(np.diff(codes, axis=1) >= 0)


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_columns_are_encoded_alone_as_together(granularity):
    grid = make_grid(CODEBOOKS["unsigned"], granularity)
    values = RNG.normal(size=(N_OUT, N_IN)) * 5
    together = grid.encode(values)
    for columns in (slice(3, 6), slice(None), np.array([10, 0, 4]), np.arange(N_IN)):
        part = grid.encode(values[:, columns], columns)
        np.testing.assert_array_equal(part, together[:, columns])
        np.testing.assert_array_equal(
            grid.nearest(values[:, columns], columns), grid.nearest(values)[:, columns]
        )


def test_halfway_values():
    ones = np.ones((1, 1), dtype=np.float32)
    integers = Grid(np.arange(5, dtype=np.float32), ones, None, 4, 4)
    np.testing.assert_array_equal(
        integers.encode(np.array([[0.5, 1.5, 2.5, 3.5]])), [[0, 2, 2, 4]]
    )
    uneven = Grid(np.array([0.0, 1.0, 4.0], dtype=np.float32), ones, None, 2, 2)
    np.testing.assert_array_equal(uneven.encode(np.array([[0.5, 2.5]])), [[0, 1]])


@pytest.mark.parametrize(
    ("n_levels", "bits"),
    [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (16, 4), (17, 5), (253, 8), (256, 8)],
)
def test_bits_of_a_code(n_levels, bits):
    grid = make_grid(np.arange(n_levels))
    assert (grid.n_levels, grid.code_bits) == (n_levels, bits)


def test_half_precision_where_it_is_accurate():
    smallest, largest = 2.0**-14, 65504.0
    for good in ([smallest, largest], [0.0, -1.0], [-smallest], []):
        array = np.array(good)
        assert stored(array).dtype == np.float16
        error = np.abs(stored(array).astype(float) - array)
        assert np.all(error <= 2.0**-11 * np.abs(array))
    for bad in ([smallest * 0.999, 1.0], [65505.0], [1e30]):
        assert stored(np.array(bad)).dtype == np.float32


@given(st.lists(st.floats(2.0**-14, 65504.0), min_size=1, max_size=9))
@settings(deadline=None, max_examples=60)
def test_stored_numbers_err_little_and_stay(values):
    exact = np.array(values)
    once = stored(exact)
    assert np.all(np.abs(once.astype(float) - exact) <= 2.0**-11 * exact)
    np.testing.assert_array_equal(stored(once.astype(float)), once)


def test_codes_from_outside():
    grid = make_grid(CODEBOOKS["ternary"])
    codes = np.full((2, N_IN), 2, dtype=np.int64)
    assert check_codes(codes, grid).dtype == np.uint8
    with pytest.raises(ValueError, match="below the 3 levels of the grid, got 3"):
        check_codes(codes + 1, grid)
    with pytest.raises(ValueError, match=rf"shape \(n_out, {N_IN}\), got shape \(2, 3"):
        check_codes(np.zeros((2, 3), dtype=np.uint8), grid)
    with pytest.raises(ValueError, match="got shape"):
        check_codes(np.zeros(N_IN, dtype=np.uint8), grid)
    assert check_codes(np.zeros((0, N_IN), dtype=np.uint8), grid).shape == (0, N_IN)
