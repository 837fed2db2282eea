"""BootstrapConformalRegressor: explicit loops, own bags, theorem, edges."""

import math
import pickle
import re
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from joblib import parallel_config
from scipy.stats import binom
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    BaggingRegressor,
    ExtraTreesRegressor,
    RandomForestRegressor,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, QuantileRegressor, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeRegressor

from tests._models import Zero, normal_rows
from tests.conformal.test_cross import METHODS, LearnedUnit, NoAffine
from uqlib import InfiniteIntervalWarning, MultiQuantileRegressor
from uqlib._core import out_of_bag
from uqlib._core.out_of_bag import aggregate_own, aggregate_without
from uqlib.conformal import (
    AbsoluteScore,
    BootstrapConformalRegressor,
    GammaScore,
    NormalizedScore,
    QuantileScore,
    SignedScore,
    SplitConformalRegressor,
    _cross_base,
)
from uqlib.exceptions import AlreadyFittedWarning

X, Y = normal_rows(60, seed=0)
X_NEW, _ = normal_rows(25, seed=1)
CENTER = {"mean": np.mean, "median": np.median}


def loops(points, points_new, out, y, score, level, method, center):
    """The definition, training row by training row; `points` one column a model."""
    n = len(y)
    mu_own = np.stack([center(points[i, out[:, i]], axis=0) for i in range(n)])
    mu_new = [center(points_new[:, out[:, i]], axis=1) for i in range(n)]
    scores = score.score(y, mu_own)
    alpha = 1 - Fraction(level)
    rank = math.ceil((n + 1) * (1 - (alpha if scores.ndim == 1 else alpha / 2)))
    threshold = np.sort(scores, axis=0)[rank - 1]

    def interval(mu, at):
        if isinstance(score, QuantileScore):  # ends of one row may cross
            below, above = np.broadcast_to(at, 2)
            return np.column_stack([mu[:, 0] - below, mu[:, 1] + above])
        return score.inverse(mu, np.broadcast_to(at, (len(mu), *at.shape)))

    if method == "base":
        return interval(center(points_new, axis=1), threshold)
    if method == "minmax":
        ends = np.stack([interval(mu, threshold) for mu in mu_new])
        return np.column_stack([ends[:, :, 0].min(axis=0), ends[:, :, 1].max(axis=0)])
    ends = np.stack([interval(mu_new[i], scores[i]) for i in range(n)])
    lower = -np.sort(-ends[:, :, 0], axis=0)[rank - 1]
    return np.column_stack([lower, np.sort(ends[:, :, 1], axis=0)[rank - 1]])


def all_points(models, rows):
    return np.stack([model.predict(rows) for model in models], axis=1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("aggregate", CENTER)
@pytest.mark.parametrize(
    "score",
    [
        AbsoluteScore(),
        SignedScore(),
        GammaScore(),
        NoAffine(AbsoluteScore()),
        NoAffine(SignedScore()),
    ],
    ids=["absolute", "signed", "gamma", "own", "own, two ends"],
)
def test_equals_explicit_loops(score, aggregate, method):
    y = (Y + 5).round(1)
    model = BootstrapConformalRegressor(
        Ridge(),
        nonconformity=score,
        method=method,
        aggregate=aggregate,
        n_estimators=25,
        random_state=0,
    ).fit(X, y)
    out = model.out_of_bag_
    assert out.shape == (25, 60)
    assert out.any(axis=0).all()
    points, new = (all_points(model.estimators_, rows) for rows in (X, X_NEW))
    result = model.predict_interval(X_NEW)
    expected = loops(points, new, out, y, score, "0.9", method, CENTER[aggregate])
    np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        model.predict(X_NEW), CENTER[aggregate](new, axis=1), rtol=1e-12
    )
    other = loops(points, new, out, y, score, "0.7", method, CENTER[aggregate])
    np.testing.assert_allclose(model.predict_interval(X_NEW, 0.7), other, atol=1e-9)


