"""ConformalizedQuantileRegressor: oracle, laws, special cases, edges."""

import re
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import beta, kstest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import QuantileRegressor, Ridge
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests._models import ColumnQuantiles, Zero, normal_rows
from uqlib import (
    ConformalizedQuantileRegressor,
    CrossFitQuantiles,
    InfiniteIntervalWarning,
    MultiQuantileRegressor,
    SortQuantiles,
    SplitConformalRegressor,
    conformal_quantile,
    conformal_rank,
    interval_score,
    neg_interval_score_scorer,
    neg_pinball_scorer,
)

X, Y = normal_rows(200, seed=0)
LEVELS = (0.05, 0.5, 0.95)


def linear(levels=LEVELS):
    return MultiQuantileRegressor(QuantileRegressor(alpha=0), quantiles=levels)


class FlatQuantiles(ColumnQuantiles):
    """The same quantiles -1, 0, 1 (times scale) in every row."""

    def predict_quantiles(self, X):
        steps = np.linspace(-1, 1, len(self.quantiles_))
        return np.tile(self.scale * steps, (len(X), 1))


def frozen(model, levels=LEVELS):
    return FrozenEstimator(model.set_params(quantiles=levels).fit(X, Y))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("level", [0.9, 0.6])
def test_equals_the_procedure_by_hand(symmetric, level):
    levels = (0.05, 0.2, 0.5, 0.8, 0.95)
    model = ConformalizedQuantileRegressor(
        linear(levels), confidence_level=level, symmetric=symmetric, random_state=1
    ).fit(X, Y)
    X_train, X_cal, y_train, y_cal = train_test_split(
        X, Y, test_size=0.25, random_state=1
    )
    base = linear(levels).fit(X_train, y_train)
    pair = [(1 - level) / 2, 1 - (1 - level) / 2]
    low, high = base.predict_quantiles(X_cal, pair).T
    if symmetric:
        offset = conformal_quantile(np.maximum(low - y_cal, y_cal - high), level)
        expected = base.predict_quantiles(X, pair) + np.array([-offset, offset])
        assert model.threshold_ == offset
    else:
        below = conformal_quantile(low - y_cal, 1 - (1 - level) / 2)
        above = conformal_quantile(y_cal - high, 1 - (1 - level) / 2)
        expected = base.predict_quantiles(X, pair) + np.array([-below, above])
        np.testing.assert_array_equal(model.threshold_, [below, above])
    np.testing.assert_allclose(model.predict_interval(X), expected, rtol=1e-13)
    np.testing.assert_array_equal(model.predict(X), base.predict(X))


def test_flat_quantiles_are_split_conformal():
    # Quantiles -h and h around 0: max(-h - y, y - h) = |y| - h, the same intervals.
    quantile = ConformalizedQuantileRegressor(frozen(FlatQuantiles())).fit(X, Y)
    split = SplitConformalRegressor(FrozenEstimator(Zero().fit(X, Y))).fit(X, Y)
    np.testing.assert_allclose(
        quantile.predict_interval(X), split.predict_interval(X), rtol=1e-13
    )


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_coverage_has_its_exact_law_even_around_a_bad_model(scale):
    # y is uniform on (-1, 1) and the quantiles are flat: the coverage of a calibrated
    # interval [-u, u] is u, whose law is Beta(k, n + 1 - k) whatever the quantiles.
    rng = np.random.default_rng(0)
    n, level = 50, 0.9
    model = ConformalizedQuantileRegressor(frozen(FlatQuantiles(scale=scale)))
    coverage = []
    for _ in range(2000):
        model.fit(np.zeros((n, 2)), rng.uniform(-1, 1, size=n))
        coverage.append(model.predict_interval(np.zeros((1, 2)))[0, 1])
    rank = conformal_rank(n, level)
    assert kstest(coverage, beta(rank, n + 1 - rank).cdf).pvalue > 5e-7


