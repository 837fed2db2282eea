"""Intervals against the truth, row by row."""

from importlib.util import find_spec
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._core.checks import as_1d, check_rows, check_target
from uqlib._core.levels import check_confidence_level
from uqlib._predictions import own_confidence_level, predict_interval, predict_point
from uqlib._typing import ArrayLike, FloatArray
from uqlib.metrics import coverage_score


class PredictionIntervalDisplay:
    r"""Picture of prediction intervals and of the targets that they miss.

    Row i is a vertical bar from :math:`l_i` to :math:`u_i` with its target
    :math:`y_i`, marked by whether

    .. math:: l_i \le y_i \le u_i .

    Rows stand in the order of their prediction, so that one sees whether the width
    follows the difficulty and whether the misses gather somewhere. Make one with
    `from_estimator` or `from_predictions`; all parameters are stored as attributes.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_interval : array-like of shape (n_samples, 2)
        Lower and upper bounds, lower <= upper. Infinite bounds are legal and are drawn
        to the edge of the axes.
    y_pred : array-like of shape (n_samples,), default=None
        Predicted points, by which the rows are sorted. None sorts by the midpoint.
    confidence_level : float, default=None
        Coverage that was asked for, strictly between 0 and 1; None if unknown.

    Attributes
    ----------
    coverage_ : float
        Share of all targets inside their intervals, drawn or not.
    ax_ : matplotlib Axes
        Axes of the picture.
    figure_ : matplotlib Figure
        Figure of the axes.
    intervals_ : matplotlib LineCollection
        One bar a drawn row.
    hits_ : matplotlib Line2D
        Drawn targets inside their intervals.
    misses_ : matplotlib Line2D
        Drawn targets outside.
    prediction_ : matplotlib Line2D or None
        Predicted points; None without `y_pred`.
    infinite_ : tuple of two matplotlib Line2D or None
        Arrowheads where a drawn bar leaves the axes, at the lower and at the upper
        edge; None if every bound of every row is finite.

    Raises
    ------
    ValueError
        If shapes do not agree, y_true is not finite, an interval or y_pred contains
        NaN, lower > upper, or the level is not in (0, 1).

    See Also
    --------
    CoverageDisplay : Coverage by level or by group.
    uqlib.metrics.coverage_score : The number in the legend.

    Notes
    -----
    Without `y_pred`, an interval with one infinite bound is sorted by the other one,
    and the whole line comes last. Rows of equal rank keep their order.

    Examples
    --------
    >>> from uqlib.inspection import PredictionIntervalDisplay
    >>> display = PredictionIntervalDisplay.from_predictions(
    ...     [1.0, 5.0], [[0.0, 2.0], [2.0, 4.0]], confidence_level=0.5
    ... )
    >>> display.coverage_
    0.5
    >>> display.ax_.get_ylabel()
    'Target'
    """

    def __init__(
        self,
        *,
        y_true: ArrayLike,
        y_interval: ArrayLike,
        y_pred: ArrayLike | None = None,
        confidence_level: float | None = None,
    ) -> None:
        self.coverage_ = coverage_score(y_true, y_interval)  # checks both
        self.y_true = check_target(y_true)
        self.y_interval = np.asarray(y_interval, dtype=np.float64)
        self.y_pred = None
        if y_pred is not None:
            self.y_pred = as_1d(y_pred, "y_pred")
            check_rows(self.y_true.size, self.y_pred.size, "y_pred", "y_true")
        if confidence_level is not None:
            confidence_level = float(check_confidence_level(confidence_level))
        self.confidence_level = confidence_level

    def plot(
        self,
        ax: Any = None,
        *,
        max_rows: int | None = 300,
        interval_kwargs: dict[str, Any] | None = None,
        hit_kwargs: dict[str, Any] | None = None,
        miss_kwargs: dict[str, Any] | None = None,
    ) -> "PredictionIntervalDisplay":
        """Draw the picture.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        max_rows : int, default=300
            Rows drawn at most, at even steps through the sorted rows; None draws all.
            The shares in the legend are over all rows, always.
        interval_kwargs : dict, default=None
            Keywords for the `LineCollection` of the bars.
        hit_kwargs : dict, default=None
            Keywords for the `Axes.plot` of the targets inside.
        miss_kwargs : dict, default=None
            Keywords for the `Axes.plot` of the targets outside.

        Returns
        -------
        display : PredictionIntervalDisplay
            This object, with the artists as attributes.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `max_rows` is not an integer of at least 2.
        """
        check_matplotlib(type(self).__name__)
        from uqlib.inspection import _mpl_intervals

        rows = _sorted_rows(self.y_interval, self.y_pred)
        ranks = even_steps(rows.size, max_rows)
        artists = _mpl_intervals.draw_intervals(
            self,
            ax,
            rows=rows[ranks],
            ranks=ranks + 1,
            styles=(interval_kwargs, hit_kwargs, miss_kwargs),
        )
        self.ax_, self.figure_ = artists.ax, artists.ax.figure
        self.intervals_ = artists.intervals
        self.hits_, self.misses_ = artists.hits, artists.misses
        self.prediction_, self.infinite_ = artists.prediction, artists.infinite
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        confidence_level: float | None = None,
        max_rows: int | None = 300,
        ax: Any = None,
        interval_kwargs: dict[str, Any] | None = None,
        hit_kwargs: dict[str, Any] | None = None,
        miss_kwargs: dict[str, Any] | None = None,
    ) -> "PredictionIntervalDisplay":
        """Draw the intervals of a fitted model.

        Parameters
        ----------
        estimator : estimator
            A fitted model with `predict_interval`, or one that gives the two quantiles
            of the level; a pipeline or search that ends in one.
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the model takes them.
        y : array-like of shape (n_samples,)
            Their target, finite.
        confidence_level : float, default=None
            Coverage that the model is asked for; None takes its own.
        max_rows : int, default=300
            Rows drawn at most, at even steps through the sorted rows; None draws all.
            The shares in the legend are over all rows, always.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        interval_kwargs : dict, default=None
            Keywords for the `LineCollection` of the bars.
        hit_kwargs : dict, default=None
            Keywords for the `Axes.plot` of the targets inside.
        miss_kwargs : dict, default=None
            Keywords for the `Axes.plot` of the targets outside.

        Returns
        -------
        display : PredictionIntervalDisplay
            The picture drawn.

        See Also
        --------
        PredictionIntervalDisplay.from_predictions : From arrays.
        """
        check_matplotlib(cls.__name__)
        return cls.from_predictions(
            y,
            predict_interval(estimator, X, confidence_level),
            y_pred=predict_point(estimator, X),
            confidence_level=_level_if_known(estimator, confidence_level),
            max_rows=max_rows,
            ax=ax,
            interval_kwargs=interval_kwargs,
            hit_kwargs=hit_kwargs,
            miss_kwargs=miss_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_interval: ArrayLike,
        *,
        y_pred: ArrayLike | None = None,
        confidence_level: float | None = None,
        max_rows: int | None = 300,
        ax: Any = None,
        interval_kwargs: dict[str, Any] | None = None,
        hit_kwargs: dict[str, Any] | None = None,
        miss_kwargs: dict[str, Any] | None = None,
    ) -> "PredictionIntervalDisplay":
        """Draw intervals that are there already.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            Target, finite.
        y_interval : array-like of shape (n_samples, 2)
            Lower and upper bounds, lower <= upper.
        y_pred : array-like of shape (n_samples,), default=None
            Predicted points, by which the rows are sorted. None sorts by the midpoint.
        confidence_level : float, default=None
            Coverage that was asked for; None leaves it out of the legend.
        max_rows : int, default=300
            Rows drawn at most, at even steps through the sorted rows; None draws all.
            The shares in the legend are over all rows, always.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        interval_kwargs : dict, default=None
            Keywords for the `LineCollection` of the bars.
        hit_kwargs : dict, default=None
            Keywords for the `Axes.plot` of the targets inside.
        miss_kwargs : dict, default=None
            Keywords for the `Axes.plot` of the targets outside.

        Returns
        -------
        display : PredictionIntervalDisplay
            The picture drawn.

        See Also
        --------
        PredictionIntervalDisplay.from_estimator : From a fitted model.
        """
        check_matplotlib(cls.__name__)
        display = cls(
            y_true=y_true,
            y_interval=y_interval,
            y_pred=y_pred,
            confidence_level=confidence_level,
        )
        return display.plot(
            ax,
            max_rows=max_rows,
            interval_kwargs=interval_kwargs,
            hit_kwargs=hit_kwargs,
            miss_kwargs=miss_kwargs,
        )


