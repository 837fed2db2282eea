"""SPARegressor: its parts by hand, its identities, its symmetries."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, QuantileRegressor, Ridge
from sklearn.model_selection import (
    KFold,
    cross_val_predict,
    train_test_split,
)
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils import check_random_state

from tests.spa._rows import FROZEN_ZERO, NAMES, X, Y, quick, skewed_rows
from uqlib._core.ranks import conformal_quantile
from uqlib._core.split_point import (
    sds_widening_factors,
    self_consistency_discrepancy,
    split_point_statistics,
)
from uqlib.exceptions import InfiniteIntervalWarning
from uqlib.spa._regressor import SPARegressor

MODES = pytest.mark.parametrize("heads", ["coherent", "separate"])


# ---------------------------------------------------------------------------
# By hand.


def heads_by_hand(Z, r, level=0.9):
    """Coherent heads with the parts spelled out."""
    up = r > 0

    def means(new):
        fits = [
            LinearRegression().fit(Z, target).predict(new)
            for target in (np.maximum(r, 0), np.maximum(-r, 0), up.astype(float))
        ]
        floor = 1e-6 * np.abs(r).mean()
        return (*np.maximum(fits[:2], floor), np.clip(fits[2], 0.02, 0.98))

    def quantiles(new):
        return [
            QuantileRegressor(quantile=level, alpha=0)
            .fit(Z[side], np.abs(r[side]))
            .predict(new)
            for side in (up, ~up)
        ]

    return means, quantiles


def residuals_by_hand(how, X_train, y_train, random_state):
    random_state.randint(np.iinfo(np.int32).max, size=1)  # seeds the estimator
    folds = KFold(2, shuffle=True, random_state=random_state)
    if how == "oof":
        base = LinearRegression().fit(X_train, y_train)
        held_out = cross_val_predict(LinearRegression(), X_train, y_train, cv=folds)
        return base, X_train, y_train - held_out
    if how == "holdout":
        train, test = next(folds.split(X_train))
        base = LinearRegression().fit(X_train[train], y_train[train])
        return base, X_train[test], y_train[test] - base.predict(X_train[test])
    base = LinearRegression().fit(X_train, y_train)
    return base, X_train, y_train - base.predict(X_train)


@pytest.mark.parametrize("residuals", ["oof", "holdout", "train"])
def test_equals_the_procedure_by_hand(residuals):
    model = quick(residuals=residuals, cv=2, random_state=3).fit(X, Y)
    random_state = check_random_state(3)
    X_train, X_cal, y_train, y_cal = train_test_split(
        X, Y, test_size=0.25, random_state=random_state
    )
    base, Z, r = residuals_by_hand(residuals, X_train, y_train, random_state)
    means, quantiles = heads_by_hand(Z, r)

    above, below, p = means(X)
    found = model.predict_uncertainty(X)
    assert_allclose(found.mar, above + below)
    assert_allclose(found.bias, above - below, atol=1e-12)
    assert_allclose(found.p_up, p)
    assert_allclose(found.mar_up, above / p)
    assert_allclose(found.mar_down, below / (1 - p))
    assert_allclose([found.quantile_up, found.quantile_down], quantiles(X))

    q_up, q_down = quantiles(X_cal)
    residual = y_cal - base.predict(X_cal)
    scores = np.maximum(residual / q_up, -residual / q_down)
    threshold = conformal_quantile(scores, 0.9)
    assert_allclose(model.scores_, scores)
    assert model.threshold_ == pytest.approx(threshold)
    assert model.n_calibration_ == 60
    q_up, q_down = quantiles(X)
    point = base.predict(X)
    assert_allclose(
        model.predict_interval(X),
        np.column_stack([point - threshold * q_down, point + threshold * q_up]),
        atol=1e-12,
    )
    assert_array_equal(model.predict(X), point)
    assert model.constant_heads_ == ()


@MODES
def test_uncertainty_has_its_names_and_identities(heads):
    found = quick(heads=heads).fit(X, Y).predict_uncertainty(X)
    assert sorted(found) == sorted(NAMES)
    assert all(values.shape == (240,) for values in found.values())
    means = found.mar, found.mar_up, found.mar_down
    assert_array_equal(found.aleatoric, found.mar_up + found.mar_down)
    assert_array_equal(found.sds, self_consistency_discrepancy(*means))
    assert_allclose(found.epistemic**2, found.sds, rtol=1e-12)
    assert_allclose(found.sds, found.relative_sds * found.mar * found.aleatoric)
    mixed = found.p_up * found.mar_up - (1 - found.p_up) * found.mar_down
    assert_allclose(found.bias, mixed, atol=1e-12)
    assert min(found[name].min() for name in NAMES if name != "bias") >= 0
    if heads == "coherent":
        product = np.abs(found.bias * (found.mar_up - found.mar_down))
        assert_allclose(found.sds, product, atol=1e-12)
        assert (found.relative_sds < 1).all()
        assert (np.abs(found.bias) <= found.mar).all()
        smaller = np.minimum(found.mar_up, found.mar_down)
        larger = np.maximum(found.mar_up, found.mar_down)
        assert (
            (smaller <= found.mar * (1 + 1e-12)) & (found.mar <= larger * (1 + 1e-12))
        ).all()


@MODES
@pytest.mark.parametrize("weighted", [False, True])
def test_tree_heads_give_the_moments_of_groups(heads, weighted):
    # A tree with a leaf for each group predicts exact means, so that both modes agree
    # with the statistics of the group's residuals.
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(4), 50)
    r = rng.normal(size=200) * (1 + group) + group - 1.5
    r[::7] = 0.0
    weight = rng.integers(1, 4, size=200).astype(float) if weighted else None
    rows = group[:, None].astype(float)
    model = SPARegressor(
        FROZEN_ZERO,
        mar_estimator=DecisionTreeRegressor(),
        quantile_estimator=DummyRegressor(),
        heads=heads,
        calibration=None,
    ).fit(rows, r, sample_weight=weight)
    found = model.predict_uncertainty(np.arange(4.0)[:, None])
    for k in range(4):
        chosen = group == k
        expected = split_point_statistics(
            r[chosen], sample_weight=None if weight is None else weight[chosen]
        )
        for name in ("mar", "mar_up", "mar_down", "p_up", "bias", "sds"):
            assert found[name][k] == pytest.approx(getattr(expected, name), rel=1e-8)


# ---------------------------------------------------------------------------
# Symmetries.


@MODES
@pytest.mark.parametrize(("factor", "shift"), [(3.0, 0.0), (0.01, -7.0), (-2.0, 1.0)])
def test_equivariance(heads, factor, shift):
    learners = {
        "mar_estimator": LinearRegression(),
        "quantile_estimator": DummyRegressor(),
        "heads": heads,
        "sds_widening": 3.0,
    }
    first = quick(**learners).fit(X, Y)
    second = quick(**learners).fit(X, factor * Y + shift)
    before, after = first.predict_uncertainty(X), second.predict_uncertainty(X)
    if factor < 0:
        swapped = {"mar_up": "mar_down", "quantile_up": "quantile_down"}
        swapped |= {down: up for up, down in swapped.items()}
        before = {name: before[swapped.get(name, name)] for name in NAMES}
        before["p_up"] = 1 - before["p_up"]
    size = abs(factor)
    units = {"sds": size**2, "relative_sds": 1, "p_up": 1, "bias": factor}
    for name in NAMES:
        unit = units.get(name, size)
        # A root of what cancels to rounding error is known to its root.
        atol = {"epistemic": 1e-6, "sds": 1e-10}.get(name, 1e-9) * abs(unit)
        assert_allclose(after[name], unit * before[name], rtol=1e-6, atol=atol)
    expected = np.sort(factor * first.predict_interval(X) + shift, axis=1)
    assert_allclose(second.predict_interval(X), expected, rtol=1e-7, atol=1e-8)


@MODES
def test_the_order_of_rows_does_not_matter(heads):
    order = np.random.default_rng(0).permutation(Y.size)
    options = {"residuals": "train", "calibration": None, "heads": heads}
    first = quick(**options).fit(X, Y).predict_uncertainty(X)
    second = quick(**options).fit(X[order], Y[order]).predict_uncertainty(X)
    for name in NAMES:
        assert_allclose(second[name], first[name], rtol=1e-6, atol=1e-6)


@MODES
def test_a_weight_is_a_repetition(heads):
    weight = np.random.default_rng(0).integers(0, 4, size=Y.size)
    rows = np.repeat(np.arange(Y.size), weight)
    options = {"residuals": "train", "calibration": None, "heads": heads}
    first = quick(**options).fit(X, Y, sample_weight=weight)
    second = quick(**options).fit(X[rows], Y[rows])
    before, after = first.predict_uncertainty(X), second.predict_uncertainty(X)
    assert first.floor_ == pytest.approx(second.floor_)
    for name in NAMES:
        assert_allclose(after[name], before[name], rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------
# Widening, levels, recalibration.


def test_widening_multiplies_the_side_quantiles():
    assert SPARegressor(Ridge()).sds_widening is None
    plain = quick(FROZEN_ZERO, calibration=None).fit(X, Y)
    wide = quick(FROZEN_ZERO, calibration=None, sds_widening=2.0).fit(X, Y)
    before, after = plain.predict_uncertainty(X), wide.predict_uncertainty(X)
    factors = sds_widening_factors(before.mar, before.mar_up, before.mar_down, cap=2.0)
    assert_array_equal(after.quantile_up, factors[0] * before.quantile_up)
    assert_array_equal(after.quantile_down, factors[1] * before.quantile_down)
    ratio = np.diff(wide.predict_interval(X)) / np.diff(plain.predict_interval(X))
    assert np.isfinite(ratio).all()
    assert ((ratio >= 1 - 1e-12) & (ratio <= 2 + 1e-12)).all()
    assert ratio.max() > 1.1  # a predictor that is 0 everywhere is biased
    # Calibrated after that.
    model = quick(FROZEN_ZERO, sds_widening=2.0).fit(X, Y)
    assert model.threshold_ == conformal_quantile(model.scores_, 0.9)


def test_levels_other_than_the_fitted_one():
    model = quick().fit(X, Y)
    assert_array_equal(model.predict_interval(X, 0.9), model.predict_interval(X))
    found = model.predict_uncertainty(X)
    threshold = conformal_quantile(model.scores_, 0.6)
    width = threshold * (found.quantile_up + found.quantile_down)
    assert_allclose(np.diff(model.predict_interval(X, 0.6)).ravel(), width)
    widths = [np.diff(model.predict_interval(X[:1], p)) for p in (0.3, 0.5, 0.8, 0.95)]
    assert (np.diff(np.ravel(widths)) >= 0).all()
    with pytest.warns(InfiniteIntervalWarning, match="60 calibration rows"):
        assert np.isinf(model.predict_interval(X, 0.99)).all()


def test_without_calibration_there_is_one_level():
    model = quick(calibration=None, confidence_level=0.8).fit(X, Y)
    found, point = model.predict_uncertainty(X), model.predict(X)
    ends = np.column_stack([point - found.quantile_down, point + found.quantile_up])
    assert_allclose(model.predict_interval(X), ends, atol=1e-12)
    assert_array_equal(model.predict_interval(X, 0.8), model.predict_interval(X))
    with pytest.raises(ValueError, match=r"confidence_level=0.9 .* alone, 0.8"):
        model.predict_interval(X, 0.9)
    assert not hasattr(model, "scores_")
    # New rows calibrate it, at the level of the parameter, and then any level will do.
    X_new, y_new = skewed_rows(50, seed=9)
    model.set_params(confidence_level=0.9).calibrate(X_new, y_new)
    assert (model.n_calibration_, model.confidence_level_) == (50, 0.9)
    sides = model.predict_uncertainty(X_new)
    residual = y_new - model.predict(X_new)
    scores = np.maximum(residual / sides.quantile_up, -residual / sides.quantile_down)
    assert_allclose(model.scores_, scores)
    assert np.isfinite(model.predict_interval(X, 0.95)).all()
    # To fit again starts over.
    assert not hasattr(model.fit(X, Y), "scores_")


def test_calibrating_with_the_same_rows_changes_nothing():
    model = quick().fit(X, Y)
    before = model.predict_interval(X)
    random_state = check_random_state(0)
    _, X_cal, _, y_cal = train_test_split(
        X, Y, test_size=0.25, random_state=random_state
    )
    assert_array_equal(model.calibrate(X_cal, y_cal).predict_interval(X), before)
    with pytest.warns(InfiniteIntervalWarning, match="5 calibration rows"):
        model.calibrate(X_cal[:5], y_cal[:5])
    assert model.threshold_ == np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isinf(model.predict_interval(X)).all()


# ---------------------------------------------------------------------------
# The bias of a shifted predictor.


class LowPrecision(RegressorMixin, BaseEstimator):
    """A line whose weights have few bits, and whose output is shifted."""

    def __init__(self, step=0.125, shift=0.0):
        self.step = step
        self.shift = shift

    def fit(self, X, y):
        line = LinearRegression().fit(X, y)
        self.coef_ = self.step * np.round(line.coef_ / self.step)
        self.intercept_ = line.intercept_ + self.shift
        return self

    def predict(self, X):
        return np.asarray(X) @ self.coef_ + self.intercept_


@MODES
@pytest.mark.parametrize("delta", [0.5, -0.5])
def test_the_bias_of_a_shifted_predictor_is_found(heads, delta):
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(2500, 2))
    y = rows @ [0.5, -0.25] + rng.normal(scale=0.6, size=2500)
    line = LowPrecision(shift=delta).fit(rows[:500], y[:500])
    model = SPARegressor(
        FrozenEstimator(line),
        mar_estimator=HistGradientBoostingRegressor(max_iter=20),
        quantile_estimator=DummyRegressor(),
        heads=heads,
        random_state=0,
    ).fit(rows[500:], y[500:])
    bias = model.predict_uncertainty(rows[500:]).bias
    assert bias.mean() == pytest.approx(-delta, rel=0.1)
    # The error of the mean is 0.6 / sqrt(1500); a plain mean finds no more.
    assert abs(bias.mean() + delta) < 4 * 0.6 / np.sqrt(1500)
    corrected = y[500:] - model.predict(rows[500:]) - bias
    assert abs(corrected.mean()) < 0.1 * abs(delta)


@MODES
def test_the_bias_of_a_shifted_predictor_is_found_at_every_row(heads):
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(2000, 1))
    y = rows[:, 0] + rng.choice([-0.1, 0.1], size=2000)
    truth = FrozenEstimator(LowPrecision(step=1.0, shift=0.05).fit(rows, rows[:, 0]))
    model = quick(truth, heads=heads, quantile_estimator=DummyRegressor()).fit(rows, y)
    # r is 0.05 or -0.15 with equal chances, whatever x.
    bias = model.predict_uncertainty(rows).bias
    assert_allclose(bias, -0.05, atol=0.02)
    assert bias.mean() == pytest.approx(-0.05, rel=0.1)
