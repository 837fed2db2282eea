"""Groups and likelihood ratios in split calibration: oracles, laws, bad input."""

import re

import numpy as np
import pytest
from scipy.stats import beta
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, train_test_split

from tests._models import Zero, normal_rows
from uqlib import (
    ConformalizedQuantileRegressor,
    ConformalPredictiveRegressor,
    CrossConformalRegressor,
    InfiniteIntervalWarning,
    LinearQuantileRegressor,
    MultiOutputConformalRegressor,
    SplitConformalRegressor,
    conformal_quantile,
    group_quantiles,
    weighted_conformal_quantile,
)

X, Y = normal_rows(300, seed=0)
GROUPS = np.array(["a", "b", "c"])[np.arange(300) % 3]
RATIO = np.exp(X[:, 1])
ZERO = FrozenEstimator(Zero().fit(X, Y))


GROUPS_AS_NUMBERS = np.arange(300) % 3


def first(rows):
    """Return weights that follow the first column."""
    return np.exp(rows[:, 0] / 4)


def test_groups_by_hand():
    model = SplitConformalRegressor(Ridge(), random_state=0)
    model.fit(X, Y, mondrian_groups=GROUPS)
    train, held_out = train_test_split(np.arange(300), test_size=75, random_state=0)
    scores = np.abs(Y[held_out] - Ridge().fit(X[train], Y[train]).predict(X[held_out]))
    labels, thresholds = group_quantiles(scores, GROUPS[held_out], 0.9)
    np.testing.assert_array_equal(model.groups_, labels)
    np.testing.assert_allclose(model.threshold_, thresholds, rtol=1e-12)
    half = np.diff(model.predict_interval(X, mondrian_groups=GROUPS), axis=1) / 2
    expected = thresholds[np.searchsorted(labels, GROUPS)]
    np.testing.assert_allclose(half.ravel(), expected, rtol=1e-10)
    other = model.predict_interval(X, 0.5, mondrian_groups=GROUPS)
    _, median = group_quantiles(scores, GROUPS[held_out], 0.5)
    expected = median[np.searchsorted(labels, GROUPS)]
    np.testing.assert_allclose(np.diff(other, axis=1).ravel() / 2, expected, rtol=1e-10)


def test_every_way_to_name_the_groups_is_the_same(df_module):
    column = np.repeat([0.0, 1.0], 150)
    rows = np.column_stack([X[:, 0], column])
    frame = df_module.make_dataframe({"x": X[:, 0], "group": column})
    by_array = SplitConformalRegressor(Ridge(), random_state=0)
    by_array.fit(rows, Y, mondrian_groups=column)
    expected = by_array.predict_interval(rows, mondrian_groups=column)
    for group_by, data in (
        (1, rows),
        (lambda x: np.asarray(x)[:, 1], rows),
        ("group", frame),
        (lambda x: x["group"].to_numpy() > 0.5, frame),
    ):
        model = SplitConformalRegressor(Ridge(), group_by=group_by, random_state=0)
        interval = model.fit(data, Y).predict_interval(data)
        np.testing.assert_allclose(interval, expected, rtol=1e-12)


@pytest.mark.parametrize("nonconformity", ["absolute", "signed"])
def test_one_group_is_no_group(nonconformity):
    plain = SplitConformalRegressor(
        Ridge(), nonconformity=nonconformity, random_state=0
    ).fit(X, Y)
    one = SplitConformalRegressor(
        Ridge(), nonconformity=nonconformity, random_state=0
    ).fit(X, Y, mondrian_groups=np.zeros(300))
    interval = one.predict_interval(X, mondrian_groups=np.zeros(300))
    np.testing.assert_array_equal(interval, plain.predict_interval(X))


@pytest.mark.parametrize("nonconformity", ["absolute", "signed"])
@pytest.mark.filterwarnings("ignore::uqlib.exceptions.InfiniteIntervalWarning")
def test_equal_ratios_are_no_ratios(nonconformity):
    for n in (8, 9, 19, 99, 200):
        plain = SplitConformalRegressor(ZERO, nonconformity=nonconformity)
        plain.fit(X[:n], Y[:n])
        weighted = SplitConformalRegressor(ZERO, nonconformity=nonconformity)
        weighted.fit(X[:n], Y[:n], likelihood_ratio=np.full(n, 0.3))
        interval = weighted.predict_interval(X, likelihood_ratio=np.full(300, 0.3))
        np.testing.assert_array_equal(interval, plain.predict_interval(X))
        assert not hasattr(weighted, "threshold_")