@pytest.mark.parametrize("symmetric", [True, False])
def test_tied_decimals_are_covered(symmetric):
    rng = np.random.default_rng(0)
    y = np.where(rng.random(999) < 0.7, 0.1, rng.integers(-50, 50, 999) / 10)
    model = ConformalizedQuantileRegressor(
        frozen(FlatQuantiles(scale=1 / 3), (0.2, 0.5, 0.8)),
        confidence_level=0.6,
        symmetric=symmetric,
    ).fit(np.zeros((999, 2)), y)
    interval = model.predict_interval(np.zeros((999, 2)))
    assert np.mean((interval[:, 0] <= y) & (y <= interval[:, 1])) >= 0.6


def test_asymmetric_ends_have_their_own_laws():
    rng = np.random.default_rng(1)
    n = 50
    model = ConformalizedQuantileRegressor(frozen(FlatQuantiles()), symmetric=False)
    ends = []
    for _ in range(2000):
        model.fit(np.zeros((n, 2)), rng.uniform(size=n))
        ends.append(model.predict_interval(np.zeros((1, 2)))[0])
    lower, upper = np.array(ends).T
    rank = conformal_rank(n, 0.95)
    law = beta(rank, n + 1 - rank)
    assert kstest(upper, law.cdf).pvalue > 5e-7
    assert kstest(1 - lower, law.cdf).pvalue > 5e-7


def test_ends_that_cross_are_exchanged():
    # A threshold of about -1 shrinks [-1, 1] beyond its middle.
    y = np.linspace(-1e-3, 1e-3, 99)
    model = ConformalizedQuantileRegressor(
        frozen(FlatQuantiles()), confidence_level=0.9
    )
    crossing = ConformalizedQuantileRegressor(
        frozen(ColumnQuantiles(scale=-1.0)), confidence_level=0.9
    )
    for fitted in (model.fit(X[:99], y), crossing.fit(X, Y)):
        interval = fitted.predict_interval(X)
        assert (interval[:, 0] <= interval[:, 1]).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_too_few_rows_give_infinite_intervals_and_one_warning(symmetric):
    model = ConformalizedQuantileRegressor(
        frozen(ColumnQuantiles()), symmetric=symmetric
    )
    needed = 9 if symmetric else 19
    with pytest.warns(InfiniteIntervalWarning) as caught:
        model.fit(X[:5], Y[:5])
    assert len(caught) == 1
    assert f"at least {needed} are needed" in str(caught[0].message)
    assert np.isinf(model.predict_interval(X)).all()
    assert np.isfinite(model.fit(X[:needed], Y[:needed]).predict_interval(X)).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_infinite_quantiles_stay_legal(symmetric):
    class HalfInfinite(ColumnQuantiles):
        def predict_quantiles(self, X):
            matrix = super().predict_quantiles(X)
            matrix[::2, 0], matrix[::3, -1] = -np.inf, np.inf
            return matrix

    model = ConformalizedQuantileRegressor(
        frozen(HalfInfinite()), symmetric=symmetric
    ).fit(X, Y)
    interval = model.predict_interval(X)
    assert not np.isnan(interval).any()
    assert np.isneginf(interval[::2, 0]).all()
    assert np.isposinf(interval[::3, 1]).all()


def test_a_missing_pair_lists_the_levels():
    message = "The model has no quantile level 0.05, 0.95. It has [0.1, 0.5, 0.9]"
    with pytest.raises(ValueError, match=re.escape(message)):
        ConformalizedQuantileRegressor(linear((0.1, 0.5, 0.9))).fit(X, Y)
    model = ConformalizedQuantileRegressor(linear(), random_state=0).fit(X, Y)
    with pytest.raises(ValueError, match=re.escape("no quantile level 0.1, 0.9")):
        model.predict_interval(X, confidence_level=0.8)


