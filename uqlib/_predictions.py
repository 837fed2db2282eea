"""The one door to predictions of models that need not be ours.

Every family gets points, quantiles, intervals, sets, probabilities, uncertainties and
measures of normality of a wrapped model here, and here alone it is decided how a model
gives them; quantiles for example:

=============================================  =======================================
what the model is                              how it gives quantiles
=============================================  =======================================
has ``predict_quantiles``                      that method, at its ``quantiles_``
a pipeline                                     its last step, after the others
a search object, a frozen estimator            the model inside
a fitted quantile transformer                  ``transform``; levels from the steps
``predict`` takes ``quantiles``                at any level (quantile forests)
one fit gives many levels                      ``predict``; levels from its parameter
one fit gives one level                        ``predict``, one column
a list of fitted one-level models              one column each
=============================================  =======================================
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import _num_samples

from uqlib._core.checks import as_1d
from uqlib._core.levels import central_pair, check_quantiles, level_indices
from uqlib._core.monotone import interpolate_level
from uqlib._core.outward import outward_interval
from uqlib._quantile_models import (
    NO_QUANTILES,
    is_transformer,
    quantile_parameter,
    real_steps,
)
from uqlib._typing import FloatArray
from uqlib._validation import check_finite_predictions


class QuantilePrediction(NamedTuple):
    """A quantile matrix (n_samples, n_quantiles) and its levels (n_quantiles,)."""

    values: FloatArray
    quantiles: FloatArray


def predict_quantiles(
    estimator: Any, X: Any, quantiles: Any = None, **conditions: Any
) -> QuantilePrediction:
    """Return the quantile matrix of a fitted model, whatever kind of model it is.

    Parameters
    ----------
    estimator : object
        A fitted model of one of the kinds in this module's table.
    X : array-like or dataframe of shape (n_samples, n_features)
        Rows.
    quantiles : array-like of shape (n_quantiles,), default=None
        Levels asked for; None takes those that the model has.
    **conditions : dict
        More about the rows, as `mondrian_groups` and `likelihood_ratio`, for the method
        `predict_quantiles` of the innermost model; None stands for nothing.

    Returns
    -------
    QuantilePrediction
        The matrix (float64, without NaN) and its levels.
    """
    asked = None if quantiles is None else check_quantiles(quantiles)
    values, levels = _quantile_matrix(estimator, X, asked, given(conditions))
    values = np.asarray(values, dtype=np.float64)
    if values.ndim == 1:
        values = values.reshape(-1, 1)
    if values.shape[1] != levels.size:
        raise ValueError(
            f"{type(estimator).__name__} gave {values.shape[1]} columns for "
            f"{levels.size} quantile levels {levels.tolist()}."
        )
    _check_rows(values, X, estimator)
    check_finite_predictions(values, estimator)
    if asked is None:
        return QuantilePrediction(values, levels)
    return QuantilePrediction(values[:, level_indices(levels, asked)], asked)


def predict_point(estimator: Any, X: Any) -> FloatArray:
    """Return the point prediction of a fitted model.

    Parameters
    ----------
    estimator : object
        Any regressor; one that gives only quantiles is asked for its median.
    X : array-like or dataframe of shape (n_samples, n_features)
        Rows.

    Returns
    -------
    ndarray of shape (n_samples,)
        Point predictions, float64, without NaN.
    """
    if hasattr(estimator, "predict"):
        point = np.asarray(estimator.predict(X), dtype=np.float64)
        if point.ndim == 2 and point.shape[1] == 1:
            point = point.ravel()
        if point.ndim == 1:
            _check_rows(point, X, estimator)
            return check_finite_predictions(point, estimator)
    values, levels = predict_quantiles(estimator, X)
    return interpolate_level(values, levels, 0.5)


def predict_interval(
    estimator: Any,
    X: Any,
    confidence_level: float | None = None,
    **conditions: Any,
) -> FloatArray:
    """Return the intervals of a fitted model.

    Parameters
    ----------
    estimator : object
        A model with `predict_interval`, or one that gives the two quantiles
        alpha / 2 and 1 - alpha / 2.
    X : array-like or dataframe of shape (n_samples, n_features)
        Rows.
    confidence_level : float, default=None
        Coverage; None takes the model's own.
    **conditions : dict
        More about the rows, as `mondrian_groups` and `likelihood_ratio`, for the method
        `predict_interval` (or `predict_quantiles`) of the innermost model; None stands
        for nothing.

    Returns
    -------
    ndarray of shape (n_samples, 2)
        Lower and upper bounds.
    """
    inner, X = innermost(estimator, X, "predict_interval")
    if hasattr(inner, "predict_interval"):
        arguments = given({"confidence_level": confidence_level})
        arguments |= taken(inner, "predict_interval", given(conditions))
        return np.asarray(inner.predict_interval(X, **arguments), dtype=np.float64)
    if confidence_level is None:
        confidence_level = own_confidence_level(inner)
    pair = central_pair(confidence_level)
    values, _ = predict_quantiles(inner, X, pair, **conditions)
    return outward_interval(values[:, 0], values[:, 1])


def predict_uncertainty(estimator: Any, X: Any) -> Any:
    """Return the named arrays of a model with `predict_uncertainty`.

    Parameters
    ----------
    estimator : object
        A model whose `predict_uncertainty` returns a mapping, or a pipeline, search
        object or frozen estimator around one.
    X : array-like or dataframe of shape (n_samples, n_features)
        Rows.

    Returns
    -------
    mapping of str to array
        What the innermost model gives.
    """
    inner, X = innermost(estimator, X, "predict_uncertainty")
    model = type(inner).__name__
    if not hasattr(inner, "predict_uncertainty"):
        raise ValueError(
            f"{model} has no predict_uncertainty. Wrap it in SPARegressor or "
            "SPAClassifier, or pass uncertainties as arrays where that is possible."
        )
    fields = inner.predict_uncertainty(X)
    if not isinstance(fields, Mapping):
        raise ValueError(
            f"{model}.predict_uncertainty gave {type(fields).__name__}: it must give a "
            "mapping of names to arrays, such as a Bunch."
        )
    return fields


def uncertainty_field(fields: Any, name: str, n_samples: int) -> FloatArray:
    """Return one array of `predict_uncertainty`, one number a row.

    Parameters
    ----------
    fields : mapping of str to array
        What `predict_uncertainty` gave.
    name : str
        The array that is asked for, as "epistemic".
    n_samples : int
        Number of rows.

    Returns
    -------
    ndarray of shape (n_samples,)
        Float64, without NaN.
    """
    one_a_row = sorted(key for key in fields if np.shape(fields[key]) == (n_samples,))
    if name not in one_a_row:
        raise ValueError(
            f"uncertainty={name!r} must be one of {one_a_row}, of which "
            "predict_uncertainty gives one number a row."
        )
    return as_1d(fields[name], f"{name} of predict_uncertainty")


def gives_uncertainty(estimator: Any) -> bool:
    """Return whether a model tells its uncertainties by name.

    Parameters
    ----------
    estimator : object
        A model, or a search object or pipeline around one.

    Returns
    -------
    bool
        True if the innermost model has `predict_uncertainty`.
    """
    inner, _ = innermost(estimator, None, "predict_uncertainty")
    return hasattr(inner, "predict_uncertainty")


def predict_normality(estimator: Any, X: Any) -> FloatArray:
    """Return how normal a fitted detector or density finds each row.

    Parameters
    ----------
    estimator : object
        With `score_samples` or `decision_function`.
    X : array-like or dataframe of shape (n_samples, n_features)
        Rows.

    Returns
    -------
    ndarray of shape (n_samples,)
        Larger = more normal, without NaN.
    """
    for method in ("score_samples", "decision_function"):
        if hasattr(estimator, method):
            values = np.asarray(getattr(estimator, method)(X), dtype=np.float64)
            break
    else:
        raise ValueError(
            f"{type(estimator).__name__} has neither score_samples nor "
            "decision_function, which say how normal a row is. Use an outlier detector "
            "or a density that can judge new rows, as "
            "LocalOutlierFactor(novelty=True)."
        )
    if values.shape != (_num_samples(X),):
        raise ValueError(
            f"{type(estimator).__name__}.{method} gave an array of shape "
            f"{values.shape} for {_num_samples(X)} rows: it must give one number each."
        )
    return check_finite_predictions(values, estimator)


def own_confidence_level(estimator: Any) -> float:
    """Return the confidence level that a model gives intervals at by default.

    Parameters
    ----------
    estimator : object
        A model with `predict_interval`, or a search object or pipeline around one.

    Returns
    -------
    float
        Its attribute `confidence_level_`, or else its parameter `confidence_level`.
    """
    inner, _ = innermost(estimator, None, "predict_interval")
    level = getattr(inner, "confidence_level", None)
    level = getattr(inner, "confidence_level_", level)  # what it was calibrated at
    if level is None:
        raise ValueError(
            f"confidence_level is needed: {type(inner).__name__} has no level of its "
            "own. Pass for example confidence_level=0.9."
        )
    return float(level)


def gives_intervals(estimator: Any) -> bool:
    """Return whether a model gives intervals itself, rather than quantiles alone.

    Parameters
    ----------
    estimator : object
        A model, or a search object or pipeline around one.

    Returns
    -------
    bool
        True if the innermost model has `predict_interval`.
    """
    inner, _ = innermost(estimator, None, "predict_interval")
    return hasattr(inner, "predict_interval")


def _quantile_matrix(
    estimator: Any, X: Any, asked: FloatArray | None, conditions: dict[str, Any]
) -> tuple[Any, FloatArray]:
    if isinstance(estimator, list | tuple):
        return _stack_single_levels(estimator, X, conditions)
    estimator, X = innermost(estimator, X, "predict_quantiles")
    conditions = taken(estimator, "predict_quantiles", conditions)
    if hasattr(estimator, "predict_quantiles"):
        return _own_quantiles(estimator, X, asked, conditions)
    if isinstance(estimator, Pipeline) or is_transformer(estimator):
        return np.asarray(estimator.transform(X)), _transformer_levels(estimator)
    kind, name, _ = quantile_parameter(estimator)
    if kind == "predict":
        levels = asked if asked is not None else _default_levels(estimator)
        return estimator.predict(X, quantiles=levels.tolist()), levels
    return estimator.predict(X), _parameter_levels(estimator, kind, name)


def innermost(estimator: Any, X: Any, method: str) -> tuple[Any, Any]:
    """Go through searches, frozen estimators and pipelines that end in a predictor.

    Parameters
    ----------
    estimator : object
        A fitted model.
    X : array-like, dataframe or None
        Rows, carried along through the steps of pipelines; None stays None.
    method : str
        Where a model has this method, the way ends.

    Returns
    -------
    model, X
        The innermost model, and what it is given.
    """
    while not hasattr(type(estimator), method):
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif isinstance(estimator, Pipeline) and not is_transformer(estimator):
            *before, (_, last) = real_steps(estimator)
            for _, step in before:
                X = None if X is None else step.transform(X)
            estimator = last
        else:
            break
    return estimator, X


def _check_rows(values: FloatArray, X: Any, source: Any) -> None:
    if values.shape[0] != _num_samples(X):
        raise ValueError(
            f"{type(source).__name__} gave {values.shape[0]} predictions for "
            f"{_num_samples(X)} rows: it must give one for each."
        )


def _own_quantiles(
    estimator: Any, X: Any, asked: FloatArray | None, conditions: dict[str, Any]
) -> tuple[Any, FloatArray]:
    levels = getattr(estimator, "quantiles_", None)
    takes_levels = (
        "quantiles" in inspect.signature(estimator.predict_quantiles).parameters
    )
    if asked is not None and takes_levels:
        return estimator.predict_quantiles(X, quantiles=asked, **conditions), asked
    if levels is not None:
        values = estimator.predict_quantiles(X, **conditions)
        return values, np.asarray(levels, dtype=np.float64)
    if asked is None:
        raise ValueError(
            f"quantiles is needed: {type(estimator).__name__} has no levels of its own "
            "(no attribute quantiles_). Pass quantiles=."
        )
    return estimator.predict_quantiles(X, **conditions), asked


def given(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that are not None.

    Parameters
    ----------
    arguments : dict
        By name.

    Returns
    -------
    dict
        Those that were given.
    """
    return {name: value for name, value in arguments.items() if value is not None}


