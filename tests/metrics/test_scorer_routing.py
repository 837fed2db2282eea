"""Metadata of scorers: what reaches the model, with routing on and off."""

import pickle
import re
from copy import deepcopy

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.metadata_routing import get_routing_for_object

from uqlib.conformal import SplitConformalRegressor
from uqlib.metrics import (
    coverage_score,
    coverage_scorer,
    interval_score,
    mean_interval_width,
    neg_crps_scorer,
    neg_interval_score_scorer,
    neg_interval_width_scorer,
    neg_pinball_scorer,
    neg_quantile_calibration_error_scorer,
    neg_weighted_interval_score_scorer,
    pinball_loss,
)

INTERVAL_SCORERS = [
    coverage_scorer,
    neg_interval_score_scorer,
    neg_interval_width_scorer,
]
QUANTILE_SCORERS = [
    neg_crps_scorer,
    neg_pinball_scorer,
    neg_quantile_calibration_error_scorer,
    neg_weighted_interval_score_scorer,
]
every_scorer = pytest.mark.parametrize("make", INTERVAL_SCORERS + QUANTILE_SCORERS)

RNG = np.random.default_rng(0)
N = 360
X = RNG.normal(size=(N, 2))
GROUPS = np.arange(N) % 3
BLOCKS = np.repeat(np.arange(18), 20)  # the splitter's groups, across the others
Y = X[:, 0] + (1 + 4 * GROUPS) * RNG.normal(size=N)
WEIGHT = RNG.exponential(size=N)


@pytest.fixture
def routing():
    with config_context(enable_metadata_routing=True):
        yield


def calibrator(**requests):
    model = SplitConformalRegressor(Ridge(), confidence_level=0.8, random_state=0)
    return model.set_fit_request(**requests) if requests else model


class Shifted(RegressorMixin, BaseEstimator):
    """Its intervals and quantiles move by what it is told of the rows."""

    def fit(self, X, y):
        self.quantiles_ = np.array([0.25, 0.5, 0.75])
        return self

    def predict_interval(
        self, X, confidence_level=0.5, mondrian_groups=None, likelihood_ratio=None
    ):
        return self._around([-1.0, 1.0], X, mondrian_groups, likelihood_ratio)

    def predict_quantiles(self, X, *, mondrian_groups=None, likelihood_ratio=None):
        return self._around([-1.0, 0.0, 1.0], X, mondrian_groups, likelihood_ratio)

    def _around(self, row, X, *shifts):
        values = np.tile(row, (len(X), 1))
        for shift in shifts:
            values += 0 if shift is None else np.reshape(shift, (-1, 1))
        return values


# ---------------------------------------------------------------- a call of the scorer


@every_scorer
def test_conditions_reach_the_innermost_model(make):
    """A prediction that moves with y - shift scores as one that stays does at y."""
    argument = 0.5 if make in INTERVAL_SCORERS else [0.25, 0.5, 0.75]
    model, scorer = Shifted().fit(X, Y), make(argument)
    expected = scorer(model, X, Y, sample_weight=WEIGHT)
    outer = make_pipeline(StandardScaler(), FrozenEstimator(model)).fit(X, Y)
    for wrapped in (model, FrozenEstimator(model), outer):
        found = scorer(
            wrapped,
            X,
            Y + GROUPS + WEIGHT,
            sample_weight=WEIGHT,
            mondrian_groups=GROUPS,
            likelihood_ratio=WEIGHT,
        )
        assert found == pytest.approx(expected, rel=1e-9)


def test_groups_of_a_calibrator():
    model = calibrator().fit(X, Y, mondrian_groups=GROUPS)
    interval = model.predict_interval(X, mondrian_groups=GROUPS)
    expected = {
        coverage_scorer: coverage_score(Y, interval),
        neg_interval_score_scorer: -interval_score(Y, interval, 0.8),
        neg_interval_width_scorer: -mean_interval_width(interval),
    }
    for make, value in expected.items():
        found = make()(model, X, Y, mondrian_groups=GROUPS)
        assert found == pytest.approx(value, rel=1e-12)
    ratio = np.exp(X[:, 0])
    model = calibrator().fit(X, Y, likelihood_ratio=ratio)
    interval = model.predict_interval(X, likelihood_ratio=ratio)
    found = coverage_scorer()(model, X, Y, likelihood_ratio=ratio)
    assert found == pytest.approx(coverage_score(Y, interval), rel=1e-12)


