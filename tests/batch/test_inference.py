"""BatchPredictiveInference: batch intervals against the functions, by hand."""

import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.dummy import DummyRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests._models import normal_rows
from tests.batch._batches import calibrated, rows_of
from uqlib import AlreadyFittedWarning, InfiniteIntervalWarning, SplitConformalRegressor
from uqlib._core.batch_statistics import Composition
from uqlib._core.order_law import order_statistic_rank
from uqlib._core.rank_bounds import batch_bound, batch_bound_details
from uqlib._core.ranks import conformal_rank
from uqlib.batch._inference import BatchPredictiveInference

X, Y = normal_rows(200, seed=0)
RNG = np.random.default_rng(5)
SCORES = RNG.normal(size=40)
BATCH = np.zeros((5, 1))


STATISTICS = [
    ("mean", "dp"),
    ("mean", "core"),
    ("mean", "hull"),
    ("mean", "band"),
    ("median", "auto"),
    ("median", "closed"),
    ("max", "auto"),
    ("min", "closed"),
    (("order", 2), "auto"),
    (("quantile", 0.7), "auto"),
    (("trimmed", 0.2, 0.2), "auto"),
    ([0, 1, 2, 1, 0], "dp"),
    (Composition(lambda i, g, t: np.maximum(g, t), lambda i, h, r: h + r, -9.0), "dp"),
]


@pytest.mark.parametrize("side", ["two", "upper", "lower"])
@pytest.mark.parametrize(("statistic", "method"), STATISTICS)
def test_equals_the_function_on_outcomes(statistic, method, side):
    parameters = {"side": side, "method": method, "score_bounds": (-6.0, 6.0)}
    model = calibrated(
        SCORES, statistic=statistic, nonconformity="outcome", **parameters
    )
    interval = model.predict_batch_interval(BATCH)
    details = batch_bound_details(SCORES, 5, statistic, 0.9, **parameters)
    expected, certificate = np.array([-np.inf, np.inf]), np.full((3, 2), np.nan)
    ends = {"two": (0, 1), "upper": (1,), "lower": (0,)}[side]
    for end, bound in zip(ends, details, strict=True):
        expected[end] = bound.value
        rank = np.nan if bound.rank is None else bound.rank
        certificate[:, end] = bound.event_probability, bound.gap, rank
    np.testing.assert_allclose(interval, [expected], rtol=0, atol=1e-12)
    assert interval[0, 0] <= expected[0]  # rounded outwards
    assert interval[0, 1] >= expected[1]
    found = [model.event_probability_, model.gap_, model.rank_]
    np.testing.assert_array_equal(np.concatenate(found), certificate)
    one_side = 0.95 if side == "two" else 0.9
    asked = ~np.isnan(model.event_probability_)
    assert (model.event_probability_[asked] >= one_side - 1e-12).all()


@pytest.mark.parametrize("method", ["core", "hull", "band"])
def test_mean_of_targets_is_the_mean_prediction_plus_the_bound_of_residuals(method):
    model = BatchPredictiveInference(
        Ridge(), method=method, confidence_level=0.6, random_state=3
    ).fit(X, Y)
    X_train, X_cal, y_train, y_cal = train_test_split(
        X, Y, test_size=0.25, random_state=3
    )
    ridge = Ridge().fit(X_train, y_train)
    residual = y_cal - ridge.predict(X_cal)
    low, high = batch_bound(residual, 3, "mean", 0.6, method=method)
    center = ridge.predict(X[:3]).mean()
    interval = model.predict_batch_interval(X[:3])
    np.testing.assert_allclose(interval, [[center + low, center + high]], rtol=1e-12)
    np.testing.assert_array_equal(np.sort(model.scores_), np.sort(residual))
    np.testing.assert_array_equal(model.predict(X), ridge.predict(X))
    assert model.n_calibration_ == 50


@pytest.mark.parametrize("statistic", ["mean", "median", "max", "min", ("order", 1)])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_one_row_is_split_conformal_prediction(statistic, level):
    parameters = {"confidence_level": level, "random_state": 1}
    model = BatchPredictiveInference(Ridge(), statistic, **parameters).fit(X, Y)
    split = SplitConformalRegressor(Ridge(), nonconformity="signed", **parameters)
    expected = split.fit(X, Y).predict_interval(X[:20])
    # Labels in the order of the rows: every row is a batch.
    found = model.predict_batch_interval(X[:20], groups=np.arange(20))
    np.testing.assert_array_equal(found, expected)


def test_partition_by_hand():
    y, m = np.random.default_rng(1).normal(size=103), 5
    model = calibrated(y, method="partition", confidence_level=0.8, random_state=7)
    order = np.random.RandomState(7).permutation(103)
    means = np.sort(y[order][:100].reshape(20, m).mean(axis=1))
    low, high = means[int(21 * 0.1) - 1], means[conformal_rank(20, 0.9) - 1]
    found = model.predict_batch_interval(np.full((m, 1), 2.0))
    np.testing.assert_allclose(found, [[2 + low, 2 + high]], rtol=1e-12)
    np.testing.assert_allclose(model.event_probability_, [[1 - 2 / 21, 19 / 21]])
    np.testing.assert_array_equal(model.rank_, [[2, 19]])
    assert np.isnan(model.gap_).all()
    for side, end in (
        ("upper", means[conformal_rank(20, 0.8) - 1]),
        ("lower", means[3]),
    ):
        model.set_params(side=side)
        found = model.predict_batch_interval(np.zeros((m, 1)))[0]
        assert found[int(side == "upper")] == pytest.approx(end, rel=1e-12)
        assert np.isinf(found[int(side == "lower")])


