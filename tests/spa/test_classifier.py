"""Split-point analysis of classifiers: exact heads, modes of residuals, edges."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import entropy
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from uqlib.exceptions import UncertaintyWarning
from uqlib.spa._classifier import SPAClassifier

FIELDS = {"aleatoric", "epistemic", "sds", "mar", "side_up", "side_down", "bias"}
HEADS = ("mar", "side_up", "side_down")


class ByGroup(ClassifierMixin, BaseEstimator):
    """Probabilities by the integer in the first column: learns the labels alone."""

    def __init__(self, table):
        self.table = table

    def fit(self, X, y):
        """Record the classes."""
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        """Look the probabilities up."""
        return np.asarray(self.table)[np.asarray(X)[:, 0].astype(int)]


class OneTarget(RegressorMixin, BaseEstimator):
    """Ridge that takes one target only, as gradient boosting does."""

    def fit(self, X, y, sample_weight=None):
        """Fit, and refuse several targets."""
        assert np.ndim(y) == 1
        self.model_ = Ridge().fit(X, y, sample_weight)
        return self

    def predict(self, X):
        """Predict."""
        return self.model_.predict(X)


TABLES = {
    2: np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]),
    3: np.array([[0.8, 0.1, 0.1], [0.5, 0.25, 0.25], [0.0, 0.6, 0.4]]),
}


def grouped(n_classes, seed=0, n_samples=90):
    """Rows of three groups, labels of any law, and a classifier that is biased."""
    rng = np.random.default_rng(seed)
    X = rng.permutation(np.arange(n_samples) % 3)[:, None].astype(float)
    truth = rng.dirichlet(np.ones(n_classes), 3)
    y = np.array([rng.choice(n_classes, p=truth[int(g)]) for g in X[:, 0]])
    y[:n_classes] = np.arange(n_classes)
    return X, y, ByGroup(TABLES[n_classes])


def exact(base, **options):
    """Heads that are the means of the groups."""
    tree = DecisionTreeRegressor(random_state=0)
    return SPAClassifier(base, mar_estimator=tree, **options)


def group_means(X, y, proba, weight=None):
    """m, u+ and u- of the group of each row, one number at a time."""
    weight = np.ones(y.size) if weight is None else weight
    means = np.zeros((3, *proba.shape))
    for i, k in np.ndindex(proba.shape):
        inside = np.flatnonzero(X[:, 0] == X[i, 0])
        total = sum(weight[j] for j in inside)
        for j in inside:
            share = weight[j] / total
            means[0, i, k] += share * abs((y[j] == k) - proba[j, k])
            means[1, i, k] += share * (1 - proba[j, k]) * (y[j] == k)
            means[2, i, k] += share * proba[j, k] * (y[j] != k)
    return means


# ---------------------------------------------------------------------------
# Heads that are exact.


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_tree_heads_are_the_means_of_the_groups(n_classes, weighted):
    X, y, base = grouped(n_classes)
    weight = np.random.default_rng(1).uniform(0.5, 3, y.size) if weighted else None
    model = exact(FrozenEstimator(base.fit(X, y))).fit(X, y, weight)
    proba = base.predict_proba(X)
    mar, up, down = group_means(X, y, proba, weight)
    found = model.predict_uncertainty(X)
    assert set(found) == FIELDS
    assert_allclose(found.mar, mar, rtol=1e-10)
    assert_allclose(found.side_up, up, atol=1e-12)
    assert_allclose(found.side_down, down, atol=1e-12)
    share = up + (proba - down)  # pi (1 - p) + p - (1 - pi) p = pi
    assert_allclose(found.bias, share - proba, atol=1e-12)
    expected = np.abs(share - proba) * np.abs(1 - 2 * proba)
    assert_allclose(found.sds, expected, atol=1e-12)
    assert_allclose(found.epistemic, expected.sum(axis=1), atol=1e-12)
    assert_allclose(found.aleatoric, entropy(proba, axis=1), atol=1e-12)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("adjust", ["min", "mean"])
def test_exact_heads_adjust_to_the_shares_of_the_groups(n_classes, adjust):
    X, y, base = grouped(n_classes)
    model = exact(base, residuals="train", adjust=adjust).fit(X, y)
    shares = np.array(
        [[np.mean(y[X[:, 0] == g] == k) for k in range(n_classes)] for g in range(3)]
    )[X[:, 0].astype(int)]
    assert_allclose(model.predict_proba(X), shares, atol=1e-10)
    assert_array_equal(model.predict(X), shares.argmax(axis=1))
    found = model.predict_uncertainty(X)
    assert_allclose(found.aleatoric, entropy(shares, axis=1), atol=1e-10)


def test_integer_weights_are_repetition():
    X, y, base = grouped(3)
    weight = np.random.default_rng(2).integers(1, 4, y.size)
    frozen = FrozenEstimator(base.fit(X, y))
    weighted = exact(frozen).fit(X, y, weight.astype(float))
    repeated = exact(frozen).fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    for name, values in weighted.predict_uncertainty(X).items():
        other = repeated.predict_uncertainty(X)[name]
        assert_allclose(values, other, rtol=1e-10, atol=1e-14, err_msg=name)


def test_half_precision_probabilities():
    X, y, base = grouped(3)
    rounded = ByGroup(base.table.astype(np.float16)).fit(X, y)
    model = exact(FrozenEstimator(rounded), adjust="mean").fit(X, y)
    assert_allclose(model.predict_proba(X).sum(axis=1), 1, rtol=0, atol=1e-12)
    found = model.predict_uncertainty(X)
    assert all(np.all(found[name] >= 0) for name in FIELDS - {"bias"})


# ---------------------------------------------------------------------------
# Whose residuals.


def iris(n_classes=3):
    X, y = load_iris(return_X_y=True)
    return X[y < n_classes], y[y < n_classes]


def heads_on(X, y, proba, X_new):
    """Ridge on the three residuals, all classes at once."""
    label = np.eye(3)[y]
    targets = np.abs(label - proba), label * (1 - proba), (1 - label) * proba
    return [Ridge().fit(X, target).predict(X_new) for target in targets]


@pytest.mark.parametrize("residuals", ["oof", "holdout", "train", "frozen"])
def test_residuals_are_those_asked_for(residuals):
    X, y = iris()
    cv, base = KFold(4, shuffle=True, random_state=3), GaussianNB()
    train, rows = np.arange(y.size), np.arange(y.size)
    if residuals == "holdout":
        train, rows = next(cv.split(X))
    full = clone(base).fit(X[train], y[train])
    if residuals == "oof":
        proba = cross_val_predict(base, X, y, cv=cv, method="predict_proba")
    else:
        proba = full.predict_proba(X[rows])
    options = {"residuals": residuals}
    if residuals == "frozen":
        base, options = FrozenEstimator(full), {"residuals": "holdout"}
    model = SPAClassifier(base, mar_estimator=Ridge(), cv=cv, **options).fit(X, y)
    p = full.predict_proba(X)
    assert_allclose(model.predict_proba(X), p)
    mar, up, down = heads_on(X[rows], y[rows], proba, X)
    found = model.predict_uncertainty(X)
    assert_allclose(found.mar, np.clip(mar, 0, 1), atol=1e-10)
    assert_allclose(found.side_up, np.clip(up, 0, 1 - p), atol=1e-10)
    assert_allclose(found.side_down, np.clip(down, 0, p), atol=1e-10)
    assert model.n_calibration_ == len(rows)
    assert_array_equal(model.class_count_, np.bincount(y[rows]))


@pytest.mark.parametrize("residuals", ["oof", "holdout"])
def test_a_memorizer_shows_its_errors_only_on_rows_held_out(residuals):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 3)), rng.integers(0, 2, 200)
    tree = DecisionTreeClassifier(random_state=0)
    inside = SPAClassifier(tree, residuals="train", random_state=0)
    with pytest.warns(UncertaintyWarning, match="say nothing of new rows"):
        inside.fit(X, y)
    outside = SPAClassifier(tree, residuals=residuals, random_state=0).fit(X, y)
    X_new = rng.normal(size=(50, 3))
    assert inside.predict_uncertainty(X_new).mar.max() == 0
    assert outside.predict_uncertainty(X_new).mar.mean() > 0.3


def test_holdout_is_a_fold_stratified_by_class():
    X, y = iris()
    model = SPAClassifier(GaussianNB(), residuals="holdout", random_state=0).fit(X, y)
    assert_array_equal(model.class_count_, [10, 10, 10])


def test_a_class_that_a_fold_has_not_seen():
    X, y = iris()
    cv = KFold(3)  # in the order of the classes
    model = SPAClassifier(GaussianNB(), mar_estimator=Ridge(), cv=cv).fit(X, y)
    proba = np.zeros((150, 3))
    for k in range(3):
        others = np.flatnonzero(y != k)
        part = GaussianNB().fit(X[others], y[others])
        proba[np.ix_(y == k, part.classes_)] = part.predict_proba(X[y == k])
    mar, _, _ = heads_on(X, y, proba, X)
    assert_allclose(model.predict_uncertainty(X).mar, np.clip(mar, 0, 1), atol=1e-10)


# ---------------------------------------------------------------------------
# One fit of all columns, or one a column.


def test_one_model_a_mean_or_one_a_class():
    X, y = iris()
    several = SPAClassifier(GaussianNB(), mar_estimator=Ridge(), random_state=0)
    single = SPAClassifier(GaussianNB(), mar_estimator=OneTarget(), random_state=0)
    several.fit(X, y), single.fit(X, y)
    assert {name: len(models) for name, models in several.heads_.items()} == (
        dict.fromkeys(HEADS, 1)
    )
    assert {name: len(models) for name, models in single.heads_.items()} == (
        dict.fromkeys(HEADS, 3)
    )
    found = single.predict_uncertainty(X)
    for name, values in several.predict_uncertainty(X).items():
        assert_allclose(found[name], values, atol=1e-10, err_msg=name)


@pytest.mark.parametrize(
    "head",
    [None, HistGradientBoostingRegressor(max_iter=3), KNeighborsRegressor()],
    ids=["default", "boosting", "neighbors"],
)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_means_lie_in_their_range(head, n_classes):
    X, y = iris(n_classes)
    model = SPAClassifier(GaussianNB(), mar_estimator=head, random_state=0).fit(X, y)
    p, found = model.predict_proba(X), model.predict_uncertainty(X)
    assert np.all((found.mar >= 0) & (found.mar <= 1))
    assert np.all((found.side_up >= 0) & (found.side_up <= 1 - p))
    assert np.all((found.side_down >= 0) & (found.side_down <= p))
    assert np.all(found.epistemic >= 0)
    assert np.all(found.aleatoric >= 0)


def test_two_classes_have_one_column_and_are_mirrored():
    X, y = load_breast_cancer(return_X_y=True)
    model = SPAClassifier(GaussianNB(), mar_estimator=Ridge(), random_state=0, cv=3)
    found = model.fit(X, y).predict_uncertainty(X)
    assert all(len(models) == 1 for models in model.heads_.values())
    assert_allclose(found.sds[:, 0], found.sds[:, 1], atol=1e-12)
    assert_allclose(found.epistemic, 2 * found.sds[:, 1], atol=1e-12)
    assert_allclose(found.bias.sum(axis=1), 0, atol=1e-12)
    mirrored = clone(model).fit(X, 1 - y).predict_uncertainty(X)
    for name in FIELDS - {"aleatoric", "epistemic"}:
        assert_allclose(mirrored[name], found[name][:, ::-1], atol=1e-9, err_msg=name)


# ---------------------------------------------------------------------------
# The adjustment.


def test_adjustment_keeps_the_accuracy_on_digits():
    X, y = load_digits(return_X_y=True)
    linear = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-2))
    model = SPAClassifier(linear, cv=3, random_state=0).fit(X[:900], y[:900])
    raw = model.score(X[900:], y[900:])
    for adjust in ("min", "mean"):
        model.set_params(adjust=adjust)  # the heads do not depend on it
        proba = model.predict_proba(X[900:])
        assert np.all((proba >= 0) & (proba <= 1))
        assert_allclose(proba.sum(axis=1), 1, rtol=0, atol=1e-12)
        assert model.score(X[900:], y[900:]) >= raw - 0.01


@pytest.mark.parametrize("adjust", ["none", "min", "mean"])
def test_aleatoric_is_the_entropy_of_what_is_predicted(adjust):
    X, y = iris()
    model = SPAClassifier(GaussianNB(), adjust=adjust, random_state=0).fit(X, y)
    proba = model.predict_proba(X)
    found = model.predict_uncertainty(X)
    assert_allclose(found.aleatoric, entropy(proba, axis=1), atol=1e-12)
    assert_array_equal(model.predict(X), proba.argmax(axis=1))
    raw = SPAClassifier(GaussianNB(), random_state=0).fit(X, y).predict_uncertainty(X)
    for name in FIELDS - {"aleatoric"}:
        assert_array_equal(found[name], raw[name])


def test_without_adjustment_the_probabilities_are_the_classifiers_own():
    X, y = iris()
    model = SPAClassifier(GaussianNB(), random_state=0).fit(X, y)
    assert_array_equal(model.predict_proba(X), GaussianNB().fit(X, y).predict_proba(X))
    shut = SPAClassifier(GaussianNB(), adjust="min", threshold=0, random_state=0)
    assert_allclose(shut.fit(X, y).predict_proba(X), model.predict_proba(X), atol=1e-15)
