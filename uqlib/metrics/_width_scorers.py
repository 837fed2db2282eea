"""Scorers of the width of intervals against spread and coverage; larger is better."""

from typing import Any

from uqlib._typing import Scorer
from uqlib.metrics._interval_width import (
    coverage_width_criterion,
    normalized_interval_width,
)
from uqlib.metrics._scorer_objects import IntervalScorer


def coverage_width_criterion_scorer(
    confidence_level: Any = None, *, eta: float = 30.0
) -> Scorer:
    r"""Make a scorer of coverage and width in one number.

    .. math:: \mathrm{score} = \mathrm{CWC} = (1 - w) \exp(-\eta \, (c - p)^2) .

    Parameters
    ----------
    confidence_level : float, default=None
        Coverage that the model is asked for; None takes its own.
    eta : float, default=30.0
        How much a coverage beside the level costs, at least 0.

    Returns
    -------
    callable
        ``scorer(estimator, X, y, **metadata)`` -> float, at most 1, larger is better.
        It is not proper: choose models by :func:`neg_interval_score_scorer`.
        Metadata are `sample_weight`, `mondrian_groups` and `likelihood_ratio`; with
        metadata routing they are requested by its method `set_score_request`.

    Raises
    ------
    ValueError
        If the level is not strictly between 0 and 1, or `eta` is negative or not
        finite.

    See Also
    --------
    coverage_width_criterion : The metric.

    Examples
    --------
    >>> from uqlib.metrics import coverage_width_criterion_scorer
    >>> coverage_width_criterion_scorer(0.9)
    <coverage_width_criterion at 0.9, eta=30.0>
    """
    coverage_width_criterion([0.0], [[0.0, 0.0]], 0.5, eta=eta)  # refuses a bad eta
    return IntervalScorer(coverage_width_criterion, 1, confidence_level, eta=eta)


def neg_normalized_interval_width_scorer(
    confidence_level: Any = None, *, normalization: str = "range"
) -> Scorer:
    r"""Make a scorer of the mean interval width in units of the target's spread.

    .. math:: \mathrm{score} = -\frac{1}{n} \sum_i (u_i - l_i)
              \Big/ (\max_i y_i - \min_i y_i) .

    Parameters
    ----------
    confidence_level : float, default=None
        Coverage that the model is asked for; None takes its own.
    normalization : {"range", "std"}, default="range"
        The spread of the rows that are scored: the range, or the standard deviation.

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
        If the level is not strictly between 0 and 1, or `normalization` is unknown.

    See Also
    --------
    normalized_interval_width : The metric.

    Notes
    -----
    Each fold is measured by its own spread: folds of different spread differ in score
    at equal widths. :func:`neg_interval_width_scorer` keeps the unit of the target.

    Examples
    --------
    >>> from uqlib.metrics import neg_normalized_interval_width_scorer
    >>> neg_normalized_interval_width_scorer(0.9, normalization="std")
    <neg_normalized_interval_width at 0.9, normalization='std'>
    """
    # Refuses a bad normalization.
    normalized_interval_width([0.0], [[0.0, 0.0]], normalization=normalization)
    return IntervalScorer(
        normalized_interval_width, -1, confidence_level, normalization=normalization
    )
