"""Kernels of the distance between rows: their weights, draws and bandwidths."""

from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np

from uqlib._typing import FloatArray

_MEDIAN_ROWS = 1_000  # whose pairs tell the median distance


class GaussianKernel:
    """K = exp(-u^2 / 2) at the distance u, in bandwidths."""

    def log_weight(self, u: FloatArray) -> FloatArray:
        """Return log K at distances u, of the same shape."""
        return np.asarray(-0.5 * u * u)

    def draw(self, n_rows: int, n_columns: int, rng: np.random.Generator) -> FloatArray:
        """Return draws from the density K, shape (n_rows, n_columns)."""
        return rng.standard_normal((n_rows, n_columns))


class BoxKernel:
    """K = 1 within a distance of 1, else 0."""

    def log_weight(self, u: FloatArray) -> FloatArray:
        """Return log K at distances u, of the same shape."""
        return np.where(u <= 1.0, 0.0, -np.inf)

    def draw(self, n_rows: int, n_columns: int, rng: np.random.Generator) -> FloatArray:
        """Return uniform draws from the unit ball, shape (n_rows, n_columns)."""
        direction = rng.standard_normal((n_rows, n_columns))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        radius = rng.uniform(size=(n_rows, 1)) ** (1.0 / n_columns)
        # A little inside, so that no rounding leaves a new row without weight.
        return np.asarray((1.0 - 1e-12) * radius * direction)


class RadialKernel:
    """A function of the distance in bandwidths that the user gave.

    Parameters
    ----------
    function : callable
        Distances of any shape to weights of that shape, finite and at least 0.
    """

    def __init__(self, function: Callable[[FloatArray], Any]) -> None:
        self.function = function

    def log_weight(self, u: FloatArray) -> FloatArray:
        """Return log K at distances u, of the same shape."""
        weight = np.asarray(self.function(u), dtype=np.float64)
        # A comparison with NaN is false, so that NaN is refused too.
        if weight.shape != u.shape or not ((weight >= 0) & (weight < np.inf)).all():
            raise ValueError(
                "kernel must turn an array of distances into finite weights >= 0 of "
                f"the same shape {u.shape}; it gave shape {weight.shape}, or a weight "
                "that is negative, infinite or NaN."
            )
        with np.errstate(divide="ignore"):
            return np.log(weight)


KERNELS = {"box": BoxKernel, "gaussian": GaussianKernel}


def resolve_kernel(kernel: Any) -> Any:
    """Return the kernel of a name or of a function of the distance.

    Parameters
    ----------
    kernel : {"gaussian", "box"} or callable
        What the user gave.

    Returns
    -------
    object
        With `log_weight`, and `draw` where draws are possible.
    """
    if isinstance(kernel, str) and kernel in KERNELS:
        return KERNELS[kernel]()
    if callable(kernel) and not isinstance(kernel, type):
        return RadialKernel(kernel)
    raise ValueError(
        f"kernel={kernel!r} must be one of {sorted(KERNELS)} or a function of the "
        "distance in bandwidths."
    )


def draw_offsets(
    kernel: Any, n_rows: int, n_columns: int, rng: np.random.Generator
) -> FloatArray:
    """Return how far the random centers lie from the new rows, in bandwidths.

    Parameters
    ----------
    kernel : object
        As `resolve_kernel` returns it.
    n_rows, n_columns : int
        Numbers of new rows and of features.
    rng : numpy.random.Generator
        Draws them.

    Returns
    -------
    ndarray of shape (n_rows, n_columns)
        Independent draws from the density K.
    """
    if not hasattr(kernel, "draw"):
        raise ValueError(
            "A randomized center cannot be drawn from a kernel that is a function: "
            f"pass one of {sorted(KERNELS)}, or do without randomization."
        )
    return np.asarray(kernel.draw(n_rows, n_columns, rng))


def check_bandwidth(bandwidth: Any) -> float:
    """Return a positive bandwidth, or say what is wrong.

    Parameters
    ----------
    bandwidth : float
        What the user gave; infinity is legal.

    Returns
    -------
    float
        The bandwidth.
    """
    if isinstance(bandwidth, bool) or not isinstance(bandwidth, Real):
        raise ValueError(f"bandwidth must be a positive number, got {bandwidth!r}.")
    value = float(bandwidth)
    if not value > 0:
        raise ValueError(
            f"bandwidth must be positive, got {bandwidth!r}. It is a distance in the "
            "units of the features; a large one weighs all rows alike."
        )
    return value


def median_distance(features: FloatArray) -> float:
    """Return the median distance between rows that differ; 1 if none do.

    Parameters
    ----------
    features : ndarray of shape (n_rows, n_features)
        Finite. Of more than 1,000 rows, evenly spaced ones are taken.

    Returns
    -------
    float
        Positive.
    """
    rows = features[:: -(-len(features) // _MEDIAN_ROWS) or 1]
    distance = distances_between(rows, rows)
    positive = distance[np.triu_indices(len(rows), 1)]
    positive = positive[positive > 0]
    return float(np.median(positive)) if positive.size else 1.0


def distances_between(rows: FloatArray, others: FloatArray) -> FloatArray:
    """Return the Euclidean distances of all pairs.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)
        Finite.
    others : ndarray of shape (n_others, n_features)
        Finite.

    Returns
    -------
    ndarray of shape (n_rows, n_others)
        The distances, +inf where they leave the range of floats.
    """
    # Column by column: rows that are equal get a distance of exactly 0.
    squared = np.zeros((len(rows), len(others)))
    with np.errstate(over="ignore", invalid="ignore"):
        for column, other in zip(rows.T, others.T, strict=True):
            difference = column[:, None] - other
            squared += np.multiply(difference, difference, out=difference)
    squared[np.isnan(squared)] = np.inf  # places that are both out of range
    return np.asarray(np.sqrt(squared, out=squared))
