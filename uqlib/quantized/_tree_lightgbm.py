"""The trees of LightGBM's models, read from the text form of the model.

The text holds thresholds and leaves with 17 digits, so nothing is lost.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray
from uqlib.quantized._tree_assembly import CategorySplit, SourceTree, assemble
from uqlib.quantized._tree_inputs import LIGHTGBM_ZERO, TreeInputs
from uqlib.quantized._trees import (
    LEFT,
    RIGHT,
    ZERO,
    ZERO_LEFT,
    ZERO_RIGHT,
    TreeEnsemble,
    UnsupportedTreesError,
)

_Fields = dict[str, str]
_LINKS = {
    "regression": "identity",
    "regression_l1": "identity",
    "huber": "identity",
    "fair": "identity",
    "quantile": "identity",
    "mape": "identity",
    "lambdarank": "identity",
    "rank_xendcg": "identity",
    "poisson": "exp",
    "gamma": "exp",
    "tweedie": "exp",
    "binary": "logistic",
    "cross_entropy": "logistic",
    "multiclass": "softmax",
    "multiclassova": "logistic",
}
# Parameters that change how the model predicts.
_PREDICT_PARAMETERS = ("pred_early_stop", "start_iteration_predict")
# Bits of a node's type: it splits categories; missing values go left; and which
# values are missing.
_CATEGORY, _GO_LEFT = 1, 2
_MISSING = {0: (ZERO, ZERO), 1: (ZERO_RIGHT, ZERO_LEFT), 2: (RIGHT, LEFT)}
_NODE_BYTES = 4 + 8 + 1 + 4 + 4  # feature, threshold, type, two children


def extract_lightgbm(model: Any) -> TreeEnsemble:
    """Return the trees of a model of LightGBM.

    Parameters
    ----------
    model : LGBMRegressor, LGBMClassifier or LGBMRanker
        Fitted; the best iteration is used where training stopped early.

    Returns
    -------
    TreeEnsemble
        It compares float64 and adds float64.
    """
    booster = model.booster_
    _check_parameters(model)
    header, texts = _parse(booster.model_to_string())
    n_outputs = int(header["num_tree_per_iteration"])
    link, link_scale = _link(header, model)
    trees = [_tree(fields, i % n_outputs) for i, fields in enumerate(texts)]
    return assemble(
        trees,
        baseline=np.zeros(n_outputs),
        link=link,
        link_scale=link_scale,
        source="lightgbm",
        inputs=_inputs(model, booster, trees),
        divisor=max(1, len(trees) // n_outputs) if "average_output" in header else 1,
        classes=getattr(model, "classes_", None),
        source_nbytes=sum(_nbytes(fields) for fields in texts),
    )


def _check_parameters(model: Any) -> None:
    given = model.get_params()
    used = [name for name in _PREDICT_PARAMETERS if given.get(name)]
    if used:
        raise UnsupportedTreesError(f"its parameter {used[0]} changes what it predicts")


def _inputs(model: Any, booster: Any, trees: list[SourceTree]) -> TreeInputs:
    frame = booster.pandas_categorical
    zero_is_missing = (ZERO_LEFT, ZERO_RIGHT)
    return TreeInputs(
        "lightgbm",
        type(model).__name__,
        int(model.n_features_in_),
        frame_categories=None if frame is None else tuple(map(_array, frame)),
        zeroes_tiny=any(np.isin(tree.missing, zero_is_missing).any() for tree in trees),
    )


def _array(categories: list[Any]) -> NDArray[Any]:
    """Return a list as an array that keeps strings as they are."""
    array = np.array(categories)
    return array.astype(object) if array.dtype.kind in "US" else array


def _parse(text: str) -> tuple[_Fields, list[_Fields]]:
    """Return the fields of the header and of every tree."""
    body = text.partition("end of trees")[0]
    header, *trees = body.split("\nTree=")
    return _fields(header), [_fields(tree) for tree in trees]


def _fields(block: str) -> _Fields:
    pairs = (line.partition("=") for line in block.splitlines())
    return {name: value for name, _, value in pairs}


def _link(header: _Fields, model: Any) -> tuple[str, float]:
    objective, *options = header.get("objective", "custom").split()
    if objective == "custom":
        if hasattr(model, "classes_"):
            raise UnsupportedTreesError("a custom objective has no link")
        return "identity", 1.0
    if objective not in _LINKS:
        raise UnsupportedTreesError(f"the link of its objective {objective} is unknown")
    if "sqrt" in options:
        return "square", 1.0
    given = dict(option.split(":", 1) for option in options if ":" in option)
    return _LINKS[objective], float(given.get("sigmoid", 1.0))


def _numbers(fields: _Fields, name: str, dtype: type) -> NDArray[Any]:
    return np.array([dtype(number) for number in fields.get(name, "").split()], dtype)


def _tree(fields: _Fields, output: int) -> SourceTree:
    """Return a tree with the nodes that split first, then the leaves."""
    if fields.get("is_linear", "0") != "0":
        raise UnsupportedTreesError("its leaves are linear models")
    leaves = _numbers(fields, "leaf_value", float)
    left, right = (_numbers(fields, f"{side}_child", int) for side in ("left", "right"))
    n_splits = left.size
    feature = _numbers(fields, "split_feature", int)
    threshold = _numbers(fields, "threshold", float)
    kinds = _numbers(fields, "decision_type", int)
    is_category = kinds & _CATEGORY != 0
    ends = np.full(leaves.size, -1)
    return SourceTree(
        left=np.concatenate([np.where(left < 0, n_splits + ~left, left), ends]),
        right=np.concatenate([np.where(right < 0, n_splits + ~right, right), ends]),
        feature=feature,
        threshold=thresholds_around_zero(threshold),
        missing=_directions(kinds),
        value=np.concatenate([np.zeros(n_splits), leaves])[:, None],
        output=output,
        categories={
            int(node): _categories(fields, int(threshold[node]))
            for node in np.flatnonzero(is_category)
        },
    )


# LightGBM reads numbers x with abs(x) <= z = LIGHTGBM_ZERO as 0. Thresholds t outside
# [-z, z) do not tell such numbers from 0. Those in [-z, 0) send exactly these and the
# positive numbers to the right, which is what the largest number below -z does; those
# in [0, z) send them to the left, as z does. So the numbers themselves may stay.
def thresholds_around_zero(threshold: FloatArray) -> FloatArray:
    """Return thresholds that read tiny numbers as 0.

    Parameters
    ----------
    threshold : ndarray of shape (n_thresholds,)
        As LightGBM has them, float64.

    Returns
    -------
    ndarray of shape (n_thresholds,)
        float64.
    """
    tiny = (threshold >= -LIGHTGBM_ZERO) & (threshold < LIGHTGBM_ZERO)
    below = np.nextafter(-LIGHTGBM_ZERO, -np.inf)
    return np.where(tiny, np.where(threshold < 0, below, LIGHTGBM_ZERO), threshold)


def _directions(kinds: NDArray[Any]) -> NDArray[np.int64]:
    return np.array(
        [_MISSING[(kind >> 2) & 3][int(kind & _GO_LEFT != 0)] for kind in kinds],
        dtype=np.int64,
    )


def _categories(fields: _Fields, number: int) -> CategorySplit:
    """Return the set of categories that go left; all others go right."""
    bounds = _numbers(fields, "cat_boundaries", int)
    words = _numbers(fields, "cat_threshold", int)[bounds[number] : bounds[number + 1]]
    bits = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little")
    return CategorySplit(1 - bits, RIGHT)


def _nbytes(fields: _Fields) -> int:
    """Bytes of what LightGBM reads of a tree."""
    n_leaves = len(fields["leaf_value"].split())
    n_words = len(fields.get("cat_threshold", "").split())
    return (n_leaves - 1) * _NODE_BYTES + 8 * n_leaves + 4 * n_words
