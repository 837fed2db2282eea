"""The library's one idea, end to end: quantiles flow through a pipeline."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from tests._models import normal_rows
from uqlib import (
    ConformalizedQuantileRegressor,
    ConformalQuantiles,
    CrossFitQuantiles,
    IsotonicQuantiles,
    MultiQuantileRegressor,
    QuantileEnsembleRegressor,
    SplitConformalRegressor,
    coverage_scorer,
    crossing_rate,
    neg_interval_score_scorer,
    neg_pinball_scorer,
    pinball_loss,
)

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
X, Y = normal_rows(150, seed=0)
X_NEW, Y_NEW = normal_rows(40, seed=1)


def boosting(**parameters):
    learner = HistGradientBoostingRegressor(max_iter=5, **parameters)
    return MultiQuantileRegressor(learner, quantiles=LEVELS)


def pipeline():
    return make_pipeline(
        CrossFitQuantiles(boosting(), cv=5),
        IsotonicQuantiles(),
        ConformalQuantiles(quantiles=LEVELS),
    )


def as_frame(df_module, rows):
    return df_module.make_dataframe({"a": rows[:, 0], "b": rows[:, 1]})


def test_the_pipeline_equals_its_steps_by_hand():
    step = CrossFitQuantiles(boosting(), cv=5)
    out_of_fold = IsotonicQuantiles().fit_transform(step.fit_transform(X, Y))
    calibrator = ConformalQuantiles(quantiles=LEVELS).fit(out_of_fold, Y)
    projected = IsotonicQuantiles().fit_transform(step.transform(X_NEW))
    result = pipeline().fit(X, Y).transform(X_NEW)
    np.testing.assert_array_equal(result, calibrator.transform(projected))
    assert crossing_rate(result) == 0.0


def test_frames_in_and_out(df_module):
    expected = pipeline().fit(X, Y).transform(X_NEW)
    pipe = pipeline().set_output(transform=df_module.name)
    pipe.fit(as_frame(df_module, X), df_module.make_series(Y))
    result = pipe.transform(as_frame(df_module, X_NEW))
    assert isinstance(result, df_module.DataFrame)
    names = ["q0.05", "q0.25", "q0.5", "q0.75", "q0.95"]
    assert df_module.column_names(result) == names
    np.testing.assert_array_equal(df_module.to_numpy(result), expected)


def _cross_fitted(model, frame, y):
    return CrossFitQuantiles(model, cv=3).fit_transform(frame, y)


def _conformalized(model, frame, y):
    calibrator = ConformalizedQuantileRegressor(model, random_state=0)
    return calibrator.fit(frame, y).predict_interval(frame)


def _ensemble(model, frame, y):
    ensemble = QuantileEnsembleRegressor([("one", model)], quantiles=LEVELS, cv=3)
    return ensemble.fit(frame, y).predict_quantiles(frame)


@pytest.mark.parametrize("use", [_cross_fitted, _conformalized, _ensemble])
def test_strings_and_missing_values_pass_through(df_module, use):
    kinds = [["a", "b", "c"][i % 3] for i in range(len(X))]
    sizes = np.where(np.arange(len(X)) % 7 == 0, np.nan, X[:, 0])
    frame = df_module.make_dataframe({"kind": kinds, "size": sizes})
    columns = make_column_transformer(
        (OneHotEncoder(sparse_output=False), ["kind"]), remainder="passthrough"
    )
    learner = make_pipeline(columns, HistGradientBoostingRegressor(max_iter=5))
    model = MultiQuantileRegressor(learner, quantiles=LEVELS)
    assert np.isfinite(use(model, frame, df_module.make_series(Y))).all()


def test_levels_travel_by_name(df_module):
    pipe = make_pipeline(
        CrossFitQuantiles(boosting(), cv=3), IsotonicQuantiles(), ConformalQuantiles()
    ).set_output(transform=df_module.name)
    pipe.fit(as_frame(df_module, X), Y)
    np.testing.assert_array_equal(pipe[-1].quantiles_, LEVELS)


def test_pandas_keeps_its_index():
    pd = pytest.importorskip("pandas")
    index = [f"row {i}" for i in range(len(X_NEW))]
    pipe = pipeline().set_output(transform="pandas").fit(X, Y)
    result = pipe.transform(pd.DataFrame(X_NEW, index=index))
    assert list(result.index) == index


def test_a_search_ranks_pipelines_by_pinball_loss():
    grid = {"crossfitquantiles__estimator__estimator__max_depth": [1, 4]}
    search = GridSearchCV(pipeline(), grid, scoring=neg_pinball_scorer(LEVELS), cv=3)
    search.fit(X, Y)
    scores = search.cv_results_["mean_test_score"]
    by_hand = []
    for depth in (1, 4):
        folds = []
        for train, test in KFold(3).split(X):
            pipe = clone(pipeline()).set_params(**{next(iter(grid)): depth})
            result = pipe.fit(X[train], Y[train]).transform(X[test])
            folds.append(-pinball_loss(Y[test], result, LEVELS))
        by_hand.append(np.mean(folds))
    np.testing.assert_allclose(scores, by_hand, rtol=1e-12)
    best = -pinball_loss(Y_NEW, search.best_estimator_.transform(X_NEW), LEVELS)
    assert search.score(X_NEW, Y_NEW) == pytest.approx(best, rel=1e-12)


def test_calibrators_are_scored_like_any_model():
    calibrator = ConformalizedQuantileRegressor(boosting(), random_state=0)
    scores = cross_validate(
        calibrator,
        X,
        Y,
        cv=3,
        scoring={"coverage": coverage_scorer(), "score": neg_interval_score_scorer()},
    )
    assert ((scores["test_coverage"] > 0.5) & (scores["test_coverage"] <= 1)).all()
    assert (scores["test_score"] < 0).all()


def test_a_calibrator_stands_where_a_regressor_can():
    calibrator = SplitConformalRegressor(boosting(), random_state=0)
    pipe = make_pipeline("passthrough", calibrator).fit(X, Y)
    np.testing.assert_array_equal(pipe.predict(X_NEW), pipe[-1].predict(X_NEW))
    assert np.isfinite(pipe.score(X_NEW, Y_NEW))
