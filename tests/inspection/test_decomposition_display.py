"""UncertaintyDecompositionDisplay: every point is a row, every color a fact of it."""

import re
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import LogNorm, same_color
from sklearn.utils import Bunch

from uqlib.inspection._decomposition_display import UncertaintyDecompositionDisplay

draw = UncertaintyDecompositionDisplay.from_predictions


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def kinds():
    rng = np.random.default_rng(0)
    return rng.exponential(size=40), rng.exponential(size=40)


@pytest.fixture
def errors():
    return np.random.default_rng(1).exponential(size=40)


def raises_exactly(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def legend_texts(display):
    legend = display.ax_.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def offsets(points):
    """Drawn points, in the order of their coordinates."""
    drawn = np.asarray(points.get_offsets())
    return drawn[np.lexsort(drawn.T)]


def in_order(x, y):
    return offsets(Bunch(get_offsets=lambda: np.column_stack([x, y])))


def bar_ends(bars):
    """Lower and upper ends and centers of the bars."""
    corners = np.array([path.vertices[:4] for path in bars.get_paths()])
    y, x = corners[:, :, 1], corners[:, :, 0]
    return y.min(axis=1), y.max(axis=1), (x.min(axis=1) + x.max(axis=1)) / 2


# ---------------------------------------------------------------------------
# Points.


def test_parameters_are_stored(kinds, errors):
    display = UncertaintyDecompositionDisplay(
        aleatoric=kinds[0],
        epistemic=kinds[1],
        errors=errors,
        unit=("nats", None),
        error_name="e",
        name="n",
    )
    np.testing.assert_array_equal(display.aleatoric, kinds[0])
    np.testing.assert_array_equal(display.epistemic, kinds[1])
    np.testing.assert_array_equal(display.errors, errors)
    assert display.mondrian_groups is None
    assert display.unit == ("nats", None)
    assert (display.error_name, display.name) == ("e", "n")
    assert not hasattr(display, "ax_")


def test_every_row_is_a_point(kinds):
    display = draw(*kinds)
    (points,) = display.points_
    np.testing.assert_array_equal(offsets(points), in_order(*kinds))
    assert display.bars_ is display.colorbar_ is None
    assert legend_texts(display) == []
    assert display.ax_.get_xlabel() == "Aleatoric uncertainty"
    assert display.ax_.get_ylabel() == "Epistemic uncertainty"


def test_points_are_colored_by_error_with_large_ones_on_top(kinds, errors):
    display = draw(*kinds, errors=errors, unit="mg", error_name="loss in mg")
    (points,) = display.points_
    order = np.argsort(errors)
    np.testing.assert_array_equal(points.get_array(), errors[order])
    np.testing.assert_array_equal(points.get_offsets(), np.array(kinds).T[order])
    assert points.get_clim() == (errors.min(), errors.max())
    assert display.colorbar_.mappable is points
    assert display.colorbar_.ax.get_ylabel() == "Loss in mg"
    assert display.ax_.get_xlabel() == "Aleatoric uncertainty (mg)"
    assert display.ax_.get_ylabel() == "Epistemic uncertainty (mg)"


def test_right_and_wrong_rows_are_told_apart(kinds, errors):
    wrong = errors > 1
    display = draw(*kinds, errors=wrong, unit=("nats", "bits"))
    right_points, wrong_points = display.points_
    for points, rows in ((right_points, ~wrong), (wrong_points, wrong)):
        np.testing.assert_array_equal(
            offsets(points), in_order(kinds[0][rows], kinds[1][rows])
        )
    n_wrong = wrong.sum()
    assert legend_texts(display) == [
        f"right ({40 - n_wrong} rows)",
        f"wrong ({n_wrong} rows)",
    ]
    assert not same_color(right_points.get_facecolor(), wrong_points.get_facecolor())
    assert display.colorbar_ is None
    assert display.ax_.get_ylabel() == "Epistemic uncertainty (bits)"


@pytest.mark.parametrize("wrong", [np.zeros(40, bool), np.ones(40, bool)])
def test_all_rows_may_be_right_or_wrong(kinds, wrong):
    display = draw(*kinds, errors=wrong)
    assert [len(p.get_offsets()) for p in display.points_] == [
        (~wrong).sum(),
        wrong.sum(),
    ]
    display.figure_.canvas.draw()


@pytest.mark.parametrize(
    "groups",
    [
        np.array(["b", "a", "b", "c"] * 10),
        pd.Series([2, 1, 2, 3] * 10, index=range(7, 47), dtype="category"),
    ],
    ids=["str", "category"],
)
def test_points_are_colored_by_group(kinds, groups):
    display = draw(*kinds, mondrian_groups=groups, name="model")
    labels = sorted(set(groups))
    assert len(display.points_) == 3
    for points, label in zip(display.points_, labels, strict=True):
        rows = np.asarray(groups) == label
        np.testing.assert_array_equal(
            offsets(points), in_order(kinds[0][rows], kinds[1][rows])
        )
    assert legend_texts(display) == [
        f"model: {label} ({n} rows)"
        for label, n in zip(labels, [10, 20, 10], strict=True)
    ]


def test_25_groups_look_different():
    display = draw(np.arange(25), np.arange(25), mondrian_groups=np.arange(25))
    looks = {
        (tuple(p.get_facecolor()[0]), p.get_paths()[0].vertices.tobytes())
        for p in display.points_
    }
    assert len(looks) == 25


@pytest.mark.parametrize("max_rows", [2, 7, 39, 40])
def test_a_subset_is_drawn_at_even_steps_of_the_sum(kinds, max_rows):
    display = draw(*kinds, max_rows=max_rows, name="a")
    total = np.sort(np.sum(kinds, axis=0))
    drawn = np.sort(np.sum(display.points_[0].get_offsets(), axis=1))
    steps = np.arange(max_rows) * 39 // (max_rows - 1)
    np.testing.assert_allclose(drawn, total[steps])
    number = "40 rows" if max_rows == 40 else f"{max_rows} of 40 rows"
    assert legend_texts(display) == [f"a ({number})"]


def test_default_draws_1000_rows_and_says_so():
    display = draw(np.arange(3000), np.ones(3000))
    assert len(display.points_[0].get_offsets()) == 1000
    assert legend_texts(display) == ["1000 of 3000 rows"]
    display.plot(max_rows=None)
    assert len(display.points_[0].get_offsets()) == 3000
    assert legend_texts(display) == []
    wrong = draw(np.arange(3000), np.ones(3000), errors=np.arange(3000) < 300)
    counts = [len(p.get_offsets()) for p in wrong.points_]
    assert sum(counts) == 1000
    assert legend_texts(wrong)[1] == f"wrong ({counts[1]} of 300 rows)"


# ---------------------------------------------------------------------------
# Scales.


def assert_visible(display):
    display.figure_.canvas.draw()
    for points in display.points_:
        pixels = display.ax_.transData.transform(np.asarray(points.get_offsets()))
        inside = display.ax_.bbox.padded(1).contains
        assert all(inside(*pixel) for pixel in pixels)


def test_positive_values_have_a_plain_log_scale(kinds):
    display = draw(*kinds, scale="log")
    assert display.ax_.get_xscale() == display.ax_.get_yscale() == "log"
    assert_visible(display)


def test_zeros_have_their_place_on_a_log_scale():
    display = draw([0.0, 1e-3, 1.0], [0.01, 0.1, 10.0], scale="log")
    assert display.ax_.get_xscale() == "symlog"
    assert display.ax_.get_yscale() == "log"
    assert_visible(display)
    x = display.ax_.transData.transform([[0, 1], [1e-3, 1], [1, 1]])[:, 0]
    assert x[0] < x[1] < x[2]


def test_rounding_errors_do_not_stretch_a_log_scale():
    display = draw([1e-17, 1e-2, 1.0], [1e-300, 1e-2, 1.0], scale="log")
    assert_visible(display)
    for axis in (0, 1):
        points = np.ones((3, 2))
        points[:, axis] = [1e-17, 1e-6, 1.0]
        places = display.ax_.transData.transform(points)[:, axis]
        assert places[1] - places[0] < 0.2 * (places[2] - places[0])


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_one_row_and_equal_rows(scale, value):
    for n_samples in (1, 3):
        display = draw(
            np.full(n_samples, value),
            np.full(n_samples, value),
            errors=np.full(n_samples, value),
            scale=scale,
        )
        assert_visible(display)


def test_the_scale_holds_the_points_of_all_displays():
    first = draw([1.0, 2.0], [1.0, 2.0], scale="log")
    assert first.ax_.get_xscale() == "log"
    second = draw([0.0, 2.0], [1.0, 2.0], scale="log", ax=first.ax_)
    assert first.ax_.get_xscale() == "symlog"
    assert_visible(second)


# ---------------------------------------------------------------------------
# Axes and keywords.


def test_several_models_share_axes_and_the_scale_of_errors(kinds, errors):
    first = draw(*kinds, errors=errors, name="one")
    second = draw(*kinds, errors=3 * errors, name="two", ax=first.ax_)
    assert second.figure_ is first.figure_
    assert len(first.figure_.axes) == 2  # one color bar
    assert second.colorbar_ is None
    (one,), (two,) = first.points_, second.points_
    both = (errors.min(), 3 * errors.max())
    assert one.get_clim() == two.get_clim() == both
    first.figure_.canvas.draw()
    np.testing.assert_allclose(
        one.to_rgba([3.0])[0], two.to_rgba([3.0])[0]
    )  # the same color is the same error
    assert legend_texts(second) == ["one (40 rows)", "two (40 rows)"]
    assert one.get_paths()[0].vertices.shape != two.get_paths()[0].vertices.shape


def test_models_without_errors_differ_in_color(kinds):
    first = draw(*kinds, name="one")
    second = draw(*kinds, name="two", ax=first.ax_)
    colors = [d.points_[0].get_facecolor()[0] for d in (first, second)]
    assert not same_color(*colors)
    assert legend_texts(second) == ["one (40 rows)", "two (40 rows)"]


def test_keywords_reach_the_points(kinds, errors):
    display = draw(
        *kinds,
        errors=errors,
        scatter_kwargs={"s": 7.0, "lw": 2.0, "ec": "red", "norm": LogNorm()},
    )
    (points,) = display.points_
    assert points.get_sizes().tolist() == [7.0]
    assert points.get_linewidth().tolist() == [2.0]
    assert same_color(points.get_edgecolor(), ["red"])
    assert isinstance(points.norm, LogNorm)
    plain = draw(*kinds, errors=errors, scatter_kwargs={"color": "red"})
    assert plain.colorbar_ is None
    assert same_color(plain.points_[0].get_facecolor(), ["red"])
    limited = draw(*kinds, errors=errors, scatter_kwargs={"vmin": 0, "vmax": 9})
    again = draw(
        *kinds, errors=errors, ax=limited.ax_, scatter_kwargs={"vmin": 1, "vmax": 2}
    )
    assert limited.points_[0].get_clim() == (0, 9)
    assert again.points_[0].get_clim() == (1, 2)
    assert again.colorbar_ is not None


def test_plot_takes_a_name_and_returns_itself(kinds):
    display = UncertaintyDecompositionDisplay(
        aleatoric=kinds[0], epistemic=kinds[1], name="stored"
    )
    assert display.plot(name="mine") is display
    assert legend_texts(display) == ["mine (40 rows)"]
    ax = plt.subplots()[1]
    assert display.plot(ax).ax_ is ax
    assert legend_texts(display) == ["stored (40 rows)"]


# ---------------------------------------------------------------------------
# Bars.


def test_bars_are_stacked_in_the_order_of_the_sum(kinds, errors):
    display = draw(*kinds, errors=errors, kind="bars", unit="mg", name="model")
    aleatoric, epistemic = display.bars_
    order = np.argsort(kinds[0] + kinds[1])
    low, middle, place = bar_ends(aleatoric)
    np.testing.assert_array_equal(low, 0)
    np.testing.assert_array_equal(middle, kinds[0][order])
    np.testing.assert_array_equal(place, np.arange(1, 41))
    low, high, place = bar_ends(epistemic)
    np.testing.assert_array_equal(low, middle)
    np.testing.assert_allclose(high, (kinds[0] + kinds[1])[order])
    np.testing.assert_array_equal(place, np.arange(1, 41))
    assert np.all(np.diff(high) >= 0)
    (points,) = display.points_
    np.testing.assert_array_equal(
        points.get_offsets(), np.column_stack([place, errors[order]])
    )
    assert legend_texts(display) == ["aleatoric", "epistemic", "error"]
    assert display.ax_.get_ylabel() == "Uncertainty (mg)"
    assert display.ax_.get_xlabel() == "Row, sorted by the sum of both"
    assert display.ax_.get_title(loc="left") == "model"
    bottom, top = display.ax_.get_ylim()
    assert bottom == 0
    assert top > max(high.max(), errors.max())


def test_wrong_rows_are_marked_over_their_bars(kinds, errors):
    wrong = errors > 1
    display = draw(*kinds, errors=wrong, kind="bars", max_rows=11)
    order = np.argsort(kinds[0] + kinds[1])
    steps = np.arange(11) * 39 // 10
    drawn = order[steps]
    _, high, _ = bar_ends(display.bars_[1])
    np.testing.assert_allclose(high, np.sum(kinds, axis=0)[drawn])
    (points,) = display.points_
    np.testing.assert_allclose(
        points.get_offsets(), np.column_stack([steps + 1, high])[wrong[drawn]]
    )
    assert legend_texts(display)[2] == f"wrong ({wrong.sum()} of 40 rows)"
    assert display.ax_.get_xlabel().endswith(" (11 of 40 drawn)")


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_bars_of_one_row(value):
    display = draw([value], [value], kind="bars")
    assert display.points_ == []
    assert bar_ends(display.bars_[1])[1].tolist() == [2 * value]
    display.figure_.canvas.draw()


def test_keywords_reach_the_bars(kinds):
    display = draw(
        *kinds,
        kind="bars",
        aleatoric_kwargs={"fc": "red", "label": "noise"},
        epistemic_kwargs={"color": "blue"},
    )
    assert same_color(display.bars_[0].get_facecolor(), ["red"])
    assert same_color(display.bars_[1].get_facecolor(), ["blue"])
    assert legend_texts(display) == ["noise", "epistemic"]


def test_bars_share_no_axes(kinds):
    bars, points = draw(*kinds, kind="bars"), draw(*kinds)
    for ax in (bars.ax_, points.ax_):
        with raises_exactly(
            "ax holds an UncertaintyDecompositionDisplay, which bars would hide. Draw "
            "them on other axes."
        ):
            draw(*kinds, kind="bars", ax=ax)
    with raises_exactly(
        "ax holds the bars of an UncertaintyDecompositionDisplay, which have other "
        "axes than a scatter. Draw it on other axes."
    ):
        draw(*kinds, ax=bars.ax_)


def test_inputs_are_not_mutated(kinds, errors):
    given = [array.copy() for array in (*kinds, errors)]
    draw(*given[:2], errors=given[2], scale="log")
    draw(*given[:2], errors=pd.Series(given[2], index=range(40, 80)), kind="bars")
    for array, original in zip(given, (*kinds, errors), strict=True):
        np.testing.assert_array_equal(array, original)


# ---------------------------------------------------------------------------
# Bad input.

REMEDY = (
    "Clip rounding errors by np.maximum({0}, 0), take np.abs of what has a sign, and "
    "leave out rows without a finite value: they have no place on the axes."
)
GOOD = {"aleatoric": [0.0, 1.0], "epistemic": [1.0, 2.0]}
BAD = {
    "infinite": (
        {"aleatoric": [1.0, np.inf]},
        "aleatoric must be finite and at least 0, got values from 1.0 to inf. "
        + REMEDY.format("aleatoric"),
    ),
    "negative": (
        {"epistemic": [-1e-17, 1.0]},
        "epistemic must be finite and at least 0, got values from -1e-17 to 1.0. "
        + REMEDY.format("epistemic"),
    ),
    "NaN": (
        {"epistemic": [np.nan, 1.0]},
        "epistemic contains NaN. Remove or impute those rows; infinite values are "
        "legal, NaN is not.",
    ),
    "shape": (
        {"aleatoric": [[0.0], [1.0]]},
        "aleatoric must be 1-D, got an array of shape (2, 1). Flatten a column with "
        ".ravel().",
    ),
    "rows": (
        {"epistemic": [1.0]},
        "epistemic has 1 rows but aleatoric has 2: pass arrays over the same rows.",
    ),
    "no rows": (
        {"aleatoric": [], "epistemic": []},
        "aleatoric is empty: at least one row is needed.",
    ),
    "errors": (
        {"errors": [1.0, -2.0]},
        "errors must be finite and at least 0, got values from -2.0 to 1.0. "
        + REMEDY.format("errors"),
    ),
    "errors shape": (
        {"errors": [[True], [False]]},
        "errors must be 1-D, got an array of shape (2, 1). Flatten a column with "
        ".ravel().",
    ),
    "errors rows": (
        {"errors": [True]},
        "errors has 1 rows but aleatoric has 2: pass arrays over the same rows.",
    ),
    "groups rows": (
        {"mondrian_groups": ["a"]},
        "mondrian_groups has 1 rows but aleatoric has 2: pass arrays over the same "
        "rows.",
    ),
    "groups missing": (
        {"mondrian_groups": ["a", None]},
        "mondrian_groups is missing in 1 of 2 rows. Give these rows a group of their "
        "own, such as 'unknown', or leave them out.",
    ),
    "groups shape": (
        {"mondrian_groups": [["a"], ["b"]]},
        "mondrian_groups must have shape (n_samples,), one group a row, got shape "
        "(2, 1).",
    ),
    "both": (
        {"mondrian_groups": ["a", "b"], "errors": [1.0, 1.0]},
        "Both errors and mondrian_groups are given, but a point has one color. Pass "
        "one of them; from_estimator makes errors of y.",
    ),
    "unit": (
        {"unit": ("mg",)},
        "unit must be a string, or a tuple of two for the aleatoric and the epistemic "
        "uncertainty, got ('mg',). Pass for example unit='nats'.",
    ),
    "kind": (
        {"kind": "pie"},
        "kind must be one of ['scatter', 'bars'], got 'pie'.",
    ),
    "scale": (
        {"scale": "symlog"},
        "scale must be one of ['linear', 'log'], got 'symlog'.",
    ),
    "log bars": (
        {"kind": "bars", "scale": "log"},
        "scale='log' is none for bars that are stacked. Pass kind='scatter'.",
    ),
    "bars by group": (
        {"kind": "bars", "mondrian_groups": ["a", "b"]},
        "mondrian_groups color points, but kind='bars' has none. Pass kind='scatter'.",
    ),
    "max_rows": (
        {"max_rows": 1},
        "max_rows must be an integer of at least 2, got 1. Pass None to draw every "
        "row.",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_before_a_figure_is_made(change, message):
    with raises_exactly(message):
        draw(**(GOOD | change))
    assert not plt.get_fignums()


def test_without_matplotlib_the_error_has_the_remedy(monkeypatch):
    display = UncertaintyDecompositionDisplay(**GOOD)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for call in (
        display.plot,
        # Said before the model is asked for anything.
        lambda: UncertaintyDecompositionDisplay.from_estimator(None, None),
        lambda: draw(None, None),
    ):
        with pytest.raises(ImportError) as caught:
            call()
        assert str(caught.value) == (
            "UncertaintyDecompositionDisplay draws with matplotlib, which is not "
            "installed. Run `pip install uqlib[plot]`."
        )