def test_a_list_of_models_and_an_interval_from_quantiles():
    class OneLevel(RegressorMixin, BaseEstimator):
        def __init__(self, level):
            self.level = level

        def predict_quantiles(self, X, mondrian_groups):
            return np.full((len(X), 1), self.level) * np.reshape(
                mondrian_groups, (-1, 1)
            )

        @property
        def quantiles_(self):
            return np.array([self.level])

    models = [OneLevel(0.25), OneLevel(0.75)]
    quantiles = np.outer(GROUPS, [0.25, 0.75])
    found = neg_pinball_scorer()(models, X, Y, mondrian_groups=GROUPS)
    assert found == pytest.approx(-pinball_loss(Y, quantiles, [0.25, 0.75]), rel=1e-12)
    found = coverage_scorer(0.5)(models, X, Y, mondrian_groups=GROUPS)
    assert found == pytest.approx(coverage_score(Y, quantiles), rel=1e-12)


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (
            coverage_scorer(0.5),
            "mondrian_groups cannot be used: Plain.predict_interval does not take it. "
            "Leave it out, or use a model that does, as SplitConformalRegressor.",
        ),
        (
            neg_pinball_scorer(),
            "mondrian_groups cannot be used: Plain has no predict_quantiles. Leave it",
        ),
    ],
    ids=repr,
)
def test_a_model_that_does_not_take_a_condition(scorer, message):
    class Plain(RegressorMixin, BaseEstimator):
        def predict_interval(self, X, confidence_level):
            return np.zeros((len(X), 2))

    with pytest.raises(TypeError, match=re.escape(message)):
        scorer(Plain(), X, Y, mondrian_groups=GROUPS)
    assert coverage_scorer(0.5)(Plain(), X, Y) == 0


# ------------------------------------------------------------------------- routing on


def by_hand(model, splits, **conditions):
    """Coverage and minus width in each split, groups in fit and prediction."""
    found = []
    for train, test in splits:
        in_train = {name: value[train] for name, value in conditions.items()}
        in_test = {name: value[test] for name, value in conditions.items()}
        fitted = clone(model).fit(X[train], Y[train], **in_train)
        interval = fitted.predict_interval(X[test], **in_test)
        weighted = coverage_score(Y[test], interval, sample_weight=WEIGHT[test])
        found.append([weighted, -mean_interval_width(interval)])
    return np.array(found).T


@pytest.mark.usefixtures("routing")
def test_search_with_groups_of_both_kinds():
    model = calibrator(mondrian_groups=True)
    grid = {"estimator__alpha": [1.0, 1e4]}
    cv = GroupKFold(3)
    search = GridSearchCV(
        model,
        grid,
        cv=cv,
        refit="width",
        scoring={
            "coverage": coverage_scorer().set_score_request(
                mondrian_groups=True, sample_weight=True
            ),
            "width": neg_interval_width_scorer().set_score_request(
                mondrian_groups=True, sample_weight=False
            ),
        },
    )
    metadata = {"mondrian_groups": GROUPS, "groups": BLOCKS, "sample_weight": WEIGHT}
    # The calibrator was not told what to do with the weights that the scorer wants.
    with pytest.raises(UnsetMetadataPassedError, match=r"\[sample_weight\] are passed"):
        search.fit(X, Y, **metadata)
    search.set_params(estimator=model.set_fit_request(sample_weight=False))
    search.fit(X, Y, **metadata)
    splits = list(cv.split(X, Y, BLOCKS))
    for k, alpha in enumerate(grid["estimator__alpha"]):
        model = calibrator().set_params(estimator__alpha=alpha)
        coverage, width = by_hand(model, splits, mondrian_groups=GROUPS)
        for name, expected in (("coverage", coverage), ("width", width)):
            found = [search.cv_results_[f"split{i}_test_{name}"][k] for i in range(3)]
            assert found == pytest.approx(expected, rel=1e-12)
    # The search scores new rows by the same route.
    found = search.score(X, Y, mondrian_groups=GROUPS)
    interval = search.best_estimator_.predict_interval(X, mondrian_groups=GROUPS)
    assert found == pytest.approx(-mean_interval_width(interval), rel=1e-12)


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("in_pipeline", [False, True])
def test_cross_validate_with_groups_of_both_kinds(in_pipeline):
    model = calibrator(mondrian_groups=True)
    if in_pipeline:
        model = make_pipeline(StandardScaler(with_mean=False, with_std=False), model)
    found = cross_validate(
        model,
        X,
        Y,
        cv=GroupKFold(3),
        params={"mondrian_groups": GROUPS, "groups": BLOCKS},
        scoring=neg_interval_width_scorer().set_score_request(mondrian_groups=True),
    )
    splits = GroupKFold(3).split(X, Y, BLOCKS)
    _, expected = by_hand(calibrator(), splits, mondrian_groups=GROUPS)
    assert found["test_score"] == pytest.approx(expected, rel=1e-12)
    # The groups matter: without them the widths are others.
    _, plain = by_hand(calibrator(), GroupKFold(3).split(X, Y, BLOCKS))
    assert np.abs(expected - plain).min() > 0.01


