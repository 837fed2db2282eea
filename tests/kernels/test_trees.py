"""Compiled trees against a walk down every tree, on all kernels of the machine."""

import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqlib_kernels import _threads, registry, trees
from uqlib_kernels._tree_arrays import (
    LEFT,
    RIGHT,
    ZERO,
    ZERO_LEFT,
    ZERO_RIGHT,
    BinArrays,
    TreeArrays,
)
from uqlib_kernels.trees import CompiledTrees

LEVELS = registry.available_isas()
N_FEATURES = 5
# Number of trees, leaves of a tree at most, outputs, width of a leaf.
SHAPES = {
    "small": (9, 31, 1, 1),
    "stumps": (3, 2, 1, 1),
    "single leaves": (2, 1, 1, 1),
    "no trees": (0, 1, 2, 1),
    "64 leaves": (5, 64, 1, 1),
    "deep": (4, 300, 1, 1),
    "classes": (9, 20, 3, 1),
    "wide leaves": (3, 70, 4, 4),
}
ADDED = ("leaf_value", "baseline")
every_level = pytest.mark.parametrize("level", LEVELS)
every_shape = pytest.mark.parametrize("shape", list(SHAPES))


def starts(counts):
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def random_columns(rng, dtype, n_thresholds):
    """Columns of numbers with every way of missing values, and columns of tables."""
    kinds = [RIGHT, LEFT, ZERO, ZERO_RIGHT, ZERO_LEFT] if dtype == "float64" else [0, 1]
    n_tables = 2
    numbers, tables = [], []
    for _ in kinds:
        values = rng.normal(size=n_thresholds).round(2)
        values = np.concatenate([values, [0.0, 1e-35, np.inf, -np.inf]])
        numbers.append(np.unique(values.astype(dtype)))
        tables.append(np.empty(0, np.uint8))
    for size in (3, 70)[:n_tables]:
        numbers.append(np.empty(0, dtype))
        tables.append(rng.integers(0, 2, size).astype(np.uint8))
    missing = [*kinds, RIGHT, LEFT]
    order = np.sort(rng.integers(0, N_FEATURES, len(missing)))
    return BinArrays(
        order.astype(np.int32),
        np.array(missing, np.uint8),
        starts([part.size for part in numbers]),
        np.concatenate(numbers),
        starts([part.size for part in tables]),
        np.concatenate(tables),
    )


def random_tree(rng, n_leaves):
    """Left and right children in preorder, with leaves from left to right."""
    left, right = [], []
    leaves = 0

    def grow(size):
        nonlocal leaves
        if size == 1:
            leaves += 1
            return ~(leaves - 1)
        node = len(left)
        left.append(0)
        right.append(0)
        part = int(rng.integers(1, size))
        left[node] = grow(part)
        right[node] = grow(size - part)
        return node

    grow(n_leaves)
    return left, right


def random_problem(seed, shape, dtype="float64", n_thresholds=40):
    """Trees, columns, and rows with values on thresholds and of all other kinds."""
    rng = np.random.default_rng(seed)
    n_trees, most, n_outputs, width = SHAPES[shape]
    columns = random_columns(rng, dtype, n_thresholds)
    sizes = rng.integers(max(1, most - 3), most + 1, n_trees)
    grown = [random_tree(rng, int(size)) for size in sizes]
    left, right = ([c for g in grown for c in g[side]] for side in (0, 1))
    node_column = rng.integers(0, columns.feature.size, len(left))
    counts = np.diff(columns.threshold_start)[node_column]
    bins = rng.integers(0, np.maximum(1, counts))
    uint = np.uint8 if np.diff(columns.threshold_start).max() <= 255 else np.uint16
    leaf = rng.normal(size=(int(sizes.sum()), width)).astype(dtype)
    found = TreeArrays(
        starts(sizes - 1),
        starts(sizes),
        node_column.astype(np.int32),
        bins.astype(uint),
        np.array(left, np.int32),
        np.array(right, np.int32),
        leaf,
        (np.arange(n_trees) % n_outputs).astype(np.int32),
        rng.normal(size=n_outputs).astype(dtype),
        n_trees if width > 1 else 1,
    )
    return found, columns, awkward_rows(rng, columns, dtype)


