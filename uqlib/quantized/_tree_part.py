"""Ensembles of trees as quantizable parts of a model.

Features become small integers, which loses nothing: a row goes to the same leaf of
every tree. Only the values of leaves can be rounded, and only where that is asked for.

What is counted. The parameters of a tree are its thresholds, one a split, and the
values of its leaves; which feature a split looks at and how the tree branches are
counted in the bytes but not as parameters. So bits a parameter say what a number of the
model costs with all that belongs to it. What was saved is told by the bytes that the
library's own prediction reads, `float_nbytes`: floats of 32 bits for the parameters
alone would be no model.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.metaestimators import available_if

from uqlib._typing import FloatArray
from uqlib.quantized import _tree_links as links
from uqlib.quantized import _tree_reference as reference
from uqlib.quantized._adapter import LayerSpec, SkippedLayer
from uqlib.quantized._layers import QuantizedLayer
from uqlib.quantized._scheme import QuantizationScheme
from uqlib.quantized._tree_extraction import extract_trees
from uqlib.quantized._tree_kernels import compiled_trees, operation
from uqlib.quantized._tree_leaves import quantize_leaves
from uqlib.quantized._tree_sklearn import SKLEARN_EXTRACTORS
from uqlib.quantized._tree_storage import stored_trees, trees_nbytes
from uqlib.quantized._trees import Ints, TreeEnsemble

LEAF_BITS = {"int8": 8, "int16": 16}
LEAVES = "leaves"  # its name in `skip` and `layer_bits` of a scheme
_LIBRARIES = ("lightgbm", "xgboost")
# Methods beside predict and predict_proba that a classifier has.
_DECIDES = ("hist_gradient_boosting", "gradient_boosting")
_TAKES_LOGARITHMS = ("forest", "gradient_boosting")


def is_tree_model(model: Any) -> bool:
    """Return whether a model is of a library's class of trees.

    Parameters
    ----------
    model : object
        Anything.

    Returns
    -------
    bool
        True if `extract_trees` knows the class; it may still refuse the model.
    """
    kind = type(model)
    library = kind.__module__.partition(".")[0]
    return kind in SKLEARN_EXTRACTORS or (library in _LIBRARIES and _has_predict(model))


def _has_predict(model: Any) -> bool:
    return hasattr(type(model), "predict") and hasattr(type(model), "get_params")


def leaf_format(scheme: QuantizationScheme | None) -> str | None:
    """Return the format that a scheme asks of the leaves.

    Parameters
    ----------
    scheme : QuantizationScheme or None
        None leaves all exact, as do float weights and a scheme that skips "leaves".

    Returns
    -------
    str or None
        None for exact leaves. Trees have the formats of `LEAF_BITS` alone.
    """
    if scheme is None or LEAVES in scheme.skip:
        return None
    own = dict(scheme.layer_bits)
    return scheme.at_bits(own[LEAVES]).weights if LEAVES in own else scheme.weights


class TreeAdapter:
    """The trees of a fitted model, which is never changed.

    Parameters
    ----------
    model : estimator
        Of a kind that `extract_trees` takes.

    Raises
    ------
    UnsupportedTreesError
        If its trees cannot be told exactly.
    """

    layers: tuple[LayerSpec, ...] = ()
    skipped: tuple[SkippedLayer, ...] = ()

    def __init__(self, model: Any) -> None:
        self.model = model
        self.ensemble = extract_trees(model)

    def quantize(self, scheme: QuantizationScheme | None) -> "TreePart":
        """Return the trees with exact integer thresholds and the leaves of a scheme.

        Parameters
        ----------
        scheme : QuantizationScheme or None
            Its weights are the format of the leaves: see `leaf_format`. All else speaks
            of layers and is not looked at: features always become exact integers,
            leaves always have a scale for each tree and are rounded to nearest.

        Returns
        -------
        TreePart
            The part.
        """
        wanted = leaf_format(scheme)
        bits = None if wanted is None else LEAF_BITS.get(wanted)
        skipped: tuple[SkippedLayer, ...] = ()
        if wanted is not None and bits is None:
            # A scheme for the networks beside them is no reason to spoil trees.
            reason = (
                f"weights={wanted!r} is no format for the leaves of trees, which take "
                f"{sorted(LEAF_BITS)} with a scale for each tree, or stay exact"
            )
            skipped = (SkippedLayer(LEAVES, reason, self.ensemble.leaf_value.size),)
        ensemble = quantize_leaves(self.ensemble, bits)
        return TreePart(ensemble, self.ensemble, self.model, skipped)


@dataclass(frozen=True, eq=False)
class TreePart:
    """Quantized trees.

    Parameters
    ----------
    ensemble : TreeEnsemble
        What predicts.
    exact : TreeEnsemble or None
        The same trees before their leaves were rounded; None if they are not known.
    model : estimator or None
        The float model; None for trees from a file.
    skipped : tuple of SkippedLayer
        The leaves, if a format was asked for that they cannot have.
    """

    ensemble: TreeEnsemble
    exact: TreeEnsemble | None = None
    model: Any = None
    skipped: tuple[SkippedLayer, ...] = ()

    @property
    def layers(self) -> dict[str, QuantizedLayer]:
        """Empty: trees have no layers."""
        return {}

    @property
    def nbytes(self) -> int:
        """Bytes stored."""
        return trees_nbytes(self.ensemble)

    @property
    def float_nbytes(self) -> int:
        """Bytes that the library's own prediction reads."""
        return self.ensemble.source_nbytes

    @property
    def n_parameters(self) -> int:
        """Thresholds, one a split, and values of leaves."""
        return int(self.ensemble.node_bin.size + self.ensemble.leaf_value.size)

    def quantized_model(self, backend: str) -> "TreeModel":
        """Return a model that predicts from integers."""
        return TreeModel(self.ensemble, backend)

    def dequantized(self) -> Any:
        """Return a float model with the rounded leaves.

        Returns
        -------
        estimator
            A copy of the float model if its leaves are exact. With rounded leaves a
            copy of it that holds them, for scikit-learn's regressors and boosted
            classifiers; else a `TreeModel`, since forests of classifiers normalize
            rounded probabilities, and other libraries keep their trees to themselves.
        """
        if self.model is None:
            return TreeModel(self.ensemble)
        if self.ensemble.leaf_grid is None:
            return deepcopy(self.model)
        write = _writer(self.ensemble)
        if write is None:
            return TreeModel(self.ensemble)
        model = deepcopy(self.model)
        starts = self.ensemble.leaf_start.tolist()
        write(model, [self.ensemble.leaf_value[a:b] for a, b in pairwise(starts)])
        return model

    def table(self, backend: str = "auto") -> list[dict[str, Any]]:
        """Return one row of the report for thresholds and one for leaves."""
        trees = self.ensemble
        arrays = stored_trees(trees)[1]
        own = sum(a.nbytes for name, a in arrays.items() if name.startswith("leaf"))
        grid = trees.leaf_grid
        leaves = trees.leaf_value.dtype.name if grid is None else f"int{grid.bits}"
        n_leaves, width = trees.leaf_value.shape
        bins = np.dtype(trees.columns.bin_dtype).name
        rows = [
            _row("thresholds", trees.node_bin.size, 1, bins, self.nbytes - own, 0.0),
            _row(LEAVES, n_leaves, width, leaves, own, self._leaf_error()),
        ]
        op = operation(trees, backend)
        return [{**row, "op": op} for row in rows]

    def _leaf_error(self) -> float:
        if self.exact is None:
            return 0.0 if self.ensemble.leaf_grid is None else np.nan
        value = self.exact.leaf_value.astype(np.float64)
        size = float(np.linalg.norm(value))
        error = float(np.linalg.norm(self.ensemble.leaf_value - value))
        return error / size if size else 0.0


