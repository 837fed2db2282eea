"""Parameters, outputs and labels of `TorchSPAHead`."""

from importlib import import_module
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.special import expit, softmax
from sklearn.utils import check_scalar

from uqlib._class_predictions import label_columns
from uqlib._core.checks import check_choice
from uqlib._core.label_checks import check_proba
from uqlib._core.levels import check_confidence_level
from uqlib._typing import FloatArray

_CHOICES = {
    "task": ("regression", "classification"),
    "outputs": ("logits", "proba"),
    "quantile_loss": ("pinball", "coverage"),
}
_SWITCHES = ("positive", "early_stopping")
# Smallest and largest value, and which of them are allowed themselves.
_NUMBERS = {
    "learning_rate": (0, None, "neither"),
    "weight_decay": (0, None, "left"),
    "validation_fraction": (0, 1, "neither"),
}
_COUNTS = ("max_iter", "n_iter_no_change")


def check_parameters(head: Any) -> None:
    """Refuse parameters that are out of range.

    Parameters
    ----------
    head : TorchSPAHead
        Its constructor parameters are looked at, but for network and feature_layer.
    """
    parameters = head.get_params(deep=False)
    for name, allowed in _CHOICES.items():
        check_choice(name, parameters[name], allowed)
    for name in _SWITCHES:
        check_scalar(parameters[name], name, (bool, np.bool_))
    for name, (low, high, included) in _NUMBERS.items():
        bounds = {"min_val": low, "max_val": high, "include_boundaries": included}
        check_scalar(parameters[name], name, Real, **bounds)
        if not np.isfinite(parameters[name]):
            raise ValueError(f"{name} must be finite, got {parameters[name]!r}.")
    for name in _COUNTS:
        check_scalar(parameters[name], name, Integral, min_val=1)
    if head.batch_size != "auto":
        check_scalar(head.batch_size, "batch_size", Integral, min_val=1)
    _check_hidden(head.hidden)
    check_confidence_level(head.confidence_level)


def require_torch() -> None:
    """Say how to install torch where it is missing."""
    try:
        import_module("torch")
    except ImportError as error:
        raise ImportError(
            "TorchSPAHead needs torch. Install it with: pip install uqlib[torch]"
        ) from error


def check_torch_network(network: Any, feature_layer: Any) -> None:
    """Refuse what is no network, or has no layer of the name asked for.

    Parameters
    ----------
    network, feature_layer : object
        Parameters of `TorchSPAHead`.
    """
    require_torch()
    from uqlib.spa._torch_features import check_network

    check_network(network, feature_layer)


def as_point(outputs: FloatArray) -> FloatArray:
    """Return the outputs of a regression network as points.

    Parameters
    ----------
    outputs : ndarray of shape (n_samples,) or (n_samples, 1)
        What the network gave.

    Returns
    -------
    ndarray of shape (n_samples,)
        The points.
    """
    if outputs.ndim == 1 or outputs.shape[1:] == (1,):
        return outputs.reshape(len(outputs))
    raise ValueError(
        "With task='regression' the network must give one number a row, shape "
        f"(n_samples,) or (n_samples, 1), got {outputs.shape}. For class scores take "
        "task='classification'; wrap a network of several targets so that it gives one."
    )


def as_proba(outputs: FloatArray, kind: str) -> FloatArray:
    """Return the outputs of a classification network as probabilities.

    Parameters
    ----------
    outputs : ndarray of shape (n_samples, n_classes), (n_samples, 1) or (n_samples,)
        What the network gave; one number a row speaks of the second of two classes.
    kind : {"logits", "proba"}
        What it is.

    Returns
    -------
    ndarray of shape (n_samples, n_classes)
        Probabilities.
    """
    if outputs.ndim > 2:
        raise ValueError(
            "With task='classification' the network must give one row of scores for "
            f"each row, shape (n_samples, n_classes), got {outputs.shape}. Wrap it in "
            "a module that does."
        )
    single = outputs.ndim == 1 or outputs.shape[1] == 1
    outputs = outputs.reshape(len(outputs), -1)
    if kind == "logits":
        if single:
            return np.hstack([expit(-outputs), expit(outputs)])
        return np.asarray(softmax(outputs, axis=1))
    if single:
        outputs = np.hstack([1 - outputs, outputs])
    try:
        return check_proba(outputs, "the outputs of the network")
    except ValueError as error:
        error.add_note("If they are scores before a softmax, take outputs='logits'.")
        raise


def find_classes(y: Any, n_classes: int, classes: Any) -> Any:
    """Return the labels of the columns, and the column of each row.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Labels.
    n_classes : int
        Number of columns of the network.
    classes : array-like of shape (n_classes,) or None
        Labels in the order of the columns, if they are given.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        The labels.
    columns : ndarray of int of shape (n_samples,)
        Positions of y among them.
    """
    if classes is not None:
        labels = np.asarray(classes)
        if labels.ndim != 1 or np.unique(labels).size != labels.size:
            raise ValueError(
                f"classes must be distinct labels in one dimension, got {classes!r}."
            )
    else:
        labels, indices = np.unique(y), np.arange(n_classes)
        if labels.dtype.kind in "biuf" and np.isin(labels, indices).all():
            labels = indices  # torch's own labels, of which some may be missing here
    if labels.size != n_classes:
        raise ValueError(
            f"The network has {n_classes} classes, but "
            f"{'y' if classes is None else 'classes'} has {labels.size} labels. Pass "
            "the label of each column of the network as classes=."
        )
    return labels, label_columns(y, labels)


def held_out_rows(n_samples: int, fraction: float | None, random_state: Any) -> Any:
    """Return the rows that choose the state which is kept.

    Parameters
    ----------
    n_samples : int
        Number of rows.
    fraction : float or None
        Share of the rows to hold out, rounded up; None holds out none.
    random_state : RandomState
        Draws them.

    Returns
    -------
    ndarray of bool of shape (n_samples,) or None
        True for those held out; None if no row is.
    """
    if fraction is None:
        return None
    n_held_out = int(np.ceil(fraction * n_samples))
    if n_held_out >= n_samples:
        raise ValueError(
            f"With n_samples={n_samples} and validation_fraction={fraction!r} no row "
            "is left to train on. Give more rows, a smaller fraction, or "
            "early_stopping=False."
        )
    return random_state.permutation(n_samples) < n_held_out


def _check_hidden(hidden: Any) -> None:
    if isinstance(hidden, str) or np.ndim(hidden) != 1:
        raise ValueError(
            f"hidden must be a sequence of widths, got {hidden!r}. Pass for example "
            "hidden=(64,), or () for linear heads."
        )
    for size in hidden:
        check_scalar(size, "hidden", Integral, min_val=1)
