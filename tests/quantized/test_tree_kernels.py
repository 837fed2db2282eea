"""Compiled trees predict what the library predicts, bit for bit, on any rows."""

import math
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from tests.quantized._trees import (
    assert_same_bits,
    awkward_inputs,
    cancer,
    digits,
    friedman,
    lightgbm_model,
    threshold_rows,
    with_nan,
    xgboost_model,
)
from tests.quantized.test_trees_inputs import category_frame
from uqlib.quantized import QuantizedRegressor, _tree_kernels
from uqlib.quantized import _tree_links as links
from uqlib.quantized import _tree_reference as reference
from uqlib.quantized._tree_extraction import extract_trees
from uqlib.quantized._tree_kernels import compiled_trees, operation
from uqlib.quantized._tree_leaves import quantize_leaves
from uqlib.quantized._tree_part import TreeModel
from uqlib_kernels import registry, trees

METHODS = ("predict", "predict_proba", "decision_function")
X, y = friedman()
MISSING = with_nan(X)
CANCER, DIGITS = cancer(), digits()


def hist_on_categories():
    rng = np.random.default_rng(0)
    codes = rng.choice([0.0, 2.5, 7.0, 200.0, np.nan], len(X))
    rows = np.c_[codes, MISSING]
    target = y + 5.0 * (codes == 2.5)
    model = HistGradientBoostingRegressor(
        max_iter=8, categorical_features=[0], min_samples_leaf=3
    )
    return model.fit(rows, target), rows


def fitted(model, rows, target):
    return model.fit(rows, target), rows


def hist(kind, rows, target, **parameters):
    return fitted(kind(**{"max_iter": 8, **parameters}), rows, target)


MODELS = {
    "hist": lambda: hist(HistGradientBoostingRegressor, X, y),
    "hist missing": lambda: hist(HistGradientBoostingRegressor, MISSING, y),
    "hist binary": lambda: hist(HistGradientBoostingClassifier, *CANCER),
    "hist classes": lambda: hist(HistGradientBoostingClassifier, *DIGITS, max_iter=3),
    "hist categories": hist_on_categories,
    "hist wide": lambda: hist(
        HistGradientBoostingRegressor, X, y, max_leaf_nodes=60, min_samples_leaf=2
    ),
    "boosting": lambda: fitted(GradientBoostingRegressor(n_estimators=8), X, y),
    "boosting binary": lambda: fitted(
        GradientBoostingClassifier(n_estimators=5), *CANCER
    ),
    "boosting classes": lambda: fitted(
        GradientBoostingClassifier(n_estimators=2), *DIGITS
    ),
    "forest": lambda: fitted(RandomForestRegressor(5, random_state=0), X, y),
    "forest missing": lambda: fitted(
        RandomForestRegressor(5, max_depth=6, random_state=0), MISSING, y
    ),
    "forest targets": lambda: fitted(
        RandomForestRegressor(5, random_state=0), X, np.c_[y, -y]
    ),
    "forest classes": lambda: fitted(
        RandomForestClassifier(5, random_state=0), *DIGITS
    ),
    "extra": lambda: fitted(ExtraTreesRegressor(5, random_state=0), X, y),
    "extra classes": lambda: fitted(
        ExtraTreesClassifier(5, max_depth=5, random_state=0), *CANCER
    ),
    "lightgbm": lambda: fitted(lightgbm_model("LGBMRegressor"), MISSING, y),
    "lightgbm zeros": lambda: fitted(
        lightgbm_model("LGBMRegressor", zero_as_missing=True),
        np.where(X < 0.3, 0, X),
        y,
    ),
    "lightgbm binary": lambda: fitted(lightgbm_model("LGBMClassifier"), *CANCER),
    "lightgbm classes": lambda: fitted(
        lightgbm_model("LGBMClassifier", n_estimators=3), *DIGITS
    ),
    "xgboost": lambda: fitted(xgboost_model("XGBRegressor"), MISSING, y),
    "xgboost value": lambda: fitted(
        xgboost_model("XGBRegressor", missing=0.0), np.where(X < 0.3, 0, X), y
    ),
    "xgboost binary": lambda: fitted(xgboost_model("XGBClassifier"), *CANCER),
    "xgboost classes": lambda: fitted(
        xgboost_model("XGBClassifier", n_estimators=3), *DIGITS
    ),
}
# XGBoost's exponentials differ from the nearest number by a unit in the last place.
ROUNDED = {("xgboost classes", "predict_proba"): 4 * 2.0**-23}


@pytest.fixture(scope="module", params=list(MODELS))
def named_model(request):
    return request.param, *MODELS[request.param]()


@pytest.fixture(params=registry.available_isas())
def level(request, monkeypatch):
    monkeypatch.setattr(registry, "isa", lambda: request.param)
    return request.param


