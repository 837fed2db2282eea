"""ConformalClassifier: enumeration of labels, the exact laws, every edge."""

import pickle
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV, GroupKFold, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests.conformal._proba import (
    NAMES,
    ColumnsAsProba,
    Table,
    calibrated,
    frozen,
    nine_digits,
    proba_rows,
    quietly,
    scores_of_every_label,
    threshold_by_hand,
)
from uqlib import AlreadyFittedWarning, InfiniteIntervalWarning
from uqlib.conformal import (
    ConformalClassifier,
    CrossConformalClassifier,
    RiskControlledClassifier,
    VennAbersCalibrator,
    lac_scores,
)

LEVELS = [0.3, 0.5, 0.8, 0.9, 0.95]
IRIS = load_iris(return_X_y=True)


@pytest.mark.parametrize("nonconformity", NAMES)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n_calibration", [1, 4, 60])
def test_equals_the_enumeration_of_labels(nonconformity, level, n_calibration):
    proba, labels = proba_rows(n_calibration, 4, digits=5)
    new, _ = proba_rows(80, 4, seed=1, digits=5)
    model = calibrated(
        proba,
        labels,
        confidence_level=level,
        nonconformity=nonconformity,
        allow_empty=True,
    )
    rows = np.arange(n_calibration)
    known = scores_of_every_label(model, proba)[rows, labels]
    np.testing.assert_array_equal(model.scores_, known)
    assert model.threshold_ == threshold_by_hand(known, level)
    scores = scores_of_every_label(model, new)
    inside = model.predict_set(new)
    np.testing.assert_array_equal(inside, scores <= model.threshold_)
    # The p-value of a label counts the calibration scores that are at least its own.
    counts = (known[:, None, None] >= scores).sum(axis=0) + 1
    p = model.predict_p_values(new)
    np.testing.assert_array_equal(p, counts / (n_calibration + 1))
    alpha = 1 - Fraction(str(level))
    expected = [
        [Fraction(int(c), n_calibration + 1) > alpha for c in r] for r in counts
    ]
    np.testing.assert_array_equal(inside, expected)
    np.testing.assert_array_equal(inside, p > float(alpha))


def test_equals_the_procedure_by_hand():
    X, y = IRIS
    model = ConformalClassifier(
        LogisticRegression(max_iter=500), confidence_level=0.8, random_state=3
    ).fit(X, y)
    X_train, X_cal, y_train, y_cal = train_test_split(
        X, y, test_size=0.25, random_state=3
    )
    inner = LogisticRegression(max_iter=500).fit(X_train, y_train)
    scores = lac_scores(nine_digits(inner.predict_proba(X_cal)), y_cal)
    np.testing.assert_array_equal(model.scores_, scores)
    threshold = threshold_by_hand(scores, 0.8)
    proba = inner.predict_proba(X)
    expected = 1 - nine_digits(proba) <= threshold
    empty = ~expected.any(axis=1)
    assert empty.any()
    expected[empty, proba.argmax(axis=1)[empty]] = True
    np.testing.assert_array_equal(model.predict_set(X), expected)
    np.testing.assert_array_equal(model.predict_proba(X), proba)
    np.testing.assert_array_equal(model.predict(X), inner.predict(X))


def test_empty_sets_only_where_they_are_allowed():
    proba, labels = np.tile([0.9, 0.06, 0.04], (30, 1)), np.zeros(30, dtype=int)
    new = [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.2, 0.4]]
    filled = calibrated(proba, labels).predict_set(new)
    np.testing.assert_array_equal(filled, [[1, 0, 0], [0, 0, 1], [1, 0, 0]])
    assert not calibrated(proba, labels, allow_empty=True).predict_set(new).any()


