"""Uncertainty of each row from the members of an ensemble; larger is less certain."""

from typing import Any

import numpy as np
from scipy.special import entr

from uqlib._core.label_checks import check_proba
from uqlib._typing import ArrayLike, FloatArray


def predictive_entropy(y_proba: ArrayLike) -> FloatArray:
    r"""Entropy of the predicted probabilities: the total uncertainty of each row.

    .. math:: H(\bar p) = -\sum_{k=1}^K \bar p_k \log \bar p_k, \qquad
              \bar p = \frac{1}{M} \sum_{m=1}^M p_m .

    Parameters
    ----------
    y_proba : array-like of shape ([n_members,] n_samples, n_classes)
        Probabilities of one model, or of M members, which are averaged.

    Returns
    -------
    ndarray of shape (n_samples,)
        In nats (natural logarithm), from 0 for a certain label to log(n_classes) for
        equal probabilities; larger is more uncertain.

    Raises
    ------
    ValueError
        If the array has another number of axes or no member, or a row does not hold
        probabilities that sum to 1 within 0.001.

    See Also
    --------
    expected_entropy : The part that more training rows would not remove.
    mutual_information : The rest, by which the members differ.

    Notes
    -----
    ``1 - y_proba.max(axis=1)`` is the other common score of one model: it orders the
    rows in the same way for two classes, and in another for more.

    References
    ----------
    .. [1] S. Depeweg, J. M. Hernandez-Lobato, F. Doshi-Velez, S. Udluft,
       "Decomposition of Uncertainty in Bayesian Deep Learning for Efficient and
       Risk-sensitive Learning", arXiv:1710.07283.

    Examples
    --------
    >>> from uqlib.metrics import predictive_entropy
    >>> predictive_entropy([[0.5, 0.5], [1.0, 0.0]]).round(4)
    array([0.6931, 0.    ])
    """
    if np.ndim(y_proba) == 2:
        return _entropy(check_proba(y_proba, "y_proba"))
    return _entropy(_mean(_check_members(y_proba, "y_proba", or_one_model=True)))


def expected_entropy(y_probas: ArrayLike) -> FloatArray:
    r"""Mean entropy of the members: the aleatoric uncertainty of each row.

    .. math:: \frac{1}{M} \sum_{m=1}^M H(p_m), \qquad
              H(p) = -\sum_{k=1}^K p_k \log p_k .

    Parameters
    ----------
    y_probas : array-like of shape (n_members, n_samples, n_classes)
        Probabilities of each member.

    Returns
    -------
    ndarray of shape (n_samples,)
        In nats (natural logarithm), from 0 to log(n_classes); larger is more uncertain.

    Raises
    ------
    ValueError
        If the array has another number of axes or no member, or a row does not hold
        probabilities that sum to 1 within 0.001.

    See Also
    --------
    predictive_entropy : This plus the mutual information.
    mutual_information : The epistemic uncertainty.

    Notes
    -----
    It estimates the noise of the labels only as far as the members are calibrated:
    members that are all overconfident have a small value.

    References
    ----------
    .. [1] S. Depeweg, J. M. Hernandez-Lobato, F. Doshi-Velez, S. Udluft,
       "Decomposition of Uncertainty in Bayesian Deep Learning for Efficient and
       Risk-sensitive Learning", arXiv:1710.07283.

    Examples
    --------
    >>> from uqlib.metrics import expected_entropy
    >>> expected_entropy([[[0.5, 0.5]], [[1.0, 0.0]]]).round(4)
    array([0.3466])
    """
    members = _check_members(y_probas, "y_probas")
    return sum(_entropy(proba) for proba in members) / len(members)


