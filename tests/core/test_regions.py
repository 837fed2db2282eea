"""Regions for several outputs: full conformal sets and coverage by enumeration."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from uqlib import InfiniteIntervalWarning, conformal_quantile
from uqlib._core.ranks import rank_from_fraction
from uqlib._core.regions import box_thresholds, ellipsoid
from uqlib.conformal import conformal_ellipsoid, max_rank_thresholds

RNG = np.random.default_rng(0)
LEVELS = st.sampled_from(
    [Fraction(1, 5), Fraction(1, 2), Fraction(3, 4), Fraction(9, 10)]
)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 4))
TIED = arrays(np.float64, SHAPES, elements=st.integers(0, 5).map(float))
VECTORS = arrays(np.float64, SHAPES, elements=st.integers(-5, 5).map(float))
CORRELATED = RNG.normal(size=(60, 3)) @ np.array(
    [[1, 0.9, 0], [0, 0.5, 0], [0, 0, 7.0]]
)


def each_in_turn(matrix):
    """Every row as the new one, with the others as calibration rows."""
    for new in range(len(matrix)):
        yield np.delete(matrix, new, axis=0), matrix[new]


def in_max_rank_set(scores, new, level):
    """Whether a score vector is in the full conformal set, by its definition."""
    everything = np.vstack([scores, new])
    ranks = (everything[None, :, :] < everything[:, None, :]).sum(axis=1)
    largest = ranks.max(axis=1)
    k = rank_from_fraction(len(scores), level)
    return (largest[:-1] < largest[-1]).sum() < k


# Boxes


@given(TIED, LEVELS)
def test_boxes_cover_in_k_of_n_plus_1_exchanges(matrix, level):
    # The theorem without probability: among any n + 1 rows at least k are in the box
    # that the others make. Averaged over exchangeable rows this is coverage >= p.
    k = rank_from_fraction(len(matrix) - 1, level)
    covered = [
        (new <= box_thresholds(others, level)).all()
        for others, new in each_in_turn(matrix)
    ]
    assert sum(covered) >= k


@given(TIED, LEVELS)
def test_the_box_is_the_smallest_around_the_full_conformal_set(scores, level):
    thresholds = box_thresholds(scores, level)
    k = rank_from_fraction(len(scores), level)
    for j, threshold in enumerate(thresholds):
        new = np.full(scores.shape[1], -np.inf)
        values = np.unique(scores[:, j])
        for value in [*(values - 0.25), *values, values[-1] + 1]:
            new[j] = value
            inside = in_max_rank_set(scores, new, level)
            assert not inside or value <= threshold
            # Between scores the set is open or closed alike: it reaches the threshold.
            if value < threshold and value not in values:
                assert inside
    if k > len(scores):
        assert np.isposinf(thresholds).all()


@given(TIED, LEVELS, st.data())
def test_the_full_conformal_set_lies_in_the_box(scores, level, data):
    elements = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, 2.5, 3.0, 4.5, 5.0, 6.0])
    new = data.draw(arrays(np.float64, scores.shape[1], elements=elements))
    if in_max_rank_set(scores, new, level):
        assert (new <= box_thresholds(scores, level)).all()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), LEVELS)
def test_one_output_has_the_conformal_quantile(values, level):
    column = np.array(values, dtype=float)
    k = rank_from_fraction(column.size, level)
    expected = sorted(values)[k - 1] if k <= column.size else np.inf
    assert box_thresholds(column[:, None], level) == [expected]


def test_calibration_ranks_alone_would_not_be_valid():
    # One row (1, 2) and the new row (2, 1): whichever is new, a box at the largest
    # calibration rank misses it, though one of two should be covered.
    matrix = np.array([[1.0, 2.0], [2.0, 1.0]])
    assert not (matrix[0] <= matrix[1]).all()
    assert not (matrix[1] <= matrix[0]).all()
    with pytest.warns(InfiniteIntervalWarning):
        np.testing.assert_array_equal(max_rank_thresholds(matrix[:1], 0.5), np.inf)


def test_boxes_by_the_formula():
    scores, level = RNG.normal(size=(40, 3)), Fraction(4, 5)
    ranks = scores.argsort(axis=0).argsort(axis=0) + 1
    expected = []
    for j in range(3):
        others = np.delete(ranks, j, axis=1).max(axis=1)
        rank = np.sort(np.maximum(ranks[:, j], 1 + others))[33 - 1]
        expected.append(np.sort(scores[:, j])[rank - 1])
    assert rank_from_fraction(40, level) == 33
    np.testing.assert_array_equal(max_rank_thresholds(scores, 0.8), expected)


def test_equal_ranks_cost_one_rank_and_independent_ones_more():
    column = np.abs(RNG.normal(size=999))
    same = max_rank_thresholds(np.column_stack([column, column**3]), 0.9)
    alone = np.sort(column)
    assert conformal_quantile(column, 0.9) == alone[899]
    np.testing.assert_array_equal(same, [alone[900], alone[900] ** 3])
    other = np.abs(RNG.normal(size=999))
    apart = max_rank_thresholds(np.column_stack([column, other]), 0.9)
    bonferroni = [conformal_quantile(c, 0.95) for c in (column, other)]
    assert (apart > same[0]).all()
    assert (apart <= bonferroni).all()


def test_boxes_do_not_see_units_or_the_order_of_rows_and_outputs():
    scores = np.abs(CORRELATED)
    box = max_rank_thresholds(scores, 0.8)
    np.testing.assert_array_equal(max_rank_thresholds(scores[::-1], 0.8), box)
    np.testing.assert_array_equal(max_rank_thresholds(scores[:, ::-1], 0.8), box[::-1])
    np.testing.assert_array_equal(
        max_rank_thresholds(scores * [2.0, 4.0, 0.5], 0.8), box * [2.0, 4.0, 0.5]
    )
    np.testing.assert_array_equal(max_rank_thresholds(scores**2, 0.8), box**2)


@pytest.mark.parametrize("function", [box_thresholds, ellipsoid])
def test_regions_are_nested_in_the_level(function):
    data = np.abs(CORRELATED) if function is box_thresholds else CORRELATED
    sizes = [function(data, Fraction(step, 50)) for step in range(1, 50)]
    sizes = [size if function is box_thresholds else size[1] for size in sizes]
    assert all(np.all(a <= b) for a, b in pairwise(sizes))


@pytest.mark.parametrize(("n_outputs", "level"), [(1, 0.9), (2, 0.9), (5, 0.8)])
def test_the_warning_names_rows_that_suffice(n_outputs, level):
    exact = Fraction(str(level))
    enough = math.ceil((n_outputs - 1 + exact) / (1 - exact))
    for _ in range(20):
        scores = RNG.normal(size=(enough, n_outputs))
        assert np.isfinite(max_rank_thresholds(scores, level)).all()
    k = rank_from_fraction(8, exact)
    # Eight rows, the largest ranks all in different ones.
    scores = np.arange(8 * n_outputs, dtype=float).reshape(8, n_outputs)
    for j in range(n_outputs):
        scores[j, j] += 100
    assert k >= 8
    with pytest.warns(InfiniteIntervalWarning, match=f"{enough} suffice") as caught:
        assert np.isposinf(max_rank_thresholds(scores, level)).any()
    assert len(caught) == 1


def test_an_output_without_error_does_not_widen_the_others():
    column = RNG.normal(size=50)
    thresholds = max_rank_thresholds(np.column_stack([column, np.zeros(50)]), 0.9)
    np.testing.assert_array_equal(thresholds, [conformal_quantile(column, 0.9), 0.0])


def test_no_rows_and_infinite_scores():
    with pytest.warns(InfiniteIntervalWarning):
        np.testing.assert_array_equal(
            max_rank_thresholds(np.empty((0, 2)), 0.5), np.inf
        )
    # An infinite score is a score: its rank says that the bound is infinite.
    scores = np.column_stack([np.arange(10.0), np.full(10, np.inf)])
    np.testing.assert_array_equal(max_rank_thresholds(scores, 0.5), [5.0, np.inf])


# Ellipsoids


def inside(whitening, radius, residual):
    return np.linalg.norm(whitening @ residual) <= radius


@given(VECTORS, LEVELS)
def test_ellipsoids_cover_in_k_of_n_plus_1_exchanges(matrix, level):
    k = rank_from_fraction(len(matrix) - 1, level)
    covered = [
        inside(*ellipsoid(others, level), new) for others, new in each_in_turn(matrix)
    ]
    assert sum(covered) >= k


@pytest.mark.parametrize("n_outputs", [2, 3])
def test_the_full_conformal_set_lies_in_the_ellipsoid(n_outputs):
    rng, level = np.random.default_rng(n_outputs), Fraction(3, 4)
    residuals = rng.normal(size=(12, n_outputs))
    k = rank_from_fraction(12, level)
    whitening, radius = ellipsoid(residuals, level)
    members = 0
    for new in 4 * rng.normal(size=(500, n_outputs)):
        everything = np.vstack([residuals, new])
        inverse = np.linalg.inv(everything.T @ everything)
        scores = np.einsum("ij,jk,ik->i", everything, inverse, everything)
        if (scores[:-1] < scores[-1]).sum() < k:
            members += 1
            assert inside(whitening, radius, new)
    assert 0 < members < 500


def test_the_ellipsoid_by_the_formula():
    n, k = 60, 49  # ceil(61 * 0.8)
    whitening, radius = conformal_ellipsoid(CORRELATED, 0.8)
    moments = CORRELATED.T @ CORRELATED / n
    np.testing.assert_allclose(
        whitening.T @ whitening, np.linalg.inv(moments), rtol=1e-10
    )
    leverages = (
        np.einsum("ij,jk,ik->i", CORRELATED, np.linalg.inv(moments), CORRELATED) / n
    )
    assert leverages.sum() == pytest.approx(3)
    h = np.sort(leverages)[k - 1]
    assert radius == pytest.approx(math.sqrt(n * h / (1 - h)), rel=1e-10)


def test_ellipsoids_follow_linear_transformations():
    mixing = np.array([[2.0, 1, 0], [0, 1e-6, 3], [1, 0, 1e5]])
    whitening, radius = conformal_ellipsoid(CORRELATED, 0.8)
    mixed, same_radius = conformal_ellipsoid(CORRELATED @ mixing, 0.8)
    assert same_radius == pytest.approx(radius, rel=1e-9)
    points = RNG.normal(size=(50, 3)) * 5
    np.testing.assert_allclose(
        np.linalg.norm(points @ mixing @ mixed.T, axis=1),
        np.linalg.norm(points @ whitening.T, axis=1),
        rtol=1e-8,
    )


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=30), LEVELS)
def test_one_output_has_the_interval_of_absolute_residuals(values, level):
    column = np.array(values, dtype=float)
    whitening, radius = ellipsoid(column[:, None], level)
    assert whitening.tolist() == [[1.0]]
    assert [radius] == box_thresholds(np.abs(column)[:, None], level)


@pytest.mark.parametrize(
    ("residuals", "level", "message"),
    [
        (np.empty((0, 2)), 0.5, "0 calibration rows are too few"),
        (CORRELATED[:8], 0.9, "at least 9 are needed"),
        (CORRELATED[:2], 0.5, "2 calibration rows do not span 3 outputs"),
        (CORRELATED[:3], 0.5, "3 calibration rows do not span 3 outputs"),
        (CORRELATED[:, [0, 1, 0]], 0.5, "do not span 3 outputs"),
        (CORRELATED * [1, 0, 1], 0.5, "do not span 3 outputs"),
        (np.zeros((20, 2)), 0.5, "do not span 2 outputs"),
    ],
)
def test_what_has_no_ellipsoid_is_the_whole_space(residuals, level, message):
    with pytest.warns(InfiniteIntervalWarning, match=message) as caught:
        whitening, radius = conformal_ellipsoid(residuals, level)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert np.isposinf(radius)
    np.testing.assert_array_equal(whitening, np.eye(residuals.shape[1]))


@pytest.mark.parametrize("function", [max_rank_thresholds, conformal_ellipsoid])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0], r"must have shape \(n, n_outputs\)"),
        (np.empty((3, 0)), "at least one column"),
        ([[1.0, np.nan]], "contains NaN"),
    ],
)
def test_bad_input_is_named(function, values, message):
    with pytest.raises(ValueError, match=message):
        function(values, 0.9)


def test_bad_levels_and_infinite_residuals_are_named():
    for function in (max_rank_thresholds, conformal_ellipsoid):
        with pytest.raises(ValueError, match="confidence_level"):
            function([[1.0]], 1.0)
    with pytest.raises(ValueError, match="residuals contains infinity"):
        conformal_ellipsoid([[1.0, np.inf]], 0.5)


def test_layout_and_precision_do_not_matter():
    narrow = np.asfortranarray(CORRELATED.astype(np.float32))
    wide = narrow.astype(np.float64)
    np.testing.assert_array_equal(
        max_rank_thresholds(np.abs(narrow), 0.8), max_rank_thresholds(np.abs(wide), 0.8)
    )
    first, second = conformal_ellipsoid(narrow, 0.8), conformal_ellipsoid(wide, 0.8)
    np.testing.assert_allclose(first[0], second[0], rtol=1e-9)
    assert first[1] == pytest.approx(second[1], rel=1e-9)
