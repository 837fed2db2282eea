"""Random quantile rows, and both paths of the row operations, for the tests."""

from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import isotonic_regression

from uqlib._core import kernels
from uqlib.quantile import isotonic_quantiles, sort_quantiles

try:
    import uqlib_kernels.rows
except ImportError:  # the NumPy path must work without
    uqlib_kernels = None

needs_kernels = pytest.mark.skipif(
    uqlib_kernels is None, reason="uqlib_kernels cannot be imported"
)
both_paths = pytest.mark.parametrize(
    "path", ["numpy", pytest.param("kernels", marks=needs_kernels)]
)
both_repairs = pytest.mark.parametrize("repair", [sort_quantiles, isotonic_quantiles])

N_ROWS = 20_000
M = 9
RNG = np.random.default_rng(20)
LEVELS = np.sort(RNG.choice(np.arange(1, 1000), M, replace=False)) / 1000
LEVEL_WEIGHT = RNG.uniform(0.05, 3.0, M)


@contextmanager
def using(path):
    """Send everything through the compiled row kernels, or nothing."""
    with pytest.MonkeyPatch.context() as patch:
        size = 0 if path == "kernels" else 2**62
        patch.setattr(kernels, "KERNEL_MIN_SIZE", size)
        assert (kernels.row_kernels(10**9) is None) == (path == "numpy")
        yield


def random_rows(kind, n_rows=N_ROWS, m=M, seed=0):
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(n_rows, m))
    return {
        "normal": normal,
        "ties": np.round(normal),
        "heavy": normal / rng.random((n_rows, 1)) ** 3,
        "almost_sorted": np.sort(normal, axis=1) + 0.05 * rng.normal(size=(n_rows, m)),
        "offset": normal + 1e6,
    }[kind]


batches = pytest.mark.parametrize(
    "kind", ["normal", "ties", "heavy", "almost_sorted", "offset"]
)


def row_losses(y, q, level_weight=1.0):
    """Pinball loss of each row, summed over the levels."""
    error = y[:, None] - q
    return (level_weight * np.maximum(LEVELS * error, (LEVELS - 1) * error)).sum(axis=1)


def targets(q, seed=1):
    """Targets inside and outside of the rows, some exactly on a quantile."""
    rng = np.random.default_rng(seed)
    y = q.mean(axis=1) + q.std(axis=1) * rng.standard_t(2, q.shape[0])
    on_a_quantile = rng.random(q.shape[0]) < 0.2
    y[on_a_quantile] = q[on_a_quantile, rng.integers(q.shape[1])]
    return y


def tolerance(y, q):
    """Rounding of a row's loss: 1e-12 of the largest number in it."""
    return 1e-12 * np.maximum(np.abs(y), np.abs(q).max(axis=1)) * q.shape[1]


def bits(array):
    """Integers that tell -0.0 from 0.0."""
    return np.ascontiguousarray(array).view(np.dtype(f"u{array.itemsize}"))


def scipy_rows(q, weight=None):
    return np.stack([isotonic_regression(row, weights=weight).x for row in q])


def finite_rows(dtype=np.float64, min_rows=0):
    shapes = st.tuples(st.integers(min_rows, 6), st.integers(1, 8))
    width = 8 * np.dtype(dtype).itemsize
    elements = st.one_of(
        st.integers(-3, 3).map(float), st.floats(-1e6, 1e6, width=width)
    )
    return hnp.arrays(dtype, shapes, elements=elements)
