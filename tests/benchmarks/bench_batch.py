"""Batch predictive inference: laws and bounds against a sort and the plain programs.

A sort of the calibration scores is what any bound needs, and so the unit for the parts
that are done for every batch. The counting program and the full program are the
readable references that the tests compare with: what the faster ways must beat. The
program runs compiled, as the core does; the counting one is NumPy's, a row at a time.
"""

from collections.abc import Callable, Iterator

import numpy as np
from _timing import Result, cpu_seconds, speedups
from scipy.stats import betabinom, norm

REPEATS = 5
SORT = "NumPy ``sort`` of n scores"


def run(quick: bool = False) -> Iterator[Result]:
    """Yield the cases."""
    for n in (1_000, 10_000):
        yield order_case(n)
    yield rank_sum_case()
    yield grid_case(200 if quick else 1_000)
    for n in (1_000, 10_000):
        yield hull_case(n)
    yield core_case(500 if quick else 1_000)
    yield large_case(2_000 if quick else 10_000)


def order_case(n: int) -> Result:
    """Rank of the bound of an order statistic, nothing remembered but the level."""
    from uqlib.batch import order_statistic_rank

    scores = np.random.default_rng(0).normal(size=n)
    m, k = 100, 90
    reached = betabinom(n, k, m + 1 - k).cdf(np.arange(n + 1))
    expected = 1 + int(np.searchsorted(reached, 0.9))
    assert order_statistic_rank(n, m, k, 0.9, "upper") == expected
    return Result(
        "order_statistic_rank",
        f"n = {n:,}, m = {m}, k = {k}; 200 times a turn",
        SORT,
        times_longer(
            lambda: [order_statistic_rank(n, m, k, 0.9, "upper") for _ in range(200)],
            lambda: [np.sort(scores) for _ in range(200)],
        ),
        2,
        at_most=True,
    )


def rank_sum_case() -> Result:
    """The whole law of the rank sum."""
    from uqlib.batch import rank_sum_law

    n, m = 1_000, 50
    scores = np.random.default_rng(0).normal(size=n)
    law, s = rank_sum_law(n, m), np.arange(n * m + 1) - n * m / 2
    moments = [law.sum(), law @ s**2 / (n * m * (n + m + 1) / 12)]
    np.testing.assert_allclose(moments, 1, rtol=1e-10)
    return Result(
        "rank_sum_law",
        f"n = {n:,}, m = {m}; the sort 200 times a turn",
        SORT,
        times_longer(
            lambda: rank_sum_law(n, m),
            lambda: [np.sort(scores) for _ in range(200)],
            200,
        ),
        500,
        at_most=True,
    )


def grid_case(grid: int) -> Result:
    """The law of a sum of shaped ranks, by Fourier transform and by counting."""
    from uqlib._core.rank_law import counting_law
    from uqlib.batch import grid_law

    n, m = 1_000, 50
    phi = normal_shape(n, grid)

    def ours() -> np.ndarray:
        return grid_law(phi, m)

    def counted() -> np.ndarray:
        return counting_law(phi.astype(np.int64), m)

    np.testing.assert_allclose(ours(), counted(), rtol=0, atol=1e-11)
    return Result(
        "grid_law",
        f"n = {n:,}, m = {m}, normal quantiles on {grid:,} levels",
        "our counting program",
        speedups(ours, counted, 3),
        10,
    )


def hull_case(n: int) -> Result:
    """The bound of a new set of scores whose law is known, with its sort."""
    from uqlib.batch import batch_bound

    m = 50
    scores = np.random.default_rng(0).normal(size=n)

    def ours() -> list[float]:
        return [
            batch_bound(scores, m, "mean", 0.9, side="upper", method="hull")
            for _ in range(50)
        ]

    exact = batch_bound(scores, m, "mean", 0.9, side="upper", method="core")
    assert exact - 1e-12 <= ours()[0] <= exact + np.diff(np.sort(scores)).max()
    return Result(
        "batch_bound, hull",
        f"n = {n:,}, m = {m}, law remembered; 50 times a turn",
        SORT,
        times_longer(ours, lambda: [np.sort(scores) for _ in range(50)]),
        20,
        at_most=True,
    )


def core_case(n: int) -> Result:
    """The exact bound of the mean, from the core and by the full program."""
    from uqlib.batch import batch_bound

    m = 50
    scores = np.random.default_rng(0).normal(size=n)

    def bound(method: str) -> float:
        return batch_bound(scores, m, "mean", 0.9, side="upper", method=method)

    np.testing.assert_allclose(bound("core"), bound("dp"), rtol=0, atol=1e-12)
    return Result(
        "batch_bound, core",
        f"n = {n:,}, m = {m}, phi of ranks, law remembered",
        "our full program",
        speedups(lambda: bound("core"), lambda: bound("dp"), 3),
        3,
    )


def large_case(n: int) -> Result:
    """The exact bound of a large problem, its law included, in seconds."""
    from uqlib._core.rank_events import _linear_law, linear_event
    from uqlib.batch import batch_bound

    m = 100
    scores = np.random.default_rng(0).normal(size=n)
    phi = np.append(normal_shape(n, 1_000)[:-1], np.inf)

    def bound() -> float:
        linear_event.cache_clear()
        _linear_law.cache_clear()
        return batch_bound(scores, m, "mean", 0.9, phi=phi, side="upper", method="core")

    # Finite, and above what a mean of m normal scores reaches with 90 %.
    assert 1.28 / np.sqrt(m) < bound() < np.inf
    return Result(
        "batch_bound, core with its law",
        f"n = {n:,}, m = {m}, normal quantiles on 1,000 levels",
        "one second",
        tuple(cpu_seconds(bound) for _ in range(3)),
        1,
        at_most=True,
    )


def normal_shape(n: int, grid: int) -> np.ndarray:
    """Return normal quantiles of n + 1 gaps as integers 0, ..., grid."""
    quantiles = norm.ppf((np.arange(n + 1) + 0.5) / (n + 1))
    return np.rint(grid * (quantiles / quantiles[-1] + 1) / 2)


def times_longer(
    ours: Callable[[], object], unit: Callable[[], object], scale: float = 1.0
) -> tuple[float, ...]:
    """Time of ours over that of the unit, once a turn; `scale` units are timed."""
    return speedups(unit, ours, REPEATS, scale)
