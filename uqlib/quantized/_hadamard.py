r"""Spread every input over many, so that no single one is large.

With signs D = diag(+-1) drawn at random and the Walsh-Hadamard matrix H of b = 2^k
inputs, whose entries are +-1 and whose rows are orthogonal,

    T = H D / sqrt(b),      T^{-1} = T^T = D H / sqrt(b),

an input alone gives all of T x the same size, abs(x) / sqrt(b), and the signs keep
inputs that go together from adding up. H = [[1, 1], [1, -1]] (x) ... (x) [[1, 1], [1,
-1]], so that k passes over pairs at the distances 1, 2, 4, ... multiply by it.

A number of inputs that is not a power of two is cut into blocks along its binary
expansion, 20 = 16 + 4, each with a T of its own. Padding would mix all inputs but store
weights for the padded ones; blocks store one bit an input, its sign.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from uqlib._typing import FloatArray
from uqlib.quantized._problem import InputMoments
from uqlib.quantized._transforms_loading import loaded_array, loaded_count

_LARGEST = 2**31 - 1


def block_sizes(n_in: int) -> list[int]:
    """Return the powers of two that sum to a number, the largest first.

    Parameters
    ----------
    n_in : int
        Number of inputs, at least 0.

    Returns
    -------
    list of int
        Those of its binary expansion.
    """
    return [1 << k for k in reversed(range(n_in.bit_length())) if n_in >> k & 1]


def walsh_hadamard(x: FloatArray) -> FloatArray:
    """Return the rows H x / sqrt(b).

    Parameters
    ----------
    x : ndarray of shape (n_rows, b)
        With b a power of two.

    Returns
    -------
    ndarray of shape (n_rows, b)
        In the type of x. The map is its own inverse.
    """
    n_rows, size = x.shape
    width = 1
    while width < size:
        pairs = x.reshape(n_rows, size // (2 * width), 2, width)
        first, second = pairs[:, :, :1], pairs[:, :, 1:]
        x = np.concatenate([first + second, first - second], axis=2)
        width *= 2
    rotated: FloatArray = x.reshape(n_rows, size) / float(np.sqrt(size))
    return rotated


@dataclass(frozen=True, eq=False)
class BlockHadamard:
    """Random signs, then a Walsh-Hadamard matrix in every block of inputs.

    Parameters
    ----------
    signs : ndarray of shape (n_in,)
        1 and -1, int8.
    """

    signs: NDArray[np.int8]
    kind = "hadamard"

    @classmethod
    def fit(
        cls, weight: FloatArray, moments: InputMoments, random_state: Any
    ) -> "BlockHadamard":
        """Return a transform with signs drawn at random."""
        drawn = check_random_state(random_state).randint(0, 2, size=weight.shape[1])
        return cls((1 - 2 * drawn).astype(np.int8))

    @classmethod
    def load(
        cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
    ) -> "BlockHadamard":
        """Return the transform of stored arrays and settings."""
        n_in = loaded_count(cls.kind, settings, "n_in", 0, _LARGEST)
        packed = loaded_array(cls.kind, arrays, "signs", 1)
        if packed.dtype != np.uint8 or packed.size != -(-n_in // 8):
            raise ValueError(
                f"{n_in} signs take {-(-n_in // 8)} bytes, got {packed.size} of type "
                f"{packed.dtype}: the file is damaged."
            )
        negative = np.unpackbits(packed, count=n_in).astype(np.int8)
        return cls((1 - 2 * negative).astype(np.int8))

    def inputs(self, x: FloatArray) -> FloatArray:
        """Return the rows T x."""
        return self._rotated(x * self.signs.astype(x.dtype))

    def weight(self, weight: FloatArray) -> FloatArray:
        """Return W T^{-1}: the rows of W turn as those of the inputs do."""
        return self.inputs(weight.astype(np.float64))

    def restored(self, weight: FloatArray) -> FloatArray:
        """Return W' T."""
        restored: FloatArray = self._rotated(weight.astype(np.float64)) * self.signs
        return restored

    def gram(self, gram: FloatArray) -> FloatArray:
        """Return T G T^T."""
        return self.weight(self.weight(gram).T).T

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the signs, a bit each."""
        return {"signs": np.packbits(self.signs < 0)}

    def settings(self) -> dict[str, Any]:
        """Return the number of inputs."""
        return {"n_in": int(self.signs.size)}

    def _rotated(self, x: FloatArray) -> FloatArray:
        ends = np.cumsum(block_sizes(self.signs.size))
        parts = np.split(x, ends[:-1], axis=1)
        return np.concatenate([walsh_hadamard(part) for part in parts], axis=1)
