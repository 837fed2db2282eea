"""Coverage by group and by size: against slow loops, by identities, bad input."""

import math
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uqlib.metrics._conditional import (
    group_coverage,
    group_coverage_gap,
    size_stratified_coverage,
    stratified_coverage,
)

INF = np.inf

weightings = pytest.mark.parametrize("weighted", [False, True])
by_size = pytest.mark.parametrize(
    "metric", [stratified_coverage, size_stratified_coverage]
)
by_group = pytest.mark.parametrize("metric", [group_coverage, group_coverage_gap])


def case(n=90, seed=0, weighted=False):
    """Return covered, groups, sizes with ties, and weights of which some are 0."""
    rng = np.random.default_rng(seed)
    groups = np.array(["a", "b", "c", "d"])[rng.integers(0, 4, n)]
    weight = rng.exponential(size=n) if weighted else None
    if weighted:
        weight[:: max(2, n // 10)] = 0.0
        weight[1] = 1.0
    size = np.round(8 * rng.exponential(size=n)) / 8
    return rng.random(n) < 0.8, groups, size, weight


def same(a, b):
    return np.asarray(a) == pytest.approx(np.asarray(b), rel=1e-12, abs=1e-12)


def refuses(message, metric, *args, error=ValueError, **kwargs):
    with pytest.raises(error, match=re.escape(message)):
        metric(*args, **kwargs)


def slow_share(rows, covered, weight):
    """Return coverage and standard error of a list of rows, one by one."""
    total = sum(weight[i] for i in rows)
    share = sum(weight[i] for i in rows if covered[i]) / total
    square = sum((weight[i] * (float(covered[i]) - share)) ** 2 for i in rows)
    return share, math.sqrt(square) / total


def slow_strata(size, weight, n_bins):
    """Return the rows of each stratum, from the definition."""
    rows = [i for i in range(len(size)) if weight[i] > 0]
    finite = [i for i in rows if size[i] < INF]
    values = sorted({size[i] for i in finite})
    strata = {}
    total = sum(weight[i] for i in finite)
    for rank, value in enumerate(values):
        tied = [i for i in finite if size[i] == value]
        if n_bins is None or len(values) <= n_bins:
            number = rank
        else:
            below = sum(weight[i] for i in finite if size[i] < value)
            middle = below + sum(weight[i] for i in tied) / 2
            number = math.floor(n_bins * middle / total + 1e-12)
        strata.setdefault(number, []).extend(tied)
    endless = [i for i in rows if size[i] == INF]
    return [strata[k] for k in sorted(strata)] + ([endless] if endless else [])


# ---------------------------------------------------------------------- by group


@weightings
def test_groups_by_counting(weighted):
    covered, groups, _, weight = case(weighted=weighted)
    found = group_coverage(covered, groups, sample_weight=weight)
    w = np.ones(covered.size) if weight is None else weight
    assert found.group.tolist() == ["a", "b", "c", "d"]
    for k, name in enumerate(found.group):
        rows = [i for i in range(w.size) if groups[i] == name and w[i] > 0]
        share, error = slow_share(rows, covered, w)
        assert same(found.coverage[k], share)
        assert same(found.standard_error[k], error)
        assert found.n_samples[k] == len(rows)


def test_standard_error_of_equal_weights():
    covered, groups, _, _ = case()
    found = group_coverage(covered, groups)
    variance = found.coverage * (1 - found.coverage) / found.n_samples
    assert same(found.standard_error, np.sqrt(variance))
    equal = group_coverage(covered, groups, sample_weight=np.full(covered.size, 3.0))
    for a, b in zip(equal[1:], found[1:], strict=True):
        assert same(a, b)


@given(seed=st.integers(0, 10**6), weighted=st.booleans())
def test_groups_add_up_to_the_coverage(seed, weighted):
    covered, groups, _, weight = case(40, seed, weighted)
    found = group_coverage(covered, groups, sample_weight=weight)
    w = np.ones(covered.size) if weight is None else weight
    mass = np.array([w[groups == g].sum() for g in found.group])
    assert same(found.coverage @ mass / mass.sum(), covered @ w / w.sum())
    assert found.n_samples.sum() == np.sum(w > 0)


@given(seed=st.integers(0, 10**6))
def test_weighted_groups_do_not_depend_on_the_scale_of_a_group(seed):
    covered, groups, _, weight = case(40, seed, True)
    # Coverage and error of a group see only ratios of the weights in it.
    factor = np.where(groups == "a", 1e-250, np.where(groups == "b", 1e250, 1.0))
    scaled = group_coverage(covered, groups, sample_weight=weight * factor)
    plain = group_coverage(covered, groups, sample_weight=weight)
    assert same(scaled.coverage, plain.coverage)
    assert same(scaled.standard_error, plain.standard_error)


def test_integer_weights_are_repeated_rows_but_for_the_error():
    covered, groups, size, _ = case()
    counts = np.random.default_rng(2).integers(0, 4, covered.size)
    rows = np.repeat(np.arange(covered.size), counts)
    found = group_coverage(covered, groups, sample_weight=counts)
    assert same(found.coverage, group_coverage(covered[rows], groups[rows]).coverage)
    strata = stratified_coverage(covered, size, n_bins=5, sample_weight=counts)
    repeated = stratified_coverage(covered[rows], size[rows], n_bins=5)
    assert same(strata.coverage, repeated.coverage)
    assert np.array_equal(strata.size_min, repeated.size_min)
    assert np.array_equal(strata.size_max, repeated.size_max)


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3)), min_size=1, max_size=12),
    st.integers(1, 5),
    st.sampled_from([1.0, 0.1, 1 / 3, 0.7, 1e-300]),
)
@example(list(enumerate([2, 3, 2, 2, 3])), 3, 1.0)
def test_strata_of_integer_weights_on_their_borders(rows, n_bins, scale):
    size, counts = np.array(rows).T
    if not counts.any():
        counts[0] = 1
    covered = size % 2 == 0
    found = stratified_coverage(
        covered, size, n_bins=n_bins, sample_weight=scale * counts
    )
    repeated = stratified_coverage(
        np.repeat(covered, counts), np.repeat(size, counts), n_bins=n_bins
    )
    assert found.size_max.tolist() == repeated.size_max.tolist()
    assert same(found.coverage, repeated.coverage)


