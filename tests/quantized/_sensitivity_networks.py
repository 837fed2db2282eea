"""Networks of random weights, and rows."""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.neural_network import MLPRegressor


def mlp(activation="tanh", hidden=(12, 8), n_inputs=6, n_outputs=1, seed=0, bits=64):
    """Return a network of random weights: training it would prove nothing here."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(20, n_inputs)), rng.normal(size=(20, n_outputs))
    model = MLPRegressor(
        hidden_layer_sizes=hidden, activation=activation, solver="lbfgs", max_iter=1
    )
    model.max_fun = 1
    with pytest.warns(Warning, match=r"failed to converge|reached|TOTAL NO"):
        model.fit(X, y.ravel() if n_outputs == 1 else y)
    sizes = [n_inputs, *hidden, n_outputs]
    kind = np.dtype(f"float{bits}")
    model.coefs_ = [
        (rng.normal(size=shape) / np.sqrt(shape[0])).astype(kind)
        for shape in pairwise(sizes)
    ]
    model.intercepts_ = [rng.normal(size=size).astype(kind) / 3 for size in sizes[1:]]
    return model


def rows(n_samples=50, n_inputs=6, seed=1):
    return np.random.default_rng(seed).normal(size=(n_samples, n_inputs))
