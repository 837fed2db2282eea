"""Where codes and inputs lie on a device: NumPy, and the functions of the kernels.

The functions are compiled for the host, by its own compiler and by nvcc where there is
one. What a lane must hold is written here once more, from the layout of the operands
of tensor cores.
"""

import ctypes

import numpy as np
import pytest

from tests.kernels.cuda import _host_library
from tests.kernels.cuda._emulated import (
    Columns,
    columns_of,
    input_order,
    placed,
    pointer,
)
from uqlib_kernels import pack
from uqlib_kernels._packed import (
    MAX_GROUP,
    column_places,
    inner_group,
    padded_codes,
    unpack_codes,
)
from uqlib_kernels.cuda._arrange import arranged_codes, device_columns, place_of_code

LOW_BITS = (4, 2, 1)
RNG = np.random.default_rng(0)


@pytest.fixture(params=["g++", "nvcc"])
def host(request):
    """The functions of layout.cuh, as each compiler understands them."""
    nvcc = None
    if request.param == "nvcc":
        nvcc = _host_library.nvcc_or_none()
        if nvcc is None:
            pytest.skip(
                "needs nvcc, which compiles the kernels' functions for the host"
            )
    return _host_library.host_library("arrange_host", nvcc)


def table(function, shape, *arguments):
    out = np.full(shape, -7, dtype=np.int32)
    function(*arguments, pointer(out))
    return out


def tile():
    return np.meshgrid(np.arange(16), np.arange(64), indexing="ij")


# ---------------------------------------------------------------------------
# The maps.


@pytest.mark.parametrize("bits", LOW_BITS)
def test_places_of_codes(host, bits):
    found = table(host.host_places_of_codes, (16, 64, 3), bits)
    np.testing.assert_array_equal(
        found, np.stack(place_of_code(bits, *tile()), axis=-1)
    )


@pytest.mark.parametrize("bits", LOW_BITS)
def test_every_bit_of_a_tile_belongs_to_one_code(bits):
    lane, word, bit = place_of_code(bits, *tile())
    visits = np.zeros((32, bits, 32), dtype=int)
    for part in range(bits):
        np.add.at(visits, (lane, word, bit + part), 1)
    np.testing.assert_array_equal(visits, 1)


