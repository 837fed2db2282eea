"""Online updates against their formulas, written out step by step."""

import copy
import math
import pickle
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib._core import online
from uqlib._core.levels import exact_level
from uqlib._core.online import ScoreStore
from uqlib._core.online_choice import AGACI_GAMMAS, DTACI_GAMMAS, make_update

INF = math.inf
DEFAULTS = {
    "gamma": 0.05,
    "gammas": None,
    "horizon": 100,
    "learning_rate": 0.1,
    "integral_gain": None,
    "saturation": 1.0,
}
UPDATES = ["aci", "agaci", "dtaci", "pid"]


def new_update(name, level=0.9, **parameters):
    return make_update(name, exact_level(level), **{**DEFAULTS, **parameters})


def started(name, past, level=0.9, window=None, **parameters):
    update, store = new_update(name, level, **parameters), ScoreStore(past, window)
    update.start(store)
    return update, store


def stream_of(kind, n_steps=200, seed=0):
    """Past scores, new scores, and at which end y lies."""
    rng = np.random.default_rng(seed)
    past = rng.exponential(size=30)
    stream = {
        "stationary": lambda: rng.exponential(size=n_steps),
        "drift": lambda: rng.exponential(size=n_steps) * np.linspace(1, 5, n_steps),
        "break": lambda: rng.exponential(size=n_steps) + 4 * (np.arange(n_steps) > 60),
        "ties": lambda: rng.integers(0, 4, size=n_steps).astype(float),
        "zero": lambda: np.zeros(n_steps),
    }[kind]()
    return past.tolist(), stream, rng.random(n_steps) < 0.7


streams = pytest.mark.parametrize(
    "kind", ["stationary", "drift", "break", "ties", "zero"]
)
windows = pytest.mark.parametrize("window", [None, 25])


def quantile(past, coverage):
    """The conformal quantile; a computed level may be off by its rounding error."""
    if coverage <= 1e-12:
        return -INF
    if coverage >= 1 - 1e-12:
        return INF
    rank = max(1, math.ceil(round((len(past) + 1) * coverage, 9)))
    return sorted(past)[rank - 1] if rank <= len(past) else INF


def moved(past, score, window):
    return [*past, score] if window is None else [*past, score][-window:]


# ------------------------------------------------------------- AgACI and DtACI


def agaci_by_hand(past, stream, above, level, gammas, window):
    """Bounds around the point 0: -q and +q, judged by pinball losses of y itself."""
    target = 1 - Fraction(str(level))
    alphas, thresholds = [target] * len(gammas), []
    experts = range(len(gammas))
    totals = {end: [0.0] * len(gammas) for end in "lu"}
    squares = {end: [0.0] * len(gammas) for end in "lu"}
    largest = dict.fromkeys("lu", 0.0)

    def rate(end, k):
        if largest[end] == 0:
            return 1.0
        if squares[end][k] == 0:
            return 1 / (2 * largest[end])
        slow = math.sqrt(math.log(len(gammas)) / squares[end][k])
        return min(1 / (2 * largest[end]), slow)

    for score, up in zip(stream, above, strict=True):
        y = score if up else -score
        raw = [quantile(past, 1 - alpha) for alpha in alphas]
        finite = [min(max(q, min(past)), max(past)) for q in raw]
        pair = []
        for end, tau in (("l", float(target) / 2), ("u", 1 - float(target) / 2)):
            bounds = [-q if end == "l" else q for q in finite]
            rates = [rate(end, k) for k in experts]
            mass = [rates[k] * math.exp(-rates[k] * totals[end][k]) for k in experts]
            bound = sum(m * b for m, b in zip(mass, bounds, strict=True)) / sum(mass)
            # d/db of the pinball loss tau (y - b)_+ + (1 - tau) (b - y)_+ .
            beyond = y < bound if end == "l" else y > bound
            slope = (1 - tau if beyond else -tau) if end == "l" else None
            if end == "u":
                slope = -tau if beyond else 1 - tau
            excess = [slope * (bounds[k] - bound) for k in experts]
            largest[end] = max(largest[end], *map(abs, excess))
            for k in experts:
                squares[end][k] += excess[k] ** 2
                totals[end][k] += excess[k] + rate(end, k) * excess[k] ** 2
            pair.append(-bound if end == "l" else bound)
        thresholds.append(pair)
        for k, gamma in enumerate(gammas):
            alphas[k] += Fraction(str(gamma)) * (target - (score > raw[k]))
        past = moved(past, score, window)
    return thresholds


