"""Small fitted networks for the allocation of bits."""

import warnings

import numpy as np
from sklearn.neural_network import MLPRegressor


def data(n_samples=200, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, 6))
    y = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + rng.normal(size=n_samples) / 3
    return X, y


def fitted(kind=MLPRegressor, seed=0, hidden=(16, 12), y=None):
    X, own = data(300, seed)
    model = kind(
        hidden_layer_sizes=hidden,
        solver="lbfgs",
        max_iter=60,
        max_fun=200,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence, which nothing here needs
        return model.fit(X, own if y is None else y(own))


def mean_bits(model, bits):
    sizes = [coef.size for coef in model.coefs_]
    return np.dot(sizes, list(bits.values())) / np.sum(sizes)