@pytest.mark.parametrize("nonconformity", NAMES)
@pytest.mark.parametrize("randomized", [False, True])
@pytest.mark.parametrize("class_conditional", [False, True])
def test_sets_are_nested_in_the_level_and_follow_the_p_values(
    nonconformity, randomized, class_conditional
):
    proba, labels = proba_rows(90, digits=6)
    new, _ = proba_rows(60, seed=1, digits=6)
    model = calibrated(
        proba,
        labels,
        nonconformity=nonconformity,
        randomized=randomized,
        class_conditional=class_conditional,
        allow_empty=True,
        random_state=0,
    )
    p, before = model.predict_p_values(new), np.zeros(new.shape, dtype=bool)
    for percent in range(1, 100, 3):
        inside = quietly(model.predict_set, new, percent / 100)
        alpha = float(1 - Fraction(percent, 100))
        np.testing.assert_array_equal(inside, p > alpha)
        assert (before <= inside).all()
        before = inside


def test_a_level_at_prediction_equals_one_at_construction():
    proba, labels = proba_rows(90)
    for more in ({}, {"class_conditional": True}, {"randomized": True}):
        asked = calibrated(proba, labels, random_state=1, **more)
        built = calibrated(proba, labels, random_state=1, confidence_level=0.7, **more)
        np.testing.assert_array_equal(
            asked.predict_set(proba, 0.7), built.predict_set(proba)
        )


@pytest.mark.parametrize("nonconformity", ["lac", "aps", "raps"])
@pytest.mark.parametrize("cross", [False, True])
def test_a_row_ties_with_its_like_in_any_batch(nonconformity, cross):
    # Six distinct rows: each score is an atom. The last bits of many a model depend on
    # the number of rows, and a set made for one row alone would leave the atom out.
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 12))
    X, y = values[rng.integers(0, 6, 300)], rng.integers(0, 3, 300)
    for inner in (LogisticRegression(), MLPClassifier((32,), max_iter=5)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            if cross:
                model = CrossConformalClassifier(inner, nonconformity=nonconformity)
                model.set_params(cv=2, random_state=0).fit(X, y)
            else:
                inner.set_params(random_state=0).fit(X, y)
                model = ConformalClassifier(
                    FrozenEstimator(inner), nonconformity=nonconformity
                ).fit(X, y)
        for level in (0.5, 0.8, 0.9):
            alone = [model.predict_set(row[None], level)[0] for row in X[:40]]
            np.testing.assert_array_equal(alone, model.predict_set(X, level)[:40])
        alone = [model.predict_p_values(row[None])[0] for row in X[:40]]
        np.testing.assert_array_equal(alone, model.predict_p_values(X)[:40])


def test_probabilities_are_rounded_for_the_scores_alone():
    proba = np.random.default_rng(0).dirichlet(np.ones(3), 50)
    before = proba.copy()
    model = calibrated(proba, np.arange(50) % 3)
    np.testing.assert_array_equal(model.predict_proba(proba), before)
    own = nine_digits(proba)[np.arange(50), np.arange(50) % 3]
    np.testing.assert_array_equal(model.scores_, 1 - own)
    assert (own != before[np.arange(50), np.arange(50) % 3]).any()
    np.testing.assert_array_equal(proba, before)


def test_a_monotone_transform_and_the_order_of_rows_change_nothing():
    proba, labels = proba_rows(200)
    new, _ = proba_rows(100, seed=1)
    plain = calibrated(proba, labels)
    moved = calibrated(proba, labels, nonconformity=Table())
    turned = calibrated(proba[::-1], labels[::-1])
    for more in (moved, turned):
        np.testing.assert_array_equal(plain.predict_set(new), more.predict_set(new))
    np.testing.assert_array_equal(
        plain.predict_p_values(new), turned.predict_p_values(new)
    )


# --------------------------------------------------------------------- estimators


def test_a_classifier_without_probabilities_is_refused_with_the_remedy():
    X, y = IRIS
    with pytest.raises(ValueError, match=r"no predict_proba.*CalibratedClassifierCV"):
        ConformalClassifier(RidgeClassifier()).fit(X, y)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda p: 2 * p, "predict_proba.* row 0 sums to 2"),
        (lambda p: p * np.nan, "predict_proba.* row 0 contains NaN"),
        (lambda p: p[:, :2] / p[:, :2].sum(axis=1, keepdims=True), "3 classes"),
        (lambda p: p[:-1], "an array of shape"),
    ],
)
def test_bad_probabilities_are_named(bad, message, monkeypatch):
    proba, labels = proba_rows(30)
    model = calibrated(proba, labels)
    monkeypatch.setattr(ColumnsAsProba, "predict_proba", lambda self, X: bad(X))
    with pytest.raises(ValueError, match=message):
        model.predict_set(proba)
    with pytest.raises(ValueError, match=message):
        ConformalClassifier(frozen()).fit(proba, labels)


