"""TorchQuantileRegressor: known laws, calibration, monotone rows, persistence."""

import io
import pickle
import re
import sys
import warnings

import joblib
import numpy as np
import pytest
from scipy.stats import binom, norm
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uqlib._core.losses import level_losses
from uqlib.exceptions import UncertaintyWarning
from uqlib.quantile import TorchQuantileRegressor, crossing_rate
from uqlib.quantile._neural_checks import check_calibration

torch = pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    # Networks this small only wait for a second thread.
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


LEVELS = np.array([0.1, 0.3, 0.5, 0.8, 0.9])
ANY_LEVEL = [{"tau_input": True}, {"head": "gaussian"}]
KINDS = [{}, {"head": "softplus"}, *ANY_LEVEL]
all_kinds = pytest.mark.parametrize("kind", KINDS, ids=str)
any_level = pytest.mark.parametrize("kind", ANY_LEVEL, ids=str)


def law(X):
    return 2 * X[:, 0], 0.6 + 0.4 * X[:, 1]


def rows(n_samples, seed, n_features=3):
    """Normal targets, whose mean and scale depend on the features."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(n_samples, n_features))
    mean, scale = law(X)
    return X, mean + scale * rng.normal(size=n_samples)


def truth(X, levels):
    mean, scale = law(X)
    return mean[:, None] + scale[:, None] * norm.ppf(levels)


X, Y = rows(300, seed=0)


def quick(quantiles=LEVELS, **parameters):
    """A network that is trained for a moment."""
    small = {"hidden": (16,), "max_iter": 200, "random_state": 0}
    return TorchQuantileRegressor(quantiles, **small | parameters)


# ------------------------------------------------------------------- what is learned


@all_kinds
def test_quantiles_of_normal_data_are_recovered(kind):
    model = TorchQuantileRegressor(
        LEVELS, hidden=(16, 16), max_iter=1500, random_state=0, **kind
    ).fit(*rows(5000, seed=1))
    X_new, _ = rows(2000, seed=2)
    error = np.abs(model.predict_quantiles(X_new) - truth(X_new, LEVELS))
    assert np.all(error.mean(axis=0) < 0.08)
    constant = np.quantile(Y, LEVELS)
    assert np.all(np.abs(constant - truth(X_new, LEVELS)).mean(axis=0) > 0.8)


def test_extreme_levels_are_calibrated_where_noise_is_small_and_where_it_is_large():
    levels = np.array([0.5, 0.99, 0.995])
    model = TorchQuantileRegressor(
        levels, hidden=(16, 16), max_iter=2500, random_state=0
    ).fit(*rows(30_000, seed=3))
    X_new, y_new = rows(6000, seed=4)
    center = law(X_new)[0]
    equal_noise = center[:, None] + np.quantile(y_new - center, levels)
    outside = []
    for group in (X_new[:, 1] > 0, X_new[:, 1] <= 0):
        low, high = binom.interval(1 - 1e-6, group.sum(), levels)
        for q in (model.predict_quantiles(X_new), equal_noise):
            counts = (y_new[:, None] <= q)[group].sum(axis=0)
            outside.append(np.any((counts < low) | (counts > high)))
    # The same noise for all rows, right on the whole, would not do.
    assert outside == [False, True, False, True]


@all_kinds
def test_training_is_never_worse_than_the_start_on_the_held_out_rows(kind):
    rng = np.random.default_rng(5)
    X_noise, y_noise = rng.normal(size=(60, 10)), rng.normal(size=60)
    model = quick(max_iter=1000, learning_rate=0.05, **kind).fit(X_noise, y_noise)
    curve = model.validation_curve_
    assert model.validation_loss_ == curve.min() <= curve[0]
    assert curve[-1] > curve.min()  # training went on, and harmed


@pytest.mark.parametrize("head", ["quantiles", "softplus"])
def test_without_training_the_network_is_the_sample_quantiles(head):
    rng = np.random.default_rng(6)
    X_noise, y_noise = rng.normal(size=(40, 3)), rng.normal(size=40)
    model = quick(learning_rate=1e-9, max_iter=1, early_stopping=False, head=head)
    q = model.fit(X_noise, y_noise).predict_quantiles(X_noise)
    expected = np.quantile(y_noise, LEVELS, method="inverted_cdf")
    np.testing.assert_allclose(q, np.tile(expected, (40, 1)), atol=1e-6)


def test_a_linear_network_is_linear():
    model = quick(hidden=(), max_iter=1500).fit(X, X @ [1.0, -2.0, 0.5] + 3.0)
    np.testing.assert_allclose(
        model.predict_quantiles(X),
        np.tile((X @ [1.0, -2.0, 0.5] + 3.0)[:, None], (1, 5)),
        atol=0.05,
    )


@pytest.mark.parametrize("scale", [2.0**30, 2.0**-30])
@pytest.mark.parametrize("margin", ["auto", "spacing"])
def test_a_change_of_units_changes_the_units(scale, margin):
    model = quick(crossing_penalty=1.0, margin=margin)
    q = clone(model).fit(X, Y).predict_quantiles(X)
    scaled = clone(model).fit(X * scale, scale * Y)
    np.testing.assert_allclose(
        scaled.predict_quantiles(X * scale), scale * q, rtol=1e-9
    )


def test_a_margin_as_a_number_has_the_units_of_the_target():
    q = quick(crossing_penalty=1.0, margin=0.5).fit(X, Y).predict_quantiles(X)
    model = quick(crossing_penalty=1.0, margin=512.0).fit(X, 1024 * Y)
    np.testing.assert_allclose(model.predict_quantiles(X), 1024 * q, rtol=1e-9)


@pytest.mark.parametrize("pairs", ["neighbors", "all"])
@pytest.mark.parametrize("kind", [{}, {"tau_input": True}], ids=str)
def test_a_penalty_keeps_levels_apart(pairs, kind):
    parameters = {"margin": 0.3, "crossing_pairs": pairs, "max_iter": 200, **kind}
    gaps = [
        np.diff(
            quick(crossing_penalty=strength, **parameters)
            .fit(X, Y)
            .predict_quantiles(X)
        )
        for strength in (0.0, 20.0)
    ]
    assert np.mean(gaps[1] < 0.25) < np.mean(gaps[0] < 0.25)


@pytest.mark.parametrize(
    "parameters",
    [
        {"non_crossing": "sort"},
        {"non_crossing": "isotonic"},
        {"head": "softplus"},
        {"head": "gaussian"},
        {"tau_input": True, "non_crossing": "sort"},
        {"tau_input": True, "non_crossing": "isotonic"},
    ],
    ids=str,
)
def test_rows_never_cross(parameters):
    levels = np.linspace(0.02, 0.98, 49)
    rng = np.random.default_rng(7)
    X_noise, y_noise = rng.normal(size=(80, 4)), rng.standard_t(2, size=80)
    model = quick(levels, early_stopping=False, max_iter=300, **parameters)
    X_far = 20 * rng.normal(size=(1000, 4))
    q = model.fit(X_noise, y_noise).predict_quantiles(X_far)
    assert crossing_rate(q) == 0.0
    np.testing.assert_array_equal(
        model.predict_quantiles(X_far, levels[3:9]), q[:, 3:9]
    )
    np.testing.assert_array_equal(model.predict(X_far), q[:, 24])


def test_rows_of_that_data_cross_without_repair():
    rng = np.random.default_rng(7)
    X_noise, y_noise = rng.normal(size=(80, 4)), rng.standard_t(2, size=80)
    model = quick(np.linspace(0.02, 0.98, 49), early_stopping=False, max_iter=300)
    q = model.fit(X_noise, y_noise).predict_quantiles(20 * rng.normal(size=(1000, 4)))
    assert crossing_rate(q) > 0.0


@any_level
def test_any_level_can_be_asked_for(kind):
    model = quick(**kind).fit(X, Y)
    levels = np.array([0.001, 0.1, 0.37, 0.9, 0.9999])
    q = model.predict_quantiles(X, levels)
    assert q.shape == (300, 5)
    np.testing.assert_array_equal(q[:, [1, 3]], model.predict_quantiles(X)[:, [0, 4]])
    assert np.mean(np.diff(q, axis=1) > 0) > 0.99


@any_level
def test_the_median_needs_no_level_beside_it(kind):
    model = quick((0.7, 0.9), **kind).fit(X, Y)
    np.testing.assert_array_equal(
        model.predict(X), model.predict_quantiles(X, [0.5])[:, 0]
    )


def test_the_gaussian_head_gives_quantiles_of_normal_laws():
    model = quick(head="gaussian").fit(X, Y)
    q = model.predict_quantiles(X, [0.01, 0.5, 0.8, 0.99])
    scale = (q[:, 3] - q[:, 1]) / norm.ppf(0.99)
    np.testing.assert_allclose(q[:, 2], q[:, 1] + scale * norm.ppf(0.8), rtol=1e-9)
    np.testing.assert_allclose(q[:, 0], q[:, 1] - scale * norm.ppf(0.99), rtol=1e-9)
    assert np.all(scale > 0)


def test_levels_that_were_not_fitted():
    model = quick().fit(X, Y)
    np.testing.assert_array_equal(
        model.predict_quantiles(X, [0.1, 0.8]), model.predict_quantiles(X)[:, [0, 3]]
    )
    with pytest.raises(ValueError, match=re.escape("has no quantile level 0.2")):
        model.predict_quantiles(X, [0.2])
    with pytest.raises(ValueError, match=re.escape("do not bracket the level 0.5")):
        quick((0.6, 0.9)).fit(X, Y).predict(X)


# ----------------------------------------------------- the network, in torch and NumPy


@pytest.mark.parametrize("non_crossing", [None, "sort", "isotonic"])
@all_kinds
def test_prediction_is_the_network_that_was_trained(kind, non_crossing):
    from uqlib.quantile._torch_network import NetworkSettings, QuantileNetwork

    model = quick(non_crossing=non_crossing, hidden=(16, 8), **kind).fit(X, Y)
    settings = NetworkSettings(
        kind=model._kind,
        bias=model.intercepts_[-1],
        hidden=(16, 8),
        dropout=0.0,
        crossing_penalty=0.0,
        offsets=np.zeros(5),
        constant=0.0,
        pairs="all",
        non_crossing=non_crossing,
    )
    network = QuantileNetwork(X.shape[1], settings).double()
    linear = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    with torch.no_grad():
        for layer, matrix, bias in zip(
            linear, model.coefs_, model.intercepts_, strict=True
        ):
            layer.weight.copy_(torch.from_numpy(matrix.T))
            layer.bias.copy_(torch.from_numpy(bias))
        features = torch.from_numpy((X - model.feature_center_) / model.feature_scale_)
        q = network(features, torch.from_numpy(LEVELS)).numpy()
    np.testing.assert_allclose(
        model.predict_quantiles(X),
        model.target_center_ + model.target_scale_ * q,
        rtol=1e-6,
        atol=1e-9,
    )


def test_prediction_in_chunks_is_prediction_of_each_row(monkeypatch):
    model = quick(tau_input=True).fit(X, Y)
    whole = model.predict_quantiles(X)
    monkeypatch.setattr("uqlib.quantile._network._CHUNK", 70)
    np.testing.assert_allclose(model.predict_quantiles(X), whole, rtol=1e-12)


def test_prediction_needs_no_torch(monkeypatch):
    model = quick().fit(X, Y)
    q = model.predict_quantiles(X)
    monkeypatch.setitem(sys.modules, "torch", None)
    np.testing.assert_array_equal(model.predict_quantiles(X), q)
    model.predict(X)


def test_without_torch_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    model = TorchQuantileRegressor()
    message = (
        "TorchQuantileRegressor needs torch. Install it with: pip install uqlib[torch]"
    )
    with pytest.raises(ImportError, match=re.escape(message)):
        model.fit(X, Y)


def test_constant_and_far_features_do_no_harm():
    rng = np.random.default_rng(8)
    constant = np.full(300, 0.1)  # its computed variance is not 0
    features = np.column_stack([X, constant, np.where(rng.random(300) < 0.01, 1e9, 0)])
    model = quick().fit(features, Y)
    features[:, 3] += 1e-12
    features[0, 3:] = 1e12
    q = model.predict_quantiles(features)
    assert np.all(np.abs(q) < 10 * np.abs(Y).max())


def test_a_constant_target_is_predicted():
    model = quick().fit(X, np.full(300, 7.0))
    np.testing.assert_allclose(model.predict_quantiles(X), 7.0, rtol=1e-12)


# ------------------------------------------------------------------------ validation


def test_validation_attributes_describe_the_held_out_rows(monkeypatch):
    held = {}

    def spy(y, q, levels, weight):
        held.update(y=y, q=q)
        return check_calibration(y, q, levels, weight)

    monkeypatch.setattr("uqlib.quantile._neural.check_calibration", spy)
    model = quick(validation_fraction=0.2, max_iter=500).fit(X, Y)
    assert held["y"].size == 60
    assert set(held["y"]) < set(Y)
    losses = level_losses(held["y"], held["q"], LEVELS)
    assert losses.mean() == pytest.approx(model.validation_loss_, rel=1e-5)
    np.testing.assert_array_equal(
        model.validation_coverage_, np.mean(held["y"][:, None] <= held["q"], axis=0)
    )
    assert model.n_iter_ == 100 * len(model.loss_curve_) == 500
    assert len(model.validation_curve_) == len(model.loss_curve_) + 1


def test_without_early_stopping_no_row_is_held_out():
    model = quick(early_stopping=False, max_iter=150).fit(X[:1], Y[:1])
    assert model.n_iter_ == 150
    assert model.validation_loss_ is None
    assert model.validation_curve_ is None
    assert model.validation_coverage_ is None
    np.testing.assert_allclose(model.predict_quantiles(X[:1])[0], Y[0], atol=0.01)


@pytest.mark.parametrize("level", [0.05, 0.5, 0.9])
def test_the_band_of_a_level_is_the_binomial_one(level):
    n_samples, tail = 400, 1e-6 / 2
    y, counts = np.arange(400.0), np.arange(401)
    too_few = binom.cdf(counts, n_samples, level) < tail
    too_many = binom.sf(counts - 1, n_samples, level) < tail
    edges = np.flatnonzero(np.diff(too_few | too_many))
    assert edges.size == 2 or level == 0.05
    for count in np.unique([*edges, *edges + 1]):
        q = np.full((n_samples, 1), count - 0.5)  # above so many targets
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            share = check_calibration(y, q, np.array([level]), None)
        assert share == count / n_samples
        assert len(caught) == too_few[count] + too_many[count]


def test_levels_that_are_off_are_named():
    y, levels = np.arange(400.0), np.array([0.2, 0.5, 0.8])
    with pytest.warns(UncertaintyWarning, match=re.escape("levels [0.2, 0.8]")):
        check_calibration(y, np.tile([150.5, 199.5, 250.5], (400, 1)), levels, None)


def test_ties_do_not_count_against_a_level():
    # Three in four targets are 1: every level above 0.25 has the quantile 1.
    y, levels = np.repeat([0.0, 1.0, 1.0, 1.0], 200), np.array([0.3, 0.5, 0.9])
    share = check_calibration(y, np.ones((800, 3)), levels, None)
    np.testing.assert_array_equal(share, 1.0)
    with pytest.warns(UncertaintyWarning, match="not calibrated"):
        check_calibration(y, np.full((800, 3), 1.01), levels, None)


def test_weighted_shares_are_not_tested():
    y, q = np.array([0.0, 1.0]), np.array([[0.5], [0.5]])
    share = check_calibration(y, q, np.array([0.1]), np.array([3.0, 1.0]))
    np.testing.assert_allclose(share, [0.75])


def test_levels_that_the_held_out_rows_cannot_judge_are_stated():
    message = "30 held-out rows cannot judge the levels [0.02, 0.995]: about 200"
    with pytest.warns(UncertaintyWarning, match=re.escape(message)):
        quick((0.02, 0.5, 0.95, 0.995)).fit(X, Y)


def test_divergence_is_told_and_leaves_the_best_state():
    model = quick(learning_rate=1e30, head="gaussian")
    with pytest.warns(UncertaintyWarning, match="training loss was not finite"):
        model.fit(X, Y)
    assert np.isfinite(model.predict_quantiles(X)).all()


# ---------------------------------------------------------------------------- weights


def test_rows_without_weight_have_no_say():
    weight = np.ones(300)
    weight[200:] = 0
    wild = Y.copy()
    wild[200:] = 1e6
    weighted = quick().fit(X, wild, sample_weight=weight)
    plain = quick().fit(X, Y, sample_weight=weight)
    np.testing.assert_array_equal(
        weighted.predict_quantiles(X), plain.predict_quantiles(X)
    )


def test_weights_have_no_unit():
    weight = np.random.default_rng(9).uniform(0.5, 2, size=300)
    one, many = (quick().fit(X, Y, sample_weight=c * weight) for c in (1.0, 2.0**80))
    np.testing.assert_array_equal(one.predict_quantiles(X), many.predict_quantiles(X))


def test_weights_shift_the_quantiles():
    # No feature tells: the weighted quantile of a two-point target is the answer.
    features, target = np.zeros((400, 1)), np.tile([0.0, 1.0], 200)
    for heavy in (0.0, 1.0):
        weight = np.where(target == heavy, 9.0, 1.0)
        model = quick((0.5,)).fit(features, target, sample_weight=weight)
        np.testing.assert_allclose(model.predict(features), heavy, atol=1e-6)


@pytest.mark.parametrize("weight", [np.zeros(300), -np.ones(300), np.ones(3)])
def test_bad_weights(weight):
    with pytest.raises(ValueError, match="sample_weight must"):
        quick().fit(X, Y, sample_weight=weight)


# ------------------------------------------------------------------- an estimator


@all_kinds
def test_equal_seeds_give_equal_networks(kind):
    model = quick(dropout=0.1, hidden=(8, 8), **kind)
    q = clone(model).fit(X, Y).predict_quantiles(X)
    torch.rand(5)
    np.testing.assert_array_equal(clone(model).fit(X, Y).predict_quantiles(X), q)
    other = clone(model).set_params(random_state=1).fit(X, Y)
    assert not np.array_equal(other.predict_quantiles(X), q)


def test_nothing_global_changes():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    threads = torch.get_num_threads()
    quick(dropout=0.2, hidden=(8, 8), tau_input=True).fit(X, Y).predict(X)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.get_num_threads() == threads


def test_nothing_that_was_passed_changes():
    features, target, weight = X.copy(), Y.copy(), np.ones(300)
    for array in (features, target, weight):
        array.flags.writeable = False
    model = quick().fit(features, target, sample_weight=weight)
    model.predict_quantiles(features)


def _joblib_copy(model):
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


def _skops_copy(model):
    skops_io = pytest.importorskip("skops.io", reason="skops is not installed")
    data = skops_io.dumps(model)
    own = skops_io.get_untrusted_types(data=data)
    assert own == ["uqlib.quantile._neural.TorchQuantileRegressor"]
    return skops_io.loads(data, trusted=own)


@pytest.mark.parametrize(
    "copy",
    [lambda model: pickle.loads(pickle.dumps(model)), _joblib_copy, _skops_copy],
    ids=["pickle", "joblib", "skops"],
)
@all_kinds
def test_a_copy_predicts_the_same(kind, copy):
    model = quick(**kind).fit(X, Y)
    np.testing.assert_array_equal(
        copy(model).predict_quantiles(X), model.predict_quantiles(X)
    )


def test_a_pickle_holds_no_torch():
    assert b"torch" not in pickle.dumps(vars(quick().fit(X, Y)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_output_is_float64(dtype):
    features = (10 * X).astype(dtype)
    model = quick().fit(features, Y.astype(dtype))
    assert model.predict_quantiles(features).dtype == np.float64
    assert model.predict(features).dtype == np.float64


def test_frames(df_module):
    frame = df_module.make_dataframe({f"x{j}": X[:, j] for j in range(3)})
    model = quick().fit(frame, df_module.make_series(Y))
    assert list(model.feature_names_in_) == ["x0", "x1", "x2"]
    np.testing.assert_array_equal(
        model.predict_quantiles(frame), quick().fit(X, Y).predict_quantiles(X)
    )


def test_in_a_pipeline_and_a_search():
    search = GridSearchCV(
        make_pipeline(StandardScaler(), quick(max_iter=50)),
        {"torchquantileregressor__hidden": [(4,), (8, 8)]},
        cv=2,
    )
    search.fit(X, Y)
    assert search.best_estimator_[-1].coefs_[0].shape[0] == 3


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"quantiles": [0.5, 0.2]}, "quantiles must be strictly increasing"),
        ({"hidden": 64}, "hidden must be a sequence of widths, got 64"),
        ({"hidden": (8, 0)}, "hidden == 0, must be >= 1"),
        ({"head": "laplace"}, "head must be one of"),
        ({"crossing_pairs": "some"}, "crossing_pairs must be one of"),
        ({"non_crossing": "pava"}, "non_crossing must be one of"),
        ({"margin": "wide"}, "margin must be one of"),
        ({"margin": -1.0}, "margin as a number must be non-negative"),
        ({"dropout": 1.0}, "dropout == 1.0, must be < 1"),
        ({"crossing_penalty": -1.0}, "crossing_penalty == -1.0, must be >= 0"),
        ({"crossing_penalty": np.inf}, "crossing_penalty must be finite"),
        ({"learning_rate": 0.0}, "learning_rate == 0.0, must be > 0"),
        ({"weight_decay": np.nan}, "weight_decay must be finite"),
        ({"validation_fraction": 1.0}, "validation_fraction == 1.0, must be < 1"),
        ({"batch_size": 0}, "batch_size == 0, must be >= 1"),
        ({"max_iter": 0}, "max_iter == 0, must be >= 1"),
        ({"n_iter_no_change": 0}, "n_iter_no_change == 0, must be >= 1"),
        (
            {"tau_input": True, "head": "gaussian"},
            "tau_input=True gives one quantile for the level put in",
        ),
        (
            {"crossing_penalty": 1.0, "head": "gaussian"},
            "crossing_penalty does not count with head='gaussian'",
        ),
    ],
    ids=str,
)
def test_bad_parameters(parameters, message):
    model = quick(**{"quantiles": LEVELS} | parameters)
    with pytest.raises(ValueError, match=re.escape(message)):
        model.fit(X, Y)
    assert not hasattr(model, "coefs_")


@pytest.mark.parametrize(
    "parameters",
    [{"max_iter": 1.5}, {"batch_size": "all"}, {"dropout": "much"}],
    ids=str,
)
def test_parameters_of_another_type(parameters):
    with pytest.raises(TypeError, match=next(iter(parameters))):
        quick(**parameters).fit(X, Y)


def test_too_few_rows_to_hold_some_out():
    message = "With n_samples=1 (of positive weight) and validation_fraction=0.1"
    with pytest.raises(ValueError, match=re.escape(message)):
        quick().fit(X[:1], Y[:1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(bad):
    features, target = X.copy(), Y.copy()
    features[3, 1] = target[5] = bad
    with pytest.raises(ValueError, match="Input X contains"):
        quick().fit(features, Y)
    with pytest.raises(ValueError, match="Input y contains"):
        quick().fit(X, target)
    with pytest.raises(ValueError, match="Input X contains"):
        quick().fit(X, Y).predict_quantiles(features)


def test_not_fitted():
    with pytest.raises(NotFittedError):
        quick().predict_quantiles(X)
