"""Warnings and errors of uqlib, each with its own class."""

import sys
import warnings

__all__ = [
    "AlreadyFittedWarning",
    "InfiniteIntervalWarning",
    "QuantizationWarning",
    "RiskNotControlledWarning",
    "UncertaintyWarning",
]


class UncertaintyWarning(UserWarning):
    """Base class of every warning that uqlib raises itself.

    Examples
    --------
    >>> import warnings
    >>> from uqlib.exceptions import UncertaintyWarning
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", category=UncertaintyWarning)
    """


class InfiniteIntervalWarning(UncertaintyWarning):
    r"""The calibration set is too small for the level, so a bound is infinite.

    With n calibration rows and confidence level p, the threshold is the
    :math:`\lceil (n + 1) p \rceil`-th smallest score. It exists only when
    :math:`n \ge p / (1 - p)`; below that only an infinite bound is honest.
    The message names the number of rows needed.

    Examples
    --------
    >>> import warnings
    >>> from uqlib.conformal import conformal_quantile
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     threshold = conformal_quantile([0.1, 0.4, 0.2], 0.9)
    >>> float(threshold), caught[0].category.__name__
    (inf, 'InfiniteIntervalWarning')
    """


class AlreadyFittedWarning(UncertaintyWarning):
    """A fitted estimator was passed where a copy of it is cloned and fitted anew.

    Wrap the model in :class:`sklearn.frozen.FrozenEstimator` to use it as it
    stands.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> from uqlib.conformal import SplitConformalRegressor
    >>> X, y = np.arange(40.0).reshape(-1, 1), np.arange(40.0) % 7
    >>> model = LinearRegression().fit(X, y)
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     _ = SplitConformalRegressor(model, random_state=0).fit(X, y)
    >>> caught[0].category.__name__
    'AlreadyFittedWarning'
    """


class QuantizationWarning(UncertaintyWarning):
    """A quantization is worse, smaller or less honest than it looks.

    Parts of the model stay in float, the calibration rows are too few for a layer, or
    rows of the quantization are used again where new ones are needed. The message says
    which it is and what to do.

    Examples
    --------
    >>> import warnings
    >>> from sklearn.datasets import make_regression
    >>> from sklearn.linear_model import Ridge
    >>> from uqlib.quantized import QuantizationScheme, quantize
    >>> X, y = make_regression(20, 30, random_state=0)
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     model = quantize(Ridge().fit(X, y), QuantizationScheme("int4"), X)
    >>> caught[0].category.__name__
    'QuantizationWarning'
    """


class RiskNotControlledWarning(UncertaintyWarning):
    """No threshold is certified to keep the risk at its level.

    The calibration rows are too few, or the losses too large at every threshold. What
    is left is the safest set that there is: every label, or none where too many labels
    are the risk. The message says which it is.

    Examples
    --------
    >>> import warnings
    >>> from uqlib.conformal import conformal_risk_threshold
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     threshold = conformal_risk_threshold([[1.0, 0.0]], [0.3, 0.6], 0.1)
    >>> float(threshold), caught[0].category.__name__
    (inf, 'RiskNotControlledWarning')
    """


# Frames between the user's line and the warning that are not the user's.
_MACHINERY = ("uqlib", "sklearn", "joblib")


def warn_user(message: str, category: type[UncertaintyWarning]) -> None:
    """Warn at the line of the user's own code, through all layers in between.

    Parameters
    ----------
    message : str
        What is wrong and what to do.
    category : type
        A subclass of `UncertaintyWarning`.
    """
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None:
        if frame.f_globals.get("__name__", "").split(".")[0] not in _MACHINERY:
            break
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, category, stacklevel=depth + 1)
