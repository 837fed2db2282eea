"""How `PredictionIntervalDisplay` is drawn, and what both displays share."""

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cbook import normalize_kwargs
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from uqlib._core.losses import covered

# From Okabe and Ito's palette: distinct for every kind of color vision.
_BLUE, PALE_BLUE, _VERMILLION, INK = "#0072B2", "#A9CCE3", "#D55E00", "#222222"
# An infinite bar ends this many heights of the data outside: out of sight even
# after the user has zoomed out.
_FAR = 100.0


class IntervalArtists(NamedTuple):
    """What was drawn."""

    ax: Any
    intervals: LineCollection
    hits: Line2D
    misses: Line2D
    prediction: Line2D | None
    infinite: tuple[Line2D, Line2D] | None


def draw_intervals(display, ax, *, rows, ranks, styles):
    """Draw rows of a `PredictionIntervalDisplay` at their ranks.

    Parameters
    ----------
    display : PredictionIntervalDisplay
        Holds the arrays over all rows.
    ax : Axes or None
        None makes a figure.
    rows : ndarray of shape (n_drawn,)
        The rows to draw.
    ranks : ndarray of shape (n_drawn,)
        Where they stand among all rows in sorted order, from 1.
    styles : tuple of three dict or None
        Keywords of bars, hits and misses.

    Returns
    -------
    IntervalArtists
        The artists.
    """
    ax = ax if ax is not None else new_axes(7.5, 4.5)
    y_true, y_interval = display.y_true[rows], display.y_interval[rows]
    inside = covered(y_true, y_interval)
    room = ax.bbox.width / ax.figure.dpi * 72 / rows.size  # points a row
    bars, hit, miss = _with_defaults(display, room, styles)

    intervals = _draw_bars(ax, ranks, y_true, y_interval, bars)
    prediction = _draw_prediction(ax, display, rows, ranks)
    (hits,) = ax.plot(ranks[inside], y_true[inside], **hit)
    (misses,) = ax.plot(ranks[~inside], y_true[~inside], **miss)
    infinite = _draw_arrowheads(ax, display, ranks, y_interval, room)

    _label_axes(ax, display, rows.size)
    handles = [intervals, prediction, hits, misses, infinite and infinite[1]]
    title = None
    if rows.size < display.y_true.size:
        title = f"shares of all {display.y_true.size} rows"
    legend_above(ax, [h for h in handles if h is not None], 3, title)
    return IntervalArtists(ax, intervals, hits, misses, prediction, infinite)


def new_axes(width, height):
    """Return the axes of a new figure.

    Parameters
    ----------
    width, height : float
        In inches.

    Returns
    -------
    Axes
        Empty.
    """
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def styled(defaults, kwargs, artist):
    """Return the user's keywords over the defaults, whatever alias they go by.

    Parameters
    ----------
    defaults : dict
        In canonical names.
    kwargs : dict or None
        The user's.
    artist : type
        The artist that knows the aliases.

    Returns
    -------
    dict
        Both.
    """
    return {**defaults, **normalize_kwargs(kwargs or {}, artist)}


def share(value):
    """Return a share as a percentage that is 0 or 100 only if the share is.

    Parameters
    ----------
    value : float
        Between 0 and 1.

    Returns
    -------
    str
        With one decimal: "9.8 %".
    """
    if 0 < value < 0.0005:
        return "< 0.1 %"
    if 0.9995 < value < 1:
        return "> 99.9 %"
    return f"{100 * value:.1f} %"


