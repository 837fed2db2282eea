"""Bands over all ranks of a batch and pairs of ranks, against enumeration."""

import itertools
import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from uqlib._core.order_law import count_multisets, order_statistic_rank
from uqlib._core.rank_bands import (
    band_probability,
    batch_band,
    joint_order_probability,
)
from uqlib._core.ranks import conformal_rank

SIZES = [(n, m) for n in range(8) for m in range(1, 5)]
LEVELS = [0.05, 0.2, 0.5, 0.6, 0.75, 0.8, 0.9, 0.95, 0.99]
levels = st.integers(1, 999).map(lambda i: i / 1000)


def multisets(n, m):
    return np.array(list(itertools.combinations_with_replacement(range(1, n + 2), m)))


# ---------------------------------------------------------- the probability of a band


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_band_probability_equals_enumeration(n, m):
    ranks = multisets(n, m)
    bands = multisets(n, m)  # every non-decreasing band above 0
    if len(bands) > 60:
        bands = bands[np.random.default_rng(n).choice(len(bands), 60, replace=False)]
    for band in bands:
        expected = np.all(ranks <= band, axis=1).mean()
        assert band_probability(n, m, band) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(("n", "m"), [(3, 2), (4, 3), (6, 4)])
def test_a_band_need_not_be_sorted(n, m):
    ranks, rng = multisets(n, m), np.random.default_rng(n)
    for _ in range(40):
        band = rng.integers(0, n + 2, size=m)
        expected = np.all(ranks <= band, axis=1).mean()
        assert band_probability(n, m, band) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(
    ("band", "probability"),
    [
        ([5, 8, 10], Fraction(17, 22)),
        ([4, 7, 9], Fraction(59, 110)),
        ([10, 10, 10], Fraction(1)),
        ([0, 10, 10], Fraction(0)),
        ([1, 1, 1], Fraction(1, 220)),
    ],
)
def test_band_probability_by_hand(band, probability):
    found = band_probability(9, 3, band)
    assert found == pytest.approx(float(probability), rel=1e-14)
    assert type(found) is float


