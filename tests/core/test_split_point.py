"""Means of residuals on two sides of a prediction, and their discrepancy."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from uqlib._core.split_point import (
    sds_widening_factors,
    self_consistency_discrepancy,
    split_point_statistics,
)

NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)
# Many ties and exact zeros.
COARSE = st.integers(-3, 3).map(float)
RESIDUALS = st.one_of(
    st.lists(NUMBERS, min_size=1, max_size=30), st.lists(COARSE, min_size=1)
)
MEANS = arrays(float, 5, elements=st.floats(0, 1e3))


def by_hand(residuals, weight=None):
    """The seven numbers in exact arithmetic; None for what has no rows."""
    weight = [1] * len(residuals) if weight is None else weight
    pairs = [
        (Fraction(float(r)), Fraction(float(w)))
        for r, w in zip(residuals, weight, strict=True)
    ]
    total = sum(w for _, w in pairs)
    side = {
        True: [(r, w) for r, w in pairs if r > 0],
        False: [(-r, w) for r, w in pairs if r <= 0],
    }
    mass = {up: sum(w for _, w in rows) for up, rows in side.items()}
    mar = sum(abs(r) * w for r, w in pairs) / total
    bias = sum(r * w for r, w in pairs) / total
    if not (mass[True] and mass[False]):
        return mar, None, None, mass[True] / total, bias, None, None
    up, down = (sum(r * w for r, w in side[s]) / mass[s] for s in (True, False))
    harmonic = 2 * up * down / (up + down) if up + down else Fraction(0)
    sds = abs(2 * up * down - mar * (up + down))
    return mar, up, down, mass[True] / total, bias, harmonic, sds


def assert_is(found, expected, scale):
    for value, exact, unit in zip(
        found[:7], expected, [scale] * 3 + [1, scale, scale, scale**2], strict=True
    ):
        if exact is not None:
            assert abs(value - float(exact)) <= 1e-12 * unit


@pytest.mark.parametrize(
    ("residuals", "expected"),
    [
        ((3, -1, -1, -1), (1.5, 3, 1, 0.25, 0, 1.5, 0, True)),
        ((2, 2, -1, -1), (1.5, 2, 1, 0.5, 0.5, 4 / 3, 0.5, True)),
        # Equal sides hide the bias.
        ((1, 1, 1, -1), (1, 1, 1, 0.75, 0.5, 1, 0, True)),
        # Zeros are down: to leave them out would make an SDS of 9.
        ((0, 0, 3, -3), (1.5, 3, 1, 0.25, 0, 1.5, 0, True)),
        ((0, 0, 3), (1, 3, 0, 1 / 3, 1, 0, 3, True)),
    ],
)
def test_examples_by_hand(residuals, expected):
    found = split_point_statistics(residuals)
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-15)
    assert found.valid is True
    assert [type(v) for v in found] == [float] * 7 + [bool]


@given(RESIDUALS)
def test_statistics_equal_exact_arithmetic(residuals):
    found, expected = split_point_statistics(residuals), by_hand(residuals)
    assert_is(found, expected, max(np.abs(residuals).max(), 1e-300))
    assert found.valid == (expected[1] is not None)


@given(st.lists(st.tuples(NUMBERS, st.integers(0, 4)), min_size=1, max_size=20))
def test_a_weight_is_a_repetition(rows):
    residuals, weight = np.array(rows).T
    if not weight.any():
        return
    found = split_point_statistics(residuals, sample_weight=weight)
    repeated = np.repeat(residuals, weight.astype(int))
    np.testing.assert_allclose(
        found, split_point_statistics(repeated), rtol=1e-9, atol=1e-6
    )
    assert_is(found, by_hand(residuals, weight), max(np.abs(residuals).max(), 1e-300))


def test_the_identity_holds_for_a_thousand_residual_vectors():
    rng = np.random.default_rng(0)
    for k in range(1000):
        r = rng.standard_t(2, size=rng.integers(2, 40)) + rng.normal()
        if k % 3 == 0:
            r = np.round(r)  # ties and zeros
        found = split_point_statistics(r)
        if not found.valid:
            continue
        unit = found.mar * (found.mar_up + found.mar_down)
        product = abs(found.bias * (found.mar_up - found.mar_down))
        assert abs(found.sds - product) <= 1e-12 * unit
        mixed = found.p_up * found.mar_up + (1 - found.p_up) * found.mar_down
        assert found.mar == pytest.approx(mixed, rel=1e-12)
        # About their mean the residuals are consistent, whatever their law.
        centered = split_point_statistics(r - r.mean())
        relative = self_consistency_discrepancy(*centered[:3], kind="relative")
        assert not centered.valid or relative < 1e-12


@given(RESIDUALS, st.floats(1e-3, 1e3), st.randoms())
def test_invariances(residuals, factor, random):
    r = np.array(residuals)
    first, scaled = split_point_statistics(r), split_point_statistics(factor * r)
    if np.array_equal(factor * r == 0, r == 0):
        unit = np.array([factor] * 3 + [1, factor, factor, factor**2])
        np.testing.assert_allclose(
            scaled[:7], unit * first[:7], rtol=1e-9, atol=1e-9 * factor**2 + 1e-9
        )
    order = list(range(r.size))
    random.shuffle(order)
    np.testing.assert_allclose(
        split_point_statistics(r[order]), first, rtol=1e-9, atol=1e-6
    )
    if (r != 0).all():
        mirrored = split_point_statistics(-r)
        assert mirrored.mar == first.mar
        np.testing.assert_array_equal(mirrored[1:3], first[2:0:-1])
        assert mirrored.bias == -first.bias
        np.testing.assert_array_equal(mirrored.sds, first.sds)


@pytest.mark.parametrize(
    ("residuals", "p_up", "empty"),
    [([0.0], 0, "mar_up"), ([-2.0, -1.0], 0, "mar_up"), ([1.0, 2.0], 1, "mar_down")],
)
def test_a_side_without_rows_is_not_valid(residuals, p_up, empty):
    found = split_point_statistics(residuals)
    assert not found.valid
    assert found.p_up == p_up
    assert found.mar == np.abs(residuals).mean()
    assert found.bias == np.mean(residuals)
    nan = {name for name, value in found._asdict().items() if np.isnan(value)}
    assert nan == {empty, "harmonic_mar", "sds"}


def test_rows_without_weight_are_no_rows():
    found = split_point_statistics([1.0, 2.0, -5.0], sample_weight=[1, 1, 0])
    np.testing.assert_array_equal(found, split_point_statistics([1.0, 2.0]))


@pytest.mark.parametrize("size", [1e300, 1.7e308, 1e-300, 1e-320])
def test_no_sum_overflows(size):
    found = split_point_statistics([size, size, size, -size / 2, -size / 2])
    assert found.mar_up == pytest.approx(size)
    assert found.mar == pytest.approx(0.8 * size)
    assert found.bias == pytest.approx(0.4 * size)
    # m = .8, m+ = 1, m- = .5: |2 * .5 - .8 * 1.5| = .2, in squared units.
    assert found.sds == (np.inf if size > 1 else 0.0)
    relative = self_consistency_discrepancy(*found[:3], kind="relative")
    assert relative == pytest.approx(0.2 / (0.8 * 1.5), rel=1e-2)
    root = self_consistency_discrepancy(*found[:3], kind="sqrt")
    assert root == pytest.approx(np.sqrt(0.2) * size, rel=1e-2)


def test_input_of_other_types():
    r = np.arange(-5.0, 7.0)
    expected = split_point_statistics(r)
    for same in (r.tolist(), r.astype(np.float32), np.repeat(r, 2)[::2], r.astype(int)):
        np.testing.assert_array_equal(split_point_statistics(same), expected)


@pytest.mark.parametrize(
    ("residuals", "weight", "match"),
    [
        ([], None, "residuals is empty"),
        ([1.0, np.nan], None, "residuals contains NaN or infinity"),
        ([1.0, np.inf], None, "residuals contains NaN or infinity"),
        ([[1.0]], None, "residuals must have shape"),
        ([1.0, 2.0], [1.0], "sample_weight must have shape"),
        ([1.0, 2.0], [0.0, 0.0], "sample_weight must be finite"),
        ([1.0, 2.0], [-1.0, 2.0], "sample_weight must be finite"),
    ],
)
def test_residuals_are_checked(residuals, weight, match):
    with pytest.raises(ValueError, match=match):
        split_point_statistics(residuals, sample_weight=weight)


# ---------------------------------------------------------------------------
# The discrepancy of any three means.


@given(MEANS, MEANS, MEANS)
def test_discrepancy_equals_its_formula(m, up, down):
    direct = np.abs(2 * up * down - m * (up + down))
    unit = (m + up + down) ** 2
    raw = self_consistency_discrepancy(m, up, down)
    assert (np.abs(raw - direct) <= 1e-12 * unit).all()
    root = self_consistency_discrepancy(m, up, down, kind="sqrt")
    np.testing.assert_allclose(root**2, raw, rtol=1e-12, atol=1e-300)
    relative = self_consistency_discrepancy(m, up, down, kind="relative")
    assert not np.isnan(relative).any()
    known = (m > 1e-3) & (up + down > 1e-3)
    np.testing.assert_allclose(
        relative[known] * m[known] * (up + down)[known],
        raw[known],
        rtol=1e-9,
        atol=1e-9,
    )


@given(MEANS, MEANS, arrays(float, 5, elements=st.floats(0, 1)))
def test_relative_discrepancy_of_one_law_is_below_one(up, down, share):
    m = share * up + (1 - share) * down
    relative = self_consistency_discrepancy(m, up, down, kind="relative")
    assert (relative <= 1).all()
    inside = np.minimum(up, down) > 1e-9 * np.maximum(up, down)
    assert (relative[inside] < 1).all()


@pytest.mark.parametrize("kind", ["raw", "sqrt", "relative"])
def test_discrepancy_where_means_are_zero(kind):
    assert self_consistency_discrepancy(0, 0, 0, kind=kind) == 0
    assert self_consistency_discrepancy(0.0, 1.0, 0.0, kind=kind) == 0
    at_zero = self_consistency_discrepancy(0, 2, 2, kind=kind)
    assert (
        at_zero == {"raw": 8, "sqrt": pytest.approx(8**0.5), "relative": np.inf}[kind]
    )


def test_discrepancy_keeps_shapes():
    assert type(self_consistency_discrepancy(1.5, 2, 1)) is float
    m = np.ones((2, 3))
    assert self_consistency_discrepancy(m, m[0], 2.0).shape == (2, 3)
    assert self_consistency_discrepancy([], [], []).shape == (0,)
    scaled = self_consistency_discrepancy(10.0 * m, 20 * m, 5 * m)
    np.testing.assert_allclose(
        scaled, 100 * self_consistency_discrepancy(m, 2 * m, m / 2)
    )


# ---------------------------------------------------------------------------
# Widening.


@pytest.mark.parametrize(
    ("m", "up", "down", "expected"),
    [
        (1, 1, 1, (1, 1)),
        (1.2, 2, 1, (1, 1)),
        (1.5, 1, 1, (2, 2)),  # 3, capped
        (2, 3, 1, (2, 1.5)),  # a denominator of 0
        (3, 3, 1, (2, 2)),  # a negative one
        (0, 0, 0, (1, 1)),
        (1, 0, 1, (2, 2)),
    ],
)
def test_widening_by_hand(m, up, down, expected):
    found = sds_widening_factors(m, up, down)
    assert found == pytest.approx(expected)
    assert [type(v) for v in found] == [float, float]


def test_widening_as_published():
    up, down = sds_widening_factors(
        [1.5, 2.0, 3.0, 1.0], [1, 1, 1, 0], 1.0, cap=np.inf, degenerate="one"
    )
    np.testing.assert_allclose(up, [3, 1, 1, np.inf])
    np.testing.assert_allclose(down, [3, 1, 1, 1])
    capped, _ = sds_widening_factors(3.0, 1.0, 1.0, cap=np.inf)
    assert capped == np.inf


@given(MEANS, MEANS, MEANS, st.floats(1, 10), st.sampled_from(["cap", "one"]))
def test_widening_is_finite_and_swaps_with_the_sides(m, up, down, cap, degenerate):
    options = {"cap": cap, "degenerate": degenerate}
    first, second = sds_widening_factors(m, up, down, **options)
    for factor in (first, second):
        assert ((factor >= 1) & (factor <= cap)).all()
    np.testing.assert_array_equal(
        sds_widening_factors(m, down, up, **options)[0], second
    )
    # A side widened by an uncapped factor is consistent with the other one.
    free = (first > 1) & (first < cap) & (down > 1e-3) & (2 * down - m > 1e-3)
    rest = self_consistency_discrepancy(m, first * up, down, kind="relative")
    assert (rest[free] < 1e-6).all()


@pytest.mark.parametrize(
    "function", [self_consistency_discrepancy, sds_widening_factors]
)
@pytest.mark.parametrize(
    ("means", "match"),
    [
        ((-1.0, 1, 1), "mar must be finite and at least 0"),
        ((1, np.nan, 1), "mar_up must be finite"),
        ((1, 1, [1, np.inf]), "mar_down must be finite"),
        (([1, 2, 3], [1, 2], 1), r"one shape, got mar \(3,\), mar_up \(2,\)"),
    ],
)
def test_means_are_checked(function, means, match):
    with pytest.raises(ValueError, match=match):
        function(*means)


def test_choices_are_checked():
    with pytest.raises(ValueError, match=r"kind must be one of .* got 'cubic'"):
        self_consistency_discrepancy(1, 1, 1, kind="cubic")
    with pytest.raises(ValueError, match=r"degenerate must be one of .* got 'two'"):
        sds_widening_factors(1, 1, 1, degenerate="two")
    for cap in (0.5, np.nan):
        with pytest.raises(ValueError, match="cap must be at least 1"):
            sds_widening_factors(1, 1, 1, cap=cap)
