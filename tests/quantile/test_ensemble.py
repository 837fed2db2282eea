"""QuantileEnsembleRegressor: honest weights, optimality, identities."""

import re

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, QuantileRegressor
from sklearn.model_selection import KFold, ShuffleSplit, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests._models import ColumnQuantiles, Memorizer, normal_rows
from uqlib import (
    AlreadyFittedWarning,
    MultiQuantileRegressor,
    QuantileEnsembleRegressor,
    SortQuantiles,
    pinball_loss,
)
from uqlib.quantile import CrossFitQuantiles

LEVELS = (0.25, 0.5, 0.75)
X, Y = normal_rows(200, seed=0)
GLOBAL = ["average", "median", "coarse", "medium"]
CONVEX = ["coarse", "medium"]


def linear():
    return QuantileRegressor(alpha=0)


def boosting():
    return GradientBoostingRegressor(n_estimators=10, max_depth=2, random_state=0)


def ensemble(*models, **parameters):
    named = [(f"m{j}", model) for j, model in enumerate(models)]
    return QuantileEnsembleRegressor(
        named, **{"quantiles": LEVELS, "random_state": 0, "cv": 3} | parameters
    )


def aggregated(model, base):
    weights = model.weights_
    if weights.ndim == 1:
        weights = np.repeat(weights[:, None], base.shape[2], axis=1)
    return np.einsum("ijk,jk->ik", base, weights)


@pytest.mark.parametrize("weights", GLOBAL)
def test_prediction_is_the_aggregate_of_the_full_models(weights):
    model = ensemble(linear(), boosting(), weights=weights).fit(X, Y)
    base = np.stack([m.predict_quantiles(X) for m in model.estimators_], axis=1)
    expected = (
        np.median(base, axis=1) if weights == "median" else aggregated(model, base)
    )
    np.testing.assert_allclose(model.predict_quantiles(X), expected, rtol=1e-12)
    np.testing.assert_array_equal(model.predict(X), model.predict_quantiles(X)[:, 1])
    np.testing.assert_array_equal(
        model.predict_quantiles(X, [0.25, 0.75]),
        model.predict_quantiles(X)[:, [0, 2]],
    )


def test_out_of_fold_quantiles_are_those_of_a_loop_over_the_folds():
    cv = KFold(4, shuffle=True, random_state=3)
    model = ensemble(linear(), boosting(), cv=cv).fit(X, Y)
    for j, learner in enumerate([linear(), boosting()]):
        expected = np.empty((200, 3))
        for train, test in cv.split(X):
            fold = MultiQuantileRegressor(learner, quantiles=LEVELS)
            expected[test] = fold.fit(X[train], Y[train]).predict_quantiles(X[test])
        np.testing.assert_array_equal(model.oof_quantiles_[:, j], expected)
        loss = pinball_loss(Y, expected, LEVELS)
        assert model.base_losses_[j] == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("weights", CONVEX)
def test_weights_lie_on_the_simplex(weights):
    fitted = ensemble(linear(), boosting(), Memorizer(), weights=weights).fit(X, Y)
    assert (fitted.weights_ >= 0).all()
    np.testing.assert_allclose(fitted.weights_.sum(axis=0), 1, atol=1e-12)


@pytest.mark.parametrize("weights", CONVEX)
def test_a_memorizer_gets_no_weight(weights):
    # In sample its loss is 0 and it would take all the weight.
    X, y = normal_rows(400, seed=1)
    memorizer = Memorizer(quantiles=LEVELS).fit(X, y)
    in_sample = pinball_loss(y, memorizer.predict_quantiles(X), LEVELS)
    assert in_sample == 0.0
    model = ensemble(linear(), Memorizer(), weights=weights).fit(X, y)
    assert model.base_losses_[1] > 1.2 * model.base_losses_[0]
    assert model.weights_[1].max() < 0.1


@pytest.mark.parametrize("weights", GLOBAL)
def test_one_model_alone_is_returned_exactly(weights):
    model = ensemble(boosting(), weights=weights).fit(X, Y)
    alone = MultiQuantileRegressor(boosting(), quantiles=LEVELS).fit(X, Y)
    np.testing.assert_array_equal(
        model.predict_quantiles(X), alone.predict_quantiles(X)
    )


@pytest.mark.parametrize("weights", CONVEX)
@pytest.mark.parametrize("seed", range(3))
def test_a_duplicated_model_changes_nothing(weights, seed):
    X, y = normal_rows(150, seed=10 + seed)
    once = ensemble(linear(), boosting(), weights=weights).fit(X, y)
    twice = ensemble(linear(), boosting(), linear(), weights=weights).fit(X, y)
    losses = [
        pinball_loss(y, aggregated(model, model.oof_quantiles_), LEVELS)
        for model in (once, twice)
    ]
    assert abs(losses[0] - losses[1]) <= 1e-8
    # Continuous data: the optimum in the function space is unique.
    np.testing.assert_allclose(
        once.predict_quantiles(X), twice.predict_quantiles(X), atol=1e-6
    )


