"""Localized quantiles: weights by hand, the kernels' draws, the randomized theorem."""

import re
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from uqlib import InfiniteIntervalWarning, conformal_quantile
from uqlib._core import localization
from uqlib._core.distance_kernels import draw_offsets, median_distance, resolve_kernel
from uqlib._core.localization import localized_thresholds
from uqlib.conformal import localized_conformal_quantile

pytestmark = pytest.mark.filterwarnings("ignore::uqlib.InfiniteIntervalWarning")

PROFILES = {
    "gaussian": lambda u: np.exp(-0.5 * u**2),
    "box": lambda u: (u <= 1) * 1.0,
}


def by_hand(scores, weights, own, level):
    """The weighted quantile with the mass of the new row at +inf, in fractions."""
    exact = [Fraction(w) for w in weights]
    needed = Fraction(str(level)) * (sum(exact) + Fraction(own))
    order, reached = np.argsort(scores), Fraction(0)
    if sum(exact) + Fraction(own) == 0:
        return np.inf
    for i in order:
        reached += exact[i]
        if reached >= needed:
            return scores[i]
    return np.inf


def rows(seed, n=40, n_test=7, d=2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=n), rng.normal(size=(n, d)), rng.normal(size=(n_test, d))


@pytest.mark.parametrize("kernel", ["gaussian", "box", "callable"])
@pytest.mark.parametrize("bandwidth", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("level", [0.5, 0.8])
def test_equals_the_weighted_quantile_by_hand(kernel, bandwidth, level):
    profile = PROFILES.get(kernel, lambda u: 1 / (1 + u**2))
    scores, places, new = rows(0)
    found = localized_conformal_quantile(
        scores,
        places,
        new,
        level,
        bandwidth=bandwidth,
        kernel=profile if kernel == "callable" else kernel,
    )
    distance = np.linalg.norm(new[:, None] - places, axis=2) / bandwidth
    expected = [by_hand(scores, w, 1.0, level) for w in profile(distance)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kernel", ["gaussian", "box"])
def test_random_centers_equal_the_weighted_quantile_by_hand(kernel):
    scores, places, new = rows(1)
    offsets = draw_offsets(resolve_kernel(kernel), *new.shape, np.random.default_rng(5))
    found = localized_conformal_quantile(
        scores,
        places,
        new,
        0.8,
        bandwidth=0.7,
        kernel=kernel,
        rng=np.random.default_rng(5),
    )
    centers, profile = new + 0.7 * offsets, PROFILES[kernel]
    distance = np.linalg.norm(centers[:, None] - places, axis=2) / 0.7
    own = profile(np.linalg.norm(offsets, axis=1))
    weights = profile(distance)
    expected = [by_hand(scores, w, o, 0.8) for w, o in zip(weights, own, strict=True)]
    np.testing.assert_array_equal(found, expected)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=40),
    st.sampled_from([0.05, 0.5, 0.55, 0.8, 0.9]),
    st.booleans(),
    st.sampled_from(["gaussian", "box"]),
)
def test_an_infinite_bandwidth_is_the_conformal_quantile(scores, level, draw, kernel):
    # With ties of n + 1 and the level, where a rounded weight would be one rank off.
    places = np.random.default_rng(0).normal(size=(len(scores), 3))
    found = localized_conformal_quantile(
        scores,
        places,
        places[:1] + 9,
        level,
        bandwidth=np.inf,
        kernel=kernel,
        rng=np.random.default_rng(1) if draw else None,
    )
    assert found[0] == conformal_quantile(scores, level)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_a_box_is_the_conformal_quantile_of_the_rows_inside(level):
    rng = np.random.default_rng(0)
    places, scores = (
        rng.integers(0, 4, size=(200, 2)).astype(float),
        rng.normal(size=200),
    )
    new = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 3.0], [20.0, 0.0]])
    found = localized_conformal_quantile(
        scores, places, new, level, bandwidth=1.0, kernel="box"
    )
    for row, threshold in zip(new, found, strict=True):
        near = scores[np.abs(places - row).sum(axis=1) <= 1]
        assert threshold == conformal_quantile(near, level)


def test_equal_weights_that_are_no_integers():
    # All rows at one place near the new one: each step of the cumulative weight ties
    # with the level of some rank, up to rounding.
    for n in (9, 19, 49):
        scores = np.random.default_rng(n).normal(size=n)
        found = localized_conformal_quantile(
            scores,
            np.full((n, 1), 0.6),
            [[0.0]],
            0.9,
            bandwidth=1.0,
            kernel=lambda u: np.full_like(u, 0.1),
        )
        assert found[0] == conformal_quantile(scores, 0.9)


