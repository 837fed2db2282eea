"""The law of one rank of a batch, against the enumeration of all rank multisets."""

import itertools
import math
import re
from fractions import Fraction
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from uqlib._core import order_law as order_module
from uqlib._core.order_law import (
    count_above_bound,
    count_multisets,
    order_law,
    order_statistic_rank,
    upper_rank,
)
from uqlib._core.ranks import conformal_rank

SIZES = [(n, m) for n in range(8) for m in range(1, 5)]
LEVELS = [0.01, 0.1, 0.25, 1 / 3, 0.5, 0.6, 0.75, 0.8, 0.9, 0.95, 0.99]
levels = st.integers(1, 999).map(lambda i: i / 1000)


@pytest.fixture(params=["numpy", "compiled"])
def path(request, monkeypatch):
    """Either path at every size."""

    def kernels(name, *_):
        return import_module(f"uqlib_kernels.{name}") if compiled else None

    compiled = request.param == "compiled"
    monkeypatch.setattr(order_module, "compiled_kernels", kernels)


def multisets(n, m):
    return list(itertools.combinations_with_replacement(range(1, n + 2), m))


def exact_rank(n, m, k, level):
    """Sum the exact law P(r_k = j) in integers until the level is reached."""
    total, reached = math.comb(n + m, m), 0
    for j in range(1, n + 2):
        reached += math.comb(j + k - 2, k - 1) * math.comb(n + m - j - k + 1, m - k)
        if reached >= level * total:
            return j
    raise AssertionError("the whole law is below the level")


