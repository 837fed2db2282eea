"""MultiQuantileRegressor with every kind of learner."""

import re

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import QuantileRegressor, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests._models import ColumnQuantiles, normal_rows
from uqlib import AlreadyFittedWarning, MultiQuantileRegressor

LEVELS = (0.1, 0.5, 0.9)
X, Y = normal_rows(120, seed=0)


def linear(**parameters):
    return MultiQuantileRegressor(
        QuantileRegressor(alpha=0), **{"quantiles": LEVELS} | parameters
    )


def by_hand(make):
    return np.column_stack([make(tau).fit(X, Y).predict(X) for tau in LEVELS])


SINGLE_LEVEL = {
    "linear": (
        QuantileRegressor(alpha=0),
        lambda tau: QuantileRegressor(alpha=0, quantile=tau),
    ),
    "histogram boosting": (
        HistGradientBoostingRegressor(max_iter=5),
        lambda tau: HistGradientBoostingRegressor(
            max_iter=5, loss="quantile", quantile=tau
        ),
    ),
    "boosting": (
        GradientBoostingRegressor(n_estimators=5, random_state=0),
        lambda tau: GradientBoostingRegressor(
            n_estimators=5, random_state=0, loss="quantile", alpha=tau
        ),
    ),
    "pipeline": (
        make_pipeline(StandardScaler(), QuantileRegressor(alpha=0)),
        lambda tau: make_pipeline(
            StandardScaler(), QuantileRegressor(alpha=0, quantile=tau)
        ),
    ),
}


@pytest.mark.parametrize("name", SINGLE_LEVEL)
def test_one_level_learners_equal_their_fits_by_hand(name):
    learner, make = SINGLE_LEVEL[name]
    model = MultiQuantileRegressor(learner, quantiles=LEVELS).fit(X, Y)
    np.testing.assert_array_equal(model.predict_quantiles(X), by_hand(make))
    assert len(model.estimators_) == len(LEVELS)


def test_lightgbm_equals_its_fits_by_hand():
    lightgbm = pytest.importorskip("lightgbm")

    def make(tau):
        return lightgbm.LGBMRegressor(
            objective="quantile", alpha=tau, n_estimators=5, verbose=-1, n_jobs=1
        )

    learner = lightgbm.LGBMRegressor(n_estimators=5, verbose=-1, n_jobs=1)
    model = MultiQuantileRegressor(learner, quantiles=LEVELS).fit(X, Y)
    np.testing.assert_array_equal(model.predict_quantiles(X), by_hand(make))


def test_xgboost_is_fitted_once():
    xgboost = pytest.importorskip("xgboost")
    learner = xgboost.XGBRegressor(n_estimators=5, n_jobs=1)
    model = MultiQuantileRegressor(learner, quantiles=LEVELS).fit(X, Y)
    native = xgboost.XGBRegressor(
        n_estimators=5, n_jobs=1, objective="reg:quantileerror", quantile_alpha=LEVELS
    ).fit(X, Y)
    assert len(model.estimators_) == 1
    np.testing.assert_allclose(
        model.predict_quantiles(X), native.predict(X), rtol=1e-12
    )
    np.testing.assert_array_equal(model.predict(X), model.predict_quantiles(X)[:, 1])


def test_xgboost_by_level_when_the_parameter_is_named():
    xgboost = pytest.importorskip("xgboost")
    learner = xgboost.XGBRegressor(
        n_estimators=5, n_jobs=1, objective="reg:quantileerror", quantile_alpha=0.5
    )
    model = MultiQuantileRegressor(
        learner, quantiles=LEVELS, quantile_param="quantile_alpha"
    ).fit(X, Y)
    assert len(model.estimators_) == len(LEVELS)
    assert model.predict_quantiles(X).shape == (120, 3)


def test_quantile_forest_is_fitted_once_and_gives_any_level():
    forest = pytest.importorskip("quantile_forest")
    learner = forest.RandomForestQuantileRegressor(n_estimators=10, random_state=0)
    model = MultiQuantileRegressor(learner, quantiles=LEVELS).fit(X, Y)
    native = clone(learner).fit(X, Y)
    assert len(model.estimators_) == 1
    np.testing.assert_array_equal(
        model.predict_quantiles(X), native.predict(X, quantiles=list(LEVELS))
    )
    np.testing.assert_array_equal(
        model.predict_quantiles(X, [0.33])[:, 0], native.predict(X, quantiles=[0.33])
    )


