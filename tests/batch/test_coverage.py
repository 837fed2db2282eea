"""Every statement holds as often as it says: by enumeration, and by simulation.

Given the n + m pooled rows, exchangeability makes every choice of the m rows of the
batch equally likely. Going through all of them gives the exact probability of a
statement, whatever the pooled values, ties included.
"""

import warnings
from itertools import combinations
from math import comb

import numpy as np
import pytest
from scipy.stats import binom

from tests.batch._batches import calibrated, rows_of
from uqlib import InfiniteIntervalWarning

pytestmark = pytest.mark.filterwarnings(
    "ignore::uqlib.exceptions.InfiniteIntervalWarning"
)

N, M, LEVEL = 4, 3, 0.6
POOLS = {
    "distinct": np.array([0.3, 1.0, 1.7, 2.9, 3.1, 4.5, 7.2]),
    "tied": np.array([1.0, 1.0, 1.0, 2.0, 2.0, 5.0, 5.0]),
    "constant": np.full(7, 2.0),
}
POINTS = np.array([0.0, 2.5, -1.0, 3.0, 0.5, 2.0, 2.0])
SPLITS = [np.array(batch) for batch in combinations(range(N + M), M)]


def probability(model, pool, points, holds):
    """The share of all choices of the batch for which a statement holds."""
    count = 0
    for batch in SPLITS:
        rest = np.setdiff1d(np.arange(N + M), batch)
        model.calibrate(rows_of(points[rest]), pool[rest])
        count += bool(holds(model, rows_of(points[batch]), pool[batch], points[batch]))
    return count / comb(N + M, M)


def _inside(interval, value):
    # A sum of targets is rounded: its bound is compared up to a few units.
    slack = 1e-12
    return interval[0] - slack <= value <= interval[1] + slack


VALUES = {
    "mean": np.mean,
    "median": np.median,
    "max": np.max,
    "min": np.min,
    ("order", 2): lambda t: np.sort(t)[1],
    ("trimmed", 0.0, 0.34): lambda t: np.sort(t)[:2].mean(),
}


@pytest.mark.parametrize("pool", ["distinct", "tied"])
@pytest.mark.parametrize("nonconformity", ["signed", "outcome", "absolute"])
@pytest.mark.parametrize("statistic", VALUES)
def test_batch_intervals_by_enumeration(statistic, nonconformity, pool):
    methods = ["auto"]
    if statistic == "mean":
        methods = ["core", "hull", "band"]
    for side, method in [("two", methods[0]), *(("upper", m) for m in methods)]:
        model = calibrated(
            np.zeros(N),
            statistic=statistic,
            nonconformity=nonconformity,
            confidence_level=LEVEL,
            side=side,
            method=method,
            score_bounds=(-20.0, 20.0),
        )

        def holds(model, X, y, points):
            errors = np.abs(y - points) if nonconformity == "absolute" else y
            interval = model.predict_batch_interval(X)[0]
            return _inside(interval, VALUES[statistic](errors))

        assert probability(model, POOLS[pool], POINTS, holds) >= LEVEL - 1e-12


@pytest.mark.parametrize("pool", ["distinct", "tied"])
@pytest.mark.parametrize("nonconformity", ["signed", "outcome", "absolute"])
def test_simultaneous_sets_by_enumeration(nonconformity, pool):
    for side in ("two", "upper", "lower"):
        for k in range(1, M + 1):
            model = calibrated(
                np.zeros(N),
                nonconformity=nonconformity,
                confidence_level=LEVEL,
                side=side,
            )

            def holds(model, X, y, points, k=k):
                low, high = model.predict_simultaneous(X, k).T
                return ((low <= y) & (y <= high)).sum() >= k

            found = probability(model, POOLS[pool], POINTS, holds)
            assert found >= LEVEL - 1e-12
            if pool == "distinct" and nonconformity != "absolute":
                # Without ties it is the probability of the ranks itself, whichever
                # gaps the window leaves out.
                ranked = calibrated(np.zeros(N), nonconformity="outcome", side="upper")
                ranked.set_params(confidence_level=LEVEL)
                law = probability(ranked, np.arange(7.0), POINTS, holds)
                assert found == pytest.approx(law, abs=1e-12)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("threshold", [0.0, 1.0, 2.0, 4.5, 9.0])
