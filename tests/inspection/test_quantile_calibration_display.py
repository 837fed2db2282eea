"""QuantileCalibrationDisplay: its points are the curve's, its band is binomial."""

import re
import sys
from fractions import Fraction
from math import comb

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import same_color
from sklearn.linear_model import LinearRegression, QuantileRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests._models import ColumnQuantiles
from uqlib.inspection._quantile_calibration_display import (
    QuantileCalibrationDisplay,
    binomial_band,
)
from uqlib.metrics._regression_calibration import (
    miscalibration_area,
    quantile_calibration_curve,
)
from uqlib.quantile import MultiQuantileRegressor

INF = np.inf
LEVELS = np.arange(1, 10) / 10


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    center = rng.normal(size=80)
    return center + rng.normal(size=80), center[:, None] + 2 * LEVELS - 0.8, LEVELS


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 2))
    return X, X[:, 0] + rng.normal(size=60)


def raises_exactly(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def legend_texts(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


def band_ends(display, levels):
    """Lower and upper end of the drawn band at some of its levels."""
    (path,) = display.band_.get_paths()
    x, y = path.vertices.T
    ends = [y[x == level] for level in levels]
    return np.array([[e.min(), e.max()] for e in ends])


# ---------------------------------------------------------------------------
# The points.


def test_points_are_those_of_the_curve(rows):
    display = QuantileCalibrationDisplay.from_predictions(*rows)
    observed = quantile_calibration_curve(*rows)
    np.testing.assert_array_equal(display.quantiles, LEVELS)
    np.testing.assert_array_equal(display.observed, observed)
    assert display.n_samples == 80
    assert display.area == miscalibration_area(*rows)
    ends = display.line_.get_xydata()
    np.testing.assert_array_equal(ends[1:-1], np.c_[LEVELS, observed])
    np.testing.assert_array_equal(ends[[0, -1]], [[0, 0], [1, 1]])
    # Markers stand at the levels alone.
    marked = ends[display.line_.get_markevery()]
    np.testing.assert_array_equal(marked, ends[1:-1])


def test_the_area_is_that_of_the_line_that_is_drawn(rows):
    display = QuantileCalibrationDisplay.from_predictions(*rows)
    x = np.linspace(0, 1, 200_001)
    gap = np.abs(np.interp(x, *display.line_.get_data()) - x)
    np.testing.assert_allclose(display.area, np.trapezoid(gap, x), atol=1e-9)
    assert legend_texts(display)[-1] == f"observed (area {display.area:.3f})"


def test_weights_stand_for_repeated_rows(rows):
    y, q, levels = rows
    weight = np.arange(80) % 3
    weighted = QuantileCalibrationDisplay.from_predictions(
        y, q, levels, sample_weight=weight
    )
    repeated = QuantileCalibrationDisplay.from_predictions(
        np.repeat(y, weight), np.repeat(q, weight, axis=0), levels
    )
    np.testing.assert_allclose(weighted.observed, repeated.observed)
    np.testing.assert_allclose(weighted.area, repeated.area)
    # In the band they count less: no weighted rows are as good as as many rows.
    assert weighted.n_samples == int(weight.sum() ** 2 / (weight**2).sum())
    assert weighted.n_samples < repeated.n_samples


@pytest.mark.parametrize("scale", [0.1, 1 / 3, 1e-300, 1e300])
def test_equal_weights_count_every_row(rows, scale):
    display = QuantileCalibrationDisplay.from_predictions(
        *rows, sample_weight=np.full(80, scale)
    )
    assert display.n_samples == 80


# ---------------------------------------------------------------------------
# The band.


def exact_band(n, tau, level):
    """The middle of the law of the count, by exact fractions."""
    p, tail = Fraction(tau), (1 - Fraction(level)) / 2
    law = [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    below = [sum(law[: k + 1]) for k in range(n + 1)]
    above = [sum(law[k:]) for k in range(n + 1)]
    lower = min(k for k in range(n + 1) if below[k] >= tail)
    upper = max(k for k in range(n + 1) if above[k] >= tail)
    return lower / n, upper / n, law


@pytest.mark.parametrize("n", [1, 2, 5, 12, 40])
@pytest.mark.parametrize("level", ["0.5", "0.9", "0.95"])
def test_band_is_the_exact_middle_of_the_law(n, level):
    taus = ["0", "0.001", "0.025", "0.05", "0.25", "0.5", "0.8", "0.975", "1"]
    band = binomial_band(n, np.array(taus, dtype=float), float(level))
    for tau, ends in zip(taus, band, strict=True):
        lower, upper, law = exact_band(n, tau, level)
        assert ends.tolist() == [lower, upper]
        inside = sum(law[round(lower * n) : round(upper * n) + 1])
        assert inside >= Fraction(level)


@given(
    st.integers(1, 5000),
    st.lists(st.floats(0.001, 0.999), min_size=1, max_size=5),
    st.floats(0.01, 0.99),
)
def test_band_is_its_mirror_image_holds_the_level_and_widens_with_it(n, taus, level):
    taus = np.array(taus)
    band = binomial_band(n, taus, level)
    counts = np.rint(n * band)
    assert np.all(np.abs(counts - n * band) < 1e-6)
    # The mean is at most one count away from the middle of the law.
    assert np.all(counts[:, 0] <= np.ceil(n * taus))
    assert np.all(counts[:, 1] >= np.floor(n * taus))
    wider = binomial_band(n, taus, (1 + level) / 2)
    assert np.all(wider[:, 0] <= band[:, 0])
    assert np.all(wider[:, 1] >= band[:, 1])
    dyadic = np.arange(1, 64) / 64  # 1 - tau is exact
    band = binomial_band(n, dyadic, level)
    np.testing.assert_allclose(band, 1 - band[::-1, ::-1], atol=1e-12)
    assert np.all(np.diff(band, axis=0) >= 0)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_band_is_drawn_where_the_law_says(rows, level):
    display = QuantileCalibrationDisplay.from_predictions(*rows, band_level=level)
    at = np.r_[LEVELS, 0.025, 0.999]
    np.testing.assert_allclose(
        band_ends(display, at), binomial_band(80, at, level), rtol=0, atol=1e-15
    )
    np.testing.assert_array_equal(band_ends(display, [0, 1]), [[0, 0], [1, 1]])
    label = f"{100 * level:g} % of true quantiles (n = 80)"
    assert legend_texts(display)[1] == label


def test_levels_between_the_steps_of_the_band_belong_to_it():
    levels = np.array([0.12345, 0.5, 0.98765])
    display = QuantileCalibrationDisplay(
        quantiles=levels, observed=levels, n_samples=7
    ).plot()
    np.testing.assert_allclose(
        band_ends(display, levels), binomial_band(7, levels, 0.95), atol=1e-15
    )


def test_without_a_level_or_rows_there_is_no_band(rows):
    for display in (
        QuantileCalibrationDisplay.from_predictions(*rows, band_level=None),
        QuantileCalibrationDisplay(quantiles=[0.5], observed=[0.4]).plot(),
    ):
        assert display.band_ is None
        assert not display.ax_.collections
        assert len(legend_texts(display)) == 2


def test_true_quantiles_stay_in_the_band_as_often_as_it_says():
    # At each of 9 levels each of 200 samples misses with probability at most 0.05, and
    # more than 30 misses come about less than once in a million runs.
    rng = np.random.default_rng(0)
    band = binomial_band(50, LEVELS, 0.95)
    shares = np.array(
        [
            quantile_calibration_curve(rng.random(50), np.tile(LEVELS, (50, 1)), LEVELS)
            for _ in range(200)
        ]
    )
    misses = (shares < band[:, 0] - 1e-9) | (shares > band[:, 1] + 1e-9)
    assert misses.sum(axis=0).max() <= 30


# ---------------------------------------------------------------------------
# The picture.


def test_axes_are_a_square_of_shares(rows):
    display = QuantileCalibrationDisplay.from_predictions(*rows)
    ax = display.ax_
    assert ax.get_xlim() == ax.get_ylim() == (-0.02, 1.02)
    assert ax.get_aspect() == 1
    np.testing.assert_array_equal(display.reference_.get_xydata(), [[0, 0], [1, 1]])
    assert ax.get_xlabel() == "Quantile level"
    assert ax.get_ylabel() == "Share of targets at most the quantile"
    assert legend_texts(display)[0] == "perfect (above: too high)"


def test_quantiles_that_are_too_high_lie_above():
    y, q = np.zeros(50), np.ones((50, 9))
    display = QuantileCalibrationDisplay.from_predictions(y, q, LEVELS)
    assert np.all(display.observed > LEVELS)
    np.testing.assert_allclose(display.area, 0.5 - 0.05, atol=0.01)


@pytest.mark.parametrize("n_models", [1, 6])
@pytest.mark.parametrize("title", ["", "A title"])
def test_nothing_is_cut_off(rows, n_models, title):
    name = "A model with a name that does not end before the line does, nor after"
    ax = None
    for _ in range(n_models):
        display = QuantileCalibrationDisplay.from_predictions(*rows, ax=ax, name=name)
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


def test_on_given_axes_the_legend_stays_inside(rows):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5))
    display = QuantileCalibrationDisplay.from_predictions(*rows, ax=right)
    assert display.ax_ is right
    assert display.figure_ is figure
    figure.canvas.draw()
    legend, box = right.get_legend().get_window_extent(), right.get_window_extent()
    assert box.x0 <= legend.x0 < legend.x1 <= box.x1
    assert box.y0 <= legend.y0 < legend.y1 <= box.y1
    assert not left.lines
    assert len(plt.get_fignums()) == 1


def test_models_on_as_many_rows_share_the_band(rows):
    y, q, levels = rows
    first = QuantileCalibrationDisplay.from_predictions(*rows, name="one")
    second = QuantileCalibrationDisplay.from_predictions(
        y, q + 0.3, levels, name="two", ax=first.ax_
    )
    assert second.band_ is first.band_
    assert second.reference_ is first.reference_
    assert [text.split(" (")[0] for text in legend_texts(second)] == [
        "perfect",
        "95 % of true quantiles",
        "one",
        "two",
    ]
    assert not same_color(first.line_.get_color(), second.line_.get_color())
    assert first.line_.get_marker() != second.line_.get_marker()
    third = QuantileCalibrationDisplay.from_predictions(
        y[:20], q[:20], levels, name="three", ax=first.ax_
    )
    assert third.band_ is not first.band_
    assert third.reference_ is first.reference_
    assert not same_color(third.band_.get_facecolor(), first.band_.get_facecolor())
    assert "95 % of true quantiles (n = 20)" in legend_texts(third)
    other = third.plot(first.ax_, band_level=0.5)
    assert other.band_ not in (first.band_, None)


def test_keywords_reach_the_artists_by_any_alias(rows):
    display = QuantileCalibrationDisplay.from_predictions(
        *rows,
        line_kwargs={"c": "black", "ms": 9.0},
        band_kwargs={"color": "red", "alpha": 0.5},
    )
    assert display.line_.get_color() == "black"
    assert display.line_.get_markersize() == 9.0
    assert same_color(display.band_.get_facecolor()[0, :3], "red")
    assert display.band_.get_alpha() == 0.5


def test_plot_takes_a_name_and_returns_itself(rows):
    display = QuantileCalibrationDisplay.from_predictions(*rows, name="old")
    first = display.ax_
    assert display.plot(name="new") is display
    assert display.ax_ is not first
    assert legend_texts(display)[-1].startswith("new (area ")


def test_without_an_area_the_legend_has_none():
    display = QuantileCalibrationDisplay(quantiles=[0.5], observed=[0.4], name="m")
    assert not hasattr(display, "ax_")
    assert legend_texts(display.plot())[-1] == "m"


# ---------------------------------------------------------------------------
# Small inputs.


def test_one_row_and_one_level():
    display = QuantileCalibrationDisplay.from_predictions([0.0], [[1.0]], [0.5])
    assert display.observed.tolist() == [1.0]
    assert display.area == 0.25
    assert band_ends(display, [0.5]).tolist() == [[0, 1]]
    assert band_ends(display, [0.01]).tolist() == [[0, 0]]
    display.figure_.canvas.draw()


def test_infinite_and_crossing_quantiles_ties_and_a_constant():
    q = [[-INF, INF, 0.0], [0.0, -1.0, INF]]
    display = QuantileCalibrationDisplay.from_predictions(
        [0.0, 0.0], q, [0.1, 0.5, 0.9]
    )
    assert display.observed.tolist() == [0.5, 0.5, 1.0]
    display.figure_.canvas.draw()


def test_float32_and_strides_and_pandas(rows):
    y, q, levels = rows
    expected = quantile_calibration_curve(*rows)
    index = pd.RangeIndex(3, 83)
    for matrix, target in (
        (np.repeat(q, 2, axis=1)[:, ::2], y),
        (np.asfortranarray(q), y[:, None].repeat(2, axis=1)[:, 0]),
        (pd.DataFrame(q), pd.Series(y, index=index)),
        (q.astype(np.float32), y.astype(np.float32)),
    ):
        display = QuantileCalibrationDisplay.from_predictions(target, matrix, levels)
        np.testing.assert_array_equal(display.observed, expected)


def test_nothing_is_mutated(rows):
    passed = [array.copy() for array in rows]
    weight = np.arange(80.0)
    QuantileCalibrationDisplay.from_predictions(*passed, sample_weight=weight)
    for array, original in zip(passed, rows, strict=True):
        np.testing.assert_array_equal(array, original)
    np.testing.assert_array_equal(weight, np.arange(80.0))


# ---------------------------------------------------------------------------
# Models.


def test_from_estimator_takes_the_models_own_levels(data):
    X, y = data
    model = make_pipeline(
        StandardScaler(),
        MultiQuantileRegressor(
            QuantileRegressor(alpha=0), quantiles=[0.1, 0.4, 0.5, 0.9]
        ),
    ).fit(X, y)
    weight = np.arange(60.0)
    display = QuantileCalibrationDisplay.from_estimator(
        model, X, y, sample_weight=weight
    )
    q = model[-1].predict_quantiles(model[0].transform(X))
    assert display.quantiles.tolist() == [0.1, 0.4, 0.5, 0.9]
    np.testing.assert_array_equal(
        display.observed,
        quantile_calibration_curve(y, q, display.quantiles, sample_weight=weight),
    )
    assert display.name == "Pipeline"


def test_from_estimator_takes_the_levels_asked_for(data):
    X, y = data
    model = ColumnQuantiles(quantiles=(0.1, 0.25, 0.5, 0.9)).fit(X, y)
    display = QuantileCalibrationDisplay.from_estimator(
        model, X, y, quantiles=[0.25, 0.9]
    )
    assert display.quantiles.tolist() == [0.25, 0.9]
    np.testing.assert_array_equal(
        display.observed,
        quantile_calibration_curve(
            y, model.predict_quantiles(X)[:, [1, 3]], [0.25, 0.9]
        ),
    )
    with pytest.raises(ValueError, match=r"The model has no quantile level 0\.3"):
        QuantileCalibrationDisplay.from_estimator(model, X, y, quantiles=[0.3])


def test_from_estimator_takes_lists_and_frames(data, df_module):
    X, y = data
    frame = df_module.make_dataframe({"a": X[:, 0], "b": X[:, 1]})
    series = df_module.make_series(y)
    models = [
        QuantileRegressor(quantile=q, alpha=0).fit(frame, series) for q in (0.9, 0.2)
    ]
    display = QuantileCalibrationDisplay.from_estimator(models, frame, series)
    assert display.quantiles.tolist() == [0.2, 0.9]
    expected = [np.mean(y <= model.predict(frame)) for model in models[::-1]]
    np.testing.assert_array_equal(display.observed, expected)
    assert display.name == "QuantileRegressor"


def test_models_without_quantiles_are_refused(data):
    X, y = data
    with pytest.raises(ValueError, match="LinearRegression"):
        QuantileCalibrationDisplay.from_estimator(LinearRegression().fit(X, y), X, y)
    assert not plt.get_fignums()


# ---------------------------------------------------------------------------
# Bad input.

BAD = {
    "no rows": (
        {"y_true": [], "y_quantiles": np.empty((0, 2))},
        "y_true is empty: at least one row is needed.",
    ),
    "rows": (
        {"y_true": [0.0]},
        "y_quantiles has 2 rows but y_true has 1: pass arrays over the same rows.",
    ),
    "columns": ({"quantiles": [0.5]}, None),
    "levels": ({"quantiles": [0.5, 0.5]}, None),
    "level of 1": (
        {"quantiles": [0.5, 1.0]},
        "quantiles must lie strictly between 0 and 1, got [0.5, 1.0]. Pass 0.9 for the "
        "level of 90 %.",
    ),
    "target NaN": (
        {"y_true": [0.0, np.nan]},
        "y_true contains NaN or infinity. Remove those rows: every target must be "
        "finite.",
    ),
    "quantile NaN": (
        {"y_quantiles": [[0.0, np.nan], [0.0, 1.0]]},
        "y_quantiles contains NaN. Remove or impute those rows; infinite values are "
        "legal, NaN is not.",
    ),
    "weight": (
        {"sample_weight": [1.0]},
        "sample_weight must have shape (2,), one weight a row, got shape (1,).",
    ),
    "band level": (
        {"band_level": 1.0},
        "band_level must lie strictly between 0 and 1, got 1.0. Pass 0.95 for 95 %, or "
        "None to draw none.",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_predictions_are_refused_before_a_figure_is_made(change, message):
    good = {
        "y_true": [0.0, 1.0],
        "y_quantiles": [[0.0, 1.0], [0.0, 1.0]],
        "quantiles": [0.25, 0.75],
    }
    expected = re.escape(message) + "$" if message else "quantile"
    with pytest.raises(ValueError, match=expected):
        QuantileCalibrationDisplay.from_predictions(**(good | change))
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"observed": [0.5, 1.5]},
            "observed must be a non-empty sequence of shares between 0 and 1, got "
            "[0.5, 1.5].",
        ),
        (
            {"observed": [0.5]},
            "observed must have shape (2,), one share for each of quantiles, got shape "
            "(1,).",
        ),
        (
            {"n_samples": 0},
            "n_samples must be at least 1, got 0. Pass None if the number of rows is "
            "unknown.",
        ),
        ({"area": -0.1}, "area must be at least 0 and finite, or None, got -0.1."),
        ({"area": np.nan}, "area must be at least 0 and finite, or None, got nan."),
    ],
)
def test_bad_constructor_arguments_are_refused(change, message):
    with raises_exactly(message):
        QuantileCalibrationDisplay(
            **({"quantiles": [0.1, 0.9], "observed": [0.2, 0.8]} | change)
        )


def test_values_of_a_wrong_type_are_refused():
    with pytest.raises(TypeError, match=r"^n_samples must be an integer, .* got 2\.5"):
        QuantileCalibrationDisplay(quantiles=[0.5], observed=[0.5], n_samples=2.5)
    display = QuantileCalibrationDisplay(quantiles=[0.5], observed=[0.5])
    with pytest.raises(TypeError, match=r"^band_level must be a number strictly"):
        display.plot(band_level="95 %")
    assert not plt.get_fignums()


def test_without_matplotlib_the_error_has_the_remedy(monkeypatch):
    display = QuantileCalibrationDisplay(quantiles=[0.5], observed=[0.5])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for call in (
        lambda: QuantileCalibrationDisplay.from_estimator(None, None, None),
        lambda: QuantileCalibrationDisplay.from_predictions(None, None, None),
        display.plot,
    ):
        with pytest.raises(ImportError) as caught:
            call()
        assert str(caught.value) == (
            "QuantileCalibrationDisplay draws with matplotlib, which is not installed. "
            "Run `pip install uqlib[plot]`."
        )
