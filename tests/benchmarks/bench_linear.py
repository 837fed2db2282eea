"""Linear quantile regression, through the public estimator."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sklearn
from _timing import Result, cpu_seconds, speedups
from bench_rows import peak_bytes, regime
from sklearn.linear_model import LinearRegression, QuantileRegressor
from sklearn.metrics import mean_pinball_loss

from uqlib.quantile import LinearQuantileRegressor

N_FEATURES = 20
SKLEARN = f"scikit-learn {sklearn.__version__}"


def run(quick: bool = False) -> Iterator[Result]:
    """Yield the results of all cases."""
    yield from simplex(5_000 if quick else 10_000, 1 if quick else 3)
    yield from interior_point(20_000 if quick else 100_000, 1 if quick else 3)
    yield from many_rows(200_000 if quick else 1_000_000, 1 if quick else 5)


def simplex(n_samples: int, repeats: int) -> Iterator[Result]:
    """At least 50 x the default solver, the simplex of HiGHS."""
    X, y = heteroscedastic(n_samples)
    for level in (0.5, 0.9):
        peer = QuantileRegressor(quantile=level, alpha=0.0)
        yield versus(X, y, level, peer, f"{SKLEARN}, default solver", repeats, 50.0)


def interior_point(n_samples: int, repeats: int) -> Iterator[Result]:
    """At least 20 x the interior point of HiGHS."""
    X, y = heteroscedastic(n_samples)
    for level in (0.5, 0.9):
        peer = QuantileRegressor(quantile=level, alpha=0.0, solver="highs-ipm")
        yield versus(X, y, level, peer, f"{SKLEARN}, highs-ipm", repeats, 20.0)


def many_rows(n_samples: int, repeats: int) -> Iterator[Result]:
    """A level costs at most three times 20 least-squares fits, and little memory."""
    X, y = heteroscedastic(n_samples)
    levels = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    design = np.column_stack([X, np.ones(n_samples)])
    peers: list[tuple[str, Callable[[], Any]]] = [
        (
            f"20 fits of {SKLEARN}, LinearRegression",
            lambda: LinearRegression().fit(X, y),
        ),
        (
            "20 fits by the normal equations, numpy",
            lambda: np.linalg.solve(design.T @ design, design.T @ y),
        ),
    ]
    model = LinearQuantileRegressor(levels)
    for name, least_squares in peers:
        least_squares()
        ratios = tuple(
            cpu_seconds(lambda: model.fit(X, y))
            / levels.size
            / (20 * cpu_seconds(least_squares))
            for _ in range(repeats)
        )
        yield Result(
            "LinearQuantileRegressor.fit, CPU a level",
            f"{regime(X)}; {levels.size} levels in one fit",
            name,
            ratios,
            3.0,
            at_most=True,
        )
    check_certificates(model, X, y)
    single = X.astype(np.float32)
    yield Result(
        "LinearQuantileRegressor.fit, peak extra memory over that of X",
        f"{regime(single)}; {levels.size} levels in one fit",
        "X in double precision would be 2",
        (peak_bytes(lambda: model.fit(single, y)) / single.nbytes,),
        2.0,
        at_most=True,
    )


def versus(
    X: np.ndarray,
    y: np.ndarray,
    level: float,
    peer: QuantileRegressor,
    name: str,
    repeats: int,
    target: float,
) -> Result:
    """Time one level against a peer, and print how far apart the losses are."""
    model = LinearQuantileRegressor([level])
    ratios = speedups(lambda: model.fit(X, y), lambda: peer.fit(X, y), repeats)
    ours = mean_pinball_loss(y, model.predict_quantiles(X)[:, 0], alpha=level)
    theirs = mean_pinball_loss(y, peer.predict(X), alpha=level)
    excess = ours / theirs - 1
    print(f"relative excess of the pinball loss at level {level}: {excess:.1e}")
    assert excess <= 1e-8
    check_certificates(model, X, y)
    return Result(
        f"LinearQuantileRegressor.fit, level {level}", regime(X), name, ratios, target
    )


def check_certificates(
    model: LinearQuantileRegressor, X: np.ndarray, y: np.ndarray
) -> None:
    """Assert that the certified gaps are within the tolerance."""
    matrix = model.predict_quantiles(X)
    for k, level in enumerate(model.quantiles_):
        loss = mean_pinball_loss(y, matrix[:, k], alpha=level)
        assert model.dual_gap_[k] <= 1e-8 * loss


def heteroscedastic(n_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Linear in 20 normal columns, with t noise whose scale depends on one of them."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_samples, N_FEATURES))
    noise = np.exp(0.3 * X[:, 0]) * rng.standard_t(4, size=n_samples)
    return X, X @ rng.normal(size=N_FEATURES) + noise
