"""The trees of scikit-learn's models."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier, DummyRegressor
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
from sklearn.tree import (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreeClassifier,
    ExtraTreeRegressor,
)

from uqlib.quantized._tree_assembly import CategorySplit, SourceTree, assemble
from uqlib.quantized._tree_bins import float32_floor
from uqlib.quantized._tree_inputs import TreeInputs
from uqlib.quantized._trees import LEFT, RIGHT, TreeEnsemble, UnsupportedTreesError

# What the libraries' link functions are called here.
_LINKS = {
    "IdentityLink": ("identity", 1.0),
    "LogLink": ("exp", 1.0),
    "LogitLink": ("logistic", 1.0),
    "HalfLogitLink": ("logistic", 2.0),
    "MultinomialLogit": ("softmax", 1.0),
}
# Fields of a node that prediction reads.
_HIST_FIELDS = (
    *("value", "feature_idx", "num_threshold", "missing_go_to_left", "left", "right"),
    *("is_leaf", "is_categorical", "bitset_idx"),
)


def extract_hist_gradient_boosting(model: Any) -> TreeEnsemble:
    """Return the trees of a HistGradientBoosting model.

    Parameters
    ----------
    model : HistGradientBoostingRegressor or HistGradientBoostingClassifier
        Fitted.

    Returns
    -------
    TreeEnsemble
        It compares float64 and adds float64.
    """
    original, categories = _hist_features(model)
    predictors = [
        (output, predictor)
        for iteration in model._predictors
        for output, predictor in enumerate(iteration)
    ]
    trees = [_hist_tree(p, output, original, categories) for output, p in predictors]
    link, link_scale = _link(model)
    return assemble(
        trees,
        baseline=np.array(model._baseline_prediction, dtype=np.float64).reshape(-1),
        link=link,
        link_scale=link_scale,
        source="hist_gradient_boosting",
        inputs=TreeInputs(
            "sklearn",
            type(model).__name__,
            int(model.n_features_in_),
            feature_names=_names(model),
            categories=categories,
        ),
        classes=getattr(model, "classes_", None),
        source_nbytes=sum(_hist_nbytes(predictor) for _, predictor in predictors),
    )


def _hist_features(model: Any) -> tuple[NDArray[Any], dict[int, NDArray[Any]]]:
    """Return the feature behind each one that nodes name, and the categories.

    scikit-learn moves the features of categories to the front and encodes them.
    """
    is_category = model.is_categorical_
    if is_category is None:
        return np.arange(model.n_features_in_), {}
    moved = np.flatnonzero(is_category)
    original = np.concatenate([moved, np.flatnonzero(~is_category)])
    encoder = model._preprocessor.named_transformers_["encoder"]
    known = [_without_nan(values) for values in encoder.categories_]
    return original, dict(zip(moved.tolist(), known, strict=True))


def _without_nan(categories: NDArray[Any]) -> NDArray[Any]:
    """Leave out the last category if it is NaN, which scikit-learn gives no code."""
    last = categories[-1:].tolist()
    has_nan = bool(last) and last[0] is not None and pd.isna(last[0])
    return categories[:-1] if has_nan else categories


def _hist_tree(
    predictor: Any,
    output: int,
    original: NDArray[Any],
    categories: dict[int, NDArray[Any]],
) -> SourceTree:
    nodes = predictor.nodes
    is_leaf = nodes["is_leaf"].astype(bool)
    feature = original[nodes["feature_idx"]]
    splits = {
        int(node): _hist_categories(
            predictor, nodes[node], len(categories[int(feature[node])])
        )
        for node in np.flatnonzero(nodes["is_categorical"].astype(bool) & ~is_leaf)
    }
    return SourceTree(
        left=np.where(is_leaf, -1, nodes["left"].astype(np.int64)),
        right=np.where(is_leaf, -1, nodes["right"].astype(np.int64)),
        feature=feature,
        threshold=nodes["num_threshold"],
        missing=np.where(nodes["missing_go_to_left"], LEFT, RIGHT),
        value=nodes["value"][:, None],
        output=output,
        categories=splits,
    )


def _hist_categories(predictor: Any, node: Any, n_categories: int) -> CategorySplit:
    words = predictor.raw_left_cat_bitsets[node["bitset_idx"]]
    goes_left = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little")
    table = 1 - goes_left[:n_categories]
    return CategorySplit(table, LEFT if node["missing_go_to_left"] else RIGHT)


def _hist_nbytes(predictor: Any) -> int:
    fields = predictor.nodes.dtype
    size = sum(fields[name].itemsize for name in _HIST_FIELDS)
    return int(size * predictor.nodes.size + predictor.raw_left_cat_bitsets.nbytes)


def extract_gradient_boosting(model: Any) -> TreeEnsemble:
    """Return the trees of a GradientBoosting model.

    Parameters
    ----------
    model : GradientBoostingRegressor or GradientBoostingClassifier
        Fitted, with a constant start.

    Returns
    -------
    TreeEnsemble
        It compares float32 and adds float64.

    Notes
    -----
    scikit-learn multiplies a leaf by the learning rate and adds in one expression.
    Where its compiler fuses the two, as on 64-bit ARM, its sums may differ in the last
    bit from these, which round the product.
    """
    stages = [
        (output, estimator.tree_)
        for iteration in model.estimators_
        for output, estimator in enumerate(iteration)
    ]
    link, link_scale = _link(model)
    rate = float(model.learning_rate)
    trees = [_tree(t, rate * t.value[:, :, 0], output, False) for output, t in stages]
    return assemble(
        trees,
        baseline=_start(model),
        link=link,
        link_scale=link_scale,
        source="gradient_boosting",
        inputs=_float32_inputs(model, allow_nan=False),
        classes=getattr(model, "classes_", None),
        source_nbytes=sum(_tree_nbytes(tree) for _, tree in stages),
    )


def _start(model: Any) -> NDArray[np.float64]:
    """Return the raw values that boosting starts with, if they are constant."""
    start = model.init_
    constant = isinstance(start, str | DummyRegressor | DummyClassifier)
    if not constant or getattr(start, "strategy", "") in ("stratified", "uniform"):
        raise UnsupportedTreesError(
            f"boosting starts with the predictions of {type(start).__name__}, "
            "which are no constant"
        )
    row = np.zeros((1, model.n_features_in_), dtype=np.float32)
    return np.array(model._raw_predict_init(row)[0], dtype=np.float64)


def extract_forest(model: Any) -> TreeEnsemble:
    """Return the trees of a forest or a single tree.

    Parameters
    ----------
    model : random forest, extra-trees, decision tree or extra-tree
        Fitted.

    Returns
    -------
    TreeEnsemble
        It compares float32, adds float64 and divides by the number of trees.
    """
    estimators = getattr(model, "estimators_", None) or [model]
    classes = getattr(model, "classes_", None)
    if model.n_outputs_ > 1 and classes is not None:
        raise UnsupportedTreesError("it predicts the classes of several outputs")
    # Depends on version and parameters; a forest asks its first tree.
    row = np.zeros((1, 1), dtype=np.float32)
    allow_nan = bool(estimators[0]._support_missing_values(row))
    trees = [
        _tree(e.tree_, e.tree_.value.reshape(e.tree_.node_count, -1), 0, allow_nan)
        for e in estimators
    ]
    return assemble(
        trees,
        baseline=np.zeros(trees[0].value.shape[1]),
        link="identity" if classes is None else "average",
        source="forest",
        inputs=_float32_inputs(model, allow_nan),
        divisor=len(trees),
        classes=classes,
        source_nbytes=sum(_tree_nbytes(e.tree_) for e in estimators),
    )


def _tree(
    tree: Any, value: NDArray[np.float64], output: int, allow_nan: bool
) -> SourceTree:
    directions = tree.__getstate__()["nodes"]["missing_go_to_left"]
    return SourceTree(
        left=tree.children_left,
        right=tree.children_right,
        feature=tree.feature,
        threshold=float32_floor(tree.threshold),
        missing=np.where(directions & allow_nan, LEFT, RIGHT),
        value=value,
        output=output,
    )


def _tree_nbytes(tree: Any) -> int:
    """Bytes of children, feature, threshold and direction of nodes, and of values."""
    nodes = tree.__getstate__()["nodes"].dtype
    fields = ("left_child", "right_child", "feature", "threshold", "missing_go_to_left")
    size = sum(nodes[name].itemsize for name in fields)
    return int(size * tree.node_count + tree.value.nbytes)


def _link(model: Any) -> tuple[str, float]:
    name = type(model._loss.link).__name__
    if name not in _LINKS:
        raise UnsupportedTreesError(f"its loss has the unknown link {name}")
    return _LINKS[name]


def _names(model: Any) -> tuple[str, ...] | None:
    names = getattr(model, "feature_names_in_", None)
    return None if names is None else tuple(str(name) for name in names)


def _float32_inputs(model: Any, allow_nan: bool) -> TreeInputs:
    return TreeInputs(
        "sklearn",
        type(model).__name__,
        int(model.n_features_in_),
        feature_names=_names(model),
        dtype="float32",
        allow_nan=allow_nan,
        allow_inf=False,
    )


SKLEARN_EXTRACTORS: dict[type, Callable[[Any], TreeEnsemble]] = {
    HistGradientBoostingRegressor: extract_hist_gradient_boosting,
    HistGradientBoostingClassifier: extract_hist_gradient_boosting,
    GradientBoostingRegressor: extract_gradient_boosting,
    GradientBoostingClassifier: extract_gradient_boosting,
    RandomForestRegressor: extract_forest,
    RandomForestClassifier: extract_forest,
    ExtraTreesRegressor: extract_forest,
    ExtraTreesClassifier: extract_forest,
    DecisionTreeRegressor: extract_forest,
    DecisionTreeClassifier: extract_forest,
    ExtraTreeRegressor: extract_forest,
    ExtraTreeClassifier: extract_forest,
}
