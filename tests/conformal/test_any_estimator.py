"""Any predictor can be calibrated: pipelines on frames, boosted trees, networks."""

import functools

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, QuantileRegressor, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

from uqlib import (
    BootstrapConformalRegressor,
    ConditionalConformalRegressor,
    ConformalClassifier,
    ConformalizedQuantileRegressor,
    ConformalPredictiveRegressor,
    CrossConformalClassifier,
    CrossConformalizedQuantileRegressor,
    CrossConformalRegressor,
    EnbPIRegressor,
    LocalizedConformalRegressor,
    MultiOutputConformalRegressor,
    MultiQuantileRegressor,
    NonexchangeableConformalRegressor,
    OnlineConformalRegressor,
    SplitConformalRegressor,
    VennAbersCalibrator,
    conformal_quantile,
    coverage_score,
)

N = 200
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3))
Y = X[:, 0] + 0.3 * RNG.normal(size=N)
LABELS = np.array(["low", "middle", "high"])[np.digitize(Y, [-0.5, 0.5])]
CITY = np.where(X[:, 1] > 0, "Basel", "Bern")


def constant(rows):
    """Return the one feature whose groups are all rows together."""
    return np.ones((len(rows), 1))


def first_number(rows):
    """Return where a row lies, by a column that is a number throughout."""
    column = rows[:, 0] if isinstance(rows, np.ndarray) else rows["age"]
    return np.asarray(column, dtype=np.float64)[:, None]


split = functools.partial(SplitConformalRegressor, random_state=0)
REGRESSORS = {
    "split": split,
    "signed": functools.partial(split, nonconformity="signed"),
    "normalized": functools.partial(split, nonconformity="normalized"),
    "cv+": functools.partial(CrossConformalRegressor, cv=3, random_state=0),
    "minmax": functools.partial(
        CrossConformalRegressor, cv=3, method="minmax", random_state=0
    ),
    "base": functools.partial(
        CrossConformalRegressor, cv=3, method="base", random_state=0
    ),
    "bootstrap": functools.partial(
        BootstrapConformalRegressor, n_estimators=15, random_state=0
    ),
    "predictive": functools.partial(ConformalPredictiveRegressor, random_state=0),
    "nonexchangeable": functools.partial(NonexchangeableConformalRegressor, decay=1.0),
    "conditional": functools.partial(
        ConditionalConformalRegressor, features=constant, random_state=0
    ),
    "localized": functools.partial(
        LocalizedConformalRegressor,
        features=first_number,
        bandwidth=3.0,
        random_state=0,
    ),
    "online": OnlineConformalRegressor,
    "enbpi": functools.partial(EnbPIRegressor, n_estimators=15, random_state=0),
}
EVERY_REGRESSOR = pytest.mark.parametrize("name", REGRESSORS)

CLASSIFIERS = {
    "lac": functools.partial(ConformalClassifier, random_state=0),
    "aps": functools.partial(ConformalClassifier, nonconformity="aps", random_state=0),
    "by class": functools.partial(
        ConformalClassifier, class_conditional=True, random_state=0
    ),
    "cross": functools.partial(CrossConformalClassifier, cv=3, random_state=0),
}
EVERY_CLASSIFIER = pytest.mark.parametrize("name", CLASSIFIERS)


def check_intervals(model, rows, y=Y):
    """Fit a calibrator, and see that it is one: points, intervals, coverage."""
    model.fit(rows, y)
    interval = model.predict_interval(rows)
    assert interval.shape == (N, 2)
    assert interval.dtype == np.float64
    assert np.isfinite(interval).all()
    assert model.predict(rows).shape == (N,)
    # Rows that were trained on are covered at least as often as new ones.
    assert coverage_score(y, interval) >= 0.75
    assert np.mean(interval[:, 1] - interval[:, 0]) < np.ptp(y)


def check_sets(model, rows, labels=LABELS):
    """Fit a calibrator, and see that it is one: labels, sets, coverage."""
    model.fit(rows, labels)
    inside = model.predict_set(rows)
    assert inside.shape == (N, 3)
    assert inside.dtype == bool
    assert set(model.predict(rows)) <= set(labels)
    column = np.searchsorted(model.classes_, labels)
    assert inside[np.arange(N), column].mean() >= 0.75
    assert inside.sum(axis=1).mean() < 2.5


