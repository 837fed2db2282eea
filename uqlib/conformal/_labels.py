"""What calibrators of classifiers share: labels, probabilities, scores of labels."""

from typing import Any

import numpy as np

from uqlib._core.label_checks import (
    check_not_negative,
    check_rank_penalty,
)
from uqlib._core.label_ranking import (
    LabelScore,
    LacScore,
    MarginScore,
    MassScore,
    SortedScore,
    TopScore,
    take_labels,
)
from uqlib._typing import FloatArray


class ForeignScore:
    """A user's score of all labels at once: ``scores(proba)``."""

    def __init__(self, nonconformity: Any) -> None:
        self.nonconformity = nonconformity

    def matrix(self, proba: FloatArray, u: FloatArray) -> FloatArray:
        """Return the score of every label, shape (n_samples, n_classes)."""
        scores = np.asarray(self.nonconformity.scores(proba), dtype=np.float64)
        name = f"{type(self.nonconformity).__name__}.scores(proba)"
        if scores.shape != proba.shape:
            raise ValueError(
                f"{name} has shape {scores.shape} for probabilities of shape "
                f"{proba.shape}: it must give one score for each label of each row."
            )
        if not np.all(scores > -np.inf):
            raise ValueError(
                f"{name} contains NaN or -inf. A score must be comparable, and there "
                "must be room for a threshold below it; +inf is legal."
            )
        return scores

    def labels(self, proba: FloatArray, y: Any, u: FloatArray) -> FloatArray:
        """Return the score of one label a row, shape (n_samples,)."""
        return take_labels(self.matrix(proba, u), y)

    def sets(self, proba: FloatArray, threshold: FloatArray, u: FloatArray) -> Any:
        """Return where the score is at most the threshold, the same shape."""
        return self.matrix(proba, u) <= threshold[:, None]


def resolve_label_score(owner: Any) -> LabelScore:
    """Return the score that the parameters of a calibrator describe."""
    nonconformity = owner.nonconformity
    penalty = check_rank_penalty(owner.k_reg, owner.penalty)
    rank_weight = check_not_negative(owner.rank_weight, "rank_weight")
    scores: dict[str, LabelScore] = {
        "aps": MassScore(),
        "lac": LacScore(),
        "margin": MarginScore(),
        "raps": MassScore(*penalty),
        "saps": SortedScore(rank_weight),
        "topk": TopScore(),
    }
    if isinstance(nonconformity, str) and nonconformity in scores:
        return scores[nonconformity]
    known = not isinstance(nonconformity, str | type)
    if not (known and hasattr(nonconformity, "scores")):
        raise ValueError(
            f"nonconformity={nonconformity!r} must be one of {sorted(scores)} or an "
            "object with scores(proba), which gives one score for each label, of shape "
            "(n_samples, n_classes)."
        )
    return ForeignScore(nonconformity)
