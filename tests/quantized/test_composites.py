"""Models made of models: trees in them stay exact, members really predict."""

import pickle

import numpy as np
import pytest
from sklearn.base import is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_iris
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tests.quantized._trees import (
    cancer,
    friedman,
)
from uqlib import (
    CrossConformalRegressor,
    CrossFitQuantiles,
    EnbPIRegressor,
    MultiQuantileRegressor,
    QuantileAggregator,
    QuantileEnsembleRegressor,
    SortQuantiles,
    SplitConformalRegressor,
    VennAbersCalibrator,
)
from uqlib.exceptions import QuantizationWarning
from uqlib.quantized._composites import (
    floats_beside,
)
from uqlib.quantized._open import open_model
from uqlib.quantized._report import fitted_report
from uqlib.quantized._scheme import QuantizationScheme

METHODS = (
    "predict",
    "predict_proba",
    "decision_function",
    "predict_quantiles",
    "predict_interval",
    "transform",
)
LEVELS = (0.25, 0.5, 0.75)
X, y = friedman(160)
CANCER = cancer()
IRIS = load_iris(return_X_y=True)


def boosting(**parameters):
    return HistGradientBoostingRegressor(max_iter=3, **parameters)


def boosting_classes():
    return HistGradientBoostingClassifier(max_iter=2)


def tree():
    return DecisionTreeRegressor(max_depth=4, random_state=0)


def tree_classes():
    return DecisionTreeClassifier(max_depth=3, random_state=0)


# Composites of trees alone, and the rows and targets that they are fitted on.
COMPOSITES = {
    "search": (lambda: GridSearchCV(tree(), {"max_depth": [2, 3]}, cv=2), X, y),
    "pipeline": (lambda: make_pipeline(StandardScaler(), boosting()), X, y),
    "voting": (
        lambda: VotingRegressor([("a", tree()), ("off", "drop"), ("b", boosting())]),
        X,
        y,
    ),
    "voting-soft": (
        lambda: VotingClassifier(
            [("a", tree_classes()), ("b", boosting_classes())], voting="soft"
        ),
        *IRIS,
    ),
    "voting-hard": (
        lambda: VotingClassifier(
            [("a", tree_classes()), ("b", boosting_classes()), ("c", tree_classes())]
        ),
        *IRIS,
    ),
    "bagging": (
        lambda: BaggingRegressor(tree(), 3, max_features=0.6, random_state=0),
        X,
        y,
    ),
    "bagging-classes": (
        lambda: BaggingClassifier(tree_classes(), 3, max_features=0.6, random_state=0),
        *IRIS,
    ),
    "bagging-decisions": (
        lambda: BaggingClassifier(boosting_classes(), 2, random_state=0),
        *CANCER,
    ),
    "stacking": (
        lambda: StackingRegressor(
            [("a", tree()), ("b", boosting())], tree(), cv=2, passthrough=True
        ),
        X,
        y,
    ),
    "stacking-classes": (
        lambda: StackingClassifier(
            [("a", tree_classes()), ("b", boosting_classes())], tree_classes(), cv=2
        ),
        *CANCER,
    ),
    "outputs": (
        lambda: MultiOutputRegressor(boosting()),
        X,
        np.column_stack([y, y**2]),
    ),
    "outputs-classes": (
        lambda: MultiOutputClassifier(boosting_classes()),
        CANCER[0],
        np.column_stack([CANCER[1], 1 - CANCER[1]]),
    ),
    "one-against-rest": (lambda: OneVsRestClassifier(boosting_classes()), *IRIS),
    "transformed-target": (
        lambda: TransformedTargetRegressor(
            boosting(), func=np.log1p, inverse_func=np.expm1
        ),
        X,
        y,
    ),
    "calibrated": (
        lambda: CalibratedClassifierCV(boosting_classes(), cv=2, method="isotonic"),
        *IRIS,
    ),
    "calibrated-proba": (
        lambda: CalibratedClassifierCV(
            RandomForestClassifier(3, random_state=0), cv=2, ensemble=False
        ),
        *CANCER,
    ),
    "adaboost": (
        lambda: AdaBoostRegressor(tree(), n_estimators=3, random_state=0),
        X,
        y,
    ),
    "adaboost-classes": (
        lambda: AdaBoostClassifier(tree_classes(), n_estimators=3, random_state=0),
        *IRIS,
    ),
    "levels": (lambda: MultiQuantileRegressor(boosting(), quantiles=LEVELS), X, y),
    "levels-pipeline": (
        lambda: MultiQuantileRegressor(
            make_pipeline(StandardScaler(), boosting()), quantiles=LEVELS
        ),
        X,
        y,
    ),
    "ensemble": (
        lambda: QuantileEnsembleRegressor(
            [("a", boosting()), ("b", GradientBoostingRegressor(n_estimators=3))],
            quantiles=LEVELS,
            cv=2,
            random_state=0,
        ),
        X,
        y,
    ),
    "ensemble-folds": (
        lambda: QuantileEnsembleRegressor(
            [("a", boosting()), ("b", boosting(max_leaf_nodes=4))],
            quantiles=LEVELS,
            weights="fine",
            cv=2,
            refit=False,
            random_state=0,
        ),
        X,
        y,
    ),
    "cross-fit": (
        lambda: make_pipeline(
            CrossFitQuantiles(
                MultiQuantileRegressor(boosting(), quantiles=LEVELS), cv=2
            ),
            SortQuantiles(),
        ),
        X,
        y,
    ),
    "cross-fit-then-model": (
        lambda: make_pipeline(
            CrossFitQuantiles(
                MultiQuantileRegressor(boosting(), quantiles=LEVELS), cv=2
            ),
            tree(),
        ),
        X,
        y,
    ),
    "nested": (
        lambda: VotingRegressor(
            [("a", BaggingRegressor(tree(), 2)), ("b", make_pipeline(boosting()))]
        ),
        X,
        y,
    ),
}