@pytest.mark.parametrize("aggregate", CENTER)
@pytest.mark.parametrize("symmetric", [True, False])
def test_quantiles_are_aggregated_each(aggregate, symmetric):
    base = MultiQuantileRegressor(
        QuantileRegressor(alpha=0), quantiles=(0.05, 0.2, 0.8, 0.95)
    )
    score = QuantileScore(symmetric)
    model = BootstrapConformalRegressor(
        base, nonconformity=score, aggregate=aggregate, n_estimators=12, random_state=0
    ).fit(X, Y)
    for level, columns in (("0.9", [0, 3]), ("0.6", [1, 2])):
        points, new = (
            np.stack(
                [m.predict_quantiles(rows)[:, columns] for m in model.estimators_],
                axis=1,
            )
            for rows in (X, X_NEW)
        )
        seen = ~model.out_of_bag_.any(axis=0)
        assert not seen.any()
        expected = loops(
            points, new, model.out_of_bag_, Y, score, level, "plus", CENTER[aggregate]
        )
        result = model.predict_interval(X_NEW, float(level))
        np.testing.assert_allclose(result, expected, atol=1e-9)


def test_points_and_scales_are_aggregated_each():
    rows, new = (np.column_stack([r[:, 0], np.abs(r[:, 1]) + 1]) for r in (X, X_NEW))
    score = NormalizedScore(column=1)
    model = BootstrapConformalRegressor(
        Ridge(), nonconformity=score, n_estimators=20, random_state=0
    ).fit(rows, Y)
    points, points_new = (
        np.stack(
            [np.column_stack([m.predict(r), r[:, 1]]) for m in model.estimators_],
            axis=1,
        )
        for r in (rows, new)
    )
    expected = loops(
        points, points_new, model.out_of_bag_, Y, score, "0.9", "plus", np.mean
    )
    np.testing.assert_allclose(model.predict_interval(new), expected, rtol=1e-9)
    learned = clone(model).set_params(nonconformity=NormalizedScore(cv=2))
    assert np.isfinite(learned.fit(rows, Y).predict_interval(new)).all()


def test_a_model_that_learns_nothing_is_split_conformal():
    frozen = FrozenEstimator(Zero().fit(X, Y))
    expected = SplitConformalRegressor(frozen).fit(X, Y).predict_interval(X_NEW)
    for method in METHODS:
        model = BootstrapConformalRegressor(Zero(), method=method, random_state=0)
        np.testing.assert_array_equal(model.fit(X, Y).predict_interval(X_NEW), expected)


# ----------------------------------------------------------------- own bags

