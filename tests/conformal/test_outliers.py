"""ConformalOutlierDetector: by hand, its exact laws, groups and edges."""

import pickle
import re
import warnings

import numpy as np
import pytest
from scipy.stats import beta, binom, false_discovery_control, kstest
from sklearn.base import BaseEstimator
from sklearn.compose import make_column_transformer
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import OneClassSVM

from tests.conformal._proba import nine_digits
from uqlib.conformal import (
    ConformalOutlierDetector,
    ExchangeabilityMartingale,
    conditional_p_values,
    conformal_p_values,
    conformal_quantile,
    group_quantiles,
)
from uqlib.exceptions import AlreadyFittedWarning, InfiniteIntervalWarning

X = np.random.default_rng(0).normal(size=(200, 2))
NEW = np.random.default_rng(1).normal(scale=2.0, size=(150, 2))


class FirstColumn(BaseEstimator):
    """Strange is what has a large first column: learns nothing."""

    def fit(self, X, y=None):
        """Learn nothing."""
        self.fitted_ = True
        return self

    def score_samples(self, X):
        """Return minus the first column."""
        return -np.asarray(X, dtype=float)[:, 0]


FIRST_COLUMN = FrozenEstimator(FirstColumn().fit(X))


def column(scores, *others):
    """Rows whose scores are given."""
    return np.column_stack([scores, *others, np.zeros(len(scores))])


def detector(scores, **parameters):
    """A detector that is calibrated with given scores."""
    return ConformalOutlierDetector(FIRST_COLUMN, **parameters).fit(column(scores))


# ------------------------------------------------------------------------ by hand


@pytest.mark.parametrize("size", [0.25, 60])
@pytest.mark.parametrize("conditional", [None, "simes", "asymptotic"])
def test_equals_the_procedure_by_hand(size, conditional):
    model = ConformalOutlierDetector(
        GaussianMixture(random_state=0),
        conditional=conditional,
        conditional_confidence_level=0.8,
        calibration_size=size,
        random_state=3,
    ).fit(X)
    train, held_out = train_test_split(X, test_size=size, random_state=3)
    density = GaussianMixture(random_state=0).fit(train)
    scores = -nine_digits(density.score_samples(held_out))
    new = -nine_digits(density.score_samples(NEW))
    p_values = conformal_p_values(scores, new)
    if conditional is not None:
        p_values = conditional_p_values(p_values, scores.size, 0.8, conditional)
    np.testing.assert_array_equal(model.predict_p_values(NEW), p_values)
    np.testing.assert_array_equal(model.score_samples(NEW), -new)
    np.testing.assert_array_equal(model.scores_, scores)
    assert model.n_calibration_ == scores.size
    if conditional is None:
        assert model.threshold_ == conformal_quantile(scores, 0.9)


@pytest.mark.parametrize("conditional", [None, "simes", "asymptotic", "monte_carlo"])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.85])
def test_outliers_are_the_rows_with_small_p_values(conditional, level):
    # Integer scores: calibration and new rows tie.
    scores = np.random.default_rng(2).integers(0, 40, 99).astype(float)
    model = detector(
        scores, confidence_level=level, conditional=conditional, random_state=0
    )
    new = column(np.arange(-1.0, 42.0))
    small = model.predict_p_values(new) <= 1 - level + 1e-12
    assert 0 < small.sum() < len(new)
    np.testing.assert_array_equal(model.predict(new), np.where(small, -1, 1))
    decision = model.decision_function(new)
    np.testing.assert_array_equal(decision < 0, small)
    np.testing.assert_array_equal(decision, model.score_samples(new) - model.offset_)
    assert model.offset_ == -model.threshold_
    # The stranger a row is, the smaller its p-value.
    assert (np.diff(model.predict_p_values(new)) <= 0).all()


