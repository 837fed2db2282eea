"""CrossConformalizedQuantileRegressor: oracle, theorem, special cases, edges."""

import math
import re
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from joblib import parallel_config
from scipy.stats import binom
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import QuantileRegressor, Ridge
from sklearn.model_selection import KFold, LeaveOneOut, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests._models import ColumnQuantiles, normal_rows
from uqlib import (
    ConformalizedQuantileRegressor,
    InfiniteIntervalWarning,
    MultiQuantileRegressor,
)
from uqlib._core.outward import lower_end, upper_end
from uqlib.conformal import CrossConformalizedQuantileRegressor, _cross_base
from uqlib.exceptions import AlreadyFittedWarning

X, Y = normal_rows(100, seed=0)
X_NEW, _ = normal_rows(40, seed=1)
LEVELS = (0.05, 0.5, 0.95)


def linear(levels=LEVELS):
    return MultiQuantileRegressor(QuantileRegressor(alpha=0), quantiles=levels)


class Drifting(ColumnQuantiles):
    """Quantiles around a column that move with the rows it is fitted on."""

    def fit(self, X, y, sample_weight=None):
        super().fit(X, y)
        self.drift_ = round(float(np.average(y, weights=sample_weight)), 1)
        return self

    def predict_quantiles(self, X):
        return (super().predict_quantiles(X) + self.drift_).round(1)


class HalfInfinite(Drifting):
    """Some of its ends are infinite, on either side."""

    def predict_quantiles(self, X):
        matrix = super().predict_quantiles(X)
        draw = np.random.default_rng(len(matrix)).choice(7, size=len(matrix))
        matrix[draw == 1, 0] = matrix[draw == 3, 2] = -np.inf
        matrix[draw == 2, 2] = matrix[draw == 4, 0] = np.inf
        matrix[draw == 5] = [-np.inf, 0.0, np.inf]
        return matrix


def union_by_hand(base, X, y, X_new, splits, level, symmetric=True):
    """The definition: all n ends of every row, sorted."""
    n = len(y)
    lower_ends, upper_ends = np.empty((2, len(X_new), n))
    for train, test in splits:
        model = clone(base).fit(X[train], y[train])
        low, _, high = model.predict_quantiles(X[test]).T
        below, above = low - y[test], y[test] - high
        if symmetric:
            below = above = np.maximum(below, above)
        low, _, high = model.predict_quantiles(X_new).T
        lower_ends[:, test] = lower_end(low[:, None], -below)
        upper_ends[:, test] = upper_end(high[:, None], above)
    lower_ends[np.isnan(lower_ends)] = -np.inf
    upper_ends[np.isnan(upper_ends)] = np.inf
    alpha = 1 - Fraction(level)
    alpha = alpha if symmetric else alpha / 2
    first, last = math.floor(alpha * (n + 1)), math.ceil((1 - alpha) * (n + 1))
    lower = np.sort(lower_ends)[:, first - 1]
    upper = np.sort(upper_ends)[:, last - 1]
    return np.column_stack([np.minimum(lower, upper), np.maximum(lower, upper)])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("base", [Drifting(), HalfInfinite()])
@pytest.mark.parametrize(
    ("n", "cv"),
    [(40, 4), (97, 5), (23, LeaveOneOut()), (41, KFold(2)), (90, KFold(3))],
    ids=["equal", "unequal", "jackknife+", "two", "three"],
)
def test_equals_the_definition_bit_for_bit(n, cv, base, symmetric):
    level, outer = ("0.9", 0.05) if symmetric else ("0.8", 0.1)
    base = clone(base).set_params(quantiles=(outer, 0.5, 1 - outer))
    splitter = KFold(cv, shuffle=True, random_state=3) if isinstance(cv, int) else cv
    for seed in range(5):
        X, y = normal_rows(n, seed)
        y = y.round(1)  # ties
        splits = list(splitter.split(X))
        model = CrossConformalizedQuantileRegressor(
            base, confidence_level=float(level), symmetric=symmetric, cv=splits
        ).fit(X, y)
        expected = union_by_hand(base, X, y, X_NEW, splits, level, symmetric)
        np.testing.assert_array_equal(model.predict_interval(X_NEW), expected)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("cv", [5, 7, LeaveOneOut()])
