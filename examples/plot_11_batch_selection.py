r"""
A batch of patients: how many are covered, whom to select
=========================================================

You will see four promises about a batch of 30 new patients, each kept in nine batches
of ten: that at least 27 of their intervals are right, where ordinary intervals of 90 %
manage that in two of three; that a list of patients who will get worse names nobody
wrongly, or at most three; and that no more than a given number will get worse. Each is
measured over 3,000 splits of a real data set, beside the probability it rests on.
"""

# %%
# 442 patients
# ------------
# scikit-learn's diabetes data: the progression of the disease within a year, from ten
# measurements. Each split puts 122 rows into training, 290 into calibration and 30 into
# the batch.
#
# All that the theorem asks for is that calibration rows and batch are exchangeable, and
# a random split of any fixed table makes them so. The splits are independent, though
# the rows are the same, so that the standard errors below are right: they are those of
# the probability over splits of this table.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uqlib import conformal_quantile, coverage_score, mean_interval_width
from uqlib.batch import (
    BatchPredictiveInference,
    joint_order_probability,
    order_statistic_rank,
)

X, y = load_diabetes(return_X_y=True)
n, m, level, high = 290, 30, 0.9, 150
rng = np.random.default_rng(0)


def split():
    """Return a calibrated model, and the features and targets of a batch."""
    order = rng.permutation(y.size)
    batch, rest = order[:m], order[m:]
    model = BatchPredictiveInference(
        make_pipeline(StandardScaler(), Ridge()),
        confidence_level=level,
        calibration_size=n,
        random_state=0,
    )
    return model.fit(X[rest], y[rest]), X[batch], y[batch]


# %%
# One batch
# ---------
# The model makes one interval a patient, names those whose progression will be above
# 150, with none or with at most three named wrongly, and bounds how many there are.

model, X_new, y_new = split()
interval = model.predict_simultaneous(X_new, k=27)
print(f"intervals that are right: {m * coverage_score(y_new, interval):.0f} of {m}")
for max_false in (0, 3):
    chosen = model.select(X_new, high, max_false)
    wrong = np.sum(chosen & (y_new <= high))
    print(f"max_false={max_false}: {chosen.sum()} selected, {wrong} of them wrongly")
bound = model.count_above(X_new, high)
print(f"above {high}: at most {bound} are promised, {np.sum(y_new > high)} are")

# %%
# The last promise is broken: each may be, in one batch of ten.
#
# 3,000 splits
# ------------
# Beside these statements two that promise less than they seem to: split conformal
# intervals, each of which is right with 90 %, and the selection of everyone whose
# prediction is above 150.


def outcomes():
    """Return what happened in one split."""
    model, X_new, y_new = split()
    points = model.predict(X_new)
    margin = conformal_quantile(np.abs(model.scores_), level)
    rows = {
        "split conformal": np.column_stack([points - margin, points + margin]),
        **{f"k={k}": model.predict_simultaneous(X_new, k) for k in (20, 24, 27)},
    }
    lists = {
        "prediction > 150": points > high,
        **{f"max_false={f}": model.select(X_new, high, f) for f in (0, 3)},
    }
    found = {"above": np.sum(y_new > high), "bound": model.count_above(X_new, high)}
    for name, interval in rows.items():
        found[f"right, {name}"] = np.rint(m * coverage_score(y_new, interval))
        found[f"width, {name}"] = mean_interval_width(interval)
    for name, chosen in lists.items():
        found[f"false, {name}"] = np.sum(chosen & (y_new <= high))
        found[f"selected, {name}"] = np.sum(chosen)
    return found


found = pd.DataFrame([outcomes() for _ in range(3000)])


def share(happened):
    """Return how often something happened, and the standard error."""
    return {
        "measured": np.mean(happened),
        "std. error": np.std(happened, ddof=1) / np.sqrt(len(happened)),
    }


def show(table):
    """Print it, without what is not known."""
    frame = pd.DataFrame(table).T
    print(frame.to_string(float_format="{:.3f}".format, na_rep="-"))


