"""SplitConformalRegressor: the oracle by hand, the exact law, every edge."""

import pickle
import re
import warnings
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import beta, kstest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import make_column_transformer
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests._models import Zero, normal_rows
from uqlib import (
    AlreadyFittedWarning,
    InfiniteIntervalWarning,
    SplitConformalRegressor,
    conformal_quantile,
    conformal_rank,
    coverage_score,
)

X, Y = normal_rows(200, seed=0)
FROZEN_ZERO = FrozenEstimator(Zero().fit(X, Y))


def calibrated(y, confidence_level=0.9, **parameters):
    """A calibrator whose point is 0 and whose scores are |y|."""
    rows = np.zeros((len(y), 2))
    return SplitConformalRegressor(
        FROZEN_ZERO, confidence_level=confidence_level, **parameters
    ).fit(rows, y)


@pytest.mark.parametrize("size", [0.25, 0.4, 60])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_equals_the_procedure_by_hand(size, level):
    model = SplitConformalRegressor(
        Ridge(), confidence_level=level, calibration_size=size, random_state=3
    ).fit(X, Y)
    X_train, X_cal, y_train, y_cal = train_test_split(
        X, Y, test_size=size, random_state=3
    )
    ridge = Ridge().fit(X_train, y_train)
    threshold = conformal_quantile(np.abs(y_cal - ridge.predict(X_cal)), level)
    expected = ridge.predict(X)[:, None] + [-threshold, threshold]
    interval = model.predict_interval(X)
    np.testing.assert_allclose(interval, expected, rtol=1e-12, atol=1e-14)
    # Rounded outwards, never inwards.
    assert (interval[:, 0] <= expected[:, 0]).all()
    assert (interval[:, 1] >= expected[:, 1]).all()
    np.testing.assert_array_equal(model.predict(X), ridge.predict(X))
    assert model.threshold_ == threshold
    assert model.n_calibration_ == len(y_cal) == model.scores_.size


@pytest.mark.parametrize("n_calibration", [9, 19, 50, 200])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_coverage_has_its_exact_law(n_calibration, level):
    # With |y| uniform on (0, 1) and the point 0, the coverage of a calibrated model is
    # its upper end, whose law is Beta(k, n + 1 - k). 16 cells share an error of 1e-6.
    rng = np.random.default_rng(n_calibration)
    n_replications = 2000
    rank = conformal_rank(n_calibration, level)
    signs = rng.choice([-1.0, 1.0], size=(n_replications, n_calibration))
    targets = signs * rng.uniform(size=(n_replications, n_calibration))
    row = np.zeros((1, 2))
    with warnings.catch_warnings():
        if rank > n_calibration:
            warnings.simplefilter("ignore", InfiniteIntervalWarning)
        coverage = np.array(
            [calibrated(y, level).predict_interval(row)[0, 1] for y in targets]
        )
    if rank > n_calibration:
        assert np.isposinf(coverage).all()
        return
    law = beta(rank, n_calibration + 1 - rank)
    assert kstest(coverage, law.cdf).pvalue > 1e-6 / 16
    # The mean of the law is k / (n + 1), at least the level and less than 1 / (n + 1)
    # above it.
    exact = Fraction(rank, n_calibration + 1)
    assert (
        Fraction(str(level))
        <= exact
        < Fraction(str(level)) + Fraction(1, n_calibration + 1)
    )
    error = law.std() / np.sqrt(n_replications)
    assert abs(coverage.mean() - float(exact)) < 5.6 * error


def test_intervals_are_nested_in_the_level():
    model = calibrated(Y)
    widths = [
        np.diff(model.predict_interval(X[:1], confidence_level=level)).item()
        for level in np.linspace(0.01, 0.99, 50)
    ]
    assert (np.diff(widths) >= 0).all()


def test_a_level_at_prediction_equals_one_at_construction():
    asked = calibrated(Y, 0.9).predict_interval(X, confidence_level=0.7)
    np.testing.assert_array_equal(asked, calibrated(Y, 0.7).predict_interval(X))


