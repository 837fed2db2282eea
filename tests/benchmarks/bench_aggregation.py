"""Aggregation: exact weights against linear programming, and what a prediction adds."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
from _timing import Result, cpu_seconds, speedups
from scipy.optimize import linprog
from scipy.sparse import csr_array, eye_array, hstack, vstack

LEVELS = tuple(np.arange(1, 20) / 20)
TOLERANCE = 1e-6  # relative, of the losses that are compared


def run(quick: bool = False) -> Iterator[Result]:
    """Yield the cases."""
    yield fit_case(1_000 if quick else 10_000)
    yield from prediction_cases(2_000 if quick else 100_000)
    yield memory_case(2_000 if quick else 100_000)


def fit_case(n_samples: int) -> Result:
    """Medium weights of 6 models, at three of the levels for both."""
    from uqlib._core.aggregation import aggregate, fit_weights

    Z, y, levels = models(n_samples)

    def ours() -> np.ndarray:
        return fit_weights(Z, y, levels, "medium")

    def peer() -> np.ndarray:
        return np.column_stack(
            [linear_program(Z[:, :, k], y, tau) for k, tau in enumerate(levels)]
        )

    losses = [pinball(y, aggregate(Z, weights()), levels) for weights in (ours, peer)]
    assert abs(losses[0] - losses[1]) <= TOLERANCE * losses[1], losses
    return Result(
        "medium weights, fit",
        f"{n_samples:,} rows, 6 models, 3 levels",
        "scipy ``linprog(method='highs')``, one program a level",
        speedups(ours, peer, 3),
        20,
    )


def models(n_samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Six models of a heteroscedastic target with errors of different size."""
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    levels = np.array([0.05, 0.5, 0.95])
    x = rng.uniform(-1, 1, n_samples)
    scale = 1 + 0.5 * x
    y = x + scale * rng.normal(size=n_samples)
    truth = x[:, None] + scale[:, None] * norm.ppf(levels)
    noise = rng.normal(size=(n_samples, 6, 1)) + 0.3 * rng.normal(
        size=(n_samples, 6, 3)
    )
    return truth[:, None] + 0.2 * np.arange(1, 7)[:, None] * noise, y, levels


def linear_program(Z: np.ndarray, y: np.ndarray, tau: float) -> np.ndarray:
    """Return the simplex weights of one level from HiGHS."""
    n, p = Z.shape
    rows = hstack([csr_array(Z), eye_array(n), -eye_array(n)])
    total = csr_array(np.concatenate([np.ones(p), np.zeros(2 * n)])[None])
    cost = np.concatenate([np.zeros(p), np.full(n, tau), np.full(n, 1 - tau)]) / n
    solution = linprog(
        cost, A_eq=vstack([rows, total]).tocsr(), b_eq=np.append(y, 1), method="highs"
    )
    return solution.x[:p]


def pinball(y: np.ndarray, q: np.ndarray, levels: np.ndarray) -> float:
    """Return the mean pinball loss."""
    error = y[:, None] - q
    return float(np.maximum(levels * error, (levels - 1) * error).mean())


def ensemble(weights: str):
    """Fit six models and their weights."""
    from lightgbm import LGBMRegressor
    from quantile_forest import (
        ExtraTreesQuantileRegressor,
        RandomForestQuantileRegressor,
    )

    from uqlib import (
        LinearQuantileRegressor,
        QuantileEnsembleRegressor,
        TorchQuantileRegressor,
    )

    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(2_000, 8))
    y = X[:, 0] + (1 + X[:, 1]) * rng.normal(size=2_000)
    forest = {"n_estimators": 50, "min_samples_leaf": 5, "random_state": 0}
    network = {"max_iter": 300, "random_state": 0, "early_stopping": False}
    base = [
        ("linear", LinearQuantileRegressor(LEVELS)),
        ("lightgbm", LGBMRegressor(n_estimators=60, verbose=-1, n_jobs=1)),
        ("forest", RandomForestQuantileRegressor(**forest)),
        ("extra-trees", ExtraTreesQuantileRegressor(**forest)),
        ("network", TorchQuantileRegressor(LEVELS, **network)),
        (
            "Gaussian network",
            TorchQuantileRegressor(LEVELS, head="gaussian", **network),
        ),
    ]
    return QuantileEnsembleRegressor(
        base, quantiles=LEVELS, weights=weights, cv=2, random_state=0
    ).fit(X, y)


def prediction_cases(n_samples: int) -> Iterator[Result]:
    """Time of the ensemble's prediction over that of its models."""
    from uqlib import QuantileAggregator

    X = np.random.default_rng(1).uniform(-1, 1, size=(n_samples, 8))
    model = ensemble("medium")
    local = QuantileAggregator(
        "medium", local=True, quantiles=LEVELS, random_state=0, early_stopping=False,
        max_iter=100,
    ).fit(model.oof_quantiles_, model.oof_quantiles_[:, 0, 9], X=X[:2_000])  # fmt: skip
    for name, target in (("medium", 1.10), ("local medium", 1.30)):
        if name == "local medium":
            model.aggregator_, model.weights_ = local, None

        def base() -> None:
            for member in model.estimators_:
                member.predict_quantiles(X, list(LEVELS))

        def whole() -> np.ndarray:
            return model.predict_quantiles(X)

        assert whole().shape == (n_samples, len(LEVELS))
        base()
        ratios = tuple(cpu_seconds(whole) / cpu_seconds(base) for _ in range(3))
        yield Result(
            f"{name} weights, predict",
            f"{n_samples:,} rows, 6 models, 19 levels",
            "the models' own ``predict_quantiles``",
            ratios,
            target,
            at_most=True,
        )


def memory_case(n_samples: int) -> Result:
    """Peak memory of local fine weights beside the output."""
    from uqlib import QuantileAggregator

    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_samples, 8))
    Z = np.sort(rng.normal(size=(n_samples, 6, 19)), axis=2)
    model = QuantileAggregator(
        "fine", local=True, quantiles=LEVELS, random_state=0, early_stopping=False,
        max_iter=5,
    ).fit(Z[:1_000], Z[:1_000, 0, 9], X=X[:1_000])  # fmt: skip
    tracemalloc.start()
    output = model.predict_quantiles(Z, X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return Result(
        "local fine weights, peak memory",
        f"{n_samples:,} rows, 6 models, 19 levels",
        "the output",
        (peak / output.nbytes,),
        4,
        at_most=True,
    )
