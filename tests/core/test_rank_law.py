"""Laws of sums over the ranks of a batch, against the enumeration of all multisets."""

import itertools
import math
import re
from collections import Counter
from fractions import Fraction
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from uqlib._core import rank_law as law_module
from uqlib._core.rank_law import (
    counting_law,
    fourier_law,
    grid_law,
    rank_sum_law,
    sine_law,
)

SIZES = [(n, m) for n in range(8) for m in range(1, 5)]


@pytest.fixture(params=["numpy", "compiled"])
def path(request, monkeypatch):
    """Either path at every size."""

    def kernels(name, *_):
        return import_module(f"uqlib_kernels.{name}") if compiled else None

    compiled = request.param == "compiled"
    monkeypatch.setattr(law_module, "compiled_kernels", kernels)


def multisets(n, m):
    return list(itertools.combinations_with_replacement(range(1, n + 2), m))


# ------------------------------------------------------------- the sum of the ranks


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_rank_sums_equal_enumeration(n, m, path):
    counts = Counter(sum(ranks) - m for ranks in multisets(n, m))
    expected = [counts[s] / math.comb(n + m, m) for s in range(n * m + 1)]
    np.testing.assert_allclose(rank_sum_law(n, m), expected, atol=1e-15, rtol=1e-12)


def test_rank_sum_counts_by_hand(path):
    np.testing.assert_allclose(
        15 * rank_sum_law(4, 2), [1, 1, 2, 2, 3, 2, 2, 1, 1], rtol=1e-14
    )


@pytest.mark.parametrize(
    ("n", "m", "quantiles"),
    [
        (1000, 50, {0.95: 28443, 0.9: 27686}),
        (40, 10, {0.95: 268, 0.9: 253, 0.8: 235}),
    ],
)
def test_rank_sum_quantiles_by_hand(n, m, quantiles, path):
    cumulative = np.cumsum(rank_sum_law(n, m))
    for level, quantile in quantiles.items():
        assert np.searchsorted(cumulative, level - 1e-12) == quantile


def test_ranks_are_not_drawn_with_replacement(path):
    # The law of m independent ranks is too narrow: the event at its 90 % quantile has
    # the probability 0.878 only.
    n, m = 40, 10
    independent = np.ones(1)
    for _ in range(m):
        independent = np.convolve(independent, np.full(n + 1, 1 / (n + 1)))
    q = np.searchsorted(np.cumsum(independent), 0.9)
    assert round(float(rank_sum_law(n, m)[: q + 1].sum()), 3) == 0.878


@given(n=st.integers(0, 40), m=st.integers(1, 40))
def test_rank_sum_law_is_a_symmetric_law_with_known_moments(n, m):
    law = rank_sum_law(n, m)
    s = np.arange(n * m + 1)
    assert np.array_equal(law, law[::-1])
    assert np.all(law > 0)
    assert abs(law.sum() - 1) < 1e-13
    variance = n * m * (n + m + 1) / 12
    assert law @ (s - n * m / 2) ** 2 == pytest.approx(variance, rel=1e-11)
    if n:
        assert np.array_equal(law, rank_sum_law(m, n))


@given(n=st.integers(1, 25), m=st.integers(2, 25))
def test_rank_sum_law_by_the_largest_score(n, m):
    # Among all n + m scores the largest is a new one, above n old ones, or an old one.
    expected = np.zeros(n * m + 1)
    expected[n:] += m / (n + m) * rank_sum_law(n, m - 1)
    expected[: (n - 1) * m + 1] += n / (n + m) * rank_sum_law(n - 1, m)
    np.testing.assert_allclose(rank_sum_law(n, m), expected, rtol=1e-10, atol=1e-300)


def test_rank_sum_law_is_that_of_mann_and_whitney():
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=13), rng.normal(0.3, size=9)
    test = stats.mannwhitneyu(new, old, alternative="greater", method="exact")
    tail = rank_sum_law(13, 9)[int(test.statistic) :].sum()
    assert tail == pytest.approx(test.pvalue, rel=1e-12)


def test_rank_sum_law_of_large_samples(path):
    for n, m in [(10**4, 30), (10**5, 3), (300, 200), (2, 10**5)]:
        law = rank_sum_law(n, m)
        assert abs(law.sum() - 1) < 1e-12
        assert law.min() >= 0
        s = np.arange(law.size) - n * m / 2
        assert law @ s**2 == pytest.approx(n * m * (n + m + 1) / 12, rel=1e-11)