def test_blocks_do_not_matter(monkeypatch):
    scores, places, new = rows(3, n_test=50)
    expected = localized_conformal_quantile(scores, places, new, 0.8, bandwidth=0.5)
    monkeypatch.setattr(localization, "_BLOCK", 100)
    found = localized_conformal_quantile(scores, places, new, 0.8, bandwidth=0.5)
    np.testing.assert_array_equal(found, expected)


def test_order_of_the_calibration_rows_does_not_matter():
    scores, places, new = rows(4)
    found = localized_conformal_quantile(
        scores[::-1], places[::-1], new, 0.8, bandwidth=0.5
    )
    expected = localized_conformal_quantile(scores, places, new, 0.8, bandwidth=0.5)
    np.testing.assert_array_equal(found, expected)


def test_nested_in_the_level():
    scores, places, new = rows(6)
    levels = np.linspace(0.02, 0.98, 40)
    found = [
        localized_conformal_quantile(scores, places, new, p, bandwidth=1.0)
        for p in levels
    ]
    pairs = zip(found[1:], found[:-1], strict=True)
    assert all((higher >= lower).all() for higher, lower in pairs)


@pytest.mark.parametrize("kernel", ["gaussian", "box"])
@pytest.mark.parametrize("seed", range(10))
def test_the_randomized_theorem_holds_for_every_bag_of_rows(kernel, seed):
    # Given the center and the bag of n + 1 rows, row j is the new one with probability
    # proportional to K(x_j, c): the theorem is a statement about weighted sums.
    rng = np.random.default_rng(seed)
    n, h, level = 15, 0.8, Fraction(4, 5)
    places, scores = rng.normal(size=(n, 2)), rng.normal(size=n)
    center, profile = rng.normal(size=2), resolve_kernel(kernel)
    offsets = (center - places) / h
    weights = PROFILES[kernel](np.linalg.norm(offsets, axis=1))
    covered = np.empty(n)
    for j in range(n):
        rest = np.arange(n) != j
        covered[j] = (
            scores[j]
            <= localized_thresholds(
                scores[rest],
                places[rest],
                places[[j]],
                level,
                profile,
                h,
                offsets[[j]],
            )[0]
        )
    drawable = weights > 0
    share = weights @ np.where(drawable, covered, 0) / weights.sum()
    assert share >= 0.8 - 1e-12
    assert share <= 0.8 + weights.max() / weights.sum() + 1e-12


def test_random_centers_cover_where_the_spread_varies():
    # The bound fails once in a million runs. Scores grow with x, and half of the new
    # rows lie where calibration rows are rare.
    rng = np.random.default_rng(0)
    n_replications, n, level = 6000, 30, Fraction(9, 10)
    kernel, covered = resolve_kernel("gaussian"), 0
    for _ in range(n_replications):
        places = rng.exponential(size=(n + 1, 1))
        scores = np.abs(rng.normal(size=n + 1)) * (0.1 + places[:, 0] ** 2)
        threshold = localized_thresholds(
            scores[:n],
            places[:n],
            places[n:],
            level,
            kernel,
            0.5,
            draw_offsets(kernel, 1, 1, rng),
        )[0]
        covered += scores[n] <= threshold
    assert covered / n_replications >= 0.9 + norm.ppf(1e-6) * np.sqrt(
        0.09 / n_replications
    )


def test_draws_have_the_density_of_the_kernel():
    rng = np.random.default_rng(0)
    normal = draw_offsets(resolve_kernel("gaussian"), 4000, 2, rng)
    assert kstest(normal.ravel(), "norm").pvalue > 1e-6
    ball = draw_offsets(resolve_kernel("box"), 4000, 3, rng)
    radius = np.linalg.norm(ball, axis=1)
    assert radius.max() <= 1
    assert kstest(radius**3, "uniform").pvalue > 1e-6
    # Each coordinate of a uniform direction in three dimensions is uniform.
    assert kstest((ball / radius[:, None])[:, 0], "uniform", (-1, 2)).pvalue > 1e-6


def test_vanishing_weights_leave_the_new_row_alone():
    scores, places, new = rows(7)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = localized_conformal_quantile(scores, places, new, 0.8, bandwidth=1e-200)
    assert np.isposinf(found).all()
    assert [warning.category for warning in caught] == [InfiniteIntervalWarning]
    assert caught[0].filename == __file__
    assert "For 7 of 7 rows too little weight" in str(caught[0].message)