def test_own_quantile_regressors_get_the_levels():
    model = MultiQuantileRegressor(ColumnQuantiles(), quantiles=(0.2, 0.6)).fit(X, Y)
    expected = ColumnQuantiles(quantiles=(0.2, 0.6)).fit(X, Y).predict_quantiles(X)
    np.testing.assert_array_equal(model.predict_quantiles(X), expected)


def test_nested_parameter_by_name():
    learner = TransformedTargetRegressor(
        QuantileRegressor(alpha=0), func=np.arcsinh, inverse_func=np.sinh
    )
    model = MultiQuantileRegressor(
        learner, quantiles=LEVELS, quantile_param="regressor__quantile"
    ).fit(X, Y)
    assert model.estimators_[2].regressor_.quantile == 0.9


@pytest.mark.parametrize(
    ("learner", "name"),
    [
        (HistGradientBoostingRegressor(max_iter=5), "quantile"),
        (DummyRegressor(), "quantile"),
        (DummyRegressor(), "auto"),
        (
            make_pipeline(StandardScaler(), GradientBoostingRegressor(n_estimators=5)),
            "gradientboostingregressor__alpha",
        ),
        (
            TransformedTargetRegressor(HistGradientBoostingRegressor(max_iter=5)),
            "regressor__quantile",
        ),
    ],
)
def test_a_named_parameter_sets_the_loss_too(learner, name):
    # Otherwise every level would be fitted to the same mean.
    model = MultiQuantileRegressor(learner, quantiles=LEVELS, quantile_param=name)
    share = (Y[:, None] <= model.fit(X, Y).predict_quantiles(X)).mean(axis=0)
    np.testing.assert_allclose(share, LEVELS, atol=0.1)


def test_a_search_over_a_learner_is_a_learner():
    search = GridSearchCV(QuantileRegressor(), {"alpha": [0.0]}, cv=2)
    model = MultiQuantileRegressor(search, quantiles=LEVELS).fit(X, Y)
    np.testing.assert_array_equal(
        model.predict_quantiles(X), linear().fit(X, Y).predict_quantiles(X)
    )


def test_float32_levels_are_their_decimals():
    levels = np.array(LEVELS, dtype=np.float32)
    np.testing.assert_array_equal(linear(quantiles=levels).fit(X, Y).quantiles_, LEVELS)


@pytest.mark.parametrize("kind", ["datetime64[s]", "timedelta64[s]"])
def test_dates_are_no_targets(kind):
    y = np.arange(120).astype(kind)
    with pytest.raises(ValueError, match="y holds dates or durations"):
        linear().fit(X, y)


def test_default_levels():
    levels = MultiQuantileRegressor(QuantileRegressor()).quantiles
    assert levels == tuple(k / 20 for k in range(1, 20))


def test_sample_weight_equals_repetition():
    weight = np.random.default_rng(0).integers(0, 4, size=Y.size)
    linear_model = make_pipeline(
        StandardScaler(with_mean=False), QuantileRegressor(alpha=0)
    )
    weighted = MultiQuantileRegressor(linear_model, quantiles=LEVELS).fit(
        X, Y, sample_weight=weight
    )
    scaled = np.repeat(X, weight, axis=0)
    step = StandardScaler(with_mean=False).fit(X)
    repeated = linear().fit(step.transform(scaled), np.repeat(Y, weight))
    np.testing.assert_allclose(
        weighted.predict_quantiles(X),
        repeated.predict_quantiles(step.transform(X)),
        atol=1e-8,
    )


def test_sample_weight_is_refused_where_it_cannot_be_used():
    class NoWeights(QuantileRegressor):
        def fit(self, X, y):
            return super().fit(X, y)

    message = "sample_weight was given, but NoWeights.fit does not take it."
    with pytest.raises(ValueError, match=re.escape(message)):
        MultiQuantileRegressor(NoWeights(alpha=0), quantiles=LEVELS).fit(
            X, Y, sample_weight=np.ones(Y.size)
        )


def test_median_is_interpolated_between_its_neighbors():
    model = linear(quantiles=(0.1, 0.4, 0.8)).fit(X, Y)
    low, high = model.predict_quantiles(X, [0.4, 0.8]).T
    np.testing.assert_allclose(model.predict(X), low + 0.25 * (high - low), atol=1e-12)


@pytest.mark.parametrize("levels", [(0.1, 0.2), (0.7, 0.9)])
def test_median_needs_levels_on_both_sides(levels):
    model = linear(quantiles=levels).fit(X, Y)
    with pytest.raises(ValueError, match=re.escape("do not bracket the level 0.5")):
        model.predict(X)