def exact_rank_sums(n, m):
    """The recursion in integers, over the lower half of the law."""
    half = n * m // 2 + 1
    counts = np.zeros(half, dtype=object)
    counts[0] = 1
    for i in range(1, m + 1):
        counts[n + i :] -= counts[: max(half - n - i, 0)].copy()
        for residue in range(min(i, half)):
            counts[residue::i] = np.cumsum(counts[residue::i])
    total = math.comb(n + m, m)
    lower = np.array([count / total for count in counts])
    return np.concatenate([lower, lower[: n * m + 1 - half][::-1]])


@pytest.mark.parametrize(
    ("n", "m"), [(1, 1), (3, 7), (40, 41), (100, 100), (101, 101), (130, 220)]
)
def test_rank_sum_law_equals_the_recursion_in_integers(n, m, path):
    exact = exact_rank_sums(n, m)
    for law in (rank_sum_law(n, m), sine_law(n, m)):
        assert law.shape == exact.shape
        assert np.abs(np.cumsum(law - exact)).max() < 1e-13
        assert np.array_equal(law, law[::-1])


# ------------------------------------------------------- the sum of a grid of values


def enumerated(phi, m):
    n, top = len(phi) - 1, max(int(v) for v in phi if v < np.inf)
    law = np.zeros(m * top + 1)
    for ranks in multisets(n, m):
        total = sum(phi[v - 1] for v in ranks)
        if total < np.inf:
            law[int(total)] += 1
    return law / math.comb(n + m, m)


@pytest.mark.parametrize(("n", "m"), SIZES)
@pytest.mark.parametrize("n_forbidden", [0, 1, 2])
def test_grid_law_equals_enumeration(n, m, n_forbidden, path):
    rng = np.random.default_rng([n, m, n_forbidden])
    for top in (1, 4, 30):
        phi = np.sort(rng.integers(0, top + 1, size=n + 1)).astype(float)
        phi[max(1, n + 1 - n_forbidden) :] = np.inf
        expected = enumerated(phi, m)
        found = grid_law(phi, m)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
        finite = phi[phi < np.inf].astype(int)
        mass = expected.sum()
        for law in (counting_law, fourier_law):
            np.testing.assert_allclose(law(finite, m) * mass, expected, atol=1e-14)


@pytest.mark.parametrize(
    ("phi", "m", "quantile", "event"),
    [
        ([0, 1, 2, 3, 4], 2, 6, Fraction(13, 15)),
        ([0, 1, 2, 3, np.inf], 2, 5, Fraction(9, 15)),
        ([0, 0, 1, 3, 6], 2, 6, Fraction(12, 15)),
        ([0, 1, 2, 3, 4], 3, 8, Fraction(28, 35)),
    ],
)
def test_grid_law_by_hand(phi, m, quantile, event, path):
    cumulative = np.cumsum(grid_law(phi, m))
    assert cumulative[quantile] == pytest.approx(float(event), abs=1e-14)


@pytest.mark.parametrize("ends", [[], [np.inf], [np.inf] * 40])
def test_grid_of_ranks_is_the_rank_sum(ends, path):
    n, m = 60, 15
    phi = [*range(n + 1), *ends]
    law, expected = grid_law(phi, m), rank_sum_law(n, m)
    mass = math.comb(n + m, m) / math.comb(n + len(ends) + m, m)
    np.testing.assert_allclose(law, expected * mass, rtol=1e-12)
    levels = np.arange(n + 1)
    for other in (counting_law, fourier_law):
        assert np.abs(np.cumsum(other(levels, m) - expected)).max() < 1e-13


@pytest.mark.parametrize(
    ("n", "m", "top"), [(500, 20, 300), (60, 59, 100), (2000, 7, 5)]
)
def test_both_ways_to_a_grid_law_agree(n, m, top, path):
    rng = np.random.default_rng(n)
    levels = np.sort((top * rng.beta(2, 5, size=n)).astype(np.int64))
    fourier, counting = fourier_law(levels, m), counting_law(levels, m)
    assert np.abs(np.cumsum(fourier - counting)).max() < 1e-12
    assert np.all(fourier >= 0)
    # Each rank alone is uniform on the gaps.
    mean = fourier @ np.arange(fourier.size)
    assert mean == pytest.approx(m * levels.mean(), rel=1e-11)


def test_fourier_law_without_a_share_left_out(path, monkeypatch):
    levels = np.sort(np.random.default_rng(0).integers(0, 50, size=300))
    short = fourier_law(levels, 20)
    monkeypatch.setattr(law_module, "_NEGLIGIBLE", 0.0)
    assert np.count_nonzero(law_module._newton_shares(300, 20)) == 210
    np.testing.assert_allclose(short, fourier_law(levels, 20), rtol=0, atol=1e-15)


