"""Scorers of width against spread and coverage, and of the miscalibration area."""

import pickle
import re

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests._models import ColumnQuantiles
from uqlib.conformal import SplitConformalRegressor
from uqlib.metrics._interval_width import (
    coverage_width_criterion,
    normalized_interval_width,
)
from uqlib.metrics._regression_calibration import miscalibration_area
from uqlib.metrics._scorers import neg_miscalibration_area_scorer
from uqlib.metrics._width_scorers import (
    coverage_width_criterion_scorer,
    neg_normalized_interval_width_scorer,
)

# Each metric as a function of (y, interval, level, **options), with its sign.
SCORERS = {
    coverage_width_criterion_scorer: coverage_width_criterion,
    neg_normalized_interval_width_scorer: lambda y, interval, level, **options: (
        -normalized_interval_width(y, interval, **options)
    ),
}
OPTIONS = {
    coverage_width_criterion_scorer: {"eta": 2.0},
    neg_normalized_interval_width_scorer: {"normalization": "std"},
}
every_scorer = pytest.mark.parametrize("make", SCORERS)

RNG = np.random.default_rng(3)
N = 180
X = RNG.normal(size=(N, 2))
GROUPS = np.arange(N) % 3
Y = X[:, 0] + (1 + GROUPS) * RNG.normal(size=N)
WEIGHT = RNG.exponential(size=N)


@pytest.fixture
def routing():
    with config_context(enable_metadata_routing=True):
        yield


def model(**parameters):
    return SplitConformalRegressor(
        Ridge(), confidence_level=0.8, random_state=0, **parameters
    )


def same(a, b):
    return a == pytest.approx(b, rel=1e-12)


@every_scorer
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
def test_a_scorer_is_the_metric_with_its_sign(make, weight):
    fitted = model().fit(X, Y)
    for level in (None, 0.5, 0.9):
        interval = fitted.predict_interval(X, level)
        for options in ({}, OPTIONS[make]):
            expected = SCORERS[make](
                Y, interval, level or 0.8, sample_weight=weight, **options
            )
            found = make(level, **options)(fitted, X, Y, sample_weight=weight)
            assert same(found, expected)


def test_by_hand():
    fitted = model().fit(X, Y)
    lower, upper = fitted.predict_interval(X).T
    width, inside = np.mean(upper - lower), np.mean((lower <= Y) & (upper >= Y))
    found = neg_normalized_interval_width_scorer()(fitted, X, Y)
    assert same(found, -width / np.ptp(Y))
    found = neg_normalized_interval_width_scorer(normalization="std")(fitted, X, Y)
    assert same(found, -width / np.std(Y))
    expected = (1 - width / np.ptp(Y)) * np.exp(-30 * (inside - 0.8) ** 2)
    assert same(coverage_width_criterion_scorer()(fitted, X, Y), expected)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
def test_the_miscalibration_area(weight):
    levels = (0.1, 0.5, 0.9)
    fitted = ColumnQuantiles(levels, scale=0.5).fit(X, Y)
    matrix = fitted.predict_quantiles(X)
    expected = -miscalibration_area(Y, matrix, levels, sample_weight=weight)
    pipeline = make_pipeline("passthrough", ColumnQuantiles(levels, scale=0.5))
    for inner in (fitted, FrozenEstimator(fitted), pipeline.fit(X, Y)):
        for asked in (None, levels):
            scorer = neg_miscalibration_area_scorer(asked)
            assert same(scorer(inner, X, Y, sample_weight=weight), expected)
    expected = -miscalibration_area(Y, matrix[:, [0, 2]], [0.1, 0.9])
    assert same(neg_miscalibration_area_scorer([0.1, 0.9])(fitted, X, Y), expected)
    wide = ColumnQuantiles(levels, scale=2.0).fit(X, Y)
    scorer = neg_miscalibration_area_scorer()
    assert scorer(wide, X, Y) > scorer(fitted, X, Y)


@every_scorer
def test_a_quantile_model(make):
    fitted = ColumnQuantiles((0.1, 0.9)).fit(X, Y)
    ends = fitted.predict_quantiles(X)
    assert same(make(0.8)(fitted, X, Y), SCORERS[make](Y, ends, 0.8))


