"""Bounds of a statistic of a batch: enumeration, exact coverage, identities."""

import functools
import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core._rank_oracle import (
    linear_extreme,
    split_coverage,
    weighted,
    weights_of,
)
from uqlib._core.order_law import order_statistic_rank
from uqlib._core.rank_bands import band_probability, batch_band
from uqlib._core.rank_bounds import batch_bound, batch_bound_details
from uqlib._core.ranks import conformal_quantile
from uqlib.exceptions import InfiniteIntervalWarning

INF = math.inf
OPEN = (-INF, INF)
RANGES = [OPEN, (-3.0, INF), (-INF, 12.0), (-3.0, 12.0)]


def statistics(m):
    named = ["mean", "median", "max", "min", ("quantile", 0.6), ("trimmed", 0.3, 0.25)]
    orders = [("order", k) for k in range(1, m + 1)]
    rising, first = list(range(1, m + 1)), [1] + [0] * (m - 1)
    return [*named, *orders, rising, [2] * (m - 1) + [1], first]


def grids(n, rng):
    """Shapes with ties, forbidden gaps and an offset."""
    steps = np.cumsum(rng.integers(0, 4, size=n + 1)).astype(float)
    forbidden, few = steps.copy(), steps - 5
    forbidden[-1] = INF
    few[max(n - 1, 1) :] = INF
    return ["rank", steps, forbidden, few]


def quiet(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InfiniteIntervalWarning)
        return batch_bound(*args, **kwargs)


def one(*args, **kwargs):
    """The details of a single side."""
    (bound,) = batch_bound_details(*args, **kwargs)
    return bound


def twentieths(rng):
    return Fraction(int(rng.integers(1, 20)), 20)


every_small_size = pytest.mark.parametrize(
    ("n", "m"), [(n, m) for n in range(1, 8) for m in range(1, 5)]
)


# ------------------------------------------------------------------ enumeration


@every_small_size
def test_equals_enumeration_of_all_ranks(n, m):
    rng = np.random.default_rng([n, m])
    for statistic in statistics(m):
        for phi in grids(n, rng):
            tied = rng.integers(0, 4, size=n).astype(float)
            scores = tied if rng.random() < 0.5 else rng.uniform(-3, 12, size=n)
            ends, level = RANGES[rng.integers(4)], twentieths(rng)
            given_ = {"phi": phi, "score_bounds": ends}
            for side in ("lower", "upper"):
                found = one(
                    scores, m, statistic, level, side=side, method="dp", **given_
                )
                wanted = linear_extreme(scores, m, statistic, level, phi, ends, side)
                assert found.value == pytest.approx(wanted[0], abs=1e-9)
                assert found.event_probability == pytest.approx(wanted[1], abs=1e-12)
                assert found.rank == wanted[2]
                assert (found.gap, found.method) == (0.0, "dp")


@every_small_size
def test_core_equals_and_hull_certifies_the_enumeration(n, m):
    rng = np.random.default_rng([n, m, 1])
    for phi in [*grids(n, rng), *grids(n, rng)]:
        scores = rng.integers(0, 9, size=n) * 0.5
        ends, level = RANGES[rng.integers(4)], twentieths(rng)
        for side, sign in (("lower", -1), ("upper", 1)):
            given_ = {"phi": phi, "score_bounds": ends, "side": side}
            wanted = linear_extreme(scores, m, "mean", level, phi, ends, side)
            core = one(scores, m, "mean", level, method="core", **given_)
            hull = one(scores, m, "mean", level, method="hull", **given_)
            assert core.value == pytest.approx(wanted[0], abs=1e-9)
            assert core.rank == hull.rank == wanted[2]
            assert core.event_probability == hull.event_probability
            if math.isinf(wanted[0]):
                assert hull.value == wanted[0]
            else:
                above = sign * (hull.value - wanted[0])
                assert -1e-12 <= above <= hull.gap + 1e-12


@every_small_size
def test_closed_form_equals_enumeration(n, m):
    rng = np.random.default_rng([n, m, 2])
    scores = rng.integers(0, 5, size=n).astype(float)
    for k in range(1, m + 1):
        for side in ("lower", "upper"):
            ends, level = RANGES[rng.integers(4)], twentieths(rng)
            statistic = ("order", k)
            found = one(scores, m, statistic, level, score_bounds=ends, side=side)
            # The gap of the k-th score itself is the best h, whatever phi is.
            gaps = range(n + 1)
            wanted = linear_extreme(scores, m, statistic, level, gaps, ends, side)
            assert found.value == wanted[0]
            assert found.event_probability == pytest.approx(wanted[1], abs=1e-12)
            assert found.rank == order_statistic_rank(n, m, k, level, side)
            assert found.method == "closed"


