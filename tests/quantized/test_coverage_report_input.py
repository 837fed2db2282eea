"""coverage_report: degenerate and bad input."""

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression

from tests.quantized._coverage_models import (
    CLASSES,
    POINTS,
    QUANTILES,
    Points,
    class_data,
    point_data,
    quantile_data,
)
from uqlib.exceptions import InfiniteIntervalWarning, QuantizationWarning
from uqlib.quantized import QuantizedRegressor
from uqlib.quantized._coverage_report import coverage_report


def test_too_few_rows_of_calibration_warn_once():
    X_cal, y_cal, X, y = point_data(n=(8, 20))
    with pytest.warns(InfiniteIntervalWarning, match="at least 9") as caught:
        report = coverage_report(*POINTS, X_cal, y_cal, X, y)
    assert len(caught) == 1
    assert report.recalibrated.coverage == 1.0
    assert report.recalibrated.upper == 1.0
    assert report.recalibrated.mean_width == np.inf
    assert np.isnan(report.width_ratio)
    assert report.by_drift["width_ratio"].isna().all()
    assert "nan" in repr(report)


def test_one_test_row():
    X_cal, y_cal, X, y = point_data(n=(20, 1))
    report = coverage_report(*POINTS, X_cal, y_cal, X, y)
    assert report.stale.coverage in (0.0, 1.0)
    assert len(report.by_drift) == 1


def test_infinite_quantiles_are_legal():
    X_cal, y_cal, X, y = quantile_data()
    X[:3, 0] = X[:3, 2] = -np.inf  # in both models: not moved
    X[3, 3] = np.inf
    report = coverage_report(*QUANTILES, X_cal, y_cal, X, y)
    assert report.drift_rms == np.inf
    assert report.float_model.mean_width == np.inf
    assert report.by_drift["drift_max"].iloc[-1] == np.inf
    assert report.by_drift["n_samples"].iloc[-1] == 1


def test_an_exact_model_of_width_zero():
    X = np.column_stack([np.arange(30.0), np.arange(30.0) + 0.5])
    report = coverage_report(*POINTS, X, X[:, 0], X, X[:, 0])
    assert report.float_model.threshold == 0.0
    assert report.float_model.coverage == 1.0
    assert report.stale.coverage == 0.0
    assert report.width_ratio > 1e9  # what is left of 0 is rounding outwards
    assert report.width_ratio_forecast == np.inf


class Seen(Points):
    """Says that some rows were used in its quantization."""

    def rows_seen(self, X):
        return float(np.mean(np.asarray(X)[:, 0] > 0))


def test_rows_of_the_quantization_warn():
    data = point_data()
    with pytest.warns(QuantizationWarning, match=r"of the rows of X_cal are rows"):
        report = coverage_report(POINTS[0], Seen(1), *data)
    assert report.rows_seen == np.mean(data[0][:, 0] > 0)
    data[0][:, 0] = -1.0
    assert coverage_report(POINTS[0], Seen(1), *data).rows_seen == 0.0


def test_a_quantized_model_knows_its_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    y = X @ [1.0, 2.0, 3.0] + rng.normal(size=300)
    model = LinearRegression().fit(X[:100], y[:100])
    quantized = QuantizedRegressor(FrozenEstimator(model), scheme="w3").fit(X[:100])
    rows = X[100:200], y[100:200], X[200:], y[200:]
    report = coverage_report(model, quantized, *rows)
    assert report.rows_seen == 0.0
    np.testing.assert_allclose(
        report.drift_rms, np.sqrt(np.mean(quantized.drift(X[200:]) ** 2))
    )
    with pytest.warns(QuantizationWarning, match="50 % of the rows"):
        coverage_report(model, quantized, X[50:150], y[50:150], *rows[2:])


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"nonconformity": "raps"}, ValueError, "nonconformity must be one of"),
        ({"nonconformity": ["lac"]}, ValueError, "nonconformity must be one of"),
        ({"nonconformity": "quantile"}, ValueError, "cannot give quantiles"),
        ({"nonconformity": "lac"}, ValueError, "classes_"),
        ({"confidence_level": 1.5}, ValueError, "confidence_level must lie"),
        ({"binomial_level": 0.0}, ValueError, "binomial_level must lie"),
        ({"binomial_level": "0.9"}, TypeError, "binomial_level must be"),
        ({"y_cal": np.zeros(98)}, ValueError, "y_cal has 98 rows but X_cal has 99"),
        ({"y_test": np.zeros(3)}, ValueError, "y_test has 3 rows but X_test has 150"),
        ({"y_test": np.full(150, np.nan)}, ValueError, "y_test contains NaN"),
        ({"y_test": np.zeros((150, 1))}, ValueError, "y_test must have shape"),
        (
            {"X_test": np.zeros((0, 2)), "y_test": np.zeros(0)},
            ValueError,
            "X_test is empty",
        ),
    ],
)
def test_refuses(changed, error, message):
    names = ("X_cal", "y_cal", "X_test", "y_test")
    arguments = dict(zip(names, point_data(), strict=True)) | changed
    with pytest.raises(error, match=message):
        coverage_report(*POINTS, **arguments)


@pytest.mark.parametrize(
    ("y_test", "message"),
    [
        (np.full(300, "d"), "labels that the estimator does not know"),
        (np.full((300, 1), "a"), r"y_test must have shape \(n_samples,\)"),
        (np.full(300, None), "missing label"),
    ],
)
def test_refuses_labels(y_test, message):
    X_cal, y_cal, X, _ = class_data()
    with pytest.raises(ValueError, match=message):
        coverage_report(*CLASSES, X_cal, y_cal, X, y_test)
