"""Aggregation on real data: losses beside the best model, coverage, crossing; for docs.

Six models are fitted once out of fold and once on all training rows of a split, and
every aggregation learns from the same out-of-fold quantiles, that is from all training
rows: what the networks keep for validation the others learn from. The two networks are
tuned in each split. Run by `make bench-data` where the data are at hand (see
`tests/_data.py`).
"""

# isort: off
import _timing  # noqa: F401 - first: it pins the threads

# isort: on
import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
from lightgbm import LGBMRegressor
from quantile_forest import ExtraTreesQuantileRegressor, RandomForestQuantileRegressor
from quantile_tables import write_tables
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from xgboost import XGBRegressor

from tests._data import data_folder
from tests._real_data import block_splits, coverage_band
from uqlib import (
    ConformalizedQuantileRegressor,
    ConformalQuantiles,
    CrossConformalizedQuantileRegressor,
    LinearQuantileRegressor,
    MultiQuantileRegressor,
    QuantileAggregator,
    QuantileEnsembleRegressor,
    TorchQuantileRegressor,
    crossing_rate,
    pinball_loss,
    sort_quantiles,
)
from uqlib.quantile._choice import candidates

DOCS = Path(__file__).resolve().parents[2] / "docs"
SETS = (
    "energy",
    "concrete",
    "kin8nm",
    "power_plant",
    "wine_red",
    "airfoil",
    "elevators",
)
N_ROWS = 4000
LEVELS = tuple(np.arange(1, 20) / 20)
LEVEL = 0.8
AGGREGATORS = {
    "average": {"resolution": "average"},
    "median": {"resolution": "median"},
    "QRA (coarse)": {"resolution": "coarse"},
    "flexible QRA": {
        "resolution": "medium",
        "crossing_penalty": np.inf,
        "margin": 0.0,
    },
    "medium": {"resolution": "medium"},
    "fine": {"resolution": "fine"},
    "local coarse": {"resolution": "coarse", "local": True, "cv": 5, "random_state": 0},
}
# What the networks are tuned over, by the loss on a fifth of the training rows.
NETWORKS = (
    {},
    {"hidden": (128, 128)},
    {"hidden": (128, 128), "dropout": 0.1},
    {"learning_rate": 1e-3, "weight_decay": 1e-3},
)


class HandOn(BaseEstimator):
    """A quantile regressor whose features are its quantiles."""

    def fit(self, X, y=None):
        """Name the levels."""
        self.quantiles_ = np.asarray(LEVELS)
        return self

    def predict_quantiles(self, X):
        """Return the features."""
        return X


def base_models(network):
    """The six models; the networks with the parameters that were tuned."""
    forest = {"n_estimators": 50, "min_samples_leaf": 5, "random_state": 0}
    return [
        ("linear", LinearQuantileRegressor(LEVELS)),
        (
            "lightgbm",
            LGBMRegressor(n_estimators=60, num_leaves=15, verbose=-1, n_jobs=1),
        ),
        ("forest", RandomForestQuantileRegressor(**forest)),
        ("extra-trees", ExtraTreesQuantileRegressor(**forest)),
        ("network", TorchQuantileRegressor(LEVELS, random_state=0, **network)),
        (
            "Gaussian network",
            TorchQuantileRegressor(LEVELS, head="gaussian", random_state=0, **network),
        ),
    ]


def tuned(X, y):
    """Choose the parameters of the networks on training rows alone."""
    X_fit, X_held, y_fit, y_held = train_test_split(X, y, test_size=0.2, random_state=0)
    losses = []
    for parameters in NETWORKS:
        network = TorchQuantileRegressor(LEVELS, random_state=0, **parameters)
        q = network.fit(X_fit, y_fit).predict_quantiles(X_held)
        losses.append(pinball_loss(y_held, sort_quantiles(q), LEVELS))
    return NETWORKS[int(np.argmin(losses))]


