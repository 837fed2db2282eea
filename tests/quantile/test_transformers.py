"""CrossFitQuantiles, SortQuantiles and IsotonicQuantiles as pipeline steps."""

import re

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, QuantileRegressor
from sklearn.model_selection import KFold, ShuffleSplit
from sklearn.pipeline import make_pipeline

from tests._models import ColumnQuantiles, Memorizer, normal_rows
from uqlib import (
    CrossFitQuantiles,
    IsotonicQuantiles,
    MultiQuantileRegressor,
    SortQuantiles,
    isotonic_quantiles,
    sort_quantiles,
)

LEVELS = (0.05, 0.5, 0.95)
X, Y = normal_rows(60, seed=0)
CROSSED = np.array([[1.0, 3.0, 2.0], [1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])


def linear():
    return MultiQuantileRegressor(QuantileRegressor(alpha=0), quantiles=LEVELS)


def test_fit_transform_is_out_of_fold_and_transform_is_not():
    cv = KFold(3, shuffle=True, random_state=0)
    step = CrossFitQuantiles(linear(), cv=cv)
    out_of_fold = step.fit_transform(X, Y)
    expected = np.empty((60, 3))
    for train, test in cv.split(X):
        fold = linear().fit(X[train], Y[train])
        expected[test] = fold.predict_quantiles(X[test])
    np.testing.assert_array_equal(out_of_fold, expected)
    full = linear().fit(X, Y).predict_quantiles(X)
    np.testing.assert_array_equal(step.transform(X), full)
    np.testing.assert_array_equal(
        CrossFitQuantiles(linear()).fit(X, Y).transform(X), full
    )


def test_the_next_step_never_sees_the_target_it_must_predict():
    step = CrossFitQuantiles(Memorizer(quantiles=LEVELS), cv=5)
    assert (step.fit_transform(X, Y)[:, 0] != Y).all()
    np.testing.assert_array_equal(step.transform(X)[:, 0], Y)


def test_weights_reach_every_fold():
    weight = np.random.default_rng(0).integers(1, 4, size=60)
    cv = KFold(2)
    weighted = CrossFitQuantiles(linear(), cv=cv).fit_transform(X, Y, weight)
    for train, test in cv.split(X):
        fold = linear().fit(X[train], Y[train], weight[train])
        np.testing.assert_array_equal(weighted[test], fold.predict_quantiles(X[test]))


def test_names_and_frames(df_module):
    step = CrossFitQuantiles(linear(), cv=2).set_output(transform=df_module.name)
    frame = step.fit_transform(X, Y)
    names = ["q0.05", "q0.5", "q0.95"]
    assert isinstance(frame, df_module.DataFrame)
    assert df_module.column_names(frame) == names
    assert step.get_feature_names_out().tolist() == names
    for monotone in (SortQuantiles(), IsotonicQuantiles()):
        repaired = monotone.set_output(transform=df_module.name).fit(frame)
        assert df_module.column_names(repaired.transform(frame)) == names
        np.testing.assert_array_equal(monotone.quantiles_, LEVELS)


@pytest.mark.parametrize(
    ("step", "function"),
    [(SortQuantiles(), sort_quantiles), (IsotonicQuantiles(), isotonic_quantiles)],
)
def test_monotone_steps_are_their_functions(step, function):
    np.testing.assert_array_equal(step.fit_transform(CROSSED), function(CROSSED))
    assert step.quantiles_ is None
    single = CROSSED.astype(np.float32)
    assert step.fit_transform(single).dtype == np.float32


def test_isotonic_step_takes_weights():
    weight = [1.0, 5.0, 2.0]
    step = IsotonicQuantiles(level_weight=weight).fit(CROSSED)
    np.testing.assert_array_equal(
        step.transform(CROSSED), isotonic_quantiles(CROSSED, weight)
    )
    with pytest.raises(
        ValueError, match=re.escape("level_weight must have shape (3,)")
    ):
        IsotonicQuantiles(level_weight=[1.0]).fit(CROSSED)


@pytest.mark.parametrize("step", [SortQuantiles(), IsotonicQuantiles()])
def test_infinity_passes_and_nan_does_not(step):
    rows = np.array([[-np.inf, 2.0, 1.0], [0.0, 1.0, np.inf]])
    result = step.fit_transform(rows)
    assert result[0, 0] == -np.inf
    np.testing.assert_array_equal(result[1], rows[1])
    with pytest.raises(ValueError, match=re.escape("Input X contains NaN.")):
        step.fit(np.array([[1.0, np.nan]]))


def test_columns_that_are_no_levels_have_no_levels(df_module):
    for names in [("a", "b", "c"), ("q1", "q2", "q3")]:
        columns = dict(zip(names, CROSSED.T, strict=True))
        assert SortQuantiles().fit(df_module.make_dataframe(columns)).quantiles_ is None


def test_columns_out_of_order_are_refused(df_module):
    columns = dict(zip(("q0.5", "q0.1", "q0.9"), CROSSED.T, strict=True))
    frame = df_module.make_dataframe(columns)
    with pytest.raises(ValueError, match="named by levels that do not increase"):
        SortQuantiles().fit(frame)


def test_a_pipeline_keeps_the_names_without_frames():
    pipe = make_pipeline(CrossFitQuantiles(linear(), cv=2), IsotonicQuantiles())
    pipe.fit(X, Y)
    assert pipe.get_feature_names_out().tolist() == ["q0.05", "q0.5", "q0.95"]


def test_bad_input():
    with pytest.raises(ValueError, match="LinearRegression cannot give quantiles"):
        CrossFitQuantiles(LinearRegression()).fit(X, Y)
    whole = [(np.arange(60), fold) for fold in np.array_split(np.arange(60), 2)]
    with pytest.raises(ValueError, match="trains on rows of its own test fold"):
        CrossFitQuantiles(ColumnQuantiles(), cv=whole).fit_transform(X, Y)
    spent = CrossFitQuantiles(ColumnQuantiles(), cv=iter([]))
    with pytest.raises(ValueError, match="exactly one test fold"):
        spent.fit_transform(X, Y)
    with pytest.raises(ValueError, match="exactly one test fold"):
        CrossFitQuantiles(ColumnQuantiles(), cv=ShuffleSplit(2)).fit_transform(X, Y)
    with pytest.raises(ValueError, match="requires y to be passed"):
        CrossFitQuantiles(ColumnQuantiles()).fit(X, None)
