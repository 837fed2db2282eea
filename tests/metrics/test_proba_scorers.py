"""Scorers of probabilities: what they compute, and that searches take them."""

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
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.metadata_routing import get_routing_for_object

from uqlib.conformal import VennAbersCalibrator
from uqlib.metrics._calibration import expected_calibration_error
from uqlib.metrics._proba import brier_score, negative_log_likelihood
from uqlib.metrics._proba_scorers import (
    log_likelihood_scorer,
    neg_brier_scorer,
    neg_expected_calibration_error_scorer,
)
from uqlib.spa import SPAClassifier

SCORERS = {
    log_likelihood_scorer: negative_log_likelihood,
    neg_brier_scorer: brier_score,
    neg_expected_calibration_error_scorer: expected_calibration_error,
}
every_scorer = pytest.mark.parametrize("make", SCORERS)

RNG = np.random.default_rng(1)
N = 240
X = RNG.normal(size=(N, 2))
CODE = np.digitize(X[:, 0] + RNG.normal(size=N), [-0.7, 0.7])
Y = np.array(["b", "c", "a"])[CODE]
WEIGHT = RNG.exponential(size=N)


@pytest.fixture
def routing():
    with config_context(enable_metadata_routing=True):
        yield


class Shares(ClassifierMixin, BaseEstimator):
    """The shares of the classes in training, for every row."""

    def fit(self, X, y):
        self.classes_, counts = np.unique(y, return_counts=True)
        self.shares_ = counts / counts.sum()
        return self

    def predict_proba(self, X):
        return np.tile(self.shares_, (len(X), 1))


# -------------------------------------------------------------------- the value


@every_scorer
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(),
        make_pipeline(StandardScaler(), LogisticRegression()),
        GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=2),
        FrozenEstimator(LogisticRegression().fit(X, Y)),
        VennAbersCalibrator(LogisticRegression(), random_state=0),
        SPAClassifier(LogisticRegression(), mar_estimator=Ridge(), cv=2),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_scorer_is_minus_the_metric_of_the_probabilities(make, weight, model):
    model = model.fit(X, Y)
    expected = -SCORERS[make](Y, model.predict_proba(X), sample_weight=weight)
    assert make()(model, X, Y, weight) == pytest.approx(expected, rel=1e-12)


def test_scorers_of_scikit_learn():
    fitted = LogisticRegression().fit(X, Y)
    proba = fitted.predict_proba(X)
    expected = -log_loss(Y, proba, sample_weight=WEIGHT)
    found = log_likelihood_scorer()(fitted, X, Y, WEIGHT)
    assert found == pytest.approx(expected, rel=1e-12)
    one_hot = np.array(["a", "b", "c"]) == Y[:, None]
    expected = -np.mean(np.sum((one_hot - proba) ** 2, axis=1))
    assert neg_brier_scorer()(fitted, X, Y) == pytest.approx(expected, rel=1e-12)


def test_options_of_the_calibration_error():
    fitted = LogisticRegression().fit(X, Y)
    proba = fitted.predict_proba(X)
    values = set()
    for options in (
        {"kind": "class_wise"},
        {"n_bins": 4},
        {"norm": "max"},
        {"strategy": "quantile"},
        {"kind": "class_wise", "n_bins": 3, "norm": "l2", "strategy": "quantile"},
    ):
        found = neg_expected_calibration_error_scorer(**options)(fitted, X, Y)
        assert found == -expected_calibration_error(Y, proba, **options)
        values.add(found)
    assert len(values) == 5


@every_scorer
@pytest.mark.parametrize("labels", [[0, 1, 2], [True, False, True], ["x", "y", "z"]])
@pytest.mark.parametrize("frame", [np.asarray, list, pd.Series])
def test_labels_of_any_type(make, labels, frame):
    y = np.array(labels)[CODE]
    fitted = LogisticRegression().fit(X, y)
    expected = -SCORERS[make](y, fitted.predict_proba(X))
    assert make()(fitted, X, frame(y)) == pytest.approx(expected, rel=1e-12)


# ---------------------------------------------------------------- folds and classes


@every_scorer
def test_rows_without_one_of_the_classes(make):
    fitted = LogisticRegression().fit(X, Y)
    few = Y != "b"
    proba = fitted.predict_proba(X[few])
    expected = -SCORERS[make](Y[few], proba, labels=["a", "b", "c"])
    assert make()(fitted, X[few], Y[few]) == pytest.approx(expected, rel=1e-12)
    # One label alone.
    one = np.flatnonzero(Y == "c")
    expected = -SCORERS[make](Y[one], fitted.predict_proba(X[one]), labels=list("abc"))
    assert make()(fitted, X[one], Y[one]) == pytest.approx(expected, rel=1e-12)


def test_a_class_that_the_model_does_not_know_has_the_probability_0():
    known = Y != "b"
    fitted = Shares().fit(X[known], Y[known])
    assert log_likelihood_scorer()(fitted, X, Y) == -np.inf
    p, q = fitted.shares_
    costs = {"a": (1 - p) ** 2 + q**2, "c": p**2 + (1 - q) ** 2, "b": 1 + p**2 + q**2}
    expected = -np.mean([costs[label] for label in Y])
    assert neg_brier_scorer()(fitted, X, Y) == pytest.approx(expected, rel=1e-12)
    top = "a" if p > q else "c"
    expected = -abs(np.mean(top == Y) - max(p, q))
    found = neg_expected_calibration_error_scorer()(fitted, X, Y)
    assert found == pytest.approx(expected, rel=1e-12)
    # Class by class the unknown one is an error of its whole share.
    shares = [np.mean(label == Y) for label in "acb"]
    expected = -np.mean(np.abs(np.subtract(shares, [p, q, 0])))
    found = neg_expected_calibration_error_scorer("class_wise")(fitted, X, Y)
    assert found == pytest.approx(expected, rel=1e-12)


