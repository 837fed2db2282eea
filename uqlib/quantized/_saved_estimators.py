"""Models of scikit-learn as JSON, but for their weights, and back.

A file holds the name of a class, parameters and labels. The name is looked up in a list
of classes that is written here and nowhere else; a fresh model of that class gets the
parameters and what `fit` would have set for `predict`, with zeros where weights belong
that are quantized. So what comes after the last layer (a link, labels) is computed by
scikit-learn itself.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import linear_model
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import LabelBinarizer
from sklearn.svm import LinearSVC, LinearSVR

from uqlib.quantized._adapter import LayerSpec
from uqlib.quantized._dense import ACTIVATIONS
from uqlib.quantized._saved_checks import demand, text_of

Settings = dict[str, Any]
_LINEAR = [
    "ARDRegression",
    "BayesianRidge",
    "ElasticNet",
    "ElasticNetCV",
    "GammaRegressor",
    "HuberRegressor",
    "Lars",
    "LarsCV",
    "Lasso",
    "LassoCV",
    "LassoLars",
    "LassoLarsCV",
    "LassoLarsIC",
    "LinearRegression",
    "LogisticRegression",
    "LogisticRegressionCV",
    "MultiTaskElasticNet",
    "MultiTaskElasticNetCV",
    "MultiTaskLasso",
    "MultiTaskLassoCV",
    "OrthogonalMatchingPursuit",
    "OrthogonalMatchingPursuitCV",
    "Perceptron",
    "PoissonRegressor",
    "QuantileRegressor",
    "Ridge",
    "RidgeCV",
    "RidgeClassifier",
    "RidgeClassifierCV",
    "SGDClassifier",
    "SGDRegressor",
    "TheilSenRegressor",
    "TweedieRegressor",
]
CLASSES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        MLPRegressor,
        MLPClassifier,
        LinearDiscriminantAnalysis,
        LinearSVC,
        LinearSVR,
        *(getattr(linear_model, name) for name in _LINEAR),
    )
}
# Of all parameters, those that a prediction may depend on.
_DECISIVE = ("activation", "loss", "power", "link", "solver", "multi_class")
_OUTPUTS = ("identity", "logistic", "softmax", "exp")  # of multilayer perceptrons
_LABEL_KINDS = ("binary", "multiclass", "multilabel-indicator")
_LABEL_TYPES = "biufUO"
_LONGEST_LABEL = 2**16  # bytes
_LONGEST = 64  # of a sequence that is a parameter


def stored_estimator(model: Any) -> Settings | None:
    """Return what is stored of a fitted model beside its weights.

    Parameters
    ----------
    model : estimator
        Fitted.

    Returns
    -------
    dict or None
        As JSON takes it; None if the class is not in the list (subclasses are not).
        Parameters that are no numbers, strings or short sequences of them are left out:
        predictions do not depend on them.
    """
    if CLASSES.get(type(model).__name__) is not type(model):
        return None
    settings: Settings = {"class": type(model).__name__}
    parameters = _changed_parameters(model)
    if parameters:
        settings["parameters"] = parameters
    if hasattr(model, "classes_"):
        settings["classes"] = stored_labels(model.classes_)
    if hasattr(model, "_label_binarizer"):
        settings["labels"] = model._label_binarizer.y_type_
    if hasattr(model, "feature_names_in_"):
        settings["features"] = model.feature_names_in_.tolist()
    return settings | (_mlp_weights(model) if _is_mlp(model) else _coef(model))


def estimator_from(settings: Mapping[str, Any], layers: Sequence[LayerSpec]) -> Any:
    """Return a model with the weights of some layers.

    Parameters
    ----------
    settings : mapping
        As `stored_estimator` gave them, of any origin.
    layers : sequence of LayerSpec
        All layers; zeros where weights are quantized.

    Returns
    -------
    estimator
        Predicts as the model that was stored, if it has its weights.

    Raises
    ------
    ValueError
        If the class is not in the list, or anything does not fit. Settings that are not
        there may raise LookupError and TypeError as well.
    """
    model = unfitted_from(settings)
    demand(bool(layers), f"{settings['class']} has no layers")
    if "classes" in settings:
        _set(model, "classes_", labels_from(settings["classes"]))
    if "labels" in settings:
        model._label_binarizer = _label_binarizer(model, settings)
    if "features" in settings:
        names = [text_of(name) for name in settings["features"]]
        model.feature_names_in_ = np.array(names, dtype=object)
    model.n_features_in_ = int(layers[0].weight.shape[1])
    (_set_mlp if _is_mlp(model) else _set_linear)(model, settings, layers)
    return model


def unfitted_from(settings: Mapping[str, Any]) -> Any:
    """Return a model with the class and the parameters of a stored one.

    Parameters
    ----------
    settings : mapping
        As `stored_estimator` gave them, of any origin.

    Returns
    -------
    estimator
        Not fitted.
    """
    name = settings["class"]
    if not isinstance(name, str) or name not in CLASSES:
        raise ValueError(
            f"a model of the class {name!r} is not made from a file. Pass the float "
            "model: load(path, estimator=...)."
        )
    parameters = settings.get("parameters", {})
    known = CLASSES[name]().get_params(deep=False)
    unknown = sorted(set(parameters) - set(known))
    demand(not unknown, f"this version of {name} has no parameters {unknown}")
    values = {key: _as_parameter(value) for key, value in parameters.items()}
    return CLASSES[name](**values)


def first_difference(stored: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    """Return where two models differ in what predictions depend on.

    Parameters
    ----------
    stored, given : mapping
        As `stored_estimator` gives them.

    Returns
    -------
    str or None
        For a message; None where they agree.
    """
    first, second = _decisive(stored), _decisive(given)
    for name in ("class", *sorted({*first, *second})):
        if first.get(name) != second.get(name):
            return f"{name} is {first.get(name)!r} there and {second.get(name)!r} here"
    return None


def _decisive(settings: Mapping[str, Any]) -> Settings:
    parameters = settings.get("parameters", {})
    defaults = CLASSES[settings["class"]]().get_params(deep=False)
    own = {
        name: parameters.get(name, defaults[name])
        for name in _DECISIVE
        if name in defaults
    }
    return {**own, **{k: v for k, v in settings.items() if k != "parameters"}}


# ---------------------------------------------------------------------------
# Weights.


def _is_mlp(model: Any) -> bool:
    return isinstance(model, MLPRegressor | MLPClassifier)


def _mlp_weights(model: Any) -> Settings:
    return {"dtype": str(model.coefs_[0].dtype), "output": model.out_activation_}


def _set_mlp(
    model: Any, settings: Mapping[str, Any], layers: Sequence[LayerSpec]
) -> None:
    demand(model.activation in ACTIVATIONS, f"no activation {model.activation!r}")
    demand(settings["output"] in _OUTPUTS, f"no output {settings['output']!r}")
    shapes = [layer.weight.shape for layer in layers]
    for before, after in pairwise(shapes):
        demand(before[0] == after[1], "layers of these sizes do not follow each other")
    dtype = _float_type(settings["dtype"])
    model.coefs_ = [layer.weight.astype(dtype).T for layer in layers]
    model.intercepts_ = [_bias_of(layer).astype(dtype) for layer in layers]
    model.n_layers_, model.n_outputs_ = len(layers) + 1, shapes[-1][0]
    model.out_activation_ = settings["output"]


def _coef(model: Any) -> Settings:
    coef, intercept = np.asarray(model.coef_), np.asarray(model.intercept_)
    return {
        "dtype": str(coef.dtype),
        "coef": list(coef.shape),
        "intercept": [str(intercept.dtype), *intercept.shape],
    }


def _set_linear(
    model: Any, settings: Mapping[str, Any], layers: Sequence[LayerSpec]
) -> None:
    demand(len(layers) == 1, "a linear model has one layer")
    weight, bias = layers[0].weight, _bias_of(layers[0])
    kind, *shape = settings["intercept"]
    fits = settings["coef"] in (list(weight.shape), list(weight.shape[1:]))
    demand(fits and shape in ([], [1], [len(bias)]), "coefficients do not fit")
    model.coef_ = weight.astype(_float_type(settings["dtype"])).reshape(
        settings["coef"]
    )
    size = math.prod(shape)
    intercept = bias[:size].astype(_float_type(kind))
    model.intercept_ = intercept.reshape(shape) if shape else intercept[0]
    if hasattr(model, "_get_loss"):  # what a generalized linear model has the link in
        model._base_loss = model._get_loss()


def _bias_of(layer: LayerSpec) -> NDArray[Any]:
    n_out = layer.weight.shape[0]
    return np.zeros(n_out) if layer.bias is None else np.asarray(layer.bias)


def _float_type(name: Any) -> np.dtype[Any]:
    demand(name in ("float32", "float64", "int64"), f"no type {name!r} of weights")
    return np.dtype(text_of(name))


# ---------------------------------------------------------------------------
# Parameters.


def _changed_parameters(model: Any) -> Settings:
    defaults = type(model)().get_params(deep=False)
    found = {}
    for name, value in model.get_params(deep=False).items():
        plain, is_plain = _plain(value)
        if is_plain and plain != _plain(defaults[name])[0]:
            found[name] = plain
    return found


def _plain(value: Any) -> tuple[Any, bool]:
    """Return a parameter as JSON takes it, and whether it does."""
    if isinstance(value, np.generic | np.ndarray) and np.size(value) <= _LONGEST:
        value = value.tolist()
    if value is None or isinstance(value, bool | str | int):
        return value, True
    if isinstance(value, float):
        return value, math.isfinite(value)
    if isinstance(value, list | tuple) and len(value) <= _LONGEST:
        items = [_plain(item) for item in value]
        return [item for item, _ in items], all(good for _, good in items)
    return None, False


def _as_parameter(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_as_parameter(item) for item in value)
    demand(_plain(value)[1], f"{value!r} is no parameter")
    return value


# ---------------------------------------------------------------------------
# Labels.


def stored_labels(labels: NDArray[Any]) -> Settings:
    """Return labels as JSON takes them.

    Parameters
    ----------
    labels : ndarray of shape (n_classes,)
        Numbers, strings or booleans.

    Returns
    -------
    dict
        For `labels_from`.
    """
    labels = np.asarray(labels)
    kind = "O" if labels.dtype.kind == "O" else labels.dtype.str
    values = labels.tolist()
    if not _is_label_type(labels.dtype) or not _are_labels(values):
        raise ValueError(
            f"Classes of type {labels.dtype} cannot be saved: labels must be numbers, "
            "strings or booleans. Encode them before training."
        )
    return {"type": kind, "values": values}


def labels_from(settings: Mapping[str, Any]) -> NDArray[Any]:
    """Return labels as they were.

    Parameters
    ----------
    settings : mapping
        As `stored_labels` gave them, of any origin.

    Returns
    -------
    ndarray of shape (n_classes,)
        Of the same type.
    """
    kind, values = np.dtype(text_of(settings["type"])), settings["values"]
    demand(_is_label_type(kind) and _are_labels(values), "labels are no labels")
    labels = np.empty(len(values), dtype=kind)
    labels[:] = values
    return labels


def _is_label_type(kind: np.dtype[Any]) -> bool:
    return kind.kind in _LABEL_TYPES and kind.itemsize <= _LONGEST_LABEL


def _are_labels(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, str | int) or (isinstance(value, float) and value == value)
        for value in values
    )


def _label_binarizer(model: Any, settings: Mapping[str, Any]) -> LabelBinarizer:
    demand(settings["labels"] in _LABEL_KINDS, f"no labels {settings['labels']!r}")
    low = 0 if _is_mlp(model) else -1  # what a ridge is fitted to
    binarizer = LabelBinarizer(neg_label=low)
    binarizer.classes_ = labels_from(settings["classes"])
    binarizer.y_type_, binarizer.sparse_input_ = settings["labels"], False
    return binarizer


def _set(model: Any, name: str, value: Any) -> None:
    if not isinstance(getattr(type(model), name, None), property):
        setattr(model, name, value)
