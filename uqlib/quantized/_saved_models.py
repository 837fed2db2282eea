"""Quantized models in files, without pickle.

A file holds settings (JSON) and arrays. It is enough by itself for multilayer
perceptrons and linear models of scikit-learn and for trees of all libraries. Nothing
else is made from a file: the steps of a pipeline, torch modules and estimators of other
libraries are code, so that `load` gets them from the user and puts the quantized parts
into them.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from uqlib.quantized._composites import pipeline_slots
from uqlib.quantized._open import OpenedModel, _Assembly, open_model
from uqlib.quantized._open_torch import is_torch_module
from uqlib.quantized._report import fitted_report
from uqlib.quantized._resolve import check_device
from uqlib.quantized._saved_arrays import ArrayReader, ArrayWriter
from uqlib.quantized._saved_checks import count_of, demand, text_of
from uqlib.quantized._saved_estimators import labels_from, stored_labels
from uqlib.quantized._saved_files import DAMAGE, read_file, write_file
from uqlib.quantized._saved_layers import Settings, scheme_from, stored_scheme
from uqlib.quantized._saved_networks import (
    StoredPart,
    StoredTrees,
    part_from,
    stored_part,
)
from uqlib.quantized._scheme import QuantizationScheme

Path = str | os.PathLike[str]
_TASKS = {"regression": "QuantizedRegressor", "classification": "QuantizedClassifier"}
_SHARED = ("features", "classes")  # stored once if a part has what the whole has
# Parameters of the estimators that are stored, and what they may be.
_PARAMETERS: dict[str, tuple[type, ...]] = {
    "method": (str, type(None)),
    "last_layer_bits": (int, type(None)),
    "strict": (bool,),
    "random_state": (int, type(None)),
}


class SavedModel(NamedTuple):
    """What a quantized estimator is made of when it comes from a file.

    `estimator` and `parameters` are those of the constructor, `float_model` is None
    unless it was given, `attributes` are fitted ones.
    """

    estimator: Any
    parameters: Settings
    float_model: Any
    opened: OpenedModel
    parts: dict[str, Any]
    attributes: Settings


class _EstimatorOfFile(BaseEstimator):
    """Stands for the model that was quantized, which is not in the file."""

    def __init__(self, allow_nan: bool = False) -> None:
        self.allow_nan = allow_nan

    def fit(self, X: Any, y: Any = None) -> Any:
        """Refuse to fit."""
        raise ValueError(
            "This model comes from a file, which does not hold the estimator that was "
            "quantized. To fit anew, pass it: set_params(estimator=...)."
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.allow_nan
        return tags


def save_model(path: Path, model: Any) -> None:
    """Write a fitted quantized model to a file.

    Parameters
    ----------
    path : str or path-like
        Where to, as it is given; an existing file is replaced at once.
    model : BaseQuantizedModel
        Fitted.
    """
    if not model.parts_:
        raise ValueError(
            "Nothing of this model was quantized: there is nothing to save."
        )
    settings: Settings = {"task": model._task}
    settings |= _stored_inputs(model)
    base = model.scheme_ if isinstance(model.scheme_, QuantizationScheme) else None
    if base is not None:
        settings["scheme"] = stored_scheme(base)
    settings |= _stored_parameters(model)
    writer = ArrayWriter()
    # Of a model that comes from a file itself and does not have the float model.
    known = {} if hasattr(model, "estimator_") else model._digests
    parts = [
        stored_part(name, part, writer, base, known.get(name))
        for name, part in model.parts_.items()
    ]
    settings["parts"] = [_without_shared(part, settings) for part in parts]
    write_file(path, settings, writer.tensors())


def load_model(path: Path, task: str, estimator: Any = None) -> SavedModel:
    """Return a quantized model from a file.

    Parameters
    ----------
    path : str or path-like
        Of a file of any origin.
    task : {"regression", "classification"}
        What the model must do.
    estimator : estimator or torch module, default=None
        The float model; or a module of its architecture, or a pipeline whose last step
        is not fitted. None where the file is enough.

    Returns
    -------
    SavedModel
        What `load` of the estimators needs.

    Raises
    ------
    ValueError
        If the file is damaged or no such file, holds a model for another task, or needs
        an estimator, or one that is made like the model in it.
    """
    settings, tensors = read_file(path)
    try:
        stored = _Stored(settings, tensors)
    except DAMAGE as error:
        raise ValueError(
            f"{os.fspath(path)!r} is no quantized model that can be read: {error}"
        ) from error
    if stored.task != task:
        raise ValueError(
            f"{os.fspath(path)!r} holds a model for {stored.task}: load it with "
            f"{_TASKS[stored.task]}.load."
        )
    return stored.model(estimator, path)


def load_estimator(
    kind: Any, path: Path, estimator: Any = None, backend: str = "auto"
) -> Any:
    """Return a fitted quantized estimator from a file.

    Parameters
    ----------
    kind : type
        `QuantizedRegressor` or `QuantizedClassifier`.
    path, estimator : object
        As in `load_model`.
    backend : {"auto", "cuda", "numba", "reference"}, default="auto"
        What computes the predictions.

    Returns
    -------
    estimator
        Of that kind, fitted. It has `estimator_` where the given estimator is the one
        that was quantized.
    """
    saved = load_model(path, kind._task, estimator)
    parts = saved.opened.parts
    check_device(backend, {part.name: part.adapter for part in parts})
    model = kind(saved.estimator, **saved.parameters, backend=backend)
    report = fitted_report(saved.opened, saved.parts, model.backend)
    model._set_quantized(saved.float_model, saved.opened, saved.parts, report)
    if saved.float_model is None:
        del model.estimator_
    vars(model).update(saved.attributes)
    return model


class _Stored:
    """A file that was read."""

    def __init__(self, settings: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        self.task = settings["task"]
        demand(self.task in _TASKS, f"no task {self.task!r}")
        self.base = None
        if "scheme" in settings:
            self.base = scheme_from(settings["scheme"])
        self.parameters = _parameters_from(settings)
        self.attributes = _inputs_from(settings)
        reader = ArrayReader(tensors)
        parts = [
            part_from(_with_shared(part, settings), reader, self.base)
            for part in settings["parts"]
        ]
        reader.check_empty()
        self.parts: dict[str, StoredPart] = {part.name: part for part in parts}
        demand(0 < len(self.parts) == len(parts), "parts repeat or are not there")
        # Whatever can be made from the file is made here, where damage is an error.
        self.own = {
            part.name: part.opened() for part in self.parts.values() if part.is_complete
        }

    def model(self, estimator: Any, path: Path) -> SavedModel:
        if estimator is None:
            opened = self._alone(path)
        else:
            classes = self.attributes.get("classes_")
            opened = open_given(estimator, "", self.task, classes, self.own)
        adapters = {part.name: part.adapter for part in opened.parts}
        if set(adapters) != set(self.parts):
            raise ValueError(
                f"The file has the parts {sorted(self.parts)}, the estimator has "
                f"{sorted(adapters)}. Pass the model that was quantized, or one that "
                "is made like it."
            )
        parts = {name: part.part(adapters[name]) for name, part in self.parts.items()}
        same = estimator is not None and all(
            part.is_part_of(adapters[name]) for name, part in self.parts.items()
        )
        if estimator is None:
            estimator = _unfitted(self.parts[""])
        return SavedModel(
            estimator,
            self.parameters | {"scheme": self.base or "auto"},
            _predicting(estimator, self) if same else None,
            opened,
            parts,
            self.attributes
            | {
                "scheme_": self.base or "auto",
                "_fingerprints": None,
                "_digests": {name: part.digest for name, part in self.parts.items()},
            },
        )

    def _alone(self, path: Path) -> OpenedModel:
        if set(self.parts) == {""} == set(self.own):
            return self.own[""]
        inside = [name for name in self.parts if name]
        what = f"parts {inside}" if inside else "weights"
        raise ValueError(
            f"{os.fspath(path)!r} holds the quantized {what} of a model that "
            "cannot be made from a file. Pass the fitted model, or a torch module of "
            "the same architecture, or a pipeline whose last step alone is not fitted: "
            "load(path, estimator=...)."
        )


def open_given(
    estimator: Any,
    name: str,
    task: str,
    classes: Any,
    own: Mapping[str, OpenedModel],
) -> OpenedModel:
    """Return the parts of a model that the user has.

    Parameters
    ----------
    estimator : estimator or torch module
        Fitted, but for the last step of a pipeline.
    name : str
        Where it stands in the model around it.
    task : {"regression", "classification"}
        What it does.
    classes : ndarray of shape (n_classes,) or None
        Of a classifier.
    own : mapping of str to OpenedModel
        Parts that can be made from the file: they take the place of models that are not
        fitted.

    Returns
    -------
    OpenedModel
        With the names that `open_model` gives.
    """
    if isinstance(estimator, FrozenEstimator):
        return open_given(estimator.estimator, name, task, classes, own)
    if isinstance(estimator, Pipeline) and not _is_fitted(estimator):
        return _open_unfitted(estimator, name, task, classes, own)
    if is_torch_module(estimator):
        from uqlib.quantized._torch_saved import predictor

        return open_model(predictor(estimator, task, classes), name)
    if name in own and not _is_fitted(estimator):
        return own[name]
    return open_model(estimator, name)


def _open_unfitted(
    pipeline: Pipeline,
    name: str,
    task: str,
    classes: Any,
    own: Mapping[str, OpenedModel],
) -> OpenedModel:
    """Return the last step of a pipeline, whose other steps are fitted."""
    *_, last = pipeline_slots(pipeline)
    step = str(pipeline.steps[int(last.path[1])][0])
    name = f"{name}.{step}" if name else step
    inner = open_given(last.model, name, task, classes, own)
    changed = {last.path: (last.model, inner.assembled)}
    return OpenedModel(inner.parts, _Assembly(pipeline, changed), inner.skipped)


def _is_fitted(estimator: Any) -> bool:
    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError):
        return False
    return True


def _predicting(estimator: Any, stored: _Stored) -> Any:
    """Return the float model as one with the prediction methods of scikit-learn."""
    inner = estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
    if not is_torch_module(inner):
        return estimator
    from uqlib.quantized._torch_saved import predictor

    return predictor(inner, stored.task, stored.attributes.get("classes_"))


def _unfitted(part: StoredPart) -> Any:
    if isinstance(part, StoredTrees):
        return _EstimatorOfFile(part.trees.ensemble.inputs.allow_nan)
    return part.unfitted()


# ---------------------------------------------------------------------------
# Settings of the whole.


def _stored_inputs(model: Any) -> Settings:
    settings: Settings = {}
    if hasattr(model, "n_features_in_"):
        settings["n_features"] = int(model.n_features_in_)
    if hasattr(model, "feature_names_in_"):
        settings["features"] = model.feature_names_in_.tolist()
    if hasattr(model, "classes_"):
        settings["classes"] = stored_labels(model.classes_)
    return settings


def _inputs_from(settings: Mapping[str, Any]) -> Settings:
    attributes: Settings = {}
    if "n_features" in settings:
        attributes["n_features_in_"] = count_of(settings["n_features"])
    if "features" in settings:
        names = [text_of(name) for name in settings["features"]]
        attributes["feature_names_in_"] = np.array(names, dtype=object)
    if "classes" in settings:
        attributes["classes_"] = labels_from(settings["classes"])
    return attributes


def _stored_parameters(model: Any) -> Settings:
    defaults = type(model)(None).get_params(deep=False)
    found = {
        name: getattr(model, name)
        for name, kinds in _PARAMETERS.items()
        if type(getattr(model, name)) in kinds
        and getattr(model, name) != defaults[name]
    }
    return {"parameters": found} if found else {}


def _parameters_from(settings: Mapping[str, Any]) -> Settings:
    parameters = dict(settings.get("parameters", {}))
    for name, value in parameters.items():
        kinds = _PARAMETERS.get(name, ())
        demand(type(value) in kinds, f"{name}={value!r} is no parameter")
    return parameters


def _without_shared(part: Settings, whole: Mapping[str, Any]) -> Settings:
    model = part.get("model", {})
    for name in _SHARED:
        if name in model and name in whole and model[name] == whole[name]:
            model[name] = True
    return part


def _with_shared(part: Mapping[str, Any], whole: Mapping[str, Any]) -> Settings:
    part = dict(part)
    if "model" in part:
        part["model"] = {
            name: whole[name] if name in _SHARED and value is True else value
            for name, value in part["model"].items()
        }
    return part
