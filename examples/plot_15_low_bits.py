r"""
Low bits, and whether they are faster here
==========================================

You will see which compiled operation computes each layer of a quantized model, that
boosted trees predict the same to the last bit while a network moves a little, and how
long predictions take, for one row and for many, on the machine that built this page.
Yours has other caches and other instructions: run the script, and believe what it
prints there.
"""

# %%
# Two models at a few bits
# ------------------------
# Friedman's first function with noise; boosted trees, and a network of two hidden
# layers of 256. Rows of training tell the rounding what enters each layer.

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import make_friedman1
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.neural_network import MLPRegressor

from uqlib.quantized import quantize
from uqlib_kernels import ops, pack
from uqlib_kernels.registry import available_isas, isa

X, y = make_friedman1(7000, n_features=20, noise=1.0, random_state=0)
X, y = 4 * X - 2, (y - 14) / 5
X_train, y_train, X_test = X[:3000], y[:3000], X[3000:]

network = MLPRegressor(
    hidden_layer_sizes=(256, 256), early_stopping=True, random_state=0
).fit(X_train, y_train)
trees = HistGradientBoostingRegressor(max_iter=150, random_state=0)
trees.fit(X_train, y_train)

small = {
    scheme: quantize(network, scheme, X_train, random_state=0)
    for scheme in ("w8a8", "w4a8", "w4")
}
small_trees = quantize(trees, X=X_train)

# %%
# What computes them
# ------------------
# Kernels are compiled for the best instructions of the machine, which `UQLIB_ISA` can
# lower, for comparisons. The column `op` of the report says what computes each layer:
# here all layers of bytes in one call; with activations in float (`"w4"`) the default
# backend multiplies floats, since few bits would save memory and no time for many rows.

print(f"instructions: {isa()}, of {available_isas()}")
reports = [model.layers_.assign(scheme=name) for name, model in small.items()]
reports.append(small_trees.layers_.assign(scheme="trees"))
shown = ["scheme", "layer", "weights", "activations", "bits", "nbytes", "op"]
print(pd.concat(reports)[shown].round(2).to_string(index=False))

# %%
# What they predict
# -----------------
# Trees compare, and comparisons of integers are exact: nothing changed, so there is
# nothing to weigh. Rounded networks drift; how much of that a calibrated interval
# pays for is told in :ref:`sphx_glr_auto_examples_plot_14_quantization.py`.

same = small_trees.predict(X_test) == trees.predict(X_test)
print(f"trees: {same.mean():.0%} of {same.size} predictions are equal bit for bit")
spread = network.predict(X_test).std()
for scheme, model in small.items():
    drift = model.drift(X_test) / spread
    print(
        f"{scheme}: drift of {np.sqrt(np.mean(drift**2)):.2%} of the predictions' "
        f"standard deviation, at most {np.abs(drift).max():.1%}"
    )

# %%
# How long that takes
# -------------------
# The float models and the small ones take turns, and each turn gives one ratio: how
# many times as long scikit-learn's own prediction took. The first call is thrown away,
# as it compiles or loads machine code. A dot is the median, and a bar reaches from the
# first to the ninth tenth of the turns.
#
# Most of what one row costs in scikit-learn are checks in Python. So the network has
# one more rival, its layers as plain products of float32 in NumPy, without any check.

weights = [w.astype(np.float32) for w in network.coefs_]
biases = [b.astype(np.float32) for b in network.intercepts_]


def plain_products(X):
    """Return the network's predictions from products of floats and nothing else."""
    h = X.astype(np.float32)
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        h = np.maximum(h @ w + b, 0)
    return (h @ weights[-1] + biases[-1])[:, 0]


assert np.allclose(plain_products(X_test), network.predict(X_test), atol=1e-4)

ROWS = [1, 8, 64, 512, 4000]


def seconds(function, X):
    """Return the time of one call."""
    start = perf_counter()
    function(X)
    return perf_counter() - start


def ratios(function, rival, X, turns=31):
    """Return how many times as long the rival takes, in every turn."""
    function(X), rival(X)
    pairs = [(seconds(function, X), seconds(rival, X)) for _ in range(turns)]
    return np.array([theirs / ours for ours, theirs in pairs])


CASES = {
    "trees": (small_trees.predict, trees.predict),
    "network, w8a8": (small["w8a8"].predict, network.predict),
    "network, w4a8": (small["w4a8"].predict, network.predict),
    "network, plain float32": (plain_products, network.predict),
}
found = {
    name: np.array([ratios(*pair, X_test[:n]) for n in ROWS])
    for name, pair in CASES.items()
}
table = {
    name: [
        f"{np.median(turns):.1f} ({low:.1f} to {high:.1f})"
        for turns, (low, high) in zip(
            values, np.quantile(values, (0.1, 0.9), axis=1).T, strict=True
        )
    ]
    for name, values in found.items()
}
print("times as long scikit-learn takes, by the number of rows")
print(pd.DataFrame(table, index=ROWS).to_string())

figure, ax = plt.subplots(figsize=(7.5, 4.5))
for shift, (name, values) in zip((0.92, 0.97, 1.03, 1.08), found.items(), strict=True):
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9), axis=1)
    ax.errorbar(
        np.multiply(ROWS, shift),
        middle,
        (middle - low, high - middle),
        marker="o",
        capsize=3,
        label=name,
    )
ax.axhline(1, color="0.5", linewidth=1)
ax.set(xscale="log", yscale="log", xlabel="rows", xticks=ROWS, xticklabels=ROWS)
ax.set_ylabel("times as long scikit-learn takes")
ax.minorticks_off()
ax.legend()
plt.show()

# %%
# The networks are to be read beside the plain products: where they lie above these,
# bytes and a single call brought it, and what both have above one is saved on checks
# and on double precision. Weights of 4 bits have nothing to save here over those of 8,
# for such a network fits the caches.
#
# Where fewer bits are faster
# ---------------------------
# A layer with one row reads every weight once. While the layer fits a cache, what
# counts is instructions, and beyond, bytes. A single layer, as a function of
# `uqlib_kernels`; its float rival is NumPy.

rng = np.random.default_rng(0)
KINDS = {
    "w8a8": (pack.pack_w8, ops.linear_w8a8),
    "w4a8": (pack.pack_w4, ops.linear_w4a8),
    "w2a8": (pack.pack_w2, ops.linear_w2a8),
}


def compare(weight, x, packer, linear):
    """Return the ratio of NumPy's time to ours as a text."""
    packed = packer(weight, 128)
    turns = ratios(lambda x: linear(x, packed), lambda x: x @ weight.T, x)
    low, middle, high = np.quantile(turns, (0.1, 0.5, 0.9))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


rows = []
for n in (256, 1024, 3072):
    weight = rng.normal(size=(n, n)).astype(np.float32)
    x = rng.normal(size=(1, n)).astype(np.float32)
    cells = {name: compare(weight, x, *kind) for name, kind in KINDS.items()}
    rows.append({"layer": f"{n} x {n}", "float32, MB": weight.nbytes / 1e6, **cells})
print("times as long NumPy takes in float32, one row")
print(pd.DataFrame(rows).round(1).to_string(index=False))

# %%
# Ratios against libraries that are made for low bits, and the cases that are lost to
# them, are in the user guide.
