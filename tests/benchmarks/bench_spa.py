"""What split-point heads cost beside an ensemble of networks and beside the model.

The model is a network of 2 x 64, the heads are fitted on its residuals on rows at hand,
so that no fit of the model is in any figure, and the ensemble trains five of such
networks. Heads that are networks take as many passes over the rows as the model does.
"""

from collections.abc import Iterator

import numpy as np
from _timing import Result, speedups
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPRegressor

REPEATS = 5
N_MEMBERS, N_PASSES = 5, 30


def run(quick: bool = False) -> Iterator[Result]:
    """Yield the cases."""
    X, y = table(2_000 if quick else 10_000)
    model, net = network(0).fit(X, y), torch_network(X, y)

    def networks():
        return [network(seed).fit(X, y) for seed in range(N_MEMBERS)]

    def torch_networks():
        return [torch_network(X, y) for _ in range(N_MEMBERS)]

    trees = with_heads(model, None)
    neural = with_heads(model, network(0))
    head = torch_head(net, len(X))
    yield fit_case("heads of boosted trees", trees, X, y, networks, 0.15)
    yield fit_case("means by networks", neural, X, y, networks, 0.35)
    yield fit_case("five heads at once", head, X, y, torch_networks, 0.35)
    yield predict_case("heads of boosted trees", trees, model, X, y)
    yield predict_case("means by networks", neural, model, X, y)
    yield predict_case("five heads at once", head, Itself(net), X, y)


def table(n: int):
    """Return rows whose noise grows with a feature."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 20))
    y = X[:, 0] + np.sin(2 * X[:, 1]) + (0.2 + np.abs(X[:, 0])) * rng.normal(size=n)
    return X, y


def network(seed: int) -> MLPRegressor:
    """Return an unfitted network."""
    return MLPRegressor(
        hidden_layer_sizes=(64, 64),
        max_iter=N_PASSES,
        n_iter_no_change=N_PASSES,
        random_state=seed,
    )


def torch_network(X, y):
    """Return a trained torch network of the same shape as the model."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(X.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
        nn.Linear(64, 1),
    )  # fmt: skip
    rows, target = torch.tensor(X, dtype=torch.float32), torch.tensor(y).float()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(N_PASSES):
        for batch in torch.randperm(len(rows)).split(200):
            optimizer.zero_grad()
            (net(rows[batch])[:, 0] - target[batch]).square().mean().backward()
            optimizer.step()
    return net


def torch_head(net, n_rows: int):
    """Return an unfitted head that takes as many passes as the network did."""
    from uqlib.spa import TorchSPAHead

    return TorchSPAHead(
        net,
        batch_size=200,
        max_iter=N_PASSES * (n_rows // 200),
        early_stopping=False,
        random_state=0,
    )


class Itself:
    """A torch network that predicts arrays from arrays, and does nothing else."""

    def __init__(self, net):
        self.net = net.eval()

    def predict(self, X):
        """Return the outputs of the network."""
        import torch

        with torch.no_grad():
            rows = torch.as_tensor(X, dtype=torch.float32)
            return self.net(rows)[:, 0].numpy().astype(np.float64)


def with_heads(model, mar_estimator, quantile_estimator=None):
    """Return split-point analysis of a fitted model by given heads."""
    from uqlib.spa import SPARegressor

    return SPARegressor(
        FrozenEstimator(model),
        mar_estimator=mar_estimator,
        quantile_estimator=quantile_estimator,
        calibration=None,
        random_state=0,
    )


def fit_case(case: str, heads, X, y, train_members, target: float) -> Result:
    """Fit the heads, beside training an ensemble from nothing."""
    return Result(
        f"{type(heads).__name__}.fit, {case}",
        f"{len(X):,} rows, {X.shape[1]} features",
        "training an ensemble of 5 networks of 2 x 64",
        times_longer(lambda: heads.fit(X, y), train_members),
        target,
        at_most=True,
    )


def predict_case(case: str, heads, model, X, y) -> Result:
    """Ask for the uncertainty, beside the prediction of the model."""
    heads.fit(X, y)
    assert np.array_equal(heads.predict(X), np.ravel(model.predict(X)))
    return Result(
        f"{type(heads).__name__}.predict_uncertainty, {case}",
        f"{len(X):,} rows, {X.shape[1]} features",
        "``predict`` of the model itself",
        times_longer(lambda: heads.predict_uncertainty(X), lambda: model.predict(X)),
        2.5,
        at_most=True,
    )


def times_longer(ours, peer) -> tuple[float, ...]:
    """CPU time of ours over the peer's, turn by turn."""
    return tuple(1 / ratio for ratio in speedups(ours, peer, REPEATS))
