"""What `coverage_report` returns."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

_MODELS = ("float model", "stale", "recalibrated")


class MeasuredCoverage(NamedTuple):
    """Coverage of one model with one threshold, as in a :class:`CoverageReport`.

    Parameters
    ----------
    coverage : float
        Share of the test rows that are covered.
    lower, upper : float
        Binomial interval of it.
    threshold : float
        Threshold of the scores; +inf if there are too few rows of calibration.
    mean_width : float
        Mean width of the intervals, or mean number of labels in the sets.

    Examples
    --------
    >>> from uqlib.quantized import MeasuredCoverage
    >>> MeasuredCoverage(0.9, 0.88, 0.92, 1.5, 3.0).mean_width
    3.0
    """

    coverage: float
    lower: float
    upper: float
    threshold: float
    mean_width: float


@dataclass(frozen=True, eq=False, repr=False)
class CoverageReport:
    """What quantization did to coverage and width, as `coverage_report` returns it.

    Its repr is a table; `to_frame` returns it for further work.

    Parameters
    ----------
    float_model, stale, recalibrated : MeasuredCoverage
        The float model with its threshold; the quantized model with that threshold;
        the quantized model with its own.
    drift_rms : float
        Root mean square over the test rows, and over quantiles or classes, of what the
        prediction changed by.
    width_ratio_forecast : float or None
        Forecast of the width ratio from the drift on the test rows and the RMSE of the
        float model on the rows of calibration; for points only.
    changed_labels : float or None
        Share of the test rows whose most probable class changed; for classifiers only.
    by_drift : DataFrame of shape (n_strata, 9)
        One row for each third of the test rows by the size of their drift, the
        smallest first: its range, the number of rows, the three coverages, the binomial
        interval of the recalibrated one, and the width ratio.
    by_class : DataFrame of shape (n_classes, 7) or None
        The same for each class in the test rows; for classifiers only.
    nonconformity : str
        "absolute", "quantile" or "lac".
    confidence_level : float
        Coverage asked for.
    binomial_level : float
        Level of the binomial intervals.
    n_calibration, n_test : int
        Numbers of rows.
    rows_seen : float or None
        Share of the calibration rows that the quantization used too; None if the model
        cannot tell.

    See Also
    --------
    coverage_report : Makes one.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.dummy import DummyRegressor
    >>> from uqlib.quantized import coverage_report
    >>> X, y = np.zeros((99, 1)), np.arange(99.0)
    >>> fp = DummyRegressor(strategy="constant", constant=49.0).fit(X, y)
    >>> moved = DummyRegressor(strategy="constant", constant=59.0).fit(X, y)
    >>> report = coverage_report(fp, moved, X, y, X, y, confidence_level=0.8)
    >>> report.to_frame()[["coverage", "threshold", "mean_width"]].round(3)
                  coverage  threshold  mean_width
    float model      0.818       40.0        80.0
    stale            0.808       40.0        80.0
    recalibrated     0.808       40.0        80.0
    """

    float_model: MeasuredCoverage
    stale: MeasuredCoverage
    recalibrated: MeasuredCoverage
    drift_rms: float
    width_ratio_forecast: float | None
    changed_labels: float | None
    by_drift: Any
    by_class: Any
    nonconformity: str
    confidence_level: float
    binomial_level: float
    n_calibration: int
    n_test: int
    rows_seen: float | None

    @property
    def width_ratio(self) -> float:
        """Mean width, or set size, after recalibration over that of the float model.

        NaN where both are 0 or both are infinite.
        """
        return float(
            width_ratio(self.recalibrated.mean_width, self.float_model.mean_width)
        )

    def to_frame(self) -> Any:
        """Return the three coverages as a table.

        Returns
        -------
        DataFrame of shape (3, 5)
            Index "float model", "stale" and "recalibrated"; columns coverage, lower,
            upper, threshold and mean_width.
        """
        rows = [self.float_model, self.stale, self.recalibrated]
        return pd.DataFrame(rows, index=list(_MODELS))

    def __repr__(self) -> str:
        size = "set size" if self.nonconformity == "lac" else "width"
        lines = [
            f"CoverageReport: {100 * self.confidence_level:g} % asked for, "
            f"nonconformity={self.nonconformity!r}, n_calibration="
            f"{self.n_calibration}, n_test={self.n_test}",
            f"{'':14}coverage  {100 * self.binomial_level:g} % interval  mean {size}",
        ]
        for name, row in zip(
            _MODELS, (self.float_model, self.stale, self.recalibrated), strict=True
        ):
            interval = f"[{row.lower:.3f}, {row.upper:.3f}]"
            lines.append(
                f"{name:14}{row.coverage:8.3f}  {interval}  {row.mean_width:.4g}"
            )
        costs = [f"{size} ratio {self.width_ratio:.3f}"]
        if self.width_ratio_forecast is not None:
            costs[0] += f" (forecast {self.width_ratio_forecast:.3f})"
        costs.append(f"drift rms {self.drift_rms:.4g}")
        if self.changed_labels is not None:
            costs.append(f"changed labels {self.changed_labels:.3f}")
        return "\n".join([*lines, ", ".join(costs)])


def width_ratio(new: Any, old: Any) -> Any:
    """Return new / old widths; NaN where both are 0 or both are infinite.

    Parameters
    ----------
    new, old : float or ndarray of one shape
        Mean widths.

    Returns
    -------
    float or ndarray
        The ratios.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(new, old)