@pytest.mark.usefixtures("routing")
def test_an_alias_and_likelihood_ratios():
    ratio = np.exp(X[:, 0])
    model = calibrator(likelihood_ratio="shift")
    scorer = neg_interval_width_scorer().set_score_request(likelihood_ratio="shift")
    found = cross_validate(
        model, X, Y, cv=KFold(3), params={"shift": ratio}, scoring=scorer
    )
    _, expected = by_hand(calibrator(), KFold(3).split(X), likelihood_ratio=ratio)
    assert found["test_score"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.usefixtures("routing")
@every_scorer
def test_what_was_not_requested_is_an_error(make):
    params = {"mondrian_groups": GROUPS}
    model = calibrator(mondrian_groups=True)
    for scorer in (
        make(),
        make().set_score_request(sample_weight=True),
        make().set_score_request(mondrian_groups=None),
        # As scikit-learn's own: a request forgets the one before.
        make().set_score_request(mondrian_groups=True).set_score_request(),
    ):
        message = "mondrian_groups.* not explicitly set as requested or not requested"
        with pytest.raises(UnsetMetadataPassedError, match=message):
            cross_validate(model, X, Y, params=params, scoring=scorer)


@pytest.mark.usefixtures("routing")
@every_scorer
def test_requests_are_set_in_place_and_carried_along(make):
    scorer = make()
    assert scorer.set_score_request(mondrian_groups=True, sample_weight="w") is scorer
    expected = {"mondrian_groups": True, "sample_weight": "w", "likelihood_ratio": None}
    search = GridSearchCV(Shifted(), {}, scoring=scorer)
    for same in (
        scorer,
        pickle.loads(pickle.dumps(scorer)),
        deepcopy(scorer),
        clone(search).scoring,
    ):
        assert get_routing_for_object(same).score.requests == expected
        assert repr(same) == repr(scorer)
    # Other scorers, and what was handed out before, are not touched.
    assert set(make().get_metadata_routing().score.requests.values()) == {None}
    scorer.get_metadata_routing().score.add_request(param="sample_weight", alias=False)
    assert scorer.get_metadata_routing().score.requests == expected


@pytest.mark.usefixtures("routing")
@every_scorer
def test_requests_that_are_none(make):
    scorer = make().set_score_request(mondrian_groups=True)
    message = f"{scorer!r} does not take groups, weight. It takes sample_weight, mondr"
    with pytest.raises(TypeError, match=re.escape(message)):
        scorer.set_score_request(groups=True, weight=True)
    with pytest.raises(ValueError, match="alias you're setting for `sample_weight`"):
        scorer.set_score_request(sample_weight="no name")
    assert scorer.get_metadata_routing().score.requests["mondrian_groups"] is True


# ------------------------------------------------------------------------ routing off


@every_scorer
def test_requests_need_routing(make):
    with pytest.raises(RuntimeError, match=r"sklearn.set_config\(enable_metadata_rou"):
        make().set_score_request(sample_weight=True)


@pytest.mark.parametrize("several", [False, True])
def test_without_routing_searches_work_as_before(several):
    scoring = {"a": coverage_scorer(), "b": neg_interval_width_scorer()}
    search = GridSearchCV(
        calibrator(),
        {"estimator__alpha": [1.0]},
        cv=KFold(3),
        scoring=scoring if several else scoring["a"],
        refit="a" if several else True,
    )
    search.fit(X, Y)
    unweighted = [
        coverage_score(
            Y[test], calibrator().fit(X[tr], Y[tr]).predict_interval(X[test])
        )
        for tr, test in KFold(3).split(X)
    ]
    name = "mean_test_a" if several else "mean_test_score"
    assert search.cv_results_[name][0] == pytest.approx(np.mean(unweighted), rel=1e-12)
    # Weights of a search train; what else they do is scikit-learn's to choose.
    search.fit(X, Y, sample_weight=WEIGHT)
    trained = calibrator().fit(X, Y, sample_weight=WEIGHT)
    np.testing.assert_array_equal(search.predict(X), trained.predict(X))
