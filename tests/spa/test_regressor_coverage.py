"""Coverage of SPARegressor has its exact law, and its sides are better balanced."""

import numpy as np
import pytest
from scipy.stats import beta, kstest
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import ShuffleSplit, train_test_split
from sklearn.utils import check_random_state

from tests._models import Zero
from uqlib._core.ranks import conformal_quantile, conformal_rank
from uqlib.spa._regressor import SPARegressor

N_FIT, N_HEADS, N_CALIBRATION = 350, 250, 199


def lognormal_rows(n_samples, rng):
    """Skewed noise of mean 0, whose scale is smallest in the middle."""
    x = rng.uniform(-2, 2, size=n_samples)
    noise = rng.lognormal(0, 0.8, size=n_samples) - np.exp(0.32)
    return x[:, None], np.sin(2 * x) + (0.2 + 0.4 * np.abs(x)) * noise


@pytest.mark.parametrize(("n_calibration", "level"), [(19, 0.9), (199, 0.9), (50, 0.7)])
def test_coverage_has_its_exact_law(n_calibration, level):
    # Targets are uniform on (-1, 1) and the point is 0; with constant side quantiles
    # the share of targets in [-a, b] is (min(a, 1) + min(b, 1)) / 2, and its law is
    # Beta(k, n + 1 - k). Three cells share an error of 1e-6.
    rng = np.random.default_rng(n_calibration)
    y = rng.uniform(-1, 1, size=300)
    y[y > 0] /= 2  # lopsided side quantiles
    rows = np.zeros((300, 1))
    model = SPARegressor(
        FrozenEstimator(Zero().fit(rows, y)),
        mar_estimator=DummyRegressor(),
        quantile_estimator=DummyRegressor(),
        calibration=None,
        confidence_level=level,
    ).fit(rows, y)
    coverage = np.empty(800)
    for k in range(coverage.size):
        targets = rng.uniform(-1, 1, size=n_calibration)
        model.calibrate(np.zeros((n_calibration, 1)), targets)
        ends = np.abs(model.predict_interval(rows[:1]))
        coverage[k] = np.minimum(ends, 1).sum() / 2
    rank = conformal_rank(n_calibration, level)
    law = beta(rank, n_calibration + 1 - rank)
    assert kstest(coverage, law.cdf).pvalue > 1e-6 / 3


def fitted(seed, residuals, **parameters):
    """A model, its rows and the threshold of plain absolute residuals."""
    rng = np.random.default_rng(seed)
    X, y = lognormal_rows(N_FIT + N_HEADS + N_CALIBRATION, rng)
    held_out = ShuffleSplit(1, test_size=N_HEADS, random_state=seed)
    model = SPARegressor(
        HistGradientBoostingRegressor(),
        residuals=residuals,
        cv=held_out if residuals == "holdout" else 5,
        calibration_size=N_CALIBRATION,
        random_state=seed,
        **parameters,
    ).fit(X, y)
    _, X_cal, _, y_cal = train_test_split(
        X, y, test_size=N_CALIBRATION, random_state=check_random_state(seed)
    )
    plain = conformal_quantile(np.abs(y_cal - model.predict(X_cal)), 0.9)
    return model, plain, lognormal_rows(2000, rng)


def shares(y, point, lower, upper):
    """Coverage, coverage above and below the point, and mean width."""
    inside, up = (lower <= y) & (y <= upper), y > point
    return (
        inside.mean(),
        inside[up].mean(),
        inside[~up].mean(),
        np.mean(upper - lower),
    )


def compared(model, plain, rows):
    """The shares of the calibrated side quantiles and those of plain residuals."""
    X, y = rows
    point, interval = model.predict(X), model.predict_interval(X)
    return (
        shares(y, point, *interval.T),
        shares(y, point, point - plain, point + plain),
    )


def imbalance(mean):
    return abs(mean[1] - mean[2])


@pytest.mark.slow
@pytest.mark.parametrize("residuals", ["holdout", "oof"])
def test_lopsided_noise_over_200_splits(residuals):
    found = np.array([compared(*fitted(seed, residuals)) for seed in range(200)])
    sides, plain = found.mean(axis=0)
    # A coverage has the standard deviation sqrt(0.09 / 201) = 0.021 of Beta(180, 20),
    # the mean of 200 that of 0.0016: below are 4.5 and 7.5 of them.
    assert 0.893 <= sides[0] <= 0.912
    assert 0.893 <= plain[0] <= 0.912
    assert sides[3] <= 1.20 * plain[3]
    assert imbalance(sides) <= imbalance(plain) / 2


def test_lopsided_noise_over_recalibrations():
    # Given a fit, coverage has the law of Beta(180, 20) over calibration rows; the
    # share of 500 new rows adds binomial noise. 5.6 deviations fail once in 4e7.
    rng = np.random.default_rng(0)
    fits = [fitted(seed, "holdout")[0] for seed in range(4)]
    found = np.empty((80, 2, 4))
    for k in range(80):
        model = fits[k % 4]
        X_cal, y_cal = lognormal_rows(N_CALIBRATION, rng)
        model.calibrate(X_cal, y_cal)
        plain = conformal_quantile(np.abs(y_cal - model.predict(X_cal)), 0.9)
        found[k] = compared(model, plain, lognormal_rows(500, rng))
    law = beta(180, 20)
    error = np.sqrt((law.var() + 0.09 / 500) / 80)
    sides, plain = found.mean(axis=0)
    assert abs(sides[0] - 0.9) < 5.6 * error
    assert abs(plain[0] - 0.9) < 5.6 * error
    assert sides[3] <= 1.25 * plain[3]
    assert imbalance(sides) <= imbalance(plain) / 2


def test_widened_sides_are_calibrated_all_the_same():
    rng = np.random.default_rng(1)
    model, *_ = fitted(0, "holdout", sds_widening=2.0)
    coverage = np.empty(60)
    for k in range(60):
        model.calibrate(*lognormal_rows(N_CALIBRATION, rng))
        X, y = lognormal_rows(500, rng)
        lower, upper = model.predict_interval(X).T
        assert np.isfinite(upper - lower).all()
        coverage[k] = np.mean((lower <= y) & (y <= upper))
    error = np.sqrt((beta(180, 20).var() + 0.09 / 500) / 60)
    assert abs(coverage.mean() - 0.9) < 5.6 * error
