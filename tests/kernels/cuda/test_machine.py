"""The emulation of a GPU: what it promises, and the mistakes that it must notice.

Tests of the kernels rest on it, so its parts are held to what NVIDIA documents: the
layouts of operands of tensor cores are written here once more, number by number.
"""

import ctypes
import subprocess
import sys

import numpy as np
import pytest

from tests._public import ROOT
from tests.kernels.cuda._emulated import (
    BFLOAT16,
    HALF,
    INT8,
    free_guarded,
    from_bits,
    guarded,
    pointer,
    to_bits,
)
from tests.kernels.cuda._host_library import host_library

THREADS = 64
MANY_SEEDS = range(20)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def machine():
    library = host_library("machine_kernels")
    library.machine_message.restype = ctypes.c_char_p
    for name in ("machine_subtract_pairs", "machine_pair_of", "machine_permute_bytes"):
        getattr(library, name).restype = ctypes.c_uint32
    library.machine_pair_of.argtypes = [ctypes.c_int, ctypes.c_float, ctypes.c_float]
    library.machine_sizes.argtypes = [ctypes.c_int] * 3 + [ctypes.c_int64]
    library.machine_seed(0)
    return library


# ---------------------------------------------------------------------------
# Threads.


def test_every_thread_of_every_block_runs_once(machine):
    out = np.full((4, 3, 2, 70, 4), -1, dtype=np.int32)
    assert machine.machine_indices(2, 3, 4, 70, pointer(out)) == 0
    z, y, x, i = np.ogrid[:4, :3, :2, :70]
    for part, expected in enumerate((x, y, z, i)):
        np.testing.assert_array_equal(
            out[..., part], np.broadcast_to(expected, (4, 3, 2, 70))
        )