def legend_above(ax, handles, n_columns, title=None):
    """Put a legend inside the axes, above all that is drawn.

    Parameters
    ----------
    ax : Axes
        Its upper limit is raised by the height of the legend, unless it is fixed.
    handles : list of artists
        With their labels.
    n_columns : int
        Columns of the legend.
    title : str, default=None
        A line above the entries.
    """
    legend = ax.legend(
        handles=handles,
        title=title,
        ncols=n_columns,
        loc="upper left",
        fontsize="small",
        title_fontsize="small",
        alignment="left",
        columnspacing=1.4,
        handletextpad=0.5,
        borderaxespad=0.4,
        frameon=True,
        framealpha=0.8,
        edgecolor="none",
    )
    for handle in legend.legend_handles:  # those of many rows are too small to read
        if isinstance(handle, Line2D):
            handle.set_markersize(max(handle.get_markersize(), 4.5))
        elif isinstance(handle, LineCollection):
            handle.set_linewidth(max(handle.get_linewidth()[0], 1.5))
    if not ax.get_autoscaley_on():  # limits that the user has set
        return
    lines = -(-len(handles) // n_columns) + (title is not None)
    points = (1.5 * lines + 1.2) * legend.get_texts()[0].get_fontsize()
    taken = min(points / 72 * ax.figure.dpi / ax.bbox.height, 0.5)
    low, high = ax.get_ylim()
    # auto=None: whoever draws here later still gets limits that fit.
    ax.set_ylim(low, high + (high - low) * taken / (1 - taken), auto=None)


def _with_defaults(display, room, styles):
    level = display.confidence_level
    bars = {
        "color": PALE_BLUE,
        "linewidth": np.clip(0.55 * room, 0.7, 6.0),
        "label": "interval" if level is None else f"{100 * level:.10g} % interval",
        "zorder": 1.5,
    }
    size = float(np.clip(0.9 * room, 2.4, 5.5))
    hits = {
        "color": _BLUE,
        "marker": "o",
        "markersize": size,
        "linestyle": "none",
        "markeredgewidth": 0,
        "label": f"inside ({share(display.coverage_)})",
    }
    misses = {
        "color": _VERMILLION,
        "marker": "X",
        "markersize": size + 3.0,
        "linestyle": "none",
        "markeredgecolor": "white",
        "markeredgewidth": 0.5,
        "label": f"misses ({share(1 - display.coverage_)})",
        "zorder": 3,
    }
    return (
        styled(bars, styles[0], LineCollection),
        styled(hits, styles[1], Line2D),
        styled(misses, styles[2], Line2D),
    )


def _draw_bars(ax, ranks, y_true, y_interval, style):
    finite = np.concatenate([y_true, y_interval[np.isfinite(y_interval)]])
    low, high = finite.min(), finite.max()
    far = _FAR * ((high - low) or max(abs(high), 1.0))
    ends = np.clip(y_interval, low - far, high + far)
    x = np.broadcast_to(ranks[:, None], ends.shape)
    bars = LineCollection(np.stack([x, ends], axis=2), **style)
    # Infinite ends do not count for the limits; finite ones do.
    ax.add_collection(bars, autolim=False)
    step = (ranks[-1] - ranks[0]) / max(ranks.size - 1, 1) or 1.0
    ax.update_datalim([(ranks[0] - step / 2, low), (ranks[-1] + step / 2, high)])
    ax.autoscale_view()
    return bars


def _draw_prediction(ax, display, rows, ranks):
    if display.y_pred is None:
        return None
    style = {"color": INK, "linewidth": 1.1, "label": "prediction", "zorder": 1.8}
    return ax.plot(ranks, display.y_pred[rows], **style)[0]


def _draw_arrowheads(ax, display, ranks, y_interval, room):
    unbounded = int(np.isinf(display.y_interval).any(axis=1).sum())
    if unbounded == 0:
        return None
    style = {
        "color": _BLUE,
        "markersize": float(np.clip(room, 4.0, 6.0)),
        "linestyle": "none",
        "markeredgewidth": 0,
        "transform": ax.get_xaxis_transform(),  # y from 0 to 1 over the axes
        "clip_on": False,
        "zorder": 4,
    }
    label = f"infinite bound ({unbounded} of {display.y_true.size} rows)"
    down, up = (np.isinf(end) for end in y_interval.T)
    return (
        ax.plot(ranks[down], np.zeros(down.sum()), marker="v", **style)[0],
        ax.plot(ranks[up], np.ones(up.sum()), marker="^", label=label, **style)[0],
    )


def _label_axes(ax, display, n_drawn):
    n_samples = display.y_true.size
    by = "interval midpoint" if display.y_pred is None else "prediction"
    drawn = "" if n_drawn == n_samples else f" ({n_drawn} of {n_samples} drawn)"
    ax.set(xlabel=f"Row, sorted by {by}{drawn}", ylabel="Target")
    ax.margins(x=0.02)
    locator = ax.xaxis.get_major_locator()
    if isinstance(locator, MaxNLocator):
        locator.set_params(integer=True)
    ax.spines[["top", "right"]].set_visible(False)
