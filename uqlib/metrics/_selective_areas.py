"""Areas under the curves of selective prediction."""

from uqlib._core.selective import generalized_area, mean_selective_risk
from uqlib._core.selective_checks import (
    check_binary,
    check_groups,
    check_row_counts,
)
from uqlib._typing import ArrayLike


def risk_coverage_auc(
    losses: ArrayLike, uncertainty: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> float:
    r"""Area under the risk-coverage curve (AURC): the mean risk over all coverages.

    .. math:: \mathrm{AURC} = \frac{1}{n} \sum_{k=1}^n \frac{1}{k}
              \sum_{i=1}^k l_{(i)},

    with the losses in the order of the uncertainty, the most certain row first.

    Parameters
    ----------
    losses : array-like of shape (n_samples,)
        Loss of each row, at least 0, or 1 for a wrong and 0 for a right answer.
        Infinity is legal and makes the area infinite.
    uncertainty : array-like of shape (n_samples,)
        Larger = less certain; only the order matters. Pass ``-confidence`` if you have
        confidences.
    sample_weight : array-like of shape (n_samples,), default=None
        How many rows each row counts for. The sum over k is one over rows, so that the
        scale matters: bring weights that are no counts to mean 1.

    Returns
    -------
    float
        In units of the losses; smaller is better. A constant uncertainty gives the mean
        loss.

    Raises
    ------
    ValueError
        If there are no rows, shapes do not agree, a loss is negative, an array contains
        NaN, or the weights sum to less than 2 over several rows.

    See Also
    --------
    excess_risk_coverage_auc : Without the part that no ranking can avoid.
    generalized_risk_coverage_auc : An area that the first few rows do not rule.

    Notes
    -----
    Tied rows are averaged over all their orders, in closed form. The area mixes the
    quality of the ranking with that of the predictions, and gives the loss of the most
    certain row a weight of :math:`(1 + 1/2 + \dots + 1/n) / n`, that of the least
    certain :math:`1 / n^2`.

    References
    ----------
    .. [1] Y. Geifman, G. Uziel, R. El-Yaniv, "Bias-Reduced Uncertainty Estimation for
       Deep Neural Classifiers", arXiv:1805.08206.

    Examples
    --------
    >>> from uqlib.metrics import risk_coverage_auc
    >>> risk_coverage_auc([0, 0, 1, 1], uncertainty=[0.1, 0.3, 0.2, 0.9])
    0.3333333333333333
    """
    groups = check_groups(losses, uncertainty, sample_weight)
    check_row_counts(groups)
    return mean_selective_risk(groups)


def excess_risk_coverage_auc(
    losses: ArrayLike, uncertainty: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> float:
    r"""Area under the risk-coverage curve, less that of the best ranking (E-AURC).

    .. math:: \mathrm{AURC}(l, u) - \mathrm{AURC}(l, l) .

    Parameters
    ----------
    losses : array-like of shape (n_samples,)
        Loss of each row, at least 0 and finite, or 1 for a wrong and 0 for a right
        answer.
    uncertainty : array-like of shape (n_samples,)
        Larger = less certain; pass ``-confidence`` if you have confidences.
    sample_weight : array-like of shape (n_samples,), default=None
        How many rows each row counts for, as in :func:`risk_coverage_auc`.

    Returns
    -------
    float
        In units of the losses, at least 0; 0 if no row is more certain than one of
        smaller loss.

    Raises
    ------
    ValueError
        If a loss is infinite, or for the reasons of :func:`risk_coverage_auc`.

    See Also
    --------
    sparsification_error : This, divided by the mean loss.

    Notes
    -----
    The best ranking is that of the losses themselves, at this number of rows. The
    usual formula for 0/1 losses of mean e, :math:`e + (1 - e) \log(1 - e)`, is the
    limit of its area for many rows, and smaller: even the best ranking has a positive
    excess over it.

    References
    ----------
    .. [1] Y. Geifman, G. Uziel, R. El-Yaniv, "Bias-Reduced Uncertainty Estimation for
       Deep Neural Classifiers", arXiv:1805.08206.

    Examples
    --------
    >>> from uqlib.metrics import excess_risk_coverage_auc
    >>> excess_risk_coverage_auc([0, 0, 1, 1], uncertainty=[0.1, 0.3, 0.2, 0.9])
    0.125
    """
    model = check_groups(losses, uncertainty, sample_weight, finite=True)
    best = check_groups(losses, losses, sample_weight)
    check_row_counts(model)
    # Rounding must not make a ranking better than the best one.
    return max(0.0, mean_selective_risk(model) - mean_selective_risk(best))


def generalized_risk_coverage_auc(
    losses: ArrayLike, uncertainty: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> float:
    r"""Area under the generalized-risk-coverage curve (AUGRC).

    The generalized risk at coverage c is c times the risk: the loss kept, divided by
    the number of all rows. Between the coverages k / n it is linear, and 0 at 0:

    .. math:: \mathrm{AUGRC} = \frac{1}{n^2} \sum_{i=1}^n \Big(n - i + \frac{1}{2}\Big)
              l_{(i)},

    with the losses in the order of the uncertainty, the most certain row first.

    Parameters
    ----------
    losses : array-like of shape (n_samples,)
        Loss of each row, at least 0, or 1 for a wrong and 0 for a right answer.
        Infinity is legal and makes the area infinite.
    uncertainty : array-like of shape (n_samples,)
        Larger = less certain; only the order matters. Pass ``-confidence`` if you have
        confidences.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row, of any scale.

    Returns
    -------
    float
        In units of the losses; smaller is better. A constant uncertainty gives half of
        the mean loss.

    Raises
    ------
    ValueError
        For the reasons of :func:`risk_coverage_curve`.

    See Also
    --------
    risk_coverage_auc : The area under the risk itself.
    uncertainty_roc_auc : The ranking alone.

    Notes
    -----
    For 0/1 losses of mean e and the area under the ROC curve of
    :func:`uncertainty_roc_auc`, exactly and for any number of rows and ties,

    .. math:: \mathrm{AUGRC} = e (1 - e) (1 - \mathrm{AUROC}) + e^2 / 2 .

    It is the chance that, of two rows drawn at random, the second is wrong and more
    certain than the first, ties and a row drawn twice counting one half.

    References
    ----------
    .. [1] J. Traub, T. J. Bungert, C. T. Lueth, M. Baumgartner, K. H. Maier-Hein,
       L. Maier-Hein, P. F. Jaeger, "Overcoming Common Flaws in the Evaluation of
       Selective Classification Systems", arXiv:2407.01032.

    Examples
    --------
    >>> from uqlib.metrics import generalized_risk_coverage_auc
    >>> generalized_risk_coverage_auc([0, 0, 1, 1], uncertainty=[0.1, 0.3, 0.2, 0.9])
    0.1875
    """
    return generalized_area(check_groups(losses, uncertainty, sample_weight))


def accuracy_rejection_auc(
    correct: ArrayLike,
    uncertainty: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Area under the accuracy-rejection curve (AUARC).

    .. math:: \frac{1}{n} \sum_{k=1}^n \frac{1}{k} \sum_{i=1}^k c_{(i)} :

    the mean, over all numbers of rows kept, of the accuracy on the most certain rows.

    Parameters
    ----------
    correct : array-like of shape (n_samples,)
        1 or True for a right answer, 0 or False for a wrong one.
    uncertainty : array-like of shape (n_samples,)
        Larger = less certain; pass ``-confidence`` if you have confidences.
    sample_weight : array-like of shape (n_samples,), default=None
        How many rows each row counts for, as in :func:`risk_coverage_auc`.

    Returns
    -------
    float
        Between 0 and 1; larger is better. A constant uncertainty gives the accuracy.

    Raises
    ------
    ValueError
        If correct holds anything but two kinds, or for the reasons of
        :func:`risk_coverage_auc`.

    See Also
    --------
    risk_coverage_auc : One less this, if the losses are the wrong answers.

    References
    ----------
    .. [1] M. S. A. Nadeem, J.-D. Zucker, B. Hanczar, "Accuracy-Rejection Curves (ARCs)
       for Comparing Classification Methods with a Reject Option", PMLR 8, 2009.

    Examples
    --------
    >>> from uqlib.metrics import accuracy_rejection_auc
    >>> accuracy_rejection_auc([True, False], uncertainty=[0.1, 0.9])
    0.75
    """
    right = check_binary(correct, "correct")
    groups = check_groups(right, uncertainty, sample_weight, reference="correct")
    check_row_counts(groups)
    return mean_selective_risk(groups)
