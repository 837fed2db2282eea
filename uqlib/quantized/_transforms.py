r"""Linear maps of the inputs of a layer that its weights undo.

With an invertible T the layer y = W x + b is

    y = (W T^{-1}) (T x) + b :

the same function, whose inputs or weights may lie better on a grid. All that follow in
the list of a scheme are fitted to inputs and weights as the ones before leave them.

Scales are rounded to the type in which they are stored before they are used, and what
is stored is undone, so that rounding T changes no output.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray
from uqlib.quantized._grid import stored
from uqlib.quantized._hadamard import BlockHadamard
from uqlib.quantized._layers import InputTransform
from uqlib.quantized._problem import InputMoments
from uqlib.quantized._scheme import QuantizationScheme
from uqlib.quantized._transforms_loading import loaded_array, loaded_floats

SMOOTH_ALPHA = 0.5  # of SmoothQuant: how much of the range goes from x to W
CROSS_ALPHA = 0.15  # of CrossQuant: the share of a row in the scale of an activation
_PEAK = 4.0  # root mean squares in the largest of a mixture of inputs
_SINGLE = np.finfo(np.float32)


def make_transforms(
    scheme: QuantizationScheme,
    weight: FloatArray,
    moments: InputMoments,
    random_state: Any,
) -> tuple[InputTransform, ...]:
    """Return the transforms of the inputs of a layer.

    Parameters
    ----------
    scheme : QuantizationScheme
        With the names in `transform`. Activations of the range "cross" put the scales
        of their columns behind them.
    weight : ndarray of shape (n_out, n_in)
        Weights of the float model.
    moments : InputMoments
        Of the inputs, before any transform.
    random_state : RandomState or int
        For random signs.

    Returns
    -------
    tuple of InputTransform
        In the order in which they act.

    Raises
    ------
    ValueError
        If the inputs of the layer in calibration were not finite.
    """
    names = scheme.transform
    if scheme.activations is not None and scheme.activation_range == "cross":
        names = (*names, CrossScale.kind)
    if names:
        _check_finite(moments)
    transforms: list[InputTransform] = []
    for name in names:
        transform = _KINDS[name].fit(weight, moments, random_state)
        weight, moments = transform.weight(weight), moments_after(transform, moments)
        transforms.append(transform)
    return tuple(transforms)


def transform_from(
    kind: str, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
) -> InputTransform:
    """Return the transform that was stored.

    Parameters
    ----------
    kind : str
        As the transform has it.
    arrays : mapping of str to ndarray
        As its `arrays()` gave them.
    settings : mapping of str to number or str
        As its `settings()` gave them.

    Returns
    -------
    InputTransform
        The same map.

    Raises
    ------
    ValueError
        If there is no such kind, or an array or setting is not what it must be.
    """
    if kind not in _KINDS:
        raise ValueError(
            f"There is no transform {kind!r}. There are: {', '.join(_KINDS)}."
        )
    transform: InputTransform = _KINDS[kind].load(arrays, settings)
    return transform


def moments_after(transform: InputTransform, moments: InputMoments) -> InputMoments:
    """Return the moments of T x from those of x.

    Parameters
    ----------
    transform : InputTransform
        The map T.
    moments : InputMoments
        Of x.

    Returns
    -------
    InputMoments
        Exact but for `absolute_max` of a map that mixes inputs, which moments do not
        tell: it is set to 4 root mean squares, or what n rows of equal weight cannot
        exceed, sqrt(n) of them.
    """
    gram = transform.gram(moments.gram)
    means = np.stack([moments.mean_quantized, moments.mean_float])
    mean_quantized, mean_float = transform.inputs(means)
    if isinstance(transform, _MIXING):
        peak = min(_PEAK, float(np.sqrt(moments.n_rows)))
        largest = peak * np.sqrt(np.maximum(np.diag(gram), 0.0))
    else:
        largest = transform.inputs(moments.absolute_max[None])[0]
    cross = transform.gram(moments.cross)
    return InputMoments(
        gram, cross, mean_quantized, mean_float, largest, moments.n_rows
    )


# An input scale c_j could be a power of two and be stored in a byte. But then columns
# that share a scale of the activations differ by up to a factor of 2, which costs one
# of them up to a bit. In half precision they differ by 2^-10.
@dataclass(frozen=True, eq=False)
class InputScale:
    """Divide every input by its largest absolute value in calibration.

    Inputs in any units come to [-1, 1], so that one scale of the activations serves
    them all. Inputs that are always 0 are left as they are.

    Parameters
    ----------
    scale : ndarray of shape (n_in,)
        Divisors, positive, float16 or float32.
    """

    scale: FloatArray
    kind = "input_scale"

    @classmethod
    def fit(
        cls, weight: FloatArray, moments: InputMoments, random_state: Any
    ) -> "InputScale":
        """Return the scales of inputs."""
        return cls(_divisors(moments.absolute_max))

    @classmethod
    def load(
        cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
    ) -> "InputScale":
        """Return the transform of stored arrays and settings."""
        return cls(loaded_floats(cls.kind, arrays, "scale", 1))

    def inputs(self, x: FloatArray) -> FloatArray:
        """Return the rows T x."""
        scaled: FloatArray = x / self.scale.astype(x.dtype)
        return scaled

    def weight(self, weight: FloatArray) -> FloatArray:
        """Return W T^{-1}."""
        return weight * self.scale.astype(np.float64)

    def restored(self, weight: FloatArray) -> FloatArray:
        """Return W' T."""
        restored: FloatArray = weight / self.scale.astype(np.float64)
        return restored

    def gram(self, gram: FloatArray) -> FloatArray:
        """Return T G T^T."""
        scale = self.scale.astype(np.float64)
        scaled: FloatArray = gram / scale / scale[:, None]
        return scaled

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the divisors."""
        return {"scale": self.scale}

    def settings(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


@dataclass(frozen=True, eq=False)
class SmoothScale(InputScale):
    r"""Divide every input by max(abs(x))^a / max(abs(w))^(1 - a), a = 1/2.

    Then inputs and weights of a column have the same largest absolute value
    (SmoothQuant, arXiv:2211.10438). Columns where either is always 0 are left as they
    are.
    """

    kind = "smooth"

    @classmethod
    def fit(
        cls, weight: FloatArray, moments: InputMoments, random_state: Any
    ) -> "SmoothScale":
        """Return the scales of inputs and weights."""
        heaviest = np.abs(weight).max(axis=0, initial=0.0)
        live = (heaviest > 0) & (moments.absolute_max > 0)
        x = np.where(live, moments.absolute_max, 1.0)
        w = np.where(live, heaviest, 1.0)
        return cls(_divisors(x**SMOOTH_ALPHA / w ** (1 - SMOOTH_ALPHA)))


@dataclass(frozen=True, eq=False)
class CrossScale(InputScale):
    """Divide every input by c^(1 - a), the part of a column in a cross scale.

    c is its largest absolute value in calibration, a = 0.15. `CrossRange` has the rest.
    """

    kind = "cross"

    @classmethod
    def fit(
        cls, weight: FloatArray, moments: InputMoments, random_state: Any
    ) -> "CrossScale":
        """Return the scales of columns."""
        return cls(_divisors(moments.absolute_max ** (1 - CROSS_ALPHA)))


@dataclass(frozen=True, eq=False)
class Reorder:
    """Sort the inputs by their largest absolute value in calibration.

    Groups and blocks of neighbors then hold inputs of one size. The largest come first,
    equal ones keep their order.

    Parameters
    ----------
    order : ndarray of shape (n_in,)
        Which input comes where, in the smallest unsigned integers that hold it.
    """

    order: NDArray[Any]
    kind = "reorder"

    @classmethod
    def fit(
        cls, weight: FloatArray, moments: InputMoments, random_state: Any
    ) -> "Reorder":
        """Return the order of inputs."""
        order = np.argsort(-moments.absolute_max, kind="stable")
        return cls(order.astype(np.min_scalar_type(max(0, order.size - 1))))

    @classmethod
    def load(
        cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
    ) -> "Reorder":
        """Return the transform of stored arrays and settings."""
        order = loaded_array(cls.kind, arrays, "order", 1)
        whole = np.issubdtype(order.dtype, np.unsignedinteger)
        if not whole or not np.array_equal(np.sort(order), np.arange(order.size)):
            raise ValueError(
                f"The stored order of {order.size} inputs is no permutation: the file "
                "is damaged."
            )
        return cls(order)

    def inputs(self, x: FloatArray) -> FloatArray:
        """Return the rows T x."""
        return x[:, self.order]

    def weight(self, weight: FloatArray) -> FloatArray:
        """Return W T^{-1}: columns move as the inputs do."""
        return weight[:, self.order]

    def restored(self, weight: FloatArray) -> FloatArray:
        """Return W' T."""
        return weight[:, np.argsort(self.order)]

    def gram(self, gram: FloatArray) -> FloatArray:
        """Return T G T^T."""
        moved: FloatArray = gram[np.ix_(self.order, self.order)]
        return moved

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the order."""
        return {"order": self.order}

    def settings(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


@dataclass(frozen=True, eq=False)
class Klt:
    """Turn the inputs to the eigenvectors of their Gram matrix.

    T x are uncorrelated with the largest mean squares first (Karhunen-Loeve transform;
    MambaQuant, arXiv:2501.13484, puts Hadamard behind it, which makes them equal). The
    eigenvectors are rounded to half precision, after which their matrix is orthogonal
    to 3 digits only: weights are multiplied by its inverse, not by its transpose.

    Parameters
    ----------
    matrix : ndarray of shape (n_in, n_in)
        T, float16; its 16 n_in^2 bits are the price.
    """

    matrix: NDArray[np.float16]
    kind = "klt"

    @classmethod
    def fit(cls, weight: FloatArray, moments: InputMoments, random_state: Any) -> "Klt":
        """Return the eigenvectors of inputs, each with its largest entry positive."""
        vectors = np.linalg.eigh(moments.gram)[1].T[::-1]
        peaks = np.argmax(np.abs(vectors), axis=1)[:, None]
        signs = np.sign(np.take_along_axis(vectors, peaks, axis=1))
        return cls((vectors * signs).astype(np.float16))

    @classmethod
    def load(
        cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
    ) -> "Klt":
        """Return the transform of stored arrays and settings."""
        matrix = loaded_floats(cls.kind, arrays, "matrix", 2, positive=False)
        if matrix.shape[0] != matrix.shape[1]:
            raise ValueError(
                f"The stored matrix of inputs must be square, got shape {matrix.shape}:"
                " the file is damaged."
            )
        return cls(matrix)

    def inputs(self, x: FloatArray) -> FloatArray:
        """Return the rows T x."""
        turned: FloatArray = x @ self.matrix.T.astype(x.dtype)
        return turned

    def weight(self, weight: FloatArray) -> FloatArray:
        """Return W T^{-1}."""
        turned = np.linalg.solve(self.matrix.T.astype(np.float64), weight.T)
        return np.ascontiguousarray(turned.T)

    def restored(self, weight: FloatArray) -> FloatArray:
        """Return W' T."""
        restored: FloatArray = weight @ self.matrix.astype(np.float64)
        return restored

    def gram(self, gram: FloatArray) -> FloatArray:
        """Return T G T^T."""
        matrix = self.matrix.astype(np.float64)
        turned: FloatArray = matrix @ gram @ matrix.T
        return turned

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the matrix."""
        return {"matrix": self.matrix}

    def settings(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


_KINDS: dict[str, Any] = {
    part.kind: part
    for part in (InputScale, SmoothScale, Reorder, BlockHadamard, Klt, CrossScale)
}
_MIXING = (BlockHadamard, Klt)


def _divisors(scale: FloatArray) -> FloatArray:
    """Return positive numbers as they are stored, 1 in the place of 0."""
    scale = np.where(scale > 0, scale, 1.0)
    return stored(np.clip(scale, float(_SINGLE.tiny), float(_SINGLE.max)))


def _check_finite(moments: InputMoments) -> None:
    if not np.isfinite(moments.gram).all() or not np.isfinite(moments.cross).all():
        raise ValueError(
            "X makes inputs of a layer that are infinite or NaN. Scale its columns or "
            "leave out the rows that do."
        )
