"""Checks shared by the metrics that rank rows by their uncertainty."""

from numbers import Real
from typing import Any

import numpy as np

from uqlib._core.checks import (
    as_1d,
    check_not_a_date,
    check_rows,
    check_sample_weight,
)
from uqlib._core.group_ranks import is_missing
from uqlib._core.selective import TieGroups, tie_groups
from uqlib._typing import BoolArray, FloatArray


def check_groups(
    losses: Any,
    uncertainty: Any,
    sample_weight: Any,
    *,
    finite: bool = False,
    reference: str = "losses",
) -> TieGroups:
    """Return the rows by increasing uncertainty, tied ones together.

    Parameters
    ----------
    losses : array-like of shape (n_samples,)
        At least 0; infinity is legal unless `finite`.
    uncertainty : array-like of shape (n_samples,)
        Without NaN.
    sample_weight : array-like of shape (n_samples,) or None
        One weight a row.
    finite : bool, default=False
        Refuse infinite losses.
    reference : str, default="losses"
        How the error about numbers of rows calls the losses.

    Returns
    -------
    TieGroups
        The groups of rows with weight.
    """
    loss = check_losses(losses)
    value = check_uncertainty(uncertainty, loss.size, reference)
    weight = check_sample_weight(sample_weight, loss.size)
    _check_sums(loss, loss.size if weight is None else float(weight.sum()))
    groups = tie_groups(loss, value, weight)
    if finite and np.isinf(groups.loss).any():
        raise ValueError(
            "losses contains infinity, and two infinite areas have no difference. "
            "Clip the losses at a bound, or use risk_coverage_auc, which is infinite."
        )
    return groups


def check_losses(losses: Any) -> FloatArray:
    """Return non-negative losses, or say which value is none.

    Parameters
    ----------
    losses : array-like of shape (n_samples,)
        Numbers or booleans, infinity included.

    Returns
    -------
    ndarray of shape (n_samples,)
        The losses, float64.
    """
    check_not_a_date(losses, "losses")
    values = as_1d(losses, "losses")
    if values.size and values.min() < 0:
        raise ValueError(
            f"losses must be at least 0, got {float(values.min())!r}. Pass absolute or "
            "squared errors, or 0 and 1 for right and wrong; where a loss has another "
            "lower bound, subtract it."
        )
    return values


def check_uncertainty(uncertainty: Any, n_samples: int, reference: str) -> FloatArray:
    """Return uncertainties without NaN over the rows of a reference.

    Parameters
    ----------
    uncertainty : array-like of shape (n_samples,)
        Infinities are legal.
    n_samples : int
        The number of rows of the reference.
    reference : str
        How the error calls it.

    Returns
    -------
    ndarray of shape (n_samples,)
        The uncertainties, float64.
    """
    check_not_a_date(uncertainty, "uncertainty")
    values = as_1d(uncertainty, "uncertainty")
    check_rows(n_samples, values.size, "uncertainty", reference)
    return values


def check_binary(labels: Any, name: str) -> BoolArray:
    """Return labels of two kinds as booleans.

    Parameters
    ----------
    labels : array-like of shape (n_samples,)
        Booleans, or the numbers 0 and 1.
    name : str
        How the error calls them.

    Returns
    -------
    ndarray of shape (n_samples,)
        True where a label is 1.
    """
    values = np.asarray(labels)
    if values.ndim != 1:
        raise ValueError(
            f"{name} must be 1-D, got an array of shape {values.shape}. Flatten a "
            "column with .ravel()."
        )
    if values.dtype.kind == "O" and any(map(is_missing, values)):
        raise ValueError(f"{name} has missing values. Remove those rows.")
    other = values[~((values == 0) | (values == 1))]
    if other.size:
        raise ValueError(
            f"{name} must hold booleans, or 0 and 1, got {other.tolist()[0]!r}. "
            "Compare to make it so: y_pred == y_true, or score > threshold."
        )
    return np.asarray(values == 1)


def check_row_counts(groups: TieGroups) -> None:
    """Refuse weights that cannot be counts of rows, as weights of sum 1.

    Parameters
    ----------
    groups : TieGroups
        The weighted rows.
    """
    n_rows, total = int(groups.rows.sum()), float(groups.mass.sum())
    if n_rows > 1 and total < 2:
        raise ValueError(
            f"sample_weight counts rows here, but it sums to {total:.6g} over {n_rows} "
            "rows. Scale weights that are no counts to mean 1: "
            "sample_weight / sample_weight.mean()."
        )


def check_share(value: Any, name: str, remedy: str) -> None:
    """Refuse what is no number in (0, 1].

    Parameters
    ----------
    value : float
        The number.
    name : str
        How the error calls it.
    remedy : str
        What the error advises.
    """
    _check_real(value, name, "in (0, 1]")
    if not 0 < float(value) <= 1:
        raise ValueError(f"{name} must lie in (0, 1], got {value!r}. {remedy}")


def check_bound(value: Any, name: str) -> float:
    """Return a number that is at least 0.

    Parameters
    ----------
    value : float
        The number; infinity is legal.
    name : str
        How the error calls it.

    Returns
    -------
    float
        The number.
    """
    _check_real(value, name, "of at least 0")
    if not float(value) >= 0:
        raise ValueError(
            f"{name} must be at least 0, in units of the losses, got {value!r}. Pass "
            "0.05 for an error rate of 5 %."
        )
    return float(value)


def _check_sums(losses: FloatArray, total: float) -> None:
    """Refuse finite losses whose sum may be infinite: two such have no difference."""
    largest = float(losses[np.isfinite(losses)].max(initial=0.0))
    if np.isinf(largest * total):  # Python's floats overflow in silence
        raise ValueError(
            f"losses up to {largest:.6g} with weights of sum {total:.6g} have sums "
            "beyond the largest float. Divide the losses by their maximum."
        )


def _check_real(value: Any, name: str, constraint: str) -> None:
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise TypeError(
            f"{name} must be a real number {constraint}, got {value!r} of type "
            f"{type(value).__name__}."
        )