def test_ratios_by_hand():
    model = SplitConformalRegressor(ZERO).fit(X, Y, likelihood_ratio=RATIO)
    expected = weighted_conformal_quantile(np.abs(Y), RATIO, RATIO, 0.8)
    interval = model.predict_interval(X, 0.8, likelihood_ratio=RATIO)
    np.testing.assert_allclose(interval[:, 1], expected, rtol=1e-12)


@pytest.mark.filterwarnings("ignore::uqlib.exceptions.InfiniteIntervalWarning")
def test_groups_and_ratios_together():
    model = SplitConformalRegressor(ZERO)
    model.fit(X, Y, mondrian_groups=GROUPS, likelihood_ratio=RATIO)
    interval = model.predict_interval(X, mondrian_groups=GROUPS, likelihood_ratio=RATIO)
    for g in "abc":
        rows = g == GROUPS
        expected = weighted_conformal_quantile(
            np.abs(Y[rows]), RATIO[rows], RATIO[rows], 0.9
        )
        np.testing.assert_allclose(interval[rows, 1], expected, rtol=1e-12)


def test_ratios_of_a_fitted_classifier_or_a_function():
    shifted = X + np.array([0.5, 0.0])
    classifier = LogisticRegression().fit(
        np.vstack([X, shifted]), np.repeat([0, 1], 300)
    )
    proba = classifier.predict_proba(X)
    given = SplitConformalRegressor(Ridge(), random_state=0)
    given.fit(X, Y, likelihood_ratio=proba[:, 1] / proba[:, 0])
    expected = given.predict_interval(X, likelihood_ratio=proba[:, 1] / proba[:, 0])
    # A ratio is known up to a factor: the odds of the classifier serve.
    for weight_estimator in (
        classifier,
        FrozenEstimator(classifier),
        lambda x: np.exp(classifier.decision_function(x)),
    ):
        model = SplitConformalRegressor(
            Ridge(), weight_estimator=weight_estimator, random_state=0
        ).fit(X, Y)
        np.testing.assert_allclose(model.predict_interval(X), expected, rtol=1e-9)


def test_quantile_regression_takes_groups_and_ratios():
    base = LinearQuantileRegressor([0.05, 0.5, 0.95])
    model = ConformalizedQuantileRegressor(base, group_by=0, random_state=0)
    rows = np.column_stack([np.arange(300) % 2, X])
    assert model.fit(rows, Y).threshold_.shape == (2,)
    ends = ConformalizedQuantileRegressor(
        base, group_by=0, symmetric=False, random_state=0
    ).fit(rows, Y)
    assert ends.threshold_.shape == (2, 2)
    assert np.isfinite(ends.predict_interval(rows)).all()
    weighted = ConformalizedQuantileRegressor(base, random_state=0)
    weighted.fit(X, Y, likelihood_ratio=np.ones(300))
    plain = ConformalizedQuantileRegressor(base, random_state=0).fit(X, Y)
    np.testing.assert_array_equal(
        weighted.predict_interval(X, likelihood_ratio=np.ones(300)),
        plain.predict_interval(X),
    )


def test_coverage_of_each_group_has_its_own_law():
    # 300 calibrations of 19 and 39 rows: given the calibration, coverage of group g is
    # Beta(k, n_g + 1 - k). 5 standard errors fail less than once in a million runs.
    rng = np.random.default_rng(0)
    sizes, coverage = {0: 19, 1: 39}, {0: [], 1: []}
    groups = np.repeat([0, 1], [19, 39])
    for _ in range(300):
        y = rng.exponential(size=58) * np.where(groups == 1, 5.0, 1.0)
        model = SplitConformalRegressor(ZERO, confidence_level=0.8)
        model.fit(np.zeros((58, 2)), y, mondrian_groups=groups)
        for g, scale in ((0, 1.0), (1, 5.0)):
            threshold = model.threshold_[g]
            coverage[g].append(1 - np.exp(-threshold / scale))  # P(y <= threshold)
    for g, n in sizes.items():
        k = {19: 16, 39: 32}[n]
        law = beta(k, n + 1 - k)
        error = law.std() / np.sqrt(300)
        assert abs(np.mean(coverage[g]) - law.mean()) < 5 * error


