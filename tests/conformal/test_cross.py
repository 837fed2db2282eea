"""CrossConformalRegressor: oracle, closed forms, theorem, groups, edges."""

import math
import pickle
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from joblib import parallel_config
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, QuantileRegressor, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneOut,
    ShuffleSplit,
)
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from tests._models import Zero, normal_rows
from uqlib import InfiniteIntervalWarning, MultiQuantileRegressor
from uqlib.conformal import (
    AbsoluteScore,
    CrossConformalRegressor,
    GammaScore,
    NormalizedScore,
    QuantileScore,
    SignedScore,
    SplitConformalRegressor,
    _cross_base,
)
from uqlib.conformal._cross_cqr import CrossConformalizedQuantileRegressor
from uqlib.exceptions import AlreadyFittedWarning

X, Y = normal_rows(100, seed=0)
X_NEW, _ = normal_rows(40, seed=1)
METHODS = ["plus", "minmax", "base"]


class NoAffine:
    """A score of the user's own, by its inverse alone."""

    def __init__(self, score):
        self.wrapped = score

    def score(self, y, y_pred):
        """Return the wrapped scores."""
        return self.wrapped.score(y, y_pred)

    def inverse(self, y_pred, threshold):
        """Return the wrapped inverse."""
        return self.wrapped.inverse(y_pred, threshold)


class LearnedUnit(BaseEstimator):
    """Residuals in units of the spread of the training targets: one unit a fold."""

    def fit(self, estimator, X, y):
        """Learn the unit."""
        self.unit_ = float(np.std(y))
        return self

    def score(self, y, y_pred):
        """Return the residuals in units."""
        return np.abs(y - y_pred) / self.unit_

    def inverse(self, y_pred, threshold):
        """Return the interval."""
        return AbsoluteScore().inverse(y_pred, threshold * self.unit_)


def fitted_score(score, model, X, y):
    return score.fit(model, X, y) if hasattr(score, "fit") else score


def predicted(score, model, X):
    if hasattr(score, "predict"):
        return score.predict(model, X)
    return model.predict(X)


def by_hand(base, make_score, X, y, X_new, splits, level, method):
    """The definition: the ends of every training row, or of every fold."""
    n, everything = len(y), (np.arange(len(y)),) * 2
    parts, scores, fits = [], None, []
    for train, test in splits:
        model = clone(base).fit(X[train], y[train])
        score = fitted_score(make_score(), model, X[train], y[train])
        own = score.score(y[test], predicted(score, model, X[test]))
        scores = np.empty((n, *own.shape[1:])) if scores is None else scores
        scores[test] = own
        fits.append((model, score))
    alpha = 1 - Fraction(level)
    rank = math.ceil((n + 1) * (1 - (alpha if scores.ndim == 1 else alpha / 2)))
    if method == "plus":
        for (_, test), (model, score) in zip(splits, fits, strict=True):
            for i in test:
                prediction = predicted(score, model, X_new)
                threshold = np.tile(scores[i], (len(X_new), *[1] * (scores.ndim - 1)))
                parts.append(score.inverse(prediction, threshold))
        ends = np.stack(parts)
        lower = -np.sort(-ends[:, :, 0], axis=0)[rank - 1]
        return np.column_stack([lower, np.sort(ends[:, :, 1], axis=0)[rank - 1]])
    if method == "base":
        train, _ = everything
        model = clone(base).fit(X[train], y[train])
        fits = [(model, fitted_score(make_score(), model, X, y))]
    threshold = np.sort(scores, axis=0)[rank - 1]
    threshold = np.broadcast_to(threshold, (len(X_new), *threshold.shape))
    ends = np.stack(
        [score.inverse(predicted(score, m, X_new), threshold) for m, score in fits]
    )
    return np.column_stack([ends[:, :, 0].min(axis=0), ends[:, :, 1].max(axis=0)])