def test_far_centers_do_not_underflow():
    # In 3,000 dimensions every Gaussian weight, that of the new row too, is exp(-1500):
    # the ratios are what they are.
    rng = np.random.default_rng(0)
    found = localized_conformal_quantile(
        np.arange(9.0), np.zeros((9, 3000)), np.zeros((1, 3000)), 0.9, bandwidth=1.0,
        rng=rng,
    )  # fmt: skip
    assert found[0] == 8.0


def test_a_kernel_that_weighs_nothing():
    found = localized_conformal_quantile(
        [1.0, 2.0], [[0.0], [1.0]], [[0.0]], 0.5, bandwidth=1.0, kernel=np.zeros_like
    )
    np.testing.assert_array_equal(found, [np.inf])


def test_infinite_scores_are_legal():
    found = localized_conformal_quantile(
        [-np.inf, 1.0, np.inf], np.zeros((3, 1)), [[0.0]], 0.75, bandwidth=1.0
    )
    np.testing.assert_array_equal(found, [np.inf])
    found = localized_conformal_quantile(
        [-np.inf, 1.0, np.inf], np.zeros((3, 1)), [[0.0]], 0.25, bandwidth=1.0
    )
    np.testing.assert_array_equal(found, [-np.inf])


def test_few_and_no_rows():
    one = localized_conformal_quantile([3.0], [[0.0]], [[0.0]], 0.5, bandwidth=1.0)
    np.testing.assert_array_equal(one, [3.0])
    none = np.empty((0, 1))
    found = localized_conformal_quantile([], none, [[0.0]], 0.5, bandwidth=1.0)
    np.testing.assert_array_equal(found, [np.inf])
    found = localized_conformal_quantile([3.0], [[0.0]], none, 0.5, bandwidth=1.0)
    assert found.size == 0


def test_places_beyond_all_floats_are_far_from_everything():
    # In units of the bandwidth 5 is infinite, and nothing is known to lie near it.
    with pytest.warns(InfiniteIntervalWarning, match="at least 1 of the weight"):
        found = localized_conformal_quantile(
            [3.0, 4.0], [[0.0], [5.0]], [[0.0], [5.0]], 0.5, bandwidth=1e-320
        )
    np.testing.assert_array_equal(found, [3.0, np.inf])


def test_median_distance():
    places = np.random.default_rng(0).normal(size=(30, 3))
    pairs = [np.linalg.norm(places[i] - places[j]) for i in range(30) for j in range(i)]
    assert median_distance(places) == pytest.approx(np.median(pairs), rel=1e-12)
    assert median_distance(np.ones((5, 2))) == 1.0
    assert median_distance(np.ones((1, 2))) == 1.0
    many = np.random.default_rng(1).normal(size=(4001, 1))
    assert median_distance(many) == median_distance(many[::5])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scores": [np.nan, 1.0]}, "scores contains NaN"),
        ({"features": [[0.0]]}, "features must have shape (2, n_features)"),
        ({"features": [0.0, 1.0]}, "features must have shape (2, n_features)"),
        ({"features": [[0.0], [np.nan]]}, "features contains NaN or infinity"),
        ({"test_features": [[0.0, 1.0]]}, "test_features must have shape (n_test, 1)"),
        ({"test_features": [[np.inf]]}, "test_features contains NaN or infinity"),
        ({"confidence_level": 0.0}, "confidence_level must lie strictly between"),
        ({"bandwidth": 0.0}, "bandwidth must be positive, got 0.0"),
        ({"bandwidth": np.nan}, "bandwidth must be positive, got nan"),
        ({"bandwidth": "wide"}, "bandwidth must be a positive number, got 'wide'"),
        ({"bandwidth": "1"}, "bandwidth must be a positive number, got '1'"),
        ({"bandwidth": True}, "bandwidth must be a positive number, got True"),
        ({"kernel": "cosine"}, "kernel='cosine' must be one of ['box', 'gaussian']"),
        ({"kernel": lambda u: -u}, "kernel must turn an array of distances into"),
        ({"kernel": lambda u: u * np.nan}, "finite weights >= 0"),
        ({"kernel": lambda u: 1.0}, "of the same shape (1,); it gave shape ()"),
        (
            {"kernel": np.ones_like, "rng": np.random.default_rng(0)},
            "cannot be drawn from a kernel that is a function",
        ),
    ],
)
def test_bad_input(changed, message):
    arguments = {
        "scores": [1.0, 2.0],
        "features": [[0.0], [1.0]],
        "test_features": [[0.0]],
        "confidence_level": 0.5,
        "bandwidth": 1.0,
        **changed,
    }
    with pytest.raises(ValueError, match=re.escape(message)):
        localized_conformal_quantile(**arguments)
