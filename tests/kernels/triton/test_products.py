"""Twins of products against exact sums of the dequantized weight, and the CPU."""

import numpy as np
import pytest

from tests.kernels.cuda._emulated import input_order, placed
from uqlib_kernels import _packed, ops
from uqlib_kernels import triton_twins as here
from uqlib_kernels._quantize_rows import quantize_rows
from uqlib_kernels.pack import (
    dequantized,
    pack_codebook,
    pack_w1,
    pack_w2,
    pack_w4,
    pack_w8,
)

torch = pytest.importorskip("torch")

N_OUT, N_IN = 19, 70
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(N_OUT, N_IN))
BIAS = torch.from_numpy(RNG.normal(size=N_OUT))
PACK = {8: pack_w8, 4: pack_w4, 2: pack_w2, 1: pack_w1}
INTEGER = {
    8: ops.linear_w8a8,
    4: ops.linear_w4a8,
    2: ops.linear_w2a8,
    1: ops.linear_w1,
}
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}

every_bits = pytest.mark.parametrize("bits", PACK)
every_type = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def rows_of(n_rows, dtype=torch.float32, n_in=N_IN):
    rng = np.random.default_rng(n_rows)
    return torch.from_numpy(rng.normal(size=(n_rows, n_in))).to(dtype)


def with_zeros(bits, zero_point, group_size=32, scale=0.25):
    """A weight of random codes."""
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 2**bits, (N_OUT, N_IN))
    return PACK[bits](codes, group_size, scale=scale, zero_point=zero_point)


