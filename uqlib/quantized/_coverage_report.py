r"""Coverage and width before and after quantization, as numbers.

Rows of calibration give the threshold t of the float model and t_q of the quantized
one. On test rows three things are measured:

    float model    f   with t      what there was
    stale          f_q with t      what is left if nobody recalibrates
    recalibrated   f_q with t_q    exact again; the damage has moved into the width
"""

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.utils.validation import _num_samples

from uqlib._binomial import clopper_pearson
from uqlib._core.checks import check_rows
from uqlib._core.drift import drift_rms, row_drift, width_ratio_forecast
from uqlib._core.levels import check_confidence_level
from uqlib._core.ranks import order_statistic, rank_from_fraction, warn_infinite
from uqlib._core.strata import strata
from uqlib._typing import ArrayLike, BoolArray, FloatArray
from uqlib.quantized._coverage_kinds import (
    CoverageKind,
    difference,
    find_kind,
    warn_if_seen,
)
from uqlib.quantized._coverage_result import (
    CoverageReport,
    MeasuredCoverage,
    width_ratio,
)

_COLUMNS = ("float_model", "stale", "recalibrated")
_N_STRATA = 3


def coverage_report(
    fp: Any,
    quantized: Any,
    X_cal: Any,
    y_cal: ArrayLike,
    X_test: Any,
    y_test: ArrayLike,
    *,
    confidence_level: float = 0.9,
    nonconformity: str = "auto",
    binomial_level: float = 0.95,
) -> CoverageReport:
    r"""Measure what quantization did to coverage and to the width of intervals.

    Both models are split-calibrated on the same rows, with the rank
    :math:`k = \lceil (n + 1) p \rceil`, and compared on the same test rows:

    .. math:: C(x; f, t), \qquad C(x; f_q, t), \qquad C(x; f_q, t_q)

    are the sets of the float model, of the quantized model with the stale threshold of
    the float model, and of the quantized model with its own.

    Parameters
    ----------
    fp : estimator
        The fitted float model: a regressor, a model that gives quantiles, or a
        classifier with probabilities.
    quantized : estimator
        The same model quantized, or changed in any other way. What it gives must be of
        the same kind.
    X_cal : {array-like, dataframe} of shape (n_calibration, n_features)
        Rows that neither trained nor quantized a model.
    y_cal : array-like of shape (n_calibration,)
        Their targets.
    X_test : {array-like, dataframe} of shape (n_test, n_features)
        Other rows, on which coverage is counted.
    y_test : array-like of shape (n_test,)
        Their targets.
    confidence_level : float, default=0.9
        Coverage asked for, p, strictly between 0 and 1.
    nonconformity : {"auto", "absolute", "quantile", "lac"}, default="auto"
        "absolute": intervals around points; "quantile": around the quantiles
        :math:`(1 - p) / 2` and :math:`(1 + p) / 2`; "lac": sets of labels by their
        probability. "auto" takes "lac" for models with `predict_proba`, "quantile" for
        those with `predict_quantiles`, and else "absolute".
    binomial_level : float, default=0.95
        Level of the binomial intervals of the coverages, strictly between 0 and 1.

    Returns
    -------
    CoverageReport
        Coverages with their intervals, widths, drift; by drift and by class.

    Raises
    ------
    ValueError
        If shapes do not agree, there are no rows, a target is missing, a label is
        unknown to the float model, a model does not give what is asked for, or a level
        or `nonconformity` is none of the legal ones.
    TypeError
        If a level is not a number, or `fp` is a torch module.

    Warns
    -----
    QuantizationWarning
        If `quantized` says that rows of `X_cal` were used in its quantization.
    InfiniteIntervalWarning
        If there are too few rows of calibration for the level.

    See Also
    --------
    width_ratio_forecast : The width ratio before there are labels.
    drift_certificate : Intervals before there are labels.
    uqlib.inspection.QuantizationDisplay : A picture of several reports.

    Notes
    -----
    .. rubric:: Guarantee

    Theorem: the recalibrated sets have :math:`P(y \in C(x)) \ge p` however much the
    quantization damaged the model.
    Assumptions: the rows of calibration and the new row are exchangeable given the
    quantized model; so they were used neither to train nor to quantize it.
    Level: `confidence_level`. For stale thresholds: none.

    The binomial intervals are those of Clopper and Pearson, of level at least
    `binomial_level`, for the coverage of these models with these thresholds over all
    rows that the test rows are a sample of. The coverage itself varies about p with
    the rows of calibration, by the law :math:`\mathrm{Beta}(k, n + 1 - k)` without
    ties.

    Marginal coverage says nothing about the rows that the quantization hurt most:
    `by_drift` shows them. There, the intervals are the same as elsewhere, so that
    coverage falls short for large drifts and is too high for small ones.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> from uqlib.quantized import coverage_report
    >>> X = np.random.default_rng(0).normal(size=(600, 3))
    >>> y = X @ [1.0, 2.0, 3.0] + np.random.default_rng(1).normal(size=600)
    >>> fp, rough = (LinearRegression().fit(X[:200], y[:200]) for _ in range(2))
    >>> rough.coef_ = np.round(rough.coef_ / 2) * 2
    >>> rows = X[200:400], y[200:400], X[400:], y[400:]
    >>> coverage_report(fp, rough, *rows).to_frame()[["coverage", "mean_width"]]
                  coverage  mean_width
    float model      0.860    2.936404
    stale            0.575    2.936404
    recalibrated     0.915    5.777527
    """
    level, bar = check_confidence_level(confidence_level), _check_level(binomial_level)
    kind = find_kind(nonconformity, fp)
    calibration = _ask_both(kind, fp, quantized, X_cal, y_cal, level, "cal")
    test = _ask_both(kind, fp, quantized, X_test, y_test, level, "test")
    seen = warn_if_seen(quantized, X_cal, "X_cal")
    stale, own = _thresholds(kind, calibration, level)
    drift = difference(test.exact, test.quantized)
    outcomes = [
        _Outcome(threshold, *kind.cover(test.y, values, threshold))
        for values, threshold in (
            (test.exact, stale),
            (test.quantized, stale),
            (test.quantized, own),
        )
    ]
    float_model, kept, recalibrated = (_measured(o, bar) for o in outcomes)
    points, labels = kind.name == "absolute", kind.name == "lac"
    return CoverageReport(
        float_model=float_model,
        stale=kept,
        recalibrated=recalibrated,
        drift_rms=drift_rms(drift),
        width_ratio_forecast=_forecast(drift, calibration) if points else None,
        changed_labels=_changed(test) if labels else None,
        by_drift=_by_drift(row_drift(drift), outcomes, bar),
        by_class=_by_class(test.y, kind, outcomes, bar) if labels else None,
        nonconformity=kind.name,
        confidence_level=float(level),
        binomial_level=bar,
        n_calibration=len(calibration.y),
        n_test=len(test.y),
        rows_seen=seen,
    )