def test_order_and_sign_of_the_calibration_rows_do_not_matter():
    first, second = calibrated(Y), calibrated(-Y[::-1])
    assert first.threshold_ == second.threshold_


def test_equivariance():
    plain = SplitConformalRegressor(LinearRegression(), random_state=0).fit(X, Y)
    moved = SplitConformalRegressor(LinearRegression(), random_state=0)
    moved.fit(X, 100 * Y + 7)
    np.testing.assert_allclose(
        moved.predict_interval(X), 100 * plain.predict_interval(X) + 7, rtol=1e-9
    )


def test_too_few_rows_give_infinite_intervals_and_one_warning():
    with pytest.warns(InfiniteIntervalWarning) as caught:
        model = calibrated(Y[:8], 0.9)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    message = (
        "8 calibration rows are too few for a finite bound at level 0.9: at least 9 "
        "are needed."
    )
    assert message in str(caught[0].message)
    interval = model.predict_interval(X)  # warned once, not once a prediction
    assert np.isneginf(interval[:, 0]).all()
    assert np.isposinf(interval[:, 1]).all()
    assert coverage_score(Y, interval) == 1.0
    assert np.isfinite(calibrated(Y[:9], 0.9).threshold_)
    with pytest.warns(InfiniteIntervalWarning, match="at least 99 are needed"):
        calibrated(Y[:50]).predict_interval(X, confidence_level=0.99)


@pytest.mark.parametrize("level", [0.3, 0.6, 0.7, 0.9])
def test_tied_decimals_are_covered(level):
    # The mean of decimals is no decimal, and most rows tie at the threshold: were the
    # ends not rounded outwards, all of them could fall just outside.
    rng = np.random.default_rng(0)
    y = np.where(rng.random(2000) < 0.7, 0.1, rng.integers(-50, 50, 2000) / 10)
    model = SplitConformalRegressor(
        DummyRegressor(), confidence_level=level, random_state=0
    ).fit(np.zeros((2000, 2)), y)
    covered = coverage_score(y, model.predict_interval(np.zeros((2000, 2))))
    below = np.mean(np.abs(y - model.predict(np.zeros((1, 2)))) <= model.threshold_)
    assert covered == below >= level - 0.05


def test_ties_are_covered():
    # Every score equals 1, so the closed interval of half-width 1 covers all of them.
    y = np.tile([-1.0, 1.0], 50)
    assert coverage_score(y, calibrated(y).predict_interval(np.zeros((100, 2)))) == 1.0


def test_calibrate_moves_the_threshold_and_nothing_else():
    model = SplitConformalRegressor(Ridge(), random_state=0).fit(X, Y)
    ridge = model.estimator_
    coefficients = ridge.coef_.copy()
    X_new, y_new = normal_rows(50, seed=1, noise=10.0)
    assert model.calibrate(X_new, y_new) is model
    assert model.estimator_ is ridge
    np.testing.assert_array_equal(ridge.coef_, coefficients)
    scores = np.abs(y_new - ridge.predict(X_new))
    assert model.threshold_ == conformal_quantile(scores, 0.9)
    assert model.n_calibration_ == 50


def test_a_calibration_that_fails_changes_nothing():
    model = SplitConformalRegressor(Ridge(), random_state=0).fit(X, Y)
    before = model.predict_interval(X)
    model.set_params(confidence_level=0.5, nonconformity=BrokenScore())
    with pytest.raises(ValueError, match="contains NaN"):
        model.calibrate(X[:20], Y[:20])
    assert model.n_calibration_ == 50
    np.testing.assert_array_equal(model.predict_interval(X), before)
    model = SplitConformalRegressor(Ridge(), nonconformity=BrokenScore())
    with pytest.raises(ValueError, match="contains NaN"):
        model.fit(X, Y)
    assert not hasattr(model, "estimator_")


