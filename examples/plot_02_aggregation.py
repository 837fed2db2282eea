"""
Aggregation: one weight a model, a level, or a patient
======================================================

You will see three models of the same data weighed in finer and finer ways: one weight a
model, one a model and level, and weights that depend on the features of the row. On 300
patients the finer ways earn nothing that 142 held-out rows could prove. On simulated
data, where each of two forecasters knows one half of the range, local weights find out
which half. A table of held-out losses and their standard errors gives each verdict.
"""

# %%
# Three models
# ------------
# scikit-learn's 442 diabetes patients: 300 rows to learn models and weights, 142 to
# judge them. A linear model, splines and boosted trees predict the seven levels.

from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import QuantileRegressor
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer

from uqlib import (
    LinearQuantileRegressor,
    QuantileAggregator,
    QuantileEnsembleRegressor,
)

# Local weights are networks, trained with torch: without it all weights are global.
has_torch = find_spec("torch") is not None
if not has_torch:
    print("torch is not installed: the weights called local below are global.\n")

levels = np.linspace(0.05, 0.95, 7).round(2)
X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=142, random_state=0)
models = [
    ("linear", LinearQuantileRegressor()),
    ("splines", make_pipeline(SplineTransformer(3), QuantileRegressor(alpha=0.01))),
    ("trees", GradientBoostingRegressor(n_estimators=30, max_depth=2)),
]

# %%
# Let the ensemble choose
# -----------------------
# With ``weights="auto"`` the ensemble predicts every training row from models that did
# not see it, judges each way of weighing on rows that its weights were not learned on,
# and takes the one with the lowest loss.

ensemble = QuantileEnsembleRegressor(
    models, quantiles=levels, weights="auto", random_state=0
).fit(X_train, y_train)

print("Out-of-fold pinball losses:")
for name, loss in ensemble.candidate_losses_.items():
    mark = "   <- chosen" if name == ensemble.selected_ else ""
    print(f"  {name:15} {loss:.2f}{mark}")

# %%
# The same, step by step
# ----------------------
# What the ensemble learns from is public: ``oof_quantiles_``, of shape (rows, models,
# levels). Any :class:`~uqlib.quantile.QuantileAggregator` can be fitted on it, so that
# the models need not be trained again for each.

Z_train = ensemble.oof_quantiles_
Z_test = np.stack([m.predict_quantiles(X_test) for m in ensemble.estimators_], axis=1)
aggregators = {
    "average": QuantileAggregator("average", quantiles=levels),
    "coarse": QuantileAggregator("coarse", quantiles=levels),
    "medium": QuantileAggregator("medium", quantiles=levels),
    "local coarse": QuantileAggregator(
        "coarse",
        quantiles=levels,
        local=has_torch,
        cv=3,
        learning_rate=0.01,
        random_state=0,
    ),
}
for aggregator in aggregators.values():
    aggregator.fit(Z_train, y_train, X=X_train)

# %%
# Global weights are the exact solution of a linear program. The coarse ones (dashed
# lines) are three numbers. The medium ones are three numbers a level, and jump from
# level to level: with 300 rows, read that as noise. On the right each point is a weight
# of a test patient; the lines are means over patients of similar body mass index.

if has_torch and not aggregators["local coarse"].networks_:
    print("On held-out rows the networks were no better: global weights are taken.")
names = [name for name, _ in models]
coarse = aggregators["coarse"].weights_
medium = aggregators["medium"].weights_
local = aggregators["local coarse"].predict_weights(X_test)

figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 4.6), sharey=True, layout="constrained"
)
sixths = np.array_split(np.argsort(X_test["bmi"].to_numpy()), 6)
bmi_means = [X_test["bmi"].iloc[rows].mean() for rows in sixths]
for j, name in enumerate(names):
    color = f"C{j}"
    left.plot(levels, medium[j], "o-", color=color, label=name)
    right.scatter(X_test["bmi"], local[:, j], s=10, color=color, alpha=0.3)
    right.plot(bmi_means, [local[rows, j].mean() for rows in sixths], color=color)
    for axes in (left, right):
        axes.axhline(coarse[j], color=color, linestyle="--", linewidth=1)
