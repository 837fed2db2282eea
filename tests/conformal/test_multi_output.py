"""MultiOutputConformalRegressor: regions by hand, coverage by enumeration, edges."""

import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from uqlib import AlreadyFittedWarning, InfiniteIntervalWarning, SplitConformalRegressor
from uqlib._core.ranks import rank_from_fraction
from uqlib._core.region_shapes import Box, Ellipsoid
from uqlib.conformal import (
    MultiOutputConformalRegressor,
    conformal_ellipsoid,
    max_rank_thresholds,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 2))
MIXING = np.array([[1.0, 0.9, 0.0], [0.0, 0.4, 0.0], [0.0, 0.0, 5.0]])
Y = X[:, [0, 1, 0]] + RNG.normal(size=(240, 3)) @ MIXING
GROUPS = np.array(["a", "b"])[(X[:, 1] > 0).astype(int)]
REGIONS = pytest.mark.parametrize("region", ["box", "ellipsoid"])


class Zeros(RegressorMixin, BaseEstimator):
    """Predict 0 in every output: residuals are the targets."""

    def fit(self, X, y):
        """Learn the number of outputs."""
        self.shape_ = np.shape(y)[1:]
        return self

    def predict(self, X):
        """Return zeros."""
        return np.zeros((len(X), *self.shape_))


ZEROS = FrozenEstimator(Zeros().fit(X, Y))


def calibrated(y, region="box", **parameters):
    frozen = FrozenEstimator(Zeros().fit(X, y))
    model = MultiOutputConformalRegressor(frozen, region=region, **parameters)
    return model.fit(np.zeros((len(y), 2)), y)


def everything(model, X=X, Y=Y, **groups):
    return [
        model.predict(X),
        model.predict_box(X, **groups),
        model.contains(X, Y, **groups),
        model.region_volume(X, **groups),
    ]


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def split_by_hand():
    train, held_out = train_test_split(np.arange(240), test_size=60, random_state=3)
    ridge = Ridge().fit(X[train], Y[train])
    return ridge, Y[held_out] - ridge.predict(X[held_out])


# The regions


