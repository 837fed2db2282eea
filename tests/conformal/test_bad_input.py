"""Bad input: defined results with one warning, or errors that say what is wrong."""

import math
import re

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC

from tests._models import Zero
from tests.conformal._proba import frozen, proba_rows
from uqlib import conformal as cp
from uqlib.exceptions import InfiniteIntervalWarning

INF, NAN = math.inf, math.nan


def _one_warning(function, *arguments, **keywords):
    with pytest.warns(InfiniteIntervalWarning) as caught:
        result = function(*arguments, **keywords)
    assert len(caught) == 1
    return result, str(caught[0].message)


# ------------------------------------------------------------------- functions


def test_too_few_rows_give_infinity_and_one_warning_that_names_them():
    threshold, message = _one_warning(cp.conformal_quantile, [1.0, 2.0], 0.9)
    assert threshold == INF
    assert "2 calibration rows" in message
    assert "at least 9" in message
    for arguments in (
        (cp.cqr_offsets, [0.0, 1.0], [[0, 1], [0, 1]], 0.9),
        (cp.cqr_offsets, [0.0, 1.0], [[0, 1], [0, 1]], 0.9, False),
        (cp.cross_conformal_interval, [0, 0], [1, 2], [0, 1], [[0.0, 1.0]] * 3, 0.9),
        (cp.predictive_quantiles, [1.0, 2.0], [0.0], [0.1, 0.9]),
        (cp.weighted_conformal_quantile, [1.0, 2.0], [1, 1], [1, 2], 0.9),
        (cp.group_quantiles, [1.0, 2.0], ["a", "b"], 0.9),
    ):
        result, _ = _one_warning(*arguments)
        numbers = result[1] if arguments[0] is cp.group_quantiles else result
        assert np.isinf(numbers).all()


def test_a_single_row():
    assert cp.conformal_quantile([3.0], 0.5) == 3.0
    assert cp.cqr_offsets([3.0], [[0.0, 1.0]], 0.5) == (2.0, 2.0)
    assert cp.predictive_p_values([0.0], [0.0], [1.0]) == 1.0
    np.testing.assert_array_equal(cp.venn_abers([0.5], [1], [0.5]), [[0.5, 1.0]])
    np.testing.assert_allclose(
        cp.cross_conformal_interval([0.0], [1.0], [0], [[2.0]], 0.5), [[1.0, 3.0]]
    )


@pytest.mark.parametrize("name", ["lac", "aps", "raps", "topk"])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.5, 0.6], "rows that sum to 1 within 0.001, but row 0 sums to 1.1"),
        ([NAN, 0.5], "row 0 contains NaN or infinity"),
        ([INF, 0.5], "row 0 contains NaN or infinity"),
        ([-0.1, 1.1], "a negative value"),
    ],
)
def test_bad_probabilities(name, row, message):
    with pytest.raises(ValueError, match=message):
        getattr(cp, f"{name}_scores")([row], [0])
    with pytest.raises(ValueError, match=message):
        getattr(cp, f"{name}_sets")([row], 0.5)


def test_labels_of_probability_zero_have_a_score_and_enter_at_its_threshold():
    for name, score in (("lac", 1.0), ("aps", 1.0), ("raps", 1.02), ("topk", 3.0)):
        row = [[0.0, 1.0, 0.0]]
        scores, sets = getattr(cp, f"{name}_scores"), getattr(cp, f"{name}_sets")
        assert scores(row, [2]) == pytest.approx(score)
        assert sets(row, scores(row, [2])).all()
        assert not sets(row, np.nextafter(scores(row, [2]), 0))[0, 2]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("conformal_quantile", ([1.0, NAN], 0.5)),
        ("weighted_conformal_quantile", ([NAN, 1.0], [1, 1], [1], 0.5)),
        ("weighted_conformal_quantile", ([1.0, 1.0], [1, NAN], [1], 0.5)),
        ("weighted_conformal_quantile", ([1.0, 1.0], [1, 1], [NAN], 0.5)),
        ("group_quantiles", ([1.0, NAN], [0, 1], 0.5)),
        ("group_quantiles", ([1.0, 2.0], [0.0, NAN], 0.5)),
        ("aci_thresholds", ([NAN], [1.0], 0.5, 0.1)),
        ("aci_thresholds", ([1.0], [NAN], 0.5, 0.1)),
        ("aci_thresholds", ([1.0], [1.0], 0.5, NAN)),
        ("split_interval", ([NAN], 1.0)),
        ("split_interval", ([1.0], NAN)),
        ("split_interval", ([1.0], [[NAN, 1.0]])),
        ("cross_conformal_interval", ([NAN], [1.0], [0], [[1.0]], 0.5)),
        ("cross_conformal_interval", ([1.0], [NAN], [0], [[1.0]], 0.5)),
        ("cross_conformal_interval", ([1.0], [1.0], [0], [[NAN]], 0.5)),
        ("cross_conformal_interval", ([1.0], [1.0], [0], [[1.0]], 0.5, "base", [NAN])),
        ("cqr_offsets", ([NAN], [[0.0, 1.0]], 0.5)),
        ("cqr_offsets", ([1.0], [[NAN, 1.0]], 0.5)),
        ("lac_sets", ([[0.5, 0.5]], NAN)),
        ("aps_sets", ([[0.5, 0.5]], [NAN])),
        ("predictive_p_values", ([NAN], [0.0], [1.0])),
        ("predictive_p_values", ([1.0], [NAN], [1.0])),
        ("predictive_p_values", ([1.0], [0.0], [NAN])),
        ("predictive_p_values", ([1.0], [0.0], [1.0], NAN)),
        ("predictive_quantiles", ([NAN], [0.0], [0.5])),
        ("predictive_quantiles", ([1.0], [0.0], [NAN])),
        ("predictive_crps", ([NAN], [0.0], [1.0])),
        ("venn_abers", ([NAN], [1], [0.0])),
        ("venn_abers", ([0.0], [1], [NAN])),
        ("venn_abers", ([0.0], [NAN], [0.0])),
    ],
)
def test_nan_is_refused_everywhere(name, arguments):
    with pytest.raises(ValueError, match=r"NaN|missing|must"):
        getattr(cp, name)(*arguments)


