"""Coverage and width of a model by the bits of its weights."""

from collections.abc import Mapping
from typing import Any

from uqlib._core.levels import check_confidence_level
from uqlib._typing import ArrayLike
from uqlib.inspection._interval_display import check_matplotlib
from uqlib.inspection._quantization_checks import (
    check_bits,
    check_coverage,
    check_ends,
    check_ratio,
    check_reports,
    count_intervals,
)
from uqlib.inspection._reliability_intervals import check_drawn_level
from uqlib.quantized._coverage_result import CoverageReport


class QuantizationDisplay:
    r"""Picture of what fewer bits do to coverage, and what mending it costs.

    Above, the share of targets that the quantized model covers, over its bits: with
    the threshold t of the float model ("stale"), and with a threshold of its own,
    :math:`t_q` ("recalibrated"). Below, the price,

    .. math:: \frac{\text{mean width of } C(x; f_q, t_q)}{\text{mean width of }
              C(x; f, t)} .

    An honest picture has recalibrated points at the nominal level at any number of
    bits, and a ratio that rises as the bits get few. Make one with `from_reports` or
    `from_predictions`; all parameters are stored as attributes.

    Parameters
    ----------
    bits : array-like of shape (n_points,)
        Effective bits of a weight, positive numbers; or names of the models, strings.
    recalibrated : array-like of shape (n_points,)
        Coverage after recalibration, between 0 and 1.
    width_ratio : array-like of shape (n_points,)
        Width after recalibration over that of the float model, at least 0; NaN and
        +inf are not drawn.
    stale : array-like of shape (n_points,), default=None
        Coverage with the threshold of the float model.
    recalibrated_interval : array-like of shape (n_points, 2), default=None
        Ends of intervals that hold the recalibrated coverage, as its bars.
    stale_interval : array-like of shape (n_points, 2), default=None
        The same for the stale coverage.
    forecast : array-like of shape (n_points,), default=None
        Forecast of the width ratio from the drift; NaN is not drawn.
    confidence_level : float, default=0.9
        Coverage asked for, strictly between 0 and 1.
    width_name : str, default="width"
        What the lower axis calls the ratio of: "set size" for label sets.
    name : str, default=None
        What the legend calls these points.

    Attributes
    ----------
    ax_ : ndarray of shape (2,)
        Matplotlib Axes of coverage and of width.
    figure_ : matplotlib Figure
        Figure of the axes.
    recalibrated_, stale_ : matplotlib ErrorbarContainer
        The points of coverage; `stale_` is None if there are none.
    width_ : matplotlib Line2D
        The points of the width ratio.
    forecast_ : matplotlib Line2D or None
        Those of the forecast, if there are any.
    reference_ : matplotlib Line2D
        The nominal level. A second display on the same axes finds it there.

    Raises
    ------
    ValueError
        If shapes do not agree, bits are not positive, repeated or a mixture of numbers
        and names, a coverage is not between 0 and 1 or outside its interval, or a ratio
        is negative.

    See Also
    --------
    uqlib.quantized.coverage_report : The numbers drawn.
    CoverageDisplay : Coverage of one model by level or by group.

    Notes
    -----
    Bits are on a logarithmic scale. Points of one picture often share their test rows,
    and are then high or low together; and recalibrated coverage varies about the
    nominal level with the rows of calibration, which the intervals do not show.

    Several models, or several methods of rounding, go into one picture by passing the
    `ax_` of the first to the others. So that all intervals are seen, points stand a
    hair apart.

    Examples
    --------
    >>> from uqlib.inspection import QuantizationDisplay
    >>> display = QuantizationDisplay.from_predictions(
    ...     [2, 4], [0.90, 0.91], [1.67, 1.04], stale=[0.68, 0.89], n_samples=1000
    ... )
    >>> display.stale_interval.round(3)
    array([[0.65 , 0.709],
           [0.869, 0.909]])
    """

    def __init__(
        self,
        *,
        bits: ArrayLike,
        recalibrated: ArrayLike,
        width_ratio: ArrayLike,
        stale: ArrayLike | None = None,
        recalibrated_interval: ArrayLike | None = None,
        stale_interval: ArrayLike | None = None,
        forecast: ArrayLike | None = None,
        confidence_level: float = 0.9,
        width_name: str = "width",
        name: str | None = None,
    ) -> None:
        self.bits = check_bits(bits)
        n_points = self.bits.size
        self.recalibrated = check_coverage(recalibrated, "recalibrated", n_points)
        self.stale = None
        if stale is not None:
            self.stale = check_coverage(stale, "stale", n_points)
        self.recalibrated_interval = check_ends(
            recalibrated_interval, self.recalibrated, "recalibrated"
        )
        self.stale_interval = check_ends(stale_interval, self.stale, "stale")
        self.width_ratio = check_ratio(width_ratio, "width_ratio", n_points)
        self.forecast = None
        if forecast is not None:
            self.forecast = check_ratio(forecast, "forecast", n_points)
        self.confidence_level = float(check_confidence_level(confidence_level))
        self.width_name = width_name
        self.name = name

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        coverage_kwargs: dict[str, Any] | None = None,
        width_kwargs: dict[str, Any] | None = None,
    ) -> "QuantizationDisplay":
        """Draw the picture.

        Parameters
        ----------
        ax : sequence of two matplotlib Axes, default=None
            Axes of coverage and of width; None makes a new figure.
        name : str, default=None
            What the legend calls these points; None takes the attribute.
        coverage_kwargs : dict, default=None
            Keywords for `Axes.errorbar`, for both kinds of coverage.
        width_kwargs : dict, default=None
            Keywords for `Axes.plot` of the width ratio.

        Returns
        -------
        display : QuantizationDisplay
            This object, with the artists as attributes.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `ax` is not a pair, or holds a QuantizationDisplay of other names or
            another level.
        """
        check_matplotlib(type(self).__name__)
        from uqlib.inspection import _mpl_quantization

        artists = _mpl_quantization.draw_quantization(
            self,
            ax,
            name=self.name if name is None else name,
            coverage_kwargs=coverage_kwargs,
            width_kwargs=width_kwargs,
        )
        self.ax_, self.figure_ = artists.ax, artists.ax[0].figure
        self.recalibrated_, self.stale_ = artists.recalibrated, artists.stale
        self.width_, self.forecast_ = artists.width, artists.forecast
        self.reference_ = artists.reference
        return self

    @classmethod
    def from_reports(
        cls,
        reports: Mapping[Any, CoverageReport],
        *,
        name: str | None = None,
        ax: Any = None,
        coverage_kwargs: dict[str, Any] | None = None,
        width_kwargs: dict[str, Any] | None = None,
    ) -> "QuantizationDisplay":
        """Draw reports of one model at several numbers of bits.

        Parameters
        ----------
        reports : dict of {float or str: CoverageReport}
            What `uqlib.quantized.coverage_report` returned, by effective bits or by
            name.
        name : str, default=None
            What the legend calls the points.
        ax : sequence of two matplotlib Axes, default=None
            Axes of coverage and of width; None makes a new figure.
        coverage_kwargs : dict, default=None
            Keywords for `Axes.errorbar`, for both kinds of coverage.
        width_kwargs : dict, default=None
            Keywords for `Axes.plot` of the width ratio.

        Returns
        -------
        display : QuantizationDisplay
            The picture drawn.

        Raises
        ------
        TypeError
            If `reports` is not a dict of reports.
        ValueError
            If it is empty, or the reports differ in level or nonconformity.

        See Also
        --------
        QuantizationDisplay.from_predictions : From numbers.
        """
        check_matplotlib(cls.__name__)
        found = check_reports(reports)
        first = found[0]
        forecasts = [report.width_ratio_forecast for report in found]
        display = cls(
            bits=list(reports),
            recalibrated=[report.recalibrated.coverage for report in found],
            width_ratio=[report.width_ratio for report in found],
            stale=[report.stale.coverage for report in found],
            recalibrated_interval=[report.recalibrated[1:3] for report in found],
            stale_interval=[report.stale[1:3] for report in found],
            forecast=None if None in forecasts else forecasts,
            confidence_level=first.confidence_level,
            width_name="set size" if first.nonconformity == "lac" else "width",
            name=name,
        )
        return display.plot(
            ax, coverage_kwargs=coverage_kwargs, width_kwargs=width_kwargs
        )

    @classmethod
    def from_predictions(
        cls,
        bits: ArrayLike,
        coverage: ArrayLike,
        width_ratio: ArrayLike,
        *,
        stale: ArrayLike | None = None,
        forecast: ArrayLike | None = None,
        n_samples: ArrayLike | None = None,
        bar_level: float | None = 0.95,
        confidence_level: float = 0.9,
        width_name: str = "width",
        name: str | None = None,
        ax: Any = None,
        coverage_kwargs: dict[str, Any] | None = None,
        width_kwargs: dict[str, Any] | None = None,
    ) -> "QuantizationDisplay":
        """Draw coverages and widths that are there already.

        Parameters
        ----------
        bits : array-like of shape (n_points,)
            Effective bits of a weight, or names.
        coverage : array-like of shape (n_points,)
            Coverage after recalibration, between 0 and 1.
        width_ratio : array-like of shape (n_points,)
            Width after recalibration over that of the float model.
        stale : array-like of shape (n_points,), default=None
            Coverage with the threshold of the float model.
        forecast : array-like of shape (n_points,), default=None
            Forecast of the width ratio.
        n_samples : int or array-like of shape (n_points,), default=None
            Test rows behind each coverage, of which the binomial intervals are made;
            None draws no intervals.
        bar_level : float or None, default=0.95
            Level of those intervals; None draws none.
        confidence_level : float, default=0.9
            Coverage asked for, strictly between 0 and 1.
        width_name : str, default="width"
            What the lower axis calls the ratio of.
        name : str, default=None
            What the legend calls the points.
        ax : sequence of two matplotlib Axes, default=None
            Axes of coverage and of width; None makes a new figure.
        coverage_kwargs : dict, default=None
            Keywords for `Axes.errorbar`, for both kinds of coverage.
        width_kwargs : dict, default=None
            Keywords for `Axes.plot` of the width ratio.

        Returns
        -------
        display : QuantizationDisplay
            The picture drawn.

        See Also
        --------
        QuantizationDisplay.from_reports : From coverage reports.
        """
        check_matplotlib(cls.__name__)
        level = check_drawn_level(bar_level, "bar_level")
        display = cls(
            bits=bits,
            recalibrated=coverage,
            width_ratio=width_ratio,
            stale=stale,
            recalibrated_interval=count_intervals(coverage, n_samples, level),
            stale_interval=count_intervals(stale, n_samples, level),
            forecast=forecast,
            confidence_level=confidence_level,
            width_name=width_name,
            name=name,
        )
        return display.plot(
            ax, coverage_kwargs=coverage_kwargs, width_kwargs=width_kwargs
        )
