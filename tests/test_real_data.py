"""The main job on real data: no crossing is left, and coverage keeps its exact law."""

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator

from tests._data import load_real_data
from tests._real_data import block_splits, coverage_band
from uqlib import (
    ConformalizedQuantileRegressor,
    ConformalQuantiles,
    MultiQuantileRegressor,
    QuantileEnsembleRegressor,
    crossing_rate,
    isotonic_quantiles,
    sort_quantiles,
)

LEVELS = np.arange(1, 20) / 20


def test_blocks_partition_the_rows():
    splits = block_splits(103)
    held_out = np.concatenate([np.r_[s.calibration, s.test] for s in splits])
    np.testing.assert_array_equal(np.sort(held_out), np.arange(103))
    for split in splits:
        rows = np.concatenate(split)
        np.testing.assert_array_equal(np.sort(rows), np.arange(103))


def test_the_band_is_that_of_a_binomial_when_calibration_is_endless():
    # With many calibration rows the coverage is the level, and the sum is binomial.
    splits = block_splits(20)
    endless = [s._replace(calibration=np.arange(10**7 - 1)) for s in splits]
    n_test = sum(len(s.test) for s in splits)
    lower, upper = coverage_band(endless, 0.9)
    law = binom(n_test, 0.9)
    assert (lower, upper) == (law.ppf(5e-7), law.ppf(1 - 5e-7))


@pytest.mark.parametrize("name", ["concrete", "energy", "power_plant"])
def test_main_job(name):
    X, y = load_real_data(name)
    quantile_forest = pytest.importorskip("quantile_forest")
    forest = quantile_forest.RandomForestQuantileRegressor(
        n_estimators=20, max_samples_leaf=None, min_samples_leaf=5, random_state=0
    )
    boosting = HistGradientBoostingRegressor(max_iter=10, random_state=0)
    splits = block_splits(len(y))
    covered = 0
    for split in splits:
        ensemble = QuantileEnsembleRegressor(
            [("forest", forest), ("boosting", boosting)],
            quantiles=LEVELS,
            cv=2,
            random_state=0,
        ).fit(X[split.train], y[split.train])
        frozen = FrozenEstimator(ensemble)
        calibrator = ConformalizedQuantileRegressor(frozen, confidence_level=0.9)
        calibrator.fit(X[split.calibration], y[split.calibration])
        interval = calibrator.predict_interval(X[split.test])
        covered += np.sum(
            (interval[:, 0] <= y[split.test]) & (y[split.test] <= interval[:, 1])
        )

        raw = ensemble.predict_quantiles(X[split.test])
        step = ConformalQuantiles(quantiles=LEVELS).fit(
            ensemble.predict_quantiles(X[split.calibration]), y[split.calibration]
        )
        for repaired in (
            sort_quantiles(raw),
            isotonic_quantiles(raw),
            step.transform(raw),
        ):
            assert crossing_rate(repaired) == 0.0
    lower, upper = coverage_band(splits, 0.9)
    assert lower <= covered <= upper


def test_levels_of_one_learner_cross_on_real_data():
    # Without this the zeros above would say little.
    X, y = load_real_data("concrete")
    boosting = HistGradientBoostingRegressor(max_iter=30, random_state=0)
    model = MultiQuantileRegressor(boosting, quantiles=LEVELS).fit(X, y)
    assert crossing_rate(model.predict_quantiles(X)) > 0.3