SCORES = {
    "absolute": AbsoluteScore,
    "signed": SignedScore,
    "gamma": GammaScore,
    "normalized": lambda: NormalizedScore(cv=3),
    "column": lambda: NormalizedScore(column=1),
    "own": lambda: NoAffine(AbsoluteScore()),
    "own, two ends": lambda: NoAffine(SignedScore()),
    "learned": LearnedUnit,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("cv", [5, 3, KFold(2)], ids=["equal", "unequal", "two"])
def test_equals_the_definition(name, method, cv):
    X_, y, X_new = np.abs(X[:50]) + 0.1, Y[:50].round(1), np.abs(X_NEW) + 0.1
    splits = list(
        (KFold(cv, shuffle=True, random_state=3) if isinstance(cv, int) else cv).split(
            X_
        )
    )
    model = CrossConformalRegressor(
        Ridge(), nonconformity=SCORES[name](), method=method, cv=splits
    ).fit(X_, y)
    result = model.predict_interval(X_new)
    expected = by_hand(Ridge(), SCORES[name], X_, y, X_new, splits, "0.9", method)
    np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-9)
    assert np.all(result[:, 0] <= expected[:, 0])
    assert np.all(result[:, 1] >= expected[:, 1])
    assert model.scores_.shape == (
        (50, 2) if "signed" in name or "two" in name else (50,)
    )


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("cv", [5, LeaveOneOut()])
def test_quantile_scores_are_cross_conformalized_quantile_regression(cv, symmetric):
    levels = (0.025, 0.05, 0.2, 0.8, 0.95, 0.975)
    base = MultiQuantileRegressor(QuantileRegressor(alpha=0), quantiles=levels)
    rows, y = X[:20], Y[:20]
    score = "quantile" if symmetric else QuantileScore(symmetric=False)
    cross = CrossConformalRegressor(base, nonconformity=score, cv=cv, random_state=0)
    cqr = CrossConformalizedQuantileRegressor(
        base, symmetric=symmetric, cv=cv, random_state=0
    )
    cross.fit(rows, y), cqr.fit(rows, y)
    for level in (None, 0.9, 0.6):
        np.testing.assert_array_equal(
            cross.predict_interval(X_NEW, level), cqr.predict_interval(X_NEW, level)
        )
    np.testing.assert_array_equal(cross.scores_, cqr.scores_)
    np.testing.assert_array_equal(cross.quantiles_, levels)


@pytest.mark.parametrize("cv", [5, LeaveOneOut()])
@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_learns_nothing_is_split_conformal(cv, method):
    frozen = FrozenEstimator(Zero().fit(X, Y))
    split = SplitConformalRegressor(frozen).fit(X, Y)
    cross = CrossConformalRegressor(Zero(), cv=cv, method=method).fit(X, Y)
    np.testing.assert_array_equal(cross.scores_, split.scores_)
    np.testing.assert_array_equal(
        cross.predict_interval(X_NEW), split.predict_interval(X_NEW)
    )


# ----------------------------------------------------------------- groups


