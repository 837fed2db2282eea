"""The shape phi of a rank score that an estimator asks for, one for each side."""

from numbers import Integral
from typing import Any

import numpy as np

from uqlib._core.rank_grid import NAMED_GRID, integer_grid, normal_shape
from uqlib._typing import FloatArray

NAMES = ("rank", "normal", "train")


def check_shape(phi: Any, kappa: Any, grid: Any) -> None:
    """Refuse a shape by an unknown name and numbers out of their range."""
    if phi not in NAMES if isinstance(phi, str) else np.ndim(phi) != 1:
        raise ValueError(
            f"phi={phi!r} must be one of {', '.join(map(repr, NAMES))} or an array of "
            "one integer for each gap, n_calibration_ + 1 in all."
        )
    if not 0 <= kappa < np.inf:
        raise ValueError(
            f"kappa={kappa!r} must be finite and at least 0. Pass 0 for no penalty."
        )
    if isinstance(grid, bool) or not isinstance(grid, Integral) or grid < 1:
        raise ValueError(
            f"grid={grid!r} must be an integer of at least 1. 500 is fine enough."
        )


def is_train(phi: Any) -> bool:
    """Whether the shape is that of the training scores."""
    return isinstance(phi, str) and phi == "train"


def check_training(phi: Any, training: FloatArray | None) -> None:
    """Refuse the shape of training scores where there are none."""
    if is_train(phi) and training is None:
        raise ValueError(
            "phi='train' takes the shape of the training scores, and there are none: "
            "the estimator was fitted with another phi, or is frozen. Call fit with "
            "phi='train', or pass an array, phi='normal' or phi='rank'."
        )


def side_shape(
    phi: Any,
    n: int,
    kappa: float,
    grid: int,
    training: FloatArray | None,
    end: float,
    side: str,
) -> Any:
    """Return the phi of one side, as `batch_bound` takes it.

    A lower side looks at -S, so that it needs the shape of the mirrored training
    scores; the other shapes are their own mirror images, and arrays are the user's.
    """
    if not isinstance(phi, str):
        return phi
    if phi == "rank" and not kappa:
        return phi
    if phi == "normal" and not kappa and grid == NAMED_GRID:
        return phi
    shape, slope = _quantiles(phi, n, training, side)
    open_end = bool(np.isinf(end))
    if phi == "train" and not open_end:
        # The last gap reaches the end of the range, so that is what it costs.
        shape = np.append(shape[:-1], max(shape[-1], end if side == "upper" else -end))
    return integer_grid(shape, grid, kappa=kappa, slope=slope, open_end=open_end)


def _quantiles(
    phi: str, n: int, training: FloatArray | None, side: str
) -> tuple[FloatArray, FloatArray | None]:
    levels = (np.arange(n + 1) + 0.5) / (n + 1)
    if phi == "rank":
        return levels, np.ones(n + 1)
    if phi == "normal":
        return normal_shape(n)
    check_training(phi, training)
    # Any phi is valid that has not seen the calibration rows: a quantile by
    # interpolation will do.
    shape = np.quantile(training, levels)
    return (shape if side == "upper" else -shape[::-1]), None