def awkward_rows(rng, columns, dtype, n_rows=150):
    finite = columns.thresholds[np.isfinite(columns.thresholds)]
    rows = rng.normal(size=(n_rows, N_FEATURES)).astype(dtype)
    on = rng.choice(finite, rows.shape)
    choices = [
        on,
        np.nextafter(on, on.dtype.type(-np.inf)),
        np.nextafter(on, on.dtype.type(np.inf)),
        np.full_like(rows, np.nan),
        rng.choice(
            np.array([np.inf, -np.inf, 0.0, -0.0, 1e-40, 1e30], dtype), on.shape
        ),
        rng.integers(-2, 75, rows.shape) + rng.choice([0.0, 0.5, -0.5], rows.shape),
    ]
    for share, values in zip((0.2, 0.1, 0.1, 0.1, 0.1, 0.3), choices, strict=True):
        chosen = rng.random(rows.shape) < share
        rows[chosen] = values[chosen]
    return rows


def goes_left(columns, column, at, x):
    """Whether x goes left at a node, told from x itself."""
    way = int(columns.missing[column])
    table = columns.tables[slice(*columns.table_start[column : column + 2])]
    if table.size:
        known = -1 < x < table.size
        return table[int(x)] == 0 if known else way == LEFT
    threshold = columns.thresholds[columns.threshold_start[column] + at]
    missing = math.isnan(x) or (way in (ZERO_LEFT, ZERO_RIGHT) and x == 0)
    if missing and way != ZERO:
        return way in (LEFT, ZERO_LEFT)
    return (0.0 if missing else x) <= threshold


def walked(found, columns, rows):
    """Walk every row down every tree and add what is found there."""
    raw = np.tile(found.baseline, (len(rows), 1))
    for i, row in enumerate(rows.tolist()):
        for tree, output in enumerate(found.tree_output.tolist()):
            first = found.node_start[tree]
            at = 0 if found.node_start[tree + 1] > first else -1
            while at >= 0:
                node = first + at
                column = found.node_column[node]
                x = row[columns.feature[column]]
                left = goes_left(columns, column, int(found.node_bin[node]), x)
                at = int((found.left if left else found.right)[node])
            leaf = found.leaf_value[found.leaf_start[tree] + ~at]
            if leaf.size > 1:
                raw[i] += leaf
            else:
                raw[i, output] += leaf[0]
    return raw / raw.dtype.type(found.divisor) if found.divisor > 1 else raw


def assert_same_bits(found, expected):
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


@every_level
@every_shape
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_raw_values_equal_a_walk(level, shape, dtype):
    found, columns, rows = random_problem(0, shape, dtype)
    expected = walked(found, columns, rows)
    compiled = CompiledTrees(found, columns, level)
    assert_same_bits(compiled.raw(rows), expected)
    for n_rows in (0, 1, 2, 7, 8, 41, 64, 65):
        assert_same_bits(compiled.raw(rows[:n_rows]), expected[:n_rows])
    assert_same_bits(compiled.raw(rows[3:4]), expected[3:4])


@every_level
@pytest.mark.parametrize("shape", ["small", "deep", "wide leaves"])
def test_comparisons_in_single_and_sums_in_double_precision(level, shape):
    found, columns, rows = random_problem(12, shape, "float32")
    double = {name: getattr(found, name).astype(float) for name in ADDED}
    found = found._replace(**double)
    expected = walked(found, columns, rows)
    compiled = CompiledTrees(found, columns, level)
    for n_rows in (1, 150):
        assert_same_bits(compiled.raw(rows[:n_rows]), expected[:n_rows])


@every_level
@pytest.mark.parametrize("shape", ["small", "deep"])
def test_many_thresholds_need_wide_bins(level, shape):
    found, columns, rows = random_problem(1, shape, n_thresholds=4000)
    assert found.node_bin.dtype == np.uint16
    expected = walked(found, columns, rows)
    compiled = CompiledTrees(found, columns, level)
    assert_same_bits(compiled.raw(rows), expected)
    assert_same_bits(compiled.raw(rows[:5]), expected[:5])


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from(list(SHAPES)),
    n_rows=st.integers(1, 12),
)
def test_levels_agree_with_a_walk_on_any_trees(seed, shape, n_rows):
    found, columns, rows = random_problem(seed, shape)
    expected = walked(found, columns, rows[:n_rows])
    for level in LEVELS:
        compiled = CompiledTrees(found, columns, level)
        assert_same_bits(compiled.raw(rows[:n_rows]), expected)


@every_level
@pytest.mark.parametrize("shape", ["small", "deep", "classes"])
def test_blocks_of_rows_give_what_single_rows_give(level, shape):
    found, columns, rows = random_problem(2, shape)
    many = np.resize(rows, (1500, N_FEATURES))
    compiled = CompiledTrees(found, columns, level)
    expected = np.concatenate([compiled.raw(row[None]) for row in rows])
    assert_same_bits(compiled.raw(many), np.resize(expected, (1500, expected.shape[1])))