def test_folds_without_a_class_in_training():
    order = np.argsort(Y)
    folds = [(order[150:], order[:150]), (order[:150], order[150:])]
    scoring = {"brier": neg_brier_scorer(), "log": log_likelihood_scorer()}
    found = cross_validate(
        Shares(), X, Y, cv=folds, scoring=scoring, error_score="raise"
    )
    assert np.isfinite(found["test_brier"]).all()
    assert np.isneginf(found["test_log"]).all()


# -------------------------------------------------------- scikit-learn's machinery


def test_cross_validate_by_hand():
    scoring = {make.__name__: make() for make in SCORERS}
    found = cross_validate(LogisticRegression(), X, Y, cv=KFold(3), scoring=scoring)
    for make, metric in SCORERS.items():
        expected = [
            -metric(
                Y[test],
                LogisticRegression().fit(X[tr], Y[tr]).predict_proba(X[test]),
                labels=["a", "b", "c"],
            )
            for tr, test in KFold(3).split(X)
        ]
        assert found[f"test_{make.__name__}"] == pytest.approx(expected, rel=1e-12)


def test_a_search_finds_the_likeliest_model():
    scoring = {"log": log_likelihood_scorer(), "brier": neg_brier_scorer()}
    search = GridSearchCV(
        LogisticRegression(), {"C": [1e-9, 1.0]}, scoring=scoring, refit="log"
    ).fit(X, Y)
    assert search.best_params_ == {"C": 1.0}
    assert np.argmax(search.cv_results_["mean_test_brier"]) == 1
    peer = GridSearchCV(
        LogisticRegression(), {"C": [1e-9, 1.0]}, scoring="neg_log_loss"
    ).fit(X, Y)
    found = search.cv_results_["mean_test_log"]
    assert found == pytest.approx(peer.cv_results_["mean_test_score"], rel=1e-12)
    assert search.score(X, Y) == pytest.approx(peer.score(X, Y), rel=1e-12)


@every_scorer
def test_pickle_and_clone(make):
    fitted, scorer = LogisticRegression().fit(X, Y), make()
    search = GridSearchCV(LogisticRegression(), {}, scoring=scorer)
    for same in (
        pickle.loads(pickle.dumps(scorer)),
        deepcopy(scorer),
        clone(search).scoring,
    ):
        assert repr(same) == repr(scorer)
        assert same(fitted, X, Y) == scorer(fitted, X, Y)


def test_a_scorer_shows_what_it_is():
    assert repr(log_likelihood_scorer()) == "<log_likelihood>"
    assert repr(neg_brier_scorer()) == "<neg_brier_score>"
    assert repr(neg_expected_calibration_error_scorer(norm="l2")) == (
        "<neg_expected_calibration_error, kind='top_label', n_bins=15, norm='l2', "
        "strategy='uniform'>"
    )


# --------------------------------------------------------------------- metadata


@pytest.mark.usefixtures("routing")
@every_scorer
def test_weights_are_routed(make):
    requesting = LogisticRegression().set_fit_request(sample_weight=False)
    params = {"sample_weight": WEIGHT}
    with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
        cross_validate(requesting, X, Y, params=params, scoring=make())
    scorer = make().set_score_request(sample_weight=True)
    found = cross_validate(
        requesting, X, Y, cv=KFold(3), params=params, scoring={"score": scorer}
    )
    expected = [
        make()(LogisticRegression().fit(X[tr], Y[tr]), X[test], Y[test], WEIGHT[test])
        for tr, test in KFold(3).split(X)
    ]
    assert found["test_score"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.usefixtures("routing")
@every_scorer
def test_no_other_metadata(make):
    # Probabilities depend on nothing else that is known of the rows.
    scorer = make().set_score_request(sample_weight="w")
    assert get_routing_for_object(scorer).score.requests == {"sample_weight": "w"}
    message = f"{scorer!r} does not take mondrian_groups. It takes sample_weight."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        scorer.set_score_request(mondrian_groups=True)


# -------------------------------------------------------------------- bad input


@every_scorer
def test_a_model_without_probabilities(make):
    message = "SVC has no predict_proba, from which the scores of labels are computed."
    with pytest.raises(ValueError, match=re.escape(message)):
        make()(SVC().fit(X, Y), X, Y)
    with pytest.raises(ValueError, match=r"^Ridge has no array classes_ that names"):
        make()(Ridge().fit(X, CODE), X, CODE)


@every_scorer
@pytest.mark.parametrize(
    ("y", "message"),
    [
        (CODE, "y holds labels of type int64, but the model knows labels of type <U1."),
        (np.where(Y == "a", None, Y), "y has missing labels in"),
        (Y[:, None], "y must have shape (240,), one label a row, got shape (240, 1)."),
    ],
)
def test_labels_that_cannot_be_compared(make, y, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()(LogisticRegression().fit(X, Y), X, y)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "top"}, ValueError, "kind='top' must be"),
        ({"norm": "l3"}, ValueError, "norm='l3'"),
        ({"strategy": "equal"}, ValueError, "strategy='equal' must be"),
        ({"n_bins": 0}, ValueError, "n_bins"),
        ({"n_bins": 1.5}, TypeError, "n_bins"),
    ],
)
def test_bad_options_are_refused_at_once(options, error, message):
    with pytest.raises(error, match=message):
        neg_expected_calibration_error_scorer(**options)
