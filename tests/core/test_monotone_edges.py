"""Sorting and isotonic projection: infinities, shapes, containers, bad input."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.core._rows import (
    both_paths,
    both_repairs,
    random_rows,
    using,
)
from uqlib._core.levels import check_quantiles
from uqlib._core.monotone import bracket, check_level_weight, interpolate_level
from uqlib.quantile import crossing_rate, isotonic_quantiles, sort_quantiles

# -------------------------------------------------------------------- infinities


@both_paths
def test_sorting_takes_infinities(path):
    q = [[np.inf, 1.0, -np.inf], [2.0, -np.inf, 1.0], [np.inf, np.inf, 0.0]]
    with using(path):
        assert np.array_equal(sort_quantiles(q), np.sort(q, axis=1))


@both_paths
def test_a_block_with_one_kind_of_infinity_is_infinite(path):
    # The limit of the projections as the infinite value grows.
    inf = np.inf
    q = [[inf, 1.0, 2.0], [2.0, 1.0, -inf], [0.0, inf, 1.0], [-inf, 3.0, 1.0]]
    expected = [[inf] * 3, [-inf] * 3, [0.0, inf, inf], [-inf, 2.0, 2.0]]
    with using(path):
        assert np.array_equal(isotonic_quantiles(q), expected)


@both_paths
@given(
    q=hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 3), st.integers(1, 6)),
        elements=st.sampled_from([-np.inf, -1.0, 0.0, 2.0, np.inf]),
    )
)
def test_isotonic_refuses_exactly_the_rows_without_projection(path, q):
    falls = [
        any(a == np.inf and np.any(row[k:] == -np.inf) for k, a in enumerate(row))
        for row in q
    ]
    with using(path):
        if any(falls):
            message = (
                f"y_quantiles falls from +inf to -inf in row {falls.index(True)}: it "
                "has no isotonic projection. Use sort_quantiles for such rows."
            )
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                isotonic_quantiles(q)
        else:
            fitted = isotonic_quantiles(q)
            assert not np.isnan(fitted).any()
            assert crossing_rate(fitted) == 0.0


@both_paths
def test_weights_of_any_magnitude_give_the_same_projection(path):
    q = [[1.0, 3.0, 2.0]]
    with using(path):
        for magnitude in (1e-300, 1.0, 1e308):
            fitted = isotonic_quantiles(q, [magnitude] * 3)
            assert fitted == pytest.approx(np.array([[1.0, 2.5, 2.5]]), rel=1e-12)


@both_paths
def test_values_of_any_magnitude_have_a_finite_projection(path):
    q = np.array([[1.0, 1.2, 1.0]])
    with using(path):
        for magnitude in (1e-300, 1.0, 1e308):
            fitted = isotonic_quantiles(q * magnitude) / magnitude
            assert fitted == pytest.approx(np.array([[1.0, 1.1, 1.1]]), rel=1e-12)


# --------------------------------------------------------- shapes and containers


@both_paths
def test_no_rows(path):
    with using(path):
        for repair in (sort_quantiles, isotonic_quantiles):
            assert repair(np.empty((0, 3))).shape == (0, 3)


@both_paths
@both_repairs
def test_one_level_is_never_repaired(path, repair):
    q = np.array([[3.0], [-np.inf], [1.0]])
    with using(path):
        assert np.array_equal(repair(q), q)
        assert crossing_rate(q) == 0.0


@both_paths
@both_repairs
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_strides_do_not_matter(path, repair, dtype):
    q = random_rows("normal", n_rows=60).astype(dtype)
    with using(path):
        expected = repair(q)
        wide = np.repeat(np.repeat(q, 2, axis=0), 3, axis=1)
        for view in (
            np.asfortranarray(q),
            wide[::2, ::3],
            np.ascontiguousarray(q[::-1, ::-1])[::-1, ::-1],
        ):
            assert np.array_equal(repair(view), expected)
            assert crossing_rate(view) == crossing_rate(q)


@both_paths
@both_repairs
@pytest.mark.parametrize("dtype", [np.int64, np.float16, ">f8", ">f4", object])
def test_other_dtypes_become_float64(path, repair, dtype):
    with using(path):
        fitted = repair(np.array([[1, 3, 2]], dtype=dtype))
    assert fitted.dtype == np.float64
    assert np.array_equal(fitted, repair([[1.0, 3.0, 2.0]]))


@both_repairs
def test_frames_are_taken(repair, df_module):
    frame = df_module.make_dataframe({"q0.1": [1.0, 5.0], "q0.9": [0.0, 6.0]})
    expected = repair([[1.0, 0.0], [5.0, 6.0]])
    assert np.array_equal(repair(frame), expected)
    assert crossing_rate(frame) == 0.5


# --------------------------------------------------------------------- bad input

functions = pytest.mark.parametrize(
    "function", [sort_quantiles, isotonic_quantiles, crossing_rate]
)


@both_paths
@functions
def test_nan_is_refused(path, function):
    message = (
        "y_quantiles contains NaN. Remove or impute those rows; infinite values are "
        "legal, NaN is not."
    )
    for row in ([1.0, np.nan], [np.nan, np.inf], [-np.inf, np.nan]):
        with using(path), pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            function([[0.0, 1.0], row])


@functions
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 1), (3, 0)])
def test_wrong_shapes_are_refused(function, shape):
    message = (
        "y_quantiles must have shape (n_samples, n_quantiles) with at least one "
        f"column, got shape {shape}. Reshape one row with "
        "y_quantiles.reshape(1, -1) and one level with y_quantiles.reshape(-1, 1)."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        function(np.zeros(shape))


def test_crossing_rate_of_no_rows():
    message = "y_quantiles has no rows: the share of them is undefined."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        crossing_rate(np.empty((0, 3)))


@pytest.mark.parametrize("weight", [[1.0], [[1.0, 1.0]], 1.0, np.ones(3)])
def test_level_weight_of_a_wrong_shape(weight):
    message = (
        "level_weight must have shape (2,), one weight a level, got shape "
        f"{np.shape(weight)}."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        isotonic_quantiles([[1.0, 0.0]], level_weight=weight)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_level_weight_out_of_range(bad):
    message = (
        f"level_weight must be positive and finite, got {[1.0, bad]}. Drop a level "
        "instead of giving it weight 0."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        isotonic_quantiles([[1.0, 0.0]], level_weight=[1.0, bad])
    assert check_level_weight(None, 2) is None


# ----------------------------------------------------------- levels in between


def test_interpolation_is_linear_between_the_neighbors():
    levels = check_quantiles([0.1, 0.4, 0.8])
    q = np.array([[0.0, 3.0, 11.0], [5.0, 5.0, 5.0]])
    assert interpolate_level(q, levels, 0.5) == pytest.approx([5.0, 5.0])
    assert np.array_equal(interpolate_level(q, levels, 0.4), q[:, 1])
    # A level that was computed in another way is the same level.
    assert bracket(levels, 1 - 0.6) == (1, 1)
    assert bracket(levels, 0.2) == (0, 1)


def test_interpolation_keeps_infinities():
    levels = np.array([0.4, 0.6])
    q = np.array([[-np.inf, 1.0], [1.0, np.inf], [np.inf, np.inf], [-np.inf, -np.inf]])
    expected = [-np.inf, np.inf, np.inf, -np.inf]
    assert np.array_equal(interpolate_level(q, levels, 0.5), expected)
    message = (
        "The quantiles around level 0.5 are -inf and +inf, so that nothing lies "
        "between them. Add the level 0.5 to quantiles."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        interpolate_level(np.array([[-np.inf, np.inf]]), levels, 0.5)


@pytest.mark.parametrize("level", [0.05, 0.95])
def test_nothing_is_extrapolated(level):
    message = (
        f"quantiles=[0.1, 0.9] do not bracket the level {level:g}, so there is nothing "
        "to interpolate. Add the level, or one on each side."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        bracket(np.array([0.1, 0.9]), level)
