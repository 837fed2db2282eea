"""What two models are compared by: intervals around points or quantiles, label sets."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from uqlib._class_predictions import label_columns, model_classes, predict_proba
from uqlib._core.checks import check_target
from uqlib._core.label_checks import nine_digits
from uqlib._core.label_scores import lac_scores
from uqlib._core.levels import central_pair
from uqlib._core.losses import covered, interval_widths
from uqlib._core.outward import lower_end, outward_interval, split_interval, upper_end
from uqlib._core.scores import AbsoluteScore, quantile_pair_scores
from uqlib._core.sets import lac_sets
from uqlib._predictions import innermost, predict_point, predict_quantiles
from uqlib._typing import BoolArray, FloatArray
from uqlib._validation import check_no_missing_label
from uqlib.exceptions import QuantizationWarning, warn_user
from uqlib.quantized._open_torch import is_torch_module

KINDS = ("auto", "absolute", "quantile", "lac")


class CoverageKind(Protocol):
    """How a model is asked, its rows are scored, and a threshold covers."""

    @property
    def name(self) -> str:
        """The name of the score."""

    def predict(self, model: Any, X: Any, level: float) -> FloatArray:
        """Return what scores are made of: points, pairs of quantiles, probabilities."""

    def target(self, y: Any, name: str) -> Any:
        """Return the targets as the scores take them."""

    def scores(self, y: Any, values: FloatArray) -> FloatArray:
        """Return the nonconformity scores, shape (n_samples,)."""

    def cover(
        self, y: Any, values: FloatArray, threshold: float
    ) -> tuple[BoolArray, FloatArray]:
        """Return which rows are covered, and the widths or set sizes."""

    def drift(self, exact: FloatArray, quantized: FloatArray) -> FloatArray:
        """Return what `drift_certificate` takes for the drift."""


class _Intervals:
    """What both kinds of intervals share."""

    def target(self, y: Any, name: str) -> FloatArray:
        return check_target(y, name=name)

    def interval(self, values: FloatArray, threshold: float) -> FloatArray:
        raise NotImplementedError

    def cover(
        self, y: FloatArray, values: FloatArray, threshold: float
    ) -> tuple[BoolArray, FloatArray]:
        interval = self.interval(values, threshold)
        return covered(y, interval), interval_widths(interval)

    def drift(self, exact: FloatArray, quantized: FloatArray) -> FloatArray:
        return difference(exact, quantized)


@dataclass(frozen=True)
class PointIntervals(_Intervals):
    """Absolute residuals of points: intervals of one width."""

    name: ClassVar[str] = "absolute"

    def predict(self, model: Any, X: Any, level: float) -> FloatArray:
        return predict_point(model, X)

    def scores(self, y: FloatArray, values: FloatArray) -> FloatArray:
        return AbsoluteScore().score(y, values)

    def interval(self, values: FloatArray, threshold: float) -> FloatArray:
        return split_interval(values, threshold)


@dataclass(frozen=True)
class QuantileIntervals(_Intervals):
    """Pairs of quantiles, both moved by one offset."""

    name: ClassVar[str] = "quantile"

    def predict(self, model: Any, X: Any, level: float) -> FloatArray:
        return predict_quantiles(model, X, central_pair(level)).values

    def scores(self, y: FloatArray, values: FloatArray) -> FloatArray:
        return np.maximum(*quantile_pair_scores(y, values))

    def interval(self, values: FloatArray, threshold: float) -> FloatArray:
        return outward_interval(
            lower_end(values[:, 0], -threshold), upper_end(values[:, 1], threshold)
        )


@dataclass(frozen=True, eq=False)
class LabelSets:
    """Labels of the probability at least one minus the threshold."""

    classes: Any
    name: ClassVar[str] = "lac"

    def predict(self, model: Any, X: Any, level: float) -> FloatArray:
        return nine_digits(predict_proba(model, X, self.classes))

    def target(self, y: Any, name: str) -> Any:
        labels = np.asarray(y)
        if labels.ndim != 1:
            raise ValueError(
                f"{name} must have shape (n_samples,), got shape {labels.shape}. "
                f"Flatten a column with {name}.ravel()."
            )
        check_no_missing_label(labels)
        return label_columns(labels, self.classes)

    def scores(self, y: Any, values: FloatArray) -> FloatArray:
        return lac_scores(values, y)

    def cover(
        self, y: Any, values: FloatArray, threshold: float
    ) -> tuple[BoolArray, FloatArray]:
        sets = lac_sets(values, threshold)
        sizes: FloatArray = sets.sum(axis=1).astype(np.float64)
        return sets[np.arange(len(sets)), y], sizes

    # The score 1 - p of a label grows by p - q where its probability falls to q: over
    # all labels by the largest fall at most, which is what the offset has to make up.
    def drift(self, exact: FloatArray, quantized: FloatArray) -> FloatArray:
        return np.asarray((exact - quantized).max(axis=1), dtype=np.float64)


def find_kind(nonconformity: str, model: Any) -> CoverageKind:
    """Return how a model is calibrated.

    Parameters
    ----------
    nonconformity : str
        One of `KINDS`; "auto" takes label sets for what has `predict_proba`, pairs of
        quantiles for what has `predict_quantiles`, and else points.
    model : object
        The fitted float model.

    Returns
    -------
    CoverageKind
        The kind.
    """
    if not isinstance(nonconformity, str) or nonconformity not in KINDS:
        raise ValueError(
            f"nonconformity must be one of {list(KINDS)}, got {nonconformity!r}."
        )
    if is_torch_module(model):
        raise TypeError(
            f"{type(model).__name__} is a torch module, which has no predict. Pass "
            "the estimator_ of the quantized model, which predicts with it."
        )
    if nonconformity == "auto":
        nonconformity = _own_kind(model)
    if nonconformity == "lac":
        return LabelSets(model_classes(model))
    return QuantileIntervals() if nonconformity == "quantile" else PointIntervals()


def difference(exact: FloatArray, quantized: FloatArray) -> FloatArray:
    """Return quantized minus exact predictions; equal infinities have not moved.

    Parameters
    ----------
    exact, quantized : ndarray of one shape
        Predictions, without NaN.

    Returns
    -------
    ndarray of the same shape
        The drift, without NaN.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        moved = np.asarray(quantized, dtype=np.float64) - exact
    return np.where(quantized == exact, 0.0, moved)


def warn_if_seen(quantized: Any, X: Any, name: str) -> float | None:
    """Warn where rows of calibration were rows of the quantization.

    Parameters
    ----------
    quantized : object
        The quantized model; one without a method `rows_seen` cannot tell.
    X : array-like or dataframe of shape (n_samples, n_features)
        The rows.
    name : str
        How the warning calls them.

    Returns
    -------
    float or None
        The share of rows seen; None if the model cannot tell.
    """
    if not hasattr(quantized, "rows_seen"):
        return None
    seen = float(quantized.rows_seen(X))
    if seen > 0:
        warn_user(
            f"{100 * seen:.3g} % of the rows of {name} are rows that the quantization "
            "was calibrated on: the quantized model depends on them, so that the "
            f"coverage is not exact. Pass other rows as {name}.",
            QuantizationWarning,
        )
    return seen


def _own_kind(model: Any) -> str:
    if isinstance(model, list | tuple):
        return "quantile"
    if hasattr(model, "predict_proba"):
        return "lac"
    inner, _ = innermost(model, None, "predict_quantiles")
    return "quantile" if hasattr(inner, "predict_quantiles") else "absolute"
