"""Twins of row kernels against those of the CPU."""

import os

import numpy as np
import pytest

from uqlib_kernels import rows, sets, triton_twins

torch = pytest.importorskip("torch")

INF, NAN = np.inf, np.nan
both_types = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def quantiles(n_levels, dtype, seed=0):
    """Rows that cross here and there, with ties and infinities; some are in order."""
    rng = np.random.default_rng(seed)
    q = np.round(np.arange(n_levels) / 2 + rng.normal(size=(9, n_levels)), 1)
    q[:2] = np.sort(q[:2], axis=1)
    q[2] = 1.5
    q[3] = np.where(np.arange(n_levels) % 2, -0.0, 0.0)
    q[4, 0], q[5, -1] = -INF, INF
    return q.astype(dtype)


def bits(array):
    return array.view(np.uint8).tolist()


# ---------------------------------------------------------------------------
# Sorting.


@both_types
@pytest.mark.parametrize("n_levels", [1, 2, 8, 19])
def test_rows_are_sorted(twins, n_levels, dtype):
    q = quantiles(n_levels, dtype)
    given = torch.from_numpy(q.copy())
    found = twins.sort_rows(given).numpy()
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, rows.sort_rows(q))
    in_order = (np.diff(q) >= 0).all(axis=1)
    assert bits(found[in_order]) == bits(q[in_order])


@pytest.mark.parametrize("n_levels", [1, 5])
def test_nan_cannot_be_sorted(twins, n_levels):
    q = torch.zeros(3, n_levels)
    q[1, -1] = NAN
    with pytest.raises(ValueError, match="q contains NaN"):
        twins.sort_rows(q)


# ---------------------------------------------------------------------------
# Isotonic projection.


@both_types
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("n_levels", [1, 2, 7, 19])
def test_rows_are_projected(twins, n_levels, is_weighted, dtype):
    q = quantiles(n_levels, dtype, seed=1)
    weight = np.random.default_rng(2).random(n_levels) + 0.1 if is_weighted else None
    given = None if weight is None else torch.from_numpy(weight)
    found = twins.isotonic_rows(torch.from_numpy(q), given).numpy()
    assert found.dtype == dtype
    rtol = 100 * np.finfo(dtype).eps
    np.testing.assert_allclose(
        found, rows.isotonic_rows(q, weight), rtol=rtol, atol=rtol
    )
    assert (found[:, 1:] >= found[:, :-1]).all()
    in_order = (np.diff(q) >= 0).all(axis=1)
    assert bits(found[in_order]) == bits(q[in_order])


def test_a_projection_equals_the_minimax_formula(twins):
    q = np.random.default_rng(3).normal(size=(6, 8))
    expected = [
        [
            max(min(row[i : j + 1].mean() for j in range(k, 8)) for i in range(k + 1))
            for k in range(8)
        ]
        for row in q
    ]
    found = twins.isotonic_rows(torch.from_numpy(q))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-13)


def test_infinities_that_are_pooled(twins):
    q = [[INF, -INF, 0, 1], [-INF, INF, 0, 1], [3, NAN, 1, 2], [1, 3, -INF, 2]]
    q = np.array(q, dtype=np.float64)
    expected = rows.isotonic_rows(q)
    found = twins.isotonic_rows(torch.from_numpy(q)).numpy()
    has_nan = np.isnan(expected).any(axis=1)
    assert has_nan.tolist() == [True, False, True, False]
    np.testing.assert_array_equal(np.isnan(found).any(axis=1), has_nan)
    np.testing.assert_array_equal(found[~has_nan], expected[~has_nan])


def test_huge_values_do_not_overflow(twins):
    q = torch.tensor([[1.5e308, 1.0e308, 0.5e308]], dtype=torch.float64)
    np.testing.assert_allclose(twins.isotonic_rows(q).numpy(), 1.0e308, rtol=1e-15)


# ---------------------------------------------------------------------------
# Sets.


def probabilities(kind, n_classes):
    rng = np.random.default_rng(n_classes)
    if kind == "counts":  # ties and zeros
        return rng.multinomial(9, np.full(n_classes, 1 / n_classes), 6) / 9
    logits = float(kind) * rng.normal(size=(6, n_classes))
    proba = np.exp(logits - logits.max(axis=1, keepdims=True))
    return proba / proba.sum(axis=1, keepdims=True)


@both_types
@pytest.mark.parametrize("n_classes", [1, 2, 9])
@pytest.mark.parametrize("kind", ["counts", "1", "300"])
def test_sets_are_the_same(twins, kind, n_classes, dtype):
    proba = probabilities(kind, n_classes).astype(dtype)
    rng = np.random.default_rng(4)
    before, n_before = sets.label_masses(proba, np.zeros(6, dtype=np.intp))
    own = (proba[:, 0].astype(np.float64) + 1.0) - 1.0
    for u, k_reg, penalty in (
        (np.ones(6), 0, 0.0),
        (np.zeros(6), 0, 3.0),
        (rng.random(6), 2, 0.01),
    ):
        # On the score of a label, which is in then.
        excess = np.maximum(0.0, n_before + 1.0 - k_reg)
        threshold = before + u * own + penalty * excess
        threshold[:4] = [INF, -INF, NAN, 0.5]
        given = proba, threshold, u
        tensors = map(torch.from_numpy, given)
        found = twins.mass_sets(*tensors, k_reg, penalty)
        assert found.dtype == torch.bool
        expected = sets.mass_sets(*given, k_reg, penalty)
        np.testing.assert_array_equal(found.numpy(), expected)
        assert found[4:, 0].all()


# ---------------------------------------------------------------------------
# All of them.


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_matrices_may_be_empty(twins, shape):
    q, n_rows = torch.empty(shape), torch.empty(shape[0])
    assert twins.sort_rows(q).shape == shape
    assert twins.isotonic_rows(q).shape == shape
    assert twins.mass_sets(q, n_rows, n_rows).shape == shape


def test_strides_do_not_matter(twins):
    q = torch.from_numpy(quantiles(7, np.float64, seed=5))
    strided = q.T.contiguous().T
    assert not strided.is_contiguous()
    assert torch.equal(twins.sort_rows(strided), twins.sort_rows(q))
    assert torch.equal(twins.isotonic_rows(strided), twins.isotonic_rows(q))


ONES = torch.ones(3)


@pytest.mark.parametrize(
    "wrong", [ONES, torch.ones(2, 3).half(), torch.ones(2, 3).int()]
)
def test_only_matrices_of_floats_are_taken(twins, wrong):
    with pytest.raises(
        TypeError, match=r"q must be a 2-D tensor of float32 or float64"
    ):
        twins.sort_rows(wrong)
    with pytest.raises(TypeError, match="q must be"):
        twins.isotonic_rows(wrong)
    with pytest.raises(TypeError, match="proba must be"):
        twins.mass_sets(wrong, ONES, ONES)


def test_vectors_must_fit(twins):
    q = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"level_weight must have shape \(2,\)"):
        twins.isotonic_rows(q, ONES)
    with pytest.raises(ValueError, match=r"threshold must have shape \(3,\)"):
        twins.mass_sets(q, torch.ones(2), ONES)
    with pytest.raises(ValueError, match=r"u must have shape \(3,\)"):
        twins.mass_sets(q, ONES, torch.ones(3, 1))


def test_a_compiled_kernel_refuses_the_cpu():
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET"):
        pytest.skip("TRITON_INTERPRET is set")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        triton_twins.sort_rows(torch.ones(2, 2))
