"""The scorer of the area under the risk-coverage curve, for every kind of model."""

import pickle
import re
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.metadata_routing import get_routing_for_object

from tests._models import ColumnQuantiles
from uqlib.conformal import ConformalClassifier, SplitConformalRegressor
from uqlib.metrics._selective_areas import risk_coverage_auc
from uqlib.metrics._selective_scorers import neg_risk_coverage_auc_scorer
from uqlib.spa import SPAClassifier, SPARegressor

RNG = np.random.default_rng(2)
N = 200
X = RNG.normal(size=(N, 2))
Y = X[:, 0] + (0.2 + np.abs(X[:, 1])) * RNG.normal(size=N)
LABELS = np.array(["b", "c", "a"])[np.digitize(Y, [-0.7, 0.7])]
WEIGHT = 0.5 + RNG.exponential(size=N)
GROUPS = np.arange(N) % 3


@pytest.fixture
def routing():
    with config_context(enable_metadata_routing=True):
        yield


def intervals(confidence_level=0.8):
    return SplitConformalRegressor(
        ColumnQuantiles((0.05, 0.5, 0.95)),
        confidence_level=confidence_level,
        random_state=0,
    )


class Spread(RegressorMixin, BaseEstimator):
    """Predicts X[:, 0]; its intervals are as wide as told, or as |X[:, 1]|."""

    def fit(self, X, y):
        self.confidence_level_ = 0.9
        return self

    def predict(self, X):
        return np.asarray(X)[:, 0]

    def predict_interval(self, X, confidence_level=0.9, mondrian_groups=None):
        half = np.abs(np.asarray(X)[:, 1])
        half = half if mondrian_groups is None else np.asarray(mondrian_groups)
        return self.predict(X)[:, None] + np.outer(half, [-1, 1])

    def predict_uncertainty(self, X):
        return {"far": np.abs(X[:, 0]), "near": -np.abs(X[:, 0]), "matrix": X}


def by_sorting(losses, uncertainty):
    """AURC without ties: the mean risk of the k most certain rows."""
    kept = np.asarray(losses, dtype=float)[np.argsort(uncertainty)]
    return np.mean([kept[:k].mean() for k in range(1, kept.size + 1)])


def same(a, b):
    return a == pytest.approx(b, rel=1e-12)


# -------------------------------------------------------------------- the value


def test_regressors_by_the_width_of_their_intervals():
    fitted = Spread().fit(X, Y)
    expected = -by_sorting(np.abs(Y - X[:, 0]), np.abs(X[:, 1]))
    assert same(neg_risk_coverage_auc_scorer()(fitted, X, Y), expected)
    assert same(
        neg_risk_coverage_auc_scorer(confidence_level=0.5)(fitted, X, Y), expected
    )


def test_classifiers_by_their_largest_probability():
    fitted = LogisticRegression().fit(X, LABELS)
    wrong, top = fitted.predict(X) != LABELS, fitted.predict_proba(X).max(axis=1)
    expected = -by_sorting(wrong, -top)
    assert same(neg_risk_coverage_auc_scorer()(fitted, X, LABELS), expected)
    expected = -risk_coverage_auc(wrong, -top, sample_weight=WEIGHT)
    found = neg_risk_coverage_auc_scorer()(fitted, X, LABELS, sample_weight=WEIGHT)
    assert same(found, expected)


@pytest.mark.parametrize("name", ["far", "near"])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
def test_a_field_of_predict_uncertainty(name, weight):
    fitted, losses = Spread().fit(X, Y), np.abs(Y - X[:, 0])
    field = fitted.predict_uncertainty(X)[name]
    expected = -risk_coverage_auc(losses, field, sample_weight=weight)
    scorer = neg_risk_coverage_auc_scorer(name)
    moved = make_pipeline(StandardScaler(with_mean=False, with_std=False), Spread())
    for model in (fitted, FrozenEstimator(fitted), moved.fit(X, Y)):
        assert same(scorer(model, X, Y, sample_weight=weight), expected)