CASES = [
    ([1, 2, 4, 7], 2, 0.8, (0, 10), [0, 1, 2, 3, 4], 6, (13, 15), 7, 1),
    ([1, 2, 4, 7], 2, 0.6, OPEN, [0, 1, 2, 3, INF], 5, (9, 15), 5.5, 1.5),
    ([1, 2, 4, 7], 2, 0.8, OPEN, [0, 1, 2, 3, INF], INF, (1, 1), INF, -INF),
    ([1, 2, 4, 7], 2, 0.8, (0, 10), [0, 0, 1, 3, 6], 6, (12, 15), 7, 1),
    ([1, 1, 1, 5], 3, 0.75, (0, 6), [0, 1, 2, 3, 4], 8, (28, 35), 13 / 3, 2 / 3),
]


@pytest.mark.parametrize("method", ["dp", "core"])
@pytest.mark.parametrize("case", CASES, ids="ABCDE")
def test_cases_by_hand(case, method):
    scores, m, level, ends, phi, q, event, upper, lower = case
    for side, value in (("upper", upper), ("lower", lower)):
        given_ = {"phi": phi, "score_bounds": ends, "side": side}
        found = one(scores, m, "mean", level, method=method, **given_)
        assert found.value == pytest.approx(value, abs=1e-12)
        assert found.event_probability == pytest.approx(event[0] / event[1], abs=1e-12)
        assert found.rank == q


@pytest.mark.parametrize(
    ("n", "m", "level", "q"),
    [
        (1000, 50, 0.95, 28443),
        (1000, 50, 0.9, 27686),
        (40, 10, 0.95, 268),
        (40, 10, 0.9, 253),
        (40, 10, 0.8, 235),
    ],
)
def test_rank_sum_quantile_has_the_probability(n, m, level, q):
    # Ranks drawn independently, as if with replacement, give a q that is too small:
    # its event has probability 0.878 in place of 0.9 for n = 40 and m = 10.
    given_ = {"score_bounds": (0, 1), "side": "upper", "method": "hull"}
    found = one(np.linspace(0, 1, n), m, "mean", level, **given_)
    assert found.rank == q
    assert level <= found.event_probability < level + 0.01


@pytest.mark.parametrize("side", ["upper", "lower"])
@pytest.mark.parametrize(
    ("m", "statistic"), [(5, "mean"), (4, "median"), (6, ("trimmed", 0.2, 0.2))]
)
def test_band_is_the_statistic_of_the_band(m, statistic, side):
    scores = np.random.default_rng(3).normal(size=40)
    ends = [-9.0, *np.sort(scores), 9.0]
    for level in (0.5, 0.8):
        band = batch_band(40, m, level)
        given_ = {"score_bounds": (-9, 9), "side": side, "method": "band"}
        found = one(scores, m, statistic, level, **given_)
        at_band = [ends[v] for v in (band if side == "upper" else 41 - band[::-1])]
        assert found.value == pytest.approx(weighted(weights_of(statistic, m), at_band))
        assert found.event_probability == band_probability(40, m, band)
        assert math.isnan(found.gap)
        assert found.rank is None


def test_trimmed_mean_stays_finite_where_the_mean_cannot():
    scores = np.random.default_rng(4).normal(size=60)
    lower, upper = batch_bound(scores, 20, ("trimmed", 0.1, 0.1), 0.8)
    assert -INF < lower < upper < INF
    with pytest.warns(InfiniteIntervalWarning):
        assert batch_bound(scores, 20, "mean", 0.8) == (-INF, INF)


@given(st.integers(1, 60), st.floats(0.02, 0.98), st.integers(0, 9))
def test_a_batch_of_one_is_split_conformal(n, level, seed):
    scores = np.random.default_rng(seed).integers(0, 20, size=n) / 7
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InfiniteIntervalWarning)
        wanted = conformal_quantile(scores, level)
    for statistic in ("mean", "median", "max", "min", [0.3]):
        for method in ("auto", "dp", "band", "core"):
            given_ = {"method": method}
            assert quiet(scores, 1, statistic, level, side="upper", **given_) == wanted
            assert (
                quiet(-scores, 1, statistic, level, side="lower", **given_) == -wanted
            )


# --------------------------------------------------------------- exact coverage