def test_a_single_level_learner_is_told_what_to_do():
    one_level = HistGradientBoostingRegressor(loss="quantile", quantile=0.5)
    with pytest.raises(ValueError, match=re.escape("It has [0.5]")):
        ConformalizedQuantileRegressor(one_level).fit(X, Y)
    with pytest.raises(ValueError, match="Ridge cannot give quantiles"):
        ConformalizedQuantileRegressor(Ridge()).fit(X, Y)


def test_any_source_of_quantiles_can_be_calibrated():
    forest = pytest.importorskip("quantile_forest")
    sources = {
        "pipeline": make_pipeline(StandardScaler(), linear()),
        "transformers": make_pipeline(
            CrossFitQuantiles(linear(), cv=3), SortQuantiles()
        ),
        "forest": forest.RandomForestQuantileRegressor(n_estimators=10, random_state=0),
        "search": GridSearchCV(
            linear(),
            {"estimator__alpha": [0, 0.1]},
            scoring=neg_pinball_scorer(LEVELS),
            cv=2,
        ),
    }
    for name, source in sources.items():
        model = ConformalizedQuantileRegressor(source, random_state=0).fit(X, Y)
        interval = model.predict_interval(X)
        assert np.isfinite(interval).all(), name
        assert model.predict(X).shape == (200,), name


@pytest.mark.parametrize("level", [np.float32(0.9), Fraction(9, 10), 1 - 0.1])
def test_a_level_in_any_form_is_the_level_meant(level):
    base = frozen(ColumnQuantiles())
    expected = ConformalizedQuantileRegressor(base).fit(X, Y)
    model = ConformalizedQuantileRegressor(base, confidence_level=level).fit(X, Y)
    assert model.confidence_level_ == 0.9
    for asked in (None, level):
        np.testing.assert_array_equal(
            model.predict_interval(X, asked), expected.predict_interval(X)
        )


def test_the_calibration_is_a_copy():
    y = Y.copy()
    model = ConformalizedQuantileRegressor(frozen(ColumnQuantiles())).fit(X, y)
    before = model.predict_interval(X, confidence_level=0.9)
    y *= 100
    np.testing.assert_array_equal(model.predict_interval(X, 0.9), before)


class Lookup(ColumnQuantiles):
    """Hands out the array that it holds."""

    def predict_quantiles(self, X):
        return self.table_


def test_arrays_that_a_model_hands_out_stay_its_own():
    base = Lookup().fit(X, Y)
    base.table_ = X[:, :1] + np.array([-1.0, 0.0, 1.0])
    model = ConformalizedQuantileRegressor(FrozenEstimator(base)).fit(X, Y)
    before = model.predict_interval(X, 0.9)
    table, base.table_ = base.table_, base.table_.copy()
    table -= 100
    np.testing.assert_array_equal(model.predict_interval(X, 0.9), before)


def test_parameters_set_after_the_fit_wait_for_the_next():
    model = ConformalizedQuantileRegressor(linear(), random_state=0).fit(X, Y)
    before = model.predict_interval(X)
    score = neg_interval_score_scorer()(model, X, Y)
    model.set_params(symmetric=False, confidence_level=0.5)
    np.testing.assert_array_equal(model.predict_interval(X), before)
    np.testing.assert_array_equal(model.predict_interval(X, 0.9), before)
    assert neg_interval_score_scorer()(model, X, Y) == score
    assert score == -interval_score(Y, before, 0.9)


def test_calibrate_and_other_levels_agree_with_a_new_fit():
    levels = (0.05, 0.1, 0.5, 0.9, 0.95)
    base = frozen(ColumnQuantiles(), levels)
    model = ConformalizedQuantileRegressor(base).fit(X[:100], Y[:100])
    model.calibrate(X[100:], Y[100:])
    fresh = ConformalizedQuantileRegressor(base, confidence_level=0.8)
    fresh.fit(X[100:], Y[100:])
    np.testing.assert_array_equal(
        model.predict_interval(X, confidence_level=0.8), fresh.predict_interval(X)
    )
