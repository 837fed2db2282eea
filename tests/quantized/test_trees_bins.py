"""Bins tell exactly what comparisons with thresholds tell."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.tree import DecisionTreeRegressor

from uqlib.quantized import _trees
from uqlib.quantized._tree_assembly import CategorySplit, SourceTree, assemble
from uqlib.quantized._tree_bins import bins_of, float32_below, float32_floor
from uqlib.quantized._tree_inputs import TreeInputs
from uqlib.quantized._tree_reference import predict_raw
from uqlib.quantized._trees import (
    LEFT,
    RIGHT,
    ZERO,
    ZERO_LEFT,
    ZERO_RIGHT,
    BinColumns,
    UnsupportedTreesError,
)

doubles = st.floats(allow_nan=False, width=64)
singles = st.floats(allow_nan=False, width=32)


def one_column(thresholds, missing=RIGHT, table=()):
    numbers = np.unique(np.asarray(thresholds))
    return BinColumns(
        feature=np.zeros(1, np.int32),
        missing=np.array([missing], np.uint8),
        threshold_start=np.array([0, numbers.size], np.int32),
        thresholds=numbers,
        table_start=np.array([0, len(table)], np.int32),
        tables=np.array(table, np.uint8),
    )


@given(st.lists(doubles, min_size=1, max_size=12), st.lists(doubles, max_size=8))
@example([0.0, np.inf], [-0.0, np.inf, -np.inf])
@example([-0.0], [0.0, 5e-324, -5e-324])
def test_bins_compare_as_doubles_do(thresholds, others):
    columns = one_column(thresholds)
    with np.errstate(over="ignore"):
        around = [np.nextafter(thresholds, end) for end in (-np.inf, np.inf)]
    x = np.concatenate([thresholds, *around, others])
    bins = bins_of(columns, x[:, None])[0]
    for k, threshold in enumerate(columns.thresholds):
        np.testing.assert_array_equal(bins <= k, x <= threshold)


@given(st.lists(singles, min_size=1, max_size=12), st.lists(singles, max_size=8))
def test_bins_compare_as_singles_do(thresholds, others):
    columns = one_column(np.array(thresholds, np.float32))
    x = np.array(thresholds + others, np.float32)
    bins = bins_of(columns, x[:, None])[0]
    for k, threshold in enumerate(columns.thresholds):
        np.testing.assert_array_equal(bins <= k, x <= threshold)


@given(st.lists(doubles, min_size=1, max_size=8), st.lists(singles, max_size=8))
@example([1e300, -1e300, 5e-324, -5e-324, 3.4028236e38], [np.inf, -np.inf, 0.0])
def test_doubles_become_singles_that_compare_alike(thresholds, others):
    thresholds = np.array(thresholds)
    floors = float32_floor(thresholds)
    with np.errstate(over="ignore"):
        x = np.concatenate(
            [floors, np.nextafter(floors, np.float32(np.inf)), others]
        ).astype(np.float32)
    for threshold, floor in zip(thresholds, floors, strict=True):
        np.testing.assert_array_equal(x <= floor, x.astype(float) <= threshold)


@given(st.lists(singles.filter(lambda t: t > -np.inf), min_size=1), st.lists(singles))
@example([0.0, -0.0, np.inf], [0.0, -0.0, -1e-45, np.inf])
def test_below_turns_strict_comparisons(thresholds, others):
    thresholds = np.array(thresholds, np.float32)
    below = float32_below(thresholds)
    x = np.concatenate([thresholds, below, others]).astype(np.float32)
    for threshold, under in zip(thresholds, below, strict=True):
        np.testing.assert_array_equal(x <= under, x < threshold)


@pytest.mark.parametrize(
    ("missing", "of_nan", "of_zero"),
    [(RIGHT, 3, 1), (LEFT, 0, 1), (ZERO, 1, 1), (ZERO_RIGHT, 3, 3), (ZERO_LEFT, 0, 0)],
)
def test_missing_values_have_their_own_bins(missing, of_nan, of_zero):
    columns = one_column([-1.0, 0.0, np.inf], missing)
    x = np.array([[np.nan], [0.0], [-0.0], [np.inf], [-5.0]])
    expected = [of_nan, of_zero, of_zero, 2, 0]
    np.testing.assert_array_equal(bins_of(columns, x)[0], expected)


@pytest.mark.parametrize("missing", [LEFT, RIGHT])
def test_categories_are_looked_up(missing):
    columns = one_column([], missing, table=[1, 0, 1])
    x = np.array([0, 1, 2, 1.9, -0.5, -1, 3, 1e300, np.inf, -np.inf, np.nan])
    other = int(missing == RIGHT)
    expected = [1, 0, 1, 0, 1] + [other] * 6
    np.testing.assert_array_equal(bins_of(columns, x[:, None])[0], expected)


@pytest.mark.parametrize(("count", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_width_of_bins(count, dtype):
    columns = one_column(np.arange(float(count)))
    bins = bins_of(columns, np.array([[-1.0], [np.inf], [np.nan]]))
    assert bins.dtype == dtype
    np.testing.assert_array_equal(bins[0], [0, count, count])


def assembled(trees, n_features=2):
    return assemble(
        trees,
        baseline=np.zeros(1),
        link="identity",
        source="forest",
        inputs=TreeInputs("sklearn", "Model", n_features),
        source_nbytes=0,
    )


def stump(threshold, missing=RIGHT, categories=None):
    return SourceTree(
        left=np.array([1, -1, -1]),
        right=np.array([2, -1, -1]),
        feature=np.zeros(3, int),
        threshold=np.full(3, threshold),
        missing=np.full(3, missing),
        value=np.array([[0.0], [1.0], [2.0]]),
        categories=categories or {},
    )


def test_columns_are_shared_by_trees():
    even = CategorySplit(np.array([0, 1, 0], np.uint8), RIGHT)
    odd = CategorySplit(np.array([1, 0, 1], np.uint8), LEFT)
    trees = assembled(
        [
            stump(0.5),
            stump(0.5),
            stump(-1.0),
            stump(0.5, LEFT),
            stump(0.0, categories={0: even}),
            stump(9.0, categories={0: odd}),
            stump(7.0, categories={0: even}),
        ]
    )
    assert trees.columns.n_columns == 4
    np.testing.assert_array_equal(np.bincount(trees.node_column), [3, 1, 2, 1])
    np.testing.assert_array_equal(trees.node_bin, [1, 1, 0, 0, 0, 0, 0])
    x = np.array([[0.0, 0], [1, 0], [2, 0], [np.nan, 0]])
    np.testing.assert_array_equal(
        predict_raw(trees, x)[:, 0],
        [1 + 1 + 2 + 1 + 1 + 2 + 1, 2 * 6 + 1, 7 * 2 - 2, 2 * 3 + 1 + 2 + 1 + 2],
    )


def test_no_trees_at_all():
    trees = assembled([])
    np.testing.assert_array_equal(predict_raw(trees, np.ones((3, 2))), np.zeros((3, 1)))
    assert trees.n_trees == 0


def test_what_cannot_be_binned_is_told(monkeypatch):
    with pytest.raises(UnsupportedTreesError, match="compares with NaN"):
        assembled([stump(np.nan)])
    monkeypatch.setattr("uqlib.quantized._tree_assembly.MAX_THRESHOLDS", 2)
    with pytest.raises(UnsupportedTreesError, match="a feature has 3 thresholds"):
        assembled([stump(1.0), stump(2.0), stump(3.0)])
    assert np.iinfo(np.uint16).max == _trees.MAX_THRESHOLDS


def test_thresholds_of_a_forest_lie_between_training_values():
    # Halves of neighboring singles are no singles: the cast decides, not the double.
    base = np.float32(100.0)
    x = np.array([base, np.nextafter(base, np.float32(np.inf))])[:, None]
    tree = DecisionTreeRegressor().fit(x, [0.0, 1.0])
    middle = tree.tree_.threshold[0]
    assert x[0, 0] <= float32_floor(np.array([middle]))[0] < x[1, 0]
