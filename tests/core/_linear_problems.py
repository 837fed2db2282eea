"""Linear quantile regressions of every kind, and their linear program."""

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import block_array, csr_array, diags_array

LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.9, 0.99)


def pinball(error, tau):
    return np.maximum(tau * error, (tau - 1) * error)


def objective(coef, intercept, X, y, tau, weight=None, alpha=0.0):
    """Weighted mean pinball loss plus the penalty."""
    losses = pinball(y - X @ coef - intercept, tau)
    return float(np.average(losses, weights=weight) + alpha * np.abs(coef).sum())


def lp_optimum(X, y, tau, weight=None, alpha=0.0, fit_intercept=True):
    """The same program, written out for HiGHS, judged by the objective itself."""
    n, d = X.shape
    cost = np.full(n, 1 / n) if weight is None else weight / weight.sum()
    # The solver's tolerances are absolute: give it data of the order of 1.
    unit, height = np.abs(X).max(axis=0), np.abs(y).max() or 1.0
    unit[unit == 0] = 1.0
    columns, price = [X / unit, -X / unit], [alpha / unit, alpha / unit]
    if fit_intercept:
        columns += [np.ones((n, 1)), -np.ones((n, 1))]
        price += [np.zeros(2)]
    identity = diags_array(np.ones(n))
    solution = linprog(
        n * np.concatenate([*price, cost * tau, cost * (1 - tau)]),
        A_eq=block_array(
            [[*(csr_array(c) for c in columns), identity, -identity]], format="csr"
        ),
        b_eq=y / height,
        bounds=(0, None),
        method="highs",
        options={
            "primal_feasibility_tolerance": 1e-10,
            "dual_feasibility_tolerance": 1e-10,
        },
    )
    assert solution.success
    x = solution.x * height
    coef = (x[:d] - x[d : 2 * d]) / unit
    intercept = x[2 * d] - x[2 * d + 1] if fit_intercept else 0.0
    return objective(coef, intercept, X, y, tau, weight, alpha)


def _round_all(rng, X, y):
    return np.round(X), np.round(y), None


def _repeat_rows(rng, X, y):
    rows = rng.integers(0, max(y.size // 4, 1), y.size)
    return X[rows], y[rows], None


def _vandermonde(rng, X, y):
    t = rng.random(y.size)
    return np.vander(t, 7)[:, :-1], np.sin(6 * t) + 0.1 * rng.normal(size=y.size), None


def _replace_first(array, value):
    array = array.copy()
    array[0] = value
    return array


# Each changes heteroscedastic normal data to (X, y, weight); weight may be None.
CHANGES = {
    "plain": lambda rng, X, y: (X, y, None),
    "heavy tails": lambda rng, X, y: (X, y + rng.standard_t(2, y.size), None),
    "ties": _round_all,
    "duplicated rows": _repeat_rows,
    "duplicated columns": lambda rng, X, y: (
        np.column_stack([X, X[:, 0], 2 * X[:, 0] - 1]),
        y,
        None,
    ),
    "nearly collinear": lambda rng, X, y: (
        np.column_stack([X, X[:, 0] + 1e-6 * rng.normal(size=y.size)]),
        y,
        None,
    ),
    "constant columns": lambda rng, X, y: (
        np.column_stack([X, np.full(y.size, 3.1), np.zeros(y.size)]),
        y,
        None,
    ),
    "no column varies": lambda rng, X, y: (0 * X, y, None),
    "binary": lambda rng, X, y: ((X > 0.3).astype(float), y, None),
    "censored": lambda rng, X, y: (X, np.maximum(y, 0.0), None),
    "discrete": lambda rng, X, y: (X, np.round(y / 3), None),
    "large target": lambda rng, X, y: (X, 1e6 * y, None),
    "offsets": lambda rng, X, y: (X + 1e5, y + 1e5, None),
    "tiny columns": lambda rng, X, y: (1e-8 * X, y, None),
    "exact fit": lambda rng, X, y: (X, X @ np.arange(X.shape[1]) + 2.0, None),
    "constant target": lambda rng, X, y: (X, np.full(y.size, 2.5), None),
    "few rows": lambda rng, X, y: (
        rng.normal(size=(4, 8)),
        rng.normal(size=4),
        None,
    ),
    "one row": lambda rng, X, y: (X[:1], y[:1], None),
    "weights": lambda rng, X, y: (X, y, np.r_[1, rng.integers(0, 4, y.size - 1)] * 1.0),
    "wild weights": lambda rng, X, y: (X, y, np.exp(3 * rng.normal(size=y.size))),
    "outlier": lambda rng, X, y: (X, _replace_first(y, 1e6), None),
    "leverage": lambda rng, X, y: (_replace_first(X, 1e4 * X[0]), y, None),
    "polynomial": _vandermonde,
    "sorted": lambda rng, X, y: (X[np.argsort(y)], np.sort(y), None),
}


def problem(kind, seed, n=150, d=4):
    """Return X (n, d), y (n,) and weights (n,) or None."""
    rng = np.random.default_rng([seed, list(CHANGES).index(kind)])
    X = rng.normal(size=(n, d))
    noise = (1 + 0.5 * np.abs(X[:, 0])) * rng.normal(size=n)
    return CHANGES[kind](rng, X, X @ rng.normal(size=d) + noise)
