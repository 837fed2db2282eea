"""Cloning, seeding and weights of wrapped models."""

import numpy as np
import pytest
from sklearn import config_context
from sklearn.ensemble import RandomForestRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from tests._models import normal_rows
from uqlib._fitting import clone_and_fit, draw_seeds, is_fitted, seeded_clone

X, Y = normal_rows(60, seed=0)
WEIGHT = np.random.default_rng(1).uniform(size=60)
WEIGHTED = Ridge().fit(X, Y, sample_weight=WEIGHT).coef_


@pytest.mark.parametrize(
    "model",
    [
        Ridge(),
        make_pipeline("passthrough", Ridge()),
        make_pipeline("passthrough", make_pipeline("passthrough", Ridge())),
        GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=2),
    ],
)
def test_weights_reach_the_last_step(model):
    fitted = clone_and_fit(model, X, Y, WEIGHT)
    while not hasattr(fitted, "coef_"):
        fitted = getattr(fitted, "best_estimator_", None) or fitted[-1]
    np.testing.assert_allclose(fitted.coef_, WEIGHTED, rtol=1e-12)


def test_weights_are_routed_where_routing_is_enabled():
    with config_context(enable_metadata_routing=True):
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        model = make_pipeline(scaler, Ridge().set_fit_request(sample_weight=True))
        routed = clone_and_fit(model, X, Y, WEIGHT)
    scaled = StandardScaler().fit_transform(X)
    by_hand = Ridge().fit(scaled, Y, sample_weight=WEIGHT)
    np.testing.assert_allclose(routed[-1].coef_, by_hand.coef_, rtol=1e-12)


def test_a_frozen_model_is_never_cloned_or_fitted():
    frozen = FrozenEstimator(Ridge().fit(X, Y))
    assert clone_and_fit(frozen, X, -Y) is frozen
    assert seeded_clone(frozen, 3) is frozen


@pytest.mark.parametrize(
    ("model", "fitted"),
    [
        (Ridge(), False),
        (Ridge().fit(X, Y), True),
        (make_pipeline(StandardScaler(), Ridge()), False),
        (make_pipeline(StandardScaler(), Ridge()).fit(X, Y), True),
        (FunctionTransformer(), False),  # stateless: there is nothing to lose
        (make_pipeline(StandardScaler(), FrozenEstimator(Ridge().fit(X, Y))), False),
    ],
)
def test_fitted_state_is_recognized(model, fitted):
    assert is_fitted(model) is fitted


def test_only_unset_seeds_are_set():
    forest = RandomForestRegressor()
    model = make_pipeline(RandomForestRegressor(random_state=7), forest)
    copy = seeded_clone(model, 3)
    assert [step.random_state for _, step in copy.steps] == [7, 3]
    assert forest.random_state is None
    assert seeded_clone(forest, None).random_state is None


def test_seeds_are_drawn_once_and_in_order():
    first = draw_seeds(np.random.RandomState(0), 5)
    assert first[:3] == draw_seeds(np.random.RandomState(0), 3)
    assert len(set(first)) == 5
    assert draw_seeds(None, 2) == [None, None]
