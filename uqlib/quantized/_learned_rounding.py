r"""Rounding that is learned on the layer: the one door to three methods.

All three descend on the loss of the layer, tr(E G E^T), whose gradient 2 E G is known:
neither the rows of calibration nor automatic differentiation is needed.

==========  =====================================  ==================================
method      what is learned                        start
==========  =====================================  ==================================
adaround    a place between the two neighbors      the weights
flexround   what a weight is divided by, scales    nearest values
discquant   a place between the two neighbors      random
==========  =====================================  ==================================

What is learned is judged by the loss as it would be stored, and no row is returned that
is worse than rounding it to nearest. The papers of AdaRound and FlexRound descend on
the outputs of a layer or block, which is this loss; that of DiscQuant on the divergence
of the outputs of the network, which needs the network.
"""

from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from uqlib.quantized._adaround import adaround_place
from uqlib.quantized._discquant import discquant_place
from uqlib.quantized._flexround import flexround_codes
from uqlib.quantized._gptq import live_inputs
from uqlib.quantized._grid import Codes, Grid
from uqlib.quantized._learned_interpolation import Interpolation, better_rows
from uqlib.quantized._problem import LayerProblem


def learned_codes(
    problem: LayerProblem, grid: Grid, method: str, random_state: Any
) -> tuple[Codes, Grid]:
    """Return codes that a descent on the loss of a layer finds, and their grid.

    Parameters
    ----------
    problem : LayerProblem
        Target and Gram matrix; fewer rows than inputs are legal.
    grid : Grid
        Legal values.
    method : {"adaround", "flexround", "discquant"}
        What is learned.
    random_state : RandomState, int or None
        For the start of "discquant".

    Returns
    -------
    codes : ndarray of shape (n_out, n_in)
        Codes, uint8, in C order; dead inputs have their nearest values. No row has a
        larger loss than its nearest values on the grid that is returned, nor than those
        on `grid`, unless "flexround" learns one scale for all rows: then this holds for
        their sum.
    grid : Grid
        `grid` itself, but for "flexround" with other scales in the same type.

    References
    ----------
    Nagel et al. (2020), arXiv:2004.10568 (adaround).
    Lee et al. (2023), arXiv:2306.00317 (flexround).
    Chee et al. (2025), arXiv:2501.06417 (discquant).
    """
    if method == "flexround":
        codes, grid = flexround_codes(problem, grid)
    else:
        between = Interpolation.of(problem, grid)
        if method == "adaround":
            codes = between.codes(adaround_place(between))
        else:
            rng = check_random_state(random_state)
            codes = between.codes(discquant_place(between, rng))
    nearest = grid.encode(problem.weight)
    codes = np.where(live_inputs(problem.gram), codes, nearest)
    codes = better_rows(problem, grid, codes, nearest)
    return np.ascontiguousarray(codes), grid
