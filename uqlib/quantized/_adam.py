r"""Steps of Adam, whose size does not depend on the unit of what is minimized.

With the gradient g_t at step t and its running means

    m_t = b1 m_{t-1} + (1 - b1) g_t,        v_t = b2 v_{t-1} + (1 - b2) g_t^2,

a step is -rate mhat / (sqrt(vhat) + eps), with mhat = m_t / (1 - b1^t) and vhat
likewise, since both means start at 0 (arXiv:1412.6980).
"""

import numpy as np

from uqlib._typing import FloatArray

BETAS = (0.9, 0.999)
_EPSILON = 1e-12  # gradients come in units in which a weight counts about 1


class Adam:
    """Running means of the gradients of one array.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._mean = np.zeros(shape)
        self._square = np.zeros(shape)
        self._n_steps = 0

    def move(self, values: FloatArray, gradient: FloatArray, rate: float) -> None:
        """Take one step.

        Parameters
        ----------
        values : ndarray of the shape of the array
            The array; it is changed.
        gradient : ndarray of the shape of the array
            There.
        rate : float
            About the size of the step of each entry.
        """
        first, second = BETAS
        self._n_steps += 1
        self._mean += (1 - first) * (gradient - self._mean)
        self._square += (1 - second) * (gradient**2 - self._square)
        mean = self._mean / (1 - first**self._n_steps)
        root = np.sqrt(self._square / (1 - second**self._n_steps))
        values -= rate * mean / (root + _EPSILON)
