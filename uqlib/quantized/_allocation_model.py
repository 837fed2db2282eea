"""The layers of a whole model in one list, and its damage at any bits of theirs."""

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from uqlib.quantized._knapsack import Choice
from uqlib.quantized._open import OpenedModel, open_model
from uqlib.quantized._parts import quantize_part
from uqlib.quantized._resolve import part_scheme
from uqlib.quantized._scheme import QuantizationScheme
from uqlib.quantized._sensitivity import (
    Bits,
    CalibratedNetwork,
    measured_sensitivity,
    output_levels,
    taylor_sensitivity,
    trace_sensitivity,
)
from uqlib.quantized._sensitivity_width import smoothed_width


class ModelLayers:
    """The networks inside a model, and all their layers in one list."""

    def __init__(
        self, estimator: Any, X: Any, scheme: QuantizationScheme, seed: int
    ) -> None:
        if isinstance(estimator, BaseEstimator):
            check_is_fitted(estimator)
        self.estimator, self.X = estimator, X
        self.opened: OpenedModel = open_model(estimator)
        classes = getattr(estimator, "classes_", None)
        names = [part.name for part in self.opened.parts]
        schemes: dict[str, Any] = {
            name: part_scheme(scheme, name, names) for name in names
        }
        self.networks = {
            part.name: CalibratedNetwork(
                part.adapter, part.rows(X), schemes[part.name], classes, seed
            )
            for part in self.opened.parts
            if not hasattr(part.adapter, "quantize")  # trees have no layers
        }
        self._check_layers(schemes)

    def sizes(self, choices: Bits, budget: Fraction) -> tuple[NDArray[np.int64], int]:
        """Return the sizes (n_layers, n_choices) and the capacity, in one unit."""
        exact = [Fraction(str(bits)) for bits in choices]
        unit = int(np.lcm.reduce([bits.denominator for bits in exact]))
        n_weights = np.array(
            [
                layer.weight.size
                for own in self.networks.values()
                for layer in own.layers
            ]
        )
        sizes = n_weights[:, None] * np.array([int(bits * unit) for bits in exact])
        return sizes, int(budget * unit * int(n_weights.sum()))

    def named(self, bits: Iterable[Any]) -> dict[str, Any]:
        """Return bits by the names of the layers."""
        several = len(self.opened.parts) > 1
        names = [
            f"{part}.{layer.name}" if several else layer.name
            for part, network in self.networks.items()
            for layer in network.layers
        ]
        return dict(zip(names, bits, strict=True))

    def split(self, bits: Bits) -> dict[str, Bits]:
        """Return the bits of each network."""
        parts, first = {}, 0
        for name, network in self.networks.items():
            parts[name] = bits[first : first + len(network.layers)]
            first += len(network.layers)
        return parts

    def predictions(self, layers: dict[str, Any]) -> NDArray[np.float64]:
        """Return what the whole model predicts with some layers of some networks."""
        models = {
            part.name: self._part_model(part, layers.get(part.name, {}))
            for part in self.opened.parts
        }
        model = self.opened.assembled(models)
        for method in ("predict_quantiles", "predict"):
            if hasattr(model, method):
                return np.asarray(getattr(model, method)(self.X), dtype=np.float64)
        (network,) = self.networks.values()  # a bare module
        return network.outputs(next(iter(layers.values()), {}))

    def _part_model(self, part: Any, layers: Any) -> Any:
        if part.name in self.networks:
            return self.networks[part.name].adapter.quantized_model(layers)
        exact = quantize_part(
            part.adapter,
            None,
            part.inputs(self.X),
            last_layer_bits=None,
            random_state=None,
            row_weight=None,
        )
        return exact.quantized_model("reference")

    def _check_layers(self, schemes: dict[str, Any]) -> None:
        for name, network in self.networks.items():
            unknown = sorted(set(schemes[name].skip) - set(network.names))
            if unknown:
                raise ValueError(
                    f"The scheme names layers that the model does not have: {unknown}. "
                    f"It has {sorted(network.names)}."
                )
        if not any(network.layers for network in self.networks.values()):
            skipped = [*self.opened.skipped]
            for network in self.networks.values():
                skipped += network.adapter.skipped
            reasons = [f"{part.name or 'model'}: {part.reason}" for part in skipped]
            raise ValueError(
                f"{type(self.estimator).__name__} has no layers that bits could be "
                f"allocated to{': ' if reasons else ''}{'; '.join(reasons)}. Pass a "
                "model with dense layers, and leave some of them out of skip."
            )


class Damage:
    """What a criterion says of a model, for layers alone and for all together."""

    def __init__(
        self, model: ModelLayers, criterion: str, choices: Bits, y: Any, level: float
    ) -> None:
        self._model, self._criterion, self._choices = model, criterion, choices
        classes = getattr(model.estimator, "classes_", None)
        is_number = y is not None and classes is None
        self._y = np.asarray(y, dtype=np.float64) if is_number else y
        self._level = level
        self._widths: dict[Choice, float] = {}
        if criterion == "interval_width":
            _check_regressor(model.estimator)
            self._float_width = self._width({})

    def of_single_layers(self, random: Any) -> NDArray[np.float64]:
        """Return the criterion, of shape (n_layers, n_choices)."""
        networks = self._model.networks.items()
        rows = [self._of_network(name, own, random) for name, own in networks]
        return np.concatenate(rows)

    def of_all(self, choice: Choice) -> float:
        """Return the damage with all layers quantized."""
        bits = tuple(self._choices[k] for k in choice)
        parts, networks = self._model.split(bits), self._model.networks
        if self._criterion != "interval_width":
            measure = "kl" if self._criterion == "kl" else "drift"
            return sum(networks[name].damage(parts[name], measure) for name in networks)
        if choice not in self._widths:
            layers = {name: networks[name].joint(parts[name]) for name in networks}
            self._widths[choice] = self._width(layers)
        return self._widths[choice]

    def _of_network(
        self, name: str, network: CalibratedNetwork, random: Any
    ) -> NDArray[np.float64]:
        choices, criterion = self._choices, self._criterion
        if criterion == "trace":
            return trace_sensitivity(network, choices, random)
        if criterion == "taylor":
            n_outputs = network.exact.shape[1]
            levels = None
            if network.link == "identity":
                model = self._model.estimator
                levels = output_levels(model, self._y, n_outputs, self._level)
            return taylor_sensitivity(network, choices, self._y, levels)
        if criterion == "interval_width":
            return measured_sensitivity(
                network,
                choices,
                lambda layers: self._width({name: layers}) - self._float_width,
            )
        measure = "kl" if criterion == "kl" else "drift"
        return measured_sensitivity(
            network, choices, lambda layers: network.measured(layers, measure)
        )

    def _width(self, layers: dict[str, Any]) -> float:
        predictions = self._model.predictions(layers)
        return smoothed_width(predictions, self._y, self._level)


def _check_regressor(model: Any) -> None:
    if hasattr(model, "classes_"):
        raise ValueError(
            "criterion='interval_width' is for regressors. Use 'interval_drift' or "
            "'kl' for a classifier."
        )