def forms(rows):
    """Rows in several memory layouts."""
    yield rows
    yield np.asfortranarray(rows)
    yield rows[::-1]
    yield rows[:, ::-1].copy()[:, ::-1]
    yield np.repeat(rows, 2, axis=0)[::2]


def assert_repeats(name, model, quantized, rows):
    """The methods of the trees equal those of the model."""
    for method in METHODS:
        assert hasattr(quantized, method) == (
            hasattr(model, method) and method in quantized.methods
        )
        if not hasattr(quantized, method):
            continue
        found, expected = getattr(quantized, method)(rows), getattr(model, method)(rows)
        if (name, method) in ROUNDED:
            np.testing.assert_allclose(found, expected, rtol=ROUNDED[name, method])
        else:
            assert_same_bits(found, expected)


def odd_inputs(found, rows):
    """Rows of all kinds that a model takes; codes of categories stay as they are."""
    if found.inputs.categories:
        yield from (rows, rows[:1], rows[:5], rows.astype(np.float32))
        return
    yield from awkward_inputs(found, rows)
    yield from (rows[:5], rows[:9], rows[9:10])


@pytest.mark.parametrize("backend", ["auto", "numba"])
def test_predictions_equal_those_of_the_library(named_model, level, backend):
    name, model, rows = named_model
    found = extract_trees(model)
    quantized = TreeModel(found, backend)
    some = odd_inputs(found, rows) if backend == "numba" else [rows]
    for odd in some:
        if not ((name, "predict_proba") in ROUNDED and odd is not rows):
            assert_repeats(name, model, quantized, odd)
        assert_same_bits(quantized._raw(odd), reference.predict_raw(found, odd))


def test_layout_and_precision_of_rows(named_model, level):
    _, model, rows = named_model
    found = extract_trees(model)
    quantized = TreeModel(found)
    on = rows if found.inputs.categories else threshold_rows(found, rows)
    for dtype in (np.float32, np.float64):
        for form in forms(on.astype(dtype)):
            expected = reference.predict_raw(found, form)
            assert_same_bits(quantized._raw(form), expected)
            assert_same_bits(quantized.predict(form), quantized.predict(form.copy()))