@pytest.mark.parametrize("statistic", [("trimmed", 0.2, 0.2), [1, 0, 0, 2, 1]])
def test_partition_of_other_statistics_of_outcomes(statistic):
    y = np.random.default_rng(2).normal(size=50)
    weights = {list: [1, 0, 0, 2, 1], tuple: [0, 1, 1, 1, 0]}[type(statistic)]
    summed = Composition(
        lambda i, g, t: g + weights[i - 1] * t / sum(weights), lambda i, h, r: h
    )
    order = np.random.RandomState(0).permutation(50)
    groups = np.sort(y[order].reshape(10, 5), axis=1)
    values = np.sort(groups @ weights / sum(weights))
    parameters = {"nonconformity": "outcome", "method": "partition"}
    for g in (statistic, summed):
        model = calibrated(y, statistic=g, confidence_level=0.7, **parameters)
        found = model.predict_batch_interval(BATCH)[0]
        np.testing.assert_allclose(found, [values[0], values[9]], rtol=1e-12)


@pytest.mark.parametrize(("n", "partition"), [(94, False), (95, True), (200, True)])
def test_auto_looks_at_sizes_only(n, partition):
    # 19 groups of 5 are needed at 0.95 a side.
    for y in (
        np.random.default_rng(n).normal(size=n),
        np.zeros(n),
        np.arange(n) ** 3.0,
    ):
        bounds = (-1e7, 1e7)
        auto = calibrated(y, score_bounds=bounds)
        named = "partition" if partition else "core"
        other = calibrated(y, method=named, score_bounds=bounds)
        np.testing.assert_array_equal(
            auto.predict_batch_interval(BATCH), other.predict_batch_interval(BATCH)
        )


def test_groups_come_in_sorted_order_and_one_by_one():
    model = BatchPredictiveInference(Ridge(), random_state=0).fit(X, Y)
    labels = np.array(["b", "a", "c", "a", "b", "b", "a", "a", "c", "b"])
    with pytest.warns(InfiniteIntervalWarning) as record:
        together = model.predict_batch_interval(X[:10], groups=labels)
    assert len(record) == 1  # one for all of them
    events = model.event_probability_
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InfiniteIntervalWarning)
        alone = [
            model.predict_batch_interval(X[:10][labels == label])[0] for label in "abc"
        ]
    np.testing.assert_array_equal(together, alone)
    assert together.shape == events.shape == (3, 2)


def test_joint_shares_the_miscoverage():
    y = np.random.default_rng(3).normal(size=400)
    model = calibrated(y, statistic="median", nonconformity="outcome")
    labels = np.repeat([1, 2, 3, 4], 5)
    joint = model.predict_batch_interval(np.zeros((20, 1)), labels, joint=True)
    low, high = order_statistic_rank(400, 5, 3, 0.975, "two")
    expected = np.sort(y)[[low - 1, high - 1]]
    np.testing.assert_array_equal(joint, np.tile(expected, (4, 1)))
    # One batch has nothing to share with.
    np.testing.assert_array_equal(
        model.predict_batch_interval(BATCH, joint=True),
        model.predict_batch_interval(BATCH),
    )


def test_mondrian_groups_use_their_own_rows():
    y = np.random.default_rng(4).normal(size=120)
    labels = np.tile(["x", "y", "y"], 40)
    rows = rows_of(np.zeros(120))
    model = calibrated(y, statistic="max")
    model.calibrate(rows, y, mondrian_groups=labels)
    for label in ("x", "y"):
        own = calibrated(y[labels == label], statistic="max")
        asked = {"mondrian_groups": [label] * 3}
        np.testing.assert_array_equal(
            model.select(rows[:3], 0.1, 1, **asked), own.select(rows[:3], 0.1, 1)
        )
        np.testing.assert_array_equal(
            model.predict_simultaneous(rows[:3], 2, **asked),
            own.predict_simultaneous(rows[:3], 2),
        )
        assert model.count_above(rows[:3], 0.1, **asked) == own.count_above(
            rows[:3], 0.1
        )
        np.testing.assert_array_equal(
            model.predict_batch_interval(rows[:2], mondrian_groups=[label] * 2),
            own.predict_batch_interval(rows[:2]),
        )
    batches = model.predict_batch_interval(
        rows[:4], [0, 1, 0, 1], mondrian_groups=["x", "y", "x", "y"]
    )
    assert batches[0, 1] != batches[1, 1]
    np.testing.assert_array_equal(model.groups_, ["x", "y"])
    model.calibrate(rows, y)
    assert not hasattr(model, "groups_")