@pytest.mark.parametrize("mask", [1, 7, 16, 31])
def test_shuffles(machine, mask):
    v = RNG.integers(-99, 99, THREADS).astype(np.float32)
    source = RNG.integers(0, 32, THREADS).astype(np.int32)
    out = np.zeros((3, THREADS), dtype=np.float32)
    arguments = (pointer(v), pointer(source), mask, pointer(out))
    assert machine.machine_shuffles(*arguments) == 0
    i = np.arange(THREADS)
    np.testing.assert_array_equal(out[0], v[i ^ mask])
    np.testing.assert_array_equal(out[1], v[i // 32 * 32 + source])
    np.testing.assert_array_equal(out[2], np.repeat(v.reshape(2, 32).sum(axis=1), 32))


def test_ballots(machine):
    holds = RNG.integers(0, 2, THREADS).astype(np.int32)
    out = np.zeros(4, dtype=np.uint32)
    assert machine.machine_ballots(pointer(holds), pointer(out)) == 0
    lanes = holds.reshape(2, 32)
    np.testing.assert_array_equal(out[:2], lanes @ (1 << np.arange(32)))
    np.testing.assert_array_equal(out[2:], lanes.sum(axis=1))


def reversed_by_seed(machine, barrier, of_block):
    v = np.arange(96, dtype=np.int32)
    for seed in MANY_SEEDS:
        machine.machine_seed(seed)
        out = np.zeros_like(v)
        arguments = (barrier, of_block, pointer(v), len(v), pointer(out))
        assert machine.machine_reverse(*arguments) == 0
        spans = v if of_block else v.reshape(-1, 32)
        yield (out == np.flip(spans, axis=-1).ravel()).all()


@pytest.mark.parametrize("of_block", [False, True])
def test_barriers(machine, of_block):
    assert all(reversed_by_seed(machine, True, of_block))
    assert not any(reversed_by_seed(machine, False, of_block))


# ---------------------------------------------------------------------------
# Copies in the background.


def pipelined(machine, n_words, pending, seed, n_valid=None):
    rounds = 7
    words = RNG.integers(0, 2**31, (rounds * THREADS, n_words)).astype(np.uint32)
    out = np.zeros_like(words)
    n_valid = len(words) if n_valid is None else n_valid
    machine.machine_seed(seed)
    # What is not valid is never read: only that much of the memory is there.
    given = guarded(words[:n_valid])
    code = machine.machine_pipeline(
        n_words, pending, pointer(given), rounds, n_valid, pointer(out)
    )
    assert code == 0
    words[n_valid:] = 0
    return (out == words).all()


@pytest.mark.parametrize("n_words", [4, 1])
def test_copies_are_there_after_the_wait(machine, n_words):
    assert all(pipelined(machine, n_words, 2, seed) for seed in MANY_SEEDS)
    assert all(pipelined(machine, n_words, 2, seed, 100) for seed in MANY_SEEDS)
    free_guarded()


@pytest.mark.parametrize("n_words", [4, 1])
def test_a_wait_for_too_few_copies_shows(machine, n_words):
    assert not any(pipelined(machine, n_words, 3, seed) for seed in MANY_SEEDS)
    free_guarded()


# ---------------------------------------------------------------------------
# Tensor cores: the rows and columns of what lane 4 g + t holds, as the PTX ISA tells
# them for m16n8k16 (two numbers to a register) and m16n8k32 (four).


def operand_a(per_word):
    """Row and column of number i of a lane, (32, 4 per_word) each."""
    lane, i = np.ogrid[:32, : 4 * per_word]
    g, t = lane // 4, lane % 4
    if per_word == 2:
        row = np.where((i < 2) | ((i >= 4) & (i < 6)), g, g + 8)
        column = np.where(i < 4, 2 * t + i % 2, 2 * t + i % 2 + 8)
    else:
        row = np.where((i < 4) | ((i >= 8) & (i < 12)), g, g + 8)
        column = np.where(i < 8, 4 * t + i % 4, 4 * t + i % 4 + 16)
    return row, column


def operand_b(per_word):
    lane, i = np.ogrid[:32, : 2 * per_word]
    g, t = lane // 4, lane % 4
    if per_word == 2:
        row = np.where(i < 2, 2 * t + i % 2, 2 * t + i % 2 + 8)
    else:
        row = np.where(i < 4, 4 * t + i % 4, 4 * t + i % 4 + 16)
    return row, g + 0 * row


def result():
    lane, i = np.ogrid[:32, :4]
    return np.where(i < 2, lane // 4, lane // 4 + 8), 2 * (lane % 4) + i % 2


def product(machine, kind, a, b, d):
    """A b + d by the emulated tensor core; operands are bits of numbers."""
    per_word = 4 // a.itemsize
    mine = np.ascontiguousarray(a[operand_a(per_word)])
    other = np.ascontiguousarray(b[operand_b(per_word)])
    sums = np.ascontiguousarray(d[result()])
    assert mine.shape == (32, 4 * per_word)
    code = machine.machine_products(kind, pointer(mine), pointer(other), pointer(sums))
    assert code == 0
    out = np.zeros_like(d)
    out[result()] = sums
    return out


def test_products_of_bytes(machine):
    for _ in range(5):
        a = RNG.integers(-128, 128, (16, 32)).astype(np.int8)
        b = RNG.integers(-128, 128, (32, 8)).astype(np.int8)
        d = RNG.integers(-(2**20), 2**20, (16, 8)).astype(np.int32)
        expected = a.astype(int) @ b.astype(int) + d
        np.testing.assert_array_equal(product(machine, INT8, a, b, d), expected)


@pytest.mark.parametrize("kind", [HALF, BFLOAT16])
def test_products_of_floats(machine, kind):
    for _ in range(5):
        a, b = RNG.normal(size=(16, 16)), RNG.normal(size=(16, 8))
        a, b = to_bits(a, kind), to_bits(b, kind)
        d = RNG.normal(size=(16, 8)).astype(np.float32)
        expected = from_bits(a, kind) @ from_bits(b, kind) + d
        found = product(machine, kind, a, b, d)
        # The emulation sums in double precision and rounds once.
        np.testing.assert_allclose(found, expected, rtol=2**-23, atol=1e-14)


# ---------------------------------------------------------------------------
# Numbers.


def all_floats(kind):
    """All 65536 numbers of a type by its definition: fields of sign, exponent, rest."""
    n_mantissa = 10 if kind == HALF else 7
    bits = np.arange(65536)
    bias = 2 ** (14 - n_mantissa) - 1
    mantissa = bits % 2**n_mantissa
    exponent = bits >> n_mantissa & (2 ** (15 - n_mantissa) - 1)
    whole = np.where(exponent > 0, mantissa + 2**n_mantissa, mantissa)
    value = np.ldexp(whole.astype(float), np.maximum(exponent, 1) - bias - n_mantissa)
    top = exponent == 2 ** (15 - n_mantissa) - 1
    value[top] = np.where(mantissa[top] > 0, np.nan, np.inf)
    return np.where(bits >> 15, -value, value)


@pytest.mark.parametrize("kind", [HALF, BFLOAT16])
def test_numbers_of_16_bits_as_floats(machine, kind):
    out = np.zeros(65536, dtype=np.float32)
    machine.machine_to_float(kind, pointer(out))
    np.testing.assert_array_equal(out.astype(float), all_floats(kind))
    np.testing.assert_array_equal(np.signbit(out)[[0, 32768]], [False, True])


@pytest.mark.parametrize("kind", [HALF, BFLOAT16])
def test_floats_as_numbers_of_16_bits(machine, kind):
    """The nearest of all numbers; of two that are as near, the even one."""
    numbers = all_floats(kind)[:32768]
    numbers = numbers[np.isfinite(numbers)]
    beyond = 2 * numbers[-1] - numbers[-2]  # where infinity begins, halfway from here
    ladder = np.append(numbers, beyond)
    between = ((ladder[:-1] + ladder[1:]) / 2).astype(np.float32)
    wild = RNG.integers(0, 2**31, 50_000).astype(np.uint32).view(np.float32)
    wild = wild[np.isfinite(wild)]
    values = np.concatenate(
        [
            numbers.astype(np.float32),
            between,
            np.nextafter(between, np.float32(0)),
            np.nextafter(between, np.float32(np.inf)),
            wild,
            np.float32([0.0, np.inf]),
        ]
    )
    above = np.searchsorted(ladder, values).clip(1, len(ladder) - 1)
    up = ladder[above] - values.astype(float)
    down = values.astype(float) - ladder[above - 1]
    expected = np.where(
        (up < down) | ((up == down) & (above % 2 == 0)), above, above - 1
    )
    expected[values >= between[-1]] = len(numbers)
    for sign in (0, 0x8000):
        given = np.copysign(values, np.float32(-1.0 if sign else 1.0))
        out = np.zeros(len(values), dtype=np.uint16)
        machine.machine_from_float(kind, pointer(given), len(given), pointer(out))
        np.testing.assert_array_equal(out, expected | sign)
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(out, to_bits(given, kind))


@pytest.mark.parametrize("kind", [HALF, BFLOAT16])
def test_nan_becomes_nan(machine, kind):
    given = np.float32([np.nan, -np.nan])
    out = np.zeros(2, dtype=np.uint16)
    machine.machine_from_float(kind, pointer(given), 2, pointer(out))
    assert np.isnan(all_floats(kind)[out]).all()


@pytest.mark.parametrize("kind", [HALF, BFLOAT16])
def test_pairs(machine, kind):
    numbers = all_floats(kind)
    finite = np.flatnonzero(np.isfinite(numbers))
    for _ in range(200):
        a, b, c, d = (int(i) for i in RNG.choice(finite, 4))
        found = machine.machine_subtract_pairs(kind, a | b << 16, c | d << 16)
        with np.errstate(over="ignore"):
            # Exact in double precision, or nearer to one of two than the other.
            differences = np.float32(numbers[[a, b]] - numbers[[c, d]])
            low, high = to_bits(differences, kind).tolist()
        assert found == low | high << 16
        x, y = np.float32(RNG.normal(size=2))
        low, high = to_bits([x, y], kind).tolist()
        assert machine.machine_pair_of(kind, x, y) == low | high << 16


def test_bytes_are_permuted(machine):
    for _ in range(50):
        both = RNG.integers(0, 256, 8)
        a, b = both.astype(np.uint8).view("<u4")
        chosen = RNG.integers(0, 8, 4)
        selector = int(sum(c << 4 * i for i, c in enumerate(chosen)))
        found = machine.machine_permute_bytes(int(a), int(b), selector)
        assert found == int(sum(int(both[c]) << 8 * i for i, c in enumerate(chosen)))


# ---------------------------------------------------------------------------
# What ends a launch.

ENDED = 719
DEADLOCK, DIVERGENCE, EARLY_END, MISALIGNED, MISALIGNED_WORD, NO_WAIT, BARRIERS = range(
    7
)
MISTAKES = [
    (DEADLOCK, THREADS, "wait for ever: some did not reach a barrier of the block"),
    (DIVERGENCE, THREADS, "are at .* and "),
    (DIVERGENCE, THREADS - 1, "whole warps"),
    (EARLY_END, THREADS, "wait for ever: some did not reach a barrier of shuffle_xor"),
    (MISALIGNED, THREADS, "not a multiple of 16"),
    (MISALIGNED_WORD, THREADS, "not a multiple of 4"),
    (NO_WAIT, THREADS, "ends before its copies do"),
    (BARRIERS, THREADS, "wait for ever"),
]


@pytest.mark.parametrize(("which", "threads", "message"), MISTAKES)
def test_mistakes_end_a_launch(machine, which, threads, message):
    words = np.zeros((THREADS, 4), dtype=np.uint32)
    for seed in MANY_SEEDS:
        machine.machine_seed(seed)
        code = machine.machine_mistakes(which, pointer(words), threads)
        with pytest.raises(RuntimeError, match=message):
            raise RuntimeError(f"{code}: {machine.machine_message(code).decode()}")
        assert code == ENDED
    # The next launch is not the worse for it.
    test_every_thread_of_every_block_runs_once(machine)


@pytest.mark.parametrize("offset", [4, 8])
def test_loads_are_aligned(machine, offset):
    memory = np.arange(12, dtype=np.uint32)
    words = memory[-memory.ctypes.data % 16 // 4 :]
    out = np.zeros(3, dtype=np.uint32)
    assert machine.machine_loads(pointer(words), 0, pointer(out)) == 0
    np.testing.assert_array_equal(out, words[[3, 1, 0]])
    assert machine.machine_loads(pointer(words), offset, pointer(out)) == ENDED


def test_sizes_of_launches(machine):
    most = 227 * 1024
    assert machine.machine_sizes(1, 65535, 1, 0) == 0
    assert machine.machine_sizes(1, 1, 1024, most) == 0
    for sizes in [(0, 1, 1, 0), (1, 65536, 1, 0), (1, 1, 1025, 0), (1, 1, 0, 0)]:
        assert machine.machine_sizes(*sizes) == 9, sizes
    assert machine.machine_sizes(1, 1, 1, most + 1) == 9
    assert machine.machine_message(9)


def test_nothing_lies_behind_shared_memory(machine):
    """The process ends at a byte too many, so it is another one."""
    assert machine.machine_touch(64, 63) == 0
    program = (
        "from tests.kernels.cuda._host_library import host_library\n"
        "host_library('machine_kernels').machine_touch(64, 64)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode < 0, done.stderr
