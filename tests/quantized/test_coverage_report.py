"""coverage_report: its numbers, and what it says of networks at few bits."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.quantized._coverage_models import (
    CLASSES,
    POINTS,
    QUANTILES,
    Classes,
    Points,
    class_data,
    point_data,
    quantile_data,
)
from uqlib._binomial import clopper_pearson
from uqlib._core.ranks import conformal_quantile
from uqlib.conformal import (
    ConformalClassifier,
    ConformalizedQuantileRegressor,
    SplitConformalRegressor,
)
from uqlib.quantized._coverage_report import coverage_report

# ---------------------------------------------------------------------------
# The numbers.


def test_points_by_hand():
    X_cal, y_cal, X, y = point_data()
    report = coverage_report(*POINTS, X_cal, y_cal, X, y, confidence_level=0.8)
    t = np.sort(np.abs(y_cal - X_cal[:, 0]))[79]
    t_q = np.sort(np.abs(y_cal - X_cal[:, 1]))[79]
    rows = report.float_model, report.stale, report.recalibrated
    for row, column, threshold in zip(rows, (0, 1, 1), (t, t, t_q), strict=True):
        hits = int(np.sum(np.abs(y - X[:, column]) <= threshold))
        assert row.coverage == hits / 150
        assert row.threshold == threshold
        assert row.mean_width == pytest.approx(2 * threshold)
        exact = binomtest(hits, 150).proportion_ci(0.95, method="exact")
        np.testing.assert_allclose(row[1:3], [exact.low, exact.high], rtol=1e-9)
    assert report.width_ratio == pytest.approx(t_q / t)
    drift = X[:, 1] - X[:, 0]
    assert report.drift_rms == pytest.approx(np.sqrt(np.mean(drift**2)))
    mse = np.mean((y_cal - X_cal[:, 0]) ** 2)
    assert report.width_ratio_forecast == pytest.approx(
        np.sqrt(1 + np.mean(drift**2) / mse)
    )
    assert report.nonconformity == "absolute"
    assert (report.n_calibration, report.n_test) == (99, 150)
    assert report.changed_labels is None
    assert report.by_class is None
    assert report.rows_seen is None


def agrees(row, covered, width):
    assert row.coverage == np.mean(covered)
    assert row.mean_width == pytest.approx(np.mean(width))


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_points_agree_with_the_calibrator(level):
    X_cal, y_cal, X, y = point_data(1)
    report = coverage_report(*POINTS, X_cal, y_cal, X, y, confidence_level=level)
    for row, model in zip(
        (report.float_model, report.recalibrated), POINTS, strict=True
    ):
        calibrator = SplitConformalRegressor(
            FrozenEstimator(model), confidence_level=level
        ).fit(X_cal, y_cal)
        lower, upper = calibrator.predict_interval(X).T
        agrees(row, (lower <= y) & (y <= upper), upper - lower)
        assert row.threshold == calibrator.threshold_


def test_quantiles_agree_with_the_calibrator():
    X_cal, y_cal, X, y = quantile_data()
    report = coverage_report(*QUANTILES, X_cal, y_cal, X, y)
    assert report.nonconformity == "quantile"
    assert report.width_ratio_forecast is None
    for row, model in zip(
        (report.float_model, report.recalibrated), QUANTILES, strict=True
    ):
        calibrator = ConformalizedQuantileRegressor(FrozenEstimator(model))
        lower, upper = calibrator.fit(X_cal, y_cal).predict_interval(X).T
        agrees(row, (lower <= y) & (y <= upper), upper - lower)
    t = report.float_model.threshold
    inside = (X[:, 2] - t <= y) & (y <= X[:, 3] + t)
    agrees(report.stale, inside, np.abs(X[:, 3] - X[:, 2] + 2 * t))
    drift = X[:, 2:] - X[:, :2]
    assert report.drift_rms == pytest.approx(np.sqrt(np.mean(drift**2)))


def test_classes_agree_with_the_calibrator():
    X_cal, y_cal, X, y = class_data()
    report = coverage_report(*CLASSES, X_cal, y_cal, X, y)
    assert report.nonconformity == "lac"
    column = np.searchsorted(["a", "b", "c"], y)
    for row, model in zip(
        (report.float_model, report.recalibrated), CLASSES, strict=True
    ):
        calibrator = ConformalClassifier(FrozenEstimator(model), nonconformity="lac")
        sets = calibrator.fit(X_cal, y_cal).predict_set(X)
        agrees(row, sets[np.arange(300), column], sets.sum(axis=1))
    sets = 1 - X[:, 3:] <= report.float_model.threshold
    agrees(report.stale, sets[np.arange(300), column], sets.sum(axis=1))
    changed = X[:, :3].argmax(axis=1) != X[:, 3:].argmax(axis=1)
    assert report.changed_labels == changed.mean() > 0
    by_class = report.by_class
    assert by_class.index.tolist() == ["a", "b", "c"]
    for k, label in enumerate("abc"):
        rows = y == label
        assert by_class.loc[label, "n_samples"] == rows.sum()
        stale = sets[rows, k]
        assert by_class.loc[label, "stale"] == stale.mean()
    total = (by_class["recalibrated"] * by_class["n_samples"]).sum() / 300
    assert total == pytest.approx(report.recalibrated.coverage)


def test_columns_of_classes_in_another_order_are_aligned():
    X_cal, y_cal, X, y = class_data()
    turned = Classes(("c", "a", "b"), 3).fit(None)
    order = [0, 1, 2, 5, 3, 4]
    one = coverage_report(*CLASSES, X_cal, y_cal, X, y)
    two = coverage_report(CLASSES[0], turned, X_cal[:, order], y_cal, X[:, order], y)
    assert one.to_frame().equals(two.to_frame())
    assert one.changed_labels == two.changed_labels


def test_a_class_without_test_rows_has_no_coverage():
    X_cal, y_cal, X, y = class_data()
    kept = y != "b"
    report = coverage_report(*CLASSES, X_cal, y_cal, X[kept], y[kept])
    assert report.by_class.index.tolist() == ["a", "c"]


def test_the_same_model_twice_has_lost_nothing():
    for data, (model, _) in (
        (point_data(), POINTS),
        (quantile_data(), QUANTILES),
        (class_data(), CLASSES),
    ):
        report = coverage_report(model, model, *data)
        assert report.float_model == report.stale == report.recalibrated
        assert report.width_ratio == 1.0
        assert report.drift_rms == 0.0
        assert report.width_ratio_forecast in (1.0, None)
        assert report.changed_labels in (0.0, None)
        assert len(report.by_drift) == 1  # nothing to tell the rows apart by


# ---------------------------------------------------------------------------
# By drift.


def test_terciles_of_the_drift_by_hand():
    X_cal, y_cal, X, y = point_data(3)
    report = coverage_report(*POINTS, X_cal, y_cal, X, y)
    table, size = report.by_drift, np.abs(X[:, 1] - X[:, 0])
    order = np.argsort(size)
    for k, rows in enumerate(np.split(order, 3)):
        found = table.loc[k]
        assert found["n_samples"] == 50
        assert (found["drift_min"], found["drift_max"]) == (
            size[rows].min(),
            size[rows].max(),
        )
        residuals = np.abs(y[rows] - X[rows, 1])
        hits = residuals <= report.recalibrated.threshold
        assert found["recalibrated"] == hits.mean()
        assert found["stale"] == np.mean(residuals <= report.stale.threshold)
        np.testing.assert_allclose(
            found[["lower", "upper"]].astype(float),
            binomtest(int(hits.sum()), 50).proportion_ci(method="exact"),
        )
        assert found["width_ratio"] == pytest.approx(report.width_ratio)
    # The rows that moved most are the ones left uncovered.
    assert table["recalibrated"].is_monotonic_decreasing
    assert table["recalibrated"].iloc[0] > 0.9 > table["recalibrated"].iloc[2]


def test_width_ratio_of_a_tercile_is_that_of_its_sets():
    X_cal, y_cal, X, y = class_data()
    report = coverage_report(*CLASSES, X_cal, y_cal, X, y)
    drift = np.sqrt(np.mean((X[:, 3:] - X[:, :3]) ** 2, axis=1))
    exact = (1 - X[:, :3] <= report.float_model.threshold).sum(axis=1)
    own = (1 - X[:, 3:] <= report.recalibrated.threshold).sum(axis=1)
    for k, rows in enumerate(np.split(np.argsort(drift), 3)):
        ratio = own[rows].mean() / exact[rows].mean()
        assert report.by_drift["width_ratio"][k] == pytest.approx(ratio)
    assert report.by_drift["width_ratio"].nunique() == 3


def test_equal_drifts_stay_together_and_rows_may_be_shuffled():
    X_cal, y_cal, X, y = point_data(4)
    X[:, 0] = X[:, 0].round(3)
    X[:, 1] = X[:, 0] + np.repeat([0.0, 1.0, 2.0], [90, 50, 10])
    X = X.astype(np.float32).astype(float)  # as if the drift had been rounded
    X[:, 1] = X[:, 0] + np.round(X[:, 1] - X[:, 0])
    one = coverage_report(*POINTS, X_cal, y_cal, X, y)
    back = np.random.default_rng(0).permutation(150)
    two = coverage_report(*POINTS, X_cal[::-1], y_cal[::-1], X[back], y[back])
    assert one.by_drift["n_samples"].sum() == 150
    pd.testing.assert_frame_equal(one.by_drift, two.by_drift)
    pd.testing.assert_frame_equal(one.to_frame(), two.to_frame())


# ---------------------------------------------------------------------------
# Binomial intervals.


@given(st.integers(1, 400), st.data(), st.sampled_from([0.8, 0.95, 0.999]))
def test_binomial_intervals_have_exact_tails(n, data, level):
    hits = data.draw(st.integers(0, n))
    lower, upper = clopper_pearson(hits, n, level)
    tail = (1 - level) / 2
    if hits > 0:
        assert binom.sf(hits - 1, n, lower) == pytest.approx(tail, rel=1e-6)
    if hits < n:
        assert binom.cdf(hits, n, upper) == pytest.approx(tail, rel=1e-6)
    assert (lower == 0.0) == (hits == 0)
    assert (upper == 1.0) == (hits == n)


def test_binomial_level_is_used():
    data = point_data()
    wide = coverage_report(*POINTS, *data, binomial_level=0.999)
    narrow = coverage_report(*POINTS, *data, binomial_level=0.5)
    assert wide.stale.lower < narrow.stale.lower < narrow.stale.upper < wide.stale.upper
    assert wide.stale.coverage == narrow.stale.coverage


# ---------------------------------------------------------------------------
# Models and data of all kinds.


def test_fitted_models_frames_and_pipelines(df_module):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2))
    y = X @ [1.0, 2.0] + rng.normal(size=300)
    model = make_pipeline(StandardScaler(), LinearRegression()).fit(X[:100], y[:100])
    rough = LinearRegression().fit(X[:100], y[:100])
    rough.coef_ = np.round(rough.coef_)
    rows = X[100:200], y[100:200], X[200:], y[200:]
    plain = coverage_report(model, rough, *rows)

    def frame(values):
        return df_module.make_dataframe({"u": values[:, 0], "v": values[:, 1]})

    model = make_pipeline(StandardScaler(), LinearRegression())
    model.fit(frame(X[:100]), y[:100])
    named = LinearRegression().fit(frame(X[:100]), y[:100])
    named.coef_ = rough.coef_
    framed = coverage_report(
        model,
        named,
        frame(rows[0]),
        df_module.make_series(rows[1]),
        frame(rows[2]),
        df_module.make_series(rows[3]),
    )
    pd.testing.assert_frame_equal(plain.to_frame(), framed.to_frame())


def test_a_list_of_models_of_one_level_is_a_quantile_model():
    X_cal, y_cal, X, y = quantile_data()

    class Level(Points):
        def __init__(self, column=0, quantile=0.5):
            super().__init__(column)
            self.quantile = quantile

        @property
        def quantiles_(self):
            return np.array([self.quantile])

        def predict_quantiles(self, X):
            return self.predict(X)[:, None]

    pairs = [[Level(k, 0.05), Level(k + 1, 0.95)] for k in (0, 2)]
    one = coverage_report(*pairs, X_cal, y_cal, X, y)
    two = coverage_report(*QUANTILES, X_cal, y_cal, X, y)
    pd.testing.assert_frame_equal(one.to_frame(), two.to_frame())


def test_a_quantile_model_can_be_taken_by_its_points():
    X_cal, y_cal, X, y = quantile_data()
    one = coverage_report(*QUANTILES, X_cal, y_cal, X, y, nonconformity="absolute")
    assert one.nonconformity == "absolute"
    assert one.stale.mean_width == one.float_model.mean_width


def test_the_models_are_asked_and_never_changed():
    X_cal, y_cal, X, y = class_data()
    model = LogisticRegression().fit(X_cal, y_cal)
    rough = LogisticRegression().fit(X_cal, y_cal)
    rough.coef_ = np.round(rough.coef_)
    before = model.coef_.copy(), rough.coef_.copy()
    report = coverage_report(model, rough, X_cal, y_cal, X, y)
    assert report.nonconformity == "lac"
    np.testing.assert_array_equal(before, (model.coef_, rough.coef_))


def test_float32_and_strides():
    X_cal, y_cal, X, y = (a.astype(np.float32) for a in point_data())
    one = coverage_report(*POINTS, X_cal, y_cal, X, y)
    wide = np.empty((150, 4), dtype=np.float32)
    wide[:, ::2] = X
    two = coverage_report(*POINTS, X_cal, y_cal.astype(float), wide[:, ::2], y)
    assert one.to_frame().equals(two.to_frame())


# ---------------------------------------------------------------------------
# What it looks like.


def test_the_report_is_a_table():
    report = coverage_report(*POINTS, *point_data())
    frame = report.to_frame()
    assert frame.index.tolist() == ["float model", "stale", "recalibrated"]
    assert list(frame) == ["coverage", "lower", "upper", "threshold", "mean_width"]
    assert frame.loc["stale"].tolist() == list(report.stale)
    text = repr(report)
    assert f"{report.stale.coverage:.3f}" in text
    assert f"width ratio {report.width_ratio:.3f}" in text
    assert f"(forecast {report.width_ratio_forecast:.3f})" in text
    text = repr(coverage_report(*CLASSES, *class_data()))
    assert "set size ratio" in text
    assert "changed labels" in text
    assert max(map(len, text.splitlines())) <= 88


def test_the_report_cannot_be_changed():
    report = coverage_report(*POINTS, *point_data())
    with pytest.raises(AttributeError):
        report.drift_rms = 0.0


def test_thresholds_are_public_conformal_quantiles():
    X_cal, y_cal, X, y = point_data(n=(1000, 10))
    report = coverage_report(*POINTS, X_cal, y_cal, X, y, confidence_level=0.55 - 0.45)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = conformal_quantile(np.abs(y_cal - X_cal[:, 1]), 0.1)
    assert report.recalibrated.threshold == expected
