"""What SPARegressor wraps, and what it does with rows that say little."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, QuantileRegressor, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    ShuffleSplit,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from tests._models import Zero
from tests.spa._rows import FROZEN_ZERO, NAMES, X, Y, first_column, quick
from uqlib.exceptions import (
    AlreadyFittedWarning,
    InfiniteIntervalWarning,
    UncertaintyWarning,
)
from uqlib.quantile import MultiQuantileRegressor
from uqlib.spa._regressor import SPARegressor

MODES = pytest.mark.parametrize("heads", ["coherent", "separate"])


# ---------------------------------------------------------------------------
# What it wraps and what it is made of.


@pytest.mark.parametrize(
    "learner",
    [
        QuantileRegressor(alpha=0),
        GradientBoostingRegressor(n_estimators=5),
        HistGradientBoostingRegressor(max_iter=5),
        make_pipeline(StandardScaler(), QuantileRegressor(alpha=0)),
        GridSearchCV(QuantileRegressor(), {"alpha": [0, 1e-3]}, cv=2),
    ],
    ids=lambda learner: type(learner).__name__,
)
def test_quantile_learners_are_set_to_their_level(learner):
    model = quick(
        FROZEN_ZERO, quantile_estimator=learner, calibration=None, confidence_level=0.75
    ).fit(X, Y)
    found = model.predict_uncertainty(X)
    shares = [
        np.mean(Y[Y > 0] <= found.quantile_up[Y > 0]),
        np.mean(-Y[Y <= 0] <= found.quantile_down[Y <= 0]),
    ]
    assert_allclose(shares, 0.75, atol=0.1)


def test_quantile_learners_of_many_levels():
    learner = MultiQuantileRegressor(QuantileRegressor(alpha=0))
    first = quick(quantile_estimator=learner).fit(X, Y).predict_uncertainty(X)
    second = quick().fit(X, Y).predict_uncertainty(X)
    assert_array_equal(first.quantile_up, second.quantile_up)


def test_pipelines_and_frames(df_module):
    columns = {"a": X[:, 0], "b": X[:, 1]}
    frame, y = df_module.make_dataframe(columns), df_module.make_series(Y)
    model = quick(
        make_pipeline(StandardScaler(), LinearRegression()),
        mar_estimator=make_pipeline(StandardScaler(), LinearRegression()),
    )
    found = clone(model).fit(frame, y)
    assert found.feature_names_in_.tolist() == ["a", "b"]
    same = model.fit(X, Y)
    assert_allclose(found.predict_interval(frame), same.predict_interval(X))
    assert_allclose(
        found.predict_uncertainty(frame).bias, same.predict_uncertainty(X).bias
    )


def test_heads_see_the_feature_map():
    mapped = quick(FROZEN_ZERO, feature_map=first_column).fit(X, Y)
    direct = quick(FROZEN_ZERO).fit(X[:, :1], Y)
    found, expected = (
        mapped.predict_uncertainty(X),
        direct.predict_uncertainty(X[:, :1]),
    )
    for name in NAMES:
        assert_array_equal(found[name], expected[name])
    with pytest.raises(ValueError, match=r"feature_map gave .* \(180,\) for 180 rows"):
        quick(FROZEN_ZERO, feature_map=lambda rows: rows[:, 0]).fit(X, Y)


def test_results_are_reproducible_and_survive_pickle():
    model = SPARegressor(
        DecisionTreeRegressor(max_features=1),
        mar_estimator=DecisionTreeRegressor(max_depth=2, max_features=1),
        quantile_estimator=HistGradientBoostingRegressor(max_iter=3),
        feature_map=first_column,
        random_state=7,
    )
    first, second = clone(model).fit(X, Y), clone(model).fit(X, Y)
    expected = first.predict_interval(X)
    assert_array_equal(second.predict_interval(X), expected)
    assert_array_equal(pickle.loads(pickle.dumps(first)).predict_interval(X), expected)


def test_models_and_data_of_the_user_stay_as_they_are():
    base, heads = LinearRegression(), DecisionTreeRegressor(max_depth=2)
    quantile = QuantileRegressor(alpha=0, quantile=0.3)
    X_mine, y_mine = X.copy(), Y.copy()
    for array in (X_mine, y_mine):
        array.setflags(write=False)
    quick(base, mar_estimator=heads, quantile_estimator=quantile).fit(X_mine, y_mine)
    assert not hasattr(base, "coef_")
    assert not hasattr(heads, "tree_")
    assert quantile.get_params()["quantile"] == 0.3
    line = LinearRegression().fit(X[:9], Y[:9])
    before = line.coef_.copy()
    model = quick(FrozenEstimator(line), cv="nonsense").fit(X, Y)
    assert_array_equal(line.coef_, before)
    assert_array_equal(model.predict(X), line.predict(X))
    with pytest.warns(AlreadyFittedWarning, match="SPARegressor clones"):
        quick(line).fit(X, Y)


def test_a_splitter_of_the_users_own():
    held_out = ShuffleSplit(1, test_size=60, random_state=1)
    model = quick(residuals="holdout", cv=held_out, calibration=None).fit(X, Y)
    train, _ = next(held_out.split(X))
    assert_allclose(
        model.predict(X), LinearRegression().fit(X[train], Y[train]).predict(X)
    )


# ---------------------------------------------------------------------------
# Rows that say little.


def assert_defined(model, rows):
    """Every number is finite, means are positive, and intervals hold the point."""
    found = model.predict_uncertainty(rows)
    for name in NAMES:
        assert np.isfinite(found[name]).all(), name
        assert name == "bias" or (found[name] >= 0).all(), name
    for name in ("mar", "mar_up", "mar_down", "quantile_up", "quantile_down"):
        assert (found[name] >= model.floor_).all(), name
    assert ((found.p_up >= 0.02) & (found.p_up <= 0.98)).all()
    lower, upper = model.predict_interval(rows).T
    point = model.predict(rows)
    assert ((lower <= point) & (point <= upper)).all()
    return found


LEARNERS = pytest.mark.parametrize(
    "learners",
    [{}, {"mar_estimator": None, "quantile_estimator": None}],
    ids=["linear", "default"],
)
CALIBRATION = pytest.mark.parametrize("calibration", ["conformal", None])


@MODES
@LEARNERS
@CALIBRATION
@pytest.mark.parametrize("target", [np.zeros(60), np.full(60, 7.3), 2 * X[:60, 0]])
def test_a_perfect_predictor(heads, learners, calibration, target):
    # Residuals are 0 but for rounding, if for that.
    model = quick(heads=heads, calibration=calibration, sds_widening=2.0, **learners)
    found = assert_defined(model.fit(X[:60], target), X)
    assert (found.mar < 1e-9).all()
    assert (np.diff(model.predict_interval(X[:60])) < 1e-6).all()


@MODES
@LEARNERS
@CALIBRATION
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_residuals_of_one_sign(heads, learners, calibration, sign):
    y = sign * (1 + np.abs(Y))
    model = quick(FROZEN_ZERO, heads=heads, calibration=calibration, **learners)
    found = assert_defined(model.fit(X, y), X)
    empty, full = ("down", "up") if sign > 0 else ("up", "down")
    constant = set(model.constant_heads_)
    assert {"p_up", f"quantile_{empty}"} <= constant
    assert not {"mar", f"mar_{full}", f"excess_{full}", f"quantile_{full}"} & constant
    # The bias is all that there is.
    assert_allclose(found.bias, sign * found.mar, rtol=0.03)
    assert (found[f"mar_{empty}"] <= 51 * model.floor_).all()
    # A side that was never seen is given what the other one has.
    assert np.ptp(found[f"quantile_{empty}"]) == 0
    assert found[f"quantile_{empty}"][0] > 0.1


@MODES
@pytest.mark.parametrize("n_up", [1, 2, 19, 20])
def test_few_rows_on_a_side(heads, n_up):
    y = -np.abs(Y) - 0.1
    y[:n_up] *= -1
    model = quick(FROZEN_ZERO, heads=heads, calibration=None).fit(X, y)
    found = assert_defined(model, X)
    mean = "excess_up" if heads == "coherent" else "mar_up"
    expected = {mean, "p_up", "quantile_up"} if n_up < 20 else set()
    assert set(model.constant_heads_) == expected
    if n_up == 20:
        return
    share = max(n_up / Y.size, 0.02)
    assert_allclose(found.p_up, share)
    assert_allclose(
        found.mar_up,
        y[:n_up].mean() * (n_up / Y.size / share if heads == "coherent" else 1),
    )
    assert_allclose(found.quantile_up, np.quantile(y[:n_up], 0.9))


@MODES
def test_weightless_rows_do_not_count(heads):
    weight = (Y <= 0).astype(float)
    weight[np.flatnonzero(Y > 0)[:5]] = 1.0
    options = {"heads": heads, "calibration": None}
    kept = weight > 0
    first = quick(FROZEN_ZERO, **options).fit(X, Y, sample_weight=weight)
    second = quick(FROZEN_ZERO, **options).fit(X[kept], Y[kept])
    assert first.constant_heads_ == second.constant_heads_ != ()
    found, expected = first.predict_uncertainty(X), second.predict_uncertainty(X)
    for name in ("mar", "mar_up", "mar_down", "p_up", "bias"):
        assert_allclose(found[name], expected[name])
    held_out = [(np.arange(60), np.arange(60, 240))]
    model = quick(residuals="holdout", cv=held_out, calibration=None)
    with pytest.raises(ValueError, match="sample_weight is 0 on all rows whose"):
        model.fit(X, Y, sample_weight=np.arange(240) < 60)


@MODES
@LEARNERS
@pytest.mark.parametrize("n_samples", [8, 30, 80])
def test_few_rows_and_one_feature(heads, learners, n_samples):
    rows, y = X[:n_samples, :1], Y[:n_samples]
    model = quick(heads=heads, cv=2, **learners)
    if n_samples < 36:
        with pytest.warns(InfiniteIntervalWarning, match="at least 9 are needed"):
            model.fit(rows, y)
        assert np.isinf(model.predict_interval(rows)).all()
        found = model.predict_uncertainty(rows)
        assert all(np.isfinite(values).all() for values in found.values())
    else:
        assert_defined(model.fit(rows, y), rows)


def test_the_clipped_share_is_reported():
    means = quick(mar_estimator=DummyRegressor(), quantile_estimator=DummyRegressor())
    assert means.fit(X, Y).clipped_share_ == 0
    # Lines through a step of the spread are negative on one side of it.
    steep = Y * np.where(X[:, 0] > 0, 1.0, 1e-3)
    model = quick(FROZEN_ZERO, calibration=None).fit(X, steep)
    lines = [
        LinearRegression().fit(X, np.maximum(sign * steep, 0)).predict(X)
        for sign in (1, -1)
    ]
    least = np.mean(np.any([line < model.floor_ for line in lines], axis=0))
    assert 0 < least <= model.clipped_share_ < 1
    assert_defined(model, X)
    assert model.floor_ == pytest.approx(1e-6 * np.abs(steep).mean())


def test_in_sample_residuals_of_an_interpolating_model():
    tree = DecisionTreeRegressor(random_state=0)
    with pytest.warns(UncertaintyWarning, match="DecisionTreeRegressor leaves 0 of"):
        quick(tree, residuals="train").fit(X, Y)
    for quiet in (quick(tree), quick(residuals="train")):
        quiet.fit(X, Y)


# ---------------------------------------------------------------------------
# Errors.


@pytest.mark.parametrize(
    ("parameters", "error", "match"),
    [
        ({"residuals": "prefit"}, ValueError, r"residuals must be one of \['oof'"),
        ({"heads": "five"}, ValueError, r"heads must be one of \['coherent'"),
        ({"calibration": "split"}, ValueError, r"calibration must be one of"),
        ({"confidence_level": 1.0}, ValueError, "confidence_level must lie"),
        ({"confidence_level": "0.9"}, TypeError, "confidence_level must be a real"),
        ({"sds_widening": 1.0}, ValueError, "sds_widening must be finite and above 1"),
        ({"sds_widening": np.inf}, ValueError, "sds_widening must be finite"),
        ({"sds_widening": True}, TypeError, "sds_widening must be a number above 1"),
        ({"feature_map": "leaves"}, TypeError, "feature_map must be a function"),
        ({"calibration_size": 240}, ValueError, "leaves 0 rows to train"),
        ({"cv": ShuffleSplit(2)}, ValueError, "cv .* exactly one test fold"),
        (
            {"residuals": "holdout", "cv": [(np.arange(9), np.arange(5, 12))]},
            ValueError,
            "7 test rows, 4 of them also",
        ),
        ({"mar_estimator": FROZEN_ZERO}, ValueError, "mar_estimator is frozen"),
        ({"quantile_estimator": FROZEN_ZERO}, ValueError, "quantile_estimator is"),
        ({"quantile_estimator": Ridge()}, ValueError, "Ridge cannot give quantiles"),
    ],
)
def test_parameters_are_checked(parameters, error, match):
    with pytest.raises(error, match=match):
        quick(**parameters).fit(X, Y)


class Off(Zero):
    """Predict something that is no number."""

    def __init__(self, value=np.nan):
        self.value = value

    def predict(self, X):
        return np.full(len(X), self.value)


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"estimator": Off()}, "Off predicted NaN"),
        ({"estimator": Off(np.inf)}, "residuals of Off contains NaN or infinity"),
        ({"mar_estimator": Off()}, "Off predicted NaN"),
        (
            {"mar_estimator": Off(np.inf)},
            r"'excess_up' \(Off\) predicted infinity",
        ),
    ],
)
def test_predictions_are_checked(parameters, match):
    with pytest.raises(ValueError, match=match):
        quick(**parameters).fit(X, Y)


@pytest.mark.parametrize("y", [np.where(Y > 3, np.nan, Y), np.where(Y > 3, np.inf, Y)])
def test_targets_are_checked(y):
    model = quick()
    with pytest.raises(ValueError, match="contains"):
        model.fit(X, y)
    with pytest.raises(ValueError, match="contains"):
        model.fit(X, Y).calibrate(X, y)


def test_a_fit_that_fails_leaves_the_model_as_it_was():
    model = quick(feature_map=first_column).fit(X, Y)
    before = model.predict_interval(X)
    attributes = set(vars(model))
    model.set_params(cv=ShuffleSplit(2))
    with pytest.raises(ValueError, match="exactly one test fold"):
        model.fit(X[:, :1], Y)
    assert set(vars(model)) == attributes
    assert_array_equal(model.predict_interval(X), before)
    with pytest.raises(NotFittedError):
        quick().predict_interval(X)
    with pytest.raises(NotFittedError):
        quick().calibrate(X, Y)


class Interrupted(LinearRegression):
    """A user who loses patience at the third prediction: that of calibration."""

    calls = 0

    def predict(self, X):
        Interrupted.calls += 1
        if Interrupted.calls == 3:
            raise KeyboardInterrupt
        return super().predict(X)


def test_an_interrupted_fit_leaves_no_uncalibrated_intervals():
    model = quick(Interrupted(), cv=2)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y)
    with pytest.raises(NotFittedError):
        model.predict_interval(X)
    before = model.fit(X, Y).predict_interval(X)
    Interrupted.calls = 0
    with pytest.raises(KeyboardInterrupt):
        model.fit(X[:100], Y[:100])
    assert_array_equal(model.predict_interval(X), before)
