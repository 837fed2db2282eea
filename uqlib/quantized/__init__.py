"""Fitted models at 8 to 1 bits, with their uncertainty kept honest."""

from uqlib._core.drift import width_ratio_forecast
from uqlib._core.drift_certificate import drift_certificate
from uqlib.quantized._allocation import allocate_bits
from uqlib.quantized._coverage_report import coverage_report
from uqlib.quantized._coverage_result import CoverageReport, MeasuredCoverage
from uqlib.quantized._drift import (
    certify_drift,
    lipschitz_drift_bound,
    split_point_shift,
)
from uqlib.quantized._models import QuantizedClassifier, QuantizedRegressor, quantize
from uqlib.quantized._scheme import QuantizationScheme

__all__ = [
    "CoverageReport",
    "MeasuredCoverage",
    "QuantizationScheme",
    "QuantizedClassifier",
    "QuantizedRegressor",
    "allocate_bits",
    "certify_drift",
    "coverage_report",
    "drift_certificate",
    "lipschitz_drift_bound",
    "quantize",
    "split_point_shift",
    "width_ratio_forecast",
]
