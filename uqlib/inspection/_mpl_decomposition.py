"""How `UncertaintyDecompositionDisplay` is drawn, as points and as bars."""

import textwrap
from typing import Any, NamedTuple

import numpy as np
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.ticker import MaxNLocator

from uqlib.inspection._coverage_points import check_groups
from uqlib.inspection._mpl_coverage import COLORS, GRAY, INK, MARKERS
from uqlib.inspection._mpl_intervals import PALE_BLUE, legend_above, new_axes, styled

# By these names a display finds what earlier ones drew on the same axes.
_POINTS, _BARS = "uqlib-decomposition-points", "uqlib-decomposition-bars"
_LEGEND_WIDTH = 40  # characters: longer names are broken into lines
# On a log scale what is smaller than this part of the largest value counts as zero.
_NEGLIGIBLE = 1e-6
_FILL = {"aleatoric": PALE_BLUE, "epistemic": "#E69F00"}


class DecompositionArtists(NamedTuple):
    """What was drawn."""

    ax: Any
    points: list[PathCollection]
    bars: tuple[PolyCollection, PolyCollection] | None
    colorbar: Any


def draw_scatter(display, ax, *, rows, name, scale, kwargs):
    """Draw one point a row, aleatoric along x.

    Parameters
    ----------
    display : UncertaintyDecompositionDisplay
        Holds the arrays over all rows.
    ax : Axes or None
        None makes a figure.
    rows : ndarray of shape (n_drawn,)
        The rows to draw.
    name : str or None
        The label of the rows.
    scale : {"linear", "log"}
        Of both axes.
    kwargs : dict or None
        Keywords for `Axes.scatter`.

    Returns
    -------
    DecompositionArtists
        The artists.
    """
    ax = ax if ax is not None else new_axes(5.8, 4.6)
    _refuse_bars(ax)
    colored = display.errors is not None and display.errors.dtype.kind != "b"
    if colored:
        points, colorbar = _draw_by_error(ax, display, rows, name, kwargs)
    else:
        points, colorbar = _draw_by_label(ax, display, rows, name, kwargs), None
    _set_scales(ax, scale)
    ax.set(
        xlabel=_with_unit("Aleatoric uncertainty", display.unit[0]),
        ylabel=_with_unit("Epistemic uncertainty", display.unit[1]),
    )
    ax.spines[["top", "right"]].set_visible(False)
    _draw_legend(ax)
    return DecompositionArtists(ax, points, None, colorbar)


def draw_bars(display, ax, *, rows, ranks, name, styles):
    """Draw the epistemic bar of each row over its aleatoric one.

    Parameters
    ----------
    display : UncertaintyDecompositionDisplay
        Holds the arrays over all rows.
    ax : Axes or None
        None makes a figure.
    rows : ndarray of shape (n_drawn,)
        The rows to draw.
    ranks : ndarray of shape (n_drawn,)
        Where they stand among all rows in sorted order, from 1.
    name : str or None
        What the rows are called.
    styles : tuple of three dict or None
        Keywords of aleatoric bars, epistemic bars and points.

    Returns
    -------
    DecompositionArtists
        The artists.
    """
    ax = ax if ax is not None else new_axes(7.5, 4.5)
    if any(c.get_gid() in (_BARS, _POINTS) for c in ax.collections):
        raise ValueError(
            "ax holds an UncertaintyDecompositionDisplay, which bars would hide. Draw "
            "them on other axes."
        )
    aleatoric, epistemic = display.aleatoric[rows], display.epistemic[rows]
    total = aleatoric + epistemic
    lower = _add_bars(ax, ranks, 0 * total, aleatoric, "aleatoric", styles[0])
    upper = _add_bars(ax, ranks, aleatoric, total, "epistemic", styles[1])
    points = _draw_errors(ax, display, rows, ranks, total, styles[2])
    _label_bars(ax, display, rows.size, name)
    handles = [lower, upper, *points]
    legend_above(ax, handles, 3)
    return DecompositionArtists(ax, points, (lower, upper), None)