@pytest.fixture(scope="module", params=list(COMPOSITES))
def composite(request):
    """A fitted composite of trees and its rows."""
    make, rows, target = COMPOSITES[request.param]
    return make().fit(rows, target), rows


def quantized_parts(opened, scheme=None):
    return {part.name: part.adapter.quantize(scheme) for part in opened.parts}


def with_exact_trees(model):
    """The composite with all its trees as exact integers."""
    opened = open_model(model)
    parts = quantized_parts(opened)
    return opened.assembled(
        {name: part.quantized_model("auto") for name, part in parts.items()}
    )


def same(found, expected):
    if isinstance(expected, list):
        return all(same(f, e) for f, e in zip(found, expected, strict=True))
    return np.array_equal(found, expected)


class Spy:
    """A quantized model that keeps what it is asked."""

    def __init__(self, model, calls):
        self._model, self._calls = model, calls

    def __getattr__(self, name):
        method = getattr(self._model, name)
        if not callable(method):
            return method

        def asked(X, *args, **kwargs):
            self._calls.append(X)
            return method(X, *args, **kwargs)

        return asked


# ---------------------------------------------------------------------------
# All composites


def test_composites_of_exact_trees_predict_the_same_bits(composite):
    model, rows = composite
    state = pickle.dumps(model)
    quantized = pickle.loads(pickle.dumps(with_exact_trees(model)))
    assert pickle.dumps(model) == state
    assert open_model(model).skipped == ()
    asked = [name for name in METHODS if hasattr(model, name)]
    assert asked
    for name in asked:
        if hasattr(quantized, name) or name != "transform":
            assert same(getattr(quantized, name)(rows), getattr(model, name)(rows))


def test_composites_ask_every_member_for_what_its_part_is_given(composite):
    model, rows = composite
    opened = open_model(model)
    calls = {part.name: [] for part in opened.parts}
    assert len(calls) == len(opened.parts)
    spied = {
        name: Spy(part.quantized_model("auto"), calls[name])
        for name, part in quantized_parts(opened).items()
    }
    whole = opened.assembled(spied)
    for name in ("predict_quantiles", "predict", "transform"):
        if hasattr(whole, name):
            getattr(whole, name)(rows)
            break
    for part in opened.parts:
        assert calls[part.name], part.name
        expected = np.asarray(part.inputs(rows))
        assert np.array_equal(np.asarray(calls[part.name][0]), expected)


def test_rounded_leaves_change_the_whole_and_come_back_dequantized(composite):
    model, rows = composite
    opened = open_model(model)
    parts = quantized_parts(opened, QuantizationScheme(weights="int8"))
    quantized = opened.assembled(
        {name: part.quantized_model("auto") for name, part in parts.items()}
    )
    float_model = opened.assembled(
        {name: part.dequantized() for name, part in parts.items()}
    )
    kind = type(model.best_estimator_) if hasattr(model, "best_estimator_") else None
    assert isinstance(float_model, kind or type(model))
    for name in METHODS:
        if hasattr(float_model, name) and hasattr(quantized, name):
            found = getattr(float_model, name)(rows)
            expected = getattr(quantized, name)(rows)
            if name == "predict" and is_classifier(model):
                assert same(found, expected)
            else:
                np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    if is_regressor(model) and hasattr(model, "predict"):
        assert not same(quantized.predict(rows), model.predict(rows))