@pytest.mark.parametrize(
    "estimator",
    [
        IsolationForest(n_estimators=10, random_state=0),
        LocalOutlierFactor(novelty=True),
        OneClassSVM(),
        KernelDensity(),
        make_pipeline(StandardScaler(), GaussianMixture(random_state=0)),
        GridSearchCV(KernelDensity(), {"bandwidth": [0.3, 1.0]}, cv=3),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_any_detector_or_density(estimator):
    model = ConformalOutlierDetector(estimator, random_state=0).fit(X)
    p_values = model.predict_p_values(np.vstack([NEW, [[50.0, 50.0]]]))
    assert ((p_values > 0) & (p_values <= 1)).all()
    assert p_values[-1] <= 2 / 51 < 0.1
    assert model.predict([[50.0, 50.0]])[0] == -1


class OnlyDecides(FirstColumn):
    """A detector without score_samples."""

    score_samples = property()

    def decision_function(self, X):
        """Return minus the first column, moved."""
        return 7.0 - np.asarray(X)[:, 0]


def test_decision_function_serves_where_there_is_nothing_else():
    model = ConformalOutlierDetector(FrozenEstimator(OnlyDecides().fit(X))).fit(X)
    expected = conformal_p_values(X[:, 0] - 7.0, NEW[:, 0] - 7.0)
    np.testing.assert_array_equal(model.predict_p_values(NEW), expected)


# ----------------------------------------------------------------------- guarantees


@pytest.mark.parametrize("n_calibration", [19, 50])
@pytest.mark.parametrize("level", [0.8, 0.9])
def test_false_alarms_have_their_exact_law(n_calibration, level):
    # Scores uniform on (0, 1): the false alarms of a calibrated detector are 1 less its
    # threshold, the k-th smallest of n, so Beta(n + 1 - k, k). 4 cells share 1e-6.
    rng = np.random.default_rng(n_calibration)
    alarms = [
        1 - detector(rng.random(n_calibration), confidence_level=level).threshold_
        for _ in range(500)
    ]
    rank = int(np.ceil((n_calibration + 1) * level - 1e-9))
    law = beta(n_calibration + 1 - rank, rank)
    assert law.mean() <= 1 - level + 1e-12
    assert kstest(alarms, law.cdf).pvalue > 1e-6 / 4


def test_conditional_false_alarms_hold_for_most_calibration_sets():
    # The probability that 1 - threshold exceeds 1 - level is at most delta = 0.2, for
    # one level out of all: the number of failures is at most binomial. 1e-6.
    rng = np.random.default_rng(5)
    n_sets, delta = 500, 0.2
    failures = {None: 0, "simes": 0}
    for _ in range(n_sets):
        scores = rng.random(60)
        for conditional in failures:
            model = detector(
                scores,
                confidence_level=0.8,
                conditional=conditional,
                conditional_confidence_level=1 - delta,
            )
            failures[conditional] += 1 - model.threshold_ > 0.2
    assert failures["simes"] <= binom.isf(1e-6, n_sets, delta)
    # The marginal detector exceeds its level in about half of the sets.
    assert failures[None] > binom.isf(1e-6, n_sets, delta)


def test_selection_with_a_false_discovery_rate():
    model = ConformalOutlierDetector(
        GaussianMixture(random_state=0), calibration_size=0.5, random_state=0
    ).fit(X)
    rows = np.vstack([X[:20] * 0.1, np.full((20, 2), 30.0)])
    selected = false_discovery_control(model.predict_p_values(rows)) <= 0.1
    np.testing.assert_array_equal(selected, np.repeat([False, True], 20))


# --------------------------------------------------------------------------- groups


GROUPS = np.array(list("aab") * 60)
SCORES = nine_digits(np.random.default_rng(4).normal(size=180) + 5 * (GROUPS == "b"))


@pytest.mark.parametrize("conditional", [None, "simes"])
def test_each_group_is_a_detector_of_its_own(conditional):
    model = ConformalOutlierDetector(FIRST_COLUMN, conditional=conditional)
    model.fit(column(SCORES), mondrian_groups=GROUPS)
    new, new_groups = column(np.linspace(-3, 9, 60)), np.array(list("ab") * 30)
    p_values = model.predict_p_values(new, mondrian_groups=new_groups)
    labels = model.predict(new, mondrian_groups=new_groups)
    decision = model.decision_function(new, mondrian_groups=new_groups)
    assert model.groups_.tolist() == ["a", "b"]
    assert model.n_calibration_ == 180
    for g, name in enumerate("ab"):
        rows = np.flatnonzero([group == name for group in GROUPS])
        alone = detector(SCORES[rows], conditional=conditional)
        rows = new_groups == name
        np.testing.assert_array_equal(p_values[rows], alone.predict_p_values(new[rows]))
        np.testing.assert_array_equal(labels[rows], alone.predict(new[rows]))
        np.testing.assert_array_equal(
            decision[rows], alone.decision_function(new[rows])
        )
        assert model.threshold_[g] == alone.threshold_ == -model.offset_[g]
    if conditional is None:
        _, thresholds = group_quantiles(SCORES, GROUPS, 0.9)
        np.testing.assert_array_equal(model.threshold_, thresholds)


def test_groups_from_a_column_or_a_callable(df_module):
    codes = (GROUPS == "b").astype(float)
    new = np.linspace(-3, 9, 60)
    new_codes = np.tile([0.0, 1.0], 30)
    arrays = ConformalOutlierDetector(FIRST_COLUMN)
    arrays.fit(column(SCORES, codes), mondrian_groups=codes)
    expected = arrays.predict(column(new, new_codes), mondrian_groups=new_codes)
    for group_by in (1, lambda rows: np.asarray(rows)[:, 1]):
        model = ConformalOutlierDetector(FIRST_COLUMN, group_by=group_by)
        model.fit(column(SCORES, codes))
        np.testing.assert_array_equal(model.predict(column(new, new_codes)), expected)
    frame = df_module.make_dataframe({"score": SCORES, "kind": codes})
    model = ConformalOutlierDetector(
        FrozenEstimator(FirstColumn().fit(frame)), group_by="kind"
    ).fit(frame)
    rows = df_module.make_dataframe({"score": new, "kind": new_codes})
    np.testing.assert_array_equal(model.predict(rows), expected)


def test_groups_are_split_with_their_rows():
    model = ConformalOutlierDetector(FirstColumn(), random_state=1)
    model.fit(column(SCORES), mondrian_groups=GROUPS)
    held_out = train_test_split(np.arange(180), test_size=45, random_state=1)[1]
    _, thresholds = group_quantiles(SCORES[held_out], GROUPS[held_out], 0.9)
    np.testing.assert_array_equal(model.threshold_, thresholds)


def test_a_group_without_calibration_rows_has_no_outliers():
    model = ConformalOutlierDetector(FIRST_COLUMN)
    model.fit(column(SCORES), mondrian_groups=GROUPS)
    rows, groups = column([99.0, 99.0]), ["a", "z"]
    with pytest.warns(InfiniteIntervalWarning, match="had no calibration rows: 'z'"):
        p_values = model.predict_p_values(rows, mondrian_groups=groups)
    assert p_values.tolist() == [1 / 121, 1.0]
    with pytest.warns(InfiniteIntervalWarning, match="'z'") as caught:
        labels = model.predict(rows, mondrian_groups=groups)
    assert len(caught) == 1
    assert labels.tolist() == [-1, 1]


def test_groups_that_do_not_fit():
    model = ConformalOutlierDetector(FIRST_COLUMN)
    with pytest.raises(ValueError, match="mondrian_groups must have shape"):
        model.fit(column(SCORES), mondrian_groups=GROUPS[1:])
    model.fit(column(SCORES), mondrian_groups=GROUPS)
    with pytest.raises(ValueError, match="mondrian_groups is needed for these rows"):
        model.predict_p_values(column(SCORES))
    with pytest.raises(ValueError, match="mondrian_groups was given, but"):
        detector(SCORES).predict(column(SCORES), mondrian_groups=GROUPS)


# ------------------------------------------------------------- calibration and edges


def test_too_few_rows_leave_everything_alone_and_warn_once():
    with pytest.warns(InfiniteIntervalWarning, match="at least 9 are needed") as caught:
        model = detector(np.arange(8.0))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    rows = column([1e300, np.inf, 0.0])
    assert model.predict(rows).tolist() == [1, 1, 1]
    assert np.isposinf(model.threshold_)
    assert model.predict_p_values(rows)[0] == 1 / 9
    assert (model.decision_function(rows) >= 0).all()
    assert detector(np.arange(9.0)).predict(rows).tolist() == [-1, -1, 1]


def test_too_few_rows_for_conditional_p_values():
    # 1 - 0.1^(1/k) <= 0.1 from k = 22 on, so from 44 rows on.
    with pytest.warns(InfiniteIntervalWarning) as caught:
        model = detector(np.arange(43.0), conditional="simes")
    message = (
        "43 calibration rows are too few for a conditional p-value of 0.1: at least 44 "
        "are needed with conditional='simes'."
    )
    assert len(caught) == 1
    assert message in str(caught[0].message)
    assert model.predict(column([1e300]))[0] == 1
    assert detector(np.arange(44.0), conditional="simes").predict(column([99.0]))[0] < 0


def test_infinite_scores():
    scores = np.r_[np.arange(97.0), np.inf, np.inf]
    model = detector(scores)
    assert model.threshold_ == 89.0
    assert model.predict(column([np.inf, 89.0, -np.inf])).tolist() == [-1, 1, 1]
    assert model.predict_p_values(column([np.inf]))[0] == 3 / 100
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scores of +inf are no lack of rows
        model = detector(np.full(99, np.inf), conditional="simes")
    assert model.predict(column([np.inf, 0.0])).tolist() == [1, 1]


def test_scores_that_are_all_equal():
    model = detector(np.full(50, 3.0))
    assert model.predict_p_values(column([2.0, 3.0, 4.0])).tolist() == [1, 1, 1 / 51]
    assert model.predict(column([2.0, 3.0, 4.0])).tolist() == [1, 1, -1]


def test_calibrate_moves_the_threshold_and_nothing_else():
    model = ConformalOutlierDetector(GaussianMixture(random_state=0), random_state=0)
    density = model.fit(X).estimator_
    means = density.means_.copy()
    assert model.calibrate(NEW) is model
    assert model.estimator_ is density
    np.testing.assert_array_equal(density.means_, means)
    assert model.n_calibration_ == 150
    scores = -nine_digits(density.score_samples(NEW))
    assert model.threshold_ == conformal_quantile(scores, 0.9)
    model.calibrate(NEW, mondrian_groups=NEW[:, 0] > 0)
    assert model.offset_.shape == (2,)
    model.calibrate(NEW)
    assert np.ndim(model.offset_) == 0
    assert not hasattr(model, "groups_")


def test_a_calibration_that_fails_changes_nothing():
    model = detector(SCORES, conditional="simes")
    before = model.predict_p_values(NEW)
    model.set_params(conditional="dkw")
    with pytest.raises(ValueError, match="conditional='dkw' must be one of"):
        model.calibrate(column(SCORES[:90]))
    with pytest.raises(ValueError, match="predicted NaN"):
        model.set_params(conditional=None).calibrate(column([np.nan, 1.0]))
    np.testing.assert_array_equal(model.predict_p_values(NEW), before)
    assert model.n_calibration_ == 180


def test_the_simulation_follows_random_state():
    parameters = {"conditional": "monte_carlo", "random_state": 3}
    first, again = detector(SCORES, **parameters), detector(SCORES, **parameters)
    np.testing.assert_array_equal(
        first.predict_p_values(NEW), again.predict_p_values(NEW)
    )
    other = detector(SCORES, conditional="monte_carlo", random_state=4)
    assert (first.predict_p_values(NEW) != other.predict_p_values(NEW)).any()


def test_a_fitted_estimator_is_cloned_with_a_warning():
    density = KernelDensity().fit(X)
    with pytest.warns(AlreadyFittedWarning, match="FrozenEstimator"):
        model = ConformalOutlierDetector(density).fit(NEW)
    assert model.estimator_ is not density


def test_a_frozen_estimator_calibrates_on_all_rows():
    density = KernelDensity().fit(X)
    model = ConformalOutlierDetector(FrozenEstimator(density)).fit(NEW)
    assert model.n_calibration_ == 150
    expected = nine_digits(density.score_samples(X))
    np.testing.assert_array_equal(model.score_samples(X), expected)


def test_fit_predict_is_fit_and_predict():
    model = ConformalOutlierDetector(KernelDensity(), random_state=0)
    labels = model.fit_predict(X)
    np.testing.assert_array_equal(labels, model.fit(X).predict(X))


def test_strings_and_frames_pass_through(df_module):
    frame = df_module.make_dataframe(
        {"kind": [["a", "b"][i % 2] for i in range(200)], "size": X[:, 0]}
    )
    columns = make_column_transformer(
        (OneHotEncoder(sparse_output=False), ["kind"]), (StandardScaler(), ["size"])
    )
    model = ConformalOutlierDetector(
        make_pipeline(columns, KernelDensity()), group_by="kind", random_state=0
    ).fit(frame)
    assert model.predict_p_values(frame).shape == (200,)
    assert model.feature_names_in_.tolist() == ["kind", "size"]


def test_nothing_that_was_passed_changes():
    density, rows = KernelDensity(), X.copy()
    rows.flags.writeable = False
    ConformalOutlierDetector(density).fit(rows).calibrate(rows).predict_p_values(rows)
    assert not hasattr(density, "tree_")


@pytest.mark.parametrize("conditional", [None, "simes"])
def test_pickle_and_skops_round_trip(tmp_path, conditional):
    model = ConformalOutlierDetector(
        GaussianMixture(), confidence_level=0.7, conditional=conditional, random_state=0
    ).fit(X, mondrian_groups=np.arange(200) % 2)
    groups = np.arange(150) % 2
    expected = model.predict_p_values(NEW, mondrian_groups=groups)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(
        copy.predict_p_values(NEW, mondrian_groups=groups), expected
    )
    io = pytest.importorskip("skops.io")
    io.dump(model, tmp_path / "model.skops")
    trusted = io.get_untrusted_types(file=tmp_path / "model.skops")
    assert all(name.startswith("uqlib.") for name in trusted)
    copy = io.load(tmp_path / "model.skops", trusted=trusted)
    np.testing.assert_array_equal(
        copy.predict_p_values(NEW, mondrian_groups=groups), expected
    )


def test_before_any_calibration_there_are_no_p_values():
    for method in ("predict_p_values", "predict", "decision_function", "calibrate"):
        with pytest.raises(NotFittedError):
            getattr(ConformalOutlierDetector(KernelDensity()), method)(X)


def test_estimators_that_cannot_judge_new_rows():
    message = "LocalOutlierFactor has neither score_samples nor decision_function"
    with pytest.raises(ValueError, match=message):
        ConformalOutlierDetector(LocalOutlierFactor()).fit(X)


class TwoScores(FirstColumn):
    """A detector that gives a matrix."""

    def score_samples(self, X):
        """Return all columns."""
        return np.asarray(X)


def test_scores_of_another_shape():
    message = "TwoScores.score_samples gave an array of shape (50, 2) for 50 rows"
    with pytest.raises(ValueError, match=re.escape(message)):
        ConformalOutlierDetector(TwoScores()).fit(X)


@pytest.mark.parametrize("name", ["confidence_level", "conditional_confidence_level"])
def test_bad_levels(name):
    with pytest.raises(ValueError, match=f"^{name} must lie strictly between 0 and 1"):
        detector(SCORES, conditional="simes", **{name: 1.0})
    with pytest.raises(TypeError, match=f"^{name} must be a real number"):
        detector(SCORES, conditional="simes", **{name: "0.9"})


@pytest.mark.parametrize("conditional", ["Simes", True, 0.9])
def test_unknown_conditional_methods(conditional):
    with pytest.raises(ValueError, match=f"conditional={conditional!r} must be one of"):
        detector(SCORES, conditional=conditional)


@pytest.mark.parametrize("size", [0.0, 1.0, 0, 200])
def test_bad_calibration_size(size):
    with pytest.raises(ValueError, match="calibration_size"):
        ConformalOutlierDetector(KernelDensity(), calibration_size=size).fit(X)


def test_empty_rows():
    with pytest.raises(ValueError, match=re.escape("Found array with 0 sample(s)")):
        ConformalOutlierDetector(KernelDensity()).fit(X[:0])
    with pytest.raises(ValueError, match=re.escape("Found array with 0 sample(s)")):
        detector(SCORES).calibrate(X[:0])


def test_a_row_ties_with_its_like_in_any_batch():
    # Six distinct rows, and a density whose last bits depend on the number of rows.
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 12))[rng.integers(0, 6, 300)]
    train = rng.normal(size=(100, 12))
    density = GaussianMixture(2, random_state=0, reg_covar=0.01).fit(train)
    model = ConformalOutlierDetector(FrozenEstimator(density)).fit(rows)
    for method in (model.predict_p_values, model.predict):
        alone = np.concatenate([method(row[None]) for row in rows[:40]])
        np.testing.assert_array_equal(alone, method(rows)[:40])
    once = ExchangeabilityMartingale(FrozenEstimator(density), random_state=0)
    pieces = ExchangeabilityMartingale(FrozenEstimator(density), random_state=0)
    once.fit(train).partial_fit(rows)
    pieces.fit(train).partial_fit(rows[:260])
    for row in rows[260:]:
        pieces.partial_fit(row[None])
    np.testing.assert_array_equal(once.p_values_, pieces.p_values_)