def test_coarse_is_no_worse_than_the_best_model_and_medium_than_coarse():
    losses = {}
    for weights in CONVEX:
        model = ensemble(linear(), boosting(), Memorizer(), weights=weights).fit(X, Y)
        fitted = aggregated(model, model.oof_quantiles_)
        losses[weights] = pinball_loss(Y, fitted, LEVELS)
    assert losses["coarse"] <= model.base_losses_.min() + 1e-8
    assert losses["medium"] <= losses["coarse"] + 1e-8


@pytest.mark.parametrize("weights", CONVEX)
def test_permuted_models_permute_the_weights(weights):
    first = ensemble(linear(), boosting(), weights=weights).fit(X, Y)
    second = ensemble(boosting(), linear(), weights=weights).fit(X, Y)
    np.testing.assert_allclose(first.weights_, second.weights_[::-1], atol=1e-7)


@pytest.mark.parametrize("weights", GLOBAL)
def test_equivariance_under_scale_and_shift_of_y(weights):
    stumps = GradientBoostingRegressor(n_estimators=1, learning_rate=1.0, max_depth=2)
    plain = ensemble(linear(), stumps, weights=weights).fit(X, Y)
    moved = ensemble(linear(), stumps, weights=weights).fit(X, 1e3 * Y + 1e4)
    np.testing.assert_allclose(
        moved.predict_quantiles(X), 1e3 * plain.predict_quantiles(X) + 1e4, rtol=1e-6
    )


def test_coarse_weights_of_monotone_models_never_cross():
    models = [ColumnQuantiles(scale=s, shift=b) for s, b in [(1, 0), (2, 1), (0.5, -1)]]
    model = ensemble(*models, weights="coarse").fit(X, Y)
    assert (np.diff(model.predict_quantiles(X), axis=1) >= 0).all()


def test_averaging_normal_quantiles_gives_the_normal_of_mean_moments():
    models = [ColumnQuantiles(scale=s, shift=b) for s, b in [(1, 0), (3, 4)]]
    model = ensemble(*models, weights="average").fit(X, Y)
    mean = ColumnQuantiles(LEVELS, scale=2, shift=2).fit(X, Y)
    np.testing.assert_allclose(
        model.predict_quantiles(X), mean.predict_quantiles(X), atol=1e-12
    )


def test_zero_sample_weight_drops_rows_from_the_loss():
    cv = KFold(3)
    weight = (np.arange(200) % 3 > 0).astype(float)
    models = [ColumnQuantiles(scale=0.5), ColumnQuantiles(scale=2.0)]
    frozen = [FrozenEstimator(m.set_params(quantiles=LEVELS).fit(X, Y)) for m in models]
    weighted = ensemble(*frozen, cv=cv).fit(X, Y, sample_weight=weight)
    kept = weight > 0
    dropped = ensemble(*frozen, cv=cv).fit(X[kept], Y[kept])
    np.testing.assert_allclose(weighted.weights_, dropped.weights_, atol=1e-8)
    np.testing.assert_allclose(weighted.base_losses_, dropped.base_losses_, rtol=1e-12)


def test_result_does_not_depend_on_n_jobs_and_is_reproducible():
    forest = HistGradientBoostingRegressor(max_iter=5)
    serial = ensemble(linear(), forest).fit(X, Y)
    parallel = ensemble(linear(), forest, n_jobs=2).fit(X, Y)
    np.testing.assert_array_equal(serial.weights_, parallel.weights_)
    np.testing.assert_array_equal(
        serial.predict_quantiles(X), parallel.predict_quantiles(X)
    )


def test_random_state_seeds_models_that_have_none():
    subsampled = GradientBoostingRegressor(n_estimators=5, subsample=0.5)
    kept = GradientBoostingRegressor(n_estimators=5, subsample=0.5, random_state=7)
    first, second = (ensemble(subsampled, kept).fit(X, Y) for _ in range(2))
    np.testing.assert_array_equal(first.oof_quantiles_, second.oof_quantiles_)
    assert first.estimators_[1].estimator.random_state == 7
    assert subsampled.random_state is None


def test_any_source_of_quantiles_is_a_model():
    forest = pytest.importorskip("quantile_forest")
    sorted_steps = make_pipeline(
        CrossFitQuantiles(MultiQuantileRegressor(linear(), quantiles=LEVELS), cv=3),
        SortQuantiles(),
    )
    model = ensemble(
        make_pipeline(StandardScaler(), linear()),
        MultiQuantileRegressor(boosting()),
        forest.RandomForestQuantileRegressor(n_estimators=5, random_state=0),
        sorted_steps,
        ensemble(linear(), boosting()),
    ).fit(X, Y)
    assert model.oof_quantiles_.shape == (200, 5, 3)
    assert set(model.named_estimators_) == {"m0", "m1", "m2", "m3", "m4"}


