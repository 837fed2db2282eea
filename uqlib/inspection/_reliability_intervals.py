"""Binomial intervals of the points of a reliability diagram."""

from numbers import Real
from typing import Any

import numpy as np

from uqlib._core.calibration_events import events_of_label
from uqlib._core.levels import exact_level
from uqlib._typing import FloatArray
from uqlib.metrics import CalibrationBins


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