def test_gap_is_zero_where_groups_are_equal():
    covered, groups = [True, False] * 6, list("aabbccaabbcc")
    assert group_coverage_gap(covered, groups) == 0.0
    assert group_coverage_gap(covered, groups, 0.5) == 0.0
    assert group_coverage_gap(covered, groups, 0.25) == 0.0
    assert same(group_coverage_gap(covered, groups, 0.9), 0.4)
    assert group_coverage_gap([True] * 4, list("abab"), 0.9) == 0.0


def test_gap_by_its_definition():
    covered, groups, _, weight = case(weighted=True)
    coverage = group_coverage(covered, groups, sample_weight=weight).coverage
    spread = group_coverage_gap(covered, groups, sample_weight=weight)
    assert same(spread, max(coverage) - min(coverage))
    for level in (0.5, 0.9):
        found = group_coverage_gap(covered, groups, level, sample_weight=weight)
        assert same(found, max(0.0, level - min(coverage)))


def test_one_group_and_one_row():
    covered = [True, False, True, True]
    found = group_coverage(covered, [7] * 4)
    assert found.coverage.tolist() == [0.75]
    assert group_coverage_gap(covered, [7] * 4) == 0.0
    alone = group_coverage([False], ["x"])
    assert (alone.coverage[0], alone.standard_error[0], alone.n_samples[0]) == (0, 0, 1)


def test_a_group_without_weight_is_not_there():
    found = group_coverage([True, False], ["a", "b"], sample_weight=[1.0, 0.0])
    assert found.group.tolist() == ["a"]
    gap = group_coverage_gap([True, False], ["a", "b"], sample_weight=[1.0, 0.0])
    assert gap == 0.0


# ----------------------------------------------------------------------- by size


