"""Coverage over 100,000 repetitions, with ties and copied rows.

The bounds of order statistics, sets, selections and counts are ranks, so that one sort
of all repetitions serves. A band of 5.5 standard errors fails less than once in a
million runs over all cells.
"""

import numpy as np
import pytest

from uqlib.batch import batch_bound, count_above_bound, order_statistic_rank

REPETITIONS, N, M = 100_000, 60, 9
LEVEL = 0.8
ERROR = 5.5 * np.sqrt(LEVEL * (1 - LEVEL) / REPETITIONS)

LAWS = {
    "continuous": lambda rng, size: rng.normal(size=size),
    "ties": lambda rng, size: rng.poisson(2.0, size=size).astype(float),
    "copied rows": lambda rng, size: rng.normal(size=8)[rng.integers(8, size=size)],
}


@pytest.fixture(scope="module", params=LAWS)
def scores(request):
    """Sorted calibration scores and batches, and the name of their law."""
    rng = np.random.default_rng(0)
    calibration = LAWS[request.param](rng, (REPETITIONS, N))
    if request.param == "copied rows":
        rng = np.random.default_rng(0)
        values = rng.normal(size=8)
        calibration = values[rng.integers(8, size=(REPETITIONS, N))]
        batch = values[rng.integers(8, size=(REPETITIONS, M))]
    else:
        batch = LAWS[request.param](rng, (REPETITIONS, M))
    return np.sort(calibration), np.sort(batch), request.param


def upper_end(calibration, rank):
    return np.full(REPETITIONS, np.inf) if rank > N else calibration[:, rank - 1]


@pytest.mark.parametrize("k", [1, 5, 8, 9])
def test_order_statistics(scores, k):
    calibration, batch, law = scores
    rank = order_statistic_rank(N, M, k, LEVEL, "upper")
    covered = np.mean(batch[:, k - 1] <= upper_end(calibration, rank))
    assert covered >= LEVEL - ERROR
    if law == "continuous":  # one atom above the level at most
        below = np.mean(batch[:, k - 1] <= upper_end(calibration, rank - 1))
        assert below <= LEVEL + ERROR
    low, high = order_statistic_rank(N, M, k, LEVEL, "two")
    inside = batch[:, k - 1] <= upper_end(calibration, high)
    if low > 0:
        inside &= batch[:, k - 1] >= calibration[:, low - 1]
    assert inside.mean() >= LEVEL - ERROR


@pytest.mark.parametrize("max_false", [0, 3])
def test_few_false_selections(scores, max_false):
    # A claim "above 0.5" about a row of noise prediction; its score is the prediction
    # where the claim is false, else -inf.
    calibration, batch, _ = scores
    rng = np.random.default_rng(1)
    predicted = calibration + rng.normal(size=calibration.shape)
    false = np.where(calibration <= 0.5, predicted, -np.inf)
    rank = order_statistic_rank(N, M, M - max_false, LEVEL, "upper")
    threshold = upper_end(np.sort(false), rank)
    new = batch + rng.normal(size=batch.shape)
    n_false = np.sum((new > threshold[:, None]) & (batch <= 0.5), axis=1)
    assert np.mean(n_false <= max_false) >= LEVEL - ERROR


@pytest.mark.parametrize("value", [-0.5, 0.5, 2.0])
def test_counts_above_a_value(scores, value):
    calibration, batch, _ = scores
    bounds = np.array([count_above_bound(N, M, k, LEVEL) for k in range(N + 1)])
    n_below = np.sum(calibration <= value, axis=1)
    covered = np.mean(np.sum(batch > value, axis=1) <= bounds[n_below])
    assert covered >= LEVEL - ERROR


@pytest.mark.slow
def test_means(scores):
    calibration, batch, _ = scores
    low, high = -10.0, 20.0  # the range is known, and wide enough for these laws
    upper = np.array(
        [
            batch_bound(row, M, "mean", LEVEL, score_bounds=(low, high), side="upper")
            for row in calibration
        ]
    )
    assert np.mean(batch.mean(axis=1) <= upper) >= LEVEL - ERROR
