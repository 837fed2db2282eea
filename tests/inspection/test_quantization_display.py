"""QuantizationDisplay: its numbers are the reports', and its points are its numbers."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.base import BaseEstimator

from uqlib.exceptions import InfiniteIntervalWarning
from uqlib.inspection._quantization_display import QuantizationDisplay
from uqlib.quantized._coverage_report import coverage_report


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


class Column(BaseEstimator):
    """Predicts a column of X, or three as probabilities."""

    def __init__(self, column):
        self.column = column

    def predict(self, X):
        return X[:, self.column]


class Classes(Column):
    classes_ = np.arange(3)

    def predict_proba(self, X):
        return X[:, self.column : self.column + 3]


def reports(bits=(2, 4, 8), level=0.8, n=(100, 200)):
    rng = np.random.default_rng(0)
    y = [rng.normal(size=size) for size in n]
    errors = [rng.normal(size=(size, 1 + len(bits))) for size in n]
    scale = np.array([0.5, *(2.0 / b for b in bits)])
    X = [t[:, None] + e * scale for t, e in zip(y, errors, strict=True)]
    return {
        b: coverage_report(
            Column(0), Column(k + 1), X[0], y[0], X[1], y[1], confidence_level=level
        )
        for k, b in enumerate(bits)
    }


def class_report():
    rng = np.random.default_rng(0)
    X = np.hstack([rng.dirichlet(np.ones(3), size=200) for _ in range(2)])
    y = rng.integers(3, size=200)
    models = Classes(0), Classes(3)
    return coverage_report(*models, X[:100], y[:100], X[100:], y[100:])


def drawn(errorbar):
    """Points and ends of bars, as (n_points, 2) and (n_points, 2) of y."""
    line, _, bars = errorbar
    ends = np.array(bars[0].get_segments())[:, :, 1] if bars else None
    return np.column_stack(line.get_data()), ends


def legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# ---------------------------------------------------------------------------
# From reports.


def test_numbers_are_those_of_the_reports():
    found = reports()
    display = QuantizationDisplay.from_reports(found)
    values = list(found.values())
    assert display.bits.tolist() == [2.0, 4.0, 8.0]
    assert display.stale.tolist() == [r.stale.coverage for r in values]
    assert display.recalibrated.tolist() == [r.recalibrated.coverage for r in values]
    assert display.stale_interval.tolist() == [list(r.stale[1:3]) for r in values]
    assert display.recalibrated_interval.tolist() == [
        [r.recalibrated.lower, r.recalibrated.upper] for r in values
    ]
    assert display.width_ratio.tolist() == [r.width_ratio for r in values]
    assert display.forecast.tolist() == [r.width_ratio_forecast for r in values]
    assert display.confidence_level == 0.8
    assert display.name is None


def test_points_and_bars_stand_where_the_numbers_say():
    display = QuantizationDisplay.from_reports(reports())
    for artist, coverage, interval in (
        (display.stale_, display.stale, display.stale_interval),
        (display.recalibrated_, display.recalibrated, display.recalibrated_interval),
    ):
        points, ends = drawn(artist)
        np.testing.assert_allclose(points[:, 0], display.bits, rtol=0.02)  # a hair off
        np.testing.assert_allclose(points[:, 1], coverage)
        np.testing.assert_allclose(ends, interval)
    assert (
        drawn(display.stale_)[0][:, 0] < drawn(display.recalibrated_)[0][:, 0]
    ).all()
    x, y = display.width_.get_data()
    np.testing.assert_array_equal(x, display.bits)
    np.testing.assert_array_equal(y, display.width_ratio)
    np.testing.assert_array_equal(display.forecast_.get_ydata(), display.forecast)
    np.testing.assert_array_equal(display.reference_.get_ydata(), [0.8, 0.8])
    upper, lower = display.ax_
    assert upper.figure is display.figure_
    assert upper.get_xscale() == lower.get_xscale() == "log"
    assert lower.get_xticks().tolist() == [2, 4, 8]
    assert lower.get_xlabel() == "Effective bits of a weight"
    assert upper.get_ylabel() == "Coverage of test rows"
    assert lower.get_ylabel() == "Mean width / float model's"
    assert legend_texts(upper) == ["nominal (0.8)", "stale threshold", "recalibrated"]
    assert legend_texts(lower) == [
        "float model",
        "recalibrated",
        "forecast from drift",
    ]


def test_bits_in_any_order_are_joined_in_theirs():
    found = reports()
    display = QuantizationDisplay.from_reports({b: found[b] for b in (8, 2, 4)})
    assert display.bits.tolist() == [8.0, 2.0, 4.0]
    assert display.width_.get_xdata().tolist() == [2.0, 4.0, 8.0]
    assert display.width_.get_ydata().tolist() == [
        found[b].width_ratio for b in (2, 4, 8)
    ]
    np.testing.assert_allclose(
        drawn(display.recalibrated_)[1],
        [found[b].recalibrated[1:3] for b in (2, 4, 8)],
    )


def test_names_stand_in_the_order_given():
    found = reports()
    names = {"w8": found[8], "rtn w2": found[2]}
    display = QuantizationDisplay.from_reports(names)
    lower = display.ax_[1]
    assert [t.get_text() for t in lower.get_xticklabels()] == ["w8", "rtn w2"]
    assert display.width_.get_xdata().tolist() == [0.0, 1.0]
    assert display.width_.get_linestyle() == "None"  # names are no scale
    assert lower.get_xlabel() == ""


def test_long_names_are_turned():
    found = reports()
    display = QuantizationDisplay.from_reports(
        {"x" * 40 + str(b): found[b] for b in found}
    )
    assert {t.get_rotation() for t in display.ax_[1].get_xticklabels()} == {30.0}


def test_label_sets_have_sizes_and_no_forecast():
    report = class_report()
    display = QuantizationDisplay.from_reports({3: report})
    assert display.forecast is None
    assert display.forecast_ is None
    assert display.width_name == "set size"
    assert display.ax_[1].get_ylabel() == "Mean set size / float model's"


def test_infinite_widths_are_left_out():
    with pytest.warns(InfiniteIntervalWarning):
        found = reports(bits=(2,), n=(3, 20))
    display = QuantizationDisplay.from_reports(found)
    assert np.isnan(display.width_ratio).all()
    assert np.isnan(display.width_.get_ydata()).all()
    display = QuantizationDisplay.from_predictions([2, 4], [1.0, 0.9], [np.inf, 1.1])
    np.testing.assert_array_equal(display.width_.get_ydata(), [np.nan, 1.1])


def test_several_models_share_the_references():
    found = reports()
    first = QuantizationDisplay.from_reports(found, name="rtn")
    second = QuantizationDisplay.from_reports(
        {3: found[4], 4: found[8]}, name="gptq", ax=first.ax_
    )
    assert second.reference_ is first.reference_
    assert second.width_.get_color() != first.width_.get_color()
    assert second.width_.get_marker() != first.width_.get_marker()
    upper, lower = second.ax_
    assert legend_texts(upper) == [
        "nominal (0.8)",
        "rtn, stale threshold",
        "rtn, recalibrated",
        "gptq, stale threshold",
        "gptq, recalibrated",
    ]
    assert legend_texts(lower)[:2] == ["float model", "rtn"]
    assert lower.get_xticks().tolist() == [2, 3, 4, 8]
    assert second.width_.get_xdata().tolist() == [3, 4]
    # All four bars at 4 bits are apart.
    at_four = [
        x
        for display in (first, second)
        for artist in (display.stale_, display.recalibrated_)
        for x in drawn(artist)[0][:, 0]
        if 3.5 < x < 4.5
    ]
    assert len(set(np.round(at_four, 3))) == 4


def test_given_axes_and_keywords_are_used():
    axes = plt.subplots(1, 2)[1]
    display = QuantizationDisplay.from_reports(
        reports(),
        ax=axes,
        coverage_kwargs={"ms": 9.0, "elinewidth": 3.0},
        width_kwargs={"c": "black", "lw": 4.0},
    )
    assert list(display.ax_) == list(axes)
    assert display.recalibrated_[0].get_markersize() == 9.0
    assert display.stale_[0].get_markersize() == 9.0
    assert display.width_.get_color() == "black"
    assert display.width_.get_linewidth() == 4.0
    assert len(plt.get_fignums()) == 1


def test_plot_takes_a_name_and_returns_itself():
    display = QuantizationDisplay.from_reports(reports(), name="old")
    assert display.plot(name="mine") is display
    assert legend_texts(display.ax_[1])[1] == "mine"
    assert display.name == "old"


# ---------------------------------------------------------------------------
# From numbers.


def test_binomial_intervals_of_numbers():
    display = QuantizationDisplay.from_predictions(
        [2, 4], [0.9, 0.95], [1.5, 1.1], stale=[0.5, 1.0], n_samples=[100, 200]
    )
    for shares, ends in (
        (display.recalibrated, display.recalibrated_interval),
        (display.stale, display.stale_interval),
    ):
        for share, n, interval in zip(shares, (100, 200), ends, strict=True):
            exact = binomtest(round(share * n), n).proportion_ci(method="exact")
            np.testing.assert_allclose(interval, [exact.low, exact.high])


def test_without_numbers_of_rows_there_are_no_bars():
    for arguments in ({}, {"n_samples": 50, "bar_level": None}):
        display = QuantizationDisplay.from_predictions([2.5], [0.9], [1.0], **arguments)
        assert display.recalibrated_interval is None
        assert drawn(display.recalibrated_)[1] is None
        assert display.stale is display.stale_ is display.stale_interval is None
    assert legend_texts(display.ax_[0]) == ["nominal (0.9)", "recalibrated"]


def test_numbers_and_reports_draw_the_same():
    found = reports()
    one = QuantizationDisplay.from_reports(found)
    two = QuantizationDisplay.from_predictions(
        list(found),
        [r.recalibrated.coverage for r in found.values()],
        [r.width_ratio for r in found.values()],
        stale=[r.stale.coverage for r in found.values()],
        forecast=[r.width_ratio_forecast for r in found.values()],
        n_samples=200,
        confidence_level=0.8,
    )
    for a, b in ((one.stale_, two.stale_), (one.recalibrated_, two.recalibrated_)):
        for x, y in zip(drawn(a), drawn(b), strict=True):
            np.testing.assert_allclose(x, y)
    np.testing.assert_array_equal(one.width_.get_xydata(), two.width_.get_xydata())


# ---------------------------------------------------------------------------
# Errors.


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bits": [2.0, 0.0]}, "bits must be positive and finite, got [2.0, 0.0]"),
        ({"bits": [2.0, np.inf]}, "bits must be positive and finite"),
        ({"bits": [2.0, np.nan]}, "bits contains NaN"),
        ({"bits": [2.0, 2.0]}, "bits must be distinct, got [2.0, 2.0]"),
        ({"bits": ["a", "a"]}, "bits must be distinct"),
        ({"bits": [2, "float"]}, "bits must be all numbers or all names"),
        ({"bits": []}, "bits must be a non-empty 1-D sequence"),
        ({"bits": 4}, "bits must be a non-empty 1-D sequence"),
        ({"recalibrated": [0.9]}, "recalibrated must have shape (2,)"),
        ({"recalibrated": [0.9, 1.1]}, "recalibrated must be a non-empty sequence"),
        ({"stale": [0.9, -0.1]}, "stale must be a non-empty sequence of shares"),
        ({"stale": [0.9]}, "stale must have shape (2,)"),
        ({"stale_interval": [[0, 1], [0, 1]]}, "stale_interval is given, but stale is"),
        ({"recalibrated_interval": [[0, 1]]}, "recalibrated_interval must have shape"),
        (
            {"recalibrated_interval": [[0.95, 1], [0, 1]]},
            "recalibrated_interval must hold recalibrated",
        ),
        (
            {"recalibrated_interval": [[0, np.nan], [0, 1]]},
            "recalibrated_interval must hold recalibrated",
        ),
        ({"width_ratio": [1.0]}, "width_ratio must have shape (2,)"),
        ({"width_ratio": [1.0, -1.0]}, "width_ratio must be at least 0"),
        ({"forecast": [1.0, -1.0]}, "forecast must be at least 0"),
        ({"confidence_level": 1}, "confidence_level must lie strictly"),
    ],
)
def test_constructor_refuses(changed, message):
    arguments = {"bits": [2, 4], "recalibrated": [0.9, 0.9], "width_ratio": [2, 1]}
    with pytest.raises(ValueError, match=re.escape(message)):
        QuantizationDisplay(**arguments | changed)


def test_from_reports_refuses():
    found = reports()
    for other in (list(found.values()), {2: 0.9}, None):
        with pytest.raises(TypeError, match="reports must be a dict of"):
            QuantizationDisplay.from_reports(other)
    with pytest.raises(ValueError, match="reports is empty"):
        QuantizationDisplay.from_reports({})
    mixed = found | {3: reports(bits=(3,), level=0.9)[3]}
    with pytest.raises(ValueError, match=r"one confidence_level, got \[0\.8, 0\.9\]"):
        QuantizationDisplay.from_reports(mixed)
    found = reports(level=0.9)
    with pytest.raises(ValueError, match="one nonconformity"):
        QuantizationDisplay.from_reports(found | {3: class_report()})


@pytest.mark.parametrize("n_samples", [0, -3, [10], np.nan, [[10, 10]]])
def test_from_predictions_refuses_numbers_of_rows(n_samples):
    with pytest.raises(ValueError, match="n_samples must be a positive number"):
        QuantizationDisplay.from_predictions(
            [2, 4], [0.9, 0.9], [1, 1], n_samples=n_samples
        )


def test_axes_of_another_picture_are_refused():
    found = reports()
    by_bits = QuantizationDisplay.from_reports(found).ax_
    by_name = QuantizationDisplay.from_reports({"a": found[2], "b": found[4]}).ax_
    with pytest.raises(ValueError, match="this display has bits"):
        QuantizationDisplay.from_reports(found, ax=by_name)
    with pytest.raises(ValueError, match=r"this display has \['a', 'c'\]"):
        QuantizationDisplay.from_reports({"a": found[2], "c": found[4]}, ax=by_name)
    with pytest.raises(ValueError, match=r"this display has \['2'\]"):
        QuantizationDisplay.from_reports({"2": found[2]}, ax=by_bits)
    with pytest.raises(ValueError, match=r"is nominal \(0\.8\), but this display"):
        QuantizationDisplay.from_reports(reports(level=0.9), ax=by_bits)
    for ax in (plt.subplots()[1], plt.subplots(3)[1], [1, 2]):
        with pytest.raises(ValueError, match="ax must be a pair of Axes"):
            QuantizationDisplay.from_reports(found, ax=ax)
