"""The loop over the nodes of 64 trees at a time, for one row."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, types
from numpy.typing import NDArray

from uqlib_kernels import _ir as v
from uqlib_kernels._jit import row_jit
from uqlib_kernels._tree_lanes_bins import search_bins
from uqlib_kernels._tree_portable_bins import FIELDS, bin_categories

__all__ = ["add_leaves", "parts_compiled", "predict_rows"]

KERNEL_VERSION = 2
v.require_version(KERNEL_VERSION)

_intrinsic: Any = extending.intrinsic  # its own types forbid the call in a kernel

_BIT = ir.IntType(1)


def permute_bytes(b: Any, tables: list[Any], places: Any) -> Any:
    """Return the bytes of one or two vectors at places (modulo their number)."""
    if len(tables) == 1:
        name = "llvm.x86.avx512.permvar.qi.512"
        return v.call(b, name, v.I8X64, tables[0], places)
    name = "llvm.x86.avx512.vpermi2var.qi.512"
    return v.call(b, name, v.I8X64, tables[0], places, tables[1])


def part_of_bits(b: Any, bits: Any, first: int, lanes: int) -> Any:
    """Return some lanes of a vector of bits."""
    places = v.constant(v.vector(v.I32, lanes), list(range(first, first + lanes)))
    return b.shuffle_vector(bits, ir.Constant(bits.type, ir.Undefined), places)


@_intrinsic(prefer_literal=True)
def reach_leaves(
    typingctx: Any,
    records: Any,
    n_records: Any,
    bins: Any,
    first_leaves: Any,
    leaves: Any,
    n_parts: Any,
    n_tables: Any,
    bits: Any,
) -> Any:
    """Write the leaves, int32, that a row reaches in 16 `n_parts` trees.

    All but the literals `n_parts`, `n_tables` (64 bins each) and `bits` of a mask are
    addresses or counts.
    """
    parts, width = n_parts.literal_value, bits.literal_value
    tables, lanes = n_tables.literal_value, 512 // bits.literal_value
    kind = v.I32X16 if width == 32 else v.I64X8
    vectors = parts * 16 // lanes

    def codegen(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        records, n_records, bins, first_leaves, leaves = arguments[:5]
        table = [
            v.load(b, v.add_bytes(b, bins, 64 * k), v.I8X64) for k in range(tables)
        ]
        reach = [v.variable(b, v.constant(kind, -1)) for _ in range(vectors)]
        size = v.constant(v.I64, 128 + 64 * vectors)
        with v.counted(b, n_records) as k:
            record = b.add(records, b.mul(k, size))
            places = v.load(b, record, v.I8X64)
            limits = v.load(b, v.add_bytes(b, record, 64), v.I8X64)
            right = b.icmp_unsigned(">", permute_bytes(b, table, places), limits)
            for s in range(vectors):
                keep = v.load(b, v.add_bytes(b, record, 128 + 64 * s), kind)
                old = b.load(reach[s])
                turned = part_of_bits(b, right, lanes * s, lanes)
                b.store(b.select(turned, b.and_(old, keep), old), reach[s])
        small = v.vector(v.I32, lanes)
        name = f"llvm.ctlz.v{lanes}i{width}"
        for s in range(vectors):
            rest = v.constant(_BIT, 1)  # a bit is always left
            leaf = v.call(b, name, kind, b.load(reach[s]), rest)
            leaf = leaf if width == 32 else b.trunc(leaf, small)
            step = 4 * lanes * s
            first = v.load(b, v.add_bytes(b, first_leaves, step), small)
            v.store(b, b.add(leaf, first), v.add_bytes(b, leaves, step))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5, n_parts, n_tables, bits), codegen


def parts_compiled(n_tables: int, bits: int) -> tuple[int, ...]:
    """Return for which numbers of parts `reach_leaves` is compiled, increasing.

    Small groups do without what they do not need only where it counts, at 32 leaves
    and 64 columns.
    """
    if bits == 64:
        return (2, 4)
    return (1, 2, 4) if n_tables == 1 else (4,)


@row_jit
def _reach_group(
    records: int,
    n_records: int,
    bins: int,
    first_leaves: int,
    leaves: int,
    n_parts: int,
    n_tables: int,
    bits: int,
) -> None:
    if bits == 64:
        if n_parts == 2:
            reach_leaves(records, n_records, bins, first_leaves, leaves, 2, 2, 64)
        else:
            reach_leaves(records, n_records, bins, first_leaves, leaves, 4, 2, 64)
    elif n_tables == 2:
        reach_leaves(records, n_records, bins, first_leaves, leaves, 4, 2, 32)
    elif n_parts == 1:
        reach_leaves(records, n_records, bins, first_leaves, leaves, 1, 1, 32)
    elif n_parts == 2:
        reach_leaves(records, n_records, bins, first_leaves, leaves, 2, 1, 32)
    else:
        reach_leaves(records, n_records, bins, first_leaves, leaves, 4, 1, 32)


@row_jit
def predict_rows(
    values: NDArray[Any],
    start: int,
    stop: int,
    plan: NDArray[np.int64],
    data: NDArray[np.uint8],
    out: NDArray[Any],
) -> None:
    """Write the predictions of rows, one after the other; `_packed` makes the plan."""
    n_trees, width, divisor = plan[0], plan[1], plan[2]
    n_tables, bits = plan[3], plan[4]
    numbers, keys = plan[5], plan[7]
    n_numbers = (plan[6] - numbers) // (8 * FIELDS)
    groups = data[plan[13] : plan[14]].view(np.int64)
    tree_output = data[plan[17] : plan[18]].view(np.int32)
    leaf_value = data[plan[19] : plan[20]].view(out.dtype)
    baseline = data[plan[21] : plan[22]].view(out.dtype)
    n_groups = groups.size // 4

    bins = np.zeros(128, dtype=np.uint8)
    leaves = np.empty(64 * n_groups, dtype=np.uint32)
    data_at: Any = np.int64(data.ctypes.data)
    bins_at: Any = np.int64(bins.ctypes.data)
    leaves_at: Any = np.int64(leaves.ctypes.data)
    records_at = data_at + plan[15]
    x_step = np.int64(values.shape[1] * values.itemsize)
    x = np.int64(values.ctypes.data)
    for r in range(start, stop):
        search_bins(
            x + r * x_step, x_step, np.int64(1), data_at + numbers, n_numbers,
            data_at + keys, bins_at, np.int64(0), np.int64(1), 2,
            values.dtype.type(0), np.uint8(0),
        )  # fmt: skip
        if plan[10] > plan[9]:
            categories = data[plan[9] : plan[10]].view(np.int64)
            tables = data[plan[11] : plan[12]]
            bin_categories(values, r, 1, categories, tables, bins, 0, 1, 0)
        for g in range(n_groups):
            group = 4 * g
            _reach_group(
                records_at + groups[group + 3], groups[group], bins_at,
                records_at + groups[group + 2], leaves_at + 256 * g,
                groups[group + 1], n_tables, bits,
            )  # fmt: skip
        if width == 1 and baseline.size == 1:
            total = baseline[0]
            for t in range(np.uint64(n_trees)):
                total += leaf_value[leaves[t]]
            out[r, 0] = total
        else:
            add_leaves(
                leaves, n_trees, width, tree_output, leaf_value, baseline, out[r]
            )
        if divisor > 1:
            for k in range(out.shape[1]):
                out[r, k] /= out.dtype.type(divisor)
    # Numba frees an array after its last use, and an address is none: used here, they
    # outlive the loop.
    bins[0] = leaves.size


@row_jit
def add_leaves(
    leaves: NDArray[np.uint32],
    n_trees: int,
    width: int,
    tree_output: NDArray[np.int32],
    leaf_value: NDArray[Any],
    baseline: NDArray[Any],
    row: NDArray[Any],
) -> None:
    """Write the sum of the leaves of a row, tree after tree."""
    row[:] = baseline
    n_values = np.uint64(width)
    for t in range(np.uint64(n_trees)):
        if width == 1:
            row[tree_output[t]] += leaf_value[leaves[t]]
        else:
            first = leaves[t] * n_values
            for k in range(n_values):
                row[k] += leaf_value[first + k]
