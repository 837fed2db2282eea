"""What one core can do: bandwidth of each memory, and products a second.

Run `python tests/benchmarks/roofline.py`; it prints a table for the documentation and
`kernels/README.md`. CPU time of one thread, the best of several turns.
"""

# isort: off
import _timing  # noqa: F401 - first: it pins the threads

# isort: on
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import numpy as np  # noqa: E402
from numba import extending, njit, types  # noqa: E402
from run import machine  # noqa: E402

from uqlib_kernels import _ir as v  # noqa: E402
from uqlib_kernels.pack import aligned_empty  # noqa: E402
from uqlib_kernels.registry import available_isas, isa  # noqa: E402

TURNS, TURN_SECONDS = 9, 0.05
STREAMS = 8  # vectors that are read at a time
SUMS = 16  # sums that are independent: the latency of a product is hidden
SIZES = {"256 KiB": 2**18, "4 MiB": 2**22, "64 MiB": 2**26, "512 MiB": 2**29}


def main() -> None:
    """Measure and print."""
    print(machine())
    print(f"Levels of instructions: {', '.join(available_isas())}; {isa()} is used.\n")
    print(".. list-table::\n   :header-rows: 1\n")
    for row in [("One core", "Reached", "Measured with"), *rows()]:
        for column, cell in enumerate(row):
            print(f"   {'* -' if column == 0 else '  -'} {cell}", flush=True)


def rows() -> Iterator[tuple[str, str, str]]:
    """Yield the lines of the table."""
    for name, size in SIZES.items():
        rate = read_bytes(size) / 1e9
        yield f"reading {name}", f"{rate:.0f} GB/s", "loads of 64 bytes, in order"
    yield "float32", f"{blas() / 1e9:,.0f} GFLOP/s", "BLAS of NumPy, 1536 x 1536"
    how = f"fused multiplications and additions to {SUMS} vectors"
    yield "float32", f"{vectors(1.0, 32) / 1e9:,.0f} GFLOP/s", how
    if "vnni" in available_isas():
        how = f"products of bytes added to {SUMS} vectors"
        yield "bytes", f"{vectors(1, 128) / 1e9:,.0f} Gop/s", how
    if "amx" in available_isas():
        how = "products of two by two tiles, operands in the first cache"
        yield "bytes", f"{tiles() / 1e9:,.0f} Gop/s", how


def rate(work: float, call: Callable[[int], Any]) -> float:
    """Return work a second of `call(n)`, which does it n times."""
    n = 1
    while (elapsed := seconds(call, n)) < TURN_SECONDS:
        n = max(2 * n, int(n * TURN_SECONDS / max(elapsed, 1e-6) * 1.1))
    return n * work / min(seconds(call, n) for _ in range(TURNS))


def seconds(call: Callable[[int], Any], n: int) -> float:
    start = time.thread_time()
    call(n)
    return time.thread_time() - start


def read_bytes(size: int) -> float:
    """Return the bytes a second of reading an array again and again."""
    memory = aligned_empty((size,), np.uint8)
    memory[:] = 1
    out = aligned_empty((16,), np.int32)
    read_times(memory, out, 1)
    return rate(size, lambda n: read_times(memory, out, n))


def blas() -> float:
    """Return the floating-point operations a second of a matrix product."""
    size = 1536
    a, b = np.random.default_rng(0).normal(size=(2, size, size)).astype(np.float32)
    out = np.empty_like(a)

    def call(n: int) -> None:
        for _ in range(n):
            np.matmul(a, b, out=out)

    call(1)
    return rate(2.0 * size**3, call)


def vectors(one: float, operations: int) -> float:
    """Return the operations (multiply or add) a second on vectors of a type."""
    kind = np.float32 if isinstance(one, float) else np.int32
    out = aligned_empty((SUMS, 16), kind)
    out[:] = 0
    multiply_times(out, one, 1)
    work = operations * SUMS * 1000
    return rate(work, lambda n: multiply_times(out, one, 1000 * n))


def tiles() -> float:
    """Return the operations a second on tiles of bytes."""
    from uqlib_kernels._amx import TILE_BYTES, begin_tiles, end_tiles, tile_block

    steps = 8

    @njit
    def tiles_times(a: Any, w: Any, out: Any, n: Any) -> None:
        a_at, w_at = np.int64(a.ctypes.data), np.int64(w.ctypes.data)
        out_at = np.int64(out.ctypes.data)
        begin_tiles(None)
        for _ in range(n):
            tile_block(a_at, steps * 64, w_at, steps * 1024, steps, out_at, None, 2, 2)
        end_tiles(None)

    a = np.ones((32, steps * 64), dtype=np.int8)
    w = np.ones((2, steps * TILE_BYTES), dtype=np.uint8)
    out = np.empty((32, 32), dtype=np.int32)
    tiles_times(a, w, out, 1)
    assert (out == steps * 64).all()
    return rate(2.0 * 32 * 32 * 64 * steps, lambda n: tiles_times(a, w, out, n))


@extending.intrinsic
def read_vectors(typing: Any, address: Any, n_vectors: Any, out: Any) -> Any:
    """Add up vectors that lie in order, `STREAMS` sums at a time."""

    def write(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        address, n_vectors, out = arguments
        zero = v.constant(v.I32X16, 0)
        sums = [v.variable(b, zero) for _ in range(STREAMS)]
        with v.counted(b, n_vectors, STREAMS) as index:
            at = v.add_bytes(b, address, b.mul(index, v.constant(v.I64, 64)))
            for k, place in enumerate(sums):
                vector = v.load(b, v.add_bytes(b, at, 64 * k), v.I32X16)
                b.store(b.add(b.load(place), vector), place)
        total = v.load(b, out, v.I32X16)
        for place in sums:
            total = b.add(total, b.load(place))
        v.store(b, total, out)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), write


@njit
def read_times(memory: Any, out: Any, n: Any) -> None:
    at, n_vectors = np.int64(memory.ctypes.data), np.int64(memory.size // 64)
    for _ in range(n):
        read_vectors(at, n_vectors, np.int64(out.ctypes.data))


@extending.intrinsic
def multiply_vectors(typing: Any, out: Any, one: Any, n: Any) -> Any:
    """Add n products to each of `SUMS` sums: of floats, or bytes if `one` is an int."""
    floats = isinstance(one, types.Float)
    kind = v.F32X16 if floats else v.I32X16

    def add_product(b: Any, total: Any, factor: Any) -> Any:
        if not floats:
            return v.dot_bytes(b, total, factor, factor)
        return v.call(b, "llvm.fmuladd.v16f32", kind, total, factor, factor)

    def write(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        out, _, n = arguments
        places = [v.add_bytes(b, out, 64 * k) for k in range(SUMS)]
        sums = [v.variable(b, v.load(b, place, kind)) for place in places]
        factor = v.load(b, out, kind)  # not known before it runs
        with v.counted(b, n):
            for place in sums:
                b.store(add_product(b, b.load(place), factor), place)
        for place, total in zip(places, sums, strict=True):
            v.store(b, b.load(total), place)
        return context.get_dummy_value()

    return types.void(types.int64, one, types.int64), write


@njit
def multiply_times(out: Any, one: Any, n: Any) -> None:
    multiply_vectors(np.int64(out.ctypes.data), one, np.int64(n))


if __name__ == "__main__":
    main()
