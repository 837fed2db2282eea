"""What a picture of quantization is made of, checked."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from uqlib._binomial import clopper_pearson
from uqlib._core.checks import as_1d
from uqlib._typing import FloatArray
from uqlib.inspection._coverage_points import check_shares
from uqlib.quantized._coverage_result import CoverageReport


def check_bits(bits: Any) -> Any:
    """Return positive distinct numbers as floats, or distinct names as objects."""
    values = np.asarray(bits, dtype=object)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(
            "bits must be a non-empty 1-D sequence of numbers or names, got shape "
            f"{values.shape}."
        )
    named = [isinstance(value, str) for value in values]
    if any(named) and not all(named):
        raise ValueError(
            f"bits must be all numbers or all names, got {values.tolist()}. Pass for "
            "example ['2', 'float']."
        )
    if not any(named):
        values = as_1d(values, "bits")
        if not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(
                f"bits must be positive and finite, got {values.tolist()}."
            )
    if len(set(values.tolist())) < values.size:
        raise ValueError(
            f"bits must be distinct, got {values.tolist()}. Draw another model with "
            "the ax_ of the first, or pass names."
        )
    return values


def _check_shape(values: FloatArray, name: str, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise ValueError(
            f"{name} must have shape {shape}, one entry for each of bits, got shape "
            f"{values.shape}."
        )


def check_coverage(values: Any, name: str, n_points: int) -> FloatArray:
    shares = check_shares(values, name)
    _check_shape(shares, name, (n_points,))
    return shares


def check_ends(
    interval: Any, coverage: FloatArray | None, name: str
) -> FloatArray | None:
    """Return intervals of shape (n_points, 2) that hold the coverage, or None."""
    if interval is None:
        return None
    if coverage is None:
        raise ValueError(f"{name}_interval is given, but {name} is None. Pass both.")
    ends = np.asarray(interval, dtype=np.float64)
    _check_shape(ends, f"{name}_interval", (coverage.size, 2))
    if not ((ends[:, 0] <= coverage) & (coverage <= ends[:, 1])).all():
        raise ValueError(
            f"{name}_interval must hold {name}, lower end first, got {ends.tolist()} "
            f"for {coverage.tolist()}."
        )
    return ends


def check_ratio(values: Any, name: str, n_points: int) -> FloatArray:
    ratios = np.asarray(values, dtype=np.float64)
    _check_shape(ratios, name, (n_points,))
    if (ratios < 0).any():
        raise ValueError(f"{name} must be at least 0, got {ratios.tolist()}.")
    return ratios


def check_reports(reports: Any) -> list[CoverageReport]:
    if not isinstance(reports, Mapping) or not all(
        isinstance(report, CoverageReport) for report in reports.values()
    ):
        raise TypeError(
            "reports must be a dict of {bits or name: CoverageReport}, got "
            f"{type(reports).__name__}. Pass for example "
            "{4: coverage_report(model, quantized, ...)}."
        )
    if not reports:
        raise ValueError("reports is empty: pass for example {4: report}.")
    found = list(reports.values())
    for name in ("confidence_level", "nonconformity"):
        values = {getattr(report, name) for report in found}
        if len(values) > 1:
            raise ValueError(
                f"reports must have one {name}, got {sorted(values)}. Draw the others "
                "in a picture of their own."
            )
    return found


def count_intervals(coverage: Any, n_samples: Any, level: float | None) -> Any:
    """Return the binomial intervals of coverages, or None where none are asked for."""
    if coverage is None or n_samples is None or level is None:
        return None
    shares = check_shares(coverage, "coverage")
    n = np.asarray(n_samples, dtype=np.float64)
    if n.shape not in ((), shares.shape) or not (np.isfinite(n) & (n > 0)).all():
        raise ValueError(
            "n_samples must be a positive number of test rows, one or one for each of "
            f"bits, got {n_samples!r}."
        )
    return clopper_pearson(shares * n, np.broadcast_to(n, shares.shape), level)
