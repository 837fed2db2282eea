"""VennAbersCalibrator: the procedures by hand, classes that are absent, every edge."""

import pickle
import re

import numpy as np
import pytest
from joblib import parallel_config
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris, make_classification
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.metrics import get_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    StratifiedKFold,
    cross_val_predict,
    train_test_split,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from uqlib.conformal import VennAbersCalibrator, venn_abers
from uqlib.exceptions import AlreadyFittedWarning

X, Y = make_classification(200, 4, flip_y=0.2, random_state=0)
X3, Y3 = load_iris(return_X_y=True)
merges = pytest.mark.parametrize("merge", ["log", "brier"])
methods = pytest.mark.parametrize("method", ["inductive", "cross"])


def merged(pair, merge):
    p0, p1 = pair.T
    if merge == "log":
        return p1 / (1 - p0 + p1)
    return p1 + p0**2 / 2 - p1**2 / 2


class Column(ClassifierMixin, BaseEstimator):
    """Scores are columns of X, whatever it was fitted on."""

    def __init__(self, n_classes=2):
        self.n_classes = n_classes

    def fit(self, X, y):
        """Learn nothing but the number of classes."""
        self.classes_ = np.arange(self.n_classes)
        return self

    def decision_function(self, X):
        """Return one column, or one a class."""
        X = np.asarray(X, dtype=float)
        return X[:, 0] if self.n_classes == 2 else X[:, : self.n_classes]


def calibrated(scores, y, n_classes=2, **parameters):
    scores = np.reshape(scores, (len(y), -1))
    model = FrozenEstimator(Column(n_classes).fit(None, None))
    return VennAbersCalibrator(model, **parameters).fit(scores, y)


# -------------------------------------------------------------------- the procedures


@merges
@pytest.mark.parametrize("size", [0.25, 60])
def test_inductive_by_hand(merge, size):
    model = VennAbersCalibrator(
        LogisticRegression(), merge=merge, calibration_size=size, random_state=3
    ).fit(X, Y)
    X_train, X_cal, y_train, y_cal = train_test_split(
        X, Y, test_size=size, random_state=3
    )
    score = LogisticRegression().fit(X_train, y_train).decision_function
    pair = venn_abers(score(X_cal), y_cal, score(X))
    # On the calibration rows themselves the sides of a jump hang on the last bits.
    new = ~np.isin(X[:, 0], X_cal[:, 0])
    interval = model.predict_proba_interval(X)
    np.testing.assert_array_equal(interval[new, 1], pair[new])
    proba = model.predict_proba(X)
    np.testing.assert_allclose(proba[new, 1], merged(pair, merge)[new], rtol=1e-12)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-15)
    np.testing.assert_array_equal(model.predict(X), proba[:, 1] > 0.5)
    assert model.n_calibration_ == len(y_cal)
    assert len(model.estimators_) == 1


