"""Parameters of `TorchQuantileRegressor`, and the calibration of its levels."""

from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.special import bdtr, bdtrc
from sklearn.utils import check_scalar

from uqlib._core.checks import check_choice
from uqlib._core.crossing import margin_offsets
from uqlib._typing import BoolArray, FloatArray
from uqlib.exceptions import UncertaintyWarning, warn_user
from uqlib.quantile._base import check_hidden, check_non_crossing

_CHOICES = {
    "head": ("quantiles", "softplus", "gaussian"),
    "crossing_pairs": ("neighbors", "all"),
}
# Smallest and largest value, and which of them are allowed themselves.
_NUMBERS = {
    "dropout": (0, 1, "left"),
    "crossing_penalty": (0, None, "left"),
    "learning_rate": (0, None, "neither"),
    "weight_decay": (0, None, "left"),
    "validation_fraction": (0, 1, "neither"),
}
_COUNTS = ("max_iter", "n_iter_no_change")
# How often a calibrated network may be called uncalibrated, over all levels.
_FALSE_ALARM = 1e-6
# Levels beyond this one and its mirror image need more rows than many data sets have:
# whoever asks for them is told when the held-out rows cannot judge them.
_EXTREME = 0.05


def check_parameters(regressor: Any) -> None:
    """Refuse parameters that are out of range or do not go together.

    Parameters
    ----------
    regressor : TorchQuantileRegressor
        Its constructor parameters are looked at.
    """
    parameters = regressor.get_params(deep=False)
    for name, allowed in _CHOICES.items():
        check_choice(name, parameters[name], allowed)
    check_non_crossing(regressor.non_crossing)
    for name, (low, high, included) in _NUMBERS.items():
        bounds = {"min_val": low, "max_val": high, "include_boundaries": included}
        check_scalar(parameters[name], name, Real, **bounds)
        if not np.isfinite(parameters[name]):
            raise ValueError(f"{name} must be finite, got {parameters[name]!r}.")
    for name in _COUNTS:
        check_scalar(parameters[name], name, Integral, min_val=1)
    if regressor.batch_size != "auto":
        check_scalar(regressor.batch_size, "batch_size", Integral, min_val=1)
    check_hidden(regressor.hidden)
    margin_offsets(regressor.margin, np.array([0.5]), np.zeros(1))
    _check_combination(regressor)


def _check_combination(regressor: Any) -> None:
    head = regressor.head
    if regressor.tau_input and head != "quantiles":
        raise ValueError(
            f"tau_input=True gives one quantile for the level put in, which head="
            f"{head!r} does not. Take head='quantiles' or tau_input=False."
        )
    if regressor.crossing_penalty > 0 and head == "gaussian":
        raise ValueError(
            "crossing_penalty does not count with head='gaussian', whose quantiles "
            "cannot cross. Set crossing_penalty=0."
        )


def check_calibration(
    y: FloatArray, q: FloatArray, levels: FloatArray, weight: FloatArray | None
) -> FloatArray:
    r"""Return the share of targets at or below each quantile, and warn where it is off.

    If level tau is calibrated, P(y < q) <= tau <= P(y <= q): of n independent rows the
    number with y <= q is then, stochastically, at least binomial (n, tau), and the
    number with y < q at most. A level is called off when either number has a tail
    probability below `_FALSE_ALARM` over twice the number of levels.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Held-out targets.
    q : ndarray of shape (n_samples, n_quantiles)
        Their quantiles.
    levels : ndarray of shape (n_quantiles,)
        The levels.
    weight : ndarray of shape (n_samples,) or None
        Weights of the rows. No binomial law holds with them: nothing is tested.

    Returns
    -------
    ndarray of shape (n_quantiles,)
        Shares in [0, 1].
    """
    n_samples = y.size
    below = y[:, None] <= q
    share = np.average(below, axis=0, weights=weight)
    needed = np.ceil(1 / np.minimum(levels, 1 - levels))
    blind = (needed > n_samples) & (np.abs(levels - 0.5) > 0.5 - _EXTREME + 1e-9)
    if blind.any():
        warn_user(
            f"{n_samples} held-out rows cannot judge the levels "
            f"{levels[blind].tolist()}: about {needed[blind].max():.0f} are needed for "
            "one of them to lie beyond the quantile. Give more rows, increase "
            "validation_fraction, or ask for less extreme levels.",
            UncertaintyWarning,
        )
    if weight is None:
        off = _outside_band(
            below.sum(axis=0), (y[:, None] < q).sum(axis=0), n_samples, levels
        )
        if off.any():
            warn_user(
                f"Of {n_samples} held-out targets the shares "
                f"{share[off].round(4).tolist()} are at or below the quantiles of "
                f"levels {levels[off].tolist()}, which are not calibrated. Give more "
                "rows, regularize (weight_decay, dropout), train longer (max_iter, "
                "n_iter_no_change), or calibrate with ConformalizedQuantileRegressor.",
                UncertaintyWarning,
            )
    return np.asarray(share)


def _outside_band(
    at_most: Any, less: Any, n_samples: int, levels: FloatArray
) -> BoolArray:
    tail = _FALSE_ALARM / (2 * levels.size)
    too_few = bdtr(at_most, n_samples, levels) < tail
    # P(number >= less); bdtrc(k, ...) is P(number > k).
    too_many = (less > 0) & (bdtrc(np.maximum(less - 1, 0), n_samples, levels) < tail)
    return np.asarray(too_few | too_many)
