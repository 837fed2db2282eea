"""P-values of labels: counting by hand, and the thresholds that belong to them."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from uqlib._core.label_p_values import CalibrationCell, LabelCells, NewRows

RNG = np.random.default_rng(11)
few = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, np.inf])


def p_value_by_hand(scores, weights, new, w, u):
    above = sum(b for a, b in zip(scores, weights, strict=True) if a > new)
    equal = sum(b for a, b in zip(scores, weights, strict=True) if a == new)
    return (above + u * (equal + w)) / (sum(weights) + w)


@given(
    st.lists(few, min_size=1, max_size=12),
    st.lists(few, min_size=1, max_size=5),
    st.floats(0, 1),
    st.sampled_from([0.1, 0.5, 0.75, 0.9]),
    st.booleans(),
)
def test_p_values_and_thresholds_count(scores, new, u, level, weighted):
    scores, new = np.array(scores), np.array(new)[None]
    old = RNG.integers(0, 4, scores.size).astype(float) if weighted else None
    w = np.array([2.0]) if weighted else None
    cell = CalibrationCell(scores, old)
    weights, one = (old, 2.0) if weighted else (np.ones(scores.size), 1.0)
    for share in (None, np.array([u])):
        p = cell.p_values(new, w, share)
        expected = [
            p_value_by_hand(scores, weights, v, one, 1 if share is None else u)
            for v in new[0]
        ]
        np.testing.assert_allclose(p, [expected], rtol=1e-12, atol=1e-15)
    # Smoothed, the labels up to the threshold are those of a large p-value, by floats.
    fraction = Fraction(str(level))
    threshold = cell.thresholds(fraction, 1, w, share)
    alpha = float(1 - fraction)
    np.testing.assert_array_equal(new <= threshold, p > alpha)
    between = np.append(scores, [-5.0, 0.25, 7.0])[None]
    np.testing.assert_array_equal(
        between <= threshold, cell.p_values(between, w, share) > alpha
    )


def test_a_smoothed_p_value_of_alpha_is_too_small():
    # u = 0 and 9 scores: the p-value between the two largest is 1 / 10 to the last bit.
    cell, u = CalibrationCell(np.arange(9.0)), np.zeros(1)
    assert cell.p_values(np.array([[7.0, 7.5]]), None, u).tolist() == [[0.1, 0.1]]
    assert cell.thresholds(Fraction(9, 10), 1, None, u) < 7.0


@given(st.lists(few, min_size=1, max_size=40), st.integers(1, 99))
def test_thresholds_are_exact_at_every_level(scores, percent):
    # p > 1 - level, decided in integers.
    scores, level = np.array(scores), Fraction(percent, 100)
    threshold = CalibrationCell(scores).thresholds(level, 2)
    for value in np.append(scores, [0.25, np.inf]):
        count = int(np.sum(scores >= value)) + 1
        inside = Fraction(count, scores.size + 1) > 1 - level
        # Above all scores the p-value is that of the next one to come.
        assert (value <= threshold[0]) == inside or (
            np.isposinf(value) and np.isposinf(threshold[0])
        )
    assert threshold[0] == threshold[1]


def test_weights_of_one_change_nothing():
    scores, new = RNG.integers(0, 9, 50).astype(float), np.arange(-1.0, 11.0)[None]
    u, one = np.array([0.3]), np.ones(1)
    plain, weighted = CalibrationCell(scores), CalibrationCell(scores, np.ones(50))
    for share in (None, u):
        np.testing.assert_array_equal(
            plain.p_values(new, None, share), weighted.p_values(new, one, share)
        )
        for percent in range(1, 100):
            level = Fraction(percent, 100)
            np.testing.assert_array_equal(
                plain.thresholds(level, 1, None, share),
                weighted.thresholds(level, 1, one, share),
            )


def test_nothing_calibrated_excludes_nothing():
    cell = CalibrationCell(np.empty(0))
    u = np.array([0.01])
    assert cell.p_values(np.zeros((1, 3)), None, u).tolist() == [[1, 1, 1]]
    assert np.isposinf(cell.thresholds(Fraction(1, 2), 4)).all()
    weightless = CalibrationCell(np.zeros(3), np.zeros(3))
    assert weightless.p_values(np.ones((1, 1)), np.zeros(1), u) == 1
    assert np.isposinf(weightless.thresholds(Fraction(1, 2), 1, np.zeros(1), u))


@pytest.mark.parametrize("n_calibration", [1, 4, 9])
def test_smoothed_p_values_are_uniform_in_spite_of_ties(n_calibration):
    # Scores with three values; two tests share an error of 1e-6 in each of 3 cells.
    n_replications = 4000
    scores = RNG.integers(0, 3, (n_replications, n_calibration + 1)).astype(float)
    u = RNG.random(n_replications)
    p = np.array(
        [
            CalibrationCell(row[:-1]).p_values(row[-1:, None], None, share)[0, 0]
            for row, share in zip(scores, u[:, None], strict=True)
        ]
    )
    assert kstest(p, "uniform").pvalue > 1e-6 / 3
    deterministic = [
        CalibrationCell(row[:-1]).p_values(row[-1:, None])[0, 0] for row in scores
    ]
    assert (p <= deterministic).all()


@pytest.mark.parametrize("by_group", [False, True])
@pytest.mark.parametrize("by_label", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothed", [False, True])
def test_cells_are_compared_with_their_own_rows(by_group, by_label, weighted, smoothed):
    n_old, n_new, n_classes = 120, 15, 4
    scores = RNG.normal(size=n_old).round(1)
    groups = RNG.integers(0, 3, n_old) if by_group else None
    labels = (
        RNG.integers(0, n_classes - 1, n_old) if by_label else None
    )  # one is absent
    old = RNG.random(n_old) if weighted else None
    cells = LabelCells(
        scores,
        groups,
        3 if by_group else 1,
        labels,
        n_classes if by_label else 1,
        old,
    )
    new = NewRows(
        n_new,
        RNG.integers(-1, 3, n_new) if by_group else None,
        RNG.random(n_new) if weighted else None,
        RNG.random(n_new) if smoothed else None,
    )
    own = RNG.normal(size=(n_new, n_classes)).round(1)
    p = cells.p_values(own, new)
    for i in range(n_new):
        for label in range(n_classes):
            keep = np.ones(n_old, dtype=bool)
            if by_group:
                keep &= groups == new.group[i]
            if by_label:
                keep &= labels == label
            w = new.weights[i] if weighted else 1.0
            u = new.u[i] if smoothed else 1.0
            weights = old[keep] if weighted else np.ones(keep.sum())
            expected = p_value_by_hand(scores[keep], weights, own[i, label], w, u)
            if not keep.any():
                expected = 1.0
            assert p[i, label] == pytest.approx(expected, rel=1e-12)
    threshold = cells.thresholds(Fraction(4, 5), new)
    assert threshold.shape == (n_new, n_classes if by_label else 1)
    np.testing.assert_array_equal(own <= threshold, p > 0.2)


@pytest.mark.parametrize("scale", [2.0**1020, 2.0**-1070, 2.0**600])
@pytest.mark.parametrize("smoothed", [False, True])
def test_only_ratios_of_weights_matter_also_near_the_ends_of_the_floats(
    scale, smoothed
):
    # Sums of such weights overflow: a p-value of inf / inf would leave every label out.
    scores, old = RNG.normal(size=40).round(1), RNG.integers(1, 4, 40).astype(float)
    new, w = RNG.normal(size=(6, 3)).round(1), RNG.integers(1, 4, 6).astype(float)
    u = RNG.random(6) if smoothed else None
    plain, scaled = CalibrationCell(scores, old), CalibrationCell(scores, scale * old)
    np.testing.assert_array_equal(
        plain.p_values(new, w, u), scaled.p_values(new, scale * w, u)
    )
    np.testing.assert_array_equal(
        plain.thresholds(Fraction(4, 5), 6, w, u),
        scaled.thresholds(Fraction(4, 5), 6, scale * w, u),
    )
    # A new row that outweighs all others is compared with nothing but itself.
    heavy = scaled.p_values(new, np.full(6, 1e308 if scale < 1 else 2.0**1023), u)
    assert np.isfinite(heavy).all()
    assert scale > 1 or (heavy == (1.0 if u is None else u[:, None])).all()
