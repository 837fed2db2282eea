"""Models made of models: where the inner ones stand, and how they are replaced.

A quantized composite is a shallow copy of the outer model in which inner models are
replaced; lists and objects on the way to them are copied too, all else is shared. The
outer model itself is never changed.
"""

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import issparse
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    BaseEnsemble,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.pipeline import Pipeline

from uqlib._fitting import is_fitted
from uqlib._quantile_models import real_steps
from uqlib.quantized._adapter import SkippedLayer

Path = tuple[str | int, ...]


class Slot(NamedTuple):
    """A fitted model inside another one.

    `path` leads to it by attributes (str, or keys of a dict) and positions (int),
    `inputs` gives what enters it for rows that enter the outer model.
    """

    path: Path
    model: Any
    inputs: Callable[[Any], Any]

    @property
    def name(self) -> str:
        """The path as a name, "estimators_.0"."""
        return ".".join(str(key) for key in self.path)


def model_slots(model: Any) -> list[Slot]:
    """Return the models inside a fitted model that its predictions are made of.

    Parameters
    ----------
    model : object
        Any fitted model but a pipeline.

    Returns
    -------
    list of Slot
        Empty if the model is of an unknown kind.
    """
    for kinds, slots in _KNOWN:
        if isinstance(model, kinds):
            return slots(model)
    if type(model).__module__.startswith("sklearn.") or isinstance(model, BaseEnsemble):
        return []  # what becomes of the members is known for the kinds above alone
    for attribute in ("estimator_", "estimators_", "models_", "estimators"):
        found = _from_attribute(model, attribute)
        if found:
            return found
    return []


def floats_beside(model: Any) -> tuple[SkippedLayer, ...]:
    """Return what a composite predicts with beside the models inside.

    Parameters
    ----------
    model : object
        Fitted.

    Returns
    -------
    tuple of SkippedLayer
        The networks that weigh the models of an ensemble; not a few plain weights.
    """
    size = _n_numbers(getattr(getattr(model, "aggregator_", None), "networks_", []))
    reason = "the networks that weigh the models of an ensemble stay in float"
    return (SkippedLayer("aggregator_", reason, size),) if size else ()


def _n_numbers(found: Any) -> int:
    if isinstance(found, list | tuple):
        return sum(_n_numbers(item) for item in found)
    return int(found.size) if isinstance(found, np.ndarray) else 0


def pipeline_slots(model: Pipeline) -> list[Slot]:
    """Return the steps of a fitted pipeline that predict.

    Parameters
    ----------
    model : Pipeline
        Fitted.

    Returns
    -------
    list of Slot
        The last one is the last step; those before make predictions for it.
    """
    positions = {id(step): k for k, (_, step) in enumerate(model.steps)}
    steps = [step for _, step in real_steps(model)]
    return [
        Slot(("steps", positions[id(step)], 1), step, Through(tuple(steps[:k])))
        for k, step in enumerate(steps)
        if k + 1 == len(steps) or _predicts(step)
    ]


def replaced(holder: Any, path: Path, model: Any) -> Any:
    """Return a shallow copy with another model in one place.

    Parameters
    ----------
    holder : object
        A model, list, tuple or dict; never changed.
    path : tuple of str and int
        From the holder to the place.
    model : object
        What stands there in the copy.

    Returns
    -------
    object
        The copy.
    """
    if not path:
        return model
    key, rest = path[0], path[1:]
    inside: Any = copy(holder)
    if isinstance(holder, tuple):
        return tuple(replaced(list(holder), path, model))
    if isinstance(holder, list | np.ndarray | dict):
        inside[key] = replaced(inside[key], rest, model)
    else:
        setattr(inside, str(key), replaced(getattr(holder, str(key)), rest, model))
    return inside


def with_members(model: Any, members: Mapping[Path, Any]) -> Any:
    """Return a shallow copy of a model with other models inside.

    Parameters
    ----------
    model : object
        Never changed.
    members : mapping of path to model
        The models by where they stand.

    Returns
    -------
    object
        The copy; `named_estimators_` names the new ones.
    """
    before = {id(_at(model, path)): new for path, new in members.items()}
    for path, new in members.items():
        model = replaced(model, path, new)
    named = vars(model).get("named_estimators_")
    if named is not None:
        model.named_estimators_ = type(named)(
            **{name: before.get(id(old), old) for name, old in named.items()}
        )
    return model


