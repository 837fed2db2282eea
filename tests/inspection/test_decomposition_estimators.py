"""What UncertaintyDecompositionDisplay takes from models, and what it refuses."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.linear_model import LinearRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils import Bunch

from tests._models import Zero
from uqlib.inspection._decomposition_display import UncertaintyDecompositionDisplay
from uqlib.spa._classifier import SPAClassifier
from uqlib.spa._regressor import SPARegressor

draw = UncertaintyDecompositionDisplay.from_predictions


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def raises_exactly(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def legend_texts(display):
    legend = display.ax_.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


class Foreign(RegressorMixin, BaseEstimator):
    """Gives both kinds, in units of its own."""

    def fit(self, X, y):
        self.fitted_ = True
        return self

    def predict(self, X):
        return np.asarray(X)[:, 0]

    def predict_uncertainty(self, X):
        X = np.asarray(X)
        return {"aleatoric": X[:, 0] ** 2, "epistemic": np.abs(X[:, 1])}


class ForeignClassifier(ClassifierMixin, Foreign):
    """Predicts the sign of X[:, 0]."""

    def predict(self, X):
        return np.asarray(X)[:, 0] > 0


@pytest.fixture
def data():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(80, 2))
    return X, X[:, 0] + X[:, 1] * rng.normal(size=80)


def test_from_estimator_takes_both_kinds_and_the_errors(data, df_module):
    X, y = data
    frame = df_module.make_dataframe({"a": X[:, 0], "b": X[:, 1]})
    draw_model = UncertaintyDecompositionDisplay.from_estimator
    display = draw_model(Foreign(), frame, df_module.make_series(y))
    np.testing.assert_array_equal(display.aleatoric, X[:, 0] ** 2)
    np.testing.assert_array_equal(display.epistemic, np.abs(X[:, 1]))
    np.testing.assert_array_equal(display.errors, np.abs(y - X[:, 0]))
    assert display.unit == (None, None)
    assert display.name == "Foreign"
    label = display.colorbar_.ax.get_ylabel()
    assert label == "Absolute error, in units of the target"
    plain = draw_model(Foreign(), frame, unit="mg", name="mine")
    assert plain.errors is None
    assert plain.unit == ("mg", "mg")
    assert legend_texts(plain) == ["mine (80 rows)"]


def test_wrong_labels_of_a_classifier_are_marked(data):
    X, y = data
    display = UncertaintyDecompositionDisplay.from_estimator(
        ForeignClassifier(), X, y > 0
    )
    np.testing.assert_array_equal(display.errors, (X[:, 0] > 0) != (y > 0))
    assert legend_texts(display)[1].startswith("ForeignClassifier: wrong (")


def test_regressors_of_uqlib_tell_their_units_through_a_pipeline(data):
    X, y = data
    heads = DecisionTreeRegressor(max_depth=2)
    model = make_pipeline(
        StandardScaler(),
        SPARegressor(LinearRegression(), mar_estimator=heads, random_state=0),
    ).fit(X, y)
    groups = np.arange(80) % 2
    display = UncertaintyDecompositionDisplay.from_estimator(
        model, X, mondrian_groups=groups, scale="log"
    )
    fields = model[-1].predict_uncertainty(model[0].transform(X))
    np.testing.assert_array_equal(display.aleatoric, fields.aleatoric)
    np.testing.assert_array_equal(display.epistemic, fields.epistemic)
    np.testing.assert_array_equal(display.mondrian_groups, groups)
    assert display.ax_.get_xlabel() == "Aleatoric uncertainty (units of the target)"
    assert display.ax_.get_ylabel() == "Epistemic uncertainty (units of the target)"


def test_classifiers_of_uqlib_have_no_sum_of_both_kinds(data):
    X, y = data
    model = SPAClassifier(
        GaussianNB(), mar_estimator=DecisionTreeRegressor(max_depth=2), random_state=0
    ).fit(X, y > 0)
    draw_model = UncertaintyDecompositionDisplay.from_estimator
    display = draw_model(model, X, y > 0)
    assert display.unit == ("nats", "no unit")
    assert display.ax_.get_xlabel() == "Aleatoric uncertainty (nats)"
    with raises_exactly(
        "Bars of 'nats' and of 'no unit' cannot be stacked: there is no sum of "
        "different units. Pass kind='scatter'."
    ):
        draw_model(model, X, kind="bars")


# ---------------------------------------------------------------------------
# Bad input.


def test_models_without_both_kinds_are_refused(data):
    X, y = data
    draw_model = UncertaintyDecompositionDisplay.from_estimator
    with raises_exactly(
        "Zero has no predict_uncertainty. Wrap it in SPARegressor or SPAClassifier, or "
        "pass uncertainties as arrays where that is possible."
    ):
        draw_model(Zero().fit(X, y), X)

    class OneKind(Foreign):
        def predict_uncertainty(self, X):
            return Bunch(aleatoric=np.ones(len(X)))

    with raises_exactly(
        "uncertainty='epistemic' must be one of ['aleatoric'], of which "
        "predict_uncertainty gives one number a row."
    ):
        draw_model(OneKind(), X)
    with raises_exactly("y has 79 rows but X has 80: pass arrays over the same rows."):
        draw_model(Foreign(), X, y[1:])
    with pytest.raises(ValueError, match=r"^Both errors and mondrian_groups are given"):
        draw_model(Foreign(), X, y, mondrian_groups=np.ones(80))
    assert not plt.get_fignums()
