"""Adaptive calibration error: explicit loops, identities, every error."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib._core.calibration_error import adaptive_calibration_error


def by_loops(y, proba, labels, n_bins):
    """The definition, row by row; tied rows share their outcomes."""
    total, n_samples = 0.0, len(y)
    n_ranges = min(n_bins, n_samples)

    def chance(i, k):
        tied = [j for j in range(n_samples) if proba[j][k] == proba[i][k]]
        return sum(y[j] == labels[k] for j in tied) / len(tied)

    for k in range(len(labels)):
        order = sorted(range(n_samples), key=lambda i: proba[i][k])
        start = 0
        for r in range(n_ranges):
            size = n_samples // n_ranges + (r < n_samples % n_ranges)
            members = order[start : start + size]
            accuracy = sum(chance(i, k) for i in members) / size
            confidence = sum(proba[i][k] for i in members) / size
            total += abs(accuracy - confidence)
            start += size
    return total / (len(labels) * n_ranges)


@st.composite
def problems(draw):
    n, n_classes = draw(st.integers(1, 30)), draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    coarse = rng.integers(1, 5, size=(n, n_classes))  # so that many ties occur
    return rng.integers(0, n_classes, size=n), coarse / coarse.sum(1, keepdims=True)


@given(problems(), st.integers(1, 35))
def test_equals_the_loops(problem, n_bins):
    y, proba = problem
    labels = list(range(proba.shape[1]))
    expected = by_loops(y, proba.tolist(), labels, n_bins)
    found = adaptive_calibration_error(y, proba, n_bins=n_bins, labels=labels)
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert type(found) is float
    assert 0 <= found <= 1


@given(problems(), st.integers(1, 10))
def test_one_dimensional_probabilities_count_the_positive_class(problem, n_bins):
    y, proba = problem[0] == 1, problem[1][:, 1]
    expected = by_loops(y, [[p] for p in proba], [True], n_bins)
    found = adaptive_calibration_error(y, proba, n_bins=n_bins, labels=[False, True])
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_ranges_that_are_calibrated_have_no_error():
    # Ten rows of each probability k / 10, of which k are ones.
    p = np.repeat(np.arange(10) / 10, 10)
    y = np.concatenate([np.arange(10) < k for k in range(10)])
    assert adaptive_calibration_error(y, p) == pytest.approx(0, abs=1e-15)
    assert adaptive_calibration_error(y, p, n_bins=5) == pytest.approx(0, abs=1e-15)
    assert adaptive_calibration_error(~y, p) > 0.3


def test_certain_answers():
    y, identity = np.array([0, 1, 2, 1]), np.eye(3)
    assert adaptive_calibration_error(y, identity[y]) == 0
    assert adaptive_calibration_error(y, identity[(y + 1) % 3]) == pytest.approx(2 / 3)


@given(problems(), st.integers(1, 35), st.integers(0, 100))
def test_the_order_of_rows_does_not_matter(problem, n_bins, seed):
    y, proba = problem
    order = np.random.default_rng(seed).permutation(y.size)
    options = {"n_bins": n_bins, "labels": range(proba.shape[1])}
    expected = adaptive_calibration_error(y, proba, **options)
    found = adaptive_calibration_error(y[order], proba[order], **options)
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_ties_count_by_their_mean():
    rng = np.random.default_rng(0)
    p, y = rng.uniform(size=53), rng.integers(0, 2, size=53)
    order = rng.permutation(53)
    expected = adaptive_calibration_error(y, p)
    found = adaptive_calibration_error(y[order], p[order])
    assert found == pytest.approx(expected, rel=1e-12)
    # Half of the tied rows have the label, in whatever range they lie.
    tied = np.full(4, 0.5)
    assert adaptive_calibration_error([0, 0, 1, 1], tied, n_bins=2) == 0.0
    assert adaptive_calibration_error([0, 1, 0, 1], tied, n_bins=2) == 0.0
    assert adaptive_calibration_error([0, 1, 1, 1], tied, n_bins=2) == 0.25


def test_one_range_is_the_bias():
    rng = np.random.default_rng(1)
    p, y = rng.uniform(size=20), rng.integers(0, 2, size=20)
    found = adaptive_calibration_error(y, p, n_bins=1)
    assert found == pytest.approx(abs(y.mean() - p.mean()))
    # With more ranges than rows each row is one.
    found = adaptive_calibration_error(y, p, n_bins=1000)
    assert found == pytest.approx(np.abs(y - p).mean())


def test_labels_name_the_columns_in_their_order():
    rng = np.random.default_rng(2)
    proba = rng.dirichlet(np.ones(3), size=40)
    y = rng.integers(0, 3, size=40)
    names = np.array(["b", "c", "a"])
    expected = adaptive_calibration_error(y, proba)
    found = adaptive_calibration_error(names[y], proba, labels=names)
    assert found == pytest.approx(expected, rel=1e-12)
    # A label that does not occur still has a column.
    rows = y < 2
    found = adaptive_calibration_error(y[rows], proba[rows], labels=[0, 1, 2])
    expected = by_loops(y[rows], proba[rows].tolist(), [0, 1, 2], 10)
    assert found == pytest.approx(expected, rel=1e-12)


def test_kinds_of_input(df_module):
    rng = np.random.default_rng(3)
    proba = rng.dirichlet(np.ones(2), size=40).astype(np.float32)
    y = rng.integers(0, 2, size=40)
    expected = adaptive_calibration_error(y, proba)
    frame = df_module.make_dataframe({"0": proba[:, 0], "1": proba[:, 1]})
    series = df_module.make_series(y)
    found = [
        adaptive_calibration_error(series, frame),
        adaptive_calibration_error(y.tolist(), proba.tolist()),
        adaptive_calibration_error(y, np.repeat(proba, 2, axis=0)[::2]),
    ]
    assert found == pytest.approx([expected] * 3, rel=1e-12)
    one_row = adaptive_calibration_error([1], [0.25], labels=[0, 1])
    assert one_row == 0.75


@pytest.mark.parametrize(
    ("y", "proba", "options", "message"),
    [
        ([0, 1], [0.5, 1.5], {}, "between 0 and 1, but row 1 holds 1.5. Decision"),
        ([0, 1], [np.nan, 0.5], {}, "between 0 and 1, but row 0 holds nan"),
        ([0, 1], [[0.5, 0.6], [0, 1]], {}, "but row 0 sums to 1.1"),
        ([0, 1], 0.5, {}, "y_proba must have shape (n_samples, n_classes)"),
        ([[0], [1]], [0.5, 0.5], {}, "y_true must have shape (n_samples,), got"),
        ([0, 1], [0.5], {}, "y_proba has 1 rows but y_true has 2"),
        ([], np.empty((0, 2)), {"labels": [0, 1]}, "y_true is empty"),
        ([1, 1], [0.5, 0.5], {}, "stands for 2 classes, but y_true holds 1. Pass"),
        ([0, 1], [[0.5, 0.5]] * 2, {"labels": [0]}, "but labels has 1. Pass labels="),
        ([0, 1], [0.5, 0.5], {"labels": [1, 1]}, "labels must be distinct, got [1, 1]"),
        ([0, 1], [0.5, 0.5], {"labels": [1, 2]}, "labels that labels lacks: [0]"),
        ([0, 1], [0.5, 0.5], {"n_bins": 0}, "n_bins must be at least 1, got 0"),
    ],
)
def test_bad_input(y, proba, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        adaptive_calibration_error(y, proba, **options)


@pytest.mark.parametrize("n_bins", [2.0, True, "10", None])
def test_a_number_of_ranges_that_is_no_integer(n_bins):
    with pytest.raises(TypeError, match="n_bins must be an integer, at least 1, got"):
        adaptive_calibration_error([0, 1], [0.5, 0.5], n_bins=n_bins)
