"""The one door: points, quantiles and intervals of models that are not ours."""

import re

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    QuantileRegressor,
    Ridge,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests._models import ColumnQuantiles, normal_rows
from uqlib import (
    ConformalClassifier,
    CrossFitQuantiles,
    IsotonicQuantiles,
    MultiQuantileRegressor,
    SortQuantiles,
    SplitConformalRegressor,
    neg_pinball_scorer,
)
from uqlib._class_predictions import predict_set
from uqlib._core.levels import level_names, levels_from_names
from uqlib._predictions import (
    gives_uncertainty,
    own_confidence_level,
    predict_interval,
    predict_point,
    predict_quantiles,
    predict_uncertainty,
    uncertainty_field,
)

X, Y = normal_rows(80, seed=0)
LEVELS = (0.05, 0.5, 0.95)


def linear(levels=LEVELS):
    return MultiQuantileRegressor(QuantileRegressor(alpha=0), quantiles=levels)


EXPECTED = linear().fit(X, Y).predict_quantiles(X)
SEARCH = GridSearchCV(
    linear(), {"estimator__alpha": [0]}, scoring=neg_pinball_scorer(LEVELS), cv=2
)
SAME_QUANTILES = {
    "own": linear(),
    "frozen": FrozenEstimator(linear().fit(X, Y)),
    "pipeline": make_pipeline("passthrough", linear()),
    "nested pipeline": make_pipeline(make_pipeline("passthrough", linear())),
    "transformer": CrossFitQuantiles(linear(), cv=2),
    "transformers": make_pipeline(CrossFitQuantiles(linear(), cv=2), SortQuantiles()),
    "search": SEARCH,
    "frozen search": FrozenEstimator(SEARCH.fit(X, Y)),
    "pipeline of a search": make_pipeline("passthrough", SEARCH),
    "steps switched off": make_pipeline(
        CrossFitQuantiles(linear(), cv=2), "passthrough", None
    ),
}


@pytest.mark.filterwarnings("ignore::uqlib.exceptions.AlreadyFittedWarning")
@pytest.mark.parametrize("name", SAME_QUANTILES)
def test_quantiles_through_every_wrapping(name):
    model = SAME_QUANTILES[name].fit(X, Y)
    values, levels = predict_quantiles(model, X)
    np.testing.assert_allclose(values, np.sort(EXPECTED), atol=1e-9)
    np.testing.assert_array_equal(levels, LEVELS)
    values, levels = predict_quantiles(model, X, (0.05, 0.95))
    np.testing.assert_allclose(values, np.sort(EXPECTED)[:, [0, 2]], atol=1e-9)
    with pytest.raises(ValueError, match=re.escape("no quantile level 0.3. It has [")):
        predict_quantiles(model, X, (0.3,))
    np.testing.assert_allclose(predict_point(model, X), EXPECTED[:, 1], atol=1e-9)
    np.testing.assert_allclose(
        predict_interval(model, X, 0.9), np.sort(EXPECTED)[:, [0, 2]], atol=1e-9
    )


def test_steps_before_the_model_transform_the_rows():
    model = make_pipeline(StandardScaler(), linear()).fit(X, Y)
    scaled = model[0].transform(X)
    np.testing.assert_array_equal(
        predict_quantiles(model, X).values, model[1].predict_quantiles(scaled)
    )


def test_a_list_of_one_level_models_is_sorted_by_level():
    models = [
        QuantileRegressor(alpha=0, quantile=tau).fit(X, Y) for tau in (0.95, 0.05, 0.5)
    ]
    values, levels = predict_quantiles(models, X)
    np.testing.assert_array_equal(levels, LEVELS)
    np.testing.assert_array_equal(values, EXPECTED)


def test_one_level_learners_give_one_column():
    for model, level in [
        (GradientBoostingRegressor(loss="quantile", alpha=0.3, n_estimators=2), 0.3),
        (HistGradientBoostingRegressor(loss="quantile", quantile=0.7, max_iter=2), 0.7),
    ]:
        values, levels = predict_quantiles(model.fit(X, Y), X)
        np.testing.assert_array_equal(values[:, 0], model.predict(X))
        np.testing.assert_array_equal(levels, [level])


def test_many_level_learners():
    xgboost = pytest.importorskip("xgboost")
    model = xgboost.XGBRegressor(
        objective="reg:quantileerror", quantile_alpha=LEVELS, n_estimators=2, n_jobs=1
    ).fit(X, Y)
    values, levels = predict_quantiles(model, X)
    np.testing.assert_array_equal(values, model.predict(X).astype(float))
    np.testing.assert_array_equal(levels, LEVELS)
    np.testing.assert_array_equal(predict_point(model, X), values[:, 1])


