"""What a self-consistency discrepancy detects, beside an ensemble and a distance.

Regression: a network of 2 x 64 on diabetes; the rows to detect are the 15 % with the
largest first principal component, which no model has seen. Classification: the same on
digits; the rows to detect are those of a digit that no model has seen. Each score ranks
these rows against test rows like the training rows (AUROC, larger is better), and among
the latter it ranks the errors: Spearman correlation with the absolute error, AUROC of
the wrong labels. Means and standard errors over the seeds, or the digits left out.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.special import entr
from sklearn.datasets import load_diabetes, load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

from uqlib.metrics import (
    error_uncertainty_correlation,
    mutual_information,
    uncertainty_roc_auc,
)
from uqlib.spa import SPAClassifier, SPARegressor

DOCS = Path(__file__).parents[2] / "docs"
SEEDS = range(5)
HELD_OUT_DIGITS = (1, 4, 8, 3, 6)
N_MEMBERS, N_NEIGHBORS = 5, 5
NOTHING = "\N{EN DASH}"
SCORES = {
    "variance": "variance of an ensemble of 5",
    "information": "mutual information of an ensemble of 5",
    "entropy": "entropy of one network",
    "distance": "distance to the 5 nearest training rows",
    "sds": "SDS",
    "relative_sds": "relative SDS",
    "mar": "mean absolute residual",
    "bias": "absolute bias",
}


def network(kind, seed):
    """Return an unfitted network, the same for members and heads."""
    return kind(
        hidden_layer_sizes=(64, 64),
        learning_rate_init=5e-3,
        batch_size=128,
        max_iter=60,
        n_iter_no_change=60,
        random_state=seed,
    )


def regression(seed):
    """Yield (score, AUROC of unseen rows, correlation with the error)."""
    X, y = load_diabetes(return_X_y=True)
    X, y = StandardScaler().fit_transform(X), (y - y.mean()) / y.std()
    first = PCA(1, random_state=0).fit_transform(X)[:, 0]
    unseen = first > np.quantile(first, 0.85)
    train, test = train_test_split(
        np.flatnonzero(~unseen), test_size=0.3, random_state=seed
    )
    rows = np.r_[test, np.flatnonzero(unseen)]
    is_unseen = unseen[rows]
    members = _members(MLPRegressor, X[train], y[train], seed)
    spa = SPARegressor(
        network(MLPRegressor, seed),
        mar_estimator=network(MLPRegressor, seed),
        calibration=None,
        random_state=seed,
    ).fit(X[train], y[train])
    found = spa.predict_uncertainty(X[rows])
    scores = {
        "variance": np.var([m.predict(X[rows]) for m in members], axis=0),
        "distance": distance(X[train], X[rows]),
        "sds": found.sds,
        "relative_sds": found.relative_sds,
        "mar": found.mar,
        "bias": np.abs(found.bias),
    }
    error = np.abs(y[rows] - spa.predict(X[rows]))[~is_unseen]
    for name, score in scores.items():
        yield (
            name,
            uncertainty_roc_auc(is_unseen, score),
            error_uncertainty_correlation(error, score[~is_unseen]),
        )


def classification(seed, digit):
    """Yield (score, AUROC of unseen rows, AUROC of wrong labels)."""
    X, y = load_digits(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    unseen = y == digit
    train, test = train_test_split(
        np.flatnonzero(~unseen), test_size=0.4, random_state=seed
    )
    rows = np.r_[test, np.flatnonzero(unseen)]
    is_unseen = unseen[rows]
    members = _members(MLPClassifier, X[train], y[train], seed)
    spa = SPAClassifier(network(MLPClassifier, seed), random_state=seed)
    spa.fit(X[train], y[train])
    found = spa.predict_uncertainty(X[rows])
    probas = np.array([m.predict_proba(X[rows]) for m in members])
    scores = {
        "information": mutual_information(probas),
        "entropy": entr(spa.predict_proba(X[rows])).sum(axis=1),
        "distance": distance(X[train], X[rows]),
        "sds": found.epistemic,
    }
    wrong = (y[rows] != spa.predict(X[rows]))[~is_unseen]
    for name, score in scores.items():
        yield (
            name,
            uncertainty_roc_auc(is_unseen, score),
            uncertainty_roc_auc(wrong, score[~is_unseen]),
        )


def distance(X_train, X):
    """Return the mean distance to the nearest training rows."""
    neighbors = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(X_train)
    return neighbors.kneighbors(X)[0].mean(axis=1)


def _members(kind, X, y, seed):
    return [network(kind, 100 * seed + k).fit(X, y) for k in range(N_MEMBERS)]


def table(found):
    """Return the lines of a list-table from {set: {score: [(auroc, error), ...]}}."""
    sets = list(found)
    columns = [f"{name}: {what}" for name in sets for what in ("unseen", "errors")]
    rows = [["score", *columns]]
    for score, label in SCORES.items():
        cells = [cell for name in sets for cell in _cells(found[name].get(score))]
        if set(cells) != {NOTHING}:
            rows.append([label, *cells])
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        lines.append(f"   * - {row[0]}")
        lines += [f"     - {cell}" for cell in row[1:]]
    return lines


def _cells(pairs):
    if pairs is None:
        return [NOTHING, NOTHING]
    values = np.array(pairs)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return [
        f"{m:.2f} ({e:.2f})" for m, e in zip(values.mean(axis=0), error, strict=True)
    ]


def _collect(runs):
    found = {}
    for run in runs:
        for name, unseen, errors in run:
            found.setdefault(name, []).append((unseen, errors))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, default=DOCS)
    arguments = parser.parse_args()
    digits = enumerate(HELD_OUT_DIGITS)
    lines = table(
        {
            "diabetes": _collect(regression(seed) for seed in SEEDS),
            "digits": _collect(classification(seed, digit) for seed, digit in digits),
        }
    )
    text = "\n".join(lines) + "\n"
    (arguments.docs / "unseen_rows_table.rst").write_text(text, encoding="utf-8")
    print(text)
