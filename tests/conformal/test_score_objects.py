"""Nonconformity scores in split calibration: inverses, scales, laws, bad input."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold, train_test_split

from tests._models import Zero, normal_rows
from uqlib import (
    AbsoluteScore,
    BootstrapConformalRegressor,
    ConformalizedQuantileRegressor,
    CrossConformalRegressor,
    GammaScore,
    LinearQuantileRegressor,
    NormalizedScore,
    QuantileScore,
    SignedScore,
    SplitConformalRegressor,
    conformal_quantile,
    coverage_score,
    neg_interval_score_scorer,
)
from uqlib.conformal._scores import resolve_score

X, Y = normal_rows(300, seed=0)
NUMBERS = st.floats(-1e3, 1e3)


def predictions(score, point, scale):
    """What a score takes as y_pred, for one row."""
    if isinstance(score, NormalizedScore | QuantileScore):
        return np.array([[point, abs(scale) + 0.1]])
    return np.array([point])


SCORES = [
    AbsoluteScore(),
    GammaScore(),
    SignedScore(),
    NormalizedScore(),
    QuantileScore(),
    QuantileScore(symmetric=False),
]


@pytest.mark.parametrize("score", SCORES, ids=lambda s: type(s).__name__)
@given(y=NUMBERS, point=NUMBERS, scale=NUMBERS)
def test_a_target_at_the_threshold_is_inside(score, y, point, scale):
    y_pred, target = predictions(score, point, scale), np.array([y])
    scores = score.score(target, y_pred)
    threshold = scores if scores.ndim == 2 else scores[0]
    lower, upper = score.inverse(y_pred, threshold)[0]
    assert lower <= y <= upper


@pytest.mark.parametrize("score", SCORES, ids=lambda s: type(s).__name__)
@given(y=NUMBERS, point=NUMBERS, scale=NUMBERS, threshold=st.floats(0, 1e3))
def test_inside_means_a_score_of_at_most_the_threshold(
    score, y, point, scale, threshold
):
    # The converse up to rounding: what lies in the interval has no larger score than
    # the threshold and a few units in the last place of the numbers involved.
    y_pred = predictions(score, point, scale)
    if isinstance(score, QuantileScore):  # ends that cross are exchanged: it is wider
        y_pred = np.sort(y_pred, axis=1)
    scores = np.atleast_2d(score.score(np.array([y]), y_pred))
    pair = [threshold] * 2 if scores.shape[1] == 2 else threshold
    lower, upper = score.inverse(y_pred, np.array(pair))[0]
    if lower <= y <= upper and np.isfinite(scores).all():
        unit = np.abs(y_pred).max() + abs(y) + threshold + 1
        divisor = y_pred[0, 1] if isinstance(score, NormalizedScore) else 1.0
        if isinstance(score, GammaScore):
            divisor = max(abs(point), 1e-300)  # a prediction of 0 has the score 0 here
        slack = 1e-14 * unit * (1 + threshold) * (1 + 1 / divisor)
        assert scores.max() <= threshold + slack


@pytest.mark.parametrize("score", SCORES, ids=lambda s: type(s).__name__)
def test_affine_ends_are_those_of_the_inverse(score):
    rng = np.random.default_rng(0)
    y_pred = np.array([predictions(score, *rng.normal(size=2))[0] for _ in range(20)])
    for t in (0.0, 0.3, 2.0):
        lower, upper, scale = score.affine(y_pred)
        two = isinstance(score, SignedScore) or not getattr(score, "symmetric", True)
        interval = score.inverse(y_pred, np.array([t, t]) if two else t)
        expected = np.column_stack([lower - t * scale, upper + t * scale])
        expected.sort(axis=1)
        np.testing.assert_allclose(interval, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["absolute", "signed", "gamma", "normalized", "quantile"]
)
def test_covered_calibration_rows_are_counted_exactly(name):
    estimator = Ridge() if name != "quantile" else LinearQuantileRegressor([0.1, 0.9])
    model = SplitConformalRegressor(
        estimator, nonconformity=name, confidence_level=0.8, random_state=0
    ).fit(X, Y + 10)
    model.calibrate(X[:99], Y[:99] + 10)
    interval = model.predict_interval(X[:99])
    below, above = Y[:99] + 10 < interval[:, 0], Y[:99] + 10 > interval[:, 1]
    if name == "signed":  # rank 90 of 99 at either end
        assert below.sum() == above.sum() == 9
    else:
        assert (below | above).sum() == 19


@pytest.mark.parametrize("name", ["absolute", "signed", "gamma", "normalized"])
def test_coverage_law_of_every_score(name):
    # Given the calibration rows, coverage follows Beta(k, n + 1 - k) (for signed ends a
    # sum of two such misses, each Beta(n + 1 - k, k)). Mean over 400 calibrations of
    # 19 rows; 5 standard errors fail less than once in a million runs.
    rng = np.random.default_rng(1)
    frozen = FrozenEstimator(LinearRegression().fit(X, Y + 10))
    scale = FrozenEstimator(LinearRegression().fit(X, np.ones(len(X))))
    score = NormalizedScore(scale) if name == "normalized" else name
    misses = []
    for _ in range(400):
        x = rng.normal(size=(119, 2))
        y = x[:, 0] + 10 + rng.normal(size=119)
        model = SplitConformalRegressor(
            frozen, nonconformity=score, confidence_level=0.8
        ).fit(x[:19], y[:19])
        covered = coverage_score(y[19:], model.predict_interval(x[19:]))
        misses.append(1 - covered)
    expected = 2 * (1 - 18 / 20) if name == "signed" else 1 - 16 / 20
    spread = beta(4, 16).std() + 0.05
    assert abs(np.mean(misses) - expected) < 5 * spread / np.sqrt(400)


def test_signed_scores_are_two_one_sided_calibrations():
    model = SplitConformalRegressor(
        FrozenEstimator(Zero().fit(X, Y)), nonconformity="signed", confidence_level=0.8
    ).fit(X[:50], Y[:50])
    lower, upper = model.threshold_
    assert lower == conformal_quantile(-Y[:50], 0.9)
    assert upper == conformal_quantile(Y[:50], 0.9)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_quantile_score_is_conformalized_quantile_regression(symmetric):
    base = LinearQuantileRegressor([0.05, 0.1, 0.5, 0.9, 0.95])
    split = SplitConformalRegressor(
        base, nonconformity=QuantileScore(symmetric=symmetric), random_state=0
    ).fit(X, Y)
    cqr = ConformalizedQuantileRegressor(base, symmetric=symmetric, random_state=0)
    cqr.fit(X, Y)
    for level in (None, 0.8):
        np.testing.assert_array_equal(
            split.predict_interval(X, level), cqr.predict_interval(X, level)
        )


def test_normalized_scores_by_hand():
    model = SplitConformalRegressor(
        Ridge(), nonconformity=NormalizedScore(Ridge(5.0), cv=3), random_state=0
    ).fit(X, Y)
    score = model.nonconformity_
    train, held_out = train_test_split(np.arange(300), test_size=75, random_state=0)
    assert model.n_calibration_ == held_out.size
    residual = np.empty(train.size)
    for inside, test in KFold(3).split(train):
        fold = Ridge().fit(X[train[inside]], Y[train[inside]])
        residual[test] = np.abs(Y[train[test]] - fold.predict(X[train[test]]))
    expected = Ridge(5.0).fit(X[train], residual)
    np.testing.assert_allclose(score.scale_estimator_.coef_, expected.coef_)
    assert score.floor_ == pytest.approx(0.05 * residual.mean())
    scale = np.maximum(expected.predict(X), score.floor_)
    margin = model.threshold_ * scale
    interval = model.predict(X)[:, None] + np.column_stack([-margin, margin])
    np.testing.assert_allclose(model.predict_interval(X), interval, rtol=1e-12)


def test_a_scale_follows_the_noise():
    rng = np.random.default_rng(3)
    x = rng.uniform(size=(2000, 1))
    y = 5 * x[:, 0] + (0.1 + x[:, 0]) * rng.normal(size=2000)
    model = SplitConformalRegressor(
        Ridge(), nonconformity="normalized", random_state=0
    ).fit(x, y)
    width = np.diff(model.predict_interval([[0.05], [0.95]]), axis=1)
    assert width[1] > 3 * width[0]


def test_a_column_as_scale():
    frame = pd.DataFrame({"x": X[:, 0], "sigma": np.linspace(1, 2, 300)})
    by_name = SplitConformalRegressor(
        Ridge(), nonconformity=NormalizedScore(column="sigma"), random_state=0
    ).fit(frame, Y)
    width = np.diff(by_name.predict_interval(frame), axis=1).ravel()
    np.testing.assert_allclose(width / width[0], frame["sigma"], rtol=1e-12)
    by_number = SplitConformalRegressor(
        Ridge(), nonconformity=NormalizedScore(column=1), random_state=0
    ).fit(frame.to_numpy(), Y)
    np.testing.assert_allclose(
        by_number.predict_interval(frame.to_numpy()), by_name.predict_interval(frame)
    )


def test_scale_parameters_can_be_searched_and_cloned():
    model = SplitConformalRegressor(
        Ridge(), nonconformity=NormalizedScore(Ridge()), random_state=0
    )
    grid = {"nonconformity__scale_estimator__alpha": [0.1, 10.0]}
    search = GridSearchCV(model, grid, scoring=neg_interval_score_scorer(), cv=2)
    search.fit(X, Y)
    assert search.best_estimator_.predict_interval(X).shape == (300, 2)
    assert not hasattr(model.nonconformity, "floor_")  # the user's stays unfitted
    assert clone(model).nonconformity.scale_estimator.alpha == 1.0


def test_predictions_of_zero_have_a_relative_score():
    score, y_pred = GammaScore(), np.array([0.0, 0.0])
    assert score.score(np.array([0.0, 1.0]), y_pred).tolist() == [0.0, np.inf]
    np.testing.assert_array_equal(
        score.inverse(y_pred, np.inf), [[-np.inf, np.inf]] * 2
    )
    assert (score.inverse(y_pred, 3.0)[:, 0] <= 0).all()


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (NormalizedScore(Ridge(), column=0), "column=0 and scale_estimator were both"),
        (NormalizedScore(floor=-1.0), "floor must be a share of the mean residual"),
        (NormalizedScore(column=7), "column=7 is no column of X"),
        (NormalizedScore(column="a"), "column='a' is no column of X"),
        (NormalizedScore(column=0), "column 0 must be positive and finite"),
    ],
)
def test_bad_scales(score, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SplitConformalRegressor(Ridge(), nonconformity=score).fit(X, Y)


def test_a_frozen_model_has_no_rows_to_learn_a_scale_from():
    frozen = FrozenEstimator(Ridge().fit(X, Y))
    with pytest.raises(ValueError, match="no training rows to learn a scale from"):
        SplitConformalRegressor(frozen, nonconformity="normalized").fit(X, Y)


def test_a_score_that_learns_needs_fit():
    model = SplitConformalRegressor(Ridge(), random_state=0).fit(X, Y)
    model.set_params(nonconformity="normalized")
    with pytest.raises(ValueError, match="nonconformity was changed to NormalizedScor"):
        model.calibrate(X, Y)


class BandScore:
    """Distance outside a band whose width is the level asked for."""

    def __init__(self, level=None):
        self.level = level

    def predict(self, estimator, X, confidence_level):
        """Return the ends of the band."""
        half = self.level or confidence_level
        return estimator.predict(X)[:, None] + [-half, half]

    def score(self, y, y_pred):
        """Return the scores."""
        return np.maximum(y_pred[:, 0] - y, y - y_pred[:, 1])

    def inverse(self, y_pred, threshold):
        """Return the band, wider by the threshold."""
        ends = [y_pred[:, 0] - threshold, y_pred[:, 1] + threshold]
        return np.column_stack(ends)


@pytest.mark.parametrize("level", [0.3, 0.9, 0.97])
@pytest.mark.parametrize(
    ("calibrator", "parameters"),
    [
        (SplitConformalRegressor, {}),
        (CrossConformalRegressor, {"cv": 3}),
        (CrossConformalRegressor, {"cv": 3, "method": "base"}),
        (BootstrapConformalRegressor, {"n_estimators": 20}),
    ],
)
def test_another_level_is_asked_of_the_scores_that_there_are(
    calibrator, parameters, level
):
    # Scores of the band of 0.9 say nothing about the band of 0.3.
    moving, fixed = (
        calibrator(Ridge(), nonconformity=score, random_state=0, **parameters).fit(X, Y)
        for score in (BandScore(), BandScore(level=0.9))
    )
    np.testing.assert_array_equal(
        moving.predict_interval(X, level), fixed.predict_interval(X, level)
    )


class Transposed(BandScore):
    """Bounds in two rows instead of two columns."""

    def inverse(self, y_pred, threshold):
        """Return the bounds, lying down."""
        return super().inverse(y_pred, threshold).T


@pytest.mark.parametrize(
    "calibrator", [SplitConformalRegressor, CrossConformalRegressor]
)
def test_an_inverse_of_the_wrong_shape_is_refused(calibrator):
    model = calibrator(Ridge(), nonconformity=Transposed()).fit(X, Y)
    with pytest.raises(ValueError, match=r"Transposed.inverse gave .* \(2, "):
        model.predict_interval(X)


@pytest.mark.parametrize("name", ["absolute", "signed", "gamma", "quantile"])
def test_differences_beyond_all_numbers_are_infinite_scores(name):
    score, y = resolve_score(name), np.array([-1.7e308, 1.0])
    y_pred = np.array([1e308, 1.0])
    if name == "quantile":
        y_pred = np.column_stack([y_pred, y_pred])
    scores = np.reshape(score.score(y, y_pred), (2, -1))
    assert scores.max(axis=1).tolist() == [np.inf, 0.0]


def test_a_quantile_score_has_parameters():
    model = SplitConformalRegressor(Ridge(), nonconformity=QuantileScore())
    model = clone(model).set_params(nonconformity__symmetric=False)
    assert repr(model.nonconformity) == "QuantileScore(symmetric=False)"
