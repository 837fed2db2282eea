r"""Networks whose outputs are read as quantiles or expectiles, as layers.

How quantiles are read from the outputs of a network is left to the model itself, as in
`_dense`: a copy of it that has one layer, the identity, gets the outputs for its
features. Models are known by their fitted attributes, not by their class:

=====================  ===============================================================
`coefs_`, `target_center_`  a network with quantiles (`TorchQuantileRegressor`)
`coef_`, `mean_coef_`       lines of expectiles and of the mean (`ExpectileRegressor`)
`coef_`, `quantiles_`       lines of quantiles (`LinearQuantileRegressor`)
=====================  ===============================================================

A network of the first kind may have the level :math:`\tau` as an input, through two
columns more in the first layer,

.. math:: \sqrt{12} (\tau - 1/2), \qquad \Phi^{-1}(\tau) .

They are quantized with the other columns. In calibration, row i brings the level number
i modulo m of the m fitted ones, so that a layer sees one row for each sample and all
levels count alike.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtri

from uqlib._core.levels import check_quantiles
from uqlib._typing import FloatArray
from uqlib.quantized._adapter import LayerSpec, QuantizedLayers
from uqlib.quantized._dense import DenseNetwork, linear_network

_LEVEL = "level"  # the kind of networks that have it as an input
_LEVEL_SCALE = 12**0.5
_FEATURE_BOUND = 10.0  # of standardized features, in training and prediction
# The head bounds its features too: so scaled, a power of 2, that this changes nothing.
_FAR = 2.0**60


def is_quantile_network(model: Any) -> bool:
    """Return whether a fitted model is a network that gives quantiles.

    Parameters
    ----------
    model : object
        Anything.

    Returns
    -------
    bool
        True if it has layers, scalings of features and target, and quantiles.
    """
    needed = ("coefs_", "intercepts_", "feature_center_", "target_center_")
    return all(hasattr(model, name) for name in (*needed, "predict_quantiles"))


def quantile_network(model: Any) -> "QuantileNetwork":
    """Return a fitted `TorchQuantileRegressor` as layers.

    Parameters
    ----------
    model : TorchQuantileRegressor
        Fitted.

    Returns
    -------
    QuantileNetwork
        Layers "layer_0", "layer_1", ...; its outputs are those of the last one, for
        the standardized target.
    """
    layers = tuple(
        LayerSpec(f"layer_{k}", matrix.T.copy(), bias.copy())
        for k, (matrix, bias) in enumerate(
            zip(model.coefs_, model.intercepts_, strict=True)
        )
    )
    head = _head(model, layers[-1].weight.shape[0])
    return QuantileNetwork(model, layers, "silu", _write_network, head)


def line_network(model: Any) -> "DenseNetwork":
    """Return lines of quantiles or expectiles as one layer.

    Parameters
    ----------
    model : LinearQuantileRegressor, ExpectileRegressor or any linear model
        Fitted, with `coef_` and `intercept_`.

    Returns
    -------
    DenseNetwork
        One layer, "coef". With `mean_coef_` its last output is the mean.
    """
    if hasattr(model, "mean_coef_"):
        return _expectile_network(model)
    return linear_network(model)


def _expectile_network(model: Any) -> DenseNetwork:
    weight = np.vstack([model.coef_, model.mean_coef_])
    bias = np.append(model.intercept_, model.mean_intercept_)
    head, identity = deepcopy(model), np.eye(len(bias))
    _write_expectiles(head, [(identity, np.zeros(len(bias)))])
    layers = (LayerSpec("coef", weight, bias),)
    head = _nameless(head, len(bias))
    return DenseNetwork(model, layers, "identity", _write_expectiles, head)


def _write_expectiles(model: Any, weights: list[tuple[FloatArray, Any]]) -> None:
    ((weight, bias),) = weights
    model.coef_, model.mean_coef_ = weight[:-1], weight[-1]
    model.intercept_, model.mean_intercept_ = bias[:-1], float(bias[-1])


# ---------------------------------------------------------------------------
# Networks with scaled features and target.


@dataclass(frozen=True, eq=False)
class QuantileNetwork(DenseNetwork):
    """A network with quantiles; `level` is the one that all rows bring, if it is one.

    Parameters
    ----------
    level : float or None, default=None
        Of networks that have it as an input. None stands for the levels of
        calibration.
    """

    level: float | None = None

    def predicted(
        self, method: str, X: Any, quantized: QuantizedLayers, *args: Any, **kwargs: Any
    ) -> Any:
        """Return points or quantiles."""
        if not _has_level_input(self.model):
            return super().predicted(method, X, quantized, *args, **kwargs)
        if method == "predict":
            return self._any_quantiles(X, quantized, [0.5])[:, 0]
        return self._any_quantiles(X, quantized, *args, **kwargs)

    def _any_quantiles(
        self, X: Any, quantized: QuantizedLayers, quantiles: Any = None
    ) -> FloatArray:
        """Return the quantiles of a network that has the level as an input.

        The outputs for some levels are the features of a head that has these levels.
        It repairs a row at the fitted levels and those asked for, as the float model.
        """
        fitted = self.model.quantiles_
        asked = fitted if quantiles is None else check_quantiles(quantiles)
        repaired = self.model.non_crossing is not None
        levels = np.union1d(asked, fitted) if repaired else asked
        outputs = np.hstack(
            [replace(self, level=float(tau)).outputs(X, quantized) for tau in levels]
        )
        head = _head(self.model, levels.size)
        head.quantiles_, head._kind = levels, "quantiles"
        values: FloatArray = head.predict_quantiles(outputs, asked)
        return values

    def _chunks(self, X: Any, needs_finite: bool = True) -> Iterator[FloatArray]:
        first = 0
        # Infinite features would be cut: they must be found before.
        for chunk in super()._chunks(X):
            features = chunk - self.model.feature_center_
            features /= self.model.feature_scale_
            np.clip(features, -_FEATURE_BOUND, _FEATURE_BOUND, out=features)
            yield self._with_level(features, first)
            first += len(chunk)

    def _with_level(self, features: FloatArray, first: int) -> FloatArray:
        if not _has_level_input(self.model):
            return features
        fitted = self.model.quantiles_
        row = first + np.arange(len(features))
        level = fitted[row % fitted.size]
        if self.level is not None:
            level = np.full(len(features), self.level)
        return np.column_stack([features, _LEVEL_SCALE * (level - 0.5), ndtri(level)])


def _has_level_input(model: Any) -> bool:
    return bool(getattr(model, "_kind", None) == _LEVEL)


def _head(model: Any, n_outputs: int) -> Any:
    """Return a model whose features are the outputs of a last layer."""
    head = deepcopy(model)
    head.coefs_, head.intercepts_ = [_FAR * np.eye(n_outputs)], [np.zeros(n_outputs)]
    head.feature_center_ = np.zeros(n_outputs)
    head.feature_scale_ = np.full(n_outputs, _FAR)
    return _nameless(head, n_outputs)


def _nameless(head: Any, n_outputs: int) -> Any:
    head.n_features_in_ = n_outputs
    vars(head).pop("feature_names_in_", None)
    return head


def _write_network(model: Any, weights: list[tuple[FloatArray, Any]]) -> None:
    model.coefs_ = [np.ascontiguousarray(weight.T) for weight, _ in weights]
    model.intercepts_ = [bias for _, bias in weights]