@merges
def test_cross_by_hand(merge):
    X_new, _ = make_classification(60, 4, random_state=1)
    model = VennAbersCalibrator(
        LogisticRegression(), method="cross", merge=merge, cv=4, random_state=5
    ).fit(X, Y)
    random_state = np.random.RandomState(5)
    pairs = []
    for train, test in StratifiedKFold(
        4, shuffle=True, random_state=random_state
    ).split(X, Y):
        score = LogisticRegression().fit(X[train], Y[train]).decision_function
        pairs.append(venn_abers(score(X[test]), Y[test], score(X_new)))
    p0, p1 = np.moveaxis(pairs, 2, 0)
    if merge == "log":
        up, down = (np.prod(p, axis=0) ** (1 / 4) for p in (p1, 1 - p0))
        expected = up / (down + up)
    else:
        expected = np.mean(p1 + p0**2 / 2 - p1**2 / 2, axis=0)
    proba = model.predict_proba(X_new)[:, 1]
    np.testing.assert_allclose(proba, expected, rtol=1e-12)
    lower, upper = model.predict_proba_interval(X_new)[:, 1].T
    if merge == "brier":
        np.testing.assert_allclose(lower, p0.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(upper, p1.mean(axis=0), rtol=1e-12)
    assert np.all((lower <= proba) & (proba <= upper))
    assert model.n_calibration_ == 200
    assert len(model.estimators_) == 4


@merges
@pytest.mark.parametrize("estimator", [LogisticRegression(), LinearSVC()], ids=str)
def test_more_classes_by_hand(merge, estimator):
    train, cal, new = (np.arange(k, 150, 3) for k in range(3))
    frozen = FrozenEstimator(estimator.fit(X3[train], Y3[train]))
    model = VennAbersCalibrator(frozen, merge=merge).fit(X3[cal], Y3[cal])
    method = "predict_proba" if hasattr(estimator, "predict_proba") else None
    score = getattr(estimator, method or "decision_function")
    interval = model.predict_proba_interval(X3[new])
    columns = []
    for k in range(3):
        pair = venn_abers(score(X3[cal])[:, k], Y3[cal] == k, score(X3[new])[:, k])
        np.testing.assert_array_equal(interval[:, k], pair)
        columns.append(merged(pair, merge))
    expected = np.transpose(columns) / np.sum(columns, axis=0)[:, None]
    np.testing.assert_allclose(model.predict_proba(X3[new]), expected, rtol=1e-12)
    assert interval.shape == (50, 3, 2)
    assert model.score(X3[new], Y3[new]) > 0.85


@merges
@methods
def test_intervals_of_two_classes_are_complementary(merge, method):
    model = VennAbersCalibrator(
        GaussianNB(), method=method, merge=merge, random_state=0
    ).fit(X, Y)
    interval, proba = model.predict_proba_interval(X), model.predict_proba(X)
    assert interval.shape == (200, 2, 2)
    np.testing.assert_array_equal(interval[:, 0], 1 - interval[:, 1, ::-1])
    assert np.all((interval[..., 0] <= proba) & (proba <= interval[..., 1]))
    assert np.all((interval >= 0) & (interval <= 1))


def test_a_frozen_estimator_calibrates_on_all_rows():
    model = calibrated(np.arange(20) % 7, np.arange(20) % 2)
    assert model.n_calibration_ == 20
    pair = venn_abers(np.arange(20) % 7, np.arange(20) % 2, np.arange(9) - 0.5)
    interval = model.predict_proba_interval(np.arange(9).reshape(-1, 1) - 0.5)
    np.testing.assert_array_equal(interval[:, 1], pair)


def test_increasing_transforms_of_the_scores_change_nothing():
    rng = np.random.default_rng(0)
    score = rng.integers(-50, 50, size=300) / 16
    y = (rng.uniform(size=300) < 1 / (1 + np.exp(-score))).astype(int)
    plain = calibrated(score, y).predict_proba_interval(score.reshape(-1, 1))
    for transform in (np.exp, np.arctan, lambda s: 1e200 * s - 1, lambda s: s**3):
        moved = transform(score)
        interval = calibrated(moved, y).predict_proba_interval(moved.reshape(-1, 1))
        np.testing.assert_array_equal(interval, plain)


def test_probabilities_and_decisions_of_two_classes_give_the_same():
    # The logistic function is increasing: a model without decision_function is
    # calibrated alike.
    class OnlyProba(ClassifierMixin, BaseEstimator):
        classes_ = np.arange(2)

        def fit(self, X, y):
            return self

        def predict_proba(self, X):
            p = 1 / (1 + np.exp(-np.asarray(X)[:, :1]))
            return np.hstack([1 - p, p])

    score = np.linspace(-3, 3, 50).reshape(-1, 1)
    y = np.arange(50) * 7 % 50 < 25
    y = y.astype(int)
    model = VennAbersCalibrator(FrozenEstimator(OnlyProba())).fit(score, y)
    expected = calibrated(score, y).predict_proba(score)
    np.testing.assert_array_equal(model.predict_proba(score), expected)


def test_a_row_gets_the_same_in_any_batch():
    model = VennAbersCalibrator(LogisticRegression(), random_state=0).fit(X, Y)
    alone = np.concatenate([model.predict_proba(row) for row in X[:, None]])
    np.testing.assert_array_equal(alone, model.predict_proba(X))


def test_scores_count_with_nine_digits():
    y = np.array([1, 0, 1, 0])
    for scale in (1e-200, 1.0, 1e200):
        ranked = calibrated(scale * (1 + np.arange(4) * 1e-9), y)
        expected = calibrated(np.arange(4.0), y).predict_proba(np.arange(4.0)[:, None])
        found = ranked.predict_proba(scale * (1 + np.arange(4)[:, None] * 1e-9))
        np.testing.assert_array_equal(found, expected)
        tied = calibrated(scale * (1 + np.arange(4) * 1e-13), y)
        assert np.unique(tied.predict_proba([[scale]])).size == 1


def test_infinite_scores_are_the_largest():
    score = np.array([-np.inf, -1.0, 0.0, 1.0, np.inf])
    y = np.array([0, 1, 0, 1, 1])
    found = calibrated(score, y).predict_proba(score.reshape(-1, 1))
    finite = np.array([-9.0, -1.0, 0.0, 1.0, 9.0])
    expected = calibrated(finite, y).predict_proba(finite.reshape(-1, 1))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_near_one_do_not_tie(n_classes):
    class Given(ClassifierMixin, BaseEstimator):
        classes_ = np.arange(n_classes)

        def fit(self, X, y):
            return self

        def predict_proba(self, X):
            return np.asarray(X)

    others = np.logspace(-300, -1, 30)[:, None] * np.eye(n_classes)[1:].sum(axis=0)
    proba = others / n_classes
    proba[:, 0] = 1 - proba.sum(axis=1)
    y = np.where(np.arange(30) < 15, 0, 1 + np.arange(30) % (n_classes - 1))
    model = VennAbersCalibrator(FrozenEstimator(Given())).fit(proba, y)
    pair = venn_abers(-np.arange(30), y == 0, -np.arange(30))
    np.testing.assert_allclose(
        model.predict_proba_interval(proba)[:, 0], pair, rtol=1e-14, atol=1e-15
    )


# ---------------------------------------------------------------- classes and rows


def test_calibrate_replaces_the_calibration_alone():
    model = VennAbersCalibrator(LogisticRegression(), random_state=0).fit(X, Y)
    inner = model.estimators_[0]
    again = model.calibrate(X[:30], Y[:30])
    assert again is model
    assert model.estimators_[0] is inner
    assert model.n_calibration_ == 30
    frozen = VennAbersCalibrator(FrozenEstimator(inner)).fit(X[:30], Y[:30])
    np.testing.assert_array_equal(model.predict_proba(X), frozen.predict_proba(X))


def test_calibrate_calibrates_every_model_of_the_cross_form():
    model = VennAbersCalibrator(GaussianNB(), method="cross", cv=2, random_state=0)
    model.fit(X, Y).calibrate(X[:40], Y[:40])
    pairs = [
        VennAbersCalibrator(FrozenEstimator(inner), merge="brier")
        .fit(X[:40], Y[:40])
        .predict_proba_interval(X)
        for inner in model.estimators_
    ]
    found = model.set_params(merge="brier").predict_proba_interval(X)
    np.testing.assert_allclose(found, np.mean(pairs, axis=0), rtol=1e-12)


def test_a_class_without_calibration_rows():
    scores = np.eye(3)[np.arange(20) % 3] + np.arange(20)[:, None] / 100
    model = calibrated(scores, np.arange(20) % 2, n_classes=3)
    interval = model.predict_proba_interval(scores)
    at_least = (scores[:, 2] >= scores[:, [2]]).sum(axis=1)
    np.testing.assert_array_equal(interval[:, 2, 0], 0)
    np.testing.assert_array_equal(interval[:, 2, 1], 1 / (1 + at_least))
    proba = model.predict_proba(scores)
    assert np.all(proba > 0)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-14)
    # Two classes, one of them without rows.
    model = calibrated(np.arange(4), np.ones(4, dtype=int))
    np.testing.assert_array_equal(model.predict_proba_interval([[9.0]])[0, 1], [0.8, 1])


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_class_without_training_rows(n_classes):
    # The fold that holds all rows of the last class trains without them.
    y = np.minimum(np.arange(40) // 10, n_classes - 1)
    last = y == n_classes - 1
    rows = np.arange(40)
    half = rows[~last][::2]
    splits = [
        (half, np.setdiff1d(rows, half)),
        (np.setdiff1d(rows, half), half),
    ]
    model = VennAbersCalibrator(
        DecisionTreeClassifier(), method="cross", cv=splits, merge="brier"
    ).fit(rows.reshape(-1, 1), y)
    np.testing.assert_array_equal(model.classes_, np.arange(n_classes))
    interval = model.predict_proba_interval(rows.reshape(-1, 1))
    # The first model has the same score for all rows, and so the frequency; the second
    # has no row of the class to calibrate on.
    n, n_last = splits[0][1].size, last.sum()
    assert interval[:, -1, 0] == pytest.approx(n_last / (n + 1) / 2)
    assert np.all(interval[:, -1, 1] > (n_last + 1) / (n + 1) / 2)
    proba = model.predict_proba(rows.reshape(-1, 1))
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-14)


