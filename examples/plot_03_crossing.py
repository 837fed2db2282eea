"""
Crossing quantiles, and what their repair is worth
==================================================

You will see boosted trees, fitted level by level, cross on every row; two repairs that
never increase the pinball loss; and a gain from sorting that is known before any label
is. Then the levels get unequal weights: sorting can now increase the loss of a row,
while the projection with the same weights cannot. The changes of the losses are counted
row by row.
"""

# %%
# Nineteen fits, one row
# ----------------------
# scikit-learn's 442 diabetes patients, 300 to train and 142 to test, and one model a
# level. Nothing ties the models together: the predicted 0.45 quantile can exceed the
# median.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.model_selection import train_test_split

from uqlib import (
    MultiQuantileRegressor,
    crossing_rate,
    isotonic_quantiles,
    sort_quantiles,
)

levels = np.arange(1, 20) / 20
X, y = load_diabetes(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=142, random_state=0)
trees = GradientBoostingRegressor(random_state=0)
model = MultiQuantileRegressor(trees, quantiles=levels).fit(X_train, y_train)
raw = model.predict_quantiles(X_test)

print(f"rows that cross: {crossing_rate(raw):.0%}")
print(f"neighboring levels that cross: {(np.diff(raw) < 0).mean():.0%}")
print(f"largest fall between two: {-np.diff(raw).min():.0f}")

# %%
# Sorting permutes the values of a row. Isotonic projection pools neighbors that are out
# of order and gives each block its mean, which is the closest monotone row. The row
# below is the one that sorting changes most.

sorted_rows, projected = sort_quantiles(raw), isotonic_quantiles(raw)
worst = np.abs(sorted_rows - raw).sum(axis=1).argmax()
figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
axes.plot(levels, raw[worst], "o:", color="0.6", label="as predicted")
axes.plot(levels, sorted_rows[worst], ".-", label="sorted")
axes.plot(levels, projected[worst], ".-", label="isotonic projection")
axes.set(xlabel="Level", ylabel="Disease progression")
axes.legend()

# %%
# The gain of sorting needs no label
# ----------------------------------
# The pinball loss is :math:`\psi_\tau(y - q) = \tau (y - q) + (q - y)_+`. Summed over
# the levels of a row, the second part does not see a permutation. So sorting lowers the
# sum by
#
# .. math:: \sum_k \psi_{\tau_k}(y - q_k) - \sum_k \psi_{\tau_k}(y - q_{(k)})
#           = \sum_k \tau_k (q_{(k)} - q_k) \ge 0,
#
# whatever y is. The right side is computed from the predictions alone, and compared
# with what the labels say.


def row_losses(y, quantiles, level_weight=1.0):
    """Pinball loss of each row, summed over the levels with weights."""
    error = y[:, None] - quantiles
    losses = np.maximum(levels * error, (levels - 1) * error)
    return (level_weight * losses).sum(axis=1)


promised = (sorted_rows - raw) @ levels
raw_loss = row_losses(y_test, raw)
realized = raw_loss - row_losses(y_test, sorted_rows)
print(f"promised: mean {promised.mean():.4f}, smallest {promised.min():.4f}")
print(f"realized: mean {realized.mean():.4f}, smallest {realized.min():.4f}")
print(f"largest difference in a row: {np.abs(promised - realized).max():.0e}")
print(f"share of the loss: {realized.sum() / raw_loss.sum():.1%}")

# %%
# Neither side moves with the target: let the test patients have other outcomes, and
# the promise is kept to the same digits.

for name, target in {"all zero": 0 * y_test, "reversed": y_test[::-1]}.items():
    there = row_losses(target, raw) - row_losses(target, sorted_rows)
    print(f"target {name}: largest difference {np.abs(promised - there).max():.0e}")

# %%
# What is no repair
# -----------------
# The projection has no such identity, but its gain is never negative either. A running
# maximum makes rows monotone too, and is worse than no repair on half of them.

others = {"sorted": sorted_rows, "isotonic": projected}
others["running maximum"] = np.maximum.accumulate(raw, axis=1)


def changes(repaired, level_weight=1.0):
    """Change of the loss by each repair: its mean, and where it is an increase."""
    before = row_losses(y_test, raw, level_weight)
    table = {}
    for name, quantiles in repaired.items():
        change = row_losses(y_test, quantiles, level_weight) - before
        table[name] = {
            "mean change": change.mean(),
            "std. error": change.std(ddof=1) / np.sqrt(change.size),
            "in %": 100 * change.mean() / before.mean(),
            "rows made worse": (change > 1e-9).mean(),
            "worst row": change.max(),
        }
    return pd.DataFrame(table).T


print(changes(others).round(3).to_string())

# %%
# Unequal weights on the levels
# -----------------------------
# Who cares most about low outcomes may weigh the levels by :math:`(1 - \tau)^2`. The
# promise of sorting is gone: it can bring a bad value to a level that weighs more. The
# projection keeps it, if it is told the weights.

level_weight = (1 - levels) ** 2
repaired = {
    "sorted": sorted_rows,
    "isotonic, equal weights": projected,
    "isotonic, same weights": isotonic_quantiles(raw, level_weight),
}
print(changes(repaired, level_weight).round(3).to_string())

# %%
# On average sorting is still the best of the three here, but it makes three rows in
# ten worse, and nothing keeps it from doing so on average elsewhere. The projection
# with the weights of the loss makes no row worse, on any data.
#
# Left, the promise of sorting under equal weights, kept in each row. Right, the share
# of rows whose loss changes by at most so much under unequal weights: what lies right
# of zero is harm.

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
left.scatter(promised, realized, s=16)
left.axline((0, 0), slope=1, color="0.6", linewidth=1, zorder=0)
left.set(
    xlabel="Gain promised without the label",
    ylabel="Gain realized with it",
    title="Sorting, equal weights",
)
before = row_losses(y_test, raw, level_weight)
for name, quantiles in repaired.items():
    change = row_losses(y_test, quantiles, level_weight) - before
    right.plot(np.sort(change), np.linspace(0, 1, change.size), label=name)
right.axvline(0, color="0.6", linewidth=1, zorder=0)
right.set(xlabel="Change of the loss", ylabel="Share of rows", title="Unequal weights")
right.legend(loc="upper left")
