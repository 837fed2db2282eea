"""Reliability diagrams: what class probabilities say, against what comes about."""

from typing import Any

import numpy as np

from uqlib._binomial import clopper_pearson
from uqlib._class_predictions import model_classes, predict_proba
from uqlib._core.calibration_error import gap_norm
from uqlib._typing import ArrayLike, FloatArray
from uqlib.inspection._coverage_points import check_shares
from uqlib.inspection._interval_display import check_matplotlib
from uqlib.inspection._reliability_intervals import (
    check_drawn_level,
    effective_rows,
)
from uqlib.metrics import calibration_bins


class ReliabilityDisplay:
    r"""Picture of a classifier's accuracy against its confidence.

    Range r of probabilities holds :math:`n_r` rows; its point is

    .. math:: \Big( \mathrm{conf}_r = \frac{1}{n_r} \sum_{i \in B_r} p_i, \;
              \mathrm{acc}_r = \frac{1}{n_r} \#\{i \in B_r : E_i\} \Big) ,

    where :math:`p_i` is the probability of the event :math:`E_i`: the top label is
    right, or the label is `pos_label`. Honest probabilities lie on the diagonal, too
    high ones below it. Each point has its binomial interval, and pale bars on the
    same axis show the share of the rows in each range. Make one with `from_estimator`
    or `from_predictions`; all parameters are stored as attributes.

    Parameters
    ----------
    confidence : array-like of shape (n_used_bins,)
        Mean probability of the rows in each range.
    accuracy : array-like of shape (n_used_bins,)
        Share of those rows in which the event came about.
    weight : array-like of shape (n_used_bins,)
        Number of those rows, or the sum of their weights, positive.
    edges : array-like of shape (n_used_bins, 2)
        Lower and upper end of each range.
    n_samples : array-like of shape (n_used_bins,), default=None
        Effective number of rows in each range, of which the binomial intervals are
        made. None takes `weight`.
    pos_label : object, default=None
        Label that the probabilities are of; None is the top label of each row.
    name : str, default=None
        What the legend calls these points.

    Attributes
    ----------
    calibration_error_ : float
        Mean of \|accuracy - confidence\| under `weight`, the number in the legend: the
        expected calibration error.
    ax_ : matplotlib Axes
        Axes of the picture.
    figure_ : matplotlib Figure
        Figure of the axes.
    errorbar_ : matplotlib ErrorbarContainer
        The points and their intervals.
    shares_ : matplotlib BarContainer or None
        The bars of the shares; None if they are not drawn.
    reference_ : matplotlib Line2D
        The diagonal. A second display on the same axes finds it there.

    Raises
    ------
    ValueError
        If shapes do not agree, a confidence, an accuracy or an edge is not between 0
        and 1, or a weight or number of rows is not positive and finite.

    See Also
    --------
    QuantileCalibrationDisplay : The same question to quantile forecasts.
    uqlib.metrics.calibration_bins : The numbers drawn.
    uqlib.metrics.expected_calibration_error : The number in the legend.
    sklearn.calibration.CalibrationDisplay : Without intervals, of two classes.

    Notes
    -----
    The intervals are those of Clopper and Pearson. Given the probabilities, the
    outcomes of independent rows are independent, and the interval of a range holds the
    expected share of its rows with probability at least `bar_level` if their chances
    are equal; sums of unequal chances vary less [1]_, so that it then holds at the
    usual levels but for a hair. Each interval is for its own range: of many, some miss.
    With weights there is no such law, and the intervals are those of the effective
    number of rows :math:`(\sum_i w_i)^2 / \sum_i w_i^2`. For a row whose labels tie for
    the top, the share of it that is right counts.

    The rows must be new to the model: on those that it learnt from, any flexible model
    looks right. Calibration is not accuracy: probabilities that are the class shares
    for every row lie on the diagonal, in one point. Several models go into one picture
    by passing the `ax_` of the first to the others.

    References
    ----------
    .. [1] W. Hoeffding, "On the Distribution of the Number of Successes in Independent
       Trials", Annals of Mathematical Statistics 27 (1956), 713-721.
    .. [2] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern
       Neural Networks", arXiv:1706.04599.

    Examples
    --------
    >>> from uqlib.inspection import ReliabilityDisplay
    >>> display = ReliabilityDisplay.from_predictions(
    ...     [0, 1, 0, 1], [0.25, 0.25, 0.75, 1.0], n_bins=2, pos_label=1
    ... )
    >>> display.confidence, display.accuracy
    (array([0.25 , 0.875]), array([0.5, 0.5]))
    >>> display.calibration_error_
    0.3125
    """

    def __init__(
        self,
        *,
        confidence: ArrayLike,
        accuracy: ArrayLike,
        weight: ArrayLike,
        edges: ArrayLike,
        n_samples: ArrayLike | None = None,
        pos_label: Any = None,
        name: str | None = None,
    ) -> None:
        self.confidence = check_shares(confidence, "confidence")
        self.accuracy = check_shares(accuracy, "accuracy")
        self.weight = _check_positive(weight, "weight")
        self.edges = np.asarray(edges, dtype=np.float64)
        counts = weight if n_samples is None else n_samples
        self.n_samples = _check_positive(counts, "n_samples")
        n_points = self.confidence.size
        for other in ("accuracy", "weight", "n_samples"):
            _check_shape(getattr(self, other), other, (n_points,))
        _check_shape(self.edges, "edges", (n_points, 2))
        check_shares(self.edges.ravel(), "edges")
        self.pos_label, self.name = pos_label, name
        gap = self.accuracy - self.confidence
        self.calibration_error_ = gap_norm(gap, self.weight, "l1")

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        bar_level: float | None = 0.95,
        show_shares: bool = True,
        errorbar_kwargs: dict[str, Any] | None = None,
        share_kwargs: dict[str, Any] | None = None,
    ) -> "ReliabilityDisplay":
        """Draw the picture.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        name : str, default=None
            What the legend calls these points; None takes the attribute.
        bar_level : float, default=0.95
            Level of the binomial interval of each point; None draws none.
        show_shares : bool, default=True
            Whether to draw the share of the rows in each range as bars.
        errorbar_kwargs : dict, default=None
            Keywords for the `Axes.errorbar` of the points.
        share_kwargs : dict, default=None
            Keywords for the `Axes.bar` of the shares.

        Returns
        -------
        display : ReliabilityDisplay
            This object, with the artists as attributes.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If `bar_level` is not a number.
        ValueError
            If `bar_level` is not between 0 and 1, or `ax` has a ReliabilityDisplay of
            another label or level.
        """
        check_matplotlib(type(self).__name__)
        from uqlib.inspection import _mpl_reliability

        level = check_drawn_level(bar_level, "bar_level")
        artists = _mpl_reliability.draw_reliability(
            self,
            ax,
            name=self.name if name is None else name,
            level=level,
            interval=self._interval(level),
            show_shares=show_shares,
            styles=(errorbar_kwargs, share_kwargs),
        )
        self.ax_, self.errorbar_, self.shares_, self.reference_ = artists
        self.figure_ = self.ax_.figure
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        n_bins: int = 15,
        strategy: str = "uniform",
        pos_label: Any = None,
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ax: Any = None,
        bar_level: float | None = 0.95,
        show_shares: bool = True,
        errorbar_kwargs: dict[str, Any] | None = None,
        share_kwargs: dict[str, Any] | None = None,
    ) -> "ReliabilityDisplay":
        """Draw the reliability of a fitted classifier.

        Parameters
        ----------
        estimator : classifier
            Fitted, with `predict_proba` and `classes_`; a pipeline or search that ends
            in one.
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the model takes them, that it was not fitted on.
        y : array-like of shape (n_samples,)
            Their labels, which the model knows.
        n_bins : int, default=15
            Number of ranges, at least 1.
        strategy : {"uniform", "quantile"}, default="uniform"
            Ranges of equal width, or of equal weight as nearly as ties allow.
        pos_label : object, default=None
            The class whose probability is drawn, as the second of two for the ordinary
            binary diagram. None takes the top label of each row.
        sample_weight : array-like of shape (n_samples,), default=None
            One non-negative weight a row.
        name : str, default=None
            What the legend calls the model; None takes its class.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        bar_level : float, default=0.95
            Level of the binomial interval of each point; None draws none.
        show_shares : bool, default=True
            Whether to draw the share of the rows in each range as bars.
        errorbar_kwargs : dict, default=None
            Keywords for the `Axes.errorbar` of the points.
        share_kwargs : dict, default=None
            Keywords for the `Axes.bar` of the shares.

        Returns
        -------
        display : ReliabilityDisplay
            The picture drawn.

        Raises
        ------
        ValueError
            If the model gives no probabilities or has no array `classes_`, or for the
            reasons of `from_predictions`.

        See Also
        --------
        ReliabilityDisplay.from_predictions : From probabilities.
        """
        check_matplotlib(cls.__name__)
        classes = model_classes(estimator)
        return cls.from_predictions(
            y,
            predict_proba(estimator, X, classes),
            n_bins=n_bins,
            strategy=strategy,
            pos_label=pos_label,
            labels=classes,
            sample_weight=sample_weight,
            name=type(estimator).__name__ if name is None else name,
            ax=ax,
            bar_level=bar_level,
            show_shares=show_shares,
            errorbar_kwargs=errorbar_kwargs,
            share_kwargs=share_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_proba: ArrayLike,
        *,
        n_bins: int = 15,
        strategy: str = "uniform",
        pos_label: Any = None,
        labels: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ax: Any = None,
        bar_level: float | None = 0.95,
        show_shares: bool = True,
        errorbar_kwargs: dict[str, Any] | None = None,
        share_kwargs: dict[str, Any] | None = None,
    ) -> "ReliabilityDisplay":
        """Draw the reliability of class probabilities.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            Labels.
        y_proba : array-like of shape (n_samples, n_classes) or (n_samples,)
            Probability of every class, or for two classes that of the second alone.
        n_bins : int, default=15
            Number of ranges, at least 1.
        strategy : {"uniform", "quantile"}, default="uniform"
            Ranges of equal width, or of equal weight as nearly as ties allow.
        pos_label : object, default=None
            The class whose probability is drawn, as the second of two for the ordinary
            binary diagram. None takes the top label of each row, also for 1-D
            probabilities, which then count as the larger of p and 1 - p.
        labels : array-like of shape (n_classes,), default=None
            The labels, one for each column and in their order. None takes the sorted
            labels of `y_true`, which must then be all there are.
        sample_weight : array-like of shape (n_samples,), default=None
            One non-negative weight a row.
        name : str, default=None
            What the legend calls the points.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        bar_level : float, default=0.95
            Level of the binomial interval of each point; None draws none.
        show_shares : bool, default=True
            Whether to draw the share of the rows in each range as bars.
        errorbar_kwargs : dict, default=None
            Keywords for the `Axes.errorbar` of the points.
        share_kwargs : dict, default=None
            Keywords for the `Axes.bar` of the shares.

        Returns
        -------
        display : ReliabilityDisplay
            The picture drawn.

        Raises
        ------
        TypeError
            If `n_bins` is not an integer or `bar_level` not a number.
        ValueError
            For the reasons of :func:`uqlib.metrics.calibration_bins`, if `bar_level` is
            not between 0 and 1, or `ax` has a ReliabilityDisplay of another label or
            level.

        See Also
        --------
        ReliabilityDisplay.from_estimator : From a fitted classifier.
        """
        check_matplotlib(cls.__name__)
        which = {"pos_label": pos_label, "labels": labels}
        which["sample_weight"] = sample_weight
        bins = calibration_bins(
            y_true, y_proba, n_bins=n_bins, strategy=strategy, **which
        )
        display = cls(
            **bins._asdict(),
            n_samples=effective_rows(bins, y_true, y_proba, **which),
            pos_label=pos_label,
            name=name,
        )
        return display.plot(
            ax,
            bar_level=bar_level,
            show_shares=show_shares,
            errorbar_kwargs=errorbar_kwargs,
            share_kwargs=share_kwargs,
        )

    def _interval(self, level: float | None) -> FloatArray | None:
        if level is None:
            return None
        hits = self.accuracy * self.n_samples
        return clopper_pearson(hits, self.n_samples, level)


def _check_positive(values: Any, name: str) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if not np.all((array > 0) & (array < np.inf)):
        raise ValueError(
            f"{name} must be positive and finite, got {array.tolist()}. Leave out the "
            "ranges without rows."
        )
    return array


def _check_shape(array: FloatArray, name: str, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(
            f"{name} must have shape {shape}, one entry for each of confidence, got "
            f"shape {array.shape}."
        )
