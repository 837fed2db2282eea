"""How `CoverageDisplay` is drawn, by level and by group."""

import numpy as np
from matplotlib.lines import Line2D

from uqlib.inspection._mpl_intervals import legend_above, new_axes, styled

# Okabe and Ito's palette: distinct for every kind of color vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
MARKERS = ("o", "s", "D", "^", "v")
# By these names a display finds what earlier ones drew on the same axes.
_REFERENCE, _POINTS = "uqlib-coverage-reference", "uqlib-coverage-points"
INK, GRAY = "#222222", "#666666"


def draw_levels(display, ax, name, kwargs):
    """Draw obtained over nominal coverage.

    Parameters
    ----------
    display : CoverageDisplay
        Without labels.
    ax : Axes or None
        None makes a figure.
    name : str or None
        The label of the points.
    kwargs : dict
        Keywords for `Axes.errorbar`.

    Returns
    -------
    ax, errorbar, reference
        The artists.
    """
    ax = ax if ax is not None else new_axes(5.2, 5.0)
    _refuse_other_picture(ax, None)
    reference = _find(ax, _REFERENCE) or _draw_diagonal(ax)
    apart = 0.008 * _place(ax)  # along the diagonal: the distance to it is the message
    x, y = display.nominal + apart, display.obtained + apart
    errorbar = _draw_points(ax, display, x, y, "y", name, kwargs)
    ax.set(
        xlabel="Nominal coverage",
        ylabel="Obtained coverage (± 2 standard errors)",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        aspect="equal",
    )
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="lower right", fontsize="small", frameon=False)
    return ax, errorbar, reference


def draw_groups(display, ax, name, kwargs):
    """Draw one row of the picture for each group, its coverage along x.

    Parameters
    ----------
    display : CoverageDisplay
        With labels.
    ax : Axes or None
        None makes a figure.
    name : str or None
        The label of the points.
    kwargs : dict
        Keywords for `Axes.errorbar`.

    Returns
    -------
    ax, errorbar, reference
        The artists.
    """
    n_groups = len(display.labels)
    if ax is None:
        ax = new_axes(6.4, float(np.clip(1.5 + 0.36 * n_groups, 2.4, 12.0)))
    ticks = _tick_labels(display)
    _refuse_other_picture(ax, ticks)
    y = np.arange(n_groups)
    reference = _draw_nominal(ax, display, y)
    place = y + 0.17 * _place(ax)
    errorbar = _draw_points(ax, display, display.obtained, place, "x", name, kwargs)
    ax.set_yticks(y, ticks)
    ax.set_xlabel("Obtained coverage (± 2 standard errors)")
    ax.set_ylim(n_groups - 0.4, -0.6, auto=None)  # the first group on top
    _limit_to_shares(ax)
    ax.grid(axis="x", color="#E6E6E6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    legend_above(ax, ax.get_legend_handles_labels()[0], 2)
    return ax, errorbar, reference


def _draw_points(ax, display, x, y, along, name, kwargs):
    series = _count_points(ax)
    color = COLORS[series % len(COLORS)]
    defaults = {
        "color": color,
        "marker": MARKERS[series % len(MARKERS)],
        "markersize": 5.5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
        "linestyle": "-" if along == "y" else "none",
        "linewidth": 1.2,
        "elinewidth": 1.4,
        "capsize": 0 if along == "y" else 2.5,
        "label": name or "obtained",
        "zorder": 3,
    }
    # No bar leaves the range of a share.
    two = 2 * display.standard_error
    bars = [np.minimum(two, display.obtained), np.minimum(two, 1 - display.obtained)]
    errorbar = ax.errorbar(
        x, y, **{f"{along}err": bars}, **styled(defaults, kwargs, Line2D)
    )
    if errorbar[0] is not None:
        errorbar[0].set_gid(_POINTS)
    return errorbar


def _draw_diagonal(ax):
    (line,) = ax.plot(
        [0, 1],
        [0, 1],
        color=INK,
        linewidth=1,
        linestyle="--",
        label="nominal",
        zorder=1,
    )
    line.set_gid(_REFERENCE)
    style = {"transform": ax.transAxes, "color": GRAY, "fontsize": "small"}
    ax.text(0.04, 0.96, "covers more than asked", va="top", **style)
    ax.text(0.96, 0.40, "covers less than asked", ha="right", **style)
    return line


def _draw_nominal(ax, display, y):
    levels = np.unique(display.nominal)
    label = f"nominal ({levels[0]:.10g})" if levels.size == 1 else "nominal"
    drawn = _find(ax, _REFERENCE)
    if drawn is not None and drawn.get_label() == label:
        return drawn
    whole = levels.size == 1
    lines = ax.vlines(
        levels if whole else display.nominal,
        -0.6 if whole else y - 0.5,
        y.size - 0.4 if whole else y + 0.5,
        color=INK,
        linewidth=1,
        linestyle="--",
        label=label,
        zorder=1,
    )
    lines.set_gid(_REFERENCE)
    return lines


def _tick_labels(display):
    if display.n_samples is None:
        return [str(label) for label in display.labels]
    pairs = zip(display.labels, display.n_samples, strict=True)
    return [f"{label} (n = {n})" for label, n in pairs]


def _place(ax):
    """Where the next of several models stands: 0, then 1, -1, 2, -2, ... steps off."""
    series = _count_points(ax)
    return (series + 1) // 2 * (1 if series % 2 else -1)


def _find(ax, gid):
    found = [a for a in (*ax.lines, *ax.collections) if a.get_gid() == gid]
    return found[-1] if found else None


def _count_points(ax):
    return sum(line.get_gid() == _POINTS for line in ax.lines)


def _limit_to_shares(ax):
    """Fit the x axis to the bars, with no room for shares that cannot be."""
    low, high = ax.dataLim.intervalx
    pad = 0.06 * ((high - low) or 1.0)
    # A little room at 0 and 1 keeps whole markers visible.
    ax.set_xlim(max(low - pad, -0.3 * pad), min(high + pad, 1 + 0.3 * pad))


def _refuse_other_picture(ax, ticks):
    """Refuse axes that hold a CoverageDisplay of another kind or of other groups."""
    if _count_points(ax) == 0:
        return
    there = [label.get_text() for label in ax.get_yticklabels()]
    if isinstance(_find(ax, _REFERENCE), Line2D):
        there = None
    if there != ticks:
        raise ValueError(
            f"ax holds coverage {_kind(there)}, but this display is {_kind(ticks)}. "
            "Draw it on other axes."
        )


def _kind(ticks):
    return "by level" if ticks is None else f"by group {ticks}"
