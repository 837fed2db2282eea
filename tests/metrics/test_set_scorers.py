"""Scorers of prediction sets: what they compute, and that searches take them."""

import pickle
import re
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.metadata_routing import get_routing_for_object

from uqlib.conformal import (
    ConformalClassifier,
    CrossConformalClassifier,
    RiskControlledClassifier,
)
from uqlib.metrics._set_scorers import neg_set_size_scorer, set_coverage_scorer
from uqlib.metrics._sets import mean_set_size, set_coverage_score

SCORERS = {
    set_coverage_scorer: lambda y, sets, classes, weight: set_coverage_score(
        y, sets, labels=classes, sample_weight=weight
    ),
    neg_set_size_scorer: lambda y, sets, classes, weight: (
        -mean_set_size(sets, sample_weight=weight)
    ),
}
every_scorer = pytest.mark.parametrize("make", SCORERS)

RNG = np.random.default_rng(0)
N = 240
X = RNG.normal(size=(N, 2))
Y = np.array(["b", "c", "a"])[np.digitize(X[:, 0] + RNG.normal(size=N), [-0.7, 0.7])]
WEIGHT = RNG.exponential(size=N)
GROUPS = np.arange(N) % 2


@pytest.fixture
def routing():
    with config_context(enable_metadata_routing=True):
        yield


def model(confidence_level=0.8, **parameters):
    parameters = {"random_state": 0, **parameters}
    return ConformalClassifier(
        LogisticRegression(), confidence_level=confidence_level, **parameters
    )


class Fixed(ClassifierMixin, BaseEstimator):
    """The same set for all rows, of the classes that it saw."""

    def __init__(self, inside=(True, True)):
        self.inside = inside

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_set(self, X):
        return np.tile(np.resize(self.inside, self.classes_.size), (len(X), 1))


# -------------------------------------------------------------------- the value


@every_scorer
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize("kind", [ConformalClassifier, CrossConformalClassifier])
def test_a_scorer_is_the_metric_of_the_sets_with_its_sign(make, weight, kind):
    fitted = kind(LogisticRegression(), confidence_level=0.8, random_state=0).fit(X, Y)
    for level in (None, 0.5, 0.9):
        sets = fitted.predict_set(X, level)
        expected = SCORERS[make](Y, sets, fitted.classes_, weight)
        found = make(level)(fitted, X, Y, sample_weight=weight)
        assert found == pytest.approx(expected, rel=1e-12)


def test_by_counting():
    fitted = Fixed([True, False, True]).fit(X, Y)  # a and c
    assert set_coverage_scorer()(fitted, X, Y) == np.mean(Y != "b")
    assert neg_set_size_scorer()(fitted, X, Y) == -2


@every_scorer
def test_a_scorer_looks_inside(make):
    fitted = model().fit(X, Y)
    expected = make()(fitted, X, Y)
    search = GridSearchCV(model(), {"estimator__C": [1.0]}, cv=2, scoring=make())
    plain = make_pipeline("passthrough", model())
    for outer in (
        FrozenEstimator(fitted),
        search.fit(X, Y),
        plain.fit(X, Y),
        make_pipeline(FrozenEstimator(fitted)).fit(X, Y),
    ):
        assert make()(outer, X, Y) == pytest.approx(expected, rel=1e-12)
    pipeline = make_pipeline(StandardScaler(), model()).fit(10 * X, Y)
    moved = pipeline[0].transform(10 * X)
    assert make()(pipeline, 10 * X, Y) == make()(pipeline[-1], moved, Y)


@pytest.mark.parametrize(
    "labels", [[0, 1, 2], [7.0, -1.0, 2.0], ["b", "c", "a"]], ids=str
)
@pytest.mark.parametrize(
    "frame", [np.asarray, list, pd.Series, lambda y: pd.Series(y, dtype="category")]
)
def test_labels_of_any_type(labels, frame):
    y = np.array(labels)[np.searchsorted(["a", "b", "c"], Y)]
    fitted = model().fit(X, y)
    expected = set_coverage_score(y, fitted.predict_set(X), labels=fitted.classes_)
    assert set_coverage_scorer()(fitted, X, frame(y)) == expected


# ---------------------------------------------------------------- folds and classes