def grouped_rows(n, seed):
    """Rows of two groups with noise of their own, in clusters of four rows."""
    rng = np.random.default_rng(seed)
    rows, clusters = rng.normal(size=(n, 2)), np.repeat(np.arange(n // 4), 4)
    loud = rng.integers(0, 2, size=n)
    return rows, rows[:, 0] + (1 + 5 * loud) * rng.normal(size=n), clusters, loud


@pytest.mark.parametrize("method", METHODS)
def test_groups_for_the_splitter_and_for_the_calibration(method):
    rows, y, clusters, loud = grouped_rows(160, 0)
    new, _, _, loud_new = grouped_rows(40, 1)
    labels, labels_new = (np.where(g, "loud", "calm") for g in (loud, loud_new))
    model = CrossConformalRegressor(Ridge(), cv=GroupKFold(4), method=method)
    model.fit(rows, y, groups=clusters, mondrian_groups=labels)
    for fold in range(4):  # a cluster is in one fold
        inside = np.isin(clusters, clusters[model.fold_ == fold])
        np.testing.assert_array_equal(inside, model.fold_ == fold)
    np.testing.assert_array_equal(model.groups_, ["calm", "loud"])
    interval = model.predict_interval(new, mondrian_groups=labels_new)
    splits = list(GroupKFold(4).split(rows, y, clusters))
    for label in ("calm", "loud"):
        # The same folds, scored by the rows of the group alone.
        own, own_new = labels == label, labels_new == label
        scores = model.scores_[own]
        rank = math.ceil((own.sum() + 1) * Fraction(9, 10))
        points = np.stack([m.predict(new[own_new]) for m in model.estimators_], axis=1)
        if method == "plus":
            each = points[:, model.fold_[own]]
            lower = -np.sort(-(each - scores))[:, rank - 1]
            upper = np.sort(each + scores)[:, rank - 1]
        else:
            if method == "base":
                points = model.predict(new[own_new])[:, None]
            threshold = np.sort(scores)[rank - 1]
            lower, upper = points.min(1) - threshold, points.max(1) + threshold
        np.testing.assert_allclose(interval[own_new, 0], lower, atol=1e-9)
        np.testing.assert_allclose(interval[own_new, 1], upper, atol=1e-9)
    by_list = clone(model).set_params(cv=splits)
    by_list.fit(rows, y, mondrian_groups=labels)
    np.testing.assert_array_equal(
        by_list.predict_interval(new, mondrian_groups=labels_new), interval
    )


def test_group_by_a_column_is_the_same_as_its_array():
    rows, y, _, loud = grouped_rows(120, 2)
    rows = np.column_stack([rows, loud])
    array = CrossConformalRegressor(Ridge(), random_state=0)
    array.fit(rows, y, mondrian_groups=loud)
    expected = array.predict_interval(rows, 0.8, mondrian_groups=loud)
    for key in (2, lambda rows: rows[:, 2] > 0):
        model = CrossConformalRegressor(Ridge(), group_by=key, random_state=0)
        np.testing.assert_array_equal(
            model.fit(rows, y).predict_interval(rows, 0.8), expected
        )


def test_one_group_is_no_group():
    one = np.zeros(100, dtype=int)
    model = CrossConformalRegressor(Ridge(), random_state=0)
    expected = clone(model).fit(X, Y).predict_interval(X_NEW)
    model.fit(X, Y, mondrian_groups=one)
    np.testing.assert_array_equal(
        model.predict_interval(X_NEW, mondrian_groups=one[:40]), expected
    )


@pytest.mark.parametrize("score", [AbsoluteScore(), NoAffine(AbsoluteScore())])
@pytest.mark.parametrize("method", METHODS)
def test_small_and_new_groups_are_infinite_with_one_warning(method, score):
    labels = np.where(np.arange(100) < 8, "few", "many")
    model = CrossConformalRegressor(
        Ridge(), method=method, nonconformity=score, random_state=0
    )
    with pytest.warns(InfiniteIntervalWarning, match="few") as caught:
        model.fit(X, Y, mondrian_groups=labels)
    assert len(caught) == 1
    new = np.array(["few", "many", "other"] * 10)
    with pytest.warns(InfiniteIntervalWarning, match="other") as caught:
        interval = model.predict_interval(X_NEW[:30], mondrian_groups=new)
    assert len(caught) == 1
    np.testing.assert_array_equal(np.isfinite(interval).all(axis=1), new == "many")
    np.testing.assert_array_equal(np.isinf(interval).all(axis=1), new != "many")


def test_groups_are_needed_where_the_fit_had_them_and_only_there():
    model = CrossConformalRegressor(Ridge()).fit(X, Y)
    with pytest.raises(ValueError, match="mondrian_groups was given, but"):
        model.predict_interval(X_NEW, mondrian_groups=np.zeros(40))
    model.fit(X, Y, mondrian_groups=np.zeros(100))
    with pytest.raises(ValueError, match="mondrian_groups is needed for these rows"):
        model.predict_interval(X_NEW)
    with pytest.raises(ValueError, match=r"must have shape \(100,\)"):
        model.fit(X, Y, mondrian_groups=np.zeros(99))


# ----------------------------------------------------------------- edges


@pytest.mark.parametrize("method", METHODS)
def test_too_few_rows_give_infinite_intervals_and_one_warning(method):
    model = CrossConformalRegressor(Ridge(), cv=2, method=method)
    with pytest.warns(InfiniteIntervalWarning, match="at least 9 are") as caught:
        model.fit(X[:8], Y[:8])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    interval = model.predict_interval(X)  # without another warning
    np.testing.assert_array_equal(interval, np.tile([-np.inf, np.inf], (100, 1)))
    assert np.isfinite(model.fit(X[:9], Y[:9]).predict_interval(X)).all()
    with pytest.warns(InfiniteIntervalWarning, match="at least 99 are"):
        assert np.isinf(model.predict_interval(X, 0.99)).all()


def test_two_rows():
    model = CrossConformalRegressor(Zero(), cv=2, confidence_level=0.6)
    interval = model.fit(X[:2], np.array([1.0, -3.0])).predict_interval(X[:1])
    np.testing.assert_allclose(interval, [[-3.0, 3.0]])


def test_several_levels_agree_with_new_fits():
    model = CrossConformalRegressor(Ridge(), random_state=0).fit(X, Y)
    outer = model.predict_interval(X_NEW, 0.99)
    for level in (0.9, 0.75, 0.5):
        fresh = CrossConformalRegressor(
            Ridge(), confidence_level=level, random_state=0
        ).fit(X, Y)
        inner = model.predict_interval(X_NEW, level)
        np.testing.assert_array_equal(inner, fresh.predict_interval(X_NEW))
        assert np.all(outer[:, 0] <= inner[:, 0])
        assert np.all(inner[:, 1] <= outer[:, 1])
        outer = inner


def test_attributes():
    model = CrossConformalRegressor(Ridge(), cv=4, random_state=0).fit(X, Y)
    np.testing.assert_array_equal(np.bincount(model.fold_), [25] * 4)
    assert (model.n_calibration_, model.confidence_level_) == (100, 0.9)
    np.testing.assert_array_equal(
        model.predict(X_NEW), Ridge().fit(X, Y).predict(X_NEW)
    )
    for k, fitted in enumerate(model.estimators_):
        out = model.fold_ == k
        again = Ridge().fit(X[~out], Y[~out]).predict(X[out])
        np.testing.assert_allclose(fitted.predict(X[out]), again)
        np.testing.assert_allclose(model.scores_[out], np.abs(Y[out] - again))
    assert not hasattr(model, "quantiles_")
    assert not hasattr(model, "groups_")


def test_the_order_of_rows_does_not_matter():
    splits, order = list(KFold(5).split(X)), np.random.default_rng(0).permutation(100)
    where = np.argsort(order)
    moved = [(where[train], where[test]) for train, test in splits]
    results = [
        CrossConformalRegressor(LinearRegression(), cv=cv)
        .fit(X[rows], Y[rows])
        .predict_interval(X_NEW)
        for cv, rows in ((splits, np.arange(100)), (moved, order))
    ]
    np.testing.assert_allclose(*results, rtol=1e-10)


def test_weights_train_and_do_not_calibrate():
    weight = np.random.default_rng(0).uniform(0.5, 2, size=100)
    splits = list(KFold(5).split(X))
    model = CrossConformalRegressor(Ridge(), cv=splits).fit(X, Y, weight)
    train, test = splits[2]
    fitted = Ridge().fit(X[train], Y[train], weight[train])
    np.testing.assert_array_equal(
        model.scores_[test], np.abs(Y[test] - fitted.predict(X[test]))
    )
    with pytest.raises(ValueError, match=r"KNeighborsRegressor\.fit does not take it"):
        CrossConformalRegressor(KNeighborsRegressor()).fit(X, Y, weight)


@pytest.mark.parametrize("cv", [5, LeaveOneOut()])
@pytest.mark.parametrize("score", ["absolute", NoAffine(AbsoluteScore())])
def test_chunks_of_rows_leave_no_seam(monkeypatch, cv, score):
    model = CrossConformalRegressor(Ridge(), cv=cv, nonconformity=score).fit(X, Y)
    whole = model.predict_interval(X_NEW)
    monkeypatch.setattr(_cross_base, "_CHUNK", 333)
    np.testing.assert_allclose(model.predict_interval(X_NEW), whole, rtol=1e-13)


@pytest.mark.parametrize("cv", [5, LeaveOneOut()])
def test_memory_holds_no_matrix_of_new_rows_by_rows(cv):
    rows, y = normal_rows(3_000, seed=0)
    new, _ = normal_rows(6_000, seed=1)
    model = CrossConformalRegressor(LinearRegression(), cv=cv).fit(rows, y)
    model.predict_interval(new)  # compiles, which takes memory of its own
    tracemalloc.start()
    try:
        model.predict_interval(new)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 * 2**20  # the matrix would take 144 MB


def test_results_do_not_depend_on_n_jobs():
    intervals = []
    for n_jobs in (1, 2):
        model = CrossConformalRegressor(Ridge(), n_jobs=n_jobs, random_state=0)
        with parallel_config(backend="threading"):
            intervals.append(model.fit(X, Y).predict_interval(X_NEW))
    np.testing.assert_array_equal(*intervals)


def test_dataframes_with_strings_reach_the_estimator(df_module):
    kind = np.where(X[:, 1] > 0, "a", "b")
    frame = df_module.make_dataframe([("x", X[:, 0]), ("kind", kind)])
    base = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(sparse_output=False), ["kind"]), remainder="passthrough"
        ),
        Ridge(),
    )
    model = CrossConformalRegressor(base, group_by="kind", cv=3, random_state=0)
    model.fit(frame, df_module.make_series(Y))
    np.testing.assert_array_equal(model.feature_names_in_, ["x", "kind"])
    np.testing.assert_array_equal(model.groups_, ["a", "b"])
    coded = np.column_stack([X[:, 0], kind == "a", kind == "b"]).astype(float)
    plain = CrossConformalRegressor(Ridge(), cv=3, random_state=0)
    plain.fit(coded, Y, mondrian_groups=kind)
    np.testing.assert_allclose(
        model.predict_interval(frame),
        plain.predict_interval(coded, mondrian_groups=kind),
        rtol=1e-9,
    )