def check_matplotlib(caller: str) -> None:
    """Say how to get matplotlib before anything is computed."""
    if find_spec("matplotlib") is None:
        raise ImportError(
            f"{caller} draws with matplotlib, which is not installed. Run "
            "`pip install uqlib[plot]`."
        )


def _level_if_known(estimator: Any, confidence_level: float | None) -> float | None:
    if confidence_level is not None:
        return confidence_level
    try:
        return own_confidence_level(estimator)
    except ValueError:  # a foreign model that gives intervals and tells no level
        return None


def _sorted_rows(y_interval: FloatArray, y_pred: FloatArray | None) -> NDArray[np.intp]:
    """Return the rows by prediction, or by midpoint; equal ones keep their order."""
    key = _midpoints(y_interval) if y_pred is None else y_pred
    return np.argsort(key, kind="stable")


def _midpoints(y_interval: FloatArray) -> FloatArray:
    """Return where an interval lies: the finite end if one is not, the line last."""
    lower, upper = y_interval.T
    lower = np.where(np.isneginf(lower), upper, lower)
    upper = np.where(np.isposinf(upper), lower, upper)
    return lower / 2 + upper / 2


def even_steps(n_samples: int, max_rows: Any) -> NDArray[np.intp]:
    """Return at most max_rows positions from the first to the last, evenly spaced."""
    if max_rows is None:
        return np.arange(n_samples)
    if isinstance(max_rows, bool) or not isinstance(max_rows, Integral) or max_rows < 2:
        raise ValueError(
            f"max_rows must be an integer of at least 2, got {max_rows!r}. Pass None "
            "to draw every row."
        )
    drawn = min(int(max_rows), n_samples)
    # Integers, so that no position comes twice.
    return np.arange(drawn) * (n_samples - 1) // max(drawn - 1, 1)