def test_a_model_that_learns_nothing_is_split_conformal(cv, symmetric):
    base = ColumnQuantiles()
    frozen = FrozenEstimator(clone(base).fit(X, Y))
    split = ConformalizedQuantileRegressor(frozen, symmetric=symmetric).fit(X, Y)
    cross = CrossConformalizedQuantileRegressor(base, symmetric=symmetric, cv=cv)
    cross.fit(X, Y)
    np.testing.assert_array_equal(cross.scores_, split.scores_)
    np.testing.assert_array_equal(
        cross.predict_interval(X_NEW), split.predict_interval(X_NEW)
    )


class Nearest(ColumnQuantiles):
    """Predicts the target of the nearest training row: in sample all is covered."""

    def fit(self, X, y):
        self.X_, self.y_ = X[:, 0], y
        return super().fit(X, y)

    def predict_quantiles(self, X):
        nearest = np.abs(X[:, :1] - self.X_).argmin(axis=1)
        return np.repeat(self.y_[nearest], 3).reshape(-1, 3)


def guaranteed(n, n_folds, level):
    """The theorem's level for folds of equal size."""
    alpha = 1 - level
    slack = min(
        2 * (1 - 1 / n_folds) / (n / n_folds + 1), (1 - n_folds / n) / (n_folds + 1)
    )
    assert 1 - 2 * alpha - slack >= 1 - 2 * alpha - math.sqrt(2 / n)
    return 1 - 2 * alpha - slack


@pytest.mark.parametrize(
    ("base", "level", "cv", "raw_fails"),
    [
        (ColumnQuantiles((0.1, 0.5, 0.9), scale=0.5), 0.8, 5, False),
        (ColumnQuantiles((0.1, 0.5, 0.9), scale=0.05), 0.8, 5, True),
        (Nearest(), 0.9, 5, True),
        (Nearest(), 0.9, LeaveOneOut(), True),
    ],
    ids=["half width", "overconfident", "nearest row", "nearest row, jackknife+"],
)
def test_coverage_reaches_the_level_of_the_theorem(base, level, cv, raw_fails):
    n, n_replications = 20, 300
    n_folds = cv if isinstance(cv, int) else n
    model = CrossConformalizedQuantileRegressor(base, confidence_level=level, cv=cv)
    covered = covered_raw = 0
    for seed in range(n_replications):  # fresh rows, one of them new
        X, y = normal_rows(n + 1, seed)
        (lower, upper), new = model.fit(X[:n], y[:n]).predict_interval(X[n:])[0], y[n]
        covered += lower <= new <= upper
        low, _, high = model.estimators_[0].predict_quantiles(X[n:])[0]
        covered_raw += low <= new <= high
    # Each replication covers with at least this probability, independently.
    bound = binom.ppf(1e-6, n_replications, guaranteed(n, n_folds, level))
    assert covered >= bound
    assert not raw_fails or covered_raw < bound
    print(f"coverage {covered / n_replications:.3f}, nominal {level}")  # pytest -rP


@pytest.mark.parametrize("symmetric", [True, False])
def test_too_few_rows_give_infinite_intervals_and_one_warning(symmetric):
    model = CrossConformalizedQuantileRegressor(
        ColumnQuantiles(), symmetric=symmetric, cv=2
    )
    needed = 9 if symmetric else 19
    with pytest.warns(InfiniteIntervalWarning) as caught:
        model.fit(X[: needed - 1], Y[: needed - 1])
    assert len(caught) == 1
    assert f"at least {needed} are needed" in str(caught[0].message)
    assert caught[0].filename == __file__
    interval = model.predict_interval(X)  # without another warning
    np.testing.assert_array_equal(interval, np.tile([-np.inf, np.inf], (100, 1)))
    assert np.isfinite(model.fit(X[:needed], Y[:needed]).predict_interval(X)).all()


def test_too_few_rows_for_another_level_warn_when_it_is_asked():
    levels = (0.005, 0.05, 0.5, 0.95, 0.995)
    model = CrossConformalizedQuantileRegressor(ColumnQuantiles(levels)).fit(
        X[:50], Y[:50]
    )
    with pytest.warns(InfiniteIntervalWarning, match="at least 99 are needed"):
        interval = model.predict_interval(X, 0.99)
    assert np.isinf(interval).all()


