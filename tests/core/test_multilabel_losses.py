"""Losses of label sets: equality with the sets themselves, limits, errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib.conformal import (
    false_discovery_losses,
    false_negative_losses,
    miscoverage_losses,
    set_size_losses,
)

LOSSES = (false_negative_losses, false_discovery_losses, miscoverage_losses)


def by_hand(indicator, proba, thresholds):
    """The losses of each row and threshold, from the set written out."""
    shape = (len(proba), len(thresholds))
    losses = {function: np.zeros(shape) for function in LOSSES}
    for i, (labels, row) in enumerate(zip(indicator, proba, strict=True)):
        for j, t in enumerate(thresholds):
            inside = {k for k, p in enumerate(row) if p >= t}
            true = set(np.flatnonzero(labels).tolist())
            missed, wrong = true - inside, inside - true
            losses[false_negative_losses][i, j] = len(missed) / max(len(true), 1)
            losses[false_discovery_losses][i, j] = len(wrong) / max(len(inside), 1)
            losses[miscoverage_losses][i, j] = bool(missed)
    return losses


@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 6))
def test_losses_equal_those_of_the_sets(seed, n, n_labels):
    rng = np.random.default_rng(seed)
    proba = rng.integers(0, 11, size=(n, n_labels)) / 10  # many ties with thresholds
    indicator = rng.integers(0, 2, size=(n, n_labels))
    thresholds = rng.permutation(np.r_[np.arange(11) / 10, -np.inf, np.inf, 0.33])
    expected = by_hand(indicator, proba, thresholds)
    for function in LOSSES:
        found = function(indicator, proba, thresholds)
        np.testing.assert_array_equal(found, expected[function])
        np.testing.assert_array_equal(
            function(indicator.astype(bool), proba, thresholds[::-1]), found[:, ::-1]
        )
    sizes = (proba[:, :, None] >= thresholds).mean(axis=1)
    np.testing.assert_allclose(set_size_losses(proba, thresholds), sizes, atol=1e-15)


def test_monotone_losses_are_monotone_and_the_full_set_loses_nothing():
    rng = np.random.default_rng(0)
    proba, indicator = rng.uniform(size=(50, 7)), rng.integers(0, 2, size=(50, 7))
    thresholds = np.linspace(0, 1, 101)
    for function in (false_negative_losses, miscoverage_losses):
        losses = function(indicator, proba, thresholds)
        assert (np.diff(losses, axis=1) >= 0).all()
        assert not losses[:, 0].any()
    assert (np.diff(set_size_losses(proba, thresholds), axis=1) <= 0).all()
    discovery = false_discovery_losses(indicator, proba, thresholds)
    assert (np.diff(discovery, axis=1) > 0).any()
    assert (np.diff(discovery, axis=1) < 0).any()
    # With one label a row, missing a share of it is missing it.
    one = np.eye(7)[rng.integers(0, 7, size=50)]
    np.testing.assert_array_equal(
        false_negative_losses(one, proba, thresholds),
        miscoverage_losses(one, proba, thresholds),
    )


def test_rows_without_labels_and_empty_sets_lose_nothing():
    proba = np.array([[0.2, 0.3]])
    assert not false_negative_losses([[0, 0]], proba, [0.0, 0.25, 1.0]).any()
    assert not miscoverage_losses([[0, 0]], proba, [0.0, 0.25, 1.0]).any()
    assert false_discovery_losses([[0, 0]], proba, [0.9, 0.25]).tolist() == [[0, 1]]


def test_any_float_and_layout():
    rng = np.random.default_rng(1)
    proba, indicator = rng.uniform(size=(9, 4)), rng.integers(0, 2, size=(9, 4))
    thresholds = np.float32(proba[0])
    single = proba.astype(np.float32)
    exact = false_negative_losses(indicator, single.astype(float), thresholds)
    found = false_negative_losses(
        np.asfortranarray(indicator), np.asfortranarray(single), thresholds
    )
    np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("function", LOSSES)
@pytest.mark.parametrize(
    ("y_true", "y_proba", "thresholds", "message"),
    [
        ([[1, 0]], [[0.5, 1.1]], [0.5], r"must lie in \[0, 1\], got values from 0.5"),
        ([[1, 0]], [[-0.5, 1.0]], [0.5], "not decision values"),
        ([[1, 0]], [[np.nan, 1.0]], [0.5], "y_proba contains NaN"),
        ([[1, 0]], [0.5, 1.0], [0.5], r"y_proba must have shape \(n_samples, n_labels"),
        ([[1, 2]], [[0.5, 1.0]], [0.5], "must hold 0 and 1 alone"),
        ([1], [[0.5, 1.0]], [0.5], "label_binarize"),
        ([[1, 0, 0]], [[0.5, 1.0]], [0.5], r"must have shape \(n_samples, 2\)"),
        ([[1, 0], [1, 0]], [[0.5, 1.0]], [0.5], "y_true has 2 rows but y_proba has 1"),
        ([[1, 0]], [[0.5, 1.0]], [], "thresholds must be a non-empty 1-D sequence"),
        ([[1, 0]], [[0.5, 1.0]], [[0.5]], "thresholds must be a non-empty 1-D"),
        ([[1, 0]], [[0.5, 1.0]], [np.nan], "thresholds contains NaN"),
        (np.zeros((0, 2)), np.zeros((0, 2)), [0.5], "y_proba is empty"),
    ],
)
def test_bad_input_is_an_error(function, y_true, y_proba, thresholds, message):
    with pytest.raises(ValueError, match=message):
        function(y_true, y_proba, thresholds)
