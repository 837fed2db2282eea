"""Networks and rows for the tests of `TorchSPAHead`."""

import numpy as np
import pytest

from uqlib.spa._head import TorchSPAHead

torch = pytest.importorskip("torch", reason="torch is not installed")
nn = torch.nn

REGRESSION = {
    "aleatoric", "epistemic", "sds", "relative_sds", "mar", "mar_up", "mar_down",
    "p_up", "bias", "quantile_up", "quantile_down",
}  # fmt: skip
CLASSES = {"aleatoric", "epistemic", "sds", "mar", "side_up", "side_down", "bias"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    # Networks this small only wait for a second thread.
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def network(n_features=2, n_outputs=1, width=4, seed=0, dropout=0.0):
    """A network in double precision: what it was fitted to does not matter here."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(n_features, width),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(width, n_outputs),
        ).double()


class Table(nn.Module):
    """Columns of X: the last ones are the output, all but these the features."""

    def __init__(self, n_outputs=1):
        super().__init__()
        self.n_outputs, self.features = n_outputs, nn.Identity()
        self.register_buffer("zero", torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        self.features(x[:, : -self.n_outputs])
        return x[:, -self.n_outputs :] + self.zero


def quick(net=None, **parameters):
    """Heads that are trained for a moment."""
    small = {"hidden": (8,), "max_iter": 50, "random_state": 0}
    return TorchSPAHead(network() if net is None else net, **small | parameters)


def table_head(n_outputs=1, **parameters):
    return quick(Table(n_outputs), feature_layer="features", **parameters)


def rows(n_samples=300, seed=0, n_features=2):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, n_features))
    return X, np.sin(X[:, 0]) + rng.lognormal(size=n_samples) - 1.0


X, Y = rows()
LABELS = np.random.default_rng(1).integers(3, size=300)
FULL = {"batch_size": 10**6, "early_stopping": False}


def table(residuals, n_features=2, seed=0):
    """Rows for `Table` whose residuals are given: the target is 0."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(len(residuals), n_features))
    return np.column_stack([features, -np.asarray(residuals, dtype=float)])


def check_defined(head, inputs):
    found = head.predict_uncertainty(inputs)
    for name, values in found.items():
        assert np.isfinite(values).all(), name
        assert values.shape == (len(inputs),)
    interval = head.predict_interval(inputs)
    point = head.predict(inputs)
    assert np.all((interval[:, 0] <= point) & (point <= interval[:, 1]))
    return found


class Awkward(nn.Module):
    """Batch normalization, dropout, a frozen part, layers made in another order."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 1)
        self.first = nn.Linear(2, 3)
        self.norm, self.dropout = nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.first.weight.requires_grad_(False)

    def forward(self, x):
        return self.last(self.dropout(self.norm(self.first(x))))[:, 0]


def logits(n_classes=3, seed=6):
    return np.random.default_rng(seed).normal(size=(300, n_classes))


def class_rows(scores):
    return np.column_stack([X, scores])
