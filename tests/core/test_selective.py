"""Ranked rows: enumeration of every order of tied rows, repetition, special values."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import digamma
from scipy.stats import spearmanr

from uqlib._core.selective import (
    curve_points,
    generalized_area,
    harmonic_step,
    largest_coverage,
    loss_of_mass,
    mean_selective_risk,
    rank_correlation,
    smallest_fpr,
    tie_groups,
)

INF = np.inf


def groups_of(losses, uncertainty, weight=None):
    arrays = (losses, uncertainty, weight)
    return tie_groups(*(None if a is None else np.asarray(a, float) for a in arrays))


@st.composite
def problems(draw, max_rows=6, levels=3):
    """Small integers, so that ties occur and sums are exact."""
    rows = st.tuples(st.integers(0, 3), st.integers(0, levels))
    table = draw(st.lists(rows, min_size=1, max_size=max_rows))
    losses, uncertainty = zip(*table, strict=True)
    return list(losses), list(uncertainty)


@st.composite
def counted_problems(draw):
    losses, uncertainty = draw(problems())
    size = len(losses)
    counts = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    counts[draw(st.integers(0, size - 1))] = draw(st.integers(1, 3))
    return losses, uncertainty, counts


def repeated(losses, uncertainty, counts):
    rows = np.repeat(np.arange(len(losses)), counts)
    return np.asarray(losses)[rows], np.asarray(uncertainty)[rows]


def loss_sums(losses, uncertainty):
    """The sums of the first k losses in each order that the uncertainty allows."""
    sums = []
    for order in permutations(range(len(losses))):
        values = [uncertainty[i] for i in order]
        if values == sorted(values):
            kept = [Fraction(losses[i]) for i in order]
            sums.append([sum(kept[:k], Fraction(0)) for k in range(len(order) + 1)])
    return sums


def mean(values):
    values = list(values)
    return sum(values, Fraction(0)) / len(values)


def same(found, exact):
    return float(found) == pytest.approx(float(exact), rel=1e-13, abs=1e-15)


# ------------------------------------------------- against all orders of tied rows


@given(problems())
def test_the_curve_is_the_mean_over_all_orders(problem):
    sums = loss_sums(*problem)
    mass, loss = curve_points(groups_of(*problem))
    assert mass.tolist() == list(range(1, len(problem[0]) + 1))
    for k, found in enumerate(loss, start=1):
        assert same(found, mean(s[k] for s in sums))


@given(problems(), st.integers(0, 24))
def test_any_mass_keeps_a_part_of_the_row_on_the_border(problem, step):
    n = len(problem[0])
    mass = Fraction(step, 24) * n
    k = min(int(mass), n - 1)
    expected = mean(s[k] + (mass - k) * (s[k + 1] - s[k]) for s in loss_sums(*problem))
    found = loss_of_mass(groups_of(*problem), np.array([float(mass)]))
    assert same(found[0], expected)


@given(problems())
def test_the_area_is_the_mean_over_all_orders(problem):
    n = len(problem[0])
    areas = [mean(s[k] / k for k in range(1, n + 1)) for s in loss_sums(*problem)]
    assert same(mean_selective_risk(groups_of(*problem)), mean(areas))


@given(problems())
def test_the_generalized_area_is_the_mean_over_all_orders(problem):
    """The trapezoidal rule on the points (k / n, sum / n), and (0, 0)."""
    n = len(problem[0])
    areas = [
        sum(s[k] + s[k + 1] for k in range(n)) / (2 * Fraction(n) ** 2)
        for s in loss_sums(*problem)
    ]
    assert same(generalized_area(groups_of(*problem)), mean(areas))


# ------------------------------------------------------------------------- weights


@given(counted_problems())
def test_counts_are_repeated_rows(problem):
    losses, uncertainty, counts = problem
    found = groups_of(losses, uncertainty, counts)
    expected = groups_of(*repeated(*problem))
    assert found.value.tolist() == expected.value.tolist()
    assert found.mass.tolist() == expected.mass.tolist()
    assert found.loss.tolist() == expected.loss.tolist()
    for area in (mean_selective_risk, generalized_area):
        assert area(found) == area(expected)
    # The points are as many as there are rows with weight, and lie on the same line.
    mass, loss = curve_points(found)
    assert mass.size == np.count_nonzero(counts)
    assert mass[-1] == sum(counts)
    assert np.allclose(loss, loss_of_mass(expected, mass), rtol=1e-13, atol=1e-15)


@given(problems(max_rows=12), st.floats(0.3, 3.0))
def test_many_rows_have_an_integral(problem, weight):
    """Mass c w_i for a large c: the mean risk tends to the integral of the risk."""
    losses, uncertainty = problem
    masses = weight + np.arange(len(losses)) % 3
    found = mean_selective_risk(groups_of(losses, uncertainty, 1e9 * masses))
    groups = groups_of(losses, uncertainty, masses)
    start, integral, kept = 0.0, 0.0, 0.0
    for mass, loss in zip(groups.mass, groups.loss, strict=True):
        slope = loss / mass
        integral += loss
        if start:
            integral += (kept - start * slope) * np.log((start + mass) / start)
        start, kept = start + mass, kept + loss
    assert found == pytest.approx(integral / start, rel=1e-7, abs=1e-7)


# ----------------------------------------------------------------- harmonic numbers


@given(st.integers(0, 60), st.integers(1, 60))
def test_harmonic_steps_are_sums(start, length):
    expected = sum(Fraction(1, start + j) for j in range(1, length + 1))
    found = harmonic_step(np.array([float(start)]), np.array([float(length)]))
    assert found[0] == pytest.approx(float(expected), rel=4e-15, abs=0)


@given(st.floats(0, 1e4), st.floats(1e-3, 1e4))
def test_harmonic_steps_are_differences_of_digamma(start, length):
    expected = digamma(start + length + 1) - digamma(start + 1)
    found = harmonic_step(np.array([start]), np.array([length]))[0]
    assert found == pytest.approx(expected, abs=1e-14)


@given(st.floats(0, 1e6), st.floats(0.01, 100), st.floats(0.01, 100))
def test_harmonic_steps_add_up(start, first, second):
    ends = np.array([start, start + first, start])
    lengths = np.array([first, second, first + second])
    a, b, both = harmonic_step(ends, lengths)
    assert a + b == pytest.approx(both, rel=1e-9, abs=0)


@pytest.mark.parametrize("start", [1e3, 1e8, 1e12])
def test_short_harmonic_steps_do_not_cancel(start):
    """A step of 2 as two fractions; a difference of digammas has lost most digits."""
    found = harmonic_step(np.array([start]), np.array([2.0]))[0]
    expected = Fraction(1, int(start) + 1) + Fraction(1, int(start) + 2)
    assert found == pytest.approx(float(expected), rel=4e-16, abs=0)


# -------------------------------------------------------------- bounds and thresholds


@given(problems(max_rows=8), st.integers(0, 30))
def test_the_largest_coverage_by_trying_every_threshold(problem, tenths):
    losses, uncertainty = problem
    bound = Fraction(tenths, 10)
    best = Fraction(0)
    for threshold in uncertainty:
        kept = [a for a, u in zip(losses, uncertainty, strict=True) if u <= threshold]
        if Fraction(sum(kept), len(kept)) <= bound:
            best = max(best, Fraction(len(kept), len(losses)))
    found = largest_coverage(groups_of(losses, uncertainty), float(bound))
    assert found == float(best)


@given(counted_problems(), st.integers(0, 30))
def test_the_largest_coverage_of_counts(problem, tenths):
    found = largest_coverage(groups_of(*problem), tenths / 10)
    assert found == largest_coverage(groups_of(*repeated(*problem)), tenths / 10)


def fpr_by_trying(positive, uncertainty, counts, tpr):
    rates = []
    for threshold in uncertainty:
        found = {True: 0, False: 0}
        for kind, u, count in zip(positive, uncertainty, counts, strict=True):
            found[kind] += count * (u >= threshold)
        totals = [
            sum(c for k, c in zip(positive, counts, strict=True) if k is kind)
            for kind in (True, False)
        ]
        if Fraction(found[True], totals[0]) >= tpr:
            rates.append(Fraction(found[False], totals[1]))
    return min(rates)


@given(counted_problems(), st.integers(1, 20))
def test_the_smallest_false_positive_rate_by_trying_every_threshold(problem, step):
    losses, uncertainty, counts = problem
    positive = [a > 1 for a in losses] + [True, False]
    uncertainty, counts = [*uncertainty, 1, 2], [*counts, 1, 2]
    tpr = Fraction(step, 20)
    expected = float(fpr_by_trying(positive, uncertainty, counts, tpr))
    arrays = np.array(positive), np.array(uncertainty, float), np.array(counts, float)
    assert smallest_fpr(*arrays, tpr) == expected
    # Weights of any scale, rounded: rates that are met stay met.
    scaled = (*arrays[:2], arrays[2] / 7)
    assert smallest_fpr(*scaled, tpr) == pytest.approx(expected, rel=1e-12)
    rows = np.repeat(np.arange(len(counts)), counts)
    assert smallest_fpr(arrays[0][rows], arrays[1][rows], None, tpr) == expected


# -------------------------------------------------------------------- correlation


@given(counted_problems())
def test_rank_correlation_is_spearmans(problem):
    a, b, counts = problem
    a, b, counts = [*a, 0, 1], [*b, 0, 4], [*counts, 1, 1]
    expected = spearmanr(*repeated(a, b, counts)).statistic
    first, second = np.array(a, float), np.array(b, float)
    found = rank_correlation(first, second, np.array(counts, float))
    assert found == pytest.approx(expected, abs=1e-13)
    assert -1 <= found <= 1
    huge = rank_correlation(first, second, 1e200 * np.array(counts, float))
    assert huge == pytest.approx(found, abs=1e-13)
    expected = spearmanr(a, b).statistic
    assert rank_correlation(first, second, None) == pytest.approx(expected, abs=1e-13)


# ---------------------------------------------------------------------- infinities


def test_an_infinite_loss_counts_from_its_group_on():
    groups = groups_of([1, INF, 3, 5], [0, 1, 1, 2])
    mass, loss = curve_points(groups)
    assert mass.tolist() == [1, 2, 3, 4]
    assert loss.tolist() == [1, INF, INF, INF]
    assert loss_of_mass(groups, np.array([0.5, 1.0, 1.5, 4.0])).tolist() == [
        0.5,
        1.0,
        INF,
        INF,
    ]
    assert mean_selective_risk(groups) == INF
    assert generalized_area(groups) == INF
    assert largest_coverage(groups, 1.0) == 0.25
    assert largest_coverage(groups, 1e300) == 0.25
    assert largest_coverage(groups, INF) == 1.0


def test_infinite_uncertainties_are_the_ends_of_the_order():
    groups = groups_of([1, 2, 3, 4], [INF, 0, -INF, INF])
    assert groups.value.tolist() == [-INF, 0, INF]
    assert groups.loss.tolist() == [3, 2, 5]
    assert groups.rows.tolist() == [1, 1, 2]


def test_rows_without_weight_are_left_out():
    groups = groups_of([INF, 2, 3], [0, 1, 2], [0, 1, 2])
    assert groups.value.tolist() == [1, 2]
    assert groups.loss.tolist() == [2, 6]
