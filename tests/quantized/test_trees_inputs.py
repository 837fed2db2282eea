"""What the model's own predict takes is taken, and what it raises on is raised on."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.sparse import csr_array, csr_matrix
from sklearn.cluster import KMeans
from sklearn.ensemble import (
    AdaBoostRegressor,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeRegressor

from tests.quantized._trees import (
    cancer,
    friedman,
    lightgbm_model,
    with_nan,
    xgboost_model,
)
from uqlib.quantized import _tree_reference as reference
from uqlib.quantized._tree_extraction import extract_trees
from uqlib.quantized._trees import UnsupportedTreesError

X, y = friedman(120)
NAMES = [f"x{i}" for i in range(6)]


def assert_same_predictions(model, *inputs):
    trees = extract_trees(model)
    for rows in inputs:
        np.testing.assert_array_equal(
            reference.predict(trees, rows), model.predict(rows)
        )
    return trees


def assert_both_raise(model, *inputs):
    trees = extract_trees(model)
    for rows in inputs:
        with pytest.raises(Exception) as theirs:  # noqa: PT011
            model.predict(rows)
        with pytest.raises((ValueError, TypeError)) as ours:
            reference.predict(trees, rows)
        if type(model).__module__.startswith("sklearn"):
            assert type(ours.value) is type(theirs.value)


# ---------------------------------------------------------------------------
# scikit-learn


SMALL = [
    HistGradientBoostingRegressor(max_iter=3),
    GradientBoostingRegressor(n_estimators=3),
    RandomForestRegressor(3, random_state=0),
    DecisionTreeRegressor(max_depth=3),
]


@pytest.mark.parametrize("model", SMALL, ids=lambda m: type(m).__name__)
def test_scikit_learn_checks(model):
    model.fit(X, y)
    assert_both_raise(
        model, X[:, :5], X[0], X[:0], [["a"] * 6], X[None], np.full((1, 6), 1j)
    )
    assert_same_predictions(model, X.tolist(), X.astype(object))


@pytest.mark.parametrize("model", SMALL, ids=lambda m: type(m).__name__)
def test_scikit_learn_names(model):
    frame = pd.DataFrame(X, columns=NAMES)
    model.fit(frame, y)
    assert_same_predictions(model, frame)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # older versions see no names in polars
        assert_same_predictions(model, pl.DataFrame(X, schema=NAMES))
    assert_both_raise(model, frame[NAMES[::-1]], frame.rename(columns={"x0": "z"}))
    with pytest.warns(UserWarning, match="feature names"):
        reference.predict(extract_trees(model), X)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_gradient_boosting_takes_finite_values_only(bad):
    rows = X.copy()
    rows[3, 2] = bad
    model = GradientBoostingRegressor(n_estimators=3).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the cast of 1e300
        assert_both_raise(model, rows)


def test_forests_take_no_infinity():
    rows = with_nan(X)
    rows[3, 2] = np.inf
    assert_both_raise(ExtraTreesRegressor(3).fit(X, y), rows)


@pytest.mark.parametrize(
    "parameters",
    [{"monotonic_cst": [1, 0, 0, 0, 0, 0]}, {"criterion": "absolute_error"}, {}],
)
def test_forests_fitted_without_missing_values(parameters):
    # Which of them take missing values depends on the version.
    model = RandomForestRegressor(3, random_state=0, **parameters).fit(X, y)
    try:
        model.predict(with_nan(X))
    except ValueError:
        assert_both_raise(model, with_nan(X))
    else:
        assert_same_predictions(model, with_nan(X))
    assert_same_predictions(model, X)


def test_forests_that_take_no_missing_values_raise():
    trees = extract_trees(RandomForestRegressor(3).fit(X, y))
    strict = replace(trees, inputs=replace(trees.inputs, allow_nan=False))
    with pytest.raises(ValueError, match=r"RandomForestRegressor does not accept"):
        reference.predict(strict, with_nan(X))


def test_sparse_rows():
    dense = np.where(X > 0.6, X, 0.0)
    for model in (RandomForestRegressor(3), GradientBoostingRegressor(n_estimators=3)):
        assert_same_predictions(model.fit(dense, y), csr_array(dense))
    missing = csr_array(with_nan(dense))
    assert_both_raise(RandomForestRegressor(3).fit(dense, y), missing)
    model = HistGradientBoostingRegressor(max_iter=3).fit(dense, y)
    assert_both_raise(model, csr_array(dense))


# ---------------------------------------------------------------------------
# Categories


def category_frame(n_samples=200):
    rng = np.random.default_rng(0)
    letters = rng.choice(list("abcdef"), n_samples).astype(object)
    letters[rng.random(n_samples) < 0.1] = None
    frame = pd.DataFrame(
        {
            "number": with_nan(rng.normal(size=(n_samples, 1)))[:, 0],
            "letter": pd.Categorical(letters),
            "count": rng.integers(0, 5, n_samples),
            "code": pd.Categorical(rng.integers(10, 30, n_samples)),
        }
    )
    effect = frame["letter"].astype(object).map({"a": 3.0, "c": 5.0}).fillna(0.0)
    parity = frame["code"].astype(int) % 2
    return frame, np.asarray(effect + 2 * parity + 0.1 * rng.normal(size=n_samples))


def test_hist_gradient_boosting_categories_of_a_frame():
    frame, target = category_frame()
    model = HistGradientBoostingRegressor(
        max_iter=12, categorical_features="from_dtype", min_samples_leaf=3
    ).fit(frame, target)
    new = frame.copy()
    new["letter"] = pd.Categorical(np.resize(["a", "zz", None, "c", "f"], len(new)))
    new["code"] = pd.Categorical(np.resize([10, 11, 99, -1], len(new)))
    wider = frame[frame.columns[::-1]].assign(unused=1.0)
    trees = assert_same_predictions(model, frame, new, frame[:1], wider)
    assert trees.columns.tables.size
    assert_both_raise(model, frame.drop(columns="code"))


def test_hist_gradient_boosting_categories_of_polars():
    frame, target = category_frame()
    letters = frame["letter"].astype(object).where(frame["letter"].notna(), None)
    table = pl.DataFrame(
        {"number": frame["number"].to_numpy(), "letter": list(letters)}
    )
    table = table.with_columns(pl.col("letter").cast(pl.Categorical))
    model = HistGradientBoostingRegressor(max_iter=5, categorical_features="from_dtype")
    try:
        model.fit(table, target)
    except ValueError:
        pytest.skip("this version of scikit-learn sees no categories in polars")
    unknown = table.with_columns(letter=pl.lit("zz"))
    moved = table.select("letter", "number", other="number")
    assert_same_predictions(model, table, unknown, table[::-1], moved)


def test_hist_gradient_boosting_categories_of_an_array():
    rng = np.random.default_rng(0)
    codes = rng.choice([-3.0, 0.0, 2.5, 7.0, 200.0, np.nan], (200, 2))
    rows = np.c_[codes[:, 0], with_nan(rng.normal(size=(200, 1))), codes[:, 1]]
    target = (np.nan_to_num(rows[:, 0]) == 2.5) + 2.0 * (rows[:, 2] == 7)
    model = HistGradientBoostingRegressor(
        max_iter=8, categorical_features=[0, 2], min_samples_leaf=3
    ).fit(rows, target)
    new = rows.copy()
    new[::3, 0] = np.resize([1.0, -3.0, 2.4, 1e300], len(new[::3]))
    trees = assert_same_predictions(model, rows, new, rows.astype(np.float32))
    assert trees.columns.tables.size
    infinite = rows.copy()
    infinite[0, 0] = np.inf
    assert_both_raise(model, infinite, rows[:, :2])
    number = rows.copy()
    number[0, 1] = np.inf
    assert_same_predictions(model, number)


def test_hist_gradient_boosting_categories_of_many_classes():
    frame, _ = category_frame()
    target = np.resize(["u", "v", "w"], len(frame))
    model = HistGradientBoostingClassifier(
        max_iter=4, categorical_features="from_dtype", min_samples_leaf=3
    ).fit(frame, target)
    trees = assert_same_predictions(model, frame)
    np.testing.assert_array_equal(
        reference.predict_proba(trees, frame), model.predict_proba(frame)
    )


# ---------------------------------------------------------------------------
# LightGBM and XGBoost


def test_lightgbm_frames():
    frame, target = category_frame()
    model = lightgbm_model("LGBMRegressor", min_data_per_group=3).fit(frame, target)
    new = frame.copy()
    new["letter"] = pd.Categorical(np.resize(["a", "zz", None, "c", "f"], len(new)))
    trees = assert_same_predictions(model, frame, new, frame[:1])
    assert trees.columns.tables.size
    assert_both_raise(
        model,
        frame.assign(letter=1.0),
        frame.assign(number="a"),
        frame.assign(number=frame["number"].astype(object)),
        frame[["letter", "code"]],
        frame[:0],
    )


def test_lightgbm_numbers():
    # Whole numbers in an array become singles; those in a frame become doubles.
    rng = np.random.default_rng(0)
    rows = 2**24 + rng.integers(0, 9, (150, 2))
    target = (rows % 3).sum(axis=1) + 0.0
    model = lightgbm_model("LGBMRegressor").fit(rows.astype(float), target)
    frame = pd.DataFrame(rows)
    assert_same_predictions(
        model, rows, rows.astype(float), frame, rows.tolist(), csr_matrix(rows * 1.0)
    )
    trees = extract_trees(model)
    doubles = reference.predict(trees, frame)
    assert np.any(reference.predict(trees, rows) != doubles)
    np.testing.assert_array_equal(reference.predict(trees, pl.DataFrame(rows)), doubles)
    assert_both_raise(model, rows[:, :1], rows[0], rows[:0])


def test_xgboost_frames_and_checks():
    frame = pd.DataFrame(with_nan(X), columns=NAMES)
    model = xgboost_model("XGBRegressor").fit(frame, y)
    assert_same_predictions(model, frame, frame.to_numpy(), frame[:0], X.tolist())
    objects = frame.astype({NAMES[0]: object})
    assert_both_raise(model, frame[NAMES[::-1]], objects, X[:, :5], [["a"] * 6])
    assert_both_raise(model, X.astype(str), X + 0j, np.zeros((3, 6), "M8[s]"))
    with pytest.raises(TypeError, match="sparse X is not supported"):
        reference.predict(extract_trees(model), csr_array(X))


def test_xgboost_large_numbers():
    rows = X.copy()
    rows[::2, 3] = np.resize([1e300, -1e300, np.inf, -np.inf], 60)
    assert_same_predictions(xgboost_model("XGBRegressor").fit(X, y), rows)


# ---------------------------------------------------------------------------
# What does not fit


class OwnForest(RandomForestRegressor):
    """Predicts something else."""


def test_unknown_models():
    for model in (LinearRegression(), KMeans(), AdaBoostRegressor(), OwnForest(), None):
        with pytest.raises(UnsupportedTreesError, match="is not a tree ensemble known"):
            extract_trees(model)


def test_models_that_are_not_fitted():
    for model in (
        RandomForestRegressor(),
        HistGradientBoostingRegressor(),
        lightgbm_model("LGBMRegressor"),
        xgboost_model("XGBRegressor"),
    ):
        with pytest.raises(NotFittedError):
            extract_trees(model)


def test_unsupported_scikit_learn():
    start = GradientBoostingRegressor(init=LinearRegression(), n_estimators=2)
    with pytest.raises(UnsupportedTreesError, match=r"LinearRegression.*no constant"):
        extract_trees(start.fit(X, y))
    labels = (y > y.mean()).astype(int)
    start = GradientBoostingClassifier(init=GaussianNB(), n_estimators=2)
    with pytest.raises(UnsupportedTreesError, match="no constant"):
        extract_trees(start.fit(X, labels))
    forest = RandomForestClassifier(2).fit(X, np.c_[labels, 1 - labels])
    with pytest.raises(UnsupportedTreesError, match="several outputs"):
        extract_trees(forest)


def squared_error(y_true, y_pred):
    return y_pred - y_true, np.ones_like(y_true)


def test_unsupported_lightgbm():
    linear = lightgbm_model("LGBMRegressor", linear_tree=True).fit(X, y)
    with pytest.raises(UnsupportedTreesError, match="linear models"):
        extract_trees(linear)
    rows, target = cancer()
    early = lightgbm_model("LGBMClassifier", pred_early_stop=True).fit(rows, target)
    with pytest.raises(UnsupportedTreesError, match="pred_early_stop"):
        extract_trees(early)
    own = lightgbm_model("LGBMClassifier", objective=squared_error).fit(rows, target)
    with pytest.raises(UnsupportedTreesError, match="custom objective"):
        extract_trees(own)
    regression = lightgbm_model("LGBMRegressor", objective=squared_error).fit(X, y)
    assert_same_predictions(regression, X)
    entropy = lightgbm_model("LGBMRegressor", objective="cross_entropy_lambda")
    with pytest.raises(UnsupportedTreesError, match="cross_entropy_lambda is unknown"):
        extract_trees(entropy.fit(X, np.clip(y / 30, 0, 1)))


def test_unsupported_xgboost():
    for booster, reason in (("gblinear", "has no trees"), ("dart", "version")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # XGBoost's own, about old boosters
            model = xgboost_model("XGBRegressor", booster=booster).fit(X, y)
        with pytest.raises(UnsupportedTreesError, match=reason):
            extract_trees(model)
    hinge = xgboost_model("XGBClassifier", objective="binary:hinge")
    with pytest.raises(UnsupportedTreesError, match="binary:hinge is unknown"):
        extract_trees(hinge.fit(X, (y > y.mean()).astype(int)))
    vector = xgboost_model("XGBRegressor", multi_strategy="multi_output_tree")
    with pytest.raises(UnsupportedTreesError, match="vectors"):
        extract_trees(vector.fit(X, np.c_[y, y]))
    rows = np.c_[X, np.resize(np.arange(5.0), len(X))]
    target = y + 9 * (rows[:, 6] == 3)
    categories = xgboost_model(
        "XGBRegressor", enable_categorical=True, feature_types=["q"] * 6 + ["c"]
    ).fit(rows, target)
    with pytest.raises(UnsupportedTreesError, match="categories"):
        extract_trees(categories)
    # No tree splits the categories, but only XGBoost reads such frames.
    unused = pd.DataFrame({"number": X[:, 0], "letter": pd.Categorical(["k"] * len(X))})
    model = xgboost_model("XGBRegressor", enable_categorical=True).fit(unused, y)
    with pytest.raises(UnsupportedTreesError, match="reads categories"):
        extract_trees(model)
