"""Tiles: registers of 16 rows of 64 bytes, and the product of two of them (AMX-INT8).

There are eight tiles. The product of a tile of signed bytes a (16 rows of the
activations, 64 columns) and one of unsigned bytes b (16 rows of 4 x 16 bytes, the order
of a packed weight) adds to a tile c of 16 x 16 integers

    c[m, n] += sum_{k < 64} a[m, k] b[k // 4, n, k % 4] .

Code is written for tiles of one of two kinds, and the type of the argument `registers`
chooses between them: None stands for the instructions, an address for an emulation that
keeps the tiles in 8 KiB of memory there and runs on every machine.
"""

from typing import Any

from llvmlite import ir
from numba import extending, types

from uqlib_kernels import _ir as v

__all__ = [
    "KERNEL_VERSION",
    "REGISTER_BYTES",
    "TILE_BYTES",
    "TILE_ROWS",
    "Tiles",
    "begin_tiles",
    "end_tiles",
    "tile_block",
]

KERNEL_VERSION = 2
v.require_version(KERNEL_VERSION)

TILE_ROWS, _ROW_BYTES = 16, 64
TILE_BYTES = TILE_ROWS * _ROW_BYTES
REGISTER_BYTES = 8 * TILE_BYTES

# What `ldtilecfg` reads: byte 0 is the palette, then come the bytes of a row of tile t
# at 16 + 2 t and its rows at 48 + t.
_CONFIG = [1] + [0] * 15 + [_ROW_BYTES, 0] * 8 + [0] * 16 + [TILE_ROWS] * 8 + [0] * 8

_intrinsic: Any = extending.intrinsic
_VOID = ir.VoidType()
_POINTER = v.I8.as_pointer()


class Tiles:
    """The instructions."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder

    def begin(self) -> None:
        """Set the shape of all tiles, in this thread."""
        with self._builder.goto_entry_block():
            place = self._builder.alloca(v.I8X64)
        self._builder.store(v.constant(v.I8X64, _CONFIG), place, align=1)
        self._call("ldtilecfg", self._builder.bitcast(place, _POINTER))

    def end(self) -> None:
        """Set the tiles free, in this thread."""
        self._call("tilerelease")

    def zero(self, tile: int) -> None:
        """Write zeros to a tile."""
        self._call("tilezero", tile)

    def load(self, tile: int, address: Any, stride: Any) -> None:
        """Read a tile, row by row, `stride` bytes apart."""
        self._call("tileloadd64", tile, self._pointer(address), stride)

    def add_product(self, total: int, signed: int, unsigned: int) -> None:
        """Add the product of two tiles of bytes to one of integers."""
        self._call("tdpbsud", total, signed, unsigned)

    def store(self, tile: int, address: Any, stride: Any) -> None:
        """Write a tile, row by row, `stride` bytes apart."""
        self._call("tilestored64", tile, self._pointer(address), stride)

    def _pointer(self, address: Any) -> Any:
        return self._builder.inttoptr(address, _POINTER)

    def _call(self, name: str, *arguments: Any) -> None:
        values = [v.constant(v.I8, a) if isinstance(a, int) else a for a in arguments]
        v.call(self._builder, f"llvm.x86.{name}", _VOID, *values)


class EmulatedTiles(Tiles):
    """The same in memory, with instructions that every machine has."""

    def __init__(self, builder: Any, registers: Any) -> None:
        super().__init__(builder)
        self._registers = registers

    def begin(self) -> None:
        pass

    def end(self) -> None:
        pass

    def zero(self, tile: int) -> None:
        with self._rows() as row:
            v.store(self._builder, v.constant(v.I32X16, 0), self._place(tile, row))

    def load(self, tile: int, address: Any, stride: Any) -> None:
        b = self._builder
        with self._rows() as row:
            source = v.add_bytes(b, address, b.mul(row, stride))
            v.store(b, v.load(b, source, v.I32X16), self._place(tile, row))

    def store(self, tile: int, address: Any, stride: Any) -> None:
        b = self._builder
        with self._rows() as row:
            target = v.add_bytes(b, address, b.mul(row, stride))
            v.store(b, v.load(b, self._place(tile, row), v.I32X16), target)

    def add_product(self, total: int, signed: int, unsigned: int) -> None:
        b = self._builder
        with self._rows() as row:
            place = self._place(total, row)
            with self._rows() as word:
                four = b.shl(word, v.constant(v.I64, 2))
                a = v.load(b, v.add_bytes(b, self._place(signed, row), four), v.I32)
                w = v.load(b, self._place(unsigned, word), v.I32X16)
                added = self._four_products(a, w)
                v.store(b, b.add(v.load(b, place, v.I32X16), added), place)

    def _four_products(self, signed: Any, unsigned: Any) -> Any:
        """Return the sums of four products of a word with each word of a vector."""
        b = self._builder
        total = v.constant(v.I32X16, 0)
        for byte in range(4):
            up = v.constant(v.I32, 24 - 8 * byte)
            a = b.ashr(b.shl(signed, up), v.constant(v.I32, 24))
            down = b.lshr(unsigned, v.constant(v.I32X16, 8 * byte))
            w = b.and_(down, v.constant(v.I32X16, 255))
            total = b.add(total, b.mul(w, v.splat(b, a, 16)))
        return total

    def _rows(self) -> Any:
        return v.counted(self._builder, v.constant(v.I64, TILE_ROWS))

    def _place(self, tile: int, row: Any) -> Any:
        b = self._builder
        at = b.mul(row, v.constant(v.I64, _ROW_BYTES))
        return v.add_bytes(b, self._registers, tile * TILE_BYTES, at)


def _tiles(builder: Any, kind: Any, registers: Any) -> Tiles:
    if isinstance(kind, types.NoneType):
        return Tiles(builder)
    return EmulatedTiles(builder, registers)


@_intrinsic
def begin_tiles(typing: Any, registers: Any) -> Any:
    """Set the shape of the tiles; it holds in this thread until `end_tiles`."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _tiles(builder, registers, arguments[0]).begin()
        return context.get_dummy_value()

    return types.void(registers), write