def taken(model: Any, method: str, conditions: dict[str, Any]) -> dict[str, Any]:
    """Return the conditions, provided that a method of a model takes all of them.

    Parameters
    ----------
    model : object
        The innermost model.
    method : str
        Name of its method.
    conditions : dict
        Arguments by name.

    Returns
    -------
    dict
        The same.
    """
    function = getattr(model, method, None)
    if not conditions:
        return {}
    parameters = inspect.signature(function).parameters if function else {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return conditions
    refused = sorted(set(conditions) - set(parameters))
    if refused:
        sets = method == "predict_set"
        able = "ConformalClassifier" if sets else "SplitConformalRegressor"
        raise TypeError(
            f"{', '.join(refused)} cannot be used: {type(model).__name__}"
            + (f".{method} does not take it." if function else f" has no {method}.")
            + f" Leave it out, or use a model that does, as {able}."
        )
    return conditions


def _stack_single_levels(
    models: Iterable[Any], X: Any, conditions: dict[str, Any]
) -> tuple[FloatArray, FloatArray]:
    columns = []
    for model in models:
        values, levels = predict_quantiles(model, X, **conditions)
        columns += [(level, values[:, k]) for k, level in enumerate(levels)]
    columns.sort(key=lambda pair: pair[0])
    levels = check_quantiles([level for level, _ in columns])
    return np.column_stack([column for _, column in columns]), levels


def _transformer_levels(estimator: Any) -> FloatArray:
    steps = [estimator]
    if isinstance(estimator, Pipeline):
        steps = [step for _, step in reversed(estimator.steps)]
    for step in steps:
        levels = getattr(step, "quantiles_", None)
        if levels is not None:
            return np.asarray(levels, dtype=np.float64)
    raise ValueError(NO_QUANTILES.format(type(estimator).__name__))


def _default_levels(estimator: Any) -> FloatArray:
    levels = estimator.get_params().get("default_quantiles")
    return check_quantiles(np.atleast_1d(0.5 if levels is None else levels))


def _parameter_levels(estimator: Any, kind: str, name: str | None) -> FloatArray:
    _, _, fixed = quantile_parameter(estimator)
    parameters = estimator.get_params()
    for key, needed in fixed.items():
        if parameters.get(key) != needed:
            raise ValueError(
                f"{type(estimator).__name__}({key}={parameters.get(key)!r}) does not "
                f"estimate quantiles. Set {key}={needed!r}, or wrap it in "
                "MultiQuantileRegressor, which does so."
            )
    level = parameters.get(name or "")
    if level is None:
        raise ValueError(
            f"{type(estimator).__name__} has no quantile level. Set {name}, or wrap it "
            "in MultiQuantileRegressor."
        )
    return check_quantiles(np.atleast_1d(level))