class MeanAggregator(BaseEstimator):
    """The plainest aggregator object; records what it was given."""

    def fit(self, Z, y, X=None, sample_weight=None):
        """Record the shapes."""
        self.seen_ = (Z.shape, y.shape, X is not None, sample_weight is not None)
        return self

    def predict_quantiles(self, Z, X=None):
        """Average over the models; add the mean of X to show that it came."""
        extra = 0.0 if X is None else X.mean()
        return Z.mean(axis=1) + extra


@pytest.mark.parametrize("passthrough", [False, True])
def test_an_aggregator_object_is_cloned_and_used(passthrough):
    given = MeanAggregator()
    model = ensemble(linear(), boosting(), weights=given, passthrough=passthrough)
    model.fit(X, Y, sample_weight=np.ones(200))
    average = ensemble(linear(), boosting(), weights="average")
    average.fit(X, Y, sample_weight=np.ones(200))
    extra = X.mean() if passthrough else 0.0
    np.testing.assert_allclose(
        model.predict_quantiles(X), average.predict_quantiles(X) + extra, rtol=1e-12
    )
    assert model.aggregator_.seen_ == ((200, 2, 3), (200,), passthrough, True)
    assert model.weights_ is None
    assert not hasattr(given, "seen_")


def test_nested_parameters():
    model = ensemble(linear(), boosting())
    model.set_params(m1__n_estimators=3, m0=LinearRegression())
    assert model.get_params()["m1__n_estimators"] == 3
    assert isinstance(model.estimators[0][1], LinearRegression)


@pytest.mark.parametrize("cv", [ShuffleSplit(3), TimeSeriesSplit(3)])
def test_folds_must_be_a_partition(cv):
    message = "must put every row in exactly one test fold"
    with pytest.raises(ValueError, match=re.escape(message)):
        ensemble(linear(), cv=cv).fit(X, Y)


@pytest.mark.parametrize(
    "models", [[], None, [linear()], [("a", "no estimator")], [(1, linear())]]
)
def test_malformed_models(models):
    message = "estimators must be a non-empty list of (name, estimator) tuples"
    with pytest.raises(ValueError, match=re.escape(message)):
        QuantileEnsembleRegressor(models).fit(X, Y)


def test_duplicate_names():
    with pytest.raises(ValueError, match="Names provided are not unique"):
        QuantileEnsembleRegressor([("a", linear()), ("a", linear())]).fit(X, Y)


@pytest.mark.parametrize("weights", ["finest", None, 3])
def test_unknown_weights(weights):
    with pytest.raises(ValueError, match=re.escape(f"weights={weights!r}")):
        ensemble(linear(), weights=weights).fit(X, Y)


def test_passthrough_needs_an_aggregator():
    with pytest.raises(ValueError, match=re.escape("Set passthrough=False.")):
        ensemble(linear(), passthrough=True).fit(X, Y)


def test_a_model_without_quantiles():
    with pytest.raises(ValueError, match="LinearRegression cannot give quantiles"):
        ensemble(LinearRegression()).fit(X, Y)


def test_a_model_with_other_levels():
    frozen = FrozenEstimator(ColumnQuantiles(quantiles=(0.1, 0.9)).fit(X, Y))
    message = "The model has no quantile level 0.25, 0.5, 0.75. It has [0.1, 0.9]"
    with pytest.raises(ValueError, match=re.escape(message)):
        ensemble(frozen).fit(X, Y)


@pytest.mark.parametrize("weights", ["average", "median"])
def test_infinite_quantiles_can_be_averaged(weights):
    class Open(ColumnQuantiles):
        def predict_quantiles(self, X):
            matrix = super().predict_quantiles(X)
            matrix[:, -1] = np.inf
            return matrix

    models = (linear(), linear(), Open())
    model = ensemble(*models, weights=weights).fit(X, Y)
    upper = model.predict_quantiles(X)[:, -1]
    assert np.isposinf(upper).all() == (weights == "average")
    assert np.isposinf(model.base_losses_[2])


def test_infinite_quantiles_cannot_be_weighted():
    class Infinite(ColumnQuantiles):
        def predict_quantiles(self, X):
            return np.full((len(X), 3), np.inf)

    message = "estimators ['m1'] gave infinite out-of-fold quantiles"
    with pytest.raises(ValueError, match=re.escape(message)):
        ensemble(linear(), Infinite()).fit(X, Y)


def test_fewer_rows_than_folds():
    with pytest.raises(ValueError, match="n_splits=3 greater than the number of samp"):
        ensemble(linear()).fit(X[:2], Y[:2])


def test_a_fitted_model_is_cloned_with_a_warning():
    fitted = linear().fit(X, Y)
    with pytest.warns(AlreadyFittedWarning, match="clones QuantileRegressor"):
        ensemble(fitted).fit(X, Y)