def test_the_box_by_hand():
    model = MultiOutputConformalRegressor(Ridge(), random_state=3).fit(X, Y)
    ridge, residuals = split_by_hand()
    thresholds = max_rank_thresholds(np.abs(residuals), 0.9)
    point = ridge.predict(X)
    np.testing.assert_array_equal(model.predict(X), point)
    np.testing.assert_array_equal(model.half_widths_, thresholds)
    box = model.predict_box(X)
    assert box.shape == (240, 3, 2)
    np.testing.assert_allclose(box[..., 0], point - thresholds, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(box[..., 1], point + thresholds, rtol=1e-12, atol=1e-12)
    assert (box[..., 0] <= point - thresholds).all()  # rounded outwards
    assert (box[..., 1] >= point + thresholds).all()
    inside = (np.abs(Y - point) <= thresholds).all(axis=1)
    np.testing.assert_array_equal(model.contains(X, Y), inside)
    assert ((box[..., 0] <= Y) & (box[..., 1] >= Y)).all(axis=1)[inside].all()
    np.testing.assert_allclose(model.region_volume(X), np.prod(2 * thresholds))
    assert model.n_calibration_ == 60
    assert model.n_outputs_ == 3
    np.testing.assert_array_equal(np.sort(model.scores_, 0), np.sort(residuals, 0))


def test_the_ellipsoid_by_hand():
    model = MultiOutputConformalRegressor(Ridge(), region="ellipsoid", random_state=3)
    model.fit(X, Y)
    ridge, residuals = split_by_hand()
    n, point = 60, ridge.predict(X)
    inverse = np.linalg.inv(residuals.T @ residuals / n)
    leverages = np.einsum("ij,jk,ik->i", residuals, inverse, residuals) / n
    h = np.sort(leverages)[55 - 1]  # ceil(61 * 0.9)
    bound = n * h / (1 - h)
    distance = np.einsum("ij,jk,ik->i", Y - point, inverse, Y - point)
    np.testing.assert_array_equal(model.contains(X, Y), distance <= bound)
    half = np.sqrt(bound * np.diag(np.linalg.inv(inverse)))
    np.testing.assert_allclose(model.half_widths_, half, rtol=1e-10)
    volume = 4 / 3 * math.pi * bound**1.5 / math.sqrt(np.linalg.det(inverse))
    np.testing.assert_allclose(model.region_volume(X), volume, rtol=1e-10)
    box = model.predict_box(X)
    np.testing.assert_allclose(box.mean(axis=2), point, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.diff(box)[..., 0] / 2, np.tile(half, (240, 1)))


@pytest.mark.parametrize("n_outputs", [1, 2, 3, 4])
def test_volume_and_sides_of_an_ellipsoid_by_counting(n_outputs):
    rng = np.random.default_rng(n_outputs)
    shape = Ellipsoid(np.eye(n_outputs) + rng.normal(size=(n_outputs,) * 2) / 4, 1.3)
    half = shape.half_widths()
    points = rng.uniform(-1, 1, size=(200_000, n_outputs)) * half
    share = shape.contains(points).mean()
    expected = shape.volume() / np.prod(2 * half)
    assert abs(share - expected) < 5 * math.sqrt(expected / 200_000) + 1e-12
    # A point of the surface lies on each side of the box, and nothing beyond it.
    assert not shape.contains(points + 2 * half).any()
    inverse = np.linalg.inv(shape.whitening)
    for j in range(n_outputs):
        touching = 1.3 * inverse @ inverse[j] / np.linalg.norm(inverse[j])
        assert touching[j] == pytest.approx(half[j], rel=1e-12)
        assert shape.contains(0.999999 * touching[None]).all()
        assert not shape.contains(1.000001 * touching[None]).any()


def test_a_degenerate_or_infinite_shape():
    assert Box(np.array([0.0, np.inf])).volume() == np.inf
    assert Box(np.array([0.0, 1.0])).volume() == 0
    assert Ellipsoid(np.eye(2), 0.0).volume() == 0
    assert Ellipsoid(np.eye(2), np.inf).volume() == np.inf
    assert Ellipsoid(np.eye(2), np.inf).contains(np.full((1, 2), 1e300)).all()


@REGIONS
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("column", [False, True])
def test_one_output_equals_split_conformal_regression(region, level, column):
    y = Y[:, 0]
    split = SplitConformalRegressor(Ridge(), confidence_level=level, random_state=0)
    interval = split.fit(X, y).predict_interval(X)
    model = MultiOutputConformalRegressor(
        Ridge(), region=region, confidence_level=level, random_state=0
    ).fit(X, y[:, None] if column else y)
    box = model.predict_box(X)
    assert box.shape == (240, 1, 2)
    np.testing.assert_allclose(box[:, 0], interval, rtol=1e-12, atol=1e-14)
    assert model.predict(X).shape == ((240, 1) if column else (240,))
    if not column:
        np.testing.assert_array_equal(box[:, 0], interval)
        assert model.half_widths_ == [split.threshold_]
    np.testing.assert_allclose(model.region_volume(X), 2 * split.threshold_)
    inside = np.abs(y - split.predict(X)) <= split.threshold_
    np.testing.assert_array_equal(model.contains(X, y[:, None]), inside)


# Coverage


@REGIONS
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("n", [12, 25])
@pytest.mark.filterwarnings("ignore::uqlib.exceptions.InfiniteIntervalWarning")
def test_at_least_k_of_n_plus_1_exchanges_are_covered(region, level, n):
    # The theorem without probability, for heavy tails, ties and any dependence.
    rng = np.random.default_rng(n)
    rank = rank_from_fraction(n, Fraction(str(level)))
    row = np.zeros((1, 2))
    samples = [
        rng.standard_cauchy(size=(n + 1, 3)),
        np.round(rng.normal(size=(n + 1, 3)) @ MIXING, 0),
        np.column_stack(
            [np.arange(n + 1.0), np.arange(n, -1.0, -1), rng.random(n + 1)]
        ),
    ]
    for y in samples:
        covered = 0
        for new in range(n + 1):
            others = np.delete(y, new, axis=0)
            model = calibrated(others, region, confidence_level=level)
            covered += model.contains(row, y[[new]]).item()
        assert covered >= rank


@REGIONS
def test_coverage_of_new_rows(region):
    # 300 calibrations with 20 new rows each: the mean coverage is at least the level,
    # up to an error that happens once in a million runs (one-sided, 4.75 sigma).
    rng, coverage = np.random.default_rng(1), []
    for _ in range(300):
        y = rng.normal(size=(120, 3)) @ MIXING
        model = calibrated(y[:100], region, confidence_level=0.8)
        coverage.append(model.contains(np.zeros((20, 2)), y[100:]).mean())
    error = np.std(coverage) / math.sqrt(300)
    assert np.mean(coverage) > 0.8 - 4.75 * error


def test_the_ellipsoid_is_smaller_where_errors_go_together():
    y = RNG.normal(size=(500, 1)) + 0.1 * RNG.normal(size=(500, 2))
    box, oval = (
        calibrated(y, region).region_volume(X[:1]) for region in REGIONS.args[1]
    )
    assert oval < box / 2


# Levels


@REGIONS
def test_a_level_at_prediction_equals_one_at_construction(region):
    model = calibrated(Y, region, confidence_level=0.9)
    other = calibrated(Y, region, confidence_level=0.7)
    np.testing.assert_array_equal(model.predict_box(X, 0.7), other.predict_box(X))
    np.testing.assert_array_equal(model.contains(X, Y, 0.7), other.contains(X, Y))
    np.testing.assert_array_equal(model.region_volume(X, 0.7), other.region_volume(X))


@REGIONS
def test_regions_are_nested_in_the_level(region):
    model = calibrated(Y, region)
    levels = np.linspace(0.05, 0.98, 30)
    inside = np.array([model.contains(X, Y, level) for level in levels])
    assert (inside[:-1] <= inside[1:]).all()
    volumes = [model.region_volume(X[:1], level).item() for level in levels]
    assert (np.diff(volumes) >= 0).all()


# Groups


@REGIONS
def test_groups_by_hand(region):
    model = MultiOutputConformalRegressor(ZEROS, region=region)
    model.fit(X, Y, mondrian_groups=GROUPS)
    np.testing.assert_array_equal(model.groups_, ["a", "b"])
    results = everything(model, mondrian_groups=GROUPS)
    for position, label in enumerate("ab"):
        rows = label == GROUPS
        alone = MultiOutputConformalRegressor(ZEROS, region=region)
        alone.fit(X[rows], Y[rows])
        assert_same(
            [result[rows] for result in results],
            everything(alone, X[rows], Y[rows]),
        )
        np.testing.assert_array_equal(model.half_widths_[position], alone.half_widths_)


def test_every_way_to_name_the_groups_is_the_same(df_module):
    number = (GROUPS == "b").astype(float)
    rows = np.column_stack([X, number])
    by_array, by_column = (
        MultiOutputConformalRegressor(
            Ridge(), group_by=key, calibration_size=0.5, random_state=0
        )
        for key in (None, 2)
    )
    by_array.fit(rows, Y, mondrian_groups=number)
    assert_same(
        everything(by_column.fit(rows, Y), rows),
        everything(by_array, rows, mondrian_groups=number),
    )
    frame = df_module.make_dataframe({"x0": X[:, 0], "x1": X[:, 1], "g": GROUPS})
    encode = make_column_transformer(
        (OneHotEncoder(sparse_output=False), ["g"]), remainder="passthrough"
    )
    targets = df_module.make_dataframe({"u": Y[:, 0], "v": Y[:, 1], "w": Y[:, 2]})
    named = MultiOutputConformalRegressor(
        make_pipeline(encode, Ridge()),
        group_by="g",
        calibration_size=0.5,
        random_state=0,
    ).fit(frame, targets)
    np.testing.assert_array_equal(named.groups_, ["a", "b"])
    np.testing.assert_array_equal(
        named.contains(frame, targets), named.contains(frame, Y)
    )


@REGIONS
def test_an_unseen_group_has_the_whole_space(region):
    model = MultiOutputConformalRegressor(ZEROS, region=region)
    model.fit(X, Y, mondrian_groups=GROUPS)
    groups = ["a", "c"]
    with pytest.warns(InfiniteIntervalWarning, match="'c'") as caught:
        box = model.predict_box(X[:2], mondrian_groups=groups)
    assert len(caught) == 1
    np.testing.assert_array_equal(box[1], [[-np.inf, np.inf]] * 3)
    assert np.isfinite(box[0]).all()
    with pytest.warns(InfiniteIntervalWarning):
        assert model.contains(X[:2], 1e9 * Y[:2], mondrian_groups=groups)[1]
    with pytest.warns(InfiniteIntervalWarning):
        volume = model.region_volume(X[:2], mondrian_groups=groups)
    assert np.isposinf(volume[1])


@REGIONS
def test_a_small_group_warns_once(region):
    groups = np.array(["a"] * 235 + ["b"] * 5)
    model = MultiOutputConformalRegressor(ZEROS, region=region)
    message = "1 of 2 groups have too few calibration rows .* 'b'. "
    message += "29 rows suffice" if region == "box" else "At least 9 rows are needed"
    with pytest.warns(InfiniteIntervalWarning, match=message) as caught:
        model.fit(X, Y, mondrian_groups=groups)
    assert len(caught) == 1
    volume = model.region_volume(X, mondrian_groups=groups)
    np.testing.assert_array_equal(np.isinf(volume), groups == "b")


# Few rows and degenerate residuals


def test_too_few_rows_give_infinite_boxes_and_one_warning():
    with pytest.warns(InfiniteIntervalWarning, match="29 suffice") as caught:
        model = calibrated(Y[:9])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert np.isposinf(model.half_widths_).any()
    assert np.isinf(model.region_volume(X)).all()
    with pytest.warns(InfiniteIntervalWarning, match="at least 9 are"):
        calibrated(Y[:8], "ellipsoid")
    with pytest.warns(InfiniteIntervalWarning, match="do not span 3 outputs"):
        model = calibrated(Y[:2], "ellipsoid", confidence_level=0.5)
    assert model.contains(X, Y).all()
    with pytest.warns(InfiniteIntervalWarning, match="199"):
        calibrated(Y[:60, 0]).predict_box(X, 0.995)


def test_an_output_without_error():
    y = np.column_stack([Y[:, 0], np.zeros(240)])
    model = calibrated(y)
    split = calibrated(Y[:, 0])
    np.testing.assert_array_equal(model.half_widths_, [*split.half_widths_, 0.0])
    with pytest.warns(InfiniteIntervalWarning, match="predicted without error"):
        calibrated(y, "ellipsoid")


# Frozen models, other calibrations, scikit-learn


def test_a_frozen_estimator_calibrates_on_all_rows():
    model = calibrated(Y)
    assert model.n_calibration_ == 240
    np.testing.assert_array_equal(model.scores_, Y)


@REGIONS
def test_calibrate_moves_the_region_and_nothing_else(region):
    model = MultiOutputConformalRegressor(Ridge(), region=region, random_state=0)
    model.fit(X, Y)
    inner, point = model.estimator_, model.predict(X)
    model.calibrate(X[:80], Y[:80] + 3)
    assert model.estimator_ is inner
    np.testing.assert_array_equal(model.predict(X), point)
    residuals = Y[:80] + 3 - point[:80]
    np.testing.assert_allclose(model.scores_, residuals, rtol=1e-12)
    if region == "ellipsoid":
        whitening, radius = conformal_ellipsoid(residuals, 0.9)
        half = radius * np.linalg.norm(np.linalg.inv(whitening), axis=1)
        np.testing.assert_allclose(model.half_widths_, half, rtol=1e-10)
    before = everything(model)
    for bad, message in (
        (Y[:80, :2], "y has 2 outputs, but .* fitted with 3"),
        (np.full((80, 3), np.nan), "contains NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            model.calibrate(X[:80], bad)
    with pytest.raises(ValueError, match="region must be one of"):
        model.set_params(region="ball").calibrate(X[:80], Y[:80])
    assert_same(everything(model), before)


def test_a_fitted_estimator_is_cloned_with_a_warning():
    inner = Ridge().fit(X, Y)
    with pytest.warns(AlreadyFittedWarning):
        model = MultiOutputConformalRegressor(inner).fit(X, Y)
    assert model.estimator_ is not inner


def test_sample_weight_trains_and_does_not_calibrate():
    weight = np.random.default_rng(0).integers(1, 4, size=240)
    model = MultiOutputConformalRegressor(Ridge(), random_state=0)
    model.fit(X, Y, sample_weight=weight)
    train, held_out = train_test_split(np.arange(240), test_size=60, random_state=0)
    ridge = Ridge().fit(X[train], Y[train], sample_weight=weight[train])
    np.testing.assert_allclose(model.scores_, Y[held_out] - ridge.predict(X[held_out]))


@REGIONS
def test_pickle_clone_and_search(region):
    model = MultiOutputConformalRegressor(
        Ridge(), region=region, calibration_size=0.5, random_state=0
    ).fit(X, Y, mondrian_groups=GROUPS)
    results = everything(model, mondrian_groups=GROUPS)
    copy = pickle.loads(pickle.dumps(model))
    assert_same(everything(copy, mondrian_groups=GROUPS), results)
    again = clone(model).fit(X, Y, mondrian_groups=GROUPS)
    assert_same(everything(again, mondrian_groups=GROUPS), results)
    search = GridSearchCV(
        MultiOutputConformalRegressor(Ridge(), region=region, random_state=0),
        {"estimator__alpha": [1e6, 1e-3]},
        scoring=lambda fitted, rows, y: -fitted.region_volume(rows).mean(),
        cv=3,
    ).fit(X, Y)
    assert search.best_params_ == {"estimator__alpha": 1e-3}


@REGIONS
def test_skops_round_trip(region, tmp_path):
    io = pytest.importorskip("skops.io")
    model = MultiOutputConformalRegressor(Ridge(), region=region, random_state=0)
    io.dump(model.fit(X, Y), tmp_path / "model.skops")
    trusted = io.get_untrusted_types(file=tmp_path / "model.skops")
    assert all(name.startswith("uqlib.") for name in trusted)
    assert_same(
        everything(io.load(tmp_path / "model.skops", trusted)), everything(model)
    )


def test_a_learner_of_one_output_is_wrapped():
    boosting = HistGradientBoostingRegressor(max_iter=3)
    model = MultiOutputConformalRegressor(MultiOutputRegressor(boosting))
    assert model.fit(X, Y).predict_box(X).shape == (240, 3, 2)


@REGIONS
def test_equivariance(region):
    plain = MultiOutputConformalRegressor(
        LinearRegression(), region=region, random_state=0
    ).fit(X, Y)
    moved = MultiOutputConformalRegressor(
        LinearRegression(), region=region, random_state=0
    ).fit(X, Y * [8.0, 0.5, 2.0] + [1, 2, 3])
    expected = plain.predict_box(X) * np.array([8, 0.5, 2])[:, None]
    np.testing.assert_allclose(
        moved.predict_box(X), expected + np.array([1, 2, 3])[:, None], atol=1e-9
    )
    np.testing.assert_allclose(moved.region_volume(X), 8 * plain.region_volume(X))


def test_single_precision_targets():
    narrow = Y.astype(np.float32)
    assert_same(
        everything(calibrated(narrow)), everything(calibrated(narrow.astype(float)))
    )


# Bad input


def test_before_any_calibration_there_is_no_region():
    model = MultiOutputConformalRegressor(Ridge())
    for call in (
        lambda: model.predict(X),
        lambda: model.predict_box(X),
        lambda: model.contains(X, Y),
        lambda: model.region_volume(X),
        lambda: model.calibrate(X, Y),
    ):
        with pytest.raises(NotFittedError):
            call()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_targets_and_predictions(bad):
    y = Y.copy()
    y[3, 1] = bad
    with pytest.raises(ValueError, match="Input y contains"):
        MultiOutputConformalRegressor(Ridge()).fit(X, y)
    with pytest.raises(ValueError, match="Input y contains"):
        calibrated(Y).contains(X, y)
    broken = Ridge().fit(X, Y)
    broken.intercept_ = np.array([0.0, bad, 0.0])
    with pytest.raises(ValueError, match=r"predicted (NaN|infinity)"):
        MultiOutputConformalRegressor(FrozenEstimator(broken)).fit(X, Y)


def test_a_model_of_another_number_of_outputs():
    one = FrozenEstimator(Ridge().fit(X, Y[:, 0]))
    with pytest.raises(ValueError, match=r"gave predictions of shape \(240, 1\)"):
        MultiOutputConformalRegressor(one).fit(X, Y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"region": "ball"},
            r"region must be one of \['box', 'ellipsoid'\], got 'ball'",
        ),
        ({"confidence_level": 1.5}, "confidence_level must lie strictly"),
        ({"calibration_size": 1.5}, "calibration_size as a float"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        MultiOutputConformalRegressor(Ridge(), **parameters).fit(X, Y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.contains(X, Y[:, :2]), "y has 2 outputs"),
        (lambda m: m.contains(X, Y[:5]), "inconsistent numbers of samples"),
        (lambda m: m.contains(X, Y[:, :, None]), "Found array with dim 3"),
        (lambda m: m.predict_box(X, 0.0), "confidence_level must lie strictly"),
        (lambda m: m.predict_box(X[:, :1]), "X has 1 features"),
        (lambda m: m.region_volume(X, mondrian_groups=GROUPS), "without it"),
        (lambda m: m.fit(X, None), "requires y to be passed"),
        (lambda m: m.fit(X[:0], Y[:0]), "minimum of 1 is required"),
        (lambda m: m.fit(X, Y[:9]), "inconsistent numbers of samples"),
        (lambda m: m.fit(X, Y.astype("M8[D]")), "holds dates"),
    ],
)
def test_bad_calls(call, message):
    model = MultiOutputConformalRegressor(Ridge(), random_state=0).fit(X, Y)
    with pytest.raises(ValueError, match=message):
        call(model)


@REGIONS
def test_no_rows_give_no_values(region):
    model, empty = calibrated(Y, region), np.empty((0, 2))
    assert model.predict_box(empty).shape == (0, 3, 2)
    assert model.region_volume(empty).shape == (0,)


@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.parametrize("unit", [1e-200, 1e200])
@pytest.mark.parametrize("region", ["box", "ellipsoid"])
def test_the_unit_of_the_outputs_does_not_matter(region, unit, n_outputs):
    # Squares of such residuals overflow, or vanish.
    y = np.random.default_rng(0).normal(size=(60, n_outputs))
    small, large = calibrated(y, region), calibrated(y * unit, region)
    rows = np.zeros((60, 2))
    inside = small.contains(rows, y)
    assert 0.9 <= inside.mean() < 1
    np.testing.assert_array_equal(large.contains(rows, y * unit), inside)
    np.testing.assert_allclose(large.half_widths_, small.half_widths_ * unit)
