"""scikit-learn's common checks for every public estimator."""

import inspect
from importlib.util import find_spec

import pytest
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import parametrize_with_checks

import uqlib
from tests._estimators import (
    EXPECTED_FAILURES,
    expected_failed_checks,
    public_estimators,
)

# The checks fit on a few dozen rows: fewer than a calibration at 0.9 may need after the
# split, and an infinite interval or an uncontrolled risk is then the right answer.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::uqlib.exceptions.{warning}")
    for warning in ("InfiniteIntervalWarning", "RiskNotControlledWarning")
]


@parametrize_with_checks(
    public_estimators(), expected_failed_checks=expected_failed_checks
)
def test_common_checks(estimator, check):
    check(estimator)


def _public_estimator_classes():
    """Names of the public estimators; a nonconformity score is none, it has no X, y."""
    return {
        name
        for name in uqlib.__all__
        if inspect.isclass(obj := getattr(uqlib, name))
        and issubclass(obj, BaseEstimator)
        and not hasattr(obj, "inverse")
    }


def test_every_public_estimator_is_checked():
    checked = {type(estimator).__name__ for estimator in public_estimators()}
    networks = {"TorchQuantileRegressor", "TorchSPAHead"}
    without_torch = networks if find_spec("torch") is None else set()
    assert checked | without_torch == _public_estimator_classes()


def test_expected_failures_name_estimators_and_reasons():
    assert set(EXPECTED_FAILURES) <= _public_estimator_classes()
    reasons = [r for checks in EXPECTED_FAILURES.values() for r in checks.values()]
    assert all(len(reason) > 20 for reason in reasons)
