r"""
Online: intervals that learn from their misses
==============================================

You will see a time series whose noise grows at once to two and a half times what it
was, and slowly falls back. Intervals calibrated before the change cover half of the
targets after it. Those that learn from every miss are back at 90 % within a few hundred
steps at most, and the share of misses in the long run obeys a bound that assumes
nothing about the series. Coverages are measured over 30 series. At the end a martingale
raises the alarm.
"""

# %%
# A series that changes
# ---------------------
# Simulated: an autoregression with a season, predicted by a ridge regression from the
# last value. The first 500 steps are there to train and calibrate. Then come 2,000
# steps, one by one, and after 700 of them the noise changes.

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge

from uqlib import (
    EnbPIRegressor,
    InfiniteIntervalWarning,
    OnlineConformalRegressor,
    SplitConformalRegressor,
    exchangeability_martingale,
    sequential_p_values,
)

ALPHA, STEPS, CHANGE, SERIES = 0.1, 2000, 700, 30
step = np.arange(-500, STEPS)
noise = np.where(step < CHANGE, 1.0, np.interp(step, [1200, 1800], [2.5, 1.0]))


def draw(rng):
    """Return features and target of one series."""
    season = 2 * np.pi * step / 100
    y, error = np.zeros(step.size + 1), noise * rng.normal(size=step.size)
    for t in range(step.size):
        y[t + 1] = 0.7 * y[t] + np.sin(season[t]) + error[t]
    return np.column_stack([y[:-1], np.sin(season), np.cos(season)]), y[1:]


# %%
# Eight ways through it
# ---------------------
# Adaptive conformal inference (ACI) takes the quantile of the scores so far at a level
# that moves: each miss raises it, each hit lowers it a little,
#
# .. math:: \alpha_{t+1} = \alpha_t + \gamma (\alpha - m_t), \qquad
#           \Bigl| \frac{1}{T} \sum_{t \le T} m_t - \alpha \Bigr| \le
#           \frac{\max(\alpha, 1 - \alpha) + \gamma}{\gamma T},
#
# whatever comes. A large :math:`\gamma` forgets fast, and says "anything" every now and
# then, which is an infinite interval. AgACI and DtACI run many :math:`\gamma` and learn
# whom to trust, PID steers the threshold itself, with a bound of its own. EnbPI lets a
# window of residuals follow the series; neither it nor AgACI nor DtACI has a bound.

methods = {
    "split, fixed": SplitConformalRegressor(Ridge(), random_state=0),
    "ACI 0.005": OnlineConformalRegressor(Ridge(), gamma=0.005),
    "ACI 0.02": OnlineConformalRegressor(Ridge(), gamma=0.02),
    "ACI 0.1": OnlineConformalRegressor(Ridge(), gamma=0.1),
    "AgACI": OnlineConformalRegressor(Ridge(), update="agaci"),
    "DtACI": OnlineConformalRegressor(Ridge(), update="dtaci"),
    "PID": OnlineConformalRegressor(Ridge(), update="pid"),
    "EnbPI": EnbPIRegressor(Ridge(), window=200, random_state=0),
}


def run(regressor, X, y):
    """Train on the first 500 rows; return the interval of each later step."""
    regressor.fit(X[:500], y[:500])
    if isinstance(regressor, SplitConformalRegressor):
        return regressor.predict_interval(X[500:])
    with warnings.catch_warnings():  # infinite intervals are counted below
        warnings.simplefilter("ignore", InfiniteIntervalWarning)
        return regressor.predict_interval_online(X[500:], y[500:])


missed, width = np.empty((2, len(methods), SERIES, STEPS))
for s in range(SERIES):
    X, y = draw(np.random.default_rng(s))
    for m, regressor in enumerate(methods.values()):
        lower, upper = run(regressor, X, y).T
        missed[m, s] = (y[500:] < lower) | (upper < y[500:])
        width[m, s] = upper - lower

# %%
# Measured
# --------
# The share of misses of each series should be 10 %. Beside its mean over 30 series
# stands the one that is furthest off, and the bound for that distance. The worst
# stretch is the lowest coverage of 200 steps in a row.


def aci_bound(gamma):
    """Return how far the share of misses can be from alpha."""
    return (max(ALPHA, 1 - ALPHA) + gamma) / (gamma * STEPS)


def pid_bound(saturation=1.0):
    """Return the same for PID, for its default saturation."""
    t = np.arange(1, STEPS + 1)
    h = ((t + 1) / np.log(t + 1)).max()
    return (saturation * np.pi * h / 2 + 1) / STEPS


