"""Trees with their upper levels in vectors: equal to the reference, bit by bit."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.datasets import make_friedman1
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from tests.kernels._tree_portable_cases import (
    WIDTHS,
    arrays,
    assert_any_layout,
    assert_repeats,
    assert_same,
    ensembles,
    random_ensemble,
)
from uqlib.quantized._tree_extraction import extract_trees
from uqlib_kernels.registry import available_isas

if "vnni" not in available_isas():
    pytest.skip("the machine lacks the instructions", allow_module_level=True)

from uqlib_kernels._tree_complete import CompleteTrees
from uqlib_kernels._tree_portable_nodes import MAX_COLUMNS


def complete(ensemble):
    trees, columns = arrays(ensemble)
    assert CompleteTrees.takes(trees, columns)
    return CompleteTrees(trees, columns)


@settings(max_examples=25, deadline=None)
@given(ensembles(max_leaves=300, max_trees=12, widths=WIDTHS[:2]))
def test_repeats_the_reference(case):
    ensemble, values = case
    assert_repeats(complete(ensemble), ensemble, values, (0, 1, 8, 9, 70, 600))


def test_any_number_of_rows():
    ensemble, values = random_ensemble(0, missing=(0, 1), n_outputs=2, divisor=3)
    counts = (0, 1, 7, 8, 9, 63, 64, 65, 447, 448, 449, 511, 512, 513, 576, 577, 1000)
    assert_repeats(complete(ensemble), ensemble, values, counts)


def test_any_layout_and_any_range_of_rows():
    ensemble, values = random_ensemble(1, missing=(0, 1), categories=6, max_leaves=300)
    assert_any_layout(complete(ensemble), ensemble, values)


@pytest.mark.parametrize("compares", ["float32", "float64"])
def test_values_of_the_other_width(compares):
    other = "float64" if compares == "float32" else "float32"
    ensemble, values = random_ensemble(2, compares=compares, missing=(0, 1))
    assert_repeats(complete(ensemble), ensemble, values.astype(other), (3, 1000))


@pytest.mark.parametrize("n_thresholds", [200, 300, 6000])
@pytest.mark.parametrize("chains", [False, True])
def test_bins_of_8_and_of_16_bits(n_thresholds, chains):
    ensemble, values = random_ensemble(
        3,
        n_trees=20,
        max_leaves=700,
        n_features=2,
        n_thresholds=n_thresholds,
        missing=(0, 1),
        chains=chains,
    )
    wide = ensemble.columns.bin_dtype == np.uint16
    assert wide == (n_thresholds > 255)
    assert_repeats(complete(ensemble), ensemble, values, (1, 8, 9, 1000))


def test_single_leaves_need_no_columns():
    ensemble, values = random_ensemble(4, max_leaves=1, n_trees=9)
    assert ensemble.columns.n_columns == 0
    assert_repeats(complete(ensemble), ensemble, values)


def test_copies_predict_the_same():
    ensemble, values = random_ensemble(6, max_leaves=200)
    kernel = complete(ensemble)
    for again in (pickle.loads(pickle.dumps(kernel)), copy.deepcopy(kernel)):
        assert_repeats(again, ensemble, values, (1, 1000))


def test_too_many_columns_are_not_taken():
    trees, columns = arrays(random_ensemble(7)[0])
    wide = columns._replace(feature=np.zeros(MAX_COLUMNS + 1, dtype=np.int32))
    assert not CompleteTrees.takes(trees, wide)


@pytest.mark.parametrize(
    "model",
    [
        RandomForestRegressor(20, random_state=0),
        RandomForestRegressor(20, max_depth=12, random_state=0),
        ExtraTreesRegressor(20, random_state=0),
        RandomForestClassifier(20, random_state=0),
        ExtraTreesClassifier(20, max_depth=6, random_state=0),
    ],
    ids=["forest", "depth 12", "extra", "classifier", "extra classifier"],
)
def test_repeats_scikit_learn(model):
    X, y = make_friedman1(800, 6, noise=1.0, random_state=0)
    fitted_on = X.copy()
    if "Forest" in type(model).__name__:
        fitted_on[::9, 3] = np.nan
    if "Classifier" in type(model).__name__:
        y = np.digitize(y, np.quantile(y, [0.3, 0.6]))
    model.fit(fitted_on, y)
    X = np.concatenate([fitted_on, X + 0.01])
    ensemble = extract_trees(model)
    values = ensemble.inputs.read(X)
    kernel = complete(ensemble)
    assert_repeats(kernel, ensemble, values, (1, 6, 65, 1600))
    wanted = getattr(model, "predict_proba", model.predict)(X)
    raw = kernel.raw(values)
    assert_same(raw, wanted.reshape(raw.shape))
