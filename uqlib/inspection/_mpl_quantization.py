"""How `QuantizationDisplay` is drawn: coverage above, width below."""

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from uqlib.inspection._mpl_coverage import COLORS, GRAY, INK, MARKERS
from uqlib.inspection._mpl_intervals import styled

# By these names a display finds what earlier ones drew on the same axes.
_REFERENCE, _POINTS = "uqlib-quantization-nominal", "uqlib-quantization-points"
# Half of what stale and recalibrated points stand apart, so that both bars are seen.
_DOUBLINGS, _OF_A_NAME = 0.022, 0.06
_ROOM = 60  # characters of names that stand beside one another


class QuantizationArtists(NamedTuple):
    """What was drawn."""

    ax: Any
    recalibrated: Any
    stale: Any
    width: Line2D
    forecast: Line2D | None
    reference: Line2D


def draw_quantization(display, ax, *, name, coverage_kwargs, width_kwargs):
    """Draw both axes.

    Parameters
    ----------
    display : QuantizationDisplay
        Holds the numbers.
    ax : sequence of two Axes or None
        None makes a figure.
    name : str or None
        The label of the points.
    coverage_kwargs, width_kwargs : dict or None
        Keywords for `Axes.errorbar` and `Axes.plot`.

    Returns
    -------
    QuantizationArtists
        The artists.
    """
    upper, lower = axes = _pair_of_axes(ax)
    series = sum(line.get_gid() == _POINTS for line in upper.lines)
    place = _places(display, axes, series)
    turn = (series + 1) // 2 * (1 if series % 2 else -1)  # 0, 1, -1, 2, -2, ...
    middle = 3 * turn
    reference = _draw_references(display, upper, lower)
    style = {
        "color": COLORS[series % len(COLORS)],
        "marker": MARKERS[series % len(MARKERS)],
        "markersize": 5.5,
        "linestyle": "none" if _named(display) else "-",
        "zorder": 3,
    }
    named = "" if name is None else f"{name}, "
    stale = None
    if display.stale is not None:
        hollow = {**style, "markerfacecolor": "white", "zorder": 2.5}
        hollow |= {"label": f"{named}stale threshold"}
        hollow |= {} if _named(display) else {"linestyle": ":"}
        stale = _draw_coverage(
            upper,
            _apart(display, place, middle - 1),
            display.stale,
            display.stale_interval,
            hollow,
            coverage_kwargs,
        )
    recalibrated = _draw_coverage(
        upper,
        _apart(display, place, middle + 1),
        display.recalibrated,
        display.recalibrated_interval,
        {**style, "label": f"{named}recalibrated"},
        coverage_kwargs,
    )
    recalibrated[0].set_gid(_POINTS)
    width, forecast = _draw_widths(display, lower, place, style, name, width_kwargs)
    _label_axes(display, upper, lower)
    return QuantizationArtists(axes, recalibrated, stale, width, forecast, reference)


def _pair_of_axes(ax):
    if ax is None:
        _, ax = plt.subplots(
            2,
            1,
            figsize=(6.0, 6.0),
            sharex=True,
            height_ratios=(3, 2),
            layout="constrained",
        )
    axes = np.asarray(ax, dtype=object).ravel()
    if axes.size != 2 or not all(hasattr(a, "errorbar") for a in axes):
        raise ValueError(
            "ax must be a pair of Axes, for coverage and for width, got "
            f"{type(ax).__name__}. Pass for example plt.subplots(2, 1, sharex=True)[1]."
        )
    return axes


def _named(display):
    return display.bits.dtype == object


def _places(display, axes, series):
    """Return where the points stand, and set scale and ticks of the x axis."""
    there = [label.get_text() for label in axes[1].get_xticklabels()]
    if _named(display):
        names = display.bits.tolist()
        if series and there != names:
            raise ValueError(
                f"ax holds the names {there}, but this display has {names}. Draw it on "
                "other axes."
            )
        place = np.arange(len(names), dtype=float)
        for ax in axes:
            ax.set_xticks(place, names)
            ax.set_xlim(-0.5, len(names) - 0.5)
            if sum(map(len, names)) > _ROOM:
                ax.tick_params(axis="x", labelrotation=30)
        return place
    if series and axes[1].get_xscale() != "log":
        raise ValueError(
            f"ax holds the names {there}, but this display has bits. Draw it on other "
            "axes."
        )
    for ax in axes:
        known = ax.xaxis.get_majorticklocs() if series else []
        ax.set_xscale("log", base=2)
        ticks = np.union1d(known, display.bits)
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    return display.bits


def _apart(display, place, step):
    if _named(display):
        return place + _OF_A_NAME * step
    return place * 2.0 ** (_DOUBLINGS * step)


def _draw_references(display, upper, lower):
    label = f"nominal ({display.confidence_level:.10g})"
    earlier = [line for line in upper.lines if line.get_gid() == _REFERENCE]
    if earlier:
        if earlier[0].get_label() != label:
            raise ValueError(
                f"ax holds coverage that is {earlier[0].get_label()}, but this display "
                f"is {label}. Draw it on other axes."
            )
        return earlier[0]
    style = {"color": INK, "linewidth": 1, "linestyle": "--", "zorder": 1}
    reference = upper.axhline(display.confidence_level, label=label, **style)
    reference.set_gid(_REFERENCE)
    lower.axhline(1.0, label="float model", **style)
    return reference


def _draw_coverage(ax, x, coverage, interval, style, kwargs):
    order = np.argsort(x, kind="stable")
    bars = None
    if interval is not None:
        bars = np.abs(interval - coverage[:, None])[order].T
    defaults = {"linewidth": 1.2, "elinewidth": 1.4, "capsize": 2.5, **style}
    return ax.errorbar(
        x[order], coverage[order], yerr=bars, **styled(defaults, kwargs, Line2D)
    )


def _draw_widths(display, ax, place, style, name, kwargs):
    order = np.argsort(place, kind="stable")
    finite = np.where(np.isfinite(display.width_ratio), display.width_ratio, np.nan)
    defaults = {**style, "linewidth": 1.2, "label": name or "recalibrated"}
    (width,) = ax.plot(place[order], finite[order], **styled(defaults, kwargs, Line2D))
    if display.forecast is None:
        return width, None
    forecast = np.where(np.isfinite(display.forecast), display.forecast, np.nan)
    named = "" if name is None else f"{name}, "
    (line,) = ax.plot(
        place[order],
        forecast[order],
        color=width.get_color(),
        marker="_",
        markersize=9,
        linestyle="none" if _named(display) else ":",
        linewidth=1.0,
        label=f"{named}forecast from drift",
        zorder=2.5,
    )
    return width, line


def _label_axes(display, upper, lower):
    upper.set_ylabel("Coverage of test rows")
    lower.set_ylabel(f"Mean {display.width_name} / float model's")
    if not _named(display):
        lower.set_xlabel("Effective bits of a weight")
    for ax in (upper, lower):
        ax.grid(axis="y", color="#E6E6E6", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(axis="x", colors=GRAY, labelcolor=INK)
        ax.legend(loc="best", fontsize="small", frameon=False)
