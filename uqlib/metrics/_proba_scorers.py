"""Scorers that ask a classifier for probabilities; larger is better.

They tell the metric the `classes_` of the model, so that a fold may lack a class.
"""

from uqlib._typing import Scorer
from uqlib.metrics._calibration import expected_calibration_error
from uqlib.metrics._proba import brier_score, negative_log_likelihood
from uqlib.metrics._scorer_objects import ProbaScorer


def log_likelihood_scorer() -> Scorer:
    r"""Make a scorer of the mean log-likelihood of the labels.

    .. math:: \mathrm{score} = \frac{1}{n} \sum_i \log p_{i y_i} .

    Returns
    -------
    callable
        ``scorer(estimator, X, y, **metadata)`` -> float in nats, at most 0, larger is
        better.
        The metadata is `sample_weight`; with metadata routing it is requested by its
        method `set_score_request`.

    See Also
    --------
    negative_log_likelihood : The metric, with the other sign.
    neg_brier_scorer : A proper score that is bounded.

    Notes
    -----
    It is minus infinity if a label has the probability 0, as has one that the model was
    not trained on. Such a fold makes the mean over the folds minus infinity too;
    scikit-learn's ``scoring="neg_log_loss"`` clips the probabilities instead.

    Examples
    --------
    >>> from uqlib.metrics import log_likelihood_scorer
    >>> log_likelihood_scorer()
    <log_likelihood>
    """
    return ProbaScorer(negative_log_likelihood, -1)


def neg_brier_scorer() -> Scorer:
    r"""Make a scorer of the Brier score of all classes.

    .. math:: \mathrm{score} =
              -\frac{1}{n} \sum_i \sum_k (1\{y_i = k\} - p_{ik})^2 .

    Returns
    -------
    callable
        ``scorer(estimator, X, y, **metadata)`` -> float between -2 and 0, larger is
        better.
        The metadata is `sample_weight`; with metadata routing it is requested by its
        method `set_score_request`.

    See Also
    --------
    brier_score : The metric.
    log_likelihood_scorer : Punishes confident errors without bound.

    Notes
    -----
    The classes are the `classes_` of the model; a label that is none of them has the
    probability 0. For two classes scikit-learn's ``scoring="neg_brier_score"`` is half
    of this.

    Examples
    --------
    >>> from uqlib.metrics import neg_brier_scorer
    >>> neg_brier_scorer()
    <neg_brier_score>
    """
    return ProbaScorer(brier_score, -1)


def neg_expected_calibration_error_scorer(
    kind: str = "top_label",
    *,
    n_bins: int = 15,
    norm: str = "l1",
    strategy: str = "uniform",
) -> Scorer:
    r"""Make a scorer of the gap between probabilities and frequencies.

    .. math:: \mathrm{score} = -\mathrm{ECE} = -\sum_r \frac{|B_r|}{n}
              \left| \mathrm{acc}_r - \mathrm{conf}_r \right| .

    Parameters
    ----------
    kind : {"top_label", "class_wise"}, default="top_label"
        The error of the largest probability, or the mean over the classes.
    n_bins : int, default=15
        Number of ranges of probability, at least 1.
    norm : {"l1", "l2", "max"}, default="l1"
        Mean of the gaps, root of the mean of their squares, or the largest.
    strategy : {"uniform", "quantile"}, default="uniform"
        Ranges of equal width, or of equal weight as nearly as ties allow.

    Returns
    -------
    callable
        ``scorer(estimator, X, y, **metadata)`` -> float between -1 and 0, larger is
        better. It does not reward sharpness, nor a right answer: it is for reports.
        The metadata is `sample_weight`; with metadata routing it is requested by its
        method `set_score_request`.

    Raises
    ------
    ValueError
        If `kind`, `norm` or `strategy` is unknown, or `n_bins` is below 1.
    TypeError
        If `n_bins` is not an integer.

    See Also
    --------
    expected_calibration_error : The metric.
    neg_brier_scorer : A proper score, to choose a model by.

    Notes
    -----
    The classes are the `classes_` of the model; a label that is none of them has the
    probability 0. The error of a small fold is mostly noise, which grows with the
    number of ranges.

    Examples
    --------
    >>> from uqlib.metrics import neg_expected_calibration_error_scorer
    >>> neg_expected_calibration_error_scorer("class_wise", n_bins=10)
    <neg_expected_calibration_error, kind='class_wise', n_bins=10, norm='l1',
    strategy='uniform'>
    """
    options = {"kind": kind, "n_bins": n_bins, "norm": norm, "strategy": strategy}
    # The metric refuses what it does not know.
    expected_calibration_error([0], [[1.0]], labels=[0], **options)
    return ProbaScorer(expected_calibration_error, -1, **options)
