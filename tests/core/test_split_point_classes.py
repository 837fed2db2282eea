"""Discrepancy and adjustment of class probabilities: identities, oracles, edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from uqlib._core.split_point_classes import sds_classification, spa_adjust_proba

SEEDS = st.integers(0, 10**6)
SIZES = st.integers(1, 6)


def simplex(rng, n_samples, n_classes):
    """Random probabilities, some of them exactly 0, 1/2 or 1."""
    proba = rng.dirichlet(np.full(n_classes, 0.6), n_samples)
    proba[:: n_samples // 2 + 1] = np.eye(n_classes)[0]
    if n_classes > 1:
        proba[-1] = 0.0
        proba[-1, :2] = 0.5
    return proba


def exact_means(proba, truth):
    """m, u+ and u- by enumeration: the label of a row has the law `truth`."""
    means = np.zeros((3, *proba.shape))
    for i, k, label in np.ndindex(*proba.shape, proba.shape[1]):
        residual = float(label == k) - proba[i, k]
        means[:, i, k] += truth[i, label] * np.array(
            [abs(residual), max(residual, 0.0), max(-residual, 0.0)]
        )
    return means


def adjusted_slowly(p, m, up, down, threshold, combine):
    """The definition, one number at a time, neither clipped nor normalized."""
    out = np.array(p, dtype=float)
    for index in np.ndindex(out.shape):
        u, d, mean = up[index], down[index], m[index]
        three = [u - d, mean - 2 * d, 2 * u - mean]
        if abs(u + d - mean) < threshold:
            out[index] += min(three) if combine == "min" else sum(three) / 3
    return out


# ---------------------------------------------------------------------------
# By hand.


def test_hand_case():
    p, m = [[0.9, 0.1]], [[0.42, 0.42]]
    assert_allclose(sds_classification(p, m), [0.48], rtol=1e-12)
    assert_allclose(sds_classification(p, m, reduce=None), [[0.24, 0.24]], rtol=1e-12)
    up, down = [[0.06, 0.36]], [[0.36, 0.06]]
    for combine in ("min", "mean"):
        adjusted = spa_adjust_proba(p, m, up, down, combine=combine)
        assert_allclose(adjusted, [[0.6, 0.4]], rtol=1e-12)


@pytest.mark.parametrize("truth", [0.0, 0.3, 0.5, 1.0])
def test_one_half_is_blind(truth):
    p = np.array([[0.5, 0.5]])
    m, _, _ = exact_means(p, np.array([[truth, 1 - truth]]))
    assert sds_classification(p, m) == 0.0


# ---------------------------------------------------------------------------
# Identities.


@given(SEEDS, SIZES, SIZES)
def test_discrepancy_is_bias_times_asymmetry(seed, n_samples, n_classes):
    rng = np.random.default_rng(seed)
    p, truth = (simplex(rng, n_samples, n_classes) for _ in range(2))
    m, up, down = exact_means(p, truth)
    assert_allclose(m, truth + p - 2 * truth * p, atol=1e-14)
    assert_allclose(up - down, truth - p, atol=1e-14)
    expected = np.abs(truth - p) * np.abs(1 - 2 * p)
    assert_allclose(sds_classification(p, m, reduce=None), expected, atol=1e-14)
    assert_allclose(sds_classification(p, m), expected.sum(axis=1), atol=1e-14)


@given(SEEDS, SIZES, SIZES, st.sampled_from(["min", "mean"]), st.booleans())
def test_exact_means_give_the_true_probabilities(
    seed, n_samples, n_classes, combine, normalize
):
    rng = np.random.default_rng(seed)
    p, truth = (simplex(rng, n_samples, n_classes) for _ in range(2))
    adjusted = spa_adjust_proba(
        p, *exact_means(p, truth), combine=combine, normalize=normalize
    )
    assert_allclose(adjusted, truth, atol=1e-10)


@given(SEEDS, SIZES, SIZES, st.sampled_from(["min", "mean"]))
def test_adjustment_is_its_definition(seed, n_samples, n_classes, combine):
    rng = np.random.default_rng(seed)
    p = simplex(rng, n_samples, n_classes)
    means = rng.uniform(-0.2, 1.2, size=(3, *p.shape))
    threshold = rng.choice([0.05, 0.5, np.inf])
    expected = adjusted_slowly(p, *means, threshold, combine)
    options = {"threshold": threshold, "combine": combine}
    raw = spa_adjust_proba(p, *means, normalize=False, **options)
    assert_allclose(raw, expected, atol=1e-14)
    normalized = spa_adjust_proba(p, *means, **options)
    assert np.all((normalized >= 0) & (normalized <= 1))
    assert_allclose(normalized.sum(axis=1), 1.0, rtol=0, atol=1e-12)
    clipped = np.clip(expected, 0, 1)
    some = clipped.sum(axis=1) > 1e-9
    total = clipped[some].sum(axis=1, keepdims=True)
    assert_allclose(normalized[some], clipped[some] / total, atol=1e-12)


@given(SEEDS)
def test_order_of_rows_and_classes_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    p = simplex(rng, 5, 4)
    means = rng.uniform(0, 0.5, size=(3, 5, 4))
    rows, classes = rng.permutation(5), rng.permutation(4)
    at = np.ix_(rows, classes)
    moved = spa_adjust_proba(p[at], *(mean[at] for mean in means), threshold=0.2)
    whole = spa_adjust_proba(p, *means, threshold=0.2)
    assert_allclose(moved, whole[at], atol=1e-15)
    sds = sds_classification(p, means[0], reduce=None)
    assert_array_equal(sds_classification(p[at], means[0][at], reduce=None), sds[at])


# ---------------------------------------------------------------------------
# The threshold, and rows of which nothing is left.


def test_threshold_zero_leaves_everything_and_equality_closes():
    p, m = np.array([[0.75, 0.25]]), np.array([[0.5, 0.5]])
    up, down = np.array([[0.125, 0.25]]), np.array([[0.25, 0.125]])  # |g| is 1/8
    for threshold in (0, 0.125):
        out = spa_adjust_proba(p, m, up, down, threshold=threshold, combine="mean")
        assert_array_equal(out, p)
    open_to = {"combine": "mean", "threshold": 0.13}
    assert_allclose(spa_adjust_proba(p, m, up, down, **open_to), [[0.625, 0.375]])


def test_a_row_of_nothing_keeps_its_probabilities():
    p = np.array([[0.6, 0.4], [0.6, 0.4]])
    up, down = np.zeros((2, 2)), np.array([[0.9, 0.9], [0.9, 0.1]])
    out = spa_adjust_proba(p, down, up, down)
    assert_allclose(out, [[0.6, 0.4], [0.0, 1.0]], rtol=1e-12)


def test_a_row_of_almost_nothing_still_sums_to_one():
    p = np.array([[5e-324, 1e-323, 1.0]])
    down = np.array([[0.0, 0.0, 1.0]])
    out = spa_adjust_proba(p, down, np.zeros((1, 3)), down)
    assert_allclose(out, [[1 / 3, 2 / 3, 0.0]], atol=1e-12)


# ---------------------------------------------------------------------------
# Input of every kind.


@pytest.mark.parametrize("reduce", ["sum", None])
def test_no_rows(reduce):
    none = np.empty((0, 3))
    assert sds_classification(none, none, reduce=reduce).shape[0] == 0
    assert spa_adjust_proba(none, none, none, none).shape == (0, 3)


def test_one_class_is_certain():
    one, zero = np.ones((2, 1)), np.zeros((2, 1))
    assert_array_equal(sds_classification(one, zero), [0, 0])
    assert_array_equal(spa_adjust_proba(one, zero, zero, zero), one)


def test_kinds_of_arrays_agree_and_are_left_alone(df_module):
    rng = np.random.default_rng(0)
    p = simplex(rng, 6, 2).astype(np.float32)
    means = rng.uniform(0, 0.4, size=(3, 6, 2)).astype(np.float32)
    arrays = [p, *means]
    before = [array.copy() for array in arrays]
    expected = spa_adjust_proba(*(array.astype(float) for array in arrays))
    assert_array_equal(spa_adjust_proba(*arrays), expected)
    assert_array_equal(spa_adjust_proba(*map(np.asfortranarray, arrays)), expected)
    assert_array_equal(spa_adjust_proba(*(a.tolist() for a in arrays)), expected)
    frames = [df_module.make_dataframe(zip("ab", a.T, strict=True)) for a in arrays]
    assert_array_equal(spa_adjust_proba(*frames), expected)
    assert_array_equal(
        sds_classification(*frames[:2]), sds_classification(p.astype(float), means[0])
    )
    for array, copy in zip(arrays, before, strict=True):
        assert_array_equal(array, copy)


P, HALF = np.array([[0.7, 0.3]]), np.full((1, 2), 0.5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sds_classification([0.7, 0.3], HALF), r"proba must have shape"),
        (lambda: sds_classification([[0.7, 0.7]], HALF), r"sums to 1\.4"),
        (lambda: sds_classification(P, [[0.5]]), r"mar must have the shape of proba"),
        (lambda: sds_classification(P, [[np.nan, 0]]), r"mar contains NaN"),
        (lambda: sds_classification(P, HALF, reduce="mean"), r"reduce must be 'sum'"),
        (lambda: spa_adjust_proba(P, HALF, HALF[:, :1], HALF), r"side_up must have"),
        (lambda: spa_adjust_proba(P, HALF, HALF, [[np.inf, 0]]), r"side_down cont"),
        (lambda: spa_adjust_proba(P, HALF, HALF, HALF, combine="max"), r"'max'"),
        *[
            (
                lambda bad=bad: spa_adjust_proba(P, HALF, HALF, HALF, threshold=bad),
                r"threshold must be a number >= 0",
            )
            for bad in (-0.1, np.nan, "0.05", True, None)
        ],
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