def mutual_information(y_probas: ArrayLike) -> FloatArray:
    r"""Mutual information of label and member: the epistemic uncertainty of each row.

    .. math:: H(\bar p) - \frac{1}{M} \sum_{m=1}^M H(p_m)
              = \frac{1}{M} \sum_{m=1}^M \mathrm{KL}(p_m \,\|\, \bar p), \qquad
              \bar p = \frac{1}{M} \sum_{m=1}^M p_m .

    Parameters
    ----------
    y_probas : array-like of shape (n_members, n_samples, n_classes)
        Probabilities of each member.

    Returns
    -------
    ndarray of shape (n_samples,)
        In nats (natural logarithm), from 0, which is reached only where all members
        agree, to log(min(n_members, n_classes)); larger is more uncertain.

    Raises
    ------
    ValueError
        If the array has another number of axes or no member, or a row does not hold
        probabilities that sum to 1 within 0.001.

    See Also
    --------
    predictive_entropy : The minuend, the total uncertainty.
    expected_entropy : The subtrahend, the aleatoric uncertainty.
    ensemble_disagreement : By the labels of the members alone.

    Notes
    -----
    The divergences are summed, all of them non-negative, and not the entropies
    subtracted: the value is never negative and stays accurate where the members nearly
    agree. It is 0 for one member.

    References
    ----------
    .. [1] N. Houlsby, F. Huszar, Z. Ghahramani, M. Lengyel, "Bayesian Active Learning
       for Classification and Preference Learning", arXiv:1112.5745.

    Examples
    --------
    >>> from uqlib.metrics import mutual_information
    >>> mutual_information([[[1.0, 0.0]], [[0.0, 1.0]]]).round(4)
    array([0.6931])
    >>> mutual_information([[[0.5, 0.5]], [[0.5, 0.5]]])
    array([0.])
    """
    members = _check_members(y_probas, "y_probas")
    mean = _mean(members)
    return sum(_divergence(proba, mean) for proba in members) / len(members)


def variation_ratio(y_probas: ArrayLike) -> FloatArray:
    r"""Share of members that do not predict the most frequent label.

    .. math:: 1 - \frac{1}{M} \max_k n_k, \qquad
              n_k = \#\{m : \arg\max_j p_{mj} = k\} .

    Parameters
    ----------
    y_probas : array-like of shape (n_members, n_samples, n_classes)
        Probabilities of each member. One-hot rows stand for members that give labels.

    Returns
    -------
    ndarray of shape (n_samples,)
        From 0 where all members predict the same label to 1 - 1 / n_classes; larger is
        more uncertain.

    Raises
    ------
    ValueError
        If the array has another number of axes or no member, or a row does not hold
        probabilities that sum to 1 within 0.001.

    See Also
    --------
    ensemble_disagreement : Share of pairs of members that differ.

    Notes
    -----
    A member whose largest probability is that of several classes gives each an equal
    part of its vote, so that the order of the classes does not matter.

    References
    ----------
    .. [1] Y. Gal, R. Islam, Z. Ghahramani, "Deep Bayesian Active Learning with Image
       Data", arXiv:1703.02910.

    Examples
    --------
    >>> from uqlib.metrics import variation_ratio
    >>> y_probas = [[[0.9, 0.1]], [[0.6, 0.4]], [[0.3, 0.7]], [[0.8, 0.2]]]
    >>> variation_ratio(y_probas)
    array([0.25])
    """
    members = _check_members(y_probas, "y_probas")
    votes = sum(_votes(proba) for proba in members)
    return np.maximum(len(members) - votes.max(axis=1), 0.0) / len(members)