@streams
@windows
def test_agaci_equals_its_formulas(kind, window):
    gammas = (0.0, 0.01, 0.05, 0.2)
    past, stream, above = stream_of(kind, 120)
    past = past if window is None else past[-window:]
    if kind == "zero":
        above[:] = True  # at a score of 0 both ends are one point
    update, store = started("agaci", past, 0.8, window, gammas=gammas)
    ends = update.run(store, stream, above)
    expected = agaci_by_hand(past, stream.tolist(), above, 0.8, gammas, window)
    np.testing.assert_allclose(ends, expected, rtol=1e-9, atol=1e-12)


def dtaci_by_hand(past, stream, level, gammas, horizon, window):
    target, a = 1 - Fraction(str(level)), 1 - level
    n_experts = len(gammas)
    sigma = 1 / (2 * horizon)
    eta = math.sqrt(3 / horizon) * math.sqrt(
        (math.log(2 * n_experts * horizon) + 1)
        / ((1 - a) ** 2 * a**3 + a**2 * (1 - a) ** 3)
    )
    alphas, weights, thresholds = [target] * n_experts, [1.0] * n_experts, []
    for score in stream:
        total = sum(weights)
        share = [w / total for w in weights]
        mean = sum(s * float(alpha) for s, alpha in zip(share, alphas, strict=True))
        thresholds.append(quantile(past, 1 - mean))
        beta = 1 - sum(s < score for s in past) / (len(past) + 1)
        losses = [
            a * (beta - float(alpha)) - min(0.0, beta - float(alpha))
            for alpha in alphas
        ]
        decayed = [s * math.exp(-eta * x) for s, x in zip(share, losses, strict=True)]
        mixing = sum(decayed) * sigma / n_experts
        weights = [(1 - sigma) * d + mixing for d in decayed]
        for k, gamma in enumerate(gammas):
            missed = score > quantile(past, 1 - alphas[k])
            alphas[k] += Fraction(str(gamma)) * (target - missed)
        past = moved(past, score, window)
    return thresholds


@streams
@windows
def test_dtaci_equals_its_formulas(kind, window):
    gammas = (0.001, 0.02, 0.128)
    past, stream, above = stream_of(kind)
    past = past if window is None else past[-window:]
    update, store = started("dtaci", past, 0.9, window, gammas=gammas)
    ends = update.run(store, stream, above)
    expected = dtaci_by_hand(past, stream.tolist(), 0.9, gammas, 100, window)
    np.testing.assert_array_equal(ends[:, 0], expected)
    np.testing.assert_array_equal(ends[:, 1], expected)


def test_dtaci_has_the_learning_rate_of_the_paper():
    # Level 0.9, eight step sizes and spells of 500 rows give 2.72.
    assert new_update("dtaci", horizon=500).eta == pytest.approx(2.72, abs=0.005)


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(-1, 4))
def test_beta_is_the_largest_level_that_covers(past, score):
    n = len(past)
    beta = 1 - Fraction(sum(s < score for s in past), n + 1)
    for step in range(-3, 10 * (n + 1) + 4):
        alpha = Fraction(step, 10 * (n + 1))
        threshold = quantile(past, 1 - alpha) if alpha < 1 else -INF
        assert (score <= threshold) == (alpha < beta)


@streams
def test_dtaci_keeps_its_regret_bound(kind):
    # With weights p_t: sum_t <p_t, l_t> over a spell exceeds the loss of any expert by
    # at most (log(K / sigma) - r log(1 - sigma)) / eta + eta / 2 sum_t <p_t, l_t^2>,
    # and by convexity the loss of the mean level is no larger than <p_t, l_t>.
    past, stream, above = stream_of(kind)
    update, store = started("dtaci", past, 0.9, horizon=50)
    n_experts = len(DTACI_GAMMAS)
    own, squares, experts = [], [], []
    for score, up in zip(stream, above, strict=True):
        beta = 1 - store.count_below(score) / (len(store) + 1)
        weights, alphas = update.weights, np.append(update._alphas(), update.alpha)
        losses = 0.1 * (beta - alphas) - np.minimum(0, beta - alphas)
        experts.append(losses[:-1])
        own.append(losses[-1])
        squares.append(weights @ losses[:-1] ** 2)
        update.run(store, np.array([score]), np.array([up]))
    own, squares, experts = map(np.array, (own, squares, experts))
    for first in range(0, len(stream) - 50, 10):
        spell = slice(first, first + 50)
        regret = own[spell].sum() - experts[spell].sum(axis=0).min()
        share = math.log(n_experts / update.sigma) - 50 * math.log(1 - update.sigma)
        bound = share / update.eta + update.eta / 2 * squares[spell].sum()
        assert regret <= bound + 1e-9


