"""Conditional calibration: programs solved by HiGHS, enumeration, and the theorem."""

import itertools
import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from uqlib import InfiniteIntervalWarning, conformal_quantile
from uqlib._core.tilted_walk import TiltedRegression
from uqlib.conformal import conditional_conformal_quantile, group_quantiles

pytestmark = pytest.mark.filterwarnings("ignore::uqlib.InfiniteIntervalWarning")

TIGHT = {"dual_feasibility_tolerance": 1e-10, "primal_feasibility_tolerance": 1e-10}
KINDS = ("continuous", "tied", "groups")


def multiplier(score, scores, features, row, p):
    """The multiplier of the new row in the dual program, by HiGHS."""
    equations = np.vstack([features, row]).T
    found = linprog(
        -np.append(scores, score),
        A_eq=equations,
        b_eq=np.zeros(len(equations)),
        bounds=(p - 1, p),
        method="highs-ds",
        options=TIGHT,
    )
    assert found.status == 0
    return found.x[-1]


def problem(kind, seed, n_test=3):
    """Scores, features, new features and a level."""
    rng = np.random.default_rng(seed)
    n, d = rng.integers(1, 30), rng.integers(1, 5)
    p = rng.choice([0.5, 0.73, 0.8, 0.9])
    if kind == "groups":  # overlapping, some empty, no intercept
        features = rng.integers(0, 2, size=(n + n_test, d)).astype(float)
    else:
        features = rng.normal(size=(n + n_test, d))
        features[:, 0] = 1
    scores = rng.normal(size=n)
    if kind != "continuous":
        scores = rng.integers(0, 4, size=n).astype(float)
    return scores, features[:n], features[n:], p


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(20))
def test_the_multiplier_reaches_its_end_at_the_threshold(kind, seed):
    scores, features, new, p = problem(kind, seed)
    thresholds = conditional_conformal_quantile(scores, features, new, p)
    for row, threshold in zip(new, thresholds, strict=True):
        below = 1e5 if np.isposinf(threshold) else threshold - 1e-5
        assert multiplier(below, scores, features, row, p) < p - 1e-8
        if np.isfinite(threshold):
            above = multiplier(threshold + 1e-5, scores, features, row, p)
            assert above == pytest.approx(p, abs=1e-8)


@pytest.mark.parametrize("seed", range(15))
def test_equals_the_enumeration_of_all_vertices(seed):
    # The critical score is the fitted value of some rows as many as functions. Between
    # two such values nothing changes: a program in each gap finds it.
    rng = np.random.default_rng(seed)
    n, d, p = rng.integers(4, 12), rng.integers(1, 4), rng.choice([0.5, 0.75, 0.8])
    features = np.column_stack([np.ones(n + 1), rng.normal(size=(n + 1, d - 1))])
    features, row = features[:-1], features[-1]
    scores = np.abs(rng.normal(size=n))
    critical = np.unique(
        [
            row @ np.linalg.solve(features[list(rows)], scores[list(rows)])
            for rows in itertools.combinations(range(n), d)
        ]
    )
    gaps = np.append((critical[1:] + critical[:-1]) / 2, critical[-1] + 1.0)
    reached = [multiplier(g, scores, features, row, p) > p - 1e-9 for g in gaps]
    expected = critical[np.argmax(reached)] if any(reached) else np.inf
    found = conditional_conformal_quantile(scores, features, row[None], p)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_equals_the_definition(seed):
    # S is at most the quantile regression of all n + 1 rows, up to the threshold.
    rng = np.random.default_rng(seed)
    n, p = 25, 0.8
    features = np.column_stack([np.ones(n + 1), rng.normal(size=(n + 1, 2))])
    scores = rng.normal(size=n)

    def excess(score):
        """Return score - fitted value, by the primal program."""
        y = np.append(scores, score)
        found = linprog(
            np.concatenate([np.zeros(3), np.full(n + 1, p), np.full(n + 1, 1 - p)]),
            A_eq=np.hstack([features, np.eye(n + 1), -np.eye(n + 1)]),
            b_eq=y,
            bounds=[(None, None)] * 3 + [(0, None)] * (2 * n + 2),
            method="highs-ds",
        )
        return score - features[-1] @ found.x[:3]

    threshold = conditional_conformal_quantile(scores, features[:-1], features[-1:], p)
    for step in (1e-5, 0.1, 2.0):
        assert excess(threshold[0] - step) <= 1e-9
        assert excess(threshold[0] + step) > 1e-9


# Scores that are equal, or further apart than their rounding.
few = st.integers(-5, 5).map(float)
many = st.integers(-(10**9), 10**9).map(lambda i: i / 1024)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.one_of(few, many), min_size=1, max_size=60),
    st.sampled_from([0.05, 0.5, 0.55, 0.8, 0.9, 0.95]),
)
def test_an_intercept_alone_is_the_conformal_quantile(scores, level):
    ones = np.ones((len(scores), 1))
    found = conditional_conformal_quantile(scores, ones, [[1.0]], level)
    assert found[0] == conformal_quantile(scores, level)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("tied", [False, True])
