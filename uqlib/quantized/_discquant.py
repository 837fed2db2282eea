r"""DiscQuant: from random places along a line to the corners of the cube of choices.

Of the 0-1 vectors x that leave the outputs as they are, the method seeks the one next
to the place y of the weights. On such vectors x_j^2 = x_j, so that up to a constant

    |x - y|^2 = -<2y - 1, x>,

which is linear: with few directions that matter, its least value over the x in [0, 1]^n
of equal outputs lies at a corner, where nearly all x_j are 0 or 1. The descent follows

    -(2y - 1) + clip(rho grad L(x), -c, c)

from x uniform at random, is put back into [0, 1]^n after each step, and rounds what it
ends at.

Three things differ from the paper. L is the loss of the layer, where the paper has the
divergence of the outputs of the network. Each x_j is weighed by the cost c_j of its
choice (see `_learned_interpolation`), so that what is small is sum_j c_j (x_j - y_j)^2,
the loss itself if no inputs were correlated. And a row has no more weights than the
layer has inputs: all directions may matter, and then the best x lies inside the cube,
with many x_j at neither end. But on 0-1 vectors x_j (1 - x_j) is 0, and adding it
changes no value there. So while the descent goes on, from t = 0 to t = 1, the linear
term gives way to one that has its minima at the corners,

    (1 - t) (-(2y - 1)) - t k (2x - 1) ,

in the end, with k > c, the stronger one wherever x_j is not near 1/2.
"""

import numpy as np

from uqlib._typing import FloatArray
from uqlib.quantized._adam import Adam
from uqlib.quantized._learned_interpolation import Interpolation

N_STEPS = 1024
RATE = 0.1
WARM_UP = 1 / 8  # of the steps
LOSS_WEIGHT = 10.0  # rho
LOSS_LIMIT = 1.0  # c
CORNER_WEIGHT = 6.0  # k


def discquant_place(
    between: Interpolation, rng: np.random.RandomState, n_steps: int = N_STEPS
) -> FloatArray:
    """Return the places that DiscQuant finds.

    Parameters
    ----------
    between : Interpolation
        Of a layer.
    rng : RandomState
        For the start.
    n_steps : int, default=1024
        Steps of Adam.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        In [0, 1]; nearly all near an end (see `Interpolation.settled`).
    """
    place = rng.uniform(size=between.target.shape)
    descent = Adam(place.shape)
    for step in range(n_steps):
        progress = step / n_steps
        slope = search_direction(between, place, progress)
        descent.move(place, slope, rate(progress))
        np.clip(place, 0.0, 1.0, out=place)
    return place


def search_direction(
    between: Interpolation, place: FloatArray, progress: float
) -> FloatArray:
    """Return what takes the place of a gradient.

    Parameters
    ----------
    between : Interpolation
        Of a layer.
    place : ndarray of shape (n_out, n_in)
        In [0, 1].
    progress : float
        Share of the steps that are done, t.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        0 where there is no choice.
    """
    nearest = -(2 * between.target - 1)
    corner = -CORNER_WEIGHT * (2 * place - 1)
    pull = LOSS_WEIGHT * between.gradient(place)
    slope = (1 - progress) * nearest + progress * corner
    slope += np.clip(pull, -LOSS_LIMIT, LOSS_LIMIT)
    return np.where(between.free, slope, 0.0)


def rate(progress: float) -> float:
    """Return the size of a step: rising at first, then half a wave of a cosine.

    Parameters
    ----------
    progress : float
        Share of the steps that are done, in [0, 1].

    Returns
    -------
    float
        From 0 to 0.1 and back.
    """
    if progress < WARM_UP:
        return RATE * progress / WARM_UP
    return float(RATE * (1 + np.cos(np.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2)
