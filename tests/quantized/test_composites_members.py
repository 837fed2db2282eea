"""Members that stand for fitted estimators, and how they get into a composite."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from tests.quantized._trees import lightgbm_model, xgboost_model
from tests.quantized.test_composites import (
    IRIS,
    LEVELS,
    Spy,
    X,
    boosting,
    same,
    tree,
    tree_classes,
    with_exact_trees,
    y,
)
from uqlib import LinearQuantileRegressor, MultiQuantileRegressor
from uqlib._predictions import predict_quantiles
from uqlib.quantized._composites import (
    Columns,
    model_slots,
    replaced,
    with_members,
)
from uqlib.quantized._composites_members import (
    LevelMember,
    QuantizedMember,
    as_member,
    with_quantiles,
)
from uqlib.quantized._open import open_model

# ---------------------------------------------------------------------------
# Learners whose predictions are quantiles


def test_one_fit_with_many_levels():
    model = MultiQuantileRegressor(xgboost_model("XGBRegressor"), quantiles=LEVELS)
    model.fit(X, y)
    quantized = with_exact_trees(model)
    (member,) = quantized.estimators_
    assert isinstance(member, LevelMember)
    np.testing.assert_array_equal(member.quantiles_, LEVELS)
    for asked in (None, [0.5], [0.25, 0.75]):
        expected = model.predict_quantiles(X, asked)
        assert same(quantized.predict_quantiles(X, asked), expected)


def test_a_member_of_one_level_goes_through_the_door():
    learners = [boosting(loss="quantile", quantile=0.9)]
    learners.append(lightgbm_model("LGBMRegressor", objective="quantile", alpha=0.9))
    for learner in learners:
        model = make_pipeline(StandardScaler(), learner).fit(X, y)
        quantized = with_exact_trees(model)
        assert isinstance(quantized, Pipeline)
        expected = predict_quantiles(model, X)
        found = predict_quantiles(quantized, X)
        assert same(found.values, expected.values)
        np.testing.assert_array_equal(found.quantiles, [0.9])
        assert same(quantized.predict_quantiles(X, [0.9])[:, 0], model.predict(X))
        np.testing.assert_array_equal(quantized.quantiles_, [0.9])


def test_learners_of_the_mean_have_no_levels():
    for learner in (boosting(), GradientBoostingRegressor(n_estimators=2, alpha=0.3)):
        member = as_member(learner.fit(X, y), Spy(learner, []))
        assert type(member) is QuantizedMember
        assert not hasattr(member, "predict_quantiles")


# ---------------------------------------------------------------------------
# Pieces


def test_a_member_answers_as_its_float_model():
    model = tree_classes().fit(*IRIS)
    member = pickle.loads(pickle.dumps(as_member(model, with_exact_trees(model))))
    assert isinstance(member, QuantizedMember)
    check_is_fitted(member)
    assert is_classifier(member)
    assert not is_regressor(member)
    assert clone(member) is member
    assert member.get_params() == model.get_params()
    assert member.classes_.tolist() == model.classes_.tolist()
    assert member.n_features_in_ == 4
    assert same(member.predict_proba(IRIS[0]), model.predict_proba(IRIS[0]))
    assert member.predict_proba.__name__ == "predict_proba"
    assert not hasattr(member, "apply")
    assert not hasattr(member, "decision_function")
    assert not hasattr(member, "partial_fit")
    with pytest.raises(ValueError, match="cannot be fitted"):
        member.fit(*IRIS)
    with pytest.raises(AttributeError, match="score"):
        _ = member.score


def test_estimators_stand_for_themselves():
    model = LinearRegression().fit(X, y)
    assert as_member(tree().fit(X, y), model) is model


def test_replacing_copies_what_is_on_the_way_alone():
    class Holder:
        pass

    outer, inner, old, new = Holder(), Holder(), object(), object()
    inner.pairs = [("a", {"deep": (old, 1)}), ("b", None)]
    outer.inner, outer.other = inner, [old]
    changed = replaced(outer, ("inner", "pairs", 0, 1, "deep", 0), new)
    assert changed.inner.pairs == [("a", {"deep": (new, 1)}), ("b", None)]
    assert inner.pairs == [("a", {"deep": (old, 1)}), ("b", None)]
    assert changed.inner is not inner
    assert changed.other is outer.other
    assert replaced(outer, (), new) is new
    assert with_members(outer, {}) is outer


def test_columns_of_arrays_frames_and_sparse_matrices():
    scipy_sparse = pytest.importorskip("scipy.sparse")
    pandas = pytest.importorskip("pandas")
    columns = Columns(np.array([2, 0]))
    expected = X[:, [2, 0]]
    assert same(columns(X), expected)
    assert same(columns(pandas.DataFrame(X)), expected)
    assert same(columns(scipy_sparse.coo_matrix(X)).toarray(), expected)


def test_unknown_ensembles_are_not_opened():
    class OwnForest(RandomForestClassifier):
        def predict_proba(self, X):
            return super().predict_proba(X) ** 2

    model = OwnForest(2).fit(*IRIS)
    assert model_slots(model) == []
    assert "OwnForest has no layers or trees" in open_model(model).skipped[0].reason
    assert model_slots(LogisticRegression()) == []
    assert model_slots(object()) == []


def test_pipelines_have_quantiles_where_their_last_step_has():
    class OwnPipeline(Pipeline):
        pass

    lines = LinearQuantileRegressor(LEVELS)
    model = make_pipeline("passthrough", StandardScaler(), lines).fit(X, y)
    changed = with_quantiles(model)
    assert changed.steps is model.steps
    rows = StandardScaler().fit_transform(X)
    assert same(changed.predict_quantiles(X), lines.predict_quantiles(rows))
    assert same(changed.quantiles_, LEVELS)
    assert same(predict_quantiles(changed, X).values, lines.predict_quantiles(rows))
    check_is_fitted(changed)
    own, plain = OwnPipeline(model.steps), make_pipeline(StandardScaler(), tree())
    assert with_quantiles(own) is own
    assert with_quantiles(plain) is plain
