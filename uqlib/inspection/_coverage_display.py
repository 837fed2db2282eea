"""Obtained against nominal coverage, by level or by group."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from uqlib._core.checks import check_quantile_matrix, check_rows, check_target
from uqlib._core.levels import check_quantiles
from uqlib._core.losses import covered
from uqlib._predictions import own_confidence_level
from uqlib._typing import ArrayLike
from uqlib.inspection._coverage_points import (
    central_intervals,
    check_groups,
    check_intervals,
    check_length,
    check_one_picture,
    check_shares,
    intervals_of,
    only_interval,
)
from uqlib.inspection._interval_display import check_matplotlib


class CoverageDisplay:
    r"""Picture of the coverage obtained against the coverage asked for.

    Each point is a share of n targets inside their intervals and its standard error,

    .. math:: c = \frac{1}{n} \#\{i : l_i \le y_i \le u_i\}, \qquad
              \mathrm{se} = \sqrt{c (1 - c) / n} ,

    drawn as c with a bar of two standard errors. By level, c stands over the level, and
    an honest model lies on the diagonal. By group, each group of rows has its point
    beside the one level: intervals that hold on average can fail in a group. Make one
    with `from_estimator`, `from_predictions` or `from_quantiles`; all parameters are
    stored as attributes.

    Parameters
    ----------
    nominal : array-like of shape (n_points,)
        Coverage that was asked for.
    obtained : array-like of shape (n_points,)
        Coverage that was obtained, between 0 and 1.
    standard_error : array-like of shape (n_points,)
        Standard errors of the obtained coverage.
    labels : array-like of shape (n_points,), default=None
        Names of the groups. None is a picture by level.
    n_samples : array-like of shape (n_points,), default=None
        Rows behind each point, shown with the groups; None if unknown.
    name : str, default=None
        What the legend calls these points.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the picture.
    figure_ : matplotlib Figure
        Figure of the axes.
    errorbar_ : matplotlib ErrorbarContainer
        The points and their bars.
    reference_ : matplotlib artist
        The diagonal, or the nominal level beside the groups. A second display on the
        same axes finds it there.

    Raises
    ------
    ValueError
        If shapes do not agree, or a value is not between 0 and 1.

    See Also
    --------
    PredictionIntervalDisplay : The intervals themselves.
    uqlib.metrics.coverage_score : One coverage.
    uqlib.metrics.quantile_calibration_error : The gap over the levels, as a number.

    Notes
    -----
    The bars hold the model fixed: they tell how far the coverage over all future rows
    may lie from this sample's. Points of several levels share their rows, so they are
    high or low together. At c = 0 and c = 1 the standard error is 0, which for small
    groups says nothing: look at their size.

    Several models go into one picture by passing the `ax_` of the first to the others.
    So that all bars are seen, those of the others stand a hair apart: below one another
    by group, along the diagonal by level, where the distance to it is kept.

    Examples
    --------
    >>> from uqlib.inspection import CoverageDisplay
    >>> y = [1.0, 2.0, 3.0, 4.0]
    >>> narrow, wide = [[1.5, 2.5]] * 4, [[0.0, 3.0]] * 4
    >>> display = CoverageDisplay.from_predictions(y, {0.5: narrow, 0.8: wide})
    >>> display.obtained
    array([0.25, 0.75])
    >>> display = CoverageDisplay.from_predictions(
    ...     y, {0.8: wide}, mondrian_groups=["a", "a", "b", "b"]
    ... )
    >>> display.labels, display.obtained
    (array(['a', 'b'], dtype=object), array([1. , 0.5]))
    """

    def __init__(
        self,
        *,
        nominal: ArrayLike,
        obtained: ArrayLike,
        standard_error: ArrayLike,
        labels: Any = None,
        n_samples: Any = None,
        name: str | None = None,
    ) -> None:
        self.nominal = check_shares(nominal, "nominal")
        self.obtained = check_shares(obtained, "obtained")
        self.standard_error = check_shares(standard_error, "standard_error")
        self.labels = None if labels is None else np.asarray(labels, dtype=object)
        self.n_samples = None if n_samples is None else np.asarray(n_samples)
        self.name = name
        for other in ("obtained", "standard_error", "labels", "n_samples"):
            check_length(getattr(self, other), other, self.nominal.size)

    def plot(
        self, ax: Any = None, *, name: str | None = None, **kwargs: Any
    ) -> "CoverageDisplay":
        """Draw the picture.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        name : str, default=None
            What the legend calls these points; None takes the attribute.
        **kwargs : dict
            Keywords for `Axes.errorbar`.

        Returns
        -------
        display : CoverageDisplay
            This object, with the artists as attributes.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `ax` has a CoverageDisplay of other groups, or one by level where this
            is by group.
        """
        check_matplotlib(type(self).__name__)
        from uqlib.inspection import _mpl_coverage

        name = self.name if name is None else name
        by_level = self.labels is None
        draw = _mpl_coverage.draw_levels if by_level else _mpl_coverage.draw_groups
        self.ax_, self.errorbar_, self.reference_ = draw(self, ax, name, kwargs)
        self.figure_ = self.ax_.figure
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        confidence_levels: ArrayLike | None = None,
        mondrian_groups: ArrayLike | None = None,
        confidence_level: float | None = None,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> "CoverageDisplay":
        """Draw the coverage of a fitted model by level, or by group at one level.

        Parameters
        ----------
        estimator : estimator
            A fitted model with `predict_interval`, or one that gives quantiles; a
            pipeline or search that ends in one.
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the model takes them.
        y : array-like of shape (n_samples,)
            Their target, finite.
        confidence_levels : array-like of shape (n_levels,), default=None
            Levels of a picture by level. None takes 0.1, 0.2, ..., 0.9, 0.95 and the
            model's own, less those that the model refuses with a ValueError; of a
            quantile matrix it takes every central pair. Not with `mondrian_groups`.
        mondrian_groups : array-like of shape (n_samples,), default=None
            The group of each row, for a picture by group. Rows are only counted by
            it; the model does not see it.
        confidence_level : float, default=None
            The level of a picture by group; None takes the model's own. Only with
            `mondrian_groups`.
        name : str, default=None
            What the legend calls the model; None takes its class.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        **kwargs : dict
            Keywords for `Axes.errorbar`.

        Returns
        -------
        display : CoverageDisplay
            The picture drawn.

        Raises
        ------
        ValueError
            If a level belongs to the other picture, the model cannot give it, or y
            does not fit X.

        See Also
        --------
        CoverageDisplay.from_predictions : From intervals.
        CoverageDisplay.from_quantiles : From a quantile matrix.
        """
        check_matplotlib(cls.__name__)
        check_one_picture(confidence_levels, mondrian_groups, confidence_level)
        if mondrian_groups is not None:
            if confidence_level is None:
                confidence_level = own_confidence_level(estimator)
            confidence_levels = [confidence_level]
        return cls.from_predictions(
            y,
            intervals_of(estimator, X, confidence_levels),
            mondrian_groups=mondrian_groups,
            name=type(estimator).__name__ if name is None else name,
            ax=ax,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_intervals: Mapping[float, ArrayLike],
        *,
        mondrian_groups: ArrayLike | None = None,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> "CoverageDisplay":
        """Draw the coverage of intervals by level, or by group at one level.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            Target, finite.
        y_intervals : dict of {float: array-like of shape (n_samples, 2)}
            Lower and upper bounds at each confidence level; by group, at one level.
        mondrian_groups : array-like of shape (n_samples,), default=None
            The group of each row, for a picture by group.
        name : str, default=None
            What the legend calls the points.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        **kwargs : dict
            Keywords for `Axes.errorbar`.

        Returns
        -------
        display : CoverageDisplay
            The picture drawn.

        Raises
        ------
        TypeError
            If `y_intervals` is not a dict.
        ValueError
            If a level is not in (0, 1), an interval does not fit y_true, contains NaN
            or has lower > upper, mondrian_groups does not fit or is given
            with several levels.

        See Also
        --------
        CoverageDisplay.from_quantiles : From a quantile matrix.
        """
        check_matplotlib(cls.__name__)
        target = check_target(y_true)
        intervals = check_intervals(y_intervals, target)
        labels, n_samples = None, np.full(len(intervals), target.size)
        nominal = np.array(list(intervals))
        obtained = np.array([covered(target, y).mean() for y in intervals.values()])
        if mondrian_groups is not None:
            interval = only_interval(intervals)
            labels, group = check_groups(mondrian_groups, target.size)
            n_samples = np.bincount(group)
            nominal = np.repeat(nominal, labels.size)
            obtained = np.bincount(group, covered(target, interval)) / n_samples
        display = cls(
            nominal=nominal,
            obtained=obtained,
            standard_error=np.sqrt(obtained * (1 - obtained) / n_samples),
            labels=labels,
            n_samples=n_samples,
            name=name,
        )
        return display.plot(ax, **kwargs)

    @classmethod
    def from_quantiles(
        cls,
        y_true: ArrayLike,
        y_quantiles: ArrayLike,
        quantiles: ArrayLike,
        *,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> "CoverageDisplay":
        r"""Draw the coverage of the central intervals of a quantile matrix.

        The levels :math:`\tau < 1/2` and :math:`1 - \tau` bound an interval of nominal
        coverage :math:`1 - 2 \tau`. Bounds that cross are exchanged.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            Target, finite.
        y_quantiles : array-like of shape (n_samples, n_quantiles)
            The quantile matrix.
        quantiles : array-like of shape (n_quantiles,)
            Its levels; those without their mirror image are left out.
        name : str, default=None
            What the legend calls the points.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        **kwargs : dict
            Keywords for `Axes.errorbar`.

        Returns
        -------
        display : CoverageDisplay
            The picture drawn, by level.

        Raises
        ------
        ValueError
            If shapes do not agree, the levels are not strictly increasing in (0, 1),
            no two of them are tau and 1 - tau, or there is a NaN.

        See Also
        --------
        CoverageDisplay.from_predictions : From intervals, also by group.
        """
        check_matplotlib(cls.__name__)
        levels = check_quantiles(quantiles)
        target = check_target(y_true)
        matrix = check_quantile_matrix(y_quantiles, levels.size)
        check_rows(target.size, matrix.shape[0], "y_quantiles", "y_true")
        intervals = central_intervals(matrix, levels)
        return cls.from_predictions(target, intervals, name=name, ax=ax, **kwargs)