def uneven(bits):
    """Zero points that differ from group to group, with fractions."""
    return np.random.default_rng(bits).random((N_OUT, -(-N_IN // 32))) * 2**bits


def assert_close(found, x, packed, bias=None):
    """Within a part of the sum of absolute terms."""
    rows, weight = x.double().numpy(), dequantized(packed).astype(np.float64)
    bias = np.zeros(packed.n_out) if bias is None else bias.double().numpy()
    error = np.abs(found.double().numpy() - (rows @ weight.T + bias))
    terms = np.abs(rows) @ np.abs(weight).T + np.abs(bias)
    assert (error <= TOLERANCE[x.dtype] * terms).all()
    assert found.dtype == x.dtype


def assert_linear(twins, x, packed, bias=None):
    found = twins.linear(x, here.arranged_tensors(packed), bias)
    assert_close(found, x, packed, bias)


# ---------------------------------------------------------------------------
# Products of floats.


@every_type
@every_bits
def test_linear(twins, bits, dtype):
    assert_linear(twins, rows_of(3, dtype), PACK[bits](WEIGHT, 32), BIAS)


@every_bits
@pytest.mark.parametrize("group_size", [20, 64, None])
def test_linear_in_groups(twins, bits, group_size):
    assert_linear(twins, rows_of(2), PACK[bits](WEIGHT, group_size))


@every_bits
@pytest.mark.parametrize("zero_point", [0, 0.5, 1.3])
def test_linear_with_one_zero_point(twins, bits, zero_point):
    assert_linear(twins, rows_of(2, torch.float16), with_zeros(bits, zero_point))


@every_bits
def test_linear_with_many_zero_points(twins, bits):
    assert_linear(twins, rows_of(2), with_zeros(bits, uneven(bits)), BIAS)


@every_type
def test_linear_with_a_codebook(twins, dtype):
    packed = pack_codebook(WEIGHT, np.linspace(-1, 1, 11) ** 3, 32)
    assert_linear(twins, rows_of(3, dtype), packed, BIAS)


@pytest.mark.parametrize("n_rows", [0, 1, 17])
def test_linear_with_any_number_of_rows(twins, n_rows):
    assert_linear(twins, rows_of(n_rows), pack_w4(WEIGHT, 64), BIAS)


# Groups that are too long for exact sums are split: short ones, with a smaller limit.
@pytest.fixture
def split(monkeypatch):
    monkeypatch.setattr(_packed, "MAX_GROUP", 64)
    packed = pack_w4(RNG.normal(size=(3, 300)), 140)
    assert here.arranged_tensors(packed).columns.parts == 3
    return packed


def test_groups_that_are_split(twins, split):
    x = rows_of(2, n_in=300)
    assert_linear(twins, x, split)
    found = twins.integer_linear(x, here.arranged_tensors(split))
    expected = ops.linear_w4a8(x.numpy(), split)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------
# Rows of bytes.


@every_bits
@pytest.mark.parametrize("top", [127, 31])
def test_rows_are_rounded(twins, bits, top):
    packed = PACK[bits](WEIGHT, 32)
    x = rows_of(6)
    x[1], x[2, 3], x[3, -1], x[4, 0] = 0.0, float("nan"), -float("inf"), 1e-44
    # Ties after a division by 61, which its reciprocal breaks.
    x[5] = (61 * (torch.arange(N_IN) + 0.5)).clamp(max=61 * top)
    x[5, 0] = -61 * top
    codes, sums, row_scale = twins.quantize_rows(x, here.arranged_tensors(packed), top)
    expected = quantize_rows(x.numpy(), packed, top)
    in_place = placed(expected[0][:, packed.columns], packed)
    np.testing.assert_array_equal(codes.numpy(), input_order(in_place, bits))
    np.testing.assert_array_equal(sums.numpy(), expected[1])
    np.testing.assert_array_equal(row_scale.numpy(), expected[2])
    assert codes.dtype == torch.int8
    assert sums.dtype == torch.int32
    assert row_scale.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_of_fewer_bits_are_rounded(twins, dtype):
    weight, x = here.arranged_tensors(pack_w8(WEIGHT)), rows_of(2, dtype)
    found = twins.quantize_rows(x, weight)
    for part, expected in zip(
        found, twins.quantize_rows(x.float(), weight), strict=True
    ):
        assert torch.equal(part, expected)


# ---------------------------------------------------------------------------
# Products of integers.


def whole_rows(n_rows, bits):
    """Rows of integers that are their own codes."""
    top = 31 if bits == 1 else 127
    rng = np.random.default_rng(n_rows)
    x = rng.integers(-top, top + 1, (n_rows, N_IN)).astype(np.float32)
    x[:, 0] = top
    return torch.from_numpy(x)


@every_bits
@pytest.mark.parametrize("group_size", [20, None])
def test_sums_of_integers_are_exact(twins, bits, group_size):
    for zero_point in (0.5, 2 ** (bits - 1)):
        packed = with_zeros(bits, zero_point, group_size)
        x = whole_rows(2, bits)
        found = twins.integer_linear(x, here.arranged_tensors(packed)).numpy()
        exact = x.double().numpy() @ dequantized(packed).astype(np.float64).T
        np.testing.assert_array_equal(found, exact)
        np.testing.assert_array_equal(found, INTEGER[bits](x.numpy(), packed))


@every_bits
@pytest.mark.parametrize("n_rows", [0, 17])
def test_integer_linear(twins, bits, n_rows):
    packed = with_zeros(bits, uneven(bits), scale=RNG.random((N_OUT, 3)) + 0.5)
    x, bias = rows_of(n_rows), BIAS.float()
    found = twins.integer_linear(x, here.arranged_tensors(packed), bias)
    expected = INTEGER[bits](x.numpy(), packed, bias.numpy())
    largest = np.abs(expected).max(initial=1.0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_integer_linear_of_fewer_bits(twins, dtype):
    packed, x = pack_w4(WEIGHT, 32), rows_of(3, dtype)
    found = twins.integer_linear(x, here.arranged_tensors(packed), BIAS)
    expected = torch.from_numpy(ops.linear_w4a8(x.float().numpy(), packed, BIAS))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-2)


@every_bits
def test_rows_without_a_scale(twins, bits):
    x = rows_of(3)
    x[0], x[1, 2], x[2, 3] = 0.0, float("inf"), float("nan")
    weight = here.arranged_tensors(PACK[bits](WEIGHT, 32))
    found = twins.integer_linear(x, weight, BIAS)
    assert torch.equal(found[0], BIAS.float())
    assert found[1:].isnan().all()


# ---------------------------------------------------------------------------
# Operands.


def test_rows_may_have_any_strides_and_dimensions(twins):
    weight = here.arranged_tensors(pack_w4(WEIGHT, 32))
    x = rows_of(4).reshape(2, 2, N_IN)
    strided = x.movedim(2, 0).contiguous().movedim(0, 2)
    assert not strided.is_contiguous()
    for function in (twins.linear, twins.integer_linear):
        expected = function(x.reshape(4, N_IN), weight).reshape(2, 2, N_OUT)
        assert torch.equal(function(strided, weight), expected)
        assert torch.equal(function(x[1, 1], weight), expected[1, 1])


W4 = pack_w4(WEIGHT, 32)


@pytest.mark.parametrize("name", ["linear", "integer_linear", "quantize_rows"])
def test_rows_that_do_not_fit(twins, name):
    function, weight = getattr(twins, name), here.arranged_tensors(W4)
    with pytest.raises(
        ValueError, match=r"x must have shape \(\.\.\., 70\), got \(2, 3"
    ):
        function(torch.ones(2, 3), weight)
    with pytest.raises(ValueError, match="x must have shape"):
        function(torch.tensor(1.0), weight)
    for x in (rows_of(1).double(), rows_of(1).int()):
        with pytest.raises(ValueError, match="x must be of one of"):
            function(x, weight)
    with pytest.raises(TypeError, match="weight must be ArrangedTensors"):
        function(rows_of(1), W4)


@pytest.mark.parametrize("name", ["linear", "integer_linear"])
def test_a_bias_that_does_not_fit(twins, name):
    function, weight = getattr(twins, name), here.arranged_tensors(W4)
    with pytest.raises(ValueError, match=r"bias must have shape \(19,\)"):
        function(rows_of(1), weight, torch.ones(3))


def test_devices_must_be_the_same(twins):
    weight = here.arranged_tensors(W4, device="meta")
    assert weight.codes.is_meta
    with pytest.raises(ValueError, match="must be on one device"):
        twins.linear(rows_of(1), weight)


def test_codebooks_are_no_integers(twins):
    weight = here.arranged_tensors(pack_codebook(WEIGHT, np.linspace(-1, 1, 5)))
    with pytest.raises(ValueError, match="holds a codebook"):
        twins.integer_linear(rows_of(1), weight)


@pytest.mark.parametrize("top", [0, 128])
def test_codes_must_fit_a_byte(twins, top):
    with pytest.raises(ValueError, match="must lie between 1 and 127"):
        twins.quantize_rows(rows_of(1), here.arranged_tensors(W4), top)


def test_only_packed_weights_are_arranged():
    pytest.importorskip("triton")
    with pytest.raises(TypeError, match="packed must be a PackedWeight, got ndarray"):
        here.arranged_tensors(WEIGHT)


def test_a_weight_is_copied():
    pytest.importorskip("triton")
    weight = here.arranged_tensors(W4)
    weight.scale.zero_()
    assert W4.scale.any()
