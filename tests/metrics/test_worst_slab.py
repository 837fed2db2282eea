"""The worst slab: against enumeration, its invariances, and the honest split."""

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqlib._core.slabs import _distinct, lowest_mean_segment
from uqlib._core.slabs import worst_slab as find_worst_slab
from uqlib.metrics._slab import worst_slab, worst_slab_coverage

INF = np.inf


def refuses(message, metric, *args, error=ValueError, **kwargs):
    with pytest.raises(error, match=re.escape(message)):
        metric(*args, **kwargs)


def case(n=120, d=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * [1.0, 100.0, 0.01][:d]
    return X, rng.random(n) < 0.8


def slow_worst(X, covered, n_min, directions):
    """Return the lowest coverage over all slabs, each counted row by row."""
    lowest = Fraction(int(covered.sum()), covered.size)
    for direction in directions:
        z = X @ direction
        ends = sorted(set(z.tolist()))
        for i, a in enumerate(ends):
            for b in ends[i:]:
                inside = (a <= z) & (z <= b)
                if inside.sum() >= n_min:
                    share = Fraction(int(covered[inside].sum()), int(inside.sum()))
                    lowest = min(lowest, share)
    return lowest


# ------------------------------------------------------------------- the segment


@given(
    blocks=st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 4)), min_size=1, max_size=12
    ),
    data=st.data(),
)
@settings(max_examples=150)
def test_segment_by_enumeration(blocks, data):
    counts = np.array([n for n, _ in blocks])
    hits = np.array([min(n, k) for n, k in blocks])
    total = np.concatenate([[0], np.cumsum(counts)])
    found_hits = np.concatenate([[0], np.cumsum(hits)])
    n_min = data.draw(st.integers(1, int(total[-1])))
    lowest = min(
        Fraction(int(found_hits[j] - found_hits[i]), int(total[j] - total[i]))
        for j in range(1, total.size)
        for i in range(j)
        if total[j] - total[i] >= n_min
    )
    known = int(found_hits[-1]), int(total[-1])
    segment = lowest_mean_segment(total, found_hits, n_min, known)
    if segment is None:
        assert lowest == Fraction(*known)
    else:
        i, j = segment
        assert total[j] - total[i] >= n_min
        share = Fraction(int(found_hits[j] - found_hits[i]), int(total[j] - total[i]))
        assert share == lowest < Fraction(*known)


def test_no_segment_is_below_the_known_share():
    total, hits = np.array([0, 2, 4]), np.array([0, 1, 2])
    assert lowest_mean_segment(total, hits, 1, (1, 2)) is None
    assert lowest_mean_segment(total, hits, 1, (0, 1)) is None


# ----------------------------------------------------------------- all directions


@pytest.mark.parametrize("seed", range(12))
def test_slab_by_enumeration(seed):
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(1, 16)), int(rng.integers(1, 4))
    # Small integers: rows and projections are tied, and projections are exact.
    X = rng.integers(-2, 3, size=(n, d)).astype(float)
    covered = rng.random(n) < 0.7
    directions = rng.integers(-2, 3, size=(4, d)).astype(float)
    n_min = int(rng.integers(1, n + 1))
    slab = find_worst_slab(X, covered, n_min, directions)
    assert Fraction(slab.n_covered, slab.n_rows) == slow_worst(
        X, covered, n_min, directions
    )
    projection = X @ slab.direction
    inside = (slab.lower <= projection) & (projection <= slab.upper)
    assert inside.sum() == slab.n_rows >= n_min
    assert covered[inside].sum() == slab.n_covered


