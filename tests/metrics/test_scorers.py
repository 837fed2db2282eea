"""Scorers: what they compute, at which levels, and that searches take them."""

import pickle
import re

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.dummy import DummyRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, QuantileRegressor, Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uqlib.conformal import SplitConformalRegressor
from uqlib.metrics import (
    coverage_score,
    coverage_scorer,
    crps_from_quantiles,
    interval_score,
    mean_interval_width,
    neg_crps_scorer,
    neg_interval_score_scorer,
    neg_interval_width_scorer,
    neg_pinball_scorer,
    neg_quantile_calibration_error_scorer,
    neg_weighted_interval_score_scorer,
    pinball_loss,
    quantile_calibration_error,
    weighted_interval_score,
)
from uqlib.quantile import CrossFitQuantiles, MultiQuantileRegressor, SortQuantiles

LEVELS = (0.1, 0.5, 0.9)
QUANTILE_SCORERS = {
    neg_crps_scorer: crps_from_quantiles,
    neg_pinball_scorer: pinball_loss,
    neg_quantile_calibration_error_scorer: quantile_calibration_error,
    neg_weighted_interval_score_scorer: weighted_interval_score,
}
# Each metric as a function of (y, interval, level, sample_weight), with its sign.
INTERVAL_SCORERS = {
    coverage_scorer: lambda y, i, p, w: coverage_score(y, i, sample_weight=w),
    neg_interval_score_scorer: lambda y, i, p, w: (
        -interval_score(y, i, p, sample_weight=w)
    ),
    neg_interval_width_scorer: lambda y, i, p, w: (
        -mean_interval_width(i, sample_weight=w)
    ),
}
quantile_scorers = pytest.mark.parametrize("make", QUANTILE_SCORERS)
interval_scorers = pytest.mark.parametrize("make", INTERVAL_SCORERS)