def test_indicators_of_groups_are_calibration_by_group(intercept, level, tied):
    # Sizes at and around the ranks that the levels divide, and one that is too small.
    sizes = np.array([9, 10, 19, 39, 40, 3])
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(6), sizes))
    scores = np.random.default_rng(1).normal(size=groups.size)
    scores = np.round(scores) if tied else scores
    indicators = np.eye(6)
    if intercept:  # redundant with them
        indicators = np.column_stack([np.ones(6), indicators])
    found = conditional_conformal_quantile(
        scores, indicators[groups], indicators, level
    )
    np.testing.assert_array_equal(found, group_quantiles(scores, groups, level)[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8))
def test_the_theorem_holds_for_every_bag_of_rows(kind, seed):
    # Given the bag of n + 1 rows, each is the new one with the same probability. So the
    # theorem is a statement about sums over all choices of the new row.
    scores, features, _, p = problem(kind, seed)
    f = features - np.minimum(features.min(axis=0), 0)  # non-negative: in the class
    if kind == "groups":
        f = features
    rows = np.arange(scores.size)
    threshold = np.array(
        [
            conditional_conformal_quantile(
                scores[rows != i], features[rows != i], features[[i]], p
            )[0]
            for i in rows
        ]
    )
    covered = scores <= threshold + 1e-12
    excess = f.T @ (covered - p)
    assert (excess >= -1e-8).all()
    if kind == "continuous":
        assert (excess <= features.shape[1] * f.max(axis=0) + 1e-8).all()


def test_the_randomized_theorem_holds_for_every_bag_of_rows():
    # The share of u that covers each row, up to the grid: every sum over the bag is 0.
    rng = np.random.default_rng(0)
    n, p, n_grid = 12, 0.8, 4000
    features = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    scores, rows = rng.normal(size=n), np.arange(n)
    u = (np.arange(n_grid) + 0.5) / n_grid
    share = np.empty(n)
    for i in rows:
        threshold = conditional_conformal_quantile(
            scores[rows != i],
            features[rows != i],
            np.repeat(features[[i]], n_grid, axis=0),
            p,
            u=u,
        )
        assert (np.diff(threshold[np.isfinite(threshold)]) >= -1e-12).all()
        share[i] = np.mean(scores[i] <= threshold)
    np.testing.assert_allclose(
        features.T @ (share - p), 0, atol=n * np.abs(features).max() / n_grid
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(10))
def test_the_randomized_threshold_stops_at_its_multiplier(kind, seed):
    scores, features, new, p = problem(kind, seed)
    u = np.random.default_rng(seed).uniform(size=3)
    found = conditional_conformal_quantile(scores, features, new, p, u=u)
    for row, threshold, stop in zip(new, found, u - (1 - p), strict=True):
        inside = np.clip(threshold, -1e5, 1e5)
        if threshold > -np.inf:
            below = multiplier(inside - 1e-5, scores, features, row, p)
            assert below <= stop + 1e-9
        if threshold < np.inf:
            above = multiplier(inside + 1e-5, scores, features, row, p)
            assert above >= stop - 1e-9


def test_u_equal_to_one_is_the_deterministic_form():
    scores, features, new, p = problem("continuous", 3)
    np.testing.assert_array_equal(
        conditional_conformal_quantile(scores, features, new, p, u=np.ones(3)),
        conditional_conformal_quantile(scores, features, new, p),
    )


def test_no_row_like_the_new_one_is_all_or_nothing():
    # Without a calibration row the multiplier is 0 whatever the score.
    found = conditional_conformal_quantile(
        [1.0, 2.0], [[1.0, 0.0]] * 2, [[0.0, 1.0]] * 2, 0.9, u=[0.05, 0.2]
    )
    np.testing.assert_array_equal(found, [-np.inf, np.inf])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(KINDS))
def test_invariances(seed, kind):
    scores, features, new, p = problem(kind, seed)
    rng = np.random.default_rng(seed)
    expected = conditional_conformal_quantile(scores, features, new, p)
    order = rng.permutation(scores.size)
    basis = np.linalg.qr(rng.normal(size=(features.shape[1],) * 2))[0]
    shift = rng.normal(size=features.shape[1])
    again = {
        "order of rows": (scores[order], features[order], new, 0.0),
        "basis of the class": (scores, features @ basis, new @ basis, 0.0),
        "redundant functions": (
            scores,
            np.hstack([features, features @ basis, 0 * features]),
            np.hstack([new, new @ basis, 0 * new]),
            0.0,
        ),
        "units": (scores, features * 1e-6, new * 1e-6, 0.0),
        "shift in the class": (scores + features @ shift, features, new, new @ shift),
    }
    for name, (s, z, z_new, moved) in again.items():
        found = conditional_conformal_quantile(s, z, z_new, p) - moved
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9, err_msg=name)
    found = conditional_conformal_quantile(7 * scores, features, new, p)
    np.testing.assert_allclose(found, 7 * expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_infinite_scores_are_larger_than_all_numbers(seed):
    scores, features, new, p = problem("continuous", seed)
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=scores.size)
    infinite = np.where(signs == 0, scores, np.copysign(np.inf, signs))
    huge = np.where(signs == 0, scores, signs * 1e7)
    found = conditional_conformal_quantile(infinite, features, new, p)
    large = conditional_conformal_quantile(huge, features, new, p)
    large = np.where(np.abs(large) > 1e3, np.copysign(np.inf, large), large)
    np.testing.assert_allclose(found, large, rtol=1e-7, atol=1e-7)


