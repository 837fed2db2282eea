"""Statistics of a batch in every form; compositions against enumeration."""

import math
import warnings
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from tests.core._rank_oracle import extreme
from uqlib._core.batch_statistics import Composition
from uqlib._core.rank_bounds import batch_bound, batch_bound_details
from uqlib.exceptions import InfiniteIntervalWarning

INF = math.inf


def composed(statistic, initial, m):
    """A composition as plain functions of sorted values and sorted gaps."""

    def g(t):
        state = np.array([initial])
        for i in range(1, m + 1):
            state = np.asarray(statistic.gamma(i, state, t[i - 1]))
        return float(state[0])

    def h(gaps):
        state = np.array([0])
        for i in range(1, m + 1):
            state = np.asarray(statistic.eta(i, state, gaps[i - 1]))
            if np.isinf(state).any():
                return INF
        return float(state[0])

    return g, h


def random_composition(seed, n, forbid):
    """Any monotone gamma and any integer eta at all, by tables of random numbers."""
    rng = np.random.default_rng(seed)
    slope, floor = rng.uniform(0, 2, size=9), rng.normal(size=9)
    cost = rng.integers(-2, 4, size=(9, n + 2))

    def gamma(i, g, t):
        return np.maximum(slope[i] * g + t, floor[i])

    def eta(i, h, r):
        return np.where((r == n + 1) & forbid, INF, abs(h + cost[i, r]) % 7)

    return Composition(gamma, eta, start=0.5)


@pytest.mark.parametrize("forbid", [False, True])
@pytest.mark.parametrize(
    ("n", "m"), [(n, m) for n in (1, 2, 4, 6) for m in (1, 2, 3, 4)]
)
def test_composition_equals_enumeration(n, m, forbid):
    rng = np.random.default_rng([n, m])
    for seed in range(4):
        scores = rng.integers(0, 6, size=n).astype(float)
        statistic = random_composition(seed, n, forbid)
        ends = (-4.0, 9.0) if seed % 2 else (-INF, INF)
        level = Fraction(int(rng.integers(1, 20)), 20)
        g, h = composed(statistic, 0.5, m)
        for side, sign in (("upper", 1), ("lower", -1)):
            (found,) = batch_bound_details(
                scores, m, statistic, level, score_bounds=ends, side=side
            )

            # Lower sides tell eta the mirrored gap at the position of its score.
            def cost(r, sign=sign, h=h):
                return h(r if sign > 0 else r[::-1])

            wanted = extreme(scores, m, g, cost, level, ends, side)
            assert found.value == pytest.approx(wanted[0], abs=1e-9)
            assert found.event_probability == pytest.approx(wanted[1], abs=1e-12)
            assert found.rank == wanted[2]
            assert found.method == "dp"


@pytest.mark.parametrize("m", [1, 3, 6])
@pytest.mark.parametrize("bounds", [(-INF, INF), (0.0, 12.0)])
def test_sum_as_a_composition_is_the_mean(m, bounds):
    rng = np.random.default_rng(m)
    scores = rng.integers(1, 11, size=25).astype(float)
    top = INF if math.isinf(bounds[1]) else 25

    def eta(i, h, r):
        return h + (r - 1 if r <= 25 else top)

    total = SimpleNamespace(gamma=lambda i, g, t: g + t, eta=eta)  # any such object
    lower, upper = batch_bound(scores, m, total, 0.6, score_bounds=bounds)
    mean = batch_bound(scores, m, "mean", 0.6, score_bounds=bounds, method="dp")
    assert (lower / m, upper / m) == pytest.approx(mean, abs=1e-12)


def test_largest_as_a_composition_is_the_closed_form():
    scores = np.random.default_rng(0).normal(size=50)
    for last, name in ((True, "max"), (False, "min")):
        chosen = 4 if last else 1
        statistic = Composition(
            gamma=lambda i, g, t, c=chosen: np.full_like(g, t) if i == c else g,
            eta=lambda i, h, r, c=chosen: h + r if i == c else h,
        )
        assert batch_bound(scores, 4, statistic, 0.8) == batch_bound(
            scores, 4, name, 0.8
        )


def test_count_above_a_value_as_a_composition():
    # Bounded by m, so that it is finite even where scores are not.
    statistic = Composition(lambda i, g, t: g + (t > 1.5), lambda i, h, r: h + r)
    assert batch_bound([0, 1, 2, 3], 3, statistic, 0.9, side="upper") == 3.0
    assert batch_bound([0] * 40, 3, statistic, 0.9, side="lower") == 0.0


