"""The one door to predictions of models that need not be ours.

Every family gets points, quantiles and intervals of a wrapped model here, and here
alone it is decided how a model gives them:

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
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import _num_samples

from uqlib._compat import BaseSearchCV
from uqlib._core.levels import central_pair, check_quantiles, level_indices
from uqlib._core.monotone import interpolate_level
from uqlib._core.scores import outward_interval
from uqlib._typing import FloatArray
from uqlib._validation import check_finite_predictions


class QuantileParameter(NamedTuple):
    """How the levels of a model are set before it is fitted.

    `kind` is "own" (it is a quantile regressor of its own), "predict" (levels are
    chosen at prediction), "many" (one fit, all levels) or "single" (one fit a
    level). `name` is the parameter that takes the level or levels, None if there is
    none; `fixed` are parameters that must be set with it.
    """

    kind: str
    name: str | None
    fixed: dict[str, Any]


class QuantilePrediction(NamedTuple):
    """A quantile matrix (n_samples, n_quantiles) and its levels (n_quantiles,)."""

    values: FloatArray
    quantiles: FloatArray


# Known learners by the name of a class in their method resolution order, so that
# subclasses are known too and nothing is imported.
_SINGLE_LEVEL = {
    "HistGradientBoostingRegressor": ("quantile", {"loss": "quantile"}),
    "GradientBoostingRegressor": ("alpha", {"loss": "quantile"}),
    "QuantileRegressor": ("quantile", {}),
    "LGBMRegressor": ("alpha", {"objective": "quantile"}),
    "DummyRegressor": ("quantile", {"strategy": "quantile"}),
}
_MANY_LEVEL = {"XGBRegressor": ("quantile_alpha", {"objective": "reg:quantileerror"})}

_NO_QUANTILES = (
    "{} cannot give quantiles. Wrap a learner that has a quantile loss in "
    "MultiQuantileRegressor (name the parameter that takes the level with "
    "quantile_param=), or pass a model with predict_quantiles."
)


def quantile_parameter(estimator: Any, name: str = "auto") -> QuantileParameter:
    """Return how the quantile levels of an unfitted model are set.

    Parameters
    ----------
    estimator : estimator
        A regressor or a pipeline that ends in one.
    name : str, default="auto"
        The parameter that takes one level, in the syntax of `set_params`; "auto"
        recognizes the model.

    Returns
    -------
    QuantileParameter
        With names as `estimator.set_params` takes them.
    """
    if name != "auto":
        if name not in estimator.get_params(deep=True):
            raise ValueError(
                f"quantile_param={name!r} is not a parameter of "
                f"{type(estimator).__name__}. It has: {sorted(estimator.get_params())}."
            )
        return QuantileParameter("single", name, _set_with(estimator, name))
    if isinstance(estimator, FrozenEstimator) or _is_transformer(estimator):
        return QuantileParameter("own", None, {})
    if isinstance(estimator, Pipeline):
        step, model = _real_steps(estimator)[-1]
        return _prefixed(step, quantile_parameter(model))
    if isinstance(estimator, BaseSearchCV):
        return _prefixed("estimator", quantile_parameter(estimator.estimator))
    if hasattr(type(estimator), "predict_quantiles"):
        own = "quantiles" if "quantiles" in estimator.get_params() else None
        return QuantileParameter("own", own, {})
    if _predict_takes_quantiles(estimator):
        return QuantileParameter("predict", None, {})
    for kind, known in (("many", _MANY_LEVEL), ("single", _SINGLE_LEVEL)):
        parameter, fixed = _known(estimator, known)
        if parameter is not None:
            return QuantileParameter(kind, parameter, fixed)
    if "quantile" in estimator.get_params():
        return QuantileParameter("single", "quantile", {})
    raise ValueError(_NO_QUANTILES.format(type(estimator).__name__))


def predict_quantiles(
    estimator: Any, X: Any, quantiles: Any = None
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

    Returns
    -------
    QuantilePrediction
        The matrix (float64, without NaN) and its levels.
    """
    asked = None if quantiles is None else check_quantiles(quantiles)
    values, levels = _quantile_matrix(estimator, X, asked)
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
    estimator: Any, X: Any, confidence_level: float | None = None
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

    Returns
    -------
    ndarray of shape (n_samples, 2)
        Lower and upper bounds.
    """
    inner, X = _innermost(estimator, X, "predict_interval")
    if hasattr(inner, "predict_interval"):
        if confidence_level is None:
            return np.asarray(inner.predict_interval(X), dtype=np.float64)
        interval = inner.predict_interval(X, confidence_level=confidence_level)
        return np.asarray(interval, dtype=np.float64)
    if confidence_level is None:
        confidence_level = own_confidence_level(inner)
    values, _ = predict_quantiles(inner, X, central_pair(confidence_level))
    return outward_interval(values[:, 0], values[:, 1])


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
    inner, _ = _innermost(estimator, None, "predict_interval")
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
    inner, _ = _innermost(estimator, None, "predict_interval")
    return hasattr(inner, "predict_interval")


def _quantile_matrix(
    estimator: Any, X: Any, asked: FloatArray | None
) -> tuple[Any, FloatArray]:
    if isinstance(estimator, list | tuple):
        return _stack_single_levels(estimator, X)
    estimator, X = _innermost(estimator, X, "predict_quantiles")
    if hasattr(estimator, "predict_quantiles"):
        return _own_quantiles(estimator, X, asked)
    if isinstance(estimator, Pipeline) or _is_transformer(estimator):
        return np.asarray(estimator.transform(X)), _transformer_levels(estimator)
    kind, name, _ = quantile_parameter(estimator)
    if kind == "predict":
        levels = asked if asked is not None else _default_levels(estimator)
        return estimator.predict(X, quantiles=levels.tolist()), levels
    return estimator.predict(X), _parameter_levels(estimator, kind, name)


def _innermost(estimator: Any, X: Any, method: str) -> tuple[Any, Any]:
    """Go through searches, frozen estimators and pipelines that end in a predictor.

    X is carried along through the steps of the pipelines; None stays None.
    """
    while not hasattr(type(estimator), method):
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif isinstance(estimator, Pipeline) and not _is_transformer(estimator):
            *before, (_, last) = _real_steps(estimator)
            for _, step in before:
                X = None if X is None else step.transform(X)
            estimator = last
        else:
            break
    return estimator, X


def _real_steps(pipeline: Pipeline) -> list[tuple[str, Any]]:
    """Return the steps of a pipeline that do something; the last one if none does."""
    steps = [pair for pair in pipeline.steps if pair[1] not in (None, "passthrough")]
    return steps or pipeline.steps[-1:]


def _prefixed(step: str, parameter: QuantileParameter) -> QuantileParameter:
    """Return the parameter of an inner model as its wrapper takes it."""
    kind, name, fixed = parameter
    prefixed = {f"{step}__{key}": value for key, value in fixed.items()}
    return QuantileParameter(kind, name and f"{step}__{name}", prefixed)


def _set_with(estimator: Any, name: str) -> dict[str, Any]:
    """Return what must be set together with a named parameter of a known learner."""
    path, _, last = name.rpartition("__")
    owner = estimator.get_params(deep=True)[path] if path else estimator
    for known in (_MANY_LEVEL, _SINGLE_LEVEL):
        parameter, fixed = _known(owner, known)
        if parameter == last:
            return {f"{path}__{key}" if path else key: v for key, v in fixed.items()}
    return {}


def _known(estimator: Any, known: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Return the parameter of a known learner and what must be set with it."""
    for ancestor in type(estimator).__mro__:
        if ancestor.__name__ in known:
            parameter, fixed = known[ancestor.__name__]
            return parameter, dict(fixed)
    return None, {}