# %%
# At least k of 30
# ----------------
# At least k residuals of the batch must fall into a window of calibration residuals,
# whose number has a closed form. The exact probability is that of the window.

table = {}
for k in (20, 24, 27):
    rank = order_statistic_rank(n, m, k, level, "upper")
    table[f"k={k}"] = {
        "promised": level,
        "exact": joint_order_probability(n, m, k, k, 1, rank),
        **share(found[f"right, k={k}"] >= k),
        "width": found[f"width, k={k}"].mean(),
    }
table["27 by split conformal"] = {
    **share(found["right, split conformal"] >= 27),
    "width": found["width, split conformal"].mean(),
}
show(table)

# %%
# Split conformal intervals are right for 27 rows of 30 on average. That is no promise
# about a batch: one in three has fewer. The intervals that promise it are wider by a
# sixth. Whoever can do with 20 rows of 30 gets much shorter ones.
#
# A selection with few false names
# --------------------------------
# A row can be selected wrongly only if its target is not above 150. The predictions of
# such calibration rows say how far up they reach in a batch, and who is above that is
# selected.

table = {}
for max_false in (0, 3):
    k, name = m - max_false, f"max_false={max_false}"
    rank = order_statistic_rank(n, m, k, level, "upper")
    table[name] = {
        "promised": 1 - level,
        "exact": 1 - joint_order_probability(n, m, k, k, 1, rank),
        **share(found[f"false, {name}"] > max_false),
        "selected": found[f"selected, {name}"].mean(),
        "false": found[f"false, {name}"].mean(),
    }
name = "prediction > 150"
table["prediction, > 3 false"] = {
    **share(found[f"false, {name}"] > 3),
    "selected": found[f"selected, {name}"].mean(),
    "false": found[f"false, {name}"].mean(),
}
print("Probability of more false names than allowed")
show(table)

# %%
# Without any false name there is room for two patients of the fourteen; three false
# names allow for nine. A better model would name more: the promise would not change.
#
# How many are above
# ------------------
# The count needs no model, only the number of calibration rows above 150. Its bound
# must hold for any such law and is discrete: it is kept more often than promised.

table = {
    "at most the bound": {
        "promised": level,
        **share(found["above"] <= found["bound"]),
        "bound": found["bound"].mean(),
        "above": found["above"].mean(),
    }
}
show(table)

# %%
# The figure
# ----------
# Left, how many intervals of a batch are right. Middle, false names. Right, what the
# bound of the count leaves to spare.

figure, (left, middle, right) = plt.subplots(
    1, 3, figsize=(12, 4.2), layout="constrained"
)
counts = np.arange(m + 1)
for position, (name, label) in enumerate(
    {"split conformal": "split conformal, 90 % a row", "k=27": "27 of 30"}.items()
):
    height = np.bincount(found[f"right, {name}"].astype(int), minlength=m + 1) / len(
        found
    )
    left.bar(counts + 0.4 * position - 0.2, height, width=0.4, label=label)
left.axvline(26.5, color="0.4", linestyle="--", linewidth=1)
left.set(xlim=(19.4, 30.6), ylim=(0, 0.4), xlabel="Intervals that are right, of 30")
left.set(ylabel="Share of splits", title="At least 27 of 30")
left.legend(loc="upper left")
for position, name in enumerate(["max_false=0", "max_false=3", "prediction > 150"]):
    height = np.bincount(found[f"false, {name}"], minlength=12)[:12] / len(found)
    place = np.arange(12) + 0.28 * (position - 1)
    middle.bar(place, height, width=0.28, label=name)
middle.set(xlabel="False names", ylabel="Share of splits", title="Selections")
middle.legend()
spare, splits = np.unique(found["bound"] - found["above"], return_counts=True)
right.bar(spare, splits / len(found), color=np.where(spare < 0, "C3", "C0"))
right.set(xlabel="Bound minus patients above 150", ylabel="Share of splits")
right.set(title="Counts (red: promise broken)")