ENSEMBLES = {
    "forest": RandomForestRegressor(20, random_state=0),
    "half bags": RandomForestRegressor(20, max_samples=0.5, random_state=0),
    "extra trees": ExtraTreesRegressor(20, bootstrap=True, random_state=0),
    "bagging": BaggingRegressor(Ridge(), 20, random_state=0),
    "features": BaggingRegressor(
        DecisionTreeRegressor(), 20, max_features=1, random_state=0
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ENSEMBLES)
def test_an_ensemble_brings_its_own_bags(name, method):
    ensemble = ENSEMBLES[name]
    fitted = clone(ensemble).fit(X, Y)
    members = fitted.estimators_
    columns = getattr(fitted, "estimators_features_", [slice(None)] * 20)
    points, new = (
        np.stack(
            [m.predict(rows[:, c]) for m, c in zip(members, columns, strict=True)],
            axis=1,
        )
        for rows in (X, X_NEW)
    )
    out = np.ones((20, 60), dtype=bool)
    for row, bag in zip(out, fitted.estimators_samples_, strict=True):
        row[bag] = False
    expected = loops(points, new, out, Y, AbsoluteScore(), "0.9", method, np.mean)
    for estimator in (ensemble, FrozenEstimator(fitted)):
        model = BootstrapConformalRegressor(estimator, method=method).fit(X, Y)
        np.testing.assert_array_equal(model.out_of_bag_, out)
        np.testing.assert_allclose(model.predict_interval(X_NEW), expected, rtol=1e-9)
        np.testing.assert_allclose(model.predict(X_NEW), fitted.predict(X_NEW))
        assert len(model.estimators_) == 20
    assert model.estimator_ is fitted  # the frozen one is used as it stands
    assert not hasattr(ensemble, "estimators_")


def test_out_of_bag_scores_are_those_of_the_forest():
    forest = RandomForestRegressor(30, oob_score=True, random_state=0)
    model = BootstrapConformalRegressor(forest).fit(X, Y)
    np.testing.assert_allclose(
        model.scores_, np.abs(Y - model.estimator_.oob_prediction_), rtol=1e-10
    )


def test_an_ensemble_without_bags_is_a_model_like_any_other():
    trees = ExtraTreesRegressor(3, bootstrap=False)
    model = BootstrapConformalRegressor(trees, n_estimators=15, random_state=0)
    model.fit(X, Y)
    assert not hasattr(model, "estimator_")
    assert len(model.estimators_) == 15
    assert all(isinstance(m, ExtraTreesRegressor) for m in model.estimators_)
    assert np.isfinite(model.predict_interval(X_NEW)).all()


def test_frozen_bags_of_other_rows_are_refused():
    frozen = FrozenEstimator(RandomForestRegressor(5).fit(X, Y))
    message = "The frozen RandomForestRegressor was trained on 60 rows, got 50"
    with pytest.raises(ValueError, match=message):
        BootstrapConformalRegressor(frozen).fit(X[:50], Y[:50])


def test_frames_reach_the_members_of_an_ensemble(df_module):
    frame, new = (
        df_module.make_dataframe(zip("ab", rows.T, strict=True)) for rows in (X, X_NEW)
    )
    for name in ("forest", "features"):
        model = BootstrapConformalRegressor(ENSEMBLES[name])
        expected = clone(model).fit(X, Y).predict_interval(X_NEW)
        model.fit(frame, df_module.make_series(Y))
        np.testing.assert_allclose(model.predict_interval(new), expected, rtol=1e-12)


# ----------------------------------------------------------------- coverage


class Interpolator(RegressorMixin, BaseEstimator):
    """Least squares of least norm: unstable where the rows meet the columns."""

    def fit(self, X, y):
        """Interpolate."""
        self.coef_ = np.linalg.lstsq(X, y, rcond=None)[0]
        return self

    def predict(self, X):
        """Return the linear function."""
        return X @ self.coef_


@pytest.mark.filterwarnings("ignore::uqlib.InfiniteIntervalWarning")  # no bag: rare
@pytest.mark.parametrize(("method", "level"), [("plus", 0.8), ("minmax", 0.9)])
def test_coverage_reaches_the_level_of_the_theorem(method, level):
    n, n_features, n_replications = 20, 12, 150
    covered = 0
    for seed in range(n_replications):  # fresh rows, one of them new
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(n + 1, n_features))
        y = rows[:, 0] + rng.normal(size=n + 1)
        model = BootstrapConformalRegressor(
            Interpolator(),
            confidence_level=0.9,
            method=method,
            n_estimators=15,
            random_count=True,
            random_state=seed,
        ).fit(rows[:n], y[:n])
        (lower, upper), *_ = model.predict_interval(rows[n:])
        covered += lower <= y[n] <= upper
    print(f"coverage {covered / n_replications:.3f}")  # pytest -rP
    # Each replication covers with at least this probability, independently.
    assert covered >= binom.ppf(1e-6, n_replications, level)


