"""How `QuantileCalibrationDisplay` is drawn."""

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D

from uqlib.inspection._mpl_intervals import styled
from uqlib.inspection._mpl_reliability import (
    draw_diagonal,
    legend_is_below,
    legend_label,
    new_square_axes,
    place_legend,
    series_style,
    square_axes,
)

# By these names a display finds what earlier ones drew on the same axes.
_REFERENCE = "uqlib-quantile-calibration-reference"
_BAND = "uqlib-quantile-calibration-band"
_CURVE = "uqlib-quantile-calibration-curve"
# Of the bands for several numbers of rows.
_GRAYS = ("#E2E2E2", "#BDBDBD", "#989898")


def draw_quantile_calibration(display, ax, *, name, level, band, styles):
    """Draw observed shares over quantile levels.

    Parameters
    ----------
    display : QuantileCalibrationDisplay
        Holds the points.
    ax : Axes or None
        None makes a figure.
    name : str or None
        The label of the points.
    level : float or None
        The level of the band.
    band : tuple of ndarray of shape (n_levels,) and (n_levels, 2), or None
        Where the band is, and its ends.
    styles : tuple of two dict or None
        Keywords of curve and of band.

    Returns
    -------
    ax, line, band, reference
        The artists.
    """
    below = legend_is_below(ax)
    ax = ax if ax is not None else new_square_axes()
    reference = _find(ax.lines, _REFERENCE) or draw_diagonal(
        ax, "perfect (above: too high)", _REFERENCE
    )
    drawn_band = None
    if band is not None:
        drawn_band = _draw_band(ax, display.n_samples, level, band, styles[1])
    line = _draw_curve(ax, display, name, styles[0])
    square_axes(ax, "Quantile level", "Share of targets at most the quantile")
    place_legend(ax, below)
    return ax, line, drawn_band, reference


def _draw_curve(ax, display, name, kwargs):
    x, y = (np.r_[0, v, 1] for v in (display.quantiles, display.observed))
    style = {
        **series_style(ax, _CURVE),
        "markevery": slice(1, -1),
        "label": legend_label(name or "observed", "area", display.area),
    }
    (line,) = ax.plot(x, y, **styled(style, kwargs, Line2D))
    line.set_gid(_CURVE)
    return line


def _draw_band(ax, n_samples, level, band, kwargs):
    # The same law, the same band.
    gid = f"{_BAND} {n_samples} {level}"
    drawn = _find(ax.collections, gid)
    if drawn is not None:
        return drawn
    n_bands = sum(str(c.get_gid()).startswith(_BAND) for c in ax.collections)
    style = {
        "color": _GRAYS[min(n_bands, len(_GRAYS) - 1)],
        "alpha": 0.8,
        "linewidth": 0,
        "label": f"{100 * level:.10g} % of true quantiles (n = {n_samples})",
        "zorder": 1 + 0.01 * n_bands,
    }
    tau, ends = band
    drawn = ax.fill_between(tau, *ends.T, **styled(style, kwargs, PolyCollection))
    drawn.set_gid(gid)
    return drawn


def _find(artists, gid):
    return next((artist for artist in artists if artist.get_gid() == gid), None)
