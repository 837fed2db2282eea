"""Scorers that ask a regressor for quantiles or intervals; larger is better.

`sklearn.metrics.make_scorer` knows scikit-learn's own prediction methods alone, so
these are callables ``scorer(estimator, X, y, **metadata)`` of their own, which
`cross_validate` and the searches take as they are.
"""

from collections.abc import Callable
from typing import Any

from uqlib._core.levels import check_quantiles
from uqlib._typing import Scorer
from uqlib.metrics._interval import coverage_score, interval_score, mean_interval_width
from uqlib.metrics._quantile import (
    crps_from_quantiles,
    pinball_loss,
    quantile_calibration_error,
    weighted_interval_score,
)
from uqlib.metrics._regression_calibration import miscalibration_area
from uqlib.metrics._scorer_objects import IntervalScorer, QuantileScorer


def _quantile_scorer(metric: Callable[..., float], quantiles: Any) -> QuantileScorer:
    levels = None if quantiles is None else check_quantiles(quantiles)
    return QuantileScorer(metric, -1, levels)


def coverage_scorer(confidence_level: Any = None) -> Scorer:
    r"""Make a scorer that reports coverage.

    .. math:: \mathrm{score} = \frac{1}{n} \#\{i : l_i \le y_i \le u_i\} .

    Parameters
    ----------
    confidence_level : float, default=None
        Coverage that the model is asked for; None takes its own.

    Returns
    -------
    callable
        ``scorer(estimator, X, y, **metadata)`` -> float between 0 and 1. It is for
        reports: more coverage than asked for is no better, so do not search by it.
        Metadata are `sample_weight`, `mondrian_groups` and `likelihood_ratio`; with
        metadata routing they are requested by its method `set_score_request`.

    Raises
    ------
    ValueError
        If the level is not strictly between 0 and 1.

    See Also
    --------
    coverage_score : The metric.

    Examples
    --------
    >>> from uqlib.metrics import coverage_scorer
    >>> coverage_scorer(0.9)
    <coverage_score at 0.9>
    """
    return IntervalScorer(coverage_score, 1, confidence_level)


def neg_crps_scorer(quantiles: Any = None) -> Scorer:
    r"""Make a scorer of the continuous ranked probability score.

    .. math:: \mathrm{score} = -\mathrm{CRPS} .

    Parameters
    ----------
    quantiles : array-like of shape (n_quantiles,), default=None
        Levels that the model is asked for; None takes those that it has.

    Returns
    -------
    callable
        ``scorer(estimator, X, y, **metadata)`` -> float, larger is better.
        Metadata are `sample_weight`, `mondrian_groups` and `likelihood_ratio`; with
        metadata routing they are requested by its method `set_score_request`.

    Raises
    ------
    ValueError
        If the levels are not strictly increasing in (0, 1).

    See Also
    --------
    crps_from_quantiles : The metric.

    Examples
    --------
    >>> from uqlib.metrics import neg_crps_scorer
    >>> neg_crps_scorer([0.25, 0.75])
    <neg_crps_from_quantiles at [0.25, 0.75]>
    """
    return _quantile_scorer(crps_from_quantiles, quantiles)


def neg_interval_score_scorer(confidence_level: Any = None) -> Scorer:
    r"""Make a scorer of the interval score.

    .. math:: \mathrm{score} = -\mathrm{IS}_\alpha .

    Parameters
    ----------
    confidence_level : float, default=None
        Coverage that the model is asked for; None takes its own.

    Returns
    -------
    callable
        ``scorer(estimator, X, y, **metadata)`` -> float, larger is better.
        Metadata are `sample_weight`, `mondrian_groups` and `likelihood_ratio`; with
        metadata routing they are requested by its method `set_score_request`.

    Raises
    ------
    ValueError
        If the level is not strictly between 0 and 1.

    See Also
    --------
    interval_score : The metric.

    Examples
    --------
    >>> from uqlib.metrics import neg_interval_score_scorer
    >>> neg_interval_score_scorer(0.9)
    <neg_interval_score at 0.9>
    """
    return IntervalScorer(interval_score, -1, confidence_level)


def neg_interval_width_scorer(confidence_level: Any = None) -> Scorer:
    r"""Make a scorer of the mean interval width.

    .. math:: \mathrm{score} = -\frac{1}{n} \sum_i (u_i - l_i) .

    Parameters
    ----------
    confidence_level : float, default=None
        Coverage that the model is asked for; None takes its own.

    Returns
    -------
    callable
        ``scorer(estimator, X, y, **metadata)`` -> float, larger is better at equal
        coverage.
        Metadata are `sample_weight`, `mondrian_groups` and `likelihood_ratio`; with
        metadata routing they are requested by its method `set_score_request`.

    Raises
    ------
    ValueError
        If the level is not strictly between 0 and 1.

    See Also
    --------
    mean_interval_width : The metric.

    Examples
    --------
    >>> from uqlib.metrics import neg_interval_width_scorer
    >>> neg_interval_width_scorer(0.9)
    <neg_mean_interval_width at 0.9>
    """
    return IntervalScorer(mean_interval_width, -1, confidence_level)


