"""BatchPredictiveInference refuses what has no answer, and warns of infinite ones."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge

from tests._models import normal_rows
from tests.batch._batches import FIRST_COLUMN, calibrated, rows_of
from uqlib import InfiniteIntervalWarning
from uqlib._core.scores import SignedScore
from uqlib.batch._inference import BatchPredictiveInference

X, Y = normal_rows(60, seed=1)
ROWS = rows_of(np.zeros(4))
Y_40 = np.random.default_rng(0).normal(size=40)


@pytest.mark.parametrize(
    ("parameters", "error", "match"),
    [
        ({"confidence_level": 0.0}, ValueError, "confidence_level"),
        ({"confidence_level": 1.0}, ValueError, "confidence_level"),
        ({"confidence_level": "0.9"}, TypeError, "confidence_level"),
        ({"statistic": "mode"}, ValueError, "statistic='mode'"),
        ({"side": "both"}, ValueError, "side='both'"),
        ({"method": "best"}, ValueError, "method='best'"),
        ({"phi": "beta"}, ValueError, "phi='beta'"),
        ({"phi": None}, ValueError, "phi=None"),
        ({"kappa": -1.0}, ValueError, "kappa"),
        ({"kappa": np.inf}, ValueError, "kappa"),
        ({"grid": 0}, ValueError, "grid"),
        ({"grid": 10.0}, ValueError, "grid"),
        ({"nonconformity": "gamma"}, ValueError, "nonconformity='gamma'"),
        ({"nonconformity": SignedScore()}, ValueError, "one score a row"),
        ({"score_bounds": 3}, ValueError, "score_bounds"),
        ({"score_bounds": (0.0, 1.0)}, ValueError, "must hold for every score"),
        ({"calibration_size": 0}, ValueError, "calibration_size"),
    ],
)
def test_parameters(parameters, error, match):
    with pytest.raises(error, match=match):
        BatchPredictiveInference(Ridge(), random_state=0, **parameters).fit(X, Y)


@pytest.mark.parametrize(
    ("parameters", "error", "match"),
    [
        ({"method": "closed"}, ValueError, "closed"),
        ({"statistic": "median", "method": "dp"}, ValueError, "bounds statistics of"),
        ({"statistic": "max", "method": "partition"}, ValueError, "outcome"),
        ({"statistic": ("order", 0)}, ValueError, "order"),
        ({"statistic": ("order", 5)}, ValueError, "order"),
        ({"statistic": [1, 2]}, ValueError, "m=4"),
        ({"phi": np.arange(7), "method": "dp"}, ValueError, r"phi must have shape"),
        ({"phi": -np.arange(41), "method": "dp"}, ValueError, "must not decrease"),
        ({"phi": "train", "method": "dp"}, ValueError, "training scores"),
    ],
)
def test_what_the_batch_cannot_have(parameters, error, match):
    model = calibrated(Y_40).set_params(**parameters)
    before = model.scores_.copy()
    with pytest.raises(error, match=match):
        model.predict_batch_interval(ROWS)
    np.testing.assert_array_equal(model.scores_, before)
    assert not hasattr(model, "rank_")


def test_training_scores_of_a_frozen_model():
    with pytest.raises(ValueError, match="frozen"):
        calibrated(Y_40, phi="train")


@pytest.mark.parametrize("k", [0, 5])
def test_k_outside_the_batch(k):
    with pytest.raises(ValueError, match="k must be an integer from 1 to 4"):
        calibrated(Y_40).predict_simultaneous(ROWS, k)


@pytest.mark.parametrize("max_false", [-1, 4])
def test_max_false_outside_the_batch(max_false):
    with pytest.raises(ValueError, match="max_false must be an integer from 0 to 3"):
        calibrated(Y_40).select(ROWS, 0.0, max_false)


def test_numbers_that_are_none():
    model = calibrated(Y_40)
    with pytest.raises(TypeError, match="k must be an integer"):
        model.predict_simultaneous(ROWS, 1.5)
    with pytest.raises(TypeError, match="threshold must be a number"):
        model.select(ROWS, "high", 1)
    with pytest.raises(ValueError, match="threshold must not be NaN"):
        model.count_above(ROWS, np.nan)


@pytest.mark.parametrize(
    "ask",
    [
        lambda model, X: model.predict_batch_interval(X),
        lambda model, X: model.predict_simultaneous(X, 1),
        lambda model, X: model.select(X, 0.0, 0),
        lambda model, X: model.count_above(X, 0.0),
    ],
)
def test_empty_batch_and_unfitted_model(ask):
    with pytest.raises(ValueError, match="the batch is empty"):
        ask(calibrated(Y_40), np.zeros((0, 1)))
    with pytest.raises(NotFittedError):
        ask(BatchPredictiveInference(Ridge()), ROWS)
    with pytest.raises(ValueError, match="features"):
        ask(calibrated(Y_40), np.zeros((3, 2)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_targets_and_predictions_that_are_not_finite(bad):
    y = Y_40.copy()
    y[3] = bad
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        calibrated(y)
    points = np.zeros(40)
    points[3] = bad
    with pytest.raises(ValueError, match=r"NaN|finite"):
        calibrated(Y_40, points)
    with pytest.raises(ValueError, match=r"NaN|infinite"):
        calibrated(Y_40).predict_batch_interval([[0.0], [bad]])


def test_no_calibration_rows():
    with pytest.raises(ValueError, match="0 sample"):
        calibrated(np.zeros(0))
    model = calibrated(Y_40)
    with pytest.raises(ValueError, match="0 sample"):
        model.calibrate(np.zeros((0, 1)), np.zeros(0))
    assert model.n_calibration_ == 40


def test_an_error_in_calibrate_changes_nothing():
    model = calibrated(Y_40, score_bounds=(-9.0, 9.0))
    expected = model.predict_batch_interval(ROWS)
    with pytest.raises(ValueError, match="score_bounds"):
        model.calibrate(rows_of(np.zeros(50)), np.full(50, 10.0))
    np.testing.assert_array_equal(model.predict_batch_interval(ROWS), expected)


def test_groups():
    model = calibrated(Y_40)
    with pytest.raises(ValueError, match=r"groups must have shape \(4,\)"):
        model.predict_batch_interval(ROWS, [1, 2])
    with pytest.raises(ValueError, match="missing"):
        model.predict_batch_interval(ROWS, [1, 2, np.nan, 1])
    with pytest.raises(ValueError, match="the calibration was without it"):
        model.predict_batch_interval(ROWS, mondrian_groups=[1] * 4)
    model.calibrate(rows_of(np.zeros(40)), Y_40, mondrian_groups=[1, 2] * 20)
    with pytest.raises(ValueError, match="mondrian_groups is needed"):
        model.predict_batch_interval(ROWS)
    with pytest.raises(ValueError, match="without calibration rows: 3"):
        model.predict_batch_interval(ROWS, mondrian_groups=[3] * 4)
    with pytest.raises(ValueError, match="different mondrian_groups"):
        model.predict_batch_interval(ROWS, mondrian_groups=[1, 1, 1, 2])


# ---------------------------------------------------------------------------
# Infinite answers: one warning, with the least number of rows that would do.


def _is_finite(n, m, parameters):
    model = calibrated(np.random.default_rng(n).normal(size=n), **parameters)
    rows = rows_of(np.zeros(m))
    return np.isfinite(model.predict_batch_interval(rows)).all()


@pytest.mark.parametrize(
    ("parameters", "m", "needed"),
    [
        # n >= m (1 / a - 1) for the mean and the maximum.
        ({"method": "core"}, 2, 38),
        ({"method": "partition"}, 3, 57),
        ({"statistic": "max", "nonconformity": "outcome"}, 3, 57),
        ({"confidence_level": 0.8, "method": "hull"}, 4, 36),
        ({"confidence_level": 0.8, "statistic": "median"}, 5, None),
        ({"confidence_level": 0.8, "statistic": "max"}, 4, None),
    ],
)
def test_the_number_of_rows_needed(parameters, m, needed):
    with pytest.warns(InfiniteIntervalWarning, match="at least") as record:
        assert not _is_finite(4, m, parameters)
    assert len(record) == 1
    words = str(record[0].message).split()
    named = int(words[words.index("least") + 1])
    assert needed is None or named == needed
    assert _is_finite(named, m, parameters)  # without a warning
    with pytest.warns(InfiniteIntervalWarning):
        assert not _is_finite(named - 1, m, parameters)


def test_known_bounds_keep_everything_finite():
    model = calibrated(np.array([0.2, 0.6]), score_bounds=(-1.0, 1.0))
    for statistic in ("mean", "median", "max", "min"):
        model.set_params(statistic=statistic)
        found = model.predict_batch_interval(ROWS)
        np.testing.assert_allclose(found, [[-1.0, 1.0]], rtol=1e-12)
    model.set_params(statistic="mean", method="partition")
    found = model.predict_batch_interval(ROWS)
    np.testing.assert_allclose(found, [[-1.0, 1.0]], rtol=1e-12)
    np.testing.assert_array_equal(model.event_probability_, [[1.0, 1.0]])
    np.testing.assert_allclose(
        model.predict_simultaneous(ROWS, 4), np.tile([-1.0, 1.0], (4, 1)), rtol=1e-12
    )


def test_one_calibration_row():
    model = BatchPredictiveInference(FIRST_COLUMN, confidence_level=0.5)
    model.fit([[0.0]], [3.0])
    with pytest.warns(InfiniteIntervalWarning):
        found = model.predict_batch_interval([[0.0]])
    np.testing.assert_array_equal(found, [[-np.inf, np.inf]])