def test_conditions_follow_their_rows_through_the_split():
    model = BatchPredictiveInference(
        Ridge(), "min", nonconformity="outcome", side="lower", random_state=0
    )
    plain = clone(model).fit(X, Y)
    asked = {"likelihood_ratio": (Y > 0) * 1.0, "max_ratio": 1.0}
    model.fit(X, Y, mondrian_groups=Y > 1, **asked)
    kept = np.sort(plain.scores_[plain.scores_ > 0])
    np.testing.assert_array_equal(np.sort(model.scores_), kept)
    low = model.predict_batch_interval(X[:1], mondrian_groups=[True])[0, 0]
    above = kept[kept > 1]
    assert low == above[int((above.size + 1) * 0.1) - 1]


def test_absolute_scores_bound_the_errors_of_the_batch():
    y = np.random.default_rng(6).normal(size=60)
    model = calibrated(y, nonconformity="absolute", method="hull", side="upper")
    found = model.predict_batch_interval(np.full((3, 1), 99.0))
    expected = batch_bound(np.abs(y), 3, "mean", 0.9, method="hull", side="upper")
    np.testing.assert_allclose(found, [[-np.inf, expected]], rtol=1e-12)


# ---------------------------------------------------------------------------
# An estimator among others.


def test_clone_pickle_and_parameters():
    model = BatchPredictiveInference(Ridge(), "max", side="upper", random_state=0)
    assert clone(model).get_params().keys() == model.get_params().keys()
    assert clone(model).set_params(statistic=("order", 2)).statistic == ("order", 2)
    model.fit(X, Y)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(
        copy.predict_batch_interval(X[:3]), model.predict_batch_interval(X[:3])
    )


def test_parameters_take_effect_without_calibration():
    model = BatchPredictiveInference(Ridge(), random_state=0).fit(X, Y)
    model.set_params(statistic="max", confidence_level=0.8)
    other = clone(model).fit(X, Y)
    np.testing.assert_array_equal(
        model.predict_batch_interval(X[:3]), other.predict_batch_interval(X[:3])
    )


def test_inside_a_search():
    search = GridSearchCV(
        BatchPredictiveInference(Ridge(), random_state=0),
        {"estimator__alpha": [0.1, 1e4]},
    ).fit(X, Y)
    assert search.best_params_ == {"estimator__alpha": 0.1}
    assert np.isfinite(search.best_estimator_.predict_batch_interval(X[:2])).all()


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_frames_and_pipelines(frame):
    names = ["a", "b"]
    data = frame(dict(zip(names, X.T, strict=True)))
    model = BatchPredictiveInference(
        make_pipeline(StandardScaler(), LinearRegression()), random_state=0
    )
    plain = clone(model).fit(X, Y).predict_batch_interval(X[:4], [1, 0, 1, 0])
    framed = clone(model).fit(data, pd.Series(Y))
    found = framed.predict_batch_interval(data[:4], pd.Series([1, 0, 1, 0]))
    np.testing.assert_allclose(found, plain, rtol=1e-12)
    assert list(framed.feature_names_in_) == names


def test_float32_and_strided_rows():
    model = BatchPredictiveInference(Ridge(), random_state=0).fit(X, Y)
    wide = np.repeat(X, 2, axis=1)
    np.testing.assert_allclose(
        model.predict_batch_interval(wide[:2, ::2]),
        model.predict_batch_interval(X[:2]),
        rtol=1e-12,
    )
    single = BatchPredictiveInference(Ridge(), random_state=0)
    single.fit(X.astype(np.float32), Y.astype(np.float32))
    assert single.predict_batch_interval(X[:2].astype(np.float32)).dtype == np.float64


def test_weights_train_and_do_not_calibrate():
    weight = np.where(np.arange(200) % 2, 1.0, 0.0)
    model = BatchPredictiveInference(DummyRegressor(), random_state=0)
    model.fit(X, Y, sample_weight=weight)
    train, cal = train_test_split(np.arange(200), test_size=0.25, random_state=0)
    mean = np.average(Y[train], weights=weight[train])
    np.testing.assert_allclose(np.sort(model.scores_), np.sort(Y[cal] - mean))


def test_a_frozen_model_calibrates_on_all_rows_and_stays():
    ridge = Ridge().fit(X, Y)
    before = ridge.coef_.copy()
    model = BatchPredictiveInference(FrozenEstimator(ridge)).fit(X, Y)
    assert model.n_calibration_ == 200
    np.testing.assert_array_equal(ridge.coef_, before)
    with pytest.warns(AlreadyFittedWarning):
        BatchPredictiveInference(ridge).fit(X, Y)


def test_calibrate_replaces_the_rows():
    model = BatchPredictiveInference(Ridge(), "max", random_state=0).fit(X, Y)
    model.predict_batch_interval(X[:2])
    model.calibrate(X[:90], Y[:90])
    assert not hasattr(model, "event_probability_")
    assert model.n_calibration_ == model.scores_.size == 90
    residual = Y[:90] - model.predict(X[:90])
    np.testing.assert_array_equal(model.scores_, residual)