def test_band_of_a_composition_is_its_value_at_the_band():
    scores = np.sort(np.random.default_rng(1).normal(size=30))
    squares = Composition(
        lambda i, g, t: g + i * t, lambda i, h, r: h + r
    )  # weights 1, 2, 3
    for side in ("upper", "lower"):
        found = batch_bound(scores, 3, squares, 0.7, side=side, method="band")
        wanted = batch_bound(scores, 3, [1, 2, 3], 0.7, side=side, method="band")
        assert found == pytest.approx(6 * wanted)


def test_undefined_values_go_outwards():
    product = Composition(lambda i, g, t: g * t, lambda i, h, r: h + r)  # 0 times inf
    with pytest.warns(InfiniteIntervalWarning):
        assert batch_bound([1.0, 2.0], 2, product, 0.9) == (-INF, INF)


# ------------------------------------------------------------------------ errors


@dataclass
class _Pair:
    gamma: object
    eta: object

    def __repr__(self):  # names a test, so it must not hold addresses
        return "pair"


def grow(i, g, t):
    return g + t


@pytest.mark.parametrize(
    ("statistic", "message"),
    [
        ("mode", "statistic='mode' is not known"),
        (("mode", 1), r"statistic=\('mode', 1\) is not known"),
        (("order",), "statistics with parameters"),
        (("order", 0), "integer from 1 to 3"),
        (("order", 4), "integer from 1 to 3"),
        (("order", 1.0), "integer from 1 to 3"),
        (("order", True), "integer from 1 to 3"),
        (("quantile", 0.0), "strictly between 0 and 1"),
        (("quantile", 1.0), "strictly between 0 and 1"),
        (("quantile", "half"), "strictly between 0 and 1"),
        (("trimmed", 0.5, 0.0), r"in \[0, 0.5\)"),
        (("trimmed", 0.1, 1), r"in \[0, 0.5\)"),
        (("trimmed", -0.1, 0.1), r"in \[0, 0.5\)"),
        (("trimmed", 0.1, math.nan), r"in \[0, 0.5\)"),
        ([1, 2], "one weight for each of the m=3"),
        ([1, -1, 1], "finite and non-negative"),
        ([0, 0, 0], "finite and non-negative"),
        ([1, INF, 1], "finite and non-negative"),
        ([1, math.pi, 1], "proportional to integers"),
        ([1, 1001, 1], "proportional to integers"),
        ([1, 1 / 7, 1 / 997], "proportional to integers"),
        (["a", "b", "c"], "is not known"),
        (None, "one weight for each"),
        (_Pair(grow, lambda i, h, r: h + 0.5), "must give integers"),
        (_Pair(grow, lambda i, h, r: h - INF), "must give integers"),
        (_Pair(grow, lambda i, h, r: h + math.nan), "must give integers"),
        (_Pair(grow, lambda i, h, r: np.zeros(7)), "eta must return an array"),
        (_Pair(lambda i, g, t: np.zeros(7), lambda i, h, r: h), "gamma must return"),
    ],
    ids=str,
)
def test_bad_statistics(statistic, message):
    with pytest.raises(ValueError, match=message):
        batch_bound([1.0, 2.0, 3.0], 3, statistic, 0.5, score_bounds=(0, 9))


def test_compositions_refuse_what_they_do_not_know():
    statistic = Composition(grow, lambda i, h, r: h + r)
    for method in ("closed", "hull", "core"):
        with pytest.raises(ValueError, match="does not know compositions"):
            batch_bound([1, 2], 2, statistic, method=method)
    with pytest.raises(ValueError, match="leave phi='rank'"):
        batch_bound([1, 2], 2, statistic, phi=[0, 1, 2])
    many = Composition(grow, lambda i, h, r: 40 * h + r)
    with pytest.raises(ValueError, match="too many"):
        batch_bound(np.arange(39.0), 6, many)


def test_composition_without_an_allowed_gap():
    statistic = Composition(grow, lambda i, h, r: h + INF)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InfiniteIntervalWarning)
        assert batch_bound([1, 2], 2, statistic, 0.1) == (-INF, INF)
    bounds = batch_bound([1, 2], 2, statistic, 0.1, score_bounds=(0, 5))
    assert bounds == (0, 10)