@pytest.mark.parametrize("bits", [8, *LOW_BITS])
def test_places_of_inputs(host, bits):
    found = table(host.host_places_of_inputs, 64, bits)
    np.testing.assert_array_equal(np.sort(found), np.arange(64))
    # A row whose inputs are their columns: the byte at the place of column k is k.
    row = np.arange(64, dtype=np.uint8)[None, :]
    np.testing.assert_array_equal(input_order(row, bits)[0, found], row[0])
    # A lane reads 16 bytes at once; they are of its own columns.
    if bits < 8:
        np.testing.assert_array_equal(found // 16, np.arange(64) % 32 // 8)


@pytest.mark.parametrize("bits", [8, *LOW_BITS])
def test_sizes(host, bits):
    if bits < 8:
        assert host.host_sizes(bits, 0) * 32 == 16 * 64 * bits // 32
        assert host.host_sizes(bits, 1) * bits * 4 == 16  # bytes of a step
    assert device_columns(bits, 1, 1).n_columns == host.host_sizes(bits, 2)


# ---------------------------------------------------------------------------
# Columns of groups.

GROUPS = [  # n_in, group_size
    (1, 1),
    (64, 64),
    (70, 32),
    (200, 100),
    (256, 64),
    (300, 300),
    (96, 1000),
    (MAX_GROUP, MAX_GROUP),
    (MAX_GROUP + 1, MAX_GROUP + 1),
    (70_000, 34_000),
]


@pytest.mark.parametrize("bits", [8, 4, 1])
@pytest.mark.parametrize(("n_in", "group_size"), GROUPS)
def test_columns_at_places(host, bits, n_in, group_size):
    columns = device_columns(bits, n_in, group_size)
    found = np.full(columns.n_columns, -7, dtype=np.int32)
    plain = host.host_columns(ctypes.byref(Columns(*columns)), pointer(found))
    # Packed weights number columns by inner groups without padding.
    unpadded = column_places(n_in, group_size, columns.inner)
    place = unpadded // columns.inner * columns.group_columns
    place += unpadded % columns.inner
    expected = np.full(columns.n_columns, -1)
    expected[place] = np.arange(n_in)
    np.testing.assert_array_equal(found, expected)
    same = columns.n_columns == n_in and (expected == np.arange(n_in)).all()
    assert bool(plain) == same


@pytest.mark.parametrize(("n_in", "group_size"), GROUPS)
def test_groups_are_whole_steps(n_in, group_size):
    for bits in (8, *LOW_BITS):
        columns = device_columns(bits, n_in, group_size)
        inner = inner_group(group_size, n_in)
        assert (columns.inner, columns.parts) == (inner.size, inner.parts)
        assert columns.group_columns % (64 if bits == 8 else 32) == 0
        assert columns.group_columns >= inner.padded
        assert columns.n_columns % (64 if bits == 8 else 256 // bits) == 0
        needed = columns.n_groups * columns.group_columns
        assert needed <= columns.n_columns < needed + 256


# ---------------------------------------------------------------------------
# Codes there and back.

SHAPES = [  # n_out, n_in, group_size
    (16, 64, 64),
    (1, 1, None),
    (19, 70, 32),
    (33, 200, 100),
    (16, 256, 64),
    (3, 300, None),
    (2, MAX_GROUP + 100, None),
    (1, 40_000, 36_000),
]


def packed_codes(bits, shape):
    """A packed weight of random codes; bits may be "book", for a codebook."""
    n_out, n_in, group = shape
    if bits == "book":
        values = np.sort(RNG.normal(size=16))
        return pack.pack_codebook(RNG.normal(size=(n_out, n_in)), values, group)
    codes = RNG.integers(0, 2**bits, size=(n_out, n_in))
    packers = {8: pack.pack_w8, 4: pack.pack_w4, 2: pack.pack_w2, 1: pack.pack_w1}
    return packers[bits](codes, group, scale=1.0, zero_point=0.0)


def decoded(host, bits, arranged):
    """Codes in padded columns, (n_out, n_columns), by both decoders of the kernels.

    Each place must be met once: the results begin at -1 and are added to.
    """
    n_tiles, n_steps = arranged.shape[:2]
    # tile of rows, step, lane, tile of the step, word -> tiles one after another
    words = arranged.view("<u4").reshape(n_tiles, n_steps, 32, 4 // bits, bits)
    words = np.ascontiguousarray(words.swapaxes(2, 3)).reshape(-1, 32, bits)
    pairs = np.empty((len(words), 32, 4, 4), dtype=np.int32)
    quads = np.empty((len(words), 32, 2, 4), dtype=np.int32)
    host.host_decode(bits, pointer(words), len(words), pointer(pairs), pointer(quads))
    shape = (n_tiles, n_steps * 4 // bits)
    return (
        assembled(pairs.view(np.uint16), shape, *places_of_pairs()),
        assembled(quads.view(np.uint8), shape, *places_of_bytes(host, bits)),
    )


def assembled(values, shape, row, column):
    out = np.full((shape[0] * shape[1], 16, 64), -1)
    values = values.reshape(len(out), -1)
    np.add.at(out, (slice(None), row.ravel(), column.ravel()), values.astype(int) + 1)
    return out.reshape(*shape, 16, 64).swapaxes(1, 2).reshape(16 * shape[0], -1)


def places_of_pairs():
    """Row and column of number e of register r of product j of lane 4 g + t."""
    lane, j, r, e = np.ogrid[:32, :4, :4, :2]
    row = lane // 4 + 8 * (r % 2)
    column = 32 * (j // 2) + 8 * (lane % 4) + 4 * (j % 2) + 2 * (r // 2) + e
    return np.broadcast_arrays(row + 0 * column, column + 0 * row)


def places_of_bytes(host, bits):
    """Row and column of byte b of register r of product h of lane 4 g + t.

    It is multiplied with byte b of register r / 2 of the other operand, the registers
    of which are the words of 16 consecutive bytes of inputs, two a product.
    """
    column_of_place = np.argsort(table(host.host_places_of_inputs, 64, bits))
    lane, h, r, b = np.ogrid[:32, :2, :4, :4]
    row = lane // 4 + 8 * (r % 2)
    place = 16 * (lane % 4) + 8 * h + 4 * (r // 2) + b
    column = column_of_place[place + 0 * row]
    return np.broadcast_arrays(row + 0 * column, column)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bits", [*LOW_BITS, "book"])
def test_decoders_invert_the_arrangement(host, bits, shape):
    packed = packed_codes(bits, shape)
    given = unpack_codes(packed).astype(int)
    arranged = arranged_codes(packed)
    columns = columns_of(packed)
    of_pairs, of_bytes = decoded(host, packed.bits, arranged)
    assert of_pairs.min() >= 0  # of padding, too
    assert of_bytes.min() >= 0
    # As bytes, codes of 4 bits are 16 (q - 8), and only integers are used so.
    if bits == 4:
        of_pairs ^= 8
        of_bytes = of_bytes.astype(np.uint8).view(np.int8).astype(int) // 16 + 8
    place = placed(np.arange(packed.n_in)[None, :] + 1, packed)[0]
    assert len(place) == columns.n_columns
    for found in (of_pairs,) if bits == "book" else (of_pairs, of_bytes):
        assert found.shape == (16 * packed.n_tiles, columns.n_columns)
        by_column = found[: packed.n_out, np.argsort(place)[-packed.n_in :]]
        np.testing.assert_array_equal(by_column, given)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_codes_of_eight_bits(shape):
    packed = packed_codes(8, shape)
    found = arranged_codes(packed)
    assert found.shape == (16 * packed.n_tiles, columns_of(packed).n_columns)
    place = placed(np.arange(packed.n_in)[None, :] + 1, packed)[0]
    by_column = found[: packed.n_out, np.argsort(place)[-packed.n_in :]]
    signed = by_column.view(np.int8).astype(int)
    np.testing.assert_array_equal(signed + 128, unpack_codes(packed))


@pytest.mark.parametrize("bits", LOW_BITS)
def test_no_code_is_lost_or_doubled(bits):
    """The bits set in the arranged weight are those of the codes and their padding."""
    packed = packed_codes(bits, (19, 200, 100))
    arranged = arranged_codes(packed)
    codes = padded_codes(packed).astype(int)
    expected = np.bitwise_count(codes ^ (8 if bits == 4 else 0)).sum()
    padding = 8 * arranged.size // bits - codes.size
    expected += padding if bits == 4 else 0  # a code 0 is stored as 8
    assert np.bitwise_count(arranged).sum() == expected
