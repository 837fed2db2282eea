r"""
The mean of a batch: what is paid for a promise
===============================================

You will see intervals of 90 % for the mean of a batch of rows, valid whatever the law
of the scores, and how much longer each is than that of an oracle who knows the law.
For the mean of unbounded scores the plainest way, split conformal prediction with
groups of calibration rows, is always the shortest, at most a quarter above the oracle;
sets of ranks are one and a half to fourteen times as long as the oracle's. They win
where scores have known bounds and calibration rows are few, and for order statistics,
where they lose nothing. Coverage stands beside the probability that it rests on.
"""

# %%
# Scores whose law is known
# -------------------------
# The scores are residuals of a model, here drawn from four laws: normal, Student's t
# with 3 degrees of freedom, exponential, and Beta(2, 5), which is known to lie in
# [0, 1]. The oracle knows the law of the mean of m of them, here by 200,000 draws, and
# cuts off 5 % on each side.

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import beta
from sklearn.dummy import DummyRegressor

from uqlib import InfiniteIntervalWarning
from uqlib.batch import (
    BatchPredictiveInference,
    batch_bound,
    joint_order_probability,
    order_statistic_rank,
)

rng = np.random.default_rng(0)
unbounded = (-np.inf, np.inf)
laws = {
    "normal": (lambda size: rng.normal(size=size), unbounded),
    "t3": (lambda size: rng.standard_t(3, size=size), unbounded),
    "exponential": (lambda size: rng.exponential(size=size), unbounded),
    "beta": (lambda size: rng.beta(2, 5, size=size), (0.0, 1.0)),
}


def law_of_mean(law, m):
    """Return 200,000 sorted means of m scores, and the oracle's length."""
    draw, _ = laws[law]
    means = np.sort(np.concatenate([draw((20_000, m)).mean(axis=1) for _ in range(10)]))
    low, high = np.quantile(means, [0.05, 0.95])
    return means, high - low


# %%
# Six ways
# --------
# Three sets of ranks differ in phi, what a rank costs: its number, the normal quantile
# at it, or the quantile of 1,000 training scores. ``"band"`` bounds all sorted scores
# of the batch at once, ``"partition"`` takes groups of m calibration rows for rows, and
# "max/min" bounds the mean by the largest and the smallest score. The first five are
# one calibrator: its method and phi can be set after the calibration. Where the scores
# have no bounds the band and the last way may be infinite, which uqlib says with a
# warning that is not repeated here 100 times.

ways = {
    "rank": {"method": "core", "phi": "rank"},
    "normal": {"method": "core", "phi": "normal"},
    "train": {"method": "core", "phi": "train"},
    "band": {"method": "band", "phi": "rank"},
    "partition": {"method": "partition", "phi": "rank"},
}


def intervals(law, n, m):
    """Return each way's interval of one calibration, and what it rests on."""
    draw, bounds = laws[law]
    model = BatchPredictiveInference(
        DummyRegressor(strategy="constant", constant=0.0),
        phi="train",
        score_bounds=bounds,
        calibration_size=n,
        random_state=0,
    ).fit(np.zeros((1000 + n, 1)), draw(1000 + n))
    found = {}
    for name, parameters in ways.items():
        model.set_params(**parameters)
        interval = model.predict_batch_interval(np.zeros((m, 1)))[0]
        found[name] = (*interval, model.event_probability_.sum() - 1)
    low, high = (
        batch_bound(model.scores_, m, statistic, 0.95, score_bounds=bounds, side=side)
        for statistic, side in (("min", "lower"), ("max", "upper"))
    )
    rank = order_statistic_rank(n, m, m, 0.95, "upper")
    event = joint_order_probability(n, m, m, m, 1, rank)
    found["max/min"] = low, high, 2 * event - 1
    return found


def measured(law, n, m, runs):
    """Return relative lengths, coverages and events, shape (runs, 6) each.

    The coverage of an interval is the share of the 200,000 means inside it.
    """
    means, oracle = law_of_mean(law, m)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InfiniteIntervalWarning)
        found = [intervals(law, n, m) for _ in range(runs)]
    low, high, event = np.moveaxis([list(one.values()) for one in found], 2, 0)
    inside = means.searchsorted(high, "right") - means.searchsorted(low, "left")
    return (high - low) / oracle, inside / means.size, event


# %%
# The table
# ---------
# Lengths, as multiples of the oracle's, of 90 % intervals: means over 100 calibrations
# with n rows for a batch of m, and standard errors.

columns = [*ways, "max/min"]
settings = [
    ("normal", 1000, 5),
    ("normal", 1000, 20),
    ("normal", 1000, 40),
    ("normal", 200, 5),
    ("t3", 1000, 20),
    ("exponential", 1000, 20),
    ("beta", 1000, 20),
    ("beta", 1000, 50),
    ("beta", 200, 20),
    ("beta", 200, 50),
]
results = {f"{law} {n}, {m}": measured(law, n, m, runs=100) for law, n, m in settings}


