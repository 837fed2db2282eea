"""The folds of a fit, and estimators that fit all of them themselves."""

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.linear_model import QuantileRegressor, Ridge
from sklearn.model_selection import KFold, LeaveOneOut, ShuffleSplit

from tests._models import normal_rows
from uqlib import MultiQuantileRegressor
from uqlib._fitting import fit_each_fold, partition, shuffled_splitter
from uqlib._typing import FoldFitter
from uqlib.conformal import CrossConformalizedQuantileRegressor

X, Y = normal_rows(60, seed=0)
WEIGHT = np.random.default_rng(1).uniform(0.5, 2, size=60)
SPLITS = list(KFold(4).split(X))


class Sharing(RegressorMixin, BaseEstimator):
    """A mean that fits all folds in one call and remembers what it was asked."""

    def fit(self, X, y, sample_weight=None):
        self.center_ = np.average(y, weights=sample_weight)
        return self

    def fit_folds(self, X, y, splits, sample_weight=None):
        assert not hasattr(self, "center_"), "asked of a clone that is not fitted"
        weight = np.ones(len(y)) if sample_weight is None else sample_weight
        Sharing.received = (splits, sample_weight)
        return [clone(self).fit(X[rows], y[rows], weight[rows]) for rows, _ in splits]


def test_a_number_of_folds_is_shuffled_and_a_splitter_stays():
    splits = list(shuffled_splitter(4, np.random.RandomState(0)).split(X))
    assert [test.size for _, test in splits] == [15] * 4
    assert np.any(splits[0][1] != np.arange(15))
    splitter = LeaveOneOut()
    assert shuffled_splitter(splitter, None) is splitter
    assert len(partition(shuffled_splitter(SPLITS, None), X, Y)) == 4


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        (ShuffleSplit(3), "every row in exactly one test fold"),
        ([(np.arange(60), np.arange(60))], "trains on rows of its own test fold"),
    ],
)
def test_folds_that_leak_or_overlap_are_refused(cv, message):
    with pytest.raises(ValueError, match=message):
        partition(shuffled_splitter(cv, None), X, Y)


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_each_fold_gets_a_clone_fitted_without_it(weight, n_jobs):
    base = Ridge()
    with parallel_config(backend="threading"):
        models = fit_each_fold(base, X, Y, SPLITS, weight, n_jobs)
    assert not hasattr(base, "coef_")
    for model, (train, _) in zip(models, SPLITS, strict=True):
        part = None if weight is None else weight[train]
        by_hand = Ridge().fit(X[train], Y[train], sample_weight=part)
        np.testing.assert_array_equal(model.coef_, by_hand.coef_)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_an_estimator_can_fit_the_folds_itself(weight):
    base = Sharing()
    assert isinstance(base, FoldFitter)
    models = fit_each_fold(base, X, Y, SPLITS, weight)
    assert Sharing.received[0] is SPLITS
    np.testing.assert_array_equal(Sharing.received[1], weight)
    assert not hasattr(base, "center_")
    for model, (train, _) in zip(models, SPLITS, strict=True):
        part = None if weight is None else weight[train]
        assert model.center_ == Sharing().fit(X[train], Y[train], part).center_


def test_calibration_on_shared_folds_is_that_of_separate_fits():
    class Separate(MultiQuantileRegressor):
        """Without sharing."""

    class Shared(MultiQuantileRegressor):
        def fit_folds(self, X, y, splits, sample_weight=None):
            return [clone(self).fit(X[rows], y[rows]) for rows, _ in splits[::-1]][::-1]

    intervals = []
    for kind in (Separate, Shared):
        base = kind(QuantileRegressor(alpha=0), quantiles=(0.1, 0.5, 0.9))
        model = CrossConformalizedQuantileRegressor(
            base, confidence_level=0.8, random_state=0
        )
        intervals.append(model.fit(X, Y).predict_interval(X))
    np.testing.assert_array_equal(*intervals)


def test_an_estimator_that_forgets_a_fold_is_refused():
    class Forgetful(Sharing):
        def fit_folds(self, X, y, splits, sample_weight=None):
            return super().fit_folds(X, y, splits[1:])

    with pytest.raises(ValueError, match="gave 3 models for 4 splits"):
        fit_each_fold(Forgetful(), X, Y, SPLITS)