def test_other_levels_agree_with_a_new_fit():
    base = linear((0.05, 0.2, 0.5, 0.8, 0.95))
    model = CrossConformalizedQuantileRegressor(base, random_state=0).fit(X, Y)
    fresh = CrossConformalizedQuantileRegressor(
        base, confidence_level=0.6, random_state=0
    ).fit(X, Y)
    np.testing.assert_array_equal(
        model.predict_interval(X_NEW, confidence_level=0.6),
        fresh.predict_interval(X_NEW),
    )
    np.testing.assert_array_equal(
        model.predict_interval(X_NEW, 0.9), model.predict_interval(X_NEW)
    )


def test_attributes_say_which_model_left_out_which_row():
    model = CrossConformalizedQuantileRegressor(linear(), cv=4, random_state=0)
    model.fit(X, Y)
    assert len(model.estimators_) == 4
    np.testing.assert_array_equal(np.bincount(model.fold_), [25] * 4)
    np.testing.assert_array_equal(model.quantiles_, LEVELS)
    assert (model.n_calibration_, model.confidence_level_) == (100, 0.9)
    for k, fitted in enumerate(model.estimators_):
        out = model.fold_ == k
        again = linear().fit(X[~out], Y[~out]).predict_quantiles(X[out])
        np.testing.assert_array_equal(fitted.predict_quantiles(X[out]), again)
        scores = np.maximum(again[:, 0] - Y[out], Y[out] - again[:, -1])
        np.testing.assert_array_equal(model.scores_[out], scores)


def test_the_point_is_the_mean_of_the_medians():
    model = CrossConformalizedQuantileRegressor(linear(), cv=3).fit(X, Y)
    medians = [m.predict_quantiles(X_NEW, [0.5]).ravel() for m in model.estimators_]
    np.testing.assert_allclose(model.predict(X_NEW), np.mean(medians, axis=0))


def test_weights_train_and_do_not_calibrate():
    weight = np.random.default_rng(0).uniform(0.5, 2, size=100)
    splits = list(KFold(5).split(X))
    model = CrossConformalizedQuantileRegressor(Drifting(), cv=splits)
    model.fit(X, Y, sample_weight=weight)
    train, test = splits[2]
    fitted = Drifting().fit(X[train], Y[train], weight[train])
    low, _, high = fitted.predict_quantiles(X[test]).T
    np.testing.assert_array_equal(
        model.scores_[test], np.maximum(low - Y[test], Y[test] - high)
    )


def test_memory_holds_no_matrix_of_new_rows_by_rows():
    X, y = normal_rows(20_000, seed=0)
    X_new, _ = normal_rows(10_000, seed=1)
    model = CrossConformalizedQuantileRegressor(Drifting()).fit(X, y)
    model.predict_interval(X_new)  # compiles, which takes memory of its own
    tracemalloc.start()
    try:
        model.predict_interval(X_new)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * 2**20  # the matrix would take 1.6 GB


def test_chunks_of_rows_leave_no_seam(monkeypatch):
    model = CrossConformalizedQuantileRegressor(Drifting()).fit(X, Y)
    whole = model.predict_interval(X_NEW)
    monkeypatch.setattr(_cross_base, "_CHUNK", 33)
    np.testing.assert_array_equal(model.predict_interval(X_NEW), whole)


def test_results_do_not_depend_on_n_jobs():
    class Random(ColumnQuantiles):
        def __init__(self, quantiles=LEVELS, random_state=None):
            super().__init__(quantiles)
            self.random_state = random_state

        def fit(self, X, y):
            rng = np.random.default_rng(self.random_state)
            self.shift = rng.normal()
            return super().fit(X, y)

    intervals = []
    for n_jobs in (1, 2):
        model = CrossConformalizedQuantileRegressor(
            Random(), n_jobs=n_jobs, random_state=0
        )
        with parallel_config(backend="threading"):
            intervals.append(model.fit(X, Y).predict_interval(X_NEW))
    np.testing.assert_array_equal(*intervals)
    other = CrossConformalizedQuantileRegressor(Random(), random_state=1).fit(X, Y)
    assert np.any(other.predict_interval(X_NEW) != intervals[0])


