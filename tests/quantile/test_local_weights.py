"""Weights that depend on the features."""

import pickle
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.base import clone

from uqlib import QuantileAggregator, crossing_rate, pinball_loss
from uqlib.quantile._gate import gate_weights

torch = pytest.importorskip("torch", reason="local weights are trained with torch")

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
local_resolutions = pytest.mark.parametrize("resolution", ["coarse", "medium", "fine"])


def two_regions(n=600, seed=0):
    """Two models, each the truth in one half of a feature and far off in the other."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(n, 2))
    y = rng.normal(size=n)
    truth = np.tile(norm.ppf(LEVELS), (n, 1))
    left = truth + 3.0 * (X[:, :1] > 0)
    right = truth - 3.0 * (X[:, :1] < 0)
    return X, np.stack([left, right], axis=1), y


def local(resolution="coarse", **parameters):
    defaults = {"max_iter": 1500, "hidden": (16,), "random_state": 0}
    return QuantileAggregator(
        resolution, quantiles=LEVELS, local=True, **(defaults | parameters)
    )


@pytest.fixture(scope="module")
def fitted():
    X, Z, y = two_regions()
    return {name: local(name).fit(Z, y, X=X) for name in ("coarse", "medium", "fine")}


@local_resolutions
def test_the_right_model_in_each_region(fitted, resolution):
    model = fitted[resolution]
    X, Z, y = two_regions(seed=1)
    loss = pinball_loss(y, model.predict_quantiles(Z, X), quantiles=LEVELS)
    oracle = pinball_loss(y, np.tile(norm.ppf(LEVELS), (len(y), 1)), quantiles=LEVELS)
    best_global = QuantileAggregator(resolution, quantiles=LEVELS).fit(Z, y)
    shared = pinball_loss(y, best_global.predict_quantiles(Z), quantiles=LEVELS)
    assert oracle < shared / 1.5  # no weights for all rows can do it
    assert loss < 1.15 * oracle
    if resolution == "coarse":
        weights = model.predict_weights(np.array([[-0.8, 0.0], [0.8, 0.0]]))
        assert weights[0, 0] > 0.9
        assert weights[1, 1] > 0.9


def test_with_folds_every_row_judges_a_network_that_it_neither_trained_nor_stopped():
    from uqlib.quantile._local_weights import Split

    model = local("coarse", cv=5, validation_fraction=0.25)
    weight = np.ones(103)
    weight[::10] = 0
    splits = model._splits(weight, np.random.RandomState(0))
    assert all(isinstance(split, Split) for split in splits)
    judges = np.concatenate([split.judge for split in splits])
    np.testing.assert_array_equal(np.sort(judges), np.flatnonzero(weight))
    for split in splits:
        parts = np.concatenate(split)
        np.testing.assert_array_equal(np.sort(parts), np.flatnonzero(weight))
        assert len(split.stop) == np.ceil(0.25 * (len(parts) - len(split.judge)))


@pytest.mark.parametrize("constraint", ["simplex", "sum_to_one", "free"])
@local_resolutions
def test_weights_obey_their_constraint_and_make_the_prediction(resolution, constraint):
    X, Z, y = two_regions(n=200)
    model = local(resolution, constraint=constraint, max_iter=300).fit(Z, y, X=X)
    weights = model.predict_weights(X)
    if constraint != "free":
        axes = (1,) if resolution != "fine" else (1, 2)
        np.testing.assert_allclose(weights.sum(axis=axes), 1, atol=1e-5)
    if constraint == "simplex":
        assert (weights >= 0).all()
    formula = {
        "coarse": "ijk,ij->ik",
        "medium": "ijk,ijk->ik",
        "fine": "ijl,ijlk->ik",
    }[resolution]
    expected = np.einsum(formula, Z, weights)
    np.testing.assert_allclose(model.predict_quantiles(Z, X), expected, atol=1e-5)
    np.testing.assert_allclose(model.predict(Z, X), expected[:, 2], atol=1e-5)


def test_the_network_is_the_same_in_training_and_in_prediction():
    from uqlib.quantile._torch_gate import GateSettings, _Gate

    rng = np.random.default_rng(0)
    Z = rng.normal(size=(7, 3, 4)).astype(np.float32)
    features = rng.normal(size=(7, 2)).astype(np.float32)
    sources = np.tile(np.arange(4)[:, None], (1, 4))
    for constraint in ("simplex", "sum_to_one", "free"):
        settings = GateSettings(
            (8, 8), 0.0, 1e-3, 1, constraint, 0.0, np.zeros(4), 0.0, "neighbors", None
        )
        module = _Gate(2, rng.normal(size=(3, 4, 4)), sources, settings).eval()
        torch.nn.init.normal_(module.layers[-1].weight)
        layers = [
            (layer.weight.detach().numpy().T, layer.bias.detach().numpy())
            for layer in module.modules()
            if isinstance(layer, torch.nn.Linear)
        ]
        weights = gate_weights(features, layers, (3, 4, 4), constraint)
        with torch.no_grad():
            expected = module(torch.from_numpy(features), torch.from_numpy(Z)).numpy()
        result = np.einsum("ijl,ijlk->ik", Z, weights)
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_affine_equivariance():
    X, Z, y = two_regions(n=300)
    Z = Z + 0.1 * np.random.default_rng(0).normal(size=Z.shape)  # a unique start
    model = local("medium", max_iter=200, crossing_penalty=0.5)
    before = clone(model).fit(Z, y, X=X).predict_quantiles(Z, X)
    after = clone(model).fit(50 * Z + 9, 50 * y + 9, X=X)
    result = after.predict_quantiles(50 * Z + 9, X)
    np.testing.assert_allclose(result, 50 * before + 9, atol=50 * 1e-3)


@local_resolutions
def test_it_falls_back_to_global_weights_where_networks_are_no_better(resolution):
    rng = np.random.default_rng(0)
    y = rng.normal(size=120)
    Z = np.tile(norm.ppf(LEVELS), (120, 2, 1))
    Z[:, 1] += 50  # of no use anywhere, and a network cannot leave it out altogether
    X = rng.normal(size=(120, 5))
    model = local(resolution, max_iter=1, cv=3).fit(Z, y, X=X)
    assert not model.networks_
    shape = {"coarse": (2,), "medium": (2, 5), "fine": (2, 5, 5)}[resolution]
    assert model.weights_.shape == shape
    assert model.validation_loss_ == pytest.approx(model.row_losses_.mean())
    result = model.predict_quantiles(Z, X)
    candidates = [
        QuantileAggregator(name, quantiles=LEVELS).fit(Z, y).predict_quantiles(Z)
        for name in ("coarse", "medium")
    ]
    assert any(np.allclose(result, other, atol=1e-9) for other in candidates)


def test_the_validation_loss_is_never_above_that_of_global_weights():
    X, Z, y = two_regions(n=200, seed=3)
    Z = Z[:, :, ::-1] + np.linspace(-1, 1, 5)  # models that mislead
    for steps in (1, 50):
        model = local("fine", max_iter=steps, random_state=1).fit(Z, y, X=X)
        held = np.isfinite(model.row_losses_)
        for name in ("coarse", "medium"):
            shared = QuantileAggregator(name, quantiles=LEVELS).fit(Z[~held], y[~held])
            q = shared.predict_quantiles(Z[held])
            loss = pinball_loss(y[held], q, quantiles=LEVELS)
            # Optimal weights need not be unique: equal but for that.
            assert model.validation_loss_ <= loss * (1 + 1e-3)


@pytest.mark.parametrize("non_crossing", ["sort", "isotonic"])
def test_training_through_a_repair(non_crossing):
    X, Z, y = two_regions(n=300)
    Z = Z + np.random.default_rng(0).normal(size=Z.shape)
    model = local("fine", non_crossing=non_crossing, max_iter=300).fit(Z, y, X=X)
    assert crossing_rate(model.predict_quantiles(Z, X)) == 0.0
    raw = local("fine", max_iter=300).fit(Z, y, X=X)
    assert crossing_rate(raw.predict_quantiles(Z, X)) > 0


@pytest.mark.parametrize("crossing_pairs", ["neighbors", "all"])
def test_a_crossing_penalty_crosses_less(crossing_pairs):
    X, Z, y = two_regions(n=300)
    Z = Z + np.random.default_rng(0).normal(size=Z.shape)

    def crossing(penalty):
        model = local(
            "medium",
            crossing_penalty=penalty,
            crossing_pairs=crossing_pairs,
            max_iter=400,
            early_stopping=False,
        )
        q = model.fit(Z, y, X=X).predict_quantiles(Z, X)
        return np.maximum(-np.diff(q, axis=1), 0).mean()

    assert crossing(20.0) < 0.7 * crossing(0.0)


@pytest.mark.parametrize("how", [{"local": True}, {"solver": "torch"}])
def test_a_penalty_counts_where_networks_start_and_where_they_are_judged(how):
    rng = np.random.default_rng(1)
    y = rng.normal(size=200)
    crossing = 0.5 * y[:, None] + 0.4 * rng.normal(size=(200, 3))
    Z = np.stack([crossing, np.tile([-0.12, 0.0, 0.12], (200, 1))], axis=1)
    model = QuantileAggregator(
        quantiles=(0.45, 0.5, 0.55), crossing_penalty=1000.0, margin=0.0,
        max_iter=100, random_state=0, **how,
    ).fit(Z, y, X=Z[:, 0])  # fmt: skip
    q = model.predict_quantiles(Z, Z[:, 0])
    assert np.maximum(-np.diff(q, axis=1), 0).mean() < 0.02


def test_a_target_far_from_zero_loses_no_digits():
    X, Z, y = two_regions(n=300)
    losses = [
        local(max_iter=300).fit(Z + far, y + far, X=X).validation_loss_
        for far in (0.0, 2.0**20, 2.0**26)
    ]
    np.testing.assert_allclose(losses[1:], losses[0], rtol=0.02)


@pytest.mark.parametrize("names", [[1, 0], ["b", "a"]])
def test_columns_are_found_whatever_their_names(names):
    X, Z, y = two_regions(n=300)
    frame = pd.DataFrame({names[0]: X[:, 0], names[1]: [1, "a", None] * 100})
    model = local().fit(Z, y, X=frame)
    weights = model.predict_weights(frame)
    assert weights[X[:, 0] < 0, 0].mean() > 0.8


def test_one_network_a_fold():
    X, Z, y = two_regions(n=300)
    model = local("coarse", cv=3, max_iter=300).fit(Z, y, X=X)
    assert len(model.networks_) == 3
    assert np.isfinite(model.row_losses_).all()
    one = local("coarse", max_iter=300).fit(Z, y, X=X)
    assert len(one.networks_) == 1
    assert np.isfinite(one.row_losses_).sum() == 60


def test_without_early_stopping_every_row_trains():
    X, Z, y = two_regions(n=200)
    model = local("coarse", early_stopping=False, max_iter=70).fit(Z, y, X=X)
    assert model.n_iter_ == 70
    assert np.isnan(model.validation_loss_)
    assert np.isnan(model.row_losses_).all()


def test_global_weights_by_gradient_steps_come_near_the_exact_ones():
    _, Z, y = two_regions()
    for resolution in ("coarse", "medium", "fine"):
        steps = QuantileAggregator(
            resolution, quantiles=LEVELS, solver="torch", random_state=0, cv=3
        ).fit(Z, y)
        exact = QuantileAggregator(resolution, quantiles=LEVELS).fit(Z, y)
        losses = [
            pinball_loss(y, model.predict_quantiles(Z), quantiles=LEVELS)
            for model in (steps, exact)
        ]
        assert losses[1] <= losses[0] + 1e-9
        assert losses[0] <= 1.05 * losses[1]
        assert not steps.networks_


def test_equal_seeds_give_equal_networks_and_leave_torch_alone():
    X, Z, y = two_regions(n=200)
    model = local("fine", dropout=0.2, max_iter=60)
    state = torch.random.get_rng_state()
    first = clone(model).fit(Z, y, X=X).predict_quantiles(Z, X)
    second = clone(model).fit(Z, y, X=X).predict_quantiles(Z, X)
    np.testing.assert_array_equal(first, second)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_fitted_model_predicts_without_torch_and_survives_pickling(
    fitted, monkeypatch
):
    X, Z, _ = two_regions(n=50)
    expected = fitted["fine"].predict_quantiles(Z, X)
    monkeypatch.setitem(sys.modules, "torch", None)
    copy = pickle.loads(pickle.dumps(fitted["fine"]))
    np.testing.assert_array_equal(copy.predict_quantiles(Z, X), expected)


def test_training_without_torch_says_how_to_install_it(monkeypatch):
    X, Z, y = two_regions(n=50)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install uqlib\[torch\]"):
        local().fit(Z, y, X=X)


def test_rows_without_weight_have_no_say():
    X, Z, y = two_regions(n=200)
    weight = np.ones(200)
    weight[150:] = 0
    y_other = y.copy()
    y_other[150:] += 1e3
    model = local("coarse", max_iter=100)
    first = clone(model).fit(Z, y, X=X, sample_weight=weight)
    second = clone(model).fit(Z, y_other, X=X, sample_weight=weight)
    np.testing.assert_array_equal(first.predict_weights(X), second.predict_weights(X))


def test_frames_with_missing_values_and_strings():
    X, Z, y = two_regions(n=300)
    frame = pd.DataFrame(X, columns=["x0", "x1"])
    frame["side"] = np.where(X[:, 0] > 0, "right", "left")
    frame.loc[::7, "x0"] = np.nan
    model = local("coarse").fit(Z, y, X=frame)
    weights = model.predict_weights(frame)
    assert weights[X[:, 0] < 0, 0].mean() > 0.8
    other = frame.assign(side="nowhere")
    assert np.isfinite(model.predict_quantiles(Z, other)).all()


@pytest.mark.parametrize("kind", ["strings", "sparse"])
def test_features_that_are_no_numbers(kind):
    from scipy.sparse import csr_array

    X, Z, y = two_regions(n=50)
    features = csr_array(X) if kind == "sparse" else X.astype(str).astype(object)
    with pytest.raises(ValueError, match="a dataframe or a dense array of numbers"):
        local().fit(Z, y, X=features)


def test_far_outside_the_weights_stay_what_they_are_at_the_border():
    X, Z, y = two_regions()
    model = local("coarse").fit(Z, y, X=X)
    far = model.predict_weights(np.array([[1e3, 0.0], [1e9, 0.0]]))
    np.testing.assert_array_equal(far[0], far[1])


def test_features_are_needed_and_must_match(fitted):
    X, Z, _ = two_regions(n=50)
    with pytest.raises(ValueError, match="pass X as it was in fit"):
        fitted["coarse"].predict_quantiles(Z)
    with pytest.raises(ValueError, match="inconsistent numbers"):
        fitted["coarse"].predict_quantiles(Z, X[:10])


def test_memory_of_the_fine_prediction_stays_bounded(fitted):
    import tracemalloc

    X, Z, y = two_regions(n=400)
    levels = tuple(np.arange(1, 40) / 40)
    wide = np.repeat(Z[:, :1], 8, axis=2)[:, :, :39]
    model = QuantileAggregator(
        "fine", quantiles=levels, local=True, max_iter=1, random_state=0
    )
    model.early_stopping = False
    model.fit(wide, y, X=X)
    X, Z, _ = two_regions(n=40_000)
    wide = np.repeat(Z[:, :1], 8, axis=2)[:, :, :39]
    tracemalloc.start()
    result = model.predict_quantiles(wide, X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    chunk = 8 * 2**20 * 4  # one chunk of weights and its products
    assert peak <= 4 * result.nbytes + chunk