@weightings
@pytest.mark.parametrize("n_bins", [1, 2, 3, 7, 10, 1000, None])
def test_strata_by_counting(weighted, n_bins):
    for seed in range(5):
        covered, _, size, weight = case(60, seed, weighted)
        size[:: 9 + seed] = INF
        found = stratified_coverage(covered, size, n_bins=n_bins, sample_weight=weight)
        w = np.ones(size.size) if weight is None else weight
        expected = slow_strata(size, w, n_bins)
        assert found.n_samples.tolist() == [len(rows) for rows in expected]
        assert found.size_min.tolist() == [min(size[rows]) for rows in expected]
        assert found.size_max.tolist() == [max(size[rows]) for rows in expected]
        shares = np.array([slow_share(rows, covered, w) for rows in expected])
        assert same(found.coverage, shares[:, 0])
        assert same(found.standard_error, shares[:, 1])
        lowest = size_stratified_coverage(
            covered, size, n_bins=n_bins, sample_weight=weight
        )
        assert lowest == found.coverage.min()


@given(
    size=st.lists(st.integers(0, 12), min_size=1, max_size=60),
    n_bins=st.integers(1, 12),
)
def test_what_strata_are(size, n_bins):
    """Ranges of sizes that do not overlap, at most n_bins, every row in one."""
    found = stratified_coverage(np.ones(len(size), dtype=bool), size, n_bins=n_bins)
    assert len(found.n_samples) <= n_bins
    assert found.n_samples.min() > 0
    assert found.n_samples.sum() == len(size)
    assert np.all(found.size_min <= found.size_max)
    assert np.all(found.size_max[:-1] < found.size_min[1:])


@given(n_bins=st.integers(1, 20), more=st.integers(0, 100))
def test_without_ties_strata_are_equal(n_bins, more):
    n = n_bins + more
    rows = stratified_coverage(np.ones(n, dtype=bool), np.arange(n), n_bins=n_bins)
    assert rows.n_samples.size == n_bins
    assert rows.n_samples.max() - rows.n_samples.min() <= 1


@weightings
def test_one_stratum_is_the_coverage(weighted):
    covered, _, size, weight = case(weighted=weighted)
    found = size_stratified_coverage(covered, size, n_bins=1, sample_weight=weight)
    assert same(found, np.average(covered, weights=weight))


@weightings
@given(seed=st.integers(0, 10**6))
def test_only_the_order_of_sizes_matters(weighted, seed):
    covered, _, size, weight = case(50, seed, weighted)
    order = np.random.default_rng(seed).permutation(50)
    found = stratified_coverage(covered, size, n_bins=6, sample_weight=weight)
    shuffled = stratified_coverage(
        covered[order],
        np.expm1(size[order]),
        n_bins=6,
        sample_weight=None if weight is None else weight[order],
    )
    assert np.array_equal(shuffled.n_samples, found.n_samples)
    assert same(shuffled.coverage, found.coverage)


def test_few_sizes_are_strata_each():
    size = [0, 1, 1, 1, 1, 1, 1, 1, 1, 3]
    found = stratified_coverage([True] * 9 + [False], size)
    assert found.size_min.tolist() == found.size_max.tolist() == [0.0, 1.0, 3.0]
    assert found.n_samples.tolist() == [1, 8, 1]
    assert size_stratified_coverage([True] * 9 + [False], size) == 0.0
    # As many sizes as strata asked for, however unequal their numbers of rows.
    uneven = stratified_coverage([True] * 10, [0, 1] + [2] * 8, n_bins=3)
    assert uneven.n_samples.tolist() == [1, 1, 8]
    # Asked for two, the common size goes to the stratum of its middle.
    assert stratified_coverage([True] * 10, size, n_bins=2).size_max.tolist() == [0, 3]


def test_infinite_widths_are_a_stratum_of_their_own():
    covered, size = [False, True, True, True, True], [1.0, 2.0, 3.0, INF, INF]
    found = stratified_coverage(covered, size, n_bins=1)
    assert found.size_max.tolist() == [3.0, INF]
    assert same(found.coverage, [2 / 3, 1.0])
    everything = stratified_coverage(covered, [INF] * 5)
    assert everything.size_min.tolist() == [INF]
    assert same(everything.coverage, [0.8])


def test_strata_equal_those_of_a_peer_without_ties():
    peer = pytest.importorskip("mapie.metrics.regression")
    rng = np.random.default_rng(0)
    y, interval = rng.normal(size=60), np.sort(2 * rng.normal(size=(60, 2)), axis=1)
    covered = (interval[:, 0] <= y) & (y <= interval[:, 1])
    for n_bins in (2, 3, 5, 10):
        found = stratified_coverage(covered, np.diff(interval)[:, 0], n_bins=n_bins)
        assert same(found.coverage, peer.regression_ssc(y, interval, n_bins)[0])


