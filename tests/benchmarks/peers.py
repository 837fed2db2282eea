"""What peers do where uqlib claims a difference; printed and written for the docs.

Run by `make bench`. Each cell is observed here, none is copied from a manual.
"""

import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.utils.estimator_checks import check_estimator

import uqlib

TABLE = Path(__file__).resolve().parents[2] / "docs" / "peers_table.rst"
CALIBRATORS = {"uqlib": "uqlib", "MAPIE": "mapie", "crepes": "crepes"}
QUESTIONS = (
    "``sklearn.base.clone``",
    "scikit-learn's common checks",
    "9 rows at 0.9, where the largest score is exact",
    "8 rows at 0.9, where no finite interval is",
)
# The reasons are in tests/_estimators.py.
EXPECTED = {
    f"check_sample_weight_equivalence_on_{kind}_data": "a random split"
    for kind in ("dense", "sparse")
}


def main() -> None:
    """Observe, print, write."""
    columns = {name: observe(package) for name, package in CALIBRATORS.items()}
    header = [f"{name} {_version(CALIBRATORS[name])}" for name in columns]
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 31 23 23 23", ""]
    rows = [["Split calibration around Ridge", *header]]
    rows += [[q, *(c[q] for c in columns.values())] for q in QUESTIONS]
    for row in rows:
        print("  |  ".join(row), flush=True)
        lines += [f"   {'* -' if k == 0 else '  -'} {c}" for k, c in enumerate(row)]
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _version(package: str) -> str:
    return uqlib.__version__ if package == "uqlib" else version(package)


def observe(package: str) -> dict[str, str]:
    """Answer the questions for one package."""
    unfitted, interval = globals()[f"_{package}"]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answers = [
            _attempt(lambda: clone(unfitted) and "works"),
            _attempt(lambda: _common_checks(unfitted)),
            *(_attempt(lambda n=n: _kind(interval(n))) for n in (9, 8)),
        ]
    return dict(zip(QUESTIONS, answers, strict=True))


def _rows(n_calibration: int) -> tuple[Ridge, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100 + n_calibration, 2))
    y = X[:, 0] + rng.normal(size=len(X))
    return Ridge().fit(X[:100], y[:100]), X[100:], y[100:]


def _uqlib() -> tuple[object, Callable[[int], np.ndarray]]:
    def interval(n: int) -> np.ndarray:
        model, X, y = _rows(n)
        fitted = uqlib.SplitConformalRegressor(FrozenEstimator(model)).fit(X, y)
        return fitted.predict_interval(X[:1])

    return uqlib.SplitConformalRegressor(Ridge()), interval


def _mapie() -> tuple[object, Callable[[int], np.ndarray]]:
    from mapie.regression import SplitConformalRegressor

    def interval(n: int) -> np.ndarray:
        model, X, y = _rows(n)
        fitted = SplitConformalRegressor(model, confidence_level=0.9, prefit=True)
        return fitted.conformalize(X, y).predict_interval(X[:1])[1]

    return SplitConformalRegressor(Ridge(), prefit=False), interval


def _crepes() -> tuple[object, Callable[[int], np.ndarray]]:
    from crepes import WrapRegressor

    def interval(n: int) -> np.ndarray:
        model, X, y = _rows(n)
        fitted = WrapRegressor(model)
        fitted.calibrate(X, y)
        return fitted.predict_int(X[:1], confidence=0.9)

    return WrapRegressor(Ridge()), interval


def _common_checks(estimator: object) -> str:
    records = check_estimator(estimator, on_fail=None, expected_failed_checks=EXPECTED)
    counts = {
        status: sum(record["status"] == status for record in records)
        for status in ("passed", "failed", "xfail")
    }
    return (
        f"{counts['passed']} pass, {counts['failed']} fail, "
        f"{counts['xfail']} with a reason"
    )


def _kind(interval: np.ndarray) -> str:
    return "finite" if np.isfinite(interval).all() else "infinite, with a warning"


def _attempt(question: Callable[[], str]) -> str:
    try:
        return question()
    except Exception as error:
        return type(error).__name__


if __name__ == "__main__":
    main()
