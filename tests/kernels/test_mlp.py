"""Fused networks equal the definition, to the bit where that is promised."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqlib_kernels import _threads, mlp
from uqlib_kernels.mlp import ACTIVATIONS, FusedMLP, MLPLayer
from uqlib_kernels.pack import (
    MAX_GROUP,
    pack_codebook,
    pack_w1,
    pack_w2,
    pack_w4,
    pack_w8,
)
from uqlib_kernels.pack import unpack_codes as codes_of
from uqlib_kernels.registry import available_isas

LEVELS = [name for name in ("vnni", "portable") if name in available_isas()]
needs_vectors = pytest.mark.skipif("vnni" not in LEVELS, reason="no AVX-512 VNNI")
PACKERS = {8: pack_w8, 4: pack_w4, 2: pack_w2, 1: pack_w1}
single = np.float32


def layer(n_out, n_in, seed=0, *, bits=8, zeros="rows", divides=True, **parts):
    """Return a layer whose outputs are of the size of its inputs."""
    rng = np.random.default_rng(seed)
    top = 2**bits - 1
    codes = rng.integers(0, top + 1, (n_out, n_in))
    zero = rng.integers(top // 3, top - top // 3 + 1, (n_out, 1))
    if zeros == "half":
        zero = top / 2
    scale = rng.uniform(0.5, 1.5, (n_out, 1)) * 3 / (top * np.sqrt(n_in))
    bias = rng.normal(size=n_out).astype(single) * single(0.3)
    divisor = rng.uniform(0.5, 2.0, n_in).astype(single) if divides else None
    packed = PACKERS[bits](codes, scale=scale, zero_point=zero)
    return MLPLayer(packed, **({"bias": bias, "divisor": divisor} | parts))


def network(sizes, **parts):
    pairs = zip(sizes[1:], sizes[:-1], strict=True)
    return [layer(o, i, seed, **parts) for seed, (o, i) in enumerate(pairs)]


def rows(n, n_columns, seed=0, dtype=single):
    return np.random.default_rng(seed).normal(size=(n, n_columns)).astype(dtype)


FUNCTIONS = {
    "identity": lambda y: y,
    "relu": lambda y: np.maximum(y, 0),
    "tanh": np.tanh,
    "logistic": lambda y: 1 / (1 + np.exp(-y)),
    "silu": lambda y: y / (1 + np.exp(-y)),
}


def zeros_of(packed):
    if packed.zero_point is None:
        return packed.twice_zero / 2
    return packed.zero_point.reshape(-1)[: packed.n_out].astype(np.float64)


def scales_of(packed):
    return packed.scale.reshape(-1)[: packed.n_out].astype(np.float64)


def product(packed, a):
    """Return twice the sums of (q - z) a, integers, over 2."""
    twice = 2 * codes_of(packed).astype(np.int64).T
    zero = np.rint(2 * np.broadcast_to(zeros_of(packed), packed.n_out)).astype(np.int64)
    return (a @ (twice - zero)) / 2


def by_definition(layers, activation, x):
    """Return what the module says, with a division before each rounding."""
    h = x.astype(single)
    for k, part in enumerate(layers):
        h = FUNCTIONS[activation](h) if k else h
        h = h if part.divisor is None else h / part.divisor
        t = np.abs(h).max(axis=1, keepdims=True, initial=0) / single(part.top)
        t = np.where(t > 0, t, single(1))
        if part.static_scale is not None:
            t = single(part.static_scale)
        a = np.clip(np.rint(h / t), -part.top, part.top).astype(np.int64)
        y = t.astype(np.float64) * (product(part.packed, a) * scales_of(part.packed))
        h = (y if part.bias is None else y + part.bias).astype(single)
    return h


def as_the_vectors_do(layers, activation, x):
    """Return the same with the divisors folded and every operation rounded once.

    Products of two single numbers are exact in double precision.
    """
    wide = np.float64
    h = x.astype(single) / layers[0].divisor
    for k, part in enumerate(layers):
        t = np.abs(h).max(axis=1, keepdims=True, initial=0) / single(127)
        level = h / t if k == 0 else h * (single(1) / t)
        a = np.clip(np.rint(level), -127, 127).astype(np.int64)
        after = layers[k + 1].divisor.astype(wide) if k + 1 < len(layers) else 1.0
        scale = (scales_of(part.packed) / after).astype(single)
        bias = (part.bias.astype(wide) / after).astype(single)
        y = product(part.packed, a).astype(single) * t
        h = (y.astype(wide) * scale.astype(wide) + bias.astype(wide)).astype(single)
        if k + 1 < len(layers):
            h = FUNCTIONS[activation](h)
    return h


def assert_same_codes(found, expected):
    """Allow a code that differs by one in few rows: a tie that rounds elsewhere."""
    assert found.dtype == single
    assert found.shape == expected.shape
    error = np.abs(found - expected).max(axis=1, initial=0) / np.abs(expected).max()
    assert np.mean(error < 2e-6) >= 0.9
    assert error.max() < 0.02


# ---------------------------------------------------------------------------
# The definition


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "sizes", [(20, 64, 64, 1), (5, 30, 7, 3), (33, 100, 17), (70, 130, 2), (1, 1, 1)]
)
def test_equals_the_definition(sizes, activation, level):
    layers, x = network(sizes), rows(43, sizes[0])
    found = FusedMLP(layers, activation, level=level)(x)
    assert_same_codes(found, by_definition(layers, activation, x))


@needs_vectors
@pytest.mark.parametrize("activation", ["identity", "relu"])
@pytest.mark.parametrize("sizes", [(20, 64, 64, 1), (40, 100, 50, 3), (16, 256, 1)])
def test_vectors_round_every_number_as_said(sizes, activation):
    layers, x = network(sizes), rows(39, sizes[0], 1)
    found = FusedMLP(layers, activation, level="vnni")(x)
    np.testing.assert_array_equal(found, as_the_vectors_do(layers, activation, x))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_sums_of_integers_are_exact(data):
    bits = data.draw(st.sampled_from([8, 4, 2, 1]))
    n_in, n_out = data.draw(st.integers(1, 130)), data.draw(st.integers(1, 70))
    n_rows, top = data.draw(st.integers(0, 9)), data.draw(st.sampled_from([1, 7, 127]))
    seed = data.draw(st.integers(0, 99))
    zeros = data.draw(st.sampled_from(["rows", "half"] if bits < 8 else ["rows"]))
    made = layer(
        *(n_out, n_in, seed),
        bits=bits,
        zeros=zeros,
        divides=False,
        bias=None,
        top=top,
        static_scale=1.0,
    )
    ones = PACKERS[bits](
        codes_of(made.packed),
        scale=1.0,
        zero_point=np.broadcast_to(zeros_of(made.packed), n_out)[:, None],
    )
    x = np.random.default_rng(seed).integers(-140, 141, (n_rows, n_in))
    expected = product(ones, np.clip(x, -top, top))
    for level in LEVELS:
        found = FusedMLP([made._replace(packed=ones)], "relu", level=level)(x)
        np.testing.assert_array_equal(found, expected)


@needs_vectors
def test_the_largest_sums_are_exact():
    n_in = MAX_GROUP
    codes = np.repeat(np.array([[255], [0], [255], [0]]), n_in, axis=1)
    zero = np.array([[0], [255], [255], [0]])
    packed = pack_w8(codes, scale=1.0, zero_point=zero)
    net = FusedMLP([MLPLayer(packed, static_scale=1.0)], "relu", level="vnni")
    for sign in (1, -1):
        found = net(np.full((5, n_in), 127.0 * sign))
        largest = 255 * 127 * n_in * sign
        expected = np.array([largest, -largest, 0, 0], dtype=single)
        np.testing.assert_array_equal(found, np.tile(expected, (5, 1)))


@pytest.mark.parametrize("level", LEVELS)
def test_two_layers_of_integers_are_exact(level):
    rng = np.random.default_rng(2)
    first = pack_w4(rng.integers(0, 16, (33, 9)), scale=1 / 64, zero_point=7)
    last = pack_w8(rng.integers(0, 256, (4, 33)), scale=2.0, zero_point=128)
    x = rng.integers(-127, 128, (50, 9)) / 2
    layers = [
        MLPLayer(first, static_scale=0.5, bias=np.arange(33) / 4),
        MLPLayer(last, static_scale=0.25, divisor=np.full(33, 2.0), top=63),
    ]
    hidden = 0.5 * product(first, (2 * x).astype(np.int64)) / 64 + np.arange(33) / 4
    codes = np.clip(np.rint(np.maximum(hidden, 0) / 2 / 0.25), -63, 63).astype(np.int64)
    expected = 0.25 * 2.0 * product(last, codes)
    np.testing.assert_array_equal(FusedMLP(layers, "relu", level=level)(x), expected)


@needs_vectors
@pytest.mark.parametrize("name", ["tanh", "logistic", "silu"])
def test_activations_to_the_last_digits(name):
    # One layer of the identity: 127 codes, whose outputs are their numbers.
    from uqlib_kernels._jit import row_jit
    from uqlib_kernels._mlp_vectors import bend_row

    @row_jit
    def bend(values, factors):
        address = np.int64(values.ctypes.data)
        bend_row(address, values.size // 16, np.int64(factors.ctypes.data), name)

    grid = np.concatenate([np.linspace(-80, 80, 4001), np.geomspace(1e-30, 1, 79)])
    x = np.concatenate([grid, -grid]).astype(single)
    found = x.copy()
    bend(found, np.ones_like(x))
    expected = FUNCTIONS[name](x.astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=6e-7, atol=0)
    extreme = np.array([np.nan, 1e30, -1e30, np.inf] + [0.0] * 12, dtype=single)
    bend(extreme, np.full_like(extreme, 2))
    assert np.isnan(extreme[0])
    np.testing.assert_array_equal(extreme[4:], 2 * FUNCTIONS[name](extreme[5:] * 0)[0])
    limits = {"tanh": [2, -2, 2], "logistic": [2, 0, 2]}.get(name)
    if limits is not None:
        np.testing.assert_allclose(extreme[1:4], limits, atol=1e-37)


# ---------------------------------------------------------------------------
# Rows and their memory


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_a_row_does_not_depend_on_the_others(activation, level):
    net = FusedMLP(network((20, 64, 35, 2)), activation, level=level)
    x = rows(71, 20, 3)
    whole = net(x)
    for start, stop in [(0, 1), (5, 6), (0, 3), (2, 9), (30, 71)]:
        np.testing.assert_array_equal(net(x[start:stop]), whole[start:stop])


@pytest.mark.parametrize("n_columns", [3, 20])
def test_any_memory(n_columns):
    net = FusedMLP(network((n_columns, 16, 2)), "relu")
    x = rows(40, 2 * n_columns)[:, :n_columns]
    expected = net(np.ascontiguousarray(x))
    readonly = x.copy()
    readonly.setflags(write=False)
    table = np.zeros(40, dtype=[("pad", "i1"), ("row", single, n_columns)])
    table["row"] = x
    for same in (
        *(x, np.asfortranarray(x), x[::-1][::-1], x.astype(np.float64), readonly),
        *(x.astype(">f4"), x.astype(">f8"), table["row"], x.tolist()),
    ):
        before = pickle.dumps(same)
        np.testing.assert_array_equal(net(same), expected)
        assert pickle.dumps(same) == before
    np.testing.assert_array_equal(net(x[::-2]), expected[::-2])
    integers = np.rint(3 * x).astype(np.int64)
    np.testing.assert_array_equal(net(integers), net(integers.astype(single)))


@pytest.mark.parametrize("level", LEVELS)
def test_no_rows_and_rows_of_zeros(level):
    layers = network((6, 9, 3))
    net = FusedMLP(layers, "relu", level=level)
    assert net(np.empty((0, 6))).shape == (0, 3)
    found = net(np.zeros((3, 6)))
    np.testing.assert_array_equal(found[0], found[2])
    assert_same_codes(found, by_definition(layers, "relu", np.zeros((3, 6))))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("static_scale", [None, 0.02])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_rows_that_are_not_finite_are_nan(bad, static_scale, level):
    layers = network((20, 16, 2), static_scale=static_scale)
    net = FusedMLP(layers, "relu", level=level)
    x = rows(9, 20, dtype=np.float64)
    expected = net(x)
    x[4, 17] = bad
    expected[4] = np.nan
    np.testing.assert_array_equal(net(x), expected)


@pytest.mark.parametrize("level", LEVELS)
def test_numbers_beyond_single_precision_between_layers_are_nan(level):
    packed = pack_w8(np.full((2, 4), 255), scale=1e30, zero_point=0)
    net = FusedMLP([MLPLayer(packed), layer(1, 2)], "identity", level=level)
    found = net(np.array([[1.0, 1.0, 1.0, 1.0], [1e10] * 4]))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n_layers", [1, 2])
def test_numbers_below_single_precision_are_not_finite(n_layers, level):
    first = MLPLayer(pack_w8(np.array([[-1.0, -1.0]])))
    last = MLPLayer(pack_w8(np.array([[1e-3]])))
    net = FusedMLP([first, last][:n_layers], "identity", level=level)
    found = net(np.array([[3e38, 3e38], [1.0, 1.0]]))
    assert np.isfinite(found[:, 0]).tolist() == [False, True]


@pytest.mark.parametrize("level", LEVELS)
def test_tiny_numbers(level):
    layers = network((20, 16, 1), divides=False)
    net = FusedMLP(layers, "relu", level=level)
    for size in (1e-30, 1e-38, 1e-43):
        x = rows(8, 20) * single(size)
        assert_same_codes(net(x), by_definition(layers, "relu", x))


def test_in_threads(monkeypatch):
    monkeypatch.setattr(_threads, "n_threads", lambda work: 3)
    net = FusedMLP(network((20, 24, 2)), "relu")
    x = rows(333, 20)
    expected = net(x)
    monkeypatch.setattr(mlp, "n_threads", lambda work: 3)
    monkeypatch.setattr(mlp, "SERIAL_WORK", 0)
    np.testing.assert_array_equal(net(x), expected)


@needs_vectors
def test_layer_by_layer_as_with_tiles():
    layers, x = network((20, 64, 3)), rows(2100, 20)
    net = FusedMLP(layers, "relu", level="vnni")
    expected = net(x)
    net._has_tiles = True
    assert_same_codes(net(x), expected)
    np.testing.assert_array_equal(net(x[:63]), expected[:63])


def test_copies_by_pickle():
    net = FusedMLP(network((5, 8, 2)), "tanh")
    x = rows(4, 5)
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again(x), net(x))


# ---------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    ("layers", "activation", "reason"),
    [
        ([], "relu", "there are none"),
        ([layer(2, 3)], "gelu", "none of"),
        ([layer(2, 3), layer(1, 4)], "relu", "layer 1: its inputs are not"),
        ([layer(2, 3, top=128)], "relu", "top=128"),
        ([layer(2, 3, bias=[0.0, np.inf])], "relu", "bias is not finite"),
        ([layer(2, 3, divisor=np.array([1.0, 0.0, 1.0]))], "relu", "divisors"),
        ([layer(2, 3, divisor=np.array([1.0, np.nan, 1]))], "relu", "divisors"),
        ([MLPLayer(pack_codebook(np.eye(3), [-1, 0, 3]))], "relu", "codebook"),
        ([MLPLayer(pack_w8(np.eye(4), 2))], "relu", "several scales"),
        (
            [MLPLayer(pack_w4([[1, 2]], scale=1.0, zero_point=0.25))],
            "relu",
            "zero points",
        ),
        ([MLPLayer(pack_w8([[1]], scale=1.0, zero_point=-1))], "relu", "zero points"),
        ([MLPLayer(pack_w8([[1]], scale=1.0, zero_point=0.5))], "relu", "zero points"),
        ([layer(1, MAX_GROUP + 1)], "relu", "over 16384 columns"),
    ],
)
def test_what_cannot_be_fused(layers, activation, reason):
    assert reason in FusedMLP.takes(layers, activation)
    with pytest.raises(ValueError, match="cannot be fused"):
        FusedMLP(layers, activation)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (1, 2, 3)])
def test_wrong_shapes(shape):
    with pytest.raises(ValueError, match=r"shape \(n_rows, 3\)"):
        FusedMLP([layer(2, 3)], "relu")(np.zeros(shape))