@pytest.mark.parametrize("label", ["0", "aa", "bz", "z"])
@pytest.mark.parametrize("ratios", [False, True])
@pytest.mark.parametrize("nonconformity", ["absolute", "signed"])
def test_an_unseen_label_is_of_no_group_wherever_it_sorts(label, ratios, nonconformity):
    rest = {"likelihood_ratio": np.ones(300)} if ratios else {}
    model = SplitConformalRegressor(ZERO, nonconformity=nonconformity)
    model.fit(X, Y, mondrian_groups=GROUPS, **rest)
    groups = np.where(np.arange(300) < 10, label, GROUPS)
    message = f"1 groups .* rows: '{label}'"
    with pytest.warns(InfiniteIntervalWarning, match=message) as record:
        interval = model.predict_interval(X, mondrian_groups=groups, **rest)
    assert len(record) == 1
    assert np.isinf(interval[:10]).all()
    known = model.predict_interval(X, mondrian_groups=GROUPS, **rest)
    np.testing.assert_array_equal(interval[10:], known[10:])


def test_a_group_that_calibration_did_not_see():
    model = SplitConformalRegressor(Ridge(), random_state=0)
    model.fit(X, Y, mondrian_groups=GROUPS)
    message = "1 groups had no calibration rows: 'z'"
    with pytest.warns(InfiniteIntervalWarning, match=message) as caught:
        interval = model.predict_interval(X[:4], mondrian_groups=["a", "z", "z", "b"])
    assert len(caught) == 1
    np.testing.assert_array_equal(interval[1:3], [[-np.inf, np.inf]] * 2)
    assert np.isfinite(interval[[0, 3]]).all()


def test_a_small_group_warns_at_fit_and_is_infinite():
    groups = np.where(np.arange(300) < 3, "rare", "common")
    model = SplitConformalRegressor(ZERO)
    with pytest.warns(InfiniteIntervalWarning, match="1 of 2 groups have too few"):
        model.fit(X, Y, mondrian_groups=groups)
    interval = model.predict_interval(X[:2], mondrian_groups=["rare", "common"])
    assert np.isinf(interval[0]).all()
    assert np.isfinite(interval[1]).all()


def test_a_row_unlike_the_calibration_rows_is_infinite():
    model = SplitConformalRegressor(ZERO).fit(X, Y, likelihood_ratio=np.ones(300))
    with pytest.warns(InfiniteIntervalWarning, match="For 1 of 2 rows the 300"):
        interval = model.predict_interval(X[:2], likelihood_ratio=[1.0, 1e6])
    assert np.isfinite(interval[0]).all()
    assert np.isinf(interval[1]).all()


def test_a_ratio_of_zero_leaves_the_row_out():
    ratio = (np.arange(300) < 50).astype(float)
    model = SplitConformalRegressor(ZERO).fit(X, Y, likelihood_ratio=ratio)
    interval = model.predict_interval(X[:1], likelihood_ratio=[1.0])
    expected = conformal_quantile(np.abs(Y[:50]), 0.9)
    assert interval[0, 1] == pytest.approx(expected, rel=1e-12)


def test_groups_are_routed():
    with config_context(enable_metadata_routing=True):
        model = SplitConformalRegressor(Ridge(), random_state=0)
        model.set_fit_request(mondrian_groups=True, sample_weight=True)
        model.set_score_request(sample_weight=False)
        search = GridSearchCV(model, {"estimator__alpha": [0.1, 1.0]}, cv=2)
        search.fit(X, Y, mondrian_groups=GROUPS, sample_weight=np.ones(300))
    best = search.best_estimator_
    assert best.groups_.tolist() == ["a", "b", "c"]
    assert best.predict_interval(X, mondrian_groups=GROUPS).shape == (300, 2)


def raising(model, message, *, fit=None, predict=None):
    with pytest.raises(ValueError, match=re.escape(message)):
        model.fit(X, Y, **(fit or {})).predict_interval(X, **(predict or {}))


def test_conditions_given_twice_or_once_too_few():
    grouped, ratios = {"mondrian_groups": GROUPS}, {"likelihood_ratio": RATIO}
    by_column = SplitConformalRegressor(Ridge(), group_by=0)
    raising(by_column, "mondrian_groups was given, but group_by=0", fit=grouped)
    estimated = SplitConformalRegressor(Ridge(), weight_estimator=np.ones_like)
    raising(estimated, "likelihood_ratio was given, but weight_estimator", fit=ratios)
    plain = SplitConformalRegressor(Ridge())
    raising(plain, "mondrian_groups is needed for these rows", fit=grouped)
    raising(plain, "likelihood_ratio is needed for these rows", fit=ratios)
    raising(plain, "mondrian_groups was given, but the calib", predict=grouped)
    raising(plain, "likelihood_ratio was given, but the calib", predict=ratios)