def test_dataframes_reach_the_estimator(df_module):
    names = ["a", "b"]
    frame, new = (
        df_module.make_dataframe(zip(names, rows.T, strict=True)) for rows in (X, X_NEW)
    )
    base = make_pipeline(StandardScaler(), linear())
    model = CrossConformalizedQuantileRegressor(base, random_state=0)
    expected = clone(model).fit(X, Y).predict_interval(X_NEW)
    model.fit(frame, df_module.make_series(Y))
    np.testing.assert_array_equal(model.feature_names_in_, names)
    np.testing.assert_allclose(model.predict_interval(new), expected, rtol=1e-12)
    assert model.predict(new).shape == (40,)


def test_the_estimator_is_never_changed():
    base = Drifting()
    CrossConformalizedQuantileRegressor(base, random_state=0).fit(X, Y)
    assert vars(base) == vars(Drifting())
    with pytest.warns(AlreadyFittedWarning):
        CrossConformalizedQuantileRegressor(linear().fit(X, Y), cv=2).fit(X, Y)


def test_parameters_set_after_the_fit_wait_for_the_next():
    model = CrossConformalizedQuantileRegressor(linear()).fit(X, Y)
    before = model.predict_interval(X_NEW)
    model.set_params(symmetric=False, confidence_level=0.5)
    np.testing.assert_array_equal(model.predict_interval(X_NEW), before)


def test_the_calibration_is_a_copy():
    y = Y.copy()
    model = CrossConformalizedQuantileRegressor(linear()).fit(X, y)
    before = model.predict_interval(X_NEW)
    y *= 100
    np.testing.assert_array_equal(model.predict_interval(X_NEW), before)


def test_levels_chosen_at_prediction():
    forest = pytest.importorskip("quantile_forest")
    base = forest.RandomForestQuantileRegressor(n_estimators=5)
    model = CrossConformalizedQuantileRegressor(base, cv=2, random_state=0).fit(X, Y)
    assert np.isfinite(model.predict_interval(X_NEW)).all()
    np.testing.assert_array_equal(model.quantiles_, [0.05, 0.95])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            CrossConformalizedQuantileRegressor(FrozenEstimator(linear().fit(X, Y))),
            "FrozenEstimator, but a model must be fitted without each fold",
        ),
        (
            CrossConformalizedQuantileRegressor(linear((0.1, 0.5, 0.9))),
            "The model has no quantile level 0.05, 0.95. It has [0.1, 0.5, 0.9]",
        ),
        (
            CrossConformalizedQuantileRegressor(QuantileRegressor(quantile=0.5)),
            "It has [0.5]",
        ),
        (
            CrossConformalizedQuantileRegressor(Ridge()),
            "Ridge cannot give quantiles",
        ),
        (
            CrossConformalizedQuantileRegressor(linear(), cv=ShuffleSplit(3)),
            "must put every row in exactly one test fold",
        ),
        (
            CrossConformalizedQuantileRegressor(linear(), cv=101),
            "n_splits=101",
        ),
        (
            CrossConformalizedQuantileRegressor(linear(), confidence_level=1.0),
            "confidence_level must lie strictly between 0 and 1",
        ),
    ],
    ids=["frozen", "no pair", "one level", "no quantiles", "folds", "cv", "level"],
)
def test_bad_parameters_are_named(model, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        model.fit(X, Y)


def test_a_level_without_a_pair_lists_the_levels():
    model = CrossConformalizedQuantileRegressor(linear()).fit(X, Y)
    with pytest.raises(ValueError, match=re.escape("no quantile level 0.1, 0.9")):
        model.predict_interval(X, confidence_level=0.8)


def test_a_fit_that_fails_leaves_the_last_one_alone():
    model = CrossConformalizedQuantileRegressor(linear()).fit(X, Y)
    before = model.predict_interval(X_NEW)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(X, np.where(Y > 1, np.nan, Y))
    model.set_params(confidence_level=0.8)
    with pytest.raises(ValueError, match="no quantile level"):
        model.fit(X, Y)
    np.testing.assert_array_equal(model.predict_interval(X_NEW), before)


def test_group_by_a_column_is_the_same_as_its_array():
    loud = X[:, 0] > 0
    array = CrossConformalizedQuantileRegressor(linear(), random_state=0)
    array.fit(X, Y, mondrian_groups=loud)
    column = CrossConformalizedQuantileRegressor(
        linear(), group_by=lambda rows: rows[:, 0] > 0, random_state=0
    ).fit(X, Y)
    assert column.groups_.tolist() == [False, True]
    np.testing.assert_array_equal(
        column.predict_interval(X), array.predict_interval(X, mondrian_groups=loud)
    )