@every_level
@pytest.mark.parametrize("shape", ["small", "deep"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_strides_do_not_matter_and_input_stays(level, shape, dtype):
    found, columns, rows = random_problem(3, shape, dtype)
    compiled = CompiledTrees(found, columns, level)
    for n_rows in (3, len(rows)):
        own = rows[:n_rows].copy()
        expected = compiled.raw(own)
        own.flags.writeable = False
        padded = np.zeros((2 * n_rows, 3 * N_FEATURES), own.dtype)
        padded[::2, ::3] = own
        for other in (
            own,
            np.asfortranarray(own),
            own[::-1].copy()[::-1],
            own[:, ::-1].copy()[:, ::-1],
            padded[::2, ::3],
        ):
            before = other.tobytes()
            assert_same_bits(compiled.raw(other), expected)
            assert other.tobytes() == before


@every_level
@pytest.mark.parametrize("shape", ["small", "deep", "wide leaves"])
def test_threads_change_nothing(level, shape, monkeypatch):
    found, columns, rows = random_problem(4, shape)
    rows = np.resize(rows, (5000, N_FEATURES))
    compiled = CompiledTrees(found, columns, level)
    expected = compiled.raw(rows)
    used = []
    monkeypatch.setattr(_threads, "SERIAL_WORK", 1)
    monkeypatch.setattr(numba, "get_num_threads", lambda: used.append(3) or 3)
    assert_same_bits(compiled.raw(rows), expected)
    assert used


@every_level
def test_first_calls_of_many_threads(level):
    found, columns, rows = random_problem(5, "small")
    expected = walked(found, columns, rows)
    compiled = CompiledTrees(found, columns, level)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(compiled.raw, rows[: 1 + 20 * k]) for k in range(8)]
    for k, call in enumerate(calls):
        assert_same_bits(call.result(), expected[: 1 + 20 * k])


@every_level
def test_pickled_trees_predict_the_same(level):
    found, columns, rows = random_problem(6, "small")
    compiled = CompiledTrees(found, columns, level)
    expected = compiled.raw(rows)
    again = pickle.loads(pickle.dumps(compiled))
    assert again.level == level
    assert_same_bits(again.raw(rows), expected)


def test_infinite_leaves_stay_infinite():
    found, columns, rows = random_problem(7, "small")
    leaf = found.leaf_value.copy()
    leaf[::5] = np.inf
    found = found._replace(leaf_value=leaf)
    expected = walked(found, columns, rows)
    for level in LEVELS:
        for some in (rows, rows[:3]):
            raw = CompiledTrees(found, columns, level).raw(some)
            assert_same_bits(raw, expected[: len(some)])


def test_names_of_kernels():
    found, columns, _ = random_problem(8, "small")
    portable = CompiledTrees(found, columns, "portable")
    assert {portable.kernel(n) for n in (1, 7, 10**5)} == {trees.PORTABLE}
    if "vnni" not in LEVELS:
        return
    compiled = CompiledTrees(found, columns, "vnni")
    assert compiled.kernel(1) == trees.LANES
    assert compiled.kernel(10**5) == trees.BIT_VECTORS
    deep = CompiledTrees(*random_problem(8, "deep")[:2], "vnni")
    assert {deep.kernel(n) for n in (1, 10**5)} == {trees.COMPLETE}
    wide = random_problem(8, "small", n_thresholds=4000)[:2]
    wide = CompiledTrees(*wide, "vnni")
    assert wide.kernel(1) == trees.COMPLETE
    assert wide.kernel(10**5) == trees.BIT_VECTORS


def test_level_is_that_of_the_process_by_default(monkeypatch):
    found, columns, _ = random_problem(9, "small")
    assert CompiledTrees(found, columns).level == registry.isa()
    monkeypatch.setattr(registry, "isa", lambda: "portable")
    assert CompiledTrees(found, columns).level == "portable"


def test_levels_that_the_machine_does_not_have():
    found, columns, _ = random_problem(10, "small")
    with pytest.raises(ValueError, match=r"level='avx9' must be one of \["):
        CompiledTrees(found, columns, "avx9")


def test_trees_that_no_kernel_takes():
    found, columns, _ = random_problem(11, "small")
    assert CompiledTrees.takes(found, columns)
    wide = columns._replace(feature=np.zeros(2**20 + 1, np.int32))
    assert not CompiledTrees.takes(found, wide)
    with pytest.raises(ValueError, match="1048577 columns, more than any kernel takes"):
        CompiledTrees(found, wide)
