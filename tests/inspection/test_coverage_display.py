"""CoverageDisplay: its numbers are coverage_score's, and its points are its numbers."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, QuantileRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uqlib.conformal import ConformalizedQuantileRegressor, SplitConformalRegressor
from uqlib.exceptions import InfiniteIntervalWarning
from uqlib.inspection import CoverageDisplay
from uqlib.metrics import coverage_score
from uqlib.quantile import MultiQuantileRegressor

LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 1))
    return X, X[:, 0] + rng.normal(size=200)


@pytest.fixture
def calibrated(data):
    return SplitConformalRegressor(
        LinearRegression(), confidence_level=0.85, random_state=0
    ).fit(*data)


def quantile_model(data, quantiles):
    model = MultiQuantileRegressor(QuantileRegressor(alpha=0), quantiles=quantiles)
    return model.fit(*data)


def drawn(display):
    """Points and ends of bars, as (n_points, 2) and (n_points, 2, 2)."""
    line, _, (bars,) = display.errorbar_
    return np.column_stack(line.get_data()), np.array(bars.get_segments())


def raises_exactly(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def legend_texts(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


# ---------------------------------------------------------------------------
# By level.


def test_by_level_equals_coverage_score(data, calibrated):
    X, y = data
    levels = [0.5, 0.25, 0.9]  # in any order
    display = CoverageDisplay.from_estimator(calibrated, X, y, confidence_levels=levels)
    assert display.nominal.tolist() == [0.25, 0.5, 0.9]
    coverage = [
        coverage_score(y, calibrated.predict_interval(X, confidence_level=level))
        for level in display.nominal
    ]
    assert display.obtained.tolist() == coverage
    np.testing.assert_allclose(
        display.standard_error, np.sqrt(display.obtained * (1 - display.obtained) / 200)
    )
    assert display.labels is None
    assert display.n_samples.tolist() == [200, 200, 200]


def test_points_and_bars_stand_where_the_numbers_say(data, calibrated):
    display = CoverageDisplay.from_estimator(
        calibrated, *data, confidence_levels=LEVELS
    )
    points, bars = drawn(display)
    np.testing.assert_allclose(points, np.c_[display.nominal, display.obtained])
    two = 2 * display.standard_error
    np.testing.assert_allclose(bars[:, 0, 1], np.maximum(display.obtained - two, 0))
    np.testing.assert_allclose(bars[:, 1, 1], np.minimum(display.obtained + two, 1))
    np.testing.assert_array_equal(display.reference_.get_xydata(), [[0, 0], [1, 1]])
    assert display.ax_.get_xlabel() == "Nominal coverage"
    assert display.ax_.get_ylabel() == "Obtained coverage (± 2 standard errors)"
    assert legend_texts(display) == ["nominal", "SplitConformalRegressor"]


def test_default_levels_have_the_models_own(data, calibrated):
    display = CoverageDisplay.from_estimator(calibrated, *data)
    assert display.nominal.tolist() == sorted([*LEVELS, 0.85])


def test_default_levels_are_found_through_a_pipeline(data):
    X, y = data
    calibrator = SplitConformalRegressor(LinearRegression(), random_state=0)
    model = make_pipeline(StandardScaler(), calibrator).fit(X, y)
    display = CoverageDisplay.from_estimator(model, X, y)
    assert display.nominal.tolist() == LEVELS
    assert display.name == "Pipeline"


def test_default_levels_of_a_quantile_matrix_are_its_central_pairs(data):
    X, y = data
    model = quantile_model(data, [0.05, 0.1, 0.2, 0.5, 0.8, 0.95])
    display = CoverageDisplay.from_estimator(model, X, y)
    np.testing.assert_array_equal(display.nominal, [0.6, 0.9])
    q = model.predict_quantiles(X)
    assert display.obtained.tolist() == [
        coverage_score(y, q[:, [2, 4]]),
        coverage_score(y, q[:, [0, 5]]),
    ]


def test_default_levels_leave_out_what_the_model_lacks(data):
    base = MultiQuantileRegressor(
        QuantileRegressor(alpha=0), quantiles=[0.075, 0.25, 0.5, 0.75, 0.925]
    )
    model = ConformalizedQuantileRegressor(base, confidence_level=0.85, random_state=0)
    model.fit(*data)
    display = CoverageDisplay.from_estimator(model, *data)
    assert display.nominal.tolist() == [0.5, 0.85]
    with pytest.raises(ValueError, match=r"has no quantile level 0\.05, 0\.95"):
        CoverageDisplay.from_estimator(model, *data, confidence_levels=[0.5, 0.9])


def test_an_error_of_the_model_itself_is_not_swallowed(calibrated):
    with pytest.raises(ValueError, match="features"):
        CoverageDisplay.from_estimator(calibrated, np.zeros((4, 3)), np.zeros(4))


def test_too_few_calibration_rows_warn_and_cover(data):
    X, y = data
    model = SplitConformalRegressor(
        LinearRegression(), calibration_size=9, random_state=0
    ).fit(X, y)
    with pytest.warns(InfiniteIntervalWarning):
        display = CoverageDisplay.from_estimator(
            model, X, y, confidence_levels=[0.5, 0.95]
        )
    assert display.obtained[1] == 1.0
    assert display.standard_error[1] == 0.0


def test_from_quantiles_equals_from_predictions(data):
    X, y = data
    quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
    q = quantile_model(data, quantiles).predict_quantiles(X)
    one = CoverageDisplay.from_quantiles(y, q, quantiles, name="raw")
    two = CoverageDisplay.from_predictions(y, {0.9: q[:, [0, 4]], 0.5: q[:, [1, 3]]})
    np.testing.assert_array_equal(one.nominal, two.nominal)
    np.testing.assert_array_equal(one.obtained, two.obtained)
    assert one.name == "raw"
    assert two.name is None


def test_nominal_levels_of_pairs_are_exact():
    quantiles = np.arange(1, 20) / 20
    display = CoverageDisplay.from_quantiles([0.5], quantiles[None], quantiles)
    assert display.nominal.tolist() == LEVELS[:-1]


def test_bounds_that_cross_are_exchanged():
    display = CoverageDisplay.from_quantiles([0.0, 0.0], [[1, -1], [-1, 1]], [0.1, 0.9])
    assert display.obtained.tolist() == [1.0]


def test_bars_stay_within_the_range_of_a_share():
    y = np.r_[np.zeros(9), 5.0]
    display = CoverageDisplay.from_predictions(y, {0.9: np.tile([-1.0, 1.0], (10, 1))})
    _, bars = drawn(display)
    assert bars[0, 1, 1] == 1.0


def test_several_models_share_the_diagonal(data, calibrated):
    first = CoverageDisplay.from_estimator(calibrated, *data, name="one")
    second = CoverageDisplay.from_estimator(calibrated, *data, name="two", ax=first.ax_)
    assert second.reference_ is first.reference_
    assert legend_texts(second) == ["nominal", "one", "two"]
    assert first.errorbar_[0].get_color() != second.errorbar_[0].get_color()
    assert first.errorbar_[0].get_marker() != second.errorbar_[0].get_marker()
    points, _ = drawn(second)
    np.testing.assert_allclose(
        points[:, 1] - points[:, 0], second.obtained - second.nominal
    )
    assert not np.allclose(points, drawn(first)[0])


def test_given_axes_and_keywords_are_used(data, calibrated):
    figure, ax = plt.subplots()
    display = CoverageDisplay.from_estimator(
        calibrated, *data, ax=ax, c="black", ms=9.0, elinewidth=3.0
    )
    assert display.ax_ is ax
    assert display.figure_ is figure
    assert display.errorbar_[0].get_color() == "black"
    assert display.errorbar_[0].get_markersize() == 9.0
    assert len(plt.get_fignums()) == 1


def test_plot_takes_a_name_and_returns_itself(data, calibrated):
    display = CoverageDisplay.from_estimator(calibrated, *data)
    assert display.plot(name="mine") is display
    assert legend_texts(display) == ["nominal", "mine"]


# ---------------------------------------------------------------------------
# By group.


def test_by_group_equals_coverage_score_of_each_group(data, calibrated):
    X, y = data
    groups = np.where(X[:, 0] > 1, "high", np.where(X[:, 0] > 0, "mid", "low"))
    display = CoverageDisplay.from_estimator(calibrated, X, y, mondrian_groups=groups)
    interval = calibrated.predict_interval(X)
    assert display.labels.tolist() == ["high", "low", "mid"]
    for k, label in enumerate(display.labels):
        rows = groups == label
        assert display.obtained[k] == coverage_score(y[rows], interval[rows])
        assert display.n_samples[k] == rows.sum()
    assert display.nominal.tolist() == [0.85] * 3
    np.testing.assert_allclose(
        display.standard_error,
        np.sqrt(display.obtained * (1 - display.obtained) / display.n_samples),
    )
    points, bars = drawn(display)
    np.testing.assert_allclose(points, np.c_[display.obtained, [0, 1, 2]])
    np.testing.assert_allclose(
        bars[:, 0, 0], np.maximum(display.obtained - 2 * display.standard_error, 0)
    )
    ticks = [text.get_text() for text in display.ax_.get_yticklabels()]
    assert ticks == [
        f"{label} (n = {n})"
        for label, n in zip(display.labels, display.n_samples, strict=True)
    ]
    assert legend_texts(display) == ["nominal (0.85)", "SplitConformalRegressor"]
    (segment,) = display.reference_.get_segments()
    assert segment[:, 0].tolist() == [0.85, 0.85]
    bottom, top = display.ax_.get_ylim()
    assert bottom > 2  # the first group is on top
    assert top < 0
    left, right = display.ax_.get_xlim()
    assert left <= bars[:, 0, 0].min()
    assert bars[:, 1, 0].max() <= right <= 1.1


def test_by_group_at_a_level_that_is_asked_for(data, calibrated):
    X, y = data
    display = CoverageDisplay.from_estimator(
        calibrated, X, y, mondrian_groups=np.zeros(200), confidence_level=0.5
    )
    interval = calibrated.predict_interval(X, confidence_level=0.5)
    assert display.nominal.tolist() == [0.5]
    assert display.obtained.tolist() == [coverage_score(y, interval)]


def test_by_group_of_a_quantile_model_needs_a_level(data):
    model = quantile_model(data, [0.25, 0.5, 0.75])
    with pytest.raises(ValueError, match=r"confidence_level is needed"):
        CoverageDisplay.from_estimator(model, *data, mondrian_groups=np.zeros(200))


@pytest.mark.parametrize(
    "groups",
    [
        ["b", "a", "b"],
        [2, 1, 2],
        [True, False, True],
        [1, "a", 1],
        pd.Series(["b", "a", "b"], index=[7, 8, 9], dtype="category"),
    ],
    ids=["str", "int", "bool", "mixed", "category"],
)
def test_groups_may_be_anything(groups):
    display = CoverageDisplay.from_predictions(
        [0.0, 0.0, 9.0], {0.9: [[-1.0, 1.0]] * 3}, mondrian_groups=groups
    )
    coverage = dict(zip(display.labels, display.obtained, strict=True))
    first, second, _ = groups
    assert coverage == {first: 0.5, second: 1.0}


def test_several_models_by_group_stand_beside_one_another(data, calibrated):
    groups = np.arange(200) % 2
    first = CoverageDisplay.from_estimator(
        calibrated, *data, mondrian_groups=groups, name="one"
    )
    second = CoverageDisplay.from_estimator(
        calibrated, *data, mondrian_groups=groups, name="two", ax=first.ax_
    )
    assert second.reference_ is first.reference_
    assert legend_texts(second) == ["nominal (0.85)", "one", "two"]
    np.testing.assert_allclose(drawn(second)[0][:, 0], second.obtained)
    assert not np.allclose(drawn(second)[0][:, 1], drawn(first)[0][:, 1])


def test_each_group_may_have_its_own_level():
    display = CoverageDisplay(
        nominal=[0.5, 0.9],
        obtained=[0.4, 1.0],
        standard_error=[0.1, 0.0],
        labels=["a", "b"],
    ).plot()
    segments = np.array(display.reference_.get_segments())
    assert segments[:, 0, 0].tolist() == [0.5, 0.9]
    ticks = [text.get_text() for text in display.ax_.get_yticklabels()]
    assert ticks == ["a", "b"]
    assert legend_texts(display) == ["nominal", "obtained"]


def test_other_pictures_are_not_mixed():
    y, intervals = [0.0, 9.0], {0.9: [[-1.0, 1.0]] * 2}
    level = CoverageDisplay.from_predictions(y, intervals)
    group = CoverageDisplay.from_predictions(y, intervals, mondrian_groups=["a", "b"])
    message = (
        "ax holds coverage by group ['a (n = 1)', 'b (n = 1)'], but this display is by "
        "level. Draw it on other axes."
    )
    with raises_exactly(message):
        CoverageDisplay.from_predictions(y, intervals, ax=group.ax_)
    for ax in (level.ax_, group.ax_):
        with pytest.raises(ValueError, match="Draw it on other axes"):
            CoverageDisplay.from_predictions(
                y, intervals, mondrian_groups=["a", "c"], ax=ax
            )


# ---------------------------------------------------------------------------
# Input.


def test_nothing_is_mutated_and_pandas_is_taken(data, calibrated):
    X, y = data
    interval = calibrated.predict_interval(X)
    groups = np.arange(200) % 3
    passed = [y.copy(), {0.85: interval.copy()}, groups.copy()]
    one = CoverageDisplay.from_predictions(*passed[:2], mondrian_groups=passed[2])
    np.testing.assert_array_equal(passed[0], y)
    np.testing.assert_array_equal(passed[1][0.85], interval)
    np.testing.assert_array_equal(passed[2], groups)
    index = pd.RangeIndex(3, 203)
    two = CoverageDisplay.from_predictions(
        pd.Series(y, index=index),
        {0.85: pd.DataFrame(interval, columns=["lower", "upper"])},
        mondrian_groups=pd.Series(groups, index=index),
    )
    np.testing.assert_array_equal(one.obtained, two.obtained)


TWO = [[-1.0, 1.0]] * 2
BAD_PREDICTIONS = {
    "interval rows": (
        {"y_intervals": {0.5: TWO, 0.9: [[-1.0, 1.0]] * 3}},
        "At confidence level 0.9: y_interval has 3 rows but y_true has 2: pass arrays "
        "over the same rows.",
    ),
    "interval NaN": (
        {"y_intervals": {0.9: [[-1.0, 1.0], [np.nan, 1.0]]}},
        "At confidence level 0.9: y_interval contains NaN. Remove or impute those rows;"
        " infinite values are legal, NaN is not.",
    ),
    "interval shape": (
        {"y_intervals": {0.9: [0.0, 1.0]}},
        "At confidence level 0.9: y_interval must have shape (n_samples, 2) with "
        "columns lower and upper, got shape (2,).",
    ),
    "target NaN": (
        {"y_true": [0.0, np.nan]},
        "y_true contains NaN or infinity. Remove those rows: every target must be "
        "finite.",
    ),
    "level": (
        {"y_intervals": {90: TWO}},
        "confidence_level must lie strictly between 0 and 1, got 90. Pass 0.9 for a "
        "coverage of 90 %.",
    ),
    "no level": (
        {"y_intervals": {}},
        "y_intervals is empty: pass for example {0.9: y_interval}.",
    ),
    "groups and levels": (
        {"y_intervals": {0.9: TWO, 0.5: TWO}, "mondrian_groups": ["a", "b"]},
        "y_intervals has the levels [0.5, 0.9], but a picture by group is at one "
        "level. Pass one of them, or leave out mondrian_groups.",
    ),
    "group rows": (
        {"mondrian_groups": ["a"]},
        "mondrian_groups has 1 rows but y_true has 2: pass arrays over the same rows.",
    ),
    "group shape": (
        {"mondrian_groups": [["a"], ["b"]]},
        "mondrian_groups must have shape (n_samples,), one group a row, got shape "
        "(2, 1).",
    ),
    "group missing": (
        {"mondrian_groups": ["a", None]},
        "mondrian_groups is missing in 1 of 2 rows. Give these rows a group of their "
        "own, such as 'unknown', or leave them out.",
    ),
}


@pytest.mark.parametrize(
    ("change", "message"), BAD_PREDICTIONS.values(), ids=BAD_PREDICTIONS
)
def test_bad_predictions_are_refused_before_a_figure_is_made(change, message):
    good = {"y_true": [0.0, 1.0], "y_intervals": {0.9: TWO}}
    with raises_exactly(message):
        CoverageDisplay.from_predictions(**(good | change))
    assert not plt.get_fignums()


def test_intervals_without_levels_are_refused():
    with pytest.raises(TypeError) as caught:
        CoverageDisplay.from_predictions([0.0, 1.0], TWO)
    assert str(caught.value) == (
        "y_intervals must be a dict of {confidence_level: intervals of shape "
        "(n_samples, 2)}, got list. Pass for example {0.9: y_interval}."
    )


BAD_LEVELS = {
    "group's level without groups": (
        {"confidence_level": 0.9},
        "confidence_level=0.9 is the level of a picture by group, but mondrian_groups "
        "is None. Pass mondrian_groups=, or for a picture by level "
        "confidence_levels=[0.9].",
    ),
    "levels with groups": (
        {"confidence_levels": [0.9], "mondrian_groups": np.zeros(200)},
        "confidence_levels=[0.9] are the levels of a picture by level, but "
        "mondrian_groups is given. Pass confidence_level= for the one level of a "
        "picture by group.",
    ),
    "one number": (
        {"confidence_levels": 0.9},
        "confidence_levels must be a non-empty 1-D sequence of levels, got 0.9. Pass "
        "for example confidence_levels=[0.5, 0.9].",
    ),
    "none": (
        {"confidence_levels": []},
        "confidence_levels must be a non-empty 1-D sequence of levels, got []. Pass "
        "for example confidence_levels=[0.5, 0.9].",
    ),
    "out of range": (
        {"confidence_levels": [0.5, 1.0]},
        "confidence_level must lie strictly between 0 and 1, got 1.0. Pass 0.9 for a "
        "coverage of 90 %.",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD_LEVELS.values(), ids=BAD_LEVELS)
def test_bad_levels_are_refused(data, calibrated, change, message):
    with raises_exactly(message):
        CoverageDisplay.from_estimator(calibrated, *data, **change)


def test_quantiles_without_a_central_pair_are_refused():
    message = (
        "quantiles=[0.1, 0.5] has no central pair tau, 1 - tau, so there is no "
        "interval. Add the mirror image of a level, or ask a model that gives "
        "any level for confidence_levels=[0.5, 0.9]."
    )
    with raises_exactly(message):
        CoverageDisplay.from_quantiles([0.0], [[0.0, 1.0]], [0.1, 0.5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"obtained": [0.5, 1.5]},
            "obtained must be a non-empty sequence of shares between 0 and 1, got "
            "[0.5, 1.5].",
        ),
        (
            {"obtained": [0.5]},
            "obtained must have shape (2,), one entry for each of nominal, got shape "
            "(1,).",
        ),
        (
            {"labels": ["a"]},
            "labels must have shape (2,), one entry for each of nominal, got shape "
            "(1,).",
        ),
        (
            {"n_samples": [1, 2, 3]},
            "n_samples must have shape (2,), one entry for each of nominal, got shape "
            "(3,).",
        ),
        (
            {"nominal": []},
            "nominal must be a non-empty sequence of shares between 0 and 1, got [].",
        ),
        (
            {"standard_error": [np.nan, 0.1]},
            "standard_error contains NaN. Remove or impute those rows; infinite values "
            "are legal, NaN is not.",
        ),
    ],
)
def test_bad_constructor_arguments_are_refused(change, message):
    good = {"nominal": [0.5, 0.9], "obtained": [0.5, 0.8], "standard_error": [0.1, 0.1]}
    with raises_exactly(message):
        CoverageDisplay(**(good | change))
