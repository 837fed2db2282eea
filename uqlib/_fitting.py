"""How wrapped models are cloned, seeded, fitted, and when they are left alone."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import KFold, check_cv, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_random_state, get_tags
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _num_samples, check_is_fitted

from uqlib._typing import FloatArray
from uqlib._validation import check_calibration_size
from uqlib.exceptions import AlreadyFittedWarning, QuantizationWarning, warn_user


@contextmanager
def all_or_nothing(estimator: Any) -> Iterator[None]:
    """Give an estimator its attributes back if what is done to it does not end.

    Parameters
    ----------
    estimator : estimator
        Being fitted.

    Yields
    ------
    None
        Its attributes may be set one by one.
    """
    before = vars(estimator).copy()
    try:
        yield
    except BaseException:  # a user who interrupts a fit goes on with the last one
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


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


def warn_if_rows_seen(estimator: Any, X: Any) -> None:
    """Warn that calibration rows are rows that the model itself was adapted to.

    Parameters
    ----------
    estimator : estimator
        A model, frozen or not. One that remembers its rows has a method `rows_seen(X)`,
        which returns the share of them among X, as quantized models have.
    X : array-like of shape (n_samples, n_features)
        Rows that are to calibrate it.
    """
    model = estimator.estimator if is_frozen(estimator) else estimator
    share = model.rows_seen(X) if hasattr(model, "rows_seen") else 0.0
    if share > 0:
        warn_user(
            f"{share:.0%} of the calibration rows are rows that {type(model).__name__} "
            "was quantized on: they are not exchangeable with new rows, and the "
            "coverage is not exact. Calibrate on rows of their own.",
            QuantizationWarning,
        )


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


def fit_score(score: Any, model: Any, X: Any, y: Any) -> Any:
    """Return a nonconformity score for a model.

    Parameters
    ----------
    score : object
        Never changed.
    model : estimator
        The fitted model.
    X, y : array-like or None
        Its training rows; None if there are none.

    Returns
    -------
    object
        A clone that learned from the rows; a score that learns nothing as it is.
    """
    if not hasattr(score, "fit"):
        return score
    return clone(score, safe=False).fit(model, X, y)


def split_rows(
    n_samples: int, calibration_size: Any, random_state: Any, stratify: Any = None
) -> tuple[Any, Any]:
    """Return the row numbers of training and of calibration.

    Parameters
    ----------
    n_samples : int
        Number of rows.
    calibration_size : float or int
        Share or number of rows that calibrate.
    random_state : int, RandomState instance or None
        Draws them.
    stratify : array-like of shape (n_samples,), default=None
        Labels whose shares both parts keep. Rows that are held out so are exchangeable
        with a new one within each label only.

    Returns
    -------
    train, held_out : list of int
        The numbers.
    """
    return train_test_split(
        range(n_samples),
        test_size=check_calibration_size(calibration_size, n_samples),
        random_state=random_state,
        stratify=stratify,
    )


def given_random_state(random_state: Any) -> Any:
    """Return a generator, or None where the randomness is left to each model.

    Parameters
    ----------
    random_state : int, RandomState instance or None
        As an estimator takes it.

    Returns
    -------
    RandomState or None
        None for None.
    """
    return None if random_state is None else check_random_state(random_state)


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


def shuffled_splitter(cv: Any, random_state: Any) -> Any:
    """Return a splitter; a number of folds draws them at random.

    Parameters
    ----------
    cv : int, cross-validation splitter or iterable
        As everywhere in scikit-learn, but that an int shuffles the rows.
    random_state : RandomState or None
        Draws the folds of an int.

    Returns
    -------
    cross-validation splitter
        With `split`.
    """
    if isinstance(cv, Integral):
        return KFold(int(cv), shuffle=True, random_state=random_state)
    return check_cv(cv)


def partition(
    splitter: Any, X: Any, y: FloatArray, groups: Any = None
) -> list[tuple[Any, Any]]:
    """Return the splits, provided that every row is in exactly one test fold.

    Parameters
    ----------
    splitter : cross-validation splitter
        As `sklearn.model_selection.check_cv` returns it.
    X, y : array-like
        The rows.
    groups : array-like of shape (n_samples,), default=None
        Label of the group of each row, for splitters that keep groups together.

    Returns
    -------
    list of (train, test)
        Arrays of row numbers.
    """
    # A splitter of the user's own need not know of groups.
    extra = () if groups is None else (groups,)
    splits = list(splitter.split(X, y, *extra))
    tested = np.concatenate([np.asarray(test) for _, test in splits] or [[]])
    name = type(splitter).__name__.lstrip("_")
    if not np.array_equal(np.sort(tested), np.arange(_num_samples(X))):
        raise ValueError(
            f"cv ({name}) must put every row in exactly one test fold. Use KFold or "
            "another splitter whose test folds are a partition; pass a list of splits "
            "rather than a generator, which is spent after one use."
        )
    if any(np.intersect1d(train, test).size for train, test in splits):
        raise ValueError(
            f"cv ({name}) trains on rows of its own test fold: predictions of them "
            "would not be out of fold. Leave the test rows out of the training rows."
        )
    return splits


def fit_each_fold(
    estimator: Any,
    X: Any,
    y: FloatArray,
    splits: list[tuple[Any, Any]],
    sample_weight: FloatArray | None = None,
    n_jobs: int | None = None,
) -> list[Any]:
    """Fit a clone on the training rows of every split.

    An estimator with a method `fit_folds` (:class:`~uqlib._typing.FoldFitter`) does it
    itself, since it can share work between the folds; `n_jobs` is then its own.

    Parameters
    ----------
    estimator : estimator
        Never changed. Seeded beforehand, so that every fold fits the same model.
    X, y : array-like
        The rows.
    splits : list of (train, test)
        Arrays of row numbers, as `partition` returns them.
    sample_weight : ndarray of shape (n_samples,), default=None
        Weights of the rows.
    n_jobs : int, default=None
        Number of fits in parallel, as in joblib.

    Returns
    -------
    list of estimators
        One fitted model a split.
    """
    if not hasattr(type(estimator), "fit_folds"):
        models: list[Any] = Parallel(n_jobs=n_jobs)(
            delayed(fit_rows)(estimator, X, y, train, sample_weight)
            for train, _ in splits
        )
        return models
    extra = {} if sample_weight is None else {"sample_weight": sample_weight}
    models = list(clone(estimator).fit_folds(X, y, splits, **extra))
    if len(models) != len(splits):
        raise ValueError(
            f"{type(estimator).__name__}.fit_folds gave {len(models)} models for "
            f"{len(splits)} splits: it must give one for each, in their order."
        )
    return models


def fit_rows(
    estimator: Any, X: Any, y: Any, rows: Any, sample_weight: FloatArray | None
) -> Any:
    """Return a clone that was fitted on some of the rows.

    Parameters
    ----------
    estimator : estimator
        Never changed; a frozen one comes back as it is.
    X, y : array-like
        All rows.
    rows : array-like of int
        Numbers of the rows to train on.
    sample_weight : ndarray of shape (n_samples,) or None
        Weights of all rows.

    Returns
    -------
    estimator
        Fitted.
    """
    weight = None if sample_weight is None else sample_weight[rows]
    return clone_and_fit(estimator, _safe_indexing(X, rows), y[rows], weight)


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
