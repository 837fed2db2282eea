"""Margins of the crossing penalty: differences of offsets, in units of the target."""

import re

import numpy as np
import pytest

from uqlib._core.crossing import MARGIN_SHARE, margin_offsets

LEVELS = np.array([0.05, 0.3, 0.5, 0.9])
RESIDUALS = np.random.default_rng(0).standard_t(3, size=501)


def test_a_number_is_the_margin_of_every_pair():
    offsets, constant = margin_offsets(0.3, LEVELS, RESIDUALS)
    np.testing.assert_array_equal(offsets, np.zeros(4))
    assert constant == 0.3


def test_auto_margins_are_a_share_of_the_distances_of_residual_quantiles():
    offsets, constant = margin_offsets("auto", LEVELS, RESIDUALS)
    ordered = np.sort(RESIDUALS)
    quantiles = ordered[np.ceil(LEVELS * 501).astype(int) - 1]
    np.testing.assert_allclose(offsets, MARGIN_SHARE * quantiles, rtol=1e-15)
    assert constant == 0.0


def test_spacing_margins_are_proportional_to_the_distances_of_the_levels():
    offsets, constant = margin_offsets("spacing", LEVELS, RESIDUALS)
    ordered = np.sort(RESIDUALS)
    spread = ordered[375] - ordered[125]  # the 376th and the 126th of 501
    expected = MARGIN_SHARE * spread * np.subtract.outer(LEVELS, LEVELS)
    np.testing.assert_allclose(
        np.subtract.outer(offsets, offsets), expected, atol=1e-15
    )
    assert constant == 0.0


@pytest.mark.parametrize("margin", ["auto", "spacing"])
@pytest.mark.parametrize("factor", [1e-8, 3.0, 2.0**40])
def test_margins_have_the_units_of_the_target(margin, factor):
    offsets, _ = margin_offsets(margin, LEVELS, RESIDUALS)
    scaled, _ = margin_offsets(margin, LEVELS, factor * RESIDUALS)
    np.testing.assert_allclose(scaled, factor * offsets, rtol=1e-14)


@pytest.mark.parametrize("margin", ["auto", "spacing"])
@pytest.mark.parametrize("residuals", [[2.0], np.zeros(7), [0.0] * 9 + [1e300]])
def test_margins_are_never_negative(margin, residuals):
    offsets, _ = margin_offsets(margin, LEVELS, np.asarray(residuals))
    assert np.all(np.diff(offsets) >= 0)


@pytest.mark.parametrize("margin", [-0.1, np.nan, np.inf, "wide"])
def test_bad_margins(margin):
    with pytest.raises(ValueError, match="margin") as error:
        margin_offsets(margin, LEVELS, RESIDUALS)
    assert repr(margin) in str(error.value)


@pytest.mark.parametrize("margin", [None, True, [0.1]])
def test_margins_that_are_no_numbers(margin):
    with pytest.raises(TypeError, match=re.escape(repr(margin))):
        margin_offsets(margin, LEVELS, RESIDUALS)


def test_margins_without_residuals():
    with pytest.raises(ValueError, match="needs residuals, got none"):
        margin_offsets("auto", LEVELS, np.array([]))
    with pytest.raises(ValueError, match="residuals contains NaN"):
        margin_offsets("auto", LEVELS, np.array([np.nan]))
