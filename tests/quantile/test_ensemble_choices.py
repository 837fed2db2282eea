"""Every way of combining the models by name, shared folds, and the choice "auto"."""

from importlib.util import find_spec

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.linear_model import QuantileRegressor
from sklearn.model_selection import (
    KFold,
    LeaveOneOut,
    RepeatedKFold,
    ShuffleSplit,
)

from tests._models import ColumnQuantiles, Memorizer, normal_rows
from uqlib import (
    CrossConformalizedQuantileRegressor,
    MultiQuantileRegressor,
    QuantileAggregator,
    QuantileEnsembleRegressor,
    crossing_rate,
    pinball_loss,
)

LEVELS = (0.1, 0.5, 0.9)
X, Y = normal_rows(240, seed=0)
HAS_TORCH = find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="networks need torch")

FITS = []


class Counted(RegressorMixin, BaseEstimator):
    """Quantiles around the mean of its training rows, whose numbers it records."""

    def __init__(self, quantiles=LEVELS, width=1.0):
        self.quantiles = quantiles
        self.width = width

    def fit(self, X, y):
        """Record which rows it saw: their numbers are the last column."""
        FITS.append(tuple(sorted(X[:, -1].astype(int))))
        self.quantiles_ = np.asarray(self.quantiles)
        self.mean_ = float(np.mean(y))
        return self

    def predict_quantiles(self, X):
        """Return the same row everywhere."""
        row = self.mean_ + self.width * (self.quantiles_ - 0.5)
        return np.tile(row, (len(X), 1))


def ensemble(*models, **parameters):
    models = models or (
        QuantileRegressor(alpha=0),
        ColumnQuantiles(LEVELS, scale=1.5),
        ColumnQuantiles(LEVELS, column=1),
    )
    named = [(f"m{j}", model) for j, model in enumerate(models)]
    return QuantileEnsembleRegressor(
        named, **{"quantiles": LEVELS, "random_state": 0, "cv": 3} | parameters
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("qra", {"resolution": "coarse"}),
        ("coarse", {"resolution": "coarse"}),
        ("medium", {"resolution": "medium"}),
        ("fine", {"resolution": "fine"}),
        (
            "fqra",
            {"resolution": "medium", "crossing_penalty": np.inf, "margin": 0.0},
        ),
        pytest.param(
            "local_coarse",
            {"resolution": "coarse", "local": True, "cv": 5},
            marks=needs_torch,
        ),
    ],
)
def test_a_name_is_an_aggregator(name, parameters):
    aggregator = QuantileAggregator(**parameters)
    by_name = ensemble(weights=name).fit(X, Y)
    by_object = ensemble(weights=aggregator).fit(X, Y)
    np.testing.assert_array_equal(
        by_name.predict_quantiles(X), by_object.predict_quantiles(X)
    )
    assert isinstance(by_name.aggregator_, QuantileAggregator)
    np.testing.assert_array_equal(by_name.aggregator_.quantiles_, LEVELS)
    assert aggregator.quantiles is None  # the caller's object is left alone


@needs_torch
def test_a_local_aggregator_gets_the_features_without_being_told():
    aggregator = QuantileAggregator(
        "coarse", local=True, max_iter=20, hidden=(4,), early_stopping=False
    )
    model = ensemble(weights=aggregator).fit(X, Y)
    assert model.aggregator_.networks_
    Z = np.stack([m.predict_quantiles(X) for m in model.estimators_], axis=1)
    np.testing.assert_array_equal(
        model.predict_quantiles(X), model.aggregator_.predict_quantiles(Z, X)
    )


@pytest.mark.parametrize("weights", ["average", "median", "coarse", "medium", "fine"])
def test_some_levels_are_columns_of_all(weights):
    model = ensemble(weights=weights).fit(X, Y)
    every = model.predict_quantiles(X)
    np.testing.assert_array_equal(
        model.predict_quantiles(X, quantiles=[0.5, 0.9]), every[:, 1:]
    )


@pytest.mark.parametrize("non_crossing", ["sort", "isotonic"])
@pytest.mark.parametrize("weights", ["median", "medium", "fine"])
def test_rows_are_repaired_across_all_levels(weights, non_crossing):
    models = (Memorizer(LEVELS), ColumnQuantiles(LEVELS, scale=-1.0))
    model = ensemble(*models, weights=weights, non_crossing=non_crossing).fit(X, Y)
    every = model.predict_quantiles(X)
    assert crossing_rate(every) == 0.0
    np.testing.assert_array_equal(model.predict_quantiles(X, [0.9]), every[:, 2:])


