"""Prediction sets as a GPU finds them, against a full sort and the CPU's kernel."""

import ctypes
import functools

import numpy as np
import pytest

from tests.kernels.cuda._emulated import (
    check,
    emulated,
    free_guarded,
    guarded,
    guarded_empty,
    pointer,
)
from uqlib_kernels.sets import mass_sets

INVALID = -1
# By a thread for each label, by a warp, by a block, and without room for a row.
WIDTHS = [1, 2, 3, 8, 10, 31, 32, 33, 100, 500, 2500]
every_type = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@pytest.fixture(autouse=True)
def _memory():
    yield
    free_guarded()


@functools.cache
def kernels():
    return emulated("sets")


def rounded(proba):
    return (proba.astype(np.float64) + 1.0) - 1.0


def score_matrix(proba, u, k_reg, penalty):
    """Scores by a full sort of each row."""
    order = np.argsort(-proba.astype(np.float64), axis=1, kind="stable")
    own = np.take_along_axis(rounded(proba), order, axis=1)
    before = np.cumsum(own, axis=1) - own
    excess = np.maximum(0.0, np.arange(1, proba.shape[1] + 1) - k_reg)
    scores = np.empty_like(own)
    ranked = before + u[:, None] * own + penalty * excess
    np.put_along_axis(scores, order, ranked, axis=1)
    return scores


def rows_of(kind, n_samples, n_classes, rng):
    if kind == "equal":
        return np.full((n_samples, n_classes), 1 / n_classes)
    if kind == "counts":  # ties and zeros of both signs
        proba = rng.multinomial(9, np.full(n_classes, 1 / n_classes), n_samples) / 9
        return np.where((proba == 0) & (rng.random(proba.shape) < 0.5), -0.0, proba)
    if kind == "one_hot":
        return np.eye(n_classes)[rng.integers(0, n_classes, n_samples)]
    # Up to scale 300 most probabilities are below 2^-54, many of them subnormal or 0.
    logits = float(kind) * rng.normal(size=(n_samples, n_classes))
    proba = np.exp(logits - logits.max(axis=1, keepdims=True))
    return proba / proba.sum(axis=1, keepdims=True)


KINDS = ["equal", "counts", "one_hot", "0.01", "1", "10", "300"]


def device_sets(proba, threshold, u, k_reg=0, penalty=0.0, seed=0):
    library = kernels()
    library.uqlib_emulate(seed, 4)
    operands = [guarded(a) for a in (proba, threshold, u)]
    sets = guarded_empty(proba.shape, np.uint8)
    code = library.uqlib_mass_sets(
        pointer(operands[0]),
        int(proba.dtype == np.float64),
        pointer(operands[1]),
        pointer(operands[2]),
        k_reg,
        ctypes.c_double(penalty),
        pointer(sets),
        ctypes.c_int64(len(proba)),
        proba.shape[1],
        None,
    )
    check(library, code)
    assert sets.max(initial=0) <= 1
    return sets.astype(bool)


def thresholds(scores, rng):
    """Scores themselves, the numbers next to them, and others."""
    n = len(scores)
    t = scores[np.arange(n), rng.integers(0, scores.shape[1], n)]
    t[::4] = np.nextafter(t[::4], -np.inf)
    t[1::4] = np.nextafter(t[1::4], np.inf)
    special = [np.inf, -np.inf, np.nan, 1.0, 0.0, scores.max(), scores.min()]
    half = n - n // 2
    t[n // 2 :] = np.where(
        rng.random(half) < 0.4, rng.choice(special, half), t[n // 2 :]
    )
    return t


@every_type
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_sets_equal_a_full_sort(kind, width, dtype):
    n = 43 if width <= 33 else 11 if width < 1000 else 3
    rng = np.random.default_rng(width)
    proba = rows_of(kind, n, width, rng).astype(dtype)
    for seed, (u, k_reg, penalty) in enumerate(
        (
            (np.ones(n), 0, 0.0),
            (np.zeros(n), 0, 0.0),
            (rng.random(n), 2, 0.01),
            (rng.random(n), 0, 3.0),
        )
    ):
        scores = score_matrix(proba, u, k_reg, penalty)
        t = thresholds(scores, rng)
        sets = device_sets(proba, t, u, k_reg, penalty, seed)
        np.testing.assert_array_equal(sets, scores <= t[:, None])
        np.testing.assert_array_equal(sets, mass_sets(proba, t, u, k_reg, penalty))


@every_type
@pytest.mark.parametrize("width", [40, 1100, 2100])
def test_ties_at_the_end_of_a_set(width, dtype):
    # Few values that occur many times, in an order that is not that of the ranks.
    rng = np.random.default_rng(width)
    proba = rng.choice([1.0, 2.0, 5.0], size=(6, width))
    proba = (proba / proba.sum(axis=1, keepdims=True)).astype(dtype)
    u = rng.random(6)
    for seed in range(3):
        scores = score_matrix(proba, u, 3, 1e-4)
        t = thresholds(scores, rng)
        sets = device_sets(proba, t, u, 3, 1e-4, seed)
        np.testing.assert_array_equal(sets, scores <= t[:, None])


@every_type
def test_rows_that_fit_nowhere(dtype):
    width = 30_001 if dtype == np.float64 else 60_001
    rng = np.random.default_rng(0)
    proba = np.concatenate([rows_of(k, 1, width, rng) for k in ("1", "10", "counts")])
    proba, u = proba.astype(dtype), np.array([0.3, 1.0, 0.5])
    scores = score_matrix(proba, u, 5, 1e-7)
    t = scores[np.arange(3), [7, 70, 700]]
    sets = device_sets(proba, t, u, 5, 1e-7)
    np.testing.assert_array_equal(sets, scores <= t[:, None])


@every_type
@pytest.mark.parametrize("width", [5, 60, 3000])
def test_probabilities_that_are_none_end_a_set_somewhere(width, dtype):
    # Nothing is promised of them, but that other rows are right.
    rng = np.random.default_rng(0)
    proba = rows_of("1", 8, width, rng).astype(dtype)
    bad = proba.copy()
    bad[::2, 1] = [np.nan, np.inf, -3.0, 7.0]
    t, u = np.full(8, 0.8), np.ones(8)
    sets = device_sets(bad, t, u)
    np.testing.assert_array_equal(sets[1::2], mass_sets(proba, t, u)[1::2])


def test_no_rows():
    nothing = np.empty(0)
    assert device_sets(np.empty((0, 3)), nothing, nothing).shape == (0, 3)


def test_arguments_that_no_kernel_takes():
    library = kernels()
    operands = [guarded(a) for a in (np.ones((2, 3)), np.ones(2), np.ones(2))]
    operands.append(guarded_empty((2, 3), np.uint8))

    def code(arrays, n_rows, n_classes):
        proba, threshold, u, sets = (pointer(array) for array in arrays)
        return library.uqlib_mass_sets(
            proba,
            1,
            threshold,
            u,
            0,
            ctypes.c_double(0.0),
            sets,
            ctypes.c_int64(n_rows),
            n_classes,
            None,
        )

    for missing in range(4):
        arrays = [None if i == missing else a for i, a in enumerate(operands)]
        assert code(arrays, 2, 3) == INVALID
    assert code(operands, -1, 3) == INVALID
    assert code(operands, 2, 0) == INVALID
    assert code(operands, 2**40, 3) == INVALID  # more blocks than a grid has
    assert operands[3].min() == 0xFF