class Constant(Table):
    """A user's score that returns what it is given."""

    def __init__(self, value):
        self.value = value

    def scores(self, proba):
        return self.value(proba)


@pytest.mark.parametrize(
    ("nonconformity", "message"),
    [
        ("hinge", r"nonconformity='hinge' must be one of \['aps', 'lac', .*scores\("),
        (Table, "must be one of"),
        (object(), "must be one of"),
        (Constant(lambda p: p[:, 0]), "one score for each label of each row"),
        (Constant(lambda p: p * np.nan), "contains NaN or -inf"),
        (Constant(lambda p: p - np.inf), "contains NaN or -inf"),
    ],
)
def test_bad_scores_are_named(nonconformity, message):
    proba, labels = proba_rows(30)
    with pytest.raises(ValueError, match=message):
        ConformalClassifier(frozen(), nonconformity=nonconformity).fit(proba, labels)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"confidence_level": 1.0}, "confidence_level must lie strictly"),
        ({"k_reg": -1}, "k_reg must be an integer"),
        ({"penalty": -1.0}, "penalty must be"),
        ({"rank_weight": np.nan}, "rank_weight must be"),
        ({"calibration_size": 1.5}, "calibration_size"),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        ConformalClassifier(LogisticRegression(max_iter=500), **parameters).fit(*IRIS)


def test_few_rows_give_full_sets_and_one_warning():
    proba, labels = proba_rows(8)
    with pytest.warns(InfiniteIntervalWarning, match="at least 9 are needed") as caught:
        model = ConformalClassifier(frozen()).fit(proba, labels)
    assert len(caught) == 1
    assert np.isposinf(model.threshold_)
    assert model.predict_set(proba).all()


def test_targets_are_checked():
    X, y = IRIS
    model = ConformalClassifier(LogisticRegression(max_iter=500))
    with pytest.raises(ValueError, match="Unknown label type"):
        model.fit(X, X[:, 0] + 0.5)
    with pytest.raises(ValueError, match="target y is None"):
        model.fit(X, None)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, y[:-1])
    with pytest.raises(NotFittedError):
        model.predict_set(X)


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["a", None] * 75, dtype=object),
        np.array(["a", np.nan] * 75, dtype=object),
        np.array(["2020-01-01", "NaT"] * 75, dtype="M8[D]"),
        pd.Series(["a", pd.NA] * 75, dtype="string"),
        pd.Series([1, pd.NA] * 75, dtype="Int64"),
    ],
)
@pytest.mark.parametrize(
    "calibrator", [ConformalClassifier, RiskControlledClassifier, VennAbersCalibrator]
)
def test_missing_labels_are_refused(labels, calibrator):
    with pytest.raises(ValueError, match="Input y contains NaN"):
        calibrator(LogisticRegression()).fit(IRIS[0], labels)


