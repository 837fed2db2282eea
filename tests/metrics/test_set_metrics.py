"""Metrics of prediction sets: by counting, by identities, and bad input."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib.metrics._sets import (
    covered_by_set,
    empty_set_share,
    mean_set_size,
    set_coverage_score,
    singleton_share,
)

of_sets = pytest.mark.parametrize(
    "metric", [mean_set_size, singleton_share, empty_set_share]
)
with_labels = pytest.mark.parametrize("metric", [covered_by_set, set_coverage_score])


def case(n=60, n_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    y[:n_classes] = np.arange(n_classes)
    return y, rng.random((n, n_classes)) < 0.4, rng.integers(0, 4, n)


def refuses(message, metric, *args, error=ValueError, **kwargs):
    with pytest.raises(error, match=re.escape(message)):
        metric(*args, **kwargs)


# ------------------------------------------------------------------- by counting


@pytest.mark.parametrize(
    "labels", [[0, 1, 2, 3], [3, 1, 0, 2], list("dbca"), [2.5, -1.0, 7.0, 0.0]], ids=str
)
def test_coverage_by_counting(labels):
    y, sets, weight = case()
    y = np.array([labels[i] for i in y])
    expected = [bool(sets[i, labels.index(v)]) for i, v in enumerate(y.tolist())]
    found = covered_by_set(y, sets, labels=labels)
    assert found.dtype == bool
    assert found.tolist() == expected
    assert set_coverage_score(y, sets, labels=labels) == pytest.approx(
        np.mean(expected)
    )
    weighted = set_coverage_score(y, sets, labels=labels, sample_weight=weight)
    assert weighted == pytest.approx(sum(weight * expected) / sum(weight))


def test_labels_default_to_the_sorted_ones():
    y, sets, _ = case()
    names = np.array(["ant", "bee", "cat", "dog"])
    expected = covered_by_set(y, sets, labels=range(4))
    assert np.array_equal(covered_by_set(y, sets), expected)
    assert np.array_equal(covered_by_set(names[y], sets), expected)
    flags = np.array([True, False, True])
    pair = np.array([[True, False], [True, False], [False, True]])
    assert covered_by_set(flags, pair).tolist() == [False, True, True]


def test_sizes_by_counting():
    _, sets, weight = case()
    sizes = [sum(row) for row in sets.tolist()]
    n, total = len(sizes), sum(weight)
    assert mean_set_size(sets) == pytest.approx(sum(sizes) / n)
    assert singleton_share(sets) == sizes.count(1) / n
    assert empty_set_share(sets) == sizes.count(0) / n
    mean = sum(w * s for w, s in zip(weight, sizes, strict=True)) / total
    assert mean_set_size(sets, sample_weight=weight) == pytest.approx(mean)
    one = sum(w for w, s in zip(weight, sizes, strict=True) if s == 1) / total
    assert singleton_share(sets, sample_weight=weight) == pytest.approx(one)


def test_by_hand():
    sets = [[True, False, False], [True, True, True], [False] * 3, [False, True, True]]
    assert covered_by_set([0, 1, 2, 0], sets).tolist() == [True, True, False, False]
    assert set_coverage_score([0, 1, 2, 0], sets) == 0.5
    assert (mean_set_size(sets), singleton_share(sets)) == (1.5, 0.25)
    assert empty_set_share(sets) == 0.25


# -------------------------------------------------------------------- identities


@given(seed=st.integers(0, 10**6), n_classes=st.integers(1, 6))
def test_a_set_and_its_complement(seed, n_classes):
    y, sets, _ = case(30, n_classes, seed)
    total = set_coverage_score(y, sets) + set_coverage_score(y, ~sets)
    assert total == pytest.approx(1.0)
    size = mean_set_size(sets) + mean_set_size(~sets)
    assert size == pytest.approx(n_classes)
    # The size is the coverage of each label in turn.
    each = [
        set_coverage_score(np.full(30, k), sets, labels=range(n_classes))
        for k in range(n_classes)
    ]
    assert sum(each) == pytest.approx(mean_set_size(sets))
    # A set that covers is not empty.
    assert set_coverage_score(y, sets) <= 1 - empty_set_share(sets) + 1e-12


@given(seed=st.integers(0, 10**6))
def test_renamed_and_reordered_columns(seed):
    y, sets, _ = case(30, 4, seed)
    order = np.random.default_rng(seed).permutation(4)
    found = covered_by_set(y, sets[:, order], labels=order)
    assert np.array_equal(found, covered_by_set(y, sets))


def test_integer_weights_are_repeated_rows():
    y, sets, weight = case()
    rows = np.repeat(np.arange(y.size), weight)
    for metric in (mean_set_size, singleton_share, empty_set_share):
        assert metric(sets, sample_weight=weight) == pytest.approx(metric(sets[rows]))


def test_full_and_empty_sets():
    y = np.array([0, 1, 2])
    full, empty = np.ones((3, 3), dtype=bool), np.zeros((3, 3), dtype=bool)
    assert (set_coverage_score(y, full), mean_set_size(full)) == (1.0, 3.0)
    assert (set_coverage_score(y, empty), mean_set_size(empty)) == (0.0, 0.0)
    assert (empty_set_share(empty), empty_set_share(full)) == (1.0, 0.0)
    alone = np.ones((2, 1), dtype=bool)
    assert set_coverage_score(["a", "a"], alone) == singleton_share(alone) == 1.0


# -------------------------------------------------------------------- containers


def test_frames_are_taken(df_module):
    y, sets, _ = case()
    frame = df_module.make_dataframe({f"c{k}": sets[:, k] for k in range(4)})
    series = df_module.make_series(y)
    assert np.array_equal(covered_by_set(series, frame), covered_by_set(y, sets))
    assert mean_set_size(frame) == mean_set_size(sets)


def test_nullable_booleans_and_strings_of_pandas():
    pd = pytest.importorskip("pandas")
    y, sets, _ = case()
    frame = pd.DataFrame(sets).astype("boolean")
    names = pd.Series(np.array(list("abcd"))[y]).astype("string")
    assert np.array_equal(covered_by_set(names, frame), covered_by_set(y, sets))
    frame.iloc[0, 0] = pd.NA
    refuses("y_set must be boolean", mean_set_size, frame, error=TypeError)


def test_strides_and_read_only_input():
    y, sets, _ = case()
    strided = np.asfortranarray(np.repeat(sets, 2, axis=0))[::2]
    strided.setflags(write=False)
    y.setflags(write=False)
    assert np.array_equal(covered_by_set(y, strided), covered_by_set(y, sets))


# --------------------------------------------------------------------- bad input


@of_sets
def test_what_is_no_set(metric):
    for bad in ([[1, 0]], [[0.5, 0.5]], [["a"]], [[None, True]]):
        refuses("y_set must be boolean", metric, bad, error=TypeError)
    for shape in ((), (3,), (2, 0), (1, 2, 3)):
        refuses("y_set must have shape", metric, np.ones(shape, dtype=bool))
    refuses("y_set is empty", metric, np.ones((0, 2), dtype=bool))
    refuses("sample_weight must", metric, [[True]], sample_weight=[0.0])


@with_labels
def test_labels_that_do_not_fit(metric):
    sets = [[True, False, False]] * 2
    refuses(
        "y_set stands for 3 classes, but y_true holds 2. Pass labels= with",
        metric,
        [0, 1],
        sets,
    )
    refuses("but labels has 2.", metric, [0, 1], sets, labels=[0, 1])
    refuses("labels must be distinct", metric, [0, 1], sets, labels=[0, 1, 1])
    refuses(
        "y_true holds labels that labels lacks: [5]",
        metric,
        [0, 5],
        sets,
        labels=range(3),
    )
    refuses("labels must have shape", metric, [0, 1], sets, labels=[[0, 1, 2]])


@with_labels
@pytest.mark.parametrize("n_classes", [2, 40])
def test_a_number_is_no_string(metric, n_classes):
    refuses(
        "y_true holds labels that labels lacks: [0, 1]",
        metric,
        [0, 1],
        np.ones((2, n_classes), dtype=bool),
        labels=[str(k) for k in range(n_classes)],
    )


@with_labels
@pytest.mark.parametrize(
    ("missing", "message"),
    [([0.0, np.nan], "y_true contains NaN"), (["a", None], "none of them missing")],
    ids=["nan", "none"],
)
def test_missing_labels(metric, missing, message):
    refuses(message, metric, missing, [[True, False]] * 2)


@with_labels
def test_other_numbers_of_rows(metric):
    refuses("y_set has 1 rows but y_true has 2", metric, [0, 1], [[True, False]])
    refuses("y_true must have shape", metric, [[0], [1]], [[True, False]] * 2)
    refuses("y_set is empty", metric, [], np.ones((0, 2), dtype=bool))
