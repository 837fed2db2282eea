"""Observed shares against quantile levels."""

from numbers import Integral
from typing import Any

import numpy as np
from scipy.special import bdtr

from uqlib._core.checks import check_sample_weight
from uqlib._core.levels import check_quantiles
from uqlib._predictions import predict_quantiles
from uqlib._typing import ArrayLike, FloatArray
from uqlib.inspection._coverage_points import check_shares
from uqlib.inspection._interval_display import check_matplotlib
from uqlib.inspection._reliability_intervals import check_drawn_level
from uqlib.metrics import miscalibration_area, quantile_calibration_curve


class QuantileCalibrationDisplay:
    r"""Picture of the share of targets at most their quantile, against its level.

    The point of the level :math:`\tau_k` is

    .. math:: \hat\tau_k = \frac{1}{n} \#\{i : y_i \le q_{ik}\} .

    Calibrated quantiles lie on the diagonal, up to chance: at a level :math:`\tau` the
    count :math:`n \hat\tau` of true quantiles has the binomial law of n and
    :math:`\tau`, of which the band shows the middle. Points above the diagonal are
    quantiles that are too high. Make one with `from_estimator` or `from_predictions`;
    all parameters are stored as attributes.

    Parameters
    ----------
    quantiles : array-like of shape (n_quantiles,)
        Levels, strictly increasing, strictly between 0 and 1.
    observed : array-like of shape (n_quantiles,)
        Share of targets at most their quantile, between 0 and 1.
    n_samples : int, default=None
        Rows behind the shares, at least 1, from which the band follows; None if
        unknown: there is no band.
    area : float, default=None
        Area between the curve and the diagonal, shown in the legend; None leaves it
        out.
    name : str, default=None
        What the legend calls these points.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the picture.
    figure_ : matplotlib Figure
        Figure of the axes.
    line_ : matplotlib Line2D
        The curve from (0, 0) to (1, 1), whose area is in the legend, with markers at
        the levels.
    band_ : matplotlib PolyCollection or None
        The band; None if there is none. A second display of as many rows on the same
        axes finds it there.
    reference_ : matplotlib Line2D
        The diagonal, found likewise.

    Raises
    ------
    ValueError
        If shapes do not agree, the levels are not strictly increasing in (0, 1), a
        share is not between 0 and 1, `n_samples` is below 1 or `area` negative.
    TypeError
        If `n_samples` is not an integer.

    See Also
    --------
    CoverageDisplay : Central intervals instead of single levels.
    ReliabilityDisplay : The same question to class probabilities.
    uqlib.metrics.quantile_calibration_curve : The points, as numbers.
    uqlib.metrics.miscalibration_area : The number in the legend.

    Notes
    -----
    The band holds at each level for itself: the count of true quantiles on n
    independent rows lies within with probability at least `band_level`, and outside on
    either side with at most half of the rest. Of many levels some leave it by chance,
    several together, as they share their rows. The law wants a target without ties; one
    with ties has more targets at most their quantile. With weights there is no such
    law, and the band is that of the effective number of rows
    :math:`(\sum_i w_i)^2 / \sum_i w_i^2`, rounded down.

    The rows must be new to the model. A curve on the diagonal does not say that the
    quantiles are good: those of the target alone, the same for every row, lie there
    too. Several models go into one picture by passing the `ax_` of the first to the
    others.

    References
    ----------
    .. [1] V. Kuleshov, N. Fenner, S. Ermon, "Accurate Uncertainties for Deep Learning
       Using Calibrated Regression", arXiv:1807.00263.

    Examples
    --------
    >>> from uqlib.inspection import QuantileCalibrationDisplay
    >>> display = QuantileCalibrationDisplay.from_predictions(
    ...     [1.0, 2.0], [[0.0, 1.5], [1.0, 2.5]], [0.1, 0.5]
    ... )
    >>> display.observed, display.n_samples
    (array([0., 1.]), 2)
    >>> display.ax_.get_xlabel()
    'Quantile level'
    """

    def __init__(
        self,
        *,
        quantiles: ArrayLike,
        observed: ArrayLike,
        n_samples: int | None = None,
        area: float | None = None,
        name: str | None = None,
    ) -> None:
        self.quantiles = check_quantiles(quantiles)
        self.observed = check_shares(observed, "observed")
        if self.observed.size != self.quantiles.size:
            raise ValueError(
                f"observed must have shape ({self.quantiles.size},), one share for each"
                f" of quantiles, got shape {self.observed.shape}."
            )
        self.n_samples, self.area = _check_n_samples(n_samples), _check_area(area)
        self.name = name

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        band_level: float | None = 0.95,
        line_kwargs: dict[str, Any] | None = None,
        band_kwargs: dict[str, Any] | None = None,
    ) -> "QuantileCalibrationDisplay":
        """Draw the picture.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        name : str, default=None
            What the legend calls these points; None takes the attribute.
        band_level : float, default=0.95
            Level of the band about the diagonal; None draws none.
        line_kwargs : dict, default=None
            Keywords for the `Axes.plot` of the curve.
        band_kwargs : dict, default=None
            Keywords for the `Axes.fill_between` of the band.

        Returns
        -------
        display : QuantileCalibrationDisplay
            This object, with the artists as attributes.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If `band_level` is not a number.
        ValueError
            If `band_level` is not between 0 and 1.
        """
        check_matplotlib(type(self).__name__)
        from uqlib.inspection import _mpl_quantile_calibration

        level = check_drawn_level(band_level, "band_level")
        artists = _mpl_quantile_calibration.draw_quantile_calibration(
            self,
            ax,
            name=self.name if name is None else name,
            level=level,
            band=self._band(level),
            styles=(line_kwargs, band_kwargs),
        )
        self.ax_, self.line_, self.band_, self.reference_ = artists
        self.figure_ = self.ax_.figure
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        quantiles: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ax: Any = None,
        band_level: float | None = 0.95,
        line_kwargs: dict[str, Any] | None = None,
        band_kwargs: dict[str, Any] | None = None,
    ) -> "QuantileCalibrationDisplay":
        """Draw the calibration of a fitted model's quantiles.

        Parameters
        ----------
        estimator : estimator
            A fitted model that gives quantiles, a pipeline or search that ends in one,
            or a list of fitted models of one level each.
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the model takes them, that it was not fitted on.
        y : array-like of shape (n_samples,)
            Their target, finite.
        quantiles : array-like of shape (n_quantiles,), default=None
            Levels that the model is asked for; None takes its own.
        sample_weight : array-like of shape (n_samples,), default=None
            One non-negative weight a row.
        name : str, default=None
            What the legend calls the model; None takes its class.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        band_level : float, default=0.95
            Level of the band about the diagonal; None draws none.
        line_kwargs : dict, default=None
            Keywords for the `Axes.plot` of the curve.
        band_kwargs : dict, default=None
            Keywords for the `Axes.fill_between` of the band.

        Returns
        -------
        display : QuantileCalibrationDisplay
            The picture drawn.

        Raises
        ------
        ValueError
            If the model gives no quantiles or lacks a level, or for the reasons of
            `from_predictions`.

        See Also
        --------
        QuantileCalibrationDisplay.from_predictions : From a quantile matrix.
        """
        check_matplotlib(cls.__name__)
        values, levels = predict_quantiles(estimator, X, quantiles)
        return cls.from_predictions(
            y,
            values,
            levels,
            sample_weight=sample_weight,
            name=_class_name(estimator) if name is None else name,
            ax=ax,
            band_level=band_level,
            line_kwargs=line_kwargs,
            band_kwargs=band_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_quantiles: ArrayLike,
        quantiles: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ax: Any = None,
        band_level: float | None = 0.95,
        line_kwargs: dict[str, Any] | None = None,
        band_kwargs: dict[str, Any] | None = None,
    ) -> "QuantileCalibrationDisplay":
        """Draw the calibration of a quantile matrix.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            Target, finite.
        y_quantiles : array-like of shape (n_samples, n_quantiles)
            Predicted quantiles. Infinities are legal.
        quantiles : array-like of shape (n_quantiles,)
            Levels, strictly increasing, strictly between 0 and 1.
        sample_weight : array-like of shape (n_samples,), default=None
            One non-negative weight a row.
        name : str, default=None
            What the legend calls the points.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        band_level : float, default=0.95
            Level of the band about the diagonal; None draws none.
        line_kwargs : dict, default=None
            Keywords for the `Axes.plot` of the curve.
        band_kwargs : dict, default=None
            Keywords for the `Axes.fill_between` of the band.

        Returns
        -------
        display : QuantileCalibrationDisplay
            The picture drawn.

        Raises
        ------
        TypeError
            If `band_level` is not a number.
        ValueError
            If shapes do not agree, there are no rows, y_true is not finite, y_quantiles
            contains NaN, the levels are not strictly increasing in (0, 1), or
            `band_level` is not between 0 and 1.

        See Also
        --------
        QuantileCalibrationDisplay.from_estimator : From a fitted model.
        """
        check_matplotlib(cls.__name__)
        data = (y_true, y_quantiles, quantiles)
        display = cls(
            quantiles=quantiles,
            observed=quantile_calibration_curve(*data, sample_weight=sample_weight),
            n_samples=_effective_rows(sample_weight, len(np.asarray(y_true))),
            area=miscalibration_area(*data, sample_weight=sample_weight),
            name=name,
        )
        return display.plot(
            ax, band_level=band_level, line_kwargs=line_kwargs, band_kwargs=band_kwargs
        )

    def _band(self, level: float | None) -> tuple[FloatArray, FloatArray] | None:
        """Return levels from 0 to 1, those of the points among them, and the band."""
        if level is None or self.n_samples is None:
            return None
        levels = np.union1d(np.arange(1001) / 1000, self.quantiles)
        return levels, binomial_band(self.n_samples, levels, level)


