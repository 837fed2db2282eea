"""Products with more rows on an emulated GPU, against sums from the definition."""

import ctypes

import numpy as np
import pytest

from tests.kernels.cuda._emulated import (
    BFLOAT16,
    FLOAT,
    HALF,
    INT8,
    SEEDS,
    check,
    columns_of,
    emulated,
    free_guarded,
    from_bits,
    guarded,
    guarded_empty,
    input_order,
    pairs_of,
    placed,
    product,
    to_bits,
)
from uqlib_kernels._packed import unpack_codes
from uqlib_kernels.pack import pack_codebook, pack_w1, pack_w2, pack_w4, pack_w8

PACK = {8: pack_w8, 4: pack_w4, 2: pack_w2, 1: pack_w1}
INVALID = -1
LARGEST_ERROR = {FLOAT: 0.0, HALF: 2.0**-11, BFLOAT16: 2.0**-8}  # relative, of rounding


@pytest.fixture(autouse=True)
def _memory():
    yield
    free_guarded()


def _library():
    return emulated("gemm")


class _Case:
    """A product, its exact result, and what an absolute error may be a part of.

    `result` and `weight` are in float64 and of the values that the kernel gets;
    `magnitude` is the sum of the absolute values of all terms: of (q - c) x and of
    (c - z) x for the center c of the codes. With `exact`, every number is a small
    multiple of a power of two, so that floats hold all sums.
    """

    def __init__(
        self,
        bits,
        type_,
        n_rows,
        n_out,
        n_in,
        group=None,
        zero=None,
        codebook=False,
        bias=False,
        out=FLOAT,
        exact=False,
        seed=0,
    ):
        rng = np.random.default_rng(seed)
        group = group or n_in
        n_groups = -(-n_in // group)
        codes = rng.integers(0, 2**bits, (n_out, n_in))
        scale = rng.uniform(0.5, 2.0, (n_out, n_groups)).astype(np.float32)
        if exact and type_ == INT8:
            scale[:] = 1.0
        elif exact:
            scale = 2.0 ** rng.integers(-1, 2, scale.shape).astype(np.float32)
        center = {8: 128.0, 4: 8.0, 2: 1.5, 1: 0.5}[bits]
        default = 0.0 if codebook else center
        zero_point = {
            None: default,
            "whole": 2.0 ** (bits - 1) + 1.0,
            "half": center - 0.5,
            "fraction": 0.3 * 2**bits,
            "outside": -3.0,
            "groups": rng.integers(0, 2**bits, (n_out, n_groups)).astype(float),
            "fractions": rng.uniform(0, 2**bits, (n_out, n_groups)),
            "eighths": rng.integers(-8, 2**bits * 8 + 8, (n_out, n_groups)) / 8,
        }[zero]
        if codebook:
            # Both types of 16 bits hold these.
            values = np.sort(rng.permutation(np.arange(-127, 128))[:16] / 64.0)
            packed = pack_codebook(
                codes, values, group, scale=scale, zero_point=zero_point
            )
            values, center = values[unpack_codes(packed)], 0.0
        else:
            packed = PACK[bits](codes, group, scale=scale, zero_point=zero_point)
            values = codes
        group_of = np.arange(n_in) // group
        zeros = np.broadcast_to(np.float32(zero_point), (n_out, n_groups))
        zeros = zeros.astype(np.float64)[:, group_of]
        numbers = values - zeros
        by_column = scale.astype(np.float64)[:, group_of]
        self.weight = numbers * by_column
        self.bits, self.type, self.out, self.packed = bits, type_, out, packed
        self.arrays = {}
        if type_ == INT8:
            rows = rng.integers(-127, 128, (n_rows, n_in)).astype(np.int8)
            x = placed(rows, packed)
            columns = columns_of(packed)
            used = x[:, : columns.n_groups * columns.group_columns].astype(np.int32)
            sums = used.reshape(n_rows, columns.n_groups, -1).sum(axis=2)
            self.arrays["group_sums"] = guarded(sums.astype(np.int32))
            row_scale = np.ones(n_rows) if exact else rng.uniform(0.1, 1.0, n_rows)
            row_scale = row_scale.astype(np.float32)
            self.arrays["row_scale"] = guarded(row_scale)
            self.rows = rows.astype(np.float64) * row_scale[:, None]
            self.x = guarded(input_order(x, bits))
            largest = 128.0 if bits == 8 else 2.0**bits
            self.magnitude = (np.abs(self.rows) @ np.full((n_in, n_out), largest)) * 2.0
        else:
            x = rng.normal(size=(n_rows, n_in))
            if exact:
                x = rng.integers(-4, 5, (n_rows, n_in)) / 2
            rows = to_bits(x, type_)
            self.rows = from_bits(rows, type_)
            self.x = guarded(placed(rows, packed))
            size = (np.abs(values - center) + np.abs(center - zeros)) * by_column
            self.magnitude = np.abs(self.rows) @ size.T
        if codebook:
            self.arrays["pairs"] = guarded(pairs_of(packed.codebook, type_))
        self.result = self.rows @ self.weight.T
        if bias:
            added = rng.normal(size=n_out).astype(np.float32)
            self.arrays["bias"] = guarded(added)
            self.result = self.result + added.astype(np.float64)

    def run(self, multiprocessors=3, seed=0):
        """The result in the numbers of its type; checks what lies around it."""
        library = _library()
        library.uqlib_emulate(seed, multiprocessors)
        dtype = np.float32 if self.out == FLOAT else np.uint16
        y = guarded_empty((len(self.x), self.packed.n_out), dtype)
        made = product(self.packed, self.x, y, **self.arrays)
        n_parts = library.uqlib_gemm_parts(
            ctypes.byref(made), self.bits, multiprocessors
        )
        parts = guarded_empty(n_parts, np.float32)
        if n_parts:
            made.parts = parts.ctypes.data
        check(library, self.call(made, multiprocessors))
        return y

    def call(self, made, multiprocessors=3):
        """The code of the launcher."""
        return _library().uqlib_gemm(
            ctypes.byref(made), self.type, self.bits, self.out, multiprocessors, None
        )

    def check(self, y):
        result = from_bits(y, self.out)
        allowed = 2.0**-20 * (self.magnitude + np.abs(self.result))  # of sums
        allowed = allowed + LARGEST_ERROR[self.out] * np.abs(self.result)
        np.testing.assert_array_less(np.abs(result - self.result), allowed + 1e-30)


FLOAT_CASES = {
    "w4": {"bits": 4, "n_out": 40, "n_in": 200, "group": 64, "bias": True},
    "w4-group32": {"bits": 4, "n_out": 16, "n_in": 160, "group": 32, "zero": "groups"},
    "w4-ragged-groups": {"bits": 4, "n_out": 7, "n_in": 333, "group": 100},
    "w4-row": {"bits": 4, "n_out": 24, "n_in": 449, "zero": "half", "bias": True},
    "w4-fraction": {"bits": 4, "n_out": 16, "n_in": 128, "zero": "fraction"},
    "w4-fractions": {"bits": 4, "n_out": 20, "n_in": 300, "zero": "fractions"},
    "w4-outside": {"bits": 4, "n_out": 16, "n_in": 100, "zero": "outside"},
    "w4-strips": {"bits": 4, "n_out": 272, "n_in": 130, "group": 64},
    "codebook": {"bits": 4, "n_out": 33, "n_in": 190, "group": 64, "codebook": True},
    "codebook-zero": {
        "bits": 4,
        "n_out": 20,
        "n_in": 190,
        "zero": "fraction",
        "codebook": True,
    },
    "codebook-zeros": {
        "bits": 4,
        "n_out": 33,
        "n_in": 190,
        "group": 64,
        "zero": "fractions",
        "codebook": True,
    },
    "w8": {"bits": 8, "n_out": 40, "n_in": 300, "group": 100, "zero": "groups"},
    "w8-row": {"bits": 8, "n_out": 17, "n_in": 257, "zero": "half", "bias": True},
    "w8-whole": {"bits": 8, "n_out": 16, "n_in": 100, "zero": "whole"},
    "w8-fractions": {
        "bits": 8,
        "n_out": 16,
        "n_in": 300,
        "group": 64,
        "zero": "fractions",
    },
    "w2": {"bits": 2, "n_out": 20, "n_in": 300, "group": 32, "zero": "groups"},
    "w2-row": {"bits": 2, "n_out": 35, "n_in": 700, "bias": True},
    "w2-half": {"bits": 2, "n_out": 16, "n_in": 100, "zero": "half"},
    "w2-fractions": {
        "bits": 2,
        "n_out": 16,
        "n_in": 700,
        "group": 96,
        "zero": "fractions",
    },
    "w1": {"bits": 1, "n_out": 20, "n_in": 600, "group": 96, "bias": True},
    "w1-fractions": {
        "bits": 1,
        "n_out": 16,
        "n_in": 600,
        "group": 32,
        "zero": "fractions",
    },
    "w1-row": {"bits": 1, "n_out": 16, "n_in": 100, "zero": "fraction"},
}
ROWS = {HALF: 17, BFLOAT16: 33}
INTEGER_CASES = {
    "w8": {"bits": 8, "n_out": 40, "n_in": 300, "bias": True},
    "w8-groups": {"bits": 8, "n_out": 20, "n_in": 300, "group": 64, "zero": "groups"},
    "w4": {"bits": 4, "n_out": 40, "n_in": 200, "group": 64, "bias": True},
    "w4-zeros": {"bits": 4, "n_out": 33, "n_in": 500, "group": 100, "zero": "groups"},
    "w4-row": {"bits": 4, "n_out": 16, "n_in": 513, "zero": "fraction"},
    "w4-group32": {"bits": 4, "n_out": 16, "n_in": 160, "group": 32, "zero": "half"},
    "w2": {"bits": 2, "n_out": 20, "n_in": 300, "group": 32, "zero": "groups"},
    "w1": {"bits": 1, "n_out": 20, "n_in": 600, "group": 96, "bias": True},
}


@pytest.mark.parametrize("type_", [HALF, BFLOAT16])
@pytest.mark.parametrize("name", FLOAT_CASES)
def test_floats(name, type_):
    case = _Case(type_=type_, n_rows=ROWS[type_], **FLOAT_CASES[name])
    case.check(case.run())


@pytest.mark.parametrize("n_rows", [20, 40])
@pytest.mark.parametrize("name", INTEGER_CASES)
def test_integers(name, n_rows):
    case = _Case(type_=INT8, n_rows=n_rows, **INTEGER_CASES[name])
    case.check(case.run())


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@pytest.mark.parametrize(
    ("type_", "zero"),
    [(INT8, "half"), (HALF, None), (HALF, "eighths"), (BFLOAT16, "eighths")],
)
def test_sums_are_exact(bits, type_, zero):
    """Where single precision holds every step no weight may be rounded."""
    for n_rows, multiprocessors in ((19, 1), (40, 5)):
        case = _Case(bits, type_, n_rows, 20, 500, 128, zero=zero, exact=True)
        unit = 2.0**-1 if type_ == INT8 else 2.0**-5  # all sums are multiples of it
        assert np.abs(case.result).max() < 2**24 * unit
        np.testing.assert_array_equal(case.run(multiprocessors), case.result)


def test_sums_of_a_codebook_with_zeros_are_exact():
    case = _Case(
        4, BFLOAT16, 40, 20, 500, 128, zero="eighths", codebook=True, exact=True
    )
    np.testing.assert_array_equal(case.run(), case.result)


@pytest.mark.parametrize("out", [HALF, BFLOAT16])
@pytest.mark.parametrize("type_", [HALF, INT8])
def test_types_of_results(type_, out):
    # Whole tiles are written by the first kernel, others by the second.
    for multiprocessors in (1, 3):
        case = _Case(4, type_, 18, 35, 700, 128, bias=True, out=out)
        if type_ == INT8:  # into the range of half precision
            case.arrays["row_scale"][:] *= np.float32(2.0**-7)
            bias = case.arrays["bias"].astype(np.float64)
            case.result = (case.result - bias) / 2**7 + bias
        case.check(case.run(multiprocessors))


@pytest.mark.parametrize("n_rows", [1, 16, 32, 64, 65, 130])
def test_rows(n_rows):
    case = _Case(4, HALF, n_rows, 16, 130, 64)
    case.check(case.run())


@pytest.mark.parametrize("type_", [HALF, INT8])
@pytest.mark.parametrize("multiprocessors", [1, 2, 3, 5, 132])
def test_any_partition(type_, multiprocessors):
    """Groups of 96 columns are cut in their middle by runs of whole steps."""
    case = _Case(4, type_, 34, 272, 64 * 9, 96, zero="fractions", bias=True)
    case.check(case.run(multiprocessors))


@pytest.mark.parametrize(
    ("bits", "type_", "codebook"),
    [(4, HALF, False), (4, BFLOAT16, True), (8, INT8, False), (1, HALF, False)],
)
def test_same_bits_in_any_order(bits, type_, codebook):
    """The order in which threads run and copies arrive changes nothing."""
    case = _Case(bits, type_, 20, 48, 600, 128, codebook=codebook, zero="fractions")
    first = case.run(3, SEEDS[0])
    for seed in SEEDS[1:]:
        np.testing.assert_array_equal(case.run(3, seed), first)


def test_other_rows_do_not_matter():
    """A row of NaN or infinities stays by itself."""
    case = _Case(2, HALF, 20, 32, 200, 64)
    clean = case.run()
    rows = case.x.view(np.float16)
    rows[3, 5], rows[7, 0], rows[11, 9] = np.nan, np.inf, -np.inf
    bad = case.run()
    assert np.isnan(bad[3]).all()
    # No number q - 1.5 is zero: infinities have the sign of the weight.
    np.testing.assert_array_equal(bad[7], np.copysign(np.inf, case.weight[:, 0]))
    np.testing.assert_array_equal(bad[11], np.copysign(np.inf, -case.weight[:, 9]))
    others = np.setdiff1d(np.arange(20), [3, 7, 11])
    np.testing.assert_array_equal(bad[others], clean[others])


def test_zeros_give_the_bias():
    case = _Case(4, INT8, 17, 32, 200, 64, zero="groups", bias=True)
    case.x[:] = 0
    case.arrays["group_sums"][:] = 0
    np.testing.assert_array_equal(
        case.run(), np.tile(case.arrays["bias"], (17, 1)).astype(np.float32)
    )


def test_row_scale_of_floats():
    case = _Case(4, HALF, 17, 32, 200, 64, bias=True)
    bias = case.arrays["bias"].astype(np.float64)
    factor = np.linspace(0.5, 4.0, 17).astype(np.float32)
    case.arrays["row_scale"] = guarded(factor)
    case.result = (case.result - bias) * factor[:, None] + bias
    case.magnitude = case.magnitude * factor[:, None]
    case.check(case.run())


def test_no_sums_are_read_where_codes_lie_about_their_center():
    case = _Case(4, INT8, 17, 16, 128, 64)
    del case.arrays["group_sums"]
    case.check(case.run())


@pytest.mark.parametrize(
    "change",
    [
        {"x": None},
        {"weight": None},
        {"scale": None},
        {"y": None},
        {"n_rows": -1},
        {"n_out": 24},
        {"n_true_out": 0},
        {"n_true_out": 33},
        {"n_columns": 96},
        {"n_columns": 0},
        {"n_rows": 1 << 24, "n_out": 1 << 20},
        {"group_columns": 48},
        {"group_columns": 0},
        {"n_groups": 0},
        {"n_groups": 5},
        {"group_sums": None},
        {"pairs": 64},
        {"parts": None},
    ],
)
def test_invalid_operands(change):
    case = _Case(4, INT8, 17, 32, 768, 192, zero="half")
    y = guarded_empty((17, 32), np.float32)
    made = product(case.packed, case.x, y, **case.arrays)
    n_parts = _library().uqlib_gemm_parts(ctypes.byref(made), 4, 3)
    assert n_parts > 0
    parts = guarded_empty(n_parts, np.float32)
    made.parts = parts.ctypes.data
    for name, value in change.items():
        setattr(made, name, value)
    assert case.call(made) == INVALID
    assert (y.view(np.uint8) == 0xFF).all()


@pytest.mark.parametrize(
    ("type_", "bits", "out", "multiprocessors"),
    [
        (FLOAT, 4, FLOAT, 3),
        (4, 4, FLOAT, 3),
        (HALF, 3, FLOAT, 3),
        (HALF, 4, INT8, 3),
        (HALF, 4, -1, 3),
        (HALF, 4, FLOAT, 0),
    ],
)
def test_invalid_kinds(type_, bits, out, multiprocessors):
    case = _Case(4, HALF, 17, 32, 192, 64)
    y = guarded_empty((17, 32), np.float32)
    made = product(case.packed, case.x, y)
    code = _library().uqlib_gemm(
        ctypes.byref(made), type_, bits, out, multiprocessors, None
    )
    assert code == INVALID
    assert (y.view(np.uint8) == 0xFF).all()


def test_operands_of_floats_that_no_kernel_takes():
    case = _Case(4, HALF, 17, 32, 192, 192, zero="fractions")
    y = guarded_empty((17, 32), np.float32)
    made = product(case.packed, case.x, y)
    # One run of all steps has no parts, but the sums of groups need room.
    n_parts = _library().uqlib_gemm_parts(ctypes.byref(made), 4, 1)
    assert n_parts == 17
    assert case.call(made, 1) == INVALID
    made.parts = guarded_empty(n_parts, np.float32).ctypes.data
    made.group_sums = made.x
    assert case.call(made, 1) == INVALID
    made.group_sums = None
    assert (y.view(np.uint8) == 0xFF).all()
    assert case.call(made, 1) == 0
    case.check(y)


def test_codebooks_have_4_bits():
    case = _Case(2, HALF, 17, 32, 256)
    y = guarded_empty((17, 32), np.float32)
    made = product(case.packed, case.x, y, pairs=guarded(np.zeros(256, np.uint32)))
    assert case.call(made, 1) == INVALID


def test_no_rows():
    case = _Case(4, HALF, 17, 32, 192, 64)
    made = product(case.packed, case.x, None)
    made.n_rows = 0
    assert case.call(made) == 0
    assert _library().uqlib_gemm(None, HALF, 4, FLOAT, 3, None) == INVALID
