r"""Round the columns of a layer one by one, each repairing the errors before it.

With the Gram matrix factored as G = R R^T, R upper triangular, the loss is

    tr(E G E^T) = |E R|^2 = sum_j |(E R)_j|^2,     (E R)_j = sum_{i <= j} E_i R_ij ,

columns E_i = What_i - W_i. Term j holds the columns up to j only. So the columns are
rounded in their order, and column j makes its own term as small as the grid allows,

    What_j = nearest(W_j - sum_{i < j} E_i R_ij / R_jj) .

This is the column that GPTQ reaches by updating all columns to come through the factor
of G^{-1} (arXiv:2210.17323): given E_i for i < j, both stand where all later terms can
still be made zero. Here no inverse is formed and nothing is updated: the sum over past
blocks of columns is one matrix product, that over the own block goes column by column.
What the early columns leave behind the later ones repair, so the inputs that weigh most
go first (act-order). Scales belong to the columns and go with them.
"""

import numpy as np
from scipy.linalg import LinAlgError, cholesky

from uqlib._typing import BoolArray, FloatArray
from uqlib.exceptions import QuantizationWarning, warn_user
from uqlib.quantized._grid import Codes, Grid
from uqlib.quantized._problem import LayerProblem

DAMPING = (0.01, 0.1, 1.0)  # of the mean diagonal of the Gram matrix
_DEAD = 1e-30  # of the largest diagonal: below it, an input is lost in rounding errors


def gptq_codes(
    problem: LayerProblem, grid: Grid, *, act_order: bool = True, block_size: int = 128
) -> Codes:
    """Return the codes that GPTQ gives.

    Parameters
    ----------
    problem : LayerProblem
        Target and Gram matrix; fewer rows than inputs are legal.
    grid : Grid
        Legal values, the same for every order of the columns.
    act_order : bool, default=True
        Whether inputs with the largest mean square come first.
    block_size : int, default=128
        Columns between two matrix products; no code depends on it but through the
        rounding errors of floats.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        Codes, uint8. Dead inputs are rounded to nearest.

    Warns
    -----
    QuantizationWarning
        If the Gram matrix has no Cholesky factor at the first damping.
    """
    n_in = len(problem.gram)
    order = np.arange(n_in)
    if act_order:
        order = np.argsort(-np.diag(problem.gram), kind="stable")
    factor = _unit_factor(problem.gram[np.ix_(order, order)])
    if factor is None:
        return grid.encode(problem.weight)
    target = np.ascontiguousarray(problem.weight[:, order].T)
    error = np.empty_like(target)  # column k of What - W is row k
    codes = np.empty(problem.weight.shape, dtype=np.uint8)
    for first in range(0, n_in, block_size):
        block = slice(first, first + block_size)
        wanted = target[block] - factor[:first, block].T @ error[:first]
        for k, row in enumerate(wanted, start=first):
            row -= factor[first:k, k] @ error[first:k]
            column = order[k : k + 1]
            codes[:, column] = grid.encode(row[:, None], column)
            error[k] = grid.decode(codes[:, column], column)[:, 0] - target[k]
    return codes


def live_inputs(gram: FloatArray) -> BoolArray:
    """Return which inputs of a layer are ever anything but 0.

    Parameters
    ----------
    gram : ndarray of shape (n_in, n_in)
        Mean of x x^T.

    Returns
    -------
    ndarray of shape (n_in,)
        False where rounding can change no output.
    """
    size = np.diag(gram)
    live: BoolArray = size > _DEAD * size.max(initial=0.0)
    return live


def _unit_factor(gram: FloatArray) -> FloatArray | None:
    """Return R with its columns divided by their diagonal, or None if G has none.

    With J the reversal of the order, J G J = L L^T gives R = J L J.
    """
    live = live_inputs(gram)
    if not live.any():
        return np.eye(len(gram))
    size = float(np.mean(np.diag(gram)[live]))
    scaled = np.where(live & live[:, None], gram / size, 0.0)
    scaled[~live, ~live] = 1.0
    for damping in DAMPING:
        try:
            damped = scaled + damping * np.eye(len(gram))
            lower = cholesky(damped[::-1, ::-1], lower=True)
        except LinAlgError:
            continue
        if damping > DAMPING[0]:
            _warn(f"was damped by {damping} of its mean diagonal")
        upper: FloatArray = lower[::-1, ::-1]
        return upper / np.diag(upper)
    _warn("has no Cholesky factor, so that the layer is rounded to nearest")
    return None


def _warn(what: str) -> None:
    warn_user(
        f"The Gram matrix of the inputs of a layer {what}: it is not positive "
        "semidefinite. Calibrate on more rows and with weights of at least 0.",
        QuantizationWarning,
    )
