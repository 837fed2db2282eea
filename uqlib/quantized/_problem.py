r"""What the rounding of one layer minimizes.

A layer y = W x + b sees the rows X of calibration. With the legal matrix What in the
place of the target W the mean squared change of its outputs is

    L(What) = tr(E G E^T),     E = What - W,     G = X^T R X / sum(r),

with r the weights of the rows. All rounding works on G alone: no row is kept.

Target "fp". When the layers before are quantized already, their outputs are Xq where
the float model had Xf. The matrix that best repeats the float layer on what it will
really see is ordinary ridge regression toward W,

    W* = (W Xf^T R Xq / sum(r) + lam W) (Xq^T R Xq / sum(r) + lam I)^{-1},

and since L is quadratic, the best legal matrix is the one next to W* in the metric of
G = Xq^T R Xq. With Xq = Xf it is W itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from uqlib._typing import FloatArray

RIDGE = 0.01  # of the mean diagonal of the Gram matrix


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """Find the legal matrix next to `weight` in the metric of `gram`.

    Parameters
    ----------
    weight : ndarray of shape (n_out, n_in)
        The target, float64.
    gram : ndarray of shape (n_in, n_in)
        Weighted mean of x x^T, float64. A zero on the diagonal: the input is dead.
    n_rows : int
        Rows that it was made of.
    """

    weight: FloatArray
    gram: FloatArray
    n_rows: int

    def loss(self, candidate: FloatArray) -> float:
        """Return the mean squared change of the outputs, summed over the outputs.

        Parameters
        ----------
        candidate : ndarray of shape (n_out, n_in)
            Weights in the place of the target.

        Returns
        -------
        float
            At least 0.
        """
        error = candidate - self.weight
        return float(np.einsum("oi,oi->", error @ self.gram, error))


@dataclass(frozen=True, eq=False)
class InputMoments:
    """Weighted moments of what enters a layer, quantized (q) and in float (f).

    Parameters
    ----------
    gram : ndarray of shape (n_in, n_in)
        Mean of q q^T.
    cross : ndarray of shape (n_in, n_in)
        Mean of f q^T.
    mean_quantized, mean_float : ndarray of shape (n_in,)
        Means of q and of f.
    absolute_max : ndarray of shape (n_in,)
        Largest abs(q).
    n_rows : int
        Number of rows.
    """

    gram: FloatArray
    cross: FloatArray
    mean_quantized: FloatArray
    mean_float: FloatArray
    absolute_max: FloatArray
    n_rows: int


def input_moments(
    chunks: Iterable[tuple[FloatArray, FloatArray, Any]], n_in: int
) -> InputMoments:
    """Return the moments of the inputs of a layer, a few rows at a time.

    Parameters
    ----------
    chunks : iterable of (quantized, float, row weight)
        Two arrays of shape (n_rows, n_in), and an array of shape (n_rows,) or None.
    n_in : int
        Number of inputs.

    Returns
    -------
    InputMoments
        Float64.
    """
    gram, cross = np.zeros((n_in, n_in)), np.zeros((n_in, n_in))
    mean_q, mean_f, largest = np.zeros(n_in), np.zeros(n_in), np.zeros(n_in)
    total, n_rows = 0.0, 0
    for quantized, exact, weight in chunks:
        q, f = quantized.astype(np.float64), exact.astype(np.float64)
        r = np.ones(len(q)) if weight is None else np.asarray(weight, np.float64)
        weighted = q * r[:, None]
        gram += weighted.T @ q
        cross += f.T @ weighted
        mean_q += r @ q
        mean_f += r @ f
        largest = np.maximum(largest, np.abs(q).max(axis=0, initial=0.0))
        total, n_rows = total + float(r.sum()), n_rows + len(q)
    total = total or 1.0
    return InputMoments(
        gram / total, cross / total, mean_q / total, mean_f / total, largest, n_rows
    )


def layer_problem(
    weight: FloatArray, moments: InputMoments, target: str
) -> LayerProblem:
    """Return the problem of one layer.

    Parameters
    ----------
    weight : ndarray of shape (n_out, n_in)
        Weights of the float model.
    moments : InputMoments
        Of its inputs.
    target : {"fp", "quantized"}
        "fp" repeats the outputs of the float model, "quantized" those of the float
        weights on the inputs as the quantized layers before give them.

    Returns
    -------
    LayerProblem
        With the target that this stands for.
    """
    weight = weight.astype(np.float64)
    if target == "quantized" or np.array_equal(moments.gram, moments.cross):
        return LayerProblem(weight, moments.gram, moments.n_rows)
    ridge = RIDGE * float(np.mean(np.diag(moments.gram)))
    if ridge == 0:  # no input is ever anything but 0
        return LayerProblem(weight, moments.gram, moments.n_rows)
    damped = moments.gram + ridge * np.eye(len(moments.gram))
    right = weight @ moments.cross + ridge * weight
    solved = cho_solve(cho_factor(damped), right.T).T
    return LayerProblem(solved, moments.gram, moments.n_rows)
