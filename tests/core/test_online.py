"""Adaptive conformal inference: exact rationals, any stream, every edge."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib._core import online
from uqlib._core.levels import exact_level
from uqlib._core.online import (
    ScoreStore,
    aci_steps,
    check_step_size,
    residual_pair,
    window_thresholds,
)
from uqlib._core.ranks import conformal_quantile
from uqlib.conformal import aci_thresholds

INF = math.inf
LEVELS = (0.5, 0.9, 0.55, 0.994, 0.996, 1 - 0.05, 1 / 3)
GAMMAS = (0.0, 0.005, 0.05, 0.3, 1 / 7, 1.5)


@pytest.fixture
def compiled(monkeypatch):
    """Send every stream through the compiled loops, however short."""
    loops = pytest.importorskip("uqlib_kernels.online")
    monkeypatch.setattr(online, "compiled_kernels", lambda *_: loops)


# Few values, so that ties and scores on the bound are common.
scores_with_ties = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]), max_size=40)


def threshold_by_hand(past, alpha):
    """The conformal quantile of a list at level 1 - alpha, for any rational alpha."""
    if alpha <= 0:
        return INF
    if alpha >= 1:
        return -INF
    rank = max(1, math.ceil((len(past) + 1) * (1 - alpha)))
    return sorted(past)[rank - 1] if rank <= len(past) else INF


def aci_by_hand(past, stream, level, gamma, window=0):
    """The recursion in exact rationals. window=0: the past never changes."""
    alpha = target = 1 - exact_level(level)
    gamma, past, thresholds = exact_level(gamma), list(past), []
    for score in stream:
        thresholds.append(threshold_by_hand(past, alpha))
        alpha += gamma * (target - (score > thresholds[-1]))
        if window != 0:
            past = [*past, score] if window is None else [*past, score][-window:]
    return thresholds


@given(
    scores_with_ties, scores_with_ties, st.sampled_from(LEVELS), st.sampled_from(GAMMAS)
)
def test_equals_the_recursion_in_rationals(calibration, stream, level, gamma):
    thresholds = aci_thresholds(calibration, stream, level, gamma)
    expected = aci_by_hand(calibration, stream, level, gamma)
    assert thresholds.tolist() == expected


@given(
    st.lists(st.floats(allow_nan=False), max_size=12),
    st.lists(st.floats(allow_nan=False), max_size=30),
)
def test_infinite_scores_are_scores(calibration, stream):
    thresholds = aci_thresholds(calibration, stream, 0.7, 0.1)
    assert thresholds.tolist() == aci_by_hand(calibration, stream, 0.7, 0.1)


@given(
    scores_with_ties,
    scores_with_ties,
    st.sampled_from(LEVELS),
    st.sampled_from(GAMMAS),
    st.sampled_from([None, 1, 3, 7]),
)
def test_window_equals_the_recursion_in_rationals(past, stream, level, gamma, window):
    steps = aci_steps(exact_level(level), check_step_size(gamma))
    store = ScoreStore(past, window)
    recent = list(store.recent)
    thresholds = window_thresholds(store, np.array(stream), steps, steps.start)
    expected = aci_by_hand(recent, stream, level, gamma, window)
    assert thresholds.tolist() == expected
    everything = past + stream
    kept = everything if window is None else everything[-window:]
    assert store.recent == kept
    assert store.ordered == sorted(kept)


@given(scores_with_ties, st.sampled_from([None, 1, 4]))
def test_store_counts_and_selects(scores, window):
    added, extended = ScoreStore([], window), ScoreStore([], window)
    for score in scores:
        added.add(score)
    extended.extend(scores)
    assert (added.recent, added.ordered) == (extended.recent, extended.ordered)
    for value in (-1.0, 0.5, 4.0):
        assert added.count_below(value) == sum(s < value for s in added.recent)
    ends = [added.order_statistic(rank) for rank in range(len(added) + 2)]
    assert ends == [-INF, *sorted(added.recent), INF]


def test_gamma_zero_is_split_conformal():
    rng = np.random.default_rng(0)
    calibration, stream = rng.normal(size=99), rng.normal(size=50)
    for level in LEVELS:
        if level <= 0.99:
            expected = np.full(50, conformal_quantile(calibration, level))
            thresholds = aci_thresholds(calibration, stream, level, 0)
            np.testing.assert_array_equal(thresholds, expected)


@pytest.mark.parametrize("level", [0.99, 0.994, 0.996, 0.999])
def test_levels_are_not_rounded_to_two_decimals(level):
    # The first threshold has rank ceil(1000 level): 990, 994, 996, 999.
    calibration = np.arange(1.0, 1000.0)
    first = aci_thresholds(calibration, [0.0], level, 0.005)
    assert first.tolist() == [round(1000 * level)]


def test_a_score_on_the_bound_is_no_miss():
    # 4 scores at level 0.5: rank 3. A hit lowers the coverage asked for to
    # 0.5 - 0.2 * 0.5 = 0.4, rank 2; a miss would raise it to 0.6, rank 3.
    thresholds = aci_thresholds([1, 2, 3, 4], [3.0, 0.0], 0.5, 0.2)
    assert thresholds.tolist() == [3.0, 2.0]
    above = aci_thresholds([1, 2, 3, 4], [np.nextafter(3.0, 4.0), 0.0], 0.5, 0.2)
    assert above.tolist() == [3.0, 3.0]


def test_alpha_is_not_clipped_below():
    # alpha: 0.5, then two misses of -0.3 each with step 0.6 bring it to -0.1; two hits
    # of +0.3 make it 0.2 and 0.5. Clipped at 0, the hits would make it 0.3 and 0.6.
    thresholds = aci_thresholds([1, 2, 3, 4], [9.0, 9.0, 0.0, 0.0, 0.0], 0.5, 0.6)
    assert thresholds.tolist() == [3.0, 4.0, INF, 4.0, 3.0]


def test_alpha_is_not_clipped_above():
    # Hits raise alpha by 0.3: 0.5, 0.8, 1.1. There the set is empty and even the lowest
    # score is missed: 0.8. Clipped at 1 it would have become 0.7, of rank 2.
    thresholds = aci_thresholds([1, 2, 3, 4], [0.0, 0.0, 0.0, 0.0], 0.5, 0.6)
    assert thresholds.tolist() == [3.0, 1.0, -INF, 1.0]


def test_nothing_accumulates():
    # One miss and nine hits bring alpha back to exactly 0.1, where 9 scores have rank
    # 9; an alpha that is too small by one unit in the last place has rank 10.
    n_cycles = 5000
    stream = np.tile([100.0] + 9 * [0.0], n_cycles)
    thresholds = aci_thresholds(np.arange(1.0, 10.0), stream, 0.9, 0.003)
    assert (thresholds[::10] == 9.0).all()
    alpha, floats = 0.1, []
    for score, threshold in zip(stream, thresholds, strict=True):
        floats.append(math.ceil(10 * (1 - alpha)))
        alpha += 0.003 * (0.1 - (score > threshold))
    assert set(floats[::10]) != {9}  # what accumulating would have given


# ----------------------------------------------------- the bound, for any stream


def long_run_bound(level, gamma, n_steps):
    alpha = float(1 - exact_level(level))
    return (max(alpha, 1 - alpha) + gamma) / (gamma * n_steps)


def miss_rate(stream, thresholds):
    return np.mean(np.asarray(stream) > thresholds)


def play(adversary, level, gamma, n_steps, calibration):
    """Let an adversary who sees every threshold choose the next score."""
    stream = []
    for t in range(n_steps):
        threshold = aci_thresholds(calibration, [*stream, 0.0], level, gamma)[t]
        stream.append(adversary(t, threshold))
    return stream


ADVERSARIES = {
    "always misses": lambda t, q: np.nextafter(q, INF) if q < INF else 1e300,
    "never misses": lambda t, q: q if abs(q) < INF else -1e300,
    "misses in spells": lambda t, q: 1e300 if (t // 20) % 2 else -1e300,
    "misses when sure": lambda t, q: 1e300 if q > 5 else -1e300,
}


@pytest.mark.parametrize("name", ADVERSARIES)
@pytest.mark.parametrize("level", [0.5, 0.9])
@pytest.mark.parametrize("gamma", [0.02, 0.3])
def test_long_run_bound_against_adversaries(name, level, gamma):
    calibration = np.arange(1.0, 12.0)
    stream = play(ADVERSARIES[name], level, gamma, 150, calibration)
    thresholds = aci_thresholds(calibration, stream, level, gamma)
    alpha = 1 - level
    for n_steps in range(1, 151):
        rate = miss_rate(stream[:n_steps], thresholds[:n_steps])
        bound = long_run_bound(level, gamma, n_steps)
        assert abs(rate - alpha) <= bound + 1e-12


@given(
    st.lists(st.floats(-1e9, 1e9), max_size=5),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1),
    st.sampled_from([0.01, 0.1, 0.9]),
)
def test_long_run_bound_for_any_stream(calibration, stream, gamma):
    thresholds = aci_thresholds(calibration, stream, 0.8, gamma)
    error = abs(miss_rate(stream, thresholds) - 0.2)
    assert error <= long_run_bound(0.8, gamma, len(stream)) + 1e-12


def test_long_run_bound_is_reached_by_a_stream_that_outgrows_calibration():
    # A trend leaves every calibration score behind: all finite thresholds miss, yet
    # the rate is right to within the bound, which 2000 steps make 0.095.
    stream = np.arange(2000.0)
    thresholds = aci_thresholds(np.arange(50.0), stream, 0.9, 0.005)
    error = abs(miss_rate(stream, thresholds) - 0.1)
    assert error <= long_run_bound(0.9, 0.005, 2000)
    split = np.full(2000, conformal_quantile(np.arange(50.0), 0.9))
    assert miss_rate(stream, split) > 0.97


# --------------------------------------------------------------------- edges


def test_no_calibration_scores():
    # Only +inf and -inf are there to choose from: the bound holds all the same.
    thresholds = aci_thresholds([], np.zeros(1000), 0.9, 0.1)
    assert set(thresholds) == {INF, -INF}
    assert abs(miss_rate(np.zeros(1000), thresholds) - 0.1) <= long_run_bound(
        0.9, 0.1, 1000
    )


def test_no_steps():
    assert aci_thresholds([1.0], [], 0.9, 0.1).shape == (0,)


def test_input_is_left_alone():
    calibration, stream = np.array([3.0, 1.0, 2.0]), np.array([5.0, 0.0])
    aci_thresholds(calibration, stream, 0.5, 0.1)
    assert calibration.tolist() == [3.0, 1.0, 2.0]
    assert stream.tolist() == [5.0, 0.0]


def test_float32_and_strides():
    rng = np.random.default_rng(1)
    calibration = rng.normal(size=60).astype(np.float32)
    stream = rng.normal(size=80).astype(np.float32)
    expected = aci_thresholds(calibration[::3].astype(float), stream[::2], 0.9, 0.05)
    result = aci_thresholds(calibration[::3], stream[::2], 0.9, np.float32(0.05))
    np.testing.assert_array_equal(result, expected)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_compiled_equals_the_recursion_in_rationals(level, gamma):
    rng = np.random.default_rng(4)
    calibration, stream = rng.integers(0, 9, size=20), rng.integers(0, 12, size=80)
    thresholds = aci_thresholds(calibration, stream, level, gamma)
    assert thresholds.tolist() == aci_by_hand(calibration, stream, level, gamma)


def test_long_streams_are_compiled(monkeypatch):
    # The same numbers from both paths, and no interpreter in the long one.
    pytest.importorskip("uqlib_kernels.online")
    rng = np.random.default_rng(5)
    calibration, stream = rng.normal(size=100), rng.normal(size=2**17)
    monkeypatch.setattr(online, "_fixed_reference", None)
    long = aci_thresholds(calibration, stream, 0.9, 0.01)
    monkeypatch.undo()
    short = aci_thresholds(calibration, stream[:500], 0.9, 0.01)
    np.testing.assert_array_equal(long[:500], short)


@pytest.mark.usefixtures("compiled")
def test_integers_too_large_for_the_kernel_are_exact():
    # Units of 1 / (10^9 10^9) times a rank leave 64 bits.
    level, gamma = 0.123456789, 0.987654321
    rng = np.random.default_rng(2)
    calibration, stream = rng.normal(size=30), rng.normal(size=60)
    assert not aci_steps(exact_level(level), exact_level(gamma)).fit_int64(30, 60, 1)
    thresholds = aci_thresholds(calibration, stream, level, gamma)
    assert thresholds.tolist() == aci_by_hand(calibration, stream, level, gamma)


@pytest.mark.parametrize("gamma", [-0.1, INF, math.nan])
def test_gamma_out_of_range(gamma):
    with pytest.raises(ValueError, match=r"gamma must be a finite number >= 0, got"):
        aci_thresholds([1.0], [1.0], 0.9, gamma)


@pytest.mark.parametrize("gamma", ["0.1", None, True])
def test_gamma_of_a_wrong_type(gamma):
    with pytest.raises(TypeError, match=r"gamma must be a finite number >= 0, got"):
        aci_thresholds([1.0], [1.0], 0.9, gamma)


@pytest.mark.parametrize(
    ("calibration", "stream", "level", "message"),
    [
        ([math.nan], [1.0], 0.9, "calibration_scores contains NaN"),
        ([1.0], [math.nan], 0.9, "scores contains NaN"),
        ([[1.0]], [1.0], 0.9, "calibration_scores must be 1-D"),
        ([1.0], 1.0, 0.9, "scores must be 1-D"),
        ([1.0], [1.0], 1.0, "confidence_level must lie strictly between 0 and 1"),
    ],
)
def test_bad_input(calibration, stream, level, message):
    with pytest.raises(ValueError, match=message):
        aci_thresholds(calibration, stream, level, 0.1)


# --------------------------------------------------------- pairs of residuals


def pair_by_hand(residuals, level, shortest):
    """Every pair of order statistics with j - i >= (n + 1) p; None if there is none."""
    ordered, n = sorted(residuals), len(residuals)
    gap = math.ceil((n + 1) * exact_level(level))
    pairs = [(i, i + gap) for i in range(1, n + 1) if i + gap <= n]
    if not pairs:
        return -INF, INF
    if shortest:
        widths = [ordered[j - 1] - ordered[i - 1] for i, j in pairs]
        i, j = pairs[widths.index(min(widths))]
    else:
        i = math.floor((n + 1) * (1 - exact_level(level)) / 2)
        j = n + 1 - i
    return ordered[i - 1], ordered[j - 1]


@given(
    st.lists(st.one_of(st.integers(-3, 3), st.floats(-5, 5)), max_size=60),
    st.sampled_from([0.5, 0.8, 0.9, 1 / 3]),
    st.booleans(),
)
def test_residual_pair_equals_the_search_over_all_pairs(residuals, level, shortest):
    ordered = np.sort(np.array(residuals, dtype=float))
    pair = residual_pair(ordered, exact_level(level), shortest)
    assert pair == pair_by_hand(ordered.tolist(), level, shortest)
    if shortest:
        tails = residual_pair(ordered, exact_level(level), False)
        # Equal, or undefined where both pairs are infinite.
        assert not pair[1] - pair[0] > tails[1] - tails[0]


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("shortest", [True, False])
def test_residual_pair_is_finite_from_the_stated_size_on(level, shortest):
    needed = int(2 / (1 - exact_level(level)) - 1)
    exact = exact_level(level)
    for n in (needed - 1, needed):
        pair = residual_pair(np.arange(float(n)), exact, shortest)
        assert np.isfinite(pair).all() == (n == needed)


def test_residual_pair_with_infinite_residuals():
    ordered = np.array([-INF, -INF, *range(20), INF, INF])
    lower, upper = residual_pair(ordered, Fraction(3, 4), True)
    assert upper - lower == 19