def test_a_model_that_adapts_and_one_that_does_not():
    """Equal coverage of all rows; only the strata tell which widths are honest."""
    rng = np.random.default_rng(0)
    spread = np.repeat([1.0, 2.0, 4.0], 400)
    error = spread * rng.uniform(-1, 1, 1200)
    honest = 0.9 * spread
    reverse = 0.9 * spread[::-1]
    assert size_stratified_coverage(np.abs(error) <= honest, honest) > 0.85
    assert size_stratified_coverage(np.abs(error) <= reverse, reverse) < 0.3


# -------------------------------------------------------------------- containers


def test_frames_are_taken(df_module):
    covered, groups, size, weight = case(weighted=True)
    c, g, s, w = (df_module.make_series(v) for v in (covered, groups, size, weight))
    found = group_coverage(c, g, sample_weight=w)
    for a, b in zip(
        found, group_coverage(covered, groups, sample_weight=weight), strict=True
    ):
        assert np.array_equal(a, b)
    expected = size_stratified_coverage(covered, size, sample_weight=weight)
    assert size_stratified_coverage(c, s, sample_weight=w) == expected


def test_lists_objects_float32_strides_and_read_only():
    covered, groups, size, _ = case()
    expected = group_coverage_gap(covered, groups)
    assert group_coverage_gap(covered.tolist(), groups.tolist()) == expected
    assert group_coverage_gap(covered.astype(object), groups.astype(object)) == expected
    lowest = size_stratified_coverage(covered, size)
    twice = np.repeat(covered, 2)[::2]
    twice.setflags(write=False)
    assert size_stratified_coverage(twice, size.astype(np.float32)) == lowest


# --------------------------------------------------------------------- bad input


@by_group
def test_bad_groups(metric):
    refuses("groups must have shape (2,)", metric, [True, False], ["a"])
    refuses("groups must have shape (2,)", metric, [True, False], [["a"], ["b"]])
    refuses("groups has missing labels in 1 rows", metric, [True, False], ["a", None])
    refuses("groups has missing labels in 1 rows", metric, [True] * 2, [1.0, np.nan])
    refuses("groups mixes labels", metric, [True] * 2, np.array(["a", 1], dtype=object))


@pytest.mark.parametrize(
    "metric",
    [group_coverage, group_coverage_gap, stratified_coverage, size_stratified_coverage],
)
def test_bad_coverage(metric):
    for bad in ([1, 0], [0.9, 0.8], ["yes", "no"], [True, None], [True, np.nan]):
        refuses("covered must be boolean", metric, bad, [1, 2], error=TypeError)
    refuses("covered must have shape (n_samples,)", metric, [[True], [False]], [1, 2])
    refuses("covered is empty", metric, [], [])
    for weight in ([1.0], [0.0, 0.0], [-1.0, 2.0], [np.nan, 1.0]):
        refuses("sample_weight must", metric, [True] * 2, [1, 2], sample_weight=weight)


@by_size
def test_bad_sizes(metric):
    refuses("size must be at least 0, got -1.0", metric, [True] * 2, [-1.0, 2.0])
    refuses("size must be at least 0, got -inf", metric, [True] * 2, [-INF, 2.0])
    refuses("size contains NaN", metric, [True] * 2, [np.nan, 2.0])
    refuses("size has 1 rows but covered has 2", metric, [True] * 2, [1.0])
    refuses("size must be 1-D", metric, [True] * 2, [[1.0], [2.0]])


@by_size
def test_bad_numbers_of_bins(metric):
    refuses("n_bins must be at least 1, got 0", metric, [True], [1.0], n_bins=0)
    for bad in (2.0, True, "3"):
        message = f"n_bins must be an integer, at least 1, or None, got {bad!r}"
        refuses(message, metric, [True], [1.0], n_bins=bad, error=TypeError)


def test_bad_levels():
    for bad in (0.0, 1.0, 90):
        refuses("confidence_level must lie", group_coverage_gap, [True], [1], bad)
    message = "confidence_level must be a real number"
    refuses(message, group_coverage_gap, [True], [1], "0.9", error=TypeError)
