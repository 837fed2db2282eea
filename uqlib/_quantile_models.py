"""How the quantile levels of a model that is not ours are set and recognized."""

import inspect
from typing import Any, NamedTuple

from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from uqlib._compat import BaseSearchCV


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

NO_QUANTILES = (
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
    if isinstance(estimator, FrozenEstimator) or is_transformer(estimator):
        return QuantileParameter("own", None, {})
    if isinstance(estimator, Pipeline):
        step, model = real_steps(estimator)[-1]
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
    raise ValueError(NO_QUANTILES.format(type(estimator).__name__))


def real_steps(pipeline: Pipeline) -> list[tuple[str, Any]]:
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


def is_transformer(estimator: Any) -> bool:
    if isinstance(estimator, Pipeline):
        estimator = real_steps(estimator)[-1][1]
    return hasattr(estimator, "transform") and not hasattr(estimator, "predict")


def _predict_takes_quantiles(estimator: Any) -> bool:
    predict = getattr(estimator, "predict", None)
    return predict is not None and "quantiles" in inspect.signature(predict).parameters
