"""What must change nothing in any calibrator, and what must be nested in the level."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import PredefinedSplit

from tests._models import ColumnQuantiles, Zero
from tests.conformal._proba import frozen, proba_rows
from uqlib import conformal as cp
from uqlib.exceptions import InfiniteIntervalWarning

LEVELS = (0.1, 0.5, 0.55, 0.8, 0.9, 0.95)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 2))
Y = X[:, 0] + RNG.normal(size=80) * np.exp(X[:, 1] / 2)
X_NEW = np.vstack([RNG.normal(size=(15, 2)), X[:5]])
GROUPS, GROUPS_NEW = np.arange(80) % 3, np.arange(20) % 3
RATIO, RATIO_NEW = np.arange(80) % 5 / 4, np.arange(20) % 4 / 4
PROBA, LABELS = proba_rows(120, n_classes=4)
PROBA_NEW, _ = proba_rows(30, n_classes=4, seed=1)


def _point():
    return FrozenEstimator(LinearRegression().fit(X[:40], Y[:40]))


def _band():
    tails = sorted((1 - level) / 2 for level in LEVELS)
    levels = [*tails, 0.5, *(1 - tail for tail in reversed(tails))]
    return FrozenEstimator(ColumnQuantiles(levels).fit(X, Y))


SPLIT = {
    "split": cp.SplitConformalRegressor(_point()),
    "signed": cp.SplitConformalRegressor(_point(), nonconformity="signed"),
    "quantile": cp.ConformalizedQuantileRegressor(_band()),
    "asymmetric": cp.ConformalizedQuantileRegressor(_band(), symmetric=False),
    "conditional": cp.ConditionalConformalRegressor(_point()),
    "localized": cp.LocalizedConformalRegressor(_point(), bandwidth=1.0),
    "drawn": cp.LocalizedConformalRegressor(
        _point(), bandwidth=1.0, randomized=True, random_state=0
    ),
    "fixed": cp.NonexchangeableConformalRegressor(_point(), decay=1),
}
# The order of rows is time for the first two; bags are drawn by position in the last.
ORDERED = {
    "decay": cp.NonexchangeableConformalRegressor(_point(), decay=0.98),
    "online": cp.OnlineConformalRegressor(_point()),
    "enbpi": cp.EnbPIRegressor(LinearRegression(), n_estimators=9, random_state=0),
    "bootstrap": cp.BootstrapConformalRegressor(
        LinearRegression(), n_estimators=15, random_state=0
    ),
}
CROSS = {
    method: cp.CrossConformalRegressor(LinearRegression(), method=method)
    for method in ("plus", "minmax", "base")
}
REGRESSORS = SPLIT | ORDERED | CROSS
CLASSIFIERS = {
    name: cp.ConformalClassifier(frozen(range(4)), nonconformity=name)
    for name in ("lac", "aps", "raps", "saps", "topk", "margin")
} | {
    "by class": cp.ConformalClassifier(frozen(range(4)), class_conditional=True),
    "allow_empty": cp.ConformalClassifier(frozen(range(4)), allow_empty=True),
}


@pytest.fixture(autouse=True)
def _few_rows_are_no_matter():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InfiniteIntervalWarning)
        yield


def _interval(model, rows=slice(None), new=slice(None), level=0.8, **fit):
    """Intervals of new rows after calibration on some rows."""
    model = clone(model).set_params(confidence_level=level)
    conditions = {}
    for name, old, now in (
        ("mondrian_groups", GROUPS, GROUPS_NEW),
        ("likelihood_ratio", RATIO, RATIO_NEW),
    ):
        if fit.pop(name, False):
            fit[name], conditions[name] = old[rows], now[new]
    if hasattr(model, "cv"):
        fold = (np.arange(80) % 4)[rows]
        model.set_params(cv=PredefinedSplit(fold))
    model.fit(X[rows], Y[rows], **fit)
    return model.predict_interval(X_NEW[new], **conditions)


def _sets(model, rows=slice(None), level=0.8, **parameters):
    model = clone(model).set_params(confidence_level=level, **parameters)
    return model.fit(PROBA[rows], LABELS[rows]).predict_set(PROBA_NEW)


# -------------------------------------------------------------- nested in the level


@pytest.mark.parametrize("name", REGRESSORS)
def test_intervals_are_nested_in_the_level(name):
    inner = _interval(REGRESSORS[name], level=LEVELS[0])
    for level in LEVELS[1:]:
        outer = _interval(REGRESSORS[name], level=level)
        # The shortest pair of residuals has no fixed ends: its width is nested.
        if name == "enbpi":
            assert (np.diff(outer) >= np.diff(inner)).all()
        else:
            assert (outer[:, 0] <= inner[:, 0] + 1e-12).all()
            assert (outer[:, 1] >= inner[:, 1] - 1e-12).all()
        inner = outer


@pytest.mark.parametrize("name", ["split", "signed", "quantile", "asymmetric"])
@pytest.mark.parametrize("condition", ["mondrian_groups", "likelihood_ratio"])
def test_intervals_under_conditions_are_nested_in_the_level(name, condition):
    # From 0.5 on: two ends that cross are no interval, and are exchanged.
    inner = _interval(SPLIT[name], level=LEVELS[1], **{condition: True})
    for level in LEVELS[2:]:
        outer = _interval(SPLIT[name], level=level, **{condition: True})
        # A band that moves with the level brings its rounding with it.
        assert (outer[:, 0] <= inner[:, 0] + 1e-12).all()
        assert (outer[:, 1] >= inner[:, 1] - 1e-12).all()
        inner = outer


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("randomized", [False, True])
def test_sets_are_nested_in_the_level(name, randomized):
    inner = np.zeros((30, 4), dtype=bool)
    for level in LEVELS:
        outer = _sets(
            CLASSIFIERS[name], level=level, randomized=randomized, random_state=0
        )
        assert (outer >= inner).all()
        inner = outer


# -------------------------------------------------------------- order of the rows


@pytest.mark.parametrize("name", SPLIT | CROSS)
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_calibration_rows_does_not_matter(name, seed):
    order = np.random.default_rng(seed).permutation(80)
    model = REGRESSORS[name]
    np.testing.assert_allclose(
        _interval(model, order), _interval(model), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("name", ["split", "signed", "quantile", "asymmetric"])
def test_conditions_stay_with_their_rows(name):
    order = np.random.default_rng(1).permutation(80)
    both = {"mondrian_groups": True, "likelihood_ratio": True}
    np.testing.assert_array_equal(
        _interval(SPLIT[name], order, **both), _interval(SPLIT[name], **both)
    )


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_order_of_labeled_rows_does_not_matter(name):
    order = np.random.default_rng(2).permutation(120)
    np.testing.assert_array_equal(
        _sets(CLASSIFIERS[name], order), _sets(CLASSIFIERS[name])
    )


@pytest.mark.parametrize("name", REGRESSORS)
def test_new_rows_do_not_know_of_one_another(name):
    # A draw belongs to the place of a row in its call.
    rows = np.arange(7) if name == "drawn" else np.array([3, 3, 11, 0])
    np.testing.assert_allclose(
        _interval(REGRESSORS[name], new=rows),
        _interval(REGRESSORS[name])[rows],
        rtol=1e-12,
    )


# -------------------------------------------------------- monotone maps of the score


class Mapped:
    """|y - y_pred| through an increasing function, with its exact inverse."""

    def __init__(self, forth, back):
        self.forth, self.back = forth, back

    def score(self, y, y_pred):
        return self.forth(np.abs(y - y_pred))

    def inverse(self, y_pred, threshold):
        offset = np.broadcast_to(self.back(np.asarray(threshold)), y_pred.shape)
        return cp.split_interval(y_pred, np.column_stack([offset, offset]))


MAPS = {
    "log": (np.log, np.exp),
    "square": (np.square, np.sqrt),
    "shifted": (lambda s: 3 * s - 7, lambda t: (t + 7) / 3),
}


@pytest.mark.parametrize("transform", MAPS)
@pytest.mark.parametrize("name", ["split", "localized", "drawn", "fixed", "decay"])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_an_increasing_map_of_the_score_leaves_intervals_as_they_are(
    name, transform, level
):
    model = REGRESSORS[name]
    mapped = clone(model).set_params(nonconformity=Mapped(*MAPS[transform]))
    np.testing.assert_allclose(
        _interval(mapped, level=level),
        _interval(model, level=level),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("transform", MAPS)
@pytest.mark.parametrize("condition", ["mondrian_groups", "likelihood_ratio"])
def test_an_increasing_map_of_the_score_under_conditions(transform, condition):
    model, keywords = SPLIT["split"], {condition: True}
    mapped = clone(model).set_params(nonconformity=Mapped(*MAPS[transform]))
    np.testing.assert_allclose(
        _interval(mapped, **keywords),
        _interval(model, **keywords),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("transform", MAPS)
def test_an_increasing_map_of_the_score_in_a_stream(transform):
    # The level depends on the order of the scores alone.
    intervals = []
    for score in ("absolute", Mapped(*MAPS[transform])):
        model = cp.OnlineConformalRegressor(_point(), nonconformity=score, gamma=0.05)
        model.fit(X[:40], Y[:40])
        intervals.append(model.predict_interval_online(X[40:], Y[40:]))
    np.testing.assert_allclose(*intervals, rtol=1e-9, atol=1e-9)


class MappedProba:
    """1 - p through an increasing function."""

    def __init__(self, forth):
        self.forth = forth

    def scores(self, proba):
        with np.errstate(divide="ignore"):
            return self.forth(1 - proba)


@pytest.mark.parametrize("transform", MAPS)
@pytest.mark.parametrize("name", ["lac", "by class", "allow_empty"])
def test_an_increasing_map_of_the_score_leaves_sets_as_they_are(name, transform):
    model = CLASSIFIERS[name]
    mapped = clone(model).set_params(nonconformity=MappedProba(MAPS[transform][0]))
    for level in LEVELS:
        np.testing.assert_array_equal(
            _sets(mapped, level=level), _sets(model, level=level)
        )


# ------------------------------------------------------------------------ weights


@pytest.mark.parametrize("name", ["split", "signed", "quantile", "asymmetric"])
@pytest.mark.parametrize("weight", [0.1, 1.0, 1e6])
@pytest.mark.parametrize("level", LEVELS)
def test_equal_weights_are_no_weights_with_the_extra_atom(name, weight, level):
    plain = clone(SPLIT[name]).set_params(confidence_level=level).fit(X, Y)
    weighted = clone(plain).fit(X, Y, likelihood_ratio=np.full(80, weight))
    np.testing.assert_array_equal(
        weighted.predict_interval(X_NEW, likelihood_ratio=np.full(20, weight)),
        plain.predict_interval(X_NEW),
    )


@pytest.mark.parametrize("level", LEVELS)
def test_equal_weights_of_every_kind_are_split_conformal_regression(level):
    expected = _interval(SPLIT["split"], level=level)
    far = clone(SPLIT["localized"]).set_params(bandwidth=np.inf)
    for model in (far, SPLIT["fixed"]):
        np.testing.assert_array_equal(_interval(model, level=level), expected)
    one = clone(SPLIT["conditional"]).set_params(features=lambda X: np.ones(len(X)))
    np.testing.assert_array_equal(_interval(one, level=level), expected)
    stream = clone(ORDERED["online"]).set_params(gamma=0.0)
    np.testing.assert_array_equal(_interval(stream, level=level), expected)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=30),
    st.sampled_from(LEVELS),
)
def test_whole_weights_are_repeated_rows_up_to_the_new_row(counts, level):
    counts = np.array(counts)
    rows, repeated = np.arange(counts.size), np.repeat(np.arange(counts.size), counts)
    weighted = cp.SplitConformalRegressor(_point(), confidence_level=level)
    weighted.fit(X[rows], Y[rows], likelihood_ratio=counts)
    interval = weighted.predict_interval(X_NEW, likelihood_ratio=np.ones(20))
    if repeated.size == 0:
        assert np.isinf(interval).all()
        return
    plain = cp.SplitConformalRegressor(_point(), confidence_level=level)
    plain.fit(X[repeated], Y[repeated])
    # The model's own last bits depend on how many rows it is asked for.
    np.testing.assert_allclose(interval, plain.predict_interval(X_NEW), rtol=1e-12)
    fixed = cp.NonexchangeableConformalRegressor(_point(), confidence_level=level)
    fixed.fit(X[rows], Y[rows], calibration_weight=np.minimum(counts, 1))
    once = np.flatnonzero(counts)
    plain.fit(X[once], Y[once])
    np.testing.assert_allclose(
        fixed.predict_interval(X_NEW), plain.predict_interval(X_NEW), rtol=1e-12
    )


def test_a_constant_target_gives_a_point():
    model = FrozenEstimator(Zero().fit(X, Y))
    for name in ("split", "localized", "fixed", "online"):
        around = clone(REGRESSORS[name]).set_params(estimator=model)
        interval = around.fit(X, np.zeros(80)).predict_interval(X_NEW)
        assert (np.abs(interval[np.isfinite(interval)]) < 1e-300).all()
