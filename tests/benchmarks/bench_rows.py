"""Row operations on quantile matrices, through the public functions."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import scipy
import sklearn
from _timing import Result, speedups
from scipy.optimize import isotonic_regression
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import mean_pinball_loss

from uqlib.metrics import pinball_loss
from uqlib.quantile import isotonic_quantiles, sort_quantiles

QUANTILES = np.arange(1, 20) / 20
# Peers that take one row a call are timed on this many and scaled.
PEER_ROWS = 2_000

NUMPY = f"numpy {np.__version__}"
SCIPY = f"scipy {scipy.__version__}"
SKLEARN = f"scikit-learn {sklearn.__version__}"


def run(quick: bool = False) -> Iterator[Result]:
    """Yield the results of all cases."""
    n_samples, repeats = (100_000, 3) if quick else (1_000_000, 7)
    yield from sorting(n_samples, repeats)
    yield from isotonic(n_samples, repeats)
    yield from pinball(n_samples, repeats)


def sorting(n_samples: int, repeats: int) -> Iterator[Result]:
    """At least 3 x where few rows cross, nowhere slower than 1.1 x."""
    cases = [
        ("no row crosses", swapped(n_samples, 0.0), 3.0),
        ("5 % of rows cross, neighbors swapped", swapped(n_samples, 0.05), 3.0),
        ("10 % of rows cross, neighbors swapped", swapped(n_samples, 0.1), 3.0),
        ("10 % of rows cross, shuffled", shuffled(n_samples, 0.1), 3.0),
        ("28 % of rows cross, neighbors swapped", swapped(n_samples, 0.28), 1 / 1.1),
        ("90 % of rows cross, shuffled", shuffled(n_samples, 0.9), 1 / 1.1),
        ("all rows cross, neighbors swapped", swapped(n_samples, 1.0), 1 / 1.1),
        ("all rows shuffled", shuffled(n_samples, 1.0), 1 / 1.1),
        ("10 % of wide rows cross, shuffled", shuffled(n_samples // 5, 0.1, 99), 3.0),
        ("all wide rows shuffled", shuffled(n_samples // 5, 1.0, 99), 1 / 1.1),
    ]
    for rows, q, target in cases:
        np.testing.assert_array_equal(sort_quantiles(q), np.sort(q, axis=1))
        ratios = speedups(
            lambda q=q: sort_quantiles(q), lambda q=q: np.sort(q, axis=1), repeats
        )
        peer = f"{NUMPY}, sort(axis=1)"
        yield Result(f"sort_quantiles, {rows}", regime(q), peer, ratios, target)


def isotonic(n_samples: int, repeats: int) -> Iterator[Result]:
    """At least 15 x scipy and 1,000 x scikit-learn, called once a row."""
    cases = [
        ("no row crosses", swapped(n_samples, 0.0)),
        ("28 % of rows cross, neighbors swapped", swapped(n_samples, 0.28)),
        ("all rows shuffled", shuffled(n_samples, 1.0)),
    ]
    x = np.arange(QUANTILES.size)
    model = IsotonicRegression()
    peers = [
        (f"{SCIPY}, isotonic_regression", lambda row: isotonic_regression(row).x, 15.0),
        (
            f"{SKLEARN}, IsotonicRegression",
            lambda row: model.fit(x, row).predict(x),
            1_000.0,
        ),
    ]
    for rows, q in cases:
        for name, project, target in peers:
            part = q[:PEER_ROWS]

            def peer(part=part, project=project):
                return [project(row) for row in part]

            expected = np.array(peer())
            np.testing.assert_allclose(
                isotonic_quantiles(q)[:PEER_ROWS], expected, rtol=1e-12, atol=1e-12
            )
            ratios = speedups(
                lambda q=q: isotonic_quantiles(q), peer, repeats, len(q) / PEER_ROWS
            )
            yield Result(
                f"isotonic_quantiles, {rows}",
                f"{regime(q)}; peer: {PEER_ROWS:,} calls, scaled",
                name,
                ratios,
                target,
            )


def pinball(n_samples: int, repeats: int) -> Iterator[Result]:
    """At least 8 x broadcasting and 20 x the loop, without a matrix of losses."""
    q = shuffled(n_samples, 1.0)
    y = np.random.default_rng(1).normal(size=n_samples)

    def ours():
        return pinball_loss(y, q, QUANTILES)

    def broadcast():
        error = y[:, None] - q
        losses = np.maximum(QUANTILES * error, (QUANTILES - 1) * error)
        return np.mean(np.mean(losses, axis=0))

    def loop():
        return np.mean(
            [
                mean_pinball_loss(y, q[:, k], alpha=tau)
                for k, tau in enumerate(QUANTILES)
            ]
        )

    np.testing.assert_allclose(ours(), broadcast(), rtol=1e-12)
    np.testing.assert_allclose(ours(), loop(), rtol=1e-12)
    for name, peer, target in [
        (f"{NUMPY}, broadcasting", broadcast, 8.0),
        (f"{SKLEARN}, mean_pinball_loss looped over levels", loop, 20.0),
    ]:
        ratios = speedups(ours, peer, repeats)
        yield Result("pinball_loss", regime(q), name, ratios, target)
    # One byte a row goes into the check that y is finite, the rest is blocks.
    yield Result(
        "pinball_loss, peak extra memory over that of q",
        regime(q),
        "the matrix of quantiles itself",
        (peak_bytes(ours) / q.nbytes,),
        0.01,
        at_most=True,
    )


def swapped(n_samples: int, share: float) -> np.ndarray:
    """Sorted normal rows; in a random `share` two neighbors change places."""
    rng = np.random.default_rng(0)
    q = np.sort(rng.normal(size=(n_samples, QUANTILES.size)), axis=1)
    rows = np.flatnonzero(rng.random(n_samples) < share)
    first = rng.integers(0, QUANTILES.size - 1, size=rows.size)
    q[rows, first], q[rows, first + 1] = q[rows, first + 1], q[rows, first]
    return q


def shuffled(
    n_samples: int, share: float, n_quantiles: int = QUANTILES.size
) -> np.ndarray:
    """Sorted normal rows; a random `share` of them in random order."""
    rng = np.random.default_rng(0)
    q = rng.normal(size=(n_samples, n_quantiles))
    monotone = rng.random(n_samples) >= share
    q[monotone] = np.sort(q[monotone], axis=1)
    return q


def regime(q: np.ndarray) -> str:
    """Shape, type and size; matrices beyond 64 MB are taken to exceed the caches."""
    shape = " x ".join(f"{size:,}" for size in q.shape)
    bound = "memory-bound" if q.nbytes > 64e6 else "may fit a cache"
    return f"{shape} {q.dtype}, {q.nbytes / 1e6:.0f} MB, {bound}"


def peak_bytes(function) -> int:
    """Most bytes allocated at once during a call, NumPy's buffers included."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