def test_without_refit_the_fold_models_predict_together():
    FITS.clear()
    rows = np.column_stack([X, np.arange(len(X))])
    model = ensemble(Counted(), Counted(width=2.0), refit=False, cv=4).fit(rows, Y)
    assert len(FITS) == 2 * 4
    assert all(len(seen) == 180 for seen in FITS)
    base = [
        np.mean([m.predict_quantiles(rows) for m in member.estimators], axis=0)
        for member in model.estimators_
    ]
    expected = np.einsum("jik,jk->ik", base, model.weights_)
    np.testing.assert_allclose(model.predict_quantiles(rows), expected, rtol=1e-12)
    member = model.named_estimators_["m0"]
    np.testing.assert_allclose(member.predict(rows), base[0][:, 1])


@pytest.mark.parametrize("refit", [True, False])
def test_ten_and_five_trainings_for_five_folds(refit):
    rows = np.column_stack([X, np.arange(len(X))])
    splits = list(KFold(5, shuffle=True, random_state=0).split(rows))
    FITS.clear()
    models = ensemble(Counted(), cv=5, refit=refit).fit_folds(rows, Y, splits)
    assert len(models) == 5
    assert len(FITS) == (15 if refit else 10)
    assert len(set(FITS)) == len(FITS)
    for seen in FITS:
        left_out = [not set(test) & set(seen) for _, test in splits]
        expected = 240 - sum(len(test) for _, test in splits if not set(test) & {*seen})
        assert sum(left_out) in (1, 2)
        assert len(seen) == expected


def test_shared_folds_are_those_fitted_one_by_one():
    rows = np.column_stack([X, np.arange(len(X))])
    splits = list(KFold(4, shuffle=True, random_state=1).split(rows))
    weight = np.random.default_rng(0).uniform(0.5, 2, size=len(X))
    base = ensemble(QuantileRegressor(alpha=0), ColumnQuantiles(LEVELS), cv=4)
    base.set_params(m1=QuantileRegressor(alpha=0.1))
    together = base.fit_folds(X, Y, splits, sample_weight=weight)
    for k, (train, _) in enumerate(splits):
        position = np.empty(len(X), dtype=int)
        position[train] = np.arange(len(train))
        inner = []
        for l, (_, test) in enumerate(splits):
            if l != k:
                held = position[test]
                inner.append((np.setdiff1d(np.arange(len(train)), held), held))
        alone = clone(base).set_params(cv=inner)
        alone.fit(X[train], Y[train], sample_weight=weight[train])
        np.testing.assert_allclose(
            together[k].oof_quantiles_, alone.oof_quantiles_, rtol=1e-12
        )
        np.testing.assert_allclose(
            together[k].predict_quantiles(X), alone.predict_quantiles(X), rtol=1e-9
        )


@pytest.mark.parametrize(
    "cv", [ShuffleSplit(4, random_state=0), RepeatedKFold(n_splits=3, n_repeats=2)]
)
@pytest.mark.parametrize("refit", [True, False])
def test_splits_that_are_no_partition_are_fitted_one_by_one(cv, refit):
    model = ensemble(Memorizer(LEVELS), refit=refit, weights="average")
    splits = list(cv.split(X))
    for (train, test), fitted in zip(
        splits, model.fit_folds(X, Y, iter(splits)), strict=True
    ):
        assert np.isin(fitted.oof_quantiles_, Y[train]).all()
        assert not np.isin(fitted.predict_quantiles(X[test]), Y[test]).any()


@pytest.mark.parametrize("cv", [2, LeaveOneOut()])
def test_folds_that_cannot_share_are_fitted_one_by_one(cv):
    rows = np.column_stack([X, np.arange(len(X))])[:12]
    splits = list((KFold(cv) if isinstance(cv, int) else cv).split(rows))
    FITS.clear()
    for inner in (2, KFold(2)):
        FITS.clear()
        models = ensemble(Counted(), cv=inner).fit_folds(rows, Y[:12], splits)
        assert len(models) == len(splits)
        assert len(FITS) == len(splits) * 3