class _Asked(NamedTuple):
    """Targets of some rows, and what both models say."""

    y: Any
    exact: FloatArray
    quantized: FloatArray


class _Outcome(NamedTuple):
    """Which rows one model covers with one threshold, at what width."""

    threshold: float
    covered: BoolArray
    width: FloatArray


def _ask_both(
    kind: CoverageKind,
    fp: Any,
    quantized: Any,
    X: Any,
    y: Any,
    level: Fraction,
    name: str,
) -> _Asked:
    target = kind.target(y, f"y_{name}")
    check_rows(_num_samples(X), len(target), f"y_{name}", f"X_{name}")
    predictions = (kind.predict(m, X, float(level)) for m in (fp, quantized))
    return _Asked(target, *predictions)


def _thresholds(
    kind: CoverageKind, rows: _Asked, level: Fraction
) -> tuple[float, float]:
    """Return the thresholds of both models, with one warning if they are infinite."""
    n_rows = len(rows.y)
    rank = rank_from_fraction(n_rows, level)
    if rank > n_rows:
        warn_infinite(n_rows, level)
    first, second = (
        order_statistic(kind.scores(rows.y, values), rank)
        for values in (rows.exact, rows.quantized)
    )
    return first, second


def _measured(outcome: _Outcome, level: float) -> MeasuredCoverage:
    n_rows = len(outcome.covered)
    lower, upper = clopper_pearson(outcome.covered.sum(), n_rows, level)
    return MeasuredCoverage(
        float(outcome.covered.mean()),
        float(lower),
        float(upper),
        outcome.threshold,
        float(outcome.width.mean()),
    )


def _forecast(drift: FloatArray, calibration: _Asked) -> float:
    return width_ratio_forecast(drift, drift_rms(calibration.y - calibration.exact))


def _changed(rows: _Asked) -> float:
    changed = rows.exact.argmax(axis=1) != rows.quantized.argmax(axis=1)
    return float(changed.mean())


def _by_drift(size: FloatArray, outcomes: list[_Outcome], level: float) -> Any:
    third = strata(size, _N_STRATA, None)
    n_strata = int(third.max()) + 1
    ends = [(size[third == k].min(), size[third == k].max()) for k in range(n_strata)]
    table = _table(third, n_strata, outcomes, level)
    table.insert(0, "drift_min", [low for low, _ in ends])
    table.insert(1, "drift_max", [high for _, high in ends])
    return table


def _by_class(columns: Any, kind: Any, outcomes: list[_Outcome], level: float) -> Any:
    present, codes = np.unique(columns, return_inverse=True)
    table = _table(codes, present.size, outcomes, level)
    return table.set_index(pd.Index(kind.classes[present], name="class"))


def _table(codes: Any, n_groups: int, outcomes: list[_Outcome], level: float) -> Any:
    """Return coverages and width ratios of groups of rows."""
    n_rows = np.bincount(codes, minlength=n_groups)
    hits = [np.bincount(codes[o.covered], minlength=n_groups) for o in outcomes]
    widths = [np.bincount(codes, o.width, n_groups) for o in outcomes]
    ends = clopper_pearson(hits[2], n_rows, level)
    return pd.DataFrame(
        {
            "n_samples": n_rows,
            **{name: h / n_rows for name, h in zip(_COLUMNS, hits, strict=True)},
            "lower": ends[:, 0],
            "upper": ends[:, 1],
            "width_ratio": width_ratio(widths[2], widths[0]),
        }
    )


def _check_level(binomial_level: Any) -> float:
    try:
        return float(check_confidence_level(binomial_level))
    except (TypeError, ValueError) as error:
        message = str(error).replace("confidence_level", "binomial_level")
        raise type(error)(message) from None
