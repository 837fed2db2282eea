"""Certificates from two models, split-point shift, and the Lipschitz bound."""

import math
from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor

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
from uqlib._core.drift_certificate import drift_certificate
from uqlib._core.sets import lac_sets
from uqlib._core.split_point import split_point_statistics
from uqlib.exceptions import InfiniteIntervalWarning, QuantizationWarning
from uqlib.quantized import QuantizedRegressor, quantize
from uqlib.quantized._drift import (
    certify_drift,
    lipschitz_drift_bound,
    split_point_shift,
)

COARSE = st.integers(-4, 4).map(lambda k: k / 10)

# ---------------------------------------------------------------------------
# Certificates from models.


def test_points_are_certified_by_residuals_and_drift():
    X_cal, y_cal, X, _ = point_data(n=(200, 300))
    found = certify_drift(*POINTS, X_cal, y_cal, X, confidence_level=0.8)
    expected = drift_certificate(
        np.abs(y_cal - X_cal[:, 0]), X[:, 1] - X[:, 0], confidence_level=0.8
    )
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    assert (found.n_scores, found.n_drift) == (200, 300)


def test_quantiles_are_certified_by_the_ends():
    X_cal, y_cal, X, _ = quantile_data(n=(200, 300))
    found = certify_drift(*QUANTILES, X_cal, y_cal, X, drift_share=0.2)
    expected = drift_certificate(
        np.maximum(X_cal[:, 0] - y_cal, y_cal - X_cal[:, 1]),
        X[:, 2:] - X[:, :2],
        drift_share=0.2,
    )
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    assert found.interval(QUANTILES[1].predict_quantiles(X)).shape == (300, 2)


def test_no_label_within_both_thresholds_leaves_its_set():
    X_cal, y_cal, X, y = class_data(n=(500, 700))
    found = certify_drift(*CLASSES, X_cal, y_cal, X)
    column = np.searchsorted(["a", "b", "c"], y)
    p, q = X[:, :3], X[:, 3:]
    score = 1 - p[np.arange(700), column]
    falls = np.sort((p - q).max(axis=1))
    assert found.drift_offsets[0] == pytest.approx(falls[math.ceil(701 * 0.99) - 1])
    sets = lac_sets(q, found.offsets[0])
    # Probabilities are rounded to nine digits.
    inside = (score <= found.score_offsets[0] - 1e-8) & (
        (p - q).max(axis=1) <= found.drift_offsets[0] - 1e-8
    )
    assert inside.mean() > 0.8
    assert sets[np.arange(700), column][inside].all()


PROBA = st.lists(st.integers(1, 4), min_size=3, max_size=3).map(
    lambda w: np.array(w) / sum(w)
)


@given(st.lists(st.tuples(PROBA, PROBA, st.integers(0, 2)), min_size=7, max_size=7))
def test_coverage_of_sets_by_enumeration(rows):
    X = np.array([np.concatenate([p, q]) for p, q, _ in rows])
    y = np.array([label for _, _, label in rows])
    models = Classes((0, 1, 2), 0).fit(None), Classes((0, 1, 2), 3).fit(None)
    hits, total = 0, 0
    for new in range(7):
        rest = [i for i in range(7) if i != new]
        for labelled in map(list, combinations(rest, 3)):
            left = [i for i in rest if i not in labelled]
            found = certify_drift(
                *models,
                X[labelled],
                y[labelled],
                X[left],
                confidence_level=0.5,
                drift_share=0.5,
            )
            hits += lac_sets(X[[new], 3:], found.offsets[0])[0, y[new]]
            total += 1
    assert Fraction(int(hits), total) >= Fraction(1, 2)


def test_the_labelled_rows_can_be_those_of_the_drift():
    X_cal, y_cal, _, _ = point_data(n=(200, 1))
    found = certify_drift(*POINTS, X_cal, y_cal, X_cal)
    assert found.n_drift == 200
    assert np.isfinite(found.offsets).all()