@pytest.mark.parametrize(
    ("parameters", "fit", "message"),
    [
        ({}, {"mondrian_groups": GROUPS[:5]}, "mondrian_groups must have shape (300,)"),
        ({"group_by": 9}, {}, "group_by=9 is no column of X"),
        ({"group_by": "age"}, {}, "group_by='age' is no column of X"),
        ({"group_by": lambda x: [1, 2]}, {}, "group_by must have shape (300,)"),
        ({}, {"likelihood_ratio": -RATIO}, "likelihood_ratio must be finite and at l"),
        ({}, {"likelihood_ratio": np.full(300, np.inf)}, "Clip the ratio"),
        ({}, {"likelihood_ratio": RATIO[:2]}, "likelihood_ratio must have shape (300"),
        ({"weight_estimator": Ridge()}, {}, "must be a callable on X or a fitted clas"),
    ],
)
def test_bad_conditions(parameters, fit, message):
    raising(SplitConformalRegressor(Ridge(), **parameters), message, fit=fit)


def test_a_classifier_of_three_classes_is_no_ratio():
    classifier = LogisticRegression().fit(X, np.arange(300) % 3)
    model = SplitConformalRegressor(Ridge(), weight_estimator=classifier)
    raising(model, "weight_estimator must have two classes")


def test_a_fitted_classifier_survives_cloning_only_if_it_is_frozen():
    classifier = LogisticRegression(C=1e-3).fit(X, RATIO > 1)
    model = SplitConformalRegressor(ZERO, weight_estimator=classifier)
    with pytest.raises(NotFittedError, match=r"pass FrozenEstimator\(weight_estimator"):
        clone(model).fit(X, Y)
    expected = model.fit(X, Y).predict_interval(X)
    frozen = clone(model.set_params(weight_estimator=FrozenEstimator(classifier)))
    np.testing.assert_array_equal(frozen.fit(X, Y).predict_interval(X), expected)


@pytest.mark.parametrize(
    ("calibrator", "parameters", "call"),
    [
        (SplitConformalRegressor, {"group_by": 2}, "predict_interval"),
        (SplitConformalRegressor, {"weight_estimator": first}, "predict_interval"),
        (CrossConformalRegressor, {"group_by": 2}, "predict_interval"),
        (ConformalPredictiveRegressor, {"group_by": 2}, "predict_quantiles"),
        (MultiOutputConformalRegressor, {"group_by": 2}, "predict_box"),
    ],
)
def test_conditions_set_after_the_fit_wait_for_the_next(calibrator, parameters, call):
    # A label of one column says nothing about the groups of another.
    rows = np.column_stack([X, np.arange(300) % 3, np.arange(300) % 2])
    base = Zero() if calibrator is CrossConformalRegressor else ZERO
    model = calibrator(base, random_state=0, **parameters)
    before = getattr(model.fit(rows, Y), call)(rows)
    for other in (3, None):
        model.set_params(**dict.fromkeys(parameters, other))
        np.testing.assert_array_equal(getattr(model, call)(rows), before)


def test_dates_are_no_numbers():
    days = GROUPS_AS_NUMBERS.astype("datetime64[D]")
    model = SplitConformalRegressor(ZERO).fit(X, Y, mondrian_groups=GROUPS_AS_NUMBERS)
    with pytest.raises(ValueError, match="are of another type"):
        model.predict_interval(X, mondrian_groups=days)


def test_strings_of_any_length_are_strings():
    model = SplitConformalRegressor(ZERO).fit(X, Y, mondrian_groups=GROUPS)
    text = GROUPS.astype(np.dtypes.StringDType())
    np.testing.assert_array_equal(
        model.predict_interval(X, mondrian_groups=text),
        model.predict_interval(X, mondrian_groups=GROUPS),
    )


def test_labels_of_another_type():
    model = SplitConformalRegressor(ZERO).fit(X, Y, mondrian_groups=GROUPS)
    with pytest.raises(ValueError, match="are of another type"):
        model.predict_interval(X, mondrian_groups=np.zeros(300))