@pytest.mark.parametrize("min_share", [0.05, 0.1, 0.3, 1 / 3, 0.5, 1.0])
def test_axes_alone_by_enumeration(min_share):
    X, covered = case(40)
    found = worst_slab_coverage(
        X, covered, min_share=min_share, n_directions=0, test_size=None
    )
    share = Fraction(min_share).limit_denominator(10**9)
    n_min = -((-40 * share.numerator) // share.denominator)
    assert found == float(slow_worst(X, covered, n_min, np.eye(3)))


def test_the_least_number_of_rows_is_exact():
    # In floats 0.7 * 10 is more than 7.
    X, covered = np.arange(10.0)[:, None], np.arange(10) >= 7
    slab = worst_slab(X, covered, min_share=0.7, test_size=None)
    assert (slab.coverage, slab.n_samples) == (0.0, 7)


def test_the_fields_describe_the_slab():
    X, covered = case(200)
    slab = worst_slab(X, covered, n_directions=50, test_size=None, rng=0)
    projection = X @ slab.direction
    inside = (slab.lower <= projection) & (projection <= slab.upper)
    assert inside.sum() == slab.n_samples >= 20
    assert covered[inside].mean() == pytest.approx(slab.coverage, rel=1e-15)
    error = np.sqrt(slab.coverage * (1 - slab.coverage) / slab.n_samples)
    assert slab.standard_error == pytest.approx(error, rel=1e-15)
    # Ends lie between rows: rounding of a projection moves none across.
    for end in (slab.lower, slab.upper):
        assert np.isinf(end) or np.abs(projection - end).min() > 1e-9


# -------------------------------------------------------------------- identities


def test_a_slab_of_all_rows_is_the_coverage():
    X, covered = case()
    slab = worst_slab(X, covered, min_share=1.0, test_size=None, n_directions=20)
    assert slab.coverage == covered.mean()
    assert (slab.lower, slab.upper, slab.n_samples) == (-INF, INF, 120)


def test_in_sample_the_value_is_at_most_the_coverage():
    for seed in range(10):
        X, covered = case(seed=seed)
        values = [
            worst_slab_coverage(
                X, covered, min_share=share, n_directions=30, test_size=None, rng=0
            )
            for share in (0.02, 0.05, 0.1, 0.3, 0.6, 1.0)
        ]
        # Smaller slabs may be worse, and all of the larger ones are among them.
        assert values == sorted(values)
        assert values[-1] == covered.mean()


def test_more_directions_are_worse():
    X, covered = case()
    values = [
        worst_slab_coverage(X, covered, n_directions=m, test_size=None, rng=0)
        for m in (0, 10, 100, 300)
    ]
    assert values == sorted(values, reverse=True)


def test_units_and_origins_do_not_matter():
    X, covered = case()
    kwargs = {"n_directions": 40, "rng": 0}
    found = worst_slab(X, covered, **kwargs)
    scale = np.array([2.0**-900, 4.0, 2.0**900])
    scaled = worst_slab(X * scale, covered, **kwargs)
    assert scaled[:3] == found[:3]
    assert scaled.direction * scale == pytest.approx(found.direction)
    moved = worst_slab(X + np.array([5.0, -7.0, 1.0]), covered, **kwargs)
    assert moved[:3] == found[:3]
    assert moved.direction == pytest.approx(found.direction)


def test_reflection_of_all_features():
    X, covered = case()
    kwargs = {"n_directions": 40, "rng": 0, "test_size": None}
    found = worst_slab_coverage(X, covered, **kwargs)
    assert worst_slab_coverage(-X, covered, **kwargs) == found


def test_in_sample_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(0)
    X, covered = case(150)
    X[50:100] = X[:50]  # equal rows, some covered and some not
    kwargs = {"n_directions": 40, "test_size": None}
    found = worst_slab(X, covered, rng=1, **kwargs)
    for _ in range(5):
        order = rng.permutation(150)
        other = worst_slab(X[order], covered[order], rng=1, **kwargs)
        assert other[:3] == found[:3]
        assert np.array_equal(other.direction, found.direction)
        assert other[4:] == found[4:]


def test_equal_rows_stay_together():
    X, covered = np.repeat([[0.0, 1.0], [1.0, 0.0]], 5, axis=0), [True, False] * 5
    slab = worst_slab(X, covered, min_share=0.1, n_directions=50, test_size=None)
    assert (slab.coverage, slab.n_samples) == (0.4, 5)


def test_equal_rows_are_merged_before_any_product():
    """Matrix products may round them apart, by their place and the machine."""
    points, counts, hits = _distinct(
        np.array([[0.0, 1.0], [-0.0, 1.0], [2.0, 0.0], [0.0, 1.0]]),
        np.array([True, False, True, True]),
    )
    assert points.tolist() == [[2.0, 0.0], [0.0, 1.0]]
    assert (counts.tolist(), hits.tolist()) == ([1, 3], [1, 2])


def test_constant_features():
    X, covered = case()
    constant = np.column_stack([X[:, 0], np.full(120, 0.1)])
    slab = worst_slab(constant, covered, n_directions=5, test_size=None, rng=0)
    alone = worst_slab(X[:, :1], covered, test_size=None)
    assert slab.coverage == alone.coverage
    nothing = worst_slab(np.ones((4, 2)), [True, False] * 2, test_size=None)
    assert (nothing.coverage, nothing.n_samples) == (0.5, 4)


def test_one_row():
    assert worst_slab_coverage([[3.0]], [True], test_size=None) == 1.0
    assert worst_slab_coverage([[3.0]], [False], test_size=None) == 0.0


def test_one_feature_needs_no_directions():
    X, covered = case(d=1)
    values = {
        worst_slab_coverage(X, covered, n_directions=m, test_size=None)
        for m in (0, 1, 1000)
    }
    assert len(values) == 1


# --------------------------------------------------------------- the honest split


def test_the_split_by_hand():
    """The slab of the rows that are kept out is recounted on those that are kept."""
    X, covered = case(301)
    seed, n_test = 3, 120  # 0.4 of 301, rounded down
    found = worst_slab(
        X, covered, n_directions=0, test_size=0.4, rng=seed, min_share=0.2
    )
    order = np.random.default_rng(seed)
    order.standard_normal((0, 3))
    test, fit = np.split(order.permutation(301), [n_test])
    chosen = worst_slab(
        X[fit], covered[fit], n_directions=0, test_size=None, min_share=0.2
    )
    # The same axis and rows; only the unit, the standard deviation, differs.
    axis = int(np.flatnonzero(chosen.direction)[0])
    assert np.flatnonzero(found.direction).tolist() == [axis]
    low, high = np.array([chosen.lower, chosen.upper]) / chosen.direction[axis]
    inside = (low <= X[test, axis]) & (X[test, axis] <= high)
    assert found.n_samples == inside.sum()
    assert found.coverage == pytest.approx(covered[test][inside].mean(), rel=1e-15)


def test_in_sample_is_too_low_and_the_split_is_not():
    """A model whose coverage is 0.8 everywhere, 60 samples of 200 rows."""
    honest, optimistic = [], []
    rng = np.random.default_rng(0)
    for _ in range(60):
        X, covered = rng.normal(size=(200, 2)), rng.random(200) < 0.8
        kwargs = {"n_directions": 20, "rng": rng, "min_share": 0.2}
        honest.append(worst_slab(X, covered, **kwargs))
        optimistic.append(worst_slab_coverage(X, covered, test_size=None, **kwargs))
    # Given the slab, the covered rows in it are binomial; together they are normal
    # enough, and 5 standard deviations are left once in a million runs.
    rows = sum(s.n_samples for s in honest)
    hits = sum(s.n_samples * s.coverage for s in honest)
    assert abs(hits / rows - 0.8) < 5 * np.sqrt(0.8 * 0.2 / rows)
    # The least of many shares is lower, by more than the standard deviation of the
    # share of one slab of 40 rows.
    assert np.mean(optimistic) < 0.8 - np.sqrt(0.8 * 0.2 / 40)


def test_a_failing_region_is_found():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 5))
    fails = X[:, 2] > 1.0
    covered = rng.random(2000) < np.where(fails, 0.3, 0.97)
    slab = worst_slab(X, covered, n_directions=100, rng=0)
    assert np.argmax(np.abs(slab.direction)) == 2
    assert slab.coverage < 0.45  # 0.3 in truth, of about 150 rows
    oblique = rng.random(2000) < np.where(X[:, 0] + X[:, 1] > 1.5, 0.3, 0.97)
    assert worst_slab_coverage(X, oblique, n_directions=300, rng=0) < 0.6


