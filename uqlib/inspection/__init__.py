"""Pictures of intervals, calibration and uncertainty, as scikit-learn's displays draw.

matplotlib (the extra ``plot``) is imported when the first picture is drawn.
"""

from uqlib.inspection._coverage_display import CoverageDisplay
from uqlib.inspection._decomposition_display import UncertaintyDecompositionDisplay
from uqlib.inspection._interval_display import PredictionIntervalDisplay
from uqlib.inspection._quantile_calibration_display import QuantileCalibrationDisplay
from uqlib.inspection._quantization_display import QuantizationDisplay
from uqlib.inspection._reliability_display import ReliabilityDisplay
from uqlib.inspection._selective_risk_display import SelectiveRiskDisplay

__all__ = [
    "CoverageDisplay",
    "PredictionIntervalDisplay",
    "QuantileCalibrationDisplay",
    "QuantizationDisplay",
    "ReliabilityDisplay",
    "SelectiveRiskDisplay",
    "UncertaintyDecompositionDisplay",
]