def stacked(models, X):
    """Return the base quantiles, (n_samples, n_models, n_quantiles)."""
    return np.stack([m.predict_quantiles(X, list(LEVELS)) for m in models], axis=1)


def rows_of(name):
    """Read a data set, or a fixed random part of it."""
    table = pd.read_csv(data_folder() / f"{name}.csv.gz")
    X, y = table.drop(columns="target").to_numpy(float), table["target"].to_numpy(float)
    if len(y) > N_ROWS:
        kept = np.random.default_rng(0).permutation(len(y))[:N_ROWS]
        X, y = X[kept], y[kept]
    return X, y


def fit_models(X, y, split, path):
    """Fit the models of a split, and keep what aggregations need of them."""
    X_train, y_train = X[split.train], y[split.train]
    block = np.concatenate([split.calibration, split.test])
    result = {"seconds": {}}
    start = time.process_time()
    network = tuned(X_train, y_train)
    result["tuned"] = str(network)
    folds = QuantileEnsembleRegressor(
        base_models(network), quantiles=LEVELS, weights="median", refit=False,
        random_state=0,
    ).fit(X_train, y_train)  # fmt: skip
    bags, models = folds.estimators_, []
    result["seconds"]["folds and tuning"] = time.process_time() - start
    for (name, _), bag in zip(folds.estimators, bags, strict=True):
        start = time.process_time()
        models.append(clone(bag.estimators[0]).fit(X_train, y_train))
        result["seconds"][name] = time.process_time() - start
    result["peers"] = peers(X_train, y_train, X[block], y[block])
    result["CV+"] = cross_conformal(X, y, split)
    np.savez(
        path,
        out_of_fold=folds.oof_quantiles_,
        refitted=stacked(models, X[block]),
        fold_means=stacked(bags, X[block]),
    )
    return result


def judge_split(X, y, split, path, result):
    """Fit the aggregations on the training rows of a split, judge them on its block."""
    X_train, y_train = X[split.train], y[split.train]
    block = np.concatenate([split.calibration, split.test])
    X_block, y_block = X[block], y[block]
    with np.load(path) as stored:
        Z, Z_block, Z_mean = (stored[name] for name in stored.files)
    result |= {"loss": {}, "raw_loss": {}, "crossing": {}}

    def record(name, q):
        result["raw_loss"][name] = pinball_loss(y_block, q, LEVELS)
        result["loss"][name] = pinball_loss(y_block, sort_quantiles(q), LEVELS)
        result["crossing"][name] = crossing_rate(q)

    names = [name for name, _ in base_models({})]
    for j, name in enumerate(names):
        record(name, Z_block[:, j])
        record(f"{name}, fold means", Z_mean[:, j])
    # What `weights="auto"` does; its local candidates serve the rows of the table too.
    start = time.process_time()
    levels = np.asarray(LEVELS)
    losses, fitted = candidates(Z, y_train, X_train, levels, names, None, 0)
    chosen = min(losses, key=lambda name: losses[name].mean())
    result["seconds"]["auto"] = time.process_time() - start
    result["selected"] = chosen
    forms = {}
    for name, parameters in AGGREGATORS.items():
        start = time.process_time()
        forms[name] = QuantileAggregator(quantiles=LEVELS, **parameters)
        forms[name].fit(Z, y_train, X=X_train)
        result["seconds"][name] = time.process_time() - start
    fitted |= {"coarse": forms["QRA (coarse)"], "medium": forms["medium"]}
    forms |= {
        "local medium": fitted["local_medium"],
        "local fine": fitted["local_fine"],
        "auto": fitted[chosen],
    }
    for name, aggregator in forms.items():
        record(name, aggregator.predict_quantiles(Z_block, X_block))
        q = aggregator.predict_quantiles(Z_mean, X_block)
        record(f"{name}, fold means", q)
    result["networks"] = len(forms["local fine"].networks_)
    result["coverage"] = coverage(
        sort_quantiles(fitted[chosen].predict_quantiles(Z_block, X_block)),
        y_block,
        len(split.calibration),
    )
    return result