def test_selection_and_counts_by_enumeration(threshold, pool):
    model = calibrated(np.zeros(N), confidence_level=LEVEL)
    for max_false in range(M):

        def few_false(model, X, y, points, max_false=max_false):
            chosen = model.select(X, threshold, max_false)
            return (chosen & (y <= threshold)).sum() <= max_false

        found = probability(model, POOLS[pool], POINTS, few_false)
        assert found >= LEVEL - 1e-12

    def few_above(model, X, y, points):
        return (y > threshold).sum() <= model.count_above(X, threshold)

    assert probability(model, POOLS[pool], POINTS, few_above) >= LEVEL - 1e-12


# ---------------------------------------------------------------------------
# Simulation. Calibrated on the scores 1, ..., n a model shows the ranks it uses, which
# depend on nothing else. All cells together fail once in a million runs.

LAWS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "poisson": lambda rng, size: rng.poisson(2.0, size=size).astype(float),
    # Rows come twice: pairs of equal scores, as many as there are.
    "copied": lambda rng, size: rng.choice(rng.normal(size=size[1] // 2), size=size),
}
REPETITIONS, CELLS = 100_000, 12


def _draw(law, n, m, seed):
    rng = np.random.default_rng(seed)
    pooled = np.concatenate(
        [LAWS[law](rng, (REPETITIONS // 50, n + m)) for _ in range(50)]
    )
    return np.sort(pooled[:, :n], axis=1), np.sort(pooled[:, n:], axis=1)


def _often_enough(holds, level):
    assert holds.size == REPETITIONS
    assert holds.sum() >= binom(holds.size, level).ppf(1e-6 / CELLS)


@pytest.mark.parametrize("law", LAWS)
def test_order_statistics_and_sets_over_many_repetitions(law):
    n, m = 40, 8
    old, new = _draw(law, n, m, seed=1)
    ranks = np.arange(1.0, n + 1)
    for statistic, k in (("max", 8), ("order", 3)):
        asked = statistic if statistic == "max" else (statistic, k)
        model = calibrated(
            ranks,
            statistic=asked,
            nonconformity="outcome",
            side="upper",
            confidence_level=0.8,
        )
        rank = int(model.predict_batch_interval(np.zeros((m, 1)))[0, 1])
        holds = new[:, k - 1] <= old[:, rank - 1]
        _often_enough(holds, 0.8)
        if law == "normal":  # and within chance of the exact probability
            event = binom(REPETITIONS, model.event_probability_[0, 1])
            low, high = event.ppf([1e-7 / CELLS, 1 - 1e-7 / CELLS])
            assert low <= holds.sum() <= high
    window = calibrated(ranks, nonconformity="outcome", confidence_level=0.8)
    ends = window.predict_simultaneous(np.zeros((m, 1)), 6)[0]
    low, high = old[:, np.rint(ends).astype(int) - 1].T
    covered = (low[:, None] <= new) & (new <= high[:, None])
    _often_enough(covered.sum(axis=1) >= 6, 0.8)


@pytest.mark.parametrize("method", ["core", "partition"])
def test_means_over_repetitions(method):
    # One model, many batches and calibration sets, through the estimator itself.
    n, m, level, repetitions = 60, 3, 0.8, 700
    rng = np.random.default_rng(2)
    model = calibrated(
        np.arange(n) * 1.0, method=method, confidence_level=level, random_state=0
    )
    inside = 0
    for _ in range(repetitions):
        y = rng.choice(rng.exponential(size=40), size=n + m)
        points = rng.normal(size=n + m)
        model.calibrate(rows_of(points[:n]), (y + points)[:n])
        interval = model.predict_batch_interval(rows_of(points[n:]))[0]
        inside += _inside(interval, (y + points)[n:].mean())
    assert inside >= binom(repetitions, level).ppf(1e-6 / CELLS)


def test_joint_intervals_hold_together():
    n, m, n_groups, repetitions = 120, 2, 3, 600
    rng = np.random.default_rng(3)
    model = calibrated(np.arange(n) * 1.0, confidence_level=0.7)
    labels, together = np.repeat(np.arange(n_groups), m), 0
    for _ in range(repetitions):
        y = rng.normal(size=n + labels.size)
        model.calibrate(np.zeros((n, 1)), y[:n])
        X = np.zeros((labels.size, 1))
        low, high = model.predict_batch_interval(X, labels, joint=True).T
        means = y[n:].reshape(n_groups, m).mean(axis=1)
        together += ((low <= means) & (means <= high)).all()
    assert together >= binom(repetitions, 0.7).ppf(1e-6 / CELLS)


def test_finite_statements_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", InfiniteIntervalWarning)
        model = calibrated(np.arange(40.0))
        model.predict_batch_interval(np.zeros((2, 1)))
        model.predict_simultaneous(np.zeros((5, 1)), 4)
        model.select(np.zeros((5, 1)), 3.0, 2)