def test_a_fit_that_fails_changes_no_interval():
    model = SplitConformalRegressor(Ridge(), random_state=0).fit(X, Y)
    before = model.predict_interval(X)
    model.set_params(nonconformity=BrokenScore())
    with pytest.raises(ValueError, match="contains NaN"):
        model.fit(X, 1000 * Y)
    np.testing.assert_array_equal(model.predict_interval(X), before)


def test_before_any_calibration_there_is_no_interval():
    model = SplitConformalRegressor(Ridge(), nonconformity=BrokenScore())
    with pytest.raises(ValueError, match="contains NaN"):
        model.fit(X, Y)
    with pytest.raises(NotFittedError):
        model.predict_interval(X)


def test_a_frozen_estimator_calibrates_on_all_rows():
    ridge = Ridge().fit(X, Y)
    model = SplitConformalRegressor(FrozenEstimator(ridge), calibration_size=0.01)
    model.fit(X, -Y)
    assert model.n_calibration_ == 200
    np.testing.assert_array_equal(model.predict(X), ridge.predict(X))


def test_a_fitted_estimator_is_cloned_with_a_warning():
    ridge = Ridge().fit(X, Y)
    coefficients = ridge.coef_.copy()
    with pytest.warns(AlreadyFittedWarning, match="FrozenEstimator") as caught:
        SplitConformalRegressor(ridge).fit(X, -Y)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(ridge.coef_, coefficients)


def test_sample_weight_trains_and_does_not_calibrate():
    weight = np.random.default_rng(0).uniform(size=200)
    model = SplitConformalRegressor(Ridge(), random_state=0)
    model.fit(X, Y, sample_weight=weight)
    train, held_out = train_test_split(np.arange(200), test_size=50, random_state=0)
    ridge = Ridge().fit(X[train], Y[train], sample_weight=weight[train])
    scores = np.abs(Y[held_out] - ridge.predict(X[held_out]))
    assert model.threshold_ == conformal_quantile(scores, 0.9)


class RelativeScore:
    """|y - y_pred| / |y_pred|, larger is stranger."""

    def score(self, y, y_pred):
        """Return the scores."""
        return np.abs(y - y_pred) / np.abs(y_pred)

    def inverse(self, y_pred, threshold):
        """Return y_pred -+ t |y_pred|."""
        margin = threshold * np.abs(y_pred)
        return np.column_stack([y_pred - margin, y_pred + margin])


def test_a_score_of_ones_own():
    model = SplitConformalRegressor(
        Ridge(), nonconformity=RelativeScore(), random_state=0
    ).fit(X, Y)
    y_pred = model.predict(X)
    margin = model.threshold_ * np.abs(y_pred)
    expected = np.column_stack([y_pred - margin, y_pred + margin])
    np.testing.assert_array_equal(model.predict_interval(X), expected)


class BrokenScore(RelativeScore):
    """0 / 0 for a prediction of 0, and as many scores as one likes."""

    def __init__(self, n_scores=None):
        self.n_scores = n_scores

    def score(self, y, y_pred):
        """Return NaN, or too few scores."""
        return np.full(len(y), np.nan) if self.n_scores is None else [1] * self.n_scores


def test_scores_that_cannot_calibrate():
    with pytest.raises(ValueError, match="nonconformity scores contains NaN"):
        calibrated(Y, nonconformity=BrokenScore())
    with pytest.raises(ValueError, match="nonconformity scores has 3 rows but y has"):
        calibrated(Y, nonconformity=BrokenScore(3))


@pytest.mark.parametrize("nonconformity", ["gama", None, RelativeScore, 3])
def test_unknown_scores(nonconformity):
    with pytest.raises(ValueError, match=re.escape(f"nonconformity={nonconformity!r}")):
        calibrated(Y, nonconformity=nonconformity)


@pytest.mark.parametrize("level", [0, 1, -0.1, 1.5, np.nan])
def test_bad_levels(level):
    message = "confidence_level must lie strictly between 0 and 1, got"
    with pytest.raises(ValueError, match=re.escape(message)):
        calibrated(Y, level)
    with pytest.raises(ValueError, match=re.escape(message)):
        calibrated(Y).predict_interval(X, confidence_level=level)