def test_names_say_where_parts_stand():
    model = COMPOSITES["nested"][0]().fit(X, y)
    assert [part.name for part in open_model(model).parts] == [
        "estimators_.0.estimators_.0",
        "estimators_.0.estimators_.1",
        "estimators_.1.histgradientboostingregressor",
    ]
    assert open_model(model, "step").parts[0].name.startswith("step.estimators_.0")


def test_members_have_their_names_in_the_copy():
    model = COMPOSITES["voting"][0]().fit(X, y)
    quantized = with_exact_trees(model)
    assert quantized.named_estimators_["a"] is quantized.estimators_[0]
    assert quantized.named_estimators_["b"] is quantized.estimators_[1]
    assert model.named_estimators_["a"] is model.estimators_[0]


def test_frames_reach_the_members():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])
    for make in (
        lambda: VotingRegressor([("a", boosting()), ("b", tree())]),
        lambda: BaggingRegressor(tree(), 2, random_state=0),
        lambda: make_pipeline(StandardScaler().set_output(transform="pandas"), tree()),
        lambda: MultiQuantileRegressor(boosting(), quantiles=LEVELS),
    ):
        model = make().fit(frame, y)
        assert same(with_exact_trees(model).predict(frame), model.predict(frame))
        for part in open_model(model).parts:
            assert len(part.inputs(frame)) == len(frame)


def test_workers_get_members():
    model = BaggingRegressor(tree(), 2, n_jobs=2, random_state=0).fit(X, y)
    assert same(with_exact_trees(model).predict(X), model.predict(X))


def test_a_mixed_composite_says_what_is_left():
    model = VotingRegressor([("a", tree()), ("b", DummyRegressor())]).fit(X, y)
    opened = open_model(model)
    assert [part.name for part in opened.parts] == ["estimators_.0"]
    (left,) = opened.skipped
    assert left.name == "estimators_.1"
    assert "DummyRegressor has no layers or trees" in left.reason
    assert same(with_exact_trees(model).predict(X), model.predict(X))


# ---------------------------------------------------------------------------
# Calibrators


def test_a_split_calibrator_is_opened_with_a_warning():
    model = SplitConformalRegressor(boosting(), random_state=0).fit(X, y)
    with pytest.warns(QuantizationWarning, match="calibrated with the float model"):
        opened = open_model(model)
    (part,) = opened.parts
    assert part.name == "estimator_"
    quantized = opened.assembled(
        {"estimator_": part.adapter.quantize(None).quantized_model("auto")}
    )
    assert same(quantized.predict_interval(X), model.predict_interval(X))
    # The copy can be calibrated; the float model keeps its threshold.
    threshold = model.threshold_
    quantized.calibrate(X[:30], y[:30])
    assert quantized.threshold_ != threshold
    assert model.threshold_ == threshold


def test_calibrators_of_folds_are_left_as_they_are():
    fitted = [
        CrossConformalRegressor(tree(), cv=3).fit(X, y),
        EnbPIRegressor(tree(), n_estimators=3, random_state=0).fit(X, y),
        VennAbersCalibrator(tree_classes(), method="cross", cv=3).fit(*CANCER),
    ]
    for model in fitted:
        opened = open_model(model)
        assert opened.parts == ()
        assert opened.assembled({}) is model
        assert "before it is calibrated" in opened.skipped[0].reason


def test_gate_networks_stay_in_float_and_are_counted():
    model = COMPOSITES["ensemble"][0]().fit(X, y)
    assert floats_beside(model) == ()
    model.aggregator_ = QuantileAggregator()
    model.aggregator_.networks_ = [[(np.ones((3, 4)), np.ones(4)), (np.ones((4, 2)),)]]
    (left,) = floats_beside(model)
    assert (left.name, left.n_parameters) == ("aggregator_", 12 + 4 + 8)
    assert open_model(model).skipped == (left,)
    report = fitted_report(open_model(model), {})
    assert (report.nbytes, report.effective_bits) == (4 * 24, 32)
    assert open_model(model, "step").skipped[0].name == "step.aggregator_"
