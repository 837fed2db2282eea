"""Products on a GPU: right, and the same bits every time."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from tests.kernels.cuda._on_gpu import (  # noqa: E402
    BITS,
    DEVICE,
    DTYPES,
    EMULATED,
    TOP,
    _operations,  # noqa: F401 - a fixture
    _poisoned,  # noqa: F401 - a fixture
    answer,
    assert_close,
    every_operation,
    linear,
    needs_gpu,
    of_cpu,
    on_device,
    on_gpu,
    problem,
    rows_of,
    run,
    tolerance,
)

pytestmark = on_gpu
ROWS = (1, 3, 8, 16, 17, 64, 200, 512)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


# ---------------------------------------------------------------------------
# Products.


@every_operation
@every_dtype
@pytest.mark.parametrize("n_rows", ROWS)
def test_products_of_all_numbers_of_rows(name, dtype, n_rows):
    own = problem(BITS[name], 80, 512, 128)
    x = rows_of(n_rows, 512, dtype)
    y = run(name, x, own, own.bias)
    assert y.dtype == dtype
    expected = answer(name, x, own, own.bias)
    assert_close(y, expected, tolerance(name, x))


SHAPES = [
    (1, 1, 1),
    (16, 64, 64),
    (37, 130, 32),
    (50, 200, 100),
    (33, 96, 64),
    (129, 1000, 1000),
    (260, 2048, 128),
    (16, 40000, 40000),
]


@every_operation
@pytest.mark.parametrize(("n_out", "n_in", "group"), SHAPES)
@pytest.mark.parametrize("n_rows", [1, 5, 33, 300])
def test_products_of_ragged_shapes(name, n_out, n_in, group, n_rows):
    own = problem(BITS[name], n_out, n_in, group)
    for dtype in (torch.bfloat16, torch.float32):
        x = rows_of(n_rows, n_in, dtype)
        expected = answer(name, x, own)
        assert_close(run(name, x, own), expected, tolerance(name, x))


KINDS = [
    *((name, zero) for name in BITS for zero in ("half", "groups", "fractions")),
    ("linear_w4a32", "codebook"),
]


@pytest.mark.parametrize(("name", "zero"), KINDS)
@pytest.mark.parametrize("n_rows", [1, 16, 40, 280])
@pytest.mark.parametrize("group", [64, 384])
def test_zero_points_and_codebooks(name, zero, n_rows, group):
    own = problem(BITS[name], 48, 384, group, zero)
    for dtype in DTYPES:
        x = rows_of(n_rows, 384, dtype)
        expected = answer(name, x, own, own.bias)
        y = run(name, x, own, own.bias)
        assert_close(y, expected, tolerance(name, x))


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@pytest.mark.parametrize("n_rows", [2, 30, 400])
def test_floats_of_every_number_of_bits(bits, n_rows):
    own = problem(bits, 70, 320, 64)
    for dtype in DTYPES:
        x = rows_of(n_rows, 320, dtype)
        y = run("linear_dequantized", x, own)
        expected = answer("linear_dequantized", x, own)
        assert_close(y, expected, tolerance("linear_dequantized", x))


@pytest.mark.parametrize("name", TOP)
@pytest.mark.parametrize("n_rows", [1, 16, 70, 300])
def test_integers_are_those_of_the_cpu(name, n_rows):
    for group, zero in ((128, "middle"), (640, "half"), (32, "groups")):
        own = problem(BITS[name], 96, 640, group, zero)
        x = rows_of(n_rows, 640, torch.float32, seed=1)
        expected = of_cpu(name, x, own, own.bias)
        y = run(name, x, own, own.bias)
        assert_close(y, expected.double().numpy(), 2e-6)


ROUNDINGS = [(1, None), (7, None), (127, None), (127, 0.03), (31, 1.0), (127, 1e-3)]


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@pytest.mark.parametrize(("top", "static_scale"), ROUNDINGS)
def test_rows_are_rounded_as_is_asked_for(bits, top, static_scale):
    rounding = {"top": top, "static_scale": static_scale}
    for group, zero in ((128, "middle"), (192, "fractions")):
        own = problem(bits, 50, 192, group, zero)
        for n_rows in (1, 16, 50, 280):
            for dtype in DTYPES:
                x = rows_of(n_rows, 192, dtype)
                y = run("linear_integer", x, own, own.bias, **rounding)
                expected = answer("linear_integer", x, own, own.bias, **rounding)
                assert_close(y, expected, tolerance("linear_integer", x))
        x = rows_of(40, 192, torch.float32)
        x[3] *= 1e30  # more than any code
        y = run("linear_integer", x, own, **rounding)
        expected = of_cpu("linear_integer", x, own, **rounding).double().numpy()
        assert_close(y, expected, 2e-6)


@every_operation
@pytest.mark.parametrize("n_rows", [2, 20, 300])
def test_rows_that_are_not_finite_spoil_no_others(name, n_rows):
    own = problem(BITS[name], 40, 256, 64)
    for bad in (float("nan"), float("inf"), -float("inf")):
        x = rows_of(n_rows, 256, torch.float32)
        x[0, 77] = bad
        y = run(name, x, own).cpu()
        if name in TOP:
            assert y[0].isnan().all()
        else:
            assert not y[0].isfinite().any()
        x[0] = 0
        assert_close(y[1:], answer(name, x, own)[1:], tolerance(name, x))


@every_operation
def test_leading_dimensions_and_strides(name):
    own = problem(BITS[name], 35, 96, 32)
    flat = rows_of(12, 96, torch.bfloat16).to(DEVICE)
    plain = run(name, flat, own)
    assert torch.equal(run(name, flat.reshape(3, 4, 96), own), plain.reshape(3, 4, 35))
    assert torch.equal(run(name, flat[5], own), run(name, flat[5:6], own)[0])
    turned = flat.t().contiguous().t()
    assert torch.equal(run(name, turned, own), plain)
    wide = torch.cat([flat, flat], dim=1)
    assert torch.equal(run(name, wide[:, 96:], own), plain)
    shifted = torch.cat([flat.flatten()[:1], flat.flatten()])[1:].reshape(12, 96)
    assert torch.equal(run(name, shifted, own), plain)
    assert torch.equal(run(name, flat[::2], own), run(name, flat[::2].clone(), own))


@every_operation
@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_no_rows(name, shape):
    own = problem(BITS[name], 35, 96, 32)
    for dtype in DTYPES:
        x = torch.empty(*shape, 96, dtype=dtype)
        y = run(name, x, own, own.bias)
        assert (y.shape, y.dtype) == ((*shape, 35), dtype)


@every_operation
def test_double_precision_is_taken(name):
    own = problem(BITS[name], 35, 96, 32)
    x = rows_of(6, 96, torch.float32)
    y = run(name, x.double(), own, own.bias)
    assert y.dtype == torch.float64
    assert_close(y, answer(name, x, own, own.bias), tolerance(name, x))


# ---------------------------------------------------------------------------
# The same bits, whenever and wherever.


@every_operation
@pytest.mark.parametrize("n_rows", [1, 16, 60, 256])
def test_the_same_bits_every_time(name, n_rows):
    own = problem(BITS[name], 512, 4096, 128)
    weight = on_device(own.packed)
    x = rows_of(n_rows, 4096, torch.bfloat16).to(DEVICE)
    first = linear(name, x, weight)
    for _ in range(2 if EMULATED else 20):
        assert torch.equal(linear(name, x, weight), first)


@needs_gpu
@every_operation
@pytest.mark.parametrize("n_rows", [1, 40, 300])
def test_other_streams(name, n_rows):
    own = problem(BITS[name], 128, 512, 128)
    weight = on_device(own.packed)
    source = rows_of(n_rows, 512, torch.bfloat16).to(DEVICE)
    expected = linear(name, source, weight)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        x = torch.full_like(source, float("nan"))
        # On any other stream a kernel would not wait for this, and read NaN.
        torch.cuda._sleep(20_000_000)
        x.copy_(source)
        y = linear(name, x, weight)
    stream.synchronize()
    assert torch.equal(y, expected)


@needs_gpu
@every_operation
@pytest.mark.parametrize("n_rows", [1, 40, 300])
def test_graphs_are_captured_and_replayed(name, n_rows):
    own = problem(BITS[name], 128, 512, 128)
    weight = on_device(own.packed)
    x = rows_of(n_rows, 512, torch.bfloat16).to(DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        linear(name, x, weight)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = linear(name, x, weight)
    for seed in (1, 2):
        other = rows_of(n_rows, 512, torch.bfloat16, seed).to(DEVICE)
        x.copy_(other)
        y.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(y, linear(name, other, weight))