@streams
@windows
@pytest.mark.parametrize("name", ["agaci", "dtaci"])
def test_one_expert_is_aci(name, kind, window):
    past, stream, above = stream_of(kind)
    alone, store = started("aci", past, window=window, gamma=0.05)
    ends = alone.run(store, stream, above)
    update, store = started(name, past, window=window, gammas=[0.05])
    result = update.run(store, stream, above)
    if name == "agaci":  # whose thresholds are always finite
        assert np.isfinite(result).all()
        finite = np.isfinite(ends)
        np.testing.assert_array_equal(result[finite], ends[finite])
    else:
        np.testing.assert_array_equal(result, ends)
    assert np.ravel(update.alpha)[0] == alone.alpha


# ---------------------------------------------------------------------- PID


def pid_by_hand(past, stream, level, rate, gain, saturation, window):
    a, thresholds, errors = 1 - level, [], []
    rank = min(len(past), math.ceil((len(past) + 1) * Fraction(str(level))))
    tracked = sorted(past)[rank - 1]
    gain = max(abs(s) for s in past) if gain is None else gain
    for score in stream:
        t = len(errors)
        angle = sum(errors) * math.log(t + 1) / (saturation * (t + 1))
        if angle >= math.pi / 2:
            integral = INF
        elif angle <= -math.pi / 2:
            integral = -INF
        else:
            integral = gain * math.tan(angle)
        thresholds.append(tracked + integral)
        missed = score > thresholds[-1]
        errors.append(missed - a)
        tracked += rate * (max(past) - min(past)) * (missed - a)
        past = moved(past, score, window)
    return thresholds


