"""ReliabilityDisplay: its points are calibration_bins', its intervals binomial."""

import re
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from uqlib._binomial import clopper_pearson
from uqlib.inspection._reliability_display import ReliabilityDisplay
from uqlib.metrics._calibration import calibration_bins, expected_calibration_error


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def rows():
    """Labels of three classes and probabilities, some of them equal."""
    rng = np.random.default_rng(0)
    proba = rng.dirichlet([1, 1, 1], size=300).round(1)
    proba[:, 2] = 1 - proba[:, 0] - proba[:, 1]
    return rng.integers(0, 3, size=300), np.clip(proba, 0, 1)


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(150, 2))
    y = np.array(["a", "b", "c"])[np.digitize(X[:, 0] + rng.normal(size=150), [-1, 1])]
    return X, y


def raises_exactly(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def legend_texts(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


def drawn(display):
    """Points and the ends of their intervals: (n_points, 2), (n_points, 2)."""
    line, _, (bars,) = display.errorbar_
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    return np.column_stack(line.get_data()), ends


# ---------------------------------------------------------------------------
# The points.


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize("pos_label", [None, 0, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_points_are_those_of_calibration_bins(rows, strategy, pos_label, weighted):
    weight = np.random.default_rng(2).exponential(size=300) if weighted else None
    choice = {"strategy": strategy, "pos_label": pos_label, "sample_weight": weight}
    display = ReliabilityDisplay.from_predictions(*rows, n_bins=7, **choice)
    bins = calibration_bins(*rows, n_bins=7, **choice)
    for field in ("confidence", "accuracy", "weight", "edges"):
        np.testing.assert_array_equal(getattr(display, field), getattr(bins, field))
    points, _ = drawn(display)
    np.testing.assert_array_equal(points, np.c_[bins.confidence, bins.accuracy])


def test_the_number_is_the_expected_calibration_error(rows):
    y, proba = rows
    for choice in ({}, {"n_bins": 4}, {"strategy": "quantile"}):
        display = ReliabilityDisplay.from_predictions(y, proba, **choice)
        assert display.calibration_error_ == expected_calibration_error(
            y, proba, **choice
        )
    errors = [
        ReliabilityDisplay.from_predictions(y, proba, pos_label=k).calibration_error_
        for k in range(3)
    ]
    np.testing.assert_allclose(
        np.mean(errors), expected_calibration_error(y, proba, kind="class_wise")
    )


def test_binary_diagram_is_that_of_the_class_asked_for():
    y, proba = ["no", "yes", "no", "yes"], [0.25, 0.25, 0.75, 1.0]
    display = ReliabilityDisplay.from_predictions(y, proba, n_bins=2, pos_label="yes")
    assert display.confidence.tolist() == [0.25, 0.875]
    assert display.accuracy.tolist() == [0.5, 0.5]
    assert display.calibration_error_ == 0.3125
    assert display.ax_.get_xlabel() == "Probability of class yes"
    assert display.ax_.get_ylabel() == "Share of class yes, 95 % binomial intervals"
    other = ReliabilityDisplay.from_predictions(y, proba, n_bins=2, pos_label="no")
    np.testing.assert_allclose(other.confidence, 1 - display.confidence[::-1])
    np.testing.assert_allclose(other.accuracy, 1 - display.accuracy[::-1])
    top = ReliabilityDisplay.from_predictions(y, proba, n_bins=2)
    np.testing.assert_allclose(top.confidence, [(0.75 + 0.75 + 0.75 + 1) / 4])
    assert top.accuracy.tolist() == [0.5]
    assert top.ax_.get_xlabel() == "Confidence (probability of the top label)"


def test_calibration_bins_make_a_display(rows):
    bins = calibration_bins(*rows)
    display = ReliabilityDisplay(**bins._asdict(), name="mine")
    assert not hasattr(display, "ax_")
    np.testing.assert_array_equal(display.n_samples, bins.weight)
    assert display.calibration_error_ == expected_calibration_error(*rows)
    assert legend_texts(display.plot())[-1].startswith("mine (ECE 0.")


# ---------------------------------------------------------------------------
# The intervals.


def test_intervals_are_drawn_where_the_numbers_say(rows):
    display = ReliabilityDisplay.from_predictions(*rows, bar_level=0.8)
    _, ends = drawn(display)
    expected = clopper_pearson(
        display.accuracy * display.n_samples, display.n_samples, 0.8
    )
    np.testing.assert_allclose(ends, expected)
    assert display.ax_.get_ylabel() == "Accuracy, 80 % binomial intervals"


def test_without_a_level_there_are_no_intervals(rows):
    display = ReliabilityDisplay.from_predictions(*rows, bar_level=None)
    assert display.errorbar_[2] == ()
    assert display.ax_.get_ylabel() == "Accuracy"


def test_weights_that_are_equal_do_not_change_the_intervals(rows):
    plain = ReliabilityDisplay.from_predictions(*rows)
    equal = ReliabilityDisplay.from_predictions(*rows, sample_weight=np.full(300, 0.1))
    np.testing.assert_allclose(equal.n_samples, plain.n_samples)
    np.testing.assert_allclose(drawn(equal)[1], drawn(plain)[1])


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300])
def test_weights_count_effective_rows(rows, strategy, scale):
    y, proba = rows
    weight = np.random.default_rng(3).integers(0, 4, size=300) * scale
    display = ReliabilityDisplay.from_predictions(
        y, proba, pos_label=1, strategy=strategy, n_bins=5, sample_weight=weight
    )
    p, last = proba[:, 1], len(display.edges) - 1
    for r, (low, high) in enumerate(display.edges):
        inside = (low <= p) & ((p < high) | ((r == last) & (p <= high)))
        if r < last:
            inside &= p < display.edges[r + 1, 0]
        w = weight[inside] / scale
        np.testing.assert_allclose(display.n_samples[r], w.sum() ** 2 / (w**2).sum())
        np.testing.assert_allclose(display.weight[r] / scale, w.sum())


def test_ties_for_the_top_count_as_shares():
    display = ReliabilityDisplay.from_predictions(
        [0, 1, 2], np.full((3, 3), 1 / 3), n_bins=1
    )
    np.testing.assert_allclose(display.accuracy, 1 / 3)
    _, ends = drawn(display)
    np.testing.assert_allclose(ends, clopper_pearson([1.0], [3.0], 0.95))


# ---------------------------------------------------------------------------
# The picture.


def test_bars_show_the_share_of_rows(rows):
    display = ReliabilityDisplay.from_predictions(*rows, n_bins=8)
    boxes = [bar.get_bbox() for bar in display.shares_]
    np.testing.assert_allclose([[b.x0, b.x1] for b in boxes], display.edges)
    np.testing.assert_allclose([b.y0 for b in boxes], 0)
    np.testing.assert_allclose([b.y1 for b in boxes], display.weight / 300)
    assert legend_texts(display)[1] == "share of rows"


def test_bars_can_be_left_out(rows):
    display = ReliabilityDisplay.from_predictions(*rows, show_shares=False)
    assert display.shares_ is None
    assert "share of rows" not in legend_texts(display)
    assert not display.ax_.patches


def test_a_range_that_is_one_probability_is_seen():
    display = ReliabilityDisplay.from_predictions(
        [0, 1, 1], [0.5, 1.0, 1.0], pos_label=1, strategy="quantile", n_bins=2
    )
    assert display.edges[-1].tolist() == [1.0, 1.0]
    last = display.shares_[-1]
    assert last.get_linewidth() > 0
    assert last.get_edgecolor()[3] > 0


def test_axes_are_a_square_of_shares(rows):
    display = ReliabilityDisplay.from_predictions(*rows)
    ax = display.ax_
    assert ax.get_xlim() == ax.get_ylim() == (-0.02, 1.02)
    assert ax.get_aspect() == 1
    np.testing.assert_array_equal(display.reference_.get_xydata(), [[0, 0], [1, 1]])
    assert legend_texts(display)[0] == "perfect (below: overconfident)"
    one = ReliabilityDisplay.from_predictions(*rows, pos_label=0)
    assert legend_texts(one)[0] == "perfect (below: overestimated)"


@pytest.mark.parametrize("n_models", [1, 3, 6])
@pytest.mark.parametrize("title", ["", "A title"])
def test_nothing_is_cut_off(rows, n_models, title):
    name = "A classifier with a name that does not end before the line does"
    ax = None
    for _ in range(n_models):
        display = ReliabilityDisplay.from_predictions(*rows, ax=ax, name=name)
        ax = display.ax_
    ax.set_title(title)
    figure = display.figure_
    figure.canvas.draw()
    taken = figure.get_tightbbox(figure.canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert taken.x0 >= 0
    assert taken.y0 >= 0
    assert taken.x1 <= width
    assert taken.y1 <= height
    legend = ax.get_legend().get_window_extent()
    assert legend.y1 < ax.xaxis.label.get_window_extent().y0
    box = ax.get_window_extent()
    np.testing.assert_allclose(box.width, box.height)


def test_on_given_axes_the_legend_stays_inside(rows):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5))
    display = ReliabilityDisplay.from_predictions(*rows, ax=right)
    assert display.ax_ is right
    assert display.figure_ is figure
    figure.canvas.draw()
    legend, box = right.get_legend().get_window_extent(), right.get_window_extent()
    assert box.x0 <= legend.x0 < legend.x1 <= box.x1
    assert box.y0 <= legend.y0 < legend.y1 <= box.y1
    assert not left.lines
    assert len(plt.get_fignums()) == 1


def test_long_names_are_broken_into_lines(rows):
    name = " ".join(["word"] * 20)
    text = legend_texts(ReliabilityDisplay.from_predictions(*rows, name=name))[-1]
    lines = text.split("\n")
    assert len(lines) > 1
    assert max(map(len, lines)) <= 44
    assert re.fullmatch(name + r" \(ECE 0\.\d{3}\)", " ".join(lines))
    assert re.search(r"\(ECE 0\.\d{3}\)$", lines[-1])


def test_a_tiny_error_is_not_rounded_to_zero():
    display = ReliabilityDisplay(
        confidence=[0.5], accuracy=[0.5001], weight=[10.0], edges=[[0, 1]]
    ).plot()
    assert legend_texts(display)[-1] == "observed (ECE < 0.001)"
    display = ReliabilityDisplay(
        confidence=[0.5], accuracy=[0.5], weight=[10.0], edges=[[0, 1]]
    ).plot(name="exact")
    assert legend_texts(display)[-1] == "exact (ECE 0.000)"


def test_several_models_share_the_diagonal(rows):
    y, proba = rows
    first = ReliabilityDisplay.from_predictions(y, proba, name="one")
    second = ReliabilityDisplay.from_predictions(
        y, proba[:, [1, 2, 0]], name="two", ax=first.ax_
    )
    assert second.reference_ is first.reference_
    texts = legend_texts(second)
    assert texts[1] == "share of rows"
    assert [text.split(" ")[0] for text in texts] == ["perfect", "share", "one", "two"]
    one, two = first.errorbar_[0], second.errorbar_[0]
    assert not same_color(one.get_color(), two.get_color())
    assert one.get_marker() != two.get_marker()
    assert len(first.ax_.containers) == 4


@pytest.mark.parametrize("other", [{"pos_label": 1}, {"bar_level": 0.5}])
def test_other_pictures_are_not_mixed(rows, other):
    display = ReliabilityDisplay.from_predictions(*rows)
    with pytest.raises(ValueError, match="Draw it on other axes") as caught:
        ReliabilityDisplay.from_predictions(*rows, ax=display.ax_, **other)
    assert "'Accuracy, 95 % binomial intervals'" in str(caught.value)
    assert len(display.ax_.containers) == 2


def test_keywords_reach_the_artists_by_any_alias(rows):
    display = ReliabilityDisplay.from_predictions(
        *rows,
        errorbar_kwargs={"c": "black", "ms": 9.0, "ls": "none"},
        share_kwargs={"color": "red", "lw": 3.0},
    )
    assert display.errorbar_[0].get_color() == "black"
    assert display.errorbar_[0].get_markersize() == 9.0
    assert display.errorbar_[0].get_linestyle() == "None"
    assert same_color(display.shares_[0].get_facecolor()[:3], "red")
    assert display.shares_[0].get_linewidth() == 3.0
    assert same_color(
        ReliabilityDisplay.from_predictions(*rows, errorbar_kwargs={"color": "black"})
        .shares_[0]
        .get_facecolor()[:3],
        "black",
    )


def test_plot_takes_a_name_and_returns_itself(rows):
    display = ReliabilityDisplay.from_predictions(*rows, name="old")
    first = display.ax_
    assert display.plot(name="new") is display
    assert display.ax_ is not first
    assert legend_texts(display)[-1].startswith("new (")


def test_a_long_class_name_is_shortened(rows):
    label = "x" * 30
    display = ReliabilityDisplay(
        confidence=[0.5], accuracy=[0.5], weight=[1], edges=[[0, 1]], pos_label=label
    ).plot()
    assert display.ax_.get_xlabel() == f"Probability of class {'x' * 19}…"


# ---------------------------------------------------------------------------
# Small inputs.


@pytest.mark.parametrize("proba", [0.0, 0.5, 1.0])
def test_one_row(proba):
    display = ReliabilityDisplay.from_predictions(
        [1], [proba], labels=[0, 1], pos_label=1
    )
    points, ends = drawn(display)
    assert points.tolist() == [[proba, 1.0]]
    np.testing.assert_allclose(ends, [[0.025, 1]])
    assert display.calibration_error_ == 1 - proba
    display.figure_.canvas.draw()


def test_one_range(rows):
    display = ReliabilityDisplay.from_predictions(*rows, n_bins=1)
    assert display.edges.tolist() == [[0, 1]]
    np.testing.assert_allclose(display.confidence, rows[1].max(axis=1).mean())
    np.testing.assert_allclose([bar.get_height() for bar in display.shares_], 1)


def test_one_class():
    display = ReliabilityDisplay.from_predictions(["a"] * 4, np.ones((4, 1)))
    assert display.confidence.tolist() == display.accuracy.tolist() == [1.0]


def test_rows_of_no_weight_and_float32_and_strides(rows):
    y, proba = rows
    weight = np.r_[np.ones(200), np.zeros(100)]
    some = ReliabilityDisplay.from_predictions(y, proba, sample_weight=weight)
    first = ReliabilityDisplay.from_predictions(y[:200], proba[:200])
    np.testing.assert_allclose(some.accuracy, first.accuracy)
    np.testing.assert_allclose(some.n_samples, first.n_samples)
    wide = np.asfortranarray(np.repeat(proba, 2, axis=1))[:, ::2]
    np.testing.assert_array_equal(
        ReliabilityDisplay.from_predictions(y, wide).accuracy,
        ReliabilityDisplay.from_predictions(y, proba).accuracy,
    )
    single = ReliabilityDisplay.from_predictions(
        [0, 1], np.array([[0.75, 0.25], [0.5, 0.5]], dtype=np.float32)
    )
    assert single.confidence.tolist() == [0.5, 0.75]


# ---------------------------------------------------------------------------
# Models.


def test_from_estimator_equals_from_predictions(data):
    X, y = data
    model = LogisticRegression().fit(X[:100], y[:100])
    one = ReliabilityDisplay.from_estimator(
        model, X[100:], y[100:], n_bins=4, strategy="quantile", pos_label="b"
    )
    two = ReliabilityDisplay.from_predictions(
        y[100:],
        model.predict_proba(X[100:]),
        labels=["a", "b", "c"],
        n_bins=4,
        strategy="quantile",
        pos_label="b",
    )
    np.testing.assert_array_equal(one.accuracy, two.accuracy)
    np.testing.assert_array_equal(one.confidence, two.confidence)
    assert one.name == "LogisticRegression"
    assert two.name is None
    assert one.pos_label == "b"


def test_classes_that_no_row_has_do_not_matter(data):
    X, y = data
    model = LogisticRegression().fit(X, y)
    few = y != "c"
    display = ReliabilityDisplay.from_estimator(model, X[few], y[few])
    proba = model.predict_proba(X[few])
    np.testing.assert_allclose(
        display.accuracy @ display.weight / few.sum(),
        np.mean(model.classes_[proba.argmax(axis=1)] == y[few]),
    )


def test_pipelines_searches_and_frames_are_taken(data, df_module):
    X, y = data
    frame = df_module.make_dataframe({"a": X[:, 0], "b": X[:, 1]})
    series = df_module.make_series(y)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    search = GridSearchCV(model, {"logisticregression__C": [1.0]}, cv=3)
    search.fit(frame, series)
    weight = np.arange(150.0)
    display = ReliabilityDisplay.from_estimator(
        search, frame, series, sample_weight=weight
    )
    expected = calibration_bins(
        y,
        search.predict_proba(frame),
        labels=["a", "b", "c"],
        sample_weight=weight,
    )
    np.testing.assert_array_equal(display.accuracy, expected.accuracy)
    assert display.name == "GridSearchCV"


def test_nothing_is_mutated_and_pandas_is_taken(rows):
    y, proba = rows
    passed = [y.copy(), proba.copy(), np.ones(300)]
    one = ReliabilityDisplay.from_predictions(*passed[:2], sample_weight=passed[2])
    for array, original in zip(passed, [y, proba, np.ones(300)], strict=True):
        np.testing.assert_array_equal(array, original)
    index = pd.RangeIndex(3, 303)
    two = ReliabilityDisplay.from_predictions(
        pd.Series(y, index=index), pd.DataFrame(proba, columns=list("abc"))
    )
    np.testing.assert_array_equal(one.accuracy, two.accuracy)


def test_models_without_probabilities_are_refused(data):
    X, y = data
    with pytest.raises(ValueError, match=r"LinearSVC has no predict_proba"):
        ReliabilityDisplay.from_estimator(LinearSVC().fit(X, y), X, y)
    with pytest.raises(ValueError, match=r"LinearRegression has no array classes_"):
        ReliabilityDisplay.from_estimator(LinearRegression().fit(X, X[:, 0]), X, y)
    model = LogisticRegression().fit(X, y)
    with pytest.raises(ValueError, match="y_true holds labels that labels lacks"):
        ReliabilityDisplay.from_estimator(model, X[:2], ["a", "z"])
    with pytest.raises(ValueError, match="pos_label='z' must be one of the labels"):
        ReliabilityDisplay.from_estimator(model, X, y, pos_label="z")
    assert not plt.get_fignums()


# ---------------------------------------------------------------------------
# Bad input.

BAD = {
    "no rows": ({"y_true": [], "y_proba": np.empty((0, 2))}, "y_proba stands for"),
    "rows": ({"y_proba": [0.1]}, "y_proba has 1 rows but y_true has 2"),
    "range": ({"y_proba": [0.1, 1.1]}, "y_proba must hold probabilities"),
    "NaN": ({"y_proba": [0.1, np.nan]}, "y_proba must hold probabilities"),
    "bins": ({"n_bins": 0}, "n_bins must be at least 1"),
    "strategy": ({"strategy": "equal"}, "strategy='equal' must be"),
    "weight": ({"sample_weight": [0, 0]}, "sample_weight must be finite"),
    "bar level": (
        {"bar_level": 95},
        "bar_level must lie strictly between 0 and 1, got 95. Pass 0.95 for 95 %, or "
        "None to draw none.",
    ),
    "bar level NaN": ({"bar_level": np.nan}, "bar_level must lie strictly"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_predictions_are_refused_before_a_figure_is_made(change, message):
    good = {"y_true": [0, 1], "y_proba": [0.2, 0.7]}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        ReliabilityDisplay.from_predictions(**(good | change))
    assert not plt.get_fignums()


@pytest.mark.parametrize("bar_level", [True, "0.9"])
def test_a_level_that_is_no_number_is_refused(bar_level):
    with pytest.raises(TypeError) as caught:
        ReliabilityDisplay.from_predictions([0, 1], [0.2, 0.7], bar_level=bar_level)
    assert str(caught.value) == (
        "bar_level must be a number strictly between 0 and 1, or None, got "
        f"{bar_level!r}."
    )


GOOD = {
    "confidence": [0.2, 0.8],
    "accuracy": [0.3, 0.7],
    "weight": [3, 4],
    "edges": [[0, 0.5], [0.5, 1]],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"accuracy": [0.3, 1.2]},
            "accuracy must be a non-empty sequence of shares between 0 and 1, got "
            "[0.3, 1.2].",
        ),
        (
            {"confidence": []},
            "confidence must be a non-empty sequence of shares between 0 and 1, got "
            "[].",
        ),
        (
            {"accuracy": [0.3]},
            "accuracy must have shape (2,), one entry for each of confidence, got "
            "shape (1,).",
        ),
        (
            {"weight": [3, 0]},
            "weight must be positive and finite, got [3.0, 0.0]. Leave out the ranges "
            "without rows.",
        ),
        (
            {"n_samples": [np.nan, 1]},
            "n_samples must be positive and finite, got [nan, 1.0]. Leave out the "
            "ranges without rows.",
        ),
        (
            {"n_samples": [1, 2, 3]},
            "n_samples must have shape (2,), one entry for each of confidence, got "
            "shape (3,).",
        ),
        (
            {"edges": [0, 1]},
            "edges must have shape (2, 2), one entry for each of confidence, got shape "
            "(2,).",
        ),
        (
            {"edges": [[0, 0.5], [0.5, 2]]},
            "edges must be a non-empty sequence of shares between 0 and 1, got "
            "[0.0, 0.5, 0.5, 2.0].",
        ),
    ],
)
def test_bad_constructor_arguments_are_refused(change, message):
    with raises_exactly(message):
        ReliabilityDisplay(**(GOOD | change))


def test_without_matplotlib_the_error_has_the_remedy(monkeypatch):
    display = ReliabilityDisplay(**GOOD)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for call in (
        lambda: ReliabilityDisplay.from_estimator(None, None, None),
        lambda: ReliabilityDisplay.from_predictions(None, None),
        display.plot,
    ):
        with pytest.raises(ImportError) as caught:
            call()
        assert str(caught.value) == (
            "ReliabilityDisplay draws with matplotlib, which is not installed. Run "
            "`pip install uqlib[plot]`."
        )