POOLS = {
    "distinct": [0, 1, 3, 4, 8, 9, 15, 40, 41],
    "ties": [0, 0, 0, 2, 2, 5, 5, 5, 6],
    "two values": [0, 0, 0, 0, 0, 1, 1, 1, 1],
    "constant": [2] * 9,
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("m", [1, 2, 3])
def test_coverage_over_every_split_of_a_pool(pool, m):
    # Given the pooled values, exchangeable scores are a uniformly random split of them.
    exact = [
        (name, method)
        for name in ("median", "max", ("trimmed", 0.4, 0.0), list(range(1, m + 1)))
        for method in ("auto", "band")
    ]
    mean = [("mean", method) for method in ("dp", "core", "hull", "band")]
    for statistic, method in [*exact, *mean]:
        weights = weights_of(statistic, m)
        for level in (0.3, 0.7, 0.9):
            given_ = {"score_bounds": (-1.0, 45.0), "method": method}
            bound = functools.partial(
                quiet, m=m, statistic=statistic, confidence_level=level, **given_
            )
            share = split_coverage(POOLS[pool], m, weights, bound)
            assert share >= Fraction(str(level))


@pytest.mark.parametrize("level", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_order_statistics_cover_by_the_probability_of_their_event(k, level):
    given_ = {"m": 3, "statistic": ("order", k), "confidence_level": level}
    given_ |= {"score_bounds": (-1, 99), "side": "upper"}

    def bound(scores):
        return -INF, batch_bound(scores, **given_)

    weights = weights_of(("order", k), 3)
    share = split_coverage(POOLS["distinct"], 3, weights, bound)
    probability = one(range(6), **given_).event_probability
    assert probability == pytest.approx(float(share), abs=1e-12)


# -------------------------------------------------------------------- identities


@pytest.mark.parametrize("phi", ["rank", "normal"])
@pytest.mark.parametrize("statistic", ["mean", "median", ("trimmed", 0.2, 0.1), "max"])
def test_monotone_in_the_level(statistic, phi):
    scores = np.random.default_rng(5).exponential(size=80)
    levels = np.linspace(0.05, 0.98, 25)
    lower, upper = np.transpose(
        [
            quiet(scores, 6, statistic, level, phi=phi, score_bounds=(0, INF))
            for level in levels
        ]
    )
    assert np.all(np.diff(lower) <= 1e-12)
    assert np.all(upper[1:] >= upper[:-1] - 1e-12)
    assert np.all(lower <= upper)


@given(
    seed=st.integers(0, 10**6),
    m=st.integers(1, 8),
    shift=st.integers(-64, 64),
    scale=st.sampled_from([0.25, 0.5, 2.0, 8.0]),
    statistic=st.sampled_from(["mean", "median", "max", ("trimmed", 0.2, 0.3)]),
    phi=st.sampled_from(["rank", "normal"]),
    method=st.sampled_from(["auto", "dp", "band"]),
)
def test_permutation_shift_scale_and_mirror(
    seed, m, shift, scale, statistic, phi, method
):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-40, 40, size=rng.integers(1, 40)).astype(float)
    bounds = [(-INF, INF), (-50.0, 50.0), (-50.0, INF)][seed % 3]

    def bound(values, ends, name=statistic):
        return np.array(
            quiet(values, m, name, 0.7, phi=phi, score_bounds=ends, method=method)
        )

    found = bound(scores, bounds)
    np.testing.assert_array_equal(bound(rng.permutation(scores), bounds), found)
    moved = tuple(scale * end + shift for end in bounds)
    np.testing.assert_allclose(
        bound(scale * scores + shift, moved), scale * found + shift, atol=1e-9
    )
    mirror = {"max": "min", ("trimmed", 0.2, 0.3): ("trimmed", 0.3, 0.2)}
    turned = bound(-scores, (-bounds[1], -bounds[0]), mirror.get(statistic, statistic))
    np.testing.assert_array_equal(-turned[::-1], found)


@pytest.mark.parametrize("statistic", ["mean", "median", ("order", 2)])
def test_two_sides_are_one_at_half_the_miscoverage_each(statistic):
    scores = np.random.default_rng(6).normal(size=90)
    pair = batch_bound(scores, 4, statistic, 0.8)
    sides = [batch_bound(scores, 4, statistic, 0.9, side=s) for s in ("lower", "upper")]
    assert pair == tuple(sides)


def test_array_of_the_named_shape_and_other_forms_of_input():
    scores = np.random.default_rng(7).normal(size=30).round(3).astype(np.float32)
    wanted = batch_bound(scores.astype(float), 3, "mean", 0.8)
    phi = np.append(np.arange(30.0), INF)
    assert batch_bound(scores, 3, "mean", 0.8) == wanted
    assert batch_bound(scores.tolist(), 3, "mean", 0.8, phi=phi + 17) == wanted
    assert batch_bound(np.repeat(scores, 2)[::2], 3, [4.0] * 3, 0.8) == wanted
    assert batch_bound(scores, np.int64(3), "mean", Fraction(4, 5)) == wanted


def test_auto_looks_at_the_shape_of_the_problem_alone():
    rng = np.random.default_rng(8)
    for n, m, statistic, method in [
        (50, 5, "mean", "core"),
        (3000, 20, "mean", "hull"),
        (50, 5, "median", "closed"),
        (50, 4, "median", "dp"),
        (50, 4, ("quantile", 0.9), "closed"),
        (50, 1, "mean", "closed"),
    ]:
        for scores in (rng.normal(size=n), np.zeros(n), rng.exponential(size=n)):
            found = batch_bound_details(scores, m, statistic, 0.5)
            assert {bound.method for bound in found} == {method}