# Pipelines on frames


@pytest.fixture
def frame(df_module):
    """Rows with strings, missing numbers and missing strings."""
    signal = np.where(np.arange(N) % 10 == 0, np.nan, X[:, 0])
    return df_module.make_dataframe(
        {"signal": signal, "city": CITY.tolist(), "age": X[:, 2]}
    )


def on_columns(learner):
    """A pipeline that takes the columns of a frame apart."""
    return make_pipeline(
        make_column_transformer(
            (OneHotEncoder(sparse_output=False), ["city"]),
            (SimpleImputer(add_indicator=True), ["signal", "age"]),
        ),
        learner,
    )


@EVERY_REGRESSOR
def test_regression_on_frames(name, frame):
    check_intervals(REGRESSORS[name](on_columns(Ridge())), frame)


@EVERY_CLASSIFIER
def test_classification_on_frames(name, frame):
    check_sets(CLASSIFIERS[name](on_columns(LogisticRegression())), frame)


@pytest.mark.parametrize(
    "calibrator",
    [
        functools.partial(ConformalizedQuantileRegressor, random_state=0),
        functools.partial(CrossConformalizedQuantileRegressor, cv=3, random_state=0),
        functools.partial(split, nonconformity="quantile"),
    ],
)
def test_quantile_regression_on_frames(calibrator, frame):
    linear = QuantileRegressor(alpha=0, solver="highs")
    quantiles = MultiQuantileRegressor(on_columns(linear), quantiles=[0.05, 0.5, 0.95])
    check_intervals(calibrator(quantiles), frame)
    inside = MultiQuantileRegressor(linear, quantiles=[0.05, 0.5, 0.95])
    check_intervals(calibrator(on_columns(inside)), frame)


@pytest.mark.parametrize("region", ["box", "ellipsoid"])
def test_several_outputs_on_frames(region, frame):
    y = np.column_stack([Y, X[:, 2]])
    model = MultiOutputConformalRegressor(
        on_columns(Ridge()), region=region, random_state=0
    ).fit(frame, y)
    assert np.isfinite(model.predict_box(frame)).all()
    assert model.contains(frame, y).mean() >= 0.75


@pytest.mark.parametrize("method", ["inductive", "cross"])
def test_probabilities_on_frames(method, frame):
    model = VennAbersCalibrator(
        on_columns(LogisticRegression()), method=method, random_state=0
    ).fit(frame, LABELS)
    assert (model.predict(frame) == LABELS).mean() > 0.7
    np.testing.assert_allclose(model.predict_proba(frame).sum(axis=1), 1.0)


def test_groups_are_a_column_of_strings_that_the_model_also_uses(frame):
    for calibrator in (SplitConformalRegressor, CrossConformalRegressor):
        model = calibrator(on_columns(Ridge()), group_by="city", random_state=0)
        check_intervals(model, frame)
        assert model.groups_.tolist() == ["Basel", "Bern"]
    classifier = on_columns(LogisticRegression())
    check_sets(ConformalClassifier(classifier, group_by="city"), frame)


# Boosted trees


@pytest.fixture(params=["lightgbm", "xgboost"])
def boosting(request):
    """The regressor, the classifier and a quantile regressor of a library."""
    library = pytest.importorskip(request.param)
    if request.param == "lightgbm":
        small = {"n_estimators": 20, "verbose": -1, "n_jobs": 1, "random_state": 0}
        small["min_child_samples"] = 5
        regressor, classifier = library.LGBMRegressor, library.LGBMClassifier
        quantile = regressor(objective="quantile", **small)
    else:
        small = {"n_estimators": 20, "max_depth": 3, "n_jobs": 1, "random_state": 0}
        regressor, classifier = library.XGBRegressor, library.XGBClassifier
        quantile = regressor(objective="reg:quantileerror", **small)
    return regressor(**small), classifier(**small), quantile


@EVERY_REGRESSOR
def test_boosted_regression(name, boosting):
    check_intervals(REGRESSORS[name](boosting[0]), X)


