"""CrossConformalClassifier: brute force over folds and rows, the bound, every edge."""

import pickle
from fractions import Fraction

import numpy as np
import pytest
from joblib import parallel_config
from scipy.stats import binom
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneOut,
    ShuffleSplit,
    StratifiedKFold,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from tests.conformal._proba import nine_digits
from uqlib import AlreadyFittedWarning, InfiniteIntervalWarning
from uqlib.conformal import (
    ConformalClassifier,
    CrossConformalClassifier,
    _cross_classifier,
)

X, Y = load_iris(return_X_y=True)
NEW = X[::7] + 0.3
NAMES = ["aps", "lac", "margin", "raps", "saps", "topk"]


class Frequencies(ClassifierMixin, BaseEstimator):
    """The share of each class among the training rows of the same cell X[:, 0]."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.cells_, self.labels_ = np.asarray(X)[:, 0].copy(), np.asarray(y).copy()
        return self

    def predict_proba(self, X):
        same = np.asarray(X)[:, :1] == self.cells_
        counts = np.stack(
            [(same & (self.labels_ == c)).sum(axis=1) for c in self.classes_], axis=1
        )
        return (counts + 1) / (counts + 1).sum(axis=1, keepdims=True)

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def counts_by_hand(model, splits, estimator, X, y, new):
    """Compare every label of every new row with every row, one at a time."""
    count = np.zeros((len(new), 3), dtype=int)
    for train, test in splits:
        inner = clone(estimator).fit(X[train], y[train])
        old = nine_digits(inner.predict_proba(X[test]))
        fresh = nine_digits(inner.predict_proba(new))
        for i, row in enumerate(test):
            own = model.nonconformity_.labels(old[[i]], y[[row]], np.ones(1))[0]
            for j in range(len(new)):
                for label in range(3):
                    score = model.nonconformity_.labels(
                        fresh[[j]], np.array([label]), np.ones(1)
                    )
                    count[j, label] += own < score[0]
    return count


@pytest.mark.parametrize("nonconformity", NAMES)
def test_equals_brute_force_over_folds_and_labels(nonconformity):
    cv, rows = KFold(3, shuffle=True, random_state=1), np.arange(0, 150, 4)
    few, labels, new = X[rows], Y[rows], NEW[:8]
    model = CrossConformalClassifier(
        GaussianNB(), nonconformity=nonconformity, cv=cv, allow_empty=True
    ).fit(few, labels)
    count = counts_by_hand(model, cv.split(few), GaussianNB(), few, labels, new)
    n = rows.size
    p = model.predict_p_values(new)
    np.testing.assert_array_equal(p, (n - count + 1) / (n + 1))
    for percent in range(5, 96, 10):
        level = Fraction(percent, 100)
        expected = count < level * (n + 1)
        inside = model.predict_set(new, percent / 100)
        np.testing.assert_array_equal(inside, expected)
        np.testing.assert_array_equal(inside, p > float(1 - level))


def test_folds_and_models_are_those_of_the_splitter():
    cv = StratifiedKFold(4)
    model = CrossConformalClassifier(GaussianNB(), cv=cv).fit(X, Y)
    for k, (train, test) in enumerate(cv.split(X, Y)):
        assert (model.fold_[test] == k).all()
        inner = GaussianNB().fit(X[train], Y[train])
        np.testing.assert_array_equal(
            model.estimators_[k].predict_proba(NEW), inner.predict_proba(NEW)
        )
        own = nine_digits(inner.predict_proba(X[test]))[np.arange(test.size), Y[test]]
        np.testing.assert_array_equal(model.scores_[test], 1 - own)
    full = GaussianNB().fit(X, Y)
    np.testing.assert_array_equal(model.predict(NEW), full.predict(NEW))
    np.testing.assert_array_equal(model.predict_proba(NEW), full.predict_proba(NEW))


def test_leave_one_out():
    rows = np.arange(0, 150, 6)
    model = CrossConformalClassifier(GaussianNB(), cv=LeaveOneOut(), allow_empty=True)
    model.fit(X[rows], Y[rows])
    assert len(model.estimators_) == 25
    count = np.zeros((3, 3), dtype=int)
    for i in range(25):
        keep = np.delete(rows, i)
        inner = GaussianNB().fit(X[keep], Y[keep])
        own = nine_digits(inner.predict_proba(X[rows[[i]]]))[0, Y[rows[i]]]
        count += nine_digits(inner.predict_proba(NEW[:3])) < own
    np.testing.assert_array_equal(model.predict_p_values(NEW[:3]), (26 - count) / 26)


def test_groups_go_to_the_splitter():
    groups = np.arange(150) % 10
    model = CrossConformalClassifier(GaussianNB(), cv=GroupKFold(5))
    model.fit(X, Y, groups=groups)
    for group in range(10):
        assert np.unique(model.fold_[groups == group]).size == 1
    with pytest.raises(ValueError, match="groups"):
        CrossConformalClassifier(GaussianNB(), cv=GroupKFold(5)).fit(X, Y)


def test_sets_are_nested_and_chunks_do_not_matter(monkeypatch):
    model = CrossConformalClassifier(
        GaussianNB(), nonconformity="aps", randomized=True, random_state=0
    ).fit(X, Y)
    before = np.zeros((len(NEW), 3), dtype=bool)
    for percent in range(1, 100, 7):
        inside = model.predict_set(NEW, percent / 100)
        assert inside.any(axis=1).all()
        assert (before <= inside).all()
        before = inside
    whole = model.predict_p_values(NEW)
    monkeypatch.setattr(_cross_classifier, "_CHUNK", 12)
    np.testing.assert_array_equal(model.predict_p_values(NEW), whole)


def test_randomized_scores_are_drawn_on_both_sides():
    # All rows have one cell: a deterministic score takes one value a class and fold.
    same = np.zeros((60, 1))
    labels = np.random.default_rng(0).integers(0, 3, 60)
    settings = {"nonconformity": "aps", "cv": 3, "random_state": 0}
    fixed = CrossConformalClassifier(Frequencies(), **settings).fit(same, labels)
    drawn = CrossConformalClassifier(Frequencies(), randomized=True, **settings)
    drawn.fit(same, labels)
    assert np.unique(fixed.scores_).size <= 9
    assert np.unique(drawn.scores_).size == 60
    new = np.zeros((40, 1))
    assert np.unique(fixed.predict_p_values(new), axis=0).shape == (1, 3)
    assert np.unique(drawn.predict_p_values(new), axis=0).shape[0] > 20
    np.testing.assert_array_equal(
        drawn.predict_p_values(new), drawn.predict_p_values(new)
    )


@pytest.mark.parametrize(
    ("n_folds", "n_replications", "nonconformity"),
    [(2, 300, "lac"), (2, 300, "aps"), (20, 100, "aps")],
)
def test_coverage_is_at_least_the_bound_for_an_unstable_learner(
    n_folds, n_replications, nonconformity
):
    # A tree that isolates rows gives probabilities of 0 and 1 that move with every
    # row; one new row a replication. Three cells share an error of 1e-6.
    n, level = 20, 0.8
    rng, covered = np.random.default_rng(n_folds), 0
    for seed in range(n_replications):
        rows, labels = rng.normal(size=(n + 1, 2)), rng.integers(0, 3, n + 1)
        model = CrossConformalClassifier(
            DecisionTreeClassifier(random_state=seed),
            confidence_level=level,
            nonconformity=nonconformity,
            cv=n_folds,
            allow_empty=True,
            random_state=seed,
        ).fit(rows[:n], labels[:n])
        inside = model.predict_set(rows[n:])[0]
        known = labels[n] == model.classes_
        covered += inside[known].any()
    slack = min(
        2 * (1 - 1 / n_folds) / (n / n_folds + 1), (1 - n_folds / n) / (n_folds + 1)
    )
    bound = 1 - 2 * (1 - level) - slack
    assert covered >= binom(n_replications, bound).ppf(1e-6 / 3)


def test_a_class_that_a_fold_lacks_has_probability_zero_there():
    labels = np.repeat([0, 1], [29, 31])
    labels[7] = 5
    rows = np.arange(60.0).reshape(-1, 1) % 4
    model = CrossConformalClassifier(Frequencies(), cv=5, random_state=0)
    model.fit(rows, labels)
    assert model.classes_.tolist() == [0, 1, 5]
    lacking = model.estimators_[model.fold_[7]]
    assert lacking.classes_.tolist() == [0, 1]
    assert model.scores_[7] == 1.0
    assert model.predict_set(rows).shape == (60, 3)


class Same(Frequencies):
    """The same probabilities whatever the training rows are."""

    def fit(self, X, y):
        self.classes_ = np.arange(3)
        return self

    def predict_proba(self, X):
        value = np.exp(np.asarray(X)[:, :3] / 10)
        return value / value.sum(axis=1, keepdims=True)


def test_with_one_model_for_all_folds_it_is_split_calibration_on_all_rows():
    for name in NAMES:
        cross = CrossConformalClassifier(Same(), nonconformity=name, random_state=0)
        frozen = FrozenEstimator(Same().fit(X, Y))
        split = ConformalClassifier(frozen, nonconformity=name)
        for level in (0.5, 0.9):
            np.testing.assert_array_equal(
                cross.fit(X, Y).predict_set(NEW, level),
                split.fit(X, Y).predict_set(NEW, level),
            )


def test_few_rows_give_full_sets_and_one_warning():
    rows = np.arange(0, 150, 19)
    even, odd = np.arange(0, 8, 2), np.arange(1, 8, 2)
    model = CrossConformalClassifier(Frequencies(), cv=[(even, odd), (odd, even)])
    with pytest.warns(InfiniteIntervalWarning, match="at least 9 are needed") as caught:
        model.fit(X[rows], Y[rows])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert model.predict_set(NEW).all()
    with pytest.warns(InfiniteIntervalWarning):
        model.predict_set(NEW, 0.95)


def test_n_jobs_and_seeds_do_not_change_the_result():
    tree = DecisionTreeClassifier(max_features=1)
    with parallel_config(backend="threading"):
        p_values = [
            CrossConformalClassifier(tree, random_state=0, n_jobs=n_jobs)
            .fit(X, Y)
            .predict_p_values(NEW)
            for n_jobs in (None, 2)
        ]
    np.testing.assert_array_equal(*p_values)


def test_sample_weight_goes_to_training():
    weight = np.random.default_rng(0).random(150)
    cv = KFold(3, shuffle=True, random_state=0)
    model = CrossConformalClassifier(GaussianNB(), cv=cv)
    model.fit(X, Y, sample_weight=weight)
    train, test = next(cv.split(X))
    inner = GaussianNB().fit(X[train], Y[train], sample_weight=weight[train])
    own = nine_digits(inner.predict_proba(X[test]))[np.arange(test.size), Y[test]]
    np.testing.assert_array_equal(model.scores_[test], 1 - own)


def test_strings_frames_pickle_and_search(df_module):
    frame = df_module.make_dataframe({f"x{k}": X[:, k] for k in range(4)})
    labels = np.array(["seal", "owl", "fox"])[Y]
    inner = make_pipeline(StandardScaler(), LogisticRegression())
    model = CrossConformalClassifier(inner, cv=3, random_state=0)
    model.fit(frame, df_module.make_series(labels))
    assert model.classes_.tolist() == ["fox", "owl", "seal"]
    inside = model.predict_set(frame)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict_set(frame), inside)
    grid = {"estimator__logisticregression__C": [0.1, 1.0]}
    search = GridSearchCV(model, grid, cv=2).fit(frame, labels)
    assert search.best_estimator_.predict_set(frame).shape == (150, 3)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"estimator": FrozenEstimator(GaussianNB())}, "FrozenEstimator, but"),
        ({"estimator": RidgeClassifier()}, "no predict_proba"),
        ({"nonconformity": "hinge"}, "nonconformity='hinge'"),
        ({"confidence_level": 0}, "confidence_level must lie"),
        ({"cv": ShuffleSplit(3)}, "exactly one test fold"),
    ],
)
def test_bad_parameters_are_named_and_change_nothing(parameters, message):
    model = CrossConformalClassifier(GaussianNB(), random_state=0).fit(X, Y)
    before = model.predict_set(NEW)
    with pytest.raises(ValueError, match=message):
        model.set_params(**parameters).fit(X, Y)
    np.testing.assert_array_equal(model.predict_set(NEW), before)


def test_fitted_models_are_cloned_with_a_warning():
    with pytest.warns(AlreadyFittedWarning):
        CrossConformalClassifier(GaussianNB().fit(X, Y)).fit(X, Y)
    with pytest.raises(NotFittedError):
        CrossConformalClassifier(GaussianNB()).predict_p_values(X)
