"""Calibrators whose points are the first column, so that scores are set by hand."""

import numpy as np
from sklearn.frozen import FrozenEstimator

from tests._models import ColumnQuantiles
from uqlib.batch._inference import BatchPredictiveInference

FIRST_COLUMN = FrozenEstimator(ColumnQuantiles().fit(np.zeros((2, 1)), np.zeros(2)))


def rows_of(points):
    """Rows whose prediction is known."""
    return np.asarray(points, dtype=float).reshape(-1, 1)


def calibrated(y, points=None, **parameters):
    """A calibrator with targets y and predictions points, 0 by default."""
    parameters = {"random_state": 0, **parameters}
    points = np.zeros(len(y)) if points is None else points
    return BatchPredictiveInference(FIRST_COLUMN, **parameters).fit(rows_of(points), y)
