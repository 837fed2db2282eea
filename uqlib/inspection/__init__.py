"""Pictures of intervals and of their coverage, as scikit-learn's displays draw them.

matplotlib (the extra ``plot``) is imported when the first picture is drawn.
"""

from uqlib.inspection._coverage_display import CoverageDisplay
from uqlib.inspection._interval_display import PredictionIntervalDisplay

__all__ = ["CoverageDisplay", "PredictionIntervalDisplay"]