def test_metadata_are_routed_with_the_groups_of_the_splitter():
    X, y = IRIS
    kind, weight = np.arange(150) % 2, np.arange(1.0, 151.0)
    groups = np.arange(150) // 2 % 9
    with config_context(enable_metadata_routing=True):
        inner = LogisticRegression(max_iter=500).set_fit_request(sample_weight=True)
        model = ConformalClassifier(inner, random_state=0)
        model.set_fit_request(sample_weight=True, mondrian_groups=True)
        search = GridSearchCV(
            model.set_score_request(sample_weight=False),
            {"nonconformity": ["aps"]},
            cv=GroupKFold(3),
        )
        metadata = {"sample_weight": weight, "mondrian_groups": kind}
        search.fit(X, y, groups=groups, **metadata)
    direct = ConformalClassifier(
        LogisticRegression(max_iter=500), nonconformity="aps", random_state=0
    ).fit(X, y, **metadata)
    assert search.best_estimator_.groups_.tolist() == [0, 1]
    np.testing.assert_array_equal(
        search.best_estimator_.predict_set(X, mondrian_groups=kind),
        direct.predict_set(X, mondrian_groups=kind),
    )


def test_sample_weight_trains_and_does_not_calibrate():
    X, y = IRIS
    weight = np.random.default_rng(0).random(150)
    model = ConformalClassifier(LogisticRegression(max_iter=500), random_state=0)
    model.fit(X, y, sample_weight=weight)
    train, held_out = train_test_split(range(150), test_size=0.25, random_state=0)
    inner = LogisticRegression(max_iter=500)
    inner.fit(X[train], y[train], sample_weight=weight[train])
    proba = nine_digits(inner.predict_proba(X[held_out]))
    np.testing.assert_array_equal(model.scores_, lac_scores(proba, y[held_out]))


def test_fitted_models_are_cloned_with_a_warning_and_never_changed():
    X, y = IRIS
    inner = LogisticRegression(max_iter=500).fit(X[:100], y[:100])
    coefficients = inner.coef_.copy()
    with pytest.warns(AlreadyFittedWarning):
        ConformalClassifier(inner).fit(X, y)
    np.testing.assert_array_equal(inner.coef_, coefficients)


def test_clone_pickle_and_search():
    X, y = IRIS
    model = ConformalClassifier(
        LogisticRegression(max_iter=500), nonconformity="aps", randomized=True
    )
    assert clone(model).get_params()["nonconformity"] == "aps"
    model.fit(X, y)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict_set(X), model.predict_set(X))
    search = GridSearchCV(model, {"estimator__C": [0.1, 1.0]}, cv=3).fit(X, y)
    assert search.best_estimator_.predict_set(X).shape == (150, 3)


def test_frames_and_pipelines(df_module):
    X, y = IRIS
    columns = {f"x{k}": X[:, k] for k in range(4)}
    columns["kind"] = np.array(["a", "b", "c"])[np.arange(150) % 3]
    frame = df_module.make_dataframe(columns)
    labels = np.array(["seal", "owl", "fox"])[y]
    inner = make_pipeline(
        make_column_transformer(
            (StandardScaler(), ["x0", "x1", "x2", "x3"]),
            (OneHotEncoder(sparse_output=False), ["kind"]),
        ),
        LogisticRegression(),
    )
    model = ConformalClassifier(inner, group_by="kind", random_state=0)
    model.fit(frame, df_module.make_series(labels))
    assert model.classes_.tolist() == ["fox", "owl", "seal"]
    assert model.groups_.tolist() == ["a", "b", "c"]
    assert model.feature_names_in_.tolist() == list(columns)
    assert model.predict_set(frame).shape == (150, 3)
    assert model.predict_p_values(frame).shape == (150, 3)


def test_float32_probabilities_count_as_their_float64_values():
    proba, labels = proba_rows(200)
    low = proba.astype(np.float32)
    for name in NAMES:
        narrow = calibrated(low, labels, nonconformity=name)
        wide = calibrated(low.astype(np.float64), labels, nonconformity=name)
        np.testing.assert_array_equal(narrow.scores_, wide.scores_)
        np.testing.assert_array_equal(
            narrow.predict_set(low), wide.predict_set(low.astype(np.float64))
        )


def test_one_class_is_always_the_set():
    model = ConformalClassifier(DummyClassifier(), random_state=0)
    model.fit(np.zeros((60, 1)), np.full(60, "only"))
    assert model.predict_set(np.zeros((2, 1))).tolist() == [[True], [True]]