def _row(
    name: str, n_out: int, n_in: int, weights: str, nbytes: int, error: float
) -> dict[str, Any]:
    return {
        "layer": name,
        "n_out": int(n_out),
        "n_in": n_in,
        "weights": weights,
        "activations": None,
        "rounding": "exact" if error == 0 else "rtn",
        "bits": 8 * nbytes / max(1, n_out * n_in),
        "nbytes": nbytes,
        "relative_error": error,
    }


# ---------------------------------------------------------------------------
# What predicts.


def _method_of(name: str) -> Callable[["TreeModel"], bool]:
    return lambda model: name in model.methods


class TreeModel:
    """Quantized trees with the prediction methods of their library's model.

    Parameters
    ----------
    ensemble : TreeEnsemble
        The trees.
    backend : {"auto", "numba", "reference"}, default="auto"
        Who computes: compiled code, or NumPy for "reference". The values are the same,
        bit for bit.

    Attributes
    ----------
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, if the model was fitted on a frame.
    classes_ : ndarray of shape (n_classes,)
        Of a classifier.
    """

    _compiled: Any  # made when it is first asked for, and never copied

    def __init__(self, ensemble: TreeEnsemble, backend: str = "auto") -> None:
        self.ensemble = ensemble
        self.backend = backend
        inputs = ensemble.inputs
        self.n_features_in_ = inputs.n_features
        if inputs.feature_names is not None:
            self.feature_names_in_ = np.array(inputs.feature_names, dtype=object)
        if ensemble.classes is not None:
            self.classes_ = ensemble.classes

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the prediction methods."""
        if self.ensemble.classes is None:
            return ("predict",)
        source = self.ensemble.source
        return (
            *("predict", "predict_proba"),
            *(("predict_log_proba",) if source in _TAKES_LOGARITHMS else ()),
            *(("decision_function",) if source in _DECIDES else ()),
        )

    def predict(self, X: Any) -> NDArray[Any]:
        """Return predictions or classes, of shape (n_samples,) or (n_samples, m)."""
        return reference.predictions(self.ensemble, self._raw(X))

    @available_if(_method_of("predict_proba"))
    def predict_proba(self, X: Any) -> FloatArray:
        """Return probabilities, of shape (n_samples, n_classes)."""
        return links.probabilities(self.ensemble, self._raw(X))

    @available_if(_method_of("predict_log_proba"))
    def predict_log_proba(self, X: Any) -> FloatArray:
        """Return logarithms of probabilities, of shape (n_samples, n_classes)."""
        with np.errstate(divide="ignore"):
            return np.log(links.probabilities(self.ensemble, self._raw(X)))

    @available_if(_method_of("decision_function"))
    def decision_function(self, X: Any) -> FloatArray:
        """Return raw values, of shape (n_samples,) or (n_samples, n_classes)."""
        return reference.decisions(self._raw(X))

    def _raw(self, X: Any) -> FloatArray:
        """Return the raw values, of shape (n_samples, n_outputs)."""
        compiled = self._compiled_trees()
        if compiled is None:
            return reference.predict_raw(self.ensemble, X)
        raw: FloatArray = compiled.raw(self.ensemble.inputs.read(X))
        return raw

    def _compiled_trees(self) -> Any:
        # Threads that come first at the same time make it twice, which does no harm.
        try:
            return self._compiled
        except AttributeError:
            self._compiled = compiled_trees(self.ensemble, self.backend)
            return self._compiled

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_compiled"}


# ---------------------------------------------------------------------------
# Rounded leaves in a copy of scikit-learn's model.


def _writer(ensemble: TreeEnsemble) -> Callable[[Any, list[FloatArray]], None] | None:
    averages_classes = ensemble.link == "average"
    return None if averages_classes else _WRITERS.get(ensemble.source)


def _write_hist(model: Any, leaves: list[FloatArray]) -> None:
    predictors = [p for iteration in model._predictors for p in iteration]
    for predictor, values in zip(predictors, leaves, strict=True):
        nodes = predictor.nodes.copy()
        is_leaf = nodes["is_leaf"].astype(bool)
        left = np.where(is_leaf, -1, nodes["left"].astype(np.int64))
        nodes["value"][_leaf_nodes(left, nodes["right"])] = values[:, 0]
        predictor.nodes = nodes


def _write_boosting(model: Any, leaves: list[FloatArray]) -> None:
    if model.learning_rate == 0:
        return  # every leaf counts nothing
    stages = [e.tree_ for iteration in model.estimators_ for e in iteration]
    for tree, values in zip(stages, leaves, strict=True):
        nodes = _leaf_nodes(tree.children_left, tree.children_right)
        tree.value[nodes, :, 0] = values / float(model.learning_rate)


def _write_forest(model: Any, leaves: list[FloatArray]) -> None:
    estimators = getattr(model, "estimators_", None) or [model]
    for estimator, values in zip(estimators, leaves, strict=True):
        tree = estimator.tree_
        nodes = _leaf_nodes(tree.children_left, tree.children_right)
        tree.value[nodes, :, 0] = values


_WRITERS: dict[str, Callable[[Any, list[FloatArray]], None]] = {
    "hist_gradient_boosting": _write_hist,
    "gradient_boosting": _write_boosting,
    "forest": _write_forest,
}


def _leaf_nodes(left: NDArray[Any], right: NDArray[Any]) -> Ints:
    """Return the leaves of a tree from left to right, as `TreeEnsemble` has them."""
    lefts, rights = left.tolist(), right.tolist()
    found, waiting = [], [0]
    while waiting:
        node = waiting.pop()
        if lefts[node] < 0:
            found.append(node)
        else:
            waiting += [rights[node], lefts[node]]
    return np.array(found, dtype=np.int32)