left.set(xlabel="Level", ylabel="Weight", title="One weight a model and level")
left.set(xticks=levels, ylim=(-0.03, 1.03))
right.set(xlabel="Body mass index", title="Local weights of the test patients")
figure.legend(loc="outside upper center", ncols=3)

# %%
# Verdict on 142 patients
# -----------------------
# Mean pinball losses of the test rows, and for each method the mean difference to the
# plain average of the models, with the standard error of that difference.


def row_losses(y, quantiles, levels):
    """Pinball loss of each row, mean over the levels."""
    error = np.asarray(y)[:, None] - quantiles
    return np.maximum(levels * error, (levels - 1) * error).mean(axis=1)


def verdict(losses, against):
    """Mean losses, and mean differences to one of them."""
    table = pd.DataFrame(losses)
    excess = table.sub(table[against], axis=0)
    return pd.DataFrame(
        {
            "pinball loss": table.mean(),
            "std. error": table.sem(),
            f"minus {against}": excess.mean(),
            "its std. error": excess.sem(),
        }
    )


losses = {
    name: row_losses(y_test, Z_test[:, j], levels) for j, name in enumerate(names)
}
for name, aggregator in aggregators.items():
    quantiles = aggregator.predict_quantiles(Z_test, X_test)
    losses[name] = row_losses(y_test, quantiles, levels)
chosen = ensemble.predict_quantiles(X_test)
losses[f"auto: {ensemble.selected_}"] = row_losses(y_test, chosen, levels)
print(verdict(losses, "average").round(2).to_string())

# %%
# No way of weighing differs from the average by two standard errors. Weights that
# depend on ten features need more than 300 patients, or a stronger reason.
#
# Where local weights must win
# ----------------------------
# Simulated: one feature matters, one does not. Two forecasters know the law of y in one
# half of the range each, and give the quantiles of the whole population in the other.

rng = np.random.default_rng(0)
X_sim = rng.uniform(-3, 3, size=(4000, 2))
center = np.sin(2 * X_sim[:, 0])
y_sim = rng.normal(center, 0.3)
train, test = np.arange(2000), np.arange(2000, 4000)

law = norm.ppf(levels, loc=center[:, None], scale=0.3)
population = np.broadcast_to(np.quantile(y_sim[train], levels), law.shape)
is_left = X_sim[:, :1] < 0
Z_sim = np.stack(
    [np.where(is_left, law, population), np.where(is_left, population, law)], axis=1
)
simulated = {
    "coarse": QuantileAggregator("coarse", quantiles=levels),
    "local coarse": QuantileAggregator(
        "coarse", quantiles=levels, local=has_torch, random_state=0
    ),
}
losses = {"the law itself": row_losses(y_sim[test], law[test], levels)}
for name, aggregator in simulated.items():
    aggregator.fit(Z_sim[train], y_sim[train], X=X_sim[train])
    quantiles = aggregator.predict_quantiles(Z_sim[test], X_sim[test])
    losses[name] = row_losses(y_sim[test], quantiles, levels)
print(verdict(losses, "the law itself").round(3).to_string())

# %%
# One weight a model can only mix the two everywhere. The network finds the border at
# zero from the losses alone, and its loss is that of the law itself.

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
left.scatter(X_sim[test, 0], y_sim[test], s=4, color="0.8", label="test rows")
order = test[np.argsort(X_sim[test, 0])]
weights = simulated["local coarse"].predict_weights(X_sim[order])
for j, name in enumerate(("knows the left", "knows the right")):
    left.plot(X_sim[order, 0], Z_sim[order, j, 3], f"C{j}" + ("-", "--")[j], label=name)
    right.scatter(X_sim[order, 0], weights[:, j], s=6, color=f"C{j}")
    right.axhline(simulated["coarse"].weights_[j], color=f"C{j}", linestyle="--")
left.set(xlabel="Feature", ylabel="Target", title="Medians of two forecasters")
right.set(
    xlabel="Feature", ylabel="Weight", title="Local weights (dashed: global ones)"
)
figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)
