"""Quantized models in the place of fitted estimators."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.metaestimators import available_if

from uqlib._core.levels import check_quantiles, level_indices
from uqlib._quantile_models import quantile_parameter, real_steps
from uqlib._typing import FloatArray
from uqlib.quantized._composites import Through

# What a member never answers as the float model does.
_HIDDEN = ("__", "predict", "staged_", "fit", "partial_fit")
_METHODS = ("decision_function", "transform", "score", "score_samples", "apply")


def as_member(member: Any, quantized: Any) -> Any:
    """Return a quantized model that an outer model takes for a fitted estimator.

    Parameters
    ----------
    member : estimator
        The float model, in whose place it stands.
    quantized : object
        With the prediction methods.

    Returns
    -------
    estimator or QuantizedMember
        `quantized` itself if it is an estimator of scikit-learn.
    """
    if isinstance(quantized, BaseEstimator):
        return quantized
    levels = _fitted_levels(member)
    if levels is None or hasattr(quantized, "predict_quantiles"):
        return QuantizedMember(member, quantized)
    return LevelMember(member, quantized, levels)


def _fitted_levels(member: Any) -> FloatArray | None:
    """Return the levels of a learner whose `predict` gives them, if it is one."""
    if not hasattr(member, "get_params"):
        return None
    try:
        _, name, fixed = quantile_parameter(member)
    except ValueError:
        return None
    parameters = member.get_params()
    levels = parameters.get(name or "")
    if levels is None or any(parameters.get(key) != fixed[key] for key in fixed):
        return None
    return check_quantiles(np.atleast_1d(levels))


def _quantized_has(method: str) -> Any:
    return available_if(lambda member: hasattr(member.quantized, method))


class QuantizedMember:
    """A quantized model in the place of a fitted estimator.

    It predicts from the codes and answers everything else, as `classes_`, parameters
    and tags, as the float model does, which it holds for that. It cannot be fitted. The
    bytes that a report counts are those of the codes: the float model is no part of
    what is stored.

    Parameters
    ----------
    member : estimator
        The float model.
    quantized : object
        With its prediction methods.
    """

    def __init__(self, member: Any, quantized: Any) -> None:
        self.member, self.quantized = member, quantized

    def __getattr__(self, name: str) -> Any:
        # Before there is a member (in unpickling) nothing is delegated; prediction
        # methods that the quantized model lacks are never those of the float model.
        hidden = name.startswith(_HIDDEN) or name in _METHODS
        if hidden or "member" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.member, name)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_clone__(self) -> "QuantizedMember":
        return self  # as a FrozenEstimator

    def __sklearn_tags__(self) -> Any:
        return self.member.__sklearn_tags__()

    def fit(self, X: Any, y: Any = None) -> Any:
        """Refuse to be fitted.

        Parameters
        ----------
        X, y : object
            Not looked at.

        Returns
        -------
        never

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(
            "A quantized member cannot be fitted. Fit the float model, then quantize "
            "it anew."
        )

    @_quantized_has("predict")
    def predict(self, X: Any, **kwargs: Any) -> Any:
        """Return points or classes, of shape (n_samples,) or (n_samples, m)."""
        return self.quantized.predict(X, **kwargs)

    @_quantized_has("predict_proba")
    def predict_proba(self, X: Any, **kwargs: Any) -> Any:
        """Return probabilities, of shape (n_samples, n_classes)."""
        return self.quantized.predict_proba(X, **kwargs)

    @_quantized_has("predict_log_proba")
    def predict_log_proba(self, X: Any, **kwargs: Any) -> Any:
        """Return logarithms of probabilities, of shape (n_samples, n_classes)."""
        return self.quantized.predict_log_proba(X, **kwargs)

    @_quantized_has("decision_function")
    def decision_function(self, X: Any, **kwargs: Any) -> Any:
        """Return decisions, of shape (n_samples,) or (n_samples, n_classes)."""
        return self.quantized.decision_function(X, **kwargs)

    @_quantized_has("predict_quantiles")
    def predict_quantiles(self, X: Any, quantiles: Any = None) -> Any:
        """Return quantiles, of shape (n_samples, n_quantiles)."""
        return self.quantized.predict_quantiles(X, quantiles)


class LevelMember(QuantizedMember):
    """A member whose `predict` has a column for each quantile level it was fitted at.

    Parameters
    ----------
    member, quantized : object
        As in `QuantizedMember`.
    quantiles : ndarray of shape (n_quantiles,)
        The levels.
    """

    def __init__(self, member: Any, quantized: Any, quantiles: FloatArray) -> None:
        super().__init__(member, quantized)
        self.quantiles_ = quantiles

    def predict_quantiles(self, X: Any, quantiles: Any = None) -> Any:
        """Return quantiles, of shape (n_samples, n_quantiles)."""
        values = np.asarray(self.quantized.predict(X), dtype=np.float64)
        values = values.reshape(len(values), -1)
        asked = self.quantiles_ if quantiles is None else check_quantiles(quantiles)
        return values[:, level_indices(self.quantiles_, asked)]


def with_quantiles(pipeline: Pipeline) -> Pipeline:
    """Return a pipeline that has `predict_quantiles` where its last step has.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted.

    Returns
    -------
    Pipeline
        The same one if its last step has none, or it is of a class of its own.
    """
    last = real_steps(pipeline)[-1][1]
    if type(pipeline) is not Pipeline or not hasattr(last, "predict_quantiles"):
        return pipeline
    return _QuantilePipeline(**pipeline.get_params(deep=False))


class _QuantilePipeline(Pipeline):
    """A pipeline that ends in a model with quantiles, and has them itself."""

    @property
    def quantiles_(self) -> FloatArray:
        """Levels of the last step."""
        levels: FloatArray = real_steps(self)[-1][1].quantiles_
        return levels

    def predict_quantiles(self, X: Any, quantiles: Any = None) -> Any:
        """Return quantiles, of shape (n_samples, n_quantiles)."""
        *before, (_, last) = real_steps(self)
        X = Through(tuple(step for _, step in before))(X)
        return last.predict_quantiles(X, quantiles)
