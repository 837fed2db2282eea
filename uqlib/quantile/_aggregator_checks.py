"""Parameters of `QuantileAggregator`, and the levels of a Z that does not name them."""

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import check_scalar

from uqlib._core.aggregation import RESOLUTIONS
from uqlib._core.checks import check_choice
from uqlib._core.levels import check_quantiles, levels_from_names
from uqlib._core.weight_program import CONSTRAINTS
from uqlib._typing import FloatArray
from uqlib.exceptions import UncertaintyWarning, warn_user
from uqlib.quantile._base import (
    DEFAULT_QUANTILES,
    check_hidden,
    check_non_crossing,
)

_CHOICES = {
    "resolution": RESOLUTIONS,
    "constraint": CONSTRAINTS,
    "solver": ("auto", "interior_point", "torch"),
    "crossing_pairs": ("neighbors", "all"),
}
# Smallest and largest value, and which of them are allowed themselves.
_COUNTS = {"n_models": 1, "bandwidth": 0, "max_iter": 1}
_NUMBERS = {
    "dropout": (0, 1, "left"),
    "learning_rate": (0, None, "neither"),
    "validation_fraction": (0, 1, "neither"),
    "crossing_penalty": (0, None, "left"),
}


def check_parameters(aggregator: Any) -> None:
    """Refuse parameters that are out of range or do not go together.

    Parameters
    ----------
    aggregator : QuantileAggregator
        Its constructor parameters are looked at.
    """
    parameters = aggregator.get_params(deep=False)
    for name, allowed in _CHOICES.items():
        check_choice(name, parameters[name], allowed)
    check_non_crossing(aggregator.non_crossing)
    for name, least in _COUNTS.items():
        if parameters[name] is not None:
            check_scalar(parameters[name], name, Integral, min_val=least)
    for name, (low, high, included) in _NUMBERS.items():
        check_scalar(
            parameters[name],
            name,
            Real,
            min_val=low,
            max_val=high,
            include_boundaries=included,
        )
        if np.isnan(parameters[name]):
            raise ValueError(f"{name} must be a number, got nan.")
    check_hidden(aggregator.hidden)
    _check_combination(aggregator)


def _check_combination(aggregator: Any) -> None:
    networks = aggregator.local or aggregator.solver == "torch"
    if networks and aggregator.resolution in ("average", "median"):
        raise ValueError(
            f"resolution={aggregator.resolution!r} learns nothing: with local=True or "
            "solver='torch' take 'coarse', 'medium' or 'fine'."
        )
    if aggregator.local and aggregator.solver == "interior_point":
        raise ValueError(
            "solver='interior_point' cannot train networks: with local=True take "
            "'auto' or 'torch'."
        )
    if networks and np.isinf(aggregator.crossing_penalty):
        raise ValueError(
            "crossing_penalty=inf is a constraint, which networks cannot keep. Take a "
            "finite penalty, or non_crossing='sort'."
        )


def input_axes(
    n_columns: int,
    axes: tuple[int, ...] | None,
    names: Any,
    n_models: int | None,
    quantiles: Any,
) -> tuple[int, FloatArray]:
    """Return the number of models of Z and its levels.

    Parameters
    ----------
    n_columns : int
        Number of columns of Z, its models side by side.
    axes : tuple of int or None
        Number of models and of levels of a three-dimensional Z.
    names : sequence of str
        Names of its columns; empty if there are none.
    n_models : int or None
        The parameter.
    quantiles : array-like of shape (n_quantiles,) or None
        The parameter.

    Returns
    -------
    n_models : int
        Number of models.
    quantiles : ndarray of shape (n_quantiles,)
        The levels.
    """
    if axes is not None and n_models not in (None, axes[0]):
        raise ValueError(
            f"n_models={n_models} but Z has {axes[0]} models. Leave n_models out: a "
            "three-dimensional Z says it."
        )
    given = n_models if axes is None else axes[0]
    if quantiles is not None:
        levels = check_quantiles(quantiles)
    elif given is not None and n_columns % given == 0:
        levels = _unnamed_levels(names, n_columns // given)
    else:
        raise ValueError(
            f"The levels of Z with {n_columns} columns are unknown for "
            f"n_models={given}. Pass quantiles=, or n_models= that divides the number "
            "of columns."
        )
    found = n_columns // levels.size if given is None else given
    fits = axes is None or axes[1] == levels.size
    if found * levels.size != n_columns or not fits:
        raise ValueError(
            f"Z with {n_columns} columns does not hold {levels.size} levels of "
            f"{given or 'some number of'} models. Z must have shape (n_samples, "
            "n_models, n_quantiles) or (n_samples, n_models * n_quantiles): pass the "
            "levels of its columns as quantiles=."
        )
    return found, levels


def _unnamed_levels(names: Any, n_quantiles: int) -> FloatArray:
    # Levels that nobody gave: from column names, the defaults, or a guess.
    named = levels_from_names(list(names)[:n_quantiles])
    if named is not None:
        return named
    if n_quantiles == len(DEFAULT_QUANTILES):
        return check_quantiles(DEFAULT_QUANTILES)
    levels = np.arange(1, n_quantiles + 1) / (n_quantiles + 1)
    warn_user(
        f"The levels of Z are unknown; {n_quantiles} equally spaced ones are taken, "
        f"from {levels[0]:.4g} to {levels[-1]:.4g}. Pass the true ones as quantiles=.",
        UncertaintyWarning,
    )
    return levels
