"""What SelectiveRiskDisplay takes from models: losses, uncertainty, their ties."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.linear_model import LinearRegression, LogisticRegression, QuantileRegressor
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils import Bunch

from tests._models import ColumnQuantiles, Zero
from uqlib.conformal import SplitConformalRegressor
from uqlib.inspection._selective_risk_display import SelectiveRiskDisplay


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def raises_exactly(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def legend_texts(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


class Foreign(RegressorMixin, BaseEstimator):
    """Predicts X[:, 0], and knows an uncertainty only."""

    def fit(self, X, y):
        self.fitted_ = True
        return self

    def predict(self, X):
        return np.asarray(X)[:, 0]

    def predict_uncertainty(self, X):
        X = np.asarray(X)
        return Bunch(epistemic=X[:, 1] ** 2, other=-X[:, 1], matrix=X)


class ForeignIntervals(Foreign):
    """Gives intervals too."""

    def predict_interval(self, X):
        X = np.asarray(X)
        return X[:, :1] + np.abs(X[:, 1:2]) * [-1, 2]


class ForeignClassifier(ClassifierMixin, Foreign):
    """Predicts the sign of X[:, 0] without probabilities."""

    def predict(self, X):
        return np.asarray(X)[:, 0] > 0


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 2))
    return X, X[:, 0] + X[:, 1] * rng.normal(size=60)


def test_a_regressor_has_absolute_errors_and_widths(data):
    X, y = data
    display = SelectiveRiskDisplay.from_estimator(ForeignIntervals(), X, y)
    np.testing.assert_array_equal(display.losses, np.abs(y - X[:, 0]))
    np.testing.assert_allclose(display.uncertainty, 3 * np.abs(X[:, 1]), atol=1e-13)
    assert display.loss_name == "absolute error"
    assert display.name == "ForeignIntervals"


def test_a_regressor_without_intervals_has_its_epistemic_uncertainty(data):
    X, y = data
    display = SelectiveRiskDisplay.from_estimator(Foreign(), X, y)
    np.testing.assert_array_equal(display.uncertainty, X[:, 1] ** 2)


def test_a_field_is_found_through_pipelines_and_searches(data):
    X, y = data
    model = make_pipeline(StandardScaler(), Foreign())
    search = GridSearchCV(model, {"standardscaler__with_mean": [False]}, cv=2)
    search.fit(X, y)
    display = SelectiveRiskDisplay.from_estimator(search, X, y, uncertainty="other")
    scaled = search.best_estimator_[0].transform(X)
    np.testing.assert_array_equal(display.uncertainty, -scaled[:, 1])
    np.testing.assert_array_equal(display.losses, np.abs(y - search.predict(X)))
    assert display.name == "GridSearchCV, other"


def test_a_quantile_model_has_the_distance_of_its_outermost_levels(data):
    X, y = data
    model = ColumnQuantiles(scale=np.abs(X[:, [1]])).fit(X, y)
    display = SelectiveRiskDisplay.from_estimator(model, X, y)
    q = model.predict_quantiles(X)
    np.testing.assert_allclose(display.uncertainty, q[:, -1] - q[:, 0], atol=1e-13)


def test_intervals_that_are_all_as_wide_tie_all_rows(data):
    X, y = data
    X = 1e3 * X  # so that rounding differs from row to row
    model = SplitConformalRegressor(LinearRegression(), random_state=0).fit(X, y)
    width = np.ptp(model.predict_interval(X), axis=1)
    assert np.unique(width).size > 1
    display = SelectiveRiskDisplay.from_estimator(model, X, y)
    assert np.unique(display.uncertainty).size == 1
    np.testing.assert_allclose(display.risk_, display.risk_[-1], rtol=1e-12)


def test_a_classifier_has_wrong_labels_and_its_largest_probability(data):
    X, y = data
    labels = np.where(y > 0, "yes", "no")
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, labels)
    display = SelectiveRiskDisplay.from_estimator(model, X, labels)
    np.testing.assert_array_equal(display.losses, model.predict(X) != labels)
    order = np.argsort(1 - model.predict_proba(X).max(axis=1))
    np.testing.assert_array_equal(np.argsort(display.uncertainty), order)
    assert display.losses.sum() > 0
    assert display.loss_name == "0/1 error"


class Hesitant(ClassifierMixin, BaseEstimator):
    """Its largest probabilities differ by less than 1 minus them can tell."""

    fitted_, classes_ = True, np.arange(3)
    confidence = 0.4 + 2.0**-54 * np.arange(4)

    def predict(self, X):
        return np.zeros(len(X))

    def predict_proba(self, X):
        rest = (1 - self.confidence) / 2
        return np.column_stack([self.confidence, rest, rest])


def test_small_differences_of_probabilities_are_not_rounded_away():
    assert np.unique(1 - Hesitant.confidence).size < 4
    display = SelectiveRiskDisplay.from_estimator(
        Hesitant(), np.zeros((4, 1)), [0, 1, 0, 1]
    )
    assert np.argsort(display.uncertainty).tolist() == [3, 2, 1, 0]
    assert np.unique(display.uncertainty).size == 4


def test_a_classifier_without_probabilities_has_its_epistemic_uncertainty(data):
    X, y = data
    display = SelectiveRiskDisplay.from_estimator(ForeignClassifier(), X, y > 0)
    np.testing.assert_array_equal(display.losses, (X[:, 0] > 0) != (y > 0))
    np.testing.assert_array_equal(display.uncertainty, X[:, 1] ** 2)


def test_labels_of_another_kind_are_wrong(data):
    X, y = data
    model = LogisticRegression().fit(X, y > 0)
    display = SelectiveRiskDisplay.from_estimator(model, X, np.full(60, "x"))
    assert display.losses.tolist() == [1.0] * 60


def test_given_losses_and_uncertainties_are_taken(data, df_module):
    X, y = data
    losses, uncertainty = y**2, X[:, 0]
    display = SelectiveRiskDisplay.from_estimator(
        LinearRegression().fit(X, y),
        df_module.make_dataframe({"a": X[:, 0], "b": X[:, 1]}),
        losses=df_module.make_series(losses),
        uncertainty=df_module.make_series(uncertainty),
        sample_weight=np.ones(60),
        loss_name="squared target",
        name="mine",
        kind="sparsification",
    )
    np.testing.assert_array_equal(display.losses, losses)
    np.testing.assert_array_equal(display.uncertainty, uncertainty)
    assert display.ax_.get_ylabel().startswith("Mean squared target of the rest")
    assert legend_texts(display)[0].startswith("mine (AUSE")


def test_frames_and_foreign_objects_are_taken(data, df_module):
    X, y = data

    class Bare:  # no scikit-learn tags
        predict = Foreign.predict
        predict_interval = ForeignIntervals.predict_interval

    frame = df_module.make_dataframe({"a": X[:, 0], "b": X[:, 1]})
    display = SelectiveRiskDisplay.from_estimator(
        Bare(), frame, df_module.make_series(y)
    )
    np.testing.assert_array_equal(display.losses, np.abs(y - X[:, 0]))


# ---------------------------------------------------------------------------
# Bad input.


def test_models_without_uncertainty_are_refused_with_a_remedy(data):
    X, y = data
    for model, message in (
        (
            Zero().fit(X, y),
            "Zero gives neither intervals, nor quantiles, nor predict_uncertainty. "
            "Pass uncertainty= with one number a row, or wrap it in a calibrator, as "
            "SplitConformalRegressor, or in SPARegressor.",
        ),
        (
            QuantileRegressor(alpha=0).fit(X, y),
            "QuantileRegressor gives the one quantile level [0.5], which has no width. "
            "Pass a model of several levels, or uncertainty= with one number a row.",
        ),
        (
            LinearSVC().fit(X, y > 0),
            "LinearSVC has neither predict_proba nor predict_uncertainty. Pass "
            "uncertainty= with one number a row.",
        ),
    ):
        target = y > 0 if isinstance(model, LinearSVC) else y
        with raises_exactly(message):
            SelectiveRiskDisplay.from_estimator(model, X, target)
    assert not plt.get_fignums()


def test_bad_arguments_of_estimators_are_refused(data):
    X, y = data
    draw = SelectiveRiskDisplay.from_estimator
    with raises_exactly(
        "y is None, and so is losses. Pass the targets y, from which the losses are "
        "computed, or the losses themselves."
    ):
        draw(Foreign(), X)
    for name in ("entropy", "matrix"):
        with raises_exactly(
            f"uncertainty='{name}' must be one of ['epistemic', 'other'], of which "
            "predict_uncertainty gives one number a row."
        ):
            draw(Foreign(), X, y, uncertainty=name)
    with raises_exactly(
        "Zero has no predict_uncertainty. Wrap it in SPARegressor or SPAClassifier, or "
        "pass uncertainties as arrays where that is possible."
    ):
        draw(Zero().fit(X, y), X, y, uncertainty="epistemic")
    for model, rest in ((Foreign(), y[1:]), (ForeignClassifier(), y[1:] > 0)):
        with raises_exactly(
            "y has 59 rows but X has 60: pass arrays over the same rows."
        ):
            draw(model, X, rest)
    with raises_exactly(
        "uncertainty has 59 rows but X has 60: pass arrays over the same rows."
    ):
        draw(Foreign(), X, y, uncertainty=y[1:])
    with pytest.raises(ValueError, match=r"^y must have shape \(n_samples,\)"):
        draw(ForeignClassifier(), X, np.ones((60, 2)))