def binomial_band(n: int, tau: FloatArray, level: float) -> FloatArray:
    """Return the middle of the law of a share of n rows, of shape (n_levels, 2)."""
    # The lower end a is the smallest count with P(S <= a) >= t, half of 1 - level, so
    # that P(S < a) < t. The count of the other rows, n - S, has the law of n and
    # 1 - tau, so that the upper end is n less its lower end: exactly a mirror image.
    tail = (1 - level) / 2
    lower = _smallest_count(n, tau, tail)
    upper = n - _smallest_count(n, 1 - tau, tail)
    return np.column_stack([lower, upper]) / n


def _smallest_count(n: int, p: FloatArray, tail: float) -> Any:
    """Return the smallest a with P(Bin(n, p) <= a) >= tail, by bisection."""
    low, high = np.zeros(p.shape, dtype=np.int64), np.full(p.shape, n)
    while np.any(low < high):
        middle = (low + high) // 2
        # Where the two are equal but for rounding, the count belongs to the band.
        reached = bdtr(middle, n, p) >= tail * (1 - 1e-10)
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
    return low


def _effective_rows(sample_weight: Any, n_samples: int) -> int:
    weight = check_sample_weight(sample_weight, n_samples)
    if weight is None:
        return n_samples
    share = weight / weight.sum()
    # Equal weights count every row, whatever rounding does.
    return max(1, int(1 / (share @ share) + 1e-9))


def _class_name(estimator: Any) -> str:
    if isinstance(estimator, list | tuple):  # of models of one level each
        estimator = estimator[0]
    return type(estimator).__name__


def _check_n_samples(n_samples: Any) -> int | None:
    if n_samples is None:
        return None
    if isinstance(n_samples, bool) or not isinstance(n_samples, Integral):
        raise TypeError(
            f"n_samples must be an integer, at least 1, or None, got {n_samples!r}."
        )
    if n_samples < 1:
        raise ValueError(
            f"n_samples must be at least 1, got {n_samples!r}. Pass None if the number "
            "of rows is unknown."
        )
    return int(n_samples)


def _check_area(area: Any) -> float | None:
    if area is not None and not 0 <= area < np.inf:
        raise ValueError(f"area must be at least 0 and finite, or None, got {area!r}.")
    return None if area is None else float(area)