def test_frames_have_closed_forms_too(df_module):
    frame = df_module.make_dataframe(zip("ab", X.T, strict=True))
    model = CrossConformalRegressor(Ridge(), cv=LeaveOneOut()).fit(frame, Y)
    assert model.estimators_ == []
    np.testing.assert_allclose(
        model.predict_interval(frame),
        clone(model).fit(X, Y).predict_interval(X),
        rtol=1e-12,
    )


@pytest.mark.parametrize("cv", [3, LeaveOneOut()])
def test_clone_pickle_and_grid_search(cv):
    model = CrossConformalRegressor(Ridge(), cv=cv, random_state=0)
    search = GridSearchCV(model, {"estimator__alpha": [0.1, 10.0]}, cv=3).fit(X, Y)
    best = search.best_estimator_
    again = pickle.loads(pickle.dumps(best))
    np.testing.assert_array_equal(
        again.predict_interval(X_NEW), best.predict_interval(X_NEW)
    )
    assert str(clone(best)) == str(best)
    with pytest.raises(NotFittedError):
        clone(best).predict_interval(X_NEW)


def test_groups_are_routed_to_fit():
    rows, y, clusters, loud = grouped_rows(80, 3)
    with config_context(enable_metadata_routing=True):
        model = CrossConformalRegressor(Ridge(), cv=GroupKFold(2))
        model.set_fit_request(groups=True, mondrian_groups=True)
        search = GridSearchCV(model, {"method": ["plus"]}, cv=GroupKFold(2))
        search.fit(rows, y, groups=clusters, mondrian_groups=loud)
        best = search.best_estimator_
    np.testing.assert_array_equal(best.groups_, [0, 1])
    inside = np.isin(clusters, clusters[best.fold_ == 0])
    np.testing.assert_array_equal(inside, best.fold_ == 0)