@pytest.mark.parametrize("name", ["aleatoric", "epistemic", "sds", "relative_sds"])
def test_fields_of_a_split_point_regressor(name):
    model = SPARegressor(Ridge(), mar_estimator=Ridge(), residuals="train")
    fitted = model.set_params(calibration=None).fit(X, Y)
    expected = -risk_coverage_auc(
        np.abs(Y - fitted.predict(X)), fitted.predict_uncertainty(X)[name]
    )
    assert same(neg_risk_coverage_auc_scorer(name)(fitted, X, Y), expected)


@pytest.mark.parametrize("name", ["aleatoric", "epistemic"])
def test_fields_of_a_split_point_classifier(name):
    fitted = SPAClassifier(LogisticRegression(), mar_estimator=Ridge(), cv=2)
    fitted.fit(X, LABELS)
    expected = -risk_coverage_auc(
        fitted.predict(X) != LABELS, fitted.predict_uncertainty(X)[name]
    )
    assert same(neg_risk_coverage_auc_scorer(name)(fitted, X, LABELS), expected)
    # A field of several numbers a row is none to rank by.
    message = (
        "uncertainty='sds' must be one of ['aleatoric', 'epistemic'], of which "
        "predict_uncertainty gives one number a row."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        neg_risk_coverage_auc_scorer("sds")(fitted, X, LABELS)


def test_intervals_of_calibrators_and_of_quantile_models():
    scorer = neg_risk_coverage_auc_scorer()
    fitted = intervals().fit(X, Y)
    losses = np.abs(Y - fitted.predict(X))
    # One width for all rows ranks nothing.
    assert same(scorer(fitted, X, Y), -losses.mean())
    quantiles = ColumnQuantiles().fit(X, Y)
    asked = neg_risk_coverage_auc_scorer(confidence_level=0.9)
    assert same(asked(quantiles, X, Y), -np.abs(Y - X[:, 0]).mean())


def test_infinite_intervals_are_the_least_certain():
    class Half(Spread):
        def predict_interval(self, X, confidence_level=0.9):
            ends = super().predict_interval(X)
            ends[:50, 0] = -np.inf
            ends[50:100] = [-np.inf, np.inf]
            return ends

    width = np.abs(X[:, 1])
    width[:100] = np.inf
    expected = -risk_coverage_auc(np.abs(Y - X[:, 0]), width)
    assert same(neg_risk_coverage_auc_scorer()(Half().fit(X, Y), X, Y), expected)


@pytest.mark.parametrize("frame", [list, pd.Series])
def test_targets_of_any_type(frame):
    scorer = neg_risk_coverage_auc_scorer()
    fitted = Spread().fit(X, Y)
    assert scorer(fitted, X, frame(Y)) == scorer(fitted, X, Y)
    fitted = LogisticRegression().fit(X, LABELS)
    assert scorer(fitted, X, frame(LABELS)) == scorer(fitted, X, LABELS)


def test_a_class_that_the_model_does_not_know_is_an_error_of_the_model():
    known = LABELS != "b"
    fitted = LogisticRegression().fit(X[known], LABELS[known])
    wrong = fitted.predict(X) != LABELS
    assert wrong[~known].all()
    expected = -risk_coverage_auc(wrong, -fitted.predict_proba(X).max(axis=1))
    assert same(neg_risk_coverage_auc_scorer()(fitted, X, LABELS), expected)


def test_models_that_do_not_say_what_they_are():
    class Plain:
        def predict(self, X):
            return X[:, 0]

        def predict_interval(self, X):
            return Spread().predict_interval(X)

    class Naming:
        classes_ = np.array(["a", "b", "c"])

        def predict(self, X):
            return np.full(len(X), "a")

        def predict_proba(self, X):
            return np.tile([0.5, 0.25, 0.25], (len(X), 1))

    scorer = neg_risk_coverage_auc_scorer()
    assert scorer(Plain(), X, Y) == scorer(Spread().fit(X, Y), X, Y)
    assert same(scorer(Naming(), X, LABELS), -np.mean(LABELS != "a"))


# -------------------------------------------------------- scikit-learn's machinery


def test_a_search_with_several_scorers():
    scoring = {
        "top": neg_risk_coverage_auc_scorer(),
        "set": neg_risk_coverage_auc_scorer(confidence_level=0.5),
    }
    search = GridSearchCV(
        LogisticRegression(),
        {"C": [1e-9, 1.0]},
        scoring=scoring,
        refit="top",
        cv=KFold(3),
    ).fit(X, LABELS)
    expected = []
    for train, test in KFold(3).split(X):
        fitted = LogisticRegression().fit(X[train], LABELS[train])
        wrong = fitted.predict(X[test]) != LABELS[test]
        top = fitted.predict_proba(X[test]).max(axis=1)
        expected.append(-by_sorting(wrong, -top))
    assert search.best_params_ == {"C": 1.0}
    for name in scoring:
        found = search.cv_results_[f"mean_test_{name}"][1]
        assert same(found, np.mean(expected))
    assert search.score(X, LABELS) == scoring["top"](search, X, LABELS)


@pytest.mark.parametrize(
    ("scorer", "shown"),
    [
        (neg_risk_coverage_auc_scorer(), "<neg_risk_coverage_auc>"),
        (neg_risk_coverage_auc_scorer("far"), "<neg_risk_coverage_auc by far>"),
        (
            neg_risk_coverage_auc_scorer(confidence_level=0.5),
            "<neg_risk_coverage_auc at 0.5>",
        ),
    ],
    ids=repr,
)
def test_pickle_clone_and_repr(scorer, shown):
    fitted = Spread().fit(X, Y)
    search = GridSearchCV(Spread(), {}, scoring=scorer)
    for same_one in (
        pickle.loads(pickle.dumps(scorer)),
        deepcopy(scorer),
        clone(search).scoring,
    ):
        assert repr(same_one) == repr(scorer) == shown
        assert same_one(fitted, X, Y) == scorer(fitted, X, Y)


# --------------------------------------------------------------------- metadata


def test_groups_reach_the_intervals():
    scorer = neg_risk_coverage_auc_scorer()
    losses = np.abs(Y - X[:, 0])
    expected = -risk_coverage_auc(losses, GROUPS, sample_weight=WEIGHT)
    fitted = Spread().fit(X, Y)
    for model in (fitted, FrozenEstimator(fitted)):
        found = scorer(model, X, Y, sample_weight=WEIGHT, mondrian_groups=GROUPS)
        assert same(found, expected)


@pytest.mark.usefixtures("routing")
def test_groups_are_routed():
    params = {"mondrian_groups": GROUPS, "sample_weight": WEIGHT}
    model = Spread()  # fit takes none of them
    with pytest.raises(UnsetMetadataPassedError, match="mondrian_groups"):
        cross_validate(
            model, X, Y, params=params, scoring=neg_risk_coverage_auc_scorer()
        )
    scorer = neg_risk_coverage_auc_scorer()
    scorer.set_score_request(mondrian_groups=True, sample_weight=True)
    found = cross_validate(
        model, X, Y, cv=KFold(4), params=params, scoring={"area": scorer}
    )
    losses = np.abs(Y - X[:, 0])
    expected = [
        -risk_coverage_auc(losses[test], GROUPS[test], sample_weight=WEIGHT[test])
        for _, test in KFold(4).split(X)
    ]
    assert found["test_area"] == pytest.approx(expected, rel=1e-12)
    assert get_routing_for_object(scorer).score.requests["likelihood_ratio"] is None


@pytest.mark.parametrize("name", [None, "far"])
def test_conditions_that_no_one_takes(name):
    model = Spread().fit(X, Y)
    if name is None:
        model = LogisticRegression().fit(X, LABELS)
    y = Y if name else LABELS
    scorer = neg_risk_coverage_auc_scorer(name)
    message = (
        f"mondrian_groups cannot be used by {scorer!r}: only intervals of regressors "
        "take them. Leave them out."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        scorer(model, X, y, mondrian_groups=GROUPS)


# -------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("scorer", "model", "message"),
    [
        (
            neg_risk_coverage_auc_scorer(confidence_level=0.9),
            LinearRegression(),
            "LinearRegression cannot give quantiles. Wrap a learner that has",
        ),
        (
            neg_risk_coverage_auc_scorer(),
            ColumnQuantiles(),
            "confidence_level is needed: ColumnQuantiles has no level of its own. Pass",
        ),
        (
            neg_risk_coverage_auc_scorer("epistemic"),
            make_pipeline(StandardScaler(), LinearRegression()),
            "LinearRegression has no predict_uncertainty. Wrap it in SPARegressor or "
            "SPAClassifier, or",
        ),
        (
            neg_risk_coverage_auc_scorer("distance"),
            Spread(),
            "uncertainty='distance' must be one of ['far', 'near'], of which predict_",
        ),
    ],
)
def test_models_that_lack_what_is_asked(scorer, model, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        scorer(model.fit(X, Y), X, Y)


def test_classifiers_that_lack_what_is_asked():
    with pytest.raises(ValueError, match=r"^SVC has no predict_proba.* Wrap it in"):
        neg_risk_coverage_auc_scorer()(SVC().fit(X, LABELS), X, LABELS)

    class Pairs(ClassifierMixin, BaseEstimator):
        classes_ = np.array(["a", "b"])

        def predict(self, X):
            return np.full((len(X), 2), "a")

    message = "what Pairs predicts must have shape (200,), one label a row, got shape"
    with pytest.raises(ValueError, match=re.escape(message)):
        neg_risk_coverage_auc_scorer()(Pairs(), X, LABELS)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (Y[:, None], "y_true must have shape (n_samples,), got shape (200, 1)."),
        (np.where(Y > 0, Y, np.nan), "y_true contains NaN or infinity."),
        (Y[:5], "X has 200 rows but y has 5"),
    ],
)
def test_targets_that_cannot_be_compared(y, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        neg_risk_coverage_auc_scorer()(Spread().fit(X, Y), X, y)


def test_labels_that_cannot_be_compared():
    fitted = LogisticRegression().fit(X, GROUPS)
    with pytest.raises(ValueError, match=r"^y holds labels of type <U1, but the model"):
        neg_risk_coverage_auc_scorer()(fitted, X, LABELS)
    with pytest.raises(ValueError, match=r"^y has missing labels in"):
        neg_risk_coverage_auc_scorer()(fitted, X, np.where(GROUPS, GROUPS, np.nan))


def test_intervals_with_nan():
    class Broken(Spread):
        def predict_interval(self, X, confidence_level=0.9):
            return np.full((len(X), 2), np.nan)

    with pytest.raises(ValueError, match="y_interval contains NaN"):
        neg_risk_coverage_auc_scorer()(Broken().fit(X, Y), X, Y)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"confidence_level": 90}, ValueError, "got 90. Pass 0.9 for a coverage"),
        ({"uncertainty": 0.9}, TypeError, "uncertainty must be the name of a field"),
        (
            {"uncertainty": "far", "confidence_level": 0.9},
            ValueError,
            "confidence_level=0.9 is for the width of intervals, but uncertainty='far'",
        ),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        neg_risk_coverage_auc_scorer(**arguments)


def test_sets_are_not_asked_for():
    """A calibrated classifier is ranked by the probabilities of its model."""
    fitted = ConformalClassifier(LogisticRegression(), random_state=0).fit(X, LABELS)
    scorer = neg_risk_coverage_auc_scorer()
    assert same(scorer(fitted, X, LABELS), scorer(fitted.estimator_, X, LABELS))