def test_one_class_alone():
    model = VennAbersCalibrator(DummyClassifier(), random_state=0).fit(
        X, np.full(200, "a")
    )
    np.testing.assert_array_equal(model.predict_proba(X), np.ones((200, 1)))
    np.testing.assert_array_equal(model.predict(X), "a")
    interval = model.predict_proba_interval(X)
    np.testing.assert_array_equal(interval, np.tile([50 / 51, 1.0], (200, 1, 1)))


def test_one_calibration_row():
    model = calibrated([0.0], [1])
    np.testing.assert_array_equal(model.predict_proba_interval([[0.0]])[0, 1], [0.5, 1])
    assert model.predict_proba([[0.0]])[0, 1] == pytest.approx(2 / 3)


@methods
@pytest.mark.parametrize("labels", [["no", "yes"], [-1, 1], [False, True], [7, 3]])
def test_labels_of_any_kind(method, labels):
    y = np.array(labels)[Y]
    model = VennAbersCalibrator(GaussianNB(), method=method, random_state=0).fit(X, y)
    plain = VennAbersCalibrator(GaussianNB(), method=method, random_state=0).fit(X, Y)
    order = np.argsort(labels)
    np.testing.assert_array_equal(model.classes_, np.sort(labels))
    np.testing.assert_allclose(
        model.predict_proba(X), plain.predict_proba(X)[:, order], atol=1e-12
    )
    assert set(model.predict(X)) == set(labels)