def test_scores_that_are_all_equal():
    rng = np.random.default_rng(0)
    features = np.column_stack([np.ones(300), rng.normal(size=(300, 3))])
    found = conditional_conformal_quantile(np.ones(300), features, features[:9], 0.9)
    np.testing.assert_allclose(found, 1.0, rtol=1e-12)


def test_rows_with_the_same_features_share_a_threshold():
    scores, features, _, p = problem("continuous", 5)
    new = np.repeat(features[:2], 3, axis=0)[[0, 3, 1, 4, 2, 5]]
    found = conditional_conformal_quantile(scores, features, new, p)
    assert np.unique(found).size == np.unique(new, axis=0).shape[0] == 2
    np.testing.assert_array_equal(found[::2], found[0])


def test_scores_of_very_different_sizes():
    # Heavy tails: the rounding of the largest scores must not tie the small ones.
    rng = np.random.default_rng(0)
    scores = np.exp(rng.normal(scale=12, size=400))
    groups = rng.integers(0, 3, size=400)
    found = conditional_conformal_quantile(scores, np.eye(3)[groups], np.eye(3), 0.3)
    np.testing.assert_array_equal(found, group_quantiles(scores, groups, 0.3)[1])


def test_few_and_no_rows():
    assert conditional_conformal_quantile([3.0], [[1.0]], [[1.0]], 0.5)[0] == 3.0
    none = np.empty((0, 2))
    assert conditional_conformal_quantile([3.0], [[1.0, 0.0]], none, 0.5).size == 0
    found = conditional_conformal_quantile([], none, [[1.0, 0.0]], 0.5)
    np.testing.assert_array_equal(found, [np.inf])


def test_lists_and_other_layouts():
    scores, features, new, p = problem("continuous", 8)
    expected = conditional_conformal_quantile(scores, features, new, p)
    lists = scores.tolist(), features.tolist(), new.tolist()
    np.testing.assert_array_equal(conditional_conformal_quantile(*lists, p), expected)
    fortran = np.asfortranarray(features), np.asfortranarray(new)
    np.testing.assert_allclose(
        conditional_conformal_quantile(scores, *fortran, p), expected, rtol=1e-12
    )
    for array in (scores, features, new):
        array.flags.writeable = False
    conditional_conformal_quantile(scores, features, new, p)


def test_one_warning_for_all_rows():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = conditional_conformal_quantile(
            [1.0, 2.0, 3.0], np.eye(2)[[0, 0, 0]], np.eye(2)[[0, 1, 1]], 0.75
        )
    np.testing.assert_array_equal(found, [3.0, np.inf, np.inf])
    assert [warning.category for warning in caught] == [InfiniteIntervalWarning]
    assert caught[0].filename == __file__
    assert "For 2 of 3 rows the 3 calibration rows are too few" in str(
        caught[0].message
    )


def test_a_walk_that_does_not_end_says_so(monkeypatch):
    monkeypatch.setattr(
        TiltedRegression, "_exchange", lambda self, vertex, *_, **__: vertex
    )
    rng = np.random.default_rng(0)
    features = np.column_stack([np.ones(50), rng.normal(size=(50, 2))])
    with pytest.raises(RuntimeError, match="did not end within 20 steps a row"):
        conditional_conformal_quantile(rng.normal(size=50), features, features, 0.9)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scores": [1.0, np.nan]}, "scores contains NaN"),
        ({"scores": [1.0]}, "features must have shape (1, n_functions)"),
        ({"features": [1.0, 1.0]}, "features must have shape (2, n_functions)"),
        ({"features": np.empty((2, 0))}, "with at least one column, got shape (2, 0)"),
        ({"features": [[1.0], [np.inf]]}, "features contains NaN or infinity"),
        ({"test_features": [[np.nan]]}, "test_features contains NaN or infinity"),
        ({"test_features": [[1.0, 2.0]]}, "test_features must have shape (n_test, 1)"),
        ({"confidence_level": 1.0}, "confidence_level must lie strictly between"),
        ({"u": [0.5, 0.5]}, "u must hold one number in [0, 1] for each of the 1 rows"),
        ({"u": [1.5]}, "u must hold one number in [0, 1]"),
        ({"u": [np.nan]}, "u must hold one number in [0, 1]"),
    ],
)
def test_bad_input(changed, message):
    arguments = {
        "scores": [1.0, 2.0],
        "features": [[1.0], [1.0]],
        "test_features": [[1.0]],
        "confidence_level": 0.5,
        **changed,
    }
    with pytest.raises(ValueError, match=re.escape(message)):
        conditional_conformal_quantile(**arguments)
