"""Scorers of how well a model's uncertainty ranks its errors; larger is better."""

from typing import Any

from uqlib._core.levels import check_confidence_level
from uqlib._typing import Scorer
from uqlib.metrics._scorer_objects import RankingScorer
from uqlib.metrics._selective_areas import risk_coverage_auc


def neg_risk_coverage_auc_scorer(
    uncertainty: str | None = None, *, confidence_level: Any = None
) -> Scorer:
    r"""Make a scorer of the area under the risk-coverage curve.

    .. math:: \mathrm{score} = -\mathrm{AURC}(l, u), \qquad
              l_i = \begin{cases} 1\{\hat y_i \ne y_i\} \\ |\hat y_i - y_i| \end{cases}
              u_i = \begin{cases} 1 - \max_k p_{ik} & \text{classifiers} \\
              \text{width of the interval} & \text{regressors,} \end{cases}

    with the prediction :math:`\hat y_i` of the model.

    Parameters
    ----------
    uncertainty : str, default=None
        Name of one of the fields of the model's `predict_uncertainty`, as "epistemic",
        that takes the place of :math:`u_i`; the larger, the less certain.
    confidence_level : float, default=None
        Coverage of the intervals that regressors are asked for; None takes their own.
        It is not for classifiers.

    Returns
    -------
    callable
        ``scorer(estimator, X, y, **metadata)`` -> float, at most 0, in units of the
        losses; larger is better.
        Metadata are `sample_weight`, and `mondrian_groups` and `likelihood_ratio` for
        intervals; with metadata routing they are requested by its method
        `set_score_request`.

    Raises
    ------
    TypeError
        If `uncertainty` is not a string.
    ValueError
        If the level is not strictly between 0 and 1, or is given with `uncertainty`.

    See Also
    --------
    risk_coverage_auc : The metric.

    Notes
    -----
    It mixes the quality of the ranking with that of the predictions. Among models of
    equal loss the one that ranks its errors best wins; intervals of constant width rank
    nothing, and score minus the mean loss. Widths that differ by no more than the
    rounding of their ends count as equal.

    Weights count rows, as in :func:`risk_coverage_auc`: bring weights that are no
    counts to mean 1.

    Examples
    --------
    >>> from uqlib.metrics import neg_risk_coverage_auc_scorer
    >>> neg_risk_coverage_auc_scorer()
    <neg_risk_coverage_auc>
    >>> neg_risk_coverage_auc_scorer("epistemic")
    <neg_risk_coverage_auc by epistemic>
    """
    if uncertainty is not None and not isinstance(uncertainty, str):
        raise TypeError(
            "uncertainty must be the name of a field of predict_uncertainty, as "
            f"'epistemic', or None, got {uncertainty!r}."
        )
    if confidence_level is not None:
        check_confidence_level(confidence_level)
        if uncertainty is not None:
            raise ValueError(
                f"confidence_level={confidence_level!r} is for the width of intervals, "
                f"but uncertainty={uncertainty!r} takes its place. Pass one of them."
            )
    return RankingScorer(risk_coverage_auc, -1, (uncertainty, confidence_level))