@pytest.mark.parametrize("levels", [[0.9, 0.1], [0.5, 0.5], [0.0, 0.5], [0.5, 1.0], []])
def test_level_lists_that_are_not_increasing_in_0_1(levels):
    with pytest.raises(ValueError, match="quantiles"):
        cp.predictive_quantiles([1.0, 2.0, 3.0], [0.0], levels)


def test_likelihood_ratios_of_zero_and_infinity():
    scores, weights = [1.0, 2.0, 3.0], [0.0, 1.0, 1.0]
    np.testing.assert_array_equal(
        cp.weighted_conformal_quantile(scores, weights, [0.0], 0.5), [2.0]
    )
    result, _ = _one_warning(
        cp.weighted_conformal_quantile, scores, [0.0] * 3, [0.0, 1.0], 0.5
    )
    np.testing.assert_array_equal(result, [INF, INF])
    for bad in ([INF, 1.0, 1.0], [-1.0, 1.0, 1.0]):
        with pytest.raises(ValueError, match="finite and at least 0"):
            cp.weighted_conformal_quantile(scores, bad, [1.0], 0.5)
    with pytest.raises(ValueError, match="test_weights must be finite"):
        cp.weighted_conformal_quantile(scores, [1.0] * 3, [INF], 0.5)


# ------------------------------------------------------------------ estimators


