"""Binomial intervals of the points of a reliability diagram."""

from numbers import Real
from typing import Any

import numpy as np
from scipy.special import betainccinv, betaincinv

from uqlib._core.calibration_events import events_of_label
from uqlib._core.levels import exact_level
from uqlib._typing import FloatArray
from uqlib.metrics import CalibrationBins


def binomial_interval(share: FloatArray, n: FloatArray, level: float) -> FloatArray:
    """Return the intervals of Clopper and Pearson, of shape (n_points, 2)."""
    # S of n rows: the lower end is the chance p at which P(Bin(n, p) >= S), the
    # regularized incomplete beta function I_p(S, n - S + 1), is half of 1 - level; the
    # upper end that at which P(Bin(n, p) <= S) = 1 - I_p(S + 1, n - S) is. Both are
    # defined for numbers that are not whole.
    tail, hits = (1 - level) / 2, share * n
    some, all_but_some = hits > 0, hits < n
    lower, upper = np.zeros_like(hits), np.ones_like(hits)
    lower[some] = betaincinv(hits[some], (n - hits)[some] + 1, tail)
    s, missed = hits[all_but_some], (n - hits)[all_but_some]
    upper[all_but_some] = betainccinv(s + 1, missed, tail)
    return np.column_stack([lower, upper])


def check_drawn_level(level: Any, name: str) -> float | None:
    """Return the level of a range that is drawn, or None for no range."""
    if level is None:
        return None
    if isinstance(level, bool) or not isinstance(level, Real):
        raise TypeError(
            f"{name} must be a number strictly between 0 and 1, or None, got {level!r}."
        )
    if not 0 < float(level) < 1:
        raise ValueError(
            f"{name} must lie strictly between 0 and 1, got {level!r}. Pass 0.95 for "
            "95 %, or None to draw none."
        )
    return float(exact_level(level))


def effective_rows(
    bins: CalibrationBins,
    y_true: Any,
    y_proba: Any,
    *,
    pos_label: Any,
    labels: Any,
    sample_weight: Any,
) -> FloatArray | None:
    """Return (sum w)^2 / (sum w^2) of each range; None without weights."""
    if sample_weight is None:
        return None
    events = events_of_label(y_true, y_proba, pos_label, labels, sample_weight)
    # A range begins at its lower edge and ends before the next one that is used.
    position = np.searchsorted(bins.edges[:, 0], events.proba, side="right") - 1
    # Shares of the range: no square vanishes or overflows.
    share = events.weight / bins.weight[position]
    return 1 / np.bincount(position, share**2)