def _draw_by_error(ax, display, rows, name, kwargs):
    rows = rows[np.argsort(display.errors[rows], kind="stable")]  # the largest on top
    earlier = [c for c in _points_on(ax) if c.get_array() is not None]
    style = {
        "c": display.errors[rows],
        "cmap": "viridis",
        "marker": MARKERS[len(_points_on(ax)) % len(MARKERS)],
        "label": _label(name, rows.size, display.errors.size),
    }
    if earlier:  # the same color is the same error
        style |= {"cmap": earlier[0].get_cmap(), "norm": earlier[0].norm}
    points = _scatter(ax, display, rows, style, kwargs, rows.size)
    if points.get_array() is None:  # the user chose one color
        return [points], None
    if earlier and points.norm is earlier[0].norm:
        values = np.concatenate([c.get_array() for c in [*earlier, points]])
        points.norm.vmin, points.norm.vmax = values.min(), values.max()
        return [points], None
    label = display.error_name[:1].upper() + display.error_name[1:]
    return [points], ax.figure.colorbar(points, ax=ax, label=label)


def _draw_by_label(ax, display, rows, name, kwargs):
    series, points = len(_points_on(ax)), []
    labels, code = _labels_of(display)
    for k, label in enumerate(labels):
        drawn = rows[code[rows] == k]
        turn = (series + k) // len(COLORS)  # no two of 25 look the same
        text = ": ".join(str(t) for t in (name, label) if t is not None)
        style = {
            "facecolor": COLORS[(series + k) % len(COLORS)],
            "marker": MARKERS[(series + k + turn) % len(MARKERS)],
            "alpha": 0.8 if len(labels) > 1 else None,
            "label": _label(text, drawn.size, int(np.sum(code == k))),
        }
        if label == "wrong" and display.errors is not None:
            style["marker"] = "X"
        points.append(_scatter(ax, display, drawn, style, kwargs, rows.size))
    return points


def _labels_of(display):
    """Return what points are told apart by, and the index of each row's."""
    if display.mondrian_groups is not None:
        return check_groups(display.mondrian_groups, display.aleatoric.size)
    if display.errors is not None:
        return ("right", "wrong"), display.errors.astype(int)
    return (None,), np.zeros(display.aleatoric.size, dtype=int)


def _scatter(ax, display, rows, style, kwargs, n_drawn):
    size = 150 / np.sqrt(n_drawn)  # less than the room of a point in a full picture
    defaults = {
        "s": float(np.clip(size, 3.4, 6.0)) ** 2,
        "edgecolor": "white",
        "linewidth": 0.4,
        "zorder": 2,
        **style,
    }
    given = styled({}, kwargs, PathCollection)
    if {"c", "color", "facecolor"} & set(given):
        for key in ("c", "facecolor", "cmap", "norm"):
            defaults.pop(key, None)
    if {"vmin", "vmax"} & set(given):
        defaults.pop("norm", None)
    points = ax.scatter(
        display.aleatoric[rows], display.epistemic[rows], **{**defaults, **given}
    )
    points.set_gid(_POINTS)
    return points


def _label(text, n_drawn, n_samples):
    """Return a label with the number of rows; one that is hidden if it says nothing."""
    if n_drawn < n_samples:
        number = f"{n_drawn} of {n_samples} rows"
    elif text:
        number = f"{n_samples} rows"
    else:
        return "_rows"
    label = f"{text} ({number})" if text else number
    return textwrap.fill(label, _LEGEND_WIDTH)


def _set_scales(ax, scale):
    offsets = np.concatenate([c.get_offsets() for c in _points_on(ax)])
    for axis, values in zip((ax.xaxis, ax.yaxis), offsets.T, strict=True):
        _set_scale(axis, scale, np.asarray(values))
    ax.autoscale_view()


