"""Known covariate shift: calibration rows are kept by their likelihood ratio."""

import numpy as np
import pytest
from scipy.stats import binom

from tests.batch._batches import FIRST_COLUMN, calibrated, rows_of
from uqlib.batch._inference import BatchPredictiveInference

CELLS = 12


def test_thinning_keeps_rows_by_their_ratio():
    ratio = np.tile([0.0, 0.5, 1.0, 2.0], 2000)
    y = np.tile([0.0, 1.0, 2.0, 3.0], 2000)
    model = BatchPredictiveInference(FIRST_COLUMN, random_state=0)
    model.fit(rows_of(np.zeros(8000)), y, likelihood_ratio=ratio, max_ratio=2.0)
    kept = np.array([(model.scores_ == value).sum() for value in range(4)])
    assert kept[0] == 0
    assert kept[3] == 2000
    for count, share in ((kept[1], 0.25), (kept[2], 0.5)):
        low, high = binom(2000, share).ppf([1e-7, 1 - 1e-7])
        assert low <= count <= high
    assert model.n_calibration_ == kept.sum()
    again = BatchPredictiveInference(FIRST_COLUMN, random_state=0)
    again.fit(rows_of(np.zeros(8000)), y, likelihood_ratio=ratio, max_ratio=2.0)
    np.testing.assert_array_equal(again.scores_, model.scores_)


def test_thinning_restores_coverage_under_a_known_shift():
    # x is uniform at calibration and has density 2 x in the batch; noise grows with x.
    n, m, level, repetitions = 80, 4, 0.8, 500
    rng = np.random.default_rng(4)
    model = calibrated(np.arange(n) * 1.0, confidence_level=level, side="upper")
    model.set_params(nonconformity="absolute", random_state=np.random.RandomState(1))
    model.fit(rows_of(np.zeros(n)), np.arange(n) * 1.0)
    covered = np.zeros((2, repetitions), dtype=bool)
    for i in range(repetitions):
        x, x_new = rng.uniform(size=n), np.sqrt(rng.uniform(size=m))
        y, y_new = x**4 * rng.normal(size=n), x_new**4 * rng.normal(size=m)
        given = {"likelihood_ratio": 2 * x, "max_ratio": 2.0}
        for row, ratios in enumerate(({}, given)):
            model.calibrate(rows_of(np.zeros(n)), y, **ratios)
            low, high = model.predict_simultaneous(np.zeros((m, 1)), 3).T
            covered[row, i] = ((low <= y_new) & (y_new <= high)).sum() >= 3
    plain, thinned = covered.sum(axis=1)
    assert thinned >= binom(repetitions, level).ppf(1e-6 / CELLS)
    # The shift is one that matters: without the ratio the sets are too small.
    assert plain < binom(repetitions, level).ppf(1e-6 / CELLS)


def test_thinning_leaves_training_and_groups_alone():
    rng = np.random.default_rng(5)
    X, y = rng.normal(size=(200, 1)), rng.normal(size=200)
    labels, ratio = np.tile(["a", "b"], 100), np.tile([1.0, 0.5], 100)
    model = BatchPredictiveInference(FIRST_COLUMN, "max", random_state=3)
    given = {"likelihood_ratio": ratio, "max_ratio": 1.0}
    model.fit(X, y, mondrian_groups=labels, **given)
    is_a = labels == "a"
    own = BatchPredictiveInference(FIRST_COLUMN, "max").fit(X[is_a], y[is_a])
    np.testing.assert_array_equal(
        model.predict_batch_interval(X[:2], mondrian_groups=["a", "a"]),
        own.predict_batch_interval(X[:2]),
    )
    assert 100 < model.n_calibration_ < 200


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"likelihood_ratio": np.ones(6)}, "belong together"),
        ({"max_ratio": 2.0}, "belong together"),
        ({"likelihood_ratio": np.ones(6), "max_ratio": 0.5}, "max_ratio=0.5"),
        ({"likelihood_ratio": np.ones(6), "max_ratio": np.inf}, "max_ratio=inf"),
        ({"likelihood_ratio": np.ones(6), "max_ratio": np.nan}, "max_ratio=nan"),
        ({"likelihood_ratio": np.ones(5), "max_ratio": 1.0}, "likelihood_ratio"),
        ({"likelihood_ratio": -np.ones(6), "max_ratio": 1.0}, "likelihood_ratio"),
        ({"likelihood_ratio": np.zeros(6), "max_ratio": 1.0}, "None of 6"),
    ],
)
def test_ratios_that_are_none(given, match):
    model = calibrated(np.arange(6.0))
    with pytest.raises(ValueError, match=match):
        model.calibrate(rows_of(np.zeros(6)), np.zeros(6), **given)
    np.testing.assert_array_equal(model.scores_, np.arange(6.0))
