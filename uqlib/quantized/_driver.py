"""Quantize the layers of a network one after the other.

Each layer is rounded with what it will see: the outputs of the layers before it, which
are quantized already. The parts of a scheme act in this order: transforms of the
inputs, quantizer of the activations, grid, rounding, corrections.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from uqlib._typing import FloatArray
from uqlib.exceptions import QuantizationWarning, warn_user
from uqlib.quantized._activations import make_activation
from uqlib.quantized._adapter import LayerSpec, NetworkAdapter, SkippedLayer
from uqlib.quantized._codebooks import has_own_codebook
from uqlib.quantized._corrections import (
    corrected_bias,
    low_rank_correction,
    with_output_affine,
)
from uqlib.quantized._layers import LowRank, QuantizedLayer, seen_inputs
from uqlib.quantized._problem import (
    InputMoments,
    LayerProblem,
    input_moments,
    layer_problem,
)
from uqlib.quantized._rounding import round_layer
from uqlib.quantized._scheme import QuantizationScheme
from uqlib.quantized._transforms import make_transforms

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class QuantizedNetwork:
    """The quantized layers of a network, and what stayed in float."""

    layers: dict[str, QuantizedLayer]
    skipped: tuple[SkippedLayer, ...]


def quantize_network(
    adapter: NetworkAdapter,
    scheme: QuantizationScheme,
    X: Any,
    *,
    last_layer_bits: int | None,
    random_state: Any,
    row_weight: FloatArray | None = None,
) -> QuantizedNetwork:
    """Quantize all layers of a network that the scheme does not skip.

    Parameters
    ----------
    adapter : NetworkAdapter
        The float network.
    scheme : QuantizationScheme
        What to do.
    X : array-like of shape (n_samples, n_features)
        Rows of calibration; no targets are used.
    last_layer_bits : int or None
        Least bits of the last layer; None treats it like the others.
    random_state : RandomState
        For random signs and learned rounding.
    row_weight : ndarray of shape (n_samples,), default=None
        Importance of each row; used where a row gives one row of inputs. Integers
        stand for repetitions, but the largest values and percentiles of inputs count
        every row of positive weight once.

    Returns
    -------
    QuantizedNetwork
        The layers by name, in the order of execution.
    """
    if scheme.weights == "int16":
        raise ValueError(
            "weights='int16' are for the leaves of trees; a network takes at most 8 "
            "bits. Pass for example 'w8'."
        )
    if row_weight is not None and not row_weight.all():
        kept = np.flatnonzero(row_weight)
        X, row_weight = _safe_indexing(X, kept), row_weight[kept]
    done: dict[str, QuantizedLayer] = {}
    skipped = list(adapter.skipped)
    known = {spec.name for spec in adapter.layers}
    _check_layer_names(scheme, known)
    for position, spec in enumerate(adapter.layers):
        last = position + 1 == len(adapter.layers)
        own = layer_scheme(scheme, spec.name, last_layer_bits if last else None)
        reason = reason_to_skip(spec, own)
        if reason is not None:
            skipped.append(SkippedLayer(spec.name, reason, spec.n_parameters))
            continue
        rows = LayerRows(adapter, X, spec, dict(done), row_weight)
        done[spec.name] = quantize_layer(spec, own, rows, random_state)
    if "output_affine" in scheme.correction and done:
        name = adapter.layers[-1].name
        if name in done:
            done[name] = _with_affine_outputs(adapter, X, done, name, row_weight)
    return QuantizedNetwork(done, tuple(skipped))


def layer_scheme(
    scheme: QuantizationScheme, name: str, least_bits: int | None
) -> QuantizationScheme:
    """Return the scheme of one layer.

    Parameters
    ----------
    scheme : QuantizationScheme
        Of the model.
    name : str
        Of the layer.
    least_bits : int or None
        Bits that the layer gets at least, unless `layer_bits` names it.

    Returns
    -------
    QuantizationScheme
        With weights None if the layer is skipped.
    """
    if name in scheme.skip:
        return replace(scheme, weights=None, activations=None, layer_bits=())
    bits = dict(scheme.layer_bits)
    if name in bits:
        return replace(scheme.at_bits(bits[name]), layer_bits=())
    if least_bits is not None and scheme.bits < least_bits:
        return replace(scheme, weights=f"int{least_bits}", layer_bits=())
    return replace(scheme, layer_bits=())


class LayerRows:
    """The inputs of a layer: in float, and as the quantized layers before give them.

    Parameters
    ----------
    adapter : NetworkAdapter
        The float network.
    X : array-like of shape (n_samples, n_features)
        Rows of calibration.
    spec : LayerSpec
        The layer.
    done : dict of str to QuantizedLayer
        The layers that are quantized already.
    row_weight : ndarray of shape (n_samples,) or None
        Importance of each row.
    """

    def __init__(
        self,
        adapter: NetworkAdapter,
        X: Any,
        spec: LayerSpec,
        done: dict[str, QuantizedLayer],
        row_weight: FloatArray | None,
    ) -> None:
        self._adapter, self._X, self._name, self._done = adapter, X, spec.name, done
        self._row_weight, self.n_in = row_weight, spec.weight.shape[1]

    def quantized(self) -> Iterator[FloatArray]:
        """Yield what enters the layer in the quantized network."""
        return iter(self._adapter.layer_inputs(self._X, self._name, self._done))

    def exact(self) -> Iterator[FloatArray]:
        """Yield what enters it in the float network."""
        return iter(self._adapter.layer_inputs(self._X, self._name, {}))

    def moments(
        self, seen: Callable[..., Any], transformed: Callable[..., Any]
    ) -> InputMoments:
        """Return the moments of seen(quantized) and of transformed(float) inputs."""
        n_in = transformed(np.zeros((1, self.n_in))).shape[1]
        return input_moments(self._chunks(seen, transformed), n_in)

    def _chunks(
        self, seen: Callable[..., Any], transformed: Callable[..., Any]
    ) -> Iterator[tuple[FloatArray, FloatArray, Any]]:
        first = 0
        for quantized, exact in zip(self.quantized(), self.exact(), strict=True):
            weight = self._weights(first, len(exact))
            yield seen(quantized), transformed(exact), weight
            first += len(exact)

    def _weights(self, first: int, n_rows: int) -> FloatArray | None:
        weight = self._row_weight
        if weight is None:
            return None
        if first + n_rows > len(weight):
            raise ValueError(
                f"Layer {self._name!r} sees more rows than there are samples, so "
                "that sample_weight cannot be used. Fit without sample_weight."
            )
        return weight[first : first + n_rows]


def quantize_layer(
    spec: LayerSpec, scheme: QuantizationScheme, rows: Any, random_state: Any
) -> QuantizedLayer:
    """Quantize one layer.

    Parameters
    ----------
    spec : LayerSpec
        Weights and bias.
    scheme : QuantizationScheme
        Of this layer.
    rows : object
        With `moments(seen, transformed)` and `quantized()`.
    random_state : RandomState
        For random signs and learned rounding.

    Returns
    -------
    QuantizedLayer
        The layer.
    """
    if spec.kind == "grouped":
        return _to_nearest(spec, scheme)
    moments = rows.moments(_same, _same)
    transforms = make_transforms(scheme, spec.weight, moments, random_state)

    def transformed(x: FloatArray) -> FloatArray:
        return seen_inputs(x, transforms, None)

    activation = make_activation(
        scheme, lambda: (transformed(x) for x in rows.quantized())
    )

    def seen(x: FloatArray) -> FloatArray:
        return seen_inputs(x, transforms, activation)

    if transforms or activation is not None:
        moments = rows.moments(seen, transformed)
    weight: FloatArray = spec.weight.astype(np.float64)
    for transform in transforms:
        weight = transform.weight(weight)
    problem = layer_problem(weight, moments, scheme.effective_target)
    rounded = round_layer(problem, weight, scheme, random_state)
    layer = QuantizedLayer(
        spec.name,
        rounded.codes,
        rounded.grid,
        None if spec.bias is None else spec.bias.astype(np.float32),
        transforms,
        rounded.outliers,
        _low_rank(problem, rounded, scheme),
        activation,
        _details(spec, scheme, problem),
    )
    return _corrected(layer, spec, weight, moments, problem, scheme)


def _same(x: FloatArray) -> FloatArray:
    return x


def _corrected(
    layer: QuantizedLayer,
    spec: LayerSpec,
    weight: FloatArray,
    moments: InputMoments,
    problem: LayerProblem,
    scheme: QuantizationScheme,
) -> QuantizedLayer:
    final = layer.transformed_weight()
    details = layer.details | {"loss": problem.loss(final)}
    bias = layer.bias
    if "bias" in scheme.correction:
        bias = corrected_bias(spec.bias, weight, final, moments)
    return replace(layer, bias=bias, details=details)


def _details(
    spec: LayerSpec, scheme: QuantizationScheme, problem: LayerProblem
) -> dict[str, Any]:
    """Return what a report says of a layer beside its arrays."""
    return {
        "n_in": int(spec.weight.shape[1]),
        "scheme": scheme,
        "n_rows": problem.n_rows,
        "energy": problem.loss(np.zeros_like(problem.weight)),
        "named_codebook": not has_own_codebook(str(scheme.weights)),
        "has_bias": spec.bias is not None,
    }


def _low_rank(
    problem: LayerProblem, rounded: Any, scheme: QuantizationScheme
) -> LowRank | None:
    if "low_rank" not in scheme.correction:
        return None
    error = problem.weight - rounded.weight()
    return low_rank_correction(error, problem.gram, scheme.rank)


def _to_nearest(spec: LayerSpec, scheme: QuantizationScheme) -> QuantizedLayer:
    """Round a layer whose outputs share no inputs: every input counts alike."""
    plain = replace(
        scheme, rounding="rtn", transform=(), correction=(), activations=None
    )
    weight = spec.weight.astype(np.float64)
    n_in = weight.shape[1]
    problem = LayerProblem(weight, np.eye(n_in), 0)
    rounded = round_layer(problem, weight, plain, None)
    details = _details(spec, plain, problem)
    bias = None if spec.bias is None else spec.bias.astype(np.float32)
    return QuantizedLayer(
        spec.name,
        rounded.codes,
        rounded.grid,
        bias,
        (),
        rounded.outliers,
        None,
        None,
        details,
    )


def _with_affine_outputs(
    adapter: NetworkAdapter,
    X: Any,
    done: dict[str, QuantizedLayer],
    name: str,
    row_weight: FloatArray | None,
) -> QuantizedLayer:
    exact, quantized = adapter.outputs(X, {}), adapter.outputs(X, done)
    return with_output_affine(done[name], exact, quantized, row_weight)


def reason_to_skip(spec: LayerSpec, scheme: QuantizationScheme) -> str | None:
    """Return why a layer stays in float, or None.

    Parameters
    ----------
    spec : LayerSpec
        The layer.
    scheme : QuantizationScheme
        As `layer_scheme` gives it.

    Returns
    -------
    str or None
        The reason.
    """
    if scheme.weights is None:
        return "left in float by the scheme"
    if spec.weight.size == 0:
        return "has no weights"
    if not (_is_single(spec.weight) and _is_single(spec.bias)):
        raise ValueError(
            f"Layer {spec.name!r} has weights that are not finite in single precision. "
            "Train the model anew, or name the layer in skip=."
        )
    return None


def _is_single(values: FloatArray | None) -> bool:
    return values is None or bool((np.abs(values) <= _LARGEST).all())


def _check_layer_names(scheme: QuantizationScheme, known: set[str]) -> None:
    named = {*scheme.skip, *(name for name, _ in scheme.layer_bits)}
    unknown = sorted(named - known)
    if unknown:
        raise ValueError(
            f"The scheme names layers that the model does not have: {unknown}. It has "
            f"{sorted(known)}."
        )


def warn_if_few_rows(n_rows: int, widest: int) -> None:
    """Warn where calibration has fewer rows than a layer has inputs.

    Parameters
    ----------
    n_rows : int
        Rows of calibration.
    widest : int
        Most inputs of a layer.
    """
    if n_rows < widest:
        warn_user(
            f"{n_rows} rows of calibration for layers of up to {widest} inputs: the "
            "rounding is damped. Pass more rows to fit; they need no targets.",
            QuantizationWarning,
        )


def n_calibration_rows(X: Any) -> int:
    """Return the number of rows, at least 2.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows of calibration.

    Returns
    -------
    int
        The number.
    """
    n_rows = _num_samples(X)
    if n_rows < 2:
        raise ValueError(
            "Quantization needs at least 2 rows of calibration, got "
            f"n_samples={n_rows}. Pass rows of the training set; they need no targets."
        )
    return int(n_rows)