def neg_miscalibration_area_scorer(quantiles: Any = None) -> Scorer:
    r"""Make a scorer of the area between the calibration curve and the diagonal.

    .. math:: \mathrm{score} = -\int_0^1 |c(\tau) - \tau| \, d\tau .

    Parameters
    ----------
    quantiles : array-like of shape (n_quantiles,), default=None
        Levels that the model is asked for; None takes those that it has.

    Returns
    -------
    callable
        ``scorer(estimator, X, y, **metadata)`` -> float, larger is better.
        It does not reward sharpness.
        Metadata are `sample_weight`, `mondrian_groups` and `likelihood_ratio`; with
        metadata routing they are requested by its method `set_score_request`.

    Raises
    ------
    ValueError
        If the levels are not strictly increasing in (0, 1).

    See Also
    --------
    miscalibration_area : The metric.

    Examples
    --------
    >>> from uqlib.metrics import neg_miscalibration_area_scorer
    >>> neg_miscalibration_area_scorer([0.1, 0.9])
    <neg_miscalibration_area at [0.1, 0.9]>
    """
    return _quantile_scorer(miscalibration_area, quantiles)


def neg_pinball_scorer(quantiles: Any = None) -> Scorer:
    r"""Make a scorer of the mean pinball loss.

    .. math:: \mathrm{score} = -\frac{1}{n m} \sum_{i,k} \psi_{\tau_k}(y_i - q_{ik}) .

    Parameters
    ----------
    quantiles : array-like of shape (n_quantiles,), default=None
        Levels that the model is asked for; None takes those that it has.

    Returns
    -------
    callable
        ``scorer(estimator, X, y, **metadata)`` -> float, larger is better.
        Metadata are `sample_weight`, `mondrian_groups` and `likelihood_ratio`; with
        metadata routing they are requested by its method `set_score_request`.

    Raises
    ------
    ValueError
        If the levels are not strictly increasing in (0, 1).

    See Also
    --------
    pinball_loss : The metric.

    Examples
    --------
    >>> from uqlib.metrics import neg_pinball_scorer
    >>> neg_pinball_scorer([0.1, 0.9])
    <neg_pinball_loss at [0.1, 0.9]>
    """
    return _quantile_scorer(pinball_loss, quantiles)


def neg_quantile_calibration_error_scorer(
    quantiles: Any = None,
) -> Scorer:
    r"""Make a scorer of the calibration error of the levels.

    .. math:: \mathrm{score} = -\frac{1}{m} \sum_k
              \Big| \frac{1}{n} \#\{i : y_i \le q_{ik}\} - \tau_k \Big| .

    Parameters
    ----------
    quantiles : array-like of shape (n_quantiles,), default=None
        Levels that the model is asked for; None takes those that it has.

    Returns
    -------
    callable
        ``scorer(estimator, X, y, **metadata)`` -> float, larger is better.
        It does not reward sharpness.
        Metadata are `sample_weight`, `mondrian_groups` and `likelihood_ratio`; with
        metadata routing they are requested by its method `set_score_request`.

    Raises
    ------
    ValueError
        If the levels are not strictly increasing in (0, 1).

    See Also
    --------
    quantile_calibration_error : The metric.

    Examples
    --------
    >>> from uqlib.metrics import neg_quantile_calibration_error_scorer
    >>> neg_quantile_calibration_error_scorer([0.1, 0.9])
    <neg_quantile_calibration_error at [0.1, 0.9]>
    """
    return _quantile_scorer(quantile_calibration_error, quantiles)


def neg_weighted_interval_score_scorer(quantiles: Any = None) -> Scorer:
    r"""Make a scorer of the weighted interval score.

    .. math:: \mathrm{score} = -\mathrm{WIS} .

    Parameters
    ----------
    quantiles : array-like of shape (n_quantiles,), default=None
        Levels that the model is asked for; None takes those that it has.

    Returns
    -------
    callable
        ``scorer(estimator, X, y, **metadata)`` -> float, larger is better.
        Metadata are `sample_weight`, `mondrian_groups` and `likelihood_ratio`; with
        metadata routing they are requested by its method `set_score_request`.

    Raises
    ------
    ValueError
        If the levels are not strictly increasing in (0, 1).

    See Also
    --------
    weighted_interval_score : The metric.

    Examples
    --------
    >>> from uqlib.metrics import neg_weighted_interval_score_scorer
    >>> neg_weighted_interval_score_scorer([0.1, 0.9])
    <neg_weighted_interval_score at [0.1, 0.9]>
    """
    return _quantile_scorer(weighted_interval_score, quantiles)
