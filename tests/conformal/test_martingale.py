"""ExchangeabilityMartingale: by hand, in pieces, Ville's inequality, every edge."""

import pickle
import re

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uqlib.conformal import (
    ExchangeabilityMartingale,
    exchangeability_martingale,
    sequential_p_values,
)
from uqlib.exceptions import AlreadyFittedWarning

METHODS = ["simple_jumper", "mixture", "power", "histogram"]
TRAIN = np.random.default_rng(0).normal(size=(100, 2))
ROWS = np.random.default_rng(1).normal(size=(80, 2))


class FirstColumn(BaseEstimator):
    """Strange is what has a large first column: learns nothing."""

    def fit(self, X, y=None):
        """Learn nothing."""
        self.fitted_ = True
        return self

    def score_samples(self, X):
        """Return minus the first column."""
        return -np.asarray(X, dtype=float)[:, 0]


def smoothing(random_state, size):
    """The numbers that break ties, as they follow from `random_state`."""
    seed = np.random.RandomState(random_state).randint(np.iinfo(np.int32).max)
    return np.random.default_rng(seed).random(size)


@pytest.mark.parametrize("method", METHODS)
def test_equals_the_procedure_by_hand(method):
    parameters = {"jump_rate": 0.1, "exponent": 0.6, "n_bins": 5}
    model = ExchangeabilityMartingale(
        GaussianMixture(random_state=0), method=method, random_state=7, **parameters
    )
    model.fit(TRAIN).partial_fit(ROWS)
    density = GaussianMixture(random_state=0).fit(TRAIN)
    scores = -density.score_samples(ROWS)
    p_values = sequential_p_values(scores, u=smoothing(7, 80))
    np.testing.assert_array_equal(model.p_values_, p_values)
    np.testing.assert_array_equal(
        model.log_martingale_,
        exchangeability_martingale(p_values, method, **parameters),
    )


@pytest.mark.parametrize("method", METHODS)
def test_rows_one_by_one_are_rows_at_once(method):
    model = ExchangeabilityMartingale(
        KernelDensity(), method=method, random_state=0
    ).fit(TRAIN)
    pieces = clone(model).fit(TRAIN)
    model.partial_fit(ROWS)
    for rows in (ROWS[:1], ROWS[1:1], ROWS[1:50], ROWS[50:51], ROWS[51:]):
        assert pieces.partial_fit(rows) is pieces
    np.testing.assert_array_equal(pieces.p_values_, model.p_values_)
    np.testing.assert_allclose(
        pieces.log_martingale_, model.log_martingale_, rtol=1e-12, atol=1e-12
    )


