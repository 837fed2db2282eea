"""Rows of quantiles and prediction sets on a GPU: the bits of the CPU."""

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from tests.kernels.cuda._on_gpu import (  # noqa: E402
    DEVICE,
    ERRORS,
    PLACE,
    _operations,  # noqa: F401 - a fixture
    _poisoned,  # noqa: F401 - a fixture
    needs_gpu,
    on_gpu,
)

pytestmark = on_gpu
LEVELS = (1, 2, 7, 19, 24, 25, 33, 100, 257)


@pytest.fixture
def cpu():
    """The row kernels of the CPU, which are the reference."""
    from uqlib_kernels import rows, sets

    return SimpleNamespace(rows=rows, sets=sets)


def bits(array):
    return np.ascontiguousarray(array).view(f"u{array.itemsize}")


def quantiles(n_rows, n_levels, dtype, seed=0):
    """Rows that cross or not, with ties, both zeros, and infinities."""
    rng = np.random.default_rng([seed, n_rows, n_levels])
    q = rng.normal(size=(n_rows, n_levels)).astype(dtype)
    third = n_rows // 3
    q[:third].sort(axis=1)
    q[third : 2 * third] = np.round(q[third : 2 * third])
    q[third : 2 * third] *= rng.choice([-1, 1], size=(third, n_levels)).astype(dtype)
    q[-1, 0] = np.inf
    q[-2, -1] = -np.inf
    return q


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_levels", LEVELS)
def test_sorted_rows(operations, cpu, dtype, n_levels):
    for n_rows in (2, 1000):
        q = quantiles(n_rows, n_levels, dtype)
        found = operations.sort_rows(torch.from_numpy(q).to(DEVICE))
        expected = cpu.rows.sort_rows(q)
        np.testing.assert_array_equal(found.cpu().numpy(), expected)
        # Zeros of both signs are equal: only rows that are sorted keep their order.
        monotone = (np.diff(q, axis=1) >= 0).all(axis=1)
        kept = found.cpu().numpy()[monotone]
        np.testing.assert_array_equal(bits(kept), bits(q[monotone]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("n_levels", LEVELS)
def test_rows_with_nan(operations, dtype, n_levels):
    q = torch.from_numpy(quantiles(50, n_levels, np.float64)).to(dtype)
    bad = torch.arange(0, 50, 7)
    q[bad, bad % n_levels] = float("nan")
    if PLACE == "cpu":
        with pytest.raises(ERRORS, match="NaN"):
            operations.sort_rows(q)
    else:
        found = operations.sort_rows(q.to(DEVICE)).cpu()
        good = torch.ones(50, dtype=torch.bool)
        good[bad] = False
        assert found.dtype == dtype
        assert found[bad].isnan().all()
        assert torch.equal(found[good], q[good].sort(dim=1).values)
    found = operations.isotonic_rows(q.to(DEVICE), None).cpu()
    assert found[bad].isnan().any(dim=1).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_levels", LEVELS)
@pytest.mark.parametrize("weighted", [False, True])
def test_isotonic_rows(operations, cpu, dtype, n_levels, weighted):
    rng = np.random.default_rng(n_levels)
    weight = rng.random(n_levels) + 0.1 if weighted else None
    for n_rows in (2, 1000):
        q = quantiles(n_rows, n_levels, dtype)
        given = None if weight is None else torch.from_numpy(weight).to(DEVICE)
        tensor = torch.from_numpy(q).to(DEVICE)
        found = operations.isotonic_rows(tensor, given).cpu().numpy()
        expected = cpu.rows.isotonic_rows(q, weight)
        nan = np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(found), nan)
        np.testing.assert_array_equal(bits(found)[~nan], bits(expected)[~nan])
        assert np.array_equal(tensor.cpu().numpy(), q)


@pytest.mark.parametrize("n_classes", [1, 2, 10, 100, 1000, 3001])
@pytest.mark.parametrize(("k_reg", "penalty"), [(0, 0.0), (3, 0.02)])
def test_prediction_sets(operations, cpu, n_classes, k_reg, penalty):
    rng = np.random.default_rng(n_classes)
    for dtype in (np.float32, np.float64):
        proba = rng.dirichlet(np.full(n_classes, 0.3), 300).astype(dtype)
        proba[:100] = np.round(proba[:100], 2)  # ties, and zeros
        threshold = rng.random(300) * 1.2
        threshold[:2] = np.inf, -np.inf
        u = rng.random(300)
        tensors = [torch.from_numpy(a).to(DEVICE) for a in (proba, threshold, u)]
        found = operations.mass_sets(*tensors, k_reg, penalty)
        expected = cpu.sets.mass_sets(proba, threshold, u, k_reg, penalty)
        assert found.dtype == torch.bool
        np.testing.assert_array_equal(found.cpu().numpy(), expected)


def test_rows_of_any_strides_and_none(operations):
    q = torch.from_numpy(quantiles(60, 19, np.float32)).to(DEVICE)
    turned = q.t().contiguous().t()
    assert torch.equal(operations.sort_rows(turned), operations.sort_rows(q))
    assert torch.equal(
        operations.isotonic_rows(q[:-2][::2], None),
        operations.isotonic_rows(q[:-2], None)[::2],
    )
    nothing = q[:0]
    assert operations.sort_rows(nothing).shape == (0, 19)
    assert operations.isotonic_rows(nothing, None).shape == (0, 19)
    limits = torch.empty(0, dtype=torch.float64, device=DEVICE)
    assert operations.mass_sets(nothing, limits, limits, 0, 0.0).shape == (0, 19)


def test_errors_of_rows(operations):
    q = torch.rand(5, 4, device=DEVICE)
    weight = torch.ones(4, dtype=torch.float64, device=DEVICE)
    u = torch.rand(5, dtype=torch.float64, device=DEVICE)
    wrong = [
        lambda: operations.sort_rows(q[0]),
        lambda: operations.sort_rows(q.int()),
        lambda: operations.isotonic_rows(q, weight[:3]),
        lambda: operations.mass_sets(q, u[:3], u, 0, 0.0),
        lambda: operations.mass_sets(q, u, u[:3], 0, 0.0),
    ]
    for call in wrong:
        with pytest.raises(ERRORS):
            call()


@needs_gpu
def test_rows_on_other_streams_and_in_graphs(operations):
    source = torch.from_numpy(quantiles(5000, 19, np.float32)).to(DEVICE)
    expected = operations.isotonic_rows(source, None)
    x = torch.full_like(source, float("nan"))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        x.copy_(source)
        y = operations.isotonic_rows(x, None)
    stream.synchronize()
    # As integers: a pool of both infinities is NaN.
    assert torch.equal(y.view(torch.int32), expected.view(torch.int32))
    # A kernel is loaded at its first call, which no graph may hold.
    expected = operations.sort_rows(source)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = operations.sort_rows(x)
    y.zero_()
    graph.replay()
    assert torch.equal(y, expected)


@pytest.mark.filterwarnings("default")
def test_opcheck_of_rows(operations):
    q = torch.randn(20, 7).to(DEVICE)
    weight = torch.rand(7, dtype=torch.float64).to(DEVICE) + 0.5
    proba, u = q.softmax(dim=1), torch.rand(20, dtype=torch.float64).to(DEVICE)
    torch.library.opcheck(operations.sort_rows.default, (q,))
    torch.library.opcheck(operations.isotonic_rows.default, (q, None))
    torch.library.opcheck(operations.isotonic_rows.default, (q, weight))
    arguments = (proba, u.clone(), u, 1, 0.1)
    torch.library.opcheck(operations.mass_sets.default, arguments)