def test_a_pipeline_on_frames(df_module):
    frame = df_module.make_dataframe(
        {"color": np.array(["red", "blue"])[Y], "size": X[:, 0]}
    )
    inner = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(sparse_output=False), ["color"]),
            (StandardScaler(), ["size"]),
        ),
        LogisticRegression(),
    )
    y = df_module.make_series(np.array(["no", "yes"])[Y])
    model = VennAbersCalibrator(inner, random_state=0).fit(frame, y)
    assert model.predict_proba_interval(frame).shape == (200, 2, 2)
    assert model.score(frame, np.asarray(y)) > 0.95
    assert model.feature_names_in_.tolist() == ["color", "size"]


def test_sample_weight_trains_and_does_not_calibrate():
    weight = np.random.default_rng(0).exponential(size=200)
    model = VennAbersCalibrator(GaussianNB(), random_state=0)
    model.fit(X, Y, sample_weight=weight)
    X_train, X_cal, y_train, y_cal, w_train, _ = train_test_split(
        X, Y, weight, test_size=0.25, random_state=0
    )
    inner = GaussianNB().fit(X_train, y_train, sample_weight=w_train)
    frozen = VennAbersCalibrator(FrozenEstimator(inner)).fit(X_cal, y_cal)
    np.testing.assert_array_equal(model.predict_proba(X), frozen.predict_proba(X))