def test_subset_of_the_levels():
    model = linear().fit(X, Y)
    np.testing.assert_array_equal(
        model.predict_quantiles(X, [0.1, 0.9]), model.predict_quantiles(X)[:, [0, 2]]
    )
    message = "The model has no quantile level 0.3. It has [0.1, 0.5, 0.9]"
    with pytest.raises(ValueError, match=re.escape(message)):
        model.predict_quantiles(X, [0.3])


@pytest.mark.parametrize(
    "levels", [(), (0.0, 0.5), (0.5, 1.0), (0.5, 0.5), (0.9, 0.1), (np.nan,), "median"]
)
def test_bad_levels(levels):
    with pytest.raises(ValueError, match="quantiles must"):
        linear(quantiles=levels).fit(X, Y)


def test_a_learner_without_quantiles_is_refused():
    message = "Ridge cannot give quantiles. Wrap a learner that has a quantile loss"
    with pytest.raises(ValueError, match=re.escape(message)):
        MultiQuantileRegressor(Ridge()).fit(X, Y)


def test_an_unknown_parameter_is_refused():
    message = "quantile_param='tau' is not a parameter of Ridge."
    with pytest.raises(ValueError, match=re.escape(message)):
        MultiQuantileRegressor(Ridge(), quantile_param="tau").fit(X, Y)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_target(bad):
    y = Y.copy()
    y[3] = bad
    with pytest.raises(ValueError, match="Input y contains"):
        linear().fit(X, y)


def test_empty_and_mismatched_rows():
    with pytest.raises(ValueError, match=re.escape("Found array with 0 sample(s)")):
        linear().fit(X[:0], Y[:0])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        linear().fit(X, Y[:-1])


def test_nothing_that_was_passed_changes():
    learner, features, target = QuantileRegressor(alpha=0), X.copy(), Y.copy()
    features.flags.writeable = target.flags.writeable = False
    linear_model = MultiQuantileRegressor(learner, quantiles=LEVELS).fit(
        features, target
    )
    linear_model.predict_quantiles(features)
    assert learner.quantile == 0.5
    assert not hasattr(learner, "coef_")


def test_a_fitted_learner_is_cloned_with_a_warning():
    learner = QuantileRegressor(alpha=0).fit(X, Y)
    coefficients = learner.coef_.copy()
    with pytest.warns(AlreadyFittedWarning, match="clones QuantileRegressor"):
        MultiQuantileRegressor(learner, quantiles=LEVELS).fit(X, -Y)
    np.testing.assert_array_equal(learner.coef_, coefficients)


def test_a_frozen_quantile_regressor_is_used_as_it_stands():
    inner = linear().fit(X, Y)
    model = MultiQuantileRegressor(FrozenEstimator(inner), quantiles=(0.1, 0.9))
    model.fit(X, -Y)
    np.testing.assert_array_equal(
        model.predict_quantiles(X), inner.predict_quantiles(X)[:, [0, 2]]
    )


def test_missing_values_and_strings_pass_through(df_module):
    features = X.copy()
    features[::7, 0] = np.nan
    boosting = HistGradientBoostingRegressor(max_iter=5)
    model = MultiQuantileRegressor(boosting, quantiles=LEVELS).fit(features, Y)
    assert np.isfinite(model.predict_quantiles(features)).all()

    frame = df_module.make_dataframe(
        {"kind": [["a", "b"][i % 2] for i in range(120)], "size": X[:, 0]}
    )
    columns = make_column_transformer(
        (OneHotEncoder(sparse_output=False), ["kind"]), (StandardScaler(), ["size"])
    )
    model = MultiQuantileRegressor(make_pipeline(columns, boosting), quantiles=LEVELS)
    model.fit(frame, df_module.make_series(Y))
    assert model.predict_quantiles(frame).shape == (120, 3)
    assert list(model.feature_names_in_) == ["kind", "size"]


def test_the_model_refuses_what_it_cannot_take():
    features = X.copy()
    features[0, 0] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        linear().fit(features, Y)


def test_parallel_fits_give_the_same():
    serial, parallel = linear(), linear(n_jobs=2)
    np.testing.assert_array_equal(
        serial.fit(X, Y).predict_quantiles(X), parallel.fit(X, Y).predict_quantiles(X)
    )


def test_a_learner_that_predicts_nan_is_named():
    class Broken(RegressorMixin, BaseEstimator):
        def __init__(self, quantile=0.5):
            self.quantile = quantile

        def fit(self, X, y):
            self.fitted_ = True
            return self

        def predict(self, X):
            return np.full(len(X), np.nan)

    model = MultiQuantileRegressor(Broken(), quantiles=LEVELS).fit(X, Y)
    with pytest.raises(ValueError, match=re.escape("Broken predicted NaN")):
        model.predict_quantiles(X)
