"""Bounds of a statistic of a batch: infinite ones, what they need, and bad input."""

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest

from uqlib._core.rank_bounds import batch_bound, rows_for_finite_bound
from uqlib.exceptions import InfiniteIntervalWarning

INF = math.inf


def _quiet(scores, m, statistic, level):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InfiniteIntervalWarning)
        return batch_bound(scores, m, statistic, level, side="upper")


# --------------------------------------------------------------- infinite bounds


@pytest.mark.parametrize("m", [1, 2, 5, 9])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_least_number_of_scores_for_a_finite_bound(m, level):
    exact = Fraction(str(level))
    for statistic, k in [("mean", m), ("max", m), ("min", 1), ("median", m // 2 + 1)]:
        needed = rows_for_finite_bound(m, k, exact)
        for n in {max(needed - 1, 1), max(needed, 1), needed + 1}:
            upper = _quiet(np.arange(float(n)), m, statistic, level)
            assert math.isinf(upper) == (n < needed)
    assert rows_for_finite_bound(m, m, exact) == math.ceil(m * (1 / (1 - exact) - 1))


def test_one_warning_names_the_scores_needed():
    with pytest.warns(InfiniteIntervalWarning, match=r"at least 18 are needed") as seen:
        assert batch_bound([1, 2, 4, 7], 2, "mean", 0.8) == (-INF, INF)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    with pytest.warns(InfiniteIntervalWarning, match=r"upper side.* 18 would do"):
        batch_bound(np.arange(20), 2, "mean", 0.9, phi=np.arange(21), side="upper")


def test_infinite_scores_of_an_order_statistic_do_not_warn():
    scores = [-INF, 1.0, 2.0, INF]
    assert batch_bound(scores, 1, "max", 0.8, side="upper") == INF
    assert batch_bound(scores, 1, "max", 0.8, side="lower") == -INF
    assert batch_bound(scores, 1, "max", 0.6, side="upper", method="dp") == 2.0


def test_every_gap_forbidden():
    phi = [INF] * 4
    with pytest.warns(InfiniteIntervalWarning):
        assert batch_bound([1, 2, 3], 2, "mean", 0.1, phi=phi) == (-INF, INF)
    bounds = batch_bound([1, 2, 3], 2, "mean", 0.1, phi=phi, score_bounds=(0, 9))
    assert bounds == (0, 9)


# ------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": []}, "scores is empty"),
        ({"scores": [1, math.nan, 2]}, "scores contains NaN"),
        ({"scores": [[1, 2, 3]]}, "scores must be 1-D"),
        ({"scores": [1, INF, 2]}, "scores must be finite"),
        ({"scores": [1, INF, 2], "m": 1, "method": "hull"}, "scores must be finite"),
        ({"m": 0}, "m must be a number of new scores >= 1"),
        ({"confidence_level": 1.0}, "strictly between 0 and 1"),
        ({"side": "both"}, "side='both'"),
        ({"method": "exact"}, "method='exact'"),
        ({"method": "closed"}, "for a single order statistic"),
        ({"method": "hull", "statistic": "median"}, "the mean alone"),
        ({"method": "core", "statistic": "max"}, "the mean alone"),
        ({"phi": "train"}, "phi='train'"),
        ({"phi": [0, 1, 2]}, r"phi must have shape \(4,\)"),
        ({"phi": [0, 2, 1, 3]}, "must not decrease"),
        ({"phi": [0, 1, math.nan, 3]}, "must not hold NaN"),
        ({"phi": [0, 1, 2, 2.5]}, "phi must hold integers"),
        ({"phi": [-INF, 1, 2, 3]}, "phi must hold integers"),
        ({"phi": [0, 1, 2, 1e12]}, "phi must lie within"),
        ({"phi": [0, 1, 2, 2.0**31]}, "too many"),
        ({"score_bounds": (0, 2)}, "within score_bounds"),
        ({"score_bounds": (1.5, 9)}, "within score_bounds"),
        ({"score_bounds": (math.nan, 9)}, "within score_bounds"),
        ({"score_bounds": 9}, "pair of numbers"),
    ],
)
@pytest.mark.parametrize("side", ["upper", "lower", "two"])
def test_bad_input(change, message, side):
    given = {
        "scores": [1, 2, 3], "m": 4, "statistic": "mean", "confidence_level": 0.5,
        "side": side, **change,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        batch_bound(given.pop("scores"), given.pop("m"), **given)


def test_types():
    with pytest.raises(TypeError, match="m must be an integer"):
        batch_bound([1, 2], 1.5)
    with pytest.raises(TypeError, match="confidence_level must be a real number"):
        batch_bound([1, 2], 1, confidence_level="0.9")


@pytest.mark.parametrize("method", ["dp", "core", "hull", "band"])
def test_sums_of_huge_scores_do_not_overflow(method):
    scores = np.repeat([-1e308, 1e308], 25)
    bounds = batch_bound(
        scores, 5, "mean", 0.5, score_bounds=(-1e308, 1e308), method=method
    )
    tame = batch_bound(
        scores / 1e300, 5, "mean", 0.5, score_bounds=(-1e8, 1e8), method=method
    )
    np.testing.assert_allclose(np.divide(bounds, 1e300), tame, rtol=1e-12)
    same = np.full(50, -1e308)
    upper = batch_bound(
        same, 5, "mean", 0.5, score_bounds=(-1e308, -1e308), side="upper", method=method
    )
    np.testing.assert_allclose(upper, -1e308, rtol=1e-12)
