"""SelectiveRiskDisplay: its curves are the metrics', and its areas are its legend's."""

import re
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import same_color

from uqlib.inspection._selective_risk_display import SelectiveRiskDisplay
from uqlib.metrics import (
    risk_coverage_auc,
    risk_coverage_curve,
    sparsification_curve,
    sparsification_error,
)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    uncertainty = rng.exponential(size=50)
    return uncertainty * np.abs(rng.normal(size=50)), uncertainty


def raises_exactly(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def legend_texts(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


def area(line):
    """Area under the steps of a drawn line: a value reaches back to the last point."""
    x, y = line.get_data()
    assert line.get_drawstyle() == "steps-pre"
    return np.sum(np.abs(np.diff(x)) * y[1:])


# ---------------------------------------------------------------------------
# The numbers, and where they are drawn.


def test_numbers_are_those_of_the_metrics(rows):
    losses, uncertainty = rows
    weight = np.arange(50) % 3  # rows without weight give no point
    display = SelectiveRiskDisplay(
        losses=losses, uncertainty=uncertainty, sample_weight=weight, name="a"
    )
    curve = risk_coverage_curve(losses, uncertainty, sample_weight=weight)
    np.testing.assert_array_equal(display.coverage_, curve.coverage)
    np.testing.assert_array_equal(display.risk_, curve.risk)
    oracle = sparsification_curve(
        losses, uncertainty, normalize=False, sample_weight=weight
    ).oracle_error
    np.testing.assert_array_equal(display.oracle_risk_, oracle[::-1])
    assert display.auc_ == risk_coverage_auc(losses, uncertainty, sample_weight=weight)
    assert display.sparsification_error_ == sparsification_error(
        losses, uncertainty, sample_weight=weight
    )
    for name, given_ in (
        ("losses", losses),
        ("uncertainty", uncertainty),
        ("sample_weight", weight),
    ):
        np.testing.assert_array_equal(getattr(display, name), given_)
    assert (display.name, display.loss_name) == ("a", "loss")
    assert not hasattr(display, "ax_")


def test_risks_equal_means_of_sorted_losses(rows):
    losses, uncertainty = rows
    display = SelectiveRiskDisplay(losses=losses, uncertainty=uncertainty)
    for order, risk in (
        (np.argsort(uncertainty), display.risk_),
        (np.argsort(losses), display.oracle_risk_),
    ):
        means = [losses[order[:k]].mean() for k in range(1, 51)]
        np.testing.assert_allclose(risk, means, rtol=1e-12)


def test_the_risk_is_drawn_by_the_share_kept(rows):
    losses, uncertainty = rows
    display = SelectiveRiskDisplay.from_predictions(
        losses, uncertainty, loss_name="pinball loss", name="model"
    )
    x, y = display.curve_.get_data()
    np.testing.assert_allclose(x, np.arange(51) / 50)
    np.testing.assert_array_equal(y[1:], display.risk_)
    np.testing.assert_allclose(area(display.curve_), display.auc_, rtol=1e-12)
    np.testing.assert_array_equal(display.oracle_.get_xdata(), x)
    np.testing.assert_array_equal(display.oracle_.get_ydata()[1:], display.oracle_risk_)
    np.testing.assert_allclose(
        display.random_.get_xydata(), [[0, losses.mean()], [1, losses.mean()]]
    )
    assert legend_texts(display) == [
        f"model (AURC {display.auc_:.3g})",
        "oracle",
        "random order",
    ]
    assert display.ax_.get_xlabel() == "Coverage (share of the rows kept)"
    assert display.ax_.get_ylabel() == "Risk (mean pinball loss of the rows kept)"


def test_sparsification_is_the_mirrored_view_in_units_of_the_mean(rows):
    losses, uncertainty = rows
    display = SelectiveRiskDisplay.from_predictions(
        losses, uncertainty, kind="sparsification"
    )
    curve = sparsification_curve(losses, uncertainty)
    for line, error in (
        (display.curve_, curve.error),
        (display.oracle_, curve.oracle_error),
    ):
        np.testing.assert_allclose(line.get_xdata()[:0:-1], curve.removed, atol=1e-15)
        np.testing.assert_allclose(line.get_ydata()[:0:-1], error, rtol=1e-12)
    np.testing.assert_array_equal(display.random_.get_ydata(), [1, 1])
    np.testing.assert_allclose(
        area(display.curve_) - area(display.oracle_),
        sparsification_error(losses, uncertainty),
        rtol=1e-12,
    )
    assert legend_texts(display)[0] == (
        f"by uncertainty (AUSE {display.sparsification_error_:.3g})"
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=12
    ).map(lambda pairs: np.array(pairs, dtype=float))
)
def test_the_oracle_is_below_and_the_order_of_rows_does_not_matter(pairs):
    display = SelectiveRiskDisplay(losses=pairs[:, 0], uncertainty=pairs[:, 1])
    assert np.all(display.oracle_risk_ <= display.risk_ + 1e-12)
    np.testing.assert_allclose(display.oracle_risk_[-1], display.risk_[-1])
    turned = SelectiveRiskDisplay(losses=pairs[::-1, 0], uncertainty=pairs[::-1, 1])
    np.testing.assert_allclose(turned.risk_, display.risk_, atol=1e-12)
    best = SelectiveRiskDisplay(losses=pairs[:, 0], uncertainty=pairs[:, 0])
    np.testing.assert_allclose(best.risk_, best.oracle_risk_, atol=1e-12)


def test_a_constant_uncertainty_is_the_random_order(rows):
    display = SelectiveRiskDisplay.from_predictions(rows[0], np.ones(50))
    np.testing.assert_allclose(
        display.curve_.get_ydata(), display.random_.get_ydata()[0], rtol=1e-12
    )


@pytest.mark.parametrize("kind", ["risk", "sparsification"])
@pytest.mark.parametrize("losses", [[2.0], [0.0], [0.0, 0.0], [1.0, 1.0]])
def test_few_or_equal_losses_are_drawn_within_the_axes(kind, losses):
    uncertainty = np.arange(len(losses))
    display = SelectiveRiskDisplay.from_predictions(losses, uncertainty, kind=kind)
    y = np.concatenate([line.get_ydata() for line in (display.curve_, display.oracle_)])
    scale = losses[0] if kind == "sparsification" and losses[0] > 0 else 1.0
    np.testing.assert_array_equal(y, losses[0] / scale)
    low, high = display.ax_.get_ylim()
    assert low < 0 <= y.max() < high
    display.figure_.canvas.draw()


def test_infinite_uncertainty_is_legal_and_last():
    display = SelectiveRiskDisplay(losses=[1.0, 3.0, 2.0], uncertainty=[0, np.inf, 1])
    np.testing.assert_allclose(display.risk_, [1, 1.5, 2])


# ---------------------------------------------------------------------------
# Axes, legends and keywords.


def test_curves_of_the_same_losses_share_their_references(rows):
    losses, uncertainty = rows
    first = SelectiveRiskDisplay.from_predictions(losses, uncertainty, name="one")
    blue = first.oracle_.get_color()
    assert same_color(blue, first.curve_.get_color())
    second = SelectiveRiskDisplay.from_predictions(
        losses, -uncertainty, name="two", ax=first.ax_
    )
    assert second.ax_ is first.ax_
    assert second.oracle_ is first.oracle_
    assert second.random_ is first.random_
    assert len(first.ax_.lines) == 4
    assert not same_color(first.oracle_.get_color(), blue)  # it is no one's now
    assert not same_color(first.curve_.get_color(), second.curve_.get_color())
    texts = [text.split(" (")[0] for text in legend_texts(second)]
    assert texts == ["one", "two", "oracle", "random order"]


def test_curves_of_other_losses_have_their_own_references(rows):
    losses, uncertainty = rows
    first = SelectiveRiskDisplay.from_predictions(losses, uncertainty, name="one")
    second = SelectiveRiskDisplay.from_predictions(
        losses**2, uncertainty, name="two", ax=first.ax_
    )
    assert second.oracle_ is not first.oracle_
    for display in (first, second):
        assert same_color(display.oracle_.get_color(), display.curve_.get_color())
        assert same_color(display.random_.get_color(), display.curve_.get_color())
    texts = [text.split(" (")[0] for text in legend_texts(second)]
    assert texts == ["one", "two", "oracle", "random order"]
    top = max(line.get_ydata().max() for line in first.ax_.lines)
    assert first.ax_.get_ylim()[1] > top


def test_sparsification_curves_share_the_constant_of_other_losses(rows):
    losses, uncertainty = rows
    first = SelectiveRiskDisplay.from_predictions(
        losses, uncertainty, kind="sparsification"
    )
    second = SelectiveRiskDisplay.from_predictions(
        losses**2, uncertainty, kind="sparsification", ax=first.ax_
    )
    assert second.random_ is first.random_
    assert second.oracle_ is not first.oracle_


def test_references_can_be_left_out(rows):
    display = SelectiveRiskDisplay.from_predictions(
        *rows, plot_oracle=False, plot_random=False
    )
    assert display.oracle_ is display.random_ is None
    assert len(display.ax_.lines) == len(legend_texts(display)) == 1


def test_the_two_views_are_not_mixed(rows):
    display = SelectiveRiskDisplay.from_predictions(*rows)
    message = (
        "ax holds curves of kind='risk', by the share kept, but this one is of "
        "kind='sparsification', by the share left out. Draw it on other axes."
    )
    with raises_exactly(message):
        display.plot(display.ax_, kind="sparsification")
    with raises_exactly("kind must be one of ['risk', 'sparsification'], got 'roc'."):
        display.plot(kind="roc")


def test_given_axes_and_their_limits_are_kept(rows):
    figure, ax = plt.subplots()
    ax.set_ylim(0, 9)
    ax.axhline(0.5, label="mine")
    display = SelectiveRiskDisplay.from_predictions(*rows, ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is figure
    assert ax.get_ylim() == (0, 9)
    assert "mine" in legend_texts(display)
    assert len(plt.get_fignums()) == 1


def test_keywords_reach_the_artists_by_any_alias(rows):
    display = SelectiveRiskDisplay.from_predictions(
        *rows,
        curve_kwargs={"lw": 4.0, "c": "red"},
        oracle_kwargs={"ls": "-", "label": "best"},
        random_kwargs={"color": "green"},
    )
    assert display.curve_.get_linewidth() == 4.0
    assert same_color(display.curve_.get_color(), "red")
    assert same_color(display.oracle_.get_color(), "red")
    assert display.oracle_.get_linestyle() == "-"
    assert same_color(display.random_.get_color(), "green")
    assert legend_texts(display)[1] == "best"
    again = display.plot(display.ax_, oracle_kwargs={"lw": 7.0})
    assert again.oracle_.get_linewidth() == 7.0
    assert same_color(again.random_.get_color(), "green")  # the user's own stays


def test_plot_takes_a_name_and_returns_itself(rows):
    display = SelectiveRiskDisplay(losses=rows[0], uncertainty=rows[1], name="stored")
    assert display.plot(name="mine") is display
    assert legend_texts(display)[0].startswith("mine (")
    assert legend_texts(display.plot())[0].startswith("stored (")


def test_inputs_are_not_mutated(rows):
    losses, uncertainty = (array.copy() for array in rows)
    index = pd.RangeIndex(5, 55)
    display = SelectiveRiskDisplay.from_predictions(
        pd.Series(losses, index=index), pd.Series(uncertainty, index=index[::-1])
    )
    SelectiveRiskDisplay.from_predictions(losses, uncertainty, kind="sparsification")
    np.testing.assert_array_equal(losses, rows[0])
    np.testing.assert_array_equal(uncertainty, rows[1])
    np.testing.assert_array_equal(display.uncertainty, rows[1])


# ---------------------------------------------------------------------------
# Bad input.

GOOD = {"losses": [0.0, 1.0], "uncertainty": [0.0, 1.0]}
BAD = {
    "infinite": (
        {"losses": [0.0, np.inf]},
        "losses contains infinity, for which there is no place on the axes. Clip the "
        "losses at a bound, or leave those rows out.",
    ),
    "negative": (
        {"losses": [0.0, -1.0]},
        "losses must be at least 0, got -1.0. Pass absolute or squared errors, or 0 "
        "and 1 for right and wrong; where a loss has another lower bound, subtract it.",
    ),
    "NaN": (
        {"uncertainty": [0.0, np.nan]},
        "uncertainty contains NaN. Remove or impute those rows; infinite values are "
        "legal, NaN is not.",
    ),
    "rows": (
        {"uncertainty": [0.0]},
        "uncertainty has 1 rows but losses has 2: pass arrays over the same rows.",
    ),
    "empty": (
        {"losses": [], "uncertainty": []},
        "losses is empty: at least one row is needed.",
    ),
    "weights": (
        {"sample_weight": [0.5, 0.5]},
        "sample_weight counts rows here, but it sums to 1 over 2 rows. Scale weights "
        "that are no counts to mean 1: sample_weight / sample_weight.mean().",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_before_a_figure_is_made(change, message):
    with raises_exactly(message):
        SelectiveRiskDisplay.from_predictions(**(GOOD | change))
    assert not plt.get_fignums()


def test_without_matplotlib_the_error_has_the_remedy(monkeypatch):
    display = SelectiveRiskDisplay(**GOOD)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for call in (
        display.plot,
        # Said before the model is asked for anything.
        lambda: SelectiveRiskDisplay.from_estimator(None, None, None),
        lambda: SelectiveRiskDisplay.from_predictions(None, None),
    ):
        with pytest.raises(ImportError) as caught:
            call()
        assert str(caught.value) == (
            "SelectiveRiskDisplay draws with matplotlib, which is not installed. Run "
            "`pip install uqlib[plot]`."
        )