class LabelsAlone(ClassifierMixin, BaseEstimator):
    """A classifier that predicts labels and nothing else."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


def _zero():
    return FrozenEstimator(Zero().fit(None, None))


def _around_zero(n_samples):
    y = np.random.default_rng(0).normal(size=n_samples)
    return np.arange(n_samples)[:, None].astype(float), y


INTERVALS = [
    cp.SplitConformalRegressor(_zero()),
    cp.ConditionalConformalRegressor(_zero()),
    cp.LocalizedConformalRegressor(_zero(), bandwidth=1.0),
    cp.NonexchangeableConformalRegressor(_zero()),
    cp.OnlineConformalRegressor(_zero()),
    cp.CrossConformalRegressor(Zero(), cv=2),
    cp.BootstrapConformalRegressor(Zero(), n_estimators=5, random_state=0),
    cp.EnbPIRegressor(Zero(), n_estimators=5, random_state=0),
]
intervals = pytest.mark.parametrize("model", INTERVALS, ids=lambda m: type(m).__name__)


def _interval_and_warnings(model, X, y, X_new):
    """Fit and predict; return the interval and the warnings, wherever they come."""
    with pytest.warns(InfiniteIntervalWarning) as caught:
        interval = model.fit(X, y).predict_interval(X_new)
    return interval, [str(w.message) for w in caught]


@intervals
def test_too_few_rows_give_infinite_intervals(model):
    X, y = _around_zero(5)
    interval, messages = _interval_and_warnings(model, X, y, X[:3])
    assert (interval == [-INF, INF]).all()
    assert len(messages) == 1
    assert re.search(r"at least (9|19)\b", messages[0])


@intervals
def test_a_single_calibration_row_is_enough_for_no_bound_or_for_a_low_level(model):
    if hasattr(model, "cv"):
        pytest.skip("two folds need two rows")
    X, y = _around_zero(1)
    if type(model) in (cp.BootstrapConformalRegressor, cp.EnbPIRegressor):
        with pytest.raises(ValueError, match="n_samples=1"):
            model.fit(X, y)
        return
    interval, messages = _interval_and_warnings(model, X, y, X)
    assert (interval == [-INF, INF]).all()
    assert len(messages) == 1


@intervals
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_targets_that_are_not_finite_are_refused(model, bad):
    X, y = _around_zero(30)
    y[3] = bad
    with pytest.raises(ValueError, match=r"NaN|infinity|finite"):
        model.fit(X, y)


@pytest.mark.parametrize(
    ("model", "classifier"),
    [
        (cp.ConformalClassifier, LinearSVC()),
        (cp.CrossConformalClassifier, LinearSVC()),
        (cp.RiskControlledClassifier, OneVsRestClassifier(LinearSVC())),
        (cp.VennAbersCalibrator, LabelsAlone()),
    ],
)
def test_a_classifier_without_probabilities(model, classifier):
    X, y = np.arange(60.0)[:, None], np.arange(60) % 2
    if model is cp.RiskControlledClassifier:
        y = np.column_stack([y, 1 - y])
    with pytest.raises((ValueError, TypeError), match="predict_proba"):
        model(classifier).fit(X, y)


@pytest.mark.parametrize("nonconformity", ["lac", "aps", "raps", "topk", "margin"])
@pytest.mark.parametrize("class_conditional", [True, False])
def test_a_class_absent_at_calibration_is_always_in_the_set(
    nonconformity, class_conditional
):
    proba, labels = proba_rows(400)
    seen = labels < 2
    model = cp.ConformalClassifier(
        frozen(),
        nonconformity=nonconformity,
        class_conditional=class_conditional,
    )
    if not class_conditional:  # then it has the threshold of all the others
        sets = model.fit(proba[seen], labels[seen]).predict_set(proba)
        assert not sets[:, 2].all()
        return
    with pytest.warns(InfiniteIntervalWarning, match="2") as caught:
        sets = model.fit(proba[seen], labels[seen]).predict_set(proba)
    assert len(caught) == 1
    assert sets[:, 2].all()
    assert not sets[:, :2].all()


def test_a_group_absent_at_calibration_gets_everything_with_one_warning():
    X, y = _around_zero(60)
    regressor = cp.SplitConformalRegressor(_zero())
    regressor.fit(X, y, mondrian_groups=np.arange(60) % 2)
    interval, message = _one_warning(
        regressor.predict_interval, X, mondrian_groups=np.arange(60) % 3
    )
    assert (np.isinf(interval).all(axis=1) == (np.arange(60) % 3 == 2)).all()
    assert "[2]" in message or "2" in message
    proba, labels = proba_rows(90)
    classifier = cp.ConformalClassifier(frozen())
    classifier.fit(proba, labels, mondrian_groups=np.arange(90) % 2)
    sets, _ = _one_warning(
        classifier.predict_set, proba, mondrian_groups=np.arange(90) % 3
    )
    assert sets[np.arange(90) % 3 == 2].all()
    assert not sets[np.arange(90) % 3 < 2].all()


def test_likelihood_ratios_at_calibration_and_prediction():
    X, y = _around_zero(40)
    model = cp.SplitConformalRegressor(_zero())
    for bad in (INF, NAN, -1.0):
        with pytest.raises(ValueError, match="likelihood_ratio"):
            model.fit(X, y, likelihood_ratio=np.full(40, bad))
    model.fit(X, y, likelihood_ratio=np.ones(40))
    with pytest.raises(ValueError, match="likelihood_ratio must be finite"):
        model.predict_interval(X, likelihood_ratio=np.full(40, INF))
    lone, _ = _one_warning(
        model.fit(X, y, likelihood_ratio=np.zeros(40)).predict_interval,
        X,
        likelihood_ratio=np.ones(40),
    )
    assert (lone == [-INF, INF]).all()


@pytest.mark.parametrize(
    "model",
    [
        cp.ConformalQuantiles,
        lambda quantiles: cp.ConformalPredictiveRegressor(Ridge(), quantiles=quantiles),
    ],
)
@pytest.mark.parametrize("levels", [[0.9, 0.1], [0.5, 0.5], [0.0, 0.5]])
def test_unsorted_level_lists(model, levels):
    X, y = np.random.default_rng(0).normal(size=(40, 2)), np.zeros(40)
    with pytest.raises(ValueError, match="quantiles"):
        model(quantiles=levels).fit(X, y)


def test_probabilities_that_do_not_sum_to_one_in_an_estimator():
    proba, labels = proba_rows(50)
    with pytest.raises(ValueError, match="sum to"):
        cp.ConformalClassifier(frozen()).fit(2 * proba, labels)
    model = cp.ConformalClassifier(frozen()).fit(proba, labels)
    with pytest.raises(ValueError, match="sum to"):
        model.predict_set(2 * proba)
    zeros = np.eye(3)[labels]
    sets = cp.ConformalClassifier(frozen(), nonconformity="aps").fit(zeros, labels)
    assert sets.predict_set(zeros)[np.arange(50), labels].all()