def test_frames(named_model, level):
    name, model, rows = named_model
    if name == "hist categories":
        return  # the next test
    names = [f"x{i}" for i in range(rows.shape[1])]
    quantized = TreeModel(extract_trees(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names where the model was fitted without
        for frame in (pd.DataFrame(rows, columns=names), pl.DataFrame(rows, names)):
            found = quantized.predict(frame)
            if name.startswith("xgboost") and isinstance(frame, pl.DataFrame):
                np.testing.assert_array_equal(found, model.predict(rows))
            else:
                assert_same_bits(found, model.predict(frame))


def test_frames_with_categories(level):
    frame, target = category_frame()
    model = HistGradientBoostingRegressor(
        max_iter=12, categorical_features="from_dtype", min_samples_leaf=3
    ).fit(frame, target)
    quantized = TreeModel(extract_trees(model))
    assert_same_bits(quantized.predict(frame), model.predict(frame))
    boosted = lightgbm_model("LGBMRegressor", min_data_per_group=3).fit(frame, target)
    quantized = TreeModel(extract_trees(boosted))
    assert_same_bits(quantized.predict(frame), boosted.predict(frame))


def test_no_rows(named_model, level):
    name, model, rows = named_model
    quantized = TreeModel(extract_trees(model))
    if name.startswith("xgboost"):
        assert_same_bits(quantized.predict(rows[:0]), model.predict(rows[:0]))
        return
    with pytest.raises(ValueError, match="0 sample") as theirs:
        model.predict(rows[:0])
    with pytest.raises(ValueError, match="0 sample") as ours:
        quantized.predict(rows[:0])
    if not name.startswith("lightgbm") and name != "hist categories":
        assert str(ours.value) == str(theirs.value)


def test_rounded_leaves(named_model, level):
    _, model, rows = named_model
    rounded = quantize_leaves(extract_trees(model), 8)
    expected = reference.predict(rounded, rows)
    assert_same_bits(TreeModel(rounded).predict(rows), expected)


# ---------------------------------------------------------------------------
# Who computes


def test_backends_and_their_names(level):
    found = extract_trees(MODELS["hist"]()[0])
    assert operation(found, "reference") == "reference"
    for backend in ("auto", "numba"):
        op = operation(found, backend)
        assert op.startswith("trees: ")
        assert (op == trees.PORTABLE) == (level == "portable")
    assert compiled_trees(found, "reference") is None
    assert TreeModel(found, "reference")._compiled_trees() is None


def test_the_reference_backend_stays_away_from_compiled_code(monkeypatch):
    def refuse(name):
        raise AssertionError(name)

    found = extract_trees(MODELS["hist"]()[0])
    monkeypatch.setattr(_tree_kernels, "import_module", refuse)
    expected = reference.predict(found, X)
    assert_same_bits(TreeModel(found, "reference").predict(X), expected)
    with pytest.raises(AssertionError, match=r"uqlib_kernels\.trees"):
        TreeModel(found).predict(X)


def test_without_the_compiled_package(monkeypatch):
    def absent(name):
        raise ImportError(f"no {name}")

    found = extract_trees(MODELS["hist"]()[0])
    monkeypatch.setattr(_tree_kernels, "import_module", absent)
    assert operation(found, "auto") == "reference"
    assert_same_bits(TreeModel(found).predict(X), reference.predict(found, X))
    with pytest.raises(ImportError, match=r"no uqlib_kernels\.trees"):
        TreeModel(found, "numba").predict(X)


def test_trees_that_no_kernel_takes(monkeypatch):
    found = extract_trees(MODELS["hist"]()[0])
    monkeypatch.setattr(trees.CompiledTrees, "takes", staticmethod(lambda *_: False))
    for backend in ("auto", "numba"):
        assert operation(found, backend) == "reference"
        assert_same_bits(
            TreeModel(found, backend).predict(X), reference.predict(found, X)
        )


def test_copies_make_their_own_compiled_trees():
    model, rows = MODELS["hist binary"]()
    quantized = TreeModel(extract_trees(model), "numba")
    expected = quantized.predict_proba(rows)
    for again in (pickle.loads(pickle.dumps(quantized)), deepcopy(quantized)):
        assert not hasattr(again, "_compiled")
        assert again.backend == "numba"
        assert_same_bits(again.predict_proba(rows), expected)


def test_threads_share_one_model():
    model, rows = MODELS["lightgbm binary"]()
    quantized = TreeModel(extract_trees(model))
    parts = [rows[k : k + 1 + 30 * k] for k in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(quantized.predict_proba, parts))
    for part, proba in zip(parts, found, strict=True):
        assert_same_bits(proba, model.predict_proba(part))


def test_the_estimator_says_what_runs():
    for backend in ("auto", "reference"):
        model = QuantizedRegressor(
            HistGradientBoostingRegressor(max_iter=3), backend=backend
        ).fit(X, y)
        (part,) = model.parts_.values()
        (op,) = {row["op"] for row in part.table(backend)}
        assert (op == "reference") == (backend == "reference")
        assert_same_bits(model.predict(X), model.estimator_.predict(X))


def test_the_exponential_is_that_of_the_c_library():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=20_000), rng.uniform(-750, 709, 20_000)])
    expected = [math.exp(value) for value in values.tolist()]
    np.testing.assert_array_equal(links._exp("lightgbm", values), expected)
    ends = links._exp("lightgbm", np.array([710.0, np.inf, -np.inf, -0.0]))
    np.testing.assert_array_equal(ends, [np.inf, np.inf, 0.0, 1.0])


# ---------------------------------------------------------------------------
# Many rows


@pytest.mark.slow
def test_a_hundred_thousand_rows(named_model, level):
    name, model, rows = named_model
    found = extract_trees(model)
    quantized = TreeModel(found)
    rng = np.random.default_rng(0)
    many = rows[rng.integers(len(rows), size=100_000)]
    if not found.inputs.categories:
        many = scattered(found, many, rng)
    for dtype in (np.float64, np.float32):
        assert_repeats(name, model, quantized, many.astype(dtype))
    assert_repeats(name, model, quantized, np.asfortranarray(many))


def scattered(found, rows, rng):
    """Rows with values on thresholds and beside them, zeros, infinite and missing."""
    rows = np.array(rows, dtype=float)
    columns = found.columns
    for column in range(columns.n_columns):
        numbers = columns.numbers(column)
        if not numbers.size:
            continue
        some = np.flatnonzero(rng.random(len(rows)) < 0.3)
        on = rng.choice(numbers, some.size)
        side = rng.choice(np.array([-np.inf, np.nan, np.inf], on.dtype), some.size)
        beside = np.where(np.isnan(side), on, np.nextafter(on, side))
        rows[some, columns.feature[column]] = beside
    values = [0.0, -0.0]
    values += [np.nan] if found.inputs.allow_nan else []
    values += [np.inf, -np.inf] if found.inputs.allow_inf else []
    chosen = rng.random(rows.shape) < 0.1
    rows[chosen] = rng.choice(values, int(chosen.sum()))
    return rows if found.inputs.allow_inf else np.clip(rows, -1e30, 1e30)