def test_results_are_reproducible():
    X, covered = case()
    first = worst_slab(X, covered, n_directions=20, rng=7)
    again = worst_slab(X, covered, n_directions=20, rng=np.random.default_rng(7))
    assert first[:3] == again[:3]
    assert np.array_equal(first.direction, again.direction)
    assert worst_slab_coverage(X, covered, n_directions=20, rng=7) == first.coverage


# -------------------------------------------------------------------- containers


def test_frames_are_taken(df_module):
    X, covered = case()
    frame = df_module.make_dataframe({f"x{k}": X[:, k] for k in range(3)})
    found = worst_slab_coverage(
        frame, df_module.make_series(covered), n_directions=10, rng=0
    )
    assert found == worst_slab_coverage(X, covered, n_directions=10, rng=0)


def test_float32_strides_and_read_only_input():
    X, covered = case()
    X = X.astype(np.float32)
    expected = worst_slab_coverage(X, covered, n_directions=10, rng=0)
    strided = np.asfortranarray(np.repeat(X, 2, axis=0))[::2].astype(np.float64)
    strided.setflags(write=False)
    covered.setflags(write=False)
    assert worst_slab_coverage(strided, covered, n_directions=10, rng=0) == expected


# --------------------------------------------------------------------- bad input


def test_bad_features():
    for bad in (np.nan, INF, -INF):
        refuses("X contains NaN or infinity", worst_slab, [[1.0], [bad]], [True] * 2)
    for shape in ((), (2,), (2, 0), (2, 1, 1)):
        refuses("X must have shape", worst_slab, np.zeros(shape), [True] * 2)


