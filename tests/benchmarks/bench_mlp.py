"""Quantized networks (w8a8) beside scikit-learn, torch and BLAS in single precision.

A network of 20 features is trained on few rows: its speed does not depend on that. Ours
looks for values that are not finite as it goes; the two float32 forward passes check
nothing, and the one in NumPy writes all products to arrays that are there already.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from _timing import Result, speedups
from sklearn.neural_network import MLPRegressor

REPEATS = 31
N_FEATURES = 20
ROWS = (1, 64, 4096, 100_000)
SMALL, WIDE = (64, 64), (256, 256, 256)
# By the hidden layers and the rows: what each peer must be slower by.
TARGETS = {
    "sklearn": {(WIDE, 64): 7.0, (WIDE, 4096): 7.0},
    "BLAS": {
        (SMALL, 1): 2.5,
        (SMALL, 4096): 1.4,
        (WIDE, 64): 2.8,
        (WIDE, 4096): 2.8,
    },
}


def run(quick: bool = False) -> Iterator[Result]:
    """Yield the cases."""
    for hidden in (SMALL, WIDE):
        model, quantized = networks(hidden)
        fused = fused_network(quantized)
        for n_rows in ROWS[: 3 if quick else 4]:
            X = np.random.default_rng(1).normal(size=(n_rows, N_FEATURES))
            check_outputs(quantized, fused, model, X)
            yield from cases(hidden, model, quantized, fused, X)


def cases(hidden, model, quantized, fused, X) -> Iterator[Result]:
    """Yield the ratios for some rows."""
    forward, torch_forward = blas_forward(model, len(X)), torch_module(model)
    peers = [
        ("sklearn", "``MLPRegressor.predict``", quantized.predict, model.predict),
        ("torch", "torch float32, ``inference_mode``", fused, torch_forward),
        ("BLAS", "NumPy float32, checks nothing", fused, forward),
    ]
    for key, peer, ours, theirs in peers:
        what = "QuantizedRegressor.predict" if key == "sklearn" else "FusedMLP"
        yield Result(
            f"{what}, w8a8, {' x '.join(map(str, hidden))}",
            f"{len(X):,} rows, {N_FEATURES} features, {peer_name(key)}",
            peer,
            ratios(ours, theirs, X),
            TARGETS.get(key, {}).get((hidden, len(X)), 1.0),
        )


def peer_name(key: str) -> str:
    """Return what tells the rows of the table apart: the peer, in the regime."""
    return f"v {key}"


def ratios(ours: Callable[[Any], Any], theirs: Callable[[Any], Any], X) -> tuple:
    """Take turns; calls that are too short for the clock are repeated in a turn."""
    repeats = max(1, 2_000 // len(X))

    def often(function: Callable[[Any], Any]) -> Callable[[], None]:
        def calls() -> None:
            for _ in range(repeats):
                function(X)

        return calls

    return speedups(often(ours), often(theirs), 7 if len(X) > 10_000 else REPEATS)


def networks(hidden: tuple[int, ...]):
    """Return a network and itself in 8 bits."""
    import warnings

    from uqlib.quantized import quantize

    rng = np.random.default_rng(0)
    X = rng.normal(size=(2_000, N_FEATURES))
    y = X[:, 0] + np.sin(2 * X[:, 1]) + 0.1 * rng.normal(size=len(X))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MLPRegressor(hidden_layer_sizes=hidden, max_iter=5, random_state=0)
        model.fit(X, y)
    return model, quantize(model, "w8a8", X)


def fused_network(quantized):
    """Return what computes the layers, without the estimator around it."""
    return quantized.model_.quantized.forward(quantized.model_.network)


def check_outputs(quantized, fused, model, X) -> None:
    """Refuse to time what is not the same."""
    expected = model.predict(X)
    np.testing.assert_allclose(fused(X)[:, 0], quantized.predict(X), rtol=1e-6)
    for peer in (blas_forward(model, len(X)), torch_module(model)):
        np.testing.assert_allclose(peer(X)[:, 0], expected, atol=1e-4)
    spread = np.abs(quantized.predict(X) - expected).max() / max(expected.std(), 1.0)
    assert spread < 0.5, spread


def blas_forward(model, n_rows: int):
    """Return the network in NumPy, single precision, into arrays that are there."""
    weights = [np.ascontiguousarray(w, dtype=np.float32) for w in model.coefs_]
    biases = [b.astype(np.float32) for b in model.intercepts_]
    places = [np.empty((n_rows, len(b)), dtype=np.float32) for b in biases]
    rows = np.empty((n_rows, N_FEATURES), dtype=np.float32)

    def forward(X):
        rows[:] = X
        h = rows
        for weight, bias, place in zip(weights, biases, places, strict=True):
            np.dot(h, weight, out=place)
            place += bias
            if place is not places[-1]:
                np.maximum(place, 0, out=place)
            h = place
        return h

    return forward


def torch_module(model):
    """Return the network in torch, single precision."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    sizes = [N_FEATURES, *map(len, model.intercepts_)]
    layers: list[nn.Module] = []
    for k, (n_in, n_out) in enumerate(pairwise(sizes)):
        linear = nn.Linear(n_in, n_out)
        linear.weight.data = torch.tensor(model.coefs_[k].T, dtype=torch.float32)
        linear.bias.data = torch.tensor(model.intercepts_[k], dtype=torch.float32)
        layers += [linear, nn.ReLU()]
    net = nn.Sequential(*layers[:-1]).eval()

    def forward(X):
        with torch.inference_mode():
            return net(torch.from_numpy(X).float()).numpy()

    return forward