def test_neither_the_estimator_nor_the_score_is_changed():
    base, score, y = Ridge(), NormalizedScore(cv=2), Y.copy()
    model = CrossConformalRegressor(base, nonconformity=score, cv=2).fit(X, y)
    assert vars(base) == vars(Ridge())
    assert vars(score) == vars(NormalizedScore(cv=2))
    before = model.predict_interval(X_NEW)
    y *= 100
    model.set_params(method="base", confidence_level=0.5)
    np.testing.assert_array_equal(model.predict_interval(X_NEW), before)
    with pytest.warns(AlreadyFittedWarning):
        CrossConformalRegressor(Ridge().fit(X, Y), cv=2).fit(X, Y)


def test_a_fit_that_fails_leaves_the_last_one_alone():
    model = CrossConformalRegressor(Ridge(), random_state=0).fit(X, Y)
    before = model.predict_interval(X_NEW)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(X, np.where(Y > 1, np.nan, Y))
    with pytest.raises(ValueError, match="exactly one test fold"):
        model.set_params(cv=ShuffleSplit(3)).fit(X, Y)
    np.testing.assert_array_equal(model.predict_interval(X_NEW), before)


class NaNPredictor(Zero):
    """Predicts NaN."""

    def predict(self, X):
        """Return NaN."""
        return np.full(len(X), np.nan)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"estimator": FrozenEstimator(Ridge().fit(X, Y))},
            "FrozenEstimator, but a model must be fitted without each fold",
        ),
        ({"method": "jackknife+"}, "method='jackknife\\+' must be one of"),
        ({"nonconformity": "absolut"}, "nonconformity='absolut' must be one of"),
        ({"nonconformity": "quantile"}, "Ridge cannot give quantiles"),
        ({"confidence_level": 0.0}, "confidence_level must lie strictly between"),
        ({"cv": 101}, "n_splits=101"),
        ({"cv": GroupKFold(2)}, "groups"),
        ({"group_by": 7}, "group_by=7 is no column of X"),
        ({"estimator": NaNPredictor()}, "NaNPredictor predicted NaN"),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    model = CrossConformalRegressor(Ridge()).set_params(**parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y)