def test_rows_of_the_quantization_warn():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(700, 3))
    y = X @ [1.0, 2.0, 3.0] + rng.normal(size=700)
    model = LinearRegression().fit(X[:100], y[:100])
    quantized = QuantizedRegressor(FrozenEstimator(model), scheme="w4").fit(X[:100])
    certify_drift(model, quantized, X[100:400], y[100:400], X[400:])
    with pytest.warns(QuantizationWarning, match="rows of X_cal are rows"):
        certify_drift(model, quantized, X[:300], y[:300], X[400:])
    with pytest.warns(QuantizationWarning, match="rows of X_unlabelled are rows"):
        certify_drift(model, quantized, X[100:400], y[100:400], X[:300])
    with pytest.warns(QuantizationWarning) as caught:
        certify_drift(model, quantized, X[:300], y[:300], X)
    assert len(caught) == 2
    rows = X[:300]
    with pytest.warns(QuantizationWarning) as caught:
        certify_drift(model, quantized, rows, y[:300], rows)
    assert len(caught) == 1


def test_too_few_rows_warn():
    X_cal, y_cal, X, _ = point_data(n=(200, 98))
    with pytest.warns(InfiniteIntervalWarning, match="98 rows of drift"):
        found = certify_drift(*POINTS, X_cal, y_cal, X)
    assert found.offsets.tolist() == [math.inf, math.inf]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y_cal": np.zeros(3)}, "y_cal has 3 rows but X_cal has 200"),
        ({"y_cal": np.full(200, np.inf)}, "y_cal contains NaN or infinity"),
        ({"nonconformity": "signed"}, "nonconformity must be one of"),
        ({"confidence_level": 90}, "confidence_level must lie"),
        ({"drift_share": 2.0}, "drift_share must lie"),
    ],
)
def test_certify_refuses(changed, message):
    X_cal, y_cal, X, _ = point_data(n=(200, 200))
    arguments = {"X_cal": X_cal, "y_cal": y_cal, "X_unlabelled": X} | changed
    with pytest.raises(ValueError, match=message):
        certify_drift(*POINTS, **arguments)


def test_a_model_that_predicts_nan_is_refused():
    X_cal, y_cal, X, _ = point_data(n=(200, 200))
    X[0, 1] = np.nan
    with pytest.raises(ValueError, match="Points"):
        certify_drift(Points(0), Points(1), X_cal, y_cal, X)


# ---------------------------------------------------------------------------
# Split-point shift.


@given(
    st.lists(
        st.tuples(COARSE, COARSE, COARSE, st.integers(1, 3)), min_size=1, max_size=20
    )
)
def test_shift_is_the_statistics_of_both_models(rows):
    y, f, f_q, weight = np.array(rows).T
    found = split_point_shift(y, f, f_q, sample_weight=weight)
    each = np.repeat(np.arange(len(y)), weight.astype(int))  # weights as repetitions
    for prediction, bias, rmse, sds, relative in (
        (f, found.bias, found.rmse, found.sds, found.relative_sds),
        (
            f_q,
            found.bias_quantized,
            found.rmse_quantized,
            found.sds_quantized,
            found.relative_sds_quantized,
        ),
    ):
        r = (y - prediction)[each]
        expected = split_point_statistics(r)
        assert bias == pytest.approx(r.mean(), abs=1e-12)
        assert rmse == pytest.approx(math.sqrt(np.mean(r**2)), abs=1e-12)
        assert sds == pytest.approx(expected.sds, abs=1e-12, nan_ok=True)
        assert math.isnan(relative) == (not expected.valid)
        if expected.valid and expected.mar > 0:
            gap = abs(expected.harmonic_mar / expected.mar - 1)
            assert relative == pytest.approx(gap, abs=1e-9)


def test_a_constant_drift_moves_the_discrepancy_where_noise_is_skewed():
    noise = np.random.default_rng(0).exponential(size=20_000)
    noise -= noise.mean()
    found = split_point_shift(noise, np.zeros_like(noise), np.full_like(noise, 0.01))
    before = split_point_statistics(noise)
    assert found.bias == pytest.approx(0, abs=1e-12)
    assert found.bias_quantized == pytest.approx(-0.01)
    assert found.rmse_quantized == pytest.approx(math.hypot(found.rmse, 0.01))
    assert found.rmse_quantized / found.rmse < 1.0001  # the RMSE hardly tells
    moved = found.sds_quantized - found.sds
    assert moved == pytest.approx(0.01 * (before.mar_up - before.mar_down), rel=0.03)