def _set_scale(axis, scale, values):
    """Set the scale of an axis so that every value that may be zero has its place."""
    setter = getattr(axis.axes, f"set_{axis.axis_name}scale")
    positive = values[values > 0]
    if scale == "linear" or positive.size == 0:
        setter("linear")
        return
    least = max(positive.min(), _NEGLIGIBLE * positive.max())
    if values.min() >= least:
        setter("log")
    else:  # from a power of ten on, so that the strip holds no tick but that of 0
        setter("symlog", linthresh=10.0 ** np.floor(np.log10(least)))


def _draw_legend(ax):
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return
    legend = ax.legend(
        handles,
        labels,
        loc="best",
        fontsize="small",
        frameon=True,
        framealpha=0.8,
        edgecolor="none",
        borderaxespad=0.4,
        handletextpad=0.3,
    )
    for entry in legend.legend_handles:
        if isinstance(entry, PathCollection) and entry.get_array() is not None:
            entry.set_array(None)  # its marker tells, its color is no error
            entry.set_facecolor(GRAY)


def _add_bars(ax, ranks, low, high, label, kwargs):
    # A bar reaches half of the way to its neighbors.
    middle = (ranks[1:] + ranks[:-1]) / 2
    left = np.concatenate([[ranks[0] - 0.5], middle])
    right = np.concatenate([middle, [ranks[-1] + 0.5]])
    corners = [(left, low), (left, high), (right, high), (right, low)]
    defaults = {
        "facecolor": _FILL[label],
        "linewidth": 0,
        "antialiased": False,  # no seams between neighbors
        "label": label,
        "zorder": 1.5,
    }
    given = styled({}, kwargs, PolyCollection)
    if "color" in given:
        defaults.pop("facecolor")
    vertices = np.stack([np.column_stack(corner) for corner in corners], axis=1)
    bars = PolyCollection(vertices, **{**defaults, **given})
    bars.set_gid(_BARS)
    bars.sticky_edges.y.append(0.0)
    ax.add_collection(bars)
    ax.autoscale_view()
    return bars


def _draw_errors(ax, display, rows, ranks, total, kwargs):
    if display.errors is None:
        return []
    errors = display.errors[rows]
    style = {"facecolor": INK, "linewidth": 0.5, "edgecolor": "white", "zorder": 2}
    if errors.dtype.kind == "b":
        x, y = ranks[errors], total[errors]
        n_wrong, n_samples = int(display.errors.sum()), display.errors.size
        style |= {"marker": "X", "s": 30.0}
        style["label"] = f"wrong ({n_wrong} of {n_samples} rows)"
    else:
        x, y = ranks, errors
        style |= {"marker": "o", "s": 14.0, "label": display.error_name}
    given = styled({}, kwargs, PathCollection)
    if {"c", "color"} & set(given):
        style.pop("facecolor")
    points = ax.scatter(x, y, **{**style, **given})
    points.set_gid(_POINTS)
    return [points]


def _label_bars(ax, display, n_drawn, name):
    n_samples = display.aleatoric.size
    drawn = "" if n_drawn == n_samples else f" ({n_drawn} of {n_samples} drawn)"
    ax.set(
        xlabel=f"Row, sorted by the sum of both{drawn}",
        ylabel=_with_unit("Uncertainty", display.unit[0]),
    )
    if name is not None:
        ax.set_title(name, loc="left", fontsize="medium")
    ax.margins(x=0.01)
    locator = ax.xaxis.get_major_locator()
    if isinstance(locator, MaxNLocator):
        locator.set_params(integer=True, min_n_ticks=1)
    ax.spines[["top", "right"]].set_visible(False)


def _with_unit(text, unit):
    return text if unit is None else f"{text} ({unit})"


def _points_on(ax):
    return [c for c in ax.collections if c.get_gid() == _POINTS]


def _refuse_bars(ax):
    if any(c.get_gid() == _BARS for c in ax.collections):
        raise ValueError(
            "ax holds the bars of an UncertaintyDecompositionDisplay, which have other "
            "axes than a scatter. Draw it on other axes."
        )