def test_a_random_number_of_bags_is_binomial():
    n, mean, draws = 20, 10, 400
    share = (1 - 1 / (n + 1)) ** n
    total = round(mean / share)
    model = BootstrapConformalRegressor(Zero(), n_estimators=mean, random_count=True)
    random_state = np.random.RandomState(0)
    counts = [len(model._draw_bags(random_state, n)) for _ in range(draws)]
    # The sum of the draws is binomial itself.
    low, high = binom.ppf([5e-7, 1 - 5e-7], total * draws, share)
    assert low <= sum(counts) <= high
    assert len(set(counts)) > 5
    fixed = clone(model).set_params(random_count=False)
    assert {len(fixed._draw_bags(random_state, n)) for _ in range(20)} == {mean}


# ----------------------------------------------------------------- edges


def test_rows_in_all_bags_have_infinite_ends():
    # Two bags: many rows are in both, and no end of theirs is finite.
    model = BootstrapConformalRegressor(Ridge(), n_estimators=2, random_state=0)
    with pytest.warns(InfiniteIntervalWarning, match="rows are in every bag") as caught:
        model.fit(X, Y)
    assert len(caught) == 1
    seen = ~model.out_of_bag_.any(axis=0)
    assert 0.2 < seen.mean() < 0.6
    np.testing.assert_array_equal(np.isinf(model.scores_), seen)
    assert np.isinf(model.predict_interval(X_NEW)).all()
    # At a level that the other rows reach, they are the last in the order.
    level, n = 0.5, 60
    result = model.predict_interval(X_NEW, level)
    points = all_points(model.estimators_, X_NEW)
    ends = np.full((25, n), np.inf)
    for i in np.flatnonzero(~seen):
        own = points[:, model.out_of_bag_[:, i]].mean(axis=1)
        ends[:, i] = own + model.scores_[i]
    upper = np.sort(ends, axis=1)[:, math.ceil((n + 1) * Fraction(1, 2)) - 1]
    np.testing.assert_allclose(result[:, 1], upper, rtol=1e-12)
    with pytest.warns(InfiniteIntervalWarning, match="rows are in every bag"):
        model.predict_interval(X_NEW, 0.8)
    two_ends = clone(model).set_params(nonconformity="signed", confidence_level=0.05)
    np.testing.assert_array_equal(
        np.isinf(two_ends.fit(X, Y).scores_).all(axis=1), seen
    )


def test_no_bag_at_all_is_honest():
    model = BootstrapConformalRegressor(Ridge(), n_estimators=1, random_count=True)
    n_bags = []
    for seed in range(20):
        model.set_params(random_state=seed)
        with pytest.warns(InfiniteIntervalWarning):
            model.fit(X, Y)
        assert np.isinf(model.predict_interval(X_NEW)).all()
        assert np.isfinite(model.predict(X_NEW)).all()
        n_bags.append(model.out_of_bag_.any(axis=1).sum())
    assert 0 in n_bags


@pytest.mark.parametrize("method", METHODS)
def test_too_few_rows_give_infinite_intervals_and_one_warning(method):
    model = BootstrapConformalRegressor(Zero(), method=method, random_state=0)
    with pytest.warns(InfiniteIntervalWarning, match="at least 9 are needed") as caught:
        model.fit(X[:8], Y[:8])
    assert len(caught) == 1
    interval = model.predict_interval(X_NEW)  # without another warning
    np.testing.assert_array_equal(interval, np.tile([-np.inf, np.inf], (25, 1)))


def test_groups_are_calibrated_by_their_own_rows():
    labels, new = np.where(X[:, 1] > 0, "a", "b"), np.where(X_NEW[:, 1] > 0, "a", "b")
    model = BootstrapConformalRegressor(LinearRegression(), random_state=0)
    model.fit(X, Y, mondrian_groups=labels)
    result = model.predict_interval(X_NEW, 0.8, mondrian_groups=new)
    points, points_new = (all_points(model.estimators_, r) for r in (X, X_NEW))
    for label in "ab":
        own, own_new = labels == label, new == label
        expected = loops(
            points[own],
            points_new[own_new],
            model.out_of_bag_[:, own],
            Y[own],
            AbsoluteScore(),
            "0.8",
            "plus",
            np.mean,
        )
        np.testing.assert_allclose(result[own_new], expected, atol=1e-9)
    with pytest.warns(InfiniteIntervalWarning, match="had no calibration rows"):
        model.predict_interval(X_NEW, mondrian_groups=np.full(25, "c"))