@streams
@windows
@pytest.mark.parametrize("gain", [None, 0.0, 2.5])
def test_pid_equals_its_formulas(kind, window, gain):
    past, stream, above = stream_of(kind)
    past = past if window is None else past[-window:]
    update, store = started(
        "pid", past, 0.8, window, integral_gain=gain, saturation=0.3
    )
    ends = update.run(store, stream, above)
    expected = pid_by_hand(past, stream.tolist(), 0.8, 0.1, gain, 0.3, window)
    np.testing.assert_allclose(ends[:, 0], expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(ends[:, 0], ends[:, 1])


def above_threshold(t, q):
    return q + 1 if q < INF else 1e6


ADVERSARIES = {
    "always misses": above_threshold,
    "never misses": lambda t, q: q - 1 if abs(q) < INF else -1e6,
    "misses in spells": lambda t, q: 1e6 if (t // 50) % 2 else -1e6,
}


def error_bound(saturation, n_steps):
    """The c max h(t) + 1 that the summed error cannot exceed."""
    h = max((t + 1) / math.log(t + 1) for t in range(1, n_steps + 1))
    return saturation * math.pi / 2 * h + 1


@pytest.mark.parametrize("name", ADVERSARIES)
@pytest.mark.parametrize("saturation", [0.05, 1.0])
@pytest.mark.parametrize("learning_rate", [0.0, 0.1, 2.0])
def test_pid_keeps_its_bound_against_adversaries(name, saturation, learning_rate):
    update, store = started(
        "pid",
        [1.0, 2.0, 3.0],
        saturation=saturation,
        learning_rate=learning_rate,
        integral_gain=0.01,
    )
    for t in range(400):
        score = ADVERSARIES[name](t, update.thresholds(store)[0])
        update.run(store, np.array([score]), np.array([True]))
        assert abs(update.error) <= error_bound(saturation, t + 1)


def test_the_pid_bound_bites():
    # Without the integrator the same adversary is right every time.
    update, store = started("pid", [1.0, 2.0], saturation=0.05)
    free, far = started("pid", [1.0, 2.0], saturation=1e9)
    for t in range(200):
        for one, scores in ((update, store), (free, far)):
            score = above_threshold(t, one.thresholds(scores)[0])
            one.run(scores, np.array([score]), np.array([True]))
    assert update.error <= error_bound(0.05, 200) < free.error == pytest.approx(180)


def test_pid_takes_the_largest_numbers_that_there_are():
    huge = sys.float_info.max
    update, store = started("pid", [-huge, huge], learning_rate=3.0)
    for t in range(60):
        score = huge if t % 2 else -huge
        ends = update.run(store, np.array([score]), np.array([True]))
        assert not np.isnan(ends).any()
        assert math.isfinite(update.tracked)
        assert abs(update.error) <= error_bound(1.0, t + 1)


@pytest.mark.parametrize("size", [5e-324, 1e-200, 1e200, sys.float_info.max])
def test_agaci_takes_scores_of_any_size(size):
    past, stream, above = stream_of("break")
    update, store = started("agaci", [size * min(s / 10, 1) for s in past])
    ends = update.run(store, size * np.minimum(stream / 10, 1), above)
    assert np.isfinite(ends).all()
    assert (ends >= 0).all()
    assert (ends <= size).all()
    np.testing.assert_allclose(update.weights.sum(axis=1), 1)


# ------------------------------------------------------------- what all share


@streams
@windows
@pytest.mark.parametrize("name", UPDATES)
def test_one_at_a_time_equals_all_at_once(name, kind, window):
    past, stream, above = stream_of(kind)
    whole, store = started(name, past, window=window)
    ends = whole.run(store, stream, above)
    turn, other = started(name, past, window=window)
    rows = []
    for t in range(stream.size):
        rows.append(turn.thresholds(other))
        one = turn.run(other, stream[t : t + 1], above[t : t + 1])
        assert tuple(one[0]) == rows[-1]
    np.testing.assert_array_equal(rows, ends)
    assert store.recent == other.recent
    assert (whole.n_steps, whole.n_misses) == (turn.n_steps, turn.n_misses)
    beyond = stream > np.where(above, ends[:, 1], ends[:, 0])
    assert whole.n_misses == beyond.sum()
    assert whole.thresholds(store) == turn.thresholds(other)


@windows
def test_aci_is_bitwise_the_same_compiled(window, monkeypatch):
    compiled_loops = pytest.importorskip("uqlib_kernels.online")
    past, stream, above = stream_of("drift")
    plain, store = started("aci", past, window=window)
    ends = plain.run(store, stream, above)
    monkeypatch.setattr(online, "compiled_kernels", lambda *_: compiled_loops)
    compiled, other = started("aci", past, window=window)
    np.testing.assert_array_equal(compiled.run(other, stream, above), ends)
    assert (store.recent, store.ordered) == (other.recent, other.ordered)
    assert plain.alpha == compiled.alpha


@pytest.mark.parametrize("name", UPDATES)
def test_copies_go_their_own_way(name):
    past, stream, above = stream_of("break")
    update, store = started(name, past)
    update.run(store, stream[:50], above[:50])
    twin, store_twin = pickle.loads(pickle.dumps((update, store)))
    third, store_third = copy.deepcopy((update, store))
    ends = update.run(store, stream[50:], above[50:])
    np.testing.assert_array_equal(twin.run(store_twin, stream[50:], above[50:]), ends)
    np.testing.assert_array_equal(third.run(store_third, stream[50:], above[50:]), ends)


@pytest.mark.parametrize("name", UPDATES)
def test_misses_come_back_to_the_level_after_a_break(name):
    # Scores five times larger from step 500 on: a fixed threshold would miss most.
    rng = np.random.default_rng(5)
    stream = rng.exponential(size=2000) * np.where(np.arange(2000) < 500, 1, 5)
    update, store = started(name, rng.exponential(size=200).tolist())
    ends = update.run(store, stream, np.ones(2000, dtype=bool))
    assert abs(np.mean(stream[1000:] > ends[1000:, 1]) - 0.1) < 0.04


def test_grids_of_the_papers():
    assert len(AGACI_GAMMAS) == 30
    assert sorted(AGACI_GAMMAS) == list(AGACI_GAMMAS)
    assert len(DTACI_GAMMAS) == 8
    assert len(new_update("agaci").alpha) == 30


@pytest.mark.parametrize(
    ("name", "parameters", "error", "message"),
    [
        ("ACI", {}, ValueError, "update='ACI' must be one of 'aci', 'agaci'"),
        (None, {}, ValueError, "update=None must be one of"),
        ("aci", {"gamma": -1}, ValueError, "gamma must be a finite number >= 0"),
        ("agaci", {"gammas": []}, ValueError, "gammas must hold at least one step"),
        ("dtaci", {"gammas": [0.1, -1]}, ValueError, "gammas must be a finite number"),
        ("dtaci", {"gammas": "x"}, TypeError, "gammas must be a finite number"),
        ("dtaci", {"horizon": 0}, ValueError, "horizon must be an integer >= 1"),
        ("dtaci", {"horizon": 2.5}, TypeError, "horizon must be an integer >= 1"),
        ("pid", {"learning_rate": -1}, ValueError, "learning_rate must be a finite"),
        ("pid", {"integral_gain": INF}, ValueError, "integral_gain must be a finite"),
        ("pid", {"saturation": 0}, ValueError, "saturation must be > 0, got 0"),
    ],
)
def test_bad_parameters(name, parameters, error, message):
    with pytest.raises(error, match=message):
        new_update(name, **parameters)


def test_parameters_of_other_updates_are_not_looked_at():
    wrong = {"gammas": "x", "horizon": 0, "learning_rate": -1, "saturation": 0}
    assert new_update("aci", **wrong).alpha == 0.1