def test_shift_refuses():
    with pytest.raises(ValueError, match="y_pred has 1 rows but y_true has 2"):
        split_point_shift([1.0, 2.0], [1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="y_pred_quantized contains NaN"):
        split_point_shift([1.0], [1.0], [np.nan])
    with pytest.raises(ValueError, match="y_true contains NaN"):
        split_point_shift([np.inf], [1.0], [1.0])
    with pytest.raises(ValueError, match="sample_weight must have shape"):
        split_point_shift([1.0], [1.0], [1.0], sample_weight=[1.0, 2.0])
    with pytest.raises(ValueError, match="empty"):
        split_point_shift([], [], [])


# ---------------------------------------------------------------------------
# The Lipschitz bound.


def forward(layers, X):
    for k, (weight, bias) in enumerate(layers):
        X = X @ weight.T + bias
        if k + 1 < len(layers):
            X = np.maximum(X, 0)
    return X


@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([0.0, 0.01, 1.0]))
def test_no_drift_exceeds_the_bound(seed, depth, error):
    rng = np.random.default_rng(seed)
    widths = rng.integers(1, 6, size=depth + 1)
    layers, rounded = [], []
    for n_in, n_out in pairwise(widths):
        weight, bias = rng.normal(size=(n_out, n_in)), rng.normal(size=n_out)
        layers.append((weight, bias))
        noise = error * rng.normal(size=(n_out, n_in)), error * rng.normal(size=n_out)
        rounded.append((weight + noise[0], bias + noise[1]))
    X = 3 * rng.normal(size=(50, widths[0]))
    bound = lipschitz_drift_bound(layers, rounded, np.linalg.norm(X, axis=1))
    drift = np.linalg.norm(forward(rounded, X) - forward(layers, X), axis=1)
    assert (drift <= bound * (1 + 1e-12) + 1e-12).all()
    assert (bound == 0).all() == (error == 0)


def test_the_bound_is_reached_by_one_layer():
    rng = np.random.default_rng(0)
    error = rng.normal(size=(3, 4))
    x = np.linalg.svd(error)[2][0]  # what the error stretches most
    bound = lipschitz_drift_bound(
        [(np.zeros((3, 4)), np.zeros(3))], [(error, np.zeros(3))], [1.0]
    )
    np.testing.assert_allclose(bound, [np.linalg.norm(error @ x)])


WIDE = st.floats(0.1, 3.0)


@given(st.lists(st.tuples(WIDE, WIDE, WIDE, WIDE), min_size=1, max_size=5), WIDE)
def test_the_bound_is_reached_by_a_chain_of_positive_numbers(numbers, x):
    layers = [([[w]], [b]) for w, b, _, _ in numbers]
    grown = [([[w + e]], [b + c]) for w, b, e, c in numbers]
    found = lipschitz_drift_bound(layers, grown, [x])
    before, after = x, x
    for w, b, e, c in numbers:
        before, after = w * before + b, (w + e) * after + b + c
    np.testing.assert_allclose(found, [after - before], rtol=1e-9)


def test_the_bound_holds_for_a_quantized_network_and_is_loose():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 5))
    y = np.sin(X[:, 0]) + X[:, 1]
    model = MLPRegressor(hidden_layer_sizes=(16, 16), max_iter=60, random_state=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        model.fit(X, y)
    quantized = quantize(model, "w4", X)
    layers = [
        [(w.T, b) for w, b in zip(m.coefs_, m.intercepts_, strict=True)]
        for m in (model, quantized.dequantize())
    ]
    bound = lipschitz_drift_bound(*layers, np.linalg.norm(X, axis=1))
    drift = np.abs(quantized.drift(X))
    assert (drift <= bound).all()
    assert 5 < bound.max() / drift.max() < 5000  # why D is measured


def test_the_bound_refuses():
    layer = [([[1.0, 2.0]], [0.0])]
    with pytest.raises(ValueError, match="layers of one network"):
        lipschitz_drift_bound(layer, [([[1.0]], [0.0])], [1.0])
    with pytest.raises(ValueError, match="layers of one network"):
        lipschitz_drift_bound([], [], [1.0])
    with pytest.raises(ValueError, match=r"x_norm must be at least 0, got -1\.0"):
        lipschitz_drift_bound(layer, layer, [-1.0])
    with pytest.raises(ValueError, match="x_norm contains NaN"):
        lipschitz_drift_bound(layer, layer, [np.nan])
    assert lipschitz_drift_bound(layer, layer, []).shape == (0,)