@_intrinsic
def end_tiles(typing: Any, registers: Any) -> Any:
    """Set the tiles free."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _tiles(builder, registers, arguments[0]).end()
        return context.get_dummy_value()

    return types.void(registers), write


@_intrinsic(prefer_literal=True)
def tile_block(
    typing: Any,
    a: Any,
    a_stride: Any,
    w: Any,
    w_stride: Any,
    n_steps: Any,
    out: Any,
    registers: Any,
    a_tiles: Any,
    w_tiles: Any,
) -> Any:
    """Write the products of 16 or 32 rows with one or two tiles of a weight.

    Row m of the rows begins at a + m a_stride; a step is 64 of its columns. The bytes
    of weight tile j begin at w + j w_stride; a step is `TILE_BYTES` of them. Row m of
    the products is at out + 64 w_tiles m: 16 integers a tile.

    Two by two tiles of products use all eight registers, and each tile that is read is
    used twice.
    """
    rows, columns = a_tiles.literal_value, w_tiles.literal_value

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, a_stride, w, w_stride, n_steps, out, memory, _, _ = arguments
        tiles = _tiles(builder, registers, memory)
        totals = [(i, j, 2 * i + j) for i in range(rows) for j in range(columns)]
        for _, _, total in totals:
            tiles.zero(total)
        sixteen = builder.mul(a_stride, v.constant(v.I64, TILE_ROWS))
        row_bytes = v.constant(v.I64, _ROW_BYTES)
        with v.counted(builder, n_steps) as step:
            here = v.add_bytes(builder, a, builder.mul(step, row_bytes))
            for i in range(rows):
                tiles.load(4 + i, here, a_stride)
                here = v.add_bytes(builder, here, sixteen)
            there = builder.mul(step, v.constant(v.I64, TILE_BYTES))
            there = v.add_bytes(builder, w, there)
            for j in range(columns):
                tiles.load(6 + j, there, row_bytes)
                there = v.add_bytes(builder, there, w_stride)
            for i, j, total in totals:
                tiles.add_product(total, 4 + i, 6 + j)
        stride = v.constant(v.I64, 64 * columns)
        for i, j, total in totals:
            place = v.add_bytes(builder, out, i * TILE_ROWS * 64 * columns + 64 * j)
            tiles.store(total, place, stride)
        return context.get_dummy_value()

    six = (types.int64,) * 6
    return types.void(*six, registers, a_tiles, w_tiles), write
