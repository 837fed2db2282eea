"""Split-point analysis of classifiers: bad and degenerate input, common use."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.datasets import load_iris
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from uqlib.exceptions import AlreadyFittedWarning
from uqlib.spa._classifier import SPAClassifier


def iris():
    """Three classes of 50 rows, in their order."""
    return load_iris(return_X_y=True)


# ---------------------------------------------------------------------------
# Degenerate input.


@pytest.mark.parametrize("adjust", ["none", "min", "mean"])
def test_a_class_without_held_out_rows(adjust):
    X, y = iris()
    held_out = np.arange(60, 140, 2)  # classes 1 and 2 alone
    cv = [(np.setdiff1d(np.arange(150), held_out), held_out)]
    model = SPAClassifier(GaussianNB(), residuals="holdout", adjust=adjust, cv=cv)
    model.fit(X, y)
    assert_array_equal(model.class_count_, [0, 20, 20])
    found = model.predict_uncertainty(X)
    assert_array_equal(found.side_up[:, 0], 0)
    assert all(np.isfinite(values).all() for values in found.values())
    assert np.isfinite(model.predict_proba(X)).all()


def test_a_class_that_the_classifier_was_not_trained_on():
    X, y = iris()
    cv = [(np.arange(100), np.arange(100, 150))]
    model = SPAClassifier(GaussianNB(), residuals="holdout", cv=cv).fit(X, y)
    assert_array_equal(model.classes_, [0, 1, 2])
    assert_array_equal(model.predict_proba(X)[:, 2], 0)
    found = model.predict_uncertainty(X[100:])
    assert_allclose(found.mar[:, 2], 1)
    assert_allclose(found.bias[:, 2], 1)
    adjusted = model.set_params(adjust="mean").predict(X[100:])
    assert_array_equal(adjusted, 2)


@pytest.mark.parametrize("adjust", ["none", "min", "mean"])
def test_a_perfect_classifier_has_no_discrepancy(adjust):
    X = np.arange(40.0)[:, None]  # a single feature
    y = np.where(X[:, 0] < 20, "left", "right")
    model = SPAClassifier(
        FrozenEstimator(DecisionTreeClassifier().fit(X, y)), adjust=adjust
    ).fit(X, y)
    assert_array_equal(model.classes_, ["left", "right"])
    assert_array_equal(model.predict(X), y)
    for values in model.predict_uncertainty(X).values():
        assert_array_equal(values, 0)


@pytest.mark.parametrize("adjust", ["none", "min"])
def test_one_class(adjust):
    X = np.arange(10.0)[:, None]
    model = SPAClassifier(DummyClassifier(), adjust=adjust, cv=2).fit(X, np.full(10, 7))
    assert_array_equal(model.predict(X), 7)
    assert_array_equal(model.predict_uncertainty(X).epistemic, np.zeros(10))


def test_very_few_rows():
    X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 1, 0, 1])
    model = SPAClassifier(DummyClassifier(), cv=2, adjust="min", random_state=0)
    found = model.fit(X, y).predict_uncertainty(X)
    assert all(np.isfinite(values).all() for values in found.values())


# ---------------------------------------------------------------------------
# An estimator among others.


def test_dataframes_and_pipelines(df_module):
    X, y = iris()
    names = [f"x{j}" for j in range(4)]
    frame = df_module.make_dataframe(zip(names, X.T, strict=True))
    labels = np.array(["red", "green", "blue"])[y]
    model = SPAClassifier(
        make_pipeline(StandardScaler(), GaussianNB()),
        mar_estimator=make_pipeline(StandardScaler(), Ridge()),
        random_state=0,
    )
    of_frame = clone(model).fit(frame, df_module.make_series(labels))
    assert list(of_frame.feature_names_in_) == names
    of_array = clone(model).fit(X, labels)
    assert_array_equal(of_frame.predict(frame), of_array.predict(X))
    found = of_frame.predict_uncertainty(frame)
    for name, values in of_array.predict_uncertainty(X).items():
        assert_allclose(found[name], values, atol=1e-10)  # sums in another order


def test_the_same_random_state_gives_the_same_heads_also_after_pickle():
    X, y = iris()
    model = SPAClassifier(GaussianNB(), random_state=5)
    one, two = clone(model).fit(X, y), clone(model).fit(X, y)
    found = pickle.loads(pickle.dumps(one)).predict_uncertainty(X)
    for name, values in two.predict_uncertainty(X).items():
        assert_array_equal(found[name], values)


def test_what_the_user_passed_is_left_alone():
    X, y = iris()
    before = X.copy()
    base, head = GaussianNB(), ExtraTreesRegressor(n_estimators=3)
    SPAClassifier(base, mar_estimator=head, random_state=0).fit(X, y)
    assert not hasattr(base, "classes_")
    assert not hasattr(head, "estimators_")
    assert head.random_state is None
    assert_array_equal(X, before)


def test_a_failed_fit_changes_nothing():
    X, y = iris()
    model = SPAClassifier(GaussianNB(), mar_estimator=Ridge(), random_state=0).fit(X, y)
    before = model.predict_uncertainty(X)
    with pytest.raises(ValueError, match="n_splits=1000"):
        model.set_params(cv=1000).fit(X[:, :2], y)
    assert model.n_features_in_ == 4
    for name, values in model.predict_uncertainty(X).items():
        assert_array_equal(values, before[name])


def test_an_adjustment_set_after_fit_is_checked():
    X, y = iris()
    model = SPAClassifier(GaussianNB(), mar_estimator=Ridge(), random_state=0).fit(X, y)
    model.set_params(adjust="max")
    for method in (model.predict_proba, model.predict_uncertainty):
        with pytest.raises(ValueError, match=r"adjust must be one of .* got 'max'"):
            method(X)


@pytest.mark.parametrize("which", ["estimator", "mar_estimator"])
def test_a_fitted_model_is_cloned_with_a_warning(which):
    X, y = iris()
    models = {"estimator": GaussianNB(), "mar_estimator": Ridge()}
    models[which].fit(X, y)
    with pytest.warns(AlreadyFittedWarning, match=type(models[which]).__name__):
        SPAClassifier(**models).fit(X, y)


class BadHead(RegressorMixin, BaseEstimator):
    """Predicts NaN, or one number in all."""

    def __init__(self, nan=True):
        self.nan = nan

    def fit(self, X, y):
        """Learn nothing."""
        return self

    def predict(self, X):
        """Predict nothing of use."""
        return np.full(len(X), np.nan) if self.nan else np.zeros(1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"residuals": "prefit"}, r"residuals must be one of \['oof'"),
        ({"adjust": "max"}, r"adjust must be one of \['none'"),
        ({"adjust": None}, r"adjust must be one of"),
        ({"threshold": -1}, r"threshold must be a number >= 0"),
        ({"estimator": LinearSVC()}, "has no predict_proba"),
        ({"mar_estimator": FrozenEstimator(Ridge())}, "mar_estimator is a Frozen"),
        ({"cv": [([0, 75, 120], [1, 2])]}, "every row in exactly one test fold"),
        (
            {"cv": [([0, 75, 120], [0, 2])], "residuals": "holdout"},
            "trains on its own test rows",
        ),
    ],
)
def test_bad_parameters_are_named(options, words):
    X, y = iris()
    options = {"estimator": GaussianNB(), **options}
    with pytest.raises(ValueError, match=words):
        SPAClassifier(**options).fit(X, y)


@pytest.mark.parametrize(
    ("nan", "words"),
    [(True, "BadHead predicted NaN"), (False, r"\(150, 1\) is needed")],
)
def test_bad_heads_are_named(nan, words):
    X, y = iris()
    model = SPAClassifier(GaussianNB(), mar_estimator=BadHead(nan)).fit(X, y)
    assert_array_equal(model.predict(X), GaussianNB().fit(X, y).predict(X))
    with pytest.raises(ValueError, match=words):
        model.predict_uncertainty(X)


def test_bad_targets_and_weights_are_named():
    X, y = iris()
    model = SPAClassifier(GaussianNB())
    with pytest.raises(ValueError, match="missing label"):
        model.fit(X, np.where(y == 0, None, y.astype(object)))
    with pytest.raises(ValueError, match="continuous"):
        model.fit(X, y + 0.5)
    with pytest.raises(ValueError, match="y to be passed"):
        model.fit(X, None)
    with pytest.raises(ValueError, match="inconsistent numbers"):
        model.fit(X, y[:-1])
    with pytest.raises(ValueError, match="sample_weight must have shape"):
        model.fit(X, y, np.ones(3))
    head = KNeighborsRegressor()
    with pytest.raises(ValueError, match=r"KNeighborsRegressor\.fit does not take it"):
        SPAClassifier(GaussianNB(), mar_estimator=head).fit(X, y, np.ones(150))
    held_out = SPAClassifier(GaussianNB(), residuals="holdout", cv=KFold(3))
    with pytest.raises(ValueError, match="at least one non-zero weight"):
        held_out.fit(X, y, np.r_[np.zeros(50), np.ones(100)])


def test_labels_that_a_frozen_classifier_does_not_know():
    X, y = iris()
    base = FrozenEstimator(GaussianNB().fit(X[:100], y[:100]))
    with pytest.raises(ValueError, match="labels that the estimator does not know"):
        SPAClassifier(base).fit(X, y)
    model = SPAClassifier(base).fit(X[:50], y[:50])  # one class is enough
    assert_array_equal(model.classes_, [0, 1])
    assert_array_equal(model.class_count_, [50, 0])


def test_extra_trees_take_missing_values():
    X, y = iris()
    X[::7, 1] = np.nan
    tree = DecisionTreeClassifier(max_depth=2, random_state=0)
    found = SPAClassifier(tree, random_state=0).fit(X, y).predict_uncertainty(X)
    assert all(np.isfinite(values).all() for values in found.values())
