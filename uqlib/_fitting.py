"""How wrapped models are cloned, seeded, fitted, and when they are left alone."""

import inspect
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from uqlib._typing import FloatArray
from uqlib.exceptions import AlreadyFittedWarning, warn_user


def is_frozen(estimator: Any) -> bool:
    """Return whether an estimator must be used as it stands.

    Parameters
    ----------
    estimator : estimator
        Any estimator.

    Returns
    -------
    bool
        True for a `FrozenEstimator`.
    """
    return isinstance(estimator, FrozenEstimator)


def is_fitted(estimator: Any) -> bool:
    """Return whether an estimator holds fitted state.

    Parameters
    ----------
    estimator : estimator
        Any estimator.

    Returns
    -------
    bool
        False for unfitted and for stateless estimators.
    """
    if isinstance(estimator, Pipeline) and is_frozen(estimator.steps[-1][1]):
        return False  # its last step stays as it is, whatever becomes of the others
    try:
        check_is_fitted(estimator)
        return bool(get_tags(estimator).requires_fit)
    except (NotFittedError, TypeError, AttributeError):
        return False


def warn_if_fitted(estimator: Any, owner: Any) -> None:
    """Warn that a fitted model is about to be cloned and fitted anew.

    Parameters
    ----------
    estimator : estimator
        What the user passed.
    owner : estimator
        The meta-estimator that clones it.
    """
    if not is_frozen(estimator) and is_fitted(estimator):
        warn_user(
            f"{type(owner).__name__} clones {type(estimator).__name__} and fits the "
            "clone: the state that it has been fitted to is not used. To use it as it "
            "stands, wrap it in sklearn.frozen.FrozenEstimator and pass only rows that "
            "it was not trained on.",
            AlreadyFittedWarning,
        )


def clone_and_fit(
    estimator: Any,
    X: Any,
    y: FloatArray,
    sample_weight: FloatArray | None = None,
    parameters: dict[str, Any] | None = None,
) -> Any:
    """Return a fitted clone; a frozen estimator comes back as it is.

    Parameters
    ----------
    estimator : estimator
        Never changed.
    X, y : array-like
        Training rows.
    sample_weight : ndarray of shape (n_samples,), default=None
        Weights of the training rows.
    parameters : dict, default=None
        Parameters that are set in the clone.

    Returns
    -------
    estimator
        Fitted.
    """
    if is_frozen(estimator):
        return estimator
    copy = clone(estimator).set_params(**(parameters or {}))
    return copy.fit(X, y, **_weight_arguments(estimator, sample_weight))


def draw_seeds(random_state: Any, size: int) -> list[int | None]:
    """Return one seed for each fit, drawn before any of them starts.

    Parameters
    ----------
    random_state : RandomState or None
        None leaves every model its own randomness.
    size : int
        Number of fits.

    Returns
    -------
    list of int or None
        The seeds, which do not depend on the order of the fits.
    """
    if random_state is None:
        return [None] * size
    bound = np.iinfo(np.int32).max
    return [int(seed) for seed in random_state.randint(bound, size=size)]


def seeded_clone(estimator: Any, seed: int | None) -> Any:
    """Return a clone whose unset `random_state` parameters are seeded.

    Parameters
    ----------
    estimator : estimator
        Never changed; a frozen one comes back as it is.
    seed : int or None
        None leaves the parameters unset.

    Returns
    -------
    estimator
        Unfitted.
    """
    if is_frozen(estimator):
        return estimator
    copy = clone(estimator)
    if seed is None:
        return copy
    unset = {
        name: seed
        for name, value in copy.get_params(deep=True).items()
        if value is None and (name == "random_state" or name.endswith("__random_state"))
    }
    return copy.set_params(**unset)


def _weight_arguments(
    estimator: Any, sample_weight: FloatArray | None
) -> dict[str, FloatArray]:
    if sample_weight is None:
        return {}
    if get_config()["enable_metadata_routing"]:
        return {"sample_weight": sample_weight}  # the model knows who asked for it
    if isinstance(estimator, Pipeline):
        # Without metadata routing a pipeline takes the weights of one named step.
        name, step = estimator.steps[-1]
        inner = _weight_arguments(step, sample_weight)
        return {f"{name}__{key}": value for key, value in inner.items()}
    parameters = inspect.signature(estimator.fit).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if "sample_weight" not in parameters and not takes_any:
        raise ValueError(
            f"sample_weight was given, but {type(estimator).__name__}.fit does not "
            "take it. Fit without sample_weight or choose a model that uses it."
        )
    return {"sample_weight": sample_weight}
