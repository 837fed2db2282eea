"""Scorers that ask a model for quantiles or intervals; larger is better.

`sklearn.metrics.make_scorer` knows scikit-learn's own prediction methods alone, so
these are callables ``scorer(estimator, X, y, sample_weight=None)``, which
`cross_validate` and the searches take as they are.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from uqlib._core.levels import check_confidence_level, check_quantiles
from uqlib._predictions import own_confidence_level, predict_interval, predict_quantiles
from uqlib._typing import Scorer
from uqlib.metrics._interval import coverage_score, interval_score, mean_interval_width
from uqlib.metrics._quantile import (
    crps_from_quantiles,
    pinball_loss,
    quantile_calibration_error,
    weighted_interval_score,
)


class _Scorer:
    """A picklable callable that shows how it was made."""

    def __init__(self, metric: Callable[..., float], sign: int, argument: Any) -> None:
        self._metric, self._sign, self._argument = metric, sign, argument

    def __repr__(self) -> str:
        argument = self._argument
        shown = argument.tolist() if isinstance(argument, np.ndarray) else argument
        negated = "neg_" if self._sign < 0 else ""
        return f"<{negated}{self._metric.__name__} at {shown}>"


class _QuantileScorer(_Scorer):
    def __call__(
        self, estimator: Any, X: Any, y: Any, sample_weight: Any = None
    ) -> float:
        values, levels = predict_quantiles(estimator, X, self._argument)
        return self._sign * self._metric(y, values, levels, sample_weight=sample_weight)


class _IntervalScorer(_Scorer):
    """The metrics of intervals differ in what they look at beside the intervals."""

    def __call__(
        self, estimator: Any, X: Any, y: Any, sample_weight: Any = None
    ) -> float:
        interval = predict_interval(estimator, X, self._argument)
        needed: dict[Any, tuple[Any, ...]] = {
            coverage_score: (y, interval),
            mean_interval_width: (interval,),
        }
        arguments = needed.get(self._metric) or (y, interval, self._level(estimator))
        return self._sign * self._metric(*arguments, sample_weight=sample_weight)

    def _level(self, estimator: Any) -> float:
        return self._argument or own_confidence_level(estimator)


def _quantile_scorer(metric: Callable[..., float], quantiles: Any) -> _QuantileScorer:
    levels = None if quantiles is None else check_quantiles(quantiles)
    return _QuantileScorer(metric, -1, levels)


def _interval_scorer(
    metric: Callable[..., float], sign: int, confidence_level: Any
) -> _IntervalScorer:
    if confidence_level is not None:
        check_confidence_level(confidence_level)
    return _IntervalScorer(metric, sign, confidence_level)


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
        ``scorer(estimator, X, y, sample_weight=None)`` -> float between 0 and 1. It is
        for reports: more coverage than asked for is no better, so do not search by it.

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
    return _interval_scorer(coverage_score, 1, confidence_level)


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
        ``scorer(estimator, X, y, sample_weight=None)`` -> float, larger is better.

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
        ``scorer(estimator, X, y, sample_weight=None)`` -> float, larger is better.

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
    return _interval_scorer(interval_score, -1, confidence_level)


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
        ``scorer(estimator, X, y, sample_weight=None)`` -> float, larger is better at
        equal coverage.

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
    return _interval_scorer(mean_interval_width, -1, confidence_level)


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
        ``scorer(estimator, X, y, sample_weight=None)`` -> float, larger is better.

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
        ``scorer(estimator, X, y, sample_weight=None)`` -> float, larger is better.
        It does not reward sharpness.

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
        ``scorer(estimator, X, y, sample_weight=None)`` -> float, larger is better.

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
