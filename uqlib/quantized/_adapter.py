"""How a model is seen as layers with weights, whatever library it comes from."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from uqlib._typing import FloatArray
from uqlib.quantized._layers import QuantizedLayer

QuantizedLayers = Mapping[str, QuantizedLayer]


class LayerSpec(NamedTuple):
    """A layer that can be quantized.

    `weight` has shape (n_out, n_in): a convolution has one row for each output channel
    and one column for each entry of a patch. `bias` has shape (n_out,) or is None. In a
    layer of the kind "grouped" (a convolution whose outputs see some channels alone)
    the rows have no common inputs: it is rounded to nearest, its inputs are never asked
    for and stay in float.
    """

    name: str
    weight: FloatArray
    bias: FloatArray | None
    kind: str = "linear"

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases."""
        return int(self.weight.size + (0 if self.bias is None else self.bias.size))


class SkippedLayer(NamedTuple):
    """A part of the model that stays in float, and why."""

    name: str
    reason: str
    n_parameters: int


class NetworkAdapter(Protocol):
    """A fitted model with layers; the model itself is never changed.

    An adapter that must see rows to know its layers has `traced(X)`, which returns one
    that does. `n_small_parameters`, if it has it, is the number of parameters that are
    neither in layers nor skipped, as those of norms.
    """

    layers: tuple[LayerSpec, ...]
    skipped: tuple[SkippedLayer, ...]

    def layer_inputs(
        self, X: Any, name: str, quantized: QuantizedLayers
    ) -> Iterator[FloatArray]:
        """Yield what enters a layer, some rows of X at a time.

        The layers in `quantized` compute with their quantized weights and activations,
        the others in float. The chunks come in the same order and sizes whatever is
        quantized. A convolution gives one row for each patch.

        Yields
        ------
        ndarray of shape (n_rows, n_in)
            Inputs as the model has them, before any transform.
        """

    def outputs(self, X: Any, quantized: QuantizedLayers) -> FloatArray:
        """Return the outputs of the network, of shape (n_samples, n_outputs).

        For a classifier these are logits, for a regressor the predictions, for a
        quantile network the quantiles.
        """

    def quantized_model(
        self, quantized: QuantizedLayers, backend: str = "reference"
    ) -> Any:
        """Return a picklable model with the prediction methods of the float model."""

    def operations(self, quantized: QuantizedLayers, backend: str) -> dict[str, str]:
        """Return the names of what computes the quantized layers, by layer."""

    def dequantized(self, quantized: QuantizedLayers) -> Any:
        """Return a float model of the original kind with the rounded weights."""