def test_cross_conformal_around_an_ensemble_trains_fifteen_models():
    rows = np.column_stack([X, np.arange(len(X))])
    FITS.clear()
    base = ensemble(Counted(), Counted(width=0.1), quantiles=(0.05, 0.5, 0.95), cv=5)
    model = CrossConformalizedQuantileRegressor(base, cv=5, random_state=0)
    model.fit(rows, Y)
    assert len(FITS) == 2 * 15
    assert len(model.estimators_) == 5
    covered = model.predict_interval(rows)
    assert ((covered[:, 0] <= Y) & (covered[:, 1] >= Y)).mean() > 0.8


def test_auto_takes_the_only_good_model():
    models = (ColumnQuantiles(LEVELS), ColumnQuantiles(LEVELS, shift=9.0))
    model = ensemble(*models, weights="auto").fit(X, Y)
    assert model.selected_ == "single:m0"
    np.testing.assert_array_equal(model.weights_, [1.0, 0.0])
    names = {"single:m0", "single:m1", "average", "coarse", "medium"}
    if HAS_TORCH:
        names |= {"local_medium", "local_fine"}
    assert set(model.candidate_losses_) == names
    assert model.candidate_losses_["single:m0"] == pytest.approx(model.base_losses_[0])


def test_auto_combines_models_that_err_apart():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(240, 3))
    rows = np.column_stack([X[:, :1] + noise])
    models = [ColumnQuantiles(LEVELS, column=j) for j in range(3)]
    model = ensemble(*models, weights="auto").fit(rows, Y)
    assert model.selected_ in ("average", "coarse", "medium")
    assert model.candidate_losses_["average"] < model.base_losses_.min()
    assert np.abs(model.weights_ - 1 / 3).max() < 0.2


@needs_torch
def test_auto_takes_local_weights_where_models_are_good_in_places():
    rng = np.random.default_rng(0)
    side = rng.choice([-1.0, 1.0], size=400)
    y = rng.normal(size=400)
    rows = np.column_stack([3 * (side > 0), -3 * (side < 0), side])
    models = [ColumnQuantiles(LEVELS, column=j) for j in range(2)]
    model = ensemble(*models, weights="auto").fit(rows, y)
    assert model.selected_.startswith("local_")
    losses = model.candidate_losses_
    assert losses[model.selected_] < 0.7 * losses["medium"]
    new = pinball_loss(y, model.predict_quantiles(rows), quantiles=LEVELS)
    assert new < 0.7 * losses["medium"]


def test_auto_on_a_handful_of_rows():
    for n in (3, 9, 12):
        model = ensemble(*[ColumnQuantiles(LEVELS)] * 2, weights="auto")
        model.set_params(estimators=[(f"m{j}", ColumnQuantiles(LEVELS)) for j in "ab"])
        fitted = model.fit(X[:n], Y[:n])
        assert np.isfinite(fitted.predict_quantiles(X)).all()
        assert fitted.selected_ == "single:ma"


def test_auto_does_without_local_weights_where_features_are_no_numbers():
    class Text(ColumnQuantiles):
        def predict_quantiles(self, X):
            return super().predict_quantiles(np.asarray(X, dtype=float))

    rows = X.astype(str).astype(object)
    model = ensemble(Text(LEVELS), Text(LEVELS, scale=2.0), weights="auto")
    names = model.fit(rows, Y).candidate_losses_
    assert not any(name.startswith("local") for name in names)


def test_fitting_folds_leaves_the_ensemble_unfitted():
    model = ensemble()
    model.fit_folds(X, Y, list(KFold(3).split(X)))
    assert not [name for name in vars(model) if name.endswith("_")]


def test_only_auto_reports_a_choice():
    model = ensemble(weights="coarse").fit(X, Y)
    assert model.selected_ is None
    assert model.candidate_losses_ is None


def test_levels_of_many_models_are_one_array():
    # Ensemble of a learner that gives all levels at once and of one that gives one.
    model = ensemble(
        MultiQuantileRegressor(QuantileRegressor(alpha=0)), QuantileRegressor(alpha=0)
    ).fit(X, Y)
    assert model.oof_quantiles_.shape == (240, 2, 3)
    np.testing.assert_allclose(model.oof_quantiles_[:, 0], model.oof_quantiles_[:, 1])