@pytest.mark.parametrize(("n", "m", "k"), [(50, 8, 3), (400, 60, 55), (1000, 900, 10)])
def test_a_band_over_one_rank_is_its_law(n, m, k):
    for j in {1, n // 10, n // 2, n}:
        band = np.full(m, n + 1)
        band[k - 1] = j
        expected = count_multisets(n, m, k, j) / math.comb(n + m, m)
        assert band_probability(n, m, band) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(("n", "m"), [(20, 400), (10**5, 40), (2 * 10**4, 1000)])
def test_band_probability_of_huge_samples(n, m):
    # The largest rank bounds them all; the ranks of few scores are far below the bounds
    # that suit many, whose probabilities underflow on the way.
    j = n - n // (2 * m)
    expected = math.comb(j - 1 + m, m) / math.comb(n + m, m)
    band = np.full(m, j)
    assert band_probability(n, m, band) == pytest.approx(expected, rel=1e-10)
    quantiles = stats.betabinom(n, np.arange(1, m + 1), np.arange(m, 0, -1)).mean()
    loose = np.minimum(n + 1, quantiles.astype(int) + 5 * n // math.isqrt(m))
    assert 0.5 < band_probability(n, m, loose) <= 1


def test_a_band_without_room_until_the_last_score():
    # Of all multisets only those with m - 1 ranks of 1: n + 1 of C(n + m, m).
    n, m = 40, 1200
    band = np.ones(m, dtype=int)
    band[-1] = n + 1
    expected = math.log(n + 1) - (
        math.lgamma(n + m + 1) - math.lgamma(m + 1) - math.lgamma(n + 1)
    )
    assert math.log(band_probability(n, m, band)) == pytest.approx(expected, rel=1e-9)


# ------------------------------------------------------------------- the tuned band


def brute_band(n, m, level):
    """The band of the smallest common gamma, among all values the laws take."""
    ranks, total = multisets(n, m), math.comb(n + m, m)
    counts = [
        [int((ranks[:, i] <= j).sum()) for j in range(1, n + 2)] for i in range(m)
    ]
    for gamma in sorted({count for law in counts for count in law}):
        band = np.array(
            [1 + next(j for j, c in enumerate(law) if c >= gamma) for law in counts]
        )
        if np.all(ranks <= band, axis=1).sum() >= level * total:
            return band
    raise AssertionError("gamma = 1 bounds nothing")


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_batch_band_equals_brute_force(n, m):
    for level in LEVELS:
        band = batch_band(n, m, level)
        assert band.tolist() == brute_band(n, m, Fraction(str(level))).tolist()


@given(n=st.integers(0, 10**5), level=levels)
def test_band_of_one_new_score_is_split_conformal(n, level):
    assert batch_band(n, 1, level).tolist() == [conformal_rank(n, level)]


@given(n=st.integers(0, 80), m=st.integers(1, 25), pair=st.tuples(levels, levels))
def test_batch_band_has_the_level_and_is_monotone(n, m, pair):
    low, high = (batch_band(n, m, level) for level in sorted(pair))
    assert band_probability(n, m, high) >= max(pair) - 1e-12
    assert np.all(low <= high)
    assert np.all(np.diff(high) >= 0)
    assert high.min() >= 1
    assert high.max() <= n + 1
    # No rank of the band is below that of its order statistic alone, none above that
    # at the level of the union bound.
    for i, rank in enumerate(high.tolist(), start=1):
        assert rank >= order_statistic_rank(n, m, i, max(pair), "upper")
        union = 1 - (1 - Fraction(str(max(pair)))) / m
        assert rank <= order_statistic_rank(n, m, i, union, "upper")


@pytest.mark.parametrize(("n", "m", "level"), [(1000, 50, 0.9), (5000, 20, 0.95)])
def test_batch_band_is_tight_for_large_samples(n, m, level):
    band = batch_band(n, m, level)
    assert level - 1e-12 <= band_probability(n, m, band) < level + 2e-3


@pytest.mark.parametrize(("n", "m"), [(0, 3), (8, 1), (50, 10), (100, 30)])
def test_an_impossible_band_ends_at_the_upper_end(n, m):
    # P(r_m <= n) = n / (n + m) is below the level.
    assert batch_band(n, m, 0.95)[-1] == n + 1


def test_lower_band_is_the_mirror_image():
    n, m, level = 7, 4, 0.8
    ranks = multisets(n, m)
    lower = n + 1 - batch_band(n, m, level)[::-1]
    # S_(lower_i) <= T_(i) if and only if r_i > lower_i.
    held = np.all(ranks > lower, axis=1).mean()
    assert held >= level
    mirrored = (n + 2 - (lower + 1))[::-1]
    assert band_probability(n, m, mirrored) == pytest.approx(held, abs=1e-14)


@pytest.mark.parametrize("pool", [range(8), [0, 0, 1, 1, 1, 1, 2, 2], [5] * 8])
def test_band_holds_with_ties(pool):
    n, m, level = 5, 3, 0.6
    band = batch_band(n, m, level)
    held, splits = 0, list(itertools.combinations(range(n + m), m))
    for chosen in splits:
        new = sorted(pool[i] for i in chosen)
        old = sorted(pool[i] for i in range(n + m) if i not in chosen)
        bounds = [[*old, math.inf][rank - 1] for rank in band]
        held += all(t <= bound for t, bound in zip(new, bounds, strict=True))
    assert held / len(splits) >= level


# ----------------------------------------------------------------- a pair of ranks


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_joint_probability_equals_enumeration(n, m):
    ranks = multisets(n, m)
    for k1, k2 in itertools.combinations_with_replacement(range(1, m + 1), 2):
        for lower, upper in itertools.product(range(1, n + 2), repeat=2):
            inside = (lower <= ranks[:, k1 - 1]) & (ranks[:, k2 - 1] <= upper)
            found = joint_order_probability(n, m, k1, k2, lower, upper)
            assert found == pytest.approx(inside.mean(), abs=1e-14)
            assert type(found) is float


def test_joint_probability_by_hand():
    # The median of 11 new scores lies between the scores 26 and 75 of 100.
    found = joint_order_probability(100, 11, 6, 6, 27, 75)
    assert round(found, 4) == 0.9046


@given(n=st.integers(0, 60), m=st.integers(1, 40), data=st.data())
def test_joint_probability_of_one_side_is_the_law_of_a_rank(n, m, data):
    k, j = data.draw(st.integers(1, m)), data.draw(st.integers(1, n + 1))
    total = math.comb(n + m, m)
    below = count_multisets(n, m, k, j) / total
    above = 1 - count_multisets(n, m, k, j - 1) / total
    for other in {1, (1 + k) // 2, k}:
        found = joint_order_probability(n, m, other, k, 1, j)
        assert found == pytest.approx(below, abs=1e-12)
    for other in {k, (k + m) // 2, m}:
        found = joint_order_probability(n, m, k, other, j, n + 1)
        assert found == pytest.approx(above, abs=1e-12)


@given(n=st.integers(0, 60), m=st.integers(1, 40), data=st.data())
def test_joint_probability_is_a_difference_of_bands(n, m, data):
    k1 = data.draw(st.integers(1, m))
    k2 = data.draw(st.integers(k1, m))
    lower = data.draw(st.integers(1, n + 1))
    upper = data.draw(st.integers(lower, n + 1))
    band = np.full(m, n + 1)
    band[k2 - 1] = upper
    both = band.copy()
    both[k1 - 1] = min(both[k1 - 1], lower - 1)
    expected = band_probability(n, m, band) - band_probability(n, m, both)
    found = joint_order_probability(n, m, k1, k2, lower, upper)
    assert found == pytest.approx(expected, abs=1e-12)


def test_joint_probability_of_huge_samples():
    n, m = 10**5, 1000
    for k1, k2, upper in [(1, 500, 50_000), (300, 900, 90_500), (1000, 1000, n)]:
        expected = stats.hypergeom(n + m, m, upper + k2 - 1).sf(k2 - 1)
        found = joint_order_probability(n, m, k1, k2, 1, upper)
        assert found == pytest.approx(expected, abs=1e-9)
    assert joint_order_probability(n, m, 1, m, 1, n + 1) == pytest.approx(1, abs=1e-12)


# ------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("band", "error", "message"),
    [
        ([1, 2], ValueError, "b must have shape (3,), one rank for each of the m=3"),
        ([[1, 2, 3]], ValueError, "b must have shape (3,), one rank for each of the"),
        (4, ValueError, "b must have shape (3,), one rank for each of the m=3"),
        ([1, 2, 11], ValueError, "b must hold ranks from 0 to n + 1 = 10, got values"),
        ([-1, 2, 3], ValueError, "b must hold ranks from 0 to n + 1 = 10, got values"),
        ([1.0, 2.0, 3.0], TypeError, "b must hold integers, got an array of float64."),
        ([1, 2, math.nan], TypeError, "b must hold integers, got an array of float64."),
    ],
)
def test_bands_that_are_none(band, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        band_probability(9, 3, band)


def test_bad_sizes_and_levels():
    for call in (
        lambda n, m: band_probability(n, m, [1]),
        lambda n, m: batch_band(n, m, 0.9),
        lambda n, m: joint_order_probability(n, m, 1, 1, 1, 1),
    ):
        with pytest.raises(ValueError, match=r"^n must be .* >= 0, got -1"):
            call(-1, 1)
        with pytest.raises(ValueError, match=r"^m must be .* >= 1, got 0"):
            call(1, 0)
        with pytest.raises(TypeError, match=r"^n must be an integer, got 2\.0"):
            call(2.0, 1)
    for level in (0, 1, 90, math.nan):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            batch_band(9, 3, level)


@pytest.mark.parametrize(
    ("given_ranks", "message"),
    [
        ((0, 1, 1, 2), "k1 must be an integer from 1 to 3, got 0."),
        ((1, 4, 1, 2), "k2 must be an integer from 1 to 3, got 4."),
        ((3, 2, 1, 2), "k1=3 must be at most k2=2: the event bounds the smaller"),
        ((1, 2, 0, 2), "lower must be an integer from 1 to 10, got 0."),
        ((1, 2, 1, 11), "upper must be an integer from 1 to 10, got 11."),
    ],
)
def test_pairs_that_are_none(given_ranks, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        joint_order_probability(9, 3, *given_ranks)


def test_the_band_is_not_changed():
    band = np.array([9, 4, 8])
    band.setflags(write=False)
    assert band_probability(9, 3, band) == band_probability(9, 3, [4, 4, 8])
    wide = np.array([4, 0, 7, 0, 9])
    assert band_probability(9, 3, wide[::2]) == pytest.approx(59 / 110, rel=1e-14)