def test_ties_are_broken_at_random_and_p_values_stay_uniform():
    # All scores equal: the p-values are the uniform numbers themselves.
    model = ExchangeabilityMartingale(FrozenEstimator(FirstColumn().fit(TRAIN)))
    model.set_params(random_state=3).fit(TRAIN).partial_fit(np.ones((500, 2)))
    np.testing.assert_allclose(model.p_values_, smoothing(3, 500), rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_villes_inequality(method):
    # 300 streams of 100 rows, looked at after every 20: rejections are at most binomial
    # with probability 0.1. 4 methods share 1e-6.
    rng = np.random.default_rng(11)
    rejected = 0
    for _ in range(300):
        model = ExchangeabilityMartingale(
            FrozenEstimator(FirstColumn().fit(TRAIN)),
            method=method,
            confidence_level=0.9,
            random_state=int(rng.integers(2**31)),
        ).fit(TRAIN)
        looks = [
            model.partial_fit(rng.normal(size=(20, 2))).rejects() for _ in range(5)
        ]
        assert looks == sorted(looks)  # what was rejected stays rejected
        rejected += looks[-1]
    assert rejected <= binom.isf(1e-6 / 4, 300, 0.1)


@pytest.mark.parametrize("method", METHODS)
def test_ever_stranger_rows_are_rejected(method):
    # Each row is stranger than all before it, so that p_t < 1 / t.
    model = ExchangeabilityMartingale(
        FrozenEstimator(FirstColumn().fit(TRAIN)), method=method, random_state=0
    ).fit(TRAIN)
    model.partial_fit(np.tile(np.arange(400.0)[:, None], 2))
    assert (model.p_values_ <= 1 / np.arange(1, 401)).all()
    assert model.rejects()
    assert model.rejects(0.999999)


def test_rejection_is_a_capital_of_one_over_alpha():
    model = ExchangeabilityMartingale(KernelDensity()).fit(TRAIN)
    assert not model.rejects(0.001)  # no rows, no bets
    model.partial_fit(ROWS)
    model.log_martingale_ = np.log([1.0, 19.9, 3.0])
    assert not model.rejects(0.95)
    model.log_martingale_ = np.log([1.0, 20.1, 3.0])
    assert model.rejects(0.95)
    assert not model.rejects()


def test_fit_starts_anew():
    model = ExchangeabilityMartingale(KernelDensity(), random_state=0)
    first = model.fit(TRAIN).partial_fit(ROWS).log_martingale_
    model.fit(TRAIN)
    assert model.p_values_.shape == model.log_martingale_.shape == (0,)
    np.testing.assert_array_equal(model.partial_fit(ROWS).log_martingale_, first)


def test_without_fit_the_first_rows_train():
    model = ExchangeabilityMartingale(KernelDensity(), random_state=0)
    assert model.partial_fit(TRAIN).p_values_.shape == (0,)
    fitted = ExchangeabilityMartingale(KernelDensity(), random_state=0).fit(TRAIN)
    np.testing.assert_array_equal(
        model.partial_fit(ROWS).p_values_, fitted.partial_fit(ROWS).p_values_
    )


def test_a_frozen_estimator_has_nothing_to_train():
    density = KernelDensity().fit(TRAIN)
    model = ExchangeabilityMartingale(FrozenEstimator(density), random_state=0)
    assert model.partial_fit(ROWS).p_values_.shape == (80,)
    again = ExchangeabilityMartingale(FrozenEstimator(density), random_state=0)
    np.testing.assert_array_equal(
        again.fit(TRAIN[:3]).partial_fit(ROWS).p_values_, model.p_values_
    )


def test_a_fitted_estimator_is_cloned_with_a_warning():
    density = KernelDensity().fit(TRAIN)
    with pytest.warns(AlreadyFittedWarning, match="FrozenEstimator"):
        model = ExchangeabilityMartingale(density).fit(TRAIN)
    assert model.estimator_ is not density


def test_pipelines_and_frames(df_module):
    frame = df_module.make_dataframe({"a": ROWS[:, 0], "b": ROWS[:, 1]})
    detector = make_pipeline(StandardScaler(), LocalOutlierFactor(novelty=True))
    model = ExchangeabilityMartingale(detector, random_state=0).fit(frame)
    assert model.partial_fit(frame).p_values_.shape == (80,)
    assert model.feature_names_in_.tolist() == ["a", "b"]


def test_pickle_and_skops_go_on_where_they_stopped(tmp_path):
    model = ExchangeabilityMartingale(GaussianMixture(), random_state=0)
    model.fit(TRAIN).partial_fit(ROWS[:30])
    copies = [pickle.loads(pickle.dumps(model))]
    io = pytest.importorskip("skops.io")
    io.dump(model, tmp_path / "model.skops")
    trusted = io.get_untrusted_types(file=tmp_path / "model.skops")
    assert all(name.startswith("uqlib.") for name in trusted)
    copies.append(io.load(tmp_path / "model.skops", trusted=trusted))
    expected = model.partial_fit(ROWS[30:]).log_martingale_
    for copy in copies:
        np.testing.assert_array_equal(
            copy.partial_fit(ROWS[30:]).log_martingale_, expected
        )


def test_nothing_that_was_passed_changes():
    density, rows = KernelDensity(), ROWS.copy()
    rows.flags.writeable = False
    ExchangeabilityMartingale(density).fit(rows).partial_fit(rows)
    assert not hasattr(density, "tree_")


def test_rows_that_fail_change_nothing():
    model = ExchangeabilityMartingale(
        FrozenEstimator(FirstColumn().fit(TRAIN)), random_state=0
    ).fit(TRAIN)
    model.partial_fit(ROWS[:40])
    with pytest.raises(ValueError, match="predicted NaN"):
        model.partial_fit(np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(ROWS[:, :1])
    whole = clone(model).fit(TRAIN).partial_fit(ROWS)
    np.testing.assert_array_equal(
        model.partial_fit(ROWS[40:]).p_values_, whole.p_values_
    )


def test_infinite_scores_are_strange():
    model = ExchangeabilityMartingale(FrozenEstimator(FirstColumn().fit(TRAIN)))
    model.partial_fit([[0.0], [np.inf], [-np.inf]])
    assert model.p_values_[1] <= 1 / 2 <= 2 / 3 <= model.p_values_[2]


def test_before_any_rows_there_is_no_answer():
    with pytest.raises(NotFittedError):
        ExchangeabilityMartingale(KernelDensity()).rejects()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "cusum"}, "method='cusum' must be one of"),
        ({"jump_rate": 0.0}, "jump_rate must lie in (0, 1]"),
        ({"exponent": 1.5}, "exponent must lie in (0, 1]"),
        ({"n_bins": 0}, "n_bins must be at least 1"),
        ({"confidence_level": 1.0}, "confidence_level must lie strictly"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ExchangeabilityMartingale(KernelDensity(), **parameters).fit(TRAIN)


def test_bad_levels_to_reject_at():
    model = ExchangeabilityMartingale(KernelDensity()).fit(TRAIN)
    with pytest.raises(ValueError, match="confidence_level must lie strictly"):
        model.rejects(0.0)


def test_estimators_that_cannot_judge_new_rows():
    model = ExchangeabilityMartingale(LocalOutlierFactor()).fit(TRAIN)
    with pytest.raises(ValueError, match="LocalOutlierFactor has neither"):
        model.partial_fit(ROWS)