def data(n=120, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    y = X[:, 0] + (0.5 + np.abs(X[:, 1])) * rng.normal(size=n)
    return X, y, rng.exponential(size=n)


def same(a, b):
    """Equal up to the order of summation, which follows the layout of a matrix."""
    return a == pytest.approx(b, rel=1e-12)


def quantile_model(levels=LEVELS, alpha=0.0):
    return MultiQuantileRegressor(QuantileRegressor(alpha=alpha), quantiles=levels)


def interval_model(confidence_level=0.8):
    return SplitConformalRegressor(
        Ridge(), confidence_level=confidence_level, random_state=0
    )


# -------------------------------------------------------------------- the value


@quantile_scorers
@pytest.mark.parametrize("weighted", [False, True])
def test_quantile_scorer_is_minus_the_metric(make, weighted):
    X, y, weight = data()
    weight = weight if weighted else None
    model, metric = quantile_model().fit(X, y), QUANTILE_SCORERS[make]
    matrix = model.predict_quantiles(X)
    expected = -metric(y, matrix, LEVELS, sample_weight=weight)
    for levels in (None, LEVELS, list(LEVELS), np.array(LEVELS)):
        assert same(make(levels)(model, X, y, sample_weight=weight), expected)
    # Some of the levels: a model gives them where it has them.
    some = [0.1, 0.9]
    expected = -metric(y, matrix[:, [0, 2]], some, sample_weight=weight)
    assert same(make(some)(model, X, y, sample_weight=weight), expected)


@interval_scorers
@pytest.mark.parametrize("weighted", [False, True])
def test_interval_scorer_is_the_metric_with_its_sign(make, weighted):
    X, y, weight = data()
    weight = weight if weighted else None
    model, metric = interval_model(0.8).fit(X, y), INTERVAL_SCORERS[make]
    for level in (0.5, 0.8, 0.9):
        expected = metric(y, model.predict_interval(X, level), level, weight)
        assert same(make(level)(model, X, y, sample_weight=weight), expected)
    expected = metric(y, model.predict_interval(X), 0.8, weight)
    assert same(make()(model, X, y, sample_weight=weight), expected)


@interval_scorers
def test_interval_scorer_of_a_quantile_model(make):
    """The interval of level p lies between the levels (1 - p) / 2 and (1 + p) / 2."""
    X, y, _ = data()
    model = quantile_model().fit(X, y)
    ends = np.sort(model.predict_quantiles(X)[:, [0, 2]], axis=1)
    assert same(make(0.8)(model, X, y), INTERVAL_SCORERS[make](y, ends, 0.8, None))


def test_better_models_score_higher():
    X, y, _ = data(400)
    good = quantile_model().fit(X, y)
    poor = quantile_model(alpha=10.0).fit(X, y)
    for make in (
        neg_pinball_scorer,
        neg_crps_scorer,
        neg_weighted_interval_score_scorer,
    ):
        assert make()(good, X, y) > make()(poor, X, y)


# --------------------------------------------------------- models inside of models


@quantile_scorers
@pytest.mark.parametrize("levels", [None, LEVELS])
def test_quantile_scorer_looks_inside(make, levels):
    X, y, _ = data()
    scorer = make(levels)
    plain = quantile_model().fit(X, y)
    expected = scorer(plain, X, y)
    assert same(scorer(FrozenEstimator(plain), X, y), expected)
    search = GridSearchCV(quantile_model(), {"estimator__alpha": [0.0]}, cv=2)
    search.set_params(scoring=make(levels))
    assert same(scorer(search.fit(X, y), X, y), expected)
    scaler = StandardScaler().fit(X)
    inner = quantile_model().fit(scaler.transform(X), y)
    pipeline = make_pipeline(StandardScaler(), quantile_model()).fit(X, y)
    assert same(scorer(pipeline, X, y), scorer(inner, scaler.transform(X), y))


@quantile_scorers
def test_quantile_scorer_of_a_pipeline_of_transformers(make):
    X, y, _ = data()
    pipeline = make_pipeline(CrossFitQuantiles(quantile_model(), cv=2), SortQuantiles())
    pipeline.fit(X, y)
    expected = -QUANTILE_SCORERS[make](y, pipeline.transform(X), LEVELS)
    assert same(make()(pipeline, X, y), expected)
    assert same(make(LEVELS)(pipeline, X, y), expected)


@interval_scorers
def test_interval_scorer_looks_inside(make):
    X, y, _ = data()
    model = interval_model().fit(X, y)
    expected = make()(model, X, y)
    assert same(make()(FrozenEstimator(model), X, y), expected)
    search = GridSearchCV(
        interval_model(), {"estimator__alpha": [1.0]}, cv=2, scoring=make()
    )
    # The level is that of the model inside, at the same split of the rows.
    assert same(make()(search.fit(X, y), X, y), expected)
    pipeline = make_pipeline(StandardScaler(), interval_model()).fit(X, y)
    moved = pipeline[0].transform(X)
    assert same(make()(pipeline, X, y), make()(pipeline[-1], moved, y))


# -------------------------------------------------------- scikit-learn's machinery


def each_scorer():
    return [(make, LEVELS) for make in QUANTILE_SCORERS] + [
        (make, 0.9) for make in INTERVAL_SCORERS
    ]


@pytest.mark.parametrize(("make", "argument"), each_scorer())
def test_scorers_are_pickled_with_their_argument(make, argument):
    X, y, _ = data()
    model = (quantile_model() if argument is LEVELS else interval_model()).fit(X, y)
    for scorer in (make(argument), make()):
        again = pickle.loads(pickle.dumps(scorer))
        assert repr(again) == repr(scorer)
        assert same(again(model, X, y), scorer(model, X, y))


@pytest.mark.parametrize(("make", "argument"), each_scorer())
def test_a_search_that_holds_a_scorer_can_be_cloned(make, argument):
    model = quantile_model() if argument is LEVELS else interval_model()
    search = GridSearchCV(
        model, {"estimator__alpha": [0.0, 1.0]}, scoring=make(argument)
    )
    copy = clone(search)
    assert copy is not search
    assert repr(copy.scoring) == repr(search.scoring)
    X, y, _ = data()
    assert clone(copy.set_params(cv=2)).fit(X, y).best_score_ == pytest.approx(
        search.set_params(cv=2).fit(X, y).best_score_
    )


@pytest.mark.parametrize(
    ("scorer", "shown"),
    [
        (neg_pinball_scorer([0.1, 0.9]), "<neg_pinball_loss at [0.1, 0.9]>"),
        (neg_pinball_scorer(np.array([0.5])), "<neg_pinball_loss at [0.5]>"),
        (neg_crps_scorer(), "<neg_crps_from_quantiles at None>"),
        (coverage_scorer(0.9), "<coverage_score at 0.9>"),
        (neg_interval_width_scorer(), "<neg_mean_interval_width at None>"),
        (neg_interval_score_scorer(0.5), "<neg_interval_score at 0.5>"),
    ],
    ids=repr,
)
def test_a_scorer_shows_what_it_is(scorer, shown):
    assert repr(scorer) == shown


def test_the_levels_of_a_scorer_are_its_own():
    levels = np.array([0.1, 0.9])
    scorer = neg_pinball_scorer(levels)
    levels[:] = 0.5
    assert repr(scorer) == "<neg_pinball_loss at [0.1, 0.9]>"


def test_cross_validate_by_hand():
    X, y, _ = data()
    folds = KFold(3)
    scoring = {make.__name__: make(LEVELS) for make in QUANTILE_SCORERS}
    found = cross_validate(quantile_model(), X, y, cv=folds, scoring=scoring)
    for make, metric in QUANTILE_SCORERS.items():
        expected = []
        for train, test in folds.split(X):
            model = quantile_model().fit(X[train], y[train])
            expected.append(-metric(y[test], model.predict_quantiles(X[test]), LEVELS))
        assert found[f"test_{make.__name__}"] == pytest.approx(expected, rel=1e-12)


def test_cross_validate_of_intervals_by_hand():
    X, y, _ = data()
    folds = KFold(3)
    scoring = {make.__name__: make() for make in INTERVAL_SCORERS}
    found = cross_validate(interval_model(), X, y, cv=folds, scoring=scoring)
    for make, metric in INTERVAL_SCORERS.items():
        expected = []
        for train, test in folds.split(X):
            model = interval_model().fit(X[train], y[train])
            interval = model.predict_interval(X[test])
            expected.append(metric(y[test], interval, 0.8, None))
        assert found[f"test_{make.__name__}"] == pytest.approx(expected, rel=1e-12)


def test_a_search_finds_the_best_quantile_model():
    X, y, _ = data(300)
    search = GridSearchCV(
        quantile_model(),
        {"estimator__alpha": [10.0, 0.0, 1.0]},
        scoring=neg_pinball_scorer(LEVELS),
        cv=KFold(3),
    ).fit(X, y)
    by_hand = [
        cross_validate(
            quantile_model(alpha=alpha),
            X,
            y,
            cv=KFold(3),
            scoring=neg_pinball_scorer(LEVELS),
        )["test_score"].mean()
        for alpha in (10.0, 0.0, 1.0)
    ]
    assert search.cv_results_["mean_test_score"] == pytest.approx(by_hand, rel=1e-12)
    assert search.best_index_ == int(np.argmax(by_hand)) == 1
    # The search scores on new rows as its best model does.
    X_new, y_new, _ = data(seed=1)
    best = neg_pinball_scorer(LEVELS)(search.best_estimator_, X_new, y_new)
    assert same(search.score(X_new, y_new), best)


def test_a_search_finds_the_best_interval_model():
    X, y, _ = data(300)
    search = GridSearchCV(
        interval_model(),
        {"estimator__alpha": [1e6, 1e-3]},
        scoring=neg_interval_score_scorer(),
        cv=KFold(3),
    ).fit(X, y)
    assert search.best_params_ == {"estimator__alpha": 1e-3}


# -------------------------------------------------------------------- bad input


@quantile_scorers
def test_bad_levels_are_refused_at_once(make):
    message = (
        "quantiles must lie strictly between 0 and 1, got [0.5, 1.0]. Pass 0.9 for the "
        "level of 90 %."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make([0.5, 1.0])


@interval_scorers
def test_a_bad_confidence_level_is_refused_at_once(make):
    message = (
        "confidence_level must lie strictly between 0 and 1, got 90. Pass 0.9 for a "
        "coverage of 90 %."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make(90)
    with pytest.raises(TypeError, match="confidence_level must be a real number"):
        make("0.9")
    with pytest.raises(ValueError, match=re.escape("got 0. Pass 0.9")):
        make(0)


@quantile_scorers
@pytest.mark.parametrize("model", [LinearRegression(), DummyRegressor()], ids=str)
def test_a_model_without_quantiles(make, model):
    X, y, _ = data()
    message = (
        f"{type(model).__name__} cannot give quantiles. Wrap a learner that has a "
        "quantile loss in MultiQuantileRegressor (name the parameter that takes the "
        "level with quantile_param=), or pass a model with predict_quantiles."
    )
    if isinstance(model, DummyRegressor):
        # It has a parameter for a level, which is not set.
        message = (
            "DummyRegressor(strategy='mean') does not estimate quantiles. Set "
            "strategy='quantile', or wrap it in MultiQuantileRegressor, which does so."
        )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()(model.fit(X, y), X, y)


@quantile_scorers
def test_levels_that_the_model_does_not_have(make):
    X, y, _ = data()
    model = quantile_model().fit(X, y)
    message = (
        "The model has no quantile level 0.25, 0.75. It has [0.1, 0.5, 0.9]: ask for "
        "these, or fit again with the missing levels."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make([0.25, 0.75])(model, X, y)


@interval_scorers
def test_a_model_without_a_level_of_its_own(make):
    X, y, _ = data()
    model = quantile_model().fit(X, y)
    message = (
        "confidence_level is needed: MultiQuantileRegressor has no level of its own. "
        "Pass for example confidence_level=0.9."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()(model, X, y)


@interval_scorers
def test_a_model_without_intervals(make):
    X, y, _ = data()
    with pytest.raises(
        ValueError, match=re.escape("LinearRegression cannot give quantiles. Wrap")
    ):
        make(0.9)(LinearRegression().fit(X, y), X, y)
