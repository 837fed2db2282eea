"""How `ReliabilityDisplay` is drawn, and what diagrams about a diagonal share."""

import textwrap

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.transforms import ScaledTranslation

from uqlib.inspection._mpl_coverage import COLORS, INK, MARKERS
from uqlib.inspection._mpl_intervals import new_axes, styled

# By these names a display finds what earlier ones drew on the same axes.
_REFERENCE, _POINTS = "uqlib-reliability-reference: ", "uqlib-reliability-points"
_LEGEND = "uqlib-legend-below"
_LEGEND_WIDTH = 44  # characters: longer names are broken into lines


def draw_reliability(display, ax, *, name, level, interval, show_shares, styles):
    """Draw accuracy over confidence, and the shares of the rows.

    Parameters
    ----------
    display : ReliabilityDisplay
        Holds the points.
    ax : Axes or None
        None makes a figure.
    name : str or None
        The label of the points.
    level : float or None
        The level of the intervals.
    interval : ndarray of shape (n_points, 2) or None
        Their ends.
    show_shares : bool
        Whether to draw the shares.
    styles : tuple of two dict or None
        Keywords of points and of shares.

    Returns
    -------
    ax, errorbar, shares, reference
        The artists.
    """
    below = legend_is_below(ax)
    ax = ax if ax is not None else new_square_axes()
    x_label, y_label = _axis_labels(display.pos_label, level)
    below_it = "overconfident" if display.pos_label is None else "overestimated"
    reference = _find_reference(ax, y_label) or draw_diagonal(
        ax, f"perfect (below: {below_it})", _REFERENCE + y_label
    )
    style = {
        **series_style(ax, _POINTS),
        "elinewidth": 1.0,
        "label": legend_label(name or "observed", "ECE", display.calibration_error_),
    }
    style = styled(style, styles[0], Line2D)
    shares = (
        _draw_shares(ax, display, style["color"], styles[1]) if show_shares else None
    )
    errorbar = _draw_points(ax, display, interval, style)
    square_axes(ax, x_label, y_label)
    place_legend(ax, below)
    return ax, errorbar, shares, reference


def new_square_axes():
    """Return the axes of a new figure with room for a legend below them.

    Returns
    -------
    Axes
        Empty.
    """
    ax = new_axes(5.2, 5.8)
    # Counts with equal aspects, so that neither title nor legend is cut off.
    ax.figure.set_layout_engine("compressed")
    return ax


def legend_is_below(ax):
    """Return whether the legend belongs below the axes.

    Parameters
    ----------
    ax : Axes or None
        None stands for a figure of our own, where there is room.

    Returns
    -------
    bool
        True also of axes whose legend a display has put there.
    """
    legend = None if ax is None else ax.get_legend()
    return ax is None or (legend is not None and legend.get_gid() == _LEGEND)


def place_legend(ax, below):
    """Put the legend below the axes, or inside where it hides least.

    Parameters
    ----------
    ax : Axes
        With all that is drawn.
    below : bool
        Else inside: next to axes of the user's there may be no room.
    """
    style = {"fontsize": "small", "framealpha": 0.8, "edgecolor": "none"}
    if not below:
        ax.legend(loc="best", **style)
        return
    # Under the label of the x axis, in units of its letters.
    drop = -3.8 * ax.xaxis.label.get_fontsize() / 72
    place = ax.transAxes + ScaledTranslation(0, drop, ax.figure.dpi_scale_trans)
    anchor = {"bbox_to_anchor": (0, 0), "bbox_transform": place, "borderaxespad": 0}
    ax.legend(loc="upper left", **anchor, **style).set_gid(_LEGEND)


def series_style(ax, gid):
    """Return the look of the next of several models on the same axes.

    Parameters
    ----------
    ax : Axes
        May hold lines of that name.
    gid : str
        The name of the lines of points.

    Returns
    -------
    dict
        Keywords of a line with markers.
    """
    series = sum(line.get_gid() == gid for line in ax.lines)
    return {
        "color": COLORS[series % len(COLORS)],
        "marker": MARKERS[series % len(MARKERS)],
        "markersize": 5.5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
        "linewidth": 1.2,
        "zorder": 3,
    }


def draw_diagonal(ax, label, gid):
    """Draw the dashed line from (0, 0) to (1, 1).

    Parameters
    ----------
    ax : Axes
        To draw on.
    label : str
        What the legend calls it.
    gid : str
        By which it is found again.

    Returns
    -------
    Line2D
        The line.
    """
    (line,) = ax.plot(
        [0, 1], [0, 1], color=INK, linewidth=1, linestyle="--", label=label, zorder=1.2
    )
    line.set_gid(gid)
    return line


def square_axes(ax, x_label, y_label):
    """Make axes on which both directions are shares.

    Parameters
    ----------
    ax : Axes
        To be set.
    x_label, y_label : str
        Its labels.
    """
    ax.set(
        xlabel=x_label,
        ylabel=y_label,
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        aspect="equal",
    )
    ax.spines[["top", "right"]].set_visible(False)


def legend_label(name, quantity, value):
    """Return a name with its number, broken into lines if long.

    Parameters
    ----------
    name : str
        Of the model.
    quantity : str
        What the number is.
    value : float or None
        At least 0; None for no number.

    Returns
    -------
    str
        As "Ridge (area 0.021)".
    """
    if value is not None:
        number = "< 0.001" if 0 < value < 0.0005 else f"{value:.3f}"
        # No line is broken within the parentheses.
        name = f"{name} " + f"({quantity} {number})".replace(" ", "\xa0")
    return textwrap.fill(name, _LEGEND_WIDTH).replace("\xa0", " ")


def _draw_points(ax, display, interval, style):
    bars = None
    if interval is not None:
        accuracy = display.accuracy
        # Rounding may put an end a hair to the wrong side.
        bars = np.maximum([accuracy - interval[:, 0], interval[:, 1] - accuracy], 0)
    errorbar = ax.errorbar(display.confidence, display.accuracy, yerr=bars, **style)
    if errorbar[0] is not None:
        errorbar[0].set_gid(_POINTS)
    return errorbar


def _draw_shares(ax, display, color, kwargs):
    first = not any(line.get_gid() == _POINTS for line in ax.lines)
    given = styled({}, kwargs, Rectangle)
    color = given.pop("color", color)
    style = {
        "facecolor": to_rgba(color, 0.15),
        # The edge is all that is seen of a range that is a single probability.
        "edgecolor": to_rgba(color, 0.4),
        "linewidth": 0.8,
        "label": "share of rows" if first else "_nolegend_",
        "zorder": 1,
    }
    left, right = display.edges.T
    height = display.weight / display.weight.sum()
    width = right - left
    return ax.bar(left, height, width, align="edge", **{**style, **given})


def _axis_labels(pos_label, level):
    x_label, y_label = "Confidence (probability of the top label)", "Accuracy"
    if pos_label is not None:
        label = str(pos_label)
        label = label if len(label) <= 20 else f"{label[:19]}…"
        x_label, y_label = f"Probability of class {label}", f"Share of class {label}"
    if level is not None:
        y_label += f", {100 * level:.10g} % binomial intervals"
    return x_label, y_label


def _find_reference(ax, y_label):
    """Return the diagonal of an earlier display; refuse one of something else."""
    for line in ax.lines:
        gid = str(line.get_gid())
        if gid.startswith(_REFERENCE):
            if gid == _REFERENCE + y_label:
                return line
            raise ValueError(
                f"ax holds a diagram of {gid.removeprefix(_REFERENCE)!r}, but this "
                f"display is of {y_label!r}. Draw it on other axes."
            )
    return None