def test_quantile_forests_give_any_level():
    forest = pytest.importorskip("quantile_forest")
    model = forest.RandomForestQuantileRegressor(
        n_estimators=5, default_quantiles=[0.1, 0.9], random_state=0
    ).fit(X, Y)
    np.testing.assert_array_equal(predict_quantiles(model, X).quantiles, [0.1, 0.9])
    values, _ = predict_quantiles(model, X, (0.2, 0.4))
    np.testing.assert_array_equal(values, model.predict(X, quantiles=[0.2, 0.4]))
    interval = predict_interval(model, X, 0.8)
    np.testing.assert_array_equal(interval, model.predict(X, quantiles=[0.1, 0.9]))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Ridge(), "Ridge cannot give quantiles"),
        (make_pipeline(StandardScaler(), Ridge()), "Ridge cannot give quantiles"),
        (StandardScaler(), "StandardScaler cannot give quantiles"),
        (make_pipeline(StandardScaler()), "Pipeline cannot give quantiles"),
        (
            HistGradientBoostingRegressor(max_iter=2),
            "(loss='squared_error') does not estimate quantiles. Set loss='quantile'",
        ),
    ],
)
def test_models_without_quantiles(model, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        predict_quantiles(model.fit(X, Y), X)


def test_a_matrix_that_does_not_fit_its_levels():
    class Wrong(ColumnQuantiles):
        def predict_quantiles(self, X):
            return super().predict_quantiles(X)[:, :2]

    message = "Wrong gave 2 columns for 3 quantile levels [0.05, 0.5, 0.95]."
    with pytest.raises(ValueError, match=re.escape(message)):
        predict_quantiles(Wrong().fit(X, Y), X)


def test_levels_must_be_given_to_a_model_that_has_none():
    class AnyLevel:
        def predict_quantiles(self, X, quantiles):
            return np.tile(quantiles, (len(X), 1))

    values, _ = predict_quantiles(AnyLevel(), X, LEVELS)
    np.testing.assert_array_equal(values[0], LEVELS)
    with pytest.raises(ValueError, match="quantiles is needed: AnyLevel has no levels"):
        predict_quantiles(AnyLevel(), X)


def test_as_many_predictions_as_rows():
    class OneRow(ColumnQuantiles):
        def predict_quantiles(self, X):
            return super().predict_quantiles(X)[:1]

        def predict(self, X):
            return super().predict(X)[:1]

    model = OneRow().fit(X, Y)
    for predict in (predict_quantiles, predict_point):
        with pytest.raises(ValueError, match="OneRow gave 1 predictions for 80 rows"):
            predict(model, X)


def test_points_of_any_shape():
    column = LinearRegression().fit(X, Y[:, None])
    assert predict_point(column, X).shape == (80,)


def test_intervals_of_interval_models():
    model = SplitConformalRegressor(Ridge(), random_state=0).fit(X, Y)
    search = GridSearchCV(model, {"estimator__alpha": [1.0]}, cv=2).fit(X, Y)
    for wrapped in (model, FrozenEstimator(model), search):
        inner = getattr(wrapped, "best_estimator_", model)
        np.testing.assert_array_equal(
            predict_interval(wrapped, X), inner.predict_interval(X)
        )
        np.testing.assert_array_equal(
            predict_interval(wrapped, X, 0.5), inner.predict_interval(X, 0.5)
        )
        assert own_confidence_level(wrapped) == 0.9
    with pytest.raises(ValueError, match="confidence_level is needed"):
        predict_interval(linear().fit(X, Y), X)


def test_level_names_round_trip():
    levels = np.linspace(0.05, 0.95, 19)  # 0.15000000000000002 is called q0.15
    names = level_names(levels)
    assert names[:3] == ["q0.05", "q0.1", "q0.15"]
    np.testing.assert_allclose(levels_from_names(names), levels, atol=1e-9)
    for names in (["a"], ["q2"], ["0.5"], [""], [0, 1], []):
        assert levels_from_names(names) is None
    with pytest.raises(ValueError, match="named by levels that do not increase"):
        levels_from_names(["q0.5", "q0.1"])
    near_one = level_names(np.array([0.5, 1 - 1e-12]))
    assert levels_from_names(near_one)[1] == 1 - 1e-12


def test_sorting_and_projection_are_steps_like_any_other():
    steps = [CrossFitQuantiles(linear(), cv=2), SortQuantiles(), IsotonicQuantiles()]
    model = make_pipeline(*steps).fit(X, Y)
    np.testing.assert_array_equal(predict_quantiles(model, X).quantiles, LEVELS)


class TwoSets(ClassifierMixin, BaseEstimator):
    """Sets of fixed rows, whatever X says."""

    def __init__(self, sets=None):
        self.sets = sets

    def fit(self, X, y):
        """Remember the classes."""
        self.classes_ = np.unique(y)
        return self

    def predict_set(self, X, confidence_level=0.5, mondrian_groups=0):
        """Return the sets given, or those below the level and the group."""
        if self.sets is not None:
            return self.sets
        columns = np.arange(self.classes_.size)
        return np.tile(columns < 2 * confidence_level + mondrian_groups, (len(X), 1))


LABELS = np.array(["c", "a", "b"])[np.digitize(Y, [-1, 1])]


def test_sets_through_every_wrapping():
    model = TwoSets().fit(X, LABELS)
    search = GridSearchCV(TwoSets(), {"sets": [None]}, cv=2, scoring=lambda *_: 0.0)
    for wrapped in (
        model,
        FrozenEstimator(model),
        search.fit(X, LABELS),
        make_pipeline(StandardScaler(), TwoSets()).fit(X, LABELS),
        make_pipeline("passthrough", search).fit(X, LABELS),
    ):
        sets, classes = predict_set(wrapped, X)
        np.testing.assert_array_equal(classes, ["a", "b", "c"])
        np.testing.assert_array_equal(sets, np.tile([True, False, False], (80, 1)))
        assert predict_set(wrapped, X, 0.9).values.sum() == 2 * 80
        assert predict_set(wrapped, X, mondrian_groups=None).values.sum() == 80
        assert predict_set(wrapped, X, 0.9, mondrian_groups=1).values.all()


def test_sets_are_of_the_rows_that_the_steps_before_give():
    model = ConformalClassifier(LogisticRegression(), random_state=0)
    pipeline = make_pipeline(StandardScaler(), model).fit(3 * X, LABELS)
    moved = pipeline[0].transform(3 * X)
    expected = pipeline[-1].predict_set(moved, 0.7)
    np.testing.assert_array_equal(predict_set(pipeline, 3 * X, 0.7).values, expected)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            np.ones((80, 2), bool),
            "TwoSets.predict_set gave a ndarray of type bool and shape (80, 2): it "
            "must give booleans of shape (80, 3), a row for each row of X and a column",
        ),
        (np.ones((79, 3), bool), "shape (79, 3): it must give booleans of shape (80,"),
        (np.ones((80, 3)), "a ndarray of type float64 and shape (80, 3): it must give"),
        ((np.ones(80), np.ones((80, 3, 1), bool)), "TwoSets.predict_set gave a tuple"),
    ],
)
def test_sets_of_another_form(sets, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        predict_set(TwoSets(sets).fit(X, LABELS), X)


def test_models_without_sets():
    model = LogisticRegression().fit(X, LABELS)
    message = "LogisticRegression has no predict_set. Wrap the classifier in Conformal"
    for wrapped in (model, FrozenEstimator(model), make_pipeline(model)):
        with pytest.raises(ValueError, match=re.escape(message)):
            predict_set(wrapped, X)
    with pytest.raises(
        TypeError, match=r"likelihood_ratio cannot be used: TwoSets\.pr"
    ):
        predict_set(TwoSets().fit(X, LABELS), X, likelihood_ratio=Y)

    class Nameless:
        def predict_set(self, X):
            return np.ones((len(X), 3), bool)

    with pytest.raises(
        ValueError, match=r"columns of its predict_set. Use a classifie"
    ):
        predict_set(Nameless(), X)


def test_uncertainties_by_name():
    class Told(LinearRegression):
        def predict_uncertainty(self, X):
            return {"far": np.abs(X[:, 0]), "near": [0] * len(X), "all": X, "one": 1.0}

    model = Told().fit(X, Y)
    pipeline = make_pipeline(StandardScaler(with_std=False), Told()).fit(X, Y)
    search = GridSearchCV(Told(), {}, cv=2).fit(X, Y)
    for wrapped in (model, FrozenEstimator(model), search):
        assert gives_uncertainty(wrapped)
        fields = predict_uncertainty(wrapped, X)
        found = uncertainty_field(fields, "far", len(X))
        np.testing.assert_array_equal(found, np.abs(X[:, 0]))
        assert uncertainty_field(fields, "near", len(X)).dtype == np.float64
        for name in ("all", "one", "none"):
            message = f"uncertainty='{name}' must be one of ['far', 'near'], of which "
            with pytest.raises(ValueError, match=f"^{re.escape(message)}predict_"):
                uncertainty_field(fields, name, len(X))
    centered = np.abs(X[:, 0] - X[:, 0].mean())
    found = uncertainty_field(predict_uncertainty(pipeline, X), "far", len(X))
    np.testing.assert_allclose(found, centered, rtol=1e-12)
    assert not gives_uncertainty(LinearRegression())
    with pytest.raises(
        ValueError, match=r"^LinearRegression has no predict_uncertainty"
    ):
        predict_uncertainty(LinearRegression().fit(X, Y), X)


def test_uncertainties_must_have_names():
    class Bare(LinearRegression):
        def predict_uncertainty(self, X):
            return np.abs(X[:, 0])

    with pytest.raises(ValueError, match=r"^Bare\.predict_uncertainty gave ndarray"):
        predict_uncertainty(Bare().fit(X, Y), X)


def test_an_uncertainty_is_never_nan():
    with pytest.raises(ValueError, match=r"^far of predict_uncertainty contains NaN"):
        uncertainty_field({"far": [np.nan, 1.0]}, "far", 2)