def test_rows_without_one_of_the_classes():
    fitted = model().fit(X, Y)
    few = Y != "b"
    inside = fitted.predict_set(X[few])
    column = np.searchsorted(["a", "b", "c"], Y[few])
    expected = inside[np.arange(few.sum()), column].mean()
    assert set_coverage_scorer()(fitted, X[few], Y[few]) == pytest.approx(expected)


def test_a_class_that_the_model_does_not_know_is_missed():
    known = Y != "b"
    fitted = Fixed().fit(X[known], Y[known])
    assert set_coverage_scorer()(fitted, X, Y) == pytest.approx(known.mean())
    assert neg_set_size_scorer()(fitted, X, Y) == -2
    # All classes in one fold, and none of that fold in training.
    order = np.argsort(Y)
    folds = [(order[150:], order[:150]), (order[:150], order[150:])]
    found = cross_validate(
        Fixed(), X, Y, cv=folds, scoring=set_coverage_scorer(), error_score="raise"
    )
    expected = [np.isin(Y[test], Y[train]).mean() for train, test in folds]
    assert found["test_score"] == pytest.approx(expected)


def test_sizes_of_sets_of_many_labels():
    Z = np.column_stack([X[:, 0] > 0, X[:, 1] > 0]).astype(int)
    risk = RiskControlledClassifier(LogisticRegressionPair(), random_state=0)
    fitted = risk.fit(X, Z)
    found = neg_set_size_scorer()(fitted, X, Z)
    assert found == -fitted.predict_set(X).sum(axis=1).mean()
    with pytest.raises(ValueError, match=r"^y must have shape \(480,\), one label a"):
        set_coverage_scorer()(fitted, X, Z)


class LogisticRegressionPair(ClassifierMixin, BaseEstimator):
    """One logistic regression a label."""

    def fit(self, X, Y):
        self.models_ = [LogisticRegression().fit(X, y) for y in np.asarray(Y).T]
        self.classes_ = np.arange(len(self.models_))
        return self

    def predict_proba(self, X):
        return np.column_stack([m.predict_proba(X)[:, 1] for m in self.models_])

    def predict(self, X):
        return (self.predict_proba(X) > 0.5).astype(int)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = True
        return tags


# -------------------------------------------------------- scikit-learn's machinery


def by_hand(splits, level=None, **conditions):
    found = []
    for train, test in splits:
        fitted = model().fit(X[train], Y[train], **_rows(conditions, train))
        sets = fitted.predict_set(X[test], level, **_rows(conditions, test))
        classes = fitted.classes_
        found.append([f(Y[test], sets, classes, None) for f in SCORERS.values()])
    return np.array(found).T


def _rows(conditions, rows):
    return {name: value[rows] for name, value in conditions.items()}


def test_cross_validate_by_hand():
    scoring = {make.__name__: make(0.9) for make in SCORERS}
    found = cross_validate(model(), X, Y, cv=KFold(3), scoring=scoring)
    for make, expected in zip(SCORERS, by_hand(KFold(3).split(X), 0.9), strict=True):
        assert found[f"test_{make.__name__}"] == pytest.approx(expected, rel=1e-12)


def test_a_search_finds_the_smallest_sets():
    search = GridSearchCV(
        model(),
        {"estimator__C": [1e-9, 1.0]},
        scoring={"size": neg_set_size_scorer(), "coverage": set_coverage_scorer()},
        refit="size",
        cv=KFold(3),
    ).fit(X, Y)
    assert search.best_params_ == {"estimator__C": 1.0}
    sizes, coverages = by_hand(KFold(3).split(X))[::-1]
    results = search.cv_results_
    assert results["mean_test_size"][1] == pytest.approx(sizes.mean(), rel=1e-12)
    assert results["mean_test_coverage"][1] == pytest.approx(coverages.mean())
    best = search.best_estimator_.predict_set(X)
    assert search.score(X, Y) == pytest.approx(-mean_set_size(best), rel=1e-12)