def test_newton_shares_are_shares():
    for n_allowed, m in [(1, 1), (1, 40), (7, 30), (1000, 50), (10**6, 10)]:
        shares = law_module._newton_shares(n_allowed, m)
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-13)
        assert np.all(np.triu(shares, 1) == 0)


def test_fourier_law_of_the_wrong_mass_is_counted_instead(monkeypatch):
    levels = np.array([0, 1, 1, 4, 9])
    monkeypatch.setattr(law_module, "_MASS_TOLERANCE", -1.0)
    assert np.array_equal(fourier_law(levels, 3), counting_law(levels, 3))


@given(
    phi=st.lists(st.integers(0, 12), min_size=1, max_size=30).map(sorted),
    m=st.integers(1, 12),
    shift=st.integers(0, 5),
    scale=st.integers(1, 4),
)
def test_grid_law_moves_and_scales_with_the_grid(phi, m, shift, scale):
    law = grid_law(phi, m)
    moved = grid_law([scale * v + shift for v in phi], m)
    np.testing.assert_allclose(moved[m * shift :: scale], law, atol=1e-13)
    assert abs(moved.sum() - 1) < 1e-12


def test_grid_law_of_a_constant(path):
    np.testing.assert_allclose(grid_law([0, 0, 0], 4), [1.0], rtol=1e-15)
    np.testing.assert_allclose(grid_law([2, 2, 2], 2), [0, 0, 0, 0, 1], atol=1e-15)


def test_grid_law_of_huge_samples(path):
    n, m = 10**5, 1000
    phi = np.repeat([0, 1, 2], [n // 2, n // 2, 1])
    law = grid_law(phi, m)
    assert abs(law.sum() - 1) < 1e-11
    # Without the one gap at the top the sum is the number of new scores in half the
    # gaps.
    law = grid_law(np.repeat([0, 1], n // 2), m)
    ways = [math.comb(n // 2 - 1 + a, a) for a in range(m + 1)]
    exact = [
        a * b / math.comb(n - 1 + m, m) for a, b in zip(ways, ways[::-1], strict=True)
    ]
    assert np.abs(np.cumsum(law - exact)).max() < 1e-11


def test_smooth_lengths_are_the_smallest():
    def is_smooth(length):
        for prime in (2, 3, 5):
            while length % prime == 0:
                length //= prime
        return length == 1

    smooth = [length for length in range(1, 4100) if is_smooth(length)]
    for length in range(1, 4001):
        expected = smooth[np.searchsorted(smooth, length)]
        assert law_module._smooth_length(length) == expected


def test_the_grid_is_not_changed():
    phi = np.array([0.0, 1.0, 1.0, np.inf])
    phi.setflags(write=False)
    grid_law(phi, 3)
    np.testing.assert_allclose(grid_law(phi[::2], 2), [1 / 3, 1 / 3, 1 / 3])


# ------------------------------------------------------------------------ bad input


def test_negative_calibration_sizes():
    with pytest.raises(ValueError, match=r"^n must be .* >= 0, got -1\. Pass"):
        rank_sum_law(-1, 3)


@pytest.mark.parametrize("m", [0, -2])
def test_empty_batches(m):
    for call in (lambda: rank_sum_law(5, m), lambda: grid_law([0, 1], m)):
        with pytest.raises(ValueError, match=rf"^m must be .* >= 1, got {m}\. Pass"):
            call()


@pytest.mark.parametrize("size", [2.0, "2", None, [2]])
def test_sizes_that_are_no_integers(size):
    message = re.escape(f"got {size!r} of type {type(size).__name__}.")
    for call in (lambda: rank_sum_law(size, 3), lambda: grid_law([0], size)):
        with pytest.raises(TypeError, match=f"must be an integer, {message}$"):
            call()


def test_numpy_integers_are_integers():
    n, m = np.int64(9), np.int32(3)
    assert rank_sum_law(n, m).size == 28


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        ([], "phi must have shape (n + 1,)"),
        ([[0, 1]], "phi must have shape (n + 1,)"),
        (3, "phi must have shape (n + 1,)"),
        ([0, 1.5], "phi must hold non-negative integers"),
        ([-1, 2], "phi must hold non-negative integers"),
        ([0, np.nan], "phi must hold non-negative integers"),
        ([-np.inf, 0], "phi must hold non-negative integers"),
        ([0, 2, 1], "phi must be non-decreasing"),
        ([np.inf, 1], "phi must be non-decreasing"),
        ([np.inf, np.inf], "phi forbids every gap"),
        ([0, 2.0**40], "phi must not exceed"),
        ([0, 2**30], "phi reaches 1073741824"),
    ],
)
def test_grids_that_are_none(phi, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        grid_law(phi, 3)
