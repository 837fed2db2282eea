"""The aggregator: shapes, levels, equivariances, special cases, what it refuses."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from uqlib import UncertaintyWarning, crossing_rate
from uqlib.quantile import QuantileAggregator

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
RESOLUTIONS = ["average", "median", "coarse", "medium", "fine"]
resolutions = pytest.mark.parametrize("resolution", RESOLUTIONS)
learned = pytest.mark.parametrize("resolution", RESOLUTIONS[2:])


def quantile_models(n=300, n_models=3, seed=0):
    """Quantiles of a shifting normal law, each model with errors of its own."""
    from scipy.stats import norm

    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, size=n)
    y = x + (1 + 0.5 * x) * rng.normal(size=n)
    truth = x[:, None] + (1 + 0.5 * x)[:, None] * norm.ppf(LEVELS)
    noise = rng.normal(size=(n, n_models, 1)) * np.arange(1, n_models + 1)[:, None]
    return truth[:, None] + 0.3 * noise, y, truth


def fit(Z, y, resolution="medium", **parameters):
    return QuantileAggregator(resolution, quantiles=LEVELS, **parameters).fit(Z, y)


@resolutions
def test_two_and_three_dimensions_agree(resolution):
    Z, y, _ = quantile_models()
    flat = Z.reshape(len(Z), -1)
    three, two = fit(Z, y, resolution), fit(flat, y, resolution)
    assert two.n_models_ == three.n_models_ == 3
    assert two.n_features_in_ == 15
    expected = three.predict_quantiles(Z)
    np.testing.assert_array_equal(two.predict_quantiles(flat), expected)
    np.testing.assert_array_equal(two.predict_quantiles(Z), expected)
    named = pd.DataFrame(flat, columns=[f"m{j}_{q}" for j in "abc" for q in LEVELS])
    frame = fit(named, y, resolution)
    np.testing.assert_array_equal(frame.predict_quantiles(named), expected)
    assert list(frame.feature_names_in_) == list(named.columns)


@resolutions
def test_the_prediction_is_the_weighted_sum(resolution):
    Z, y, _ = quantile_models()
    model = fit(Z, y, resolution)
    expected = {
        "average": lambda: Z.mean(axis=1),
        "median": lambda: np.median(Z, axis=1),
        "coarse": lambda: np.einsum("ijk,j->ik", Z, model.weights_),
        "medium": lambda: np.einsum("ijk,jk->ik", Z, model.weights_),
        "fine": lambda: np.einsum("ijl,jlk->ik", Z, model.weights_),
    }[resolution]()
    result = model.predict_quantiles(Z)
    np.testing.assert_allclose(result, expected, atol=1e-12)
    np.testing.assert_array_equal(model.predict(Z), result[:, 2])
    subset = model.predict_quantiles(Z, quantiles=[0.3, 0.9])
    np.testing.assert_array_equal(subset, result[:, [1, 4]])


def test_weights_of_each_row_repeat_global_ones():
    Z, y, _ = quantile_models()
    for resolution in ("average", "coarse", "medium", "fine"):
        model = fit(Z, y, resolution)
        rows = model.predict_weights(np.zeros((4, 2)))
        assert rows.shape == (4, *model.weights_.shape)
        np.testing.assert_array_equal(rows[3], model.weights_)
    with pytest.raises(ValueError, match="has no weights"):
        fit(Z, y, "median").predict_weights(np.zeros((4, 2)))


@pytest.mark.parametrize("constraint", ["simplex", "sum_to_one", "free"])
@learned
def test_a_single_model(resolution, constraint):
    Z, y, _ = quantile_models(n_models=1)
    result = fit(Z, y, resolution, constraint=constraint).predict_quantiles(Z)
    if resolution == "fine" or constraint == "free":
        assert result.shape == Z[:, 0].shape
    else:
        np.testing.assert_allclose(result, Z[:, 0], atol=1e-12)


@pytest.mark.parametrize("penalty", [0.0, 0.5])
@learned
def test_duplicated_and_permuted_models(resolution, penalty):
    Z, y, _ = quantile_models()
    options = {"crossing_penalty": penalty}
    once = fit(Z, y, resolution, **options)
    expected = once.predict_quantiles(Z)
    doubled = np.concatenate([Z, Z[:, :1]], axis=1)
    result = fit(doubled, y, resolution, **options).predict_quantiles(doubled)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    order = [2, 0, 1]
    permuted = fit(Z[:, order], y, resolution, **options)
    result = permuted.predict_quantiles(Z[:, order])
    np.testing.assert_allclose(result, expected, atol=1e-5)
    if (
        resolution != "fine"
    ):  # these models differ by shifts: fine weights are not unique
        np.testing.assert_allclose(permuted.weights_, once.weights_[order], atol=1e-5)


@pytest.mark.parametrize("margin", ["auto", "spacing"])
@pytest.mark.parametrize("constraint", ["simplex", "sum_to_one"])
@learned
def test_affine_equivariance(resolution, constraint, margin):
    Z, y, _ = quantile_models()
    options = {"constraint": constraint, "crossing_penalty": 0.3, "margin": margin}
    before = fit(Z, y, resolution, **options).predict_quantiles(Z)
    after = fit(40 * Z - 7, 40 * y - 7, resolution, **options)
    result = after.predict_quantiles(40 * Z - 7)
    np.testing.assert_allclose(result, 40 * before - 7, atol=1e-5 * 40)


@learned
def test_the_true_model_among_noise_gets_the_weight(resolution):
    _, y, truth = quantile_models(n=5000)
    rng = np.random.default_rng(1)
    noise = truth[:, None] + rng.normal(size=(5000, 4, 1)) * 2
    models = np.concatenate([noise[:, :2], truth[:, None], noise[:, 2:]], axis=1)
    weights = fit(models, y, resolution).weights_
    share = weights[2] if resolution != "fine" else weights[2].sum(axis=0)
    assert np.min(share) > 0.95


def test_levels_come_from_names_defaults_or_a_guess_that_is_told():
    rng = np.random.default_rng(0)
    y = rng.normal(size=30)
    names = ["q0.1", "q0.5", "q0.9"]
    frame = pd.DataFrame(rng.normal(size=(30, 3)), columns=names)
    model = QuantileAggregator(n_models=1).fit(frame, y)
    np.testing.assert_array_equal(model.quantiles_, [0.1, 0.5, 0.9])
    nineteen = QuantileAggregator().fit(rng.normal(size=(30, 2, 19)), y)
    np.testing.assert_allclose(nineteen.quantiles_, np.arange(1, 20) / 20)
    with pytest.warns(UncertaintyWarning, match=r"3 equally spaced .* quantiles="):
        guessed = QuantileAggregator().fit(rng.normal(size=(30, 2, 3)), y)
    np.testing.assert_array_equal(guessed.quantiles_, [0.25, 0.5, 0.75])


@pytest.mark.parametrize(
    ("Z", "parameters", "message"),
    [
        (np.zeros((9, 2, 4)), {"quantiles": LEVELS}, "does not hold 5 levels"),
        (np.zeros((9, 7)), {"quantiles": LEVELS}, "does not hold 5 levels"),
        (np.zeros((9, 10)), {}, "Pass quantiles="),
        (np.zeros((9, 10)), {"n_models": 3}, "Pass quantiles="),
        (np.zeros((9, 10)), {"n_models": 3, "quantiles": LEVELS}, "of 3 models"),
        (np.zeros((9, 2, 5)), {"n_models": 3}, "Z has 2 models"),
        (np.full((9, 2, 5), np.nan), {"quantiles": LEVELS}, "NaN"),
        (np.full((9, 2, 5), np.inf), {"quantiles": LEVELS}, "infinity"),
        (np.zeros((0, 2, 5)), {"quantiles": LEVELS}, "0 sample"),
        (np.zeros((8, 2, 5)), {"quantiles": LEVELS}, "inconsistent numbers"),
    ],
)
def test_a_Z_that_does_not_fit_is_refused(Z, parameters, message):
    with pytest.raises(ValueError, match=message):
        QuantileAggregator(**parameters).fit(Z, np.arange(9.0))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"resolution": "finest"}, "resolution must be one of"),
        ({"constraint": "convex"}, "constraint must be one of"),
        ({"solver": "sgd"}, "solver must be one of"),
        ({"crossing_pairs": "some"}, "crossing_pairs must be one of"),
        ({"non_crossing": "pava"}, "non_crossing must be one of"),
        ({"crossing_penalty": -1.0}, "crossing_penalty"),
        ({"crossing_penalty": 1.0, "margin": -1.0}, "margin"),
        ({"crossing_penalty": 1.0, "margin": "wide"}, "margin"),
        ({"bandwidth": -1}, "bandwidth"),
        ({"n_models": 0}, "n_models"),
        ({"max_iter": 0}, "max_iter"),
        ({"dropout": 1.0}, "dropout"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"hidden": (0,)}, "hidden"),
        ({"hidden": 8}, "hidden must be a sequence"),
        ({"crossing_penalty": np.nan}, "crossing_penalty must be a number"),
        ({"local": True, "resolution": "average"}, "learns nothing"),
        ({"local": True, "solver": "interior_point"}, "cannot train networks"),
        ({"local": True, "crossing_penalty": np.inf}, "networks cannot keep"),
        ({"local": True}, re.escape("call fit(Z, y, X=X)")),
    ],
)
def test_parameters_are_checked(parameters, message):
    Z, y, _ = quantile_models(n=20)
    with pytest.raises(ValueError, match=message):
        QuantileAggregator(quantiles=LEVELS, **parameters).fit(Z, y)


def test_prediction_refuses_other_axes_and_nan():
    Z, y, _ = quantile_models(n=40)
    model = fit(Z, y)
    with pytest.raises(ValueError, match="Z has 2 models and 5 levels"):
        model.predict_quantiles(Z[:, :2])
    with pytest.raises(ValueError, match="NaN"):
        model.predict_quantiles(np.full_like(Z, np.nan))
    with pytest.raises(ValueError, match=r"0\.4"):
        model.predict_quantiles(Z, quantiles=[0.4])


def test_infinite_quantiles_pass_where_they_have_a_weight():
    Z, y, _ = quantile_models(n=40)
    model = fit(Z, y, "average")
    Z[0, 1, 4] = np.inf
    result = model.predict_quantiles(Z)
    assert np.isposinf(result[0, 4])
    assert np.isfinite(np.delete(result, 4, axis=1)).all()


@pytest.mark.parametrize("non_crossing", ["sort", "isotonic"])
def test_repaired_rows_never_cross(non_crossing):
    rng = np.random.default_rng(0)
    Z, y, _ = quantile_models()
    Z = Z + rng.normal(size=Z.shape)
    assert crossing_rate(fit(Z, y, "medium").predict_quantiles(Z)) > 0.3
    model = fit(Z, y, "medium", non_crossing=non_crossing)
    assert crossing_rate(model.predict_quantiles(Z)) == 0.0


def test_integer_weights_are_repetitions():
    Z, y, _ = quantile_models(n=60)
    counts = np.random.default_rng(0).integers(0, 4, size=60)
    for penalty in (0.0, 1.0):
        model = QuantileAggregator(
            quantiles=LEVELS, crossing_penalty=penalty, margin=0.1
        )
        weighted = clone(model).fit(Z, y, sample_weight=counts)
        repeated = clone(model).fit(np.repeat(Z, counts, axis=0), np.repeat(y, counts))
        np.testing.assert_allclose(weighted.weights_, repeated.weights_, atol=1e-6)


def test_the_input_is_not_changed():
    Z, y, _ = quantile_models(n=40)
    kept_Z, kept_y = Z.copy(), y.copy()
    model = fit(Z, y, "fine", crossing_penalty=1.0, non_crossing="sort")
    model.predict_quantiles(Z)
    np.testing.assert_array_equal(Z, kept_Z)
    np.testing.assert_array_equal(y, kept_y)