def with_error(values):
    """Return means over the runs and their standard errors, as text."""
    with np.errstate(invalid="ignore"):  # an infinite length has no error
        errors = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return [
        f"{mean:.2f} ({error:.2f})" if np.isfinite(mean) else "inf"
        for mean, error in zip(values.mean(axis=0), errors, strict=True)
    ]


lengths = {name: with_error(result[0]) for name, result in results.items()}
print("Length / oracle's length (standard error), by law, n and m")
print(pd.DataFrame(lengths, index=columns).T.to_string())

# %%
# In the first eight rows the partition is the best of all, and nearly the oracle. It
# needs 19 groups, m <= n / 19, and beyond that no valid bound of the mean of unbounded
# scores is finite. The last two rows are beyond: there it knows nothing but the range
# [0, 1], and the set of ranks that is shaped by training scores is at least four times
# shorter. ``method="auto"`` makes this choice, from n, m and the level alone: to look
# at the calibration scores would void the promise. Among sets of ranks the shape
# decides: that of the training scores is good for every law, normal quantiles for
# normal scores alone. Student's t is hard for all of them, and the lengths differ from
# calibration to calibration as much as their errors say.
#
# Why are sets of ranks long? The set is fixed before the scores are seen, and the bound
# must hold for the worst of its members. So the coverage, left below, is above the
# exact probability of the ranks, right: 5 % on each side, and what a discrete law adds.
# The partition has no worst case to guard against. Its coverage is its probability,
# above 0.9 where 50 groups or 25 cannot be cut at 5 % exactly.

coverages = {
    name: [
        f"{covered:.3f}/{event:.3f}"
        for covered, event in zip(*(a.mean(axis=0) for a in result[1:]), strict=True)
    ]
    for name, result in results.items()
}
print("Coverage / probability that it rests on")
print(pd.DataFrame(coverages, index=columns).T.to_string())
errors = [result[1].std(axis=0, ddof=1).max() / 10 for result in results.values()]
print(f"largest standard error of a coverage: {max(errors):.4f}")

# %%
# Where nothing is lost
# ---------------------
# The k-th smallest score of a batch needs no set: its rank has a closed form, and the
# coverage is the probability of the event. Uniform scores, whose order statistics have
# beta laws, 20,000 calibrations:

rows = {}
for name, n, m, k, side in [
    ("median of 11, two-sided", 100, 11, 6, "two"),
    ("largest of 10", 200, 10, 10, "upper"),
    ("smallest of 10", 200, 10, 1, "upper"),
    ("90th of 100", 200, 100, 90, "upper"),
]:
    ranks = order_statistic_rank(n, m, k, 0.9, side)
    low, high = ranks if side == "two" else (0, ranks)
    scores = np.sort(rng.uniform(size=(20_000, n)), axis=1)
    ends = np.column_stack([np.zeros(20_000), scores])[:, [low, high]]
    covered = np.diff(beta(k, m + 1 - k).cdf(ends), axis=1)[:, 0]
    rows[name] = {
        "ranks": str(ranks),
        "exact": joint_order_probability(n, m, k, k, low + 1, high),
        "coverage": covered.mean(),
        "std. error": covered.std(ddof=1) / np.sqrt(covered.size),
    }
print(pd.DataFrame(rows).T.to_string(float_format="{:.4f}".format))

# %%
# The figure
# ----------
# Lengths over the size of the batch, 20 calibrations each. Left, unbounded scores: the
# band, which bounds the largest score too, ends early, and all ways end at m = 52, the
# last m with m <= 1000 / 19. Right, bounded scores and 200 calibration rows: from
# m = 11 the partition is the whole range, as is max/min, and ranks go on.

sizes = {
    ("normal", 1000): [2, 5, 10, 20, 30, 40, 52],
    ("beta", 200): [2, 5, 10, 11, 20, 30, 40, 50],
}
figure, panels = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
for axes, ((law, n), all_m) in zip(panels, sizes.items(), strict=True):
    curves = np.array([measured(law, n, m, runs=20)[0].mean(axis=0) for m in all_m])
    for name, curve in zip(columns, curves.T, strict=True):
        shown = np.where(np.isfinite(curve), curve, np.nan)
        axes.plot(all_m, shown, "o-", markersize=4, label=name)
    axes.axhline(1, color="0.6", linewidth=1, zorder=0)
    axes.set(title=f"{law} scores, n = {n}", xlabel="Rows in the batch, m")
    axes.set(yscale="log", yticks=[1, 2, 3, 5, 10], yticklabels=[1, 2, 3, 5, 10])
    axes.minorticks_off()
panels[0].set(ylabel="Length / oracle's length")
handles = panels[0].get_legend_handles_labels()
figure.legend(*handles, loc="outside upper center", ncols=6)