# ------------------------------------------------------------ scikit-learn's machinery


@parametrize_with_checks(
    [
        VennAbersCalibrator(LogisticRegression()),
        VennAbersCalibrator(LogisticRegression(), method="cross", cv=2),
    ],
    expected_failed_checks=lambda _: {
        f"check_sample_weight_equivalence_on_{kind}_data": (
            "weights train and do not calibrate: they cannot equal repetition"
        )
        for kind in ("dense", "sparse")
    },
)
def test_common_checks(estimator, check):
    check(estimator)


@methods
def test_clone_pickle_and_jobs(method):
    inner = DecisionTreeClassifier(max_features=1, max_depth=3)
    model = VennAbersCalibrator(inner, method=method, random_state=0)
    if method == "inductive":
        model.set_params(estimator__random_state=0)
    proba = model.fit(X, Y).predict_proba(X)
    assert clone(model).get_params(deep=False).keys() == model.get_params(False).keys()
    with parallel_config(backend="threading"):
        threaded = clone(model).set_params(n_jobs=2).fit(X, Y)
    for other in (
        clone(model).fit(X, Y),
        pickle.loads(pickle.dumps(model)),
        threaded,
    ):
        np.testing.assert_array_equal(other.predict_proba(X), proba)
    assert not hasattr(inner, "tree_")


