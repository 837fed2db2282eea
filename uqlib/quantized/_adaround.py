r"""AdaRound: places between neighbors that a growing penalty drives to 0 or 1.

A place is a sigmoid stretched beyond both ends and cut there,

    h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1),

so that it reaches them. The descent minimizes

    L(h) + lam sum_j c_j (1 - |2 h_j - 1|^beta)

over V. The penalty is 0 where all choices are made. With a large beta it is flat but
next to 0 and 1, and holds what is there; beta falls, and the others follow. It sets in
after the first fifth of the steps, in which weights move only to repair those that lie
beyond the grid.

The paper counts all penalties alike, in the units of the outputs, with lam = 0.01. Here
each is counted in the cost c_j of its own choice (see `_learned_interpolation`), and
with it lam = 1. Adam does not see that the gradient is taken over c_j.
"""

import numpy as np
from scipy.special import expit

from uqlib._typing import FloatArray
from uqlib.quantized._adam import Adam
from uqlib.quantized._learned_interpolation import Interpolation

N_STEPS = 2000
PENALTY = 1.0
RATE = 0.1
WARM_UP = 0.2  # of the steps
BETAS = (20.0, 2.0)
_STRETCH = 0.1  # of the sigmoid, beyond both ends


def adaround_place(between: Interpolation, n_steps: int = N_STEPS) -> FloatArray:
    """Return the places that AdaRound finds.

    Parameters
    ----------
    between : Interpolation
        Of a layer.
    n_steps : int, default=2000
        Steps of Adam.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        In [0, 1]. With no steps, those of the weights.
    """
    logit = logits(between.target)
    descent = Adam(logit.shape)
    for step in range(n_steps):
        beta = penalty_exponent(step / n_steps)
        descent.move(logit, objective_gradient(between, logit, beta), RATE)
    return places(logit)


def places(logit: FloatArray) -> FloatArray:
    """Return h(V).

    Parameters
    ----------
    logit : ndarray of shape (n_out, n_in)
        V.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        In [0, 1].
    """
    stretched = (1 + 2 * _STRETCH) * expit(logit) - _STRETCH
    place: FloatArray = np.clip(stretched, 0.0, 1.0)
    return place


def logits(place: FloatArray) -> FloatArray:
    """Return the V of places.

    Parameters
    ----------
    place : ndarray of shape (n_out, n_in)
        In [0, 1].

    Returns
    -------
    ndarray of shape (n_out, n_in)
        Finite.
    """
    return np.log((place + _STRETCH) / (1 + _STRETCH - place))


def penalty_exponent(progress: float) -> float | None:
    """Return beta.

    Parameters
    ----------
    progress : float
        Share of the steps that are done, in [0, 1].

    Returns
    -------
    float or None
        None while there is no penalty.
    """
    if progress < WARM_UP:
        return None
    first, last = BETAS
    return first + (last - first) * (progress - WARM_UP) / (1 - WARM_UP)


def objective_gradient(
    between: Interpolation, logit: FloatArray, beta: float | None
) -> FloatArray:
    """Return the gradient of losses and penalties by V, over the costs.

    Parameters
    ----------
    between : Interpolation
        Of a layer.
    logit : ndarray of shape (n_out, n_in)
        V.
    beta : float or None
        Exponent of the penalty; None for no penalty.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        0 where a place is 0 or 1, and where there is no choice.
    """
    place = places(logit)
    by_place = between.gradient(place)
    if beta is not None:
        side = 2 * place - 1
        rise = np.sign(side) * np.abs(side) ** (beta - 1)
        by_place = by_place - 2 * PENALTY * beta * rise
    moves = between.free & (place > 0) & (place < 1)
    sigmoid = expit(logit)
    slope = (1 + 2 * _STRETCH) * sigmoid * (1 - sigmoid)
    return np.where(moves, by_place * slope, 0.0)