def ensemble_disagreement(y_probas: ArrayLike) -> FloatArray:
    r"""Share of pairs of members that predict different labels.

    .. math:: \frac{2}{M (M - 1)} \sum_{l < m}
              1\{\arg\max_k p_{lk} \ne \arg\max_k p_{mk}\} .

    Parameters
    ----------
    y_probas : array-like of shape (n_members, n_samples, n_classes)
        Probabilities of each member, two members at least. One-hot rows stand for
        members that give labels.

    Returns
    -------
    ndarray of shape (n_samples,)
        From 0 where all members predict the same label to 1 where no two do; larger is
        more uncertain.

    Raises
    ------
    ValueError
        If the array has another number of axes or fewer than two members, or a row does
        not hold probabilities that sum to 1 within 0.001.

    See Also
    --------
    variation_ratio : Share of members outside the largest party.
    mutual_information : From the probabilities.

    Notes
    -----
    For members drawn at random its mean does not depend on their number, unlike that of
    the variation ratio. A member whose largest probability is that of several classes
    gives each an equal part of its vote.

    Examples
    --------
    >>> from uqlib.metrics import ensemble_disagreement
    >>> y_probas = [[[0.9, 0.1]], [[0.6, 0.4]], [[0.3, 0.7]], [[0.8, 0.2]]]
    >>> ensemble_disagreement(y_probas)
    array([0.5])
    """
    members = _check_members(y_probas, "y_probas")
    if len(members) == 1:
        raise ValueError(
            "y_probas must hold at least 2 members, got 1: there are no pairs. For one "
            "model use predictive_entropy."
        )
    # The votes of a pair agree with probability v_l . v_m; their sum over all ordered
    # pairs is the square of the sum of the votes, less that of each member with itself.
    votes, alone = np.zeros(members.shape[1:]), np.zeros(members.shape[1])
    for proba in members:
        vote = _votes(proba)
        votes += vote
        alone += (vote**2).sum(axis=1)
    agreeing = (votes**2).sum(axis=1) - alone
    return np.clip(1 - agreeing / (len(members) * (len(members) - 1)), 0.0, 1.0)


def _entropy(proba: FloatArray) -> FloatArray:
    # A row may sum to a little more than 1: its entropy is not negative for that.
    return np.maximum(entr(proba.astype(np.float64, copy=False)).sum(axis=1), 0.0)


# With t = p / q - 1 and g(t) = (1 + t) log(1 + t) - t, q the mean over the members,
#
#     p log(p / q) = q g(t) + (p - q),   and the sum of p - q over the members is 0.
#
# g is never negative. Near 0, where its two terms cancel, it is the series
# sum_{j >= 2} (-t)^j / (j (j - 1)); five terms leave less than 1e-16 of it at t = 1e-3.
_SERIES_BELOW = 1e-3


def _divergence(proba: FloatArray, mean: FloatArray) -> FloatArray:
    """Return what a member adds to the sum of divergences, at least 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(mean > 0, (proba - mean) / mean, 0.0)
    series = t**2 * (1 / 2 - t * (1 / 6 - t * (1 / 12 - t * (1 / 20 - t / 30))))
    direct = -entr(1 + t) - t
    g = np.where(np.abs(t) < _SERIES_BELOW, series, direct)
    return (mean * g).sum(axis=1)


def _votes(proba: FloatArray) -> FloatArray:
    """Return the vote of a member for each class, in equal parts where classes tie."""
    top = proba == proba.max(axis=1, keepdims=True)
    return top / top.sum(axis=1, keepdims=True)


def _mean(members: FloatArray) -> FloatArray:
    """Return the mean over the members, exactly theirs where they agree."""
    # It lies between the smallest and the largest; rounding must not take it out.
    mean = members.mean(axis=0)
    return np.clip(mean, members.min(axis=0), members.max(axis=0))


def _check_members(
    y_probas: Any, name: str, *, or_one_model: bool = False
) -> FloatArray:
    members = np.asarray(y_probas, dtype=np.float64)
    if members.ndim != 3:
        expected = "(n_members, n_samples, n_classes)"
        if or_one_model:
            expected = f"(n_samples, n_classes) or {expected}"
        raise ValueError(
            f"{name} must have shape {expected}, got shape {members.shape}. Stack the "
            "probabilities of members with np.stack; of two classes pass both columns."
        )
    if len(members) == 0:
        raise ValueError(f"{name} holds no member: at least one is needed.")
    for m, proba in enumerate(members):
        check_proba(proba, f"{name}[{m}]")
    return members
