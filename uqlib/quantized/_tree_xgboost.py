"""The trees of XGBoost's models, read from their JSON form.

The JSON holds the shortest digits that name a float32, so nothing is lost.
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray
from uqlib.quantized._tree_assembly import SourceTree, assemble
from uqlib.quantized._tree_bins import float32_below
from uqlib.quantized._tree_inputs import TreeInputs
from uqlib.quantized._trees import LEFT, RIGHT, TreeEnsemble, UnsupportedTreesError

_LINKS = {
    "reg:squarederror": "identity",
    "reg:squaredlogerror": "identity",
    "reg:absoluteerror": "identity",
    "reg:pseudohubererror": "identity",
    "reg:quantileerror": "identity",
    "reg:logistic": "logistic",
    "binary:logistic": "logistic",
    "multi:softprob": "softmax",
    "count:poisson": "exp",
    "reg:gamma": "exp",
    "reg:tweedie": "exp",
}
_NODE_BYTES = 20  # parent, two children, feature with direction, threshold or leaf


def extract_xgboost(model: Any) -> TreeEnsemble:
    """Return the trees of a model of XGBoost.

    Parameters
    ----------
    model : XGBRegressor, XGBClassifier, XGBRFRegressor or XGBRFClassifier
        Fitted; the best iteration is used where training stopped early.

    Returns
    -------
    TreeEnsemble
        It compares float32 and adds float32.
    """
    booster = model.get_booster()
    content = json.loads(booster.save_raw("json"))
    learner = content["learner"]
    classes = _classes(model, learner)
    link = _link(learner, classes)
    forest, trees = _used_trees(learner["gradient_booster"], model)
    source = [
        _tree(tree, output)
        for tree, output in zip(trees, forest["tree_info"], strict=False)
    ]
    return assemble(
        source,
        baseline=_baseline(booster, content, forest),
        link=link,
        source="xgboost",
        inputs=_inputs(model, booster),
        classes=classes,
        source_nbytes=sum(_NODE_BYTES * len(t["split_indices"]) for t in trees),
    )


def _used_trees(booster: dict[str, Any], model: Any) -> tuple[dict[str, Any], Any]:
    """Return the forest and those of its trees that predict uses."""
    name = booster["name"]
    if name != "gbtree":
        reason = (
            "rounds its sums as its version does" if name == "dart" else "has no trees"
        )
        raise UnsupportedTreesError(f"XGBoost's booster {name} {reason}")
    forest = booster["model"]
    stop = len(forest["trees"])
    if _stops_early(model):
        stop = forest["iteration_indptr"][model.best_iteration + 1]
    return forest, forest["trees"][:stop]


def _stops_early(model: Any) -> bool:
    try:
        return model.best_iteration is not None
    except AttributeError:
        return False


def _classes(model: Any, learner: dict[str, Any]) -> NDArray[Any] | None:
    targets = int(learner["learner_model_param"].get("num_target", 1))
    if getattr(model, "n_classes_", None) is None:
        return None
    if targets > 1:
        raise UnsupportedTreesError("it predicts the classes of several outputs")
    return np.asarray(model.classes_)


def _link(learner: dict[str, Any], classes: NDArray[Any] | None) -> str:
    objective = learner["objective"]["name"]
    link = _LINKS.get(objective)
    if link is None or (classes is not None and link in ("identity", "exp")):
        raise UnsupportedTreesError(f"the link of its objective {objective} is unknown")
    return link


def _baseline(
    booster: Any, content: dict[str, Any], forest: dict[str, Any]
) -> FloatArray:
    """Return what XGBoost predicts if all leaves are 0, which overwrites them.

    That is the link of its base score in every version.
    """
    from xgboost import DMatrix

    for tree in forest["trees"]:
        for node, child in enumerate(tree["left_children"]):
            if child < 0:
                tree["split_conditions"][node] = 0.0
    empty = type(booster)()
    empty.load_model(bytearray(json.dumps(content).encode()))
    row = DMatrix(
        np.zeros((1, booster.num_features()), dtype=np.float32),
        feature_names=booster.feature_names,
        feature_types=booster.feature_types,
    )
    return np.asarray(empty.predict(row, output_margin=True)).reshape(-1)


def _inputs(model: Any, booster: Any) -> TreeInputs:
    names = booster.feature_names
    if "c" in (booster.feature_types or ()):  # even where no tree splits them
        raise UnsupportedTreesError("it reads categories as XGBoost does")
    return TreeInputs(
        "xgboost",
        type(model).__name__,
        int(booster.num_features()),
        feature_names=None if names is None else tuple(names),
        dtype="float32",
        missing=float(np.nan if model.missing is None else model.missing),
    )


def _tree(tree: dict[str, Any], output: int) -> SourceTree:
    """Turn `<` into `<=`."""
    if any(tree["split_type"]):
        raise UnsupportedTreesError("it splits categories as XGBoost does")
    if int(tree["tree_param"]["size_leaf_vector"]) > 1:
        raise UnsupportedTreesError("its leaves are vectors")
    number = np.array(tree["split_conditions"], dtype=np.float32)
    return SourceTree(
        left=np.array(tree["left_children"]),
        right=np.array(tree["right_children"]),
        feature=np.array(tree["split_indices"]),
        threshold=float32_below(number),
        missing=np.where(tree["default_left"], LEFT, RIGHT),
        value=number[:, None],
        output=output,
    )
