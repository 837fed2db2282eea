"""The operation behind layers whose rows are rounded in another way than by bytes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from uqlib_kernels import pack, torch_ops  # noqa: E402
from uqlib_kernels._integer import integer_linear  # noqa: E402
from uqlib_kernels.torch_ops import packed_tensors  # noqa: E402

torch_ops.register()
linear_integer = torch.ops.uqlib_kernels.linear_integer

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(19, 70))
BIAS = torch.from_numpy(RNG.normal(size=19).astype(np.float32))
ROWS = torch.from_numpy(RNG.normal(size=(5, 70)).astype(np.float32))
PACKERS = {1: pack.pack_w1, 2: pack.pack_w2, 4: pack.pack_w4, 8: pack.pack_w8}
bits = pytest.mark.parametrize("bits", PACKERS)


@bits
@pytest.mark.parametrize("static_scale", [None, 0.25])
@pytest.mark.parametrize(("top", "bias"), [(127, None), (7, BIAS), (1, BIAS)])
def test_it_is_the_function_of_numpy(bits, top, bias, static_scale):
    packed = PACKERS[bits](WEIGHT, 32)
    y = linear_integer(ROWS, *packed_tensors(packed), bias, top, static_scale)
    added = None if bias is None else bias.numpy()
    expected = integer_linear(
        ROWS.numpy(), packed, added, top=top, static_scale=static_scale
    )
    np.testing.assert_array_equal(y.numpy(), expected)


@bits
def test_rows_of_integers_stay_what_they_are(bits):
    packed = PACKERS[bits](WEIGHT, 32)
    codes = torch.from_numpy(RNG.integers(-127, 128, (6, 70)).astype(np.float32))
    y = linear_integer(codes, *packed_tensors(packed), None, 127, 1.0)
    exact = codes.double().numpy() @ packed.dequantized.T.astype(np.float64)
    np.testing.assert_allclose(
        y.numpy(), exact, rtol=0, atol=1e-5 * np.abs(exact).max()
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite(bad):
    tensors, x = packed_tensors(pack.pack_w8(WEIGHT)), ROWS.clone()
    expected = linear_integer(x, *tensors, None, 127, 1.0)
    x[1, 3] = bad
    expected[1] = np.nan
    y = linear_integer(x, *tensors, None, 127, 1.0)
    np.testing.assert_array_equal(y.numpy(), expected.numpy())


@bits
def test_opcheck(bits):
    tensors = packed_tensors(PACKERS[bits](WEIGHT, 32))
    torch.library.opcheck(linear_integer.default, (ROWS, *tensors, BIAS, 7, None))
    halves = ROWS.half().reshape(5, 1, 70)
    torch.library.opcheck(linear_integer.default, (halves, *tensors, None, 127, 0.5))


def test_errors():
    tensors = packed_tensors(pack.pack_w4(WEIGHT))
    for top, scale, message in (
        (128, None, "top=128"),
        (127, 0.0, "static_scale=0.0"),
        (127, -1.0, "static_scale=-1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            linear_integer(ROWS, *tensors, None, top, scale)
    codebook = packed_tensors(pack.pack_codebook(WEIGHT, np.arange(16) - 8.0))
    with pytest.raises(ValueError, match="packed holds a codebook"):
        linear_integer(ROWS, *codebook, None, 127, None)
    with pytest.raises(ValueError, match=r"bias must have shape \(19,\)"):
        linear_integer(ROWS, *tensors, BIAS[:3], 127, None)
    x = ROWS.clone().requires_grad_()
    with pytest.raises(NotImplementedError, match="linear_integer has no gradient"):
        linear_integer(x, *tensors, None, 127, None).sum().backward()