@pytest.mark.parametrize("level", [None, "0.9", True])
def test_levels_that_are_no_numbers(level):
    with pytest.raises(TypeError, match="confidence_level must be a real number"):
        calibrated(Y, level)


@pytest.mark.parametrize("size", [0.0, 1.0, 1.5, 0, 200, -1])
def test_bad_calibration_size(size):
    with pytest.raises(ValueError, match="calibration_size"):
        SplitConformalRegressor(Ridge(), calibration_size=size).fit(X, Y)


@pytest.mark.parametrize("size", [None, "half", True])
def test_calibration_size_that_is_no_number(size):
    with pytest.raises(TypeError, match="calibration_size must be a share"):
        SplitConformalRegressor(Ridge(), calibration_size=size).fit(X, Y)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_target(bad):
    y = Y.copy()
    y[3] = bad
    model = SplitConformalRegressor(Ridge())
    with pytest.raises(ValueError, match="Input y contains"):
        model.fit(X, y)
    with pytest.raises(ValueError, match="Input y contains"):
        model.fit(X, Y).calibrate(X, y)


def test_empty_and_mismatched_rows():
    with pytest.raises(ValueError, match=re.escape("Found array with 0 sample(s)")):
        SplitConformalRegressor(Ridge()).fit(X[:0], Y[:0])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        SplitConformalRegressor(Ridge()).fit(X, Y[1:])
    with pytest.raises(ValueError, match="leaves 0 rows to train and 1 to calibrate"):
        SplitConformalRegressor(Ridge()).fit(X[:1], Y[:1])


class PredictsNan(RegressorMixin, BaseEstimator):
    """A broken model."""

    def fit(self, X, y):
        """Learn nothing."""
        self.fitted_ = True
        return self

    def predict(self, X):
        """Return NaN."""
        return np.full(len(X), np.nan)


def test_predictions_that_are_nan_never_become_intervals():
    with pytest.raises(ValueError, match=re.escape("PredictsNan predicted NaN")):
        SplitConformalRegressor(PredictsNan()).fit(X, Y)


def test_missing_values_and_strings_pass_through(df_module):
    features = X.copy()
    features[::5, 1] = np.nan
    boosting = HistGradientBoostingRegressor(max_iter=5)
    model = SplitConformalRegressor(boosting, random_state=0).fit(features, Y)
    assert np.isfinite(model.predict_interval(features)).all()

    frame = df_module.make_dataframe(
        {"kind": [["a", "b"][i % 2] for i in range(200)], "size": X[:, 0]}
    )
    columns = make_column_transformer(
        (OneHotEncoder(sparse_output=False), ["kind"]), (StandardScaler(), ["size"])
    )
    model = SplitConformalRegressor(make_pipeline(columns, Ridge()), random_state=0)
    model.fit(frame, df_module.make_series(Y))
    assert model.predict_interval(frame).shape == (200, 2)


def test_nothing_that_was_passed_changes():
    ridge, features, target = Ridge(), X.copy(), Y.copy()
    features.flags.writeable = target.flags.writeable = False
    model = SplitConformalRegressor(ridge).fit(features, target)
    model.calibrate(features, target).predict_interval(features)
    assert not hasattr(ridge, "coef_")


def test_pickle_round_trip():
    model = SplitConformalRegressor(Ridge(), random_state=0).fit(X, Y)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict_interval(X), model.predict_interval(X))


def test_skops_round_trip(tmp_path):
    io = pytest.importorskip("skops.io")
    model = SplitConformalRegressor(Ridge(), random_state=0).fit(X, Y)
    io.dump(model, tmp_path / "model.skops")
    trusted = io.get_untrusted_types(file=tmp_path / "model.skops")
    assert all(name.startswith("uqlib.") for name in trusted)
    copy = io.load(tmp_path / "model.skops", trusted=trusted)
    np.testing.assert_array_equal(copy.predict_interval(X), model.predict_interval(X))