def _at(holder: Any, path: Path) -> Any:
    for key in path:
        indexed = isinstance(holder, list | tuple | np.ndarray | dict)
        holder = holder[key] if indexed else getattr(holder, str(key))
    return holder


# ---------------------------------------------------------------------------
# What enters a model.


def unchanged(X: Any) -> Any:
    """Return X."""
    return X


class Through:
    """X after fitted transformers."""

    def __init__(self, steps: tuple[Any, ...]) -> None:
        self.steps = steps

    def __call__(self, X: Any) -> Any:
        for step in self.steps:
            X = step.transform(X)
        return X


class Columns:
    """Some columns of X, as an array."""

    def __init__(self, columns: Any) -> None:
        self.columns = columns

    def __call__(self, X: Any) -> Any:
        X = X.tocsr() if issparse(X) else np.asarray(X)
        return X[:, self.columns]


class Composed:
    """What enters a model inside of what another one is given."""

    def __init__(self, before: Callable[[Any], Any], after: Callable[[Any], Any]):
        self.before, self.after = before, after

    def __call__(self, X: Any) -> Any:
        return self.after(self.before(X))


# ---------------------------------------------------------------------------
# Known composites.


def _members(attribute: str) -> Callable[[Any], list[Slot]]:
    """Return what finds the models of a list, each of which is given X."""
    return lambda model: [
        Slot((attribute, k), member, unchanged)
        for k, member in enumerate(getattr(model, attribute))
        if _predicts_at_all(member)
    ]


def _one(attribute: str) -> Callable[[Any], list[Slot]]:
    return lambda model: [Slot((attribute,), getattr(model, attribute), unchanged)]


def _bagging_slots(model: Any) -> list[Slot]:
    features = model.estimators_features_
    return [
        Slot(("estimators_", k), member, Columns(columns))
        for k, (member, columns) in enumerate(
            zip(model.estimators_, features, strict=True)
        )
    ]


def _boosting_slots(model: Any) -> list[Slot]:
    everything = Columns(slice(None))
    return [
        Slot(("estimators_", k), member, everything)
        for k, member in enumerate(model.estimators_)
    ]


def _stacking_slots(model: Any) -> list[Slot]:
    last = Slot(("final_estimator_",), model.final_estimator_, Through((model,)))
    return [*_members("estimators_")(model), last]


def _calibrated_slots(model: Any) -> list[Slot]:
    return [
        Slot(("calibrated_classifiers_", k, "estimator"), inner.estimator, unchanged)
        for k, inner in enumerate(model.calibrated_classifiers_)
    ]


def _from_attribute(model: Any, attribute: str) -> list[Slot]:
    found = getattr(model, attribute, None)
    if not isinstance(found, list | tuple):
        return _one(attribute)(model) if _predicts_at_all(found) else []
    # Without the underscore it is a parameter: fitted models in a mean of models.
    given = attribute.endswith("_") or all(is_fitted(member) for member in found)
    usable = given and all(_predicts_at_all(member) for member in found)
    return _members(attribute)(model) if usable else []


def _predicts_at_all(found: Any) -> bool:
    return any(hasattr(found, name) for name in _PREDICTS)


def _predicts(step: Any) -> bool:
    """Return whether the transform of a pipeline's step is made of predictions."""
    known = (VotingClassifier, VotingRegressor, StackingClassifier, StackingRegressor)
    return isinstance(step, known) or (
        hasattr(step, "estimator_") and hasattr(step, "quantiles_")
    )


_PREDICTS = ("predict", "predict_quantiles", "transform")
_KNOWN: list[tuple[Any, Callable[[Any], list[Slot]]]] = [
    ((VotingClassifier, VotingRegressor), _members("estimators_")),
    ((BaggingClassifier, BaggingRegressor), _bagging_slots),
    ((AdaBoostClassifier, AdaBoostRegressor), _boosting_slots),
    ((StackingClassifier, StackingRegressor), _stacking_slots),
    ((MultiOutputClassifier, MultiOutputRegressor), _members("estimators_")),
    ((OneVsRestClassifier,), _members("estimators_")),
    ((TransformedTargetRegressor,), _one("regressor_")),
    ((CalibratedClassifierCV,), _calibrated_slots),
]