def rolling(values, window):
    """Return the means of so many neighbors along the last axis."""
    total = np.cumsum(values, axis=-1)
    return (total[..., window:] - total[..., :-window]) / window


rate = missed.mean(axis=2)
bounds = [np.nan, *map(aci_bound, (0.005, 0.02, 0.1)), np.nan, np.nan, pid_bound()]
table = {
    "asked": ALPHA,
    "misses": rate.mean(axis=1),
    "std. error": rate.std(axis=1, ddof=1) / np.sqrt(SERIES),
    "furthest off": np.abs(rate - ALPHA).max(axis=1),
    "its bound": [*bounds, np.nan],
    "worst stretch": 1 - rolling(missed, 200).max(axis=2).mean(axis=1),
    "median width": np.median(width, axis=2).mean(axis=1),
    "infinite": np.isinf(width).mean(axis=(1, 2)),
}
print(pd.DataFrame(table, index=list(methods)).round(3).to_string(na_rep="-"))

# %%
# All that have a bound keep it: it holds for the worst series there is, and this is not
# the worst. A larger :math:`\gamma` comes closer to 10 % and back sooner, but part of
# this is bought with infinite intervals. So the share of misses alone is no praise:
# intervals that are infinite nine times and empty the tenth would have the right one.
#
# Where they miss
# ---------------
# Above, one series and its intervals by ACI, with gaps where they are infinite. Below,
# coverage over time: the mean over 30 series and over the last 50 steps.

time, window = np.arange(STEPS), 50
figure, (top, bottom) = plt.subplots(
    2, 1, figsize=(10, 6.6), sharex=True, layout="constrained"
)
X, y = draw(np.random.default_rng(0))
ends = run(methods["ACI 0.02"], X, y)
ends[np.isinf(ends)] = np.nan
top.fill_between(time, *ends.T, color="C2", alpha=0.4, linewidth=0, label="ACI 0.02")
top.plot(time, y[500:], ".", color="0.3", markersize=2, label="series")
top.set(ylabel="Target", xlim=(0, STEPS))
top.legend(loc="upper left", ncols=2)
covered = 1 - rolling(missed.mean(axis=1), window)
for m in (0, 1, 2, 3, 5, 7):
    bottom.plot(time[window:], covered[m], f"C{m}", label=list(methods)[m])
bottom.axhline(1 - ALPHA, color="0.6", linewidth=1, zorder=0)
bottom.set(xlabel="Step", ylabel="Coverage, last 50 steps", ylim=(0.35, 1))
bottom.legend(loc="lower right", ncols=2)
for axes in (top, bottom):
    axes.axvline(CHANGE, color="k", linestyle=":")

# %%
# Has it changed?
# ---------------
# Adapting is one answer, an alarm another. The score of each step has a p-value, its
# rank among the scores so far. As long as nothing changes they are uniform and
# independent (nearly so here, as the errors of the model itself come in waves). A
# gambler who bets that they are not owns a martingale, and reaches 100 times the first
# stake with probability at most 1 %, however long one looks. That is rare, and so it is
# counted in 400 series; 30 of them are drawn.

capital = np.empty((400, STEPS))
for s in range(400):
    X, y = draw(np.random.default_rng(s))
    model = Ridge().fit(X[:500], y[:500])
    scores = np.abs(y - model.predict(X))[500:]
    capital[s] = exchangeability_martingale(sequential_p_values(scores, rng=s))
capital /= np.log(10)

early = (capital[:, :CHANGE] >= 2).any(axis=1)
late = capital[~early, CHANGE:] >= 2
delay = late.argmax(axis=1)[late.any(axis=1)]
error = np.sqrt(early.mean() * (1 - early.mean()) / early.size)
print(
    f"alarm before the change: {early.mean():.4f} of the series, std. error {error:.4f}"
)
print("promised: at most 0.01")
print(f"alarm after it: {late.any(axis=1).mean():.3f} of the others")
error = delay.std(ddof=1) / np.sqrt(delay.size)
print(f"steps to the alarm: {delay.mean():.0f}, std. error {error:.0f}")

figure, axes = plt.subplots(figsize=(10, 3.6), layout="constrained")
axes.plot(time, capital[:30].T, color="C0", linewidth=0.7, alpha=0.6)
axes.axhline(2, color="C3", label="alarm")
axes.axvline(CHANGE, color="k", linestyle=":", label="change")
axes.set(xlabel="Step", ylabel="Capital, powers of ten", xlim=(0, STEPS))
axes.legend(loc="upper left")