def _check_rows(values: FloatArray, X: Any, source: Any) -> None:
    if values.shape[0] != _num_samples(X):
        raise ValueError(
            f"{type(source).__name__} gave {values.shape[0]} predictions for "
            f"{_num_samples(X)} rows: it must give one for each."
        )


def _is_transformer(estimator: Any) -> bool:
    if isinstance(estimator, Pipeline):
        estimator = _real_steps(estimator)[-1][1]
    return hasattr(estimator, "transform") and not hasattr(estimator, "predict")


def _predict_takes_quantiles(estimator: Any) -> bool:
    predict = getattr(estimator, "predict", None)
    return predict is not None and "quantiles" in inspect.signature(predict).parameters


def _own_quantiles(
    estimator: Any, X: Any, asked: FloatArray | None
) -> tuple[Any, FloatArray]:
    levels = getattr(estimator, "quantiles_", None)
    takes_levels = (
        "quantiles" in inspect.signature(estimator.predict_quantiles).parameters
    )
    if asked is not None and takes_levels:
        return estimator.predict_quantiles(X, quantiles=asked), asked
    if levels is not None:
        return estimator.predict_quantiles(X), np.asarray(levels, dtype=np.float64)
    if asked is None:
        raise ValueError(
            f"quantiles is needed: {type(estimator).__name__} has no levels of its own "
            "(no attribute quantiles_). Pass quantiles=."
        )
    return estimator.predict_quantiles(X), asked


def _stack_single_levels(
    models: Iterable[Any], X: Any
) -> tuple[FloatArray, FloatArray]:
    columns = []
    for model in models:
        values, levels = predict_quantiles(model, X)
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
    raise ValueError(_NO_QUANTILES.format(type(estimator).__name__))


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
