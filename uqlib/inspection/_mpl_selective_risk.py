"""How `SelectiveRiskDisplay` is drawn."""

import textwrap

import numpy as np
from matplotlib.colors import same_color
from matplotlib.lines import Line2D

from uqlib.inspection._mpl_coverage import COLORS, INK
from uqlib.inspection._mpl_intervals import new_axes, styled

# By these names a display finds what earlier ones drew on the same axes.
_CURVE = "uqlib-selective-curve: "
_ORACLE, _RANDOM = "uqlib-selective-oracle", "uqlib-selective-random"
_LEGEND_WIDTH = 40  # characters: longer names are broken into lines
_WAYS = {"risk": "the share kept", "sparsification": "the share left out"}


def draw_selective_risk(display, ax, *, kind, name, shown, styles):
    """Draw a risk, the oracle's and that of a random order.

    Parameters
    ----------
    display : SelectiveRiskDisplay
        Holds the points.
    ax : Axes or None
        None makes a figure.
    kind : {"risk", "sparsification"}
        The view.
    name : str or None
        The label of the curve.
    shown : tuple of two bool
        Whether to draw the oracle and the random order.
    styles : tuple of three dict or None
        Keywords of curve, oracle and random order.

    Returns
    -------
    ax, curve, oracle, random
        The artists.
    """
    if ax is None:
        ax = new_axes(6.2, 4.4)
    _refuse_other_kind(ax, kind)
    curve = _draw_curve(ax, display, kind, name, styles[0])
    color = curve.get_color()
    best, constant = _references(display, kind)
    oracle = random = None
    if shown[0]:
        look = {"linestyle": "--", "drawstyle": "steps-pre", "label": "oracle"}
        oracle = _draw_reference(ax, best, _ORACLE, color, look, styles[1])
    if shown[1]:
        # Over the curves: a constant uncertainty is exactly there.
        look = {"linestyle": ":", "label": "random order", "zorder": 3.5}
        random = _draw_reference(ax, constant, _RANDOM, color, look, styles[2])
    _label_axes(ax, display, kind)
    _draw_legend(ax)
    return ax, curve, oracle, random


def _draw_curve(ax, display, kind, name, kwargs):
    series = sum(line.get_gid() == _CURVE + kind for line in ax.lines)
    area = ("AURC", display.auc_)
    if kind == "sparsification":
        area = ("AUSE", display.sparsification_error_)
    defaults = {
        "color": COLORS[series % len(COLORS)],
        "linewidth": 1.8,
        "drawstyle": "steps-pre",
        "label": _label(name or "by uncertainty", *area),
        "zorder": 3,
    }
    points = _steps(display, display.risk_, kind)
    (curve,) = ax.plot(*points, **styled(defaults, kwargs, Line2D))
    curve.set_gid(_CURVE + kind)
    return curve


def _label(name, quantity, value):
    # No line is broken within the parentheses.
    text = f"{name} ({quantity}\xa0{value:.3g})"
    return textwrap.fill(text, _LEGEND_WIDTH).replace("\xa0", " ")


def _references(display, kind):
    """Return where the oracle and the random order are drawn."""
    best = _steps(display, display.oracle_risk_, kind)
    mean = _scaled(display, display.risk_[-1:], kind)
    return best, (np.array([0.0, 1.0]), np.repeat(mean, 2))


def _steps(display, risk, kind):
    """Return the corners of steps that reach from k / n back to (k - 1) / n."""
    x = np.concatenate([[0.0], display.coverage_])
    y = _scaled(display, np.concatenate([risk[:1], risk]), kind)
    return (x if kind == "risk" else 1 - x), y


def _scaled(display, risk, kind):
    mean = display.risk_[-1]
    return risk / mean if kind == "sparsification" and mean > 0 else risk


def _draw_reference(ax, points, gid, color, look, kwargs):
    """Draw a line, or take the one that is there already."""
    for line in ax.lines:
        if line.get_gid() == gid and _same(line, points):
            if any(same_color(line.get_color(), c) for c in COLORS):
                # It belongs to more than one curve now.
                line.set_color(INK)
            if kwargs:
                line.set(**styled({}, kwargs, Line2D))
            return line
    defaults = {"color": color, "linewidth": 1.2, "zorder": 2, **look}
    if any(line.get_gid() == gid for line in ax.lines):
        defaults["label"] = "_" + look["label"]  # once in the legend is enough
    (line,) = ax.plot(*points, **styled(defaults, kwargs, Line2D))
    line.set_gid(gid)
    return line


def _same(line, points):
    drawn = line.get_data()
    return all(
        np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=1e-9, atol=0)
        for a, b in zip(drawn, points, strict=True)
    )


def _label_axes(ax, display, kind):
    if kind == "risk":
        x_label = "Coverage (share of the rows kept)"
        y_label = f"Risk (mean {display.loss_name} of the rows kept)"
    else:
        x_label = "Share of the rows left out, the least certain first"
        y_label = f"Mean {display.loss_name} of the rest\nin units of that of all rows"
    ax.set(xlabel=x_label, ylabel=y_label, xlim=(-0.01, 1.01))
    if ax.get_autoscaley_on():  # limits that the user has not set
        top = max(line.get_ydata().max() for line in ax.lines if _is_ours(line))
        top = top or 1.0
        ax.set_ylim(-0.015 * top, 1.05 * top, auto=None)  # a line at 0 in its width
    ax.spines[["top", "right"]].set_visible(False)


def _is_ours(line):
    return (line.get_gid() or "").startswith("uqlib-selective-")


def _draw_legend(ax):
    handles, _ = ax.get_legend_handles_labels()
    handles.sort(key=lambda handle: handle.get_gid() in (_ORACLE, _RANDOM))
    legend = ax.legend(
        handles=handles,
        loc="best",
        fontsize="small",
        frameon=True,
        framealpha=0.8,
        edgecolor="none",
        borderaxespad=0.4,
    )
    drawn = [line.get_gid() for line in ax.lines]
    for handle, entry in zip(handles, legend.legend_handles, strict=True):
        # Several oracles are in several colors: one entry stands for all.
        if handle.get_gid() in (_ORACLE, _RANDOM) and drawn.count(handle.get_gid()) > 1:
            entry.set_color(INK)


def _refuse_other_kind(ax, kind):
    for line in ax.lines:
        gid = line.get_gid() or ""
        if gid.startswith(_CURVE) and gid != _CURVE + kind:
            other = gid.removeprefix(_CURVE)
            raise ValueError(
                f"ax holds curves of kind={other!r}, by {_WAYS[other]}, but this one "
                f"is of kind={kind!r}, by {_WAYS[kind]}. Draw it on other axes."
            )