def conformal_levels(n, m):
    """Common levels, and those at which the law jumps."""
    total = math.comb(n + m, m)
    return LEVELS + [Fraction(i, total) for i in range(1, total, max(1, total // 20))]


# ------------------------------------------------------------- the order statistics


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_order_rank_equals_enumeration(n, m, path):
    ranks = np.array(multisets(n, m))
    for k, level in itertools.product(range(1, m + 1), conformal_levels(n, m)):
        p = level if isinstance(level, Fraction) else Fraction(str(round(level, 12)))
        p = Fraction(1, 3) if level == 1 / 3 else p
        counts = [(ranks[:, k - 1] <= j).sum() for j in range(n + 2)]
        upper = next(j for j in range(1, n + 2) if counts[j] >= p * len(ranks))
        above = [(ranks[:, k - 1] - 1 >= r).sum() for r in range(n + 1)]
        lower = max(r for r in range(n + 1) if above[r] >= p * len(ranks))
        assert order_statistic_rank(n, m, k, level, "upper") == upper
        assert order_statistic_rank(n, m, k, level, "lower") == lower


@pytest.mark.parametrize(
    ("n", "m", "k", "level", "rank"),
    [
        (9, 1, 1, 0.9, 9),
        (9, 3, 3, 0.75, 9),
        (9, 3, 2, 0.8, 8),
        (19, 10, 9, 0.9, 20),
        (200, 100, 90, 0.9, 188),
        (500, 100, 90, 0.95, 472),
        (500, 100, 90, 0.9, 467),
        (1000, 100, 100, 0.9, 1000),
        (1000, 100, 90, 0.9, 932),
    ],
)
def test_order_rank_by_hand(n, m, k, level, rank, path):
    assert order_statistic_rank(n, m, k, level, "upper") == rank
    assert order_statistic_rank(n, m, m + 1 - k, level, "lower") == n + 1 - rank


@pytest.mark.parametrize(("n", "m"), [(7, 20), (60, 60), (200, 31), (640, 9)])
def test_order_rank_equals_the_exact_sum(n, m, path):
    for k in {1, 2, m // 3 + 1, m // 2 + 1, m - 1, m}:
        for decimal in ("0.001", "0.5", "0.9", "0.975", "0.999999"):
            rank = order_statistic_rank(n, m, k, float(decimal), "upper")
            assert rank == exact_rank(n, m, k, Fraction(decimal))
            assert type(rank) is int


@pytest.mark.parametrize("k", [1, 3, 10, 18, 20])
def test_a_level_on_an_atom_or_a_hair_beside_it(k, path):
    # No float tells these levels apart: the integers decide.
    n, m, hair = 70, 20, Fraction(1, 10**40)
    total = math.comb(n + m, m)
    for j in range(2, n + 1, 7):
        atom = Fraction(count_multisets(n, m, k, j), total)
        below = count_multisets(n, m, k, j - 1)
        assert below < atom * total
        assert upper_rank(n, m, k, atom) == j
        assert upper_rank(n, m, k, atom - hair) == j
        assert upper_rank(n, m, k, atom + hair) == j + 1


def test_count_of_multisets_equals_enumeration():
    for n, m in SIZES:
        ranks = np.array(multisets(n, m))
        for k, j in itertools.product(range(1, m + 1), range(-1, n + 3)):
            assert count_multisets(n, m, k, j) == (ranks[:, k - 1] <= j).sum()


@pytest.mark.parametrize(("n", "m"), [*SIZES, (100, 30), (30, 100), (1000, 3)])
def test_order_law_is_beta_binomial_and_negative_hypergeometric(n, m):
    j = np.arange(n + 1)
    for k in {1, (m + 1) // 2, m}:
        law = order_law(n, m, k)
        np.testing.assert_allclose(
            law, stats.betabinom(n, k, m + 1 - k).pmf(j), rtol=1e-9, atol=1e-15
        )
        np.testing.assert_allclose(
            np.cumsum(law), stats.nhypergeom(n + m, n, k).cdf(j), atol=1e-11
        )
        assert abs(law.sum() - 1) < 1e-13


@given(n=st.integers(0, 60), m=st.integers(1, 30), data=st.data())
def test_ranks_and_counts_are_dual(n, m, data):
    # r_k <= j if and only if at least k new scores lie below the j-th old one, and
    # their number is beta-binomial.
    k, j = data.draw(st.integers(1, m)), data.draw(st.integers(1, n + 1))
    share = count_multisets(n, m, k, j) / math.comb(n + m, m)
    if j <= n:
        dual = stats.betabinom(m, j, n + 1 - j).pmf(np.arange(k, m + 1)).sum()
        assert share == pytest.approx(dual, abs=1e-10)
    else:
        assert share == 1


@given(n=st.integers(0, 10**6), level=levels)
def test_one_new_score_is_split_conformal(n, level):
    rank = conformal_rank(n, level)
    assert order_statistic_rank(n, 1, 1, level, "upper") == rank
    assert order_statistic_rank(n, 1, 1, level, "lower") == n + 1 - rank


@given(
    n=st.integers(0, 200),
    m=st.integers(1, 40),
    pair=st.tuples(levels, levels),
    data=st.data(),
)
def test_order_rank_is_monotone_and_mirrored(n, m, pair, data):
    k = data.draw(st.integers(1, m))
    low, high = sorted(pair)
    upper = order_statistic_rank(n, m, k, high, "upper")
    assert order_statistic_rank(n, m, k, low, "upper") <= upper
    assert order_statistic_rank(n, m, max(1, k - 1), high, "upper") <= upper
    lower = order_statistic_rank(n, m, m + 1 - k, high, "lower")
    assert lower == n + 1 - upper
    half = Fraction(1 + Fraction(str(high))) / 2
    assert order_statistic_rank(n, m, k, high, "two") == (
        n + 1 - upper_rank(n, m, m + 1 - k, half),
        upper_rank(n, m, k, half),
    )


@pytest.mark.parametrize(
    ("n", "m"), [(10**5, 10**3), (10**3, 10**5), (2 * 10**5, 7), (600, 5000)]
)
def test_order_rank_of_huge_samples(n, m, path):
    # P(1) is far below the smallest float for most of these.
    for k in {1, m // 10 + 1, m // 2, m}:
        for level in (0.05, 0.9, 0.999):
            j = order_statistic_rank(n, m, k, level, "upper")
            at, before = stats.hypergeom(n + m, m, np.array([j + k - 1, j + k - 2])).sf(
                k - 1
            )
            assert j == n + 1 or at >= level - 1e-9
            assert before <= level + 1e-9


@pytest.mark.parametrize("level", [1e-12, 1e-7, 1 - 1e-7, 1 - 1e-12])
def test_order_rank_at_extreme_levels(level, path):
    n, m = 300, 12
    for k in (1, 6, 12):
        found = order_statistic_rank(n, m, k, level, "upper")
        # Such levels are kept as they stand, or as a fraction below 10^-9.
        exact = order_module.check_confidence_level(level)
        assert found == exact_rank(n, m, k, exact)


@pytest.mark.parametrize(
    "pool", [range(8), [0, 0, 0, 0, 1, 1, 1, 1], [2] * 8, [0, 1, 1, 1, 1, 1, 2, 3]]
)
def test_bounds_hold_with_ties(pool):
    # All ways to choose the new scores from a pool are equally likely.
    n, m = 5, 3
    splits = [set(chosen) for chosen in itertools.combinations(range(n + m), m)]
    for k, level in itertools.product(range(1, m + 1), LEVELS):
        lower, upper = order_statistic_rank(n, m, k, level, "two")
        held = 0
        for chosen in splits:
            new = sorted(pool[i] for i in chosen)
            old = sorted(pool[i] for i in range(n + m) if i not in chosen)
            ends = [-math.inf, *old, math.inf]
            held += ends[lower] <= new[k - 1] <= ends[upper]
        assert held / len(splits) >= level - 1e-12


def test_the_slow_path_is_the_fast_one_for_small_samples(monkeypatch):
    asked = []
    monkeypatch.setattr(
        order_module, "compiled_kernels", lambda *given: asked.append(given)
    )
    order_statistic_rank(50, 10, 5, 0.9, "upper")
    assert asked == [("rank_law", 50, order_module._KERNEL_MIN_ROWS)]


# --------------------------------------------------------- the number above a value


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_count_bound_equals_the_definition(n, m):
    pairs = math.comb(n + m, m)
    for below, level in itertools.product(range(n + 1), conformal_levels(n, m)):
        p = Fraction(level).limit_denominator(10**9)
        accepted = []
        for y in range(m + 1):
            above = n - below + y
            tail = sum(
                math.comb(above, i) * math.comb(n + m - above, m - i)
                for i in range(y, min(m, above) + 1)
            )
            if tail > (1 - p) * pairs:
                accepted.append(y)
        assert accepted == list(range(len(accepted)))  # an interval from 0
        assert count_above_bound(n, m, below, level) == accepted[-1]


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.99])
def test_count_bound_covers_for_every_total(level):
    n, m = 30, 12
    bounds = np.array([count_above_bound(n, m, below, level) for below in range(n + 1)])
    assert np.all(np.diff(bounds) <= 0)
    for total in range(n + m + 1):
        y = np.arange(max(0, total - n), min(m, total) + 1)
        held = y <= bounds[n - (total - y)]
        assert stats.hypergeom(n + m, total, m).pmf(y)[held].sum() >= level - 1e-12


def test_count_bound_is_monotone_in_the_level():
    found = [count_above_bound(100, 20, 70, level) for level in LEVELS]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_count_bound_of_huge_samples():
    n, m, below = 10**5, 10**3, 6 * 10**4
    y = count_above_bound(n, m, below, 0.9)
    tails = [
        stats.hypergeom(n + m, n - below + count, m).sf(count - 1)
        for count in (y, y + 1)
    ]
    assert tails[0] > 0.1 >= tails[1]


def test_count_bound_without_calibration():
    assert count_above_bound(0, 7, 0, 0.9) == 7


# ------------------------------------------------------------------------ bad input


def rank_calls(n, m):
    return [
        lambda: order_statistic_rank(n, m, 1, 0.9, "upper"),
        lambda: count_above_bound(n, m, 0, 0.9),
    ]


def test_sizes_out_of_range():
    for call in rank_calls(-1, 3):
        with pytest.raises(ValueError, match=r"^n must be .* >= 0, got -1\. Pass"):
            call()
    for call in rank_calls(5, 0):
        with pytest.raises(ValueError, match=r"^m must be .* >= 1, got 0\. Pass"):
            call()


@pytest.mark.parametrize("size", [2.0, "2", None, [2]])
def test_sizes_that_are_no_integers(size):
    message = re.escape(f"got {size!r} of type {type(size).__name__}.")
    for call in [*rank_calls(size, 3), *rank_calls(3, size)]:
        with pytest.raises(TypeError, match=f"must be an integer, {message}$"):
            call()


def test_numpy_integers_are_integers():
    n, m = np.int64(9), np.int32(3)
    assert order_statistic_rank(n, m, np.int8(3), 0.75, "upper") == 9
    assert count_above_bound(n, m, np.uint8(9), 0.75) == count_above_bound(
        9, 3, 9, 0.75
    )


@pytest.mark.parametrize("k", [0, 4, -1])
def test_positions_out_of_range(k):
    message = f"k must be an integer from 1 to 3, got {k}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        order_statistic_rank(9, 3, k, 0.9, "upper")


@pytest.mark.parametrize("below", [-1, 10])
def test_counts_out_of_range(below):
    message = f"n_below must be an integer from 0 to 9, got {below}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        count_above_bound(9, 3, below, 0.9)


@pytest.mark.parametrize("level", [0, 1, 0.0, 1.0, -0.1, 90, math.nan])
def test_levels_out_of_range(level):
    for call in (
        lambda: order_statistic_rank(9, 3, 1, level, "upper"),
        lambda: count_above_bound(9, 3, 4, level),
    ):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            call()


@pytest.mark.parametrize("level", ["0.9", None, [0.9], True])
def test_levels_that_are_no_numbers(level):
    with pytest.raises(TypeError, match="confidence_level must be a real number"):
        order_statistic_rank(9, 3, 1, level, "upper")


@pytest.mark.parametrize("side", ["both", "Upper", None, 2])
def test_unknown_sides(side):
    message = f"side={side!r} must be one of ['upper', 'lower', 'two']."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        order_statistic_rank(9, 3, 1, 0.9, side)
