"""Raw, sorted, isotonic and conformalized quantiles on real data; written for the docs.

Run by `make bench` where the data are at hand (see `tests/_data.py`).
"""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from lightgbm import LGBMRegressor
from quantile_forest import RandomForestQuantileRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline

from tests._data import data_folder
from tests._real_data import N_SPLITS, block_splits, coverage_band
from uqlib import (
    ConformalizedQuantileRegressor,
    ConformalQuantiles,
    CrossFitQuantiles,
    IsotonicQuantiles,
    QuantileEnsembleRegressor,
    crossing_rate,
    isotonic_quantiles,
    mean_interval_width,
    pinball_loss,
    sort_quantiles,
)

TABLE = Path(__file__).resolve().parents[2] / "docs" / "real_data_table.rst"
LEVELS = np.arange(1, 20) / 20
LEVEL = 0.9
HEADER = (
    "Data",
    "Quantiles",
    "Coverage (std. error)",
    "Covered, band",
    "Mean width",
    "Pinball loss",
    "Crossing rows",
)


def main(names=("concrete", "energy", "power_plant")) -> None:
    """Fit, judge, print, write."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [HEADER, *(row for name in names for row in rows_of(name))]:
        print("  |  ".join(row), flush=True)
        lines += [f"   {'* -' if k == 0 else '  -'} {c}" for k, c in enumerate(row)]
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def rows_of(name: str):
    """Yield the rows of one data set."""
    path = data_folder() / f"{name}.csv.gz"
    if not path.is_file():
        print(f"{name} is not at {path}: left out")
        return
    start = time.process_time()
    table = pd.read_csv(path)
    X, y = table.drop(columns="target").to_numpy(float), table["target"].to_numpy(float)
    splits = block_splits(len(y))
    results = [judge(X, y, split) for split in splits]
    lower, upper = coverage_band(splits, LEVEL)
    n_test = sum(len(split.test) for split in splits)
    for form in results[0]:
        parts = [result[form] for result in results]
        n_covered = sum(part["covered"] for part in parts)
        coverage = n_covered / n_test
        error = np.sqrt(coverage * (1 - coverage) / n_test)
        exact = form == "conformalized pair"
        if exact and not lower <= n_covered <= upper:
            raise AssertionError(f"{name}: {n_covered} not in [{lower}, {upper}]")
        yield (
            f"{name}, {len(y)} rows",
            form,
            f"{coverage:.3f} ({error:.3f})",
            f"{n_covered} in [{lower}, {upper}]" if exact else f"{n_covered}",
            f"{np.mean([part['width'] for part in parts]):.2f}",
            _mean(parts, "pinball", "{:.3f}"),
            _mean(parts, "crossing", "{:.3f}"),
        )
    print(f"# {name}: {time.process_time() - start:.0f} s of CPU time")


def judge(X, y, split) -> dict[str, dict[str, float]]:
    """Fit on the training rows, calibrate, and judge every form on the test rows."""
    X_train, y_train = X[split.train], y[split.train]
    X_cal, y_cal = X[split.calibration], y[split.calibration]
    X_test, y_test = X[split.test], y[split.test]
    model = ensemble(cv=5).fit(X_train, y_train)
    raw = model.predict_quantiles(X_test)
    step = ConformalQuantiles(quantiles=LEVELS)
    step.fit(isotonic_quantiles(model.predict_quantiles(X_cal)), y_cal)
    pair = ConformalizedQuantileRegressor(
        FrozenEstimator(model), confidence_level=LEVEL
    )
    interval = pair.fit(X_cal, y_cal).predict_interval(X_test)
    matrices = {
        "raw": raw,
        "sorted": sort_quantiles(raw),
        "isotonic": isotonic_quantiles(raw),
        "conformalized": step.transform(isotonic_quantiles(raw)),
        "cross-fitted": cross_fitted(X, y, split).transform(X_test),
    }
    judged = {"conformalized pair": judge_interval(y_test, interval)}
    for form, matrix in matrices.items():
        judged[form] = judge_interval(y_test, np.sort(matrix[:, [0, -1]], axis=1)) | {
            "pinball": pinball_loss(y_test, matrix, LEVELS),
            "crossing": crossing_rate(matrix),
        }
    order = ["raw", "sorted", "isotonic", "conformalized", "conformalized pair"]
    return {form: judged[form] for form in [*order, "cross-fitted"]}


def judge_interval(y, interval) -> dict[str, float]:
    """Count the covered rows and measure the width."""
    inside = (interval[:, 0] <= y) & (y <= interval[:, 1])
    return {"covered": int(inside.sum()), "width": mean_interval_width(interval)}


def ensemble(cv: int) -> QuantileEnsembleRegressor:
    """Three base models with medium weights."""
    models = [
        (
            "lightgbm",
            LGBMRegressor(n_estimators=60, num_leaves=15, verbose=-1, n_jobs=1),
        ),
        ("boosting", HistGradientBoostingRegressor(max_iter=60, random_state=0)),
        (
            "forest",
            RandomForestQuantileRegressor(
                n_estimators=50, min_samples_leaf=5, random_state=0
            ),
        ),
    ]
    return QuantileEnsembleRegressor(models, quantiles=LEVELS, cv=cv, random_state=0)


def cross_fitted(X, y, split):
    """Fit the pipeline that calibrates on out-of-fold quantiles of all its rows."""
    rows = np.sort(np.concatenate([split.train, split.calibration]))
    pipe = make_pipeline(
        CrossFitQuantiles(ensemble(cv=3), cv=KFold(3, shuffle=True, random_state=0)),
        IsotonicQuantiles(),
        ConformalQuantiles(quantiles=LEVELS),
    )
    return pipe.fit(X[rows], y[rows])


def _mean(parts, key: str, pattern: str) -> str:
    if key not in parts[0]:
        return "none: one interval"
    return pattern.format(sum(part[key] for part in parts) / N_SPLITS)