@EVERY_CLASSIFIER
def test_boosted_classification(name, boosting):
    # XGBoost takes labels 0, 1, 2 alone.
    labels = np.searchsorted(np.unique(LABELS), LABELS)
    check_sets(CLASSIFIERS[name](boosting[1]), X, labels)


@pytest.mark.parametrize(
    "calibrator", [ConformalizedQuantileRegressor, CrossConformalizedQuantileRegressor]
)
def test_boosted_quantile_regression(calibrator, boosting):
    base = MultiQuantileRegressor(boosting[2], quantiles=[0.05, 0.5, 0.95])
    check_intervals(calibrator(base, random_state=0), X)


def test_boosted_trees_take_missing_values_and_categories(boosting):
    pd = pytest.importorskip("pandas")
    signal = np.where(np.arange(N) % 10 == 0, np.nan, X[:, 0])
    frame = pd.DataFrame({"signal": signal, "city": pd.Categorical(CITY)})
    regressor = boosting[0]
    if "enable_categorical" in regressor.get_params():
        regressor.set_params(enable_categorical=True)
    check_intervals(CrossConformalRegressor(regressor, random_state=0), frame)
    check_intervals(split(regressor, group_by="city"), frame)


# Networks of torch, through skorch


@pytest.fixture
def networks():
    """A regressor and a classifier of torch, as users of skorch write them."""
    torch = pytest.importorskip("torch")
    skorch = pytest.importorskip("skorch")

    class Layers(torch.nn.Module):
        def __init__(self, n_outputs):
            super().__init__()
            hidden = torch.nn.Linear(X.shape[1], 8)
            last = torch.nn.Linear(8, n_outputs)
            self.layers = torch.nn.Sequential(hidden, torch.nn.ReLU(), last)

        def forward(self, rows):
            return self.layers(rows)

    class ColumnRegressor(skorch.NeuralNetRegressor):
        """Takes the one target that scikit-learn passes as the column torch wants."""

        def fit(self, X, y, **fit_params):
            column = np.asarray(y, dtype=np.float32).reshape(-1, 1)
            return super().fit(X, column, **fit_params)

    training = {
        "max_epochs": 5,
        "batch_size": 32,
        "optimizer": torch.optim.Adam,
        "optimizer__lr": 0.05,
        "train_split": None,
        "verbose": 0,
    }
    regressor = ColumnRegressor(Layers, module__n_outputs=1, **training)
    classifier = skorch.NeuralNetClassifier(
        Layers,
        module__n_outputs=3,
        criterion=torch.nn.CrossEntropyLoss,
        **training,
    )
    torch.manual_seed(0)
    return regressor, classifier


ROWS = X.astype(np.float32)


@EVERY_REGRESSOR
def test_regression_of_networks(name, networks):
    check_intervals(REGRESSORS[name](networks[0]), ROWS)


@EVERY_CLASSIFIER
def test_classification_of_networks(name, networks):
    # Torch takes labels 0, 1, 2 alone.
    labels = np.searchsorted(np.unique(LABELS), LABELS)
    check_sets(CLASSIFIERS[name](networks[1]), ROWS, labels)


def test_networks_that_were_trained_elsewhere_stay_as_they_are(networks):
    network = clone(networks[0]).fit(ROWS[:100], Y[:100])
    point = network.predict(ROWS).ravel()
    model = SplitConformalRegressor(FrozenEstimator(network)).fit(ROWS[100:], Y[100:])
    np.testing.assert_array_equal(model.predict(ROWS), point)
    scores = np.abs(Y[100:] - point[100:].astype(np.float64))
    assert model.threshold_ == conformal_quantile(scores, 0.9)


def test_networks_on_frames(networks, frame):
    # Two numbers, and whether one was missing: as many columns as the network takes.
    network = clone(networks[0])
    columns = make_column_transformer(
        (SimpleImputer(add_indicator=True), ["signal", "age"]),
    )
    cast = FunctionTransformer(to_float32)
    check_intervals(split(make_pipeline(columns, cast, network)), frame)


def to_float32(values):
    """Return what torch computes on."""
    return np.asarray(values, dtype=np.float32)