def test_a_search_with_several_scorers():
    search = GridSearchCV(
        ColumnQuantiles((0.1, 0.9)),
        {"scale": [0.1, 2.0]},
        scoring={
            "area": neg_miscalibration_area_scorer(),
            "criterion": coverage_width_criterion_scorer(0.8),
            "width": neg_normalized_interval_width_scorer(0.8),
        },
        refit="area",
        cv=KFold(3),
    ).fit(X, Y)
    assert search.best_params_ == {"scale": 2.0}
    for k, scale in enumerate((0.1, 2.0)):
        ends = ColumnQuantiles((0.1, 0.9), scale=scale).fit(X, Y).predict_quantiles(X)
        folds = [test for _, test in KFold(3).split(X)]
        widths = [normalized_interval_width(Y[f], ends[f]) for f in folds]
        areas = [miscalibration_area(Y[f], ends[f], [0.1, 0.9]) for f in folds]
        values = [coverage_width_criterion(Y[f], ends[f], 0.8) for f in folds]
        results = search.cv_results_
        assert same(results["mean_test_width"][k], -np.mean(widths))
        assert same(results["mean_test_area"][k], -np.mean(areas))
        assert same(results["mean_test_criterion"][k], np.mean(values))


@pytest.mark.usefixtures("routing")
@every_scorer
def test_groups_are_routed(make):
    found = cross_validate(
        model().set_fit_request(mondrian_groups=True),
        X,
        Y,
        cv=KFold(3),
        params={"mondrian_groups": GROUPS, "w": WEIGHT},
        scoring=make().set_score_request(mondrian_groups=True, sample_weight="w"),
    )
    expected = []
    for train, test in KFold(3).split(X):
        fitted = model().fit(X[train], Y[train], mondrian_groups=GROUPS[train])
        ends = fitted.predict_interval(X[test], mondrian_groups=GROUPS[test])
        expected.append(SCORERS[make](Y[test], ends, 0.8, sample_weight=WEIGHT[test]))
    assert found["test_score"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("scorer", "shown"),
    [
        (
            coverage_width_criterion_scorer(),
            "<coverage_width_criterion at None, eta=30.0>",
        ),
        (
            neg_normalized_interval_width_scorer(0.5, normalization="std"),
            "<neg_normalized_interval_width at 0.5, normalization='std'>",
        ),
        (neg_miscalibration_area_scorer([0.5]), "<neg_miscalibration_area at [0.5]>"),
    ],
    ids=repr,
)
def test_pickle_clone_and_repr(scorer, shown):
    fitted = SplitConformalRegressor(ColumnQuantiles(), random_state=0).fit(X, Y)
    if "area" in shown:
        fitted = ColumnQuantiles().fit(X, Y)
    search = GridSearchCV(Ridge(), {}, scoring=scorer)
    for again in (pickle.loads(pickle.dumps(scorer)), clone(search).scoring):
        assert repr(again) == repr(scorer) == shown
        assert again(fitted, X, Y) == scorer(fitted, X, Y)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (coverage_width_criterion_scorer, {"eta": -1}, "eta must be a finite number"),
        (
            neg_normalized_interval_width_scorer,
            {"normalization": "iqr"},
            "normalization='iqr' must be one of ['range', 'std'].",
        ),
        *[(make, {"confidence_level": 90}, "got 90. Pass 0.9") for make in SCORERS],
        (neg_miscalibration_area_scorer, {"quantiles": [0.5, 1.0]}, "between 0 and 1"),
    ],
)
def test_bad_arguments_are_refused_at_once(make, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(**options)


@every_scorer
def test_a_model_without_intervals(make):
    fitted = make_pipeline(StandardScaler(), LinearRegression()).fit(X, Y)
    with pytest.raises(ValueError, match=r"^LinearRegression cannot give quantiles\."):
        make(0.9)(fitted, X, Y)
    with pytest.raises(ValueError, match=r"^LinearRegression cannot give quantiles"):
        neg_miscalibration_area_scorer()(fitted, X, Y)