@every_scorer
def test_pickle_clone_and_repr(make):
    fitted = model().fit(X, Y)
    for argument, shown in ((None, " at None>"), (0.9, " at 0.9>")):
        scorer = make(argument)
        search = GridSearchCV(model(), {}, scoring=scorer)
        for same in (
            pickle.loads(pickle.dumps(scorer)),
            deepcopy(scorer),
            clone(search).scoring,
        ):
            assert repr(same) == repr(scorer)
            assert same(fitted, X, Y) == scorer(fitted, X, Y)
        assert repr(scorer).endswith(shown)
    assert repr(neg_set_size_scorer(0.9)) == "<neg_mean_set_size at 0.9>"


# --------------------------------------------------------------------- metadata


@every_scorer
def test_conditions_reach_the_model(make):
    fitted = model().fit(X, Y, mondrian_groups=GROUPS)
    sets = fitted.predict_set(X, mondrian_groups=GROUPS)
    expected = SCORERS[make](Y, sets, fitted.classes_, WEIGHT)
    pipeline = make_pipeline("passthrough", FrozenEstimator(fitted)).fit(X, Y)
    for wrapped in (fitted, pipeline):
        found = make()(wrapped, X, Y, sample_weight=WEIGHT, mondrian_groups=GROUPS)
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.usefixtures("routing")
def test_routing_in_a_search_with_several_scorers():
    requesting = model().set_fit_request(mondrian_groups=True)
    scoring = {
        "coverage": set_coverage_scorer().set_score_request(mondrian_groups=True),
        "size": neg_set_size_scorer().set_score_request(mondrian_groups="halves"),
    }
    search = GridSearchCV(
        requesting, {"estimator__C": [1.0]}, scoring=scoring, refit="size", cv=KFold(3)
    )
    search.fit(X, Y, mondrian_groups=GROUPS, halves=GROUPS)
    expected = by_hand(KFold(3).split(X), mondrian_groups=GROUPS)
    for name, values in zip(("coverage", "size"), expected, strict=True):
        found = [search.cv_results_[f"split{k}_test_{name}"][0] for k in range(3)]
        assert found == pytest.approx(values, rel=1e-12)


@pytest.mark.usefixtures("routing")
@every_scorer
def test_what_was_not_requested_is_an_error(make):
    requesting = model().set_fit_request(mondrian_groups=True)
    params = {"mondrian_groups": GROUPS}
    with pytest.raises(UnsetMetadataPassedError, match="mondrian_groups"):
        cross_validate(requesting, X, Y, params=params, scoring=make())
    scorer = make().set_score_request(sample_weight=True, likelihood_ratio="r")
    expected = {"sample_weight": True, "mondrian_groups": None, "likelihood_ratio": "r"}
    assert get_routing_for_object(scorer).score.requests == expected


# -------------------------------------------------------------------- bad input


@every_scorer
def test_a_model_without_sets(make):
    message = (
        "Ridge has no predict_set. Wrap the classifier in ConformalClassifier, or pass "
        "a model with predict_set."
    )
    for wrapped in (Ridge(), make_pipeline(StandardScaler(), Ridge())):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            make()(wrapped.fit(X, GROUPS), X, Y)


@every_scorer
def test_a_model_that_does_not_take_what_it_is_given(make):
    message = (
        "confidence_level cannot be used: Fixed.predict_set does not take it. Leave it "
        "out, or use a model that does, as ConformalClassifier."
    )
    fitted = Fixed().fit(X, Y)
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        make(0.9)(fitted, X, Y)
    with pytest.raises(TypeError, match=r"^likelihood_ratio, mondrian_groups cannot"):
        make()(fitted, X, Y, mondrian_groups=GROUPS, likelihood_ratio=WEIGHT)


@every_scorer
def test_a_bad_level_is_refused_at_once(make):
    with pytest.raises(ValueError, match=re.escape("got 90. Pass 0.9 for a coverage")):
        make(90)
    with pytest.raises(TypeError, match="confidence_level must be a real number"):
        make("0.9")


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.searchsorted(["a", "b", "c"], Y), "y holds labels of type int64, but the "),
        (np.where(Y == "a", None, Y), "y has missing labels in"),
        (Y[:, None], "y must have shape (240,), one label a row, got shape (240, 1)."),
        (Y[:5], "y_set has 240 rows"),
    ],
)
def test_labels_that_cannot_be_compared(y, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        set_coverage_scorer()(model().fit(X, Y), X, y)
