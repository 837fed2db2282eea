"""Packed codes: the layout bit by bit, round trips, sizes, errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqlib.quantized._packing import pack_codes, packed_size, unpack_codes

BITS = range(1, 9)
WIDTHS = (0, 1, 2, 3, 5, 7, 8, 9, 13, 31, 64, 65)


def codes_of(shape, bits, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2**bits, size=shape).astype(np.uint8)


def slowly_packed(codes, bits):
    """One integer a row: code k times 2^(k bits), as little-endian bytes."""
    n_bytes = packed_size((1, codes.shape[1]), bits)
    rows = []
    for row in codes.tolist():
        number = sum(code << (k * bits) for k, code in enumerate(row))
        rows.append(list(number.to_bytes(n_bytes, "little")))
    return np.array(rows, dtype=np.uint8).reshape(len(codes), n_bytes)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_layout_is_one_little_endian_integer_a_row(bits, width):
    codes = codes_of((4, width), bits)
    packed = pack_codes(codes, bits)
    np.testing.assert_array_equal(packed, slowly_packed(codes, bits))
    assert packed.dtype == np.uint8
    assert packed.size == packed_size(codes.shape, bits)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("width", WIDTHS)
def test_round_trip(bits, width):
    codes = codes_of((3, width), bits, seed=1)
    back = unpack_codes(pack_codes(codes, bits), bits, width)
    np.testing.assert_array_equal(back, codes)
    assert back.dtype == np.uint8


@given(
    bits=st.integers(1, 8),
    shape=st.tuples(st.integers(0, 5), st.integers(0, 40)),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=60)
def test_packing_is_a_bijection_with_zero_padding(bits, shape, seed):
    codes = codes_of(shape, bits, seed)
    packed = pack_codes(codes, bits)
    unpacked = unpack_codes(packed, bits, shape[1])
    np.testing.assert_array_equal(unpacked, codes)
    np.testing.assert_array_equal(pack_codes(unpacked, bits), packed)
    padding = 8 * packed.shape[1] - shape[1] * bits
    assert 0 <= padding < 8
    if padding and packed.size:
        assert not np.any(packed[:, -1] >> (8 - padding))


@pytest.mark.parametrize("bits", BITS)
def test_rows_can_be_read_alone(bits):
    codes = codes_of((6, 11), bits)
    packed = pack_codes(codes, bits)
    np.testing.assert_array_equal(unpack_codes(packed[2:4], bits, 11), codes[2:4])


def test_codes_need_not_be_contiguous():
    codes = codes_of((10, 22), 3)[::2, ::-2]
    np.testing.assert_array_equal(unpack_codes(pack_codes(codes, 3), 3, 11), codes)


def test_eight_bits_are_the_codes_themselves():
    codes = codes_of((3, 5), 8)
    np.testing.assert_array_equal(pack_codes(codes, 8), codes)


def test_codes_that_are_too_large():
    with pytest.raises(ValueError, match=r"codes must be below 2\*\*3=8, got 8\."):
        pack_codes(np.array([[0, 8]], dtype=np.uint8), 3)


@pytest.mark.parametrize("shape", [(2, 2), (2, 4), (3,)])
def test_packed_rows_of_the_wrong_width(shape):
    match = r"7 codes of 3 bits take 3 bytes a row, got shape \("
    with pytest.raises(ValueError, match=match):
        unpack_codes(np.zeros(shape, dtype=np.uint8), 3, 7)
