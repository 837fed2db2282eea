"""Scorers that ask a classifier for prediction sets; larger is better."""

from typing import Any

from uqlib._typing import Scorer
from uqlib.metrics._scorer_objects import SetScorer
from uqlib.metrics._sets import mean_set_size, set_coverage_score


def neg_set_size_scorer(confidence_level: Any = None) -> Scorer:
    r"""Make a scorer of the mean size of prediction sets.

    .. math:: \mathrm{score} = -\frac{1}{n} \sum_i |C_i| .

    Parameters
    ----------
    confidence_level : float, default=None
        Coverage that the model is asked for; None takes its own.

    Returns
    -------
    callable
        ``scorer(estimator, X, y, **metadata)`` -> float, at most 0, larger is better at
        equal coverage.
        Metadata are `sample_weight`, `mondrian_groups` and `likelihood_ratio`; with
        metadata routing they are requested by its method `set_score_request`.

    Raises
    ------
    ValueError
        If the level is not strictly between 0 and 1.

    See Also
    --------
    mean_set_size : The metric.
    set_coverage_scorer : What the size must buy.

    Notes
    -----
    Where the model guarantees the coverage at every candidate, a search by this finds
    the most informative one. The best score, 0, is that of empty sets alone.

    Examples
    --------
    >>> from uqlib.metrics import neg_set_size_scorer
    >>> neg_set_size_scorer(0.9)
    <neg_mean_set_size at 0.9>
    """
    return SetScorer(mean_set_size, -1, confidence_level)


def set_coverage_scorer(confidence_level: Any = None) -> Scorer:
    r"""Make a scorer that reports the coverage of prediction sets.

    .. math:: \mathrm{score} = \frac{1}{n} \#\{i : y_i \in C_i\} .

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
    set_coverage_score : The metric.

    Notes
    -----
    The columns of the sets are the `classes_` of the model. A label that is none of
    them is in no set: it counts as missed.

    Examples
    --------
    >>> from uqlib.metrics import set_coverage_scorer
    >>> set_coverage_scorer(0.9)
    <set_coverage_score at 0.9>
    """
    return SetScorer(set_coverage_score, 1, confidence_level)
