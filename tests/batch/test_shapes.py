"""The shape of a rank score that the estimator asks for, and invariances."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split

from tests._models import normal_rows
from tests.batch._batches import calibrated, rows_of
from uqlib import InfiniteIntervalWarning
from uqlib._core.rank_bounds import batch_bound
from uqlib.batch._inference import BatchPredictiveInference

X, Y = normal_rows(200, seed=0)
SCORES = np.random.default_rng(5).normal(size=40)
BATCH = np.zeros((5, 1))


def _grid(shape, slope, kappa, grid, n):
    p = (np.arange(n + 1) + 0.5) / (n + 1)
    rising = np.maximum.accumulate(shape + kappa * np.sqrt(p * (1 - p) / n) * slope)
    top = rising[-2]  # the last gap is forbidden, as the scores are unbounded
    phi = np.rint(grid * (rising - rising[0]) / (top - rising[0]))
    phi[-1] = np.inf
    return phi


@pytest.mark.parametrize("kappa", [0.0, 2.0])
def test_shape_of_training_scores(kappa):
    parameters = {"method": "hull", "nonconformity": "outcome", "random_state": 2}
    model = BatchPredictiveInference(
        Ridge(), phi="train", kappa=kappa, grid=300, **parameters
    ).fit(X, np.exp(Y))
    train, cal = train_test_split(np.exp(Y), test_size=0.25, random_state=2)
    n = cal.size
    p = (np.arange(n + 1) + 0.5) / (n + 1)
    shape = np.quantile(train, p)
    upper = _grid(shape, np.gradient(shape, p), kappa, 300, n)
    lower = _grid(-shape[::-1], np.gradient(-shape[::-1], p), kappa, 300, n)
    common = {"confidence_level": 0.95, "method": "hull"}
    expected = [
        batch_bound(cal, 2, "mean", side=side, phi=phi, **common)
        for side, phi in (("lower", lower), ("upper", upper))
    ]
    found = model.predict_batch_interval(X[:2])[0]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    model.calibrate(X[:80], np.exp(Y[:80]))  # keeps the shape
    assert np.isfinite(model.predict_batch_interval(X[:2])).all()


def test_the_last_gap_costs_what_it_reaches():
    rng = np.random.default_rng(0)
    y = rng.beta(2, 5, size=160)
    parameters = {"method": "dp", "nonconformity": "outcome", "random_state": 2}
    model = BatchPredictiveInference(
        Ridge(), phi="train", grid=300, score_bounds=(0.0, 1.0), **parameters
    ).fit(X[:160], y)
    train, cal = train_test_split(y, test_size=0.25, random_state=2)
    p = (np.arange(cal.size + 1) + 0.5) / (cal.size + 1)
    expected = []
    for sign, end, side in ((-1, 0.0, "lower"), (1, 1.0, "upper")):
        shape = np.sort(sign * np.quantile(train, p))
        shape[-1] = sign * end
        phi = np.rint(300 * (shape - shape[0]) / (shape[-1] - shape[0]))
        bound = batch_bound(
            cal, 3, "mean", 0.95, side=side, phi=phi, score_bounds=(0, 1), method="dp"
        )
        expected.append(bound)
    found = model.predict_batch_interval(X[:3])[0]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_named_and_given_shapes():
    n, parameters = SCORES.size, {"method": "dp", "nonconformity": "outcome"}
    rising = np.append(np.arange(n) ** 2, np.inf)
    p = (np.arange(n + 1) + 0.5) / (n + 1)
    penalized = _grid(p, np.ones(n + 1), 3.0, 100, n)
    for asked, phi in (
        ({"phi": "rank"}, "rank"),
        ({"phi": "normal"}, "normal"),
        ({"phi": rising}, rising),
        ({"phi": "rank", "kappa": 3.0, "grid": 100}, penalized),
    ):
        found = calibrated(SCORES, **asked, **parameters).predict_batch_interval(
            BATCH[:2]
        )
        expected = batch_bound(SCORES, 2, "mean", 0.9, phi=phi, method="dp")
        np.testing.assert_allclose(found, [expected], rtol=0, atol=1e-12)


@pytest.mark.parametrize("phi", ["train", "normal", "rank"])
def test_negative_targets_mirror_the_interval(phi):
    parameters = {"method": "hull", "nonconformity": "outcome", "random_state": 2}
    model = BatchPredictiveInference(Ridge(), phi=phi, kappa=1.0, **parameters)
    plain = clone(model).fit(X, np.exp(Y)).predict_batch_interval(X[:2])[0]
    mirrored = clone(model).fit(X, -np.exp(Y)).predict_batch_interval(X[:2])[0]
    np.testing.assert_allclose(-mirrored[::-1], plain, rtol=1e-9)


@given(
    seed=st.integers(0, 2**16),
    statistic=st.sampled_from(["mean", "median", "max", ("trimmed", 0.25, 0.25)]),
    nonconformity=st.sampled_from(["signed", "outcome", "absolute"]),
)
@settings(max_examples=30, deadline=None)
def test_permutation_shift_and_scale(seed, statistic, nonconformity):
    rng = np.random.default_rng(seed)
    y, points, new = rng.normal(size=30), rng.normal(size=30), rng.normal(size=4)
    method = "core" if statistic == "mean" else "auto"
    parameters = {
        "statistic": statistic,
        "nonconformity": nonconformity,
        "method": method,
        "confidence_level": 0.6,
    }

    def interval(y, points, new, **more):
        model = calibrated(y, points, **{**parameters, **more})
        return model.predict_batch_interval(rows_of(new))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InfiniteIntervalWarning)
        plain = interval(y, points, new)
        order = rng.permutation(30)
        shuffled = interval(y[order], points[order], rng.permutation(new))
        np.testing.assert_array_equal(shuffled, plain)
        moved = interval(3 * y + 2, 3 * points + 2, 3 * new + 2)
        shift = 0 if nonconformity == "absolute" else 2
        np.testing.assert_allclose(moved, 3 * plain + shift, rtol=1e-9, atol=1e-9)
        wider = interval(y, points, new, confidence_level=0.8)
    assert wider[0, 0] <= plain[0, 0] <= plain[0, 1] <= wider[0, 1]
