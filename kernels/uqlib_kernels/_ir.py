"""Vector instructions as functions that write LLVM's intermediate language.

A micro-kernel is an `@intrinsic` whose code is written with these functions: a Python
loop over a list of accumulators unrolls it. Nothing here asks which machine it is: only
code that `registry.isa()` allows may be compiled, since LLVM ends the process when a
target lacks an instruction.

Addresses are integers, `np.int64(array.ctypes.data)`: an unsigned one plus a signed
number would be a float in Numba. Whoever takes one keeps the array alive. Numba frees
an array that a kernel made after its last use as a variable, which the use of its
address is not, so a kernel mentions such an array once more at its end.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import binding, ir

__all__ = [
    "F32",
    "F32X16",
    "F64",
    "F64X8",
    "I8",
    "I8X64",
    "I16",
    "I16X32",
    "I32",
    "I32X16",
    "I64",
    "I64X8",
    "KERNEL_VERSION",
    "add_bytes",
    "call",
    "constant",
    "counted",
    "dot_bytes",
    "first_lanes",
    "load",
    "load_some",
    "require_version",
    "splat",
    "store",
    "store_some",
    "variable",
    "vector",
]

# Numba's cache looks at the file of a kernel alone. A kernel that uses this module
# states the version that it was written for; a change here or in another module of
# micro-kernels changes the version, so that each such file must change too.
KERNEL_VERSION = 2

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()

Builder = Any  # llvmlite's classes have no types
Value = Any
Type = Any


def require_version(version: int) -> None:
    """Refuse a file of kernels that was written for another version of this module.

    Parameters
    ----------
    version : int
        `KERNEL_VERSION` of that file.
    """
    if version != KERNEL_VERSION:
        raise ImportError(
            f"KERNEL_VERSION={version} of a file of kernels must be {KERNEL_VERSION}, "
            "that of uqlib_kernels._ir: set it there, or machine code that was cached "
            "before is used."
        )


def vector(element: Type, lanes: int) -> Type:
    """Return the type of a vector."""
    return ir.VectorType(element, lanes)


I8X64, I16X32, I32X16, I64X8 = (
    vector(element, 512 // element.width) for element in (I8, I16, I32, I64)
)
F32X16, F64X8 = vector(F32, 16), vector(F64, 8)


def constant(
    kind: Type, values: int | float | Sequence[int] | Sequence[float]
) -> Value:
    """Return a constant; one number stands for all lanes of a vector."""
    if isinstance(kind, ir.VectorType):
        lanes = kind.count
        numbers = values if isinstance(values, Sequence) else [values] * lanes
        return ir.Constant(kind, [ir.Constant(kind.element, v) for v in numbers])
    return ir.Constant(kind, values)


def load(builder: Builder, address: Value, kind: Type, align: int = 1) -> Value:
    """Return what lies at an address (an int64)."""
    pointer = builder.inttoptr(address, kind.as_pointer())
    return builder.load(pointer, align=align)


def store(builder: Builder, value: Value, address: Value, align: int = 1) -> None:
    """Write to an address (an int64)."""
    pointer = builder.inttoptr(address, value.type.as_pointer())
    builder.store(value, pointer, align=align)


def first_lanes(builder: Builder, count: Value) -> Value:
    """Return the mask of the lanes of 16 below a count (an int64 of any sign)."""
    lanes = constant(I32X16, list(range(16)))
    limit = splat(builder, builder.trunc(count, I32), 16)
    return builder.icmp_signed("<", lanes, limit)


def load_some(builder: Builder, address: Value, kind: Type, mask: Value) -> Value:
    """Return the lanes of a mask, zero elsewhere, where nothing is read."""
    pointer = builder.inttoptr(address, kind.as_pointer())
    nothing = constant(kind, 0.0 if kind is F32X16 else 0)
    name = f"llvm.masked.load.v16{'f' if kind is F32X16 else 'i'}32.p0"
    return call(builder, name, kind, pointer, constant(I32, 1), mask, nothing)


def store_some(builder: Builder, value: Value, address: Value, mask: Value) -> None:
    """Write the lanes of a mask, and nothing elsewhere, of a vector of floats."""
    pointer = builder.inttoptr(address, F32X16.as_pointer())
    name = "llvm.masked.store.v16f32.p0"
    call(builder, name, ir.VoidType(), value, pointer, constant(I32, 1), mask)


def add_bytes(builder: Builder, address: Value, *steps: Any) -> Value:
    """Return an address moved on by bytes, each an int or an int64 value."""
    for step in steps:
        moved = constant(I64, step) if isinstance(step, int) else step
        address = builder.add(address, moved)
    return address


def splat(builder: Builder, scalar: Value, lanes: int) -> Value:
    """Return a vector of which all lanes are a scalar."""
    kind = vector(scalar.type, lanes)
    empty = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(empty, scalar, constant(I32, 0))
    return builder.shuffle_vector(one, empty, constant(vector(I32, lanes), 0))


def call(builder: Builder, name: str, result: Type, *arguments: Value) -> Value:
    """Call a function of LLVM by its full name, as ``llvm.fma.v16f32``."""
    module = builder.module
    found = module.globals.get(name)
    if found is None:
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        found = ir.Function(module, kind, name)
    return builder.call(found, arguments)


# From LLVM 22 on the operands are of bytes; before, of 32-bit integers.
_BYTE_OPERANDS = binding.llvm_version_info[0] >= 22


def dot_bytes(builder: Builder, total: Value, unsigned: Value, signed: Value) -> Value:
    """Return total + the sums of four products of bytes, without saturation.

    In each of the 16 lanes of 32 bits, with bytes u of `unsigned` and s of `signed`:
    total + u_0 s_0 + u_1 s_1 + u_2 s_2 + u_3 s_3 (the instruction ``vpdpbusd``).
    """
    operand = I8X64 if _BYTE_OPERANDS else I32X16
    return call(
        builder,
        "llvm.x86.avx512.vpdpbusd.512",
        I32X16,
        total,
        builder.bitcast(unsigned, operand),
        builder.bitcast(signed, operand),
    )


def variable(builder: Builder, value: Value) -> Value:
    """Return a place for a value that a loop changes; it ends up in a register.

    Read it with ``builder.load``, write it with ``builder.store``.
    """
    with builder.goto_entry_block():
        place = builder.alloca(value.type)
    builder.store(value, place)
    return place


@contextmanager
def counted(builder: Builder, count: Value, step: int = 1) -> Iterator[Value]:
    """Write a loop: its body gets 0, step, 2 step, ... below `count`, all int64."""
    index = variable(builder, constant(I64, 0))
    head = builder.append_basic_block("loop.head")
    body = builder.append_basic_block("loop.body")
    end = builder.append_basic_block("loop.end")
    builder.branch(head)
    builder.position_at_end(head)
    now = builder.load(index)
    builder.cbranch(builder.icmp_signed("<", now, count), body, end)
    builder.position_at_end(body)
    yield now
    builder.store(builder.add(now, constant(I64, step)), index)
    builder.branch(head)
    builder.position_at_end(end)