def coverage(q, y, n_calibration):
    """Raw and calibrated central intervals at the level, on the test rows."""
    pair = q[:, [1, 17]]
    held, test = slice(None, n_calibration), slice(n_calibration, None)
    # The quantiles are the features: a frozen model that hands them on.
    model = ConformalizedQuantileRegressor(
        FrozenEstimator(HandOn().fit(q)), confidence_level=LEVEL
    ).fit(q[held], y[held])
    interval = model.predict_interval(q[test])
    step = ConformalQuantiles(quantiles=LEVELS).fit(q[held], y[held])
    return {
        "raw": inside(y[test], pair[test]),
        "split": inside(y[test], interval),
        "crossing": crossing_rate(step.transform(q[test])) + crossing_rate(q),
    }


def inside(y, interval):
    """Count the covered rows and take the mean width."""
    covered = (interval[:, 0] <= y) & (interval[:, 1] >= y)
    return [int(covered.sum()), float(np.diff(interval, axis=1).mean())]


def cross_conformal(X, y, split):
    """CV+ around the ensemble of the four models that are no networks."""
    base = QuantileEnsembleRegressor(
        base_models({})[:4], quantiles=LEVELS, weights="medium",
        non_crossing="sort", random_state=0,
    )  # fmt: skip
    model = CrossConformalizedQuantileRegressor(
        base, confidence_level=LEVEL, cv=5, random_state=0
    ).fit(X[split.train], y[split.train])
    return inside(y[split.test], model.predict_interval(X[split.test]))


def peers(X, y, X_new, y_new):
    """Crossing rows and loss of what others give for many levels."""
    learners = {
        "XGBoost": XGBRegressor(n_estimators=100, n_jobs=1),
        "LightGBM": LGBMRegressor(verbose=-1, n_jobs=1),
        "quantile-forest": RandomForestQuantileRegressor(random_state=0),
        "HistGradientBoosting": HistGradientBoostingRegressor(random_state=0),
    }
    result = {}
    for name, learner in learners.items():
        model = MultiQuantileRegressor(learner, quantiles=LEVELS).fit(X, y)
        q = model.predict_quantiles(X_new)
        result[name] = [
            crossing_rate(q),
            pinball_loss(y_new, q, LEVELS),
            pinball_loss(y_new, sort_quantiles(q), LEVELS),
        ]
    return result


def run(name, folder, *, models):
    """Fit and judge all splits of a data set and write the figures."""
    start = time.process_time()
    X, y = rows_of(name)
    path = folder / f"{name}.json"
    figures = {"n_rows": len(y), "splits": [{} for _ in block_splits(len(y))]}
    if not models:
        figures = json.loads(path.read_text(encoding="utf-8"))
    for k, split in enumerate(block_splits(len(y))):
        stored = folder / f"{name}_{k}.npz"
        if models:
            figures["splits"][k] = fit_models(X, y, split, stored)
            path.write_text(json.dumps(figures), encoding="utf-8")
        else:
            judge_split(X, y, split, stored, figures["splits"][k])
            print(name, figures["splits"][k]["loss"], flush=True)
    path.write_text(json.dumps(figures), encoding="utf-8")
    print(f"# {name}: {time.process_time() - start:.0f} s of CPU time", flush=True)


def main():
    """Fit the models of the sets named, aggregate them, write the tables of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--folder", default=".benchmarks", type=Path)
    parser.add_argument("--steps", default="models,aggregations,tables")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    for step in options.steps.split(","):
        if step == "tables":
            write_tables(options.folder, DOCS, coverage_band, block_splits)
            continue
        for name in options.sets.split(","):
            run(name, options.folder, models=step == "models")


if __name__ == "__main__":
    main()