def test_searches_and_cross_validation():
    grid = {
        "estimator__C": [0.01, 1.0],
        "method": ["inductive", "cross"],
        "merge": ["log", "brier"],
    }
    model = VennAbersCalibrator(LogisticRegression(), cv=2, random_state=0)
    search = GridSearchCV(model, grid, scoring="neg_log_loss", cv=2).fit(X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    proba = cross_val_predict(model, X, Y, method="predict_proba", cv=2)
    assert proba.shape == (200, 2)
    assert make_pipeline(StandardScaler(), model).fit(X, Y).predict_proba(X).shape


def test_weights_are_routed():
    weight = np.arange(1.0, 201.0)
    with config_context(enable_metadata_routing=True):
        inner = GaussianNB().set_fit_request(sample_weight=True)
        model = VennAbersCalibrator(inner, random_state=0)
        search = GridSearchCV(
            model.set_fit_request(sample_weight=True), {"merge": ["log"]}, cv=2
        )
        scorer = get_scorer("accuracy").set_score_request(sample_weight=False)
        search.set_params(scoring=scorer)
        routed = search.fit(X, Y, sample_weight=weight).predict_proba(X)
    direct = VennAbersCalibrator(GaussianNB(), random_state=0)
    direct.fit(X, Y, sample_weight=weight)
    np.testing.assert_array_equal(routed, direct.predict_proba(X))


def test_groups_go_to_the_splitter():
    groups = np.arange(200) // 8
    splits = list(GroupKFold(3).split(X, Y, groups))
    by_list = VennAbersCalibrator(GaussianNB(), method="cross", cv=splits).fit(X, Y)
    with config_context(enable_metadata_routing=True):
        model = VennAbersCalibrator(GaussianNB(), method="cross", cv=GroupKFold(3))
        search = GridSearchCV(
            model.set_fit_request(groups=True), {"merge": ["log"]}, cv=GroupKFold(2)
        )
        routed = search.fit(X, Y, groups=groups).predict_proba(X)
    np.testing.assert_array_equal(routed, by_list.predict_proba(X))
    with pytest.raises(ValueError, match="method='inductive' draws the rows held out"):
        VennAbersCalibrator(GaussianNB()).fit(X, Y, groups=groups)


def test_a_fitted_estimator_warns_and_is_not_touched():
    inner = GaussianNB().fit(X[:20], Y[:20])
    theta = inner.theta_.copy()
    with pytest.warns(AlreadyFittedWarning, match="VennAbersCalibrator clones Gauss"):
        VennAbersCalibrator(inner).fit(X, Y)
    np.testing.assert_array_equal(inner.theta_, theta)


# ------------------------------------------------------------------------- bad input


class Broken(Column):
    def __init__(self, value=np.nan, shape=None, n_classes=2):
        super().__init__(n_classes)
        self.value, self.shape = value, shape

    def decision_function(self, X):
        return np.full(self.shape or len(X), self.value)


FROZEN = FrozenEstimator(Column().fit(X, Y))


@pytest.mark.parametrize(
    ("estimator", "parameters", "error", "message"),
    [
        (
            GaussianNB(),
            {"method": "isotonic"},
            ValueError,
            "method must be one of [",
        ),
        (
            GaussianNB(),
            {"merge": "mean"},
            ValueError,
            "merge must be one of [",
        ),
        (GaussianNB(), {"calibration_size": 200}, ValueError, "leaves 0 rows to train"),
        (
            FROZEN,
            {"method": "cross"},
            ValueError,
            "estimator is a Frozen",
        ),
        (
            GaussianNB(),
            {"method": "cross", "cv": [(range(100), range(100, 200))]},
            ValueError,
            "must put every row in exactly one test fold",
        ),
        (LinearRegression(), {}, ValueError, "LinearRegression has no array classes_ "),
        (Broken(), {}, ValueError, "Broken predicted NaN"),
        (
            Broken(0.0, (50, 3)),
            {},
            ValueError,
            "Broken.decision_function gave an array of shape (50, 3) for 50 rows and 2",
        ),
    ],
)
def test_bad_parameters_and_models(estimator, parameters, error, message):
    with pytest.raises(error, match=re.escape(message)):
        VennAbersCalibrator(estimator, **parameters).fit(X, Y)


def test_one_against_one_scores_are_refused():
    X4, y4 = make_classification(80, 6, n_informative=4, n_classes=4, random_state=0)
    model = VennAbersCalibrator(SVC(decision_function_shape="ovo"))
    with pytest.raises(ValueError, match="Choose one class against the rest"):
        model.fit(X4, y4)


def test_a_model_without_scores():
    class Silent(ClassifierMixin, BaseEstimator):
        classes_ = np.arange(2)

        def fit(self, X, y):
            return self

    with pytest.raises(TypeError, match="Silent has neither decision_function nor"):
        VennAbersCalibrator(FrozenEstimator(Silent())).fit(X, Y)


def test_probabilities_that_are_none():
    class Doubled(DecisionTreeClassifier):
        def predict_proba(self, X):
            return 2 * super().predict_proba(X)

    with pytest.raises(ValueError, match=r"sum to 1 within 0.001, but row 0 sums to 2"):
        VennAbersCalibrator(Doubled()).fit(X, Y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed, but the target y is None"),
        (X[:, 0], "Unknown label type: continuous"),
        (np.where(Y, np.nan, 1.0), "contains NaN"),
        (Y[:10], "inconsistent numbers of samples"),
        (Y + 1, "labels that the estimator does not know: 2; it knows 0, 1"),
    ],
)
def test_bad_labels(y, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        VennAbersCalibrator(FROZEN).fit(X, y)
    model = VennAbersCalibrator(FROZEN).fit(X, Y)
    steps = model.steps_
    with pytest.raises(ValueError, match=re.escape(message)):
        model.calibrate(X, y)
    assert model.steps_ is steps
    assert model.n_calibration_ == 200


@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "predict_proba_interval", "calibrate"]
)
def test_an_unfitted_calibrator(method):
    arguments = (X, Y) if method == "calibrate" else (X,)
    with pytest.raises(NotFittedError):
        getattr(VennAbersCalibrator(GaussianNB()), method)(*arguments)


def test_a_fit_that_fails_leaves_the_last_one_alone():
    model = VennAbersCalibrator(RidgeClassifier(), random_state=0).fit(X, Y)
    proba = model.predict_proba(X)
    model.set_params(method="cross", cv=KFold(3), estimator=Broken())
    with pytest.raises(ValueError, match="Broken predicted NaN"):
        model.fit(X, Y)
    np.testing.assert_array_equal(model.predict_proba(X), proba)
