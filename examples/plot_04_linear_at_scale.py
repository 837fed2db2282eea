r"""
Linear quantile regression on 200,000 rows
==========================================

You will see linear quantile regression solved on 200,000 rows and 20 features, in
seconds, with a certificate: a bound on what is left to the optimum. The data are
simulated, so that the coefficients can be drawn over the levels beside the true ones.
On a small sample scikit-learn's ``QuantileRegressor`` reaches the same loss.
"""

# %%
# Data with a known truth
# -----------------------
# The scale of the noise grows with two of the features:
#
# .. math:: y = x^\top \beta + (1 + x^\top \gamma) \, \varepsilon, \qquad
#           Q_\tau(y \mid x) = z_\tau + x^\top (\beta + z_\tau \gamma),
#
# with normal :math:`\varepsilon` and its quantiles :math:`z_\tau`. All levels are
# linear in x; where :math:`\gamma` is not zero, the coefficient rises with the level.

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.linear_model import QuantileRegressor

from uqlib import LinearQuantileRegressor, pinball_loss

rng = np.random.default_rng(0)
n_samples, n_features = 200_000, 20
X = rng.uniform(size=(n_samples, n_features))
beta = rng.normal(size=n_features)
gamma = np.zeros(n_features)
gamma[:2] = 2.0, 1.0
y = X @ beta + (1 + X @ gamma) * rng.normal(size=n_samples)

# %%
# Nine levels, all rows
# ---------------------

levels = np.array([0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95])
start = perf_counter()
model = LinearQuantileRegressor(levels).fit(X, y)
seconds = perf_counter() - start
print(f"{levels.size} levels on {n_samples:,} rows: {seconds:.1f} s")

# %%
# The certificate
# ---------------
# Every feasible point of the dual program bounds the optimal loss from below.
# ``dual_gap_`` is the distance of the loss to such a bound: no coefficients, however
# found, have a loss on these rows that is lower by more. Here only rounding is left.
# An optimum passes through 21 rows, one a coefficient, so that the share of rows below
# it is the level up to 21 rows.

fitted = model.predict_quantiles(X)
certificate = {
    "loss": pinball_loss(y, fitted, levels, multioutput="raw_values"),
    "dual gap": model.dual_gap_,
    "steps": model.n_iter_,
    "share below": (y[:, None] < fitted).mean(axis=0),
}
print(pd.DataFrame(certificate, index=pd.Index(levels, name="level")).to_string())

# %%
# What the rows buy
# -----------------
# The true coefficients, and those found from all rows and from the first 2,000: a
# hundred times the rows, about a tenth of the error.

small = LinearQuantileRegressor(levels).fit(X[:2000], y[:2000])
truth = beta + norm.ppf(levels)[:, None] * gamma
for name, fit in {"2,000": small, f"{n_samples:,}": model}.items():
    error = fit.coef_ - truth
    print(
        f"{name:>7} rows: root mean squared error {np.sqrt((error**2).mean()):.3f}, "
        f"largest {np.abs(error).max():.3f}"
    )

figure, panels = plt.subplots(1, 3, figsize=(11, 4), sharex=True, layout="constrained")
for j, axes in enumerate(panels):
    axes.plot(levels, truth[:, j], color="0.7", linewidth=5, label="truth")
    axes.plot(levels, small.coef_[:, j], "s--", color="C1", label="2,000 rows")
    axes.plot(levels, model.coef_[:, j], "o-", color="C0", label=f"{n_samples:,} rows")
    axes.set(xlabel="Level", title=rf"Feature {j}, $\gamma = {gamma[j]:.0f}$")
panels[0].set_ylabel("Coefficient")
panels[0].legend()

# %%
# Against scikit-learn, on few rows
# ---------------------------------
# ``QuantileRegressor`` hands the linear program of each level to a general solver. On
# the first 2,000 rows both reach the same loss. These seconds are of one run on one
# machine, and say nothing about other solvers.

X_few, y_few, three = X[:2000], y[:2000], [0.1, 0.5, 0.9]
start = perf_counter()
peers = [QuantileRegressor(quantile=t, alpha=0.0).fit(X_few, y_few) for t in three]
print(f"scikit-learn, three levels: {perf_counter() - start:.3f} s")
start = perf_counter()
model_few = LinearQuantileRegressor(three).fit(X_few, y_few)
print(f"uqlib, three levels:        {perf_counter() - start:.3f} s")

predictions = {
    "scikit-learn": np.column_stack([peer.predict(X_few) for peer in peers]),
    "uqlib": model_few.predict_quantiles(X_few),
}
losses = {
    name: pinball_loss(y_few, q, three, multioutput="raw_values")
    for name, q in predictions.items()
}
table = pd.DataFrame(losses, index=pd.Index(three, name="level"))
table["difference"] = table["scikit-learn"] - table["uqlib"]
table["dual gap"] = model_few.dual_gap_
print(table.to_string())