def test_bad_coverage():
    refuses("covered must be boolean", worst_slab, [[1.0]], [1], error=TypeError)
    refuses("covered has 1 rows but X has 2", worst_slab, [[1.0], [2.0]], [True])
    refuses("X is empty", worst_slab, np.empty((0, 1)), [])
    refuses("covered must have shape", worst_slab, [[1.0]], [[True]])


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.1, np.nan, True, "0.1", None])
def test_a_bad_least_share(bad):
    message = f"min_share must be a number in (0, 1], got {bad!r}"
    refuses(message, worst_slab, [[1.0]] * 2, [True] * 2, min_share=bad)


@pytest.mark.parametrize("bad", [0.0, 1.0, 5, np.nan, True, "0.5"])
def test_a_bad_test_size(bad):
    message = f"test_size must be a number in (0, 1) or None, got {bad!r}"
    refuses(message, worst_slab, [[1.0]] * 2, [True] * 2, test_size=bad)


def test_bad_numbers_of_directions():
    args = [[1.0]] * 2, [True] * 2
    refuses("n_directions must be at least 0", worst_slab, *args, n_directions=-1)
    for bad in (1.5, True, "9"):
        message = f"n_directions must be an integer >= 0, got {bad!r}"
        refuses(message, worst_slab, *args, n_directions=bad, error=TypeError)


def test_too_few_rows_for_a_split():
    refuses("test_size=0.5 keeps none of 1 rows", worst_slab, [[1.0]], [True])


def test_no_row_in_the_slab():
    X, covered = np.arange(4.0)[:, None], [True, False, True, True]
    kwargs = {"test_size": 0.25}

    def seed_that_keeps(row):
        draws = (np.random.default_rng(s).permutation(4)[0] for s in range(100))
        return next(s for s, first in enumerate(draws) if first == row)

    # The worst slab of the rows 0, 1 and 2 is [0.5, 1.5], and row 3 is not in it.
    message = "None of the 1 rows kept by test_size is in the slab"
    refuses(message, worst_slab, X, covered, rng=seed_that_keeps(3), **kwargs)
    # Of the rows 1, 2 and 3 it goes up to 1.5 from minus infinity.
    assert worst_slab_coverage(X, covered, rng=seed_that_keeps(0), **kwargs) == 1.0
    # Where all are covered it is everything.
    assert worst_slab_coverage(X, covered, rng=seed_that_keeps(1), **kwargs) == 0.0
