"""What tests of the kernels around the products share."""

import ctypes

import numpy as np
import pytest

from tests.kernels.cuda import _emulated
from tests.kernels.cuda._emulated import (
    BFLOAT16,
    FLOAT,
    HALF,
    check,
    columns_of,
    guarded_empty,
    pointer,
)
from uqlib_kernels import pack

PACKERS = {8: pack.pack_w8, 4: pack.pack_w4, 2: pack.pack_w2, 1: pack.pack_w1}
TYPES = {FLOAT: np.float32, HALF: np.uint16, BFLOAT16: np.uint16}
TYPE_IDS = {FLOAT: "float", HALF: "half", BFLOAT16: "bfloat16"}
of_types = pytest.mark.parametrize("kind", TYPES, ids=TYPE_IDS.get)


def ones(bits, n_in, group):
    """A packed weight of one row, for its columns."""
    return PACKERS[bits](np.ones((1, n_in)), group)


def within(shape, dtype):
    """An array to write to, and it with a poisoned row before and behind."""
    room = guarded_empty((shape[0] + 2, *shape[1:]), dtype)
    return room[1:-1], room


def untouched(room):
    """Whether the rows before and behind are as they were."""
    edges = np.concatenate([room[:1], room[-1:]]).view(np.uint8)
    return bool((edges == 0xFF).all())


def round_on_device(
    library, x, kind, packed, bits, top=127, with_sums=True, static_scale=0.0
):
    """Codes, sums and scales of rows, by the kernel."""
    columns = columns_of(packed)
    n_rows = len(x)
    codes, codes_room = within((n_rows, columns.n_columns), np.int8)
    sums, sums_room = within((n_rows, columns.n_groups), np.int32)
    scale, scale_room = within((n_rows,), np.float32)
    code = library.uqlib_quantize_rows(
        pointer(x),
        kind,
        pointer(codes),
        pointer(sums if with_sums else None),
        pointer(scale),
        n_rows,
        ctypes.byref(columns),
        bits,
        top,
        ctypes.c_float(static_scale),
        None,
    )
    check(library, code)
    assert untouched(codes_room)
    assert untouched(sums_room)
    assert untouched(scale_room)
    return codes, sums, scale


def weight_of(bits, n_out, n_in, group, zeros, seed=0):
    """A weight of random codes, with zero points of some kind, or a codebook."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**bits, size=(n_out, n_in), dtype=np.uint8)
    n_groups = -(-n_in // (group or n_in))
    shape = (n_out, n_groups)
    scale = rng.uniform(0.001, 1, size=shape).astype(np.float32)
    zero = {
        "uniform": np.float32(2**bits / 2 - 0.5),
        "halves": rng.integers(0, 2 ** (bits + 1), size=shape) / 2,
        "any": rng.uniform(-3, 2**bits + 3, size=shape),
        "codebook": None,
        "shifted codebook": rng.normal(size=shape),
    }[zeros]
    if zeros.endswith("codebook"):
        book = np.sort(rng.normal(size=16)).astype(np.float32)
        return pack.pack_codebook(codes, book, group, scale=scale, zero_point=zero)
    return PACKERS[bits](codes, group, scale=scale, zero_point=zero)


def expand_on_device(library, packed):
    """The codes of a weight a byte each, by the kernel."""
    product = _emulated.product(packed, np.empty((0, 1)), None)
    codes, room = within((product.n_out, product.n_columns), np.int8)
    code = library.uqlib_expand_codes(
        ctypes.byref(product), packed.bits, pointer(codes), None
    )
    check(library, code)
    assert untouched(room)
    return codes
