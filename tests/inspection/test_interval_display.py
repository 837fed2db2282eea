"""PredictionIntervalDisplay draws every fact once, and nothing that is not one."""

import re
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color
from sklearn.linear_model import LinearRegression, QuantileRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uqlib.conformal import SplitConformalRegressor
from uqlib.inspection import CoverageDisplay, PredictionIntervalDisplay
from uqlib.metrics import coverage_score
from uqlib.quantile import MultiQuantileRegressor

INF = np.inf


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    y_pred = rng.normal(size=60)
    y_true = y_pred + rng.normal(size=60)
    return y_true, y_pred[:, None] + [-1.5, 1.2], y_pred


def raises_exactly(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def legend_texts(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


def bar_ends(display):
    return np.array([segment[:, 1] for segment in display.intervals_.get_segments()])


def test_parameters_are_stored(rows):
    y_true, y_interval, y_pred = rows
    display = PredictionIntervalDisplay(
        y_true=y_true, y_interval=y_interval, y_pred=y_pred, confidence_level=0.8
    )
    np.testing.assert_array_equal(display.y_true, y_true)
    np.testing.assert_array_equal(display.y_interval, y_interval)
    np.testing.assert_array_equal(display.y_pred, y_pred)
    assert display.confidence_level == 0.8
    assert display.coverage_ == coverage_score(y_true, y_interval)
    assert not hasattr(display, "ax_")


def test_every_row_is_drawn_where_it_belongs(rows):
    y_true, y_interval, y_pred = rows
    display = PredictionIntervalDisplay.from_predictions(
        y_true, y_interval, y_pred=y_pred
    )
    order = np.argsort(y_pred)
    inside = ((y_interval[:, 0] <= y_true) & (y_true <= y_interval[:, 1]))[order]
    ranks = np.arange(1, 61)
    np.testing.assert_allclose(bar_ends(display), y_interval[order])
    np.testing.assert_array_equal(display.prediction_.get_ydata(), y_pred[order])
    np.testing.assert_array_equal(display.hits_.get_xdata(), ranks[inside])
    np.testing.assert_array_equal(display.hits_.get_ydata(), y_true[order][inside])
    np.testing.assert_array_equal(display.misses_.get_xdata(), ranks[~inside])
    np.testing.assert_array_equal(display.misses_.get_ydata(), y_true[order][~inside])
    assert len(display.misses_.get_xdata()) == round(60 * (1 - display.coverage_)) > 0
    assert display.infinite_ is None
    assert display.ax_.get_xlabel() == "Row, sorted by prediction"
    assert display.ax_.get_title() == ""


def test_misses_differ_from_hits_in_marker_and_in_color(rows):
    display = PredictionIntervalDisplay.from_predictions(*rows[:2])
    hits, misses = display.hits_, display.misses_
    assert hits.get_marker() != misses.get_marker()
    assert not same_color(hits.get_color(), misses.get_color())


def test_a_target_on_a_bound_is_inside():
    display = PredictionIntervalDisplay.from_predictions(
        [0.0, 1.0, 2.0], [[0.0, 1.0]] * 3
    )
    assert len(display.hits_.get_xdata()) == 2
    assert len(display.misses_.get_xdata()) == 1


def test_legend_tells_both_coverages():
    y_true = np.r_[np.zeros(89), np.full(11, 5.0)]
    display = PredictionIntervalDisplay.from_predictions(
        y_true, np.tile([-1.0, 1.0], (100, 1)), confidence_level=0.9
    )
    assert legend_texts(display) == [
        "90 % interval",
        "inside (89.0 %)",
        "misses (11.0 %)",
    ]
    assert display.ax_.get_legend().get_title().get_text() == ""


def test_unknown_level_is_left_out(rows):
    display = PredictionIntervalDisplay.from_predictions(*rows[:2])
    assert display.confidence_level is None
    assert legend_texts(display)[0] == "interval"


def test_one_miss_in_many_rows_is_not_rounded_away():
    y_true = np.r_[5.0, np.zeros(9999)]
    display = PredictionIntervalDisplay.from_predictions(
        y_true, np.tile([-1.0, 1.0], (10_000, 1))
    )
    assert legend_texts(display)[1:] == ["inside (> 99.9 %)", "misses (< 0.1 %)"]


@pytest.mark.parametrize("max_rows", [2, 7, 59, 60])
def test_a_subset_is_drawn_and_all_rows_are_counted(rows, max_rows):
    y_true, y_interval, y_pred = rows
    display = PredictionIntervalDisplay.from_predictions(
        y_true, y_interval, y_pred=y_pred, max_rows=max_rows
    )
    ranks = display.prediction_.get_xdata()
    assert len(display.intervals_.get_segments()) == max_rows == len(set(ranks))
    assert (ranks[0], ranks[-1]) == (1, 60)
    assert np.ptp(np.diff(ranks)) <= 1
    np.testing.assert_array_equal(
        display.prediction_.get_ydata(), np.sort(y_pred)[ranks - 1]
    )
    assert display.coverage_ == coverage_score(y_true, y_interval)
    assert f"inside ({100 * display.coverage_:.1f} %)" in legend_texts(display)
    drawn = "" if max_rows == 60 else f" ({max_rows} of 60 drawn)"
    assert display.ax_.get_xlabel() == "Row, sorted by prediction" + drawn
    title = "" if max_rows == 60 else "shares of all 60 rows"
    assert display.ax_.get_legend().get_title().get_text() == title


def test_default_draws_300_rows_and_none_draws_all():
    y_true, y_interval = np.zeros(1000), np.tile([-1.0, 1.0], (1000, 1))
    display = PredictionIntervalDisplay(y_true=y_true, y_interval=y_interval)
    assert len(display.plot().intervals_.get_segments()) == 300
    assert len(display.plot(max_rows=None).intervals_.get_segments()) == 1000


def test_without_points_rows_are_sorted_by_midpoint():
    y_interval = np.array([[-INF, INF], [4.0, 6.0], [-INF, 1.0], [2.0, INF], [-3.0, 3]])
    display = PredictionIntervalDisplay.from_predictions(np.arange(5.0), y_interval)
    # Midpoints: last, 5, 1 (the finite end), 2 (the finite end), 0.
    drawn = np.zeros(5)
    for line in (display.hits_, display.misses_):
        drawn[np.asarray(line.get_xdata()) - 1] = line.get_ydata()
    assert drawn.tolist() == [4, 2, 3, 1, 0]
    assert display.prediction_ is None
    assert display.ax_.get_xlabel() == "Row, sorted by interval midpoint"


def test_ties_keep_their_order():
    y_true = np.arange(20.0)
    display = PredictionIntervalDisplay.from_predictions(
        y_true, np.tile([-1.0, 50.0], (20, 1)), y_pred=np.zeros(20)
    )
    np.testing.assert_array_equal(display.hits_.get_ydata(), y_true)


def test_infinite_bounds_reach_the_edges_and_do_not_stretch_them():
    y_true = [0.0, 1.0, 2.0, 9.0]
    y_interval = [[-1.0, 1.0], [-INF, 2.0], [1.0, INF], [-INF, INF]]
    display = PredictionIntervalDisplay.from_predictions(
        y_true, y_interval, y_pred=[0, 1, 2, 3]
    )
    low, high = display.ax_.get_ylim()
    assert -3 < low < -1
    assert 9 < high < 13
    ends = bar_ends(display)
    assert np.isfinite(ends).all()
    np.testing.assert_array_equal(ends[:, 0] < low, [False, True, False, True])
    np.testing.assert_array_equal(ends[:, 1] > high, [False, False, True, True])
    down, up = display.infinite_
    assert list(down.get_xdata()) == [2, 4]
    assert list(up.get_xdata()) == [3, 4]
    assert "infinite bound (3 of 4 rows)" in legend_texts(display)
    assert display.coverage_ == 1.0
    display.figure_.canvas.draw()


def test_nothing_but_infinite_bounds():
    display = PredictionIntervalDisplay.from_predictions([3.0], [[-INF, INF]])
    low, high = display.ax_.get_ylim()
    assert low < 3 < high
    assert bar_ends(display)[0, 0] < low < high < bar_ends(display)[0, 1]
    display.figure_.canvas.draw()


def test_infinite_rows_are_counted_even_if_none_is_drawn():
    y_interval = np.tile([-1.0, 1.0], (100, 1))
    y_interval[50, 1] = INF
    display = PredictionIntervalDisplay.from_predictions(
        np.zeros(100), y_interval, y_pred=np.arange(100), max_rows=2
    )
    assert "infinite bound (1 of 100 rows)" in legend_texts(display)


def test_given_axes_are_used_and_stay_usable(rows):
    figure, (left, right) = plt.subplots(1, 2, sharey=True)
    first = PredictionIntervalDisplay.from_predictions(*rows[:2], ax=left)
    second = PredictionIntervalDisplay.from_predictions(
        rows[0] + 10, rows[1] + 10, ax=right
    )
    assert first.ax_ is left
    assert second.figure_ is figure
    low, high = left.get_ylim()
    assert low < rows[1].min()
    assert high > rows[1].max() + 10
    assert len(plt.get_fignums()) == 1


def test_limits_that_the_user_fixed_stay(rows):
    ax = plt.subplots()[1]
    ax.set_ylim(-20, 20)
    PredictionIntervalDisplay.from_predictions(*rows[:2], ax=ax)
    assert ax.get_ylim() == (-20, 20)


def test_keywords_reach_the_artists_by_any_alias(rows):
    display = PredictionIntervalDisplay.from_predictions(
        *rows[:2],
        interval_kwargs={"lw": 3.0, "color": "red"},
        hit_kwargs={"ms": 9.0},
        miss_kwargs={"c": "black"},
    )
    assert display.intervals_.get_linewidth()[0] == 3.0
    assert same_color(display.intervals_.get_color()[0], "red")
    assert display.hits_.get_markersize() == 9.0
    assert same_color(display.misses_.get_color(), "black")


def test_plot_returns_itself_and_draws_anew(rows):
    display = PredictionIntervalDisplay(y_true=rows[0], y_interval=rows[1])
    assert display.plot() is display
    first = display.ax_
    assert display.plot().ax_ is not first


def test_from_estimator_takes_the_models_own_level():
    X = np.arange(80.0).reshape(-1, 1)
    y = X[:, 0] + np.arange(80) % 7
    model = make_pipeline(
        StandardScaler(),
        SplitConformalRegressor(
            LinearRegression(), confidence_level=0.8, random_state=0
        ),
    ).fit(X, y)
    display = PredictionIntervalDisplay.from_estimator(model, X, y)
    np.testing.assert_array_equal(
        display.y_interval, model[-1].predict_interval(model[0].transform(X))
    )
    np.testing.assert_array_equal(display.y_pred, model.predict(X))
    assert display.confidence_level == 0.8
    assert "80 % interval" in legend_texts(display)


def test_from_estimator_takes_quantile_models_and_frames(df_module):
    X = df_module.make_dataframe({"a": np.arange(40.0)})
    y = df_module.make_series(np.arange(40) % 5 * 1.0)
    model = MultiQuantileRegressor(
        QuantileRegressor(alpha=0), quantiles=[0.25, 0.5, 0.75]
    ).fit(X, y)
    display = PredictionIntervalDisplay.from_estimator(
        model, X, y, confidence_level=0.5
    )
    np.testing.assert_array_equal(
        display.y_interval, model.predict_quantiles(X)[:, [0, 2]]
    )
    assert display.confidence_level == 0.5
    with pytest.raises(ValueError, match=r"confidence_level is needed"):
        PredictionIntervalDisplay.from_estimator(model, X, y)


class ForeignModel:
    """Gives intervals and tells no level."""

    def predict(self, X):
        return np.zeros(len(X))

    def predict_interval(self, X):
        return np.tile([-1.0, 1.0], (len(X), 1))


def test_a_foreign_model_without_a_level_is_drawn_without_it():
    display = PredictionIntervalDisplay.from_estimator(
        ForeignModel(), np.zeros((4, 1)), np.zeros(4)
    )
    assert display.confidence_level is None


def test_pandas_inputs_and_nothing_is_mutated(rows):
    y_true, y_interval, y_pred = (array.copy() for array in rows)
    frame = pd.DataFrame(y_interval, columns=["lower", "upper"])
    index = pd.RangeIndex(5, 65)
    for display in (
        PredictionIntervalDisplay.from_predictions(y_true, y_interval, y_pred=y_pred),
        PredictionIntervalDisplay.from_predictions(
            pd.Series(y_true, index=index), frame, y_pred=pd.Series(y_pred, index=index)
        ),
    ):
        np.testing.assert_array_equal(display.y_true, rows[0])
        np.testing.assert_array_equal(display.y_interval, rows[1])
        np.testing.assert_array_equal(display.y_pred, rows[2])
    for array, original in zip((y_true, y_interval, y_pred), rows, strict=True):
        np.testing.assert_array_equal(array, original)
    np.testing.assert_array_equal(frame.to_numpy(), rows[1])


GOOD = {"y_true": [0.0, 1.0], "y_interval": [[0.0, 1.0], [0.0, 1.0]]}
BAD = {
    "target column": (
        {"y_true": [[0.0], [1.0]]},
        "y_true must have shape (n_samples,), got shape (2, 1). Flatten a column with "
        "y_true.ravel().",
    ),
    "target NaN": (
        {"y_true": [0.0, np.nan]},
        "y_true contains NaN or infinity. Remove those rows: every target must be "
        "finite.",
    ),
    "interval shape": (
        {"y_interval": [[0.0, 1.0, 2.0]] * 2},
        "y_interval must have shape (n_samples, 2) with columns lower and upper, got "
        "shape (2, 3).",
    ),
    "interval rows": (
        {"y_interval": [[0.0, 1.0]] * 3},
        "y_interval has 3 rows but y_true has 2: pass arrays over the same rows.",
    ),
    "interval NaN": (
        {"y_interval": [[0.0, 1.0], [np.nan, 1.0]]},
        "y_interval contains NaN. Remove or impute those rows; infinite values are "
        "legal, NaN is not.",
    ),
    "interval crossed": (
        {"y_interval": [[0.0, 1.0], [1.0, 0.0]]},
        "y_interval has lower > upper in 1 of 2 rows. Order the columns as lower, "
        "upper; sort_quantiles(y_interval) exchanges ends that crossed.",
    ),
    "no rows": (
        {"y_true": [], "y_interval": np.empty((0, 2))},
        "y_true is empty: at least one row is needed.",
    ),
    "points rows": (
        {"y_pred": [0.0]},
        "y_pred has 1 rows but y_true has 2: pass arrays over the same rows.",
    ),
    "points shape": (
        {"y_pred": [[0.0], [1.0]]},
        "y_pred must be 1-D, got an array of shape (2, 1). Flatten a column with "
        ".ravel().",
    ),
    "points NaN": (
        {"y_pred": [0.0, np.nan]},
        "y_pred contains NaN. Remove or impute those rows; infinite values are legal, "
        "NaN is not.",
    ),
    "level": (
        {"confidence_level": 90},
        "confidence_level must lie strictly between 0 and 1, got 90. Pass 0.9 for a "
        "coverage of 90 %.",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_before_a_figure_is_made(change, message):
    with raises_exactly(message):
        PredictionIntervalDisplay.from_predictions(**(GOOD | change))
    assert not plt.get_fignums()


@pytest.mark.parametrize("max_rows", [1, 0, -3, 2.5, True, "all"])
def test_bad_max_rows_is_refused(max_rows):
    message = (
        f"max_rows must be an integer of at least 2, got {max_rows!r}. Pass None to "
        "draw every row."
    )
    with raises_exactly(message):
        PredictionIntervalDisplay.from_predictions(**GOOD, max_rows=max_rows)
    assert not plt.get_fignums()


@pytest.mark.parametrize("cls", [PredictionIntervalDisplay, CoverageDisplay])
def test_without_matplotlib_the_error_has_the_remedy(cls, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = (
        f"{cls.__name__} draws with matplotlib, which is not installed. Run "
        "`pip install uqlib[plot]`."
    )
    calls = [
        # Said before the model is asked for anything.
        lambda: cls.from_estimator(None, None, None),
        lambda: cls.from_predictions(None, None),
    ]
    if cls is CoverageDisplay:
        calls.append(lambda: cls.from_quantiles(None, None, None))
        display = cls(nominal=[0.5], obtained=[0.5], standard_error=[0.1])
    else:
        display = cls(**GOOD)
    for call in (*calls, display.plot):
        with pytest.raises(ImportError) as caught:
            call()
        assert str(caught.value) == message