def test_weights_train_and_do_not_calibrate():
    weight = np.random.default_rng(0).uniform(0.5, 2, size=60)
    plain = BootstrapConformalRegressor(Ridge(), random_state=0).fit(X, Y)
    model = clone(plain).fit(X, Y, weight)
    np.testing.assert_array_equal(model.out_of_bag_, plain.out_of_bag_)
    out = model.out_of_bag_
    points = all_points(model.estimators_, X)
    own = [points[i, out[:, i]].mean() for i in range(60)]
    np.testing.assert_allclose(model.scores_, np.abs(Y - own), rtol=1e-9)
    assert np.all(model.scores_ != plain.scores_)
    ones = clone(plain).fit(X, Y, np.ones(60))
    np.testing.assert_allclose(ones.scores_, plain.scores_, rtol=1e-9)


class WeighsItsRows(Zero):
    """Refuses a weight that is not its row's."""

    def fit(self, X, y, sample_weight):
        """Compare the weights with a column."""
        np.testing.assert_array_equal(np.asarray(X)[:, 0], sample_weight)
        return super().fit(X, y)


def test_every_row_of_a_bag_keeps_its_weight():
    weight = np.arange(1.0, 61.0)
    rows = np.column_stack([weight, X])
    model = BootstrapConformalRegressor(WeighsItsRows(), random_state=0)
    assert len(model.fit(rows, Y, weight).estimators_) == 30


@pytest.mark.parametrize("aggregate", CENTER)
def test_chunks_of_rows_leave_no_seam(monkeypatch, aggregate):
    model = BootstrapConformalRegressor(Ridge(), aggregate=aggregate, random_state=0)
    whole = model.fit(X, Y).predict_interval(X_NEW)
    monkeypatch.setattr(_cross_base, "_CHUNK", 130)
    monkeypatch.setattr(out_of_bag, "_BLOCK", 4000)
    np.testing.assert_allclose(model.predict_interval(X_NEW), whole, rtol=1e-13)


@pytest.mark.parametrize("aggregate", CENTER)
def test_memory_holds_no_matrix_of_new_rows_by_rows(aggregate):
    rows, y = normal_rows(2_000, seed=0)
    new, _ = normal_rows(5_000 if aggregate == "mean" else 400, seed=1)
    model = BootstrapConformalRegressor(Zero(), aggregate=aggregate, random_state=0)
    model.fit(rows, y)
    tracemalloc.start()
    try:
        model.predict_interval(new)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * 2**20  # the matrix, with its models for the median: > 80 MB


def test_results_do_not_depend_on_n_jobs():
    intervals = []
    for n_jobs in (1, 2):
        model = BootstrapConformalRegressor(
            DecisionTreeRegressor(max_features=1), n_jobs=n_jobs, random_state=0
        )
        with parallel_config(backend="threading"):
            intervals.append(model.fit(X, Y).predict_interval(X_NEW))
    np.testing.assert_array_equal(*intervals)
    seeds = {m.random_state for m in model.estimators_}
    assert len(seeds) == 30


def test_dataframes_with_strings_reach_the_estimator(df_module):
    kind = np.where(X[:, 1] > 0, "a", "b")
    frame = df_module.make_dataframe([("x", X[:, 0]), ("kind", kind)])
    base = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(sparse_output=False), ["kind"]), remainder="passthrough"
        ),
        Ridge(),
    )
    model = BootstrapConformalRegressor(base, group_by="kind", random_state=0)
    model.fit(frame, df_module.make_series(Y))
    coded = np.column_stack([kind == "a", kind == "b", X[:, 0]]).astype(float)
    plain = BootstrapConformalRegressor(Ridge(), random_state=0)
    plain.fit(coded, Y, mondrian_groups=kind)
    np.testing.assert_allclose(
        model.predict_interval(frame),
        plain.predict_interval(coded, mondrian_groups=kind),
        rtol=1e-9,
    )


@pytest.mark.parametrize("base", [Ridge(), RandomForestRegressor(10, random_state=0)])
def test_clone_pickle_and_grid_search(base):
    model = BootstrapConformalRegressor(base, n_estimators=10, random_state=0)
    grid = {"aggregate": ["mean", "median"]}
    best = GridSearchCV(model, grid, cv=2).fit(X, Y).best_estimator_
    again = pickle.loads(pickle.dumps(best))
    np.testing.assert_array_equal(
        again.predict_interval(X_NEW, 0.8), best.predict_interval(X_NEW, 0.8)
    )
    assert str(clone(best)) == str(best)


def test_a_fitted_model_is_cloned_with_a_warning():
    base = Ridge().fit(X, Y)
    coef = base.coef_.copy()
    with pytest.warns(AlreadyFittedWarning):
        BootstrapConformalRegressor(base, random_state=0).fit(X, Y)
    np.testing.assert_array_equal(base.coef_, coef)


def test_a_fit_that_fails_leaves_the_last_one_alone():
    model = BootstrapConformalRegressor(Ridge(), random_state=0).fit(X, Y)
    before = model.predict_interval(X_NEW)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(X, np.where(Y > 1, np.nan, Y))
    model.set_params(method="base", aggregate="median")
    np.testing.assert_array_equal(model.predict_interval(X_NEW), before)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"estimator": FrozenEstimator(Ridge().fit(X, Y))},
            "FrozenEstimator without bags of its own",
        ),
        ({"method": "plusplus"}, "method='plusplus' must be one of"),
        ({"aggregate": "mode"}, "aggregate='mode' must be one of"),
        ({"n_estimators": 0}, "n_estimators must be at least 1, got 0"),
        ({"n_estimators": 2.5}, "n_estimators must be an integer, got 2.5"),
        ({"nonconformity": "none"}, "nonconformity='none' must be one of"),
        ({"confidence_level": 1}, "confidence_level must lie strictly between 0 and 1"),
        (
            {"nonconformity": LearnedUnit()},
            "LearnedUnit learns something for each model but has no predict",
        ),
        (
            {"estimator": RandomForestRegressor(5), "nonconformity": "normalized"},
            "NormalizedScore needs more than a point prediction, but of RandomForest",
        ),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    model = BootstrapConformalRegressor(Ridge()).set_params(**parameters)
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        model.fit(X, Y)
    with pytest.raises(ValueError, match="n_samples=1: a single row is in every bag"):
        BootstrapConformalRegressor(Ridge()).fit(X[:1], Y[:1])


# ----------------------------------------------------------------- aggregates


@pytest.mark.parametrize("kind", CENTER)
@pytest.mark.parametrize("infinite", [False, True])
def test_aggregates_equal_loops(kind, infinite):
    rng = np.random.default_rng(0)
    out = rng.random((7, 20)) < 0.4
    out[0] |= ~out.any(axis=0)
    values, own = rng.normal(size=(9, 7)), rng.normal(size=(20, 7))
    if infinite:
        values[rng.random(values.shape) < 0.2] = np.inf
        own[rng.random(own.shape) < 0.2] = -np.inf
    expected = [CENTER[kind](values[:, column], axis=1) for column in out.T]
    np.testing.assert_allclose(
        aggregate_without(values, out, kind), np.stack(expected, axis=1), rtol=1e-12
    )
    expected = [CENTER[kind](own[i, out[:, i]]) for i in range(20)]
    np.testing.assert_allclose(aggregate_own(own, out, kind), expected, rtol=1e-12)
    assert aggregate_without(values[:0], out, kind).shape == (0, 20)
